"""The engine: many callers, one fetch. A scripted source held at a gate, a clock moved by hand, real threads."""

from __future__ import annotations

import asyncio
import contextvars
import copyreg
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from itertools import pairwise
from queue import SimpleQueue
from typing import Any

import pytest
from attachments import eventually

from grpc_bearer import CallContext, Clock, Source, Token
from grpc_bearer._base import threads
from grpc_bearer._engine.engine import Engine, Lease
from grpc_bearer._engine.entry import LOOK_AROUND
from grpc_bearer.errors import (
    GrpcBearerError,
    SigningError,
    TokenError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.testing import ManualClock

CALL = CallContext()
WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who")
SOON = 10.0  # a bound for what must happen at once; nothing waits for it when all is well


class Scripted(Source):
    """Does what its script says, and the last line of it for ever; each fetch passes a gate."""

    def __init__(self, *script: Any, life: float | None = 1000.0, gate: bool = False, **flags: bool) -> None:
        self.script = list(script) or [self.fresh]
        self.life = life
        self.calls = 0
        self.closed = 0
        self.threads: list[threading.Thread] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.clock: Clock | None = None
        if not gate:
            self.gate.set()
        self.local = flags.get("local", False)
        self.single_use = flags.get("single_use", False)

    def fresh(self) -> Token:
        assert self.clock is not None
        expires_at = None if self.life is None else self.clock.time() + self.life
        return Token(f"t{self.calls}", expires_at=expires_at)

    def fetch(self, context: CallContext) -> Token:
        self.calls += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.threads.append(threading.current_thread())
        self.entered.release()
        assert self.gate.wait(SOON)
        if isinstance(step, BaseException):
            raise step
        return step() if callable(step) else step

    def close(self) -> None:
        self.closed += 1


class ByUrl(Scripted):
    def key(self, context: CallContext) -> Hashable:
        return context.service_url


def metadata_of(token: Token) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token.value}"),)


class Timed(ManualClock):
    """Remembers how many seconds away its last timer was set."""

    delay = 0.0

    def call_later(self, delay: float, fn: Callable[[], object]) -> Callable[[], None]:
        cancel = super().call_later(delay, fn)
        self.delay = delay
        return cancel


@pytest.fixture
def clock() -> Timed:
    return Timed()


@pytest.fixture
def make(clock: ManualClock) -> Iterator[Callable[..., Engine]]:
    engines = []

    def made(source: Scripted, **options: Any) -> Engine:
        source.clock = clock
        engine = Engine(source, **{"metadata_of": metadata_of, "clock": clock, "jitter": lambda: 0.5, **options})
        engines.append((engine, source))
        return engine

    yield made
    for engine, source in engines:
        source.gate.set()
        engine.close()


def ask(engine: Engine, context: CallContext = CALL, **options: Any) -> Future[Lease]:
    """A future of what `Engine.request` delivers."""
    future: Future[Lease] = Future()
    future.set_running_or_notify_cancel()

    def deliver(lease: Any, error: Any) -> None:
        if lease is not None:
            future.set_result(lease)
        else:
            future.set_exception(error)

    engine.request(context, deliver, **options)
    return future


def settled(engine: Engine) -> None:
    """Until the fetch ahead that nobody waits for has landed."""
    until = time.monotonic() + SOON
    while any(entry.state.flight for entry in engine._entries.values()):
        assert time.monotonic() < until
        time.sleep(0.0005)


def value(engine: Engine, context: CallContext = CALL) -> str:
    return engine.token(context, SOON).token.value


# ------------------------------------------------------------------------------------------------- one for all


def test_a_lease_carries_the_token_its_metadata_and_its_refresh_point(make: Any, clock: ManualClock) -> None:
    engine = make(Scripted())

    lease = engine.token(CALL, SOON)

    assert lease.metadata == (("authorization", "Bearer t1"),)
    assert lease.fresh_until == pytest.approx(clock.monotonic() + 800)
    assert engine.peek(CALL) is lease
    assert "t1" not in repr(lease)


def test_200_threads_and_50_tasks_that_come_cold_cause_one_fetch(make: Any) -> None:
    source = Scripted(gate=True)
    engine = make(source)
    values: list[str] = []
    threads = [threading.Thread(target=lambda: values.append(value(engine))) for _ in range(200)]

    async def tasks() -> list[str]:
        waits = [asyncio.wrap_future(ask(engine)) for _ in range(50)]
        source.gate.set()
        return [lease.token.value for lease in await asyncio.gather(*waits)]

    for thread in threads:
        thread.start()
    values += asyncio.run(tasks())
    for thread in threads:
        thread.join(SOON)

    assert values == ["t1"] * 250
    assert source.calls == 1


def test_a_thousand_waiters_park_no_thread(make: Any) -> None:
    source = Scripted(gate=True)
    engine = make(source)
    value_of: list[Lease | None] = []
    engine.request(CALL, lambda lease, error: value_of.append(lease))
    assert source.entered.acquire(timeout=SOON)
    before = set(threading.enumerate())

    for _ in range(999):
        engine.request(CALL, lambda lease, error: value_of.append(lease))

    assert set(threading.enumerate()) <= before
    source.gate.set()
    assert eventually(lambda: len(value_of) == 1000)
    assert None not in value_of


