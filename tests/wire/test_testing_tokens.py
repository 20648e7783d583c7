"""The token server of the kit: what it accepts, what it refuses, and its faults. Its tokens are checked by joserfc."""

from __future__ import annotations

import base64
import email.utils
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
import requests
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey

from grpc_bearer.testing import (
    CA,
    BigBody,
    ExpiredJWT,
    Garbage,
    Hang,
    ManualClock,
    NotJSON,
    Redirect,
    Request,
    Reset,
    Response,
    Status,
    TokenServer,
    Trickle,
    WithoutDate,
    private_pem,
    public_pem,
    throwaway_key,
)

BEAR = {"api_key": "k", "scope": "s", "secret": "x"}
CLIENT, SECRET = "the client", "p+a:s%s &é"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture(scope="module")
def ca() -> CA:
    return CA()


@pytest.fixture
def tokens(ca: CA, clock: ManualClock) -> Iterator[TokenServer]:
    with TokenServer(ca, clock) as running:
        yield running


@pytest.fixture
def http(ca: CA, tmp_path: Path) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(ca.write(tmp_path))
        yield session


def claims_of(token: str, tokens: TokenServer) -> dict[str, Any]:
    return joserfc_jwt.decode(token, ECKey.import_key(public_pem(tokens.public_key)), ["ES256"]).claims


# --- Bear ---


def test_bear_gives_a_jwt_as_text_for_exactly_its_three_fields(
    tokens: TokenServer, http: requests.Session, clock: ManualClock
) -> None:
    url = tokens.serve_bear(BEAR, lifetime=900)
    answer = http.post(url, json=BEAR)

    claims = claims_of(answer.text, tokens)
    assert answer.status_code == 200
    assert (claims["sub"], claims["scope"], claims["exp"] - claims["iat"]) == ("k", "s", 900)
    assert claims["iat"] == int(clock.time())
    assert tokens.issued == [answer.text]
    (exchange,) = tokens.exchanges
    assert (exchange.status, exchange.credential, exchange.token) == (200, "k", answer.text)


@pytest.mark.parametrize(
    ("keywords", "status"),
    [
        ({"json": {**BEAR, "secret": "y"}}, 401),
        ({"json": {**BEAR, "scope": "t"}}, 401),
        ({"json": {**BEAR, "more": ""}}, 400),
        ({"json": {"api_key": "k", "scope": "s"}}, 400),
        ({"json": [BEAR]}, 400),
        ({"data": BEAR}, 415),
        ({"data": "{", "headers": {"content-type": "application/json"}}, 400),
    ],
)
def test_bear_refuses_anything_else(
    tokens: TokenServer, http: requests.Session, keywords: dict[str, Any], status: int
) -> None:
    assert http.post(tokens.serve_bear(BEAR), **keywords).status_code == status
    assert tokens.issued == []


def test_bear_wants_a_post(tokens: TokenServer, http: requests.Session) -> None:
    assert http.get(tokens.serve_bear(BEAR)).status_code == 405


def test_each_token_differs_and_a_revoked_one_is_refused_by_its_verifiers(
    tokens: TokenServer, http: requests.Session
) -> None:
    url, verifier = tokens.serve_bear(BEAR), tokens.verifier()
    first, second = http.post(url, json=BEAR).text, http.post(url, json=BEAR).text
    tokens.revoke(first)

    reasons = [verifier.verify([("authorization", f"Bearer {token}")], "/s/M").refusal for token in (first, second)]

    assert first != second
    assert [refusal and refusal.reason for refusal in reasons] == ["token revoked", None]


# --- OAuth client credentials ---


