"""A grpclib call that is made again after a refusal; what the user holds is one stream all the while.

The rules are those of grpcio's calls: the decision falls before anything is delivered, what was sent is what is sent
again, and one deadline covers it all. A task that sends and one that receives may meet the refusal in either order.

The stream itself is the first attempt, and takes up the next one in its place, so that a call that goes well costs no
more than one of grpclib's own.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

from grpclib.client import Channel, Stream
from grpclib.const import Cardinality, Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.metadata import Deadline

from grpc_bearer._calls.attach_token import Route, honest_code
from grpc_bearer._calls.attempt_history import SENT_OR_SEEN, AttemptHistory
from grpc_bearer._calls.failure import blame
from grpc_bearer._calls.replay import Kept
from grpc_bearer._calls.retry_policy import UNKEPT, RetryPolicy
from grpc_bearer._engine.engine import Lease
from grpc_bearer._runtimes.grpclib_attempt import Dispatch, failure_of
from grpc_bearer._runtimes.routes import history_of
from grpc_bearer.errors import GrpcBearerError

_T = TypeVar("_T")

# What may be behind the end of a stream that is a refusal.
_ENDS = (GRPCError, StreamTerminatedError)
_SUPERSEDED = "the server refused the token; another attempt of this call is made"


class BearerStream(Stream[Any, Any]):
    """A `grpclib.client.Stream` that begins anew after a refusal."""

    # Of the call.
    _all = False  # the user has sent all
    _count = 0  # requests that the user has sent
    _seen = False  # something of the answer has reached the user
    _history: AttemptHistory | None = None
    _judged: tuple[GRPCError, GrpcBearerError | None] | None = None  # the error that counts, and why
    _broken: BaseException | None = None  # why the next attempt could not be begun
    _replaying: asyncio.Task[None] | None = None
    # Of the attempt at hand.
    _attempt = 0  # its number; 0: there is none yet
    _lease: Lease | None = None  # what carried its token; `None`: nothing of ours
    _sent = 0  # requests of the user's that it has sent
    _half_closed = False  # it has told the server that these were all
    _left = False  # it is over, and no other has taken its place

    def __init__(
        self,
        route: Route,
        channel: Channel,
        name: str,
        metadata: Any,
        cardinality: Cardinality,
        request_type: type[Any],
        reply_type: type[Any],
        deadline: Deadline | None,
    ) -> None:
        super().__init__(
            channel,
            name,
            metadata,
            cardinality,
            request_type,
            reply_type,
            codec=channel._codec,
            status_details_codec=channel._status_details_codec,
            dispatch=channel.__dispatch__,
            deadline=deadline,
        )
        self._route, self._given, self._streams = route, metadata, cardinality.client_streaming
        self._kept = _kept(route.policy, self._streams)
        self._began = time.monotonic()

    @functools.cached_property
    def _sending(self) -> asyncio.Lock:
        return asyncio.Lock()

    @functools.cached_property
    def _turn(self) -> asyncio.Lock:
        return asyncio.Lock()

    # ------------------------------------------------------------------------------------------------------ requests

    async def send_request(self, *, end: bool = False) -> None:
        if self._attempt:
            raise ProtocolError("Request is already sent")
        if end and not self._streams:
            raise ProtocolError("Unary request requires a message to be sent before ending outgoing stream")
        self._all = end
        try:
            lease = self._route.at_hand()
            if lease is None:
                with self._wrapper:
                    lease = await self._route.attachment.engine.ask(self._route.context)
        except GrpcBearerError as error:
            raise _ended_by(error) from error
        await self._begin(lease)

    async def _begin(self, lease: Lease) -> None:
        empty = self._all and not self._count
        told, carried = self._dispatch, lease
        if "send_request" in vars(told):  # nobody listens
            self._metadata = [*self._given.items(), *lease.metadata]
            await super().send_request(end=empty)
        else:
            self._dispatch = listened = Dispatch(told, lease)  # type: ignore[assignment]  # asked for no more than this
            self._metadata = self._given.copy()  # listeners may change it
            try:
                await super().send_request(end=empty)
            finally:
                self._dispatch = told
            carried = listened.lease
        self._lease, self._sent, self._half_closed, self._left = carried, 0, empty, False
        self._attempt += 1

    async def send_message(self, message: Any, *, end: bool = False) -> None:
        if not self._attempt:
            lease = self._route.at_hand()
            await (self.send_request() if lease is None else self._begin(lease))
        if self._all:
            raise ProtocolError("Stream is ended" if self._streams else "Message was already sent")
        (message,) = await self._dispatch.send_message(message)  # told once, whatever the number of attempts
        self._kept.add(self._codec.encode(message, self._send_type))
        self._count += 1
        self._send_message_done, self._end_done = True, end
        self._all = end or not self._streams
        if self._streams or self._attempt > 1:
            await self._flush()
            return
        try:  # nobody else sends a single request
            await _bring(self)
        except _ENDS as error:
            await self._after(1, error)
            await self._flush()

    async def end(self) -> None:
        if not self._streams or not self._attempt or self._end_done:
            await super().end()  # which knows what is wrong, if anything is
            return
        self._all = self._end_done = True
        await self._flush()

    async def _flush(self) -> None:
        """Send to the attempt at hand, and to those that follow it, what the user has sent."""
        async with self._sending:
            await self._asked(_bring)

    # ------------------------------------------------------------------------------------------------------- answers

    async def recv_initial_metadata(self) -> None:
        await self._asked(Stream.recv_initial_metadata)
        self._deliver()

    async def recv_message(self) -> Any:
        while True:
            attempt = self._attempt
            try:
                if self._left:
                    raise StreamTerminatedError(_SUPERSEDED)
                if not self._recv_initial_metadata_done:
                    await super().recv_initial_metadata()
                message = await super().recv_message()
                if message is not None:
                    self._deliver()
                elif not self._seen:
                    await _refused(self)
                return message
            except _ENDS as error:
                await self._after(attempt, error)

    async def recv_trailing_metadata(self) -> None:
        await self._asked(_trailing)

    def _maybe_finish(self) -> Coroutine[Any, Any, None]:
        return self._asked(_finish)

    async def _asked(self, ask: Callable[[BearerStream], Awaitable[_T]]) -> _T:
        while True:
            attempt = self._attempt
            try:
                if self._left:
                    raise StreamTerminatedError(_SUPERSEDED)
                return await ask(self)
            except _ENDS as error:
                await self._after(attempt, error)

    def _deliver(self) -> None:
        self._seen = True
        self._kept.whole = False

    def _status(self) -> GRPCError | None:
        """The server's error, if it has come, also where grpclib has met another end of the stream before."""
        try:
            self._maybe_raise()
        except GRPCError as error:
            return error
        return None

    # ------------------------------------------------------------------------------------------------------ attempts

    async def _after(self, attempt: int, error: Exception) -> None:
        """Another attempt stands in the place of one that has failed; if there is none, the call's error is raised."""
        async with self._turn:
            if attempt != self._attempt:
                _uncancelled()
                return
            if self._left:
                raise StreamTerminatedError("another attempt could not be begun") from self._broken
            refusal = error if isinstance(error, GRPCError) else self._status()
            if refusal is None:
                raise error
            delay = self._seconds_until_next(refusal)
            if delay is None:
                raise self._shown(refusal)
            await self._leave(refusal)
            try:
                await asyncio.sleep(delay)
                await self._begin_again()
            except BaseException as broken:
                self._broken = broken
                raise
        # The other side may have to be read while this is sent.
        self._replaying = asyncio.ensure_future(self._flush())
        self._replaying.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _leave(self, refusal: GRPCError) -> None:
        """End the attempt at hand, and wake whoever still sends or waits on it."""
        self._left = True
        self._wrapper.cancel(StreamTerminatedError(_SUPERSEDED))
        await super().__aexit__(GRPCError, refusal, None)
        self._release_stream = _nothing
        self._send_request_done = self._recv_initial_metadata_done = self._recv_trailing_metadata_done = False
        self._trailers_only = self._wrapper_ctx = self.initial_metadata = self.trailing_metadata = None

    @property
    def _attempt_history(self) -> AttemptHistory:
        """Made when it is first asked for: most calls go well at once."""
        if self._history is None:
            left = None if self._deadline is None else self._deadline.time_remaining()
            self._history = history_of(self._route, self._began, left)
        return self._history

    def _seconds_until_next(self, refusal: GRPCError) -> float | None:
        if self._judged is not None:
            return None
        history, failure = self._attempt_history, failure_of(refusal, self._stream)
        obstacle = "" if self._kept.whole and not self._seen else SENT_OR_SEEN
        delay = history.after(refusal, self._lease, failure, obstacle=obstacle)
        history.tell()
        if delay is None:
            self._judged = history.cause(self._lease, failure) or (refusal, None)
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
        await super().__aenter__()
        try:
            try:
                with self._wrapper:
                    lease = await history.as_caller(lambda: engine.ask(self._route.context))
            except GrpcBearerError as failed:
                error = failed
            if error is not None or lease.token.fingerprint == history.avoid:
                self._judged = history.tokenless(error)
                raise self._shown(self._judged[0])
            await self._begin(lease)
        except BaseException:
            if self._wrapper_ctx is not None:  # a timer
                self._wrapper_ctx.__exit__(None, None, None)
            raise

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, None]:
        exited = super().__aexit__(kind, error, trace)
        return exited if self._replaying is None else _unreplayed(self._replaying, kind is None, exited)


