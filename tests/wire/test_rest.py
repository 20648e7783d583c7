"""The adapters for requests and httpx: REST calls over real TLS, to one origin that wants a token and to another."""

from __future__ import annotations

import asyncio
import contextlib
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jose
import pytest
import requests

import grpc_bearer
from grpc_bearer import BearerAuth, CallContext, InsecureChannelError, JWTSource, Source, Token, TokenUnavailableError
from grpc_bearer.rest import httpx_auth, requests_auth
from grpc_bearer.testing import (
    CA,
    JWTVerifier,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Request,
    Response,
    SecretWatch,
    TokenServer,
    throwaway_key,
)

httpx = pytest.importorskip("httpx", reason="httpx is not installed")

PATIENCE = 20.0


class Counter(Source):
    """t0, t1, …; after the last of them, none."""

    def __init__(self, single_use: bool = False, count: int = 100) -> None:
        self.single_use = single_use
        self.left = [f"t{number}" for number in range(count)]
        self.contexts: list[CallContext] = []

    def fetch(self, context: CallContext) -> Token:
        self.contexts.append(context)
        if not self.left:
            raise TokenUnavailableError("no more")
        return Token(self.left.pop(0), single_use=self.single_use)


@dataclass
class Site:
    """One origin: what arrived there, and its answers by path."""

    server: TokenServer
    arrived: list[Request] = field(default_factory=list)

    def on(self, path: str, answer: Callable[[Request], Response]) -> str:
        def handler(request: Request) -> Response:
            self.arrived.append(request)
            return answer(request)

        return self.server.serve(path, handler)

    def headers(self, name: str = "authorization") -> list[str | None]:
        return [request.headers.get(name) for request in self.arrived]


def refusing(*tokens: str, header: str = "authorization") -> Callable[[Request], Response]:
    """401 without a token, and for those named."""

    def answer(request: Request) -> Response:
        token = request.headers.get(header, "").removeprefix("Bearer ")
        return Response(401 if token in ("", *tokens) else 200, b"{}")

    return answer


def redirecting(to: str, status: int = 307) -> Callable[[Request], Response]:
    return lambda request: Response(status, headers={"Location": to})


@pytest.fixture(scope="module")
def ca() -> CA:
    return CA()


@pytest.fixture
def home(ca: CA) -> Iterator[Site]:
    with TokenServer(ca) as server:
        yield Site(server)


@pytest.fixture
def elsewhere(ca: CA) -> Iterator[Site]:
    with TokenServer(ca) as server:
        yield Site(server)


class RequestsClient:
    def __init__(self, ca: CA, directory: Path) -> None:
        self.session = requests.Session()
        self.session.verify, self.session.trust_env = str(ca.write(directory)), False

    def __call__(self, auth: object, method: str, url: str, *, how: dict[str, Any] | None = None, **body: Any) -> Any:
        return self.session.request(method, url, auth=requests_auth(auth, **how or {}), timeout=PATIENCE, **body)

    def twice(self, auth: object, url: str) -> list[int]:
        request = self.session.prepare_request(requests.Request("GET", url, auth=requests_auth(auth)))
        return [self.session.send(request, timeout=PATIENCE).status_code for _ in range(2)]

    def close(self) -> None:
        self.session.close()


class HTTPXClient:
    def __init__(self, ca: CA, directory: Path) -> None:
        self.how: dict[str, Any] = {"verify": ca.client_context(), "follow_redirects": True, "trust_env": False}

    def __call__(self, auth: object, method: str, url: str, *, how: dict[str, Any] | None = None, **body: Any) -> Any:
        with httpx.Client(auth=httpx_auth(auth, **how or {}), **self.how) as client:
            return client.request(method, url, **_spelled(body))

    def twice(self, auth: object, url: str) -> list[int]:
        with httpx.Client(auth=httpx_auth(auth), **self.how) as client:
            request = client.build_request("GET", url)
            return [client.send(request).status_code for _ in range(2)]

    def close(self) -> None:
        pass


