"""The four kinds of asyncio call: what each adds to `AioCall`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from grpc import aio

from grpc_bearer._calls.aio_call import ENDS, AioCall
from grpc_bearer._calls.aio_errors import FINISHED, Broken, Ended, explain_loop
from grpc_bearer._calls.aio_replay import AsyncReplayBuffer
from grpc_bearer._calls.attach_token import Carrier
from grpc_bearer._calls.grpc_private import raw_read
from grpc_bearer._calls.grpc_types import AnyAioCall, Asked, Awaiting

# Where type-arg is ignored: generic in gRPC's stubs only, not when the program runs.

# gRPC's own words.
_HALF_CLOSED = 'RPC is half closed after calling "done_writing".'


class _UnaryResponse(AioCall):
    _how_to_ask = "reply = await stub.Method(…)"

    def __await__(self) -> Awaiting[Any]:
        while True:
            inner = self._inner
            if inner is None:
                inner = yield from self._or_cancel(self._live()).__await__()
            try:
                return (yield from inner.__await__())
            except ENDS as error:
                if (yield from self._counts(inner, error).__await__()):
                    raise
            except RuntimeError as error:
                explain_loop(error)
                raise


class _StreamResponse(AioCall):
    _how_to_ask = "async for reply in stub.Method(…)"

    _messages: AsyncIterator[object] | None = None
    _receiving = False  # a message is being waited for
    _rest: asyncio.Task[deque[object]] | None = None  # messages that the user has not asked for yet
    _came = False  # one of them, since it was looked for the status last

    def _take(self, inner: AnyAioCall, carrier: Carrier) -> None:
        if not self._seen:
            self._rest = None
        super()._take(inner, carrier)

    def _lost(self) -> None:
        # What was read until now is still for the user; more does not come.
        if self._rest is not None:
            self._rest.cancel()

    def _make_way(self, inner: AnyAioCall) -> bool:
        # Core keeps the status back until every message before it was read, and grpc.aio's own `read` reads no more.
        if self._rest is None and not self._receiving and (read := raw_read(inner)) is not None:
            self._rest = self._loop.create_task(self._read_rest(read))
        came, self._came = self._came, False
        return came

    async def _read_rest(self, read: Callable[[], Awaitable[object]]) -> deque[object]:
        rest: deque[object] = deque()
        with contextlib.suppress(asyncio.CancelledError):  # by `_lost`
            while (message := await read()) is not aio.EOF:
                self._first()
                self._came = True
                rest.append(message)
        return rest

    async def _receive(self, receive: Callable[[], Awaitable[object]]) -> object:
        """The next message, or EOF."""
        if self._rest is not None and (rest := await asyncio.shield(self._rest)):
            return rest.popleft()
        self._receiving = True
        try:
            message = await receive()
        except RuntimeError as error:
            explain_loop(error)
            raise
        finally:
            self._receiving = False
        if message is not aio.EOF:
            self._first()
        return message

    def __aiter__(self) -> AsyncIterator[object]:
        if self._messages is None:
            # Asked for now and not with the first message: from here on a plain call refuses read().
            self._messages = self._iterate(self._inner, None if self._inner is None else self._inner.__aiter__())
        return self._messages

    async def _iterate(self, inner: Any, messages: AsyncIterator[object] | None) -> AsyncIterator[object]:
        while True:
            if inner is None or messages is None:
                inner = await self._or_cancel(self._live())
                messages = inner.__aiter__()
            try:
                while (message := await self._receive(functools.partial(anext, messages, aio.EOF))) is not aio.EOF:
                    yield message
                return
            except ENDS as error:
                if await self._counts(inner, error):
                    raise
            inner = None

    async def read(self) -> Any:
        while True:
            inner = await self._or_cancel(self._live())
            try:
                return await self._receive(inner.read)
            except ENDS as error:
                if await self._counts(inner, error):
                    raise


class _StreamRequest(AioCall):
    async def write(self, request: object) -> None:
        replay = self._replay
        if replay is None or not replay.pushed:
            inner = await self._or_cancel(self._live())
            await self._explained(inner, inner.write(request))
            return
        if self._final:
            await self._raise_if_broken()
            if isinstance(self._inner, Ended):
                await self._inner.write(request)  # which raises, and knows best what
        if self._final or self._cancelled:
            raise asyncio.InvalidStateError(FINISHED)
        if replay.closed:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        await self._passed(replay, replay.push(request))

    async def done_writing(self) -> None:
        replay = self._replay
        if replay is None or not replay.pushed:
            inner = await self._or_cancel(self._live())
            await self._explained(inner, inner.done_writing())
        elif self._final:
            await self._raise_if_broken()
        else:
            replay.close()
            await self._passed(replay, None)

    async def _explained(self, inner: AnyAioCall, work: Asked[None]) -> None:
        """gRPC's own write, with the error of the attempt that counts."""
        try:
            await work
            return
        except (aio.AioRpcError, aio.UsageError) as error:
            failed = error
        await self._or_cancel(self._decided(inner, failed))
        await self._raise_for_status()
        raise failed

    async def _passed(self, replay: AsyncReplayBuffer, position: int | None) -> None:
        """Until gRPC has taken that request, or all of them; the call's error if it ends before."""
        try:
            while not self._final and not replay.passed(position):
                await replay.change()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._final and position is not None:
            await self._raise_for_status()

    async def _raise_if_broken(self) -> None:
        if isinstance(self._inner, Broken):
            await self._inner.code()

    async def _raise_for_status(self) -> None:
        await self._raise_if_broken()
        if isinstance(self._inner, Ended):
            await self._inner.read()
        elif self.cancelled():
            raise asyncio.CancelledError()

    @property
    def _done_writing_flag(self) -> bool:
        # grpc.aio's own InterceptedCall asks this of whatever an interceptor returned.
        return self._replay is not None and self._replay.closed


class UnaryUnaryCall(_UnaryResponse, aio.UnaryUnaryCall):  # type: ignore[type-arg]
    """A unary call."""


class UnaryStreamCall(_StreamResponse, aio.UnaryStreamCall):  # type: ignore[type-arg]
    """A call with a response stream."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, aio.StreamUnaryCall):  # type: ignore[type-arg]
    """A call with a request stream."""


class StreamStreamCall(_StreamRequest, _StreamResponse, aio.StreamStreamCall):  # type: ignore[type-arg]
    """A call with streams both ways."""
