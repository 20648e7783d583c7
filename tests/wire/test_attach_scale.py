"""Many callers, one token: a thousand cold calls cost one exchange with the endpoint, and no threads."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from attachments import PATIENCE, TLS, eventually

import grpc_bearer
from grpc_bearer import BearerAuth, CallContext, HTTPTokenSource, Source, Token, TokenUnavailableError
from grpc_bearer._calls.attach_token import Attempt
from grpc_bearer.testing import (
    Hang,
    ManualClock,
    OpaqueVerifier,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Request,
    Response,
    TokenServer,
)

BEAR = {"api_key": "key-1", "scope": "all", "secret": "s3cret"}
THREADS, FUTURES, TASKS = 300, 350, 350
ALL = THREADS + FUTURES + TASKS
#: Ours (worker, timer) and gRPC's (pollers, one that watches the calls of each sync channel, event engine).
HANDFUL = 16


class Asking(HTTPTokenSource):
    """Also counts the calls that ask through core, each on a thread of core's."""

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self._looks = itertools.count(1)
        self.asked = 0

    def key(self, context: CallContext) -> Hashable:
        thread = threading.current_thread()
        if thread is not threading.main_thread() and not thread.name.startswith("caller"):
            self.asked = next(self._looks) // 2  # one look whether a token is at hand, and one for whom to wait
        return ()


class HangThenFail(Hang):
    """Holds the request until released, and then answers 503."""

    def answer(self, request: Request, respond: Callable[[], Response]) -> Response:
        super().answer(request, respond)
        return Response(503, b"no")


def os_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


class Crowd:
    """A thousand calls: blocking ones on threads of their own, futures, and tasks on one event loop."""

    def __init__(self, auth: BearerAuth, server: ProbeServer) -> None:
        self.ends: list[Any] = []
        self._auth, self._server = auth, server
        self._sync = [self._channel(grpc_bearer) for _ in range(3)]
        self._threads = [threading.Thread(target=self._block, args=(index,), name="caller") for index in range(THREADS)]
        self._loop = threading.Thread(target=lambda: asyncio.run(self._tasks()), name="caller")
        self._futures: list[Any] = []

    def _channel(self, family: Any) -> Any:
        return family.secure_channel(self._server.target, self._server.channel_credentials(), auth=self._auth)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()
        self._loop.start()
        for index in range(FUTURES):
            # Not calls with a request stream: gRPC itself reads each of those on a thread of its own.
            stub = ProbeStub(self._sync[index % 3])
            self._futures.append(stub.Unary.future(ProbeRequest(index=index), timeout=60))

    def join(self) -> list[Any]:
        for thread in (*self._threads, self._loop):
            thread.join(PATIENCE)
        for call in self._futures:
            try:
                self.ends.append(call.result(PATIENCE))
            except grpc.RpcError as error:
                self.ends.append(error)
        for channel in self._sync:
            channel.close()
        return self.ends

    def _block(self, index: int) -> None:
        try:
            end: Any = ProbeStub(self._sync[index % 3]).Unary(ProbeRequest(index=index), timeout=60)
        except grpc.RpcError as error:
            end = error
        self.ends.append(end)

    async def _tasks(self) -> None:
        async with self._channel(grpc_bearer.aio) as one, self._channel(grpc_bearer.aio) as two:
            stubs = [ProbeStub(one), ProbeStub(two)]

            async def call(index: int) -> Any:
                return await stubs[index % 2].Unary(ProbeRequest(index=index), timeout=60)

            self.ends += await asyncio.gather(*(call(index) for index in range(TASKS)), return_exceptions=True)


@pytest.fixture
def tokens() -> Iterator[TokenServer]:
    with TokenServer(TLS) as tokens:
        yield tokens


@pytest.fixture
def server(tokens: TokenServer) -> Iterator[ProbeServer]:
    with ProbeServer(tokens.verifier(), TLS, workers=8) as server:
        yield server


