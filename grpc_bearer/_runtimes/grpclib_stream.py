"""A grpclib call that is made again after a refusal; what the user holds is one stream all the while.

The rules are those of grpcio's calls: the decision falls before anything is delivered, what was sent is what is sent
again, and one deadline covers it all. A task that sends and one that receives may meet the refusal in either order.

The stream itself is the first attempt, and takes up the next one in its place, so that a call that goes well costs no
more than one of grpclib's own.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from grpclib.client import Channel, Stream
from grpclib.const import Cardinality
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.metadata import Deadline

from grpc_bearer._calls.attach_token import Route
from grpc_bearer._calls.attempt_history import SENT_OR_SEEN, AttemptHistory
from grpc_bearer._calls.failure import blame
from grpc_bearer._calls.replay import Kept
from grpc_bearer._calls.retry_policy import UNKEPT
from grpc_bearer._engine.engine import Lease
from grpc_bearer._runtimes.grpclib_attempt import Dispatch, cancels, ended_by, failure_of, nothing, release, uncancelled
from grpc_bearer._runtimes.routes import history_of
from grpc_bearer.errors import GrpcBearerError

_T = TypeVar("_T")

# What may be behind the end of a stream that is a refusal.
_ENDS = (GRPCError, StreamTerminatedError)
# Of one attempt; those of the class below are of the call.
_send_request, _recv_message = Stream.send_request, Stream.recv_message
_recv_initial_metadata, _recv_trailing_metadata = Stream.recv_initial_metadata, Stream.recv_trailing_metadata
_SUPERSEDED = "the server refused the token; another attempt of this call is made"


class BearerStream(Stream[Any, Any]):
    """A `grpclib.client.Stream` that begins anew after a refusal.

    Of most calls only a few of its own attributes are ever set: up to 30 in all Python finds them fast.
    """

    # Of the call.
    _all = False  # the user has sent all
    _single = b""  # the only request, of a call that has but one
    _count = 0  # requests of a stream that the user has sent
    _headers_seen = False  # the user has asked for these alone
    _history: AttemptHistory | None = None
    _judged: tuple[GRPCError, GrpcBearerError | None] | None = None  # the error that counts, and why
    _broken: BaseException | None = None  # why the next attempt could not be begun
    _replaying: asyncio.Task[None] | None = None
    # Of the attempt at hand.
    _attempt = 0  # its number; 0: there is none yet
    _lease: Lease | None = None  # what carried its token; `None`: nothing of ours
    _sent = 0  # requests of a stream that it has sent
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
        self._route, self._began = route, time.monotonic()
        if cardinality.client_streaming:
            policy = route.policy or UNKEPT
            self._kept = Kept(policy.replay_messages, policy.replay_bytes)

    @property
    def _streams(self) -> bool:
        return bool(self._cardinality.client_streaming)

    @property
    def _seen(self) -> bool:
        """Something of the answer has reached the user."""
        return self._headers_seen or self._messages_received > 0

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
        if end:
            self._all = True
        try:
            lease = self._route.at_hand()
            if lease is None:
                with self._wrapper:
                    lease = await self._route.attachment.engine.ask(self._route.context)
        except GrpcBearerError as error:
            raise ended_by(error) from error
        await self._begin(lease)

    async def _begin(self, lease: Lease) -> None:
        empty = self._all and not self._count
        told, given = self._dispatch, self._metadata
        carried: Lease | None = lease
        try:
            if "send_request" in vars(told):  # nobody listens
                metadata: Any = [*given.items(), *lease.metadata]
                self._metadata = metadata
                await _send_request(self, end=empty)
            else:
                self._metadata = given.copy()  # listeners may change it
                listened: Any = Dispatch(told, lease)  # asked for no more than this
                self._dispatch = listened
                await _send_request(self, end=empty)
                carried = listened.lease
        finally:
            self._dispatch, self._metadata = told, given
        if self._attempt:
            self._sent, self._half_closed, self._left = 0, empty, False
        elif empty:
            self._half_closed = True
        self._lease = carried
        self._attempt += 1

    async def send_message(self, message: Any, *, end: bool = False) -> None:
        if not self._attempt:
            lease = self._route.at_hand()
            await (self.send_request() if lease is None else self._begin(lease))
        streams = self._cardinality.client_streaming
        if self._all or (self._send_message_done and not streams):
            raise ProtocolError("Stream is ended" if streams else "Message was already sent")
        (message,) = await self._dispatch.send_message(message)  # told once, whatever the number of attempts
        encoded = self._codec.encode(message, self._send_type)
        self._send_message_done, self._end_done = True, end
        if not streams:
            self._single = encoded
            if self._attempt == 1 and not self._left:
                before = cancels()
                try:  # straight, for nobody else sends it
                    with self._wrapper:
                        await _send(self, encoded, True)
                    return
                except _ENDS as error:
                    await self._after(1, error, before)
        else:
            self._kept.add(encoded)
            self._count += 1
            self._all = end
        await self._flush()

    async def end(self) -> None:
        if not self._streams or not self._attempt or self._end_done:
            await super().end()  # which knows what is wrong, if anything is
            return
        self._all = self._end_done = True
        await self._flush()

    def _take(self, position: int) -> bytes:
        """A request of a stream, to be sent now and, if that cannot be again, to be forgotten."""
        kept = self._kept
        item: bytes = kept.items[position - kept.first]  # type: ignore[assignment]  # all of them are
        kept.whole = kept.whole and not self._seen
        kept.drop_before(position + 1)
        return item

    async def _flush(self) -> None:
        """Send to the attempt at hand, and to those that follow it, what the user has sent."""
        async with self._sending:
            await self._asked(_bring)

    # ------------------------------------------------------------------------------------------------------- answers

    async def recv_initial_metadata(self) -> None:
        await self._asked(_recv_initial_metadata)
        self._headers_seen = True

    async def recv_message(self) -> Any:
        while True:
            attempt, before = self._attempt, cancels()
            try:
                if self._left:
                    raise StreamTerminatedError(_SUPERSEDED)
                if not self._recv_initial_metadata_done:
                    await _recv_initial_metadata(self)
                message = await _recv_message(self)
                if message is None and not self._seen:
                    await _refused(self)
                return message
            except _ENDS as error:
                await self._after(attempt, error, before)

    async def recv_trailing_metadata(self) -> None:
        await self._asked(_trailing)

    async def _maybe_finish(self) -> None:
        """Receive what is left, when the user leaves the call."""
        while True:
            attempt, before = self._attempt, cancels()
            try:
                if self._replaying is not None:
                    await asyncio.wait([self._replaying])  # no answer comes before
                if not self._cancel_done and not self._stream._transport.is_closing():
                    if not self._recv_initial_metadata_done:
                        await _recv_initial_metadata(self)
                    if not self._recv_trailing_metadata_done:
                        await _recv_trailing_metadata(self)
                return
            except _ENDS as error:
                await self._after(attempt, error, before)

    async def _asked(self, ask: Callable[[BearerStream], Awaitable[_T]]) -> _T:
        while True:
            attempt, before = self._attempt, cancels()
            try:
                if self._left:
                    raise StreamTerminatedError(_SUPERSEDED)
                return await ask(self)
            except _ENDS as error:
                await self._after(attempt, error, before)

    def _status(self) -> GRPCError | None:
        """The server's error, if it has come, also where grpclib has met another end of the stream before."""
        try:
            self._maybe_raise()
        except GRPCError as error:
            return error
        return None

    # ------------------------------------------------------------------------------------------------------ attempts

    async def _after(self, attempt: int, error: Exception, before: int) -> None:
        """Another attempt stands in the place of one that has failed; if there is none, the call's error is raised."""
        uncancelled(before)
        async with self._turn:
            if attempt != self._attempt:
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
        self._release_stream = functools.partial(release, self._release_stream, self._replaying)

    async def _leave(self, refusal: GRPCError) -> None:
        """End the attempt at hand, and wake whoever still sends or waits on it."""
        self._left = True
        self._wrapper.cancel(StreamTerminatedError(_SUPERSEDED))
        await super().__aexit__(GRPCError, refusal, None)
        self._release_stream = nothing
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
        obstacle = SENT_OR_SEEN if self._seen or (self._streams and not self._kept.whole) else ""
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


