"""The OAuth sources against an authorization server that others wrote, npm's oidc-provider; joserfc verifies tokens."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from _authorization_server import CERTIFIED, FLEET, ORDERS, PLATFORM, SECRET, AuthorizationServer
from _https import assert_hidden, failure
from attachments import PATIENCE, TLS
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    CallContext,
    ClientCredentialsSource,
    DeviceCodeSource,
    JWTBearerSource,
    JWTSource,
    RefreshTokenSource,
    Source,
    TokenExchangeSource,
    TokenRejectedError,
)
from grpc_bearer.testing import ManualClock, ProbeRequest, ProbeServer, ProbeStub, Refusal, Verdict

CONTEXT = CallContext()
CONFIDENTIAL = ("basic", "post", "key", "federated", "cert")
CLIENTS = (*CONFIDENTIAL, "public")

Server = AuthorizationServer


@pytest.fixture(scope="module")
def server(authorization_server: Server) -> Server:
    return authorization_server


@pytest.fixture(scope="module")
def certificate(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The files of the client `cert`: chain and key."""
    key, chain = server.certificate.write(tmp_path_factory.mktemp("certificate"))
    return chain, key


@pytest.fixture
def client(server: Server, certificate: tuple[Path, Path]) -> Callable[..., dict[str, Any]]:
    """The arguments by which a client of that name authenticates."""

    def arguments(name: str, at: str = "") -> dict[str, Any]:
        proofs: dict[str, dict[str, Any]] = {
            "basic": {"client_secret": SECRET},
            "post": {"client_secret": SECRET, "auth_method": "client_secret_post"},
            "key": {"key": server.key},
            "federated": {"client_assertion": lambda: server.assertion(name, name, server.url(at))},
            "cert": {"cert": certificate},
            "public": {},
        }
        where = {"issuer": server.url(at)} if at or name == "cert" else {"token_url": server.token_url}
        return {"client_id": name, "ca": server.roots, **where, **proofs[name]}

    return arguments


def subject(server: Server) -> str:
    """What a platform says of one of its workloads."""
    return server.assertion("https://platform.example.com", "system:robot", server.issuer)


def source_of(grant: str, server: Server, **how: Any) -> Source:
    """A source of that grant."""
    if grant == "client_credentials":
        return ClientCredentialsSource(**how)
    if grant == "token_exchange":
        return TokenExchangeSource(subject_token=lambda: subject(server), subject_token_type="jwt", **how)
    claims = {"iss": "https://platform.example.com", "sub": "system:robot"}
    assertion = JWTSource(
        server.platform,
        claims=claims,
        headers={"kid": PLATFORM},
        audience=how.get("issuer", server.issuer),
        lifetime=60,
    )
    return JWTBearerSource(assertion=assertion, **how)


# ------------------------------------------------------------------------------------ who asks, for what, and where

GRANTS = ("client_credentials", "token_exchange", "jwt_bearer")


@pytest.mark.parametrize(
    ("name", "grant"),
    # Nobody gives a token of its own to a client that proves nothing.
    [(name, grant) for name in CLIENTS for grant in GRANTS if (name, grant) != ("public", "client_credentials")],
)
def test_each_client_gets_a_token_by_each_grant(
    server: Server, client: Callable[..., dict[str, Any]], name: str, grant: str
) -> None:
    source = source_of(grant, server, **client(name), scope=["read"], resource=ORDERS)

    tokens = [source.fetch(CONTEXT) for _ in range(2)]  # the second time over the same connection

    first, second = (server.claims(token.value) for token in tokens)
    expected = {"client_id": name, "aud": ORDERS, "scope": "read", "iss": server.issuer, "sub": name}
    whose = {} if grant == "client_credentials" else {"subject": "system:robot"}
    assert {**first, **expected, **whose} == first
    assert first["jti"] != second["jti"]
    assert tokens[0].expires_at == pytest.approx(first["exp"], abs=PATIENCE)
    assert first["exp"] - first["iat"] == 3600


