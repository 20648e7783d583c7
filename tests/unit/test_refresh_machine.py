"""Hypothesis plays the world against the refresh state, and against the engine: calls, fetches, refusals, time."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Hashable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from grpc_bearer import CallContext, Source, Token
from grpc_bearer._engine import refresh_table
from grpc_bearer._engine.engine import Engine, Lease
from grpc_bearer._engine.entry import LOOK_AROUND
from grpc_bearer._engine.refresh_table import Decision, State, Verdict
from grpc_bearer.errors import GrpcBearerError, TokenFormatError, TokenRejectedError, TokenUnavailableError
from grpc_bearer.testing import ManualClock

LIFETIMES = st.sampled_from([None, -5.0, 0.0, 1.0, 60.0, 120.0, 3600.0])
STEPS = st.sampled_from([0.1, 1.0, 5.0, 29.0, 50.0, 300.0, 3000.0, 5000.0])
# Where something changes, and a little to each side of it.
POINTS = st.sampled_from(["refresh_at", "margin_at", "expires_at", "backoff"])
NEAR = st.sampled_from([-0.01, 0.0, 0.01, 0.5])
SOON = 10.0


def step_to(state: State, point: str, near: float, now: float) -> float:
    """The way from now to a point of the state, or nothing if it is past or never comes."""
    at = state.backoff.until if point == "backoff" else getattr(state.held, point, -math.inf)
    return max(at + near - now, 0.0) if math.isfinite(at) else 0.0


class PureState(RuleBasedStateMachine):
    """The world around one state. What is remembered here is what the state itself must not be trusted with."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.start = self.clock.monotonic()
        self.state = State()
        self.minted = 0
        self.running: int | None = None  # the flight that the world is fetching for
        self.lost: list[int] = []  # flights from before a fork: their results may yet come
        self.refused: dict[str, int] = {}  # token to the newest flight begun when it was refused
        self.forced = 0

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    @rule(step=STEPS)
    def time_passes(self, step: float) -> None:
        self.clock.advance(step)

    @rule(point=POINTS, near=NEAR)
    def time_comes_to_a_point(self, point: str, near: float) -> None:
        self.clock.advance(step_to(self.state, point, near, self.now))

    @rule(step=st.sampled_from([-1e5, -60.0, 60.0, 1e5]))
    def the_wall_clock_steps(self, step: float) -> None:
        self.clock.step_wall(step)

    @rule(callers=st.integers(1, 3))
    def callers_come(self, callers: int) -> None:
        for _ in range(callers):
            self.a_caller_comes()

    def a_caller_comes(self) -> None:
        decision = refresh_table.decide(self.state, self.now)
        held = self.state.held
        if decision in (Decision.USE, Decision.AHEAD):
            assert held is not None
            assert self.now < held.expires_at, "an expired token was handed out"
            refused_at = self.refused.get(held.fingerprint)
            assert refused_at is None or held.flight > refused_at, "a refused token is used again"
        if decision is Decision.WAIT:
            assert self.running is not None, "somebody waits for nothing"
        if decision is Decision.FAIL:
            assert refresh_table.last_error(self.state) is not None, "a failure without a reason"
        patient = refresh_table.decide(self.state, self.now, patient=True)
        if patient is Decision.REST:
            assert decision is Decision.FAIL, "somebody rests who could be served"
            assert refresh_table.rest_until(self.state) > self.now, "somebody rests who could ask"
        else:
            assert patient is decision
        if decision in (Decision.AHEAD, Decision.FETCH):
            assert self.running is None, "two fetches in flight"
            self.state = refresh_table.began(self.state)
            self.running = self.state.sequence

    def token(self, value: str | None, life: float | None, ahead: float | None) -> Token:
        """The token of that value, or one never seen before."""
        if value is None:
            self.minted += 1
            value = f"new{self.minted}"
        wall = self.clock.time()
        expires_at = None if life is None else wall + life
        return Token(value, expires_at=expires_at, refresh_at=None if ahead is None else wall + ahead)

    def arrives(self, flight: int, token: Token) -> Verdict | None:
        wall = self.clock.time()
        held = refresh_table.arrival(token, flight, now_wall=wall, now=self.now, jitter=0.5)
        if held is None:
            assert token.expires_at is not None
            assert token.expires_at <= wall
            error = TokenFormatError("expired")
            self.state = refresh_table.failed(self.state, flight, error, now=self.now, delay=1.0)
            return None
        self.state, verdict = refresh_table.fetched(self.state, held, now=self.now, delay=120.0)
        return verdict

    @precondition(lambda self: self.running)
    @rule(
        life=LIFETIMES,
        value=st.sampled_from([None, "same", "same"]),
        ahead=st.sampled_from([None, None, -1.0, 5.0, 900.0]),
    )
    def the_fetch_brings_a_token(self, life: float | None, value: str | None, ahead: float | None) -> None:
        flight, self.running = self.running, None
        assert flight is not None
        token = self.token(value, life, ahead)

        verdict = self.arrives(flight, token)

        if verdict is Verdict.KEPT:
            assert self.refused.get(token.fingerprint, 0) < flight, "a refusal was undone by an older flight"
        else:
            assert verdict is None or self.refused[token.fingerprint] >= flight

    @precondition(lambda self: self.running)
    @rule(lasting=st.booleans(), delay=st.sampled_from([0.0, 1.0, 120.0, 3600.0]))
    def the_fetch_fails(self, lasting: bool, delay: float) -> None:
        flight, self.running = self.running, None
        assert flight is not None
        error = TokenRejectedError("no") if lasting else TokenUnavailableError("down")
        self.state = refresh_table.failed(self.state, flight, error, now=self.now, delay=delay, lasting=lasting)

    @precondition(lambda self: self.running)
    @rule(near=NEAR)
    def the_endpoint_is_down_until_the_token_expires(self, near: float) -> None:
        self.the_fetch_fails(False, 3600.0)
        self.clock.advance(step_to(self.state, "expires_at", near, self.now))
        self.callers_come(2)

    @precondition(lambda self: self.state.held is not None)
    @rule(point=POINTS, life=LIFETIMES, refuse=st.booleans())
    def the_same_token_comes_once_more(self, point: str, life: float | None, refuse: bool) -> None:
        held = self.state.held
        assert held is not None
        self.time_comes_to_a_point(point, 0.0)
        self.callers_come(1)
        if refuse:
            self.a_server_refuses_the_token(1)
        if self.running:
            self.the_fetch_brings_a_token(life, held.token.value, None)

    @precondition(lambda self: self.lost)
    @rule(fails=st.booleans(), value=st.sampled_from([None, "same"]))
    def a_late_result_comes(self, fails: bool, value: str | None) -> None:
        flight, before = self.lost.pop(), self.state
        if fails:
            error = TokenUnavailableError("down")
            self.state = refresh_table.failed(before, flight, error, now=self.now, delay=120.0)
        else:
            assert self.arrives(flight, self.token(value, 3600.0, None)) is Verdict.DROPPED
        assert self.state is before, "a late result won"

    @rule()
    def the_fetch_takes_too_long(self) -> None:
        self.state = refresh_table.overdue(self.state, TokenUnavailableError("too long"))

    @rule(times=st.integers(1, 5))
    def a_server_refuses_the_token(self, times: int) -> None:
        held = self.state.held
        if held is None:
            return
        changes = 0
        for _ in range(times):  # as many calls as failed with it
            state = refresh_table.invalidated(self.state, held.fingerprint, self.now)
            changes += state is not self.state
            self.state = state
        assert changes <= 1, "one refused token was given up twice"
        if changes:
            self.forced += 1
            self.refused[held.fingerprint] = self.state.sequence

    @rule(rounds=st.integers(5, 20), value=st.sampled_from([None, "same"]))
    def a_server_refuses_all_it_is_shown_for_a_while(self, rounds: int, value: str | None) -> None:
        for _ in range(rounds):
            self.callers_come(1)
            if self.running:
                self.the_fetch_brings_a_token(3600.0, value, None)
            self.a_server_refuses_the_token(2)

    @rule()
    def a_server_refuses_a_token_of_long_ago(self) -> None:
        assert refresh_table.invalidated(self.state, "0" * 64, self.now) is self.state

    @rule()
    def the_process_forks(self) -> None:
        self.state = refresh_table.forked(self.state)
        self.lost += [self.running] if self.running else []
        self.running = None
        self.callers_come(1)

    @invariant()
    def one_flight_at_most_and_it_is_the_world_s(self) -> None:
        assert (self.state.flight.number if self.state.flight else None) == self.running

    @invariant()
    def waits_are_bounded(self) -> None:
        assert self.state.backoff.until <= self.now + 3600
        if refresh_table.decide(self.state, self.now) is Decision.FAIL and self.running is None:
            assert refresh_table.decide(self.state, self.now + 3600) is Decision.FETCH

    @invariant()
    def forced_refreshes_keep_within_their_budget(self) -> None:
        assert self.forced <= 10 + (self.now - self.start) / 6 + 1e-6, "the budget does not bound forced refreshes"

    @invariant()
    def the_points_of_a_life_are_in_order(self) -> None:
        held = self.state.held
        assert held is None or held.refresh_at <= held.margin_at <= held.expires_at

    @invariant()
    def a_valid_token_is_never_withheld(self) -> None:
        held = self.state.held
        if held is not None and self.now < held.expires_at:
            assert refresh_table.decide(self.state, self.now) is not Decision.FAIL


