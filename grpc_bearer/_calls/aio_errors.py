"""How an asyncio call ends: its failure as a value, and what the user is shown for it; twin of `sync_errors`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import NoReturn, TypeVar

import grpc
from grpc import aio

from grpc_bearer._calls.attach_token import Attempt, Carrier, explain, honest_code
from grpc_bearer._calls.failure import Failure
from grpc_bearer._calls.grpc_private import intercepted
from grpc_bearer._calls.grpc_types import AnyAioCall, Asked, Awaiting, DoneCallback
from grpc_bearer._calls.retry_block import LocalError
from grpc_bearer.errors import GrpcBearerError

T = TypeVar("T")

# gRPC's own words.
_CANCELLED = "Locally cancelled by application!"
FINISHED = "RPC already finished."


#: What to do about a channel that belongs to another event loop than its calls, or to none.
_OPEN_INSIDE = (
    "an asyncio channel belongs to the event loop that runs when it is opened: open it in the coroutine that "
    "asyncio.run() runs (async with grpc_bearer.aio.secure_channel(…) as channel); without an event loop there is "
    "grpc_bearer.secure_channel"
)


#: Parts of asyncio's own words, from Python 3.10 to 3.14.
_LOOP_WORDS = ("different loop", "no current event loop", "no running event loop")


def explain_loop(error: RuntimeError) -> None:
    """Raise asyncio's error about the wrong event loop, or none, once more: with what to do about it."""
    if any(words in str(error) for words in _LOOP_WORDS):
        raise RuntimeError(f"{str(error).rstrip(chr(46))}; {_OPEN_INSIDE}") from error


class AioCallError(LocalError, aio.AioRpcError):
    """The end of a call that failed on our side. `__cause__` is the typed error, where there is one."""


def aio_error(cause: GrpcBearerError) -> aio.AioRpcError:
    """What asyncio users see where our plugin failed: an honest code, and the typed error as the cause."""
    error = AioCallError(honest_code(cause), aio.Metadata(), aio.Metadata(), cause._told, cause._told)
    error.__cause__ = cause
    return error


def insecure(carrier: Carrier, error: aio.UsageError) -> GrpcBearerError | None:
    """Our error in place of grpc.aio's for call credentials on a channel that protects nothing."""
    if isinstance(carrier, Attempt) and not carrier.ran and "credentials" in str(error):
        return explain(carrier, grpc.StatusCode.UNAUTHENTICATED)
    return None


def deadline_exceeded() -> aio.AioRpcError:
    text = "Deadline Exceeded: no token came in time"
    return AioCallError(grpc.StatusCode.DEADLINE_EXCEEDED, aio.Metadata(), aio.Metadata(), text, text)


def failure_of(call: AnyAioCall) -> Failure | None:
    """How a call that has ended failed; `None` if it did not. Takes no turn of the loop.

    Raises:
        Exception: what an interceptor of the user's has raised.
    """
    code = _now(call.code())
    if code is grpc.StatusCode.OK:
        return None
    ours = _made_here(call)
    if ours is not None:
        return Failure(ours, code, ours.details() or "", local=True)
    initial, trailing = _now(call.initial_metadata()), _now(call.trailing_metadata())
    details, text = _now(call.details()), _now(call.debug_error_string())
    error = aio.AioRpcError(code, initial, trailing, details, text)
    return Failure(error, code, details or "", tuple(initial or ()), tuple(trailing or ()))


def _made_here(call: object) -> AioCallError | None:
    """The error of a wrapper of ours, below this one, that made the call fail."""
    outcome = getattr(intercepted(call), "outcome", None)
    if outcome is not None:
        return _made_here(outcome())
    error = getattr(call, "error", None)  # of an `Ended`
    return error if isinstance(error, AioCallError) else None


def _now(answer: Asked[T]) -> T:
    """What a call that has ended answers without waiting."""
    try:
        answer.send(None)
    except StopIteration as done:
        value: T = done.value
        return value
    answer.close()
    raise RuntimeError("the call has not ended")


class _Over(ABC):
    """What every call that is over answers alike."""

    @abstractmethod
    async def _raise(self, *_: object) -> NoReturn:
        """What comes out of it."""

    def done(self) -> bool:
        return True

    def cancel(self) -> bool:
        return False

    def time_remaining(self) -> float | None:
        return None

    def add_done_callback(self, callback: DoneCallback) -> None:
        callback(self)

    def __await__(self) -> Awaiting[NoReturn]:
        return self._raise().__await__()

    async def __aiter__(self) -> AsyncIterator[object]:
        await self._raise()
        yield


class Ended(_Over):
    """A call that ended on our side before gRPC made one: answers as a finished `grpc.aio` call of any kind does."""

    def __init__(self, error: aio.AioRpcError, *, locally: bool = False) -> None:
        self.error = error
        self._locally = locally

    def __repr__(self) -> str:
        return repr(self.error)

    def cancelled(self) -> bool:
        return bool(self.error.code() is grpc.StatusCode.CANCELLED)

    async def initial_metadata(self) -> aio.Metadata:
        return self.error.initial_metadata()

    async def trailing_metadata(self) -> aio.Metadata:
        return self.error.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        return self.error.code()

    async def details(self) -> str | None:
        return self.error.details()

    async def debug_error_string(self) -> str | None:
        return self.error.debug_error_string()

    async def _raise(self, *_: object) -> NoReturn:
        if self._locally and self.cancelled():  # a server may end a call with CANCELLED, too
            raise asyncio.CancelledError()
        raise self.error

    read = wait_for_connection = _raise

    async def write(self, request: object) -> None:
        # Of a call that never began nobody could know that it has ended.
        raise self.error if isinstance(self.error, LocalError) else asyncio.InvalidStateError(FINISHED)

    async def done_writing(self) -> None:
        """Nothing is left to say to a call that has ended."""


def refused(carrier: Carrier, error: aio.UsageError) -> Ended:
    """The end of a call that grpc.aio would not make, if that was for our credentials; else its own error."""
    cause = insecure(carrier, error)
    if cause is None:
        raise error
    return Ended(aio_error(cause))


def local_end(code: grpc.StatusCode, text: str = _CANCELLED) -> Ended:
    """An end that nobody but us has seen."""
    return Ended(aio.AioRpcError(code, aio.Metadata(), aio.Metadata(), text), locally=True)


class Broken(_Over):
    """A call that an interceptor of the user's has ended with an error of its own, which answers every question."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {type(self._error).__name__}>"

    def cancelled(self) -> bool:
        return False

    async def _raise(self, *_: object) -> NoReturn:
        raise self._error

    code = details = debug_error_string = initial_metadata = trailing_metadata = _raise
    read = write = done_writing = wait_for_connection = _raise


def result_of(task: asyncio.Task[AnyAioCall]) -> AnyAioCall:
    """The call that a task has made, or its end."""
    if task.cancelled():
        return local_end(grpc.StatusCode.CANCELLED)
    error = task.exception()
    if error is None:
        return task.result()
    if isinstance(error, aio.AioRpcError):
        return Ended(error)
    return Broken(error)
