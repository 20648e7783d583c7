"""The decision table, row by row, and each transition of the state. Pure values: nothing runs, nothing waits."""

from __future__ import annotations

import math

import pytest

from grpc_bearer import Token
from grpc_bearer._engine import refresh_table
from grpc_bearer._engine.refresh_table import Backoff, Budget, Decision, Flight, Held, Phase, State, Verdict
from grpc_bearer.errors import TokenRejectedError, TokenUnavailableError

WALL, NOW = 1_700_000_000.0, 1000.0
DOWN = TokenUnavailableError("down")


def held(value: str = "a", *, life: float | None = 1000.0, flight: int = 1, at: float = 0.0, **more: float) -> Held:
    """A token that arrived `at` seconds after NOW with `life` seconds to go."""
    wall = WALL + at
    token = Token(value, expires_at=None if life is None else wall + life, **more)
    arrived = refresh_table.arrival(token, flight, now_wall=wall, now=NOW + at, jitter=0.5)
    assert arrived is not None
    return arrived


def in_flight(state: State) -> State:
    return refresh_table.began(state)


def kept(state: State, value: str = "a", *, at: float = 0.0, delay: float = 1.0, life: float | None = 1000.0) -> State:
    """After a fetch begun and ended `at` seconds after NOW."""
    state = refresh_table.began(state)
    arrived = held(value, life=life, flight=state.sequence, at=at)
    state, verdict = refresh_table.fetched(state, arrived, now=NOW + at, delay=delay)
    assert verdict is Verdict.KEPT
    return state


# Written out here once more, by the design's table and not by the code's. A cell: (in flight, in backoff).
YES, NO = True, False
EXPECTED = {
    ("fresh", NO, NO): Decision.USE,
    ("fresh", NO, YES): Decision.USE,
    ("fresh", YES, NO): Decision.USE,
    ("fresh", YES, YES): Decision.USE,
    ("stale", NO, NO): Decision.AHEAD,
    ("stale", NO, YES): Decision.USE,
    ("stale", YES, NO): Decision.USE,
    ("stale", YES, YES): Decision.USE,
    ("expiring", NO, NO): Decision.FETCH,
    ("expiring", NO, YES): Decision.USE,
    ("expiring", YES, NO): Decision.WAIT,
    ("expiring", YES, YES): Decision.USE,
    ("expired", NO, NO): Decision.FETCH,
    ("expired", NO, YES): Decision.FAIL,
    ("expired", YES, NO): Decision.WAIT,
    ("expired", YES, YES): Decision.WAIT,
    ("none", NO, NO): Decision.FETCH,
    ("none", NO, YES): Decision.FAIL,
    ("none", YES, NO): Decision.WAIT,
    ("none", YES, YES): Decision.WAIT,
    ("invalidated", NO, NO): Decision.FETCH,
    ("invalidated", NO, YES): Decision.FAIL,
    ("invalidated", YES, NO): Decision.WAIT,
    ("invalidated", YES, YES): Decision.WAIT,
    ("closed", NO, NO): Decision.FAIL,
    ("closed", NO, YES): Decision.FAIL,
    ("closed", YES, NO): Decision.FAIL,
    ("closed", YES, YES): Decision.FAIL,
}
# A token of 1000 s, jitter 0.5: refresh point at 800, margin at 970, expiry at 1000. Each point belongs to the next.
MOMENTS = {
    "fresh": (0.0, 799.9),
    "stale": (800.0, 969.9),
    "expiring": (970.0, 999.9),
    "expired": (1000.0, 5000.0),
    "none": (0.0, 5000.0),
    "invalidated": (0.0, 900.0),
    "closed": (0.0,),
}
CELLS = [(*cell, moment) for cell in EXPECTED for moment in MOMENTS[cell[0]]]


@pytest.mark.parametrize(("what", "flight", "backoff", "moment"), CELLS)
def test_every_row_of_the_table(what: str, flight: bool, backoff: bool, moment: float) -> None:
    state = State() if what == "none" else kept(State())
    if what == "invalidated":
        state = refresh_table.invalidated(state, state.held and state.held.fingerprint, NOW)
    if flight:
        state = in_flight(state)
    if backoff:
        state = state._replace(backoff=Backoff(NOW + moment + 1, 1, False, DOWN))
    if what == "closed":
        state = state._replace(closed=True)

    assert refresh_table.decide(state, NOW + moment) is EXPECTED[what, flight, backoff]


