"""The call that an asyncio user holds: what all four kinds share of a plain call's API, over its attempts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import grpc
from grpc import aio

from grpc_bearer._calls.aio_attempts import AioAttempts
from grpc_bearer._calls.aio_errors import insecure, local_end
from grpc_bearer._calls.grpc_private import aio_channel_of
from grpc_bearer._calls.grpc_types import AnyAioCall, Asked

T = TypeVar("T")

#: How an attempt may end for whoever waits for it.
ENDS = (aio.AioRpcError, aio.UsageError, asyncio.CancelledError)


class AioCall(AioAttempts, aio.Call):
    """What all four kinds of call share."""

    _how_to_ask = "await it"  # for its answer, in code

    @property
    def _channel(self) -> Any:
        # Older versions of grpc.aio look for the calls to end at close() in the frames of running tasks, and ask this.
        return aio_channel_of(self._inner)

    async def _or_cancel(self, work: Asked[T]) -> T:
        """As with a plain call, to cancel a task that waits for its messages or its end cancels the call; one that only
        asks does not."""
        try:
            return await work
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _meant(self, inner: AnyAioCall) -> bool:
        """Is a cancellation out of an attempt the user's? If not, it is grpc.aio's own, with an error behind it."""
        task = asyncio.current_task()
        asked = task is not None and hasattr(task, "cancelling") and task.cancelling() > 0
        meant = inner is self._inner or not self._final or asked
        self._cancelled = self._cancelled or meant
        return meant

    async def _counts(self, inner: AnyAioCall, error: BaseException) -> bool:
        """Whether it is for the user, once that is known, what has come out of an attempt."""
        if isinstance(error, asyncio.CancelledError):
            return self._meant(inner)
        await self._or_cancel(self._decided(inner, error))
        return inner is self._inner

    async def _decided(self, inner: AnyAioCall, error: BaseException | None = None) -> None:
        """Until it is known whether an attempt that has ended counts."""
        if isinstance(error, aio.UsageError):
            self._usage(inner, error)
        elif inner.done():
            self._settle(inner)
        while inner is self._inner and not self._final:
            await self._change()

    def _usage(self, inner: AnyAioCall, error: aio.UsageError) -> None:
        """grpc.aio refuses credentials only once an interceptor's task makes the call."""
        cause = insecure(self._carrier, error)
        if inner is self._inner and not self._final and cause is not None:
            self._show(None, cause)
        if inner is self._inner or not self._final:
            raise error

    async def _ask(self, question: Callable[[AnyAioCall], Asked[T]], *, shows: bool = False) -> T:
        """The answer of the attempt that counts, or of the one at hand while none has ended.

        Args:
            question: put to an attempt.
            shows: the answer is a part of what the server sends, after which no other attempt is made.
        """
        while True:
            inner = await self._live()
            try:
                answer = await question(inner)
            except aio.UsageError as error:
                self._usage(inner, error)
                continue
            if self._final and inner is self._inner:
                return answer
            if not inner.done():
                if shows and inner is self._inner:
                    self._first()
                return answer
            await self._decided(inner)

    def _first(self) -> None:
        """The first of the answer has reached the user: from here on no other attempt is made."""
        if not self._seen:
            self._seen = True
            if self._replay is not None:
                self._replay.release()

    async def code(self) -> grpc.StatusCode:
        return await self._ask(lambda inner: inner.code())

    async def details(self) -> Any:
        return await self._ask(lambda inner: inner.details())

    async def debug_error_string(self) -> str | None:
        return await self._ask(lambda inner: inner.debug_error_string())

    async def initial_metadata(self) -> Any:
        return await self._ask(lambda inner: inner.initial_metadata(), shows=True)

    async def trailing_metadata(self) -> Any:
        return await self._ask(lambda inner: inner.trailing_metadata())

    async def wait_for_connection(self) -> None:
        # Of a plain call with one request this waits for the task that makes it, and is not a question.
        connected = self._connected()
        await (connected if self._replay is not None else self._or_cancel(connected))

    async def _connected(self) -> None:
        while True:
            inner = await self._live()
            try:
                await inner.wait_for_connection()
                return
            except (aio.AioRpcError, aio.UsageError) as error:
                await self._decided(inner, error)
                if inner is self._inner:
                    raise

    def done(self) -> bool:
        return self._final

    def cancelled(self) -> bool:
        return self._inner is not None and bool(self._inner.cancelled())

    def time_remaining(self) -> float | None:
        return self._attempt_history.left()

    def cancel(self) -> bool:
        if self._final:
            return False
        self._cancelled = True
        if self._replay is not None:
            self._replay.cancel()
        if self._inner is None:
            self._end(local_end(grpc.StatusCode.CANCELLED))
            return True
        return bool(self._inner.cancel())

    # On Python 3.10 and 3.11 a class with a `__getattr__` reads its attributes more slowly: 0.3 µs a call. Later ones
    # read them as fast as without it.
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}: it is the call and not yet its answer; "
            f"{self._how_to_ask}",
            name=name,
            obj=self,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} between two attempts>" if self._inner is None else repr(self._inner)

    __str__ = __repr__