def test_a_waiter_that_times_out_leaves_the_fetch_to_serve_the_next(make: Any) -> None:
    source = Scripted(gate=True)
    engine = make(source)

    with pytest.raises(TokenUnavailableError, match=r"no token within 0\.01 s"):
        engine.token(CALL, 0.01)
    source.gate.set()

    assert value(engine) == "t1"
    assert source.calls == 1


def test_a_cancelled_task_cancels_nobody_else(make: Any) -> None:
    source = Scripted(gate=True)
    engine = make(source)

    async def main() -> str:
        first, second = (asyncio.wrap_future(ask(engine)) for _ in range(2))
        first.cancel()
        source.gate.set()
        lease = await second
        assert first.cancelled()
        return lease.token.value

    assert asyncio.run(main()) == "t1"


def test_a_future_cannot_be_cancelled(make: Any) -> None:
    source = Scripted(gate=True)
    future = ask(make(source))

    assert not future.cancel()
    source.gate.set()
    assert future.result(SOON).token.value == "t1"


def test_each_waiter_gets_an_error_of_its_own(make: Any) -> None:
    source = Scripted(TokenUnavailableError("down"), gate=True)
    engine = make(source)
    futures = [ask(engine) for _ in range(3)]
    source.gate.set()
    errors = [future.exception(SOON) for future in futures]

    assert [str(error) for error in errors] == ["down"] * 3
    assert len({id(error) for error in errors}) == 3


def test_a_waiter_that_raises_does_not_keep_the_token_from_the_next(make: Any, caplog: Any) -> None:
    source = Scripted(gate=True)
    engine = make(source)

    def bad(lease: Lease | None, error: GrpcBearerError | None) -> None:
        raise SystemExit("s3cret")

    with caplog.at_level(logging.DEBUG):
        engine.request(CALL, bad)
        after = ask(engine)
        source.gate.set()

        assert after.result(SOON).token.value == "t1"
    assert "SystemExit" in caplog.text
    assert "s3cret" not in caplog.text


def test_deliver_is_called_without_the_lock(make: Any) -> None:
    source = Scripted(TokenUnavailableError("down"), gate=True)
    engine = make(source)
    held: list[bool] = []

    def deliver(lease: Lease | None, error: GrpcBearerError | None) -> None:
        held.append(engine._fetcher.lock._is_owned())

    engine.request(CALL, deliver)
    source.gate.set()
    assert eventually(lambda: held == [False])
    engine.request(CALL, deliver)

    assert held == [False, False]


def test_the_fetch_sees_the_context_variables_of_the_caller_that_began_it(make: Any) -> None:
    WHO.set("acme")

    assert value(make(Scripted(lambda: Token(WHO.get("nobody"))))) == "acme"


# ------------------------------------------------------------------------------------------------- life of a token


@pytest.mark.parametrize("life", [60.0, 120.0])
def test_trap_38_a_short_token_is_not_fetched_on_each_call(make: Any, clock: ManualClock, life: float) -> None:
    source = Scripted(life=life)
    engine = make(source)
    for _ in range(int(life) * 10):  # a call a second for ten lives
        assert value(engine)
        settled(engine)
        clock.advance(1)

    assert source.calls <= 14


def test_a_stale_token_is_used_while_one_fetch_runs_ahead(make: Any, clock: ManualClock) -> None:
    source = Scripted()
    engine = make(source)
    value(engine)
    clock.advance(800)
    source.gate.clear()

    assert engine.peek(CALL) is None
    assert [value(engine) for _ in range(5)] == ["t1"] * 5
    source.gate.set()
    settled(engine)
    assert value(engine) == "t2"
    assert source.calls == 2


def test_who_can_do_without_waiting_gets_a_stale_token_and_a_worker_fetches_the_next(
    make: Any, clock: ManualClock
) -> None:
    source = Scripted()
    engine = make(source)
    value(engine)
    clock.advance(800)
    source.gate.clear()

    lease = engine.renewing(CALL)

    assert lease.token.value == "t1"
    assert engine.peek(CALL) is lease  # nobody else need ask while the fetch is under way
    assert engine.renewing(CALL) is None
    source.gate.set()
    settled(engine)
    assert engine.peek(CALL).token.value == "t2"
    assert source.calls == 2
    assert source.threads[1].name.startswith("grpc-bearer-worker")


def test_a_token_of_one_key_of_many_is_renewed_so_too(make: Any, clock: ManualClock) -> None:
    source = ByUrl()
    engine = make(source)
    value(engine)
    clock.advance(800)

    assert engine.renewing(CALL) is not None
    settled(engine)
    assert source.calls == 2


@pytest.mark.parametrize("age", [0, 799, 975, 1000])
def test_no_other_token_is_renewed_so(age: int, make: Any, clock: ManualClock) -> None:
    source = Scripted()
    engine = make(source)
    assert engine.renewing(CALL) is None
    value(engine)
    clock.advance(age)

    assert engine.renewing(CALL) is None
    assert source.calls == 1


