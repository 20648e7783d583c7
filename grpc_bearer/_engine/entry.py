"""The token of one key: what is known of it, its fetch, and those who wait for it.

A caller's thread may be interrupted between any two lines, by Ctrl-C, a signal handler, the recursion limit; and a
finalizer may run this code once more on the same thread at any moment. So what is known is one value, and each step
replaces it as a whole if nothing has changed meanwhile: a step happens completely or not at all. A fetch that was begun
but not given to a worker, because its caller was interrupted, is launched by whoever waits for it next.
"""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import replace

from grpc_bearer._base import threads
from grpc_bearer._base.token import CallContext
from grpc_bearer._engine import refresh_table
from grpc_bearer._engine.fetch import (
    Fetched,
    Fetcher,
    Lease,
    Outcome,
    closed_error,
    expired_error,
    fetching_for,
    is_lasting,
    threadless_error,
)
from grpc_bearer._engine.known import Answer, Fetch, Known, Resting, nothing
from grpc_bearer._engine.refresh_table import Decision, State, Verdict
from grpc_bearer.errors import GrpcBearerError, TokenUnavailableError

#: Seconds after which a resting call is asked whether it still waits: backoffs may be long, and calls end.
LOOK_AROUND = 5.0
#: The key where all calls share one token.
UNKEYED: Hashable = object()


