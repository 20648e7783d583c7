"""google-auth both ways: its credentials give tokens here, and a BearerAuth serves its clients."""

from __future__ import annotations

import copy
import functools
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google.auth._exponential_backoff
import google.auth.api_key
import google.auth.jwt
import google.auth.transport.grpc
import pytest
from _https import raw_server, read_request
from google.auth import compute_engine, exceptions
from google.auth.credentials import Credentials
from google.auth.transport.requests import AuthorizedSession
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account
from jose import verified

import grpc_bearer
from grpc_bearer import BearerAuth, CallContext, Source, Token
from grpc_bearer.errors import (
    ConfigurationError,
    GrpcBearerError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.sources._google_transport import send
from grpc_bearer.sources.google import GoogleAuthSource
from grpc_bearer.testing import (
    CA,
    ManualClock,
    OpaqueVerifier,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Redirect,
    Response,
    TokenServer,
    private_pem,
    throwaway_key,
)

KEY = throwaway_key("RS256")
FLEET = CallContext("https://api.example.com/fleet.v1.Fleet", "List")
ROBOTS = CallContext("https://api.example.com/fleet.v1.Robots", "List")


@pytest.fixture(scope="module")
def ca() -> CA:
    return CA()


@pytest.fixture
def tokens(ca: CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TokenServer]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca.write(tmp_path)))
    monkeypatch.setattr(google.auth._exponential_backoff.time, "sleep", lambda seconds: None)
    with TokenServer(ca) as server:
        yield server


def service_account_info(token_uri: str) -> dict[str, str]:
    return {
        "type": "service_account",
        "client_email": "robot@project.iam.gserviceaccount.com",
        "private_key": private_pem(KEY),
        "private_key_id": "k-1",
        "token_uri": token_uri,
    }


def service_account_at(token_uri: str) -> service_account.Credentials:
    return service_account.Credentials.from_service_account_info(service_account_info(token_uri), scopes=["scope"])


def granting(*answers: dict[str, Any], status: int = 200) -> Any:
    pending = iter(answers)
    return lambda request: Response(status, json.dumps(next(pending)).encode(), content_type="application/json")


def everything_said(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error.args) + repr(vars(error))


# -- google-auth as a source -----------------------------------------------------------------------------------------


def test_a_service_account_exchanges_its_assertion(tokens: TokenServer) -> None:
    url = tokens.serve("/token", granting({"access_token": "t0", "expires_in": 3600}))

    token = GoogleAuthSource(service_account_at(url)).fetch(FLEET)

    assert token.value == "t0"
    assert token.expires_at == pytest.approx(time.time() + 3600, abs=30)
    assertion = tokens.exchanges[0].body.decode().partition("assertion=")[2].partition("&")[0]
    assert verified(assertion, KEY, "RS256")[1]["iss"] == "robot@project.iam.gserviceaccount.com"


def test_each_fetch_brings_another_token(tokens: TokenServer) -> None:
    url = tokens.serve("/token", granting(*({"access_token": f"t{i}", "expires_in": 3600} for i in range(3))))
    source = GoogleAuthSource(service_account_at(url))

    assert [source.fetch(FLEET).value for _ in range(3)] == ["t0", "t1", "t2"]
    assert source.key(FLEET) == source.key(ROBOTS) == ()


def test_self_signed_jwt_credentials_need_no_server() -> None:
    credentials = google.auth.jwt.Credentials.from_service_account_info(
        service_account_info("https://unused.example"), audience="https://api.example.com/"
    )

    token = GoogleAuthSource(credentials).fetch(FLEET)

    assert verified(token.value, KEY, "RS256")[1]["aud"] == "https://api.example.com/"
    assert token.expires_at == pytest.approx(time.time() + 3600, abs=30)


def test_a_service_account_may_sign_its_access_tokens_itself() -> None:
    credentials = service_account_at("https://unused.example").with_always_use_jwt_access(True)

    token = GoogleAuthSource(credentials).fetch(FLEET)

    assert verified(token.value, KEY, "RS256")[1]["scope"] == "scope"


