"""Runs one page: `python -m _pages PAGE`, in an empty folder. Exits with an error if an example is not true."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

from _pages.page import Block, blocks, commands
from _pages.world import World

#: Where platforms mount what they give to a workload. Here that lies below the page's own folder.
_MOUNTED = '"/var/run/'
#: In console blocks: the world's gRPC server, by a name that needs no proxy.
_LOCAL = "localhost:50051"


class Run:
    """One page, block by block, in one namespace."""

    def __init__(self, page: Path, world: World) -> None:
        self._page = page
        self._world = world
        self._names: dict[str, Any] = {"__name__": "__page__", "world": world}
        self._printed = ""
        # What the pages leave to their readers: a generated stub and a request for it.
        self._exec(Block("hidden", "from fleet_pb2_grpc import FleetStub\nimport fleet_pb2\n", 1))
        self._exec(Block("hidden", "request = fleet_pb2.ListRequest(site='north')\n", 1))

    def block(self, block: Block) -> None:
        if block.language != "hidden":
            block = replace(block, code=block.code.replace(_MOUNTED, f'"{self._world.folder}{_MOUNTED[1:]}'))
        if block.caption is not None:
            path = Path(block.caption)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, "utf-8")
            if block.language == "python":
                compile(block.code, block.caption, "exec")
        elif block.language in ("python", "hidden"):
            self._exec(block)
        elif block.language == "output":
            self._hold(block.code, self._printed, block.line)
            self._printed = ""
        elif block.language == "console":
            for command, expected, line in commands(block):
                self._command(command, expected, line, figures=block.options.get("class") == "figures")

    def _exec(self, block: Block) -> None:
        # Padded, so that a traceback names the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(self._page), "exec")
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, self._names)
        self._printed += printed.getvalue()

    def _command(self, command: str, expected: str, line: int, *, figures: bool) -> None:
        command = command.replace(_LOCAL, self._world.server.target.replace("127.0.0.1", "localhost"))
        run = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=250, check=False)
        wanted = int((re.search(r"# exit code (\d+)$", command) or [0, 0])[1])
        if run.returncode != wanted:
            raise SystemExit(f"{self._page}:{line}: exit code {run.returncode}\n{run.stdout}{run.stderr}")
        port = self._world.server.target.rpartition(":")[2]
        # Not the progress that is told where a machine takes over a second.
        lines = (run.stdout + run.stderr).splitlines(keepends=True)
        told = "".join(line for line in lines if not line.rstrip().endswith("…"))
        self._hold(expected, told.replace(f":{port}", ":50051"), line, figures=figures)

    def _hold(self, expected: str, printed: str, line: int, *, figures: bool = False) -> None:
        if not like(expected, printed, figures=figures):
            raise SystemExit(
                f"{self._page}:{line}: expected\n{textwrap.indent(expected, '    ')}but it printed\n"
                f"{textwrap.indent(printed, '    ')}"
            )


#: What differs from run to run, in a block of the class `figures`: durations, identifiers, numbers.
_FIGURES = re.compile(r"\d+ (?:d|h|min|s)(?: \d+ (?:h|min|s))*\b|\b[0-9a-f]{32}\b|\d[\d.,]*")


def like(expected: str, printed: str, *, figures: bool = False) -> bool:
    """Whether the text is as expected.

    `...` stands for anything, and any white space within a line for any other. With `figures`, so does any number for
    any other: what stands in the page is from a real run, and this is another.
    """
    texts = [expected, printed]
    if figures:
        texts = [_FIGURES.sub("#", text) for text in texts]
    clean = ["\n".join(" ".join(line.split()) for line in text.strip().splitlines()) for text in texts]
    pattern = re.escape(clean[0]).replace(re.escape("..."), ".*?")
    return not clean[0] or re.fullmatch(pattern, clean[1], re.DOTALL) is not None


def main(page: Path) -> int:
    text = page.read_text("utf-8")
    found = blocks(text)
    logging.getLogger().addHandler(logging.NullHandler())  # what the library logs is not what an example prints
    world = World(Path.cwd()).start()
    run = Run(page, world)
    for block in found:
        run.block(block)
    accepted = sum(len(ledger.accepted) for ledger in world.ledgers)
    refused = sum(len(ledger.refused) for ledger in world.ledgers)
    print(f"accepted={accepted} refused={refused}")
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by way of the interpreter's end: examples leave channels open, and the servers are in this very process.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
