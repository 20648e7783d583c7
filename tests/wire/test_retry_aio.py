"""A refused token is healed in place: every kind of call, every door, asyncio; and what the user holds meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import tenacity
from _refusing import (
    AIO,
    PATIENCE,
    UNAUTHENTICATED,
    Mint,
    Place,
    expected,
    method_of,
    place,
    read_all,
    request,
    requests,
    soon,
)
from doors import AIO_DOORS, TLS

import grpc_bearer
from grpc_bearer import BearerAuth, RetryPolicy
from grpc_bearer.testing import Delay, OpaqueVerifier, ProbeServer, ProbeStub, Refuse

DOORS = ("aio.secure_channel", "aio.intercept_channel", "aio.wrap_stub", "aio.interceptors")
#: Doors that do not own the serializer of requests.
BORROWED = ("aio.wrap_stub", "aio.interceptors")


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as here:
        yield here


class TestHealing:
    """A revoked token costs the user nothing."""

    @pytest.mark.parametrize("path", ["cold", "warm"])
    @pytest.mark.parametrize("kind", AIO)
    @pytest.mark.parametrize("door", DOORS)
    async def test_a_revoked_token_is_healed(self, here: Place, door: str, kind: str, path: str) -> None:
        auth = here.auth()
        async with AIO_DOORS[door](here.server.target, here.credentials, auth) as stub:
            if path == "warm":
                await soon(AIO["unary"](stub))
            here.revoke(auth)
            here.server.ledger.clear()
            if door in BORROWED and "_stream" in kind and not kind.startswith("server"):
                with pytest.raises(grpc.RpcError) as caught:
                    await soon(AIO[kind](stub))

                assert caught.value.code() is UNAUTHENTICATED
                assert [attempt.accepted for attempt in here.server.ledger] == [False]

                here.server.ledger.clear()
                assert await soon(AIO[kind](stub)) == expected(kind)  # the next one has another token
                assert [attempt.accepted for attempt in here.server.ledger] == [True]
                return

            assert await soon(AIO[kind](stub)) == expected(kind)
            assert [attempt.accepted for attempt in here.server.ledger] == [False, True]
            assert {attempt.method.rpartition("/")[2] for attempt in here.server.ledger} == {method_of(kind)}


# ------------------------------------------------------------------------------------------------ the object in hand

STREAM_REPLY = ("ServerStream", "BidiStream")
KINDS = ("Unary", "ClientStream", *STREAM_REPLY)
SLOWLY = RetryPolicy(wait=tenacity.wait_fixed(PATIENCE))  # whoever waits for the second attempt waits in vain


@pytest.fixture(autouse=True)
async def tidy(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No test leaves a task, nor an exception that nobody has seen."""
    complaints: list[str] = []
    loop = asyncio.get_running_loop()

    def complain(_: object, context: dict[str, str]) -> None:
        # Until 1.67 grpc.aio's poller wakes the loops of tests that are over, too.
        if "PollerCompletionQueue" not in context["message"]:
            complaints.append(context["message"])

    loop.set_exception_handler(complain)
    before = asyncio.all_tasks()
    yield
    for _ in range(500):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0.01)
    gc.collect()
    await asyncio.sleep(0)
    # Interceptors' writes go through a queue of grpc.aio's own, which older versions leave behind full.
    old = tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 80)
    assert not [task for task in left if not (old and "Queue.put" in repr(task))]
    assert complaints == []
    assert not [r for r in caplog.records if r.name == "asyncio" and "PollerCompletionQueue" not in r.getMessage()]


def open_call(stub: Any, method: str, **how: Any) -> Any:
    if method == "Unary":
        return stub.Unary(request(1), **how)
    if method == "ServerStream":
        return stub.ServerStream(request(1, replies=2), **how)
    return getattr(stub, method)(iter(requests()), **how)


async def end_of(call: Any, method: str) -> Any:
    """The error a call ended with; `None` for success. A stream is read to its end."""
    try:
        if method in STREAM_REPLY:
            async for _ in call:
                pass
        else:
            await call
    except (grpc.RpcError, asyncio.CancelledError) as error:
        return error
    return None


async def until(condition: Callable[[], object]) -> bool:
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return True
        await asyncio.sleep(0.005)
    return False