class AsyncHTTPXClient(HTTPXClient):
    def __call__(self, auth: object, method: str, url: str, *, how: dict[str, Any] | None = None, **body: Any) -> Any:
        async def run() -> Any:
            async with httpx.AsyncClient(auth=httpx_auth(auth, **how or {}), **self.how) as client:
                return await client.request(method, url, **_spelled(body, asynchronous=True))

        return asyncio.run(run())

    def twice(self, auth: object, url: str) -> list[int]:
        async def run() -> list[int]:
            async with httpx.AsyncClient(auth=httpx_auth(auth), **self.how) as client:
                request = client.build_request("GET", url)
                return [(await client.send(request)).status_code for _ in range(2)]

        return asyncio.run(run())


def _spelled(body: dict[str, Any], asynchronous: bool = False) -> dict[str, Any]:
    """The arguments of requests as those of httpx."""
    if "data" not in body:
        return body
    pieces = body.pop("data")

    async def stream() -> Any:
        for piece in pieces:
            yield piece

    return {**body, "content": stream() if asynchronous else pieces}


Client = RequestsClient | HTTPXClient


@pytest.fixture(params=[RequestsClient, HTTPXClient, AsyncHTTPXClient])
def client(request: pytest.FixtureRequest, ca: CA, tmp_path: Path) -> Iterator[Client]:
    made = request.param(ca, tmp_path)
    yield made
    made.close()


# ---------------------------------------------------------------------------------------------------------- the header


def test_a_signed_token_arrives(home: Site, client: Client) -> None:
    key = throwaway_key("ES256")
    url = home.on("/v1/cars", refusing())

    answer = client(BearerAuth(JWTSource(key, claims={"sub": "me"})), "GET", f"{url}?page=2")

    (header,) = home.headers()
    assert answer.status_code == 200
    assert header is not None
    assert jose.verified(header.removeprefix("Bearer "), key, "ES256")[1]["sub"] == "me"


def test_header_and_scheme_are_those_of_the_auth(home: Site, client: Client) -> None:
    url = home.on("/", refusing(header="x-token"))

    assert client(BearerAuth("s3cret", header="x-token", scheme=""), "GET", url).status_code == 200
    assert home.headers("x-token") == ["s3cret"]
    assert home.headers() == [None]


@pytest.mark.parametrize("own", [None, "mine"])
def test_a_quota_project_goes_out_beside_the_token_unless_the_caller_names_another(
    home: Site, client: Client, own: str | None
) -> None:
    from google.oauth2.credentials import Credentials

    url = home.on("/", refusing())
    auth = BearerAuth(Credentials(token="t0", quota_project_id="who-pays"))

    assert client(auth, "GET", url, headers={"X-Goog-User-Project": own} if own else {}).status_code == 200
    assert home.headers() == ["Bearer t0"]
    assert home.headers("x-goog-user-project") == [own or "who-pays"]


def test_what_an_auth_can_be_made_of_will_do(home: Site, client: Client) -> None:
    assert client(lambda: "made-on-the-fly", "GET", home.on("/", refusing())).status_code == 200
    assert home.headers() == ["Bearer made-on-the-fly"]


def test_a_header_of_the_callers_own_wins(home: Site, client: Client) -> None:
    url = home.on("/", refusing("theirs"))
    source = Counter()

    answer = client(source, "GET", url, headers={"Authorization": "Bearer theirs"})

    assert answer.status_code == 401
    assert home.headers() == ["Bearer theirs"]
    assert source.contexts == []


@pytest.mark.parametrize(
    ("how", "expected"), [({}, "/v1/cars"), ({"url": "https://api.example.com/fleet"}, "https://api.example.com/fleet")]
)
def test_the_source_is_told_the_url_without_its_query_or_the_one_given(
    home: Site, client: Client, how: dict[str, Any], expected: str
) -> None:
    source = Counter()
    url = home.on("/v1/cars", refusing())

    client(source, "GET", f"{url}?secret=x", how=how)

    assert source.contexts[0].service_url == (home.server.url(expected) if expected[0] == "/" else expected)


# ------------------------------------------------------------------------------------------------------- a stale token


def test_a_401_is_answered_by_another_token_and_the_next_request_uses_that(home: Site, client: Client) -> None:
    auth = BearerAuth(Counter())
    url = home.on("/", refusing("t0"))

    statuses = [client(auth, "GET", url).status_code for _ in range(2)]

    assert statuses == [200, 200]
    assert home.headers() == ["Bearer t0", "Bearer t1", "Bearer t1"]


