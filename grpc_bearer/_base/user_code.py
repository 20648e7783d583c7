"""Calling what users hand in: whatever a foreign function raises may hold a secret, so only its type is passed on."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import TypeVar

import grpc

from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import GrpcBearerError, TokenRejectedError, TokenUnavailableError

T = TypeVar("T")

# What a service says to a credential that it does not take: to ask again soon is of no use.
_LASTING = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT)

#: The fetches that this code is a part of. By this a source is noticed that asks for its own token, and would wait for
#: itself.
fetching_for: ContextVar[tuple[object, ...]] = ContextVar("grpc_bearer_fetching_for", default=())


#: What takes something into the context of `nobody`, such as the current span of OpenTelemetry. Each is called in the
#: caller's context, and returns a function, which is then called in that of `nobody`.
carried: list[Callable[[], Callable[[], object]]] = []


def nobody() -> Context:
    """A context without the caller's variables: a function whose token all callers get must not see those of one."""
    context = Context()
    context.run(fetching_for.set, fetching_for.get())
    for carry in list(carried):
        context.run(carry())
    return context


def of_call(error: BaseException, where: str) -> GrpcBearerError | None:
    """If code of the user's logs in over gRPC, and its call failed: our error for that. Else `None`.

    The call's error may have another one around it. The details of a status are free text, and stay out.
    """
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        code = _code(cause)
        if code is not None:
            kind = TokenRejectedError if code in _LASTING else TokenUnavailableError
            return kind(f"{where}: its call ended with {code.name}")
        cause = cause.__cause__
    return None


def _code(error: BaseException) -> grpc.StatusCode | None:
    try:
        # Google's clients raise errors of their own, which are no RpcError and name it so.
        code = error.code() if isinstance(error, grpc.RpcError) else getattr(error, "grpc_status_code", None)
    except Exception:
        return None
    return code if isinstance(code, grpc.StatusCode) else None


def scrubbed(error: BaseException, where: str) -> GrpcBearerError:
    """Our own errors without what they are chained to; for everything else one that names the type only, and the status
    of a call."""
    if isinstance(error, GrpcBearerError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return of_call(error, where) or TokenUnavailableError(f"{where}: raised {type(error).__name__}{hint(error)}")


def hint(error: BaseException) -> str:
    """More on an error that a function of the user's has raised, if its type says enough."""
    if type(error) is not LookupError:
        return ""
    # A context variable that is not set raises this.
    return "; without key= a token is everybody's, and its function runs without the context variables of any caller"


def called(where: str, function: Callable[..., T], *args: object) -> T:
    """What `function` returns.

    Raises:
        GrpcBearerError: as the function raised it, or a `TokenUnavailableError` in the place of any other exception.
    """
    # SystemExit as well: on a worker thread it would end the thread, not the program, and nobody would be told.
    with translating(
        Exception,
        CancelledError,
        SystemExit,
        to=lambda error: None if is_interrupt(error) else scrubbed(error, where),
    ):
        return function(*args)


def name_of(function: object) -> str:
    """A name for messages. Never the `repr`: that of a `functools.partial` shows its arguments."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__
