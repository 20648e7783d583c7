"""Interceptors of the user's, above ours and below: as on a plain channel, and never with a token in sight.

Each is played on a plain channel first, against a server that wants no token; with ours in between the same must come
out, call after call, and a token that is revoked must heal wherever the interceptor lets a call end.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from doors import AIO_KINDS, PATIENCE, SYNC_KINDS, TLS
from grpc import aio
from interceptors import Does, aio_interceptors, sync_interceptor

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer.testing import OpaqueVerifier, ProbeReply, ProbeRequest, ProbeServer, ProbeStub

TOKEN = "secret-token"
TOKENS = [f"{TOKEN}.{number}" for number in range(9)]
ANSWER = ProbeReply(index=7, count=7)

# ----------------------------------------------------------------------------------------- what interceptors may do


class Mine(Exception):
    """What a user's interceptor raises."""


class Seen:
    """What an interceptor saw: requests by type and field, and all that it could have logged."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.logged: list[str] = []

    def _one(self, request: Any) -> Any:
        self.requests.append((type(request).__name__, request.index))
        self.logged.append(repr(request))
        return request

    def take(
        self, kind: str, details: Any, request: Any, change: Callable[[Any], Any] = lambda request: request
    ) -> Any:
        """Log the call, read its request or, as they are pulled, its requests; give them on, changed."""
        self.logged.append(repr(details))
        if kind.startswith("unary"):
            return change(self._one(request))
        if hasattr(request, "__aiter__"):
            return self._later(request, change)
        return (change(self._one(each)) for each in request)

    async def _later(self, requests: AsyncIterator[Any], change: Callable[[Any], Any]) -> AsyncIterator[Any]:
        async for each in requests:
            yield change(self._one(each))


def _another(request: Any) -> ProbeRequest:
    return ProbeRequest(index=request.index + 100, replies=request.replies)


class Answered(grpc.Call, grpc.Future):  # type: ignore[type-arg,misc]
    """An outcome that no server has sent."""

    def result(self, timeout: float | None = None) -> Any:
        return ANSWER

    def add_done_callback(self, fn: Any) -> None:
        fn(self)

    code = lambda self: grpc.StatusCode.OK  # noqa: E731
    done = lambda self: True  # noqa: E731
    details = lambda self: ""  # noqa: E731
    initial_metadata = trailing_metadata = lambda self: ()
    exception = traceback = lambda self, timeout=None: None
    cancel = cancelled = running = is_active = time_remaining = lambda self: None
    add_callback = lambda self, callback: False  # noqa: E731


def reads(seen: Seen) -> Does:
    return lambda kind, continuation, details, request: continuation(details, seen.take(kind, details, request))


def replaces(seen: Seen) -> Does:
    return lambda kind, continuation, details, request: continuation(
        details, seen.take(kind, details, request, _another)
    )


def raises(seen: Seen) -> Does:
    def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        seen.take(kind, details, request)
        raise Mine("not today")

    return does


def answers(seen: Seen) -> Does:
    def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        seen.take(kind, details, request)
        return (ANSWER for _ in range(2)) if kind.endswith("stream") else Answered()

    return does


def waits(seen: Seen) -> Does:
    """For its result, and then gives the call on."""

    def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, seen.take(kind, details, request))
        _ = call.initial_metadata() if kind.endswith("stream") else call.result()
        return call

    return does


def generates(seen: Seen) -> Does:
    """Gives a generator in place of a stream, as OpenTelemetry does."""

    def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, seen.take(kind, details, request))
        return (reply for reply in call) if kind.endswith("stream") else call

    return does


def _coroutine(make: Callable[[Seen], Does]) -> Callable[[Seen], Does]:
    """The same for asyncio, of those that only wait for their continuation."""

    def made(seen: Seen) -> Does:
        does = make(seen)

        async def adoes(kind: str, continuation: Any, details: Any, request: Any) -> Any:
            return await does(kind, continuation, details, request)

        return adoes

    return made


async def _generated(replies: Any) -> AsyncIterator[Any]:
    async for reply in replies:
        yield reply


def aanswers(seen: Seen) -> Does:
    async def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        seen.take(kind, details, request)
        return ANSWER

    return does


def awaits(seen: Seen) -> Does:
    async def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, seen.take(kind, details, request))
        await (call.initial_metadata() if kind.endswith("stream") else call)
        return call

    return does


def responds(seen: Seen) -> Does:
    """Gives a response in place of a call, as gRPC lets it; for a stream a generator."""

    async def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, seen.take(kind, details, request))
        return _generated(call) if kind.endswith("stream") else await call

    return does


SYNC = {each.__name__: each for each in (reads, replaces, raises, answers, waits, generates)}
AIO = {
    **{name: _coroutine(SYNC[name]) for name in ("reads", "replaces", "raises")},
    "answers": aanswers,
    "awaits": awaits,
    "responds": responds,
}
ENDS_THE_CALL = ("raises", "answers")  # no server is asked
# What grpc.aio itself cannot do: take anything but a call in place of a stream-unary call; take the answer to a stream
# without having gone on; read requests that are written one by one while an interceptor waits for the reply.
NOT_IN_AIO = {
    *(("answers", kind) for kind in AIO_KINDS if kind != "unary"),
    *(("responds", kind) for kind in AIO_KINDS if kind.startswith("client_stream")),
    *(("awaits", kind) for kind in AIO_KINDS if kind.endswith("write")),
}

# ------------------------------------------------------------------------------------------------- where they stand


@dataclass(frozen=True)
class Way:
    """Where ours stands and where the user's; `streams`: request streams are made again too."""

    channel: Callable[[ProbeServer, BearerAuth, Any], Any]
    wraps: bool = False
    streams: bool = True

    def stub(self, channel: Any, auth: BearerAuth) -> Any:
        return grpc_bearer.wrap_stub(ProbeStub(channel), auth) if self.wraps else ProbeStub(channel)


