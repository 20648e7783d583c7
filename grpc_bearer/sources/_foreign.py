"""Calling what users hand in: whatever a foreign function raises may hold a secret, so only its type is passed on."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable
from typing import TypeVar

from grpc_bearer.errors import GrpcBearerError, TokenUnavailableError

T = TypeVar("T")


def scrubbed(error: BaseException, where: str) -> GrpcBearerError:
    """Our own errors without what they are chained to; for everything else one that names the type only."""
    if isinstance(error, GrpcBearerError):
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    return TokenUnavailableError(f"{where}: raised {type(error).__name__}")


def called(where: str, function: Callable[..., T], *args: object) -> T:
    """What `function` returns.

    Raises:
        GrpcBearerError: as the function raised it, or a `TokenUnavailableError` in the place of any other exception.
    """
    try:
        return function(*args)
    # SystemExit as well: on a worker thread it would end the thread, not the program, and nobody would be told.
    except (Exception, CancelledError, SystemExit) as error:
        failure = scrubbed(error, where)
    raise failure


def name_of(function: object) -> str:
    """A name for messages. Never the `repr`: that of a `functools.partial` shows its arguments."""
    return getattr(function, "__qualname__", None) or type(function).__qualname__
