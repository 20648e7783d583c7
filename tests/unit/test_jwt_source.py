"""JWTs signed here: what is in them, when they expire, which calls share one."""

from __future__ import annotations

import base64
import json
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jose import verified
from joserfc.jwk import ECKey

from grpc_bearer import CallContext
from grpc_bearer.errors import (
    TokenUnavailableError,
)
from grpc_bearer.sources.jwt import JWTSource, PerToken, nonce
from grpc_bearer.testing import ManualClock, private_pem, throwaway_key

KEY = throwaway_key("ES256")
NOW = 1_700_000_000
ISSUED = NOW - 5  # what is signed is back-dated a little


def call(service: str = "fleet.v1.Fleet", method: str = "List", at: float = NOW) -> CallContext:
    return CallContext(f"https://api.example.com/{service}", method, ManualClock(at))


def decoded(
    source: JWTSource, context: CallContext | None = None, key: Any = KEY
) -> tuple[dict[str, Any], dict[str, Any]]:
    algorithm = repr(source).partition("(")[2].partition(",")[0]
    return verified(source.fetch(context or call()).value, key, algorithm)


@pytest.mark.parametrize(
    "algorithm",
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"],
)
def test_every_algorithm_is_verified_by_joserfc(algorithm: str) -> None:
    key = throwaway_key(algorithm)
    source = JWTSource(key, algorithm=algorithm, claims={"iss": "me"}, headers={"kid": "k"})

    header, claims = decoded(source, key=key)

    assert header == {"alg": algorithm, "typ": "JWT", "kid": "k"}
    assert claims == {"iss": "me", "iat": ISSUED, "exp": ISSUED + 3600}


def test_times_are_whole_seconds_and_never_ahead_of_the_clock() -> None:
    source = JWTSource(KEY, lifetime=59.9, not_before=True)
    context = call(at=NOW + 0.999)

    _, claims = decoded(source, context)

    assert claims == {"iat": ISSUED, "nbf": ISSUED, "exp": ISSUED + 59}
    assert '"exp":1700000054' in payload_text(source.fetch(context).value)


def payload_text(token: str) -> str:
    segment = token.split(".")[1]
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)).decode()


def test_the_token_knows_its_expiry() -> None:
    token = JWTSource(KEY, lifetime=120).fetch(call())

    assert (token.expires_at, token.refresh_at, token.single_use) == (ISSUED + 120, None, False)


