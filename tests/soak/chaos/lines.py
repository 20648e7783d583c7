"""Our auths, and the ways to attach through which each is used; all with the retry that users get by default."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from google.auth.credentials import Credentials

import grpc_bearer
from chaos import kinds
from chaos.world import HOUR, OPENFX, SteppingClock, World
from grpc_bearer import (
    BearerAuth,
    CallableSource,
    ClientCredentialsSource,
    FileSource,
    GoogleAuthSource,
    HTTPTokenSource,
    RetryPolicy,
    profiles,
)
from grpc_bearer.testing import ProbeStub, private_pem

#: The auths that take their token from Bear's endpoint, and so have an API key there.
BEAR = ("bear-a", "bear-b", "bear-short", "bear-clock", "bear-async", "bear-google", "bear-fork", "midway")
REVOCABLE = (*BEAR[:-1], "oauth", "skykit")
KEYED = ("bear-a", "bear-b", "oauth")
CLOCKED = ("bear-clock", "skykit")
#: gRPC's first wait before it connects again is a second; servers here are back sooner.
_RECONNECT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 5000),  # which is how long one attempt may take
    ("grpc.max_reconnect_backoff_ms", 400),
)
# Core's own transparent retry after a GOAWAY loses messages of request streams (20 of 30 streams, without any of us).
STREAMING = (*_RECONNECT, ("grpc.enable_retries", 0))
_RETRY_POLICY = {
    "maxAttempts": 4,
    "initialBackoff": "0.01s",
    "maxBackoff": "0.05s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
RETRYING = (
    *_RECONNECT,
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": _RETRY_POLICY}]})),
)


@dataclass(frozen=True)
class Line:
    """One way to make calls: a stub behind a way to attach.

    Args:
        who: `ours`, or the name of a control.
        auth: the name of the auth.
        site: the server that it leads to.
        way to attach: how the token gets onto the call.
        stub: to call through.
        kinds: of call that go through it.
        attempts: makes the attempts of a call whose way to attach has no retry of its own; for those kinds.
    """

    who: str
    auth: str
    site: str
    way: str
    stub: Any
    kinds: tuple[str, ...]
    attempts: Callable[[float], Any] | None = None
    by_attempts: frozenset[str] = frozenset()
    long: bool = False

    def knows_patience(self, kind: str) -> bool:
        """Whether we are told of a call's `wait_for_ready`: core does not tell its plugins, nor a loop its blocks."""
        return kind not in self.by_attempts


@dataclass(frozen=True)
class Member:
    name: str
    auth: BearerAuth
    site: str