# --------------------------------------------------------------------------------- what is asked of the attempt at hand


async def _bring(call: BearerStream) -> None:
    """Send what the user has sent, and the attempt has not."""
    with call._wrapper:
        if not call._streams:
            if call._send_message_done and not call._half_closed:
                call._half_closed = True
                await _send(call, call._single, True)
            return
        while call._sent < call._count:
            position, call._sent = call._sent, call._sent + 1
            last = call._all and call._sent == call._count
            await _send(call, call._take(position), last)
            call._half_closed = last
        if call._all and not call._half_closed:
            call._half_closed = True
            await call._stream.end()


async def _send(call: BearerStream, encoded: bytes, last: bool) -> None:
    """As grpclib sends a message, uncompressed; its connection counts, for channelz."""
    stream = call._stream
    await stream.send_data(b"\0" + len(encoded).to_bytes(4, "big") + encoded, end_stream=last)
    call._messages_sent += 1
    stream.connection.messages_sent += 1
    stream.connection.last_message_sent = time.monotonic()


async def _refused(call: BearerStream) -> None:
    """At the end of a stream: the refusal of a server that had sent its headers, which grpclib tells of at the exit."""
    refusal = call._status()
    if refusal is not None:
        if call._all or not call._streams:
            await _recv_trailing_metadata(call)  # raises it, and shows the metadata
        raise refusal


async def _trailing(call: BearerStream) -> None:
    if call._attempt > 1 and not call._recv_initial_metadata_done:
        await _recv_initial_metadata(call)
    await _recv_trailing_metadata(call)
