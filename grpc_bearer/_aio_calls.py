"""The call that an asyncio user holds: the whole API of a plain `grpc.aio` call, over the attempts made for it.

The same as `_calls`, on the event loop and so without locks: the next attempt begins in the done-callback of the one
before, and no task waits for it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from typing import Any, NoReturn

import grpc
from grpc import aio

from grpc_bearer._attempts import LocalError
from grpc_bearer._door import WAIT, Attempt, Carrier, explain, honest_code
from grpc_bearer._engine import Lease
from grpc_bearer._failure import Failure
from grpc_bearer._replay import AsyncReplayBuffer, Once
from grpc_bearer._trial import Trial
from grpc_bearer.errors import GrpcBearerError

Replay = Once | AsyncReplayBuffer

_LOGGER = logging.getLogger("grpc_bearer")

# gRPC's own words.
_CANCELLED = "Locally cancelled by application!"
_FINISHED = "RPC already finished."
_HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
# What grpc.aio puts in the place of a status when a write fails because the call is ending; the server's own follows.
_PLACEHOLDER = "Internal error from Core"
# Nobody tells when it does, so it is asked for: first after, and at the longest for, so many seconds.
_FIRST_LOOK, _PATIENCE = 0.001, 5.0


class AioCallError(LocalError, aio.AioRpcError):
    """The end of a call that failed on our side. `__cause__` is the typed error, where there is one."""


def aio_error(cause: GrpcBearerError) -> aio.AioRpcError:
    """What asyncio users see where our plugin failed: an honest code, and the typed error as the cause."""
    error = AioCallError(honest_code(cause), aio.Metadata(), aio.Metadata(), str(cause), str(cause))
    error.__cause__ = cause
    return error


def _insecure(carrier: Carrier, error: aio.UsageError) -> GrpcBearerError | None:
    """Our error in place of grpc.aio's for call credentials on a channel that protects nothing."""
    if isinstance(carrier, Attempt) and not carrier.ran and "credentials" in str(error):
        return explain(carrier, grpc.StatusCode.UNAUTHENTICATED)
    return None


def deadline_exceeded() -> aio.AioRpcError:
    text = "Deadline Exceeded: no token came in time"
    return AioCallError(grpc.StatusCode.DEADLINE_EXCEEDED, aio.Metadata(), aio.Metadata(), text, text)


def failure_of(call: Any) -> Failure | None:
    """How a call that has ended failed; `None` if it did not. Takes no turn of the loop."""
    code = _now(call.code())
    if code is grpc.StatusCode.OK:
        return None
    initial, trailing = _now(call.initial_metadata()), _now(call.trailing_metadata())
    details, text = _now(call.details()), _now(call.debug_error_string())
    error = aio.AioRpcError(code, initial, trailing, details, text)
    return Failure(error, code, details or "", tuple(initial or ()), tuple(trailing or ()))


def _now(answer: Coroutine[Any, Any, Any]) -> Any:
    """What a call that has ended answers without waiting."""
    try:
        answer.send(None)
    except StopIteration as done:
        return done.value
    answer.close()
    raise RuntimeError("the call has not ended")


class Ended:
    """A call that ended on our side before gRPC made one: answers as a finished `grpc.aio` call of any kind does."""

    def __init__(self, error: aio.AioRpcError) -> None:
        self.error = error

    def __repr__(self) -> str:
        return repr(self.error)

    def cancelled(self) -> bool:
        return bool(self.error.code() is grpc.StatusCode.CANCELLED)

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    def time_remaining(self) -> float | None:
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        callback(self)

    async def initial_metadata(self) -> Any:
        return self.error.initial_metadata()

    async def trailing_metadata(self) -> Any:
        return self.error.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        return self.error.code()

    async def details(self) -> str | None:
        return self.error.details()

    async def debug_error_string(self) -> str | None:
        return self.error.debug_error_string()

    async def _raise(self, *_: Any) -> NoReturn:
        if self.cancelled():
            raise asyncio.CancelledError()
        raise self.error

    read = wait_for_connection = _raise

    def __await__(self) -> Generator[Any, None, NoReturn]:
        return self._raise().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self._raise()
        yield

    async def write(self, request: Any) -> None:
        # Of a call that never began nobody could know that it has ended.
        raise self.error if isinstance(self.error, LocalError) else asyncio.InvalidStateError(_FINISHED)

    async def done_writing(self) -> None:
        """Nothing is left to say to a call that has ended."""


