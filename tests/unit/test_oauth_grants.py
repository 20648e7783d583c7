"""Token exchange, JWT bearer, and how any OAuth client authenticates, over real TLS on loopback."""

from __future__ import annotations

import asyncio
import os
import pickle
import ssl
import threading
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from _https import GRANTED, Reply, Server, assert_hidden, failure, https_server, in_a_child, unsigned_jwt
from attachments import TLS
from jose import verified

from grpc_bearer import (
    BearerAuth,
    CallableSource,
    CallContext,
    ClientCredentialsSource,
    ConfigurationError,
    FileSource,
    JWTBearerSource,
    JWTSource,
    SharedCache,
    Source,
    StaticSource,
    Token,
    TokenExchangeSource,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.sources.jwt import PerToken, nonce
from grpc_bearer.testing import ManualClock, private_pem, throwaway_key

NOW = 1_700_000_000.0
CONTEXT = CallContext(clock=ManualClock(NOW))
URN = "urn:ietf:params:oauth:token-type:"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
KEY = throwaway_key("ES256")
Make = Callable[..., Any]


@pytest.fixture
def exchange(server: Server, ca: Path) -> Make:
    return lambda subject_token, **how: TokenExchangeSource(server.url, subject_token=subject_token, ca=ca, **how)


@pytest.fixture
def bearer(server: Server, ca: Path) -> Make:
    return lambda assertion, **how: JWTBearerSource(server.url, assertion=assertion, ca=ca, **how)


class Counted(Source):
    """Gives `s1`, `s2` and so on, each for an hour."""

    def __init__(self) -> None:
        self.fetched = 0

    def fetch(self, context: CallContext) -> Token:
        self.fetched += 1
        return Token(f"s{self.fetched}", expires_at=context.clock.time() + 3600)


def forms(server: Server) -> list[dict[str, list[str]]]:
    return [parse_qs(request.body.decode(), strict_parsing=True) for request in server.requests]


def sent(server: Server, name: str) -> list[str]:
    return [form[name][0] for form in forms(server)]


# -- token exchange ---------------------------------------------------------------------------------------------------


def test_an_exchange_sends_what_the_rfc_says_and_nothing_else(server: Server, exchange: Make) -> None:
    assert exchange("s3cret").fetch(CONTEXT) == Token("t0ken", expires_at=NOW + 3600)

    exchange(
        "s3cret",
        subject_token_type="jwt",
        actor_token="actor",
        actor_token_type="urn:example:token-type:mine",
        audience=["a", "b"],
        resource=["https://one.example.com", "https://two.example.com"],
        scope=["read", "write"],
        requested_token_type="access_token",
        client_id="me",
        client_secret="hunter2",
        auth_method="client_secret_post",
    ).fetch(CONTEXT)

    first, second = forms(server)
    assert first == {
        "grant_type": [EXCHANGE],
        "subject_token": ["s3cret"],
        "subject_token_type": [f"{URN}access_token"],
    }
    assert second == {
        "grant_type": [EXCHANGE],
        "subject_token": ["s3cret"],
        "subject_token_type": [f"{URN}jwt"],
        "actor_token": ["actor"],
        "actor_token_type": ["urn:example:token-type:mine"],
        "audience": ["a", "b"],
        "resource": ["https://one.example.com", "https://two.example.com"],
        "scope": ["read write"],
        "requested_token_type": [f"{URN}access_token"],
        "client_id": ["me"],
        "client_secret": ["hunter2"],
    }
    assert "authorization" not in server.requests[0].headers


def test_a_file_is_read_and_a_function_called_for_each_exchange(server: Server, exchange: Make, tmp_path: Path) -> None:
    path, numbers = tmp_path / "token", iter(range(9))
    by_file, by_function = exchange(path), exchange(lambda: f"n{next(numbers)}")
    failure(lambda: by_file.fetch(CONTEXT), TokenUnavailableError, "No such file")
    for text in ("one\n", "two\n"):
        path.write_text(text)
        by_file.fetch(CONTEXT)
        by_function.fetch(CONTEXT)

    assert sent(server, "subject_token") == ["one", "n0", "two", "n1"]


def test_a_source_is_asked_once_for_many_exchanges_until_its_token_ends(server: Server, exchange: Make) -> None:
    inner, clock = Counted(), ManualClock(NOW)
    source = exchange(inner)
    for _ in range(3):
        source.fetch(CallContext(clock=clock))
    clock.advance(3601)
    source.fetch(CallContext(clock=clock))

    assert (sent(server, "subject_token"), inner.fetched) == (["s1", "s1", "s1", "s2"], 2)


@pytest.mark.parametrize("code", ["invalid_grant", "invalid_request", "hidden"])
def test_a_refused_subject_token_of_a_source_is_replaced_once(server: Server, exchange: Make, code: str) -> None:
    server.replies[:] = [Reply({"error": code}, 400), Reply(GRANTED)]
    inner = Counted()

    assert exchange(inner).fetch(CONTEXT).value == "t0ken"
    assert sent(server, "subject_token") == ["s1", "s2"]

    server.replies[:] = [Reply({"error": code}, 400)]
    failure(lambda: exchange(Counted()).fetch(CONTEXT), TokenRejectedError, "answered 400")
    assert len(server.requests) == 4


@pytest.mark.parametrize("code", ["invalid_scope", "invalid_target", "invalid_client"])
def test_what_no_other_subject_token_would_mend_costs_one_request(server: Server, exchange: Make, code: str) -> None:
    server.replies[:] = [Reply({"error": code}, 400)]
    inner = Counted()

    failure(lambda: exchange(inner).fetch(CONTEXT), TokenRejectedError, f"answered 400 {code}$")
    assert (len(server.requests), inner.fetched) == (1, 1)


def test_a_source_that_can_give_no_other_token_leaves_the_servers_own_words(
    server: Server, exchange: Make, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("same")
    server.replies[:] = [Reply({"error": "invalid_grant"}, 400)]

    failure(lambda: exchange(FileSource(tmp_path / "token")).fetch(CONTEXT), TokenRejectedError, "400 invalid_grant$")
    assert sent(server, "subject_token") == ["same"]


def test_a_chain_of_three_and_sixteen_threads_cost_one_fetch_each(server: Server, exchange: Make) -> None:
    inner = Counted()
    auth = BearerAuth(exchange(exchange(inner, audience="middle"), audience="outer"))
    tokens: list[Token] = []
    threads = [threading.Thread(target=lambda: tokens.append(auth.token(timeout=30))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [token.value for token in tokens] == ["t0ken"] * 16
    assert (sent(server, "audience"), inner.fetched) == (["middle", "outer"], 1)
    auth.close()


def test_an_auth_lends_its_token_and_is_not_closed_with_the_exchange(server: Server, exchange: Make) -> None:
    inner = Counted()
    auth = BearerAuth(inner, clock=ManualClock(NOW))
    assert auth.token().value == "s1"
    server.replies[:] = [Reply(GRANTED), Reply({"error": "invalid_grant"}, 400), Reply(GRANTED)]
    source = exchange(auth)
    for _ in range(2):
        source.fetch(CONTEXT)
    source.close()

    assert sent(server, "subject_token") == ["s1", "s1", "s2"]
    assert (auth.token().value, inner.fetched) == ("s2", 2)


def test_a_subject_that_differs_by_call_makes_the_exchanges_differ(server: Server, exchange: Make) -> None:
    subject = CallableSource(lambda call: f"for-{call.service}")
    source = exchange(subject)
    a, b = (CallContext(f"https://localhost/{name}", "M", ManualClock(NOW)) for name in ("a.A", "b.B"))
    for context in (a, b):
        source.fetch(context)

    assert source.key(a) != source.key(b)
    assert sent(server, "subject_token") == ["for-a.A", "for-b.B"]
    assert exchange(Counted()).key(a) == ()
    assert exchange(JWTSource(KEY)).key(a) == ()


def test_each_caller_has_an_exchange_of_their_own(server: Server, exchange: Make) -> None:
    # A gateway that acts on behalf of its callers: whose token is kept is told by the key.
    caller: ContextVar[str] = ContextVar("caller")
    auth = BearerAuth(exchange(CallableSource(caller.get, key=lambda call: caller.get())))
    for name in ("ann", "bob", "ann", "bob"):
        context = copy_context()
        context.run(caller.set, name)
        context.run(auth.token)

    assert sent(server, "subject_token") == ["ann", "bob"]
    auth.close()


@pytest.mark.parametrize(
    ("requested", "issued", "kind", "words"),
    [
        (None, None, "Bearer", ""),
        (None, f"{URN}access_token", "Bearer", ""),
        (None, f"{URN}jwt", "Bearer", ""),
        (None, "urn:example:mine", "Bearer", ""),
        ("access_token", f"{URN}jwt", "Bearer", ""),
        ("id_token", f"{URN}id_token", "N_A", ""),
        ("id_token", f"{URN}id_token", "n_a", ""),
        (None, f"{URN}id_token", "N_A", "token_type is not Bearer"),
        (
            None,
            f"{URN}refresh_token",
            "Bearer",
            "the token is refresh_token; .* with requested_token_type=$",
        ),
        (None, f"{URN}id_token", "Bearer", "the token is id_token; if that is right"),
        (None, ["hidden"], "Bearer", "the token is of another type; if that is right"),
        ("id_token", f"{URN}access_token", "Bearer", "the token is access_token; id_token was requested$"),
        ("jwt", "urn:hidden", "Bearer", "the token is of another type; jwt was requested$"),
        ("jwt", ["hidden"], "Bearer", "the token is of another type; jwt was requested$"),
        ("jwt", f"{URN}jwt", "DPoP", "token_type is not Bearer"),
    ],
)
def test_the_issued_type_is_checked(
    server: Server, exchange: Make, requested: str | None, issued: Any, kind: str, words: str
) -> None:
    server.replies[:] = [Reply({**GRANTED, "issued_token_type": issued, "token_type": kind})]
    source = exchange("s3cret", requested_token_type=requested)
    if words:
        assert_hidden(failure(lambda: source.fetch(CONTEXT), TokenFormatError, words), "hidden")
    else:
        assert source.fetch(CONTEXT).value == "t0ken"


def test_an_answer_with_token_in_place_of_access_token_says_so(server: Server, exchange: Make) -> None:
    server.replies[:] = [Reply({"token": "hidden", "expires_in": "60"})]

    error = failure(lambda: exchange("s3cret").fetch(CONTEXT), TokenFormatError, r"but with 'token'.*HTTPTokenSource")
    assert_hidden(error, "hidden", "s3cret")


# -- JWT bearer -------------------------------------------------------------------------------------------------------


def test_each_request_has_an_assertion_of_its_own(server: Server, bearer: Make) -> None:
    claims = {"iss": "me", "sub": "you"}
    source = bearer(JWTSource(KEY, claims=claims, audience="the-server", lifetime=300), scope="read")
    for _ in range(3):
        source.fetch(CONTEXT)

    read = [verified(text, KEY, "ES256")[1] for text in sent(server, "assertion")]
    assert [(one["iss"], one["sub"], one["aud"]) for one in read] == [("me", "you", "the-server")] * 3
    assert len({one["jti"] for one in read}) == 3
    assert {name: forms(server)[0][name] for name in ("grant_type", "scope")} == {
        "grant_type": [JWT_BEARER],
        "scope": ["read"],
    }
    assert "client_id" not in forms(server)[0]


@pytest.mark.parametrize("jti", [nonce, PerToken(lambda: "mine")])
def test_a_jti_of_the_users_own_stays(server: Server, bearer: Make, jti: PerToken) -> None:
    bearer(JWTSource(KEY, claims={"jti": jti})).fetch(CONTEXT)

    [claims] = [verified(text, KEY, "ES256")[1] for text in sent(server, "assertion")]
    assert (claims["jti"] == "mine") is (jti is not nonce)


def test_an_assertion_that_differs_by_call_makes_the_tokens_differ(server: Server, bearer: Make) -> None:
    for single_use in (False, True):
        source = bearer(JWTSource(KEY, audience=lambda call: call.service_url, single_use=single_use))
        a, b = (CallContext(f"https://localhost/{name}", "M", ManualClock(NOW)) for name in ("a.A", "b.B"))
        assert source.key(a) != source.key(b)
    assert bearer(JWTSource(KEY)).key(a) == ()


def test_a_file_a_function_and_another_source_are_asked_each_time(server: Server, bearer: Make, tmp_path: Path) -> None:
    (tmp_path / "assertion").write_text("in-a-file")
    numbers, inner = iter(range(9)), Counted()
    for source in (bearer(tmp_path / "assertion"), bearer(lambda: f"n{next(numbers)}"), bearer(inner)):
        for _ in range(2):
            source.fetch(CONTEXT)
    assert sent(server, "assertion") == ["in-a-file", "in-a-file", "n0", "n1", "s1", "s2"]

    server.replies[:] = [Reply({"error": "invalid_grant"}, 400)]
    failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "invalid_grant$")
    failure(lambda: bearer(lambda: f"n{next(numbers)}").fetch(CONTEXT), TokenRejectedError, "invalid_grant$")
    assert sent(server, "assertion")[6:] == ["s3", "n2"]


# -- client authentication --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "path", "function", "source"])
def test_a_federated_credential_authenticates_the_client(server: Server, ca: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "token").write_text("fed\n")
    given: dict[str, Any] = {
        "text": "fed",
        "path": tmp_path / "token",
        "function": lambda: "fed",
        "source": StaticSource("fed"),
    }
    source = ClientCredentialsSource(server.url, "me", client_assertion=given[kind], ca=ca, scope="api/.default")
    source.fetch(CONTEXT)

    assert forms(server) == [
        {
            "grant_type": ["client_credentials"],
            "scope": ["api/.default"],
            "client_id": ["me"],
            "client_assertion_type": [ASSERTION_TYPE],
            "client_assertion": ["fed"],
        }
    ]
    assert (
        repr(source) == f"ClientCredentialsSource(host={source._client.server.host!r}, auth_method='client_assertion')"
    )


def test_a_federated_credential_that_was_replaced_is_shown_again(server: Server, ca: Path, tmp_path: Path) -> None:
    # A projected token is written anew every hour; whoever reads it once keeps an expired one.
    path = tmp_path / "token"
    path.write_text("old")
    source = ClientCredentialsSource(server.url, "me", client_assertion=path, ca=ca)
    source.fetch(CONTEXT)
    path.write_text("new")
    source.fetch(CONTEXT)

    assert sent(server, "client_assertion") == ["old", "new"]
    assert source.replaceable


def test_a_jwt_source_as_client_assertion_is_signed_for_each_request(server: Server, ca: Path) -> None:
    signed = JWTSource(KEY, claims={"iss": "me", "sub": "me"}, audience="x", lifetime=60)
    source = ClientCredentialsSource(server.url, "me", client_assertion=signed, ca=ca)
    for _ in range(2):
        source.fetch(CONTEXT)

    first, second = (verified(text, KEY, "ES256")[1]["jti"] for text in sent(server, "client_assertion"))
    assert first != second


ASSERTION = {"client_assertion", "client_assertion_type"}


@pytest.mark.parametrize(
    ("how", "method", "names"),
    [
        ({"client_id": "me"}, "none", {"client_id"}),
        ({}, "none", set()),
        ({"client_id": "me", "client_secret": "x"}, "client_secret_basic", set()),
        ({"client_assertion": "x"}, "client_assertion", ASSERTION),
        (
            {"client_id": "me", "key": KEY},
            "private_key_jwt",
            {"client_id", "client_assertion", "client_assertion_type"},
        ),
    ],
)
def test_the_method_follows_from_what_is_given(
    server: Server, exchange: Make, how: dict[str, Any], method: str, names: set[str]
) -> None:
    source = exchange("s3cret", **how)
    source.fetch(CONTEXT)

    assert source._client.authentication.method == method
    assert set(forms(server)[0]) - {"grant_type", "subject_token", "subject_token_type"} == names


def test_a_certificate_authenticates_and_is_read_again_when_it_changes(ca: Path, tmp_path: Path) -> None:
    context = TLS.server_context("localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(ca)
    key, certificate = TLS.issue("first").write(tmp_path)
    with https_server(Reply(GRANTED), context=context) as server:
        source = ClientCredentialsSource(server.url, "me", cert=(certificate, key), ca=ca)
        source.fetch(CONTEXT)
        TLS.issue("second").write(tmp_path)
        source.close()  # what is kept alive was shown the first one
        source.fetch(CONTEXT)
        seen = [request.certificate for request in server.requests]
        assert forms(server) == [{"grant_type": ["client_credentials"], "client_id": ["me"]}] * 2
        assert repr(source).endswith("auth_method='tls_client_auth')")
    assert seen == ["first", "second"]


# -- shared caches, pickles, shutdown ---------------------------------------------------------------------------------


URL = "https://auth.example.com/token"
STRONG = "9f86d081884c7d659a2feaa0c55ad0159f86d081884c7d659a2feaa0c55ad015"
SIGNED = JWTSource(KEY, claims={"iss": "me"})


def test_who_may_share_a_token_is_told_by_subject_and_client() -> None:
    def about(**how: Any) -> Any:
        identity = TokenExchangeSource(URL, **{"subject_token": SIGNED, **how}).identity()
        assert identity is not None
        return identity.about, identity.secret

    assert about() == about()
    assert about()[0] is not None
    different = [
        about(),
        about(audience="a"),
        about(resource="https://a"),
        about(subject_token=JWTSource(KEY, claims={"iss": "you"})),
        about(subject_token=STRONG),
        about(subject_token_type="jwt"),
        about(actor_token=SIGNED, actor_token_type="jwt"),
        about(client_id="me"),
        about(client_id="me", client_secret=STRONG),
        about(extra={"a": "b"}),
    ]
    assert [one for index, one in enumerate(different) if one in different[:index]] == []


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (TokenExchangeSource(URL, subject_token="weak"), "encryption_key: missing"),
        (TokenExchangeSource(URL, subject_token=lambda: "x", client_id="a", client_secret=STRONG), "name: missing"),
        (TokenExchangeSource(URL, subject_token=Path("x"), client_id="a", client_secret=STRONG), "name: missing"),
        (ClientCredentialsSource(URL, "me", client_assertion=Path("x")), "encryption_key: missing"),
        (TokenExchangeSource(URL, subject_token=SIGNED), ""),
        (JWTBearerSource(URL, assertion=SIGNED), ""),
        (ClientCredentialsSource(URL, "me", client_assertion=SIGNED), ""),
    ],
)
def test_what_a_shared_cache_asks_for(source: Source, words: str, tmp_path: Path) -> None:
    cache = SharedCache(tmp_path / "c")
    if words:
        failure(lambda: BearerAuth(source, cache=cache), ConfigurationError, words)
    else:
        BearerAuth(source, cache=cache).close()


def test_a_chain_pickles_by_its_files_and_fetches_anew(server: Server, exchange: Make, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    key = tmp_path / "key.pem"
    key.write_text(private_pem(KEY))
    source = exchange(FileSource(tmp_path / "token"), client_id="me", key=key)
    source.fetch(CONTEXT)
    dumped = pickle.dumps(source)
    copy = pickle.loads(dumped)
    copy.fetch(CONTEXT)

    assert b"s3cret" not in dumped
    assert sent(server, "subject_token") == ["s3cret"] * 2
    for field, inline in {"subject_token": exchange("s3cret"), "token": exchange(StaticSource("s3cret"))}.items():
        error = failure(lambda inline=inline: pickle.dumps(inline), ConfigurationError, f"^{field}: given inline")
        assert_hidden(error, "s3cret")


def test_closing_closes_the_chain_and_a_later_fetch_begins_again(server: Server, exchange: Make) -> None:
    class Closing(Counted):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    inner = Closing()
    source = exchange(inner)
    source.fetch(CONTEXT)
    source.close()
    source.close()
    source.fetch(CONTEXT)

    assert (inner.closed, inner.fetched) == (2, 2)


def test_no_part_of_a_chain_is_shown(server: Server, exchange: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    token = unsigned_jwt(exp=NOW + 60)
    server.replies[:] = [Reply({"error": "invalid_grant", "error_description": f"bad {token} hunter2"}, 400)]
    source = exchange(lambda: token, actor_token="hunter2", actor_token_type="jwt")
    error = failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "answered 400 invalid_grant$")

    assert_hidden(error, token, "hunter2")
    for text in (caplog.text, repr(source), repr(vars(source)), repr(vars(source._client))):
        assert token not in text
        assert "hunter2" not in text


async def test_a_chain_that_needs_this_very_loop_is_refused_instead_of_waited_for(exchange: Make) -> None:
    async def token() -> str:
        return "s3cret"

    auth = BearerAuth(exchange(CallableSource(token, loop=asyncio.get_running_loop())))
    failure(auth.token, ConfigurationError, "its coroutine needs the event loop that runs on this thread")

    assert (await auth.atoken()).value == "t0ken"
    auth.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_goes_on_with_the_chain(server: Server, exchange: Make) -> None:
    inner = Counted()
    source = exchange(inner)
    source.fetch(CONTEXT)

    assert in_a_child(lambda: source.fetch(CONTEXT).value == "t0ken" and inner.fetched == 1)
    source.close()
