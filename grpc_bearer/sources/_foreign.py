"""Calling what users hand in: whatever a foreign function raises may hold a secret, so only its type is passed on."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from contextvars import Context, ContextVar
from typing import TypeVar

from grpc_bearer._failure import of_call
from grpc_bearer._interrupts import is_interrupt
from grpc_bearer.errors import GrpcBearerError, TokenUnavailableError

T = TypeVar("T")

#: What this thread of control is fetching for: a source that asks for its own token would wait for itself.
fetching_for: ContextVar[tuple[object, ...]] = ContextVar("grpc_bearer_fetching_for", default=())


#: What else of the work at hand goes along where the caller's variables do not: called here, it gives what is called
#: there.
carried: list[Callable[[], Callable[[], object]]] = []


def nobody() -> Context:
    """Context variables of no caller, for functions whose token is everybody's: what they see must not decide it."""
    context = Context()
    context.run(fetching_for.set, fetching_for.get())
    for carry in list(carried):
        context.run(carry())
    return context


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
    # What a context variable raises that is not set.
    return "; without key= a token is everybody's, and its function runs without the context variables of any caller"


def called(where: str, function: Callable[..., T], *args: object) -> T:
    """What `function` returns.

    Raises:
        GrpcBearerError: as the function raised it, or a `TokenUnavailableError` in the place of any other exception.
    """
    try:
        return function(*args)
    # SystemExit as well: on a worker thread it would end the thread, not the program, and nobody would be told.
    except (Exception, CancelledError, SystemExit) as error:
        if is_interrupt(error):
            raise
        failure = scrubbed(error, where)
    raise failure


def name_of(function: object) -> str:
    """A name for messages. Never the `repr`: that of a `functools.partial` shows its arguments."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__