def refused(carrier: Carrier, error: aio.UsageError) -> Ended:
    """The end of a call that grpc.aio would not make, if that was for our credentials; else its own error."""
    cause = _insecure(carrier, error)
    if cause is None:
        raise error
    return Ended(aio_error(cause))


def _result(task: asyncio.Task[Any]) -> Any:
    """The call that a task has made, or its end."""
    if task.cancelled():
        return Ended(aio.AioRpcError(grpc.StatusCode.CANCELLED, aio.Metadata(), aio.Metadata(), _CANCELLED))
    error = task.exception()
    if error is None:
        return task.result()
    if not isinstance(error, aio.AioRpcError):
        text = f"an interceptor raised {type(error).__name__}"
        error = aio.AioRpcError(grpc.StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(), text)
    return Ended(error)


class AioCall(aio.Call):
    """What all four kinds of call share.

    Args:
        trial: the history of the call.
        make: makes an attempt, given its timeout, metadata and credentials.
        replay: the requests, if they are a stream.
    """

    def __init__(self, trial: Trial, make: Callable[[float | None, Any, Any], Any], replay: Replay | None) -> None:
        self._trial = trial
        self._make = make
        self._replay = replay
        self._loop = asyncio.get_running_loop()
        self._inner: Any = None  # the attempt at hand; None between attempts
        self._carrier: Carrier = None
        self._final = False  # the attempt at hand is the one that counts
        self._seen = False  # a message of the answer has reached the user
        self._cancelled = False
        self._task: asyncio.Task[Any] | None = None  # makes an attempt; held, or it might be collected
        self._pause: asyncio.TimerHandle | None = None  # between two attempts
        self._callbacks: list[Callable[[Any], None]] = []
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def _channel(self) -> Any:
        # Older versions of grpc.aio look for the calls to end at close() in the frames of running tasks, and ask this.
        inner = self._inner
        return getattr(inner, "_channel", None) or getattr(getattr(inner, "_cython_call", None), "_channel", None)

    # --------------------------------------------------------------------------------------------- attempts

    def begin(self, metadata: Any, credentials: Any, carrier: Carrier) -> AioCall:
        """Make the first attempt, as planned; what grpc.aio raises at once is raised at once."""
        if carrier is WAIT:
            self._await_token()
            return self
        try:
            inner = self._make(self._trial.left(), metadata, credentials)
        except aio.UsageError as error:
            return self.begun(refused(carrier, error), carrier)
        return self.begun(inner, carrier)

    def begun(self, inner: Any, carrier: Carrier) -> AioCall:
        """The first attempt was made elsewhere."""
        self._take(inner, carrier)
        return self

    def _advance(self) -> None:
        """Make the next attempt."""
        if self._final:
            return
        metadata, credentials, carrier = self._trial.plan()
        if carrier is WAIT:
            self._await_token()
        else:
            self._launch(metadata, credentials, carrier)

    def _launch(self, metadata: Any, credentials: Any, carrier: Carrier) -> None:
        """Make an attempt of a call that was handed out before: what gRPC would raise has to come out of it."""
        try:
            inner = self._make(self._trial.left(), metadata, credentials)
        except aio.UsageError as error:
            inner = Ended(aio.AioRpcError(grpc.StatusCode.CANCELLED, aio.Metadata(), aio.Metadata(), str(error)))
        except Exception as error:
            text = f"gRPC refused the call: {type(error).__name__}"
            inner = Ended(aio.AioRpcError(grpc.StatusCode.INTERNAL, aio.Metadata(), aio.Metadata(), text))
        if asyncio.iscoroutine(inner):  # an interceptor's continuation
            self._task = self._loop.create_task(inner)
            self._task.add_done_callback(lambda task: self._take(_result(task), carrier))
        else:
            self._take(inner, carrier)

    def _await_token(self) -> None:
        """Where core cannot do the waiting: begin when the token has come, or end when time is up."""
        trial = self._trial

        def begin(lease: Lease | None, error: GrpcBearerError | None) -> None:
            if self._final:
                return
            if lease is not None and lease.token.fingerprint != trial.avoid:
                self._launch((*(trial.metadata or ()), *lease.metadata), None, lease)
            else:
                self._show(*trial.tokenless(error))

        def deliver(lease: Lease | None, error: GrpcBearerError | None) -> None:
            try:
                self._loop.call_soon_threadsafe(begin, lease, error)
            except RuntimeError:
                _LOGGER.debug("a token came for a call whose event loop is closed")

        trial.route.door.engine.request(trial.route.context, deliver)
        left = trial.left()
        if left is not None:
            timer = self._loop.call_later(left, self._expire)
            self._callbacks.append(lambda _: timer.cancel())

    def _expire(self) -> None:
        if self._inner is None:
            self._end(Ended(deadline_exceeded()))

    def _take(self, inner: Any, carrier: Carrier) -> None:
        """This attempt is the one at hand now, unless the call has ended meanwhile."""
        if self._final:
            inner.cancel()
            return
        self._inner, self._carrier = inner, carrier
        self._wake()
        inner.add_done_callback(lambda _: self._settle(inner))

    def _settle(self, inner: Any, look_again: float = _FIRST_LOOK) -> None:
        """Decide, once, about an attempt that has ended: it counts, or another is made."""
        if inner is not self._inner or self._final:
            return
        failure = None if inner.cancelled() else failure_of(inner)
        if failure is None:
            cause = self._carrier.error if isinstance(self._carrier, Attempt) and inner.cancelled() else None
            if cause is None or self._cancelled:
                self._end(inner)
            else:  # grpc.aio cancels a call itself whose requests it cannot send
                self._show(None, cause.fresh())
            return
        if failure.details == _PLACEHOLDER and look_again < _PATIENCE:
            self._make_way(inner)
            self._loop.call_later(look_again, self._settle, inner, 2 * look_again)
            return
        delay = None
        if not self._cancelled:
            replayable = not self._seen and (self._replay is None or self._replay.rewind())
            # A call that has ended may yet be given the placeholder for its status, so what it said now is kept.
            delay = self._trial.after(Ended(failure.error), self._carrier, failure, replayable=replayable)
        if delay is None:
            found = self._trial.cause(self._carrier, failure)
            self._end(Ended(failure.error)) if found is None else self._show(*found)
            return
        self._inner = None
        self._retire()
        if delay > 0:
            self._pause = self._loop.call_later(delay, self._advance)
        else:
            self._advance()

    def _make_way(self, inner: Any) -> None:
        """Let the status of an attempt come through that shows only the placeholder for it."""

    def _show(self, call: Ended | None, cause: GrpcBearerError) -> None:
        if call is None:
            self._end(Ended(aio_error(cause)))
        else:
            call.error.__cause__ = cause
            self._end(call)

    def _end(self, shown: Any) -> None:
        self._inner, self._final = shown, True
        self._retire()
        if self._task is not None:
            self._task.cancel()
        if self._pause is not None:
            self._pause.cancel()
        callbacks, self._callbacks = self._callbacks, []
        if self._replay is not None:
            self._replay.stop()
        self._wake()
        for callback in callbacks:
            try:
                callback(self)
            except Exception:  # the next one is called all the same
                _LOGGER.exception("Exception in callback %r", callback)

    def _retire(self) -> None:
        if isinstance(self._carrier, Attempt):
            self._carrier.retire()

    # -------------------------------------------------------------------------------------------- questions

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if isinstance(self._replay, AsyncReplayBuffer):
            self._replay.wake()

    async def _change(self) -> None:
        """Until another attempt is at hand, or this one is known to count."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self.cancel()  # as a plain call does when the task that awaits it is cancelled
            raise

    def _cancellation(self, inner: Any, error: asyncio.CancelledError) -> asyncio.CancelledError:
        """A cancellation out of an attempt: raised, unless it is grpc.aio's own and has an error behind it."""
        task = asyncio.current_task()
        asked = task is not None and hasattr(task, "cancelling") and task.cancelling() > 0
        if inner is self._inner or not self._final or asked:
            self._cancelled = True
            raise error
        return error

    async def _live(self) -> Any:
        while self._inner is None:
            await self._change()
        return self._inner

    async def _decided(self, inner: Any, error: BaseException | None = None) -> None:
        """Until it is known whether an attempt that has ended counts."""
        if isinstance(error, aio.UsageError):
            self._usage(inner, error)
        elif inner.done():
            self._settle(inner)
        while inner is self._inner and not self._final:
            await self._change()

    def _usage(self, inner: Any, error: aio.UsageError) -> None:
        """grpc.aio refuses credentials only once an interceptor's task makes the call."""
        cause = _insecure(self._carrier, error)
        if inner is self._inner and not self._final and cause is not None:
            self._show(None, cause)
        if not self._final:
            raise error

    async def _ask(self, question: Callable[[Any], Coroutine[Any, Any, Any]]) -> Any:
        """The answer of the attempt that counts, or of the one at hand while none has ended."""
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
                return answer
            await self._decided(inner)

    async def code(self) -> Any:
        return await self._ask(lambda inner: inner.code())

    async def details(self) -> Any:
        return await self._ask(lambda inner: inner.details())

    async def debug_error_string(self) -> Any:
        return await self._ask(lambda inner: inner.debug_error_string())

    async def initial_metadata(self) -> Any:
        return await self._ask(lambda inner: inner.initial_metadata())

    async def trailing_metadata(self) -> Any:
        return await self._ask(lambda inner: inner.trailing_metadata())

    async def wait_for_connection(self) -> None:
        while True:
            inner = await self._live()
            try:
                await inner.wait_for_connection()
                return
            except (aio.AioRpcError, aio.UsageError) as error:
                failed = error
            await self._decided(inner, failed)
            if inner is self._inner:
                raise failed

    def done(self) -> bool:
        return self._final

    def cancelled(self) -> bool:
        return self._inner is not None and bool(self._inner.cancelled())

    def time_remaining(self) -> float | None:
        return self._trial.left()

    def cancel(self) -> bool:
        if self._final:
            return False
        self._cancelled = True
        if isinstance(self._replay, AsyncReplayBuffer):
            self._replay.cancel()
        if self._inner is None:
            self._end(Ended(aio.AioRpcError(grpc.StatusCode.CANCELLED, aio.Metadata(), aio.Metadata(), _CANCELLED)))
            return True
        return bool(self._inner.cancel())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        if self._final:
            callback(self)
        else:
            self._callbacks.append(callback)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} between two attempts>" if self._inner is None else repr(self._inner)

    __str__ = __repr__