# ---------------------------------------------------------------------------------- what is asked of the attempt at hand


async def _bring(call: BearerStream) -> None:
    """Send what the user has sent, and the attempt has not."""
    with call._wrapper:
        while call._sent < call._count:
            position, call._sent = call._sent, call._sent + 1
            last = call._all and call._sent == call._count
            item: Any = call._kept.items[position - call._kept.first]
            await call._stream.send_data(b"\0" + len(item).to_bytes(4, "big") + item, end_stream=last)
            call._half_closed = last
            call._kept.drop_before(call._sent)
            connection = call._stream.connection  # which counts, for grpclib's channelz
            call._messages_sent += 1
            connection.messages_sent += 1
            connection.last_message_sent = time.monotonic()
        if call._all and not call._half_closed:
            call._half_closed = True
            await call._stream.end()


async def _refused(call: BearerStream) -> None:
    """At the end of a stream: the refusal of a server that had sent its headers, which grpclib tells of at the exit."""
    refusal = call._status()
    if refusal is not None:
        if call._all:
            await Stream.recv_trailing_metadata(call)  # raises it, and shows the metadata
        raise refusal


async def _trailing(call: BearerStream) -> None:
    if call._attempt > 1 and not call._recv_initial_metadata_done:
        await Stream.recv_initial_metadata(call)
    await Stream.recv_trailing_metadata(call)


