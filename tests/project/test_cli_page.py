"""The page of the command line has a transcript of each command, which `test_docs` runs and compares."""

from __future__ import annotations

import re
from pathlib import Path

from _pages.page import blocks, commands

from grpc_bearer._cli.parser import parser

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "command-line.md").read_text("utf-8")


def known() -> dict[str, set[str]]:
    """Each command, with its options."""
    found = next(action for action in parser()._actions if action.dest == "command").choices
    assert isinstance(found, dict)
    return {name: set(command._option_string_actions) for name, command in found.items()}


def test_each_command_has_a_transcript_with_what_it_prints() -> None:
    shown = [
        (word, printed)
        for block in blocks(PAGE)
        if block.language == "console"
        for line, printed, _ in commands(block)
        for word in re.findall(r"grpc-bearer ([a-z]+)", line)
    ]

    assert {word for word, printed in shown if printed.strip()} == set(known())


def test_the_page_names_no_option_that_there_is_not() -> None:
    # What other tools are given, which stand on the page too.
    others = {"--command", "--include_imports", "--descriptor_set_out"}
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", PAGE))

    assert named - others - set().union(*known().values()) == set()
