"""The token of one key: its state, its flight, and those who wait for it."""

from __future__ import annotations

import contextvars
import functools
import logging
import math
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

from grpc_bearer import _refresh, _workers
from grpc_bearer._fetching import (
    Fetcher,
    Metadata,
    closed_error,
    expired_error,
    fetching_for,
    is_lasting,
)
from grpc_bearer._notify import Tale
from grpc_bearer._refresh import Decision, State, Verdict
from grpc_bearer._token import CallContext, Token
from grpc_bearer.errors import GrpcBearerError, TokenUnavailableError

_LOGGER = logging.getLogger("grpc_bearer")


@dataclass(frozen=True, slots=True)
class Lease:
    """A token ready to be sent.

    Args:
        token: the token.
        metadata: the same as gRPC metadata, made once a token.
        fresh_until: the monotonic time until which it may be used without asking again: its refresh point, or later
            while a fetch is under way or in backoff.
    """

    token: Token
    metadata: Metadata = field(repr=False)
    fresh_until: float


Deliver: TypeAlias = Callable[[Lease | None, GrpcBearerError | None], None]
Outcome: TypeAlias = Lease | GrpcBearerError
#: What waits for a flight. Its result is a value, errors too: an exception instance is never shared.
Pending: TypeAlias = Future[Outcome]

#: Seconds after which a resting call is asked whether it still waits: backoffs may be long, and calls end.
LOOK_AROUND = 5.0


class Answer(NamedTuple):
    """What an entry says to somebody who wants its token. `begun`: the number of the flight that must be launched."""

    decision: Decision
    lease: Lease | None
    error: GrpcBearerError | None
    pending: Pending | None
    begun: int | None


