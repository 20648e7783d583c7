"""Clock skew: a machine ten minutes off works wherever it can learn the time, and nobody can abuse that."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import grpc
import pytest
from jose import verified

import grpc_bearer
import grpc_bearer.testing as kit
from grpc_bearer import (
    BearerAuth,
    CallContext,
    ClientCredentialsSource,
    HTTPTokenSource,
    JWTBearerSource,
    JWTSource,
    TokenExchangeSource,
)
from grpc_bearer._base.clock_skew import MAX_SKEW, Skew, SkewedClock, measured, observed

NOW = 1_700_000_000.0


class Off:
    """The system's clock, set wrong by some seconds."""

    monotonic = staticmethod(time.monotonic)
    call_later = staticmethod(kit.ManualClock().call_later)  # nothing here waits for a timer

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def time(self) -> float:
        return time.time() + self.seconds


# ------------------------------------------------------------------------------------------------ the rules, pure


@pytest.mark.parametrize(
    ("samples", "offset"),
    [
        ([600.0], 0.0),  # one answer alone is not believed
        ([600.0, 601.0], 601.0),
        ([600.0, 300.0], 0.0),  # two that disagree
        ([600.0, 300.0, 300.0], 300.0),
        ([600.0, 0.0, 600.0], 0.0),  # a denial in between
        ([600.0, 600.0, 0.0], 600.0),
        ([600.0, 600.0, 0.0, 0.0], 0.0),  # the clock was put right
        ([3.0, 3.0], 0.0),  # whole seconds and the way explain this
        ([-600.0, -600.0], -600.0),
        ([MAX_SKEW + 1, MAX_SKEW + 1], 0.0),  # a lie, or beyond our help
        ([86400.0, 86400.0, 86400.0], 0.0),
    ],
)
def test_what_is_learnt_from_a_row_of_answers(samples: list[float], offset: float) -> None:
    skew = Skew()
    for sample in samples:
        skew = observed(skew, sample)

    assert skew.offset == offset


def test_a_confirming_sample_is_no_candidate_itself() -> None:
    assert observed(Skew(), 600.0, confirming=True) == Skew()
    assert observed(Skew(candidate=600.0), 601.0, confirming=True) == Skew(601.0)
    assert observed(Skew(candidate=600.0), 300.0, confirming=True) == Skew(candidate=600.0)


@pytest.mark.parametrize(("elapsed", "told"), [(0.0, True), (5.0, True), (5.1, False), (-1.0, False)])
def test_a_slow_answer_says_nothing_about_the_time(elapsed: float, told: bool) -> None:
    assert (measured(NOW, NOW, elapsed) is not None) == told


def test_a_clock_that_somebody_sets_meanwhile_is_not_corrected_twice() -> None:
    slow = kit.ManualClock(NOW - 600)
    clock = SkewedClock(slow)
    assert not clock.learn(NOW, 0.0)
    assert clock.learn(NOW, 0.0)
    assert abs(clock.time() - NOW) < 1

    slow.step_wall(600)

    assert clock.time() == NOW


# ------------------------------------------------------------------------------------- from the token endpoint


@pytest.mark.parametrize("off", [-600, 600])
def test_the_expiry_of_what_we_are_given_is_judged_by_the_endpoints_time(off: int, tmp_path: Path) -> None:
    credentials = {"api_key": "k", "scope": "s", "secret": "x"}
    ca = kit.CA()
    with kit.TokenServer(ca) as server:
        url = server.serve_bear(credentials, lifetime=300)
        auth = grpc_bearer.profiles.bear(credentials, url=url, ca=ca.write(tmp_path), clock=Off(off))

        token = auth.token()

        assert token.expires_at is not None
        assert abs(token.expires_at - time.time() - 300) < 5
        assert auth.token() == token
        assert len(server.exchanges) == 1


@pytest.mark.parametrize("off", [-600, 600])
def test_an_assertion_signed_by_a_wrong_clock_is_signed_again_by_the_right_one(off: int, tmp_path: Path) -> None:
    key = kit.throwaway_key("ES256")
    ca = kit.CA()
    with kit.TokenServer(ca) as server:
        url = server.serve_client_credentials("me", public_key=kit.public_pem(key))
        source = ClientCredentialsSource(
            url, "me", auth_method="private_key_jwt", key=kit.private_pem(key), ca=ca.write(tmp_path)
        )

        assert BearerAuth(source, clock=Off(off)).token().value in server.issued


