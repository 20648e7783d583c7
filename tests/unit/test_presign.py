"""Single-use tokens made ahead: never stale, never given twice, and only as many as calls use up."""

from __future__ import annotations

import contextvars
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attachments import eventually
from jose import verified

from grpc_bearer import BearerAuth, CallContext, JWTSource, Token, profiles
from grpc_bearer._base import threads
from grpc_bearer._calls.retry_block import renewable
from grpc_bearer._engine import presign
from grpc_bearer._engine.presign import Presigned
from grpc_bearer.errors import ConfigurationError, GrpcBearerError
from grpc_bearer.sources.jwt import PerToken, nonce
from grpc_bearer.testing import ManualClock, private_pem, throwaway_key

KEY = throwaway_key("ES256")
NOW = 1_700_000_000
URL = "https://api.example.com/fleet.v1.Fleet"
HERE = threading.get_ident


class Counting(JWTSource):
    """120 s, a nonce, single-use; counts which thread signed how often."""

    def __init__(self, presign: int = 4, **options: Any) -> None:
        options = {"headers": {"nonce": nonce}, "lifetime": 120, **options}
        super().__init__(KEY, single_use=True, presign=presign, **options)
        self.signed_on: list[int] = []

    def fetch(self, context: CallContext) -> Token:
        self.signed_on.append(HERE())
        return super().fetch(context)

    @property
    def ahead(self) -> int:
        return len([thread for thread in self.signed_on if thread != HERE()])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


def stocks(auth: BearerAuth) -> Presigned:
    presigned = auth._engine._presigned
    assert presigned is not None
    return presigned


def lying(auth: BearerAuth) -> int:
    """How many tokens lie ready."""
    return sum(len(stock.tokens) for stock in list(stocks(auth)._stocks.values()))


def quiet(auth: BearerAuth) -> bool:
    """Whether no worker is filling anything."""
    return eventually(lambda: not any(stock.sent > -math.inf for stock in list(stocks(auth)._stocks.values())))


def take(auth: BearerAuth, count: int = 1, url: str = URL) -> list[Token]:
    """So many tokens, one after the other, each with time for the workers."""
    tokens = []
    for _ in range(count):
        tokens.append(auth.token(url))
        assert quiet(auth)
    return tokens


def full(auth: BearerAuth, size: int) -> None:
    """Use it until that many lie ready."""
    assert eventually(lambda: bool(take(auth)) and lying(auth) >= size)


def claims(token: Token) -> dict[str, Any]:
    return verified(token.value, KEY, "ES256")[1]


def test_the_first_call_signs_for_itself_and_the_next_finds_a_token(clock: ManualClock) -> None:
    source = Counting()
    auth = BearerAuth(source, clock=clock)

    assert source.signed_on == []  # nothing before the first use
    first = take(auth)
    assert source.signed_on.count(HERE()) == 1
    second = take(auth)

    assert source.signed_on.count(HERE()) == 1
    assert first[0].value != second[0].value
    assert all(verified(token.value, KEY, "ES256")[0]["nonce"] for token in (*first, *second))


def test_a_stock_grows_with_use_and_never_beyond_the_limit(clock: ManualClock) -> None:
    auth = BearerAuth(Counting(6), clock=clock)

    sizes = [lying(auth) for _ in range(30) if take(auth)]

    assert sizes[:3] == [1, 2, 4]
    assert max(sizes) == 6


def test_an_idle_auth_signs_nothing(clock: ManualClock) -> None:
    source = Counting()
    auth = BearerAuth(source, clock=clock)
    full(auth, 4)
    signed = len(source.signed_on)

    clock.advance(10_000)

    assert quiet(auth)
    assert len(source.signed_on) == signed


def test_tokens_say_when_they_were_signed(clock: ManualClock) -> None:
    auth = BearerAuth(Counting(), clock=clock)
    full(auth, 4)
    clock.advance(10)

    early = claims(auth.token(URL))

    assert (early["iat"], early["exp"]) == (NOW - 5, NOW + 115)


def test_a_token_lies_for_a_quarter_of_its_life_at_most(clock: ManualClock) -> None:
    auth = BearerAuth(Counting(), clock=clock)
    full(auth, 4)

    clock.advance(28)
    assert claims(auth.token(URL))["iat"] == NOW - 5
    assert quiet(auth)
    clock.advance(1)  # 115 s were left when the oldest was signed
    token = auth.token(URL)

    assert claims(token)["iat"] == NOW + 29 - 5
    assert quiet(auth)
    assert lying(auth) <= 1  # it begins anew, and small


def test_no_token_lies_for_longer_than_half_a_minute(clock: ManualClock) -> None:
    auth = BearerAuth(Counting(lifetime=3600), clock=clock)
    full(auth, 4)
    clock.advance(30)

    assert claims(auth.token(URL))["iat"] == NOW + 25