def test_an_expiring_token_waits_for_the_fetch(make: Any, clock: ManualClock) -> None:
    source = Scripted()
    engine = make(source)
    value(engine)
    clock.advance(975)

    assert value(engine) == "t2"


def test_an_expiring_token_serves_those_who_waited_for_a_fetch_that_failed(make: Any, clock: ManualClock) -> None:
    source = Scripted()
    engine = make(source)
    value(engine)
    source.script = [TokenUnavailableError("down")]
    source.gate.clear()
    clock.advance(975)
    waiting = [ask(engine) for _ in range(3)]
    source.gate.set()

    assert [future.result(SOON).token.value for future in waiting] == ["t1"] * 3
    assert source.calls == 2


def test_with_the_endpoint_down_calls_go_on_to_the_true_expiry_and_no_further(make: Any, clock: ManualClock) -> None:
    source = Scripted()
    engine = make(source)
    value(engine)
    source.script = [TokenUnavailableError("down")]
    for _ in range(999):
        clock.advance(1)
        assert value(engine) == "t1"
        settled(engine)
    clock.advance(1)

    with pytest.raises(TokenUnavailableError, match="down"):
        value(engine)
    assert source.calls < 20


def test_a_token_without_expiry_is_fetched_once(make: Any, clock: ManualClock) -> None:
    source = Scripted(life=None)
    engine = make(source)
    value(engine)
    clock.advance(1e8)

    assert value(engine) == "t1"


def test_a_token_that_arrives_expired_is_an_error_that_names_the_clock(make: Any, clock: ManualClock) -> None:
    source = Scripted(life=-1.0)
    engine = make(source)

    with pytest.raises(TokenFormatError, match="already expired when it arrived"):
        value(engine)
    source.life = 1000.0
    clock.advance(2)
    assert value(engine) == "t2"


def test_trap_39_a_wall_clock_that_is_put_back_changes_nothing_for_a_token_in_hand(
    make: Any, clock: ManualClock
) -> None:
    engine = make(Scripted())
    engine.token(CALL, SOON)
    clock.step_wall(-1e6)
    for seconds in (0, 3, 3, 793):
        clock.advance(seconds)
        assert engine.peek(CALL).token.value == "t1"
    clock.advance(2)

    assert engine.peek(CALL) is None  # the monotonic clock counts


@pytest.mark.parametrize("kind", [Scripted, ByUrl])
def test_a_token_at_hand_costs_one_look_at_one_clock(make: Any, kind: type[Scripted]) -> None:
    """Each call pays for it; once in some seconds both clocks are looked at."""

    class Counting(ManualClock):
        looks = 0

        def time(self) -> float:
            self.looks += 1
            return super().time()

        def monotonic(self) -> float:
            self.looks += 1
            return super().monotonic()

    clock = Counting()
    source = kind()
    engine = make(source, clock=clock)
    source.clock = clock
    value(engine)
    clock.looks = 0
    for _ in range(100):
        assert engine.peek(CALL) is not None

    assert clock.looks == 100


def test_a_token_that_expired_while_the_machine_slept_is_not_handed_out(make: Any, clock: ManualClock) -> None:
    """Its monotonic clock stood still, as Linux's does."""
    engine = make(Scripted())
    value(engine)
    clock.step_wall(3600)

    assert engine.peek(CALL) is None
    assert value(engine) == "t2"
    clock.advance(700)  # what has been slept is no part of the next token's life
    assert value(engine) == "t2"


@pytest.mark.parametrize("slept", [0.9, 40.0])
def test_a_short_sleep_costs_a_token_no_more_than_that(make: Any, clock: ManualClock, slept: float) -> None:
    engine = make(Scripted())
    value(engine)
    clock.step_wall(slept)
    clock.advance(800 - slept - 3)
    assert value(engine) == "t1"
    assert engine.peek(CALL) is not None
    clock.advance(2 * slept + 5)

    assert engine.peek(CALL) is None


def test_a_backoff_ends_no_later_for_a_machine_that_slept(make: Any, clock: ManualClock) -> None:
    source = Scripted(TokenUnavailableError("down"))
    engine = make(source)
    for _ in range(2):
        with pytest.raises(TokenUnavailableError):
            value(engine)
    assert source.calls == 1
    clock.step_wall(3600)
    for _ in range(3):
        with pytest.raises(TokenUnavailableError):
            value(engine)

    assert source.calls == 2


# ------------------------------------------------------------------------------------------------------- failures


def test_a_failing_endpoint_sees_backoff_and_not_a_request_a_call(make: Any, clock: ManualClock) -> None:
    source = Scripted(TokenUnavailableError("down"))
    engine = make(source)
    begun = []
    for second in range(600):
        before = source.calls
        with pytest.raises(TokenUnavailableError, match="down"):
            value(engine)
        if source.calls > before:
            begun.append(second)
        clock.advance(1)
    gaps = [b - a for a, b in pairwise(begun)]

    assert gaps[0] <= 2
    assert max(gaps) in (119, 120, 121)
    assert gaps == sorted(gaps)
    assert len(begun) < 16


