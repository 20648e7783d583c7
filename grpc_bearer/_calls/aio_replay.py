"""The requests of an asyncio stream as serialised bytes: the asyncio half of `replay`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator

from grpc_bearer._calls.grpc_types import AioRequests, Serializer
from grpc_bearer._calls.replay import Item, Kept, serialise


class AsyncReplayBuffer:
    """The same for asyncio: the requests come from an iterable of the user's, or one by one through `push`.

    Args:
        requests: an iterable or async iterable; `None`: they come through `push`, until `close`.
        serializer: of requests.
        messages: how many are kept at most.
        size: how many bytes of them at most.
        kept: they may be sent again.
    """

    def __init__(
        self,
        requests: AioRequests | None,
        serializer: Serializer | None,
        messages: int,
        size: int,
        *,
        kept: bool = True,
    ) -> None:
        self.pushed = requests is None
        self._requests = None if requests is None else _async_iterator(requests)
        self._serializer = serializer
        self._kept = Kept(messages, size)
        self._kept.whole = kept
        self._asking: tuple[_AsyncReader, asyncio.Task[object] | None] | None = None
        self._end: BaseException | None = None
        self._reader: _AsyncReader | None = None
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def whole(self) -> bool:
        """Whether all of the stream so far can be sent again."""
        return self._kept.whole

    @property
    def closed(self) -> bool:
        """Whether all requests are known."""
        return self._end is not None

    def release(self) -> None:
        """The stream will not be sent again: keep no more of it than has to be kept."""
        self._kept.whole = False

    def rewind(self) -> bool:
        """As `ReplayBuffer.rewind`."""
        self._reader = None
        self.wake()
        return self._kept.whole

    def stop(self) -> None:
        """The call has ended: whoever still wants to read comes to the end."""
        self._reader = None
        self.wake()

    def cancel(self) -> None:
        """The user has cancelled the call. gRPC tells their iterable, unless an earlier attempt still asks it."""
        reader, task = self._asking or (None, None)
        if task is not None and reader is not self._reader:
            task.cancel()

    def reader(self) -> AsyncIterator[Item]:
        """The requests from the first on, for one attempt; an earlier reader comes to its end."""
        self._reader = _AsyncReader(self)
        self.wake()
        return self._reader

    def push(self, request: object) -> int:
        """One more request; returns its position."""
        self._kept.add(serialise(self._serializer, request))
        self.wake()
        return self._kept.first + len(self._kept.items) - 1

    def close(self) -> None:
        """No more requests come."""
        self._end = self._end or StopAsyncIteration()
        self.wake()

    def ended_in(self, task: object) -> bool:
        """Whether it is in this task that the attempt at hand has had all requests."""
        return self._reader is not None and task is not None and self._reader.asker is task

    def passed(self, position: int | None) -> bool:
        """Whether the attempt at hand is through with that request; with the whole stream, for `None`."""
        reader = self._reader
        if reader is None:
            return False
        return reader.ended if position is None else reader.asked >= position + 2

    def wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def change(self) -> None:
        """Until something has changed."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def get(self, reader: _AsyncReader, position: int) -> Item:
        while reader is self._reader:
            kept = self._kept
            if kept.holds(position):
                item = kept.items[position - kept.first]
                kept.drop_before(position + 1)
                return item
            if self._end is not None:
                raise self._end
            if self._requests is None or self._asking is not None:
                await self.change()
            else:
                await self._ask(self._requests, reader)
        raise StopAsyncIteration

    async def _ask(self, requests: AsyncIterator[object], reader: _AsyncReader) -> None:
        self._asking = reader, asyncio.current_task()
        try:
            self._kept.add(serialise(self._serializer, await requests.__anext__()))
        except BaseException as error:
            self._end = error
        finally:
            self._asking = None
            self.wake()


def unkept(requests: AioRequests) -> AsyncReplayBuffer:
    """Requests that cannot be sent again.

    grpc.aio puts a placeholder in the place of the server's status, or cancels the call, when a request cannot be sent;
    only our call looks behind that. So it knows of every request, and not only of those that are kept.
    """
    return AsyncReplayBuffer(requests, None, 0, 0, kept=False)


class _AsyncReader:
    __slots__ = ("_buffer", "asked", "asker", "ended")

    def __init__(self, buffer: AsyncReplayBuffer) -> None:
        self._buffer = buffer
        self.asked = 0  # how often: whoever asks for the next is through with the one before
        self.asker: asyncio.Task[object] | None = None  # who has come to the end
        self.ended = False

    def __aiter__(self) -> _AsyncReader:
        return self

    async def __anext__(self) -> Item:
        position, self.asked = self.asked, self.asked + 1
        self._buffer.wake()
        try:
            return await self._buffer.get(self, position)
        except StopAsyncIteration:
            self.ended, self.asker = True, asyncio.current_task()
            self._buffer.wake()
            raise


async def _async_iterator(requests: AioRequests) -> AsyncIterator[object]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
