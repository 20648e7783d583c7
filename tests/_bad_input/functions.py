"""What users write themselves: functions that give no token, sources that give something else, signers that fail."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import grpc_bearer
from grpc_bearer import (
    CallableSource,
    CallContext,
    ConfigurationError,
    GrpcBearerError,
    JWTSource,
    RoutedSource,
    SigningError,
    Source,
    StaticSource,
    Token,
    TokenError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
    profiles,
)
from grpc_bearer.sources.jwt import PerToken

from . import material as m
from .row import Row, Stage, build, fetch
from .tokens import TEXTS


class _Own(Exception):
    """As an HTTP client's: it holds the request."""

    def __init__(self) -> None:
        super().__init__(m.HIDDEN)
        self.request = {"authorization": m.TOKEN}
        self.__cause__ = ValueError(m.PASSWORD)


def _raising(error: BaseException | type[BaseException]) -> Callable[[], Any]:
    def fn() -> Any:
        raise error

    return fn


def _chained() -> Any:
    try:
        raise _Own()
    except _Own as error:
        raise TokenRejectedError("the vault said no") from error


def _in_context() -> Any:
    try:
        raise _Own()
    except _Own:
        raise TokenUnavailableError("the vault is closed")  # noqa: B904 - the context that this leaves is the point


async def _async_raise() -> Any:
    raise _Own()


async def _forever() -> Any:
    await asyncio.Event().wait()


def _returned(value: Any) -> Callable[[], Any]:
    async def fn() -> Any:
        return value

    return fn


_VALUES: dict[str, tuple[Any, str]] = {
    "None": (None, "should return a str or a Token, not NoneType"),
    "bytes": (m.TOKEN.encode(), "should return a str or a Token, not bytes"),
    "a number": (7, "should return a str or a Token, not int"),
    "a mapping": ({"access_token": m.TOKEN}, "should return a str or a Token, not dict"),
    "a pair": ((m.TOKEN, 3600), "should return a str or a Token, not tuple"),
    "a list": ([m.TOKEN], "should return a str or a Token, not list"),
    "an expired JWT": (m.EXPIRED_JWT, "the token expired"),
}
_RAISED: dict[str, tuple[Callable[[], Any], type[GrpcBearerError], str]] = {
    "an error of its own": (_raising(_Own), TokenUnavailableError, "raised _Own"),
    "RuntimeError": (_raising(RuntimeError(m.HIDDEN)), TokenUnavailableError, "raised RuntimeError"),
    "KeyError": (lambda: {}[m.HIDDEN], TokenUnavailableError, "raised KeyError"),
    "OSError": (lambda: os.stat(f"/nowhere/{m.HIDDEN}"), TokenUnavailableError, "raised FileNotFoundError"),
    "TimeoutError": (_raising(TimeoutError(m.HIDDEN)), TokenUnavailableError, "raised TimeoutError"),
    "SystemExit": (_raising(SystemExit(m.HIDDEN)), TokenUnavailableError, "raised SystemExit"),
    "CancelledError": (_raising(asyncio.CancelledError(m.HIDDEN)), TokenUnavailableError, "raised CancelledError"),
    "StopIteration": (_raising(StopIteration(m.HIDDEN)), TokenUnavailableError, "raised StopIteration"),
    "our error, chained to its own": (_chained, TokenRejectedError, "the vault said no"),
    "our error, in the context of its own": (_in_context, TokenUnavailableError, "the vault is closed"),
}


def results() -> Iterator[Row]:
    for state, (value, words) in _VALUES.items():
        yield fetch(
            f"CallableSource: gives {state}",
            TokenFormatError,
            f"()|{words}",
            lambda stage, value=value: CallableSource(lambda: value),
        )
        yield fetch(
            f"CallableSource: a coroutine gives {state}",
            TokenFormatError,
            f"()|{words}",
            lambda stage, value=value: CallableSource(_returned(value)),
        )
    for state, (text, words) in TEXTS.items():
        yield fetch(
            f"crm: a function gives a token {state}",
            TokenFormatError,
            f"()|{words}",
            lambda stage, text=text: profiles.crm(lambda: text),
        )
    for state, (fn, kind, words) in _RAISED.items():
        yield fetch(f"CallableSource: raises {state}", kind, words, lambda stage, fn=fn: CallableSource(fn))
        yield fetch(
            f"BearerAuth: a partial function raises {state}",
            kind,
            words,
            lambda stage, fn=fn: functools.partial(lambda secret: fn(), secret=m.PASSWORD),
        )
    yield fetch(
        "CallableSource: a coroutine raises",
        TokenUnavailableError,
        "_async_raise()|raised _Own",
        lambda stage: CallableSource(_async_raise),
    )
    yield fetch(
        "CallableSource: a coroutine takes too long",
        TokenUnavailableError,
        "_forever()|no answer within 0.2 s",
        lambda stage: CallableSource(_forever, timeout=0.2),
    )
    yield fetch(
        "CallableSource: its loop does not run",
        TokenUnavailableError,
        "its event loop is closed or not running",
        _closed_loop,
    )