@pytest.mark.parametrize("at", ["", "/openid", "/oauth"])
@pytest.mark.parametrize("name", ["basic", "key", "cert"])
def test_an_issuer_is_found_whose_metadata_is_where_either_specification_says(
    server: Server, client: Callable[..., dict[str, Any]], name: str, at: str
) -> None:
    how = {**client(name, at), "issuer": server.url(at)}
    how.pop("token_url", None)

    token = ClientCredentialsSource(**how, resource=ORDERS).fetch(CONTEXT)

    assert server.claims(token.value)["iss"] == server.url(at)


def test_an_issuer_by_another_name_of_the_same_machine_is_refused(server: Server) -> None:
    other = server.issuer.replace("localhost", "127.0.0.1")
    source = ClientCredentialsSource(issuer=other, client_id="basic", client_secret=SECRET, ca=server.roots)

    failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "another issuer")


def test_a_token_is_bound_to_the_certificate_that_asked_for_it_also_when_that_is_renewed(
    server: Server, client: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """RFC 8705 section 3."""
    key, chain = server.certificate.write(tmp_path)
    source = ClientCredentialsSource(**{**client("cert"), "cert": (chain, key)}, resource=ORDERS)
    for _ in range(2):
        claims = server.claims(source.fetch(CONTEXT).value)
        assert claims["cnf"] == {"x5t#S256": thumbprint(chain)}
        server.ca.issue(CERTIFIED).write(tmp_path)


def thumbprint(chain: Path) -> str:
    leaf = x509.load_pem_x509_certificates(chain.read_bytes())[0].public_bytes(Encoding.DER)
    return base64.urlsafe_b64encode(hashlib.sha256(leaf).digest()).rstrip(b"=").decode()


def test_a_clock_that_is_ten_minutes_off_is_set_right_by_the_servers_own(
    server: Server, client: Callable[..., dict[str, Any]]
) -> None:
    for off in (-600, 600):
        clock = ManualClock(time.time() + off)
        with BearerAuth(ClientCredentialsSource(**client("key"), resource=ORDERS), clock=clock) as auth:
            assert server.claims(auth.token().value)["client_id"] == "key"


# ------------------------------------------------------------------------------------------------------------ refusals


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "a wrong secret": ("401 invalid_client", {"client_secret": "wr0ng"}),
    "no such client": ("401 invalid_client", {"client_id": "hidden", "client_secret": "wr0ng"}),
    "a secret where a key is registered": ("401 invalid_client", {"client_id": "key", "client_secret": "wr0ng"}),
    "another key": ("401 invalid_client", {"client_id": "key", "key": ec.generate_private_key(ec.SECP256R1())}),
    "no certificate": ("401 invalid_client", {"client_id": "cert"}),
    "no such resource": ("400 invalid_target", {"client_secret": SECRET, "resource": "https://hidden.example.com/"}),
    "two resources": ("400 invalid_target", {"client_secret": SECRET, "resource": [ORDERS, FLEET]}),
    "more than it may": (
        "400 invalid_scope",
        {"client_id": "api", "client_secret": SECRET, "auth_method": "client_secret_post", "scope": "read write"},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_told_by_its_code_and_shows_no_secret(server: Server, name: str) -> None:
    code, wrong = REFUSED[name]
    grant = "token_exchange" if name == "no certificate" else "client_credentials"
    how = {"token_url": server.token_url, "client_id": "basic", "ca": server.roots, **wrong}
    source = source_of(grant, server, **how)

    error = failure(lambda: source.fetch(CONTEXT), TokenRejectedError, f"answered {code}")

    assert_hidden(error, SECRET, "wr0ng", "hidden")


def test_a_certificate_of_somebody_else_is_refused(server: Server, client: Callable[..., Any], tmp_path: Path) -> None:
    key, chain = server.ca.issue("other.example.com").write(tmp_path)
    source = ClientCredentialsSource(**{**client("cert"), "cert": (chain, key)})

    failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "answered 401 invalid_client")


@pytest.mark.parametrize(
    "claims",
    [{"aud": "https://other.example.com"}, {"exp": 1}, {"iss": "https://platform.example.com"}, {"sub": "basic"}, {}],
    ids=["for another", "expired", "of another", "about another", "used before"],
)
def test_an_assertion_of_a_platform_that_is_not_good_is_refused(
    server: Server, client: Callable[..., Any], claims: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "assertion"
    source = ClientCredentialsSource(**{**client("federated"), "client_assertion": path})
    path.write_text(assertion := server.assertion("federated", "federated", server.issuer, **claims))
    if not claims:
        source.fetch(CONTEXT)

    error = failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "answered 40[01] invalid_")
    assert_hidden(error, assertion)

    path.write_text(server.assertion("federated", "federated", server.issuer))  # the platform's next one
    assert server.introspect(source.fetch(CONTEXT).value)["active"]


# ------------------------------------------------------------------------------------------------------ on gRPC calls


class Api:
    """An API that asks of each token what its server does: `judge` gives its claims, and is false if it is not good."""

    def __init__(self, judge: Callable[[str], Any]) -> None:
        self._judge = judge

    def verify(self, metadata: Any, method: str) -> Verdict:
        values = [str(value) for name, value in metadata if name == "authorization"]
        token = values[0].removeprefix("Bearer ") if len(values) == 1 else None
        good = token is not None and self._judge(token)
        return Verdict(values, token, refusal=None if good else Refusal("not good"))


def introspected(server: Server) -> Callable[[str], Any]:
    return lambda token: server.introspect(token)["active"]


@pytest.fixture
def opaque(server: Server) -> Iterator[ProbeServer]:
    """Takes tokens that it knows nothing of, and asks the authorization server about each (RFC 7662)."""
    with ProbeServer(Api(introspected(server)), TLS) as probe:
        yield probe


@pytest.mark.parametrize("grant", GRANTS)
@pytest.mark.parametrize("name", CONFIDENTIAL)
def test_a_token_that_the_authorization_server_has_revoked_is_replaced_within_the_call(
    server: Server, opaque: ProbeServer, client: Callable[..., dict[str, Any]], name: str, grant: str
) -> None:
    with (
        BearerAuth(source_of(grant, server, **client(name))) as auth,
        grpc_bearer.secure_channel(opaque.target, TLS.channel_credentials(), auth=auth) as channel,
    ):
        stub = ProbeStub(channel)
        stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)
        server.revoke(auth.token().value)
        replies = [stub.Unary(ProbeRequest(index=1), timeout=PATIENCE) for _ in range(3)]

    assert len(replies) == 3
    assert [attempt.accepted for attempt in opaque.ledger] == [True, False, True, True, True]
    assert len(set(opaque.ledger.tokens)) == 2