def test_garbage_for_an_answer_is_forgotten_in_seconds(make: Any, clock: ManualClock) -> None:
    source = Scripted(TokenFormatError("html"))
    engine = make(source)
    with pytest.raises(TokenFormatError):
        value(engine)
    source.script = [source.fresh]
    clock.advance(2)

    assert value(engine) == "t2"


def patient(engine: Engine, waits: Callable[[], bool] = lambda: True) -> Future[Lease]:
    return ask(engine, CALL, patient=waits)


def test_patient_calls_wait_out_the_backoff_and_share_the_fetch_after_it(make: Any, clock: ManualClock) -> None:
    source = Scripted(TokenUnavailableError("down"), TokenFormatError("html"), TokenUnavailableError("down"), lambda: 0)
    source.script[-1] = source.fresh
    engine = make(source)
    waiting = [patient(engine) for _ in range(100)]
    assert source.entered.acquire(timeout=SOON)
    with pytest.raises(TokenUnavailableError):  # who is not patient is told at once
        value(engine)
    for fetches in (2, 3, 4):
        assert not any(future.done() for future in waiting)
        assert source.calls == fetches - 1
        clock.advance(5)
        assert source.entered.acquire(timeout=SOON)
        settled(engine)

    assert {future.result(SOON).token.value for future in waiting} == {"t4"}
    assert source.calls == 4


@pytest.mark.parametrize("error", [TokenRejectedError("no"), SigningError("bad key")])
def test_patient_calls_do_not_wait_for_what_will_not_pass(make: Any, error: Exception) -> None:
    engine = make(Scripted(error))

    for _ in range(2):
        with pytest.raises(type(error)):
            patient(engine).result(SOON)


def test_a_patient_call_that_has_ended_is_let_go_and_causes_no_fetch(make: Any, clock: ManualClock) -> None:
    source = Scripted(TokenUnavailableError("down", retry_after=1000.0))
    engine = make(source)
    waits = [True]
    future = patient(engine, lambda: waits[0])
    settled(engine)
    assert not future.done()
    waits.clear()
    waits.append(False)
    clock.advance(LOOK_AROUND)

    with pytest.raises(TokenUnavailableError, match="has ended"):
        future.result(SOON)
    clock.advance(2000)
    assert source.calls == 1


def test_patient_calls_are_told_when_the_auth_is_closed(make: Any) -> None:
    engine = make(Scripted(TokenUnavailableError("down")))
    future = patient(engine)
    settled(engine)
    engine.close()

    with pytest.raises(TokenRejectedError, match="closed"):
        future.result(SOON)


def test_a_patient_source_that_asks_for_its_own_token_is_told_so(make: Any) -> None:
    source = Scripted(lambda: patient(engine).result(SOON).token)
    engine = make(source)

    with pytest.raises(TokenUnavailableError, match="that very token"):
        value(engine)


def test_patient_calls_wait_for_a_fetch_that_takes_too_long(make: Any, clock: ManualClock) -> None:
    source = Scripted(gate=True)
    engine = make(source)
    future = patient(engine)
    assert source.entered.acquire(timeout=SOON)
    clock.advance(Source.fetch_timeout)
    with pytest.raises(TokenUnavailableError, match="goes on"):
        value(engine)
    assert not future.done()
    source.gate.set()

    assert future.result(SOON).token.value == "t1"


def test_patient_calls_keep_their_context_variables(make: Any, clock: ManualClock) -> None:
    seen: list[str] = []
    source = Scripted(TokenUnavailableError("down"), lambda: seen.append(WHO.get()) or source.fresh())
    engine = make(source)
    future = contextvars.copy_context().run(lambda: (WHO.set("me"), patient(engine))[1])
    settled(engine)
    clock.advance(2)

    future.result(SOON)
    assert seen == ["me"]


@pytest.mark.parametrize("error", [TokenRejectedError("no"), SigningError("bad key")])
def test_a_permanent_failure_is_tried_again_after_minutes(make: Any, clock: ManualClock, error: Exception) -> None:
    source = Scripted(error)
    engine = make(source)
    for _ in range(295):
        with pytest.raises(type(error)):
            value(engine)
        clock.advance(1)
    assert source.calls == 1
    source.script = [source.fresh]
    clock.advance(5)

    assert value(engine) == "t2"


def test_permanent_failures_grow_to_an_hour(make: Any) -> None:
    engine = make(Scripted())
    delays = [engine._fetcher.backoff(n, lasting=True) for n in range(1, 9)]

    assert delays[:3] == pytest.approx([300, 480, 768])
    assert delays[-1] == 3600


def test_a_refused_credential_that_may_be_replaced_is_tried_again_within_two_minutes(make: Any) -> None:
    source = Scripted()
    source.replaceable = True
    engine = make(source)
    delays = [engine._fetcher.backoff(n, lasting=True) for n in range(1, 9)]

    assert delays[:3] == pytest.approx([30, 48, 76.8])
    assert delays[-1] == 120


