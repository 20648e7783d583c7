"""The README's examples run, in the order in which they stand, against a server that checks what they send."""

from __future__ import annotations

from pathlib import Path

import pytest
from _pages.page import blocks
from _pages.run import run_page

PAGE = Path(__file__).parents[2] / "README.md"
README = PAGE.read_text("utf-8")
BLOCKS = [block.code for block in blocks(README) if block.language == "python"]


def test_every_example_runs_and_every_call_carries_its_token(tmp_path: Path) -> None:
    outcome = run_page(PAGE, tmp_path)

    assert outcome.errors == ""
    assert outcome.accepted == README.count(".List(request")
    assert outcome.refused == 0


@pytest.mark.parametrize("service", ["bear", "skykit", "bitbroker", "crm", "openfx"])
def test_there_is_an_example_for_the_service(service: str) -> None:
    assert any(f"profiles.{service}(" in block for block in BLOCKS)


@pytest.mark.parametrize(
    "way",
    [
        "grpc_bearer.secure_channel",
        "grpc_bearer.aio.secure_channel",
        "wrap_stub",
        "grpc_bearer.intercept_channel",
        "channel_credentials",
        "call_credentials",
        "grpc_bearer.interceptor",
        "grpc_bearer.aio.interceptors",
    ],
)
def test_there_is_an_example_for_the_way_to_attach(way: str) -> None:
    assert any(f"{way}(" in block for block in BLOCKS)


def test_the_two_commands_stand_near_the_top() -> None:
    head = README.splitlines()[:24]

    assert any(line.startswith("make demo") for line in head)
    assert any(line.startswith("make test") for line in head)
