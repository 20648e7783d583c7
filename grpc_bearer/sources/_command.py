"""Running a command of the user's: no shell, no terminal, bounded in time and output, and nothing of it left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, cast

from grpc_bearer._base.translating import translating
from grpc_bearer.errors import TokenUnavailableError

#: While something that it began holds its output open: seconds from one look whether the command has ended to the next.
_LOOK = 0.05
#: Seconds for a killed command to be gone. Only one that hangs in the system itself takes longer.
_GONE = 1.0
_PIECE = 65536


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Args:
        code: what it exited with; below zero: the signal that ended it; `None`: it was killed here.
        output: what it wrote to stdout, one byte more than was allowed at the most.
    """

    code: int | None
    output: bytes = field(repr=False)


def run(command: Sequence[str], environment: Mapping[str, str], timeout: float, max_bytes: int) -> Ended:
    """Run it to its end, or kill it with all that it began: after `timeout` seconds, or when its output is too long.

    It reads an empty stdin, its stderr goes nowhere, it gets no other descriptor, and is in a session of its own. So
    it has no terminal to ask at, and Ctrl-C there is for this program alone.

    Raises:
        TokenUnavailableError: it cannot be started; the program is named, and the reason.
    """
    deadline = time.monotonic() + timeout
    with translating(OSError, to=lambda error: TokenUnavailableError(f"{command[0]!r}: {_why(error)}")):
        process = subprocess.Popen(  # noqa: S603  # a list of arguments, without a shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,
            bufsize=0,
        )
    try:
        output = _output(process, deadline, max_bytes)
        if len(output) > max_bytes:
            return Ended(None, output)
        with suppress(subprocess.TimeoutExpired):
            return Ended(process.wait(max(deadline - time.monotonic(), 0.0)), output)
        return Ended(None, b"")
    finally:
        _end(process)


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "not found; or it is a script, and the interpreter in its first line is not"
    return error.strerror or type(error).__name__


def _end(process: subprocess.Popen[bytes]) -> None:
    """See to it that it is gone, and that the system forgets it."""
    # Only one that was not waited for has its number for sure: later the number may be another's.
    if process.returncode is None:
        if sys.platform != "win32":
            with suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GONE)
    if process.stdout is not None:
        process.stdout.close()


if sys.platform == "win32":

    def _output(process: subprocess.Popen[bytes], deadline: float, max_bytes: int) -> bytes:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=max(deadline - time.monotonic(), 0.0))[0][: max_bytes + 1]
        return b""

else:
    import select

    def _output(process: subprocess.Popen[bytes], deadline: float, max_bytes: int) -> bytes:
        """What it writes until it ends, one byte more than is allowed at the most.

        Until it ends, not until its output is closed: an agent that it has begun in the background may hold that open.
        """
        pipe, output = cast("IO[bytes]", process.stdout).fileno(), bytearray()
        poll = select.poll()
        poll.register(pipe, select.POLLIN | select.POLLHUP)
        while len(output) <= max_bytes and (left := deadline - time.monotonic()) > 0:
            ended = process.poll() is not None  # before the look at the pipe, where its last words may be
            if poll.poll(0 if ended else 1000 * min(left, _LOOK)):
                piece = os.read(pipe, min(_PIECE, max_bytes + 1 - len(output)))
                output += piece
                if not piece:
                    break
            elif ended:
                break
        return bytes(output)