def test_trap_41_on_demand_credentials_sign_anew_for_each_service_and_each_fetch() -> None:
    credentials = google.auth.jwt.OnDemandCredentials.from_service_account_info(
        service_account_info("https://unused.example"), token_lifetime=60, additional_claims={"n": 1}
    )
    source = GoogleAuthSource(credentials)

    token = source.fetch(FLEET)

    claims = verified(token.value, KEY, "RS256")[1]
    assert (claims["aud"], claims["n"]) == (FLEET.service_url, 1)
    assert token.expires_at == claims["exp"] == claims["iat"] + 60
    assert source.key(FLEET) != source.key(ROBOTS)
    # google-auth itself would hand out the cached token until the last moment of its life.
    assert not credentials._cache


def test_on_demand_credentials_need_a_service_url() -> None:
    credentials = google.auth.jwt.OnDemandCredentials.from_service_account_info(
        service_account_info("https://u.example")
    )

    with pytest.raises(TokenRejectedError, match=r"need a service URL .* auth\.token\(url\)"):
        GoogleAuthSource(credentials).fetch(CallContext())


def test_a_token_that_is_there_already_is_used_once_and_cannot_be_refreshed() -> None:
    source = GoogleAuthSource(user_credentials.Credentials(token="s3cret"))

    assert source.fetch(FLEET).value == "s3cret"
    with pytest.raises(TokenRejectedError, match="google-auth: refresh refused"):
        source.fetch(FLEET)


ASK_THE_METADATA_SERVER = """
from google.auth.compute_engine import Credentials
from grpc_bearer import CallContext
from grpc_bearer.sources.google import GoogleAuthSource
print(GoogleAuthSource(Credentials()).fetch(CallContext()).value)
"""


def test_the_metadata_server_is_asked_over_plain_http() -> None:
    with TokenServer(None) as metadata:
        answer = granting(*[{"access_token": "t0", "expires_in": 3600, "email": "e", "scopes": ["s"]}] * 3)
        for path in ("default/", "default/token", "e/token"):
            metadata.serve(f"/computeMetadata/v1/instance/service-accounts/{path}", answer)
        # google-auth reads the variable when it is imported, so in a process of its own.
        host = {"GCE_METADATA_HOST": metadata.url("").removeprefix("http://")}
        script = [sys.executable, "-c", ASK_THE_METADATA_SERVER]
        run = subprocess.run(script, env={**os.environ, **host}, capture_output=True, text=True, timeout=30)

    assert run.stdout.split() == ["t0"], run.stderr
    assert {exchange.headers["metadata-flavor"] for exchange in metadata.exchanges} == {"Google"}


def test_an_answer_that_is_too_long_is_refused_and_never_half_of_it_taken(tokens: TokenServer) -> None:
    def endless(request: Any) -> Response:
        return Response(200, b"t" * 2_000_000, content_type="text/plain")

    with TokenServer(None) as metadata:
        for url in (tokens.serve("/endless", endless), metadata.serve("/endless", endless)):
            with pytest.raises(TokenFormatError, match="answered with more than 1048576 bytes"):
                send(url)


def test_a_metadata_server_that_trickles_is_left_in_time() -> None:
    def trickle(connection: socket.socket, over: threading.Event) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        while not over.wait(0.05):
            connection.sendall(b"t")

    late = r"did not answer \(not within 0.3 s\)"
    with raw_server(trickle, None) as port, pytest.raises(exceptions.TransportError, match=late):
        send(f"http://127.0.0.1:{port}/token", timeout=0.3)


def test_a_metadata_server_is_known_by_its_header_and_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    def answer(connection: socket.socket, over: threading.Event) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nMetadata-Flavor: Google\r\ncontent-length: 2\r\n\r\nok")

    with raw_server(answer, None) as port:
        response = send(f"http://127.0.0.1:{port}/", timeout=5)
    assert (response.status, response.data) == (200, b"ok")
    assert response.headers["metadata-flavor"] == "Google"


