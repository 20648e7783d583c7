"""The attempts of an asyncio call: the next one begins in the done-callback of the one before.

The twin of `sync_attempts`, on the event loop and so without locks; no task waits for the next attempt. Here too few
calls need more than the first attempt, and only for those the history is made.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable
from typing import Any

import grpc
from grpc import aio

from grpc_bearer._calls import fork
from grpc_bearer._calls.aio_errors import (
    Broken,
    Ended,
    aio_error,
    deadline_exceeded,
    failure_of,
    local_end,
    result_of,
)
from grpc_bearer._calls.aio_replay import AsyncReplayBuffer
from grpc_bearer._calls.attach_token import WAIT, Attempt, Carrier
from grpc_bearer._calls.attempt_history import AttemptHistory
from grpc_bearer._calls.attempts import Begin, Begun, CallAttempts, made
from grpc_bearer._calls.failure import blame
from grpc_bearer._calls.grpc_private import (
    if_interceptors_raise,
    is_plain,
    is_response,
    let_status_come,
    locally_cancelled,
    went_well,
)
from grpc_bearer._calls.grpc_types import AnyAioCall, DoneCallback, Metadata
from grpc_bearer._engine.engine import Lease
from grpc_bearer.errors import GrpcBearerError

_LOGGER = logging.getLogger("grpc_bearer")

# What grpc.aio puts in the place of a status when a write fails because the call is ending; the server's own follows.
_PLACEHOLDER = "Internal error from Core"
# Nobody tells when it does, so it is asked for: first after, and at the longest for, so many seconds. Core has the
# status by then, unless it is making the call again on another connection by itself: of that grpc.aio never hears.
_FIRST_LOOK, _PATIENCE = 0.001, 0.5


class AioAttempts(CallAttempts):
    """The attempts of one call, of whatever kind.

    Args:
        begun: makes the history of the call, for those that come to have one.
        replay: the requests, if they are a stream.
        inner: the first attempt; `None`, if it has to wait for its token.
        carrier: what carries its token, or `WAIT`.
    """

    _inner: Any = None  # the attempt at hand; None between attempts
    _carrier: Carrier = None
    _final = False  # the attempt at hand is the one that counts
    _seen = False  # headers or a message of the answer have reached the user
    _cancelled = False
    _history: AttemptHistory | None = None
    _task: asyncio.Task[AnyAioCall] | None = None  # makes an attempt; held, or it might be collected
    _stop_pause = None
    _callbacks: tuple[DoneCallback, ...] = ()
    _waiters: tuple[asyncio.Future[None], ...] = ()

    def __init__(
        self,
        begun: Begun,
        replay: AsyncReplayBuffer | None,
        inner: Any,
        carrier: Carrier,
    ) -> None:
        self._begun = begun
        self._replay = replay
        if carrier is WAIT:
            self._await_token()
        else:
            self._inner, self._carrier = inner, carrier
            self._watch(inner)

    @property
    def _attempt_history(self) -> AttemptHistory:
        """The history of the call."""
        if self._history is None:
            self._history = made(self._begun)
        return self._history

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    # --------------------------------------------------------------------------------------------- attempts

    def _make(self, metadata: Metadata | None, credentials: grpc.CallCredentials | None, carrier: Carrier) -> None:
        try:
            inner = self._attempt_history.attempt(metadata, credentials)
        except aio.UsageError as error:
            inner = local_end(grpc.StatusCode.CANCELLED, str(error))
        except Exception as error:
            inner = local_end(grpc.StatusCode.INTERNAL, f"gRPC refused the call: {type(error).__name__}")
        if asyncio.iscoroutine(inner):  # an interceptor's continuation
            self._task = self._attempt_history.as_caller(lambda: self._loop.create_task(inner))
            self._task.add_done_callback(lambda task: self._take(result_of(task), carrier))
        else:
            self._take(inner, carrier)

    def _request_token(self, begin: Begin) -> None:
        loop = self._loop

        def deliver(lease: Lease | None, error: GrpcBearerError | None) -> None:
            try:
                loop.call_soon_threadsafe(begin, lease, error)
            except RuntimeError:
                _LOGGER.debug("a token came for a call whose event loop is closed")

        self._attempt_history.route.attachment.waiting.add(self)
        self._attempt_history.request(deliver)

    def _later(self, seconds: float, work: Callable[[], None]) -> Callable[[], None]:
        return self._loop.call_later(seconds, work).cancel

    def _end_without_token(self, error: GrpcBearerError | None) -> None:
        self._show(*self._attempt_history.tokenless(error))

    def _end_overdue(self) -> None:
        self._end(Ended(deadline_exceeded()))

    def has_begun(self) -> bool:
        """Whether there is an attempt; if not, the call waits for its token, or between two attempts."""
        return self._inner is not None

    async def begun(self) -> None:
        """Until there is one."""
        await self._live()

    def _take(self, inner: AnyAioCall, carrier: Carrier) -> None:
        """This attempt is the one at hand now, unless the call has ended meanwhile."""
        if self._final:
            inner.cancel()
            return
        self._inner, self._carrier = inner, carrier
        self._wake()
        self._watch(inner)

    def _watch(self, inner: AnyAioCall) -> None:
        """Hear of an attempt's end."""
        if not is_plain(inner):
            if is_response(inner):
                self._end(inner)
                return
            if_interceptors_raise(inner, lambda: self._settle(inner))
        if self._replay is not None:
            let_status_come(inner, self._replay.ended_in)
        inner.add_done_callback(functools.partial(self._ended, inner))

    def _ended(self, inner: AnyAioCall, _: object) -> None:
        """News of an attempt."""
        if went_well(inner) and inner is self._inner and not self._final:
            self._end(inner)
        else:
            self._settle(inner)

    def _settle(self, inner: AnyAioCall, look_again: float = _FIRST_LOOK) -> None:
        """Decide, once, about an attempt that has ended: it counts, or another is made."""
        if inner is not self._inner or self._final:
            return
        try:
            cancelled = locally_cancelled(inner)
            failure = None if cancelled else failure_of(inner)
        except Exception as error:
            self._end(Broken(error))
            return
        if failure is None:
            cause = self._carrier.error if isinstance(self._carrier, Attempt) and cancelled else None
            if cause is None or self._cancelled:
                self._end(inner)
            else:  # grpc.aio cancels a call itself whose requests it cannot send
                self._show(None, cause.fresh())
            return
        if failure.details == _PLACEHOLDER:
            if self._make_way(inner):
                look_again = _FIRST_LOOK
            if look_again < _PATIENCE:
                self._loop.call_later(look_again, self._settle, inner, 2 * look_again)
                return
            self._lost()
        # A call that has ended may yet be given the placeholder for its status, so what it said now is kept.
        delay = self._seconds_until_next(Ended(failure.error), failure)
        self._attempt_history.tell()
        if delay is None:
            found = self._attempt_history.cause(self._carrier, failure)
            self._end(Ended(failure.error)) if found is None else self._show(*found)
            return
        self._inner = None
        self._retire()
        self._advance_after(delay)

    def _lost(self) -> None:
        """The status of the attempt at hand does not come any more."""

    def _make_way(self, inner: AnyAioCall) -> bool:
        """Let the status of an attempt come through that shows only the placeholder for it; whether it is coming."""
        return False

    def _show(self, call: Ended | None, cause: GrpcBearerError) -> None:
        if call is None:
            self._end(Ended(aio_error(cause)))
        else:
            blame(call.error, cause)
            self._end(call)

    def _end(self, shown: AnyAioCall) -> None:
        self._inner, self._final = shown, True
        if type(self._carrier) is not Lease:  # a lease asks for nothing
            self._retire()
        if self._task is not None:
            self._task.cancel()
        if self._stop_pause is not None:
            self._stop_pause()
        callbacks, self._callbacks = self._callbacks, ()
        if self._replay is not None:
            self._replay.stop()
        if self._waiters or self._replay is not None:
            self._wake()
        for callback in callbacks:
            try:
                callback(self)
            except Exception:  # the next one is called all the same
                _LOGGER.exception("Exception in callback %r", callback)

    def _retire(self) -> None:
        if isinstance(self._carrier, Attempt):
            self._carrier.retire()
            fork.forget(self._carrier)

    def add_done_callback(self, callback: DoneCallback) -> None:
        if self._final:
            callback(self)
        else:
            self._callbacks = (*self._callbacks, callback)

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, ()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._replay is not None:
            self._replay.wake()

    async def _change(self) -> None:
        """Until another attempt is at hand, or this one is known to count."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters = (*self._waiters, waiter)
        await waiter

    async def _live(self) -> Any:
        while self._inner is None:
            await self._change()
        return self._inner
