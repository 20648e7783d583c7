"""Request streams that are refused: sent again whole and as they were, or not at all; never cut, doubled or altered.

What the server got is read from its ledger (indexes, attempt by attempt) and from the digest of payloads in its reply.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import tenacity
from _refusing import (
    PATIENCE,
    STREAM_REPLY,
    UNAUTHENTICATED,
    Place,
    Side,
    read_all,
    request,
    requests,
    same,
    soon,
)
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

import grpc_bearer
from grpc_bearer import RetryPolicy
from grpc_bearer.testing import ProbeReply, ProbeRequest, ProbeStub, Refuse

#: How many cases the property tests try; more for a night.
EXAMPLES = int(os.environ.get("GRPC_BEARER_STREAM_EXAMPLES", "100"))
PROPERTY = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def plain(here: Place) -> Iterator[grpc.Channel]:
    with grpc.secure_channel(here.server.target, here.credentials) as channel:
        yield channel


# --------------------------------------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Case:
    """A stream, how it is refused, and what may be kept of it."""

    sizes: list[int]
    refusals: list[tuple[str, int]]
    attempts: int
    replay_messages: int
    replay_bytes: int
    style: str
    pauses: bool

    @property
    def sent(self) -> list[ProbeRequest]:
        return [request(index, bytes([index % 256]) * size) for index, size in enumerate(self.sizes)]

    @property
    def faults(self) -> list[Refuse]:
        made = []
        for number, (where, count) in enumerate(self.refusals):
            how = {"when": where} if where in ("start", "headers") else {where: count}
            made.append(Refuse(details=f"refusal {number}", trailing=[("number", str(number))], **how))
        return made

    @property
    def policy(self) -> RetryPolicy:
        return RetryPolicy(
            stop=tenacity.stop_after_attempt(self.attempts),
            replay_messages=self.replay_messages,
            replay_bytes=self.replay_bytes,
        )

    def met(self, *, bidi: bool) -> list[tuple[str, int]]:
        """The refusals that such a call would meet if it were tried again for ever."""
        sizes = len(self.sizes)
        met = []
        for where, count in self.refusals:
            if where == "after_requests" and count > sizes:
                break  # let through
            if where == "after_replies" and (not bidi or count > sizes):
                break
            met.append((where, count))
        return met

    @property
    def fits(self) -> bool:
        """Whether all of the stream may be kept, whatever the time of the refusal."""
        sent = self.sent
        total = sum(message.ByteSize() for message in sent)
        return len(sent) <= self.replay_messages and total <= self.replay_bytes


WHERE = st.one_of(
    st.sampled_from([("start", 0), ("headers", 0)]), st.tuples(st.just("after_requests"), st.integers(1, 12))
)
WHERE_BIDI = st.one_of(WHERE, st.tuples(st.just("after_replies"), st.integers(1, 6)))


def sized(most: int, size: st.SearchStrategy[int]) -> st.SearchStrategy[list[int]]:
    # Of every length alike: left to itself, hypothesis mostly makes short ones.
    return st.integers(0, most).flatmap(lambda count: st.lists(size, min_size=count, max_size=count))


def cases(*styles: str, where: st.SearchStrategy[tuple[str, int]] = WHERE) -> st.SearchStrategy[Case]:
    return st.builds(
        Case,
        sizes=st.one_of(sized(20, st.integers(0, 300)), sized(40, st.just(5)), sized(12, st.just(20_000))),
        refusals=st.lists(where, min_size=1, max_size=3) | st.just([]),
        attempts=st.sampled_from([2, 2, 3, 4, 1]),
        replay_messages=st.sampled_from([1000, 1000, 1000, 1000, 0, 5, 15]),
        replay_bytes=st.sampled_from([4 << 20, 4 << 20, 4 << 20, 0, 2000]),
        style=st.sampled_from(styles),
        pauses=st.booleans(),
    )


def generated(case: Case) -> Iterator[ProbeRequest]:
    """The requests as new messages, or as one message that is filled again and again."""
    pause = threading.Event()
    one = ProbeRequest()
    for message in case.sent:
        if case.pauses and message.index % 3 == 0:
            pause.wait(0.002)  # so that refusals come before, between and after requests
        if case.style.startswith("mutable"):
            one.CopyFrom(message)
            yield one
            one.index, one.payload = 999, b"altered"
        else:
            yield message


def judge(here: Place, case: Case, end: Any, replies: list[ProbeReply], *, bidi: bool) -> None:
    """Whether what the user saw and what the server saw may be."""
    attempts = here.server.ledger.attempts
    event(f"{'refused' if end else 'answered'} after {len(attempts)} attempts")
    indexes = [message.index for message in case.sent]
    met = case.met(bidi=bidi)
    for attempt in attempts:
        assert attempt.requests == indexes[: len(attempt.requests)]  # in order, none lost, none doubled
    for attempt in attempts[:-1]:
        assert not attempt.accepted
    assert len(attempts) <= min(case.attempts, len(met) + 1)

    def shows(where: tuple[str, int]) -> bool:
        """Whether a reply goes out before that refusal; never retried then."""
        return bidi and (where[0] == "after_replies" or (where[0] == "after_requests" and where[1] > 1))

    if end is None:
        assert len(attempts) == len(met) + 1
        assert not any(map(shows, met))
        assert attempts[-1].accepted
        assert attempts[-1].requests == indexes
        if replies or not bidi:
            assert same(replies[-1], case.sent)
        if bidi:
            assert [reply.count for reply in replies] == [index + 1 for index in indexes]
        return
    number = len(attempts) - 1  # the last attempt's error, whole
    assert (end.code(), end.details()) == (UNAUTHENTICATED, f"refusal {number}")
    assert ("number", str(number)) in list(end.trailing_metadata())
    assert shows(met[number]) or len(attempts) == case.attempts or not case.fits
    assert bool(replies) <= shows(met[number])
    if shows(met[number]):
        assert [reply.count for reply in replies] == [index + 1 for index in indexes[: len(replies)]]


# -------------------------------------------------------------------------------------------------------------- sync


class TestSyncProperties:
    """Whatever the stream, the refusals and the bounds."""

    def stub(self, here: Place, plain: grpc.Channel, case: Case, *, warm: bool) -> Any:
        stub = ProbeStub(grpc_bearer.intercept_channel(plain, here.auth(), retry=case.policy))
        here.refuse()
        if warm:
            stub.Unary(request(), timeout=PATIENCE)
        here.server.ledger.clear()
        here.refuse(*case.faults)
        return stub

    @PROPERTY
    @given(cases("new", "mutable", "new/with_call", "mutable/future"), st.booleans())
    def test_trap_23_client_streams(self, here: Place, plain: grpc.Channel, case: Case, warm: bool) -> None:
        stub = self.stub(here, plain, case, warm=warm)
        replies, end = [], None
        try:
            if case.style.endswith("with_call"):
                replies = [stub.ClientStream.with_call(generated(case), timeout=PATIENCE)[0]]
            elif case.style.endswith("future"):
                replies = [stub.ClientStream.future(generated(case), timeout=PATIENCE).result()]
            else:
                replies = [stub.ClientStream(generated(case), timeout=PATIENCE)]
        except grpc.RpcError as error:
            end = error

        judge(here, case, end, replies, bidi=False)

    @PROPERTY
    @given(cases("new", "mutable", where=WHERE_BIDI), st.booleans())
    def test_streams_both_ways(self, here: Place, plain: grpc.Channel, case: Case, warm: bool) -> None:
        stub = self.stub(here, plain, case, warm=warm)
        replies, end = [], None
        try:
            for reply in stub.BidiStream(generated(case), timeout=PATIENCE):
                replies.append(reply)
        except grpc.RpcError as error:
            end = error

        judge(here, case, end, replies, bidi=True)


# ----------------------------------------------------------------------------------------------------------- asyncio


async def generated_async(case: Case) -> AsyncIterator[ProbeRequest]:
    for message in generated(case):
        await asyncio.sleep(0.001 if case.pauses and message.index % 4 == 0 else 0)
        yield message


async def write(call: Any, case: Case) -> None:
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        for message in generated(case):
            await call.write(message)
        await call.done_writing()


class TestAsyncioProperties:
    """The same, with iterators, async iterators, and message by message."""

    def run(self, here: Place, case: Case, warm: bool, play: Callable[[Any], Any]) -> tuple[Any, list[ProbeReply]]:
        async def main() -> tuple[Any, list[ProbeReply]]:
            async with here.aio_stub(here.auth(), retry=case.policy) as stub:
                here.refuse()
                if warm:
                    await stub.Unary(request(), timeout=PATIENCE)
                here.server.ledger.clear()
                here.refuse(*case.faults)
                replies: list[ProbeReply] = []
                try:
                    await asyncio.wait_for(play(stub)(replies), PATIENCE)
                except grpc.aio.AioRpcError as error:
                    return error, replies
                return None, replies

        return asyncio.run(main())

    @PROPERTY
    @given(cases("new", "mutable", "new/async", "mutable/async", "new/write", "mutable/write"), st.booleans())
    def test_trap_23_client_streams(self, here: Place, case: Case, warm: bool) -> None:
        def play(stub: Any) -> Any:
            async def played(replies: list[ProbeReply]) -> None:
                if case.style.endswith("write"):
                    call = stub.ClientStream()
                    await write(call, case)
                else:
                    make = generated_async if case.style.endswith("async") else generated
                    call = stub.ClientStream(make(case))
                replies.append(await call)

            return played

        judge(here, case, *self.run(here, case, warm, play), bidi=False)

    @PROPERTY
    @given(
        cases("new", "mutable/async", "new/write", "mutable/write", "new/lockstep", where=WHERE_BIDI),
        st.booleans(),
        st.booleans(),
    )
    def test_streams_both_ways(self, here: Place, case: Case, warm: bool, iterate: bool) -> None:
        def play(stub: Any) -> Any:
            async def played(replies: list[ProbeReply]) -> None:
                if case.style.endswith("lockstep"):
                    await lockstep(stub.BidiStream(), case, replies)
                    return
                if case.style.endswith("write"):
                    call = stub.BidiStream()
                    writing = asyncio.ensure_future(write(call, case))
                else:
                    make = generated_async if case.style.endswith("async") else generated
                    call = stub.BidiStream(make(case))
                    writing = asyncio.ensure_future(asyncio.sleep(0))
                try:
                    if iterate and not case.style.endswith("write"):
                        async for reply in call:
                            replies.append(reply)
                    else:
                        while (reply := await call.read()) is not grpc.aio.EOF:
                            replies.append(reply)
                finally:
                    await writing

            return played

        judge(here, case, *self.run(here, case, warm, play), bidi=True)


async def lockstep(call: Any, case: Case, replies: list[ProbeReply]) -> None:
    for message in generated(case):
        with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            await call.write(message)
        reply = await call.read()
        if reply is grpc.aio.EOF:
            break
        replies.append(reply)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


# ------------------------------------------------------------------------------------------------------------ bounds


class TestBounds:
    """What is kept is bounded in messages and in bytes; beyond, the original error surfaces."""

    @pytest.mark.parametrize(
        ("count", "how", "healed"),
        [
            (5, {"replay_messages": 5}, True),
            (6, {"replay_messages": 5}, False),
            (3, {"replay_bytes": 3 * 1004}, True),
            (4, {"replay_bytes": 4 * 1004 - 1}, False),
            (1, {"replay_messages": 0}, False),
            (1, {"replay_bytes": 0}, False),
        ],
    )
    @pytest.mark.parametrize("warm", [False, True])
    def test_a_stream_is_sent_again_up_to_the_bound(
        self, here: Place, count: int, how: dict[str, int], healed: bool, warm: bool
    ) -> None:
        sent = [request(index + 1, b"x" * 999) for index in range(count)]
        assert {message.ByteSize() for message in sent} == {1004}
        with here.stub(here.auth(), retry=RetryPolicy(**how)) as stub:
            here.refuse()
            if warm:
                stub.Unary(request())
            here.server.ledger.clear()
            here.refuse(Refuse(details="no", after_requests=count))
            if healed:
                assert same(stub.ClientStream(iter(sent)), sent)
                return
            with pytest.raises(grpc.RpcError) as caught:
                stub.ClientStream(iter(sent))

        assert (caught.value.code(), caught.value.details()) == (UNAUTHENTICATED, "no")
        assert len(here.server.ledger) == 1
        assert "taken back" in str(caught.value.__cause__)

    def test_the_default_bound_is_generous(self, here: Place) -> None:
        sent = [request(index, b"x" * 4000) for index in range(1000)]
        with here.stub(here.auth()) as stub:
            here.refuse(Refuse(after_requests=1000))
            assert same(stub.ClientStream(iter(sent)), sent)

    def test_the_token_of_a_stream_past_its_bound_is_given_up_all_the_same(self, here: Place) -> None:
        auth = here.auth()
        with here.stub(auth, retry=RetryPolicy(replay_messages=0)) as stub:
            here.refuse()
            here.revoke(auth)
            with pytest.raises(grpc.RpcError):
                stub.ClientStream(iter(requests()))
            here.server.ledger.clear()
            stub.Unary(request())

        assert [attempt.accepted for attempt in here.server.ledger] == [True]

    @pytest.mark.parametrize("kind", STREAM_REPLY)
    @pytest.mark.parametrize("warm", [False, True])
    def test_after_the_first_message_a_stream_is_never_made_again(
        self, here: Place, calls: Side, kind: str, warm: bool
    ) -> None:
        with calls.way("secure_channel", here, here.auth()) as stub:
            here.refuse()
            if warm:
                calls.make("unary", stub)
            here.server.ledger.clear()
            here.refuse(Refuse(details="enough", after_replies=1, trailing=[("t", "1")]))
            call = calls.open(stub, kind)
            assert calls.next(call).index == 0
            with pytest.raises(grpc.RpcError) as caught:
                calls.next(call)

            assert (caught.value.code(), caught.value.details()) == (UNAUTHENTICATED, "enough")
            assert (call.code(), call.details(), len(here.server.ledger)) == (UNAUTHENTICATED, "enough", 1)
            assert ("t", "1") in list(call.trailing_metadata())


# ----------------------------------------------------------------------------------------------- what the caller does


class TestChangedRequests:
    """What the caller does to a request after the call was made is theirs alone."""

    @pytest.mark.parametrize("path", ["cold", "warm"])
    @pytest.mark.parametrize("way", ["secure_channel", "intercept_channel", "wrap_stub", "interceptor"])
    def test_a_request_changed_after_the_call_was_made(self, here: Place, calls: Side, way: str, path: str) -> None:
        auth = here.auth()
        with calls.way(way, here, auth) as stub:
            here.refuse()
            if path == "warm":
                calls.make("unary", stub)
            for kind in ("Unary", "ServerStream"):
                here.revoke(auth)
                mine = request(1, b"mine", replies=1)
                call = calls.open(stub, kind, mine)
                mine.index, mine.payload = 9, b"changed"
                assert same(calls.replies(call, kind)[0], [request(1, b"mine")])

    async def test_a_message_changed_after_it_was_written(self, here: Place) -> None:
        auth = here.auth()
        async with here.aio_stub(auth) as stub:
            here.refuse(Refuse(after_requests=3))
            call = stub.ClientStream()
            one = ProbeRequest()
            for message in (sent := requests(5)):
                one.CopyFrom(message)
                await soon(call.write(one))
                one.index, one.payload = 99, b"changed"
            await soon(call.done_writing())

            assert same(await soon(call), sent)


class TestGenerators:
    """The caller's iterator is asked once for each message, whatever becomes of the attempts."""

    @pytest.mark.parametrize("kind", ["ClientStream", "BidiStream"])
    def test_a_slow_iterator_is_asked_once_for_each_message(self, here: Place, kind: str) -> None:
        auth = here.auth()
        with here.stub(auth) as stub:
            here.refuse()
            here.revoke(auth)
            here.server.ledger.clear()
            asked = []

            def slow() -> Iterator[ProbeRequest]:
                for message in requests(5):
                    asked.append(message.index)
                    if message.index == 2:  # the first attempt is refused while this is waited for
                        assert here.server.ledger.wait_for(2)
                    yield message

            got = getattr(stub, kind)(slow())
            reply = got if kind == "ClientStream" else list(got)[-1]

        assert same(reply, requests(5))
        assert asked == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("kind", ["ClientStream", "BidiStream"])
    async def test_a_slow_async_iterator_is_asked_once_for_each_message(self, here: Place, kind: str) -> None:
        auth = here.auth()
        async with here.aio_stub(auth) as stub:
            here.refuse()
            here.revoke(auth)
            here.server.ledger.clear()
            asked = []

            async def slow() -> AsyncIterator[ProbeRequest]:
                for message in requests(5):
                    asked.append(message.index)
                    while message.index == 2 and len(here.server.ledger) < 2:
                        await asyncio.sleep(0.001)
                    yield message

            call = getattr(stub, kind)(slow())
            reply = await soon(call) if kind == "ClientStream" else (await soon(read_all(call)))[-1]

            assert same(reply, requests(5))
            assert asked == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("at", [0, 1, 3])
    @pytest.mark.parametrize("refused", [False, True])
    def test_an_iterator_that_raises_ends_the_call_as_it_ends_a_plain_one(
        self, here: Place, at: int, refused: bool
    ) -> None:
        def failing() -> Iterator[ProbeRequest]:
            yield from requests(at)
            if refused:
                assert here.server.ledger.wait_for(2)
            raise KeyError("mine")

        auth = here.auth()
        with here.channel(auth) as channel, here.server.channel() as plain:
            here.refuse()
            token = auth.token().value
            with pytest.raises(grpc.RpcError) as theirs:
                ProbeStub(plain).ClientStream(failing_plainly(at), metadata=[("authorization", f"Bearer {token}")])
            if refused:
                here.revoke(auth)
            here.server.ledger.clear()
            with pytest.raises(grpc.RpcError) as ours:
                ProbeStub(channel).ClientStream(failing(), timeout=PATIENCE)

        assert ours.value.code() is theirs.value.code() is grpc.StatusCode.UNKNOWN
        assert ours.value.details() == theirs.value.details()

    @pytest.mark.parametrize("at", [0, 1, 3])
    @pytest.mark.parametrize("refused", [False, True])
    async def test_an_async_iterator_that_raises_ends_the_call_as_it_ends_a_plain_one(
        self, here: Place, at: int, refused: bool
    ) -> None:
        async def failing() -> AsyncIterator[ProbeRequest]:
            for message in requests(at):
                yield message
            while refused and len(here.server.ledger) < 2:
                await asyncio.sleep(0.001)
            raise KeyError("mine")

        auth = here.auth()
        async with here.aio_stub(auth) as stub:
            here.refuse()
            if refused:
                here.revoke(auth)
            here.server.ledger.clear()
            call = stub.ClientStream(failing())
            with pytest.raises(asyncio.CancelledError):
                await soon(call)
            assert call.cancelled()
            assert await call.code() is grpc.StatusCode.CANCELLED

    def test_an_endless_iterator_is_not_drained_by_a_refusal(self, here: Place) -> None:
        stop = threading.Event()

        def endless() -> Iterator[ProbeRequest]:
            yield request(0)
            stop.wait(PATIENCE)

        auth = here.auth()
        with here.stub(auth, retry=None) as stub:
            here.refuse()
            here.revoke(auth)
            with pytest.raises(grpc.RpcError) as caught:
                stub.ClientStream(endless(), timeout=PATIENCE)
            stop.set()

        assert caught.value.code() is UNAUTHENTICATED


def failing_plainly(at: int) -> Iterator[ProbeRequest]:
    yield from requests(at)
    raise KeyError("mine")