def test_the_rows_do_not_contradict_each_other_and_leave_nothing_out() -> None:
    cells = [(p, f, b) for p, fs, bs, _ in refresh_table.ROWS for f in fs for b in bs]

    assert len(cells) == len(set(cells)) == len(Phase) * 4


def test_the_backoff_ends_at_its_very_end() -> None:
    state = State(backoff=Backoff(NOW + 5, 1, False, DOWN))

    assert refresh_table.decide(state, NOW + 4.999) is Decision.FAIL
    assert refresh_table.decide(state, NOW + 5) is Decision.FETCH


# ------------------------------------------------------------------------------------------------------- arrival


@pytest.mark.parametrize(
    ("life", "jitter", "refresh", "margin"),
    [
        (3600.0, 0.0, 2700.0, 3570.0),
        (3600.0, 0.5, 2880.0, 3570.0),
        (300.0, 0.5, 240.0, 270.0),  # where 30 s and a tenth meet
        (120.0, 0.5, 96.0, 108.0),
        (60.0, 0.0, 45.0, 54.0),
        (60.0, 0.999, 50.994, 54.0),
        (1.0, 0.5, 0.8, 0.9),
    ],
)
def test_the_points_of_a_life_scale_with_it(life: float, jitter: float, refresh: float, margin: float) -> None:
    token = Token("a", expires_at=WALL + life)

    arrived = refresh_table.arrival(token, 1, now_wall=WALL, now=NOW, jitter=jitter)

    assert arrived is not None
    points = (arrived.refresh_at - NOW, arrived.margin_at - NOW, arrived.expires_at - NOW)
    assert points == pytest.approx((refresh, margin, life), abs=1e-3)


@pytest.mark.parametrize(("asked", "expected"), [(10.0, 10.0), (969.0, 969.0), (999.0, 970.0), (5000.0, 970.0)])
def test_a_refresh_point_of_the_source_is_honoured_up_to_the_margin(asked: float, expected: float) -> None:
    arrived = held(refresh_at=WALL + asked)

    assert arrived.refresh_at - NOW == pytest.approx(expected)


def test_a_token_without_expiry_is_never_stale() -> None:
    state = kept(State(), life=None)

    assert refresh_table.phase(state, NOW + 1e9) is Phase.FRESH


def test_a_token_without_expiry_may_still_be_asked_for_again() -> None:
    arrived = held(life=None, refresh_at=WALL + 60)

    assert (arrived.refresh_at, arrived.margin_at, arrived.expires_at) == (NOW + 60, math.inf, math.inf)


@pytest.mark.parametrize("life", [0.0, -1.0, -1e9])
def test_a_token_that_arrives_without_life_is_no_token(life: float) -> None:
    token = Token("a", expires_at=WALL + life)

    assert refresh_table.arrival(token, 1, now_wall=WALL, now=NOW, jitter=0.5) is None


# ------------------------------------------------------------------------------------------------------- flights


def test_a_second_flight_cannot_begin_beside_the_first() -> None:
    with pytest.raises(AssertionError, match="in flight"):
        in_flight(in_flight(State()))


def test_success_clears_the_backoff() -> None:
    state = refresh_table.failed(in_flight(State()), 1, DOWN, now=NOW, delay=1)

    state = kept(state, at=2)

    assert state.backoff == Backoff()


def test_failures_count_and_begin_anew_when_the_kind_changes() -> None:
    state = State()
    counts = []
    for lasting in (False, False, True, True, False):
        counts.append(refresh_table.strikes(state, lasting=lasting))
        state = in_flight(state)
        state = refresh_table.failed(state, state.sequence, DOWN, now=NOW, delay=0, lasting=lasting)

    assert counts == [1, 2, 1, 2, 1]


def test_a_failure_keeps_the_token() -> None:
    state = in_flight(kept(State()))

    state = refresh_table.failed(state, 2, DOWN, now=NOW + 900, delay=500)

    assert refresh_table.decide(state, NOW + 999.9) is Decision.USE
    assert refresh_table.decide(state, NOW + 1000) is Decision.FAIL
    assert refresh_table.last_error(state) is DOWN


def test_results_of_another_flight_are_dropped() -> None:
    state = in_flight(kept(State()))

    assert refresh_table.fetched(state, held("late", flight=1), now=NOW, delay=0) == (state, Verdict.DROPPED)
    assert refresh_table.failed(state, 1, DOWN, now=NOW, delay=9) is state


@pytest.mark.parametrize("end", [refresh_table.closed, refresh_table.forked])
def test_results_from_before_close_or_fork_are_dropped(end: object) -> None:
    assert callable(end)
    state = end(in_flight(State()))

    assert refresh_table.fetched(state, held(flight=1), now=NOW, delay=0) == (state, Verdict.DROPPED)
    assert refresh_table.failed(state, 1, DOWN, now=NOW, delay=9) is state


