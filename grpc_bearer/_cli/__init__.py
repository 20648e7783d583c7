"""The command `grpc-bearer`: a function of its arguments, so that tests call it.

Exit codes: 0 all well; 1 something is wrong with what was looked at; 2 wrong arguments or configuration; 3 network;
4 TLS; 5 no token; 6 the server refused the token; 7 the call failed in another way; 8 the clock is off; 130 Ctrl-C.
Results go to stdout, errors and progress to stderr; with `--json` results and errors are JSON, a document a line.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence

from grpc_bearer._cli._codes import Exit, Failure, code_of
from grpc_bearer._cli._parser import parsed, parser
from grpc_bearer._terminal import print_json, safe
from grpc_bearer.errors import GrpcBearerError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; `None`: those of the process.

    Returns:
        The exit code: 0 if all went well.
    """
    arguments = parsed(argv)
    as_json = getattr(arguments, "json", False)
    logging.getLogger("grpc_bearer").addHandler(logging.NullHandler())  # what goes wrong is told here, and told once
    try:
        code = _run(arguments)
        sys.stdout.flush()  # here, where a reader that has left is expected, and not when the interpreter ends
        return code
    except Failure as failure:
        return _told(failure, as_json)
    except GrpcBearerError as error:
        return _told(Failure(code_of(error), str(error)), as_json)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough; the interpreter must not stumble over the rest of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.WRONG


def _run(arguments: Namespace) -> int:
    # Each is imported here: some bring up servers and certificates, which `--help` need not wait for.
    if arguments.command == "token":
        from grpc_bearer._cli import _token

        return _token.main(arguments)
    if arguments.command == "inspect":
        from grpc_bearer._cli import _inspect

        return _inspect.main(arguments)
    if arguments.command == "check":
        from grpc_bearer._cli import _check

        return _check.main(arguments)
    if arguments.command == "call":
        from grpc_bearer._cli import _call

        return _call.main(arguments)
    if arguments.command == "completion":
        from grpc_bearer._cli import _completion

        script = _completion.script(arguments.shell, parser())
        if arguments.json:
            print_json({"shell": arguments.shell, "script": script})
        else:
            print(script, end="")
        return Exit.OK
    if arguments.command == "bench":
        from grpc_bearer import _bench

        options = {"ask": arguments.passphrase, "seconds": arguments.seconds, "as_json": arguments.json}
        return _bench.main(arguments.key, arguments.algorithm, **options)
    from grpc_bearer import _demo

    return _demo.main(as_json=arguments.json)


def _told(failure: Failure, as_json: bool) -> int:
    """Say on stderr what went wrong."""
    if as_json:
        told = {"error": failure.problem, "advice": failure.advice, "exit_code": failure.code.value}
        print_json(told, stream=sys.stderr)
    else:
        for line in str(failure).splitlines():
            print(f"grpc-bearer: {safe(line)}", file=sys.stderr)
    return failure.code
