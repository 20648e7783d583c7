"""A grpclib call that is made again after a refusal; what the user holds is one stream all the while.

The rules are those of grpcio's calls: the decision falls before anything is delivered, what was sent is what is sent
again, and one deadline covers it all. A task that sends and one that receives may meet the refusal in either order.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar

from grpclib.client import Channel, Stream
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from multidict import MultiDict

from grpc_bearer._calls.attach_token import Route, honest_code
from grpc_bearer._calls.attempt_history import SENT_OR_SEEN, AttemptHistory
from grpc_bearer._calls.failure import blame
from grpc_bearer._calls.replay import Kept
from grpc_bearer._calls.retry_policy import UNKEPT
from grpc_bearer._engine.engine import Lease
from grpc_bearer._runtimes.grpclib_attempt import Attempt, Bytes, Dispatch
from grpc_bearer._runtimes.routes import history_of
from grpc_bearer.errors import GrpcBearerError

_T = TypeVar("_T")

_LATE = "Deadline exceeded"  # grpclib's own words
# What may be behind the end of a stream that is a refusal.
_ENDS = (GRPCError, StreamTerminatedError)


class BearerStream(Stream[Any, Any]):
    """A `grpclib.client.Stream`: it asks an attempt, and another one after a refusal."""

    _attempt: Attempt | None = None
    _history: AttemptHistory | None = None
    _ended = False  # the user has sent all
    _count = 0  # requests that the user has sent
    _seen = False  # something of the answer has reached the user
    _judged: tuple[GRPCError, GrpcBearerError | None] | None = None  # the error that counts, and why
    _broken: BaseException | None = None  # why the next attempt could not be begun
    _replaying: asyncio.Task[None] | None = None
    _began = 0.0

    def __init__(self, channel: Channel, route: Route, **how: Any) -> None:
        super().__init__(channel, **how)
        self._route = route
        policy = route.policy or UNKEPT
        size = policy.replay_bytes if self._cardinality.client_streaming else sys.maxsize
        self._kept = Kept(policy.replay_messages, size)
        self._sending, self._turn = asyncio.Lock(), asyncio.Lock()

    async def __aenter__(self) -> BearerStream:
        self._began = time.monotonic()
        if self._left() == 0:
            raise asyncio.TimeoutError(_LATE)
        return self

    def _left(self) -> float | None:
        return None if self._deadline is None else self._deadline.time_remaining()

    # ------------------------------------------------------------------------------------------------------ requests

    async def send_request(self, *, end: bool = False) -> None:
        if self._attempt is not None:
            raise ProtocolError("Request is already sent")
        if end and not self._cardinality.client_streaming:
            raise ProtocolError("Unary request requires a message to be sent before ending outgoing stream")
        self._ended = end
        try:
            lease = self._route.at_hand() or await self._in_time(self._route.attachment.engine.atoken(self._context))
        except GrpcBearerError as error:
            raise _ended_by(error) from error
        await self._begin(lease)

    async def send_message(self, message: Any, *, end: bool = False) -> None:
        if self._attempt is None:
            await self.send_request()
        if self._ended:
            raise ProtocolError("Stream is ended" if self._cardinality.client_streaming else "Message was already sent")
        (message,) = await self._dispatch.send_message(message)
        self._kept.add(self._codec.encode(message, self._send_type))
        self._count += 1
        self._ended = end or not self._cardinality.client_streaming
        await self._flush()

    async def end(self) -> None:
        if self._attempt is None:
            raise ProtocolError("Request was not sent")
        if not self._cardinality.client_streaming:
            await self._attempt.stream.end()  # which knows what is wrong, if anything is
            return
        if self._ended:
            raise ProtocolError("Stream was already ended")
        self._ended = True
        await self._flush()

    async def _flush(self) -> None:
        """Send to the attempt at hand, and to those that follow it, what the user has sent."""
        async with self._sending:
            while True:
                attempt = self._current()
                try:
                    await self._bring(attempt)
                    return
                except _ENDS as error:
                    await self._after(attempt, error)

    async def _bring(self, attempt: Attempt) -> None:
        while attempt.sent < self._count:
            position, attempt.sent = attempt.sent, attempt.sent + 1
            last = self._ended and attempt.sent == self._count
            await attempt.stream.send_message(self._kept.items[position - self._kept.first], end=last)
            attempt.ended = last
            if attempt is self._attempt:
                self._kept.drop_before(attempt.sent)
        if self._ended and not attempt.ended:
            await attempt.stream.end()
            attempt.ended = True

    # ------------------------------------------------------------------------------------------------------- answers

    async def recv_initial_metadata(self) -> None:
        await self._asked(lambda stream: stream.recv_initial_metadata())
        self._deliver()

    async def recv_message(self) -> Any:
        message = await self._asked(self._next)
        if message is not None:
            self._deliver()
        return message

    async def _next(self, stream: Stream[Any, Any]) -> Any:
        message = await stream.recv_message()
        # The refusal of a server that had sent its headers: grpclib would tell of it when the call is left.
        if message is None and not self._seen and (refusal := self._current().status()) is not None:
            if self._ended:
                await stream.recv_trailing_metadata()  # raises it, and shows the metadata
            raise refusal
        return message

    async def recv_trailing_metadata(self) -> None:
        await self._asked(lambda stream: stream.recv_trailing_metadata())

    async def cancel(self) -> None:
        await self._current().stream.cancel()

    async def _asked(self, ask: Callable[[Stream[Any, Any]], Awaitable[_T]]) -> _T:
        while True:
            attempt = self._current()
            try:
                return await ask(attempt.stream)
            except _ENDS as error:
                await self._after(attempt, error)
            finally:
                self._show(attempt)

    def _deliver(self) -> None:
        self._seen = True
        self._kept.whole = False

    def _show(self, attempt: Attempt) -> None:
        stream = attempt.stream
        self.initial_metadata, self.trailing_metadata = stream.initial_metadata, stream.trailing_metadata
        self.peer = stream.peer

    # ------------------------------------------------------------------------------------------------------ attempts

    @property
    def _context(self) -> Any:
        return self._route.context

    def _current(self) -> Attempt:
        if self._attempt is None:
            raise ProtocolError("Request was not sent yet")
        return self._attempt

    async def _in_time(self, lease: Awaitable[Lease]) -> Lease:
        left = self._left()
        if left is None:
            return await lease
        try:
            return await asyncio.wait_for(lease, left)
        except asyncio.TimeoutError:
            raise asyncio.TimeoutError(_LATE) from None

    async def _begin(self, lease: Lease) -> None:
        dispatch: Any = Dispatch(self._dispatch, lease)
        metadata: Any = MultiDict(self._metadata)
        stream: Stream[Any, Any] = Stream(
            self._channel,
            self._method_name,
            metadata,
            self._cardinality,
            self._send_type,
            self._recv_type,
            codec=Bytes(self._codec),
            status_details_codec=self._status_details_codec,
            dispatch=dispatch,
            deadline=self._deadline,
        )
        attempt = Attempt(stream, dispatch)
        await stream.__aenter__()
        empty = self._ended and not self._count
        attempt.ended = empty
        if self._attempt is None:  # from now on it is left with the call
            self._attempt = attempt
        await stream.send_request(end=empty)
        self._attempt = attempt
        self._show(attempt)

    async def _after(self, attempt: Attempt, error: Exception) -> None:
        """Another attempt stands in the place of one that has failed; if there is none, the call's error is raised."""
        async with self._turn:
            if attempt is not self._attempt:
                _uncancelled()
                return
            if attempt.left:
                raise StreamTerminatedError("another attempt could not be begun") from self._broken
            refusal = error if isinstance(error, GRPCError) else attempt.status()
            if refusal is None:
                raise error
            delay = self._seconds_until_next(attempt, refusal)
            if delay is None:
                raise self._shown(refusal)
            await attempt.leave(refusal)
            try:
                await asyncio.sleep(delay)
                await self._begin_again()
            except BaseException as broken:
                self._broken = broken
                raise
        # The other side may have to be read while this is sent.
        self._replaying = asyncio.ensure_future(self._flush())
        self._replaying.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def _attempt_history(self) -> AttemptHistory:
        """Made when it is first asked for: most calls go well at once."""
        if self._history is None:
            self._history = history_of(self._route, self._began, self._left())
        return self._history

    def _seconds_until_next(self, attempt: Attempt, refusal: GRPCError) -> float | None:
        if self._judged is not None:
            return None
        history, failure = self._attempt_history, attempt.failure(refusal)
        obstacle = "" if self._kept.whole and not self._seen else SENT_OR_SEEN
        delay = history.after(refusal, attempt.lease, failure, obstacle=obstacle)
        history.tell()
        if delay is None:
            self._judged = history.cause(attempt.lease, failure) or (refusal, None)
        return delay

    def _shown(self, refusal: GRPCError) -> GRPCError:
        """The error that counts, with our own as its cause."""
        _, cause = self._judged or (refusal, None)
        if cause is not None:
            blame(refusal, cause)
        return refusal

    async def _begin_again(self) -> None:
        history, engine = self._attempt_history, self._route.attachment.engine
        error: GrpcBearerError | None = None
        try:
            lease = await self._in_time(history.as_caller(lambda: engine.ask(self._context)))
        except GrpcBearerError as failed:
            error = failed
        if error is not None or lease.token.fingerprint == history.avoid:
            self._judged = history.tokenless(error)
            raise self._shown(self._judged[0])
        await self._begin(lease)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._attempt is not None:
            attempt = self._attempt
            if self._replaying is not None:
                await self._replayed(self._replaying, kind is not None)
            try:
                if not attempt.left:
                    await attempt.stream.__aexit__(kind, error, trace)
                return
            except _ENDS as ended:
                if kind is not None:
                    raise
                await self._after(attempt, ended)
            finally:
                self._show(attempt)

    async def _replayed(self, task: asyncio.Task[None], cancelled: bool) -> None:
        if cancelled:
            task.cancel()
        await asyncio.wait([task])


def _uncancelled() -> None:
    """grpclib wakes a task by cancelling it, which must not count as a wish of its user's."""
    task = asyncio.current_task()
    if sys.version_info >= (3, 11) and task is not None and task.cancelling():
        task.uncancel()


def _ended_by(error: GrpcBearerError) -> GRPCError:
    """A call that failed for want of a token."""
    made = GRPCError(Status[honest_code(error).name], error._told)
    blame(made, error)
    return made
