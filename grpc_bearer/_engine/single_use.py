"""Single-use tokens: one for each attempt, made when it is asked for and kept nowhere."""

from __future__ import annotations

import contextvars
import functools

from grpc_bearer._base import threads
from grpc_bearer._base.token import CallContext
from grpc_bearer._engine.fetch import (
    Deliver,
    Fetcher,
    Lease,
    Outcome,
    Pending,
    Telling,
    closed_error,
    fetching_for,
    threadless_error,
)
from grpc_bearer._engine.notify import FetchReport
from grpc_bearer._engine.promise import Promise
from grpc_bearer.errors import GrpcBearerError, TokenUnavailableError

# At most so many single-use tokens are fetched at once on gRPC's own threads; more go to the workers, which are few.
# Else a source that makes its calls through the very channel that it serves would ask itself without end.
_OWN_THREADS = 64


class SingleUse:
    """Makes the single-use tokens of one engine.

    Args:
        fetcher: makes the tokens.
    """

    def __init__(self, fetcher: Fetcher) -> None:
        self._fetcher = fetcher
        self._closed = False
        self._waiting: set[Pending] = set()

    def request(self, context: CallContext, deliver: Deliver, own_thread: bool) -> None:
        """See `Engine.request`."""
        report = self._fetcher.report(quiet=not self._fetcher.notify.heard)
        if self._fetcher.source.local:
            Telling(deliver)(contextvars.copy_context().run(self._make, context, report))
            return
        pending: Pending = Promise()
        pending.then(Telling(deliver))
        fetch = functools.partial(self._fetch, pending, context, report)
        job = functools.partial(contextvars.copy_context().run, fetch)
        try:
            self._waiting.add(pending)
            cancel = self._fetcher.clock.call_later(
                self._fetcher.timeout, functools.partial(self._give_up, pending, report)
            )
            pending.then(lambda _: cancel())
            if own_thread and len(self._waiting) <= _OWN_THREADS:
                job()
            else:
                threads.submit(job)
        except RuntimeError:
            error = threadless_error()
            report.failed(error)
            self._settle(pending, error)
        except BaseException:
            self._waiting.discard(pending)
            raise

    def _give_up(self, pending: Pending, report: FetchReport) -> None:
        if not pending.kept:
            report.overdue(self._fetcher.timeout, usable=False)
            self._settle(pending, self._fetcher.overdue_error())

    def _fetch(self, pending: Pending, context: CallContext, report: FetchReport) -> None:
        outcome: Outcome = TokenUnavailableError(f"{self._fetcher.name}.fetch: interrupted")
        try:
            outcome = closed_error() if pending.kept else self._make(context, report)
        finally:
            self._settle(pending, outcome)

    def _make(self, context: CallContext, report: FetchReport) -> Outcome:
        fetching_for.set((*fetching_for.get(), self._fetcher))
        report.begun()
        fetched = self._fetcher.fetch_single_use(context)
        outcome: Outcome = fetched if isinstance(fetched, GrpcBearerError) else fetched.for_one_attempt()
        self._end_report(report, outcome)
        return outcome

    def _end_report(self, report: FetchReport, outcome: Outcome) -> None:
        if isinstance(outcome, Lease):
            at = outcome.token.expires_at
            report.fetched(None if at is None else at - self._fetcher.clock.time(), kept=False)
        else:
            report.failed(outcome, retry_in=None if self._closed else 0.0)

    def _settle(self, pending: Pending, outcome: Outcome) -> None:
        self._waiting.discard(pending)
        pending.keep(outcome)
        pending.tell()

    def close(self) -> None:
        """Tell those who wait."""
        self._closed = True
        for pending in list(self._waiting):
            threads.prompt(functools.partial(self._settle, pending, closed_error()))

    def after_fork_in_child(self) -> None:
        """Those who wait are the parent's."""
        threads.keep_for_parent(self._waiting)
        self._waiting = set()