class Slow:
    """A source whose later tokens come when they are let; the first is there at once."""

    def __init__(self, here: Place) -> None:
        self.here = here
        self.asked, self.go = threading.Event(), threading.Event()
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        if self.count > 1:
            self.asked.set()
            assert self.go.wait(PATIENCE)
        self.here.verifier.accept(token := f"slow-{id(self)}-{self.count}")
        return token


class TestCalls:
    """What the user holds is a plain call, in every state."""

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("refusals", [0, 1, 2])
    async def test_callbacks_come_once_with_the_object_the_user_holds(
        self, here: Place, kind: str, refusals: int
    ) -> None:
        async with here.aio_stub(here.auth()) as stub:
            here.refuse(*[Refuse()] * refusals)
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            await soon(end_of(call, kind))
            assert await until(lambda: called)
            call.add_done_callback(called.append)
            assert await until(lambda: len(called) == 2)

            assert called == [call, call]

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("refusals", [0, 1, 2])
    async def test_metadata_code_and_details_are_the_last_attempts(self, here: Place, kind: str, refusals: int) -> None:
        async with here.aio_stub(here.auth()) as stub:
            here.refuse(*[Refuse(details=f"no {n}", trailing=[("attempt", str(n))]) for n in range(refusals)])
            call = open_call(stub, kind)
            error = await soon(end_of(call, kind))

            if refusals == 2:
                assert (error.code(), error.details()) == (UNAUTHENTICATED, "no 1")
                assert ("attempt", "1") in list(error.trailing_metadata())
                assert (await call.code(), await call.details()) == (UNAUTHENTICATED, "no 1")
                assert ("attempt", "1") in list(await call.trailing_metadata())
                assert "no 1" in await call.debug_error_string()
            else:
                assert error is None
                assert await call.code() is grpc.StatusCode.OK
                assert "attempt" not in dict(tuple(await call.trailing_metadata()))
            assert await call.initial_metadata() is not None
            assert call.done()
            assert not call.cancelled()
            assert not call.cancel()
            call.time_remaining()
            assert repr(call)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_whoever_asks_first_waits_for_the_last_attempt(self, here: Place, kind: str) -> None:
        async with here.aio_stub(here.auth(), retry=RetryPolicy(wait=tenacity.wait_fixed(0.05))) as stub:
            here.refuse(Refuse(details="no 0"), Refuse(details="no 1", trailing=[("attempt", "1")]))
            call = open_call(stub, kind)
            answers = await soon(
                asyncio.gather(call.code(), call.details(), call.trailing_metadata(), call.debug_error_string())
            )

            assert answers[:2] == [UNAUTHENTICATED, "no 1"]
            assert ("attempt", "1") in list(answers[2])
            assert "no 1" in answers[3]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_between_two_attempts_every_question_has_an_answer(self, here: Place, kind: str) -> None:
        async with here.aio_stub(here.auth(), retry=SLOWLY) as stub:
            here.refuse(Refuse())
            call = open_call(stub, kind, timeout=2 * PATIENCE)
            assert await until(lambda: "between" in repr(call))

            assert not call.done()
            assert not call.cancelled()
            assert 0 < call.time_remaining() <= 2 * PATIENCE
            for ask in (
                call.code,
                call.details,
                call.initial_metadata,
                call.trailing_metadata,
                call.debug_error_string,
            ):
                question = asyncio.ensure_future(ask())
                await asyncio.sleep(0.001)  # it has no answer: nothing could be waited for
                assert not question.done()
                question.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await question
            assert not call.done()  # as with a plain call, who cancels whoever asks does not cancel the call
            assert call.cancel()
            assert call.done()

    async def test_several_may_await_one_call(self, here: Place) -> None:
        async with here.aio_stub(here.auth()) as stub:
            here.refuse(Refuse())
            call = stub.Unary(request(3))

            async def waiting() -> list[int]:
                return list((await call).indexes)

            assert await soon(asyncio.gather(waiting(), waiting(), waiting())) == [[3], [3], [3]]
            assert list((await call).indexes) == [3]

    async def test_a_write_after_the_end_is_refused_as_a_plain_call_refuses_it(self, here: Place) -> None:
        async with here.aio_stub(here.auth()) as stub:
            here.refuse(Refuse(), Refuse(details="twice"))
            call = stub.ClientStream()
            with pytest.raises(grpc.aio.AioRpcError):
                await soon(call)
            with pytest.raises(asyncio.InvalidStateError):
                await soon(call.write(request()))
            await soon(call.done_writing())

    @pytest.mark.parametrize("kind", ["ClientStream", "BidiStream"])
    async def test_a_writer_learns_that_the_server_cancelled_the_call_as_an_error_not_as_a_cancellation(
        self, here: Place, kind: str
    ) -> None:
        async with here.aio_stub(here.auth()) as stub:
            here.refuse(Refuse(grpc.StatusCode.CANCELLED, "shutting down", after_requests=2))
            call = getattr(stub, kind)()

            async def writing() -> None:
                with contextlib.suppress(asyncio.InvalidStateError):  # of a write that begins after the end
                    while True:
                        await call.write(request(payload=b"x" * 1_000_000))
                await (call if kind == "ClientStream" else call.read())

            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await soon(writing())
            assert caught.value.code() is grpc.StatusCode.CANCELLED
            assert caught.value.details() == "shutting down"

    async def test_a_write_after_done_writing_is_refused(self, here: Place) -> None:
        async with here.aio_stub(here.auth()) as stub:
            here.refuse()
            call = stub.BidiStream()
            await soon(call.write(request()))
            await soon(call.done_writing())
            with pytest.raises(asyncio.InvalidStateError):
                await soon(call.write(request()))
            assert len(await soon(read_all(call))) == 1