@pytest.fixture
def source(tokens: TokenServer, tmp_path: Path) -> Asking:
    return Asking(tokens.serve_bear(BEAR), json=BEAR, ca=TLS.write(tmp_path), timeout=60)


def test_trap_01_a_thousand_cold_calls_cost_one_exchange_and_no_threads(
    tokens: TokenServer, server: ProbeServer, source: Asking
) -> None:
    hang = Hang()
    tokens.script(hang)
    crowd = Crowd(BearerAuth(source), server)
    before = os_threads()
    crowd.start()
    assert eventually(lambda: source.asked >= ALL), source.asked
    assert hang.arrived.wait(PATIENCE)

    # gRPC starts a thread for each run of a plugin; ours return at once, so these are gone again.
    calm = eventually(lambda: os_threads() <= before + THREADS + HANDFUL)
    waiting, exchanges, arrived = os_threads() - before - THREADS, len(tokens.exchanges), len(server.ledger)
    hang.release.set()
    ends = crowd.join()

    assert calm, waiting
    assert exchanges == 1
    assert arrived == 0  # nobody went out without
    assert Counter(type(end).__name__ for end in ends) == {"ProbeReply": ALL}
    assert len(server.ledger.accepted) == ALL
    assert server.ledger.tokens == tokens.issued
    assert len(tokens.exchanges) == 1


def test_a_thousand_cold_calls_fail_by_one_exchange_each_with_an_error_of_its_own(
    tokens: TokenServer, server: ProbeServer, source: Asking
) -> None:
    hang = HangThenFail()
    tokens.fail_with(hang)
    crowd = Crowd(BearerAuth(source), server)
    crowd.start()
    assert eventually(lambda: source.asked >= ALL), source.asked
    assert hang.arrived.wait(PATIENCE)
    hang.release.set()
    ends = crowd.join()

    assert len(ends) == ALL
    assert Counter(end.code() for end in ends) == {grpc.StatusCode.UNAVAILABLE: ALL}
    assert Counter(type(end.__cause__) for end in ends) == {TokenUnavailableError: ALL}
    assert len({id(end) for end in ends}) == ALL
    assert len({id(end.__cause__) for end in ends}) == ALL
    assert max(_frames(end.__cause__) for end in ends) < 10
    assert Counter(isinstance(end, grpc.aio.AioRpcError) for end in ends) == {True: TASKS, False: THREADS + FUTURES}
    assert len(tokens.exchanges) == 1
    assert len(server.ledger) == 0


def _frames(error: BaseException | None) -> int:
    trace, count = error.__traceback__ if error else None, 0
    while trace is not None:
        trace, count = trace.tb_next, count + 1
    return count


def test_trap_34_loops_in_many_threads_share_one_exchange(
    tokens: TokenServer, server: ProbeServer, source: Asking
) -> None:
    """`asyncio.run` after `asyncio.run`, and several loops at a time, all with one auth."""
    auth = BearerAuth(source)
    hang = Hang()
    tokens.script(hang)
    counts: list[int] = []

    async def some() -> None:
        async with grpc_bearer.aio.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
            replies = await asyncio.gather(*(ProbeStub(channel).Unary(ProbeRequest(index=1)) for _ in range(5)))
            counts.append(len(replies))
            await auth.atoken()

    threads = [threading.Thread(target=lambda: asyncio.run(some()), name="caller") for _ in range(8)]
    for thread in threads:
        thread.start()
    assert eventually(lambda: source.asked >= 40)
    hang.release.set()
    for thread in threads:
        thread.join(PATIENCE)
    asyncio.run(some())
    asyncio.run(some())

    assert counts == [5] * 10
    assert len(tokens.exchanges) == 1


