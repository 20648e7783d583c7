"""What the log says of events: the first observer of every auth.

Routine is DEBUG. What somebody may want to know of is INFO or WARNING, at most one line of a kind in a minute for each
auth: ten thousand tenants whose token endpoint is down are one problem. What was left out is counted, and is there at
DEBUG.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from grpc_bearer.events import (
    CallRetried,
    Event,
    FetchBegun,
    RefreshFailed,
    RefreshForced,
    RefreshOverdue,
    SkewLearnt,
    TokenFetched,
)

#: At most one line of a kind in so many seconds; the others are DEBUG.
QUIET = 60.0

_LOGGER = logging.getLogger("grpc_bearer")


class Log:
    """Writes the events of one auth to the logger `grpc_bearer`.

    Args:
        monotonic: where to read time.
    """

    __slots__ = ("_left_out", "_monotonic", "_said")

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        # For each kind of line: the time of the last one, and how many were left out since. Two threads may both think
        # that their line is due: one line too many does no harm, but a lock might.
        self._said: dict[str, float] = {}
        self._left_out: dict[str, int] = {}

    @staticmethod
    def wants(event: Event) -> bool:
        """Whether there may be a line about it."""
        return _LOGGER.isEnabledFor(level_of(event)) or _LOGGER.isEnabledFor(logging.DEBUG)

    def __call__(self, event: Event) -> None:
        level = level_of(event)
        if level > logging.DEBUG:
            kind = kind_of(event)
            if self._due(kind):
                self._write(level, event, self._left_out.pop(kind, 0))
                return
            self._left_out[kind] = self._left_out.get(kind, 0) + 1
        if _LOGGER.isEnabledFor(logging.DEBUG):
            self._write(logging.DEBUG, event, 0)

    def _due(self, kind: str) -> bool:
        now = self._monotonic()
        due = now - self._said.get(kind, -math.inf) >= QUIET
        if due:
            self._said[kind] = now
        return due

    def _write(self, level: int, event: Event, left_out: int) -> None:
        if _LOGGER.isEnabledFor(level):
            more = f" ({left_out} more of these were left out)" if left_out else ""
            _LOGGER.log(level, "%s: %s%s", name_of(event), text_of(event), more)


def level_of(event: Event) -> int:
    """At which level it is logged."""
    match event:
        case RefreshFailed(retry_in=None):
            return logging.DEBUG  # the auth was closed while it fetched
        case RefreshFailed() | RefreshOverdue():
            return logging.WARNING
        case SkewLearnt(offset=offset):
            return logging.WARNING if offset else logging.INFO
        case RefreshForced():
            return logging.INFO
        case TokenFetched(failures=failures):
            return logging.INFO if failures else logging.DEBUG
    return logging.DEBUG


def kind_of(event: Event) -> str:
    """Which kind of line it is. Failures with different errors are of different kinds."""
    return f"{type(event).__name__} {event.error}" if isinstance(event, RefreshFailed) else type(event).__name__


def name_of(event: Event) -> str:
    """Which auth it is about."""
    return f"{event.auth} ({event.source})" if event.auth else event.source


def text_of(event: Event) -> str:
    """The event in words."""
    match event:
        case FetchBegun(ahead=ahead):
            return "fetching a token ahead" if ahead else "fetching a token"
        case TokenFetched():
            return _fetched(event)
        case RefreshFailed():
            return _failed(event)
        case RefreshOverdue(waited=waited, usable=usable):
            return f"no token after {waited:g} s; the fetch goes on{_meanwhile(usable)}"
        case RefreshForced(reason=reason):
            return (
                "a server refused the token; the next call gets another"
                if reason == "refused"
                else "what was fetched before is given up; the next call gets a new token"
            )
        case CallRetried(method=method, code=code, attempt=attempt, delay=delay):
            pause = f" in {delay:.1f} s" if delay else ""
            return f"{method or 'a block'} failed with {code} (attempt {attempt}), and is made once more{pause}"
        case SkewLearnt(offset=offset):
            return _skew(offset)
    return type(event).__name__


def _fetched(event: TokenFetched) -> str:
    life = "valid until revoked" if event.lifetime is None else f"valid for {event.lifetime:.0f} s"
    after = f" after {event.failures} that failed" if event.failures else ""
    how = "taken from the shared cache" if event.shared else "fetched"
    return f"token {how} in {event.duration:.3f} s{after}, {life}{'' if event.kept else '; not kept'}"


def _failed(event: RefreshFailed) -> str:
    next_one = "" if not event.retry_in else f"; none is begun for {event.retry_in:.1f} s"
    return (
        f"fetch failed after {event.duration:.3f} s: {event.error}: {event.message}{next_one}"
        f"{_meanwhile(event.usable) if event.failures else ''}{f' [{event.help}]' if event.help else ''}"
    )


def _meanwhile(usable: bool) -> str:
    return ", and the old token serves meanwhile" if usable else ", and calls fail meanwhile"


def _skew(offset: float) -> str:
    if not offset:
        return "this machine's clock is taken for right again"
    return f"this machine's clock is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead'}; tokens allow for it"