class Entry:
    """What is kept for one key.

    An entry knows nothing of its engine, and timers hold it weakly, so an engine that was dropped, or a key that was
    evicted, is gone at once.
    """

    __slots__ = ("__weakref__", "_cancel_timer", "_fetcher", "_key", "_last", "_resting", "known", "lease", "touched")

    def __init__(self, fetcher: Fetcher, key: Hashable = UNKEYED) -> None:
        self.known = Known()
        self.lease: Lease | None = None  # of `known`, or `None` for a moment; `peek` reads nothing else
        self.touched = False
        self._fetcher = fetcher
        self._key = key
        self._last: Fetch | None = None  # with `keep_warm` the next fetch is made for its caller
        self._resting: Resting | None = None
        self._cancel_timer: Callable[[], None] = nothing

    @property
    def state(self) -> State:
        """What `refresh_table` knows of it."""
        return self.known.state

    def _step(self, before: Known, after: Known) -> bool:
        """Put `after` in the place of `before`, unless that is no longer what is known.

        Between the comparison and the last assignment nothing is called, made or freed, so neither a finalizer nor a
        signal handler runs there. One that runs just before may take the lock again, on this same thread, and change
        what is known: then this step is not taken.
        """
        with self._fetcher.lock:
            if self.known is not before:
                return False
            self.lease = None
            self.known = after
            self.lease = after.lease
        return True

    # --------------------------------------------------------------------------------------------------- questions

    def ask(self, context: CallContext, *, patient: bool = False) -> Answer:
        """Decide, and begin a fetch if so decided: whoever asked must `launch` it.

        Args:
            context: the call that wants the token.
            patient: it would rather wait than fail with what may pass.
        """
        while True:
            known = after = self.known
            decision = refresh_table.decide(known.state, self._fetcher.elapsed(), patient=patient)
            if decision in (Decision.AHEAD, Decision.FETCH):
                state = refresh_table.began(known.state)
                fetch = Fetch(self._fetcher, context, ahead=decision is Decision.AHEAD)
                after = Known(state, self._renewed(known.lease, state), fetch)
            if (after is known and self.lease is known.lease) or self._step(known, after):
                error = closed_error() if after.state.closed else refresh_table.last_error(after.state)
                return Answer(decision, after.lease, error, after.fetch)

    def fresh(self) -> Lease | None:
        """The token, if by both clocks nobody needs to ask for another yet."""
        while True:
            known = self.known
            if known.lease is None or self._fetcher.elapsed() >= refresh_table.use_until(known.state):
                return None
            lease = self._renewed(known.lease, known.state)
            if (lease is self.lease is known.lease) or self._step(known, known._replace(lease=lease)):
                return lease

    def to_be_renewed(self) -> bool:
        """Whether to `ask` begins a fetch that nobody waits for."""
        return refresh_table.decide(self.state, self._fetcher.elapsed()) is Decision.AHEAD

    def invalidate(self, fingerprint: str | None) -> bool:
        """Give the token up, if it is that one; returns whether it was."""
        while True:
            known = self.known
            state = refresh_table.invalidated(known.state, fingerprint, self._fetcher.elapsed())
            if state is known.state:
                return False
            if self._step(known, known._replace(state=state, lease=None)):
                return True

    def why_kept(self) -> str:
        """Why `invalidate` has not given the token up; see `refresh_table.why_kept`."""
        return refresh_table.why_kept(self.state, self._fetcher.elapsed())

    def close(self) -> None:
        """For good; tell those who wait. The fetch in flight stays known: an interrupted caller may call this again."""
        self._cancel_timer()
        while not self._step(known := self.known, Known(refresh_table.closed(known.state), fetch=known.fetch)):
            pass
        if known.fetch is not None:
            threads.prompt(functools.partial(known.fetch.settle, closed_error()))
        self.wake()

    def _renewed(self, lease: Lease | None, state: State) -> Lease | None:
        """A lease on the same token, good until the state says that somebody must ask again."""
        if lease is None:
            return None
        until, wall_from, wall_until = self._fetcher.elapsed.until(refresh_table.use_until(state))
        if lease.fresh_until == until and lease.wall_from <= wall_from < lease.wall_until:
            return lease
        return Lease(lease.token, lease.metadata, until, wall_from, wall_until)

    # ----------------------------------------------------------------------------------------------------- fetches

    def launch(self, fetch: Fetch) -> None:
        """Give it to a worker. Twice does no harm, and is needed if the first caller was interrupted in here."""
        fetcher, job = self._fetcher, functools.partial(self._take, fetch)
        self._last = fetch if fetcher.keep_warm else None
        try:
            if not fetcher.source.local:  # a local fetch takes no time
                give_up = functools.partial(_weakly(self._give_up), fetch)
                fetch.cancel = fetcher.clock.call_later(fetcher.timeout, give_up)
            threads.submit(job)
        except RuntimeError:
            if fetcher.source.local:
                job()
            else:
                self._fail(fetch, threadless_error())
        fetch.launched = True

    def _take(self, fetch: Fetch) -> None:
        if fetch.taken.acquire(blocking=False):
            fetch.caller.copy().run(self._fly, fetch)

    def _fly(self, fetch: Fetch) -> None:
        # A weak reference. Who waited is called back in this context, and calls that are begun there keep it until they
        # end: with `pending` itself in it, each would keep in memory all the callbacks that waited for this token.
        fetching_for.set((*fetching_for.get(), weakref.ref(fetch.pending)))
        try:
            while (known := self.known).fetch is fetch and known.state.flight is not None:
                fetch.report.begun()
                fetched = self._fetcher.fetch(_told(fetch.context, known.state))
                if isinstance(fetched, GrpcBearerError):
                    self._fail(fetch, fetched)
                else:
                    self._land(fetch, fetched)
        except BaseException as error:  # nobody may wait for a fetch that is over
            self._fail(fetch, TokenUnavailableError(f"{self._fetcher.name}.fetch raised {type(error).__name__}"))
            raise
        fetch.settle(closed_error())  # without effect if it has an outcome

    def _land(self, fetch: Fetch, fetched: Fetched) -> None:
        """Take what a fetch brought. If a server has refused that token meanwhile, fetch again for those who wait."""
        token, metadata, shared = fetched
        fetcher, jitter = self._fetcher, self._fetcher.jitter()
        while True:
            known, now = self.known, fetcher.elapsed()
            number = known.state.flight.number if known.fetch is fetch and known.state.flight else 0
            held = refresh_table.arrival(token, number, now_wall=fetcher.clock.time(), now=now, jitter=jitter)
            if held is None:
                # An expired token is of no use, but no lasting failure: the issuer's cache will have another one soon.
                self._fail(fetch, expired_error(), lasting=False)
                return
            delay = 0.0
            if refresh_table.extends_nothing(known.state, held, now):
                delay = fetcher.backoff(refresh_table.strikes(known.state, lasting=False))
            state, verdict = refresh_table.fetched(known.state, held, now=now, delay=delay)
            after = known
            if verdict is Verdict.KEPT:
                until = fetcher.elapsed.until(refresh_table.use_until(state))
                after = Known(state, Lease(token, metadata, *until))
            elif verdict is Verdict.AGAIN and fetch.pending.kept:  # it took too long, and nobody waits any more
                after = known._replace(state=state, fetch=None)
            elif verdict is Verdict.AGAIN:
                after = known._replace(state=refresh_table.began(state))
            if after is known or self._step(known, after):
                break
        lifetime = None if math.isinf(held.expires_at) else held.expires_at - now
        kept = after.lease if verdict is Verdict.KEPT else None
        failures = refresh_table.failures(known.state)
        try:
            fetch.report.fetched(lifetime, failures=failures, kept=kept is not None, shared=shared)
        finally:
            if after.fetch is not fetch:
                self._end(fetch, kept or closed_error())

    def _fail(self, fetch: Fetch, error: GrpcBearerError, *, lasting: bool | None = None) -> None:
        """Take a fetch's failure: those who wait get the old token while it is truly valid, else the error."""
        fetcher = self._fetcher
        lasting = is_lasting(error) if lasting is None else lasting
        while True:
            known, now = self.known, fetcher.elapsed()
            delay = fetcher.backoff(refresh_table.strikes(known.state, lasting=lasting), error, lasting=lasting)
            after, outcome = known, self._old_token_or(known, error, now)
            if known.fetch is fetch and known.state.flight is not None:
                number = known.state.flight.number
                state = refresh_table.failed(known.state, number, error, now=now, delay=delay, lasting=lasting)
                after = Known(state, self._renewed(known.lease, state))
            if after is known or self._step(known, after):
                break
        usable, retry_in = isinstance(outcome, Lease), None if after.state.closed else delay
        try:
            fetch.report.failed(error, failures=refresh_table.failures(after.state), retry_in=retry_in, usable=usable)
        finally:
            self._end(fetch, outcome)

    def _end(self, fetch: Fetch, outcome: Outcome) -> None:
        try:
            self._wake_later()  # first, so that whoever is told of the token finds the timer set
        finally:
            fetch.settle(outcome)
            self.wake()

    def _give_up(self, fetch: Fetch) -> None:
        """A fetch takes too long: tell those who wait. It goes on, and what it brings is kept."""
        error = self._fetcher.overdue_error()
        while True:
            known, now = self.known, self._fetcher.elapsed()
            if known.fetch is not fetch or known.state.flight is None or fetch.pending.kept:
                return
            state, outcome = refresh_table.overdue(known.state, error), self._old_token_or(known, error, now)
            if self._step(known, Known(state, self._renewed(known.lease, state), fetch)):
                break
        try:
            fetch.report.overdue(self._fetcher.timeout, usable=isinstance(outcome, Lease))
        finally:
            fetch.settle(outcome)

    def _old_token_or(self, known: Known, error: GrpcBearerError, now: float) -> Outcome:
        if known.state.closed:
            return closed_error()
        return known.lease if known.lease is not None and refresh_table.usable(known.state, now) else error

    # -------------------------------------------------------------------------------------------------------- rest

    def rest(self, again: Callable[[], None]) -> None:
        """Call `again` when the backoff is over, or after `LOOK_AROUND` seconds if it is longer.

        Raises:
            RuntimeError: the system gives no thread.
        """
        fetcher = self._fetcher
        while (resting := self._resting) is None:
            new = Resting()
            with fetcher.lock:
                if self._resting is None:
                    self._resting = new
        if not resting.watched:
            delay = refresh_table.rest_until(self.state) - fetcher.elapsed()
            wake = functools.partial(_weakly(self._wake_those), resting)
            # Not less than a millisecond: see `_wake_later`.
            resting.cancel = fetcher.clock.call_later(min(max(delay, 0.001), LOOK_AROUND), wake)
            resting.watched = True
        resting.over.then(lambda _: again())

    def wake(self) -> None:
        """Let all who rest ask again."""
        resting = self._resting
        if resting is not None:
            threads.prompt(functools.partial(self._wake_those, resting))

    def _wake_those(self, resting: Resting) -> None:
        with self._fetcher.lock:
            if self._resting is resting:
                self._resting = None
        resting.cancel()
        resting.over.keep(None)
        resting.over.tell()

    # --------------------------------------------------------------------------------------------------- keep warm

    def _wake_later(self) -> None:
        at = refresh_table.next_fetch_at(self.state)
        if not self._fetcher.keep_warm or math.isinf(at):
            return
        self._cancel_timer()
        # Not less than a millisecond: a timer that fires a rounding error too early must not turn in circles.
        delay = max(at - self._fetcher.elapsed(), 0.001)
        with suppress(RuntimeError):  # no thread to be had: the next call refreshes it
            self._cancel_timer = self._fetcher.clock.call_later(delay, _weakly(self._refresh_idle))

    def _refresh_idle(self) -> None:
        """On behalf of the last one who asked: in their context variables, and only if they still have this key."""
        last = self._last
        if last is not None and self._key is UNKEYED:
            self._refresh_for(last.context)
        elif last is not None:
            last.caller.copy().run(self._refresh_for, last.context)

    def _refresh_for(self, context: CallContext) -> None:
        if self._key is not UNKEYED and self._fetcher.key(context) != self._key:
            return
        self._cancel_timer = nothing
        fetch = self.ask(context).fetch
        if fetch is None:
            self._wake_later()
        elif not fetch.launched:
            self.launch(fetch)

    # -------------------------------------------------------------------------------------------------------- fork

    def after_fork_in_child(self) -> None:
        """No fetch is in flight any more. The token stays. Who waited is the parent's: see `keep_for_parent`."""
        known = self.known
        threads.keep_for_parent((known.fetch, self._resting))
        self._resting, self._cancel_timer = None, nothing
        state = refresh_table.forked(known.state)
        self.known = Known(state, self._renewed(known.lease, state))
        self.lease = self.known.lease
        self._wake_later()


def _told(context: CallContext, state: State) -> CallContext:
    """The context with the token that was refused: a source with a cache of its own must not give that one again."""
    return context if state.refusal is None else replace(context, refused=state.refusal.fingerprint)


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """Calls `method` while its object lives, and does not keep the object alive."""
    me = weakref.WeakMethod(method)

    def call(*args: object) -> None:
        bound = me()
        if bound is not None:
            bound(*args)

    return call
