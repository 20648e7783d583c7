"""What asyncio alone has of calls that are made again; see `test_retry_calls` for what it shares with sync."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
import tenacity
from _refusing import (
    HANDED_OUT,
    PATIENCE,
    STREAM_REPLY,
    UNAUTHENTICATED,
    Mint,
    Place,
    end_of_aio,
    open_aio,
    read_all,
    request,
    soon,
    tidily,
)
from attachments import TLS
from grpc._cython import cygrpc

import grpc_bearer
from grpc_bearer import BearerAuth, RetryPolicy
from grpc_bearer.testing import Delay, OpaqueVerifier, ProbeServer, ProbeStub, Refuse

# ------------------------------------------------------------------------------------------------ the object in hand

SLOWLY = RetryPolicy(wait=tenacity.wait_fixed(PATIENCE))  # whoever waits for the second attempt waits in vain


@pytest.fixture(autouse=True)
async def tidy(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    async with tidily(caplog):
        yield


async def until(condition: Callable[[], object]) -> bool:
    for _ in range(int(PATIENCE / 0.005)):
        if condition():
            return True
        await asyncio.sleep(0.005)
    return False


class TestCalls:
    """What the user holds is a plain call, in every state."""

    @pytest.mark.parametrize("kind", HANDED_OUT)
    @pytest.mark.parametrize("refusals", [0, 1, 2])
    async def test_callbacks_come_once_with_the_object_the_user_holds(
        self, here: Place, kind: str, refusals: int
    ) -> None:
        async with here.aio_stub(here.auth()) as stub:
            here.refuse(*[Refuse()] * refusals)
            called: list[Any] = []
            call = open_aio(stub, kind)
            call.add_done_callback(called.append)
            await soon(end_of_aio(call, kind))
            assert await until(lambda: called)
            call.add_done_callback(called.append)
            assert await until(lambda: len(called) == 2)

            assert called == [call, call]

    @pytest.mark.parametrize("kind", HANDED_OUT)
    async def test_whoever_asks_first_waits_for_the_last_attempt(self, here: Place, kind: str) -> None:
        async with here.aio_stub(here.auth(), retry=RetryPolicy(wait=tenacity.wait_fixed(0.05))) as stub:
            here.refuse(Refuse(details="no 0"), Refuse(details="no 1", trailing=[("attempt", "1")]))
            call = open_aio(stub, kind)
            answers = await soon(
                asyncio.gather(call.code(), call.details(), call.trailing_metadata(), call.debug_error_string())
            )

            assert answers[:2] == [UNAUTHENTICATED, "no 1"]
            assert ("attempt", "1") in list(answers[2])
            assert "no 1" in answers[3]

    @pytest.mark.parametrize("kind", HANDED_OUT)
    async def test_between_two_attempts_every_question_has_an_answer(self, here: Place, kind: str) -> None:
        async with here.aio_stub(here.auth(), retry=SLOWLY) as stub:
            here.refuse(Refuse())
            call = open_aio(stub, kind, timeout=2 * PATIENCE)
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
    """Who cancels the task that waits cancels the call, and the caller's iterator hears of it."""

    @pytest.mark.parametrize("kind", [*HANDED_OUT, "read", "write"])
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
                call = open_aio(stub, kind)

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
            assert isinstance(await soon(end_of_aio(call, "ClientStream")), asyncio.CancelledError)

            assert await until(lambda: told == [asyncio.CancelledError])


# ---------------------------------------------------------------------------------------------------- hidden status

WHERE = [{}, {"when": "headers"}, {"after_requests": 1}, {"after_requests": 3}]
RACES = int(os.environ.get("GRPC_BEARER_RACES", "600"))


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
        error = await (end_of_reading(call) if kind == "BidiStream" and style == "write" else end_of_aio(call, kind))
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

    @pytest.mark.parametrize("kind", ["ClientStream", "BidiStream"])
    async def test_nor_does_it_count_that_the_end_of_the_requests_could_not_be_sent(
        self, here: Place, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Core may have heard of the call's end before grpc.aio has, which then cancels the call."""

        async def too_late(self: Any) -> None:
            raise cygrpc.ExecuteBatchError("Failed", ())

        async with here.aio_stub(here.auth(), retry=None) as stub:
            here.refuse(Refuse(details="theirs", when="headers"))
            monkeypatch.setattr("grpc.aio._call._StreamRequestMixin._done_writing", too_late)
            call = getattr(stub, kind)()
            await soon(call.done_writing())
            error: Any = await (end_of_reading(call) if kind == "BidiStream" else end_of_aio(call, kind))

        assert (error.code(), error.details()) == (UNAUTHENTICATED, "theirs")


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
