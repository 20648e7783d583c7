"""The caller is the caller, on every thread: the token, the interceptors' view and the observers' view of each call.

Three tenants call at once, each with a context variable of its own; what arrived says whose each attempt was.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from attachments import AIO_KINDS, FOUR, PATIENCE, SYNC_KINDS, TLS
from grpc import aio
from interceptors import aio_interceptors, sync_interceptor, with_metadata

import grpc_bearer
from grpc_bearer import BearerAuth, CallableSource, CallContext
from grpc_bearer.testing import OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
NAMES = ("ada", "bob", "cyd")
OTHER = "other"  # whose call is in flight while theirs are made again
EVERYBODY = "everybody"  # the name in a token that all share

# How long a fetch waits for the other callers, in seconds. One that never asks fails the test by what arrives.
ALL_WAIT = 2.0


# ------------------------------------------------------------------------------------------------------------- tokens


class Tokens:
    """A source's function and key: `ada.0`, then `ada.1`; each fetch waits until all callers have asked for a token."""

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._asking: set[str] = set()
        self._changed = threading.Condition()
        self.fetched: Counter[str] = Counter()
        self.together = False  # let a fetch wait for all

    def source(self) -> CallableSource:
        return CallableSource(self._fetch, key=self._key)

    def all_ask(self) -> None:
        """From now on a fetch waits until all have asked anew."""
        with self._changed:
            self._asking.clear()
            self.together = True

    def _key(self, context: CallContext) -> str:
        with self._changed:
            self._asking.add(tenant.get("nobody"))
            self._changed.notify_all()
        return EVERYBODY if self._shared else tenant.get("nobody")

    def _fetch(self) -> str:
        name = EVERYBODY if self._shared else tenant.get("nobody")
        with self._changed:
            if self.together:
                self._changed.wait_for(lambda: self._asking >= set(NAMES), ALL_WAIT)
            number = self.fetched[name]
            self.fetched[name] += 1
        return f"{name}.{number}"


ALL_TOKENS = [f"{name}.{number}" for name in (*NAMES, OTHER, EVERYBODY, "nobody") for number in range(9)]


# --------------------------------------------------------------------------------------------------- ways of attaching


def _tag(kind: str, continuation: Any, details: Any, request: Any) -> Any:
    return continuation(with_metadata(details, ("x-tenant", tenant.get("nobody"))), request)


async def _atag(kind: str, continuation: Any, details: Any, request: Any) -> Any:
    return await continuation(with_metadata(details, ("x-tenant", tenant.get("nobody"))), request)


@dataclass(frozen=True)
class Way:
    """A way of attaching.

    Args:
        channel: made of the server and the auth; over TLS, unless `clear`.
        wraps: it is plain, and the stub is wrapped.
        tagged: a user's interceptor adds the tenant that it sees.
        observed: the auth has an observer.
        streams: request streams are made again too.
    """

    channel: Callable[[ProbeServer, BearerAuth], Any]
    wraps: bool = False
    tagged: bool = True
    observed: bool = True
    streams: bool = True
    clear: bool = False


def _mine() -> Any:
    return sync_interceptor(_tag)


def _plain(server: ProbeServer, *interceptors: Any) -> grpc.Channel:
    return grpc.intercept_channel(server.channel(), *interceptors)


def _ours(server: ProbeServer, auth: BearerAuth, *interceptors: Any) -> grpc.Channel:
    channel = grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth)
    return grpc.intercept_channel(channel, *interceptors)


def _ours_clear(server: ProbeServer, auth: BearerAuth, *interceptors: Any) -> grpc.Channel:
    channel = grpc_bearer.insecure_channel(server.target, auth=auth, allow_plaintext=True)
    return grpc.intercept_channel(channel, *interceptors)


BARE = {"tagged": False, "observed": False}
around, bearer = grpc_bearer.intercept_channel, grpc_bearer.interceptor
SYNC_WAYS = {
    "secure_channel": Way(_ours, **BARE),
    "secure_channel, observed": Way(_ours, tagged=False),
    "secure_channel, tagged above": Way(lambda s, a: _ours(s, a, _mine())),
    "intercept_channel": Way(lambda s, a: around(_plain(s), a), **BARE),
    "intercept_channel, tagged below": Way(lambda s, a: around(_plain(s, _mine()), a)),
    "wrap_stub, tagged below": Way(lambda s, a: _plain(s, _mine()), wraps=True, streams=False),
    "interceptor": Way(lambda s, a: _plain(s, bearer(a)), streams=False, **BARE),
    "interceptor, tagged above": Way(lambda s, a: _plain(s, _mine(), bearer(a)), streams=False),
    "interceptor, tagged below": Way(lambda s, a: _plain(s, bearer(a), _mine()), streams=False),
    "insecure_channel": Way(_ours_clear, clear=True, **BARE),
    "insecure_channel, tagged above": Way(lambda s, a: _ours_clear(s, a, _mine()), clear=True),
    "intercept_channel in the clear, tagged below": Way(
        lambda s, a: around(_plain(s, _mine()), a, allow_plaintext=True), clear=True
    ),
    "interceptor in the clear, tagged below": Way(
        lambda s, a: _plain(s, bearer(a, allow_plaintext=True), _mine()), clear=True, streams=False
    ),
}


