"""What to do about a token: a table, and the state that it is asked about.

========================= ============= ================ ============================================================
token                     fetch in      in backoff       answer
                          flight
========================= ============= ================ ============================================================
fresh                     any           any              USE it
stale (refresh point      yes           any              USE it
passed)
stale                     no            yes              USE it
stale                     no            no               AHEAD: use it, and start one fetch; nobody waits
expiring (in the safety   any           yes              USE it
margin, truly valid)
expiring                  yes           no               WAIT for it; if it fails, use the token while it is valid
expiring                  no            no               FETCH; if it fails, use the token while it is valid
none, expired or          yes           any              WAIT for that one
invalidated
none, expired or          no            yes              FAIL at once with the last error; who asked to wait
invalidated                                              (`wait_for_ready`) may REST, if the error can pass
none, expired or          no            no               FETCH; everyone else waits on this one
invalidated
closed                    any           any              FAIL, saying so
========================= ============= ================ ============================================================

To rest is to wait until the backoff is over and then to ask again, as often as need be: what `wait_for_ready` means for
connections (gRPC's doc/wait-for-ready.md), and the call's own deadline ends it. Single-use sources never come here:
nothing of theirs is kept. A fetch that has taken too long (`overdue`) is no longer waited for, but no second one is
begun beside it: it counts as a backoff that ends when the fetch does.

Rules for this file: no lock, no thread, no random number, and no clock is read. Every time is monotonic, in seconds,
and an argument; wall-clock times of a token are converted once, by `arrival`. States are values: a transition returns a
new one, or the very same object if nothing happened. They are named tuples, which are quick to import. Those with a
fingerprint are not: tools that dump variables show what is in a tuple, and from a fingerprint a weak token can be
guessed.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from grpc_bearer._base.token import Token
from grpc_bearer.errors import GrpcBearerError

# gRFC A83 refreshes 30 s before expiry; a tenth of the life keeps short tokens from being always inside the margin.
MARGIN = 30.0
MARGIN_FRACTION = 0.1
# Where in its life a token is fetched ahead: spread out, so that a fleet started together does not refresh in step.
REFRESH_FROM, REFRESH_SPREAD = 0.75, 0.10
# Forced refreshes: ten at once, then one each six seconds.
BUDGET, BUDGET_REFILL = 10.0, 6.0


class Phase(enum.Enum):
    """How the token in hand stands."""

    FRESH = "fresh"
    STALE = "stale"
    EXPIRING = "expiring"
    NONE = "none, expired or invalidated"
    CLOSED = "closed"


class Decision(enum.Enum):
    """What to answer somebody who wants the token."""

    USE = "use it"
    AHEAD = "use it, and start one fetch"
    WAIT = "wait for the fetch in flight"
    FETCH = "start a fetch and wait for it"
    FAIL = "fail at once with the last error"
    REST = "wait until the backoff is over, and ask again"


class Verdict(enum.Enum):
    """What became of a fetched token."""

    KEPT = "kept"
    AGAIN = "refused while it was fetched: fetch once more"
    DROPPED = "nobody waits for this flight any more"


_YES, _NO, _ANY = (True,), (False,), (False, True)

#: The table: token, fetch in flight, in backoff, answer.
ROWS = (
    (Phase.FRESH, _ANY, _ANY, Decision.USE),
    (Phase.STALE, _YES, _ANY, Decision.USE),
    (Phase.STALE, _NO, _YES, Decision.USE),
    (Phase.STALE, _NO, _NO, Decision.AHEAD),
    (Phase.EXPIRING, _ANY, _YES, Decision.USE),
    (Phase.EXPIRING, _YES, _NO, Decision.WAIT),
    (Phase.EXPIRING, _NO, _NO, Decision.FETCH),
    (Phase.NONE, _YES, _ANY, Decision.WAIT),
    (Phase.NONE, _NO, _YES, Decision.FAIL),
    (Phase.NONE, _NO, _NO, Decision.FETCH),
    (Phase.CLOSED, _ANY, _ANY, Decision.FAIL),
)
TABLE = {
    (phase, flight, backoff): answer
    for phase, flights, backoffs, answer in ROWS
    for flight in flights
    for backoff in backoffs
}


@dataclass(frozen=True, slots=True)
class Held:
    """A token and its life on the monotonic clock; `flight` is the number of the fetch that brought it."""

    token: Token
    fingerprint: str = field(repr=False)
    flight: int
    refresh_at: float = math.inf
    margin_at: float = math.inf
    expires_at: float = math.inf


class Flight(NamedTuple):
    """A fetch under way. `overdue` is set once it has taken too long to be waited for."""

    number: int
    overdue: GrpcBearerError | None = None


class Backoff(NamedTuple):
    """No fetch is begun before `until`. `strikes` counts what led here, `lasting` tells which kind it was."""

    until: float = -math.inf
    strikes: int = 0
    lasting: bool = False
    error: GrpcBearerError | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The token that a server refused; the flights up to number `flight` were begun before the refusal."""

    fingerprint: str = field(repr=False)
    flight: int


