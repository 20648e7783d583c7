"""`issuer=`: the token endpoint out of the server's own metadata (RFC 8414, OpenID Connect Discovery)."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _https import GRANTED, Reply, Server, assert_hidden, failure
from attachments import TLS
from jose import verified

from grpc_bearer import (
    CallContext,
    ClientCredentialsSource,
    ConfigurationError,
    TokenExchangeSource,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.testing import ManualClock, throwaway_key

CONTEXT = CallContext(clock=ManualClock(1_700_000_000.0))
OPENID, OAUTH = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"
NOT_FOUND = Reply("nothing here", 404)
KEY = throwaway_key("ES256")
Make = Callable[..., ClientCredentialsSource]


@pytest.fixture
def server(server: Server) -> Server:
    """The one that all OAuth tests have, by its issuer."""
    server.url = server.url.removesuffix("/token")
    return server


@pytest.fixture
def source(server: Server, ca: Path) -> Make:
    def make(path: str = "", **how: Any) -> ClientCredentialsSource:
        how = {"client_secret": "s3cret", **how}
        return ClientCredentialsSource(issuer=server.url + path, client_id="me", ca=ca, **how)

    return make


def metadata(server: Server, path: str = "", **more: Any) -> Reply:
    return Reply({"issuer": server.url + path, "token_endpoint": f"{server.url}/found", **more})


def asked(server: Server) -> list[str]:
    return [f"{request.method} {request.path}" for request in server.requests]


@pytest.mark.parametrize(
    ("path", "first", "second"),
    [
        ("", OPENID, OAUTH),
        ("/", OPENID, OAUTH),
        ("/tenant/v2.0", f"/tenant/v2.0{OPENID}", f"{OAUTH}/tenant/v2.0"),
        ("/tenant/", f"/tenant{OPENID}", f"{OAUTH}/tenant"),
    ],
)
def test_both_places_are_asked_and_the_answer_is_kept(
    server: Server, source: Make, path: str, first: str, second: str
) -> None:
    server.replies[:] = [metadata(server, path), Reply(GRANTED)]
    asking = source(path)
    for _ in range(2):
        assert asking.fetch(CONTEXT).value == "t0ken"
    assert asked(server) == [f"GET {first}", "POST /found", "POST /found"]
    assert "authorization" not in server.requests[0].headers

    server.requests.clear()
    server.replies[:] = [NOT_FOUND, metadata(server, path), Reply(GRANTED)]
    assert source(path).fetch(CONTEXT).value == "t0ken"
    assert asked(server) == [f"GET {first}", f"GET {second}", "POST /found"]


@pytest.mark.parametrize(("given", "there"), [("", "/"), ("/", ""), ("/a", "/a/"), ("/a/", "/a")])
def test_a_slash_at_the_end_makes_no_other_issuer(server: Server, source: Make, given: str, there: str) -> None:
    server.replies[:] = [metadata(server, there), Reply(GRANTED)]

    assert source(given).fetch(CONTEXT).value == "t0ken"


def test_nothing_is_asked_before_the_first_fetch_nor_carried_in_a_pickle(
    server: Server, source: Make, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s3cret")
    server.replies[:] = [metadata(server), Reply(GRANTED), metadata(server), Reply(GRANTED)]
    asking = source(client_secret=tmp_path / "secret")
    assert asked(server) == []
    asking.fetch(CONTEXT)
    dumped = pickle.dumps(asking)
    pickle.loads(dumped).fetch(CONTEXT)

    assert b"/found" not in dumped
    assert asked(server) == [f"GET {OPENID}", "POST /found"] * 2
    assert repr(asking) == f"ClientCredentialsSource(host={server.url[8:]!r}, auth_method='client_secret_basic')"


OTHER = "https://hidden.example.com"
WRONG: dict[str, tuple[list[Reply], type, str]] = {
    "missing": (
        [NOT_FOUND, NOT_FOUND],
        TokenRejectedError,
        r"metadata \(/\.well-known/openid.*answered 404$",
    ),
    "HTML": ([Reply("<html>hidden"), NOT_FOUND], TokenFormatError, "openid-configuration.*HTML or XML"),
    "HTML at the second": ([NOT_FOUND, Reply("<html>hidden")], TokenFormatError, "oauth-authorization.*HTML or XML"),
    "text": ([Reply("hidden"), NOT_FOUND], TokenFormatError, "not JSON"),
    "a list": ([Reply('["hidden"]'), NOT_FOUND], TokenFormatError, "JSON without the field 'issuer'"),
    "no issuer": ([Reply({"token_endpoint": OTHER}), NOT_FOUND], TokenFormatError, "without the field 'issuer'"),
    "another issuer": (
        [Reply({"issuer": OTHER, "token_endpoint": OTHER}), NOT_FOUND],
        TokenRejectedError,
        "another issuer",
    ),
    "a redirect": (
        [Reply("", 302, {"location": OTHER}), NOT_FOUND],
        TokenRejectedError,
        "redirects are never followed",
    ),
    "empty": ([Reply(""), NOT_FOUND], TokenFormatError, "the answer is empty"),
    "too long": ([Reply("x" * 3000), NOT_FOUND], TokenFormatError, "more than 2048 bytes"),
    "refused": ([Reply("hidden", 403), NOT_FOUND], TokenRejectedError, "answered 403$"),
    "down": ([Reply("hidden", 503)], TokenUnavailableError, "answered 503"),
    "busy": ([Reply("hidden", 429, {"retry-after": "7"})], TokenUnavailableError, "answered 429"),
}


@pytest.mark.parametrize("name", WRONG)
def test_metadata_that_cannot_be_used_is_told_clearly_and_no_credential_is_sent(
    server: Server, source: Make, name: str
) -> None:
    replies, kind, words = WRONG[name]
    server.replies[:] = [*replies, metadata(server), Reply(GRANTED)]
    asking = source(max_bytes=2048)
    error = failure(lambda: asking.fetch(CONTEXT), kind, words)

    assert_hidden(error, "hidden", "s3cret")
    assert error.retry_after == (7 if name == "busy" else None)
    assert all(request.startswith("GET ") for request in asked(server))
    assert asking.fetch(CONTEXT).value == "t0ken"  # a failure is not kept


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (None, "token_endpoint: expected a str, got NoneType"),
        (["hidden"], "token_endpoint: expected a str, got list"),
        ("http://hidden.example.com/", "token_endpoint: http:// would send the credential in the clear"),
        ("ftp://hidden.example.com/", "token_endpoint: expected an https:// address"),
        ("hidden", "token_endpoint: has no host name"),
        ("https://me:hidden@localhost/", "token_endpoint: has a user or password"),
    ],
)
def test_an_endpoint_that_is_none_is_refused(server: Server, source: Make, endpoint: Any, words: str) -> None:
    server.replies[:] = [metadata(server, token_endpoint=endpoint)]

    error = failure(lambda: source().fetch(CONTEXT), TokenFormatError, f"issuer: its metadata: {words}")
    assert_hidden(error, "hidden")


def test_metadata_without_the_endpoint_is_refused(server: Server, source: Make) -> None:
    server.replies[:] = [Reply({"issuer": server.url})]

    failure(lambda: source().fetch(CONTEXT), TokenFormatError, "its metadata: names no token_endpoint$")


@pytest.mark.parametrize("status", [404, 410, 301])
def test_an_endpoint_that_has_moved_is_looked_for_again(server: Server, source: Make, status: int) -> None:
    server.replies[:] = [metadata(server), Reply("", status), metadata(server), Reply(GRANTED)]
    asking = source()
    failure(lambda: asking.fetch(CONTEXT), TokenRejectedError, f"answered {status}")

    assert asking.fetch(CONTEXT).value == "t0ken"
    assert asked(server) == [f"GET {OPENID}", "POST /found"] * 2


def test_a_certificate_goes_to_the_endpoint_for_certificates(server: Server, source: Make, tmp_path: Path) -> None:
    # RFC 8705 section 5.
    key, chain = TLS.issue("me").write(tmp_path)
    aliases = {"token_endpoint": f"{server.url}/by-certificate"}
    for cert, path in ((chain, key), "/by-certificate"), (None, "/found"):
        server.replies[:] = [metadata(server, mtls_endpoint_aliases=aliases), Reply(GRANTED)]
        source(cert=cert).fetch(CONTEXT)
        assert asked(server)[-1] == f"POST {path}"


def test_an_assertion_is_for_the_issuer_unless_said_otherwise(server: Server, source: Make) -> None:
    how: dict[str, Any] = {"client_secret": None, "key": KEY}
    for options, audience in (({}, server.url), ({"assertion_audience": "another"}, "another")):
        server.replies[:] = [metadata(server), Reply(GRANTED)]
        source(**how, **options).fetch(CONTEXT)
        claims = verified(server.requests[-1].form["client_assertion"], KEY, "ES256")[1]
        assert claims["aud"] == audience


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "token_url: missing; or give issuer"),
        ({"token_url": "https://a.example/t", "issuer": "https://a.example"}, "issuer: given beside token_url"),
        ({"issuer": 7}, "issuer: expected a str, got int"),
        ({"issuer": ""}, "issuer: empty"),
        ({"issuer": "a.example"}, "issuer: has no host name"),
        ({"issuer": "http://a.example"}, "issuer: http:// would send the credential in the clear"),
        ({"issuer": "https://a.example/?x=y"}, r"issuer: has a '\?' part"),
        ({"issuer": "https://a.example/#x"}, "issuer: has a '#' part"),
        ({"issuer": f"https://a.example{OPENID}"}, f"issuer: give the issuer itself, without {OPENID}"),
        ({"issuer": f"https://a.example{OAUTH}/b"}, f"issuer: give the issuer itself, without {OAUTH}"),
    ],
)
def test_an_issuer_that_is_none_is_refused_when_built(how: dict[str, Any], words: str) -> None:
    failure(lambda: TokenExchangeSource(subject_token="s3cret", **how), ConfigurationError, f"^{words}")
