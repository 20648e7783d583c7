"""What observers hear, once and in order, on a clock moved by hand; and what they can do to a call: nothing."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import grpc
import pytest
from _refusing import PATIENCE, SYNC, Place, Side, expected, request
from attachments import asking, eventually

import grpc_bearer
from grpc_bearer import BearerAuth, CallContext, JWTSource, RetryPolicy, Source, Token, events
from grpc_bearer._engine import notify
from grpc_bearer.errors import ConfigurationError, TokenRejectedError, TokenUnavailableError
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
from grpc_bearer.testing import (
    JWTVerifier,
    ManualClock,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    private_pem,
    public_pem,
    throwaway_key,
)

WHO = ("crm", "Scripted")


class Scripted(Source):
    """Does what its script says, and the last line of it for ever; each fetch takes two seconds of its clock."""

    def __init__(self, clock: ManualClock, *script: Any, life: float | None = 1000.0, **flags: bool) -> None:
        self.clock = clock
        self.script = list(script) or ["token"]
        self.life = life
        self.count = 0
        self.single_use = flags.get("single_use", False)
        self.local = flags.get("local", False)
        self.entered, self.go = threading.Event(), threading.Event()
        if not flags.get("gate", False):
            self.go.set()

    def fetch(self, context: CallContext) -> Token:
        self.count += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.entered.set()
        assert self.go.wait(PATIENCE)
        self.clock.advance(2.0)
        if isinstance(step, BaseException):
            raise step
        expires_at = None if self.life is None else self.clock.time() + self.life
        value = f"t{self.count}" if step == "token" else step
        return Token(value, expires_at=expires_at, single_use=self.single_use)


class Ear:
    """Remembers what it hears, and on which thread."""

    def __init__(self) -> None:
        self.heard: list[Event] = []
        self.threads: list[str] = []

    def __call__(self, event: Event) -> None:
        self.threads.append(threading.current_thread().name)
        self.heard.append(event)

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.heard]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.heard if isinstance(event, kind)]

    def last(self, kind: type) -> Any:
        return self.of(kind)[-1]


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def make(clock: ManualClock, ear: Ear) -> Iterator[Callable[..., BearerAuth]]:
    auths = []

    def made(source: Source, **options: Any) -> BearerAuth:
        auth = BearerAuth(source, name="crm", clock=clock, **{"observers": [ear], **options})
        auths.append(auth)
        return auth

    yield made
    for auth in auths:
        auth.close()


def numbered(fetch: int, event: Event) -> Event:
    """The event as if its fetch had this number."""
    return dataclasses.replace(event, fetch=fetch) if hasattr(event, "fetch") else event


# ------------------------------------------------------------------------------------------------------------ fetches


def test_a_cold_fetch_is_told_as_begun_and_ended_with_one_number(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    make(Scripted(clock)).token()

    begun, fetched = ear.heard
    assert begun.fetch == fetched.fetch > 0  # type: ignore[attr-defined]
    assert [numbered(1, event) for event in ear.heard] == [
        FetchBegun(*WHO, fetch=1),
        TokenFetched(*WHO, fetch=1, duration=2.0, lifetime=1000.0),
    ]


def test_whoever_waits_for_a_token_goes_on_after_the_observers_were_told(
    clock: ManualClock, make: Callable[..., BearerAuth]
) -> None:
    told: list[type[Event]] = []

    def slow(event: Event) -> None:
        time.sleep(0.02)  # long enough for whoever would not wait to be first
        told.append(type(event))

    make(Scripted(clock), observers=[slow]).token()

    assert told == [FetchBegun, TokenFetched]


def test_a_token_at_hand_is_never_heard_of(clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]) -> None:
    auth = make(Scripted(clock))
    auth.token()
    ear.heard.clear()
    for _ in range(50):
        auth.token()
        auth.headers()

    assert ear.heard == []


def test_a_token_valid_until_revoked_has_no_lifetime(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    make(Scripted(clock, life=None)).token()

    assert ear.last(TokenFetched).lifetime is None


def test_a_refresh_ahead_is_told_as_such(clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]) -> None:
    auth = make(Scripted(clock))
    auth.token()
    ear.heard.clear()
    clock.advance(900.0)
    auth.token()
    assert eventually(lambda: len(ear.heard) == 2)

    assert ear.kinds() == ["FetchBegun", "TokenFetched"]
    assert [event.ahead for event in ear.heard] == [True, True]  # type: ignore[attr-defined]
    assert all(name.startswith("grpc-bearer-worker") for name in ear.threads)


def test_what_is_kept_warm_is_fetched_ahead(clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]) -> None:
    auth = make(Scripted(clock), keep_warm=True)
    auth.token()
    entry: Any = auth._engine._only
    assert eventually(lambda: entry._cancel_timer is not None)
    ear.heard.clear()
    while entry.state.flight is None and clock.time() < 1_700_001_000.0:
        clock.advance(10.0)  # in steps, or the fetch would be overdue before it has begun
    assert eventually(lambda: len(ear.heard) >= 2)

    assert ear.kinds()[:2] == ["FetchBegun", "TokenFetched"]
    assert ear.of(FetchBegun)[0].ahead


def test_a_failure_tells_what_comes_of_it_and_success_what_went_before(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    auth = make(Scripted(clock, TokenUnavailableError("status 503"), TokenUnavailableError("status 503"), "token"))
    for _ in range(2):
        with pytest.raises(TokenUnavailableError):
            auth.token()
        with pytest.raises(TokenUnavailableError):  # in backoff: nothing is tried, so there is nothing to tell
            auth.token()
        clock.advance(300.0)
    auth.token()

    assert ear.kinds() == ["FetchBegun", "RefreshFailed"] * 2 + ["FetchBegun", "TokenFetched"]
    first, second = ear.of(RefreshFailed)
    assert 0.8 <= first.retry_in <= 1.2
    assert dataclasses.replace(first, fetch=1, retry_in=1.0) == RefreshFailed(
        *WHO,
        fetch=1,
        duration=2.0,
        error="TokenUnavailableError",
        message="status 503",
        retryable=True,
        failures=1,
        retry_in=1.0,
        usable=False,
        help="GB-UNAVAILABLE",
    )
    assert second.failures == 2
    assert second.retry_in > first.retry_in
    assert ear.last(TokenFetched).failures == 2


def test_a_failure_ahead_says_that_the_old_token_serves(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    auth = make(Scripted(clock, "token", TokenRejectedError("status 401")))
    auth.token()
    clock.advance(900.0)
    auth.token()
    assert eventually(lambda: len(ear.heard) == 4)

    failed = ear.last(RefreshFailed)
    assert (failed.ahead, failed.usable, failed.retryable, failed.error) == (True, True, False, "TokenRejectedError")
    assert failed.retry_in >= 240.0


def test_a_foreign_error_shows_as_its_type_only(clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]) -> None:
    auth = make(Scripted(clock, ValueError("hunter2")))
    with pytest.raises(TokenUnavailableError):
        auth.token()

    assert "ValueError" in ear.last(RefreshFailed).message
    assert "hunter2" not in repr(ear.heard)


def test_a_token_that_arrives_expired_is_a_failure(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    auth = make(Scripted(clock, life=-1.0))
    with pytest.raises(grpc_bearer.TokenFormatError):
        auth.token()

    assert ear.kinds() == ["FetchBegun", "RefreshFailed"]
    assert ear.last(RefreshFailed).error == "TokenFormatError"


def test_a_fetch_that_takes_too_long_is_told_and_still_ends(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    source = Scripted(clock, gate=True)
    auth = make(source)
    future = asking(auth)
    assert source.entered.wait(PATIENCE)
    clock.advance(60.0)
    assert isinstance(future.exception(PATIENCE), TokenUnavailableError)
    source.go.set()
    assert eventually(lambda: len(ear.heard) == 3)

    assert ear.kinds() == ["FetchBegun", "RefreshOverdue", "TokenFetched"]
    assert {event.fetch for event in ear.heard} == {ear.of(FetchBegun)[0].fetch}  # type: ignore[attr-defined]
    assert ear.last(RefreshOverdue).waited == 60.0
    assert ear.last(TokenFetched).kept


def test_a_fetch_that_outlives_its_auth_is_told_to_have_ended(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    good, bad = Scripted(clock, gate=True), Scripted(clock, TokenUnavailableError("down"), gate=True)
    for source in (good, bad):
        auth = make(source)
        asking(auth)
        assert source.entered.wait(PATIENCE)
        auth.close()
        source.go.set()
    assert eventually(lambda: len(ear.heard) == 4)

    assert not ear.last(TokenFetched).kept
    assert ear.last(RefreshFailed).retry_in is None


def test_a_refused_token_that_comes_back_is_fetched_again_and_both_fetches_are_told(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    source = Scripted(clock, "same", "same", "other")
    auth = make(source)
    token = auth.token()
    clock.advance(900.0)
    source.go.clear()
    source.entered.clear()
    auth.token()  # begins a fetch ahead
    assert source.entered.wait(PATIENCE)
    assert auth.invalidate(token)
    future = asking(auth)  # waits for the one in flight
    source.go.set()
    assert future.result(PATIENCE).value == "other"

    told = ear.heard[2:]
    assert [type(event).__name__ for event in told] == [
        "FetchBegun",
        "RefreshForced",
        "TokenFetched",
        "FetchBegun",
        "TokenFetched",
    ]
    assert [event.kept for event in told if isinstance(event, TokenFetched)] == [False, True]


@pytest.mark.parametrize("local", [True, False])
def test_tokens_for_one_attempt_are_told_each(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth], local: bool
) -> None:
    auth = make(Scripted(clock, "token", "token", TokenUnavailableError("no key"), single_use=True, local=local))
    auth.token()
    auth.token()
    with pytest.raises(TokenUnavailableError):
        auth.token()

    assert ear.kinds() == ["FetchBegun", "TokenFetched"] * 2 + ["FetchBegun", "RefreshFailed"]
    assert [event.kept for event in ear.of(TokenFetched)] == [False, False]
    assert (ear.last(RefreshFailed).failures, ear.last(RefreshFailed).retry_in) == (0, 0.0)


def test_a_fetch_for_one_attempt_that_takes_too_long(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    source = Scripted(clock, gate=True, single_use=True)
    future = asking(make(source))
    assert source.entered.wait(PATIENCE)
    clock.advance(60.0)
    assert isinstance(future.exception(PATIENCE), TokenUnavailableError)
    source.go.set()
    assert eventually(lambda: len(ear.heard) == 3)

    assert ear.kinds() == ["FetchBegun", "RefreshOverdue", "TokenFetched"]


def test_a_fetch_that_gets_no_thread_is_a_failure_without_a_beginning(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(job: Callable[[], object]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("grpc_bearer._base.threads.submit", no_thread)
    for single_use in (False, True):
        with pytest.raises(TokenUnavailableError):
            make(Scripted(clock, single_use=single_use)).token()

    assert [(type(event), event.fetch) for event in ear.heard] == [(RefreshFailed, 0)] * 2  # type: ignore[attr-defined]


def test_a_hundred_waiters_make_one_fetch_and_one_pair_of_events(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    source = Scripted(clock, gate=True)
    auth = make(source)
    futures = [asking(auth) for _ in range(100)]
    source.go.set()
    assert {future.result(PATIENCE).value for future in futures} == {"t1"}

    assert ear.kinds() == ["FetchBegun", "TokenFetched"]


# -------------------------------------------------------------------------------------------- forced refreshes, skew


def test_a_token_refused_many_times_is_given_up_once(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    auth = make(Scripted(clock))
    token = auth.token()
    assert [auth.invalidate(token) for _ in range(20)] == [True] + [False] * 19

    assert ear.of(RefreshForced) == [RefreshForced(*WHO, reason="refused")]


def test_skew_is_told_when_it_is_learnt_and_when_somebody_sets_the_clock(
    clock: ManualClock, ear: Ear, make: Callable[..., BearerAuth]
) -> None:
    skewed: Any = make(Scripted(clock))._clock
    right = clock.time() + 600.0
    assert [skewed.learn(right, 0.0), skewed.learn(right, 0.0), skewed.learn(right, 0.0)] == [False, True, False]
    clock.step_wall(600.0)
    skewed.time()
    skewed.time()
    assert eventually(lambda: len(ear.heard) == 2)

    assert ear.heard == [
        SkewLearnt(*WHO, offset=600.5, previous=0.0),
        SkewLearnt(*WHO, offset=0.0, previous=600.5),
    ]


def test_skew_learnt_from_a_refusal_is_told_between_the_fetches(ear: Ear) -> None:
    class Slow:
        monotonic = staticmethod(time.monotonic)
        call_later = staticmethod(ManualClock().call_later)

        def time(self) -> float:
            return time.time() - 600.0

    key = throwaway_key("ES256")
    server = ProbeServer(JWTVerifier(public_pem(key), ["ES256"], max_lifetime=3600), dated=True)
    auth = BearerAuth(JWTSource(private_pem(key), lifetime=120), clock=Slow(), observers=[ear])
    with server, grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
        assert ProbeStub(channel).Unary(ProbeRequest(index=1)).count == 1

    kinds = ear.kinds()
    assert kinds.count("SkewLearnt") == 1
    assert 595 < ear.last(SkewLearnt).offset < 605
    assert kinds.index("FetchBegun") < kinds.index("SkewLearnt") < len(kinds) - 1 - kinds[::-1].index("TokenFetched")
    assert ear.of(CallRetried)[0].method == "grpc_bearer.testing.v1.Probe/Unary"
    assert ear.of(RefreshForced).count(RefreshForced("", "JWTSource", reason="changed")) == 1


# ------------------------------------------------------------------------------------------------------------- calls

RETRYING = ("secure_channel", "intercept_channel", "wrap_stub", "interceptor")


@pytest.mark.parametrize(
    ("way", "calls", "kind"),
    [
        (way, name, kind)
        for way in RETRYING
        for name, kind in (
            *(("sync", kind) for kind in ("unary", "unary.future", "server_stream")),
            *(("asyncio", kind) for kind in ("unary", "server_stream", "client_stream")),
        )
        if kind != "client_stream" or way.endswith("_channel")  # elsewhere its requests cannot be sent again
    ],
    indirect=["calls"],
)
def test_a_call_made_again_is_told_once_and_in_order(here: Place, ear: Ear, way: str, calls: Side, kind: str) -> None:
    auth = here.auth(observers=[ear])
    with calls.way(way, here, auth) as stub:
        calls.make("unary", stub)
        here.revoke(auth)
        ear.heard.clear()
        calls.make(kind, stub)

    assert ear.kinds() == ["RefreshForced", "CallRetried", "FetchBegun", "TokenFetched"]
    retried = ear.last(CallRetried)
    assert (retried.code, retried.attempt, retried.delay) == ("UNAUTHENTICATED", 1, 0.0)
    assert retried.method.startswith("grpc_bearer.testing.v1.Probe/")


def test_a_call_that_succeeds_is_never_heard_of(here: Place, ear: Ear) -> None:
    auth = here.auth(observers=[ear])
    with here.stub(auth) as stub:
        SYNC["unary"](stub)
        ear.heard.clear()
        for kind in SYNC:
            SYNC[kind](stub)

    assert ear.heard == []


def test_a_refusal_that_no_token_cures_is_never_heard_of(here: Place, ear: Ear) -> None:
    auth = here.auth(observers=[ear])
    with here.stub(auth, retry=RetryPolicy(exclude=["*"])) as stub:
        SYNC["unary"](stub)
        here.revoke(auth)
        ear.heard.clear()
        with pytest.raises(grpc.RpcError):
            SYNC["unary"](stub)

    assert ear.of(CallRetried) == []


def test_a_block_tried_again_is_told(here: Place, ear: Ear) -> None:
    auth = here.auth(observers=[ear])
    with here.stub(auth, retry=None) as stub:
        SYNC["unary"](stub)
        here.revoke(auth)
        for attempt in RetryPolicy().attempts(auth, "https://localhost/x.Y", "Z"):
            with attempt:
                SYNC["unary"](stub)

    assert [(event.method, event.attempt) for event in ear.of(CallRetried)] == [("x.Y/Z", 1)]


class Asks:
    """From within each event, asks on another thread for what only a held lock could keep from it."""

    def __init__(self) -> None:
        self.auth: BearerAuth | None = None
        self.call: Any = None
        self.stuck: list[str] = []
        self.heard: list[str] = []

    def __call__(self, event: Event) -> None:
        self.heard.append(type(event).__name__)
        for what in (self._engine, self._call):
            thread = threading.Thread(target=what, daemon=True)
            thread.start()
            thread.join(PATIENCE)
            if thread.is_alive():
                self.stuck.append(f"{what.__name__} at {type(event).__name__}")

    def _engine(self) -> None:
        assert self.auth is not None
        self.auth.invalidate("no such token")

    def _call(self) -> None:
        if self.call is not None:
            self.call.done()
            self.call.add_done_callback(lambda _: None)


@pytest.mark.parametrize("kind", ["unary", "future", "stream"])
def test_observers_are_called_with_no_lock_held(here: Place, kind: str) -> None:
    asks = Asks()
    asks.auth = auth = here.auth(observers=[asks])
    with here.stub(auth) as stub:
        SYNC["unary"](stub)
        here.revoke(auth)
        if kind == "unary":
            stub.Unary(request(), timeout=PATIENCE)
        elif kind == "future":
            asks.call = stub.Unary.future(request(), timeout=PATIENCE)
            asks.call.result()
        else:
            asks.call = stub.ServerStream(request(replies=2), timeout=PATIENCE)
            list(asks.call)

    assert asks.stuck == []
    assert {"FetchBegun", "TokenFetched", "RefreshForced", "CallRetried"} <= set(asks.heard)


def test_an_observer_may_ask_for_the_token_that_it_is_told_of(
    clock: ManualClock, make: Callable[..., BearerAuth]
) -> None:
    values = []

    def curious(event: Event) -> None:
        if isinstance(event, TokenFetched):
            values.append(auth.token().value)

    auth = make(Scripted(clock), observers=[curious])
    auth.token()

    assert values == ["t1"]


# ----------------------------------------------------------------------------------------- observers that misbehave


@pytest.mark.parametrize("error", [ValueError("hunter2"), SystemExit("hunter2"), KeyboardInterrupt(), GeneratorExit()])
def test_an_observer_that_raises_harms_nobody_and_is_logged_once_by_type(
    clock: ManualClock,
    ear: Ear,
    make: Callable[..., BearerAuth],
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(notify, "_complaints", set())

    def broken(event: Event) -> None:
        raise error

    auth = make(Scripted(clock, "token", TokenUnavailableError("down")), observers=[broken, ear])
    assert auth.token().value == "t1"
    clock.advance(2000.0)
    with pytest.raises(TokenUnavailableError):
        auth.token()

    assert ear.kinds() == ["FetchBegun", "TokenFetched", "FetchBegun", "RefreshFailed"]
    complaints = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(complaints) == 1
    assert type(error).__name__ in complaints[0].getMessage()
    assert "hunter2" not in caplog.text
    assert complaints[0].exc_info is None


def test_an_observer_that_raises_harms_no_call(here: Place) -> None:
    def broken(event: Event) -> None:
        raise ValueError

    auth = here.auth(observers=[broken])
    with here.stub(auth) as stub:
        for kind in SYNC:
            assert SYNC["unary"](stub) == expected("unary")
            here.revoke(auth)
            assert SYNC[kind](stub) == expected(kind)


def test_a_log_handler_that_waits_for_whoever_waits_for_the_token_stalls_nobody(
    clock: ManualClock, make: Callable[..., BearerAuth]
) -> None:
    """A handler that ships log lines through a channel of ours holds its lock while it waits for a token."""
    auth = make(Scripted(clock), observers=[])
    waiting = threading.Event()

    class Shipping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            waiting.wait(PATIENCE)
            values.append(auth.token(timeout=PATIENCE).value)

    values: list[str] = []
    logger, handler = logging.getLogger("grpc_bearer"), Shipping(logging.DEBUG)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        with handler.lock:  # type: ignore[union-attr]  # as in the midst of another line
            assert auth.token(timeout=PATIENCE).value == "t1"
        waiting.set()
        assert eventually(lambda: len(values) >= 2)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_whatever_an_observer_raises_strands_nobody(clock: ManualClock, make: Callable[..., BearerAuth]) -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    auth = make(Scripted(clock), observers=[interrupted])

    assert auth.token(timeout=PATIENCE).value == "t1"


# ---------------------------------------------------------------------------------------------------- who is told


def test_an_observer_of_all_auths_hears_those_made_before_and_after(clock: ManualClock, ear: Ear) -> None:
    before = BearerAuth("t0", name="before")
    events.add_observer(ear)
    events.add_observer(ear)  # twice is once
    try:
        before.token()
        BearerAuth("t1", name="after").token()
    finally:
        events.remove_observer(ear)
    events.remove_observer(ear)  # nothing happens
    BearerAuth("t2").token()

    assert [(type(event), event.auth) for event in ear.heard] == [
        (FetchBegun, "before"),
        (TokenFetched, "before"),
        (FetchBegun, "after"),
        (TokenFetched, "after"),
    ]


async def _coroutine(event: Event) -> None: ...


class _Awaited:
    async def __call__(self, event: Event) -> None: ...


@pytest.mark.parametrize("observer", [None, "print", 3, Ear, _coroutine, _Awaited()])
def test_what_is_no_observer_is_refused_at_once(observer: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^observers: "):
        BearerAuth("t", observers=[observer])
    with pytest.raises(ConfigurationError, match=r"^observer: "):
        events.add_observer(observer)


@pytest.mark.parametrize("observers", [None, print, "print"])
def test_observers_are_a_list(observers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^observers: expected a list"):
        BearerAuth("t", observers=observers)


@pytest.mark.parametrize("name", [None, 3, b"crm", "two\nlines"])
def test_a_name_that_would_spoil_a_log_line_is_refused(name: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^name: "):
        BearerAuth("t", name=name)


def test_a_pickled_auth_keeps_its_name_and_leaves_its_observers_behind(ear: Ear, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t1")
    auth = BearerAuth(tmp_path / "token", name="crm", observers=[ear, lambda event: None])

    copy: BearerAuth = pickle.loads(pickle.dumps(auth))

    assert copy.token().value == "t1"
    assert ear.heard == []
    assert repr(copy) == repr(auth) == "BearerAuth(FileSource, header='authorization', name='crm')"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_tells_the_same_observers() -> None:
    """In a process of its own: to fork one in which other tests have left gRPC's threads may crash it."""
    script = """
import os
from grpc_bearer import BearerAuth, StaticSource

heard = []
auth = BearerAuth(StaticSource("t0"), observers=[heard.append])
child = os.fork()
if child == 0:
    auth.token()
    os._exit(0 if [type(event).__name__ for event in heard] == ["FetchBegun", "TokenFetched"] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert heard == []
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


async def test_an_asyncio_program_hands_events_over_to_its_loop(clock: ManualClock) -> None:
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event] = asyncio.Queue()

    def hand_over(event: Event) -> None:
        loop.call_soon_threadsafe(queue.put_nowait, event)

    auth = BearerAuth(Scripted(clock), clock=clock, observers=[hand_over])
    await auth.atoken()

    assert isinstance(await asyncio.wait_for(queue.get(), PATIENCE), FetchBegun)
    assert isinstance(await asyncio.wait_for(queue.get(), PATIENCE), TokenFetched)


# ------------------------------------------------------------------------------------------------- the values, cost

KINDS = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_is_a_frozen_value_of_plain_things(kind: type[Event]) -> None:
    plain = {
        "str",
        "int",
        "float",
        "bool",
        "float | None",
        "Literal['refused', 'changed']",
        'Literal["refused", "changed"]',
    }
    samples = {"str": "x", "int": 1, "float": 1.0, "bool": True, "float | None": None}
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    event = kind(**{field.name: samples.get(str(field.type), "refused") for field in fields})

    assert {str(field.type) for field in fields} <= plain
    assert json.loads(json.dumps(dataclasses.asdict(event))) == dataclasses.asdict(event)  # type: ignore[call-overload]
    assert pickle.loads(pickle.dumps(event)) == event
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.auth = "other"  # type: ignore[misc]


def test_events_are_imported_when_an_auth_is_built() -> None:
    """Not before, for many programs import and never call; nor later, when no file may be left to open."""
    script = """
import sys
import grpc_bearer
def known():
    return [name for name in ("grpc_bearer.events", "grpc_bearer._engine.log") if name in sys.modules]
print(known())
grpc_bearer.BearerAuth("s3cret")
print(known())
print(grpc_bearer.Observer is grpc_bearer.events.Observer)
"""
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)

    assert run.stdout.splitlines() == ["[]", "['grpc_bearer.events', 'grpc_bearer._engine.log']", "True"]


@pytest.mark.parametrize("observers", [0, 1])
def test_a_call_with_its_token_at_hand_runs_no_code_of_events(here: Place, ear: Ear, observers: int) -> None:
    auth = here.auth(observers=[ear] * observers)
    ours: set[str] = set()

    def profile(frame: FrameType, event: str, arg: object) -> None:
        ours.add(Path(frame.f_code.co_filename).name)

    with here.stub(auth) as stub:
        for _ in range(2):
            SYNC["unary"](stub)
        sys.setprofile(profile)
        try:
            stub.Unary(request(), timeout=PATIENCE)
            auth.token()
        finally:
            sys.setprofile(None)

    assert "sync_multicallables.py" in ours  # it does see what runs
    assert ours.isdisjoint({"events.py", "notify.py", "log.py", "otel.py"})
