"""A command's three streams, whatever they are: the one place where results are written and input is read.

A stream may be closed, full, a pipe whose reader has left or that does not block, or of an encoding that lacks a
character. A result gets to stdout whole or the command fails; what goes to stderr is said if it can be, and never lands
on stdout; a character that cannot be written is escaped.
"""

from __future__ import annotations

import codecs
import contextlib
import getpass
import json
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from grpc_bearer._base.translating import translating


class StreamError(Exception):
    """A result could not be written, or the input not be read.

    Args:
        problem: what is wrong, in one line.
        left: whether it is only that whoever read the results has left.
    """

    def __init__(self, problem: str, *, left: bool = False) -> None:
        super().__init__(problem)
        self.left = left


@contextlib.contextmanager
def streams() -> Iterator[None]:
    """While a command runs, its results alone go to stdout: what others print meanwhile goes to stderr."""
    _occupy_descriptors()
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stderr = cast("TextIO | None", before[1]) or nowhere  # `print` to None would print to stdout
        sys.stdout = cast("TextIO", _Others(before[0]))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for stream in before:
                _settle(stream)


def write(text: str, errors: str = "backslashreplace") -> None:
    """Write a result to stdout, all of it.

    Args:
        text: with its line end.
        errors: how a character is written that the stream cannot carry; the name of a codec error handler.

    Raises:
        StreamError: not all of it could be written.
    """
    stream = _results()
    if stream is None:
        raise StreamError("stdout is closed")
    try:
        _send(stream, text, errors)
        return
    except BrokenPipeError:
        left, problem = True, "whoever read stdout has left"
    except (OSError, ValueError) as error:
        left, problem = False, f"stdout cannot be written: {reason_of(error)}"
    raise StreamError(problem, left=left)


def note(text: str, errors: str = "backslashreplace", *, stream: TextIO | None = None) -> None:
    """Write to stderr, or to another stream that matters as little: if it cannot be, nobody hears of it."""
    to: TextIO | None = stream or sys.stderr
    if to is not None:
        with contextlib.suppress(OSError, ValueError):
            _send(to, text, errors)


def results_terminal() -> TextIO | None:
    """Where results go, if it is a terminal."""
    stream = _results()
    return stream if is_terminal(stream) else None


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody sees what is written there."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def input_is_terminal() -> bool:
    """Whether nothing was piped in: stdin is a terminal, or closed."""
    stream = cast("TextIO | None", sys.stdin)
    return stream is None or is_terminal(stream)


def read_input(most: int = -1) -> str:
    """What is on stdin.

    Args:
        most: this many characters at most; all of it if negative.

    Raises:
        StreamError: it cannot be read.
    """
    return _read(lambda stdin: stdin.read(most)).removeprefix("\ufeff")


def input_lines() -> Iterator[str]:
    """The lines on stdin, each as soon as it is there.

    Raises:
        StreamError: it cannot be read.
    """
    while line := _read(lambda stdin: stdin.readline()):
        yield line


def ask_secret(what: str) -> str:
    """Ask on the terminal, without showing what is typed.

    Raises:
        StreamError: there is no terminal, and nothing on stdin.
    """
    problem = f"there is no terminal to ask for the {what} on"
    # AttributeError: stdin is closed.
    with translating(EOFError, OSError, ValueError, AttributeError, to=lambda _: StreamError(problem)):
        return getpass.getpass(f"{what}: ")


class _Others:
    """What everybody else has for stdout while a command runs: all that stderr is at that time."""

    def __init__(self, results: TextIO | None) -> None:
        self.results = results

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def _results() -> TextIO | None:
    stream: object = sys.stdout
    return stream.results if isinstance(stream, _Others) else cast("TextIO | None", stream)


def _send(stream: TextIO, text: str, errors: str) -> None:
    """Past all buffers, so that nothing is left in one to fail when the interpreter ends."""
    stream.flush()
    buffer: Any = getattr(stream, "buffer", None)
    if buffer is None:  # nothing of the operating system's
        stream.write(text)
        return
    raw = getattr(buffer, "raw", buffer)
    left = memoryview(text.replace("\n", os.linesep).encode(stream.encoding, errors))
    while left:
        sent = raw.write(left)
        if sent is None:  # somebody who has the same pipe has made it non-blocking, and it is full
            select.select([], [raw], [])
        else:
            left = left[sent:]


def _read(read: Any) -> str:
    stream = cast("TextIO | None", sys.stdin)
    if stream is None:
        raise StreamError("stdin is closed")
    with (
        translating(OSError, ValueError, to=lambda error: StreamError(f"stdin cannot be read: {reason_of(error)}")),
        translating(UnicodeDecodeError, to=lambda _: StreamError(f"stdin: not text in {stream.encoding}")),
    ):
        return str(read(stream))


def reason_of(error: Exception) -> str:
    """Why a file or a stream cannot be read or written: the system's own words, or the kind of error."""
    return getattr(error, "strerror", None) or type(error).__name__


def _occupy_descriptors() -> None:
    """Let nobody's file or socket become descriptor 0, 1 or 2, where it would get what is printed there."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free: this one


def _settle(stream: TextIO | None) -> None:
    """Drop what others could not get out, or the interpreter would stumble over it at its end, and exit with 120."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def _json_escape(error: UnicodeError) -> tuple[str, int]:
    """As `backslashreplace` does, but so that JSON stays the same value."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


#: The name of an error handler for JSON.
JSON_ESCAPE = "grpc_bearer.json"
codecs.register_error(JSON_ESCAPE, _json_escape)
