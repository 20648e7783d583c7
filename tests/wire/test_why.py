"""What the page "Why" says of google-auth, interceptors written by hand and httpx-auth, each beside this library.

Each test shows both, in the same situation, on real connections.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import google.auth._exponential_backoff
import google.auth.transport.grpc
import google.auth.transport.requests
import grpc
import pytest
from google.oauth2 import service_account

import grpc_bearer
from grpc_bearer import BearerAuth, InsecureChannelError, TokenRejectedError, rest
from grpc_bearer.testing import (
    CA,
    OpaqueVerifier,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Refuse,
    Response,
    TokenServer,
    private_pem,
    throwaway_key,
)

PATIENCE = 20.0
KEY = throwaway_key("RS256")
UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE


class Issuer:
    """A token endpoint that counts, and the API which takes its tokens."""

    def __init__(self, ca: CA) -> None:
        self.verifier = OpaqueVerifier([])
        self.api = ProbeServer(self.verifier, ca)
        self.tokens = TokenServer(ca)
        self.url = self.tokens.serve("/token", self._grant)
        self.asked = 0
        self.lifetime = 3600
        self.down = False
        self.meanwhile: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def _grant(self, request: Any) -> Response:
        with self._lock:
            self.asked += 1
            token = f"token-{self.asked}"
        self.meanwhile()
        if self.down:
            return Response(503, b"{}", content_type="application/json")
        self.verifier.accept(token)
        body = {"access_token": token, "expires_in": self.lifetime}
        return Response(200, json.dumps(body).encode(), content_type="application/json")

    def credentials(self) -> service_account.Credentials:
        """google-auth's, of a service account that this endpoint knows."""
        info = {
            "type": "service_account",
            "client_email": "robot@project.iam.gserviceaccount.com",
            "private_key": private_pem(KEY),
            "token_uri": self.url,
        }
        return service_account.Credentials.from_service_account_info(info, scopes=["scope"])


@pytest.fixture
def issuer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Issuer]:
    ca = CA()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca.write(tmp_path)))
    monkeypatch.setattr(google.auth._exponential_backoff.time, "sleep", lambda seconds: None)
    made = Issuer(ca)
    with made.api, made.tokens:
        yield made


Call = Callable[[], Any]


def google_auth(issuer: Issuer) -> tuple[grpc.Channel, Call]:
    """As Google's own clients do it."""
    credentials, request = issuer.credentials(), google.auth.transport.requests.Request()
    tls = issuer.api.channel_credentials()
    channel = google.auth.transport.grpc.secure_authorized_channel(credentials, request, issuer.api.target, tls)
    return channel, caller(channel)


def ours(issuer: Issuer) -> tuple[grpc.Channel, Call]:
    """The very same credentials, as a source."""
    auth = BearerAuth(issuer.credentials())
    channel = grpc_bearer.secure_channel(issuer.api.target, issuer.api.channel_credentials(), auth=auth)
    return channel, caller(channel)


_Details = namedtuple("_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression"))


class ByHand(grpc.UnaryUnaryClientInterceptor):
    """What most people write: a cached token, and another one when it has expired."""

    def __init__(self, fetch: Callable[[], str]) -> None:
        self._fetch, self._token, self._expires = fetch, "", 0.0

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        if time.time() >= self._expires:
            self._token, self._expires = self._fetch(), time.time() + 3600
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._token}")]
        return continuation(_Details(details.method, details.timeout, metadata, None, None, None), request)


def caller(channel: grpc.Channel) -> Call:
    stub = ProbeStub(channel)
    return lambda: stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)


def code_of(call: Call) -> grpc.StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]
        return code
    return grpc.StatusCode.OK


