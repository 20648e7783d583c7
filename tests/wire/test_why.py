"""What the page "Why" says of google-auth, interceptors written by hand and httpx-auth, each beside this library.

Each test shows both, in the same situation, on real connections.
"""

from __future__ import annotations

import json
import logging
import math
import os
import ssl
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import google.auth._exponential_backoff
import google.auth.transport.grpc
import google.auth.transport.requests
import grpc
import pytest
import requests
from google.oauth2 import service_account

import grpc_bearer
from grpc_bearer import BearerAuth, InsecureChannelError, TokenRejectedError
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


#: Makes one call with a timeout in seconds, and tells how it ended, in gRPC's words.
Call = Callable[[float], str]
OK, REFUSED, DOWN, LATE = "OK", "UNAUTHENTICATED", "UNAVAILABLE", "DEADLINE_EXCEEDED"


def calling(channel: grpc.Channel) -> Call:
    stub = ProbeStub(channel)

    def call(timeout: float = PATIENCE) -> str:
        try:
            stub.Unary(ProbeRequest(index=1), timeout=timeout)
        except grpc.RpcError as error:
            return str(error.code().name)  # type: ignore[attr-defined]
        return OK

    return call


@contextmanager
def google_auth(issuer: Issuer) -> Iterator[Call]:
    """As Google's own clients do it."""
    pytest.importorskip("google.auth", "2.60", reason="the page is about the newest")
    credentials, request = issuer.credentials(), google.auth.transport.requests.Request()
    tls = issuer.api.channel_credentials()
    with google.auth.transport.grpc.secure_authorized_channel(credentials, request, issuer.api.target, tls) as channel:
        yield calling(channel)


_Details = namedtuple("_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression"))


class ByHand(grpc.UnaryUnaryClientInterceptor):
    """What most people write: a cached token, and another one when it has expired."""

    def __init__(self, fetch: Callable[[], tuple[str, float]]) -> None:
        self._fetch, self._token, self._expires = fetch, "", 0.0

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        if time.time() >= self._expires:
            self._token, self._expires = self._fetch()
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._token}")]
        return continuation(_Details(details.method, details.timeout, metadata, None, None, None), request)


@contextmanager
def by_hand(issuer: Issuer) -> Iterator[Call]:
    """An interceptor, and a token request by requests."""

    def fetch() -> tuple[str, float]:
        answer = requests.post(issuer.url, timeout=PATIENCE).json()
        return answer["access_token"], time.time() + answer["expires_in"]

    with issuer.api.channel() as plain:
        yield calling(grpc.intercept_channel(plain, ByHand(fetch)))


@contextmanager
def httpx_auth(issuer: Issuer) -> Iterator[Call]:
    """On REST, which is all that it is for."""
    httpx, theirs = pytest.importorskip("httpx"), pytest.importorskip("httpx_auth")
    theirs.OAuth2.token_cache.clear()

    def api(request: Any) -> Response:
        verdict = issuer.verifier.verify([("authorization", request.headers["authorization"])], "")
        return Response(401 if verdict.refusal else 200, b"")

    url = issuer.tokens.serve("/api", api)
    tls = ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"])
    with httpx.Client(verify=tls) as client:
        auth = theirs.OAuth2ClientCredentials(issuer.url, "id", "secret", client=client)

        def call(timeout: float = PATIENCE) -> str:
            return {200: OK, 401: REFUSED}[client.get(url, auth=auth, timeout=timeout).status_code]

        yield call


@contextmanager
def ours(issuer: Issuer) -> Iterator[Call]:
    """The very credentials that google-auth has, as a source."""
    auth, tls = BearerAuth(issuer.credentials()), issuer.api.channel_credentials()
    with auth, grpc_bearer.secure_channel(issuer.api.target, tls, auth=auth) as channel:
        yield calling(channel)


Who = Callable[[Issuer], AbstractContextManager[Call]]


