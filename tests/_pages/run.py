"""Runs a page in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from _pages.page import blocks


def needs(page: Path) -> dict[str, str | None]:
    """The packages that a page says it needs, beyond those of the library, or newer (`% needs: redis grpc>=1.82`)."""
    found = re.search(r"^% needs: (.+)$", page.read_text("utf-8"), re.MULTILINE)
    parts = [each.partition(">=") for each in found[1].split()] if found else []
    return {package: least or None for package, _, least in parts}


#: What a page can announce, in a line such as `% refused: 1`.
_SAYS = ("refused", "unsent")


@dataclass(frozen=True)
class Outcome:
    """What became of a page.

    Attributes:
        errors: all that it wrote to stderr; empty if all is well.
        accepted, refused: attempts that the world's servers saw.
        announced: refusals that the page announces, by a line `% refused: 1`.
        shown: calls of `FleetStub` in it, files apart, less those that it says are never sent (`% unsent: 1`).
    """

    errors: str
    accepted: int
    refused: int
    announced: int
    shown: int


def run_page(page: Path, folder: Path) -> Outcome:
    """Run the page in the folder, which should be empty."""
    tests = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(tests), "GRPC_VERBOSITY": "ERROR"}
    run = subprocess.run(
        [sys.executable, "-m", "_pages", str(page)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    counts = re.search(r"accepted=(\d+) refused=(\d+)", run.stdout) or [0, -1, -1]
    errors = run.stderr or ("" if run.returncode == 0 else f"exit code {run.returncode}")
    text = page.read_text("utf-8")
    code = "".join(block.code for block in blocks(text) if block.language == "python" and block.caption is None)
    shown = len(re.findall(r"\.(?:List|Watch|Upload|Steer)\(", code))
    said = {what: int((re.search(rf"^% {what}: (\d+)$", text, re.MULTILINE) or [0, 0])[1]) for what in _SAYS}
    return Outcome(errors, int(counts[1]), int(counts[2]), said["refused"], shown - said["unsent"])