class TestCancel:
    """`cancel()` works in every phase, is final, and reaches the server."""

    async def check(self, call: Any, called: list[Any], kind: str) -> None:
        assert await until(call.done)
        assert call.cancelled()
        assert isinstance(await soon(end_of(call, kind)), asyncio.CancelledError)
        assert await call.code() is grpc.StatusCode.CANCELLED
        assert await call.details() == "Locally cancelled by application!"
        assert await call.initial_metadata() is not None
        assert await call.trailing_metadata() is not None
        assert not call.cancel()
        assert await until(lambda: called)
        assert called == [call]

    @pytest.mark.parametrize("kind", KINDS)
    async def test_before_the_first_attempt_has_a_token(self, here: Place, kind: str) -> None:
        slow = Slow(here)
        slow.count = 1
        async with here.aio_stub(BearerAuth(slow)) as stub:
            here.server.ledger.clear()
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            assert await until(slow.asked.is_set)
            assert call.cancel()

            await self.check(call, called, kind)
            slow.go.set()
            assert len(here.server.ledger) == 0

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("attempt", [1, 2])
    async def test_during_an_attempt(self, here: Place, kind: str, attempt: int) -> None:
        async with here.aio_stub(here.auth()) as stub:
            delay = Delay()
            here.server.faults.clear()
            here.server.script(*([Refuse()] * (attempt - 1)), delay)
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            assert await until(delay.arrived.is_set)
            assert call.cancel()

            await self.check(call, called, kind)
            # The server has seen it too: it stops to wait by itself.
            states = here.server._server._state.rpc_states
            assert await until(lambda: not states)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_between_two_attempts(self, here: Place, kind: str) -> None:
        pause = 0.3
        async with here.aio_stub(here.auth(), retry=RetryPolicy(wait=tenacity.wait_fixed(pause))) as stub:
            here.refuse(Refuse())
            here.server.ledger.clear()
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            assert await until(lambda: "between" in repr(call))
            assert call.cancel()

            await self.check(call, called, kind)
            await asyncio.sleep(pause)  # by the loop that made the pause, and due after it
            await soon(stub.Unary(request()))
            assert len(here.server.ledger) == 2  # nothing came of the pause any more

    @pytest.mark.parametrize("kind", KINDS)
    async def test_while_the_second_attempts_token_is_fetched(self, here: Place, kind: str) -> None:
        slow = Slow(here)
        auth = BearerAuth(slow)
        here.verifier.revoke((await auth.atoken()).value)
        here.refuse()
        async with here.aio_stub(auth) as stub:
            here.server.ledger.clear()
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            assert await until(slow.asked.is_set)
            assert call.cancel()

            await self.check(call, called, kind)
            slow.go.set()
            assert len(here.server.ledger) == 1
            await soon(stub.Unary(request()))  # the late token serves the next call
            assert slow.count == 2

    @pytest.mark.parametrize("kind", [*KINDS, "read", "write"])
    @pytest.mark.parametrize("phase", ["attempt", "pause", "second attempt"])
    async def test_who_cancels_the_task_that_waits_cancels_the_call(self, here: Place, kind: str, phase: str) -> None:
        retry = SLOWLY if phase == "pause" else RetryPolicy()
        async with here.aio_stub(here.auth(), retry=retry) as stub:
            delay = Delay()
            here.server.faults.clear()
            here.server.script(*{"attempt": [delay], "pause": [Refuse()], "second attempt": [Refuse(), delay]}[phase])
            if kind == "read":
                call = stub.ServerStream(request())
                task = asyncio.ensure_future(call.read())
            elif kind == "write":
                call = stub.ClientStream()

                async def writing() -> None:
                    while True:
                        await call.write(request(payload=b"x" * 100_000))

                task = asyncio.ensure_future(writing())
            else:
                call = open_call(stub, kind)

                async def waiting() -> Any:
                    return [m async for m in call] if kind in STREAM_REPLY else await call

                task = asyncio.ensure_future(waiting())
            assert await until(lambda: "between" in repr(call) if phase == "pause" else delay.arrived.is_set())
            await asyncio.sleep(0.02)  # it waits, and goes on waiting
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await soon(task)

            assert await until(call.done)
            assert call.cancelled()

    @pytest.mark.parametrize("refused", [False, True])
    async def test_the_users_async_iterator_is_told(self, here: Place, refused: bool) -> None:
        told: list[type] = []
        asked = asyncio.Event()

        async def endless() -> AsyncIterator[Any]:
            try:
                yield request()
                asked.set()
                await asyncio.sleep(PATIENCE)
            except BaseException as error:
                told.append(type(error))
                raise

        async with here.aio_stub(auth := here.auth()) as stub:
            here.refuse()
            if refused:
                here.revoke(auth)
            here.server.ledger.clear()
            call = stub.ClientStream(endless())
            assert await until(lambda: len(here.server.ledger) == 1 + refused)
            await soon(asked.wait())
            call.cancel()
            assert isinstance(await soon(end_of(call, "ClientStream")), asyncio.CancelledError)

            assert await until(lambda: told == [asyncio.CancelledError])


