"""What real token endpoints, proxies and functions give: taken where it is meant well, and told where it is not."""

from __future__ import annotations

import gzip
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from _https import Reply, Server, assert_hidden, https_server, raw_server, read_request
from grpc import aio

from grpc_bearer import BearerAuth, CallableSource, Source, Token
from grpc_bearer._token import CallContext, Secret
from grpc_bearer.errors import (
    ConfigurationError,
    GrpcBearerError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.sources import ClientCredentialsSource, HTTPTokenSource
from grpc_bearer.testing import CA, ManualClock

NOW = 1_700_000_000.0
CONTEXT = CallContext(clock=ManualClock(NOW))
AUTHORITY = CA()
GRANTED = {"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}
PROXIES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *(name.upper() for name in PROXIES), "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return AUTHORITY.write(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    return AUTHORITY.server_context("localhost", "127.0.0.1")


@pytest.fixture
def server(tls: ssl.SSLContext) -> Iterator[Server]:
    with https_server(Reply(GRANTED), context=tls) as running:
        yield running


Make = Callable[..., Any]


def failure(source: Source, kind: type[GrpcBearerError]) -> GrpcBearerError:
    """The error of a fetch."""
    with pytest.raises(kind) as caught:
        source.fetch(CONTEXT)
    return caught.value


@pytest.fixture
def http(server: Server, ca: Path) -> Make:
    return lambda **options: HTTPTokenSource(server.url, ca=ca, **options)


@pytest.fixture
def oauth(server: Server, ca: Path) -> Make:
    return lambda **options: ClientCredentialsSource(server.url, "me", client_secret="s3cret", ca=ca, **options)


class TestAnswersThatAreTaken:
    @pytest.mark.parametrize("status", [200, 201, 202, 203])
    def test_status(self, status: int, server: Server, oauth: Make, http: Make) -> None:
        server.replies[:] = [Reply(GRANTED, status)]
        assert oauth().fetch(CONTEXT) == Token("t0ken", expires_at=NOW + 3600)
        assert http(field="access_token").fetch(CONTEXT).value == "t0ken"

    @pytest.mark.parametrize("kind", ["BearerToken", "", "Bearer ", " bearer", "BEARER", None])
    def test_token_type(self, kind: str | None, server: Server, oauth: Make) -> None:
        server.replies[:] = [Reply({**GRANTED, "token_type": kind})]
        assert oauth().fetch(CONTEXT).value == "t0ken"

    @pytest.mark.parametrize("kind", ["DPoP", "mac", "N_A", "pop", "bearer dpop"])
    def test_but_no_token_of_another_scheme(self, kind: str, server: Server, oauth: Make) -> None:
        server.replies[:] = [Reply({**GRANTED, "token_type": kind})]
        assert "token_type is not Bearer" in str(failure(oauth(), TokenFormatError))

    @pytest.mark.parametrize("error", ["", " ", None, 0])
    def test_an_empty_error_beside_a_token(self, error: Any, server: Server, oauth: Make) -> None:
        server.replies[:] = [Reply({**GRANTED, "error": error})]
        assert oauth().fetch(CONTEXT).value == "t0ken"

    @pytest.mark.parametrize("body", ['"t0ken"', ' "t0ken\\n" ', '\ufeff"t0ken"'])
    def test_a_json_string_as_the_whole_body(self, body: str, server: Server, http: Make) -> None:
        server.replies[:] = [Reply(body)]
        assert http().fetch(CONTEXT).value == "t0ken"

    @pytest.mark.parametrize("body", ['""', '" "', '"cut', "[]", '["t0ken"]', "null"])
    def test_but_no_other_json(self, body: str, server: Server, http: Make) -> None:
        server.replies[:] = [Reply(body)]
        failure(http(), TokenFormatError)

    @pytest.mark.parametrize("charset", ["ISO-8859-1", '"iso-8859-15"', "windows-1252", "us-ascii", "utf-16"])
    def test_a_declared_charset(self, charset: str, server: Server, http: Make) -> None:
        text = json.dumps({"access_token": "t0ken", "note": "x" if "ascii" in charset else "é"}, ensure_ascii=False)
        kind = f"application/json; charset={charset}"
        server.replies[:] = [Reply(text.encode(charset.strip('"')), headers={"content-type": kind})]
        assert http(field="access_token").fetch(CONTEXT).value == "t0ken"

    @pytest.mark.parametrize("charset", ["rot13", "unicode_escape", "idna", "iso-8859-99", "utf-8"])
    def test_a_charset_that_is_none_is_read_as_utf_8_or_refused(self, charset: str, server: Server, http: Make) -> None:
        server.replies[:] = [
            Reply("t\u00f6ken".encode("latin-1"), headers={"content-type": f"text/plain; charset={charset}"})
        ]
        assert "text" in str(failure(http(), TokenFormatError))

    def test_a_mapping_of_a_body_function_is_sent_as_a_form_where_the_header_says_so(
        self, server: Server, http: Make
    ) -> None:
        fields = {"grant_type": "x y", "secret": Secret("hunter2", "secret")}
        form = {"content-type": "application/x-www-form-urlencoded; charset=utf-8"}
        http(body=lambda: fields, headers=form, field="access_token").fetch(CONTEXT)
        http(body=lambda: fields, field="access_token").fetch(CONTEXT)

        assert server.requests[0].form == {"grant_type": "x y", "secret": "hunter2"}
        assert json.loads(server.requests[1].body) == {"grant_type": "x y", "secret": "hunter2"}
        assert server.requests[1].headers["content-type"] == "application/json"

    @pytest.mark.parametrize("value", [None, 5, ["a"], b"x"])
    def test_a_field_of_a_form_that_is_no_text_is_refused(self, value: Any, server: Server, http: Make) -> None:
        form = {"content-type": "application/x-www-form-urlencoded"}
        failure(http(body=lambda: {"secret": value}, headers=form), TokenFormatError)
        assert server.requests == []


class TestCompressedAnswers:
    """`max_bytes` bounds what is read, whatever the server sends behind the end of what it compressed."""

    def _source(self, server: Server, ca: Path) -> HTTPTokenSource:
        return HTTPTokenSource(server.url, ca=ca, max_bytes=1000)

    @pytest.mark.parametrize("tail", [b"x", b"x" * 1_000_000, gzip.compress(b"more"), gzip.compress(b"") * 10_000])
    def test_bytes_behind_the_end_are_refused(self, tail: bytes, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(gzip.compress(b"t0ken") + tail, headers={"content-encoding": "gzip"})]
        assert "compressed, and broken" in str(failure(self._source(server, ca), TokenUnavailableError))

    @pytest.mark.parametrize("missing", [1, 8, 9, 15])
    def test_a_cut_one_is_refused(self, missing: int, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(gzip.compress(b"t0ken" * 10)[:-missing], headers={"content-encoding": "gzip"})]
        assert "compressed, and broken" in str(failure(self._source(server, ca), TokenUnavailableError))

    def test_one_that_grows_is_refused(self, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(gzip.compress(b"x" * 50_000_000), headers={"content-encoding": "gzip"})]
        assert "more than 1000 bytes" in str(failure(self._source(server, ca), TokenFormatError))

    def test_a_whole_one_is_read(self, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(gzip.compress(b"t0ken"), headers={"content-encoding": "gzip"})]
        assert self._source(server, ca).fetch(CONTEXT).value == "t0ken"


class TestRefusals:
    @pytest.mark.parametrize("code", ["invalid_grant", "invalid_client", "unauthorized_client", "invalid_token"])
    def test_the_registered_code_is_told(self, code: str, server: Server, http: Make) -> None:
        server.replies[:] = [Reply({"error": code, "error_description": "s3cret-text"}, 400)]
        error = failure(http(), TokenRejectedError)
        assert str(error) == f"localhost:{server.url.rpartition(':')[2].partition('/')[0]}: answered 400 {code}"

    @pytest.mark.parametrize("body", [{"error": "s3cret-text"}, {"error": {"code": "s3cret-text"}}, "s3cret-text", b""])
    def test_and_nothing_else_of_the_answer(self, body: Any, server: Server, http: Make) -> None:
        server.replies[:] = [Reply(body, 400)]
        assert str(failure(http(), TokenRejectedError)).endswith(": answered 400")

    def test_one_that_passes_is_no_refusal(self, server: Server, http: Make) -> None:
        server.replies[:] = [Reply({"error": "temporarily_unavailable"}, 400)]
        failure(http(), TokenUnavailableError)


class Refused(grpc.RpcError):
    def __init__(self, code: Any) -> None:
        self._code = code

    def code(self) -> Any:
        if isinstance(self._code, Exception):
            raise self._code
        return self._code

    def details(self) -> str:
        return "s3cret"


class TestFunctionsThatLogInOverGrpc:
    @pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"])
    @pytest.mark.parametrize("kind", ["sync", "asyncio"])
    def test_a_refusal_names_the_status_and_is_lasting(self, code: str, kind: str) -> None:
        status, calls = grpc.StatusCode[code], []

        def login() -> str:
            calls.append(None)
            raise Refused(status)

        async def alogin() -> str:
            calls.append(None)
            raise aio.AioRpcError(status, aio.Metadata(), aio.Metadata(), "s3cret")

        clock = ManualClock(NOW)
        auth = BearerAuth(login if kind == "sync" else alogin, clock=clock)
        for _ in range(5):
            with pytest.raises(TokenRejectedError, match=rf"login\(\): its call ended with {code}$") as caught:
                auth.token(timeout=20)
            assert_hidden(caught.value, "s3cret")
            clock.advance(10)
        assert len(calls) == 1
        auth.close()

    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
    def test_others_pass(self, code: grpc.StatusCode) -> None:
        def login() -> str:
            raise Refused(code)

        assert code.name in str(failure(CallableSource(login), TokenUnavailableError))

    @pytest.mark.parametrize("code", [None, 16, ValueError("s3cret")])
    def test_one_that_does_not_say_is_told_by_its_type(self, code: Any) -> None:
        def login() -> str:
            raise Refused(code)

        error = failure(CallableSource(login), TokenUnavailableError)
        assert str(error).endswith("raised Refused")


class TestWhatTheEnvironmentNames:
    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_a_bundle_that_is_not_there(self, name: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "/nowhere/ca.pem")
        error = failure(HTTPTokenSource(server.url), TokenUnavailableError)
        assert f"{name} names a file that is not there: '/nowhere/ca.pem'" in str(error)

    def test_a_ca_that_went_away(self, server: Server, tmp_path: Path) -> None:
        source = HTTPTokenSource(server.url, ca=(path := AUTHORITY.write(tmp_path)))
        path.unlink()
        assert f"ca names a file that is not there: {str(path)!r}" in str(failure(source, TokenUnavailableError))

    def test_a_bundle_that_holds_no_certificates(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (bundle := tmp_path / "ca.pem").write_text("nothing")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        assert "REQUESTS_CA_BUNDLE" in str(failure(HTTPTokenSource(server.url), TokenUnavailableError))

    @pytest.mark.parametrize(
        ("proxy", "words"),
        [
            ("http//proxy.example.com:3128", "could not be used"),
            ("http://", "its address is not one"),
            ("htp://user:s3cret@127.0.0.1:1", "cannot be used"),
            ("socks5://user:s3cret@127.0.0.1:1", "SOCKS needs the package PySocks"),
        ],
    )
    @pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "ALL_PROXY"])
    def test_a_proxy_that_cannot_be_used(
        self, proxy: str, words: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(name, proxy)
        error = failure(HTTPTokenSource("https://auth.example.com/token"), TokenUnavailableError)
        assert f"the proxy in {name} " in str(error)
        assert words in str(error)
        assert_hidden(error, "s3cret")

    @pytest.mark.parametrize("status", [407, 403, 502])
    def test_a_proxy_that_refuses_tells_its_status(self, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(connection: Any, over: Any) -> None:
            read_request(connection)
            connection.sendall(f"HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n".encode())

        with raw_server(refuse, None) as port:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
            error = failure(HTTPTokenSource("https://auth.example.com/token"), TokenUnavailableError)
        assert f"the proxy in HTTPS_PROXY refused to connect (it answered {status})" in str(error)
        assert ("a user and a password" in str(error)) is (status == 407)


class TestMaxAge:
    """An opaque token of a function is kept until it is refused, unless its age is bounded."""

    def _auth(self, **options: Any) -> tuple[BearerAuth, ManualClock, list[int]]:
        clock, asked = ManualClock(NOW), []

        def token() -> str:
            asked.append(len(asked))
            return f"t{asked[-1]}"

        return BearerAuth(CallableSource(token, **options), clock=clock), clock, asked

    def test_without_it_the_function_is_asked_once(self) -> None:
        auth, clock, asked = self._auth()
        for _ in range(5):
            assert auth.token().value == "t0"
            clock.advance(1e6)
        assert asked == [0]

    def test_with_it_no_token_is_older(self) -> None:
        auth, clock, _ = self._auth(max_age=60)
        assert auth.token().value == "t0"
        clock.advance(61)
        assert auth.token().value == "t1"

    @pytest.mark.parametrize(("expires", "expected"), [(30.0, 30.0), (100.0, 60.0), (None, 60.0)])
    def test_the_earlier_end_counts(self, expires: float | None, expected: float) -> None:
        token = Token("t0", expires_at=None if expires is None else NOW + expires)
        assert CallableSource(lambda: token, max_age=60).fetch(CONTEXT).expires_at == NOW + expected

    @pytest.mark.parametrize("age", [0, -1, True, "60", float("inf"), float("nan")])
    def test_it_is_a_number_of_seconds(self, age: Any) -> None:
        with pytest.raises(ConfigurationError, match="max_age"):
            CallableSource(lambda: "t0", max_age=age)