def test_backdating_moves_all_times_and_keeps_the_lifetime() -> None:
    _, claims = decoded(JWTSource(KEY, lifetime=120, backdate=10, not_before=True))

    assert claims == {"iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 110}


def test_each_token_is_signed_at_its_own_time() -> None:
    source, clock = JWTSource(KEY, lifetime=60), ManualClock(NOW)
    context = CallContext(clock=clock)

    first = decoded(source, context)[1]
    clock.advance(30)

    assert decoded(source, context)[1]["iat"] - first["iat"] == 30


def test_claims_may_depend_on_the_call_and_then_calls_share_by_what_they_give() -> None:
    source = JWTSource(
        KEY,
        claims={"iss": "me", "method": lambda c: c.method, "list": lambda c: [c.service]},
        audience=lambda c: c.service_url,
    )

    _, claims = decoded(source)

    assert claims["aud"] == "https://api.example.com/fleet.v1.Fleet"
    assert (claims["iss"], claims["method"], claims["list"]) == ("me", "List", ["fleet.v1.Fleet"])
    assert source.key(call()) == source.key(call(at=NOW + 5))
    assert source.key(call()) != source.key(call(method="Get"))
    assert source.key(call()) != source.key(call(service="fleet.v1.Robots"))
    assert len({source.key(call()), source.key(call(at=NOW + 5))}) == 1  # hashable, as a key of a table must be


def test_headers_may_depend_on_the_call() -> None:
    source = JWTSource(KEY, headers={"kid": lambda c: f"key-{c.service}"})

    assert decoded(source)[0]["kid"] == "key-fleet.v1.Fleet"
    assert source.key(call()) != source.key(call(service="other"))


def test_a_function_may_give_all_claims_and_headers() -> None:
    source = JWTSource(
        KEY,
        claims=lambda c: {"sub": c.service, "jti": nonce, "m": lambda c: c.method},
        headers=lambda c: {"kid": c.method, "typ": "at+jwt"},
        audience="a",
    )

    header, claims = decoded(source)

    assert header == {"alg": "ES256", "typ": "at+jwt", "kid": "List"}
    assert (claims["sub"], claims["aud"], claims["m"]) == ("fleet.v1.Fleet", "a", "List")
    assert source.key(call()) == source.key(call())
    assert source.key(call()) != source.key(call(method="Get"))


def test_what_is_new_in_each_token_does_not_part_calls() -> None:
    source = JWTSource(KEY, claims={"jti": nonce}, headers={"nonce": PerToken(iter(range(9)).__next__)})

    assert source.key(call()) == source.key(call(service="other")) == ()
    assert [decoded(source)[0]["nonce"] for _ in range(3)] == [0, 1, 2]
    assert decoded(source)[1]["jti"] != decoded(source)[1]["jti"]


def test_trap_42_nonces_are_128_bits_in_hexadecimal_and_do_not_repeat() -> None:
    nonces = [nonce() for _ in range(1000)]

    assert all(re.fullmatch("[0-9a-f]{32}", str(text)) for text in nonces)
    assert len(set(nonces)) == 1000


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA", "ES256"])
def test_single_use_tokens_differ_even_within_a_second(algorithm: str) -> None:
    # RSA and EdDSA sign the same text alike: without a random member two tokens of one second would be one.
    source = JWTSource(throwaway_key(algorithm), claims={"iss": "me"}, single_use=True)

    tokens = [source.fetch(call()) for _ in range(20)]

    assert len({token.value for token in tokens}) == 20
    assert all(token.single_use for token in tokens)
    assert source.single_use
    assert source.key(call()) == ()


def test_single_use_adds_no_claim_where_something_varies_already() -> None:
    source = JWTSource(KEY, headers={"nonce": nonce}, single_use=True)

    assert set(decoded(source)[1]) == {"iat", "exp"}


def test_the_kid_of_a_jwk_stands_in_the_header_unless_headers_say_otherwise() -> None:
    jwk = {**ECKey.import_key(private_pem(KEY)).as_dict(private=True), "kid": "from-jwk"}

    assert decoded(JWTSource(jwk))[0]["kid"] == "from-jwk"
    assert decoded(JWTSource(jwk, headers={"kid": "mine"}))[0]["kid"] == "mine"


def test_changing_the_mapping_afterwards_changes_nothing() -> None:
    scopes = ["read"]
    claims: dict[str, object] = {"iss": "me", "scopes": scopes}
    source = JWTSource(KEY, claims=claims)
    claims["iss"] = "you"
    scopes.append("write")

    assert decoded(source)[1]["iss"] == "me"
    assert decoded(source)[1]["scopes"] == ["read"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
# Names that joserfc, or the JWT itself, gives a meaning.
NAMES = st.text().filter(lambda name: name not in {"iat", "exp", "nbf", "iss", "sub", "aud", "jti"})


@settings(max_examples=40, deadline=None)
@given(fixed=st.dictionaries(NAMES, JSON, max_size=3), varying=st.dictionaries(NAMES, JSON, max_size=3))
def test_any_json_comes_out_as_it_went_in(fixed: dict[str, Any], varying: dict[str, Any]) -> None:
    claims = {**fixed, **{name: lambda c, value=value: value for name, value in varying.items()}}

    token = JWTSource(throwaway_key("EdDSA"), claims=claims, lifetime=60).fetch(call()).value

    assert json.loads(payload_text(token)) == {**fixed, **varying, "iat": ISSUED, "exp": ISSUED + 60}


@settings(max_examples=60, deadline=None)
@given(kid=st.text(), fixed=st.dictionaries(st.text("abc"), st.text(), max_size=2), made=st.text())
def test_any_header_comes_out_as_it_went_in(kid: str, fixed: dict[str, Any], made: str) -> None:
    """However the part that is encoded once ends: base64 goes by groups of three bytes."""
    headers = {"kid": kid, **fixed, "nonce": PerToken(lambda: made)}

    token = JWTSource(throwaway_key("EdDSA"), headers=headers, lifetime=60).fetch(call()).value

    segment = token.split(".")[0]
    header = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    assert header == {"alg": "EdDSA", "typ": "JWT", "kid": kid, **fixed, "nonce": made}
    assert "=" not in token


def test_threads_that_sign_in_different_seconds_do_not_mix_them_up() -> None:
    source = JWTSource(throwaway_key("EdDSA"), claims={"iss": "me"}, lifetime=60, single_use=True)

    def sign(number: int) -> bool:
        at = NOW + number % 3
        token = source.fetch(call(at=at))
        claims = json.loads(payload_text(token.value))
        return bool(claims["iat"] == at - 5 and claims["exp"] == token.expires_at == at + 55)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(sign, range(2000)))


def test_a_token_too_large_for_many_servers_is_told() -> None:
    with pytest.warns(UserWarning, match="many servers and proxies refuse"):
        JWTSource(KEY, claims={"x": "y" * 9000}).fetch(call())


def test_a_remote_signer_is_not_local_and_its_failure_is_retryable() -> None:
    def kms(data: bytes) -> bytes:
        raise ConnectionError("secret")

    source = JWTSource(kms, algorithm="ES256")

    assert not source.local
    assert JWTSource(KEY).local
    with pytest.raises(TokenUnavailableError, match="key: signing failed with ConnectionError"):
        source.fetch(call())


def test_a_source_with_a_key_file_pickles_and_signs_alike(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(private_pem(KEY))
    source = JWTSource(path, claims={"iss": "me"}, headers={"nonce": nonce}, lifetime=60, single_use=True)

    twin = pickle.loads(pickle.dumps(source))

    assert decoded(twin)[1] == {"iss": "me", "iat": ISSUED, "exp": ISSUED + 60}
    assert twin.single_use


def test_repr_shows_no_key_and_no_claims() -> None:
    assert (
        repr(JWTSource(KEY, claims={"iss": "me"}, single_use=True))
        == "JWTSource(ES256, lifetime=3600, single_use=True)"
    )


@pytest.mark.parametrize("algorithm", ["RS256", "EdDSA"])
def test_a_refused_token_is_not_signed_again_within_its_second_or_when_the_clock_steps_back(algorithm: str) -> None:
    key = throwaway_key(algorithm)
    source = JWTSource(key, claims={"iss": "me"}, lifetime=3600, max_lifetime=3600)
    clock = ManualClock(NOW)
    tokens = [source.fetch(CallContext(clock=clock))]
    for step in (0, 0, 7, -7, 0):
        clock.step_wall(step)
        tokens.append(source.fetch(CallContext(clock=clock, refused=tokens[-1].fingerprint)))

    assert len({token.value for token in tokens}) == len(tokens)
    for token in tokens:
        _, claims = verified(token.value, key, algorithm)
        assert claims["exp"] - claims["iat"] == 3600
        assert token.expires_at == claims["exp"]
    assert [token.expires_at - NOW - 3595 for token in tokens] == [0, -1, -2, 7, -3, -4]


def test_a_short_lived_token_is_not_dated_so_far_back_that_it_is_near_its_end() -> None:
    source = JWTSource(throwaway_key("EdDSA"), lifetime=4, backdate=0)
    token = source.fetch(call())
    for _ in range(9):
        token = source.fetch(CallContext(clock=ManualClock(NOW), refused=token.fingerprint))

    assert token.expires_at >= NOW + 2


def test_a_pickle_carries_nothing_of_the_tokens_that_were_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(private_pem(KEY))
    source, unused = JWTSource(path), JWTSource(path)
    source.fetch(CallContext(clock=ManualClock(NOW), refused="0" * 64))

    assert b"0" * 64 not in pickle.dumps(source)
    assert pickle.loads(pickle.dumps(source)).fetch(call()).expires_at == unused.fetch(call()).expires_at
