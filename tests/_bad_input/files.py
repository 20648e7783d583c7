"""Token files: missing, a directory, unreadable, huge, binary, half written; and arguments of `FileSource`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grpc_bearer import ConfigurationError, FileSource, TokenFormatError, TokenUnavailableError, profiles

from . import material as m
from .row import Row, Stage, build, fetch
from .tokens import TEXTS


def contents() -> Iterator[Row]:
    given_to: dict[str, Callable[..., Any]] = {
        "FileSource": FileSource,
        "crm": profiles.crm,
        "bitbroker": lambda path: profiles.bitbroker(consumer=path, routes={"*": "consumer"}),
    }
    rows: dict[str, tuple[Callable[[Stage], Path], Any, str]] = {
        "no such file": (
            lambda stage: stage.directory / "none.token",
            TokenUnavailableError,
            "none.token|No such file",
        ),
        "a directory": (
            lambda stage: stage.folder("a.folder"),
            TokenFormatError,
            "a.folder|a directory, a pipe or a device",
        ),
        "a pipe": (_pipe, TokenFormatError, "a.pipe|a directory, a pipe or a device"),
        "a device": (lambda stage: Path("/dev/zero"), TokenFormatError, "/dev/zero|a directory, a pipe or a device"),
        "a dangling link": (_dangling, TokenUnavailableError, "a.link|No such file"),
        "a name that is too long": (
            lambda stage: stage.directory / ("x" * 300),
            TokenUnavailableError,
            "File name too long",
        ),
        "2 MB": (_with(m.TOKEN * 50_000), TokenFormatError, "wrong.token|over 1048576 bytes"),
        "binary": (_with(b"\xff\xfe\x00" + m.TOKEN.encode()), TokenFormatError, "wrong.token|not UTF-8 text"),
        "empty": (_with(""), TokenUnavailableError, "wrong.token|empty"),
        "blank": (_with(" \n"), TokenUnavailableError, "wrong.token|empty"),
        "an expired JWT": (_with(m.EXPIRED_JWT), TokenUnavailableError, "wrong.token|its token expired"),
        "a PEM": (_with(m.PEMS["RSA"]), TokenFormatError, "wrong.token|has a space"),
        "JSON": (_with(m.as_text({"token": m.TOKEN})), TokenFormatError, "wrong.token|has a space"),
    }
    if os.geteuid():  # root reads everything
        rows["unreadable"] = (_unreadable, TokenUnavailableError, "locked.token|Permission denied")
    for name, make in given_to.items():
        for state, (path, kind, words) in rows.items():
            yield fetch(
                f"{name}: a file that is {state}", kind, words, lambda stage, make=make, path=path: make(path(stage))
            )
    for state, (text, words) in TEXTS.items():
        if text.strip() and "mark" not in state and "surrogate" not in state:
            yield fetch(
                f"FileSource: a token {state}",
                TokenFormatError,
                f"wrong.token|{words}",
                lambda stage, text=text: FileSource(_with(text)(stage)),
            )
    yield fetch(
        "FileSource: white space that is not to be trimmed",
        TokenFormatError,
        "wrong.token|strip is off",
        lambda stage: FileSource(_with(f"{m.TOKEN}\n")(stage), strip=False),
    )
    for state, content, kind, words in (
        ("text", m.TOKEN, TokenFormatError, "not JSON"),
        ("JSON that breaks off", m.as_text({"token": m.TOKEN})[:-3], TokenUnavailableError, "JSON that breaks off"),
        (
            "JSON without the field",
            m.as_text({"access_token": m.TOKEN}),
            TokenFormatError,
            "JSON without the field 'token'",
        ),
        ("a field that is a number", m.as_text({"token": 7}), TokenFormatError, "token: expected a string, got int"),
        ("a field that is empty", m.as_text({"token": ""}), TokenFormatError, "empty"),
        ("JSON a thousand levels deep", "[" * 100_000, TokenFormatError, "not JSON"),
        ("a list", m.as_text([m.TOKEN]), TokenFormatError, "JSON without the field 'token'"),
    ):
        yield fetch(
            f"FileSource: json_field and {state}",
            kind,
            f"wrong.token|{words}",
            lambda stage, content=content: FileSource(_with(content)(stage), json_field="token"),
        )


def _with(content: str | bytes) -> Callable[[Stage], Path]:
    return lambda stage: stage.file("wrong.token", content)


def _pipe(stage: Stage) -> Path:
    path = stage.directory / "a.pipe"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def _dangling(stage: Stage) -> Path:
    path = stage.directory / "a.link"
    path.unlink(missing_ok=True)
    path.symlink_to(stage.directory / "nothing")
    return path


def _unreadable(stage: Stage) -> Path:
    path = stage.file("locked.token", m.TOKEN)
    path.chmod(0)
    return path


def arguments() -> Iterator[Row]:
    paths: dict[str, tuple[Any, str]] = {
        "None": (None, "path: expected a path, got NoneType"),
        "a number": (7, "path: expected a path, got int"),
        "bytes": (b"/run/token", "path: expected a path, got bytes"),
        "empty": ("", "path: empty, or with a NUL"),
        "with a NUL": (f"/run/{m.HIDDEN}\0", "path: empty, or with a NUL"),
        "a JWT": (m.FOREIGN_JWT, "path: this is a token, not the path|StaticSource"),
    }
    for state, (path, words) in paths.items():
        yield build(
            f"FileSource: the path is {state}", ConfigurationError, words, lambda stage, path=path: FileSource(path)
        )
    others: dict[str, tuple[dict[str, Any], str]] = {
        "json_field is empty": ({"json_field": ""}, "json_field: expected the name of a field"),
        "json_field is a number": ({"json_field": 7}, "json_field: expected the name of a field"),
        "poll is zero": ({"poll": 0}, "poll: expected a number of seconds"),
        "poll is below zero": ({"poll": -1}, "poll: expected a number of seconds"),
        "poll is infinite": ({"poll": float("inf")}, "poll: expected a number of seconds"),
        "poll is NaN": ({"poll": float("nan")}, "poll: expected a number of seconds"),
        "poll is text": ({"poll": "5"}, "poll: expected a number of seconds"),
        "poll is true": ({"poll": True}, "poll: expected a number of seconds"),
    }
    for state, (how, words) in others.items():
        yield build(
            f"FileSource: {state}", ConfigurationError, words, lambda stage, how=how: FileSource("/run/token", **how)
        )


ROWS = [*contents(), *arguments()]
