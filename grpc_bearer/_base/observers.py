"""The observers of all auths, and the check of what can be one. Not in `events`, which is imported only if needed."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from grpc_bearer.errors import ConfigurationError

# Changed by single list operations only, so that no lock is needed, and none has to be made anew after a fork.
everywhere: list[Callable[..., object]] = []


def checked_observer(observer: object, field: str = "observer") -> None:
    """Refuse what cannot be called with an event.

    Raises:
        ConfigurationError: it cannot be called, or is a coroutine function.
    """
    if not callable(observer) or inspect.isclass(observer):
        raise ConfigurationError("expected something that can be called with an event", field=field)
    call = observer if inspect.isroutine(observer) else getattr(observer, "__call__", observer)  # noqa: B004
    if inspect.iscoroutinefunction(call):
        raise ConfigurationError(
            "is called, not awaited; a function may pass the event on with loop.call_soon_threadsafe", field=field
        )