def _closed_loop(stage: Stage) -> Any:
    loop = asyncio.new_event_loop()
    loop.close()
    return CallableSource(_returned(m.TOKEN), loop=loop)


def functions() -> Iterator[Row]:
    rows: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
        "no function": ((m.HIDDEN,), {}, "fn: expected a function, got str"),
        "None": ((None,), {}, "fn: expected a function, got NoneType"),
        "two required parameters": ((lambda a, b: "",), {}, "fn: |a, b"),
        "a required keyword": ((_keyword,), {}, "fn: |tenant"),
        "loop is a number": ((str,), {"loop": 7}, "loop: expected an asyncio event loop, got int"),
        "loop is a class": ((str,), {"loop": asyncio.AbstractEventLoop}, "loop: expected an asyncio event loop"),
        "key is a str": ((str,), {"key": m.HIDDEN}, "key: expected a function of the CallContext, got str"),
        "timeout is zero": ((str,), {"timeout": 0}, "timeout: expected a number of seconds"),
        "timeout is text": ((str,), {"timeout": "7"}, "timeout: expected a number of seconds"),
        "timeout is None": ((str,), {"timeout": None}, "timeout: expected a number of seconds"),
    }
    for state, (args, how, words) in rows.items():
        yield build(
            f"CallableSource: {state}",
            ConfigurationError,
            words,
            lambda stage, args=args, how=how: CallableSource(*args, **how),
        )
    keys: dict[str, tuple[Callable[[CallContext], Any], str]] = {
        "raises": (lambda context: _raising(_Own)(), "CallableSource.key raised _Own"),
        "gives a list": (lambda context: [m.HIDDEN], "CallableSource.key raised TypeError"),
    }
    for state, (key, words) in keys.items():
        yield fetch(
            f"CallableSource: its key {state}",
            TokenUnavailableError,
            words,
            lambda stage, key=key: CallableSource(lambda: m.TOKEN, key=key),
        )


def _keyword(*, tenant: str) -> str:
    return tenant


class _Gives(Source):
    def __init__(self, make: Callable[[], Any], *, single_use: bool = False) -> None:
        self._make = make
        self.single_use = single_use

    def fetch(self, context: CallContext) -> Token:
        return self._make()


class _NotOurs(TokenError):
    """A subclass that does not copy."""

    retryable = True

    def __new__(cls, *args: str) -> _NotOurs:
        if len(args) < 2:  # its text alone
            raise RuntimeError(m.HIDDEN)
        return super().__new__(cls)

    def __init__(self, one: str, two: str) -> None:
        super().__init__("the vault is closed")


def sources() -> Iterator[Row]:
    """Sources of the user's own."""
    values: dict[str, tuple[Any, str]] = {
        "a str": (m.TOKEN, "expected a Token, got str"),
        "None": (None, "expected a Token, got NoneType"),
        "a single-use token": (
            Token(m.TOKEN, single_use=True),
            "gave a single-use token, but its single_use is not True",
        ),
        "an expired token": (Token(m.TOKEN, expires_at=1.0), "already expired"),
    }
    for state, (value, words) in values.items():
        yield fetch(f"Source: gives {state}", TokenFormatError, words, lambda stage, value=value: _Gives(lambda: value))
    yield fetch(
        "Source: single-use, and gives an expired token",
        TokenFormatError,
        "already expired",
        lambda stage: _Gives(lambda: Token(m.TOKEN, expires_at=1.0, single_use=True), single_use=True),
    )
    for state, (fn, kind, words) in _RAISED.items():
        words = words.replace("raised", "_Gives.fetch raised")
        yield fetch(f"Source: raises {state}", kind, words, lambda stage, fn=fn: _Gives(fn))
        yield fetch(
            f"Source: single-use, and raises {state}", kind, words, lambda stage, fn=fn: _Gives(fn, single_use=True)
        )
    yield fetch(
        "Source: raises what does not copy",
        TokenUnavailableError,
        "_Gives.fetch raised _NotOurs",
        lambda stage: _Gives(_raising(_NotOurs(m.HIDDEN, m.TOKEN))),
    )


