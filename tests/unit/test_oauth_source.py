"""ClientCredentialsSource: OAuth 2.0 client credentials, over real TLS on loopback."""

from __future__ import annotations

import logging
import pickle
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest
from _https import GRANTED, Reply, Server, assert_hidden, failure, unsigned_jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from jose import verified

from grpc_bearer import CallContext
from grpc_bearer.errors import (
    ConfigurationError,
    SigningError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.sources import ClientCredentialsSource
from grpc_bearer.testing import ManualClock

NOW = 1_700_000_000.0
CONTEXT = CallContext(clock=ManualClock(NOW))
SECRET = "hunter2/+ü:="
KEY = ec.generate_private_key(ec.SECP256R1())
Make = Callable[..., ClientCredentialsSource]


def pem(key: Any, password: bytes) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)).decode()


@pytest.fixture
def source(server: Server, ca: Path) -> Iterator[Make]:
    """Makes sources of that server, and closes them."""
    made: list[ClientCredentialsSource] = []

    def make(client_secret: Any = SECRET, **options: Any) -> ClientCredentialsSource:
        made.append(ClientCredentialsSource(server.url, "me:ü", client_secret, ca=ca, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def basic_pair(server: Server, index: int = -1) -> list[str]:
    """Id and secret as a server decodes them that follows the RFC."""
    header = server.requests[index].headers["authorization"].removeprefix("Basic ")
    return [unquote_plus(part) for part in b64decode(header).decode("ascii").split(":")]


# -- requests ---------------------------------------------------------------------------------------------------------


def test_the_token_and_its_lifetime_are_taken(server: Server, source: Make) -> None:
    token = source().fetch(CONTEXT)

    assert (token.value, token.expires_at) == ("t0ken", NOW + 3600)
    assert server.requests[0].method == "POST"
    assert server.requests[0].headers["content-type"] == "application/x-www-form-urlencoded"
    assert server.requests[0].headers["accept"] == "application/json"


def test_basic_encodes_id_and_secret_as_a_form_before_base64(server: Server, source: Make) -> None:
    # RFC 6749 section 2.3.1. Here both have characters that would be wrong without it.
    source().fetch(CONTEXT)

    assert basic_pair(server) == ["me:ü", SECRET]
    assert server.requests[0].form == {"grant_type": "client_credentials"}


def test_post_sends_both_in_the_form(server: Server, source: Make) -> None:
    source(auth_method="client_secret_post").fetch(CONTEXT)

    assert server.requests[0].form == {"grant_type": "client_credentials", "client_id": "me:ü", "client_secret": SECRET}
    assert "authorization" not in server.requests[0].headers


@pytest.mark.parametrize("scope", ["read write", ["read", "write"], ("read", "write")])
def test_scope_audience_and_more_are_sent(server: Server, source: Make, scope: Any) -> None:
    source(scope=scope, audience="https://api", extra={"resource": "urn:x"}).fetch(CONTEXT)

    expected = {
        "grant_type": "client_credentials",
        "scope": "read write",
        "audience": "https://api",
        "resource": "urn:x",
    }
    assert server.requests[0].form == expected


def test_a_secret_in_a_file_is_read_for_each_request(server: Server, source: Make, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    asking = source(path)
    failure(lambda: asking.fetch(CONTEXT), TokenUnavailableError, "No such file")
    for secret in ("first", "second"):
        path.write_text(f"{secret}\n")
        asking.fetch(CONTEXT)

    assert [basic_pair(server, index)[1] for index in (0, 1)] == ["first", "second"]


def test_a_refused_secret_that_was_replaced_meanwhile_is_followed_by_the_new_one(server: Server, source: Make) -> None:
    server.replies[:] = [Reply({"error": "invalid_client"}, 401), Reply(GRANTED)]
    secrets = iter(["old", "new", "new"])

    assert source(lambda: next(secrets)).fetch(CONTEXT).value == "t0ken"
    assert [basic_pair(server, index)[1] for index in (0, 1)] == ["old", "new"]


def test_a_refused_secret_that_is_still_the_same_is_not_sent_again(server: Server, source: Make) -> None:
    server.replies[:] = [Reply({"error": "invalid_client"}, 401)]

    failure(lambda: source(lambda: "old").fetch(CONTEXT), TokenRejectedError, "invalid_client")
    assert len(server.requests) == 1


def test_a_secret_from_a_function_is_asked_for_each_time(server: Server, source: Make) -> None:
    secrets = ["first", "second"]
    asking = source(lambda: secrets.pop(0))
    for _ in range(2):
        asking.fetch(CONTEXT)

    assert [basic_pair(server, index)[1] for index in (0, 1)] == ["first", "second"]


# -- private_key_jwt --------------------------------------------------------------------------------------------------


def assertion(server: Server, index: int = -1) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, the signature verified."""
    return verified(server.requests[index].form["client_assertion"], KEY, "ES256")


def test_private_key_jwt_sends_a_fresh_short_lived_assertion_each_time(server: Server, source: Make) -> None:
    asking = source(None, auth_method="private_key_jwt", key=KEY, key_id="k1")
    for _ in range(2):
        asking.fetch(CONTEXT)
    (header, claims), (_, later) = assertion(server, 0), assertion(server, 1)

    assert (header["alg"], header["kid"]) == ("ES256", "k1")
    assert (claims["iss"], claims["sub"], claims["aud"]) == ("me:ü", "me:ü", server.url)
    assert 0 < claims["exp"] - NOW <= 300
    assert len(claims["jti"]) >= 32
    assert claims["jti"] != later["jti"]
    form = server.requests[0].form
    assert form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assert form["client_id"] == "me:ü"
    assert "authorization" not in server.requests[0].headers


def test_the_assertions_audience_can_be_another(server: Server, source: Make) -> None:
    source(None, auth_method="private_key_jwt", key=KEY, assertion_audience="https://issuer").fetch(CONTEXT)

    assert assertion(server)[1]["aud"] == "https://issuer"


def test_an_encrypted_key_needs_its_passphrase_when_built(server: Server, source: Make) -> None:
    key = pem(KEY, b"open sesame")
    source(None, auth_method="private_key_jwt", key=key, passphrase="open sesame").fetch(CONTEXT)
    assert assertion(server)[1]["iss"] == "me:ü"

    error = failure(
        lambda: source(None, auth_method="private_key_jwt", key=key, passphrase="guess"), SigningError, "passphrase"
    )
    assert_hidden(error, "guess", key)


def test_a_key_that_does_not_fit_is_refused_when_built(source: Make) -> None:
    key = rsa.generate_private_key(65537, 2048)

    failure(lambda: source(None, auth_method="private_key_jwt", key=key, algorithm="ES256"), SigningError, "ES256")


# -- answers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "options", "expires_in"),
    [
        ({"expires_in": "120"}, {}, 120),
        ({"expires_in": None}, {"lifetime": 60}, 60),
        ({"expires_in": None}, {}, None),
        (
            {"expires_in": 120, "access_token": unsigned_jwt(exp=NOW - 500)},
            {},
            120,
        ),  # our clock is wrong, or the span is
        ({"expires_in": None, "access_token": unsigned_jwt(exp=NOW + 500)}, {"lifetime": 60}, 500),
        ({"token_type": "bearer"}, {}, 3600),
        ({"token_type": "BEARER"}, {}, 3600),
        ({"token_type": None}, {}, 3600),
    ],
)
def test_the_stated_lifetime_counts_first(
    server: Server, source: Make, answer: dict[str, Any], options: dict[str, Any], expires_in: float | None
) -> None:
    server.replies = [Reply({name: value for name, value in {**GRANTED, **answer}.items() if value is not None})]
    expires_at = source(**options).fetch(CONTEXT).expires_at

    assert expires_at == (None if expires_in is None else NOW + expires_in)


ERRORS: list[tuple[int, Any, type, str]] = [
    (400, {"error": "invalid_scope"}, TokenRejectedError, "answered 400 invalid_scope$"),
    (400, {"error": "invalid_grant"}, TokenRejectedError, "answered 400 invalid_grant$"),
    (401, {"error": "invalid_client"}, TokenRejectedError, "answered 401 invalid_client"),
    (400, {"error": "unauthorized_client"}, TokenRejectedError, "answered 400 unauthorized_client$"),
    (403, {"error": "hidden"}, TokenRejectedError, "answered 403 with an unregistered error code$"),
    (400, {"error": {"code": "hidden"}}, TokenRejectedError, "answered 400$"),
    (400, "<html>hidden", TokenRejectedError, "answered 400$"),
    (401, "", TokenRejectedError, "answered 401: the credential was refused$"),
    (400, {"error": "temporarily_unavailable"}, TokenUnavailableError, "answered 400 temporarily_unavailable$"),
    (400, {"error": "server_error"}, TokenUnavailableError, "answered 400 server_error$"),
    (503, {"error": "temporarily_unavailable"}, TokenUnavailableError, "answered 503 temporarily_unavailable$"),
    (500, {"error": "invalid_client"}, TokenUnavailableError, "answered 500 invalid_client$"),
    (429, {"error": "hidden"}, TokenUnavailableError, "answered 429$"),
    (200, {**GRANTED, "error": "invalid_client"}, TokenRejectedError, "answered 200 invalid_client$"),
    (200, {"error": "server_error"}, TokenUnavailableError, "answered 200 server_error$"),
    (307, {"error": "invalid_client"}, TokenRejectedError, "answered 307 invalid_client"),
]


@pytest.mark.parametrize(("status", "body", "kind", "words"), ERRORS)
def test_an_error_answer_tells_a_registered_code_and_nothing_else(
    server: Server, source: Make, status: int, body: Any, kind: Any, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    if isinstance(body, dict):
        body = {**body, "error_description": f"hidden {SECRET}", "error_uri": "hidden"}
    server.replies = [Reply(body, status, {"retry-after": "9", "location": "https://hidden.example/"})]
    error = failure(lambda: source().fetch(CONTEXT), kind, words)

    assert error.retry_after == (9 if isinstance(error, TokenUnavailableError) and status != 200 else None)
    assert_hidden(error, "hidden", SECRET)
    assert "hidden" not in caplog.text
    assert SECRET not in caplog.text


# -- wrong arguments --------------------------------------------------------------------------------------------------


def test_its_repr_shows_no_secret_and_it_pickles_only_without_one(server: Server, source: Make, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    assert SECRET not in repr(source())
    assert_hidden(failure(lambda: pickle.dumps(source()), ConfigurationError, "client_secret: given inline"), SECRET)

    asking = source(tmp_path / "secret", scope="read")
    asking.fetch(CONTEXT)
    copy = pickle.loads(pickle.dumps(asking))
    copy.fetch(CONTEXT)
    copy.close()
    assert basic_pair(server)[1] == SECRET
