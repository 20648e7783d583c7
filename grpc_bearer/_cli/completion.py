"""Completion in bash, zsh and fish. argcomplete does it: at the TAB key the shell asks the command itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator

from grpc_bearer._cli.auth import config_file
from grpc_bearer._cli.codes import CommandFailure, needs_extra
from grpc_bearer.errors import GrpcBearerError

#: What stands in help for the value of an option that names a file.
_FILES = ("FILE", "FOLDER", "JWKS")


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


def answer_shell(parser: Callable[[], argparse.ArgumentParser]) -> None:
    """If it is the shell that asks: tell it what may follow, and end the process.

    Args:
        parser: makes the command's, which nobody else needs here.
    """
    if "_ARGCOMPLETE" not in os.environ:  # set by the script; whoever only runs a command need not wait for an import
        return
    from argcomplete import autocomplete
    from argcomplete.completers import ChoicesCompleter, EnvironCompleter, FilesCompleter

    made = parser()
    for action in _actions(made):
        if not action.choices:
            kind = EnvironCompleter if action.dest.endswith("_env") else ChoicesCompleter({})
            completer = FilesCompleter() if action.metavar in _FILES else auths if action.dest == "auth" else kind
            action.completer = completer  # type: ignore[attr-defined]  # this is how argcomplete is told
    autocomplete(made)


def auths(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The names of the auths in the file that the line so far, the environment or the user's folder names."""
    try:
        return list(config_file(parsed_args).auths)
    except (CommandFailure, GrpcBearerError):
        return []


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
        else:
            yield action