class TestATokenDies:
    """The table of the first page, row by row."""

    @pytest.mark.parametrize(
        ("who", "fetches", "at_once"), [(google_auth, 20, 20), (by_hand, 20, 20), (httpx_auth, 20, 1), (ours, 1, 1)]
    )
    def test_twenty_calls_at_once_without_a_token(
        self,
        issuer: Issuer,
        who: Who,
        fetches: int,
        at_once: int,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        together = threading.Barrier(at_once)
        issuer.meanwhile = lambda: together.wait(PATIENCE)  # passes only if so many fetches run at the same time
        without = threading.Barrier(20)

        def all_of_them(record: logging.LogRecord) -> bool:
            if record.msg == "Token cannot be found in cache.":  # httpx-auth's: one after the other fetches now
                without.wait(PATIENCE)
            return True

        caplog.set_level(logging.DEBUG, "httpx_auth._oauth2.tokens")
        monkeypatch.setattr(logging.getLogger("httpx_auth._oauth2.tokens"), "filters", [all_of_them])
        with who(issuer) as call, ThreadPoolExecutor(20) as pool:
            outcomes = [each.result() for each in [pool.submit(call, PATIENCE) for _ in range(20)]]

        assert (issuer.asked, set(outcomes)) == (fetches, {OK})

    @pytest.mark.parametrize(
        ("who", "outcome"), [(google_auth, REFUSED), (by_hand, REFUSED), (httpx_auth, REFUSED), (ours, OK)]
    )
    def test_a_server_has_revoked_it(self, issuer: Issuer, who: Who, outcome: str) -> None:
        with who(issuer) as call:
            call(PATIENCE)
            issuer.verifier.revoke("token-1")

            assert [call(PATIENCE) for _ in range(3)] == [outcome] * 3

    @pytest.mark.parametrize(("who", "outcome"), [(google_auth, DOWN), (by_hand, OK), (httpx_auth, OK), (ours, OK)])
    def test_its_endpoint_is_down_while_it_is_good_for_200_seconds(
        self, issuer: Issuer, who: Who, outcome: str
    ) -> None:
        issuer.lifetime = 200
        with who(issuer) as call:
            call(PATIENCE)
            issuer.down = True

            assert [call(PATIENCE) for _ in range(3)] == [outcome] * 3

    @pytest.mark.parametrize(("who", "fetches"), [(google_auth, 10), (by_hand, 1), (httpx_auth, 1), (ours, 1)])
    def test_ten_calls_in_turn_with_a_token_of_two_minutes(self, issuer: Issuer, who: Who, fetches: int) -> None:
        issuer.lifetime = 120
        with who(issuer) as call:
            assert [call(PATIENCE) for _ in range(10)] == [OK] * 10
        assert issuer.asked == fetches

    @pytest.mark.parametrize(
        ("who", "in_time"), [(google_auth, True), (by_hand, False), (httpx_auth, False), (ours, True)]
    )
    def test_a_timeout_passes_while_the_fetch_hangs(self, issuer: Issuer, who: Who, in_time: bool) -> None:
        begun, over = threading.Event(), threading.Event()

        def hang() -> None:
            begun.set()
            over.wait(PATIENCE)

        issuer.meanwhile = hang
        with who(issuer) as call, ThreadPoolExecutor(1) as pool:
            ended = pool.submit(call, 0.5)
            assert begun.wait(PATIENCE)
            done, _ = wait([ended], timeout=PATIENCE if in_time else 1.5)
            over.set()

            assert bool(done) is in_time
            assert not in_time or ended.result() == LATE


class TestByHand:
    """What else an interceptor does that looks right."""

    def test_on_a_plaintext_channel_it_sends_the_token_in_the_clear_and_ours_does_not(self) -> None:
        api = ProbeServer(OpaqueVerifier(["by-hand"]), credentials="insecure")
        with api, grpc.insecure_channel(api.target) as plain:
            call = calling(grpc.intercept_channel(plain, ByHand(lambda: ("by-hand", math.inf))))
            assert (call(PATIENCE), [attempt.token for attempt in api.ledger]) == (OK, ["by-hand"])

            api.ledger.clear()
            with pytest.raises(grpc.RpcError) as caught:
                ProbeStub(grpc_bearer.intercept_channel(plain, "by-hand")).Unary(ProbeRequest(), timeout=PATIENCE)
            assert isinstance(caught.value.__cause__, InsecureChannelError)
            assert len(api.ledger) == 0

    def test_a_stream_made_once_more_from_the_same_iterator_has_lost_what_was_read_and_ours_has_not(
        self, issuer: Issuer
    ) -> None:
        issuer.verifier.accept("by-hand")
        header = (("authorization", "Bearer by-hand"),)
        refusal = Refuse(after_requests=2)
        with issuer.api.channel() as plain:
            issuer.api.script(refusal)
            stub, sent = ProbeStub(plain), (ProbeRequest(index=index) for index in range(100))
            with pytest.raises(grpc.RpcError):
                stub.ClientStream(sent, metadata=header)
            again = stub.ClientStream(sent, metadata=header)
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
    """A plugin written by hand, whose credential is refused."""

    def __call__(self, context: Any, callback: Any) -> None:
        callback((), TokenRejectedError("the credential was refused"))


class Coroutine(grpc.AuthMetadataPlugin):
    """A plugin that somebody made a coroutine function."""

    async def __call__(self, context: Any, callback: Any) -> None:
        callback((("authorization", "Bearer token"),), None)


class TestPlugins:
    """What gRPC makes of a plugin."""

    def theirs(self, issuer: Issuer, plugin: grpc.AuthMetadataPlugin) -> grpc.Channel:
        call_credentials = grpc.metadata_call_credentials(plugin)
        both = grpc.composite_channel_credentials(issuer.api.channel_credentials(), call_credentials)
        return grpc.secure_channel(issuer.api.target, both)

    def ours(self, issuer: Issuer, source: Any) -> grpc.Channel:
        return grpc_bearer.secure_channel(issuer.api.target, issuer.api.channel_credentials(), auth=source)

    def test_a_refused_credential_is_called_unavailable_by_grpc_and_unauthenticated_by_us(self, issuer: Issuer) -> None:
        def refused() -> str:
            raise TokenRejectedError("the credential was refused")

        with self.theirs(issuer, Failing()) as theirs, self.ours(issuer, refused) as ours:
            assert (calling(theirs)(PATIENCE), calling(ours)(PATIENCE)) == (DOWN, REFUSED)

    @pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
    def test_a_coroutine_function_hangs_until_the_deadline_and_is_a_source_for_us(self, issuer: Issuer) -> None:
        async def token() -> str:
            return "token"

        issuer.verifier.accept("token")
        with self.theirs(issuer, Coroutine()) as theirs, self.ours(issuer, token) as ours:
            assert (calling(theirs)(0.5), calling(ours)(PATIENCE)) == (LATE, OK)
