"""connectrpc's clients over gRPC: what is waited for, given up, or refused midway."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from _connect import BIDI_STREAM, CLIENT_STREAM, HOW, SYNC, UNARY, Calls, aopened, made_aio, opened, seen, sent
from _refusing import EXPECTED, Place, Slow, soon
from attachments import PATIENCE, Waiting
from connectrpc.client import ConnectClient
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.protocol import ProtocolType

from grpc_bearer import BearerAuth, RetryPolicy, Token
from grpc_bearer._calls.replay import ReplayBuffer, snapshot
from grpc_bearer._runtimes.connect_interceptor import BearerInterceptor
from grpc_bearer._runtimes.routes import attachment_to
from grpc_bearer.testing import ManualClock, ProbeRequest, Refuse

SIDES = pytest.mark.parametrize("side", ["sync", "asyncio"])


@pytest.fixture(autouse=True)
def fresh(here: Place) -> None:
    here.server.faults.clear()
    here.server.ledger.clear()


# ------------------------------------------------------------------------------------------------------------ deadlines


@SIDES
@pytest.mark.parametrize("kind", EXPECTED)
def test_one_deadline_covers_the_wait_for_a_token(here: Place, side: str, kind: str) -> None:
    source = Waiting("never")
    error = Calls(side, ProtocolType.GRPC).error(here.server.target, kind, BearerAuth(source), timeout_ms=50)
    source.go.set()

    assert (error.code, error.message) == (Code.DEADLINE_EXCEEDED, "Request timed out")
    assert sent(here) == []


@SIDES
@pytest.mark.parametrize("kind", EXPECTED)
def test_one_deadline_covers_both_attempts(here: Place, side: str, kind: str) -> None:
    source = Slow(here)
    auth = BearerAuth(source)
    here.verifier.revoke(auth.token().value)
    error = Calls(side, ProtocolType.GRPC).error(here.server.target, kind, auth, timeout_ms=400)
    source.go.set()

    assert error.code is Code.DEADLINE_EXCEEDED
    assert len(sent(here)) == 1


@SIDES
def test_what_the_deadline_ends_is_not_made_again(here: Place, side: str) -> None:
    policy = RetryPolicy(codes=list(grpc.StatusCode))
    go = threading.Event()
    if side == "sync":
        with opened(here.server.target, here.auth(), retry=policy) as client, pytest.raises(ConnectError) as caught:
            client.execute_client_stream(request=held(go), method=CLIENT_STREAM, timeout_ms=300)
    else:

        async def main() -> None:
            async with aopened(here.server.target, here.auth(), retry=policy) as client:
                await soon(client.execute_client_stream(request=aheld(), method=CLIENT_STREAM, timeout_ms=300))

        with pytest.raises(ConnectError) as caught:
            asyncio.run(main())
    go.set()

    assert caught.value.code is Code.DEADLINE_EXCEEDED
    assert len(sent(here)) == 1


def held(go: threading.Event) -> Iterator[ProbeRequest]:
    """Requests that do not end until they are let."""
    yield ProbeRequest(index=0)
    go.wait(PATIENCE)
    yield ProbeRequest(index=1)


async def aheld(go: asyncio.Event | None = None, told: list[str] | None = None) -> AsyncIterator[ProbeRequest]:
    """The same for asyncio; tells how far it has come."""
    told = [] if told is None else told
    yield ProbeRequest(index=0)
    told.append("waits")
    try:
        await (go or asyncio.Event()).wait()
    except asyncio.CancelledError:
        told.append("cancelled")
        raise
    yield ProbeRequest(index=1)
    told.append("whole")


# --------------------------------------------------------------------------------------------------------- cancellation


async def test_the_wait_for_a_token_blocks_no_loop_and_can_be_cancelled(here: Place) -> None:
    source = Waiting("late")
    here.verifier.accept("late")
    async with aopened(here.server.target, BearerAuth(source)) as client:
        calls = [asyncio.ensure_future(made_aio(client, "Unary", timeout_ms=20_000)) for _ in range(2)]
        given_up, waiting = calls
        await in_thread(source.asked.wait)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        source.go.set()

        assert await soon(waiting) == EXPECTED["Unary"]
    assert source.fetches == 1


@pytest.mark.parametrize("kind", EXPECTED)
async def test_a_call_is_cancelled_while_its_next_token_is_fetched(here: Place, kind: str) -> None:
    source = Slow(here)
    auth = BearerAuth(source)
    here.verifier.revoke((await auth.atoken()).value)
    async with aopened(here.server.target, auth) as client:
        call = asyncio.ensure_future(made_aio(client, kind, timeout_ms=20_000))
        await in_thread(source.asked.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        source.go.set()

        assert await soon(made_aio(client, kind)) == EXPECTED[kind]
    assert len(sent(here)) == 2


async def test_a_call_that_is_cancelled_midway_ends_as_connectrpc_has_it_and_is_not_made_again(here: Place) -> None:
    policy, told = RetryPolicy(codes=list(grpc.StatusCode)), list[str]()
    async with aopened(here.server.target, here.auth(), retry=policy) as client:
        requests = aheld(told=told)
        call = asyncio.ensure_future(client.execute_client_stream(request=requests, method=CLIENT_STREAM))
        await until(lambda: told and sent(here))
        call.cancel()
        with pytest.raises(ConnectError) as caught:
            await soon(call)
        await until(lambda: len(told) > 1)

    assert caught.value.code is Code.CANCELED
    assert len(sent(here)) == 1
    assert told == ["waits", "cancelled"]


async def test_a_stream_that_nobody_reads_on_is_ended(here: Place) -> None:
    told = list[str]()
    async with aopened(here.server.target, here.auth()) as client:
        replies = client.execute_bidi_stream(request=aheld(told=told), method=BIDI_STREAM)
        await soon(anext(replies))
        await until(lambda: told)
        await replies.aclose()
        await until(lambda: len(told) > 1)

    assert told == ["waits", "cancelled"]


# ---------------------------------------------------------------------- a refusal while the user makes the next request


async def test_a_request_that_is_being_made_when_the_refusal_comes_goes_with_the_next_attempt(here: Place) -> None:
    auth, go, told = here.auth(), asyncio.Event(), list[str]()
    here.revoke(auth)
    async with aopened(here.server.target, auth) as client:
        call = asyncio.ensure_future(
            client.execute_client_stream(request=aheld(go, told), method=CLIENT_STREAM, timeout_ms=20_000)
        )
        await until(lambda: told and len(sent(here)) == 2)
        go.set()

        assert seen(await soon(call)) == ([0, 1], 1)
    assert told == ["waits", "whole"]


def test_the_same_on_a_thread(here: Place) -> None:
    auth, go = here.auth(), threading.Event()
    here.revoke(auth)
    with opened(here.server.target, auth) as client, ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.execute_client_stream, request=held(go), method=CLIENT_STREAM, timeout_ms=20_000)
        while len(sent(here)) < 2:
            assert not call.done(), call.result()
        go.set()

        assert seen(call.result(PATIENCE)) == ([0, 1], 1)


@SIDES
def test_a_stream_without_end_that_is_refused_is_not_made_again(here: Place, side: str) -> None:
    here.refuse(Refuse(), Refuse())
    how: dict[str, Any] = {"method": CLIENT_STREAM, "timeout_ms": 20_000}
    policy = RetryPolicy(replay_bytes=5_000)

    def endless() -> Iterator[ProbeRequest]:
        for index in itertools.count():
            yield ProbeRequest(index=index, payload=b"x" * 10_000)

    async def aendless() -> AsyncIterator[ProbeRequest]:
        for request in endless():
            yield request

    async def main() -> None:
        async with aopened(here.server.target, here.auth(), retry=policy) as client:
            await soon(client.execute_client_stream(request=aendless(), **how))

    with opened(here.server.target, here.auth(), retry=policy) as client, pytest.raises(ConnectError) as caught:
        asyncio.run(main()) if side == "asyncio" else client.execute_client_stream(request=endless(), **how)

    assert caught.value.code is Code.UNAUTHENTICATED
    assert len(sent(here)) == 1


def failing() -> Iterator[ProbeRequest]:
    yield ProbeRequest(index=1)
    raise KeyError("mine")


async def afailing() -> AsyncIterator[ProbeRequest]:
    for request in failing():
        yield request


@pytest.mark.parametrize("kind", ["fails", "none"])
async def test_requests_that_cannot_be_made_end_the_call_as_without_us(here: Place, kind: str) -> None:
    here.verifier.accept("known")
    errors = []
    async with aopened(here.server.target, BearerAuth(lambda: "known")) as ours:
        by_hand = ConnectClient(ours._address, http_client=ours._http_client, protocol=ProtocolType.GRPC, **HOW)
        for client, headers in ((by_hand, {"authorization": "Bearer known"}), (ours, None)):
            requests: Any = afailing() if kind == "fails" else None
            how: dict[str, Any] = {"method": CLIENT_STREAM, "timeout_ms": 20_000, "headers": headers}
            with pytest.raises(ConnectError) as caught:
                await soon(client.execute_client_stream(request=requests, **how))
            errors.append((caught.value.code, str(caught.value), type(caught.value.__cause__)))

    assert errors[0] == errors[1]
    assert errors[0][0] is Code.UNAVAILABLE


def test_messages_as_connectrpc_generates_them_are_kept_within_bounds_too() -> None:
    from protobuf.wkt import StringValue

    copies: Any = snapshot
    replay = ReplayBuffer((StringValue(value="x" * 100) for _ in range(3)), copies, 1000, 250)
    first, second = itertools.islice(replay.reader(), 2)

    assert (first, second) == (StringValue(value="x" * 100),) * 2
    assert replay.whole
    assert len(list(replay.reader())) == 3
    assert not replay.whole


# --------------------------------------------------------------------------------------------------------- many at once


async def test_calls_that_fail_with_one_token_cost_one_fetch(here: Place) -> None:
    auth = here.auth()
    here.revoke(auth)
    async with aopened(here.server.target, auth) as client:
        await asyncio.gather(*(soon(made_aio(client, kind, timeout_ms=20_000)) for kind in EXPECTED for _ in range(5)))

    assert len(here.minted(auth)) == 2


def test_the_same_on_threads(here: Place) -> None:
    auth = here.auth()
    here.revoke(auth)
    with opened(here.server.target, auth) as client, ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(SYNC[kind], client, timeout_ms=20_000) for kind in EXPECTED for _ in range(5)]
        for call in calls:
            call.result(PATIENCE)

    assert len(here.minted(auth)) == 2


async def test_a_request_that_is_changed_meanwhile_is_sent_again_as_it_was(here: Place) -> None:
    source = Slow(here)
    auth = BearerAuth(source)
    here.verifier.revoke((await auth.atoken()).value)
    request = ProbeRequest(index=1)
    async with aopened(here.server.target, auth) as client:
        call = asyncio.ensure_future(client.execute_unary(request=request, method=UNARY, timeout_ms=20_000))
        await in_thread(source.asked.wait)
        request.index = 99
        source.go.set()

        assert seen(await soon(call)) == EXPECTED["Unary"]


async def in_thread(wait: Callable[[float], Any]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, wait, PATIENCE)


async def until(true: Callable[[], Any]) -> None:
    async def waited() -> None:
        while not true():
            await asyncio.sleep(0.005)

    await soon(waited())


# --------------------------------------------------------------------------------------------- streams that begin later


@SIDES
@pytest.mark.parametrize("kind", ["server_stream", "bidi_stream"])
def test_a_stream_takes_its_token_when_it_is_first_read(side: str, kind: str) -> None:
    clock, numbers, told = ManualClock(), itertools.count(), []
    auth = BearerAuth(lambda: Token(f"token-{next(numbers)}", expires_at=clock.time() + 60), clock=clock)
    interceptor = BearerInterceptor(attachment_to("https://there", auth, None, False), sure=True)
    ctx: Any = SimpleNamespace(method=SimpleNamespace(service_name="s", name="m"), request_headers={}, timeout_ms=None)

    def call_next(_: Any, ctx: Any) -> Iterator[int]:
        told.append(ctx.request_headers["authorization"])
        yield 1

    async def acall_next(_: Any, ctx: Any) -> AsyncIterator[int]:
        told.append(ctx.request_headers["authorization"])
        yield 1

    async def read() -> list[int]:
        stream = getattr(interceptor, f"intercept_{kind}")(acall_next, aiter_of(), ctx)
        clock.advance(3600)
        return [each async for each in stream]

    async def aiter_of() -> AsyncIterator[ProbeRequest]:
        yield ProbeRequest()

    auth.token("https://there/s", "m")
    if side == "sync":
        stream = getattr(interceptor, f"intercept_{kind}_sync")(call_next, iter([ProbeRequest()]), ctx)
        clock.advance(3600)
        assert list(stream) == [1]
    else:
        assert asyncio.run(read()) == [1]

    assert told == ["Bearer token-1"]
