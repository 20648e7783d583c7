"""A token shared through a directory and through a real Redis. Each `BearerAuth` stands for a process of its own."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _redis import RedisServer, redis_server
from attachments import asking
from cryptography.hazmat.primitives.asymmetric import ec

from grpc_bearer import (
    BearerAuth,
    CallContext,
    ClientCredentialsSource,
    ConfigurationError,
    DeviceCodeSource,
    ExecSource,
    FileSource,
    HTTPTokenSource,
    JWTBearerSource,
    JWTSource,
    RefreshTokenSource,
    RoutedSource,
    SharedCache,
    Source,
    Token,
    TokenExchangeSource,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.cache import _fetch
from grpc_bearer.cache._store import Denied, Grant
from grpc_bearer.events import TokenFetched
from grpc_bearer.testing import ManualClock, Response, TokenServer

KEY = os.urandom(32)
PATIENCE = 20.0


class Issuer(Source):
    """Gives `t1`, `t2`, … and can fail; the processes of a fleet ask the same one."""

    def __init__(self, lifetime: float | None = 600.0, refresh_after: float | None = None) -> None:
        self.lifetime, self.refresh_after = lifetime, refresh_after
        self.exchanges, self.error, self.same = 0, None, False
        self.gate: threading.Event | None = None
        self.asked = threading.Event()

    def fetch(self, context: CallContext) -> Token:
        self.exchanges += 1
        number = self.exchanges
        self.asked.set()
        if self.gate is not None:
            assert self.gate.wait(PATIENCE)
        if self.error is not None:
            raise self.error
        now = context.clock.time()
        expires_at = None if self.lifetime is None else now + self.lifetime
        refresh_at = None if self.refresh_after is None else now + self.refresh_after
        return Token("same" if self.same else f"t{number}", expires_at, refresh_at)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture(params=["files", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    if request.param == "files":
        return tmp_path / "tokens"
    server: RedisServer = request.getfixturevalue("server")
    server.command("FLUSHALL")
    return server.url


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(time.time())


def shared(store: object, **options: Any) -> SharedCache:
    # The machine that runs the tests may be busy: what is not about slowness must not depend on it.
    return SharedCache(store, **{"encryption_key": KEY, "name": "test", "timeout": 10.0, "spread": 0.0} | options)


def fleet(source: Source, store: object, count: int, clock: Any, **options: Any) -> list[BearerAuth]:
    return [BearerAuth(source, cache=shared(store, **options), clock=clock) for _ in range(count)]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


# ------------------------------------------------------------------------------------------------------------ sharing


def test_one_exchange_serves_all(store: object, clock: ManualClock) -> None:
    issuer = Issuer()

    values = [auth.token().value for auth in fleet(issuer, store, 5, clock)]

    assert (values, issuer.exchanges) == (["t1"] * 5, 1)


def test_those_who_start_together_wait_for_the_one_who_fetches(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    issuer.gate = threading.Event()
    auths = fleet(issuer, store, 6, clock)
    futures = [asking(auth) for auth in auths]
    assert issuer.asked.wait(PATIENCE)

    issuer.gate.set()

    assert {future.result(PATIENCE).value for future in futures} == {"t1"}
    assert issuer.exchanges == 1


def test_a_waiter_is_bound_by_its_own_deadline(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    issuer.gate = threading.Event()
    first, second = fleet(issuer, store, 2, clock)
    held = asking(first)
    assert issuer.asked.wait(PATIENCE)

    with pytest.raises(TokenUnavailableError, match=r"within 0\.05 s"):
        second.token(timeout=0.05)

    issuer.gate.set()
    assert (held.result(PATIENCE).value, second.token().value, issuer.exchanges) == ("t1", "t1", 1)


def test_who_waited_long_enough_goes_alone(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    issuer.gate = threading.Event()
    first, second = fleet(issuer, store, 2, clock, patience=0.05)
    held = asking(first)
    assert issuer.asked.wait(PATIENCE)
    waiting = asking(second)
    eventually(lambda: issuer.exchanges == 2)

    issuer.gate.set()

    assert {held.result(PATIENCE).value, waiting.result(PATIENCE).value} == {"t1", "t2"}


def test_a_holder_that_is_at_it_is_waited_for_as_long_as_a_fetch_may_take(
    store: object, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound on each step is for a cache that is down or slow; one that answers "somebody fetches" is neither."""
    issuer = Issuer()
    issuer.gate = threading.Event()
    first, second = fleet(issuer, store, 2, clock, timeout=1.0)
    held = asking(first)
    assert issuer.asked.wait(PATIENCE)
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 55 and not held.done():
            issuer.gate.set()  # type: ignore[union-attr]
            held.result(PATIENCE)

    monkeypatch.setattr(_fetch, "time", types.SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    assert asking(second).result(PATIENCE).value == "t1"

    assert issuer.exchanges == 1
    assert now[0] > 55


def test_each_lifetime_has_one_exchange(store: object, clock: ManualClock) -> None:
    issuer = Issuer(lifetime=100.0)
    auths = fleet(issuer, store, 4, clock)
    for lifetime in range(1, 6):
        assert {auth.token().value for auth in auths} == {f"t{lifetime}"}
        clock.advance(92)  # in the margin, where a call waits for the new one

    assert issuer.exchanges == 5


def test_a_token_is_fetched_ahead_once_and_the_others_take_it_up_ahead_too(store: object, clock: ManualClock) -> None:
    issuer = Issuer(lifetime=1000.0)
    auths = fleet(issuer, store, 4, clock)
    for auth in auths:
        auth.token()
    clock.advance(860)  # past every refresh point, before the margin

    def all_have_the_new_one() -> bool:
        return {auth.token().value for auth in auths} == {"t2"}  # never waits

    eventually(all_have_the_new_one)
    assert issuer.exchanges == 2


def test_refresh_points_are_spread_over_the_fleet(
    store: object, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer = Issuer(lifetime=1000.0, refresh_after=500.0)
    BearerAuth(issuer, cache=shared(store), clock=clock).token()
    clock.advance(100)
    start, points = clock.time() - 100, []
    for jitter in (0.0, 0.5, 0.999):
        monkeypatch.setattr(_fetch, "system_random", lambda jitter=jitter: jitter)
        token = BearerAuth(issuer, cache=shared(store), clock=clock).token()
        points.append(round((token.refresh_at or 0) - start))

    assert points == [500, 550, 600]
    assert issuer.exchanges == 1


def test_who_comes_late_uses_a_stale_token_while_another_renews_it(store: object, clock: ManualClock) -> None:
    issuer = Issuer(lifetime=1000.0)
    first, second = fleet(issuer, store, 2, clock)
    first.token()
    clock.advance(870)
    issuer.gate, _ = threading.Event(), issuer.asked.clear()
    assert first.token().value == "t1"  # and one fetch ahead
    assert issuer.asked.wait(PATIENCE)

    assert second.token(timeout=PATIENCE).value == "t1"

    issuer.gate.set()
    eventually(lambda: first.token().value == "t2")


def test_who_comes_late_uses_a_stale_token_if_no_new_one_is_to_be_had(store: object, clock: ManualClock) -> None:
    issuer = Issuer(lifetime=1000.0)
    first, second = fleet(issuer, store, 2, clock)
    first.token()
    clock.advance(870)
    issuer.error = TokenUnavailableError("down")  # type: ignore[assignment]

    assert second.token().value == "t1"
    assert issuer.exchanges == 2


def test_a_token_about_to_expire_is_not_taken_up(store: object, clock: ManualClock) -> None:
    issuer = Issuer(lifetime=100.0)
    first, second = fleet(issuer, store, 2, clock)
    first.token()
    clock.advance(91)

    assert second.token().value == "t2"


def test_a_token_without_an_expiry_is_shared_too(store: object, clock: ManualClock) -> None:
    issuer = Issuer(lifetime=None)
    first, second = fleet(issuer, store, 2, clock)

    assert (first.token(), second.token().value, second.token().expires_at) == (Token("t1"), "t1", None)
    assert issuer.exchanges == 1


def test_tokens_that_differ_by_call_are_kept_apart(store: object, clock: ManualClock) -> None:
    class ByService(Issuer):
        def key(self, context: CallContext) -> str:
            return context.service

    issuer = ByService()
    first, second = fleet(issuer, store, 2, clock)
    urls = ["https://h/a.A", "https://h/b.B"]

    values = [auth.token(url).value for auth in (first, second) for url in urls]

    assert (values, issuer.exchanges) == (["t1", "t2", "t1", "t2"], 2)


def test_a_key_that_means_nothing_elsewhere_is_not_shared(store: object, clock: ManualClock) -> None:
    class Odd(Issuer):
        def key(self, context: CallContext) -> object:
            return Odd

    issuer = Odd()

    assert [auth.token().value for auth in fleet(issuer, store, 2, clock)] == ["t1", "t2"]


def test_other_names_and_other_keys_see_nothing_of_each_other(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    caches = [shared(store), shared(store, name="other"), shared(store, encryption_key=os.urandom(32))]

    assert [BearerAuth(issuer, cache=cache, clock=clock).token().value for cache in caches] == ["t1", "t2", "t3"]


# ------------------------------------------------------------------------------------------------------ forced refresh


def test_one_fresh_token_serves_all_whose_token_was_refused(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    auths = fleet(issuer, store, 5, clock)
    refused = {auth.token().value for auth in auths}
    for auth in auths:
        auth.invalidate(auth.token())

    assert (refused, {auth.token().value for auth in auths}, issuer.exchanges) == ({"t1"}, {"t2"}, 2)


def test_who_starts_after_a_refusal_gets_the_new_token(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    first, second = fleet(issuer, store, 2, clock)
    first.invalidate(first.token())
    first.token()

    assert (second.token().value, issuer.exchanges) == ("t2", 2)


def test_an_issuer_that_gives_the_refused_token_again_is_not_asked_by_everybody_at_once(
    store: object, clock: ManualClock
) -> None:
    issuer = Issuer()
    issuer.same = True
    auths = fleet(issuer, store, 4, clock)
    for auth in auths:
        auth.token()
    for _ in range(3):
        for auth in auths:
            auth.invalidate("same")
            auth.token()

    assert issuer.exchanges <= 1 + 4  # in each process the engine's backoff holds


def test_an_older_token_never_replaces_a_newer(store: object, clock: ManualClock) -> None:
    cache = shared(store)
    name = "0" * 64
    slow = cache._store.lock(name)
    assert isinstance(slow, Grant)
    assert cache._store.lock(name) is Denied.HELD
    cache._store.release(slow, failed=False)  # as if its lock had run out
    fast = cache._store.lock(name)
    assert isinstance(fast, Grant)
    assert fast.number >= slow.number + int(cache._store.leased)  # files: the next once something is published
    header = b"gbt\1" + fast.number.to_bytes(8, "big") + b"\x41" * 8
    assert cache._store.publish(fast, header + b"new", 60.0, None)

    late = Grant(name, fast.number - 1, slow.owner)
    assert not cache._store.publish(late, b"old", 60.0, None)

    stored = cache._store.read(name).stored
    assert stored is not None
    assert stored.blob == header + b"new"


def test_numbers_rise_even_if_the_store_forgot_everything(server: RedisServer) -> None:
    pytest.importorskip("redis")
    server.command("FLUSHALL")
    store = shared(server.url)._store
    numbers = []
    for _ in range(3):
        grant = store.lock("n")
        assert isinstance(grant, Grant)
        numbers.append(grant.number)
        server.command("FLUSHALL")
        time.sleep(0.002)  # they begin anew with the server's time, in milliseconds

    assert numbers == sorted(set(numbers))


# ---------------------------------------------------------------------------------------------------------- failures


def test_the_sources_own_failure_is_told_as_it_is(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    issuer.error = TokenRejectedError("the credential was refused")  # type: ignore[assignment]

    with pytest.raises(TokenRejectedError, match=r"^the credential was refused\b"):
        BearerAuth(issuer, cache=shared(store), clock=clock).token()


def test_after_a_failure_nobody_queues_up_to_fail_in_turn(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    issuer.gate = threading.Event()
    issuer.error = TokenUnavailableError("down")  # type: ignore[assignment]
    auths = fleet(issuer, store, 5, clock)
    futures = [asking(auth) for auth in auths]
    assert issuer.asked.wait(PATIENCE)
    time.sleep(0.05)  # the others wait by then, as a rule; one that comes later fails by itself
    began = time.monotonic()

    issuer.gate.set()

    assert all(isinstance(future.exception(PATIENCE), TokenUnavailableError) for future in futures)
    assert time.monotonic() - began < PATIENCE / 2  # and not one after the other


def test_an_entry_that_was_tampered_with_is_ignored_and_replaced(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    fleet(issuer, store, 1, clock)[0].token()
    _spoil(store, lambda blob: blob[:-1] + bytes([blob[-1] ^ 1]))

    values = [auth.token().value for auth in fleet(issuer, store, 3, clock)]

    assert values == ["t2"] * 3


def test_an_entry_under_another_name_is_ignored_and_replaced(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    fleet(issuer, store, 1, clock)[0].token()
    foreign: list[bytes] = []
    _spoil(store, lambda blob: foreign.append(blob) or blob)
    BearerAuth(issuer, cache=shared(store, name="other"), clock=clock).token()
    _spoil(store, lambda blob: foreign[0])

    assert BearerAuth(issuer, cache=shared(store, name="other"), clock=clock).token().value in ("t1", "t3")
    assert BearerAuth(issuer, cache=shared(store), clock=clock).token().value == "t1"


def _spoil(store: object, change: Callable[[bytes], bytes]) -> None:
    """Change every entry in place."""
    if isinstance(store, Path):
        for path in store.glob("*.token"):
            path.write_bytes(change(path.read_bytes()))
        return
    import base64

    import redis

    with redis.Redis.from_url(str(store)) as client:
        for key in client.keys("*:entry"):
            client.hset(key, "blob", base64.b64encode(change(base64.b64decode(client.hget(key, "blob")))))


# ----------------------------------------------------------------------------------------------------------- clocks


def test_a_process_whose_clock_is_behind_does_not_keep_a_token_beyond_its_life(store: object) -> None:
    issuer, now = Issuer(lifetime=600.0), time.time()
    BearerAuth(issuer, cache=shared(store), clock=ManualClock(now)).token()
    behind = ManualClock(now - 300)

    token = BearerAuth(issuer, cache=shared(store), clock=behind).token()

    assert token.value == "t1"
    assert token.expires_at is not None
    assert token.expires_at - behind.time() == pytest.approx(600, abs=10)


def test_a_process_whose_clock_is_ahead_renews_early_and_nothing_else(store: object) -> None:
    issuer, now = Issuer(lifetime=600.0), time.time()
    BearerAuth(issuer, cache=shared(store), clock=ManualClock(now)).token()
    ahead = ManualClock(now + 300)

    token = BearerAuth(issuer, cache=shared(store), clock=ahead).token()

    assert (token.value, issuer.exchanges) == ("t1", 1)
    assert token.expires_at == pytest.approx(now + 600, abs=1)


# -------------------------------------------------------------------------------------------------- when it is built


def test_a_single_use_source_refuses_the_cache(tmp_path: Path) -> None:
    source = JWTSource(ec.generate_private_key(ec.SECP256R1()), single_use=True)

    with pytest.raises(ConfigurationError, match="single_use"):
        BearerAuth(source, cache=SharedCache(tmp_path / "c"))


STRONG = secrets.token_hex(32)
URL = "https://auth.example.com/token"


@pytest.mark.parametrize(
    "source",
    [
        JWTSource(ec.generate_private_key(ec.SECP256R1())),
        ClientCredentialsSource(URL, "me", STRONG),
        ClientCredentialsSource(URL, "me", auth_method="private_key_jwt", key=ec.generate_private_key(ec.SECP256R1())),
        TokenExchangeSource(URL, subject_token=JWTSource(ec.generate_private_key(ec.SECP256R1()))),
        RefreshTokenSource(URL, "me", refresh_token=STRONG),
        JWTBearerSource(URL, assertion=JWTSource(ec.generate_private_key(ec.SECP256R1()))),
        HTTPTokenSource(URL, json={"api_key": "me", "secret": STRONG}),
        RoutedSource(
            {"a.*": ClientCredentialsSource(URL, "me", STRONG), "b.*": ClientCredentialsSource(URL, "b", STRONG)}
        ),
    ],
)
def test_a_strong_secret_of_the_source_is_enough(source: Source, tmp_path: Path) -> None:
    assert STRONG not in repr(BearerAuth(source, cache=SharedCache(tmp_path / "c")))


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (lambda: "s3cret", {"name": "x"}, "^encryption_key: missing; CallableSource"),
        (lambda: "s3cret", {"encryption_key": KEY}, "^name: missing; CallableSource"),
        (ClientCredentialsSource(URL, "me", "s3cret"), {}, "^encryption_key: missing; ClientCredentialsSource"),
        (ExecSource(["cat"]), {"encryption_key": KEY}, "^name: missing; ExecSource"),
        (RefreshTokenSource(URL, "me", refresh_token="weak"), {}, "^encryption_key: missing; RefreshTokenSource"),
        (DeviceCodeSource(URL, "me", device_authorization_url=URL), {"encryption_key": KEY}, "^name: missing; Device"),
        (TokenExchangeSource(URL, subject_token="weak"), {}, "^encryption_key: missing; TokenExchangeSource"),
        (TokenExchangeSource(URL, subject_token="weak"), {"encryption_key": KEY}, "^name: missing; TokenExchange"),
        (HTTPTokenSource(URL, json={"secret": "weak"}), {}, "^encryption_key: missing; HTTPTokenSource"),
        (HTTPTokenSource(URL, json={"secret": "weak"}), {"encryption_key": KEY}, "^name: missing"),
        (JWTSource(lambda data: data, algorithm="RS256"), {}, "^encryption_key: missing; JWTSource"),
        (RoutedSource({"*": HTTPTokenSource(URL, auth=("me", "s3cret"))}), {}, "^encryption_key: missing; HTTPTok"),
    ],
)
def test_anything_weaker_needs_a_key_of_its_own(
    source: Any, options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        BearerAuth(source, cache=SharedCache(tmp_path / "c", **options))


def test_google_credentials_need_a_key_of_their_own(tmp_path: Path) -> None:
    from google.oauth2.credentials import Credentials

    credentials = Credentials(token="s3cret")  # type: ignore[no-untyped-call]

    with pytest.raises(ConfigurationError, match=r"^encryption_key: missing; GoogleAuthSource"):
        BearerAuth(credentials, cache=SharedCache(tmp_path / "c"))


def test_two_accounts_at_one_endpoint_are_kept_apart(tmp_path: Path) -> None:
    cache = SharedCache(tmp_path / "c", encryption_key=KEY)
    answer = Response(200, b'{"access_token": "t", "expires_in": 60}', content_type="application/json")
    with TokenServer(None) as server:
        url, other = server.serve("/token", lambda _: answer), server.serve("/other", lambda _: answer)
        local: Any = {"allow_http_loopback": True}
        for source in (
            HTTPTokenSource(url, json={"secret": STRONG}, field="access_token", **local),
            HTTPTokenSource(url, json={"secret": secrets.token_hex(32)}, field="access_token", **local),
            HTTPTokenSource(other, json={"secret": STRONG}, field="access_token", **local),
            ClientCredentialsSource(url, "me", "s3cret", **local),
            ClientCredentialsSource(url, "you", "s3cret", **local),
            ClientCredentialsSource(url, "me", "s3cret", scope="read", **local),
            ClientCredentialsSource(url, "me", STRONG, extra={"resource": "a"}, **local),
            ClientCredentialsSource(url, "me", STRONG, extra={"resource": "b"}, **local),
        ):
            BearerAuth(source, cache=cache).token()

    assert len(list((tmp_path / "c").glob("*.token"))) == 8


def test_what_is_at_hand_anyway_passes_the_cache_by(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret")
    cache = SharedCache(tmp_path / "c")

    assert BearerAuth("s3cret", cache=cache).token().value == "s3cret"
    assert BearerAuth(FileSource(path), cache=cache).token().value == "s3cret"
    assert os.listdir(tmp_path / "c") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"store": 7}, "^cache: expected a directory, a Redis client"),
        ({"store": ""}, "^cache: empty"),
        ({"store": "http://host"}, "^cache: expected a directory or a Redis URL"),
        ({"encryption_key": b"short"}, "^encryption_key: too weak; give at least 16 random bytes"),
        ({"encryption_key": "hidden-hidden"}, "^encryption_key: too weak; give at least 32 characters"),
        ({"encryption_key": b"\0" * 32}, "^encryption_key: too weak"),
        ({"encryption_key": 7}, "^encryption_key: expected bytes"),
        ({"name": 7}, "^name: expected a str"),
        ({"timeout": 0}, "^timeout: expected a number of seconds above 0"),
        ({"spread": -1}, "^spread: expected a number of seconds, 0 or more"),
        ({"patience": float("nan")}, "^patience: expected a number"),
    ],
)
def test_what_is_wrong_with_a_cache_is_said_when_it_is_built(
    arguments: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        SharedCache(**{"store": tmp_path / "c"} | arguments)

    assert "hidden" not in str(caught.value)


def test_only_a_shared_cache_is_one() -> None:
    with pytest.raises(ConfigurationError, match=r"^cache: expected a SharedCache, got str"):
        BearerAuth("s3cret", cache="/tmp")  # type: ignore[arg-type]


def test_the_encryption_key_may_be_in_a_file(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "key"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    issuer = Issuer()
    by_file, by_text = (
        shared(tmp_path / "c", encryption_key=path),
        shared(tmp_path / "c", encryption_key="0123456789abcdef0123456789abcdef"),
    )

    assert [BearerAuth(issuer, cache=cache, clock=clock).token().value for cache in (by_file, by_text)] == ["t1", "t1"]
    path.write_text("short")
    with pytest.raises(ConfigurationError, match=r"^encryption_key: .*key: too weak"):
        BearerAuth(issuer, cache=by_file, clock=clock)


def test_the_cache_is_off_the_hot_path(store: object, clock: ManualClock) -> None:
    issuer = Issuer()
    auth = BearerAuth(issuer, cache=shared(store), clock=clock)
    auth.token()
    _spoil(store, lambda _: b"")  # whoever looks into it now has to fetch

    assert {auth.token().value for _ in range(1000)} == {"t1"}
    assert issuer.exchanges == 1


def test_a_log_that_stays_quiet(store: object, clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "grpc_bearer"):
        for auth in fleet(Issuer(), store, 3, clock):
            auth.token()

    # At DEBUG a token is told to come from the cache; nothing is out of order.
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


# ------------------------------------------------------------------------------------------------------ observability


def test_events_and_log_tell_a_shared_token_from_a_fetched_one(store: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "grpc_bearer")
    issuer, seen = Issuer(), []
    for process in ("first", "second"):
        with BearerAuth(issuer, name=process, cache=shared(store), observers=[seen.append]) as auth:
            assert auth.token().value == "t1"

    fetched = [event for event in seen if isinstance(event, TokenFetched)]
    assert [(event.auth, event.shared) for event in fetched] == [("first", False), ("second", True)]
    assert any("second" in line and "token taken from the shared cache in " in line for line in caplog.messages)
    assert any("first" in line and "token fetched in " in line for line in caplog.messages)


def test_a_source_that_asks_a_shared_auth_is_not_taken_for_shared_itself(store: object) -> None:
    issuer, seen = Issuer(), []
    with BearerAuth(issuer, cache=shared(store)) as first, BearerAuth(issuer, cache=shared(store)) as inner:
        first.token()
        with BearerAuth(lambda: inner.token().value, observers=[seen.append]) as outer:
            outer.token()

    assert [event.shared for event in seen if isinstance(event, TokenFetched)] == [False]


def test_a_failed_renewal_that_falls_back_on_the_cache_is_told_as_shared(store: object, clock: ManualClock) -> None:
    issuer, seen = Issuer(refresh_after=100.0), []
    with BearerAuth(issuer, cache=shared(store), clock=clock) as first:
        first.token()
    clock.advance(200.0)  # stale, and good for another 400 seconds
    issuer.error = TokenUnavailableError("down")
    with BearerAuth(issuer, cache=shared(store), clock=clock, observers=[seen.append]) as second:
        assert second.token().value == "t1"

    assert [event.shared for event in seen if isinstance(event, TokenFetched)] == [True]