class World(Source):
    """Fetches stop at a gate until the machine says how they end."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.in_flight: dict[str, list[object]] = {}
        self.doubled = False

    def key(self, context: CallContext) -> Hashable:
        return context.service_url

    def fetch(self, context: CallContext) -> Token:
        gate = threading.Event()
        ending: list[object] = [gate]
        with self.lock:
            self.doubled |= context.service_url in self.in_flight
            self.in_flight[context.service_url] = ending
        assert gate.wait(SOON)
        with self.lock:
            del self.in_flight[context.service_url]
        end = ending[1]
        if isinstance(end, Exception):
            raise end
        assert isinstance(end, Token)
        return end


KEYS = st.sampled_from(["a", "a", "a", "b"])


class WholeEngine(RuleBasedStateMachine):
    """Two keys of a real engine with its real workers; the machine moves the clock and ends the fetches."""

    @initialize()
    def begin(self) -> None:
        self.clock = ManualClock()
        self.world = World(self.clock)
        self.minted = 0
        self.asked = self.answered = 0
        self.waiting = dict.fromkeys("ab", 0)
        self.last: dict[str, str] = {}  # key to the value that its last fetch brought
        self.refused: dict[str, int] = {}  # value to the number of fetches that had begun when it was refused
        self.brought: dict[str, int] = {}  # value to the number of the fetch that brought it last
        self.wrong: list[str] = []
        self.engine = Engine(
            self.world, metadata_of=lambda token: (("t", token.value),), clock=self.clock, jitter=lambda: 0.5
        )

    def state(self, key: str) -> State:
        entry = self.engine._entries.get(key)
        return entry.state if entry else State()

    def until(self, true: object) -> None:
        assert callable(true)
        deadline = time.monotonic() + SOON
        while not true():
            assert time.monotonic() < deadline, "the engine hangs"
            time.sleep(0.0002)

    def deliver(self, key: str, lease: Lease | None, error: GrpcBearerError | None) -> None:
        self.answered += 1
        self.waiting[key] -= 1
        if (lease is None) is (error is None):
            self.wrong.append("neither or both")
        if lease is not None:
            expires_at = lease.token.expires_at
            if expires_at is not None and self.clock.time() >= expires_at:
                self.wrong.append("an expired token was handed out")
            value = lease.token.value
            if self.brought[value] <= self.refused.get(value, -1):
                self.wrong.append("a refused token was handed out")

    def settle(self) -> None:
        """Until each flight that was begun has reached the gate."""
        self.until(lambda: all((self.state(key).flight is not None) is (key in self.world.in_flight) for key in "ab"))

    @rule(key=KEYS, callers=st.integers(1, 20), patient=st.booleans())
    def callers_come(self, key: str, callers: int, patient: bool) -> None:
        # Those who rest are woken each few seconds, and the machine's steps are long: many of them would take minutes.
        for _ in range(min(callers, 2) if patient else callers):
            self.asked += 1
            deliver = functools.partial(self.deliver, key)
            self.waiting[key] += 1
            self.engine.request(CallContext(key), deliver, patient=(lambda: True) if patient else None)
        self.settle()

    def resting(self) -> list[str]:
        return [key for key in "ab" if key in self.engine._entries and self.engine._entries[key]._resting]

    def rests_in_order(self) -> bool:
        now = self.clock.monotonic()
        return all(refresh_table.decide(self.state(key), now, patient=True) is Decision.REST for key in self.resting())

    @rule(step=STEPS)
    def time_passes(self, step: float) -> None:
        self.clock.advance(step)
        self.settle()

    @rule(key=KEYS, point=POINTS, near=st.sampled_from([-0.01, 0.01, 0.5]))
    def time_comes_to_a_point(self, key: str, point: str, near: float) -> None:
        self.clock.advance(step_to(self.state(key), point, near, self.clock.monotonic()))
        self.settle()

    # Nothing is drawn by what threads do: hypothesis plays a sequence again and has to find the same.
    @rule(which=st.integers(0, 1), life=LIFETIMES, how=st.sampled_from(["new", "new", "same", "fails"]))
    def a_fetch_ends(self, which: int, life: float | None, how: str) -> None:
        if not self.world.in_flight:
            return
        key = sorted(self.world.in_flight)[which % len(self.world.in_flight)]
        ending = self.world.in_flight[key]
        before = self.state(key).sequence
        if how == "fails":
            ending.append(TokenUnavailableError("down"))
        else:
            if how == "new" or key not in self.last:
                self.minted += 1
                self.last[key] = f"{key}{self.minted}"
            self.brought[self.last[key]] = before
            expires_at = None if life is None else self.clock.time() + life
            ending.append(Token(self.last[key], expires_at=expires_at))
        gate = ending[0]
        assert isinstance(gate, threading.Event)
        gate.set()
        self.until(lambda: self.state(key).flight is None or self.state(key).sequence > before)
        # Before time goes on, or who was to have a valid token would get it when it is none any more.
        self.until(lambda: self.state(key).flight or not self.waiting[key] or key in self.resting())
        self.settle()

    @rule(key=KEYS, times=st.integers(1, 5))
    def a_server_refuses(self, key: str, times: int) -> None:
        held = self.state(key).held
        if held is None:
            return
        answers = [self.engine.invalidate(held.fingerprint) for _ in range(times)]
        assert answers in ([True] + [False] * (times - 1), [False] * times)
        if answers[0]:
            self.refused[held.token.value] = self.state(key).sequence
            assert self.engine.peek(CallContext(key)) is None

    @invariant()
    def nobody_is_answered_wrongly(self) -> None:
        if hasattr(self, "engine"):
            assert self.wrong == []
            assert self.answered <= self.asked
            assert not self.world.doubled, "two fetches in flight for a key"

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if hasattr(self, "engine") and not self.world.in_flight:
            self.until(lambda: self.answered == self.asked or self.resting())

    @invariant()
    def nobody_rests_without_need(self) -> None:
        if hasattr(self, "engine") and not self.world.in_flight:
            # A worker that sets a timer while the machine moves the clock sets it late; by no more than a look around.
            latest = self.clock.monotonic() + LOOK_AROUND
            self.until(lambda: self.rests_in_order() or self.clock.advance(0.1))
            assert self.clock.monotonic() <= latest
            self.settle()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
            self.until(lambda: self.answered == self.asked)  # a worker may be about to tell some of them
            for ending in list(self.world.in_flight.values()):
                ending.append(TokenUnavailableError("over"))
                gate = ending[0]
                assert isinstance(gate, threading.Event)
                gate.set()


TestPureState = PureState.TestCase
TestPureState.settings = settings(max_examples=300, stateful_step_count=50, deadline=None)
TestWholeEngine = WholeEngine.TestCase
TestWholeEngine.pytestmark = [pytest.mark.timeout(300)]
TestWholeEngine.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