def test_a_second_401_is_the_answer(home: Site, client: Client) -> None:
    answer = client(Counter(), "GET", home.on("/", refusing("t0", "t1", "t2")))

    assert answer.status_code == 401
    assert home.headers() == ["Bearer t0", "Bearer t1"]


def test_a_403_is_the_answer(home: Site, client: Client) -> None:
    answer = client(Counter(), "GET", home.on("/", lambda request: Response(403)))

    assert answer.status_code == 403
    assert home.headers() == ["Bearer t0"]


@pytest.mark.parametrize("source", ["s3cret", Counter(count=1)], ids=["static", "used-up"])
def test_without_another_token_the_servers_own_answer_is_shown(home: Site, client: Client, source: Any) -> None:
    auth = BearerAuth(source if isinstance(source, str) else Counter(count=1))
    url = home.on("/", lambda request: Response(401, b"who are you?"))

    answer = client(auth, "GET", url)

    assert (answer.status_code, answer.text) == (401, "who are you?")
    assert len(home.arrived) == 1


def test_without_a_first_token_nothing_is_sent(home: Site, client: Client) -> None:
    url = home.on("/", refusing())

    with pytest.raises(TokenUnavailableError, match="no more"):
        client(Counter(count=0), "GET", url)

    assert home.arrived == []


def test_a_token_replaced_by_another_call_meanwhile_is_not_given_up(home: Site, client: Client) -> None:
    auth = BearerAuth(Counter())

    def answer(request: Request) -> Response:
        if request.headers["authorization"] == "Bearer t0":
            auth.invalidate("t0")
            auth.token()
            return Response(401)
        return Response()

    assert client(auth, "GET", home.on("/", answer)).status_code == 200
    assert home.headers() == ["Bearer t0", "Bearer t1"]
    assert auth.token().value == "t1"


def test_a_request_object_sent_again_gets_the_token_of_the_day(home: Site, client: Client) -> None:
    auth = BearerAuth(Counter())
    revoked = ["t0"]

    def answer(request: Request) -> Response:
        response = refusing(*revoked)(request)
        if response.status == 200:
            revoked.append("t1")
        return response

    assert client.twice(auth, home.on("/", answer)) == [200, 200]
    assert home.headers() == ["Bearer t0", "Bearer t1", "Bearer t1", "Bearer t2"]


def test_a_body_at_hand_is_sent_again(home: Site, client: Client) -> None:
    assert client(Counter(), "POST", home.on("/", refusing("t0")), json={"name": "car"}).status_code == 200

    bodies = [request.body.replace(b" ", b"") for request in home.arrived]
    assert bodies == [b'{"name":"car"}'] * 2


def test_a_body_that_is_gone_is_not_sent_again_but_its_token_is_given_up(home: Site, client: Client) -> None:
    auth = BearerAuth(Counter())
    url = home.on("/", refusing("t0"))

    # The length is told, since the small server here knows no chunks.
    answer = client(auth, "POST", url, data=iter([b"piece"]), headers={"Content-Length": "5"})

    assert answer.status_code == 401
    assert len(home.arrived) == 1
    assert auth.token().value == "t1"


def test_requests_rewinds_a_file(home: Site, ca: CA, tmp_path: Path) -> None:
    client = RequestsClient(ca, tmp_path)

    assert client(Counter(), "PUT", home.on("/", refusing("t0")), data=io.BytesIO(b"content")).status_code == 200
    assert [request.body for request in home.arrived] == [b"content"] * 2
    client.close()


def test_requests_streams_the_second_answer_as_it_would_the_first(home: Site, ca: CA, tmp_path: Path) -> None:
    client = RequestsClient(ca, tmp_path)

    with client(Counter(), "GET", home.on("/", refusing("t0")), stream=True) as answer:
        assert (answer.status_code, b"".join(answer.iter_content())) == (200, b"{}")
    assert [each.status_code for each in answer.history] == [401]
    client.close()


# ----------------------------------------------------------------------------------------------------------- redirects

HEADERS = pytest.mark.parametrize("header", ["authorization", "x-token"])