intercepted, bearer = grpc.intercept_channel, grpc_bearer.interceptor
PLAIN = Way(lambda s, a, mine: intercepted(s.channel(), mine))
SYNC_WAYS = {
    "above secure_channel": Way(
        lambda s, a, mine: intercepted(grpc_bearer.secure_channel(s.target, s.channel_credentials(), auth=a), mine)
    ),
    "below intercept_channel": Way(lambda s, a, mine: grpc_bearer.intercept_channel(intercepted(s.channel(), mine), a)),
    "below wrap_stub": Way(PLAIN.channel, wraps=True, streams=False),
    "above interceptor": Way(lambda s, a, mine: intercepted(s.channel(), mine, bearer(a)), streams=False),
    "below interceptor": Way(lambda s, a, mine: intercepted(s.channel(), bearer(a), mine), streams=False),
}


def _aplain(server: ProbeServer, *interceptors: Any) -> aio.Channel:
    return aio.secure_channel(server.target, server.channel_credentials(), interceptors=interceptors)


bearers = grpc_bearer.aio.interceptors
APLAIN = Way(lambda s, a, mine: _aplain(s, *mine))
AIO_WAYS = {
    "in aio.secure_channel": Way(
        lambda s, a, mine: grpc_bearer.aio.secure_channel(s.target, s.channel_credentials(), interceptors=mine, auth=a)
    ),
    "below aio.intercept_channel": Way(lambda s, a, mine: grpc_bearer.aio.intercept_channel(_aplain(s, *mine), a)),
    "below aio.wrap_stub": Way(APLAIN.channel, wraps=True, streams=False),
    "above aio.interceptors": Way(lambda s, a, mine: _aplain(s, *mine, *bearers(a)), streams=False),
    "below aio.interceptors": Way(lambda s, a, mine: _aplain(s, *bearers(a), *mine), streams=False),
}
KINDS = [kind for kind in SYNC_KINDS if "with_call" not in kind]

# ------------------------------------------------------------------------------------------------------------- playing


@pytest.fixture(scope="module")
def secure() -> Iterator[ProbeServer]:
    with ProbeServer(None, TLS) as server:
        yield server


@pytest.fixture
def server(secure: ProbeServer) -> ProbeServer:
    """It wants a token, and knows none as revoked yet."""
    secure.verifier = OpaqueVerifier(TOKENS)
    secure.ledger.clear()
    return secure


@pytest.fixture
def auth() -> Iterator[BearerAuth]:
    numbers = itertools.count()
    with BearerAuth(lambda: f"{TOKEN}.{next(numbers)}") as made:
        yield made


@pytest.fixture(scope="module")
def plainly() -> Iterator[Callable[[str, str], Any]]:
    """What comes of an interceptor on a plain channel: `(outcome of each of three calls, requests that it saw)`."""
    with ProbeServer(None, TLS) as server:

        @functools.cache
        def play_plainly(does: str, kind: str) -> Any:
            ends, seen = play(PLAIN, does, kind, server, BearerAuth("unused"))
            return ends, seen.requests

        @functools.cache
        def aplay_plainly(does: str, kind: str) -> Any:
            ends, seen = aplay(APLAIN, does, kind, server, BearerAuth("unused"))
            return ends, seen.requests

        yield lambda does, kind, asynchronous=False: (aplay_plainly if asynchronous else play_plainly)(does, kind)


def shown(value: Any) -> Any:
    """What is compared of an outcome."""
    if isinstance(value, grpc.RpcError):
        return value.code(), value.details()
    if isinstance(value, Exception):
        return type(value).__name__, str(value)
    if isinstance(value, list):
        return [shown(each) for each in value]
    return value.index, value.count, list(value.indexes)