def test_an_overdue_fetch_is_not_waited_for_nor_doubled_and_still_counts() -> None:
    state = refresh_table.overdue(in_flight(State()), DOWN)

    assert refresh_table.decide(state, NOW + 1e6) is Decision.FAIL
    assert refresh_table.last_error(state) is DOWN
    state, verdict = refresh_table.fetched(state, held(flight=1), now=NOW, delay=0)
    assert (verdict, refresh_table.decide(state, NOW)) == (Verdict.KEPT, Decision.USE)


def test_overdue_says_nothing_where_nothing_is_in_flight() -> None:
    assert refresh_table.overdue(State(), DOWN) == State()


# ---------------------------------------------------------------------------------------- fetches that extend nothing


def test_an_issuer_that_gives_the_same_token_again_is_left_alone() -> None:
    state = in_flight(kept(State()))
    same = held("a", life=150, flight=2, at=850)

    state, verdict = refresh_table.fetched(state, same, now=NOW + 850, delay=7)

    assert verdict is Verdict.KEPT
    assert state.backoff == Backoff(NOW + 857, 1)
    assert refresh_table.decide(state, NOW + 856) is Decision.USE
    assert refresh_table.decide(state, NOW + 857) is Decision.AHEAD
    assert state.held is not None
    assert state.held.margin_at == NOW + 970  # measured afresh it would creep up to the expiry


def test_trap_37_a_new_token_that_expires_no_later_is_kept_and_backs_off() -> None:
    state = in_flight(kept(State()))
    no_later = held("b", life=150, flight=2, at=850)

    state, _ = refresh_table.fetched(state, no_later, now=NOW + 850, delay=7)

    assert state.held is not None
    assert state.held.token.value == "b"
    assert refresh_table.decide(state, NOW + 856) is Decision.USE


def test_such_a_backoff_ends_with_the_token_for_it_has_no_error_to_fail_with() -> None:
    state = in_flight(kept(State()))

    state, _ = refresh_table.fetched(state, held("a", life=10, flight=2, at=990), now=NOW + 990, delay=120)

    assert refresh_table.decide(state, NOW + 999.9) is Decision.USE
    assert refresh_table.decide(state, NOW + 1000) is Decision.FETCH


def test_a_later_expiry_extends_even_for_the_same_value() -> None:
    state = kept(kept(State()), "a", at=850, life=1000)

    assert state.backoff == Backoff()
    assert refresh_table.phase(state, NOW + 1000) is Phase.FRESH


def test_a_source_that_sets_its_own_pace_is_not_slowed_down() -> None:
    first = held("a", refresh_at=WALL + 5)
    state, _ = refresh_table.fetched(in_flight(State()), first, now=NOW, delay=1)
    again = held("a", life=995, flight=2, at=5, refresh_at=WALL + 10)

    state, _ = refresh_table.fetched(in_flight(state), again, now=NOW + 5, delay=60)

    assert state.backoff == Backoff()
    assert refresh_table.phase(state, NOW + 9.9) is Phase.FRESH
    assert refresh_table.decide(state, NOW + 10) is Decision.AHEAD


def test_a_token_that_arrives_stale_is_used_and_not_fetched_on_each_call() -> None:
    stale = held("a", refresh_at=WALL - 1)

    state, _ = refresh_table.fetched(in_flight(State()), stale, now=NOW, delay=3)

    assert refresh_table.decide(state, NOW) is Decision.USE
    assert refresh_table.decide(state, NOW + 3) is Decision.AHEAD


# ------------------------------------------------------------------------------------------------- invalidation


def refuse(state: State, value: str = "a", at: float = 0.0) -> State:
    return refresh_table.invalidated(state, Token(value).fingerprint, NOW + at)


def test_only_the_current_token_can_be_refused() -> None:
    state = kept(State())

    assert refuse(state, "another") is state
    assert refuse(State()) == State()
    gone = refuse(state)
    assert gone.held is None
    assert refuse(gone) is gone


def test_a_closed_state_refuses_nothing() -> None:
    state = refresh_table.closed(kept(State()))

    assert refuse(state) is state


def test_a_flight_begun_before_the_refusal_does_not_count_if_it_brings_the_same_token() -> None:
    state = refuse(in_flight(kept(State())))

    state, verdict = refresh_table.fetched(state, held("a", flight=2), now=NOW, delay=1)

    assert (verdict, state.held, state.flight) == (Verdict.AGAIN, None, None)
    assert refresh_table.decide(state, NOW) is Decision.FETCH


