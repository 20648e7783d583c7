"""A Google Cloud client, and google-auth's own transports, with our auth: against a local server, over TLS."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import google.auth.transport.grpc
import grpc
import jose
import pytest
from google.auth import jwt as google_jwt
from google.auth.crypt import RSASigner
from google.auth.transport.requests import AuthorizedSession

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer.testing import (
    JWTVerifier,
    ManualClock,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Request,
    Response,
    TokenServer,
    private_pem,
    throwaway_key,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Google's packages warn of Python versions that they will leave behind one day
    secrets = pytest.importorskip(
        "google.cloud.secretmanager_v1", reason="google-cloud-secret-manager is not installed", exc_type=ImportError
    )
    from google.api_core import exceptions, gapic_v1, retry
    from google.cloud.secretmanager_v1.services.secret_manager_service import transports

SERVICE = "google.cloud.secretmanager.v1.SecretManagerService"
NAME = "projects/p/secrets/s/versions/1"


@pytest.fixture
def bearer_services() -> Sequence[Callable[[grpc.Server], None]]:
    """As much of Secret Manager as is asked for here. Google ships its messages, but no servicer."""

    def access(request: Any, context: grpc.ServicerContext) -> Any:
        return secrets.AccessSecretVersionResponse(name=request.name, payload={"data": b"the payload"})

    def every(request: Any, context: grpc.ServicerContext) -> Any:
        names = [f"{request.parent}/secrets/{number}" for number in range(3)]
        start = int(request.page_token or 0)
        page = [secrets.Secret(name=name) for name in names[start : start + 2]]
        return secrets.ListSecretsResponse(secrets=page, next_page_token="2" if start == 0 else "")

    handlers = {
        "AccessSecretVersion": _handler(
            access, secrets.AccessSecretVersionRequest, secrets.AccessSecretVersionResponse
        ),
        "ListSecrets": _handler(every, secrets.ListSecretsRequest, secrets.ListSecretsResponse),
    }
    generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
    return [lambda server: server.add_generic_rpc_handlers([generic])]


def _handler(serve: Any, request: Any, response: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(serve, request.deserialize, response.serialize)


def our_channel(server: ProbeServer, auth: BearerAuth) -> dict[str, Any]:
    return {"channel": grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth)}


def our_credentials(server: ProbeServer, auth: BearerAuth) -> dict[str, Any]:
    return {
        "host": server.target,
        "credentials": auth.as_google_credentials(),
        "ssl_channel_credentials": server.channel_credentials(),
    }


def our_aio_channel(server: ProbeServer, auth: BearerAuth) -> dict[str, Any]:
    return {"channel": grpc_bearer.aio.secure_channel(server.target, server.channel_credentials(), auth=auth)}


@pytest.fixture(params=[our_channel, our_credentials])
def client(request: Any, bearer_grpc_server: ProbeServer, bearer_auth: BearerAuth) -> Iterator[Any]:
    transport = transports.SecretManagerServiceGrpcTransport(**request.param(bearer_grpc_server, bearer_auth))
    with secrets.SecretManagerServiceClient(transport=transport) as made:
        yield made


def test_a_call_carries_a_token_that_verifies(
    client: Any, bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, no_secrets_logged: Any
) -> None:
    answer = client.access_secret_version(name=NAME)

    (attempt,) = bearer_grpc_server.ledger
    assert answer.payload.data == b"the payload"
    assert attempt.header_values == [f"Bearer {attempt.token}"]
    assert jose.verified(attempt.token or "", bearer_token_server.public_key, "ES256")


def test_paging_uses_one_token(client: Any, bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer) -> None:
    found = [each.name for each in client.list_secrets(parent="projects/p")]

    assert found == [f"projects/p/secrets/{number}" for number in range(3)]
    assert len(bearer_grpc_server.ledger) == 2
    assert len(bearer_token_server.issued) == 1


def test_an_expired_token_is_replaced(
    bearer_clock: ManualClock, client: Any, bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer
) -> None:
    client.access_secret_version(name=NAME)
    bearer_clock.advance(4000)
    client.access_secret_version(name=NAME)

    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, True]
    assert len(bearer_token_server.issued) == 2


def test_over_our_channel_a_revoked_token_is_replaced_within_the_call(
    bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, bearer_auth: BearerAuth
) -> None:
    transport = transports.SecretManagerServiceGrpcTransport(**our_channel(bearer_grpc_server, bearer_auth))
    with secrets.SecretManagerServiceClient(transport=transport) as client:
        client.access_secret_version(name=NAME)
        bearer_token_server.revoke(*bearer_token_server.issued)
        client.access_secret_version(name=NAME)

    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, False, True]


def test_with_our_credentials_googles_retry_and_invalidate_replace_a_revoked_token(
    bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, bearer_auth: BearerAuth
) -> None:
    transport = transports.SecretManagerServiceGrpcTransport(**our_credentials(bearer_grpc_server, bearer_auth))
    heal = retry.Retry(
        predicate=retry.if_exception_type(exceptions.Unauthenticated),
        on_error=lambda error: bearer_auth.invalidate(bearer_token_server.issued[-1]),
        initial=0.01,
    )
    with secrets.SecretManagerServiceClient(transport=transport) as client:
        client.access_secret_version(name=NAME)
        bearer_token_server.revoke(*bearer_token_server.issued)
        with pytest.raises(exceptions.Unauthenticated, match="token revoked"):
            client.access_secret_version(name=NAME, retry=None)
        client.access_secret_version(name=NAME, retry=heal)

    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, False, False, True]


def test_a_failing_token_server_is_an_error_of_googles_that_says_so(
    client: Any, bearer_token_server: TokenServer, bearer_grpc_server: ProbeServer, bearer_kit: Any
) -> None:
    bearer_token_server.fail_with(bearer_kit.Status(400))

    with pytest.raises(exceptions.GoogleAPICallError, match="400"):
        client.access_secret_version(name=NAME, retry=None)

    assert len(bearer_grpc_server.ledger) == 0


@pytest.mark.parametrize("how", [our_aio_channel, our_credentials])
def test_the_asyncio_client_carries_it_too(
    how: Any, bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, bearer_auth: BearerAuth
) -> None:
    async def run() -> list[Any]:
        transport = transports.SecretManagerServiceGrpcAsyncIOTransport(**how(bearer_grpc_server, bearer_auth))
        async with secrets.SecretManagerServiceAsyncClient(transport=transport) as client:
            payloads = await asyncio.gather(*[client.access_secret_version(name=NAME) for _ in range(5)])
            return [payload.payload.data for payload in payloads]

    assert asyncio.run(run()) == [b"the payload"] * 5
    (token,) = bearer_grpc_server.ledger.tokens
    assert jose.verified(token, bearer_token_server.public_key, "ES256")


def test_google_puts_its_routing_header_beside_our_token(client: Any, bearer_grpc_server: ProbeServer) -> None:
    client.access_secret_version(name=NAME)

    metadata = dict(bearer_grpc_server.ledger[0].metadata)
    assert metadata[gapic_v1.routing_header.ROUTING_METADATA_KEY] == "name=projects/p/secrets/s/versions/1"
    assert "authorization" in metadata


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_quota_project_of_a_client_goes_out_beside_our_token(
    bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, bearer_auth: BearerAuth, asynchronous: bool
) -> None:
    how = {**our_credentials(bearer_grpc_server, bearer_auth), "quota_project_id": "who-pays"}

    async def run() -> None:
        transport = transports.SecretManagerServiceGrpcAsyncIOTransport(**how)
        async with secrets.SecretManagerServiceAsyncClient(transport=transport) as client:
            await client.access_secret_version(name=NAME)

    if asynchronous:
        asyncio.run(run())
    else:
        transport = transports.SecretManagerServiceGrpcTransport(**how)
        with secrets.SecretManagerServiceClient(transport=transport) as client:
            client.access_secret_version(name=NAME)

    (attempt,) = bearer_grpc_server.ledger
    assert [value for name, value in attempt.metadata if name == "x-goog-user-project"] == ["who-pays"]
    assert attempt.header_values == [f"Bearer {bearer_token_server.issued[0]}"]


def test_over_rest_too(bearer_token_server: TokenServer, bearer_auth: BearerAuth, bearer_ca_file: Path) -> None:
    arrived: list[Request] = []

    def access(request: Request) -> Response:
        arrived.append(request)
        return Response(200, b'{"payload": {"data": "dGhlIHBheWxvYWQ="}}', content_type="application/json")

    url = bearer_token_server.serve(f"/v1/{NAME}:access", access)
    credentials: Any = bearer_auth.as_google_credentials()
    transport = transports.SecretManagerServiceRestTransport(
        host=url.removeprefix("https://").partition("/")[0], credentials=credentials.with_quota_project("who-pays")
    )
    transport._session.verify, transport._session.trust_env = str(bearer_ca_file), False
    with secrets.SecretManagerServiceClient(transport=transport) as client:
        assert client.access_secret_version(name=NAME).payload.data == b"the payload"

    assert [request.headers["x-goog-user-project"] for request in arrived] == ["who-pays"]
    assert [request.headers["authorization"] for request in arrived] == [f"Bearer {bearer_token_server.issued[0]}"]


# --------------------------------------------------------------------------------------------- google-auth, in and out


def test_googles_own_secure_channel_takes_our_credentials(
    bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, bearer_auth: BearerAuth
) -> None:
    channel = google.auth.transport.grpc.secure_authorized_channel(
        bearer_auth.as_google_credentials(),
        None,
        bearer_grpc_server.target,
        ssl_credentials=bearer_grpc_server.channel_credentials(),
    )
    with channel:
        ProbeStub(channel).Unary(ProbeRequest())

    (token,) = bearer_grpc_server.ledger.tokens
    assert jose.verified(token, bearer_token_server.public_key, "ES256")


def test_googles_plugin_makes_call_credentials_of_ours(
    bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, bearer_auth: BearerAuth
) -> None:
    plugin = google.auth.transport.grpc.AuthMetadataPlugin(bearer_auth.as_google_credentials(), None)
    with bearer_grpc_server.channel() as channel:
        ProbeStub(channel).Unary(ProbeRequest(), credentials=grpc.metadata_call_credentials(plugin))

    assert bearer_grpc_server.ledger.tokens == bearer_token_server.issued


def test_an_authorized_session_sends_the_tokens_of_the_grpc_calls_and_heals(
    bearer_grpc_server: ProbeServer,
    bearer_token_server: TokenServer,
    bearer_auth: BearerAuth,
    bearer_channel: grpc.Channel,
    bearer_ca_file: Path,
) -> None:
    verifier = bearer_token_server.verifier()

    def rest(request: Request) -> Response:
        verdict = verifier.verify([("authorization", request.headers["authorization"])], request.path)
        return Response(401 if verdict.refusal else 200)

    url = bearer_token_server.serve("/v1/cars", rest)
    with AuthorizedSession(bearer_auth.as_google_credentials()) as session:
        session.verify, session.trust_env = str(bearer_ca_file), False
        assert session.get(url).status_code == 200
        ProbeStub(bearer_channel).Unary(ProbeRequest())
        bearer_token_server.revoke(*bearer_token_server.issued)
        assert session.get(url).status_code == 200
        ProbeStub(bearer_channel).Unary(ProbeRequest())

    assert len(bearer_token_server.issued) == 2
    assert bearer_grpc_server.ledger.tokens == bearer_token_server.issued


@pytest.mark.parametrize("on_demand", [False, True])
def test_googles_credentials_are_a_source_of_ours(bearer_grpc_server: ProbeServer, on_demand: bool) -> None:
    key = throwaway_key("RS256")
    info = {"client_email": "me@example.com", "token_uri": "https://oauth.example.com/token"}
    signer = RSASigner.from_string(private_pem(key), "key-1")
    kind = google_jwt.OnDemandCredentials if on_demand else google_jwt.Credentials
    options = {} if on_demand else {"audience": "https://api.example.com/"}
    credentials = kind._from_signer_and_info(signer, info, **options)
    bearer_grpc_server.verifier = JWTVerifier(key.public_key(), ["RS256"], issuer="me@example.com")

    security = bearer_grpc_server.channel_credentials()
    with grpc_bearer.secure_channel(bearer_grpc_server.target, security, auth=credentials) as channel:
        ProbeStub(channel).Unary(ProbeRequest())

    (attempt,) = bearer_grpc_server.ledger
    header, claims = jose.verified(attempt.token or "", key, "RS256")
    service = f"https://{bearer_grpc_server.target}/grpc_bearer.testing.v1.Probe"
    assert header["kid"] == "key-1"
    assert claims["aud"] == (service if on_demand else "https://api.example.com/")
