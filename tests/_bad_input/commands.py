"""Commands that print tokens: arguments of `ExecSource`, and all that a command can do in place of printing one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grpc_bearer import ConfigurationError, ExecSource, GrpcBearerError, TokenFormatError, TokenUnavailableError

from . import material as m
from .row import Row, Stage, build, fetch


def arguments() -> Iterator[Row]:
    commands: dict[str, tuple[Any, str]] = {
        "a line for a shell": (f"echo {m.HIDDEN}", "command: expected a list|no shell"),
        "bytes": (m.HIDDEN.encode(), "command: expected a list"),
        "None": (None, "command: expected a list of the program and its arguments, got NoneType"),
        "empty": ([], "command: expected a list with the program at least"),
        "with a number": ([sys.executable, 7], "command: [1]: expected a str, got int"),
        "with a NUL": ([sys.executable, f"{m.HIDDEN}\0"], "command: [1]: has a NUL"),
        "of a program that is not there": (["no-such-program"], "command: no such program: 'no-such-program' in PATH"),
        "of a path that is not there": (["/no/such/program"], "command: no such program: '/no/such/program'"),
        "of a folder": ([Path("/")], "command: no program that this user may run: '/'"),
        "of a path that is bytes": ([_Bytes()], "command: [0]: expected a str, got bytes"),
    }
    for state, (command, words) in commands.items():
        yield build(
            f"ExecSource: a command {state}",
            ConfigurationError,
            words,
            lambda stage, command=command: ExecSource(command),
        )
    others: dict[str, tuple[dict[str, Any], str]] = {
        "env is one name": ({"env": "PATH"}, "env: expected the names of environment variables in a list, got str"),
        "env is a mapping": ({"env": {"TOKEN": m.HIDDEN}}, "env: expected the names|their values are taken from"),
        "env is None": ({"env": None}, "env: expected the names"),
        "env has a value": ({"env": [f"TOKEN={m.HIDDEN}"]}, "env: expected only names such as AWS_PROFILE"),
        "env has a number": ({"env": [7]}, "env: expected only names"),
        "json_field is empty": ({"json_field": ""}, "json_field: expected the name of a field"),
        "max_age is text": ({"max_age": "1h"}, "max_age: expected a number of seconds"),
        "timeout is zero": ({"timeout": 0}, "timeout: expected a number of seconds"),
        "timeout is None": ({"timeout": None}, "timeout: expected a number of seconds"),
        "max_bytes is zero": ({"max_bytes": 0}, "max_bytes: expected a whole number above 0"),
        "max_bytes is True": ({"max_bytes": True}, "max_bytes: expected a whole number above 0"),
    }
    for state, (how, words) in others.items():
        yield build(
            f"ExecSource: {state}",
            ConfigurationError,
            words,
            lambda stage, how=how: ExecSource([sys.executable], **how),
        )


class _Bytes:
    def __fspath__(self) -> bytes:
        return m.HIDDEN.encode()


def outputs() -> Iterator[Row]:
    rows: dict[str, tuple[str, dict[str, Any], type[GrpcBearerError], str]] = {
        "nothing": ("true", {}, TokenUnavailableError, "printed nothing"),
        "its token to stderr": ('cat "$1" >&2', {}, TokenUnavailableError, "printed nothing"),
        "an error": ('cat "$1" >&2; exit 3', {}, TokenUnavailableError, "exited with code 3|run it by hand"),
        "its token, and fails": ('cat "$1"; exit 1', {}, TokenUnavailableError, "exited with code 1"),
        "a signal": ("kill -15 $$", {}, TokenUnavailableError, "was ended by SIGTERM"),
        "its token, and hangs": (
            'cat "$1"; sleep 600',
            {"timeout": 0.3},
            TokenUnavailableError,
            "was killed|not ended after 0.3 s",
        ),
        "too much": ('cat "$1"', {"max_bytes": 9}, TokenFormatError, "printed more than 9 bytes"),
        "a warning before it": ('echo old; cat "$1"', {}, TokenFormatError, "printed several lines"),
        "no UTF-8": ("printf '\\377'; cat \"$1\"", {}, TokenFormatError, "not UTF-8"),
        "a header line": ("printf 'Bearer '; cat \"$1\"", {}, TokenFormatError, "begins with 'Bearer '"),
        "JSON that breaks off": ('printf \'{"token": "\'; cat "$1"', {}, TokenFormatError, "not JSON"),
        "JSON under no usual name": (
            'printf \'{"secret": "\'; cat "$1"; printf \'"}\'',
            {},
            TokenFormatError,
            "name its field with json_field=",
        ),
        "JSON without the field": (
            'printf \'{"token": "\'; cat "$1"; printf \'"}\'',
            {"json_field": "a.b"},
            TokenFormatError,
            "without the field 'a.b'",
        ),
    }
    for state, (script, how, kind, words) in rows.items():
        yield fetch(
            f"ExecSource: prints {state}",
            kind,
            f"'/bin/sh': |{words}",
            lambda stage, script=script, how=how: ExecSource(_shell(stage, script), **how),
        )


def _shell(stage: Stage, script: str) -> list[str | Path]:
    return ["/bin/sh", "-c", script, "sh", stage.file("printed.token", m.TOKEN)]


ROWS = [*arguments(), *outputs()]