def test_a_flight_begun_before_the_refusal_counts_if_it_brings_another() -> None:
    state = refuse(in_flight(kept(State())))

    state, verdict = refresh_table.fetched(state, held("b", flight=2), now=NOW, delay=1)

    assert (verdict, state.refusal) == (Verdict.KEPT, None)
    assert refresh_table.decide(state, NOW) is Decision.USE


def test_a_refused_token_that_a_later_flight_brings_again_is_accepted_and_backs_off() -> None:
    state = kept(refuse(kept(State(), life=None)), life=None, delay=1)

    assert refresh_table.decide(state, NOW) is Decision.USE
    assert refuse(state, at=0.9) is state
    assert refuse(state, at=1.0).held is None


def test_the_backoff_for_a_refused_token_grows_each_time_it_comes_back() -> None:
    state, counts = kept(State(), life=None), []
    for turn in range(3):
        state = kept(refuse(state, at=10 * turn), life=None, at=10 * turn, delay=1)
        counts.append(state.backoff.strikes)

    assert counts == [1, 2, 3]


def test_refusal_clears_the_backoff_of_failures() -> None:
    state = in_flight(kept(State()))
    state = refresh_table.failed(state, 2, TokenRejectedError("no"), now=NOW, delay=300, lasting=True)

    state = refuse(state)

    assert refresh_table.decide(state, NOW) is Decision.FETCH


def test_without_a_fingerprint_whatever_there_is_goes_failures_too() -> None:
    failed = refresh_table.failed(in_flight(State()), 1, DOWN, now=NOW, delay=300)

    assert refresh_table.decide(failed, NOW) is Decision.FAIL
    assert refresh_table.decide(refresh_table.invalidated(failed, None, NOW), NOW) is Decision.FETCH
    assert refresh_table.invalidated(kept(State()), None, NOW).held is None
    assert refresh_table.invalidated(State(), None, NOW) == State()


def test_ten_refusals_at_once_then_one_each_six_seconds() -> None:
    state, allowed = State(), []
    for turn in range(40):  # a new token each time, each refused, one a second
        state = kept(state, f"t{turn}", at=turn)
        refused = refuse(state, f"t{turn}", at=turn)
        allowed.append(refused is not state)
        state = refused if refused.held is None else state._replace(held=None)

    assert allowed[:10] == [True] * 10
    assert sum(allowed[12:36]) == 4
    assert sum(allowed) == 10 + 39 // 6


def test_the_bucket_holds_no_more_than_ten() -> None:
    budget: Budget | None = Budget(0.0, NOW)
    spent = 0
    while (budget := refresh_table._spent(budget, NOW + 1e6)) is not None:
        spent += 1

    assert spent == 10


# ------------------------------------------------------------------------------------------------------- keep warm


def test_the_next_fetch_is_at_the_refresh_point_or_when_the_backoff_ends() -> None:
    state = kept(State())

    assert refresh_table.next_fetch_at(State()) == math.inf
    assert refresh_table.next_fetch_at(state) == NOW + 800
    failed = refresh_table.failed(in_flight(state), 2, DOWN, now=NOW + 800, delay=5)
    assert refresh_table.next_fetch_at(failed) == NOW + 805
    assert refresh_table.next_fetch_at(refresh_table.closed(state)) == math.inf


def test_no_state_shows_a_token() -> None:
    assert "s3cret" not in repr(kept(State(), "s3cret"))


@pytest.mark.parametrize("backoff_until", [-math.inf, 80.0, 95.0, 200.0])
@pytest.mark.parametrize(
    "flight", [None, Flight(2), Flight(2, TokenUnavailableError("slow"))], ids=["-", "flight", "overdue"]
)
def test_until_use_until_the_table_says_use_and_then_no_more(flight: Flight | None, backoff_until: float) -> None:
    held = Held(Token("t"), "f", 1, refresh_at=75.0, margin_at=90.0, expires_at=100.0)
    state = State(held=held, flight=flight, sequence=2, backoff=Backoff(backoff_until, 1))

    until = refresh_table.use_until(state)

    assert all(refresh_table.decide(state, now) is Decision.USE for now in (0.0, 74.9, until - 0.1))
    assert refresh_table.decide(state, until) is not Decision.USE


def test_without_a_token_there_is_nothing_to_use() -> None:
    assert refresh_table.use_until(State()) == -math.inf
    assert refresh_table.use_until(refresh_table.closed(State())) == -math.inf