@pytest.mark.parametrize("step", [-3600.0, -2.0, 2.0, 20.0, 3600.0])
def test_tokens_from_before_the_clock_was_set_are_thrown_away(clock: ManualClock, step: float) -> None:
    auth = BearerAuth(Counting(), clock=clock)
    full(auth, 4)
    clock.step_wall(step)

    assert claims(auth.token(URL))["iat"] == NOW + step - 5


def test_tokens_from_before_the_clock_was_corrected_are_thrown_away(clock: ManualClock) -> None:
    auth = BearerAuth(Counting(), clock=clock)
    full(auth, 4)
    for _ in range(2):
        auth._clock.learn(NOW + 600, 0.0)  # as two answers of a server say

    assert claims(auth.token(URL))["iat"] == NOW + 600 - 5


@pytest.mark.parametrize("how", ["a server refused one", "the user says so", "something has changed"])
def test_what_was_signed_before_a_refusal_or_a_change_is_thrown_away(clock: ManualClock, how: str) -> None:
    source = Counting()
    auth = BearerAuth(source, clock=clock)
    full(auth, 4)
    lost = [made.lease.token.value for stock in stocks(auth)._stocks.values() for made in stock.tokens]

    if how == "a server refused one":
        context = CallContext(URL, clock=clock)
        assert renewable(auth._engine, auth._engine.token(context), context)  # what a call asks before it tries again
    elif how == "the user says so":
        auth.invalidate(take(auth)[0])
    else:
        auth._engine.invalidate()

    assert lying(auth) == 0
    assert not {token.value for token in take(auth, 10)} & set(lost)


def test_what_is_being_signed_meanwhile_is_thrown_away_too(clock: ManualClock) -> None:
    signing, go = threading.Event(), threading.Event()

    def slow() -> str:
        if threading.current_thread() is not threading.main_thread():
            signing.set()
            assert go.wait(10)
        return "n"

    auth = BearerAuth(Counting(headers={"nonce": PerToken(slow)}), clock=clock)
    auth.token(URL)
    assert signing.wait(10)
    stock = next(iter(stocks(auth)._stocks.values()))
    auth._engine.invalidate()
    go.set()

    assert eventually(lambda: stock.sent == -math.inf)
    assert lying(auth) == 0


def test_sixteen_threads_never_get_the_same_token() -> None:
    source = Counting(64)
    auth = BearerAuth(source)

    with ThreadPoolExecutor(16) as pool:
        values = list(pool.map(lambda _: auth.token(URL).value, range(4000)))

    assert len(set(values)) == 4000
    assert source.ahead > 100
    assert quiet(auth)
    assert lying(auth) <= 64


def test_calls_get_tokens_of_their_own_key_only(clock: ManualClock) -> None:
    auth = BearerAuth(Counting(audience=lambda call: call.service), clock=clock)

    tokens = [(service, take(auth, url=f"https://x/{service}")[0]) for _ in range(12) for service in "abc"]

    assert [claims(token)["aud"] for _, token in tokens] == [service for service, _ in tokens]
    assert len(stocks(auth)._stocks) == 3
    assert len({token.value for _, token in tokens}) == 36


def test_the_number_of_keys_with_a_stock_is_bounded(clock: ManualClock) -> None:
    auth = BearerAuth(Counting(audience=lambda call: call.service), clock=clock)

    for number in range(3 * presign.MAX_STOCKS):
        take(auth, url=f"https://x/service{number}")

    assert len(stocks(auth)._stocks) == presign.MAX_STOCKS
    assert lying(auth) <= presign.MAX_STOCKS


TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("TENANT", default="nobody")
ON_THREAD = threading.local()


def test_functions_of_the_call_see_the_callers_context_variables(clock: ManualClock) -> None:
    auth = BearerAuth(Counting(claims={"tenant": lambda call: TENANT.get()}), clock=clock)
    seen = []
    for tenant in ["a", "b", "c"] * 8:
        TENANT.set(tenant)
        seen.append((tenant, claims(take(auth)[0])["tenant"]))

    assert all(wanted == got for wanted, got in seen)


def test_nothing_is_signed_ahead_for_functions_that_read_the_callers_thread(clock: ManualClock) -> None:
    source = Counting(claims={"tenant": lambda call: getattr(ON_THREAD, "tenant", "nobody")})
    auth = BearerAuth(source, clock=clock)
    ON_THREAD.tenant = "a"

    got = {claims(token)["tenant"] for token in take(auth, 8)}

    assert got == {"a"}
    assert source.ahead == 0


def test_a_failure_ahead_is_not_the_calls(clock: ManualClock) -> None:
    def moody() -> str:
        if threading.current_thread() is not threading.main_thread():
            raise OSError
        return "n"

    source = Counting(headers={"nonce": PerToken(moody)})

    assert len(take(BearerAuth(source, clock=clock), 5)) == 5
    assert source.ahead == 5  # one try a call, no more


