"""The buffer of a request stream: bytes, each serialised once, asked for once, kept within bounds."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpc_bearer._calls.aio_replay import AsyncReplayBuffer
from grpc_bearer._calls.replay import (
    NotReplayable,
    ReplayBuffer,
    Unserialisable,
    passthrough_serializer,
    serialise,
    snapshot,
)
from grpc_bearer.testing import ProbeRequest

PATIENCE = 10.0


def encode(text: str) -> bytes:
    return text.encode()


def buffer(requests: Any, messages: int = 1000, size: int = 10_000) -> ReplayBuffer:
    return ReplayBuffer(requests, encode, messages, size)


class TestItems:
    """What is kept of one request."""

    def test_a_request_is_serialised(self) -> None:
        assert serialise(encode, "a") == b"a"

    def test_without_a_serializer_a_request_is_bytes_already(self) -> None:
        assert serialise(None, b"a") == b"a"
        assert passthrough_serializer(None) is None

    def test_a_request_that_cannot_be_serialised_fails_in_grpcs_own_hands(self) -> None:
        item = serialise(encode, 7)
        through = passthrough_serializer(encode)

        assert isinstance(item, Unserialisable)
        assert through is not None
        assert through(b"a") == b"a"
        with pytest.raises(AttributeError):
            through(item)

    def test_a_snapshot_does_not_change_with_its_original(self) -> None:
        message = ProbeRequest(index=1)
        kept = snapshot(message)
        message.index = 2

        assert kept.index == 1
        assert snapshot(b"bytes") == b"bytes"

    def test_a_stream_that_is_not_kept_is_passed_on_as_it_is(self) -> None:
        requests = iter("ab")
        once = NotReplayable(requests)

        assert once.reader() is requests
        assert not once.rewind()
        once.stop()


def abuffer(requests: Any, messages: int = 1000, size: int = 10_000) -> AsyncReplayBuffer:
    return AsyncReplayBuffer(requests, encode, messages, size)


async def read(reader: Any) -> list[Any]:
    """All that is left, of a reader of either kind."""
    return [item async for item in reader] if hasattr(reader, "__aiter__") else list(reader)


async def first_of(reader: Any) -> Any:
    return await anext(reader) if hasattr(reader, "__aiter__") else next(reader)


async def letters(text: str) -> AsyncIterator[str]:
    for letter in text:
        await asyncio.sleep(0)
        yield letter


@pytest.mark.parametrize("make", [buffer, abuffer], ids=["threads", "asyncio"])
class TestBoth:
    async def test_each_reader_reads_from_the_start(self, make: Any) -> None:
        kept = make(iter("abc"))

        assert await read(kept.reader()) == [b"a", b"b", b"c"]
        assert await read(kept.reader()) == [b"a", b"b", b"c"]

    async def test_an_earlier_reader_comes_to_its_end(self, make: Any) -> None:
        kept = make(iter("abc"))
        first = kept.reader()
        await first_of(first)
        kept.reader()

        assert await read(first) == []

    @pytest.mark.parametrize("release", [False, True])
    async def test_past_the_bound_or_once_released_no_more_is_kept(self, make: Any, release: bool) -> None:
        most = []

        def requests() -> Iterator[str]:
            for index in range(2_000):
                most.append(len(kept._kept.items))
                yield str(index)

        kept = make(requests(), 10, 10**9)
        reader = kept.reader()
        if release:
            kept.release()

        assert len(await read(reader)) == 2_000
        assert max(most) <= (1 if release else 11)

    async def test_the_iterators_error_is_the_readers(self, make: Any) -> None:
        def failing() -> Iterator[str]:
            yield "a"
            raise KeyError("mine")

        kept = make(failing())
        for _ in range(2):
            reader = kept.reader()
            assert await first_of(reader) == b"a"
            with pytest.raises(KeyError):
                await read(reader)


class TestThreads:
    """For sync calls, where each attempt reads on a thread of its own."""

    def test_the_iterator_is_asked_only_as_far_as_somebody_reads(self) -> None:
        asked: list[str] = []
        kept = buffer(asked.append(letter) or letter for letter in "abcd")
        first = kept.reader()
        assert [next(first), next(first)] == [b"a", b"b"]
        second = kept.reader()
        assert [next(second), next(second)] == [b"a", b"b"]

        assert asked == ["a", "b"]

    def test_a_message_that_is_filled_again_is_kept_as_it_was(self) -> None:
        def refilled() -> Iterator[ProbeRequest]:
            message = ProbeRequest()
            for index in range(4):
                message.index = index
                yield message

        kept = ReplayBuffer(refilled(), ProbeRequest.SerializeToString, 10, 1000)
        list(kept.reader())

        assert [ProbeRequest.FromString(bytes(item)).index for item in kept.reader()] == [0, 1, 2, 3]

    def test_after_stop_nobody_reads(self) -> None:
        kept = buffer("abc")
        reader = kept.reader()
        kept.stop()

        assert list(reader) == []

    @pytest.mark.parametrize(
        ("messages", "size", "whole"), [(3, 3, True), (2, 3, False), (3, 2, False), (0, 0, False), (0, 100, False)]
    )
    def test_the_bounds_hold_in_messages_and_in_bytes(self, messages: int, size: int, whole: bool) -> None:
        kept = buffer("abc", messages, size)

        assert list(kept.reader()) == [b"a", b"b", b"c"]
        assert kept.whole is whole

    def test_what_an_ended_attempt_still_asks_for_cannot_break_the_next_one(self) -> None:
        """A second attempt is decided on while the first one's thread is inside the user's iterator."""
        asked, go = threading.Event(), threading.Event()

        def slow() -> Iterator[str]:
            yield "a"
            yield "b"
            asked.set()
            assert go.wait(PATIENCE)
            yield "c"
            yield "d"

        kept = buffer(slow(), messages=2)
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(list, kept.reader())
            assert asked.wait(PATIENCE)
            assert kept.rewind()
            go.set()  # the third message is one more than may be kept
            assert first.result(PATIENCE) == [b"a", b"b"]

        assert list(kept.reader()) == [b"a", b"b", b"c", b"d"]
        assert not kept.rewind()

    def test_what_was_dropped_is_never_read_as_something_else(self) -> None:
        kept = buffer("abcd", messages=1)
        assert list(kept.reader()) == [b"a", b"b", b"c", b"d"]

        with pytest.raises(AssertionError):
            next(kept.reader())

    def test_a_later_reader_waits_for_what_an_earlier_one_asked_for(self) -> None:
        asked, go = threading.Event(), threading.Event()

        def slow() -> Iterator[str]:
            yield "a"
            asked.set()
            assert go.wait(PATIENCE)
            yield "b"
            yield "c"

        kept = buffer(slow())
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(list, kept.reader())
            assert asked.wait(PATIENCE)
            second = pool.submit(list, kept.reader())
            go.set()

            assert second.result(PATIENCE) == [b"a", b"b", b"c"]
            assert first.result(PATIENCE) in ([b"a"], [b"a", b"b"])

    def test_a_reader_that_waits_for_another_ends_with_the_call(self) -> None:
        asked, go = threading.Event(), threading.Event()

        def slow() -> Iterator[str]:
            asked.set()
            assert go.wait(PATIENCE)
            yield "a"

        kept = buffer(slow())
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(list, kept.reader())
            assert asked.wait(PATIENCE)
            second = pool.submit(list, kept.reader())
            kept.stop()

            assert second.result(PATIENCE) == []
            go.set()
            assert first.result(PATIENCE) == []

    @given(st.lists(st.integers(1, 8), min_size=1, max_size=5), st.integers(0, 12))
    def test_whoever_reads_how_far_all_get_the_same(self, depths: list[int], length: int) -> None:
        asked = itertools.count()
        kept = buffer(f"{next(asked)}" for _ in range(length))
        for depth in depths:
            assert list(itertools.islice(kept.reader(), depth)) == [b"%d" % n for n in range(min(depth, length))]

        assert list(kept.reader()) == [b"%d" % n for n in range(length)]
        assert next(asked) == length

    def test_racing_readers_share_one_iterator(self) -> None:
        for _ in range(50):
            kept = buffer(str(n) for n in range(50))
            with ThreadPoolExecutor(4) as pool:
                reads = [pool.submit(list, kept.reader()) for _ in range(4)]
                got = [read.result(PATIENCE) for read in reads]
            whole = [b"%d" % n for n in range(50)]

            assert got[-1] == whole
            assert all(part == whole[: len(part)] for part in got)

    def test_a_buffer_that_nobody_holds_is_gone(self) -> None:
        kept = buffer("abc")
        list(kept.reader())
        gone = weakref.ref(kept)
        del kept
        gc.collect()

        assert gone() is None


async def idle() -> None:
    """Until all tasks have come as far as they can: here nobody waits for more than another task."""
    for _ in range(20):
        await asyncio.sleep(0)


class TestAsyncio:
    """On the event loop, and with requests that are pushed."""

    async def test_each_reader_reads_an_async_iterator_from_the_start(self) -> None:
        kept = abuffer(letters("abc"))

        assert await read(kept.reader()) == [b"a", b"b", b"c"]
        assert await read(kept.reader()) == [b"a", b"b", b"c"]

    async def test_a_later_reader_waits_for_what_an_earlier_one_asked_for(self) -> None:
        go = asyncio.Event()

        async def slow() -> AsyncIterator[str]:
            yield "a"
            await go.wait()
            yield "b"

        kept = abuffer(slow())
        first = asyncio.ensure_future(read(kept.reader()))
        await idle()
        second = asyncio.ensure_future(read(kept.reader()))
        await idle()
        go.set()

        assert await second == [b"a", b"b"]
        assert await first == [b"a"]

    async def test_what_an_ended_attempt_still_asks_for_cannot_break_the_next_one(self) -> None:
        go = asyncio.Event()

        async def slow() -> AsyncIterator[str]:
            yield "a"
            yield "b"
            await go.wait()
            yield "c"
            yield "d"

        kept = AsyncReplayBuffer(slow(), encode, 2, 1000)
        first = asyncio.ensure_future(read(kept.reader()))
        await idle()
        assert kept.rewind()
        go.set()  # the third message is one more than may be kept

        assert await first == [b"a", b"b"]
        assert await read(kept.reader()) == [b"a", b"b", b"c", b"d"]
        assert not kept.rewind()

    async def test_a_cancel_reaches_the_iterable_that_an_earlier_attempt_still_asks(self) -> None:
        told: list[str] = []

        async def slow() -> AsyncIterator[str]:
            try:
                await asyncio.sleep(PATIENCE)
                yield "a"
            except asyncio.CancelledError:
                told.append("cancelled")
                raise

        kept = abuffer(slow())
        first = asyncio.ensure_future(read(kept.reader()))
        await idle()
        kept.reader()
        kept.cancel()

        assert await first == []
        assert told == ["cancelled"]

    async def test_what_is_pushed_is_read_by_each_attempt(self) -> None:
        kept = abuffer(None)
        first = asyncio.ensure_future(read(kept.reader()))
        assert [kept.push("a"), kept.push("b")] == [0, 1]
        await idle()
        assert kept.passed(1)
        second = asyncio.ensure_future(read(kept.reader()))
        kept.push("c")
        kept.close()

        assert await second == [b"a", b"b", b"c"]
        assert await first == [b"a", b"b"]
        assert kept.passed(None)
        assert kept.closed

    async def test_positions_go_on_when_nothing_is_kept(self) -> None:
        kept = abuffer(None, messages=2)
        reading = asyncio.ensure_future(read(kept.reader()))
        positions = []
        for letter in "abcdef":
            positions.append(kept.push(letter))
            await idle()

        assert positions == [0, 1, 2, 3, 4, 5]
        assert len(kept._kept.items) <= 1
        assert not kept.whole
        kept.close()
        assert await reading == [b"a", b"b", b"c", b"d", b"e", b"f"]

    async def test_after_stop_nobody_waits(self) -> None:
        kept = abuffer(None)
        reading = asyncio.ensure_future(read(kept.reader()))
        await idle()
        kept.stop()

        assert await asyncio.wait_for(reading, PATIENCE) == []
        assert not kept.passed(0)