def _amine() -> list[Any]:
    return aio_interceptors(_atag)


def _aplain(server: ProbeServer, *interceptors: Any) -> aio.Channel:
    credentials = server.channel_credentials()
    if credentials is None:
        return aio.insecure_channel(server.target, interceptors=interceptors)
    return aio.secure_channel(server.target, credentials, interceptors=interceptors)


def _aours(server: ProbeServer, auth: BearerAuth, *interceptors: Any) -> aio.Channel:
    credentials = server.channel_credentials()
    return grpc_bearer.aio.secure_channel(server.target, credentials, interceptors=interceptors, auth=auth)


def _aours_clear(server: ProbeServer, auth: BearerAuth, *interceptors: Any) -> aio.Channel:
    return grpc_bearer.aio.insecure_channel(server.target, interceptors=interceptors, auth=auth, allow_plaintext=True)


aaround, bearers = grpc_bearer.aio.intercept_channel, grpc_bearer.aio.interceptors
AIO_WAYS = {
    "aio.secure_channel": Way(_aours, **BARE),
    "aio.secure_channel, tagged": Way(lambda s, a: _aours(s, a, *_amine())),
    "aio.intercept_channel": Way(lambda s, a: aaround(_aplain(s), a), **BARE),
    "aio.intercept_channel, tagged below": Way(lambda s, a: aaround(_aplain(s, *_amine()), a)),
    "aio.wrap_stub, tagged below": Way(lambda s, a: _aplain(s, *_amine()), wraps=True, streams=False),
    "aio.interceptors": Way(lambda s, a: _aplain(s, *bearers(a)), streams=False, **BARE),
    "aio.interceptors, tagged above": Way(lambda s, a: _aplain(s, *_amine(), *bearers(a)), streams=False),
    "aio.interceptors, tagged below": Way(lambda s, a: _aplain(s, *bearers(a), *_amine()), streams=False),
    "aio.insecure_channel": Way(_aours_clear, clear=True, **BARE),
    "aio.insecure_channel, tagged": Way(lambda s, a: _aours_clear(s, a, *_amine()), clear=True),
    "aio.intercept_channel in the clear, tagged below": Way(
        lambda s, a: aaround(_aplain(s, *_amine()), a, allow_plaintext=True), clear=True
    ),
    "aio.interceptors in the clear, tagged below": Way(
        lambda s, a: _aplain(s, *bearers(a, allow_plaintext=True), *_amine()), clear=True, streams=False
    ),
}

# ------------------------------------------------------------------------------------------------------------- callers


def _how(name: str) -> dict[str, Any]:
    return {"timeout": PATIENCE, "metadata": (("x-caller", name),)}


def _call(stub: Any, kind: str, name: str) -> Any:
    tenant.set(name)
    try:
        SYNC_KINDS[kind](stub, **_how(name))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def by_each(stub: Any, kind: str) -> dict[str, Any]:
    """A call by each, at once, on threads of their own; how each ended."""
    ends: dict[str, Future[Any]] = {name: Future() for name in NAMES}

    def run(name: str) -> None:
        try:
            ends[name].set_result(contextvars.Context().run(_call, stub, kind, name))
        except BaseException as error:  # for the test's own thread
            ends[name].set_exception(error)

    for name in NAMES:
        threading.Thread(target=run, args=(name,), daemon=True).start()
    return {name: end.result(PATIENCE) for name, end in ends.items()}


async def _acall(stub: Any, kind: str, name: str) -> Any:
    tenant.set(name)
    try:
        await asyncio.wait_for(AIO_KINDS[kind](stub, **_how(name)), PATIENCE)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def aby_each(stub: Any, kind: str) -> dict[str, Any]:
    ends = await asyncio.gather(*(_acall(stub, kind, name) for name in NAMES))
    return dict(zip(NAMES, ends, strict=True))


