"""Observers as users write them. Read by type checkers (`make types`), never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from typing_extensions import assert_type

from grpc_bearer import BearerAuth, Observer, events, otel
from grpc_bearer.events import CallRetried, Event, RefreshFailed, TokenFetched

seen: list[Event] = []


# What can be called with an event is an observer, whatever it returns and however it names its argument.
def watch(what: Event) -> int:
    if isinstance(what, RefreshFailed):
        assert_type(what.retry_in, float | None)
        assert_type(what.error, str)
    if isinstance(what, TokenFetched):
        assert_type(what.lifetime, float | None)
    return 1


class Counts:
    def __init__(self) -> None:
        self.retries = 0

    def __call__(self, event: object) -> None:
        self.retries += isinstance(event, CallRetried)


observers: list[Observer] = [watch, seen.append, Counts(), print, otel.OpenTelemetryObserver()]
BearerAuth("t0", name="crm", observers=observers)
BearerAuth("t0", observers=(seen.append,))
events.add_observer(watch)
events.remove_observer(watch)

BearerAuth("t0", observers=watch)  # type: ignore[arg-type]
BearerAuth("t0", observers=[3])  # type: ignore[list-item]
BearerAuth("t0", name=3)  # type: ignore[arg-type]
events.add_observer(Counts)  # type: ignore[arg-type]


# A coroutine function has the right shape for a checker, since results do not matter; it is refused when run.
async def never_awaited(event: Event) -> None: ...


events.add_observer(never_awaited)

# Events are frozen values with names for all that is not common to them.
failed = RefreshFailed(
    "crm",
    "HTTPTokenSource",
    fetch=1,
    duration=0.1,
    error="TokenUnavailableError",
    message="status 503",
    retryable=True,
    failures=1,
    retry_in=None,
    usable=False,
)
failed.error = "other"  # type: ignore[misc]
CallRetried("crm", "HTTPTokenSource", "x.Y/Z", "UNAUTHENTICATED", 1, 0.0)  # type: ignore[call-arg]
