"""Interceptors of the user's, above ours and below: as on a plain channel, and never with a token in sight.

Each is played on a plain channel first, against a server that wants no token; with ours in between the same must come
out, call after call, and a token that is revoked must heal wherever the interceptor lets a call end.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from attachments import AIO_KINDS, PATIENCE, SYNC_KINDS, TLS
from grpc import aio
from interceptors import AIO, ENDS_THE_CALL, NOT_IN_AIO, SYNC, Seen, aio_interceptors, sync_interceptor

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer.testing import OpaqueVerifier, ProbeServer, ProbeStub

TOKEN = "secret-token"
TOKENS = [f"{TOKEN}.{number}" for number in range(9)]

# ------------------------------------------------------------------------------------------------- where they stand


@dataclass(frozen=True)
class Way:
    """Where ours stands and where the user's; `streams`: request streams are made again too; `clear`: on purpose."""

    channel: Callable[[ProbeServer, BearerAuth, Any], Any]
    wraps: bool = False
    streams: bool = True
    clear: bool = False

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
    "above insecure_channel": Way(
        lambda s, a, mine: intercepted(grpc_bearer.insecure_channel(s.target, auth=a, allow_plaintext=True), mine),
        clear=True,
    ),
}


def _aplain(server: ProbeServer, *interceptors: Any) -> aio.Channel:
    credentials = server.channel_credentials()
    if credentials is None:
        return aio.insecure_channel(server.target, interceptors=interceptors)
    return aio.secure_channel(server.target, credentials, interceptors=interceptors)


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
    "in aio.insecure_channel": Way(
        lambda s, a, mine: grpc_bearer.aio.insecure_channel(s.target, interceptors=mine, auth=a, allow_plaintext=True),
        clear=True,
    ),
    "below aio.intercept_channel in the clear": Way(
        lambda s, a, mine: grpc_bearer.aio.intercept_channel(_aplain(s, *mine), a, allow_plaintext=True), clear=True
    ),
}
WAYS = {**SYNC_WAYS, **AIO_WAYS}
KINDS = [kind for kind in SYNC_KINDS if "with_call" not in kind]

# ------------------------------------------------------------------------------------------------------------- playing


@pytest.fixture(scope="module")
def _servers() -> Iterator[dict[bool, ProbeServer]]:
    with ProbeServer(None, TLS) as secure, ProbeServer(credentials="insecure") as clear:
        yield {False: secure, True: clear}


@pytest.fixture
def server(_servers: dict[bool, ProbeServer], way: str) -> ProbeServer:
    """It wants a token, and knows none as revoked yet."""
    found = _servers[WAYS[way].clear]
    found.verifier = OpaqueVerifier(TOKENS)
    found.ledger.clear()
    return found


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


def healing(cases: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Those where a call reaches the server and can be made again."""
    return [
        (way, does, kind)
        for way, does, kind in cases
        if does not in ENDS_THE_CALL and (WAYS[way].streams or kind.startswith(("unary", "server_stream")))
    ]


class TestSync:
    @pytest.mark.parametrize(("way", "does", "kind"), SYNC_CASES)
    def test_all_is_as_on_a_plain_channel_and_the_token_is_never_seen(
        self, way: str, does: str, kind: str, server: ProbeServer, auth: BearerAuth, plainly: Any
    ) -> None:
        ends, seen = play(WAYS[way], does, kind, server, auth)

        assert (ends, seen.requests) == plainly(does, kind)
        assert unseen(seen)
        assert {tuple(each.header_values) for each in server.ledger} <= {(f"Bearer {TOKEN}.0",)}

    @pytest.mark.parametrize(("way", "does", "kind"), healing(SYNC_CASES))
    def test_a_revoked_token_heals(
        self, way: str, does: str, kind: str, server: ProbeServer, auth: BearerAuth, plainly: Any
    ) -> None:
        ends, seen = play(WAYS[way], does, kind, server, auth, last=revoking(server))

        assert ends == plainly(does, kind)[0]
        assert [attempt.accepted for attempt in server.ledger] == [True, True, False, True]
        assert unseen(seen)
        if way.startswith("above"):  # a call made again is one call there
            assert seen.requests == plainly(does, kind)[1]


# Of grpc.aio's oldest versions, where an interceptor has raised.
@pytest.mark.filterwarnings("ignore:.*InterceptedCall.__del__:pytest.PytestUnraisableExceptionWarning")
class TestAsyncio:
    @pytest.mark.parametrize(("way", "does", "kind"), AIO_CASES)
    def test_all_is_as_on_a_plain_channel_and_the_token_is_never_seen(
        self, way: str, does: str, kind: str, server: ProbeServer, auth: BearerAuth, plainly: Any
    ) -> None:
        ends, seen = aplay(WAYS[way], does, kind, server, auth)

        assert (ends, seen.requests) == plainly(does, kind, True)
        assert unseen(seen)
        assert {tuple(each.header_values) for each in server.ledger} <= {(f"Bearer {TOKEN}.0",)}

    @pytest.mark.parametrize(("way", "does", "kind"), healing(AIO_CASES))
    def test_a_revoked_token_heals(
        self, way: str, does: str, kind: str, server: ProbeServer, auth: BearerAuth, plainly: Any
    ) -> None:
        ends, seen = aplay(WAYS[way], does, kind, server, auth, last=revoking(server))

        assert ends == plainly(does, kind, True)[0]
        assert [attempt.accepted for attempt in server.ledger] == [True, True, False, True]
        assert unseen(seen)
        if not way.startswith("below"):  # above ours
            assert seen.requests == plainly(does, kind, True)[1]