class TestDeadline:
    """One deadline spans all attempts."""

    @pytest.mark.parametrize("kind", AIO)
    async def test_the_second_attempt_gets_what_the_first_one_left(self, here: Place, kind: str) -> None:
        async with here.aio_stub(here.auth(), retry=RetryPolicy(wait=tenacity.wait_fixed(0.15))) as stub:
            here.refuse(Refuse())
            here.server.ledger.clear()
            assert await soon(AIO[kind](stub, timeout=3)) == expected(kind)

        _, second = here.server.ledger
        assert 0 < second.time_left < 2.87  # 2.85, that is; gRPC rounds up, but never by as much as the pause

    @pytest.mark.parametrize("door", DOORS)
    @pytest.mark.parametrize("kind", ["unary", "server_stream"])
    async def test_a_refresh_that_hangs_ends_the_call_on_time(self, here: Place, kind: str, door: str) -> None:
        slow = Slow(here)
        auth = BearerAuth(slow)
        here.verifier.revoke((await auth.atoken()).value)
        here.refuse()
        async with AIO_DOORS[door](here.server.target, here.credentials, auth) as stub:
            begin = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                await soon(AIO[kind](stub, timeout=0.4))
            took = time.monotonic() - begin
            slow.go.set()  # only now: the call has ended while the refresh hung

        assert slow.asked.is_set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.35 <= took < PATIENCE / 2


# ---------------------------------------------------------------------------------------------------- hidden status

WHERE = [{}, {"when": "headers"}, {"after_requests": 1}, {"after_requests": 3}]
RACES = int(os.environ.get("GRPC_BEARER_RACES", "2000"))