class Budget(NamedTuple):
    """How many refreshes may be forced: a bucket that fills again with time."""

    left: float = BUDGET
    at: float = -math.inf


class State(NamedTuple):
    """All that is known about the token of one key. `sequence` numbers its fetches, the newest last."""

    held: Held | None = None
    flight: Flight | None = None
    sequence: int = 0
    backoff: Backoff = Backoff()
    refusal: Refusal | None = None
    budget: Budget = Budget()
    closed: bool = False


# ---------------------------------------------------------------------------------------------------- questions


def phase(state: State, now: float) -> Phase:
    """How the token in hand stands at `now`."""
    held = state.held
    if state.closed:
        return Phase.CLOSED
    if held is None or now >= held.expires_at:
        return Phase.NONE
    if now >= held.margin_at:
        return Phase.EXPIRING
    return Phase.STALE if now >= held.refresh_at else Phase.FRESH


def decide(state: State, now: float, *, patient: bool = False) -> Decision:
    """What to answer somebody who wants the token at `now`. `patient`: they would rather wait than fail."""
    overdue = state.flight is not None and state.flight.overdue is not None
    waitable = state.flight is not None and not overdue
    decision = TABLE[phase(state, now), waitable, overdue or now < state.backoff.until]
    rests = patient and decision is Decision.FAIL and not state.closed and (overdue or not state.backoff.lasting)
    return Decision.REST if rests else decision


def usable(state: State, now: float) -> bool:
    """Whether the token in hand is truly valid, whatever else is wrong."""
    return phase(state, now) not in (Phase.NONE, Phase.CLOSED)


def last_error(state: State) -> GrpcBearerError | None:
    """Why there is no token, when `decide` says FAIL and the state is not closed."""
    return (state.flight.overdue if state.flight else None) or state.backoff.error


def use_until(state: State) -> float:
    """Until when the answer is `USE`, as long as nothing changes but the time: nobody need ask before."""
    held, flight = state.held, state.flight
    if held is None or state.closed:
        return -math.inf
    if flight is not None and flight.overdue is not None:
        return held.expires_at
    until = held.refresh_at if flight is None else held.margin_at
    return max(until, min(state.backoff.until, held.expires_at))


def next_fetch_at(state: State) -> float:
    """When a timer that keeps the token warm should look again; infinity: never."""
    if state.closed or (state.held is None and state.backoff.error is None):
        return math.inf
    return max(state.held.refresh_at if state.held else -math.inf, state.backoff.until)


def rest_until(state: State) -> float:
    """Until when it is of no use to ask again; infinity: until the fetch that takes too long has ended."""
    return math.inf if state.flight is not None else state.backoff.until


def failures(state: State) -> int:
    """How many fetches have failed in a row, of the kind that failed last."""
    return state.backoff.strikes if state.backoff.error is not None else 0


def strikes(state: State, *, lasting: bool) -> int:
    """The count that the next backoff of this kind has; it starts anew when the kind changes."""
    return state.backoff.strikes + 1 if state.backoff.lasting is lasting else 1


def extends_nothing(state: State, held: Held, now: float) -> bool:
    """Whether `held` is no gain: a token that we would renew at once (an issuer's cache), or the refused one again."""
    came_back = state.refusal is not None and state.refusal.fingerprint == held.fingerprint
    return came_back or now >= _continued(state.held, held).refresh_at


# -------------------------------------------------------------------------------------------------- transitions


def arrival(token: Token, flight: int, *, now_wall: float, now: float, jitter: float) -> Held | None:
    """The token's life on the monotonic clock; `None` if it has none left. `jitter` is in [0, 1)."""
    refresh_at = math.inf if token.refresh_at is None else now + (token.refresh_at - now_wall)
    if token.expires_at is None:
        return Held(token, token.fingerprint, flight, refresh_at=refresh_at)
    lifetime = token.expires_at - now_wall
    if not lifetime > 0:  # so written, a NaN counts as expired
        return None
    margin_at = now + lifetime - min(MARGIN, MARGIN_FRACTION * lifetime)
    if token.refresh_at is None:
        refresh_at = now + lifetime * (REFRESH_FROM + REFRESH_SPREAD * jitter)
    return Held(token, token.fingerprint, flight, min(refresh_at, margin_at), margin_at, now + lifetime)