def test_a_loop_that_was_closed_while_its_call_waited_harms_nobody(
    tokens: TokenServer, server: ProbeServer, source: Asking
) -> None:
    auth = BearerAuth(source)
    hang = Hang()
    tokens.script(hang)

    async def impatient() -> None:
        channel = grpc_bearer.aio.secure_channel(server.target, server.channel_credentials(), auth=auth)
        call = ProbeStub(channel).Unary(ProbeRequest(index=1))
        while not hang.arrived.is_set():
            await asyncio.sleep(0)
        call.cancel()
        await channel.close()

    asyncio.run(impatient())
    hang.release.set()
    with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
        reply = ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=PATIENCE)

    assert reply.count == 1
    assert len(tokens.exchanges) == 1


class Slow(Source):
    """A source of its own for each auth, that waits to be let."""

    def __init__(self, go: threading.Event) -> None:
        self._go = go

    def fetch(self, context: CallContext) -> Token:
        assert self._go.wait(PATIENCE)
        return Token("t0")


def test_a_hundred_auths_fetching_at_once_share_a_few_workers() -> None:
    go = threading.Event()
    with ProbeServer(OpaqueVerifier(["t0"]), TLS, workers=8) as server, server.channel() as channel:
        before = os_threads()
        calls = [
            grpc_bearer.wrap_stub(ProbeStub(channel), BearerAuth(Slow(go))).Unary.future(ProbeRequest(), timeout=60)
            for _ in range(100)
        ]
        names = Counter[str]()

        def working() -> int:
            names.clear()
            names.update(thread.name for thread in threading.enumerate() if thread.name.startswith("grpc-bearer"))
            return sum(name.startswith("grpc-bearer-worker") for name in names.elements())

        assert eventually(lambda: working() >= 16 and os_threads() <= before + 16 + HANDFUL)
        workers = working()
        go.set()
        replies = [call.result(PATIENCE) for call in calls]

    assert workers == 16
    assert len(replies) == 100
    assert len(server.ledger.accepted) == 100


def test_the_call_that_begins_a_refresh_costs_what_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class Short(Source):
        fetched = 0

        def fetch(self, context: CallContext) -> Token:
            self.fetched += 1
            return Token("good", expires_at=context.clock.time() + 100)

    clock, source = ManualClock(), Short()
    auth = BearerAuth(source, clock=clock)
    with (
        ProbeServer(OpaqueVerifier(["good"]), TLS) as server,
        grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel,
    ):
        stub = ProbeStub(channel)
        stub.Unary(ProbeRequest(), timeout=PATIENCE)
        clock.advance(87)  # past the refresh point, not yet in the safety margin
        # Credentials of the call's own, which core asks on a thread of its own, cost half as much again.
        monkeypatch.setattr(Attempt, "credentials", lambda _: pytest.fail("it went the long way"))
        stub.Unary(ProbeRequest(), timeout=PATIENCE)

        assert eventually(lambda: source.fetched == 2)
        assert {attempt.token for attempt in server.ledger} == {"good"}


def test_trap_14_an_auth_that_is_dropped_goes_away_and_so_do_its_calls() -> None:
    import weakref

    with ProbeServer(OpaqueVerifier(["t0"]), TLS) as server:
        auth = BearerAuth("t0")
        with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
            stub = ProbeStub(channel)
            for _ in range(3):
                stub.Unary(ProbeRequest(), timeout=PATIENCE)
        gone = weakref.ref(auth)
        del auth, channel, stub
        collected = eventually(lambda: gc.collect() >= 0 and gone() is None, 5)

    assert collected


def test_one_key_a_caller_does_not_grow_without_bound() -> None:
    """Tokens that differ by call are kept in a bounded table, whatever the calls come up with."""
    made = Counter[str]()

    class Each(Source):
        local = True

        def key(self, context: CallContext) -> Hashable:
            return context.service

        def fetch(self, context: CallContext) -> Token:
            made[context.service] += 1
            return Token("t0")

    auth = BearerAuth(Each(), max_keys=50)
    for number in [*range(1_000), *range(1_000)]:
        for _ in range(2):  # the second time it is at hand
            auth.token(f"https://localhost/{number}")

    assert set(made.values()) == {2}  # none was kept until its turn came again
    assert len(made) == 1_000