async def test_many_asyncio_calls_with_one_revoked_token_cost_one_request(
    server: Server, opaque: ProbeServer, client: Callable[..., dict[str, Any]]
) -> None:
    asked: list[object] = []
    auth = BearerAuth(ClientCredentialsSource(**client("basic")), observers=[asked.append])
    async with grpc_bearer.aio.secure_channel(opaque.target, TLS.channel_credentials(), auth=auth) as channel:
        stub: Any = ProbeStub(channel)
        await stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)
        server.revoke((await auth.atoken()).value)
        await asyncio.gather(*(stub.Unary(ProbeRequest(index=1), timeout=PATIENCE) for _ in range(20)))
    auth.close()

    assert len(set(opaque.ledger.tokens)) == 2
    assert len(opaque.ledger.accepted) == 21


def test_a_token_is_good_for_the_api_that_it_was_asked_for_only(
    server: Server, client: Callable[..., dict[str, Any]]
) -> None:
    """RFC 8707."""
    with ProbeServer(Api(lambda token: server.claims(token)["aud"] == FLEET), TLS) as fleet:
        codes = {}
        for resource in (FLEET, ORDERS):
            source = ClientCredentialsSource(**client("basic"), resource=resource)
            with grpc_bearer.secure_channel(fleet.target, TLS.channel_credentials(), auth=source) as channel:
                call = ProbeStub(channel).Unary.future(ProbeRequest(index=1), timeout=PATIENCE)
                codes[resource] = call.code().name

    assert codes == {FLEET: "OK", ORDERS: "UNAUTHENTICATED"}