def signers() -> Iterator[Row]:
    def source(sign: Callable[[bytes], Any], **how: Any) -> Callable[[Stage], Any]:
        return lambda stage: JWTSource(sign, **{"algorithm": "ES256", **how})

    signatures: dict[str, tuple[Any, str]] = {
        "None": (None, "expected the signature as bytes, got NoneType"),
        "a str": (m.HIDDEN, "expected the signature as bytes, got str"),
        "nothing": (b"", "expected the signature as bytes"),
        "half a signature": (b"\x01" * 32, "32 bytes that are no ES256 signature"),
        "a secret": (m.HIDDEN.encode(), "bytes that are no ES256 signature"),
    }
    for state, (signature, words) in signatures.items():
        yield fetch(
            f"JWTSource: its signer gives {state}",
            SigningError,
            f"key: |{words}",
            source(lambda data, signature=signature: signature),
        )
        yield fetch(
            f"JWTSource: its signer gives {state}, single-use",
            SigningError,
            f"key: |{words}",
            source(lambda data, signature=signature: signature, single_use=True),
        )
    for state, (fn, kind, words) in _RAISED.items():
        if state in ("SystemExit", "CancelledError"):
            continue  # told by the engine: `JWTSource.fetch raised …`
        words = words.replace("raised", "signing failed with")
        yield fetch(f"JWTSource: its signer raises {state}", kind, words, source(lambda data, fn=fn: fn()))
    members: dict[str, tuple[Callable[[Any], Any], type[GrpcBearerError], str]] = {
        "fails": (
            lambda call: _raising(_Own)(),
            TokenRejectedError,
            "['x']: the function failed with _Own for service 'grpc_bearer.testing.v1.Probe'",
        ),
        "gives bytes": (
            lambda call: m.HIDDEN.encode(),
            TokenFormatError,
            "['x']: bytes that cannot be written as JSON",
        ),
        "gives a set": (lambda call: {m.HIDDEN}, TokenFormatError, "['x']: set that cannot be written as JSON"),
    }
    for what in ("claims", "headers"):
        for state, (fn, kind, words) in members.items():
            yield fetch(
                f"JWTSource: a function in {what} {state}",
                kind,
                f"{what}{words}",
                lambda stage, what=what, fn=fn: JWTSource(m.P256, **{what: {"x": fn}}),
            )
        yield fetch(
            f"JWTSource: what is new in each token is no JSON, in {what}",
            TokenFormatError,
            f"{what}['x']: set that cannot be written as JSON",
            lambda stage, what=what: JWTSource(m.P256, **{what: {"x": PerToken(lambda: {m.HIDDEN})}}),
        )
        whole: dict[str, tuple[Callable[[Any], Any], type[GrpcBearerError], str]] = {
            "fails": (lambda call: _raising(_Own)(), TokenRejectedError, ": the function failed with _Own"),
            "gives a list": (lambda call: [m.HIDDEN], TokenFormatError, ": expected a mapping, got list"),
            "gives a function": (
                lambda call: lambda call: {},
                TokenFormatError,
                ": the function gave another function",
            ),
            "gives a reserved name": (lambda call: {"exp": 7, "alg": "none"}, TokenFormatError, ": '"),
        }
        for state, (fn, kind, words) in whole.items():
            yield fetch(
                f"JWTSource: the function for {what} {state}",
                kind,
                f"{what}{words}",
                lambda stage, what=what, fn=fn: JWTSource(m.P256, **{what: fn}),
            )


def routes() -> Iterator[Row]:
    static = StaticSource(m.TOKEN)
    wrong: dict[str, tuple[Any, str]] = {
        "empty": ({}, "routes: expected a mapping|with one entry at least"),
        "a list": ([("pkg.*", static)], "routes: expected a mapping"),
        "None": (None, "routes: expected a mapping"),
        "with an empty pattern": ({"": static}, "routes: a pattern is empty"),
        "with a slash for a pattern": ({"/": static}, "routes: a pattern is empty"),
        "with a pattern that is a number": ({7: static}, "routes: a pattern is empty or no str"),
        "with a token for a source": ({"pkg.*": m.TOKEN}, "routes: pkg.*: expected a Source, got str"),
        "with a BearerAuth for a source": (
            {"pkg.*": grpc_bearer.BearerAuth(m.TOKEN)},
            "routes: pkg.*: expected a Source",
        ),
        "with single-use sources beside others": (
            {"a.*": static, "b.*": JWTSource(m.P256, single_use=True)},
            "routes: some sources are single-use",
        ),
    }
    for state, (given, words) in wrong.items():
        yield build(
            f"RoutedSource: routes {state}", ConfigurationError, words, lambda stage, given=given: RoutedSource(given)
        )


ROWS = [*results(), *functions(), *sources(), *signers(), *routes()]
