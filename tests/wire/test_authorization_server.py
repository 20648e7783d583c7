"""The OAuth sources against an authorization server that others wrote, npm's oidc-provider; joserfc verifies tokens."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _authorization_server import CERTIFIED, FLEET, ORDERS, PLATFORM, SECRET, Api, AuthorizationServer
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
    JWTBearerSource,
    JWTSource,
    Source,
    TokenExchangeSource,
    TokenRejectedError,
)
from grpc_bearer.testing import ManualClock, ProbeRequest, ProbeServer, ProbeStub

CONTEXT = CallContext()
CONFIDENTIAL = ("basic", "post", "key", "federated", "cert")
CLIENTS = (*CONFIDENTIAL, "public")

Server = AuthorizationServer


@pytest.fixture(scope="module")
def server(authorization_server: Server) -> Server:
    return authorization_server


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
def test_each_client_gets_a_token_by_each_grant(server: Server, name: str, grant: str) -> None:
    source = source_of(grant, server, **server.client(name), scope=["read"], resource=ORDERS)

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
    server: Server, name: str, at: str
) -> None:
    how = {**server.client(name, at), "issuer": server.url(at)}
    how.pop("token_url", None)

    token = ClientCredentialsSource(**how, resource=ORDERS).fetch(CONTEXT)

    assert server.claims(token.value)["iss"] == server.url(at)


def test_an_issuer_by_another_name_of_the_same_machine_is_refused(server: Server) -> None:
    other = server.issuer.replace("localhost", "127.0.0.1")
    source = ClientCredentialsSource(issuer=other, client_id="basic", client_secret=SECRET, ca=server.roots)

    failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "another issuer")


def test_a_token_is_bound_to_the_certificate_that_asked_for_it_also_when_that_is_renewed(
    server: Server, tmp_path: Path
) -> None:
    """RFC 8705 section 3."""
    key, chain = server.certificate.write(tmp_path)
    source = ClientCredentialsSource(**{**server.client("cert"), "cert": (chain, key)}, resource=ORDERS)
    for _ in range(2):
        claims = server.claims(source.fetch(CONTEXT).value)
        assert claims["cnf"] == {"x5t#S256": thumbprint(chain)}
        server.ca.issue(CERTIFIED).write(tmp_path)


def thumbprint(chain: Path) -> str:
    leaf = x509.load_pem_x509_certificates(chain.read_bytes())[0].public_bytes(Encoding.DER)
    return base64.urlsafe_b64encode(hashlib.sha256(leaf).digest()).rstrip(b"=").decode()


def test_a_clock_that_is_ten_minutes_off_is_set_right_by_the_servers_own(server: Server) -> None:
    for off in (-600, 600):
        clock = ManualClock(time.time() + off)
        with BearerAuth(ClientCredentialsSource(**server.client("key"), resource=ORDERS), clock=clock) as auth:
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


def test_a_certificate_of_somebody_else_is_refused(server: Server, tmp_path: Path) -> None:
    key, chain = server.ca.issue("other.example.com").write(tmp_path)
    source = ClientCredentialsSource(**{**server.client("cert"), "cert": (chain, key)})

    failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "answered 401 invalid_client")


@pytest.mark.parametrize(
    "claims",
    [{"aud": "https://other.example.com"}, {"exp": 1}, {"iss": "https://platform.example.com"}, {"sub": "basic"}, {}],
    ids=["for another", "expired", "of another", "about another", "used before"],
)
def test_an_assertion_of_a_platform_that_is_not_good_is_refused(
    server: Server, claims: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "assertion"
    source = ClientCredentialsSource(**{**server.client("federated"), "client_assertion": path})
    path.write_text(assertion := server.assertion("federated", "federated", server.issuer, **claims))
    if not claims:
        source.fetch(CONTEXT)

    error = failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "answered 40[01] invalid_")
    assert_hidden(error, assertion)

    path.write_text(server.assertion("federated", "federated", server.issuer))  # the platform's next one
    assert server.introspect(source.fetch(CONTEXT).value)["active"]


# ------------------------------------------------------------------------------------------------------ on gRPC calls


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
    server: Server, opaque: ProbeServer, name: str, grant: str
) -> None:
    with (
        BearerAuth(source_of(grant, server, **server.client(name))) as auth,
        grpc_bearer.secure_channel(opaque.target, TLS.channel_credentials(), auth=auth) as channel,
    ):
        stub = ProbeStub(channel)
        stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)
        server.revoke(auth.token().value)
        replies = [stub.Unary(ProbeRequest(index=1), timeout=PATIENCE) for _ in range(3)]

    assert len(replies) == 3
    assert [attempt.accepted for attempt in opaque.ledger] == [True, False, True, True, True]
    assert len(set(opaque.ledger.tokens)) == 2


async def test_many_asyncio_calls_with_one_revoked_token_cost_one_request(server: Server, opaque: ProbeServer) -> None:
    asked: list[object] = []
    auth = BearerAuth(ClientCredentialsSource(**server.client("basic")), observers=[asked.append])
    async with grpc_bearer.aio.secure_channel(opaque.target, TLS.channel_credentials(), auth=auth) as channel:
        stub: Any = ProbeStub(channel)
        await stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)
        server.revoke((await auth.atoken()).value)
        await asyncio.gather(*(stub.Unary(ProbeRequest(index=1), timeout=PATIENCE) for _ in range(20)))
    auth.close()

    assert len(set(opaque.ledger.tokens)) == 2
    assert len(opaque.ledger.accepted) == 21


def test_a_token_is_good_for_the_api_that_it_was_asked_for_only(server: Server) -> None:
    """RFC 8707."""
    with ProbeServer(Api(lambda token: server.claims(token)["aud"] == FLEET), TLS) as fleet:
        codes = {}
        for resource in (FLEET, ORDERS):
            source = ClientCredentialsSource(**server.client("basic"), resource=resource)
            with grpc_bearer.secure_channel(fleet.target, TLS.channel_credentials(), auth=source) as channel:
                call = ProbeStub(channel).Unary.future(ProbeRequest(index=1), timeout=PATIENCE)
                codes[resource] = call.code().name

    assert codes == {FLEET: "OK", ORDERS: "UNAUTHENTICATED"}


# ------------------------------------------------------------------------------------------- tokens for other tokens


def test_sources_in_a_chain_give_a_token_that_names_subject_and_actor(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "token"  # as a platform mounts it
    path.write_text(subject(server))
    actor = ClientCredentialsSource(**server.client("key"), resource=FLEET)
    how = {"subject_token_type": "jwt", "actor_token": actor, "actor_token_type": "access_token"}
    inner = TokenExchangeSource(**server.client("basic"), subject_token=path, **how, resource=ORDERS)
    outer = TokenExchangeSource(
        **server.client("post"), subject_token=inner, resource=FLEET, requested_token_type="access_token"
    )

    with BearerAuth(outer) as auth:
        claims = server.claims(auth.token().value)

    assert (claims["client_id"], claims["aud"]) == ("post", FLEET)
    assert (claims["subject"], claims["act"]) == ("system:robot", {"sub": "key"})


def test_a_subject_token_that_is_refused_is_fetched_anew_once(server: Server) -> None:
    given = [server.assertion("x", "stale", server.issuer, exp=1), subject(server)]
    kept = grpc_bearer.CallableSource(lambda: grpc_bearer.Token(given.pop(0) if len(given) > 1 else given[0]))
    source = TokenExchangeSource(
        **server.client("public"), subject_token=kept, subject_token_type="jwt", resource=ORDERS
    )

    assert server.claims(source.fetch(CONTEXT).value)["subject"] == "system:robot"
    assert len(given) == 1


def test_an_assertion_in_a_file_is_taken_once(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "assertion"
    path.write_text(subject(server))
    source = JWTBearerSource(**server.client("public"), assertion=path)
    source.fetch(CONTEXT)

    failure(lambda: source.fetch(CONTEXT), TokenRejectedError, "answered 400 invalid_grant")
    path.write_text(subject(server))
    assert server.introspect(source.fetch(CONTEXT).value)["active"]
