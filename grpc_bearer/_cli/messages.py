"""What is sent: requests in JSON, one after another, and metadata."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from grpc_bearer._base.translating import translating
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.streams import input_lines, read_input, reason_of

#: What stands for stdin; the second is grpcurl's.
STDIN = ("-", "@")
_SPACE = re.compile(r"[ \t\r\n]*")
_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


# -- requests ---------------------------------------------------------------------------------------------------------


def documents(given: str, *, live: bool) -> Iterator[tuple[str, Any]]:
    """JSON values one after another, with any white space between them, each with where it stands.

    Args:
        given: JSON, `@FILE`, or `-` (as with grpcurl also `@`) for stdin.
        live: whether each value on stdin is wanted as soon as its line is there, and not when all is read.

    Raises:
        CommandFailure: no JSON, or the file cannot be read.
        StreamError: stdin cannot be read.
    """
    if given not in STDIN:
        text, where = _text_of(given)
        return _values([text], where)
    return _values(input_lines() if live else [read_input()], "line" if live else "JSON")


def _text_of(given: str) -> tuple[str, str]:
    if not given.startswith("@"):
        return given, "JSON"
    path = given[1:]
    to = lambda error: CommandFailure(Exit.USAGE, f"-d: cannot read {path}: {reason_of(error)}")  # noqa: E731
    with translating(OSError, ValueError, to=to):
        return Path(path).read_text("utf-8-sig"), path


def _values(lines: Iterable[str], where: str) -> Iterator[tuple[str, Any]]:
    rest, line = "", 1  # what is not read yet, and the line where that begins
    tried = 0  # how much of it was read in vain
    for more in lines:
        rest += more
        # A message ends in a brace, and a long one mostly in a brace alone: it is not read again at each brace within.
        if more.startswith("}") or (more.rstrip().endswith("}") and len(rest) > 2 * tried) or not tried:
            at = yield from _read(rest, where, line, whole=False)
            rest, line = rest[at:], line + rest.count("\n", 0, at)
            tried = len(rest)
    if rest:
        yield from _read(rest.rstrip(), where, line, whole=True)


def _read(text: str, where: str, line: int, *, whole: bool) -> Generator[tuple[str, Any], None, int]:
    """The values in the text, as far as they are there; returns where the rest begins."""
    at = _next(text, 0)
    while at < len(text) and (found := _decoded(text, at, where, line, whole=whole)) is not None:
        yield _place(where, line + text.count("\n", 0, at) if where == "line" else 0), found[0]
        at = _next(text, found[1])
    return at


def _next(text: str, at: int) -> int:
    """Where the white space ends."""
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing too


def _decoded(text: str, at: int, where: str, line: int, *, whole: bool) -> tuple[Any, int] | None:
    """The value that begins there, and where it ends; `None` if more may follow, unless this is the whole."""
    try:
        found: tuple[Any, int] = json.JSONDecoder().raw_decode(text, at)
        return found
    except json.JSONDecodeError as error:
        if error.pos < len(text.rstrip()) or whole:
            raise _no_json(error, where, line) from None
    except RecursionError:
        raise CommandFailure(Exit.USAGE, f"{_place(where, line)}: nested too deep") from None
    except ValueError:
        raise CommandFailure(Exit.USAGE, f"{_place(where, line)}: a number of too many digits") from None
    return None


def _no_json(error: json.JSONDecodeError, where: str, begun: int) -> CommandFailure:
    line = begun + error.lineno - 1
    place = f"column {error.colno}" if where == "line" else f"line {line}, column {error.colno}"
    problem = f"{_place(where, line)}: not JSON ({place}): {error.msg}"
    hint = "; or put it into a file, if the shell takes the quotes away: -d @FILE" if where == "JSON" else ""
    return CommandFailure(Exit.USAGE, problem, f'expected messages such as {{"name": "value"}}{hint}')


def _place(where: str, line: int) -> str:
    return f"line {line}" if where == "line" else where


# -- metadata ---------------------------------------------------------------------------------------------------------


def metadata_of(headers: Sequence[str], pairs: Sequence[str], *, expand: bool) -> list[tuple[str, str | bytes]]:
    """Metadata as gRPC takes it.

    Args:
        headers: as `name: value`.
        pairs: as `name=value`.
        expand: whether `${NAME}` in a header stands for an environment variable, so that no secret is on the line.

    Raises:
        CommandFailure: one is none.
    """
    found = [_entry("-H", _expanded(each) if expand else each, ":") for each in headers]
    return found + [_entry("--metadata", each, "=") for each in pairs]


def expanded_names(headers: Sequence[str]) -> frozenset[str]:
    """The names of those headers that take something out of the environment, to keep it off the line."""
    return frozenset(each.partition(":")[0].strip().lower() for each in headers if _VARIABLE.search(each))


def _entry(option: str, text: str, mark: str) -> tuple[str, str | bytes]:
    name, marked, value = text.partition(mark)
    name, value = name.strip().lower(), value.strip() if mark == ":" else value
    if not marked or not _KEY.fullmatch(name):
        raise CommandFailure(Exit.USAGE, f"{option}: expected {'NAME: VALUE' if mark == ':' else 'NAME=VALUE'}")
    if name.startswith("grpc-"):
        raise CommandFailure(Exit.USAGE, f"{option}: {name} begins with 'grpc-', which gRPC keeps for itself")
    if name.endswith("-bin"):
        to = lambda _: CommandFailure(Exit.USAGE, f"{option}: {name}: expected base64")  # noqa: E731
        with translating(ValueError, to=to):  # of `binascii`, or for what is no ASCII
            return name, base64.b64decode(value, validate=True)
    if not _VALUE.fullmatch(value):
        advice = "give it another name that ends in -bin, and the value in base64"
        raise CommandFailure(Exit.USAGE, f"{option}: {name}: gRPC carries visible ASCII only", advice)
    return name, value


def _expanded(text: str) -> str:
    missing = [name for name in _VARIABLE.findall(text) if name not in os.environ]
    if missing:
        raise CommandFailure(Exit.USAGE, f"-H: environment variable {missing[0]} is not set", "export it first")
    return _VARIABLE.sub(lambda found: os.environ[found[1]], text)
