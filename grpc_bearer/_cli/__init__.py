"""The command `grpc-bearer`: a function of its arguments, so that tests call it.

Results go to stdout, errors and progress to stderr; with `--json` results and errors are JSON, a document a line. What
exit codes mean is in `codes`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from grpc_bearer._cli.auth import failure_of
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.completion import answer_shell
from grpc_bearer._cli.parser import parsed, parser
from grpc_bearer._cli.streams import JSON_ESCAPE, StreamError, note, streams, write
from grpc_bearer._cli.terminal import json_line, manner, print_json, remark, safe
from grpc_bearer.errors import GrpcBearerError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; `None`: those of the process.

    Returns:
        The exit code: 0 if all went well, and all of the result was written.
    """
    answer_shell(parser)
    logging.getLogger("grpc_bearer").addHandler(logging.NullHandler())  # what goes wrong is told here, and told once
    words = sys.argv[1:] if argv is None else argv
    as_json = "--json" in words
    with streams(), _warnings_in_words():
        try:
            return _run(parsed(words))
        except CommandFailure as failure:
            return _told(failure, as_json)
        except StreamError as error:
            return Exit.LEFT if error.left else _told(CommandFailure(Exit.STREAM, str(error)), as_json)
        except KeyboardInterrupt:
            return Exit.INTERRUPTED
        except Exception as fault:  # by Python's own rule this were exit code 1, which is an answer of `inspect`
            return _told(_of_fault(fault), as_json)


def _run(arguments: Namespace) -> int:
    with manner(quiet=arguments.quiet, colour=not arguments.no_color):
        try:
            return _command(arguments)
        except GrpcBearerError as error:
            raise failure_of(error, arguments) from None


def _command(arguments: Namespace) -> int:
    # Each is imported here: some bring up servers and certificates, which `--help` need not wait for.
    if arguments.command == "token":
        from grpc_bearer._cli import token

        return token.main(arguments)
    if arguments.command == "inspect":
        from grpc_bearer._cli import inspect

        return inspect.main(arguments)
    if arguments.command == "check":
        from grpc_bearer._cli import check

        return check.main(arguments)
    if arguments.command == "call":
        from grpc_bearer._cli import call

        return call.main(arguments)
    if arguments.command == "login":
        from grpc_bearer._cli import login

        return login.main(arguments)
    if arguments.command == "auths":
        from grpc_bearer._cli import auths

        return auths.main(arguments)
    if arguments.command == "completion":
        from grpc_bearer._cli import completion

        script = completion.script(arguments.shell)
        if arguments.json:
            print_json({"shell": arguments.shell, "script": script})
        else:
            write(script)
        return Exit.OK
    if arguments.command == "bench":
        from grpc_bearer._cli import bench

        options = {"ask": arguments.passphrase, "seconds": arguments.seconds, "as_json": arguments.json}
        return bench.main(arguments.key, arguments.algorithm, **options)
    from grpc_bearer._cli import demo

    return demo.main(as_json=arguments.json)


def _told(failure: CommandFailure, as_json: bool) -> int:
    """Say on stderr what went wrong: the one place where an error of a command is printed."""
    if as_json:
        told = {"error": failure.problem, "advice": failure.advice, "exit_code": failure.code.value}
        more = {"help": failure.help, "details": failure.details}
        note(json_line(told | {name: value for name, value in more.items() if value}), JSON_ESCAPE)
    else:
        lines = [*str(failure).splitlines(), *(f"detail: {json_line(each)}".rstrip() for each in failure.details)]
        note(failure.usage + "".join(f"grpc-bearer: {safe(line)}\n" for line in lines))
    return failure.code


def _of_fault(fault: Exception) -> CommandFailure:
    """Where it happened, and never its text, which may hold anything."""
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in traceback.extract_tb(fault.__traceback__)]
    problem = f"a fault in grpc-bearer itself: {type(fault).__name__} at {', '.join(reversed(places[-3:]))}"
    return CommandFailure(Exit.FAULT, problem, "please report it")


@contextlib.contextmanager
def _warnings_in_words() -> Iterator[None]:
    """Tell what the library warns of as the command tells all else, without the line of Python that it is about."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, UserWarning):
                remark(f"warning: {message}.")
            else:
                others(message, category, *where, **more)

        warnings.showwarning = show
        yield