def test_a_metadata_server_that_is_away_is_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> Any:
        raise exceptions.TransportError("no route, and a secret")

    source = GoogleAuthSource(compute_engine.Credentials(), request=unreachable)
    monkeypatch.setattr(google.auth._exponential_backoff.time, "sleep", lambda seconds: None)

    with pytest.raises(TokenUnavailableError, match="google-auth: no answer") as caught:
        source.fetch(FLEET)
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("status", "answer", "error", "text"),
    [
        (
            400,
            {"error": "invalid_grant", "error_description": "s3cret"},
            TokenRejectedError,
            "google-auth: invalid_grant",
        ),
        (401, {"error": "s3cret"}, TokenRejectedError, "google-auth: refresh refused"),
        (503, {"error": "s3cret"}, TokenUnavailableError, "google-auth: refresh failed for now"),
        (500, {"error": "s3cret"}, TokenUnavailableError, "google-auth: refresh failed for now"),
        (200, {"s3cret": 1}, TokenRejectedError, "google-auth: refresh refused"),
        (200, {"access_token": "two words s3cret", "expires_in": 60}, TokenFormatError, "Credentials"),
        (200, {"access_token": "t0", "expires_in": -60}, TokenFormatError, "Credentials"),
        (200, {"access_token": "t0", "expires_in": "s3cret"}, TokenFormatError, "google-auth: an answer"),
        (307, {}, TokenRejectedError, "google-auth: the endpoint answered 307, and redirects are not followed"),
    ],
)
def test_refusals_are_told_apart_without_the_text_of_the_answer(
    tokens: TokenServer, status: int, answer: dict[str, Any], error: type[GrpcBearerError], text: str
) -> None:
    url = tokens.serve("/token", granting(*[answer] * 5, status=status))

    with pytest.raises(error, match=text) as caught:
        GoogleAuthSource(service_account_at(url)).fetch(FLEET)

    assert "s3cret" not in everything_said(caught.value)
    assert caught.value.__context__ is None


def test_a_redirect_is_not_followed(tokens: TokenServer) -> None:
    elsewhere = tokens.serve("/elsewhere", granting({"access_token": "stolen"}))
    url = tokens.serve("/token", granting({}))
    tokens.fail_with(Redirect(elsewhere))

    with pytest.raises(TokenRejectedError, match="307"):
        GoogleAuthSource(service_account_at(url)).fetch(FLEET)

    assert [exchange.path for exchange in tokens.exchanges] == ["/token"]


def test_nobody_listening_is_retryable(ca: CA) -> None:
    with TokenServer(ca) as closed:
        url = closed.url("/token")

    with pytest.raises(TokenUnavailableError, match="connection refused"):
        GoogleAuthSource(service_account_at(url)).fetch(FLEET)


def test_an_assertion_does_not_go_out_over_plain_http() -> None:
    with (
        TokenServer(None) as plain,
        pytest.raises(TokenRejectedError, match="http:// would send the credential in the"),
    ):
        GoogleAuthSource(service_account_at(plain.url("/token"))).fetch(FLEET)
    assert plain.exchanges == []


def test_nothing_secret_is_logged_at_debug(tokens: TokenServer, caplog: pytest.LogCaptureFixture) -> None:
    url = tokens.serve("/token", granting({"access_token": "s3cret-token", "expires_in": 3600}))
    for name in ("google", "urllib3", "requests"):
        caplog.set_level(logging.DEBUG, logger=name)
    logging.getLogger("google").propagate = True

    GoogleAuthSource(service_account_at(url)).fetch(FLEET)

    assertion = tokens.exchanges[0].body.decode().partition("assertion=")[2]
    logged = "\n".join(repr(vars(record)) + record.getMessage() for record in caplog.records)
    assert "s3cret-token" not in logged
    assert assertion.partition("&")[0] not in logged