class TestHiddenStatus:
    """grpc.aio shows INTERNAL for a stream refused while the client still wrote; the server's is what counts."""

    @pytest.mark.parametrize("retry", [RetryPolicy(), None], ids=["retry", "no retry"])
    @pytest.mark.parametrize("style", ["iterator", "async iterator", "write"])
    @pytest.mark.parametrize("kind", ["ClientStream", "BidiStream"])
    async def test_every_error_is_the_servers(
        self, here: Place, kind: str, style: str, retry: RetryPolicy | None
    ) -> None:
        runs = max(RACES // 12, 1)
        errors: Counter[Any] = Counter()
        async with here.aio_stub(here.auth(), retry=retry) as stub:
            here.refuse()
            await soon(stub.Unary(request()))
            for run in range(runs):
                where: dict[str, Any] = WHERE[run % len(WHERE)]
                here.refuse(*[Refuse(details="theirs", trailing=[("from", "server")], **where)] * 2)
                error = await asyncio.wait_for(self.refused(stub, kind, style), PATIENCE)
                errors[
                    type(error), error.code(), error.details(), dict(tuple(error.trailing_metadata())).get("from")
                ] += 1

        assert errors == {(grpc.aio.AioRpcError, UNAUTHENTICATED, "theirs", "server"): runs}

    async def refused(self, stub: Any, kind: str, style: str) -> Any:
        async def many() -> AsyncIterator[Any]:
            for index in range(100):
                yield request(index, b"x" * 100)

        seen: list[Any] = []
        if style == "write":
            call = getattr(stub, kind)()
            try:
                async for message in many():
                    await call.write(message)
                await call.done_writing()
            except asyncio.InvalidStateError:
                pass
            except grpc.aio.AioRpcError as error:
                seen.append(error)
        elif style == "iterator":
            call = getattr(stub, kind)([request(index, b"x" * 100) for index in range(100)])
        else:
            call = getattr(stub, kind)(many())
        error = await (end_of_reading(call) if kind == "BidiStream" and style == "write" else end_of(call, kind))
        assert isinstance(error, grpc.aio.AioRpcError)
        assert {(each.code(), each.details()) for each in seen} <= {(error.code(), error.details())}
        assert (await call.code(), await call.details()) == (error.code(), error.details())
        return error

    @pytest.mark.parametrize("retry", [RetryPolicy(), None], ids=["retry", "no retry"])
    async def test_messages_that_came_before_it_are_not_lost(self, here: Place, retry: RetryPolicy | None) -> None:
        async with here.aio_stub(here.auth(), retry=retry) as stub:
            for _ in range(50):
                here.refuse(Refuse(details="theirs", after_replies=2))
                call = stub.BidiStream()
                with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                    for index in range(50):
                        await soon(call.write(request(index)))
                got = [(await soon(call.read())).index, (await soon(call.read())).index]
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await soon(call.read())

                assert got == [0, 1]
                assert (caught.value.code(), caught.value.details()) == (UNAUTHENTICATED, "theirs")


async def end_of_reading(call: Any) -> Any:
    try:
        await read_all(call)
    except grpc.RpcError as error:
        return error
    return None


# ------------------------------------------------------------------------------------------------------- concurrency


class Gatekeeper:
    """Refuses nobody before so many have come with a token that it does not know."""

    def __init__(self, verifier: OpaqueVerifier, count: int) -> None:
        self._verifier = verifier
        self._barrier = threading.Barrier(count)

    def verify(self, metadata: Any, method: str) -> Any:
        verdict = self._verifier.verify(metadata, method)
        if verdict.refusal is not None:
            self._barrier.wait(PATIENCE)
        return verdict


async def test_two_hundred_calls_that_fail_with_one_token_cost_one_fetch() -> None:
    """Threads, futures and asyncio together; and all are healed."""
    verifier = OpaqueVerifier([])
    auth = BearerAuth(mint := Mint(verifier))
    with ProbeServer(Gatekeeper(verifier, 200), TLS, workers=256) as server, ThreadPoolExecutor(60) as pool:
        credentials = server.channel_credentials()
        async with grpc_bearer.aio.secure_channel(server.target, credentials, auth=auth) as channel:
            with grpc_bearer.secure_channel(server.target, credentials, auth=auth) as sync_channel:
                stub, sync = ProbeStub(channel), ProbeStub(sync_channel)
                await soon(stub.Unary(request()))
                await asyncio.to_thread(sync.Unary, request())
                server.ledger.clear()
                verifier.revoke(auth.token().value)
                loop = asyncio.get_running_loop()
                blocking = [loop.run_in_executor(pool, sync.Unary, request(7)) for _ in range(60)]
                futures = [sync.Unary.future(request(7)) for _ in range(70)]
                coming = [stub.Unary(request(7)) for _ in range(70)]
                replies = await soon(asyncio.gather(*blocking, *coming))
                replies += [await asyncio.to_thread(future.result, PATIENCE) for future in futures]

    assert len(replies) == 200
    assert all(list(reply.indexes) == [7] for reply in replies)
    assert (len(server.ledger.refused), len(server.ledger.accepted)) == (200, 200)
    assert len(mint.minted) == 2