def test_without_a_thread_each_call_signs_for_itself(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(job: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(threads, "submit", none_left)
    source = Counting()

    assert len({token.value for token in take(BearerAuth(source, clock=clock), 5)}) == 5
    assert source.signed_on == [HERE()] * 5


def test_a_source_that_asks_for_its_own_token_while_signing_ahead_is_told(clock: ManualClock) -> None:
    auths: list[BearerAuth] = []
    told: list[str] = []

    def own() -> str:
        try:
            return auths[0].token(URL).value
        except GrpcBearerError as error:
            told.append(str(error))
            return "n"

    auths.append(BearerAuth(Counting(headers={"nonce": PerToken(own)}), clock=clock))
    take(auths[0], 4)

    assert len(told) >= 4
    assert set(told) == {"Counting asks, in order to fetch a token, for that very token"}


def test_closing_throws_all_away(clock: ManualClock) -> None:
    auth = BearerAuth(Counting(), clock=clock)
    full(auth, 4)
    auth.close()

    assert lying(auth) == 0
    with pytest.raises(GrpcBearerError, match="closed"):
        auth.token(URL)
    assert lying(auth) == 0


def test_observers_hear_of_what_fails_ahead_and_not_of_each_token(clock: ManualClock) -> None:
    works = True

    def moody() -> str:
        if threading.current_thread() is not threading.main_thread() and not works:
            raise OSError
        return "n"

    heard: list[Any] = []
    auth = BearerAuth(Counting(headers={"nonce": PerToken(moody)}), clock=clock, observers=[heard.append])
    full(auth, 4)
    assert not [event for event in heard if event.ahead]
    works = False
    take(auth, 4)

    assert {type(event).__name__ for event in heard if event.ahead} == {"RefreshFailed"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"presign": -1}, "presign: expected a whole number of tokens from 0 to 1024"),
        ({"presign": 1025}, "presign: expected a whole number"),
        ({"presign": 2.0}, "presign: expected a whole number"),
        ({"presign": True}, "presign: expected a whole number"),
        ({"presign": "16"}, "presign: expected a whole number"),
        ({"presign": 4, "single_use": False}, "presign: only for single_use=True"),
        ({"presign": 4, "lifetime": 20}, "presign: tokens that live 18 s from their signature"),
        ({"presign": 4, "lifetime": 120, "backdate": 110}, "presign: tokens that live 10 s"),
    ],
)
def test_what_makes_no_sense_is_refused_when_built(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        JWTSource(KEY, **{"single_use": True, **options})


def test_keys_that_live_elsewhere_are_not_asked_ahead() -> None:
    with pytest.raises(ConfigurationError, match="presign: only for a key that signs here"):
        JWTSource(lambda data: b"", algorithm="ES256", single_use=True, presign=4)


def test_openfx_takes_it_and_tokens_are_as_its_document_asks_for(clock: ManualClock) -> None:
    credentials = {"name": "key-1", "privateKey": private_pem(KEY)}
    auth = profiles.openfx(credentials, presign=4, clock=clock)
    clock.advance(0.5)

    decoded = [verified(token.value, KEY, "ES256") for token in take(auth, 12)]

    assert all(
        claims
        == {
            "aud": ["developer-api"],
            "iss": "openfx",
            "sub": "key-1",
            "iat": NOW - 5,
            "nbf": NOW - 5,
            "exp": NOW + 115,
        }
        for _, claims in decoded
    )
    assert len({header["nonce"] for header, _ in decoded}) == 12


FORK = """
import os, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from grpc_bearer import BearerAuth, JWTSource
from grpc_bearer.sources.jwt import nonce
from grpc_bearer.testing import throwaway_key

auth = BearerAuth(JWTSource(throwaway_key("ES256"), headers={"nonce": nonce}, single_use=True, presign=16))
def lying():
    return [made.lease.token.value for stock in auth._engine._presigned._stocks.values() for made in stock.tokens]
while len(lying()) < 16:
    auth.token()
    time.sleep(0.002)
inherited = lying()
read, write = os.pipe()
if os.fork() == 0:
    code = 1
    try:
        assert lying() == []
        mine = []
        while len(lying()) < 16 or len(mine) < 100:
            mine.append(auth.token().value)
            time.sleep(0.001)
        assert not set(mine) & set(inherited), "a token of the parent"
        os.write(write, "\\n".join(mine).encode())
        code = 0
    finally:
        os._exit(code)
os.close(write)
parents = [auth.token().value for _ in range(100)]
assert set(inherited) <= set(parents)  # they are still its own
children = os.fdopen(read).read().split()
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert len(children) >= 100 and len({*children, *parents}) == len(children) + len(parents)
print("well")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_uses_none_of_the_parents_tokens() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")