def all_at_once(call: Call, count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        for each in [pool.submit(call) for _ in range(count)]:
            each.result(PATIENCE)


class TestFetches:
    """How often a token is fetched."""

    def test_twenty_cold_calls_of_google_auth_fetch_twenty_tokens_and_ours_fetch_one(self, issuer: Issuer) -> None:
        together = threading.Barrier(20)
        issuer.meanwhile = lambda: together.wait(PATIENCE)  # passes only if twenty fetches run at the same time
        channel, call = google_auth(issuer)
        with channel:
            all_at_once(call, 20)
        assert issuer.asked == 20

        issuer.asked, issuer.meanwhile = 0, lambda: None
        channel, call = ours(issuer)
        with channel:
            all_at_once(call, 20)
        assert issuer.asked == 1

    def test_ten_calls_with_tokens_of_two_minutes_cost_google_auth_ten_fetches_and_us_one(self, issuer: Issuer) -> None:
        issuer.lifetime = 120
        for make, fetches in ((google_auth, 10), (ours, 1)):
            issuer.asked = 0
            channel, call = make(issuer)
            with channel:
                for _ in range(10):
                    call()
            assert issuer.asked == fetches


class TestTheTokenDies:
    """What a call sees when its token is revoked, or its endpoint is down."""

    def test_a_revoked_token_is_sent_on_by_google_auth_and_replaced_by_us(self, issuer: Issuer) -> None:
        outcomes = {}
        for make in (google_auth, ours):
            channel, call = make(issuer)
            with channel:
                call()
                issuer.verifier.revoke(f"token-{issuer.asked}")
                outcomes[make.__name__] = [code_of(call) for _ in range(3)]

        assert outcomes == {"google_auth": [UNAUTHENTICATED] * 3, "ours": [grpc.StatusCode.OK] * 3}

    def test_an_interceptor_written_by_hand_sends_it_on_as_well(self, issuer: Issuer) -> None:
        issuer.verifier.accept("by-hand")
        with issuer.api.channel() as plain:
            call = caller(grpc.intercept_channel(plain, ByHand(lambda: "by-hand")))
            call()
            issuer.verifier.revoke("by-hand")

            assert [code_of(call) for _ in range(3)] == [UNAUTHENTICATED] * 3

    def test_an_endpoint_that_is_down_ends_google_auth_s_calls_while_the_token_is_good(self, issuer: Issuer) -> None:
        issuer.lifetime = 200
        outcomes = {}
        for make in (google_auth, ours):
            issuer.down = False
            channel, call = make(issuer)
            with channel:
                call()
                issuer.down = True
                outcomes[make.__name__] = [code_of(call) for _ in range(3)]

        assert outcomes == {"google_auth": [UNAVAILABLE] * 3, "ours": [grpc.StatusCode.OK] * 3}

    def test_httpx_auth_gives_the_401_to_its_caller_and_keeps_the_token(self, issuer: Issuer) -> None:
        httpx = pytest.importorskip("httpx")
        httpx_auth = pytest.importorskip("httpx_auth")

        def api(request: Any) -> Response:
            return Response(401 if request.headers["authorization"].endswith("token-1") else 200, b"")

        url = issuer.tokens.serve("/api", api)
        tls = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
        statuses = {}
        with httpx.Client(verify=tls) as client:
            theirs = httpx_auth.OAuth2ClientCredentials(issuer.url, "id", "secret", client=client)
            statuses["httpx-auth"] = [client.get(url, auth=theirs).status_code for _ in range(3)]
            httpx_auth.OAuth2.token_cache.clear()
            issuer.asked = 0
            auth = BearerAuth(issuer.credentials())
            statuses["ours"] = [client.get(url, auth=rest.httpx_auth(auth)).status_code for _ in range(3)]

        assert statuses == {"httpx-auth": [401] * 3, "ours": [200] * 3}


class TestByHand:
    """What an interceptor does that looks right."""

    def test_on_a_plaintext_channel_it_sends_the_token_in_the_clear_and_ours_does_not(self) -> None:
        with (
            ProbeServer(OpaqueVerifier(["by-hand"]), credentials="insecure") as api,
            grpc.insecure_channel(api.target) as plain,
        ):
            caller(grpc.intercept_channel(plain, ByHand(lambda: "by-hand")))()
            assert [attempt.token for attempt in api.ledger] == ["by-hand"]

            api.ledger.clear()
            with pytest.raises(grpc.RpcError) as caught:
                caller(grpc_bearer.intercept_channel(plain, "by-hand"))()
            assert isinstance(caught.value.__cause__, InsecureChannelError)
            assert len(api.ledger) == 0

    def test_a_call_waits_for_its_fetch_beyond_the_deadline_and_ours_does_not(self, issuer: Issuer) -> None:
        hanging, begun = threading.Event(), threading.Event()

        def fetch() -> str:
            begun.set()
            hanging.wait(PATIENCE)
            return "late"

        def timed(channel: grpc.Channel) -> grpc.StatusCode:
            stub = ProbeStub(channel)
            return code_of(lambda: stub.Unary(ProbeRequest(index=1), timeout=0.1))

        with ThreadPoolExecutor(1) as pool, issuer.api.channel() as plain:
            late = pool.submit(timed, grpc.intercept_channel(plain, ByHand(fetch)))
            assert begun.wait(PATIENCE)
            with grpc_bearer.secure_channel(issuer.api.target, issuer.api.channel_credentials(), auth=fetch) as channel:
                assert timed(channel) is grpc.StatusCode.DEADLINE_EXCEEDED
            assert not late.done()  # begun earlier, with the same deadline
            hanging.set()
            late.result(PATIENCE)

    def test_a_stream_made_once_more_from_the_same_iterator_has_lost_what_was_read_and_ours_has_not(
        self, issuer: Issuer
    ) -> None:
        issuer.verifier.accept("by-hand")
        header = (("authorization", "Bearer by-hand"),)
        refusal = Refuse(UNAUTHENTICATED, after_requests=2)
        with issuer.api.channel() as plain:
            issuer.api.script(refusal)
            stub, requests = ProbeStub(plain), (ProbeRequest(index=index) for index in range(100))
            with pytest.raises(grpc.RpcError):
                stub.ClientStream(requests, metadata=header)
            again = stub.ClientStream(requests, metadata=header)
        assert len(again.indexes) <= 98  # and it ended with OK

        tokens = iter(["token-a", "token-b"])
        issuer.verifier.accept("token-a", "token-b")
        issuer.api.script(refusal)
        with grpc_bearer.secure_channel(
            issuer.api.target, issuer.api.channel_credentials(), auth=lambda: next(tokens)
        ) as channel:
            reply = ProbeStub(channel).ClientStream(ProbeRequest(index=index) for index in range(100))
        assert list(reply.indexes) == list(range(100))


class Failing(grpc.AuthMetadataPlugin):
    """A plugin written by hand."""

    def __call__(self, context: Any, callback: Any) -> None:
        callback((), TokenRejectedError("the credential was refused"))


class TestPlugins:
    """What gRPC makes of a plugin."""

    def test_a_refused_credential_is_called_unavailable_by_grpc_and_unauthenticated_by_us(self, issuer: Issuer) -> None:
        tls = issuer.api.channel_credentials()
        theirs = grpc.composite_channel_credentials(tls, grpc.metadata_call_credentials(Failing()))
        with grpc.secure_channel(issuer.api.target, theirs) as channel:
            assert code_of(caller(channel)) is UNAVAILABLE

        def refused() -> str:
            raise TokenRejectedError("the credential was refused")

        with grpc_bearer.secure_channel(issuer.api.target, tls, auth=refused) as channel:
            assert code_of(caller(channel)) is UNAUTHENTICATED
