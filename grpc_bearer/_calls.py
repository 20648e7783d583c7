"""The call that a sync user holds: the whole API of a plain call, over the attempts that are made for it.

Each question a user may ask (`code()`, `result()`, the next message) is put to the attempt at hand. When an attempt has
ended, `_settle` decides, once and whoever comes first, whether it counts or another is made; the next one begins right
there, on the thread that brought the news, and nobody waits for it. An error that the server made is shown untouched,
with our typed error as its cause; one that our own plugin made gets an honest code.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import grpc

from grpc_bearer._attempts import LocalError
from grpc_bearer._clock import SYSTEM_CLOCK
from grpc_bearer._door import WAIT, Carrier, honest_code
from grpc_bearer._engine import Lease
from grpc_bearer._failure import Failure
from grpc_bearer._replay import Once, ReplayBuffer
from grpc_bearer._trial import Trial
from grpc_bearer.errors import GrpcBearerError

T = TypeVar("T")

_LOGGER = logging.getLogger("grpc_bearer")

_REPR = '<{} of RPC that terminated with:\n\tstatus = {}\n\tdetails = "{}"\n\tdebug_error_string = "{}"\n>'


class CallError(LocalError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """The end of a call that failed on our side: what gRPC raises for one of its own, and what a finished call answers.

    `__cause__` is the typed error, where there is one.
    """

    def __init__(self, code: grpc.StatusCode, details: str, *, cause: BaseException | None = None) -> None:
        super().__init__()
        self._code = code
        self._details = details
        self.__cause__ = cause

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def debug_error_string(self) -> str:
        return self._details

    def initial_metadata(self) -> tuple[Any, ...]:
        return ()

    def trailing_metadata(self) -> tuple[Any, ...]:
        return ()

    def is_active(self) -> bool:
        return False

    def time_remaining(self) -> Any:
        return None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        return False

    def cancel(self) -> bool:
        return False

    def cancelled(self) -> bool:
        return self._code is grpc.StatusCode.CANCELLED

    def running(self) -> bool:
        return False

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        if self.cancelled():
            raise grpc.FutureCancelledError()
        raise self

    def exception(self, timeout: float | None = None) -> CallError:
        if self.cancelled():
            raise grpc.FutureCancelledError()
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        if self.cancelled():
            raise grpc.FutureCancelledError()
        return traceback_of(self)

    def add_done_callback(self, fn: Callable[[grpc.Future], None]) -> None:  # type: ignore[type-arg]
        fn(self)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> NoReturn:
        raise self

    def __repr__(self) -> str:
        return _REPR.format(type(self).__name__, self._code, self._details, self._details)

    __str__ = __repr__


def traceback_of(error: BaseException) -> TracebackType | None:
    try:
        raise error
    except type(error):
        return sys.exc_info()[2]


def failure_of(call: Any) -> Failure:
    """How a call that has ended failed."""
    # The status may overtake the headers. To ask for those is to wait, and where done-callbacks run, on the one thread
    # that brings them, for ever: so only what is there is read.
    initial = getattr(getattr(call, "_state", None), "initial_metadata", None)
    return Failure(call, call.code(), call.details() or "", tuple(initial or ()), tuple(call.trailing_metadata() or ()))


def concluded(trial: Trial, carrier: Carrier, call: Any, failure: Failure) -> Any:
    """What to show for a call whose last attempt failed: that attempt, an earlier refusal, or an error of our own."""
    found = trial.cause(carrier, failure)
    return call if found is None else _shown(*found)


def tokenless(trial: Trial, error: GrpcBearerError | None) -> Any:
    """Likewise, where no attempt could be made for want of a token."""
    return _shown(*trial.tokenless(error))


def _shown(call: Any, cause: GrpcBearerError) -> Any:
    if call is None:
        return CallError(honest_code(cause), str(cause), cause=cause)
    call.__cause__ = cause
    return call


def deadline_exceeded() -> CallError:
    return CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded: no token came in time")


def _later(make: Callable[[], Any]) -> Any:
    # What a plain call would have raised at once has to come out of one that was handed out before.
    try:
        return make()
    except grpc.RpcError as error:
        if isinstance(error, grpc.Call):
            return CallError(error.code(), error.details() or "")
        return CallError(grpc.StatusCode.INTERNAL, type(error).__name__)
    except Exception as error:
        if isinstance(error, ValueError) and "closed" in str(error):
            return CallError(grpc.StatusCode.CANCELLED, str(error))
        return CallError(grpc.StatusCode.INTERNAL, f"gRPC refused the call: {type(error).__name__}")


class SyncCall(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A future or a response stream whose attempts are ours to make.

    Args:
        trial: the history of the call.
        make: makes an attempt, given its timeout, metadata and credentials.
        replay: the requests, if they are a stream.
    """

    def __init__(
        self, trial: Trial, make: Callable[[float | None, Any, Any], Any], replay: Once | ReplayBuffer | None
    ) -> None:
        super().__init__()
        self._trial = trial
        self._make = make
        self._replay = replay
        self._changed = threading.Condition()  # guards what follows
        self._inner: Any = None  # the attempt at hand; None between attempts
        self._carrier: Carrier = None
        self._final = False  # the attempt at hand is the one that counts
        self._seen = False  # a message of the answer has reached the user
        self._reading = 0  # how many are inside next(): they will know whether a message came
        self._cancelled = False
        # Whether making an attempt may take as long as the attempt: an interceptor's continuation.
        self._blocks = trial.route.door.intercepts
        self._stop_pause: Callable[[], None] = lambda: None
        self._callbacks: list[Callable[[], None]] = []

    # --------------------------------------------------------------------------------------------- attempts

    def begin(self, metadata: Any, credentials: Any, carrier: Carrier) -> SyncCall:
        """Make the first attempt, as planned; what gRPC raises at once is raised at once."""
        if carrier is WAIT:
            self._await_token()
        else:
            self._take(self._make(self._trial.left(), metadata, credentials), carrier)
        return self

    def outcome(self) -> Any:
        """The attempt that counts, once it is known."""
        return self._inner if self._final else None

    def _advance(self) -> None:
        """Make the next attempt."""
        if self._final:
            return
        metadata, credentials, carrier = self._trial.plan()
        if carrier is WAIT:
            self._await_token()
        else:
            self._take(_later(lambda: self._make(self._trial.left(), metadata, credentials)), carrier)

    def _await_token(self) -> None:
        """Where core cannot do the waiting: begin when the token has come, or end when time is up."""
        trial = self._trial

        def deliver(lease: Lease | None, error: GrpcBearerError | None) -> None:
            if self._final:
                return
            if lease is None or lease.token.fingerprint == trial.avoid:
                self._end(tokenless(trial, error))
            elif self._blocks:  # and not the thread that brings everybody's tokens
                threading.Thread(target=self._begin_with, args=(lease,), name="grpc-bearer-call", daemon=True).start()
            else:
                self._begin_with(lease)

        trial.route.door.engine.request(trial.route.context, deliver)
        left = trial.left()
        if left is not None and self._inner is None:
            cancel = SYSTEM_CLOCK.call_later(left, self._expire)
            self.add_done_callback(lambda _: cancel())

    def _begin_with(self, lease: Lease) -> None:
        metadata = (*(self._trial.metadata or ()), *lease.metadata)
        self._take(_later(lambda: self._make(self._trial.left(), metadata, None)), lease)

    def _expire(self) -> None:
        """On the timer's thread, which others wait for too: what users hung on to the end of the call may take long."""
        if self._inner is None:
            end = functools.partial(self._end, deadline_exceeded())
            threading.Thread(target=end, name="grpc-bearer-deadline", daemon=True).start()

    def _take(self, inner: Any, carrier: Carrier) -> None:
        """This attempt is the one at hand now, unless the call has ended meanwhile."""
        with self._changed:
            late = self._final
            if not late:
                self._inner, self._carrier = inner, carrier
                self._changed.notify_all()
                cancelled, kept = self._cancelled, bool(self._callbacks)
        if late or cancelled:
            inner.cancel()
        if not late:
            self._watch(inner, strongly=kept)

    def _watch(self, inner: Any, *, strongly: bool) -> None:
        # A plain call that nobody holds is cancelled, unless somebody waits for its end: so no more than that may hold
        # on to this one.
        me: Callable[[], SyncCall | None] = (lambda: self) if strongly else weakref.ref(self)

        def done(_: Any) -> None:
            call = me()
            if call is not None:
                call._settle(inner)

        inner.add_done_callback(done)

    def _settle(self, inner: Any, *, reader: bool = False) -> bool:
        """Decide, once, about an attempt that may have ended. False: it was superseded by another."""
        with self._changed:
            if inner is not self._inner:
                return self._final
            if self._final or not inner.done() or (self._reading and not self._seen and not reader):
                return True
            delay = self._judge(inner)
            if delay is not None:
                self._inner = None
        if delay is None:
            self._run_callbacks()
            return True
        if delay > 0:
            self._stop_pause = SYSTEM_CLOCK.call_later(delay, self._resume)
        else:
            self._advance()
        return False

    def _resume(self) -> None:
        """Make the next attempt after a pause, on the timer's thread, which others wait for too."""
        if self._blocks:
            threading.Thread(target=self._advance, name="grpc-bearer-retry", daemon=True).start()
        else:
            self._advance()

    def _judge(self, inner: Any) -> float | None:
        """Seconds until another attempt; `None`: this one counts. Under the lock."""
        if inner.code() is not grpc.StatusCode.OK and not self._cancelled:
            failure = failure_of(inner)
            replayable = not self._seen and (self._replay is None or self._replay.rewind())
            delay = self._trial.after(inner, self._carrier, failure, replayable=replayable)
            if delay is not None:
                return delay
            self._inner = concluded(self._trial, self._carrier, inner, failure)
        self._final = True
        self._changed.notify_all()
        return None

    def _end(self, shown: Any) -> None:
        with self._changed:
            if self._final:
                return
            self._inner, self._final = shown, True
            self._changed.notify_all()
        self._run_callbacks()

    def _run_callbacks(self) -> None:
        with self._changed:
            callbacks, self._callbacks = self._callbacks, []
        self._stop_pause()
        if self._replay is not None:
            self._replay.stop()
        for callback in callbacks:
            try:
                callback()
            except Exception:  # as gRPC does: the next one is called all the same
                _LOGGER.exception("Exception in callback %r", callback)

    def __del__(self) -> None:
        # As a plain call that nobody holds any more; the done-callback keeps gRPC's own from noticing.
        inner = getattr(self, "_inner", None)
        if inner is not None and not self._final:
            inner.cancel()

    # -------------------------------------------------------------------------------------------- questions

    def _live(self, until: float | None = None) -> Any:
        """The attempt at hand, waited for between two."""
        inner = self._inner
        if inner is None:
            with self._changed:
                left = None if until is None else until - time.monotonic()
                if not self._changed.wait_for(lambda: self._inner is not None, left):
                    raise grpc.FutureTimeoutError()
                inner = self._inner
        return inner

    def _ask(self, question: Callable[[Any], T]) -> T:
        """The answer of the attempt that counts, or of the one at hand while none has ended."""
        while True:
            inner = self._live()
            answer = question(inner)
            if not inner.done():
                return answer
            if self._decided(inner):
                return answer if inner is self._inner else question(self._inner)

    def _decided(self, inner: Any) -> bool:
        """`_settle`, waiting for whoever is reading."""
        if not self._settle(inner):
            return False
        with self._changed:
            self._changed.wait_for(lambda: self._final or self._inner is not inner)
            return self._final

    def _ended(self, timeout: float | None) -> Any:
        """The attempt that counts, once it has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        while True:
            inner = self._live(until)
            inner.exception(None if until is None else max(until - time.monotonic(), 0))
            if self._decided(inner):
                return self._inner

    def code(self) -> Any:
        return self._ask(lambda inner: inner.code())

    def details(self) -> Any:
        return self._ask(lambda inner: inner.details())

    def debug_error_string(self) -> Any:
        return self._ask(lambda inner: inner.debug_error_string())

    def initial_metadata(self) -> Any:
        return self._ask(lambda inner: inner.initial_metadata())

    def trailing_metadata(self) -> Any:
        return self._ask(lambda inner: inner.trailing_metadata())

    def result(self, timeout: float | None = None) -> Any:
        return self._ended(timeout).result()

    def exception(self, timeout: float | None = None) -> Exception | None:
        error: Exception | None = self._ended(timeout).exception()
        return error

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        error = self.exception(timeout)
        return None if error is None else traceback_of(error)

    def done(self) -> bool:
        inner = self._inner
        return inner is not None and bool(inner.done()) and self._settle(inner) and self._final

    def running(self) -> bool:
        return not self.done()

    def is_active(self) -> bool:
        return not self.done()

    def cancelled(self) -> bool:
        inner = self._inner
        return inner is not None and bool(inner.cancelled())

    def time_remaining(self) -> Any:
        return self._trial.left()

    def cancel(self) -> bool:
        with self._changed:
            if self._final:
                return False
            self._cancelled = True
            inner = self._inner
        if inner is not None:
            return bool(inner.cancel())
        self._end(CallError(grpc.StatusCode.CANCELLED, "Locally cancelled by application!"))
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._changed:
            if self._final:
                return False
            self._callbacks.append(callback)
            inner = self._inner
        if inner is not None:
            inner.add_done_callback(functools.partial(_hold, self))
        return True

    def add_done_callback(self, fn: Callable[[grpc.Future], None]) -> None:  # type: ignore[type-arg]
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    # ------------------------------------------------------------------------------------------- a stream's

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while not self._seen:
            with self._changed:
                self._changed.wait_for(lambda: self._inner is not None)
                inner = self._inner
                self._reading += 1
            try:
                message = next(inner)
            except BaseException as error:  # whatever it is, the done-callback has left the decision to us
                ended = error
            else:
                return self._first(inner, message)
            finally:
                with self._changed:
                    self._reading -= 1
            if self._settle(inner, reader=True):
                raise self._inner if self._inner is not inner and isinstance(ended, grpc.RpcError) else ended
        inner = self._inner
        try:
            return next(inner)
        except grpc.RpcError:
            self._settle(inner)
            raise

    next = __next__

    def _first(self, inner: Any, message: Any) -> Any:
        """The first message: from here on no other attempt is made."""
        self._seen = True
        if self._replay is not None:
            self._replay.release()
        self._settle(inner)
        return message

    def __repr__(self) -> str:
        inner = self._inner
        return f"<{type(self).__name__} between two attempts>" if inner is None else repr(inner)

    def __str__(self) -> str:
        inner = self._inner
        return repr(self) if inner is None else str(inner)


def _hold(call: SyncCall, _: object) -> None:
    """A reference that lives as long as the attempt: somebody waits for the call's end."""