def basic(client: str, secret: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{client}:{secret}".encode()).decode()}


def assertion(audience: str, clock: ManualClock, *, serial: int = 0, kid: str = "k1", **changes: Any) -> str:
    now = int(clock.time())
    claims = {"iss": CLIENT, "sub": CLIENT, "aud": audience, "iat": now, "exp": now + 60, "jti": uuid.uuid4().hex}
    claims |= changes
    kept = {name: value for name, value in claims.items() if value is not None}
    key = ECKey.import_key(private_pem(throwaway_key("ES256", serial)))
    return joserfc_jwt.encode({"alg": "ES256", "kid": kid}, kept, key)


def assertion_form(text: str) -> dict[str, str]:
    return {"grant_type": "client_credentials", "client_assertion_type": ASSERTION_TYPE, "client_assertion": text}


def oauth_error(answer: requests.Response) -> tuple[int, str, str]:
    return answer.status_code, answer.json()["error"], answer.json()["error_description"]


def test_basic_must_form_encode_the_client_and_its_secret(tokens: TokenServer, http: requests.Session) -> None:
    url = tokens.serve_client_credentials(CLIENT, SECRET, lifetime=60)
    form = {"grant_type": "client_credentials", "scope": "read"}

    right = http.post(url, data=form, headers=basic(quote_plus(CLIENT), quote_plus(SECRET)))
    wrong = http.post(url, data=form, headers=basic(CLIENT, "p+a:s%s &e"))

    assert (right.status_code, right.json()["token_type"], right.json()["expires_in"]) == (200, "Bearer", 60)
    assert claims_of(right.json()["access_token"], tokens)["scope"] == "read"
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, 'Basic realm="tokens"')


def test_post_takes_the_secret_in_the_form(tokens: TokenServer, http: requests.Session) -> None:
    url = tokens.serve_client_credentials(CLIENT, SECRET)
    form = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}

    assert http.post(url, data=form).status_code == 200
    assert oauth_error(http.post(url, data={**form, "client_secret": "?"}))[:2] == (401, "invalid_client")
    assert oauth_error(http.post(url, data={**form, "grant_type": "password"}))[1] == "unsupported_grant_type"


def test_requests_that_break_the_rfc_are_refused(tokens: TokenServer, http: requests.Session) -> None:
    url = tokens.serve_client_credentials(CLIENT, SECRET, scopes=["read"], methods=["client_secret_post"])
    form = {"grant_type": "client_credentials", "client_id": CLIENT, "client_secret": SECRET}
    by_basic = basic(quote_plus(CLIENT), quote_plus(SECRET))

    assert oauth_error(http.post(url, json=form))[1] == "invalid_request"
    assert oauth_error(http.post(url, data=[*form.items(), ("client_id", CLIENT)]))[1] == "invalid_request"
    assert oauth_error(http.post(url, data=form, headers=by_basic))[2] == "2 ways to authenticate, want 1"
    assert oauth_error(http.post(url, data={"grant_type": "client_credentials"}))[1] == "invalid_client"
    assert oauth_error(http.post(url, data={**form, "scope": "read write"}))[1] == "invalid_scope"
    only_basic = {"grant_type": "client_credentials"}
    assert oauth_error(http.post(url, data=only_basic, headers=by_basic))[2] == "client_secret_basic is not enabled"


def test_a_private_key_jwt_is_good_once(tokens: TokenServer, http: requests.Session, clock: ManualClock) -> None:
    url = tokens.serve_client_credentials(CLIENT, public_key=throwaway_key("ES256").public_key(), kid="k1")
    form = assertion_form(assertion(url, clock))

    assert http.post(url, data=form).status_code == 200
    assert oauth_error(http.post(url, data=form)) == (401, "invalid_client", "jti seen before")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"serial": 1}, "assertion: bad signature, or no JWT at all"),
        ({"kid": "k2"}, "no such kid"),
        ({"iss": "another"}, "assertion: wrong issuer"),
        ({"sub": "another"}, "assertion: sub is not the client_id"),
        ({"aud": "https://another.example/"}, "assertion: wrong audience"),
        ({"jti": None}, "assertion: claim jti missing"),
        ({"exp": 1_699_999_999}, "assertion: expired"),
        ({"exp": 1_700_003_600}, "assertion: lifetime of 3600 s, allowed are 600"),
    ],
)
def test_wrong_assertions_are_refused(
    tokens: TokenServer, http: requests.Session, clock: ManualClock, changes: dict[str, Any], why: str
) -> None:
    url = tokens.serve_client_credentials(CLIENT, public_key=throwaway_key("ES256").public_key(), kid="k1")
    text = assertion(changes.pop("aud", url), clock, **changes)

    assert oauth_error(http.post(url, data=assertion_form(text))) == (401, "invalid_client", why)