def _continued(old: Held | None, new: Held) -> Held:
    """`new`; but with the refresh point and margin of `old`, if it does not end later than that.

    They are fractions of the life that is left: reckoned anew each time, they would move ever closer to the expiry.

    A source that says itself when to ask again (`Token.refresh_at`: a file that is polled) sets its own pace.
    """
    if old is None or new.expires_at > old.expires_at or math.isinf(old.expires_at):
        return new
    margin_at = min(new.margin_at, old.margin_at)
    refresh_at = old.refresh_at if new.token.refresh_at is None else new.refresh_at
    return replace(new, margin_at=margin_at, refresh_at=min(refresh_at, margin_at))


def began(state: State) -> State:
    """A fetch was begun; its number is the new state's `sequence`."""
    if state.flight is not None:
        raise AssertionError("a fetch is in flight for this key already")
    number = state.sequence + 1
    return state._replace(flight=Flight(number), sequence=number)


def fetched(state: State, held: Held, *, now: float, delay: float) -> tuple[State, Verdict]:
    """The flight `held.flight` brought a token; `delay` is the backoff, if it extends nothing."""
    if state.flight is None or state.flight.number != held.flight:
        return state, Verdict.DROPPED
    landed = state._replace(flight=None)
    refusal = state.refusal
    if refusal is not None and refusal.fingerprint == held.fingerprint and held.flight <= refusal.flight:
        return landed, Verdict.AGAIN
    kept = _continued(state.held, held)
    if not extends_nothing(state, held, now):
        return landed._replace(held=kept, backoff=Backoff(), refusal=None), Verdict.KEPT
    # This backoff has no error that callers could be given, so it must end before the token does. It also must not
    # delay the next look at a file that is polled.
    own_pace = held.refresh_at if held.token.refresh_at is not None and held.refresh_at > now else math.inf
    until = min(now + delay, kept.expires_at, own_pace)
    backoff = Backoff(until, strikes(state, lasting=False))
    refusal = refusal if refusal is not None and refusal.fingerprint == held.fingerprint else None
    return landed._replace(held=kept, backoff=backoff, refusal=refusal), Verdict.KEPT


def failed(
    state: State, flight: int, error: GrpcBearerError, *, now: float, delay: float, lasting: bool = False
) -> State:
    """The flight ended with an error: no other is begun for `delay` seconds. `lasting`: it will not cure itself."""
    if state.flight is None or state.flight.number != flight:
        return state
    backoff = Backoff(now + delay, strikes(state, lasting=lasting), lasting, error)
    return state._replace(flight=None, backoff=backoff)


def overdue(state: State, error: GrpcBearerError) -> State:
    """The flight takes too long: nobody waits for it any more. What it brings in the end is still taken."""
    return state if state.flight is None else state._replace(flight=state.flight._replace(overdue=error))


def invalidated(state: State, fingerprint: str | None, now: float) -> State:
    """A server refused the token with this fingerprint.

    Nothing happens if that token is not the current one, if it was refused before and came back and the backoff for
    that is not over, or if the budget of forced refreshes is spent. `None`: something outside has changed (the clock
    was put right), so whatever there is, token or remembered failure, is forgotten without further question.
    """
    held, backoff, refusal = state.held, state.backoff, state.refusal
    if fingerprint is None:
        if state.closed or (held is None and not backoff.strikes):
            return state
        refusal = Refusal(held.fingerprint, state.sequence) if held is not None else refusal
        return state._replace(held=None, backoff=Backoff(), refusal=refusal)
    if state.closed or held is None or held.fingerprint != fingerprint:
        return state
    came_back = refusal is not None and refusal.fingerprint == held.fingerprint
    budget = _spent(state.budget, now)
    if budget is None or (came_back and now < backoff.until):
        return state
    cleared = backoff._replace(until=-math.inf, error=None) if came_back else Backoff()
    return state._replace(held=None, backoff=cleared, refusal=Refusal(held.fingerprint, state.sequence), budget=budget)


def why_kept(state: State, now: float) -> str:
    """Why a refused token is still the current one, in words; nothing, if it is not, or would not be."""
    held, refusal = state.held, state.refusal
    if held is None or state.closed:
        return ""
    if refusal is not None and refusal.fingerprint == held.fingerprint and now < state.backoff.until:
        return f"its source has given it again, and is asked for another one in {state.backoff.until - now:.0f} s"
    if _spent(state.budget, now) is None:
        return (
            f"the budget of refreshes that refusals may force is spent ({BUDGET:.0f} at once, then one every "
            f"{BUDGET_REFILL:.0f} s)"
        )
    return ""


def _spent(budget: Budget, now: float) -> Budget | None:
    left = min(BUDGET, budget.left + (now - budget.at) / BUDGET_REFILL)
    return Budget(left - 1.0, now) if left >= 1.0 else None


def forked(state: State) -> State:
    """In the child of a fork: the thread that fetched is not there any more."""
    return state._replace(flight=None)


def closed(state: State) -> State:
    """For good: no token, and no flight may bring one."""
    return state._replace(held=None, flight=None, closed=True)