@HEADERS
@pytest.mark.parametrize("single_use", [False, True])
def test_another_origin_never_sees_a_token(
    home: Site, elsewhere: Site, client: Client, header: str, single_use: bool
) -> None:
    away = elsewhere.on("/", lambda request: Response(401))
    auth = BearerAuth(Counter(single_use), header=header)

    answer = client(auth, "GET", home.on("/", redirecting(away)))

    assert answer.status_code == 401
    assert home.headers(header) == ["Bearer t0"]
    assert elsewhere.headers(header) == [None]


@HEADERS
def test_another_origin_sees_no_token_after_a_retry_either(
    home: Site, elsewhere: Site, client: Client, header: str
) -> None:
    away = elsewhere.on("/", lambda request: Response(200))
    auth = BearerAuth(Counter(), header=header)

    def answer(request: Request) -> Response:
        return Response(401) if request.headers[header].endswith("t0") else redirecting(away)(request)

    assert client(auth, "GET", home.on("/", answer)).status_code == 200
    assert home.headers(header) == ["Bearer t0", "Bearer t1"]
    assert elsewhere.headers(header) == [None]


@HEADERS
def test_a_redirect_into_the_clear_loses_the_token(home: Site, client: Client, header: str) -> None:
    with TokenServer(None) as plain:
        clear = Site(plain)
        away = clear.on("/", lambda request: Response())
        assert client(BearerAuth("s3cret", header=header), "GET", home.on("/", redirecting(away))).status_code == 200

    assert clear.headers(header) == [None]


@HEADERS
def test_a_redirect_within_the_origin_brings_the_token(home: Site, client: Client, header: str) -> None:
    home.on("/cars/", refusing(header=header))
    auth = BearerAuth(Counter(), header=header)

    assert client(auth, "GET", home.on("/cars", redirecting("/cars/"))).status_code == 200
    assert auth.token().value == "t0"


@HEADERS
def test_a_token_for_a_single_use_does_not_go_along(home: Site, client: Client, header: str) -> None:
    home.on("/cars/", refusing(header=header))
    auth = BearerAuth(Counter(single_use=True), header=header)

    assert client(auth, "GET", home.on("/cars", redirecting("/cars/"))).status_code == 200
    sent = [value for value in home.headers(header) if value is not None]
    assert sorted(set(sent)) == sent


def test_what_a_redirect_has_made_a_get_is_repeated_as_a_get(home: Site, client: Client) -> None:
    there = home.on("/done", refusing("t0"))
    here = home.on("/do", redirecting(there, 303))

    assert client(Counter(), "POST", here, json={}).status_code == 200
    assert [(request.method, request.path) for request in home.arrived] == [
        ("POST", "/do"),
        ("GET", "/done"),
        ("GET", "/done"),
    ]


@pytest.mark.parametrize(
    "location",
    ["https://{home}\\@{away}/", "https://{home}@{away}/", "//{away}/", "\\\\{away}/", "https://{home}.{away}/"],
)
def test_a_location_that_parsers_read_differently_is_another_origin(
    home: Site, elsewhere: Site, client: Client, location: str
) -> None:
    elsewhere.server.serve("/", lambda request: Response())
    names = {"home": urlsplit(home.server.url("/")).netloc, "away": urlsplit(elsewhere.server.url("/")).netloc}
    url = home.on("/", redirecting(location.format(**names)))

    with contextlib.suppress(requests.RequestException, httpx.HTTPError, httpx.InvalidURL):
        client(BearerAuth("s3cret-token", header="x-token", scheme=""), "GET", url)

    assert [each for each in elsewhere.server.exchanges if "s3cret-token" in str(each.headers)] == []


# ----------------------------------------------------------------------------------------------------------- the clear


@pytest.mark.parametrize("url", ["http://api.example.com/", "http://127.0.0.1.example.com/", "http://[2001:db8::1]/"])
def test_nothing_goes_out_in_the_clear(client: Client, url: str) -> None:
    source = Counter()

    with pytest.raises(InsecureChannelError, match="would get the token in the clear"):
        client(source, "GET", f"{url}?password=x")

    assert source.contexts == []