# --- the server itself ---


def test_a_path_of_ones_own(tokens: TokenServer, http: requests.Session) -> None:
    def handler(request: Request) -> Response:
        return Response(201, request.body[::-1], {"X-Method": request.method}, credential="me", token="t0")

    url = tokens.serve("/own", handler)
    answer = http.put(f"{url}?query=1", data=b"abc")

    assert (answer.status_code, answer.content, answer.headers["x-method"]) == (201, b"cba", "PUT")
    assert (tokens.exchanges[0].path, tokens.exchanges[0].credential, tokens.exchanges[0].token) == ("/own", "me", "t0")
    assert http.get(tokens.url("/other")).status_code == 404


def test_the_date_is_that_of_its_clock(tokens: TokenServer, http: requests.Session, clock: ManualClock) -> None:
    clock.step_wall(-86_400)
    date = http.get(tokens.url("/")).headers["date"]

    assert email.utils.parsedate_to_datetime(date).timestamp() == int(clock.time())


def test_it_restarts_on_the_same_port_with_what_it_served(tokens: TokenServer, http: requests.Session) -> None:
    url = tokens.serve_bear(BEAR)
    http.post(url, json=BEAR)
    tokens.stop()
    tokens.stop()
    with pytest.raises(requests.ConnectionError):
        http.post(url, json=BEAR, timeout=10)
    tokens.start()

    assert http.post(url, json=BEAR).status_code == 200
    assert len(tokens.exchanges) == 2


def test_without_an_authority_it_speaks_plain_http(http: requests.Session) -> None:
    with TokenServer(None) as tokens:
        url = tokens.serve_bear(BEAR)
        assert url.startswith("http://")
        assert http.post(url, json=BEAR).status_code == 200


def test_a_client_that_does_not_trust_it_gets_nothing_through(tokens: TokenServer) -> None:
    url = tokens.serve_bear(BEAR)
    with requests.Session() as session:
        session.trust_env = False
        with pytest.raises(requests.exceptions.SSLError):
            session.post(url, json=BEAR, timeout=10)

    assert tokens.exchanges == []


