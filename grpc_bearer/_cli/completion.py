"""Completion in bash, zsh and fish. argcomplete does it: at the TAB key the shell asks the command itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from grpc_bearer._cli.codes import needs_extra


def script(shell: str) -> str:
    """What the shell has to run once.

    Raises:
        CommandFailure: argcomplete is not installed.
    """
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError:
        raise needs_extra("argcomplete", "completion") from None
    return shellcode(["grpc-bearer"], shell=shell)


def answer_shell(parser: argparse.ArgumentParser) -> None:
    """If it is the shell that asks: tell it what may follow, and end the process."""
    if "_ARGCOMPLETE" not in os.environ:  # set by the script; whoever only runs a command need not wait for an import
        return
    from argcomplete import autocomplete
    from argcomplete.completers import ChoicesCompleter, EnvironCompleter, FilesCompleter

    for action in _actions(parser):
        if action.metavar == "FILE":
            completer: object = FilesCompleter()
        elif action.dest.endswith("_env"):
            completer = EnvironCompleter
        else:
            completer = ChoicesCompleter({})  # none, and not the files that are here
        if not action.choices:
            action.completer = completer  # type: ignore[attr-defined]  # this is how argcomplete is told
    autocomplete(parser)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
