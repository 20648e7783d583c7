"""Tokens that no header may carry, header names that gRPC would refuse, schemes that are no word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc_bearer
from grpc_bearer import BearerAuth, ConfigurationError, StaticSource, Token, TokenFormatError, profiles

from . import material as m
from .row import Row, Stage, build

#: Texts that are no token, and what is said of them.
TEXTS: dict[str, tuple[str, str]] = {
    "empty": ("", "empty"),
    "blank": (" \t\n", "empty"),
    "of two lines": (f"{m.TOKEN}\n{m.HIDDEN}", "has a space, a control character"),
    "of two lines, as on Windows": (f"{m.TOKEN}\r\n{m.HIDDEN}", "has a space, a control character"),
    "with a space": (f"{m.TOKEN} {m.HIDDEN}", "has a space"),
    "with a tab": (f"{m.TOKEN}\t{m.HIDDEN}", "has a space"),
    "with NUL": (f"{m.TOKEN}\0", "a control character"),
    "with DEL": (f"{m.TOKEN}\x7f", "a control character"),
    "with an umlaut": (f"{m.TOKEN}ü", "outside ASCII"),
    "with a byte order mark": (f"\ufeff{m.TOKEN}", "outside ASCII"),
    "with typographic quotes": (f"“{m.TOKEN}”", "outside ASCII"),
    "with a lone surrogate": (f"{m.TOKEN}\udcff", "outside ASCII"),
    "with its scheme": (f"Bearer {m.TOKEN}", "begins with 'Bearer '"),
    "with its scheme in lower case": (f"bearer {m.TOKEN}", "begins with 'Bearer '"),
    "in quotes": (f'"{m.TOKEN}"', "is in quotes"),
    "that is a line of an .env file": (f"API_TOKEN={m.TOKEN}", "is an assignment such as TOKEN=…"),
    "that was not filled in": ("${API_TOKEN}", "a placeholder that was not filled in"),
    "that the document shows": ("<Your_Token_Here>", "a placeholder that was not filled in"),
    "a whole header line": (f"authorization: Bearer {m.TOKEN}", "has a space"),
}
_GIVEN_TO: dict[str, Callable[[str], Any]] = {
    "StaticSource": StaticSource,
    "crm": profiles.crm,
    "bitbroker": profiles.bitbroker,
    "BearerAuth": BearerAuth,
    "secure_channel": lambda token: grpc_bearer.secure_channel("localhost:1", auth=token),
}
_VALUES = {"None": None, "bytes": m.TOKEN.encode(), "a number": 7, "a list": [m.TOKEN]}


def texts() -> Iterator[Row]:
    for state, (text, words) in TEXTS.items():
        for name, make in _GIVEN_TO.items():
            yield build(
                f"{name}: a token {state}",
                ConfigurationError,
                f"token: {words}" if words[0] in "eb" else f"token|{words}",
                lambda stage, make=make, text=text: make(text),
            )
        yield build(f"Token: {state}", TokenFormatError, words, lambda stage, text=text: Token(text))
    for state, value in _VALUES.items():
        kind = type(value).__name__
        yield build(
            f"StaticSource: {state}",
            ConfigurationError,
            f"token: expected a str, got {kind}",
            lambda stage, value=value: StaticSource(value),
        )
        yield build(
            f"Token: {state}",
            TokenFormatError,
            f"token: expected a str, got {kind}",
            lambda stage, value=value: Token(value),
        )


def headers() -> Iterator[Row]:
    names: dict[str, tuple[Any, str]] = {
        "with a space": ("x token", "'x token' is no gRPC metadata key"),
        "with a space behind it": ("authorization ", "no gRPC metadata key"),
        "with a line break": ("x-token\nx-other", "no gRPC metadata key"),
        "with a colon": ("authorization:", "no gRPC metadata key"),
        "of HTTP/2's own": (":authority", "no gRPC metadata key"),
        "with an umlaut": ("schlüssel", "no gRPC metadata key"),
        "that is empty": ("", "no gRPC metadata key"),
        "for binary values": ("x-token-bin", "ends in '-bin'"),
        "for binary values, in capitals": ("X-TOKEN-BIN", "ends in '-bin'"),
        "of gRPC's own": ("grpc-token", "begins with 'grpc-'"),
        "of gRPC's own, in capitals": ("GRPC-Token", "begins with 'grpc-'"),
        "that is bytes": (b"authorization", "expected a str, got bytes"),
        "that is None": (None, "expected a str, got NoneType"),
        "that is a number": (7, "expected a str, got int"),
    }
    for state, (name, words) in names.items():
        yield build(
            f"BearerAuth: a header {state}",
            ConfigurationError,
            f"header: |{words}",
            lambda stage, name=name: BearerAuth(m.TOKEN, header=name),
        )
    schemes = {
        "of two words": "Bearer token",
        "with a space behind it": "Bearer ",
        "with a line break": "Bearer\n",
        "outside ASCII": "Bärer",
        "that is None": None,
        "that is a number": 7,
        "that is bytes": b"Bearer",
    }
    for state, scheme in schemes.items():
        yield build(
            f"BearerAuth: a scheme {state}",
            ConfigurationError,
            "scheme: expected one word",
            lambda stage, scheme=scheme: BearerAuth(m.TOKEN, scheme=scheme),
        )
    for state, value in {"0": 0, "below zero": -1, "text": "7", "true": True, "None": None}.items():
        yield build(
            f"BearerAuth: max_keys is {state}",
            ConfigurationError,
            "max_keys: expected a whole number",
            lambda stage, value=value: BearerAuth(m.TOKEN, max_keys=value),
        )
    for state, value in {"a number": 7, "None": None, "a class": Stage}.items():
        yield build(
            f"BearerAuth: clock is {state}",
            ConfigurationError,
            "clock: expected an object with time()",
            lambda stage, value=value: BearerAuth(m.TOKEN, clock=value),
        )


ROWS = [*texts(), *headers()]

#: What is put right without a word: name, how to build it, and the header that must come of it.
FINE: list[tuple[str, Callable[[Stage], Any], dict[str, str]]] = [
    (f"{name}: {state}", lambda stage, make=make, text=text: make(text), {header: f"{scheme}{m.TOKEN}"})
    for state, text in {
        "a line break at the end": f"{m.TOKEN}\n",
        "a Windows line break at the end": f"{m.TOKEN}\r\n",
        "white space around it": f" \t{m.TOKEN} \n",
    }.items()
    for name, make, header, scheme in (
        ("BearerAuth", BearerAuth, "authorization", "Bearer "),
        ("crm", profiles.crm, "authorization", "Bearer "),
        ("bitbroker", profiles.bitbroker, "x-bbk-auth-token", ""),
        ("a function", lambda text: BearerAuth(lambda: text), "authorization", "Bearer "),
    )
] + [
    (
        "a file with a line break at its end",
        lambda stage: BearerAuth(stage.file("token", f"{m.TOKEN}\n")),
        {"authorization": f"Bearer {m.TOKEN}"},
    ),
    (
        "a file with a byte order mark",
        lambda stage: BearerAuth(stage.file("token", f"\ufeff{m.TOKEN}\r\n")),
        {"authorization": f"Bearer {m.TOKEN}"},
    ),
    (
        "an answer with a line break at its end",
        lambda stage: BearerAuth(grpc_bearer.HTTPTokenSource(stage.answering(f"{m.TOKEN}\n"))),
        {"authorization": f"Bearer {m.TOKEN}"},
    ),
    (
        "a header name in capitals",
        lambda stage: BearerAuth(m.TOKEN, header="X-API-Token", scheme=""),
        {"x-api-token": m.TOKEN},
    ),
    (
        "a scheme of another name",
        lambda stage: BearerAuth(m.TOKEN, scheme="Token"),
        {"authorization": f"Token {m.TOKEN}"},
    ),
]