def test_stop_leaves_no_thread_behind_though_clients_keep_alive(ca: CA, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with requests.Session() as session, TokenServer(ca) as tokens:
        session.trust_env = False
        session.get(tokens.url("/"), verify=str(ca.write(tmp_path)))
        tokens.stop()
        left = set(threading.enumerate()) - before
        for thread in left:
            thread.join(5)

    assert [thread for thread in left if thread.is_alive()] == []


# --- faults ---


@pytest.mark.parametrize(
    ("fault", "status", "body", "headers"),
    [
        (Status(500), 500, "no", {}),
        (Status(429, retry_after=7, body="slow down"), 429, "slow down", {"retry-after": "7"}),
        (Status(503, "Fri, 31 Dec 1999 23:59:59 GMT"), 503, "no", {"retry-after": "Fri, 31 Dec 1999 23:59:59 GMT"}),
        (Garbage("<p>"), 200, "<p>", {"content-type": "text/html"}),
        (NotJSON("{"), 200, "{", {"content-type": "application/json"}),
        (BigBody(5_000_000), 200, "A" * 5_000_000, {}),
        (Redirect("https://127.0.0.1:9/"), 307, "", {"location": "https://127.0.0.1:9/"}),
    ],
)
def test_faults_that_answer_something_else(
    tokens: TokenServer, http: requests.Session, fault: Any, status: int, body: str, headers: dict[str, str]
) -> None:
    url = tokens.serve_bear(BEAR)
    tokens.fail_with(fault, times=1)
    answer = http.post(url, json=BEAR, allow_redirects=False)

    assert (answer.status_code, answer.text) == (status, body)
    assert {name: answer.headers[name] for name in headers} == headers
    assert http.post(url, json=BEAR).status_code == 200
    assert tokens.exchanges[0].status == status


def test_a_reset_ends_the_connection_without_an_answer(tokens: TokenServer, http: requests.Session) -> None:
    url = tokens.serve_bear(BEAR)
    tokens.fail_with(Reset(), times=1)
    with pytest.raises(requests.ConnectionError):
        http.post(url, json=BEAR, timeout=10)

    assert tokens.exchanges[0].status is None


def test_a_hanging_request_has_arrived_and_is_answered_late(tokens: TokenServer, http: requests.Session) -> None:
    url, hang = tokens.serve_bear(BEAR), Hang()
    tokens.fail_with(hang, times=1)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(http.post, url, json=BEAR, timeout=20)
        assert hang.arrived.wait(10)
        assert tokens.wait_for(1)
        assert tokens.exchanges[0].status is None
        hang.release.set()
        assert call.result(10).status_code == 200


def test_stop_lets_go_of_those_who_hang(tokens: TokenServer, http: requests.Session) -> None:
    url, hang = tokens.serve_bear(BEAR), Hang()
    tokens.fail_with(hang)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(http.post, url, json=BEAR, timeout=20)
        assert hang.arrived.wait(10)
        tokens.stop()
        outcome = call.exception(10)  # answered at the last moment, or hung up on

    assert outcome is None or isinstance(outcome, requests.ConnectionError)


def test_a_trickled_answer_is_right_but_slow(tokens: TokenServer, http: requests.Session) -> None:
    url = tokens.serve_bear(BEAR)
    tokens.fail_with(Trickle(size=100, pause=0.02))
    begun = time.monotonic()
    answer = http.post(url, json=BEAR)

    assert claims_of(answer.text, tokens)["sub"] == "k"
    assert time.monotonic() - begun > 0.02 * (len(answer.text) // 100)  # a lower bound: no load can break it


def test_an_expired_jwt_and_one_without_a_date(tokens: TokenServer, http: requests.Session) -> None:
    url = tokens.serve_bear(BEAR)
    tokens.script(ExpiredJWT(), None, WithoutDate())
    expired, healthy, dateless = (http.post(url, json=BEAR) for _ in range(3))

    key = ECKey.import_key(private_pem(throwaway_key("ES256")))
    assert joserfc_jwt.decode(expired.text, key, ["ES256"]).claims["exp"] == 1_000_000_000
    assert "date" in healthy.headers
    assert "date" not in dateless.headers
    assert claims_of(dateless.text, tokens)["sub"] == "k"


def test_a_standing_fault_lasts_until_healed(tokens: TokenServer, http: requests.Session) -> None:
    url = tokens.serve_bear(BEAR)
    tokens.fail_with(Status(500))
    statuses = [http.post(url, json=BEAR).status_code for _ in range(3)]
    tokens.heal()

    assert statuses == [500, 500, 500]
    assert http.post(url, json=BEAR).status_code == 200


def test_no_secret_shows_in_the_ledgers_repr(tokens: TokenServer, http: requests.Session) -> None:
    answer = http.post(tokens.serve_bear({**BEAR, "secret": "s3cret-x"}), json={**BEAR, "secret": "s3cret-x"})

    assert answer.status_code == 200
    assert "s3cret-x" not in repr(tokens.exchanges)
    assert answer.text not in repr(tokens.exchanges)