class Entry:
    """What is kept for one key. `lease` belongs to `state.held`, `pending` to `state.flight`.

    All three change under the lock only, which the entries of an engine share. An entry knows nothing of its engine,
    and timers hold it weakly, so an engine that was dropped, or a key that was evicted, is gone at once.
    """

    __slots__ = (
        "__weakref__",
        "_cancel_timer",
        "_context",
        "_fetcher",
        "_pending",
        "_resting",
        "lease",
        "state",
        "touched",
    )

    def __init__(self, fetcher: Fetcher) -> None:
        self.state = State()
        self.lease: Lease | None = None
        self.touched = False
        self._fetcher = fetcher
        self._context = CallContext(clock=fetcher.clock)
        self._pending: Pending | None = None
        self._resting: Future[None] | None = None
        self._cancel_timer: Callable[[], None] | None = None

    # ------------------------------------------------------------------------- under the lock, held by the caller

    def ask(self, *, patient: bool = False) -> Answer:
        """Decide, and begin a flight if so decided: whoever asked must `launch` it."""
        decision = _refresh.decide(self.state, self._fetcher.clock.monotonic(), patient=patient)
        begun = None
        if decision in (Decision.AHEAD, Decision.FETCH):
            self.state = _refresh.began(self.state)
            self._pending = Future()
            begun = self.state.sequence
            self._renew_lease()
        error = closed_error() if self.state.closed else _refresh.last_error(self.state)
        return Answer(decision, self.lease, error, self._pending, begun)

    def to_be_renewed(self) -> bool:
        """Whether to `ask` begins a fetch that nobody waits for."""
        return _refresh.decide(self.state, self._fetcher.clock.monotonic()) is Decision.AHEAD

    def invalidate(self, fingerprint: str | None, now: float) -> bool:
        """Give the token up, if it is that one; returns whether it was."""
        state = _refresh.invalidated(self.state, fingerprint, now)
        if state is self.state:
            return False
        self.lease, self.state = None, state
        return True

    def close(self) -> Pending | None:
        """For good. Returns what waits, for the caller to settle once the lock is free, and then to `wake`."""
        self.lease, self.state = None, _refresh.closed(self.state)
        return self._landed()

    def _renew_lease(self) -> None:
        """The same token, with what the state now says of how long nobody need ask."""
        lease, until = self.lease, _refresh.use_until(self.state)
        if lease is not None and lease.fresh_until != until:
            self.lease = Lease(lease.token, lease.metadata, until)

    def _landed(self) -> Pending | None:
        """What waits; whoever takes it from here settles it."""
        pending, self._pending = self._pending, None
        return pending

    # ----------------------------------------------------------------------------------------------------- flights

    def launch(
        self, number: int, pending: Pending, context: CallContext, *, inline: bool = False, ahead: bool = False
    ) -> None:
        """Fetch: on a worker, or right here. The caller's context variables come along."""
        self._context = context
        tale = self._fetcher.tale(ahead=ahead)
        fly = functools.partial(self._fly, number, pending, context, tale)
        job = functools.partial(contextvars.copy_context().run, fly)
        if inline:
            job()
            return
        give_up = _weakly(self._give_up)
        try:
            cancel = self._fetcher.clock.call_later(self._fetcher.timeout, lambda: give_up(pending, tale))
            pending.add_done_callback(lambda _: cancel())
            _workers.submit(job)
        except RuntimeError:
            self._land_error(number, TokenUnavailableError("the system gives no thread to fetch a token on"), tale)

    def _fly(self, number: int | None, pending: Pending, context: CallContext, tale: Tale) -> None:
        # Calls that are begun with the token keep this context: with `pending` in it, each would keep all that waited.
        fetching_for.set((*fetching_for.get(), weakref.ref(pending)))
        try:
            while number is not None:
                tale.begun()
                fetched = self._fetcher.fetch(_told(context, self.state))
                if isinstance(fetched, GrpcBearerError):
                    self._land_error(number, fetched, tale)
                    return
                number = self._land_token(number, *fetched, tale)
        except BaseException as error:  # Ctrl-C, on the main thread: nobody shall wait for a flight that is over
            text = f"{self._fetcher.name}.fetch raised {type(error).__name__}"
            self._land_error(self.state.sequence, TokenUnavailableError(text), tale)
            raise

    def _land_token(self, number: int, token: Token, metadata: Metadata, tale: Tale) -> int | None:
        """Take what a flight brought. Returns the number of the flight that must follow at once, if one must."""
        fetcher, now = self._fetcher, self._fetcher.clock.monotonic()
        held = _refresh.arrival(token, number, now_wall=fetcher.clock.time(), now=now, jitter=fetcher.jitter())
        if held is None:
            # No use to the caller, and yet not a lasting failure: an issuer's cache turns over by itself.
            self._land_error(number, expired_error(), tale, lasting=False)
            return None
        delay = 0.0
        if _refresh.extends_nothing(self.state, held, now):
            delay = fetcher.backoff(_refresh.strikes(self.state, lasting=False))
        pending, lease, following = None, None, None
        with fetcher.lock:
            failures = _refresh.failures(self.state)
            self.state, verdict = _refresh.fetched(self.state, held, now=now, delay=delay)
            if verdict is Verdict.AGAIN and self._pending is not None:
                self.state = _refresh.began(self.state)
                following = self.state.sequence
            if verdict is Verdict.KEPT:
                self.lease = lease = Lease(token, metadata, _refresh.use_until(self.state))
                pending = self._landed()
        try:
            lifetime = None if math.isinf(held.expires_at) else held.expires_at - now
            tale.fetched(lifetime, failures=failures, kept=lease is not None)
        finally:
            if lease is not None:
                _settle(pending, lease)
                self.wake()
                self._wake_later()
        return following

    def _land_error(self, number: int, error: GrpcBearerError, tale: Tale, *, lasting: bool | None = None) -> None:
        """Take a flight's failure: those who wait get the old token while it is truly valid, else the error."""
        fetcher = self._fetcher
        lasting = is_lasting(error) if lasting is None else lasting
        delay = fetcher.backoff(_refresh.strikes(self.state, lasting=lasting), error, lasting=lasting)
        with fetcher.lock:
            now = fetcher.clock.monotonic()
            state = _refresh.failed(self.state, number, error, now=now, delay=delay, lasting=lasting)
            late, closed = state is self.state, self.state.closed
            self.state = state
            self._renew_lease()
            outcome, pending = self._old_token_or(error, now), None if late else self._landed()
        try:
            usable, retry_in = isinstance(outcome, Lease), None if closed else delay
            tale.failed(error, failures=_refresh.failures(state), retry_in=retry_in, usable=usable)
        finally:
            if not late:
                _settle(pending, outcome)
                self.wake()
                self._wake_later()

    def _give_up(self, pending: Pending, tale: Tale) -> None:
        """A fetch takes too long: tell those who wait. It goes on, and what it brings is kept."""
        with self._fetcher.lock:
            if self._pending is not pending:
                return
            error = self._fetcher.overdue_error()
            self.state = _refresh.overdue(self.state, error)
            self._renew_lease()
            outcome, waiting = self._old_token_or(error, self._fetcher.clock.monotonic()), self._landed()
        try:
            tale.overdue(self._fetcher.timeout, usable=isinstance(outcome, Lease))
        finally:
            _settle(waiting, outcome)

    def _old_token_or(self, error: GrpcBearerError, now: float) -> Outcome:
        return self.lease if self.lease is not None and _refresh.usable(self.state, now) else error

    # -------------------------------------------------------------------------------------------------------- rest

    def rest(self, again: Callable[[], None]) -> None:
        """Call `again` once it may be of use to ask again, and once in a while before."""
        fetcher = self._fetcher
        with fetcher.lock:
            resting, begun = self._resting, self._resting is None
            if resting is None:
                resting = self._resting = Future()
            delay = _refresh.rest_until(self.state) - fetcher.clock.monotonic()
        resting.add_done_callback(functools.partial(_guarded, lambda _: again()))
        if begun:
            wake = _weakly(self.wake)
            # Not less than a millisecond: see `_wake_later`.
            cancel = fetcher.clock.call_later(min(max(delay, 0.001), LOOK_AROUND), lambda: wake(resting))
            resting.add_done_callback(lambda _: cancel())

    def wake(self, those: Future[None] | None = None) -> None:
        """Let all who rest ask again; or those alone, if they still rest."""
        with self._fetcher.lock:
            if self._resting is None or those not in (None, self._resting):
                return
            resting, self._resting = self._resting, None
        resting.set_result(None)

    # --------------------------------------------------------------------------------------------------- keep warm

    def _wake_later(self) -> None:
        at = _refresh.next_fetch_at(self.state)
        if not self._fetcher.keep_warm or math.isinf(at):
            return
        self.cancel_timer()
        # Not less than a millisecond: a timer that fires a rounding error too early must not turn in circles.
        delay = max(at - self._fetcher.clock.monotonic(), 0.001)
        self._cancel_timer = self._fetcher.clock.call_later(delay, _weakly(self._wake))

    def _wake(self) -> None:
        with self._fetcher.lock:
            answer = self.ask()
        if answer.begun is not None and answer.pending is not None:
            self.launch(answer.begun, answer.pending, self._context, ahead=True)
        elif self.state.flight is None:
            self._wake_later()

    def cancel_timer(self) -> None:
        """Stop keeping the token warm."""
        if self._cancel_timer is not None:
            self._cancel_timer()

    # -------------------------------------------------------------------------------------------------------- fork

    def after_fork_in_child(self) -> None:
        """Nothing is in flight any more. The token stays; what waited is left unsettled, and kept: see `bury`."""
        _workers.bury((self._pending, self._resting))
        self._pending = self._resting = self._cancel_timer = None
        self.state = _refresh.forked(self.state)
        held = self.state.held
        if held is None:
            self.lease = None
        elif self.lease is None or self.lease.token is not held.token:  # the fork came between the two stores
            self.lease = Lease(held.token, self._fetcher.metadata_of(held.token), _refresh.use_until(self.state))
        else:
            self._renew_lease()