def test_an_explicit_change_ends_a_permanent_failure(make: Any) -> None:
    source = Scripted(TokenRejectedError("no"), Token("new"))
    engine = make(source)
    with pytest.raises(TokenRejectedError):
        value(engine)

    assert engine.invalidate()
    assert value(engine) == "new"


@pytest.mark.parametrize(("asked", "expected"), [(40.0, 40.0), (1e9, 3600.0), (0.0, 1.0), (-5.0, 1.0), (None, 1.0)])
def test_retry_after_is_a_lower_bound_up_to_an_hour(
    make: Any, clock: ManualClock, asked: float | None, expected: float
) -> None:
    source = Scripted(TokenUnavailableError("busy", retry_after=asked), Token("new"))
    engine = make(source)
    with pytest.raises(TokenUnavailableError):
        value(engine)
    clock.advance(expected - 0.01)
    with pytest.raises(TokenUnavailableError):
        value(engine)
    clock.advance(0.02)

    assert value(engine) == "new"


@pytest.mark.parametrize("draw", [0.0, 0.999999])
def test_backoff_is_spread_by_a_fifth(make: Any, draw: float) -> None:
    engine = make(Scripted(), jitter=lambda: draw)

    assert engine._fetcher.backoff(1) == pytest.approx(0.8 if draw == 0.0 else 1.2, abs=1e-3)


class Odd(Exception):
    pass


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, Odd, BaseException])
@pytest.mark.parametrize("local", [False, True])
def test_what_a_source_raises_is_named_by_type_alone(
    make: Any, raised: type[BaseException], local: bool, caplog: Any
) -> None:
    engine = make(Scripted(raised("s3cret"), local=local))

    with caplog.at_level(logging.DEBUG), pytest.raises(TokenUnavailableError) as caught:
        value(engine)

    assert str(caught.value) == f"Scripted.fetch raised {raised.__name__}"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "s3cret" not in caplog.text


def test_an_error_of_ours_loses_the_traceback_that_holds_the_source_s_variables(make: Any) -> None:
    error = TokenUnavailableError("down")
    engine = make(Scripted(error))
    with pytest.raises(TokenUnavailableError) as caught:
        value(engine)

    assert caught.value is not error
    frames = [frame.name for frame in caught.traceback]
    assert "fetch" not in frames


