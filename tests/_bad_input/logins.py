"""Logins that are kept: arguments, files that hold something else, and answers to a device that cannot be shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from grpc_bearer import (
    ConfigurationError,
    DeviceCodeSource,
    GrpcBearerError,
    RefreshTokenSource,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)

from . import material as m
from .row import Row, Stage, build, fetch

_URL = "https://auth.example.com/token"


def refresh(stage: Stage, url: str | None = None, **how: Any) -> RefreshTokenSource:
    how = {"ca": stage.ca_file, "refresh_token": m.REFRESH_TOKEN, **how}
    return RefreshTokenSource(url or stage.oauth_url, m.CLIENT_ID, m.CLIENT_SECRET, **how)


def device(stage: Stage, url: str | None = None, **how: Any) -> DeviceCodeSource:
    how = {"ca": stage.ca_file, "prompt": str, "device_authorization_url": url or stage.oauth_url, **how}
    return DeviceCodeSource(stage.oauth_url, m.CLIENT_ID, m.CLIENT_SECRET, **how)


def arguments() -> Iterator[Row]:
    for_refresh: dict[str, tuple[dict[str, Any], str]] = {
        "no refresh token": ({}, "refresh_token: missing; or give store="),
        "one that is a number": ({"refresh_token": 7}, "refresh_token: expected a str, a path or a function, got int"),
        "one that is empty": ({"refresh_token": " "}, "refresh_token: expected a str that is not empty"),
        "one of two lines": ({"refresh_token": f"{m.HIDDEN}\n{m.HIDDEN}"}, "refresh_token: has a line break"),
        "one that is a placeholder": ({"refresh_token": "${TOKEN}"}, "refresh_token: a placeholder"),
        "one that names a file": ({"refresh_token": os.devnull}, "refresh_token: this text is the name of a file"),
        "a store that is a number": ({"store": 7}, "store: expected a path, got int"),
        "a store that is empty": ({"store": ""}, "store: empty"),
        "a store that is a token": ({"store": m.FOREIGN_JWT}, "store: this is a token"),
        "a lifetime of zero": ({"store": "x", "lifetime": 0}, "lifetime: expected a number of seconds"),
        "a scope that is a number": ({"store": "x", "scope": 7}, "scope: expected a str"),
        "an audience that is a list": ({"store": "x", "audience": [7]}, "audience: expected a str, got list"),
    }
    for state, (how, words) in for_refresh.items():
        yield build(
            f"RefreshTokenSource: {state}",
            ConfigurationError,
            words,
            lambda stage, how=how: RefreshTokenSource(_URL, m.CLIENT_ID, **how),
        )
    for_device: dict[str, tuple[dict[str, Any], str]] = {
        "no address for devices": ({}, "device_authorization_url: missing; or give issuer"),
        "an address in the clear": ({"device_authorization_url": "http://example.com/"}, "device_authorization_url: "),
        "a prompt that is text": (
            {"device_authorization_url": _URL, "prompt": m.HIDDEN},
            "prompt: expected a function of a DevicePrompt, got str",
        ),
        "a store that is bytes": ({"device_authorization_url": _URL, "store": b"x"}, "store: expected a path"),
    }
    for state, (how, words) in for_device.items():
        yield build(
            f"DeviceCodeSource: {state}",
            ConfigurationError,
            words,
            lambda stage, how=how: DeviceCodeSource(_URL, m.CLIENT_ID, **how),
        )


def files() -> Iterator[Row]:
    makers: dict[str, Callable[[Stage, Path], Any]] = {
        "RefreshTokenSource": lambda stage, path: RefreshTokenSource(
            stage.oauth_url, m.CLIENT_ID, refresh_token=path, ca=stage.ca_file
        ),
        "DeviceCodeSource": lambda stage, path: DeviceCodeSource(
            stage.oauth_url,
            m.CLIENT_ID,
            device_authorization_url=stage.oauth_url,
            store=path,
            ca=stage.ca_file,
        ),
    }
    contents: dict[str, tuple[Any, type[GrpcBearerError], str]] = {
        "that is not there": (None, TokenRejectedError, "there is no login; log in"),
        "that is empty": ("", TokenRejectedError, "there is no login; log in"),
        "that others may read": (_open, TokenRejectedError, "a.login|is open to others (0644); chmod it to 0600"),
        "that is JSON broken off": (f'{{"refresh_token": "{m.TOKEN}', TokenFormatError, "a.login|not JSON"),
        "that is other JSON": (m.as_text({"token": m.TOKEN}), TokenFormatError, "a.login|neither a refresh token"),
        "that is a list": (m.as_text([m.TOKEN]), TokenFormatError, "a.login|neither a refresh token"),
        "of two lines": (f"{m.TOKEN}\n{m.HIDDEN}", TokenFormatError, "a.login|has a line break"),
        "that is no UTF-8": (b"\xff" + m.TOKEN.encode(), TokenFormatError, "a.login|not UTF-8"),
        "of another client": (
            m.as_text({"refresh_token": m.TOKEN, "client": "x"}),
            TokenRejectedError,
            "of another client|a file of its own",
        ),
        "in a folder that is none": (_nowhere, TokenUnavailableError, "nowhere|cannot be locked"),
        "that is a folder": (_folder, TokenRejectedError, "a.folder|where a regular file is expected"),
    }
    for name, make in makers.items():
        for state, (content, kind, words) in contents.items():
            yield fetch(
                f"{name}: a file {state}",
                kind,
                words,
                lambda stage, make=make, content=content: make(stage, _placed(stage, content)),
            )


def _placed(stage: Stage, content: Any) -> Path:
    if callable(content):
        return content(stage)
    if content is None:
        return stage.directory / "none.login"
    path = stage.file("a.login", content)
    path.chmod(0o600)
    return path


def _open(stage: Stage) -> Path:
    path = _placed(stage, m.TOKEN)
    path.chmod(0o644)
    return path


def _nowhere(stage: Stage) -> Path:
    return stage.directory / "nowhere" / "a.login"


def _folder(stage: Stage) -> Path:
    return stage.folder("a.folder")


def device_answers() -> Iterator[Row]:
    good = {"device_code": m.TOKEN, "user_code": "AB-CD", "verification_uri": "https://auth.example.com/"}
    answers: dict[str, tuple[dict[str, Any], str]] = {
        "no device code": ({"device_code": None}, "without the field 'device_code'"),
        "no user code": ({"user_code": None}, "without the field 'user_code'"),
        "a user code that moves the cursor": ({"user_code": "\x1b[2J"}, "user_code: has a character"),
        "no page": ({"verification_uri": None}, "without the field 'verification_uri'"),
        "a page that is a script": ({"verification_uri": f"javascript:{m.HIDDEN}"}, "verification_uri: not a page"),
        "another page that is a file": ({"verification_uri_complete": "file:///x"}, "verification_uri_complete: not a"),
        "no time": ({"expires_in": 0}, "expires_in: |already expired"),
    }
    for state, (changed, words) in answers.items():
        yield fetch(
            f"DeviceCodeSource: {state}",
            TokenFormatError,
            f"127.0.0.1:|{words}",
            lambda stage, changed=changed: _asking(stage, m.as_text({**good, **changed}), str),
        )
    yield fetch(
        "DeviceCodeSource: a prompt that fails",
        TokenUnavailableError,
        "prompt: |raised ValueError",
        lambda stage: _asking(stage, m.as_text(good), _fails),
    )


def _asking(stage: Stage, answer: str, prompt: Callable[[Any], object]) -> DeviceCodeSource:
    url = stage.answering(answer)
    return DeviceCodeSource(stage.oauth_url, m.CLIENT_ID, device_authorization_url=url, prompt=prompt, ca=stage.ca_file)


def _fails(prompt: object) -> None:
    raise ValueError(m.HIDDEN)


ROWS = [*arguments(), *files(), *device_answers()]