class _UnaryResponse(AioCall):
    def __await__(self) -> Generator[Any, None, Any]:
        while True:
            inner = self._inner
            if inner is None:
                inner = yield from self._live().__await__()
            try:
                return (yield from inner.__await__())
            except (aio.AioRpcError, aio.UsageError) as error:
                failed = error
            except asyncio.CancelledError as error:
                failed = self._cancellation(inner, error)  # type: ignore[assignment]
            yield from self._decided(inner, failed).__await__()
            if inner is self._inner:
                raise failed


class _StreamResponse(AioCall):
    _messages: AsyncIterator[Any] | None = None
    _receiving = False  # a message is being waited for
    _rest: asyncio.Task[deque[Any]] | None = None  # messages that the user has not asked for yet

    def _take(self, inner: Any, carrier: Carrier) -> None:
        if not self._seen:
            self._rest = None
        super()._take(inner, carrier)

    def _make_way(self, inner: Any) -> None:
        # Core keeps the status back until every message before it was read, and grpc.aio's own `read` reads no more.
        if self._rest is None and not self._receiving and hasattr(inner, "_read"):
            self._rest = self._loop.create_task(self._read_rest(inner))

    async def _read_rest(self, inner: Any) -> deque[Any]:
        rest: deque[Any] = deque()
        while (message := await inner._read()) is not aio.EOF:
            self._first()
            rest.append(message)
        return rest

    async def _receive(self, receive: Callable[[], Awaitable[Any]]) -> Any:
        """The next message, or EOF."""
        if self._rest is not None and (rest := await asyncio.shield(self._rest)):
            return rest.popleft()
        self._receiving = True
        try:
            message = await receive()
        finally:
            self._receiving = False
        if message is not aio.EOF:
            self._first()
        return message

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._messages is None:
            # Asked for now, not at the first message: a plain call settles on its style of use here.
            self._messages = self._iterate(self._inner, None if self._inner is None else self._inner.__aiter__())
        return self._messages

    async def _iterate(self, inner: Any, messages: Any) -> AsyncIterator[Any]:
        while True:
            if inner is None or messages is None:
                inner = await self._live()
                messages = inner.__aiter__()
            try:
                while (message := await self._receive(functools.partial(anext, messages, aio.EOF))) is not aio.EOF:
                    yield message
                return
            except (aio.AioRpcError, aio.UsageError) as error:
                failed = error
            except asyncio.CancelledError as error:
                failed = self._cancellation(inner, error)  # type: ignore[assignment]
            await self._decided(inner, failed)
            if inner is self._inner:
                raise failed
            inner = None

    async def read(self) -> Any:
        while True:
            inner = await self._live()
            try:
                return await self._receive(inner.read)
            except (aio.AioRpcError, aio.UsageError) as error:
                failed = error
            except asyncio.CancelledError as error:
                failed = self._cancellation(inner, error)  # type: ignore[assignment]
            await self._decided(inner, failed)
            if inner is self._inner:
                raise failed

    def _first(self) -> None:
        """A message: from here on no other attempt is made."""
        if not self._seen:
            self._seen = True
            if self._replay is not None:
                self._replay.release()


