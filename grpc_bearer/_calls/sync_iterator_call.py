"""Response streams of other libraries that are bare iterators, with what a plain call has beside its messages.

OpenTelemetry's sync instrumentation gives generators for server streams, and so do many interceptors written by hand:
no `cancel()`, no `code()`, no callbacks. What an iterator cannot tell is known here once it has ended; before that
nobody knows.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from grpc_bearer._calls.around import Around
from grpc_bearer._calls.grpc_private import is_grpcs
from grpc_bearer._calls.grpc_types import Begin, DoneCallback


def whole(call: Any) -> Any:
    """The call itself, if it has the API of one."""
    return call if hasattr(call, "add_done_callback") or not hasattr(call, "__next__") else BareStream(call)


def whole_streams(multicallable: Begin) -> Begin:
    """A multicallable whose response streams are whole: gRPC's own, or one around what others made."""
    return multicallable if is_grpcs(multicallable) else _WholeStreams(multicallable)


class _WholeStreams(Around):
    def __init__(self, inner: Begin) -> None:
        self._inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return whole(self._inner(*args, **kwargs))


# type-arg: generic in gRPC's stubs only.
class BareStream(grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A call around an iterator. As with gRPC's own streams, one that has failed is what it raises."""

    def __init__(self, messages: Iterator[object]) -> None:
        super().__init__()
        self._messages = messages
        self._lock = threading.Lock()
        self._callbacks: list[DoneCallback] = []
        self._error: BaseException | None = None
        self._code: grpc.StatusCode | None = None
        self._end = threading.Event()

    def __iter__(self) -> BareStream:
        return self

    def __next__(self) -> object:
        try:
            return next(self._messages)
        except StopIteration:
            self._settle(grpc.StatusCode.OK, None)
            raise
        except grpc.RpcError as error:
            self._settle(_asked(error, "code", grpc.StatusCode.UNKNOWN), error)
        except BaseException as error:
            self._settle(grpc.StatusCode.UNKNOWN, error)
            raise
        raise self

    def _settle(self, code: grpc.StatusCode, error: BaseException | None) -> None:
        with self._lock:
            if self._code is not None:
                return
            self._code, self._error = code, error
            callbacks, self._callbacks = self._callbacks, []
        self._end.set()
        for callback in callbacks:
            callback(self)

    def code(self) -> Any:
        return self._code

    def details(self) -> Any:
        return _asked(self._error, "details", "")

    def debug_error_string(self) -> Any:
        return _asked(self._error, "debug_error_string", "")

    def initial_metadata(self) -> Any:
        return _asked(self._error, "initial_metadata", ())

    def trailing_metadata(self) -> Any:
        return _asked(self._error, "trailing_metadata", ())

    def time_remaining(self) -> Any:
        return None

    def is_active(self) -> bool:
        return self._code is None

    def running(self) -> bool:
        return self._code is None

    def done(self) -> bool:
        return self._code is not None

    def cancelled(self) -> bool:
        return self._code is grpc.StatusCode.CANCELLED

    def cancel(self) -> bool:
        try:
            self._messages.close()  # type: ignore[attr-defined]  # a generator has it
        except (AttributeError, ValueError):  # no generator; or somebody is reading it
            return False
        self._settle(grpc.StatusCode.CANCELLED, None)
        return True

    def add_callback(self, callback: Callable[[], None]) -> bool:
        with self._lock:
            if self._code is None:
                self._callbacks.append(lambda _: callback())
                return True
        return False

    def add_done_callback(self, fn: DoneCallback) -> None:
        with self._lock:
            if self._code is None:
                self._callbacks.append(fn)
                return
        fn(self)

    def exception(self, timeout: float | None = None) -> BareStream | None:
        """As gRPC's: waits until somebody has read to the end."""
        if not self._end.wait(timeout):
            raise grpc.FutureTimeoutError()
        if self.cancelled():
            raise grpc.FutureCancelledError()
        return None if self._error is None else self

    def result(self, timeout: float | None = None) -> None:
        error = self.exception(timeout)
        if error is not None:
            raise error
        return None

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        self.exception(timeout)
        return None if self._error is None else self._error.__traceback__

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self._error or self._code or self._messages}>"

    __str__ = __repr__


def _asked(error: BaseException | None, name: str, default: Any) -> Any:
    """What an error of gRPC's answers; other libraries' may answer nothing."""
    question = getattr(error, name, None)
    return default if question is None else question()