# ------------------------------------------------------------------------------------------- tokens for other tokens


def test_sources_in_a_chain_give_a_token_that_names_subject_and_actor(
    server: Server, client: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "token"  # as a platform mounts it
    path.write_text(subject(server))
    actor = ClientCredentialsSource(**client("key"), resource=FLEET)
    how = {"subject_token_type": "jwt", "actor_token": actor, "actor_token_type": "access_token"}
    inner = TokenExchangeSource(**client("basic"), subject_token=path, **how, resource=ORDERS)
    outer = TokenExchangeSource(
        **client("post"), subject_token=inner, resource=FLEET, requested_token_type="access_token"
    )

    with BearerAuth(outer) as auth:
        claims = server.claims(auth.token().value)

    assert (claims["client_id"], claims["aud"], claims["subject"]) == ("post", FLEET, "basic")


def test_a_subject_token_that_is_refused_is_fetched_anew_once(
    server: Server, client: Callable[..., dict[str, Any]]
) -> None:
    given = [server.assertion("x", "stale", server.issuer, exp=1), subject(server)]
    kept = grpc_bearer.CallableSource(lambda: grpc_bearer.Token(given.pop(0) if len(given) > 1 else given[0]))
    source = TokenExchangeSource(**client("public"), subject_token=kept, subject_token_type="jwt", resource=ORDERS)

    assert server.claims(source.fetch(CONTEXT).value)["subject"] == "system:robot"
    assert len(given) == 1


def test_an_assertion_in_a_file_is_taken_once(
    server: Server, client: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "assertion"
    path.write_text(subject(server))
    source = JWTBearerSource(**client("public"), assertion=path)
    source.fetch(CONTEXT)

    failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "answered 400 invalid_grant")
    path.write_text(subject(server))
    assert server.introspect(source.fetch(CONTEXT).value)["active"]


# -------------------------------------------------------------------------------------------------- people who log in


class Browser:
    """Somebody who does what the prompt says, or declines, and whose wait for the next question takes no time."""

    def __init__(self, server: Server, *, decline: bool = False) -> None:
        self.server, self.decline = server, decline
        self.prompts: list[Any] = []
        self.clock = ManualClock(time.time())
        self._over = threading.Event()

    def __call__(self, prompt: Any) -> None:
        self.prompts.append(prompt)
        self.server.visit(prompt.verification_uri_complete, decline=self.decline)

    def __enter__(self) -> Browser:
        self._thread = threading.Thread(target=self._hurry, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _hurry(self) -> None:
        while not self._over.wait(0.01):
            self.clock.advance(0.1)


def log_in(server: Server, how: dict[str, Any], **more: Any) -> tuple[Any, Browser]:
    """The access token of somebody who logs in."""
    with Browser(server) as browser:
        source = DeviceCodeSource(**how, prompt=browser, **more)
        return source.log_in(clock=browser.clock), browser


@pytest.mark.parametrize("name", CLIENTS)
def test_somebody_logs_in_and_stays_so(
    server: Server, client: Callable[..., dict[str, Any]], name: str, tmp_path: Path
) -> None:
    how = client(name, "/openid")
    targets = {"scope": ["openid", "offline_access", "read"], "resource": ORDERS}
    token, browser = log_in(server, how, store=tmp_path / "login", **targets)
    assert whose(server, token.value) == "somebody"
    assert len(browser.prompts) == 1

    # As the next start of the program, and the one after it: each refresh token is used once.
    stored = set()
    for _ in range(2):
        with BearerAuth(RefreshTokenSource(**how, store=tmp_path / "login", **targets)) as auth:
            auth.invalidate(auth.token())
            token = auth.token()
        stored.add(json.loads((tmp_path / "login").read_text())["refresh_token"])
        assert whose(server, token.value) == "somebody"
    assert len(stored) == 2


def whose(server: Server, token: str) -> str:
    """Who has given this token, which is to read orders and nothing else."""
    claims = server.claims(token)
    assert (claims["aud"], claims["scope"]) == (ORDERS, "read")
    return str(claims["sub"])


def test_calls_wait_for_one_login_and_a_token_that_the_api_refuses_asks_nobody_again(
    server: Server, client: Callable[..., dict[str, Any]]
) -> None:
    refused: set[str] = set()
    api = Api(lambda token: token not in refused and server.introspect(token)["active"])
    how = {**client("public"), "device_authorization_url": server.url("/device/auth"), "scope": "openid offline_access"}
    with Browser(server) as browser, ThreadPoolExecutor(8) as pool, ProbeServer(api, TLS) as probe:
        auth = BearerAuth(DeviceCodeSource(**how, prompt=browser), clock=browser.clock)
        with auth, grpc_bearer.secure_channel(probe.target, TLS.channel_credentials(), auth=auth) as channel:

            def call(index: int) -> object:
                return ProbeStub(channel).Unary(ProbeRequest(index=index), timeout=PATIENCE)

            list(pool.map(call, range(8)))
            refused.add(auth.token().value)
            list(pool.map(call, range(8)))

    assert len(browser.prompts) == 1
    assert len(probe.ledger.accepted) == 16
    assert len(set(probe.ledger.tokens)) == 2


def test_somebody_declines(server: Server, client: Callable[..., dict[str, Any]]) -> None:
    how = client("public", "/openid")
    with Browser(server, decline=True) as browser:
        source = DeviceCodeSource(**how, prompt=browser, scope="openid")
        context = CallContext(clock=browser.clock)
        failure(lambda: source.fetch(context), TokenRejectedError, r"declined \(access_denied\)")
    assert len(browser.prompts) == 1


PROCESS = """
import sys
from grpc_bearer import BearerAuth, RefreshTokenSource

issuer, ca, store, resource = sys.argv[1:]
source = RefreshTokenSource(issuer=issuer, client_id="public", store=store, ca=ca, resource=resource)
with BearerAuth(source) as auth:
    for _ in range(3):
        token = auth.token()
        auth.invalidate(token)
    print(auth.token().value)
"""


def test_processes_that_share_a_login_never_use_a_refresh_token_twice(
    server: Server, client: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """The server ends the whole login if one is used twice, as RFC 9700 section 4.14.2 wants it to."""
    store = tmp_path / "login"
    log_in(server, client("public", "/openid"), store=store, scope="openid read offline_access", resource=ORDERS)
    command = [sys.executable, "-c", PROCESS, server.url("/openid"), str(server.roots), str(store), ORDERS]
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=False), range(3)))

    assert [run.stderr for run in runs] == [""] * 3
    for run in runs:
        assert whose(server, run.stdout.strip()) == "somebody"
    refresh_token = json.loads(store.read_text())["refresh_token"]
    assert server.introspect(refresh_token, "/openid")["active"]


def test_a_login_that_has_ended_says_to_log_in_again(
    server: Server, client: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    how, store = client("public", "/openid"), tmp_path / "login"
    targets = {"scope": "openid offline_access"}
    log_in(server, how, store=store, **targets)
    stolen = json.loads(store.read_text())["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": stolen, "client_id": "public"}
    assert requests.post(server.url("/openid/token"), form, verify=server.roots, timeout=PATIENCE).ok
    clock = ManualClock(time.time())
    with BearerAuth(RefreshTokenSource(**how, store=store, **targets), clock=clock) as auth:
        auth.invalidate(auth.token())
        error = failure(auth.token, TokenRejectedError, r"no longer good \(invalid_grant\); log in again$")
        assert_hidden(error, stolen)
        log_in(server, how, store=store, **targets)  # somebody does
        clock.advance(900)  # past the backoff of a failure that lasts
        assert server.introspect(auth.token().value, "/openid")["active"]