class KeyedCredentials(Credentials):
    """google-auth credentials that ask Bear's endpoint, as somebody would write them."""

    def __init__(self, url: str, key: dict[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._url = url
        self._key = key

    def refresh(self, request: Any) -> None:
        from google.auth.exceptions import RefreshError

        body, headers = json.dumps(self._key).encode(), {"content-type": "application/json"}
        answer = request(url=self._url, method="POST", body=body, headers=headers)
        if answer.status != 200:
            passing = answer.status >= 500 or answer.status == 429
            raise RefreshError(f"status {answer.status}", retryable=passing)  # type: ignore[no-untyped-call]
        self.token = answer.data.decode()


def _asking(world: World, key: dict[str, str]) -> CallableSource:
    context = ssl.create_default_context(cadata=world.ca.pem.decode())
    request = urllib.request.Request(
        world.bear_url, json.dumps(key).encode(), {"content-type": "application/json"}, method="POST"
    )

    def ask() -> str:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return str(answer.read().decode())

    async def token() -> str:
        return await asyncio.to_thread(ask)

    return CallableSource(token)


def members(world: World, clocks: dict[str, SteppingClock]) -> list[Member]:
    key = {name: tenant.keys[0] for name, tenant in world.tenants.items()}
    files = {name: file.path for name, file in world.files.items()}

    def http(name: str) -> HTTPTokenSource:
        return HTTPTokenSource(world.bear_url, json=key[name], ca=world.ca_file)

    def bear(name: str) -> BearerAuth:
        return profiles.bear(world.tenants[name].path, url=world.bear_url, ca=world.ca_file)

    oauth = ClientCredentialsSource(world.oauth.url, "oauth", world.oauth.path, ca=world.ca_file)
    openfx = {"name": OPENFX["ours"], "privateKey": private_pem(world.openfx_key)}
    return [
        Member("bear-a", bear("bear-a"), "bear"),
        Member("bear-b", bear("bear-b"), "bear"),
        Member("bear-short", BearerAuth(http("bear-short")), "bear"),
        Member("bear-clock", BearerAuth(http("bear-clock"), clock=clocks["bear-clock"]), "bear"),
        Member("bear-async", BearerAuth(_asking(world, key["bear-async"])), "bear"),
        Member(
            "bear-google", BearerAuth(GoogleAuthSource(KeyedCredentials(world.bear_url, key["bear-google"]))), "bear"
        ),
        Member("oauth", BearerAuth(oauth), "bear"),
        Member("skykit", _skykit(world, clocks["skykit"]), "skykit"),
        Member("openfx", profiles.openfx(openfx), "openfx"),
        Member("crm-raw", BearerAuth(FileSource(files["crm-raw"], poll=0.5)), "opaque"),
        Member("crm-link", BearerAuth(FileSource(files["crm-link"], poll=0.5)), "opaque"),
        Member("crm-json", BearerAuth(FileSource(files["crm-json"], json_field="data.token", poll=0.5)), "opaque"),
        Member("midway", bear("midway"), "midway"),
    ]


def _skykit(world: World, clock: SteppingClock) -> BearerAuth:
    return profiles.skykit(private_pem(world.skykit_key), "me@example.com", lifetime=HOUR, clock=clock)


# --------------------------------------------------------------------------------------------------------------- ways

UNARY = tuple(kind for kind in kinds.SYNC if not kind.startswith(("client", "bidi")))
AIO_UNARY = tuple(kind for kind in kinds.AIO if not kind.startswith(("client", "bidi")))


class WithCredentials:
    """A stub whose calls all pass `credentials=`."""

    def __init__(self, inner: Any, credentials: grpc.CallCredentials) -> None:
        self._inner, self._credentials = inner, credentials

    def __getattr__(self, name: str) -> Any:
        return WithCredentials(getattr(self._inner, name), self._credentials)

    def __call__(self, *args: Any, **how: Any) -> Any:
        return self._inner(*args, credentials=self._credentials, **how)


def _sync_ways(target: str, tls: grpc.ChannelCredentials, auth: BearerAuth) -> dict[str, Callable[[], Any]]:
    def plain() -> grpc.Channel:
        return grpc.secure_channel(target, tls, STREAMING)

    return {
        "intercept_channel": lambda: grpc_bearer.intercept_channel(plain(), auth),
        "wrap_stub": lambda: grpc_bearer.wrap_stub(ProbeStub(plain()), auth),
        "interceptor": lambda: grpc.intercept_channel(plain(), grpc_bearer.interceptor(auth)),
        "channel_credentials": lambda: grpc.secure_channel(
            target, grpc_bearer.channel_credentials(auth, tls), STREAMING
        ),
        "call_credentials": lambda: WithCredentials(ProbeStub(plain()), grpc_bearer.call_credentials(auth)),
        "attach=call_credentials": lambda: grpc_bearer.secure_channel(
            target, tls, STREAMING, auth=auth, attach="call_credentials"
        ),
    }


def _aio_ways(target: str, tls: grpc.ChannelCredentials, auth: BearerAuth) -> dict[str, Callable[[], Any]]:
    def plain(**how: Any) -> Any:
        return grpc.aio.secure_channel(target, tls, STREAMING, **how)

    return {
        "intercept_channel": lambda: grpc_bearer.aio.intercept_channel(plain(), auth),
        "wrap_stub": lambda: grpc_bearer.wrap_stub(ProbeStub(plain()), auth),
        "interceptor": lambda: plain(interceptors=grpc_bearer.aio.interceptors(auth)),
        "channel_credentials": lambda: grpc.aio.secure_channel(
            target, grpc_bearer.channel_credentials(auth, tls), STREAMING
        ),
        "call_credentials": lambda: WithCredentials(ProbeStub(plain()), grpc_bearer.call_credentials(auth)),
        "attach=call_credentials": lambda: grpc_bearer.aio.secure_channel(
            target, tls, STREAMING, auth=auth, attach="call_credentials"
        ),
    }


def _by_attempts(way: str, all_kinds: tuple[str, ...]) -> frozenset[str]:
    """What a way to attach leaves to the user: all retrying, or that of request streams."""
    if "credentials" in way:
        return frozenset(all_kinds)
    if way in ("wrap_stub", "interceptor"):
        return frozenset(kind for kind in all_kinds if kind.startswith(("client", "bidi")))
    return frozenset()


def lines(world: World, everybody: list[Member], *, asynchronous: bool, turn: int = 0) -> Iterator[Line]:
    """For each auth our own channel, two more ways (`turn` says which), and the way through a proxy, if any."""
    package: Any = grpc_bearer.aio if asynchronous else grpc_bearer
    all_kinds, unary = (tuple(kinds.AIO), AIO_UNARY) if asynchronous else (tuple(kinds.SYNC), UNARY)
    tls = world.credentials()
    turns = itertools.count(turn)
    for member in everybody:
        target = world.servers[member.site].target

        def attempts(left: float, auth: BearerAuth = member.auth) -> Any:
            return RetryPolicy().attempts(auth, timeout=left)

        def line(way: str, made: Any, which: tuple[str, ...] = all_kinds, **more: Any) -> Line:
            stub = made if hasattr(made, "Unary") else ProbeStub(made)
            by = _by_attempts(way, which)
            return Line("ours", member.name, member.site, way, stub, which, attempts, by, **more)  # noqa: B023

        def ours(attach: str = "auto") -> Any:
            return package.secure_channel(target, tls, STREAMING, auth=member.auth, attach=attach)  # noqa: B023

        yield line("secure_channel", ours())
        if member.site == "midway":
            yield line("secure_channel", ours(), ("client stream",), long=True)
            continue
        ways = list((_aio_ways if asynchronous else _sync_ways)(target, tls, member.auth).items())
        for _ in range(2):
            name, make = ways[next(turns) % len(ways)]
            # Of a refused request stream grpc.aio may tell INTERNAL (grpc/grpc#36066): where core alone makes the call
            # nobody can tell it from any other.
            yield line(name, make(), unary if asynchronous and "credentials" in name else all_kinds)
        if member.site == "openfx":
            yield line("attach=metadata", ours("metadata"))
        if member.site in world.proxies:
            proxied = package.secure_channel(world.proxies[member.site].target, tls, RETRYING, auth=member.auth)
            yield line("secure_channel", proxied, unary)


@contextlib.contextmanager
def closing(everybody: list[Member]) -> Iterator[None]:
    try:
        yield
    finally:
        for member in everybody:
            member.auth.close()