async def _finish(call: BearerStream) -> None:
    """What is left to be received when the user leaves the call."""
    if call._replaying is not None:
        await asyncio.wait([call._replaying])  # no answer comes before
    if not call._cancel_done and not call._stream._transport.is_closing():
        if not call._recv_initial_metadata_done:
            await Stream.recv_initial_metadata(call)
        if not call._recv_trailing_metadata_done:
            await Stream.recv_trailing_metadata(call)


async def _unreplayed(task: asyncio.Task[None], wait: bool, exited: Coroutine[Any, Any, None]) -> None:
    """Leave a call of which another attempt was made: nothing of it may be sent any more."""
    if not wait:
        task.cancel()
        await asyncio.wait([task])
    await exited


def _kept(policy: RetryPolicy | None, streams: bool) -> Kept:
    """Where requests are kept; a single one whatever its size."""
    policy = policy or UNKEPT
    return Kept(policy.replay_messages, policy.replay_bytes if streams else sys.maxsize)


def _nothing() -> None:
    """There is nothing to release any more."""


def _uncancelled() -> None:
    """grpclib wakes a task by cancelling it, which must not count as a wish of its user's."""
    task = asyncio.current_task()
    if sys.version_info >= (3, 11) and task is not None and task.cancelling():
        task.uncancel()


def _ended_by(error: GrpcBearerError) -> GRPCError:
    """A call that failed for want of a token."""
    made = GRPCError(Status[honest_code(error).name], str(error))
    blame(made, error)
    return made