def test_an_error_of_ours_loses_it_even_where_copies_of_errors_keep_theirs(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rebuilt(message: str, trace: Any) -> TokenUnavailableError:
        return TokenUnavailableError(message).with_traceback(trace)

    # As tblib does for all errors once Dask was imported.
    monkeypatch.setitem(
        copyreg.dispatch_table, TokenUnavailableError, lambda error: (rebuilt, (str(error), error.__traceback__))
    )
    engine = make(Scripted(TokenUnavailableError("down")))
    with pytest.raises(TokenUnavailableError) as caught:
        value(engine)

    assert "fetch" not in [frame.name for frame in caught.traceback]


@pytest.mark.parametrize("wrong", [None, "text", b"bytes", 7])
def test_what_is_no_token_is_refused(make: Any, wrong: Any) -> None:
    engine = make(Scripted(lambda: wrong))

    with pytest.raises(TokenFormatError, match=f"expected a Token, got {type(wrong).__name__}"):
        value(engine)


def test_a_single_use_token_from_a_source_that_shares_is_refused(make: Any) -> None:
    engine = make(Scripted(Token("once", single_use=True)))

    with pytest.raises(TokenFormatError, match="single_use is not True"):
        value(engine)


def test_metadata_that_cannot_be_made_is_an_error_and_hangs_nobody(make: Any) -> None:
    def broken(token: Token) -> Any:
        raise ValueError(token.value)

    engine = make(Scripted(Token("s3cret")), metadata_of=broken)

    with pytest.raises(TokenUnavailableError, match="raised ValueError") as caught:
        value(engine)
    assert "s3cret" not in str(caught.value)


def test_a_source_that_asks_for_its_own_token_is_told_so(make: Any) -> None:
    engine: Engine
    source = Scripted(lambda: engine.token(CALL).token)
    engine = make(source)

    with pytest.raises(TokenUnavailableError, match="for that very token"):
        value(engine)


def test_sources_that_ask_other_auths_do_not_starve_each_other(make: Any) -> None:
    inner = make(Scripted(gate=False))
    outers = [make(Scripted(lambda: inner.token(CALL, SOON).token)) for _ in range(3 * threads.MAX_WORKERS)]

    futures = [ask(engine) for engine in outers]

    assert {future.result(SOON).token.value for future in futures} == {"t1"}


# --------------------------------------------------------------------------------------------------- forced refresh


def test_trap_35_many_refusals_of_one_token_cost_one_fetch(make: Any) -> None:
    source = Scripted()
    engine = make(source)
    refused = engine.token(CALL, SOON).token.fingerprint

    answers = [(engine.invalidate(refused), value(engine)) for _ in range(50)]

    assert answers == [(True, "t2")] + [(False, "t2")] * 49
    assert source.calls == 2


def test_a_refused_token_is_not_handed_out(make: Any) -> None:
    source = Scripted()
    engine = make(source)
    token = engine.token(CALL, SOON).token
    source.gate.clear()

    assert engine.invalidate(token.fingerprint)
    assert engine.peek(CALL) is None
    waiting = ask(engine)
    assert not waiting.done()
    source.gate.set()
    assert waiting.result(SOON).token.value == "t2"


def test_trap_36_a_flight_begun_before_the_refusal_is_flown_again_for_the_same_waiters(
    make: Any, clock: ManualClock
) -> None:
    same = Token("same", expires_at=clock.time() + 1000)
    source = Scripted(same, same, Token("new"))
    engine = make(source)
    value(engine)
    clock.advance(850)
    source.gate.clear()
    assert value(engine) == "same"  # and a fetch ahead is in flight
    assert engine.invalidate(same.fingerprint)
    waiting = ask(engine)
    source.gate.set()

    assert waiting.result(SOON).token.value == "new"
    assert source.calls == 3


def test_a_static_token_that_is_refused_for_ever_is_fetched_a_bounded_number_of_times(
    make: Any, clock: ManualClock
) -> None:
    source = Scripted(Token("static"), local=True)
    engine = make(source)
    for _ in range(3600):
        engine.invalidate(engine.token(CALL).token.fingerprint)
        assert value(engine) == "static"
        clock.advance(1)

    assert source.calls < 60


def test_a_refused_token_that_is_polled_is_looked_at_again_at_its_own_pace(make: Any, clock: ManualClock) -> None:
    source = Scripted(lambda: Token("same", refresh_at=clock.time() + 10))
    engine = make(source)
    for _ in range(60):  # refused for ten minutes, until somebody replaces the file
        engine.invalidate(engine.token(CALL, SOON).token.fingerprint)
        settled(engine)
        clock.advance(10)
    source.script = [lambda: Token("replaced", refresh_at=clock.time() + 10)]
    value(engine)
    settled(engine)

    assert value(engine) == "replaced"
    assert source.calls <= 2 * 61  # one ahead and one forced, each ten seconds


def test_a_server_that_refuses_every_token_cannot_turn_each_call_into_a_fetch(make: Any, clock: ManualClock) -> None:
    source = Scripted(life=None, local=True)
    engine = make(source)
    for _ in range(600):
        engine.invalidate(engine.token(CALL).token.fingerprint)
        value(engine)
        clock.advance(0.1)

    assert source.calls == 1 + 10 + 9


# ------------------------------------------------------------------------------------------------- single use, local


def test_single_use_tokens_are_fetched_each_time_and_never_kept(make: Any) -> None:
    source = Scripted(single_use=True)
    engine = make(source)

    assert [value(engine) for _ in range(3)] == ["t1", "t2", "t3"]
    assert engine.single_use
    assert engine.peek(CALL) is None


@pytest.mark.parametrize(
    ("flags", "own_thread", "here"),
    [
        ({"single_use": True}, True, True),
        ({"single_use": True}, False, False),
        ({"single_use": True, "local": True}, False, True),
        ({"local": True}, False, False),
        ({}, False, False),
        ({}, True, False),
    ],
)
def test_which_thread_fetches(make: Any, flags: dict[str, bool], own_thread: bool, here: bool) -> None:
    source = Scripted(**flags)
    done: Future[Lease | None] = Future()

    make(source).request(CALL, lambda lease, error: done.set_result(lease), own_thread=own_thread)

    assert done.result(SOON) is not None
    assert (source.threads == [threading.current_thread()]) is here


def test_a_single_use_token_that_arrives_expired_is_an_error(make: Any) -> None:
    with pytest.raises(TokenFormatError, match="already expired"):
        value(make(Scripted(life=0.0, single_use=True)))


def test_a_single_use_source_that_fails_is_asked_again_each_time(make: Any) -> None:
    source = Scripted(SigningError("bad key"), single_use=True, local=True)
    engine = make(source)
    for _ in range(3):
        with pytest.raises(SigningError):
            value(engine)

    assert source.calls == 3


def test_a_single_use_source_that_asks_itself_is_told_so(make: Any) -> None:
    engine: Engine
    engine = make(Scripted(lambda: engine.token(CALL).token, single_use=True))

    with pytest.raises(TokenUnavailableError, match="for that very token"):
        value(engine)


# ------------------------------------------------------------------------------------------------------------ keys


def by_url(url: str) -> CallContext:
    return CallContext(url)


def test_each_key_has_a_token_and_failures_of_its_own(make: Any) -> None:
    source = ByUrl()
    engine = make(source)

    assert [value(engine, by_url(url)) for url in "aabba"] == ["t1", "t1", "t2", "t2", "t1"]
    source.script = [TokenRejectedError("no")]
    with pytest.raises(TokenRejectedError):
        value(engine, by_url("c"))
    assert value(engine, by_url("a")) == "t1"


def test_a_refusal_touches_only_the_keys_with_that_token(make: Any) -> None:
    engine = make(ByUrl())
    lease = engine.token(by_url("a"), SOON)
    value(engine, by_url("b"))

    assert engine.invalidate(lease.token.fingerprint)
    assert engine.peek(by_url("a")) is None
    assert engine.peek(by_url("b")) is not None


def test_the_number_of_keys_is_bounded_and_the_unused_go_first(make: Any) -> None:
    engine = make(ByUrl(), max_keys=3)
    for url in "abc":
        value(engine, by_url(url))
    value(engine, by_url("d"))  # all were just used: the oldest goes
    assert engine.peek(by_url("b")) is not None
    value(engine, by_url("e"))

    assert len(engine._entries) == 3
    assert [engine.peek(by_url(url)) is not None for url in "abcde"] == [False, True, False, True, True]


def test_eviction_spares_a_fetch_in_flight(make: Any) -> None:
    source = ByUrl()
    engine = make(source, max_keys=2)
    value(engine, by_url("done"))
    source.gate.clear()
    waiting = [ask(engine, by_url(url)) for url in ("a", "b", "a")]
    source.gate.set()

    values = [future.result(SOON).token.value for future in waiting]
    assert values[0] == values[2]
    assert source.calls == 3


def test_keys_are_bounded_with_all_fetches_in_flight_and_no_waiter_is_lost(make: Any) -> None:
    source = ByUrl(gate=True)
    engine = make(source, max_keys=3)
    waiting = [ask(engine, by_url(str(number))) for number in range(60)]
    assert len(engine._entries) == 3
    engine.close()
    assert {str(future.exception(SOON)) for future in waiting} == {"the auth is closed; make a new one"}
    source.gate.set()


def test_a_new_key_costs_the_same_however_many_there_are(make: Any) -> None:
    looked_at: list[str] = []

    class Key:
        def __init__(self, name: str) -> None:
            self.name = name

        def __hash__(self) -> int:
            looked_at.append(self.name)
            return hash(self.name)

    source = Scripted(gate=True)
    source.key = lambda context: Key(context.service_url)  # type: ignore[method-assign]
    engine = make(source, max_keys=1000)
    costs = []
    for number in range(3000):
        looked_at.clear()
        engine.request(by_url(str(number)), lambda lease, error: None)
        costs.append(len(looked_at))

    assert max(costs) <= 40
    source.gate.set()


@pytest.mark.parametrize("key", [[], {}])
def test_a_key_that_cannot_be_one_is_an_error(make: Any, key: Any) -> None:
    source = ByUrl()
    source.key = lambda context: key

    with pytest.raises(TokenUnavailableError, match=r"ByUrl\.key raised TypeError"):
        value(make(source))


def test_a_key_function_that_raises_is_an_error_of_ours(make: Any) -> None:
    class NoRoute(ByUrl):
        def key(self, context: CallContext) -> Hashable:
            raise TokenRejectedError("no route for this method")

    with pytest.raises(TokenRejectedError, match="no route"):
        value(make(NoRoute()))


# -------------------------------------------------------------------------------------------------- hang and close


def test_those_who_wait_for_a_fetch_that_hangs_are_told_and_the_late_token_serves_the_next(
    make: Any, clock: ManualClock
) -> None:
    source = Scripted(gate=True)
    engine = make(source, fetch_timeout=30.0)
    waiting = ask(engine)
    assert source.entered.acquire(timeout=SOON)
    clock.advance(30)

    assert "no token after 30 s" in str(waiting.exception(SOON))
    with pytest.raises(TokenUnavailableError, match="no token after 30 s"):
        value(engine)
    assert source.calls == 1
    source.gate.set()
    settled(engine)
    assert value(engine) == "t1"


@pytest.mark.parametrize("single_use", [False, True])
def test_close_tells_those_who_wait_and_those_who_ask_later(make: Any, single_use: bool) -> None:
    source = Scripted(gate=True, single_use=single_use)
    engine = make(source)
    waiting = [ask(engine) for _ in range(3)]
    assert source.entered.acquire(timeout=SOON)

    engine.close()
    engine.close()

    errors = [future.exception(SOON) for future in waiting] + [ask(engine).exception(SOON)]
    assert all(isinstance(error, TokenError) and not error.retryable for error in errors)
    assert {str(error) for error in errors} == {"the auth is closed; make a new one"}
    assert (engine.closed, source.closed) == (True, 1)
    source.gate.set()


def test_a_token_that_arrives_after_close_is_dropped(make: Any) -> None:
    source = Scripted(gate=True)
    engine = make(source)
    ask(engine)
    assert source.entered.acquire(timeout=SOON)
    engine.close()
    source.gate.set()
    _drain()

    assert engine.peek(CALL) is None
    with pytest.raises(TokenRejectedError, match="closed"):
        value(engine)


def test_close_forgets_a_token_in_hand_of_every_key(make: Any) -> None:
    engine = make(ByUrl())
    value(engine, by_url("a"))
    engine.close()

    assert engine.peek(by_url("a")) is None
    with pytest.raises(TokenRejectedError, match="closed"):
        value(engine, by_url("new"))
    assert not engine.invalidate()


def _drain() -> None:
    """Until the workers have done what they were given so far."""
    barrier = threading.Barrier(2)
    threads.submit(lambda: barrier.wait(SOON))
    barrier.wait(SOON)


# ------------------------------------------------------------------------------------------------------- keep warm


def sets_a_timer(clock: Timed, seconds: float) -> bool:
    """Wait until the worker has set the timer for the next refresh: the last thing it does for a fetch.

    The timer may be a second nearer, if this thread was still moving the clock.
    """
    return eventually(lambda: abs(clock.delay - seconds) <= 1)


def test_keep_warm_refreshes_an_idle_token_at_its_refresh_point(make: Any, clock: Timed) -> None:
    source = Scripted()
    engine = make(source, keep_warm=True)
    value(engine)
    for _ in range(3):
        assert sets_a_timer(clock, 800)
        clock.advance(801)
    assert sets_a_timer(clock, 800)

    assert source.calls == 4
    lease = engine.peek(CALL)
    assert lease is not None
    assert lease.token.value == "t4"


def test_keep_warm_tries_again_after_the_backoff(make: Any, clock: Timed) -> None:
    source = Scripted()
    engine = make(source, keep_warm=True)
    value(engine)
    assert sets_a_timer(clock, 800)
    source.script = [TokenUnavailableError("down"), source.fresh]
    clock.advance(801)
    assert sets_a_timer(clock, 1)
    assert source.calls == 2
    clock.advance(2)
    assert sets_a_timer(clock, 800)

    assert source.calls == 3
    assert engine.peek(CALL) is not None


def test_without_keep_warm_nothing_is_fetched_while_idle(make: Any, clock: ManualClock) -> None:
    source = Scripted()
    value(make(source))
    clock.advance(1e6)

    assert source.calls == 1


def test_keep_warm_ends_with_close(make: Any, clock: ManualClock) -> None:
    source = Scripted()
    engine = make(source, keep_warm=True)
    value(engine)
    engine.close()
    clock.advance(1e6)

    assert source.calls == 1


def test_what_begins_with_a_token_keeps_nobody_alive_who_waited_for_it_too(make: Any) -> None:
    class Waiter:
        def take(self, *_: object) -> None:
            """A call that is over at once."""

    source = Scripted(gate=True)
    engine = make(source)
    begun: list[contextvars.Context] = []  # a call keeps the context that it was begun in, for as long as it lasts
    waiter = Waiter()
    gone = weakref.ref(waiter)
    engine.request(CALL, waiter.take)
    engine.request(CALL, lambda *_: begun.append(contextvars.copy_context()))
    del waiter
    assert gone() is not None
    source.gate.set()
    settled(engine)

    assert eventually(lambda: gc.collect() >= 0 and gone() is None)  # once the worker has let go, too
    assert len(begun) == 1


def test_a_dropped_engine_is_collected_and_its_timer_does_nothing(clock: ManualClock) -> None:
    source = Scripted()
    source.clock = clock
    engine = Engine(source, metadata_of=metadata_of, clock=clock, keep_warm=True)
    value(engine)
    _drain()
    gone = weakref.ref(engine)
    del engine
    gc.collect()

    assert gone() is None
    clock.advance(1e6)
    assert source.calls == 1


# ----------------------------------------------------------------------------------------------------------- threads


def test_a_thousand_engines_share_a_few_threads(make: Any) -> None:
    engines = [make(Scripted()) for _ in range(1000)]
    futures = [ask(engine) for engine in engines]
    for future in futures:
        assert future.result(SOON).token.value == "t1"

    ours = [thread for thread in threading.enumerate() if thread.name.startswith("grpc-bearer-worker")]
    assert 1 <= len(ours) <= threads.MAX_WORKERS
    assert all(thread.daemon for thread in ours)


def test_a_worker_survives_what_its_job_raises(caplog: Any) -> None:
    def bad() -> None:
        raise SystemExit("s3cret")

    threads.submit(bad)
    _drain()

    assert "s3cret" not in caplog.text


def test_the_real_timer_calls_what_is_due_and_skips_what_was_cancelled() -> None:
    called: SimpleQueue[str] = SimpleQueue()
    threads.call_later(0.25, lambda: called.put("second"))
    cancel = threads.call_later(0.2, lambda: called.put("cancelled"))
    cancel()
    cancel()
    threads.call_later(0.0, lambda: called.put("first"))

    assert sorted(called.get(timeout=SOON) for _ in range(2)) == ["first", "second"]
    assert called.empty()


def test_the_system_clock_s_timer_keeps_a_token_warm() -> None:
    class Brief(Source):
        def __init__(self) -> None:
            self.twice = threading.Event()
            self.calls = 0

        def fetch(self, context: CallContext) -> Token:
            self.calls += 1
            if self.calls == 2:
                self.twice.set()
            return Token(f"t{self.calls}", refresh_at=context.clock.time() + 0.02)

    source = Brief()
    engine = Engine(source, metadata_of=metadata_of, keep_warm=True)
    value(engine)

    assert source.twice.wait(SOON)
    engine.close()