@contextlib.contextmanager
def in_flight(stub: Any, server: ProbeServer) -> Iterator[None]:
    """Another caller's call that lasts: with it began gRPC's thread that serves the calls of the channel."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    requests.put(ProbeRequest())
    context = contextvars.Context()
    context.run(tenant.set, OTHER)
    call = context.run(lambda: stub.BidiStream(iter(requests.get, None), **_how(OTHER)))
    next(call)
    yield
    requests.put(None)
    assert list(call) == []


@contextlib.asynccontextmanager
async def ain_flight(stub: Any) -> Any:
    over = asyncio.Event()

    async def requests() -> Any:
        yield ProbeRequest()
        await over.wait()

    async def last() -> None:
        tenant.set(OTHER)
        call = stub.BidiStream(requests(), **_how(OTHER))
        await call.read()
        begun.set()
        assert await call.read() is aio.EOF

    begun = asyncio.Event()
    task = asyncio.create_task(last())
    await asyncio.wait_for(begun.wait(), PATIENCE)
    yield
    over.set()
    await asyncio.wait_for(task, PATIENCE)


# -------------------------------------------------------------------------------------------------------------- servers


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[bool, ProbeServer]]:
    with ProbeServer(None, TLS) as secure, ProbeServer(credentials="insecure") as clear:
        yield {False: secure, True: clear}


COLD, SHARED, WARM, REFUSED, BESIDE = "cold", "cold, one token for all", "warm", "refused", "refused beside a call"
STATES = (COLD, SHARED, WARM, REFUSED, BESIDE)


class Scene:
    """One way, one kind of call, one state; what was seen of it."""

    def __init__(self, way: Way, kind: str, state: str, server: ProbeServer) -> None:
        self.way, self.kind, self.state, self.server = way, kind, state, server
        self.verifier = OpaqueVerifier(ALL_TOKENS)
        server.verifier = self.verifier
        server.ledger.clear()
        self.heard: list[tuple[str, str]] = []
        self.tokens = Tokens(shared=state == SHARED)
        self.auth = BearerAuth(self.tokens.source(), observers=[self._hear] if way.observed else ())
        self.channel = way.channel(server, self.auth)
        plain = ProbeStub(self.channel)
        self.stub = grpc_bearer.wrap_stub(plain, self.auth) if way.wraps else plain
        self.ready = state in (COLD, SHARED)
        self.refused = state in (REFUSED, BESIDE)
        self.heals = way.streams or kind.split(".")[0] in ("unary", "server_stream")

    def _hear(self, event: Any) -> None:
        self.heard.append((tenant.get("nobody"), type(event).__name__))

    def begin(self) -> None:
        """What was before is over; from here on everything counts."""
        if self.refused:
            self.verifier.revoke(*(f"{name}.0" for name in NAMES))
        self.server.ledger.clear()
        self.heard.clear()
        self.tokens.all_ask()

    def check(self, ends: dict[str, Any]) -> None:
        healed = self.refused and self.heals
        ended = grpc.StatusCode.UNAUTHENTICATED if self.refused and not healed else grpc.StatusCode.OK
        assert ends == dict.fromkeys(NAMES, ended)
        assert sorted(self._arrived()) == sorted(self._expected(healed))
        if self.way.observed:
            retried = sorted(name for name, event in self.heard if event == "CallRetried")
            assert retried == (list(NAMES) if healed else [])
            assert {name for name, _ in self.heard} <= set(NAMES)
        assert self.tokens.fetched["nobody"] == 0

    def _arrived(self) -> list[tuple[Any, ...]]:
        found = [(dict(attempt.metadata), attempt) for attempt in self.server.ledger]
        return [
            (metadata["x-caller"], metadata.get("x-tenant", ""), attempt.token, attempt.accepted)
            for metadata, attempt in found
            if metadata["x-caller"] != OTHER
        ]

    def _expected(self, healed: bool) -> Iterator[tuple[Any, ...]]:
        for name in NAMES:
            seen = name if self.way.tagged else ""
            yield name, seen, f"{EVERYBODY if self.state == SHARED else name}.0", not self.refused
            if healed:
                yield name, seen, f"{name}.1", True


class TestTheCallerIsTheCaller:
    """Every way of attaching, every kind of call, every state of the token."""

    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("kind", SYNC_KINDS)
    @pytest.mark.parametrize("way", SYNC_WAYS)
    def test_trap_11_in_sync(self, way: str, kind: str, state: str, servers: dict[bool, ProbeServer]) -> None:
        scene = Scene(SYNC_WAYS[way], kind, state, servers[SYNC_WAYS[way].clear])
        stub = scene.stub
        for _ in range(0 if scene.ready else 2):
            by_each(stub, "unary")
        with in_flight(stub, scene.server) if state == BESIDE else contextlib.nullcontext():
            scene.begin()
            ends = by_each(stub, kind)
        scene.channel.close()

        scene.check(ends)

    @pytest.mark.parametrize("state", STATES)
    @pytest.mark.parametrize("kind", FOUR)
    @pytest.mark.parametrize("way", AIO_WAYS)
    def test_trap_11_in_asyncio(self, way: str, kind: str, state: str, servers: dict[bool, ProbeServer]) -> None:
        async def main() -> None:
            scene = Scene(AIO_WAYS[way], kind, state, servers[AIO_WAYS[way].clear])
            for _ in range(0 if scene.ready else 2):
                await aby_each(scene.stub, "unary")
            async with ain_flight(scene.stub) if state == BESIDE else contextlib.nullcontext():
                scene.begin()
                ends = await aby_each(scene.stub, kind)
            await scene.channel.close()
            scene.check(ends)

        asyncio.run(main())
