"""How a sync call ends: its failure as a value, and what the user is shown for it.

An error that the server made is shown untouched, with our typed error as its cause; one that our own plugin made gets
an honest code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, NoReturn

import grpc

from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._calls.attach_token import Attempt, Carrier, honest_code
from grpc_bearer._calls.attempt_history import AttemptHistory
from grpc_bearer._calls.failure import Failure, blame
from grpc_bearer._calls.grpc_private import headers_at_hand, hidden_failure
from grpc_bearer._calls.grpc_types import AnyCall
from grpc_bearer._calls.retry_block import LocalError
from grpc_bearer.errors import GrpcBearerError

_REPR = '<{} of RPC that terminated with:\n\tstatus = {}\n\tdetails = "{}"\n\tdebug_error_string = "{}"\n>'


# type-arg: generic in gRPC's stubs only.
class CallError(LocalError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """The end of a call that failed on our side: what gRPC raises for one of its own, and what a finished call answers.

    `__cause__` is the typed error, where there is one; `cancelled`: by its user, and not by a channel that was closed.
    """

    def __init__(
        self, code: grpc.StatusCode, details: str, *, cause: BaseException | None = None, cancelled: bool = False
    ) -> None:
        super().__init__()
        self._code = code
        self._details = details
        self._cancelled = cancelled
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
        return self._cancelled

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

    def add_done_callback(self, fn: Callable[[grpc.Future[object]], None]) -> None:
        fn(self)

    def __iter__(self) -> Iterator[object]:
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


def failure_of(call: AnyCall) -> Failure:
    """How a call that has ended failed."""
    # The status may overtake the headers. To ask for those is to wait, and where done-callbacks run, on the one thread
    # that brings them, for ever: so only what is there is read.
    call = hidden_failure(call) or call
    initial, trailing = tuple(headers_at_hand(call)), tuple(call.trailing_metadata() or ())
    return Failure(call, call.code(), call.details() or "", initial, trailing, local=_made_here(call))


def _made_here(call: object) -> bool:
    """Whether it was a wrapper of ours, below this one, that made the call fail."""
    outcome = getattr(call, "outcome", None)
    return isinstance(call, LocalError) if outcome is None else _made_here(outcome())


def concluded(history: AttemptHistory, carrier: Carrier, call: AnyCall, failure: Failure) -> Any:
    """What to show for a call whose last attempt failed: that attempt, an earlier refusal, or an error of our own."""
    found = history.cause(carrier, failure)
    if isinstance(carrier, Attempt):
        carrier.retire()
    return call if found is None else _shown(*found)


def tokenless(history: AttemptHistory, error: GrpcBearerError | None) -> Any:
    """Likewise, where no attempt could be made for want of a token."""
    return _shown(*history.tokenless(error))


def _shown(call: Any, cause: GrpcBearerError) -> Any:
    if call is None:
        return CallError(honest_code(cause), cause._told, cause=cause)
    for error in (call, hidden_failure(call)):
        if error is not None:
            blame(error, cause)
    return call


def deadline_exceeded() -> CallError:
    return CallError(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded: no token came in time")


def raised_later(make: Callable[[], AnyCall]) -> AnyCall:
    """An attempt of a call that was handed out before: what gRPC would raise at once has to come out of it."""
    try:
        return make()
    except grpc.RpcError as error:
        if isinstance(error, grpc.Call):
            return CallError(error.code(), error.details() or "")
        return CallError(grpc.StatusCode.INTERNAL, type(error).__name__)
    except Exception as error:
        if is_interrupt(error):
            raise
        if isinstance(error, ValueError) and "closed" in str(error):
            return CallError(grpc.StatusCode.CANCELLED, "Channel closed!")  # so of calls that were under way
        return CallError(grpc.StatusCode.INTERNAL, f"gRPC refused the call: {type(error).__name__}")