def play(
    way: Way, does: str, kind: str, server: ProbeServer, auth: BearerAuth, last: Callable[[], Any] = lambda: None
) -> tuple[list[Any], Seen]:
    """Three calls, with `last` before the last; how each ended, and what the interceptor saw."""
    seen = Seen()
    ends = []
    with way.channel(server, auth, sync_interceptor(SYNC[does](seen))) as channel:
        stub = way.stub(channel, auth)
        for before in (None, None, last):
            if before is not None:
                before()
            try:
                ends.append(shown(SYNC_KINDS[kind](stub, timeout=PATIENCE)))
            except Exception as error:
                ends.append(shown(error))
    return ends, seen


def aplay(
    way: Way, does: str, kind: str, server: ProbeServer, auth: BearerAuth, last: Callable[[], Any] = lambda: None
) -> tuple[list[Any], Seen]:
    seen = Seen()
    ends = []

    async def main() -> None:
        async with way.channel(server, auth, aio_interceptors(AIO[does](seen))) as channel:
            stub = way.stub(channel, auth)
            for before in (None, None, last):
                if before is not None:
                    before()
                try:
                    ends.append(shown(await asyncio.wait_for(AIO_KINDS[kind](stub, timeout=PATIENCE), PATIENCE)))
                except Exception as error:
                    ends.append(shown(error))

    asyncio.run(main())
    return ends, seen


def revoking(server: ProbeServer) -> Callable[[], Any]:
    verifier: Any = server.verifier
    return lambda: verifier.revoke(*server.ledger.tokens)


def unseen(seen: Seen) -> bool:
    return bool(seen.logged) and not any(TOKEN in text or "Bearer" in text for text in seen.logged)


SYNC_CASES = [(way, does, kind) for way in SYNC_WAYS for does in SYNC for kind in KINDS]
AIO_CASES = [
    (way, does, kind) for way in AIO_WAYS for does in AIO for kind in AIO_KINDS if (does, kind) not in NOT_IN_AIO
]


def healing(cases: list[tuple[str, str, str]], ways: dict[str, Way]) -> list[tuple[str, str, str]]:
    """Those where a call reaches the server and can be made again."""
    return [
        (way, does, kind)
        for way, does, kind in cases
        if does not in ENDS_THE_CALL and (ways[way].streams or kind.startswith(("unary", "server_stream")))
    ]


class TestSync:
    @pytest.mark.parametrize(("way", "does", "kind"), SYNC_CASES)
    def test_all_is_as_on_a_plain_channel_and_the_token_is_never_seen(
        self, way: str, does: str, kind: str, server: ProbeServer, auth: BearerAuth, plainly: Any
    ) -> None:
        ends, seen = play(SYNC_WAYS[way], does, kind, server, auth)

        assert (ends, seen.requests) == plainly(does, kind)
        assert unseen(seen)
        assert {tuple(each.header_values) for each in server.ledger} <= {(f"Bearer {TOKEN}.0",)}

    @pytest.mark.parametrize(("way", "does", "kind"), healing(SYNC_CASES, SYNC_WAYS))
    def test_a_revoked_token_heals(
        self, way: str, does: str, kind: str, server: ProbeServer, auth: BearerAuth, plainly: Any
    ) -> None:
        ends, seen = play(SYNC_WAYS[way], does, kind, server, auth, last=revoking(server))

        assert ends == plainly(does, kind)[0]
        assert [attempt.accepted for attempt in server.ledger] == [True, True, False, True]
        assert unseen(seen)
        if way.startswith("above"):  # a call made again is one call there
            assert seen.requests == plainly(does, kind)[1]


class TestAsyncio:
    @pytest.mark.parametrize(("way", "does", "kind"), AIO_CASES)
    def test_all_is_as_on_a_plain_channel_and_the_token_is_never_seen(
        self, way: str, does: str, kind: str, server: ProbeServer, auth: BearerAuth, plainly: Any
    ) -> None:
        ends, seen = aplay(AIO_WAYS[way], does, kind, server, auth)

        assert (ends, seen.requests) == plainly(does, kind, True)
        assert unseen(seen)
        assert {tuple(each.header_values) for each in server.ledger} <= {(f"Bearer {TOKEN}.0",)}

    @pytest.mark.parametrize(("way", "does", "kind"), healing(AIO_CASES, AIO_WAYS))
    def test_a_revoked_token_heals(
        self, way: str, does: str, kind: str, server: ProbeServer, auth: BearerAuth, plainly: Any
    ) -> None:
        ends, seen = aplay(AIO_WAYS[way], does, kind, server, auth, last=revoking(server))

        assert ends == plainly(does, kind, True)[0]
        assert [attempt.accepted for attempt in server.ledger] == [True, True, False, True]
        assert unseen(seen)
        if not way.startswith("below"):
            assert seen.requests == plainly(does, kind, True)[1]