@pytest.mark.parametrize("allowed", [False, True])
def test_a_proxy_of_the_clients_own_gets_no_token_for_loopback(client: Client, allowed: bool) -> None:
    source = Counter()
    with TokenServer(None) as server:
        url = Site(server).on("/", refusing())
        if allowed:
            assert client(source, "GET", url, how={"allow_plaintext": True}).status_code == 200
            return
        with pytest.raises(InsecureChannelError, match="or a proxy on the way there"):
            client(source, "GET", url)

    assert source.contexts == []


def test_a_mesh_that_encrypts_below_is_said_to_be_one() -> None:
    request = requests.Request("GET", "http://cars.mesh/", auth=requests_auth("s3cret", allow_plaintext=True))
    transport = httpx.MockTransport(lambda got: httpx.Response(200, text=got.headers["authorization"]))

    with httpx.Client(auth=httpx_auth("s3cret", allow_plaintext=True), transport=transport) as client:
        assert client.get("http://cars.mesh/").text == "Bearer s3cret"
    assert request.prepare().headers["authorization"] == "Bearer s3cret"


# ---------------------------------------------------------------------------------------------------------------- rest


async def test_waiting_for_a_token_does_not_block_the_loop(home: Site, ca: CA) -> None:
    release = threading.Event()

    def slow() -> str:
        assert release.wait(PATIENCE)
        return "s3cret"

    url = home.on("/", refusing())
    async with httpx.AsyncClient(auth=httpx_auth(slow), verify=ca.client_context(), trust_env=False) as client:
        pending = asyncio.create_task(client.get(url))
        asyncio.get_running_loop().call_soon(release.set)  # which runs only if nobody blocks the loop
        assert (await pending).status_code == 200


@HEADERS
def test_nobody_logs_the_token(home: Site, elsewhere: Site, client: Client, header: str) -> None:
    away = elsewhere.on("/", lambda request: Response())
    tokens = ["correct-horse-battery-staple", "another-horse-battery-staple"]
    made = iter(tokens)

    def answer(request: Request) -> Response:
        return Response(401) if request.headers[header].endswith(tokens[0]) else redirecting(away)(request)

    url = home.on("/", answer)
    with SecretWatch(*tokens):
        assert client(BearerAuth(lambda: next(made), header=header), "GET", url).status_code == 200


def test_the_token_is_in_no_repr(home: Site, client: Client) -> None:
    auth = BearerAuth("s3cret-token", header="x-token", scheme="")
    answer = client(auth, "GET", home.on("/", refusing(header="x-token")))

    shown = f"{answer!r} {answer.request!r} {httpx_auth(auth)!r} {requests_auth(auth)!r}"
    assert "s3cret-token" not in shown
    assert "BearerAuth(StaticSource, header='x-token')" in shown


def test_httpx_shows_a_header_of_another_name_neither() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, text=request.headers["x-token"]))

    with httpx.Client(auth=httpx_auth(BearerAuth("s3cret", header="x-token")), transport=transport) as client:
        answer = client.get("https://api.example.com/")

    assert answer.text == "Bearer s3cret"
    assert "s3cret" not in repr(answer.request.headers)


def test_without_httpx_the_text_says_what_to_install() -> None:
    script = "import sys; sys.modules['httpx'] = None\nfrom grpc_bearer import rest\nrest.httpx_auth('x')"

    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert "ConfigurationError: httpx_auth: httpx is not installed: pip install httpx" in run.stderr


def test_it_stands_in_the_public() -> None:
    assert grpc_bearer.rest.httpx_auth is httpx_auth


def test_headers_of_a_services_url_are_those_that_its_grpc_calls_send(ca: CA) -> None:
    key = throwaway_key("ES256")
    server = ProbeServer(JWTVerifier(key.public_key(), ["ES256"]), ca)
    url = f"https://{server.target}/grpc_bearer.testing.v1.Probe"
    with server, BearerAuth(JWTSource(key, audience=lambda call: call.service_url)) as auth:
        with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
            ProbeStub(channel).Unary(ProbeRequest(), timeout=10)

        assert [auth.headers(url)["authorization"]] == list(server.ledger[0].header_values)
        assert auth.headers(f"{url}2") != auth.headers(url)