def test_netrc_is_not_read(tokens: TokenServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password s3cret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    url = tokens.serve("/token", granting({"access_token": "t0", "expires_in": 3600}))

    GoogleAuthSource(service_account_at(url)).fetch(FLEET)

    assert "authorization" not in {name.lower() for name in tokens.exchanges[0].headers}


def test_google_credentials_do_not_pickle_for_they_hold_keys() -> None:
    source = GoogleAuthSource(user_credentials.Credentials(token="s3cret"))

    with pytest.raises(ConfigurationError, match="load them anew in the other process"):
        pickle.dumps(source)
    assert repr(source) == "GoogleAuthSource(Credentials)"


# -- a BearerAuth for google-auth ------------------------------------------------------------------------------------


class Counter(Source):
    """t0, t1, t2 …, for each service."""

    def __init__(self, lifetime: float | None = 3600.0, error: Exception | None = None) -> None:
        self.lifetime = lifetime
        self.error = error
        self.count = 0

    def key(self, context: CallContext) -> str:
        return context.service

    def fetch(self, context: CallContext) -> Token:
        if self.error is not None:
            raise self.error
        self.count += 1
        expires_at = None if self.lifetime is None else context.clock.time() + self.lifetime
        return Token(f"{context.service}-t{self.count - 1}", expires_at)


class Context:
    service_url = FLEET.service_url
    method_name = FLEET.method


def test_googles_grpc_plugin_takes_them() -> None:
    credentials = BearerAuth(Counter()).as_google_credentials()
    plugin = google.auth.transport.grpc.AuthMetadataPlugin(credentials, request=None)
    answers: list[Any] = []

    plugin(Context(), lambda metadata, error: answers.append((list(metadata), error)))

    assert isinstance(credentials, Credentials)
    assert answers == [([("authorization", "Bearer fleet.v1.Fleet-t0")], None)]


def test_the_header_is_the_one_of_the_auth() -> None:
    headers = {"accept": "text/plain"}
    credentials = BearerAuth("s3cret", header="x-token", scheme="").as_google_credentials()

    credentials.before_request(None, "GET", "https://api.example.com/", headers)

    assert headers == {"accept": "text/plain", "x-token": "s3cret"}


def test_an_authorized_session_gets_another_token_after_a_401(ca: CA, tmp_path: Path) -> None:
    source = Counter()
    with TokenServer(ca) as server:
        url = server.serve("/v1/robots", lambda request: Response(_status(request.headers["authorization"])))
        session = AuthorizedSession(BearerAuth(source).as_google_credentials())
        session.verify = str(ca.write(tmp_path))
        session.trust_env = False

        assert session.get(url + "?page=2").status_code == 200
        assert session.get(url).status_code == 200
        session.close()

    sent = [
        exchange.headers.get("authorization", exchange.headers.get("Authorization")) for exchange in server.exchanges
    ]
    assert sent == ["Bearer robots-t0", "Bearer robots-t1", "Bearer robots-t1"]


def _status(header: str) -> int:
    return 401 if header.endswith("t0") else 200


def test_token_and_expiry_are_there_after_refresh() -> None:
    clock = ManualClock(time.time())
    credentials = BearerAuth(Counter(lifetime=120.0), clock=clock).as_google_credentials()
    assert not credentials.valid

    credentials.refresh(None)

    # google-auth's own margin of almost four minutes would call a token of two minutes expired from the start.
    assert credentials.valid
    assert credentials.token == "-t0"
    assert credentials.expiry is not None
    assert credentials.expiry.tzinfo is None


def test_a_token_without_expiry_is_valid_for_good() -> None:
    credentials = BearerAuth("s3cret").as_google_credentials()

    credentials.refresh(None)

    assert (credentials.valid, credentials.expiry) == (True, None)


def test_a_refresh_gives_up_only_the_token_that_this_thread_sent() -> None:
    source = Counter()
    credentials = BearerAuth(source).as_google_credentials()
    url = FLEET.service_url

    def send_and_refresh() -> None:
        credentials.before_request(None, "List", url, {})
        credentials.refresh(None)

    credentials.before_request(None, "List", url, {})  # this thread sent t0 …
    other = threading.Thread(target=send_and_refresh)  # … another has replaced it by t1 …
    other.start()
    other.join()
    credentials.refresh(None)  # … so nothing is left to give up

    assert source.count == 2
    assert credentials.token == "fleet.v1.Fleet-t1"


@pytest.mark.parametrize(
    ("error", "retryable"), [(TokenUnavailableError("token server down"), True), (TokenRejectedError("no"), False)]
)
def test_our_errors_become_googles(error: GrpcBearerError, retryable: bool) -> None:
    credentials = BearerAuth(Counter(error=error)).as_google_credentials()

    with pytest.raises(exceptions.RefreshError, match=str(error)) as caught:
        credentials.before_request(None, "List", FLEET.service_url, {})

    assert caught.value.retryable is retryable
    assert isinstance(caught.value.__cause__, type(error))


def test_apply_adds_the_current_token_or_the_one_it_is_given() -> None:
    credentials = BearerAuth("s3cret").as_google_credentials()
    ours: dict[str, str] = {}
    theirs: dict[str, str] = {}

    credentials.apply(ours)
    credentials.apply(theirs, token="other")

    assert (ours, theirs) == ({"authorization": "Bearer s3cret"}, {"authorization": "Bearer other"})


def test_a_copy_shares_the_auth_and_nothing_shows_the_token() -> None:
    source = Counter()
    credentials = BearerAuth(source).as_google_credentials()
    credentials.refresh(None)

    twin = copy.copy(credentials)
    twin.refresh(None)

    assert source.count == 1
    assert "t0" not in repr(credentials)


def test_the_way_there_and_back() -> None:
    credentials = BearerAuth("s3cret").as_google_credentials()

    with BearerAuth(credentials) as auth:
        assert auth.headers() == {"authorization": "Bearer s3cret"}


class TestQuotaProject:
    """Who pays for a call: google-auth sends it beside the token, and so do we."""

    PAYS = ("x-goog-user-project", "who-pays")

    def _credentials(self, project: str | None) -> Credentials:
        return user_credentials.Credentials(token="t0", quota_project_id=project)

    @pytest.mark.parametrize("project", ["who-pays", None])
    def test_that_of_the_credentials_goes_out_with_each_token(self, project: str | None) -> None:
        with ProbeServer(OpaqueVerifier(["t0"])) as server:
            auth = BearerAuth(GoogleAuthSource(self._credentials(project)))
            with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
                for _ in range(2):
                    ProbeStub(channel).Unary(ProbeRequest(), timeout=20)
            sent = [[pair for pair in each.metadata if pair[0] == self.PAYS[0]] for each in server.ledger]
        assert sent == [[self.PAYS] if project else []] * 2
        assert auth.headers() == {"authorization": "Bearer t0", **({self.PAYS[0]: project} if project else {})}

    @pytest.mark.parametrize(
        "wrap", [lambda credentials: credentials, copy.copy, lambda c: pickle.loads(pickle.dumps(c))]
    )
    def test_one_given_to_ours_makes_a_copy_that_sends_it(self, wrap: Any) -> None:
        credentials = BearerAuth(functools.partial(str, "t0")).as_google_credentials()
        with_project = wrap(credentials.with_quota_project("who-pays"))  # type: ignore[attr-defined]

        for ours, expected in ((with_project, "who-pays"), (credentials, None)):
            for how in (
                lambda c, h: c.before_request(None, "GET", "https://api.example.com/", h),
                lambda c, h: c.apply(h),
            ):
                headers: dict[str, str] = {}
                how(ours, headers)
                assert headers.get("x-goog-user-project") == expected
                assert headers["authorization"] == "Bearer t0"

    @pytest.mark.parametrize("project", ["who-pays\n", " who-pays ", b"who-pays".decode()])
    def test_it_is_trimmed_as_other_texts_are(self, project: str) -> None:
        assert GoogleAuthSource(self._credentials(project)).beside == (self.PAYS,)
        headers: dict[str, str] = {}
        BearerAuth("t0").as_google_credentials().with_quota_project(project).apply(headers)  # type: ignore[attr-defined]
        assert headers == {"authorization": "Bearer t0", self.PAYS[0]: self.PAYS[1]}

    @pytest.mark.parametrize("project", ["who\npays", "who-p\u00e4ys", "who\x00pays", "${PROJECT}", 4711])
    def test_one_that_no_header_can_carry_is_refused_when_built(self, project: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"^quota_project_id: "):
            GoogleAuthSource(self._credentials(project))
        with pytest.raises(ConfigurationError, match=r"^quota_project_id: "):
            BearerAuth("t0").as_google_credentials().with_quota_project(project)  # type: ignore[attr-defined]

    def test_credentials_of_a_class_that_knows_of_none(self) -> None:
        class Own(Credentials):
            def __init__(self) -> None:
                self.token, self.expiry = "t0", None

            def refresh(self, request: object) -> None:
                raise AssertionError

        assert BearerAuth(Own()).headers() == {"authorization": "Bearer t0"}

    def test_google_api_core_sets_it(self) -> None:
        helpers = pytest.importorskip("google.api_core.grpc_helpers", reason="no google-api-core here")
        credentials = BearerAuth("t0").as_google_credentials()
        with ProbeServer(OpaqueVerifier(["t0"])) as server:
            with helpers.create_channel(
                server.target,
                credentials=credentials,
                ssl_credentials=server.channel_credentials(),
                quota_project_id="who-pays",
            ) as channel:
                ProbeStub(channel).Unary(ProbeRequest(), timeout=20)
            assert self.PAYS in [tuple(pair) for each in server.ledger for pair in each.metadata]
