"""What is known of the token of one key, a fetch that was begun for it, and those who wait."""

from __future__ import annotations

import _thread
import contextvars
from collections.abc import Callable
from typing import NamedTuple

from grpc_bearer._base.token import CallContext
from grpc_bearer._engine.fetch import Fetcher, Lease, Outcome, Pending
from grpc_bearer._engine.promise import Promise
from grpc_bearer._engine.refresh_table import Decision, State
from grpc_bearer.errors import GrpcBearerError


def nothing() -> None:
    """Stands for a function that cancels, where there is nothing to cancel."""


class Fetch:
    """A fetch that was begun, and those who wait for it.

    Args:
        fetcher: the source.
        context: the call that wants the token.
        ahead: nobody waits for it.
    """

    __slots__ = ("caller", "cancel", "context", "launched", "pending", "report", "taken")

    def __init__(self, fetcher: Fetcher, context: CallContext, *, ahead: bool) -> None:
        self.context = context
        self.caller = contextvars.copy_context()
        self.report = fetcher.report(ahead=ahead)
        self.pending: Pending = Promise()
        self.launched = False
        self.taken = _thread.allocate_lock()  # for good, by the one thread that does the fetch
        self.cancel: Callable[[], None] = nothing

    def settle(self, outcome: Outcome) -> None:
        """Tell those who wait. Only on a thread of ours: see `Promise`."""
        self.cancel()
        self.pending.keep(outcome)
        self.pending.tell()


class Known(NamedTuple):
    """All that is known of a key. `lease` belongs to `state.held`, `fetch` to `state.flight`."""

    state: State = State()
    lease: Lease | None = None
    fetch: Fetch | None = None


class Answer(NamedTuple):
    """What an entry says to somebody who wants its token. `fetch`: what is in flight; whoever asked must launch it."""

    decision: Decision
    lease: Lease | None
    error: GrpcBearerError | None
    fetch: Fetch | None


class Resting:
    """Those who wait until it may be of use to ask again."""

    __slots__ = ("cancel", "over", "watched")

    def __init__(self) -> None:
        self.over: Promise[None] = Promise()
        self.watched = False  # a timer is set
        self.cancel: Callable[[], None] = nothing
