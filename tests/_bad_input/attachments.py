"""Arguments of the ways to attach, sync and asyncio, and of `RetryPolicy`; and what shows only when a call is made."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.experimental

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    ConfigurationError,
    InsecureChannelError,
    JWTSource,
    RetryPolicy,
    TokenRejectedError,
    profiles,
)
from grpc_bearer.testing import ProbeStub

from . import material as m
from .row import Row, Stage, build

_TARGET = "localhost:1"
#: What people write in place of a target, and what they are told.
_NO_TARGETS: dict[Any, str] = {
    "https://api.example.com": "target: a target of gRPC is no URL, but host and port: 'api.example.com:443'",
    "https://api.example.com:8443/v1?k=1": "is no URL, but host and port: 'api.example.com:8443'",
    f"HTTPS://me:{m.HIDDEN}@api.example.com/": "is no URL, but host and port: 'api.example.com:443'",
    "http://[::1]:50051": "is no URL, but host and port: '[::1]:50051'",
    "http://localhost": "is no URL, but host and port: 'localhost:80'",
    "grpcs://api.example.com": "is no URL, but host and port: 'api.example.com:443'",
    "tcp://10.0.0.1:50051": "is no URL, but host and port: '10.0.0.1:50051'",
    "api.example.com:443/": "is no URL, but host and port: 'api.example.com:443'",
    "api.example.com/fleet.v1.Fleet": "is no URL, but host and port: 'api.example.com:443'",
    "": "target: empty; expected 'api.example.com:443'",
    None: "target: expected 'api.example.com:443' or the like, got NoneType",
    grpc.ssl_channel_credentials(): "or the like, got grpc.ChannelCredentials",  # the arguments in another order
}


class _ForeignPlugin(grpc.AuthMetadataPlugin):
    def __init__(self) -> None:
        self.token = m.TOKEN

    def __call__(self, context: Any, callback: Any) -> None:
        callback((("authorization", self.token),), None)


async def _fetch() -> str:
    return m.TOKEN


def _plain() -> grpc.Channel:
    return grpc.secure_channel(_TARGET, grpc.ssl_channel_credentials())


def _plain_aio() -> grpc.aio.Channel:
    return grpc.aio.secure_channel(_TARGET, grpc.ssl_channel_credentials())


#: Each way to attach as a function of `auth` and its other arguments.
_WAYS: dict[str, Callable[..., Any]] = {
    "secure_channel": lambda auth, **how: grpc_bearer.secure_channel(auth=auth, **{"target": _TARGET, **how}),
    "insecure_channel": lambda auth, **how: grpc_bearer.insecure_channel(
        auth=auth, **{"target": _TARGET, "allow_plaintext": True, **how}
    ),
    "intercept_channel": lambda auth, **how: grpc_bearer.intercept_channel(_plain(), auth, **how),
    "wrap_stub": lambda auth, **how: grpc_bearer.wrap_stub(ProbeStub(_plain()), auth, **how),
    "interceptor": lambda auth, **how: grpc_bearer.interceptor(auth, **how),
    "call_credentials": lambda auth: grpc_bearer.call_credentials(auth),
    "channel_credentials": lambda auth: grpc_bearer.channel_credentials(auth),
    "aio.interceptors": lambda auth, **how: grpc_bearer.aio.interceptors(auth, **how),
    "aio.secure_channel": lambda auth, **how: _aio(
        grpc_bearer.aio.secure_channel, auth=auth, **{"target": _TARGET, **how}
    ),
    "aio.insecure_channel": lambda auth, **how: _aio(
        grpc_bearer.aio.insecure_channel, auth=auth, **{"target": _TARGET, "allow_plaintext": True, **how}
    ),
    "aio.intercept_channel": lambda auth, **how: _aio(
        lambda: grpc_bearer.aio.intercept_channel(_plain_aio(), auth, **how)
    ),
}
_RETRYING = [name for name in _WAYS if not name.endswith("_credentials")]


def _aio(make: Callable[..., Any], *args: Any, **how: Any) -> Any:
    import asyncio

    async def made() -> Any:
        return make(*args, **how)

    return asyncio.run(made())


def auths() -> Iterator[Row]:
    """What every way to attach may be given for `auth=`."""
    wrong: dict[str, tuple[Callable[[], Any], str]] = {
        "another library's plugin": (
            _ForeignPlugin,
            "auth: _ForeignPlugin is another library's AuthMetadataPlugin; use grpc.metadata_call_credentials",
        ),
        "CallCredentials": (
            lambda: grpc.access_token_call_credentials(m.TOKEN),
            "auth: grpc.CallCredentials cannot be opened; pass them as credentials=",
        ),
        "an interceptor of ours": (lambda: grpc_bearer.interceptor(m.TOKEN), "auth: "),
        "ChannelCredentials": (grpc.ssl_channel_credentials, "auth: cannot make a token source of ChannelCredentials"),
        "None": (lambda: None, "auth: cannot make a token source of NoneType"),
        "a number": (lambda: 7, "auth: cannot make a token source of int"),
        "bytes": (lambda: m.TOKEN.encode(), "auth: cannot make a token source of bytes"),
        "a mapping": (lambda: dict(m.BEAR), "auth: cannot make a token source of dict"),
        "a class": (lambda: BearerAuth, "auth: cannot make a token source of"),
        "a Token": (lambda: grpc_bearer.Token(m.TOKEN), "auth: cannot make a token source of Token"),
        "a coroutine": (lambda: _fetch(), "auth: a coroutine|pass the function itself: _fetch, not _fetch()"),
        "a header line": (lambda: f"Bearer {m.TOKEN}", "token: begins with 'Bearer '"),
    }
    for way, open_ in _WAYS.items():
        for state, (auth, words) in wrong.items():
            yield build(
                f"{way}: auth is {state}",
                ConfigurationError,
                words,
                lambda stage, open_=open_, auth=auth: open_(auth()),
            )
    yield build(
        "BearerAuth: of a BearerAuth",
        ConfigurationError,
        "source: this is a BearerAuth already; pass it as auth=",
        lambda stage: BearerAuth(BearerAuth(m.TOKEN)),
    )


def others() -> Iterator[Row]:
    """The other arguments of each way to attach."""
    for way in _RETRYING:
        yield build(
            f"{way}: retry is a number",
            ConfigurationError,
            "retry: expected a RetryPolicy or None, got int; for 4 attempts|stop=tenacity.stop_after_attempt(4)",
            lambda stage, way=way: _WAYS[way](m.TOKEN, retry=4),
        )
        for state, retry in {"true": True, "a class": RetryPolicy, "a str": m.HIDDEN}.items():
            yield build(
                f"{way}: retry is {state}",
                ConfigurationError,
                "retry: expected a RetryPolicy or None",
                lambda stage, way=way, retry=retry: _WAYS[way](m.TOKEN, retry=retry),
            )
    hollow = grpc.experimental.insecure_channel_credentials
    for way in ("secure_channel", "aio.secure_channel"):
        for state, attach in {"unknown": "header", "None": None, "a number": 7, "a list": ["auto"]}.items():
            yield build(
                f"{way}: attach is {state}",
                ConfigurationError,
                "attach: expected 'auto', 'metadata' or 'call_credentials'",
                lambda stage, way=way, attach=attach: _WAYS[way](m.TOKEN, attach=attach),
            )
        yield build(
            f"{way}: retry with attach='call_credentials'",
            ConfigurationError,
            "retry: expected a RetryPolicy or None",
            lambda stage, way=way: _WAYS[way](m.TOKEN, attach="call_credentials", retry=3),
        )
        credentials: dict[str, Callable[[], Any]] = {
            "the token": lambda: m.TOKEN,
            "CallCredentials": lambda: grpc.access_token_call_credentials(m.TOKEN),
            "a BearerAuth": lambda: BearerAuth(m.TOKEN),
            "bytes": lambda: m.CERTIFICATE.encode(),
        }
        for state, given in credentials.items():
            yield build(
                f"{way}: credentials are {state}",
                ConfigurationError,
                "credentials: expected grpc.ChannelCredentials|the token goes to auth=",
                lambda stage, way=way, given=given: _WAYS[way](m.TOKEN, credentials=given()),
            )
        yield build(
            f"{way}: insecure credentials",
            InsecureChannelError,
            "credentials: |in the clear",
            lambda stage, way=way: _WAYS[way](m.TOKEN, credentials=hollow()),
        )
    for way in ("secure_channel", "insecure_channel", "aio.secure_channel", "aio.insecure_channel"):
        for target, says in _NO_TARGETS.items():
            shown = repr(target).replace(m.HIDDEN, "a password") if isinstance(target, str) else type(target).__name__
            yield build(
                f"{way}: the target is {shown}",
                ConfigurationError,
                says,
                lambda stage, way=way, target=target: _WAYS[way](m.TOKEN, target=target),
            )
    for way in ("insecure_channel", "aio.insecure_channel"):
        yield build(
            f"{way}: plaintext that nobody asked for",
            InsecureChannelError,
            "in the clear|allow_plaintext=True",
            lambda stage, way=way: _WAYS[way](m.TOKEN, allow_plaintext=False),
        )
    yield build(
        "channel_credentials: credentials are the token",
        ConfigurationError,
        "credentials: expected grpc.ChannelCredentials, got str",
        lambda stage: grpc_bearer.channel_credentials(m.TOKEN, m.TOKEN),
    )
    yield build(
        "channel_credentials: insecure credentials",
        InsecureChannelError,
        "credentials: |in the clear",
        lambda stage: grpc_bearer.channel_credentials(m.TOKEN, hollow()),
    )
    yield build(
        "intercept_channel: an asyncio channel",
        ConfigurationError,
        "channel: expected a grpc.Channel, got grpc.aio._channel.Channel|grpc_bearer.aio.intercept_channel",
        lambda stage: _aio(lambda: grpc_bearer.intercept_channel(_plain_aio(), m.TOKEN)),
    )
    yield build(
        "aio.intercept_channel: a sync channel",
        ConfigurationError,
        "channel: expected a grpc.aio.Channel, got grpc._channel.Channel|grpc_bearer.intercept_channel",
        lambda stage: _aio(lambda: grpc_bearer.aio.intercept_channel(_plain(), m.TOKEN)),
    )
    for state, value in {"a str": m.TOKEN, "None": None, "a stub": object()}.items():
        yield build(
            f"intercept_channel: the channel is {state}",
            ConfigurationError,
            "channel: expected a grpc.Channel",
            lambda stage, value=value: grpc_bearer.intercept_channel(value, m.TOKEN),
        )
        yield build(
            f"aio.intercept_channel: the channel is {state}",
            ConfigurationError,
            "channel: expected a grpc.aio.Channel",
            lambda stage, value=value: grpc_bearer.aio.intercept_channel(value, m.TOKEN),
        )
    stubs: dict[str, Callable[[], Any]] = {
        "a str": lambda: m.TOKEN,
        "None": lambda: None,
        "a class": lambda: ProbeStub,
    }
    yield build(
        "wrap_stub: the stub is a channel",
        ConfigurationError,
        "stub: no gRPC method found in grpc._channel.Channel; expected a generated stub; |intercept_channel",
        lambda stage: grpc_bearer.wrap_stub(_plain(), m.TOKEN),
    )
    for state, stub in stubs.items():
        yield build(
            f"wrap_stub: the stub is {state}",
            ConfigurationError,
            "stub: no gRPC method found",
            lambda stage, stub=stub: grpc_bearer.wrap_stub(stub(), m.TOKEN),
        )


def policies() -> Iterator[Row]:
    code = grpc.StatusCode.UNAUTHENTICATED
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "stop is a number": ({"stop": 3}, "stop: expected a callable"),
        "wait is a number": ({"wait": 1.5}, "wait: expected a callable"),
        "retry_if is a code": ({"retry_if": code}, "retry_if: expected a callable"),
        "codes is a str": ({"codes": "UNAUTHENTICATED"}, "codes: expected a collection of StatusCode"),
        "codes holds numbers": ({"codes": [16]}, "codes: expected a collection of StatusCode"),
        "codes is a number": ({"codes": 16}, "codes: expected a collection of StatusCode"),
        "codes is None": ({"codes": None}, "codes: expected a collection of StatusCode"),
        "exclude is a str": ({"exclude": "pkg.Service/*"}, "exclude: expected a collection of str"),
        "exclude holds a number": ({"exclude": [7]}, "exclude: expected a collection of str"),
        "exclude is a number": ({"exclude": 7}, "exclude: expected a collection of str"),
        "replay_messages is below zero": ({"replay_messages": -1}, "replay_messages: expected a whole number"),
        "replay_messages is a fraction": ({"replay_messages": 1.5}, "replay_messages: expected a whole number"),
        "replay_messages is None": ({"replay_messages": None}, "replay_messages: expected a whole number"),
        "replay_messages is true": ({"replay_messages": True}, "replay_messages: expected a whole number"),
        "replay_bytes is below zero": ({"replay_bytes": -1}, "replay_bytes: expected a whole number"),
        "replay_bytes is text": ({"replay_bytes": "4M"}, "replay_bytes: expected a whole number"),
        "replay_bytes is true": ({"replay_bytes": True}, "replay_bytes: expected a whole number"),
    }
    for state, (how, words) in wrong.items():
        yield build(f"RetryPolicy: {state}", ConfigurationError, words, lambda stage, how=how: RetryPolicy(**how))
    for state, auth in {"a str": m.TOKEN, "None": None}.items():
        yield build(
            f"RetryPolicy.attempts: auth is {state}",
            ConfigurationError,
            "auth: expected a BearerAuth",
            lambda stage, auth=auth: RetryPolicy().attempts(auth),
        )


def calls() -> Iterator[Row]:
    """What nobody can know before a call is made."""

    def call(
        name: str, says: str, do: Callable[[Stage], Any], code: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED
    ) -> Row:
        return Row(name, "call", TokenRejectedError, tuple(says.split("|")), do, code)

    yield call(
        "bitbroker: no route for the call",
        "no route for grpc_bearer.testing.v1.Probe/|pkg.*",
        lambda stage: profiles.bitbroker(consumer=m.TOKEN, routes={"pkg.*": "consumer"}),
    )
    yield call(
        "a token that the server does not know",
        "the server refused the token (UNAUTHENTICATED)|opaque",
        lambda stage: profiles.crm(m.LONG_TOKEN[:60]),
    )
    yield call(
        "a JWT for another audience",
        "the server refused the token|another audience than 'another-service'",
        lambda stage: profiles.crm(m.FOREIGN_JWT),
    )
    yield call(
        "a JWT that had expired", "the server refused the token|it expired", lambda stage: profiles.crm(m.EXPIRED_JWT)
    )
    yield call(
        "a token in the wrong header",
        "the server refused the token",
        lambda stage: BearerAuth(m.TOKEN, header="x-token"),
    )
    yield call(
        "a token without its scheme", "the server refused the token", lambda stage: BearerAuth(m.TOKEN, scheme="")
    )
    yield call(
        "a signed token that the server cannot check",
        "the server refused the token",
        lambda stage: JWTSource(m.P256, lifetime=60, claims={"x": m.HIDDEN}),
    )
    yield call(
        "a single-use token that the server cannot check",
        "the server refused the token",
        lambda stage: profiles.openfx(m.OPENFX),
    )
    yield call("an auth that is closed", "the auth is closed; make a new one", _closed)
    yield Row(
        "a token over the server's limit",
        "call",
        None,
        ("received metadata size exceeds", "16384"),
        _oversized,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )


def _closed(stage: Stage) -> BearerAuth:
    auth = BearerAuth(m.TOKEN)
    auth.close()
    return auth


def _oversized(stage: Stage) -> BearerAuth:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return BearerAuth(m.LONG_TOKEN)


ROWS = [*auths(), *others(), *policies(), *calls()]
