"""The call that a sync user holds: the whole API of a plain call, over the attempts that are made for it.

Each question a user may ask (`code()`, `result()`, the next message) is put to the attempt at hand, and again to the
next one, if that was not the one that counts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import grpc

from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._calls.grpc_types import AnyCall
from grpc_bearer._calls.sync_attempts import SyncAttempts
from grpc_bearer._calls.sync_errors import CallError, traceback_of

T = TypeVar("T")


class SyncCall(SyncAttempts):
    """A future or a response stream, with all that may be asked of one."""

    __slots__ = ()

    def _live(self, until: float | None = None) -> Any:
        """The attempt at hand, waited for between two."""
        inner = self._inner
        if inner is None:
            with self._lock:
                left = None if until is None else until - time.monotonic()
                if not self._wait_for(lambda: self._inner is not None, left):
                    raise grpc.FutureTimeoutError()
                inner = self._inner
        return inner

    def _ask(self, question: Callable[[AnyCall], T], *, shows: bool = False) -> T:
        """The answer of the attempt that counts, or of the one at hand while none has ended.

        Args:
            question: put to an attempt.
            shows: the answer is a part of what the server sends, after which no other attempt is made.
        """
        while True:
            inner = self._live()
            answer = question(inner)
            if not inner.done():
                if not shows or self._shown_of(inner):
                    return answer
                continue
            if self._decided(inner):
                return answer if inner is self._inner else question(self._inner)

    def _decided(self, inner: AnyCall) -> bool:
        """`_settle`, waiting for whoever is reading."""
        if not self._settle(inner):
            return False
        with self._lock:
            self._wait_for(lambda: self._final or self._inner is not inner)
            return self._final

    def _ended(self, until: float | None) -> Any:
        """The attempt that counts, once it has ended."""
        while True:
            inner = self._live(until)
            inner.exception(None if until is None else max(until - time.monotonic(), 0))
            if self._decided(inner):
                return self._inner

    def code(self) -> grpc.StatusCode:
        return self._ask(lambda inner: inner.code())

    def details(self) -> str:
        return self._ask(lambda inner: inner.details())

    def debug_error_string(self) -> str:
        return self._ask(lambda inner: inner.debug_error_string())

    def initial_metadata(self) -> Any:
        return self._ask(lambda inner: inner.initial_metadata(), shows=True)

    def trailing_metadata(self) -> Any:
        return self._ask(lambda inner: inner.trailing_metadata())

    def result(self, timeout: float | None = None) -> Any:
        until, inner = _until(timeout), self._inner
        if inner is not None:
            try:
                return inner.result(timeout)  # what has gone well counts, whoever settles it
            except grpc.RpcError as error:
                error.with_traceback(None)
        return self._ended(until).result()

    def exception(self, timeout: float | None = None) -> Exception | None:
        error: Exception | None = self._ended(_until(timeout)).exception()
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
        return self._attempt_history.left()

    def cancel(self) -> bool:
        with self._lock:
            if self._final:
                return False
            self._cancelled = True
            inner = self._inner
        if inner is not None:
            return bool(inner.cancel())
        self._end(CallError(grpc.StatusCode.CANCELLED, "Locally cancelled by application!", cancelled=True))
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if self._final:
                return False
            if self._callbacks is None:
                self._callbacks = []
            self._callbacks.append(callback)
            inner = self._inner
        if inner is not None:
            inner.add_done_callback(functools.partial(_hold, self))
        return True

    def add_done_callback(self, fn: Callable[[grpc.Future[object]], None]) -> None:
        if not self.add_callback(lambda: fn(self)):
            fn(self)

    # ------------------------------------------------------------------------------------------- a stream's

    def __iter__(self) -> Iterator[object]:
        return self

    def __next__(self) -> object:
        while not self._seen:
            with self._lock:
                if self._inner is None:
                    self._wait_for(lambda: self._inner is not None)
                inner = self._inner
                self._reading += 1
            try:
                message = next(inner)
            except BaseException as error:  # whatever it is, the done-callback has left the decision to us
                ended = error
            else:
                return self._first(inner, message)
            finally:
                with self._lock:
                    self._reading -= 1
            if self._settle(inner, reader=True) or is_interrupt(ended):
                raise self._inner if self._inner is not inner and isinstance(ended, grpc.RpcError) else ended
        inner = self._inner
        try:
            return next(inner)
        except grpc.RpcError:
            self._settle(inner)
            raise

    next = __next__

    def _first(self, inner: AnyCall, message: object) -> object:
        """The first message."""
        self._shown_of(inner)
        self._settle(inner)
        return message

    def _shown_of(self, inner: AnyCall) -> bool:
        """The first of an attempt's answer is about to reach the user: from here on no other attempt is made.

        Not if there is another already; then it must not reach them.
        """
        with self._lock:
            if inner is not self._inner:
                return False
            self._seen = True
        if self._replay is not None:
            self._replay.release()
        return True

    def __reduce__(self) -> NoReturn:
        raise TypeError("a call does not pickle")

    def __repr__(self) -> str:
        inner = self._inner
        return f"<{type(self).__name__} between two attempts>" if inner is None else repr(inner)

    def __str__(self) -> str:
        inner = self._inner
        return repr(self) if inner is None else str(inner)


def _until(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _hold(call: SyncCall, _: object) -> None:
    """Does nothing. As a callback of the attempt it keeps our call alive, for whoever waits for its end."""