class _StreamRequest(AioCall):
    async def write(self, request: Any) -> None:
        replay = self._replay
        if not isinstance(replay, AsyncReplayBuffer) or not replay.pushed:
            inner = await self._live()
            await self._explained(inner, inner.write(request))
            return
        if self._final:
            if isinstance(self._inner, Ended):
                await self._inner.write(request)  # which raises, and knows best what
            raise asyncio.InvalidStateError(_FINISHED)
        if replay.closed:
            raise asyncio.InvalidStateError(_HALF_CLOSED)
        await self._passed(replay, replay.push(request))

    async def done_writing(self) -> None:
        replay = self._replay
        if not isinstance(replay, AsyncReplayBuffer) or not replay.pushed:
            inner = await self._live()
            await self._explained(inner, inner.done_writing())
        elif not self._final:
            replay.close()
            await self._passed(replay, None)

    async def _explained(self, inner: Any, work: Coroutine[Any, Any, None]) -> None:
        """gRPC's own write, with the error of the attempt that counts."""
        try:
            await work
            return
        except (aio.AioRpcError, aio.UsageError) as error:
            failed = error
        await self._decided(inner, failed)
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

    async def _raise_for_status(self) -> None:
        if self.cancelled():
            raise asyncio.CancelledError()
        if isinstance(self._inner, Ended):
            raise self._inner.error

    @property
    def _done_writing_flag(self) -> bool:
        # grpc.aio's own InterceptedCall asks this of whatever an interceptor returned.
        replay = self._replay
        if isinstance(replay, AsyncReplayBuffer):
            return replay.closed
        return bool(getattr(self._inner, "_done_writing_flag", False))


class UnaryUnaryCall(_UnaryResponse, aio.UnaryUnaryCall):  # type: ignore[type-arg]
    """A unary call."""


class UnaryStreamCall(_StreamResponse, aio.UnaryStreamCall):  # type: ignore[type-arg]
    """A call with a response stream."""


class StreamUnaryCall(_StreamRequest, _UnaryResponse, aio.StreamUnaryCall):  # type: ignore[type-arg]
    """A call with a request stream."""


class StreamStreamCall(_StreamRequest, _StreamResponse, aio.StreamStreamCall):  # type: ignore[type-arg]
    """A call with streams both ways."""
