"""`RetryPolicy.attempts`: a block of the user's own, tried again with another token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
import tenacity
from _refusing import UNAUTHENTICATED, Place, place, request, requests, soon
from google.rpc import error_details_pb2

import grpc_bearer
from grpc_bearer import BearerAuth, RetryPolicy, StaticSource
from grpc_bearer.testing import Refuse

RETRY = RetryPolicy()


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as here:
        here.server.ledger.clear()
        yield here


def tried(policy: RetryPolicy, auth: BearerAuth, block: Callable[[], object], **how: Any) -> tuple[object, int]:
    """What the block gave or raised in the end, and how often it ran."""
    ran = 0
    end: object = None
    try:
        for attempt in policy.attempts(auth, **how):
            with attempt:
                ran += 1
                assert attempt.number == ran
                end = block()
    except grpc.RpcError as error:
        end = error
    return end, ran


async def tried_async(policy: RetryPolicy, auth: BearerAuth, call: Callable[[], Any]) -> tuple[Any, int]:
    ran = 0
    end: Any = None
    try:
        async for attempt in policy.attempts(auth):
            with attempt:
                ran += 1
                end = await soon(call())
    except grpc.RpcError as error:
        end = error
    return end, ran


class TestSync:
    """`for`."""

    def test_a_block_that_succeeds_runs_once(self, here: Place) -> None:
        here.refuse()
        with here.stub(auth := here.auth(), retry=None) as stub:
            reply, ran = tried(RETRY, auth, lambda: stub.Unary(request(4)))

        assert (list(reply.indexes), ran) == ([4], 1)

    def test_a_block_that_was_refused_runs_again_with_another_token(self, here: Place) -> None:
        with here.stub(auth := here.auth(), retry=None) as stub:
            here.revoke(auth)
            reply, ran = tried(RETRY, auth, lambda: stub.Unary(request(4)))

        assert (list(reply.indexes), ran) == ([4], 2)
        assert len(here.minted(auth)) == 2

    def test_a_stream_cut_midway_is_read_again_from_its_start(self, here: Place) -> None:
        read: list[list[int]] = []

        def block() -> None:
            read.append([])
            for reply in stub.ServerStream(request(replies=4)):
                read[-1].append(reply.index)

        with here.stub(auth := here.auth()) as stub:
            here.refuse(Refuse(after_replies=2, details="the session has ended"))
            _, ran = tried(RETRY, auth, block)

        assert ran == 2
        assert read == [[0, 1], [0, 1, 2, 3]]

    def test_a_block_may_hold_several_calls_and_streams_both_ways(self, here: Place) -> None:
        def block() -> list[int]:
            stub.Unary(request())
            return [reply.count for reply in stub.BidiStream(iter(requests(4)))]

        with here.stub(auth := here.auth(), retry=None) as stub:
            here.refuse(None, Refuse(after_requests=2))
            counts, ran = tried(RETRY, auth, block)

        assert (counts, ran) == ([1, 2, 3, 4], 2)

    @pytest.mark.parametrize(
        ("policy", "refusal", "ran"),
        [
            (RetryPolicy(), Refuse(), 2),
            (RetryPolicy(stop=tenacity.stop_after_attempt(4)), Refuse(), 4),
            (RetryPolicy(stop=tenacity.stop_never), Refuse(), 10),
            (RetryPolicy(), Refuse(grpc.StatusCode.PERMISSION_DENIED), 1),
            (RetryPolicy(codes=[grpc.StatusCode.PERMISSION_DENIED]), Refuse(grpc.StatusCode.PERMISSION_DENIED), 2),
            (RetryPolicy(), Refuse(rich=error_details_pb2.ErrorInfo(reason="API_KEY_INVALID")), 1),
            (RetryPolicy(retry_if=lambda error: error.details() == ""), Refuse(grpc.StatusCode.UNKNOWN), 2),
        ],
    )
    def test_the_policy_decides_how_often(self, here: Place, policy: RetryPolicy, refusal: Refuse, ran: int) -> None:
        with here.stub(auth := here.auth(), retry=None) as stub:
            here.refuse(*[refusal] * 12)
            error, times = tried(policy, auth, lambda: stub.Unary(request()))

        assert isinstance(error, grpc.RpcError)
        assert (error.code(), times) == (refusal.code, ran)

    def test_the_error_that_passes_through_is_the_last_attempts_own(self, here: Place) -> None:
        with here.stub(auth := here.auth(), retry=None) as stub:
            here.refuse(Refuse(details="1"), Refuse(details="2"))
            error, _ = tried(RETRY, auth, lambda: stub.Unary(request()))

        assert isinstance(error, grpc.RpcError)
        assert error.details() == "2"

    def test_other_exceptions_pass_through(self, here: Place) -> None:
        def fail() -> None:
            raise KeyError("mine")

        with pytest.raises(KeyError):
            tried(RETRY, here.auth(), fail)

    def test_an_rpc_error_that_says_nothing_passes_through(self, here: Place) -> None:
        def fail() -> None:
            raise grpc.RpcError

        error, ran = tried(RETRY, here.auth(), fail)

        assert (type(error), ran) == (grpc.RpcError, 1)

    def test_a_token_that_cannot_change_is_not_tried_again(self, here: Place) -> None:
        auth = BearerAuth(StaticSource("nobody-knows-me"))
        with here.stub(auth, retry=None) as stub:
            here.server.ledger.clear()
            error, ran = tried(RETRY, auth, lambda: stub.Unary(request()))

        assert isinstance(error, grpc.RpcError)
        assert (ran, len(here.server.ledger)) == (1, 1)

    def test_an_error_of_our_own_is_not_tried_again(self, here: Place) -> None:
        def fail() -> str:
            raise OSError("no such endpoint")

        auth = BearerAuth(fail)
        with here.stub(auth) as stub:
            error, ran = tried(RetryPolicy(codes=list(grpc.StatusCode)), auth, lambda: stub.Unary(request()))

        assert isinstance(error, grpc.RpcError)
        assert isinstance(error.__cause__, grpc_bearer.TokenUnavailableError)
        assert ran == 1

    def test_pauses_are_made_and_bounded_by_the_timeout(self, here: Place) -> None:
        policy = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_fixed(0.1))
        with here.stub(auth := here.auth(), retry=None) as stub:
            here.refuse(*[Refuse()] * 12)
            error, ran = tried(policy, auth, lambda: stub.Unary(request()), timeout=0.35)

        assert isinstance(error, grpc.RpcError)  # the thirteenth would be let through
        assert 2 <= ran <= 4

    def test_a_return_out_of_the_block_ends_it(self, here: Place) -> None:
        def use() -> str:
            for attempt in RETRY.attempts(here.auth()):
                with attempt:
                    return "done"
            return "never"

        assert use() == "done"

    def test_single_use_tokens_are_tried_again_too(self, here: Place) -> None:
        class Once(grpc_bearer.Source):
            single_use = local = True
            minted = 0

            def fetch(self, context: grpc_bearer.CallContext) -> grpc_bearer.Token:
                self.minted += 1
                here.verifier.accept(token := f"once-{self.minted}")
                return grpc_bearer.Token(token, single_use=True)

        auth = BearerAuth(source := Once())
        with here.stub(auth, retry=None) as stub:
            here.refuse(Refuse())
            _, ran = tried(RETRY, auth, lambda: stub.Unary(request()))

        assert (ran, source.minted) == (2, 2)

    def test_keyed_sources_give_up_the_right_token(self, here: Place) -> None:
        minted: list[str] = []

        class ByMethod(grpc_bearer.Source):
            def key(self, context: grpc_bearer.CallContext) -> str:
                return context.method

            def fetch(self, context: grpc_bearer.CallContext) -> grpc_bearer.Token:
                minted.append(f"{context.method}-{len(minted)}")
                here.verifier.accept(minted[-1])
                return grpc_bearer.Token(minted[-1])

        auth = BearerAuth(ByMethod())
        with here.stub(auth, retry=None) as stub:
            stub.Unary(request())
            list(stub.ServerStream(request()))
            here.refuse(Refuse(), method="Unary")
            _, ran = tried(RETRY, auth, lambda: stub.Unary(request()), method="Unary")

        assert ran == 2
        assert minted == ["Unary-0", "ServerStream-1", "Unary-2"]


class TestAsyncio:
    """`async for`."""

    async def test_a_block_that_was_refused_runs_again_with_another_token(self, here: Place) -> None:
        here.refuse()
        ran = 0
        async with here.aio_stub(auth := here.auth(), retry=None) as stub:
            here.revoke(auth)
            async for attempt in RETRY.attempts(auth):
                with attempt:
                    ran += 1
                    reply = await soon(stub.Unary(request(4)))

        assert (list(reply.indexes), ran, len(here.minted(auth))) == ([4], 2, 2)

    async def test_a_stream_cut_midway_is_read_again_from_its_start(self, here: Place) -> None:
        read: list[list[int]] = []
        async with here.aio_stub(auth := here.auth()) as stub:
            here.refuse(Refuse(after_replies=2))
            async for attempt in RETRY.attempts(auth):
                with attempt:
                    read.append([])
                    async for reply in stub.ServerStream(request(replies=4)):
                        read[-1].append(reply.index)

        assert read == [[0, 1], [0, 1, 2, 3]]

    async def test_what_is_refused_again_passes_through(self, here: Place) -> None:
        async with here.aio_stub(auth := here.auth(), retry=None) as stub:
            here.refuse(Refuse(details="1"), Refuse(details="2"))
            error, ran = await tried_async(RETRY, auth, lambda: stub.Unary(request()))

        assert (error.code(), error.details(), ran) == (UNAUTHENTICATED, "2", 2)

    async def test_an_error_of_our_own_is_not_tried_again(self, here: Place) -> None:
        async def fail() -> str:
            raise OSError("no such endpoint")

        policy = RetryPolicy(codes=list(grpc.StatusCode))
        async with here.aio_stub(auth := BearerAuth(fail)) as stub:
            error, ran = await tried_async(policy, auth, lambda: stub.Unary(request()))

        assert isinstance(error.__cause__, grpc_bearer.TokenUnavailableError)
        assert ran == 1

    async def test_a_return_out_of_the_block_leaves_nothing_behind(self, here: Place) -> None:
        async def use() -> str:
            async for attempt in RETRY.attempts(here.auth()):
                with attempt:
                    return "done"
            return "never"

        assert await use() == "done"
