"""docs/guides/clients.md with the real clients: its lines run as they are printed, and what it says of a revoked token.

`make test-clients` installs them. A client that is not there skips, by its name.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _pages.page import blocks
from _table import CLIENTS, Client

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "guides" / "clients.md").read_text("utf-8")
#: By example, what the page's table says of a revoked token.
CLAIMS = dict(re.findall(r"^\| \[[^]]+\]\(#([\w-]+)\) \|.*\| ([\w ]+) \|$", PAGE, re.MULTILINE))

pytestmark = pytest.mark.timeout(200)


def installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def expected(client: Client, claim: str) -> list[tuple[bool, list[list[object]]]]:
    """Whether it is good, and what arrives: on connecting, at a call, at two with a revoked token, and at one more."""

    def sent(methods: tuple[str, ...], number: int) -> list[list[object]]:
        return [[method, [f"{client.header[1]}token.{number}"]] for method in methods]

    first, second, refused = sent(client.methods, 1), sent(client.methods, 2), sent(client.methods[:1], 1)
    revoked = {
        "the call is made again": [(True, refused + second), (True, second)],
        "the next call is good": [(False, refused), (True, second)],
        "only when it expires": [(False, refused), (False, refused)],
    }
    return [(True, sent(client.connects, 1)), (True, first), *revoked[claim], (True, second)]


@pytest.mark.parametrize("name", CLIENTS)
def test_the_lines_of_the_page_and_what_it_says_of_a_revoked_token(name: str, tmp_path: Path) -> None:
    client = CLIENTS[name]
    if not installed(client.needs):
        pytest.skip(f"{client.needs} is not installed (make test-clients)")
    run = subprocess.run(
        [sys.executable, str(HERE / "_play.py"), name],
        cwd=tmp_path,
        env={**os.environ, **client.environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    phases = json.loads(run.stdout.splitlines()[-1])
    told = [
        (outcome == "ok", [call for call in arrived if call[0] not in client.background]) for outcome, arrived in phases
    ]
    values = [value for _, arrived in phases for _, value in arrived]

    assert told[:5] == expected(client, CLAIMS[(client.lines or (name,))[-1]]), phases
    assert {len(each) for each in values} == {1}
    assert all(good for good, _ in told[5:]), phases[5:]
    assert {value for _, arrived in phases[5:] for _, (value,) in arrived} <= {values[-1][0]}
    assert "token." not in run.stderr


def test_each_example_of_the_page_is_run_and_told_of_in_its_table() -> None:
    named = {block.options.get("name") for block in blocks(PAGE) if block.language == "python"}
    used = {line for name, client in CLIENTS.items() for line in client.lines or (name,)}

    assert named == used | {"an-auth"}
    assert used >= CLAIMS.keys()
    assert {(client.lines or (name,))[-1] for name, client in CLIENTS.items()} == CLAIMS.keys()