def _told(context: CallContext, state: State) -> CallContext:
    """The context with the token that was refused: a source with a cache of its own must not give that one again."""
    return context if state.refusal is None else replace(context, refused=state.refusal.fingerprint)


def on_outcome(pending: Pending, deliver: Deliver) -> None:
    """Call `deliver` when `pending` is settled, at once if it is: an error as an instance of its own."""

    pending.add_done_callback(functools.partial(_tell, deliver))  # no closure: thousands may wait, and this is small


def _tell(deliver: Deliver, pending: Pending) -> None:
    def tell(future: Pending) -> None:
        outcome = future.result()
        if isinstance(outcome, Lease):
            deliver(outcome, None)
        else:
            deliver(None, outcome.fresh())

    _guarded(tell, pending)


def _guarded(tell: Callable[[Future[Any]], None], future: Future[Any]) -> None:
    try:
        tell(future)
    except BaseException as error:  # the next one who waits must be served too
        _LOGGER.error("whoever waited for a token raised %s", type(error).__name__)


def _settle(pending: Pending | None, outcome: Outcome) -> None:
    if pending is not None:
        pending.set_result(outcome)


def _weakly(method: Callable[..., None]) -> Callable[..., None]:
    """`method` for as long as its object lives."""
    me = weakref.WeakMethod(method)

    def call(*args: object) -> None:
        bound = me()
        if bound is not None:
            bound(*args)

    return call