@pytest.mark.parametrize("off", [-600, 600])
@pytest.mark.parametrize("grant", ["assertion", "subject_token"])
def test_so_is_what_another_grant_shows(off: int, grant: str, tmp_path: Path) -> None:
    key = kit.throwaway_key("ES256")
    pem = tmp_path / "key.pem"
    pem.write_text(kit.private_pem(key))
    ca = kit.CA()

    def endpoint(request: kit.Request) -> kit.Response:
        """As a server does that takes nothing that is more than a minute old, or younger than now."""
        shown = dict(parse_qsl(request.body.decode()))[grant]
        good = -2 < time.time() - verified(shown, key, "ES256")[1]["iat"] < 60
        answer = {"access_token": "t0ken", "token_type": "Bearer"} if good else {"error": "invalid_grant"}
        return kit.Response(200 if good else 400, json.dumps(answer).encode(), content_type="application/json")

    with kit.TokenServer(ca) as server:
        how: dict[str, Any] = {"token_url": server.serve("/token", endpoint), "ca": ca.write(tmp_path)}
        signed = JWTSource(pem, lifetime=300)
        source = (
            JWTBearerSource(**how, assertion=signed)
            if grant == "assertion"
            else TokenExchangeSource(**how, subject_token=signed)
        )

        assert BearerAuth(source, clock=Off(off)).token().value == "t0ken"
        assert len(server.exchanges) == 3


def test_without_tls_no_time_is_learnt() -> None:
    clock = SkewedClock(Off(600))
    with kit.TokenServer(None) as server:
        url = server.serve_bear({"api_key": "k", "scope": "s", "secret": "x"})
        source = HTTPTokenSource(url, json={"api_key": "k", "scope": "s", "secret": "x"}, allow_http_loopback=True)
        for _ in range(3):
            source.fetch(CallContext(clock=clock))

    assert clock.skew == Skew()


# ------------------------------------------------------------------------------------------ from a rejection


def skewed_server(algorithm: str, **options: object) -> tuple[kit.ProbeServer, object]:
    key = kit.throwaway_key(algorithm)
    verifier = kit.JWTVerifier(kit.public_pem(key), [algorithm], max_lifetime=3600)
    return kit.ProbeServer(verifier, **options), key


@pytest.mark.parametrize("single_use", [True, False])
@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("off", [-600, 600])
def test_a_dated_rejection_heals_the_very_call(off: int, algorithm: str, single_use: bool) -> None:
    server, key = skewed_server(algorithm, dated=True)
    source = JWTSource(kit.private_pem(key), algorithm=algorithm, lifetime=120, single_use=single_use)
    auth = BearerAuth(source, clock=Off(off))
    with server, grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
        stub = kit.ProbeStub(channel)

        assert stub.Unary(kit.ProbeRequest(index=1)).count == 1
        assert stub.Unary.future(kit.ProbeRequest(index=2)).result().count == 1
        refused = [attempt for attempt in server.ledger.attempts if not attempt.accepted]

    assert len(refused) == 2  # one to suspect, one to be sure; then never again
    assert verified(auth.token().value, key, algorithm)[1]["iat"] <= time.time()


async def test_a_dated_rejection_heals_the_very_call_of_asyncio() -> None:
    server, key = skewed_server("ES256", dated=True)
    auth = BearerAuth(JWTSource(kit.private_pem(key), lifetime=120, single_use=True), clock=Off(600))
    with server:
        async with grpc_bearer.aio.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
            stub = kit.ProbeStub(channel)

            assert (await stub.Unary(kit.ProbeRequest(index=1))).count == 1
            assert [r.count async for r in stub.BidiStream(kit.ProbeRequest(index=i) for i in range(3))] == [1, 2, 3]


def test_where_no_date_is_to_be_had_the_error_names_the_clock() -> None:
    server, key = skewed_server("ES256")
    auth = BearerAuth(JWTSource(kit.private_pem(key), lifetime=120, single_use=True), clock=Off(-600))
    with (
        server,
        grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        kit.ProbeStub(channel).Unary(kit.ProbeRequest())

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "if that clock is wrong, this is the likely cause" in str(caught.value.__cause__)


def test_a_hostile_date_does_not_harvest_tokens_valid_long_after() -> None:
    server, key = skewed_server("ES256")
    auth = BearerAuth(JWTSource(kit.private_pem(key), lifetime=120, single_use=True))
    tomorrow = formatdate(time.time() + 86400, usegmt=True)
    with server, grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
        stub = kit.ProbeStub(channel)
        for _ in range(3):
            server.script(*[kit.Refuse(trailing=(("date", tomorrow),))] * 2)
            with pytest.raises(grpc.RpcError):
                stub.Unary(kit.ProbeRequest())

    latest = max(verified(attempt.token, key, "ES256")[1]["exp"] for attempt in server.ledger.attempts if attempt.token)
    assert latest <= time.time() + 120


def test_the_date_of_an_answer_from_a_cache_is_not_believed() -> None:
    server, key = skewed_server("ES256")
    heard: list[grpc_bearer.events.Event] = []
    auth = BearerAuth(JWTSource(kit.private_pem(key), lifetime=120, single_use=True), observers=[heard.append])
    later = formatdate(time.time() + 600, usegmt=True)
    with server, grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
        server.script(*[kit.Refuse(trailing=(("date", later), ("age", "7")))] * 2)
        with pytest.raises(grpc.RpcError):
            kit.ProbeStub(channel).Unary(kit.ProbeRequest())

    assert heard
    assert "SkewLearnt" not in {type(event).__name__ for event in heard}
