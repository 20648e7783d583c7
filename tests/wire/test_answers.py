"""What real token endpoints and functions give: taken where it is meant well, and told where it is not."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _https import Reply, Server, https_server, raw_server, read_request

from grpc_bearer import BearerAuth, CallableSource, CallContext, Source, Token
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

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ('""', "the answer is empty"),
            ('" "', "the answer is empty"),
            ('"cut', "not JSON"),
            ("[]", "the answer is JSON"),
            ('["t0ken"]', "the answer is JSON"),
            ("null", "the answer is JSON"),
            ("true", "the answer is JSON"),
            ("false", "the answer is JSON"),
            ('"[\\"t0ken\\"]"', "the answer is JSON"),
            ('"{\\"access_token\\":\\"t0ken\\"}"', "the answer is JSON"),
            ('"\\"t0ken\\""', "the answer is JSON"),
            ('"null"', "the answer is JSON"),
        ],
    )
    def test_but_no_other_json(self, body: str, words: str, server: Server, http: Make) -> None:
        server.replies[:] = [Reply(body)]
        assert words in str(failure(http(), TokenFormatError))

    @pytest.mark.parametrize(
        ("declared", "sent"),
        [
            ("ISO-8859-1", "iso-8859-1"),
            ('"iso-8859-15"', "iso-8859-15"),
            ("'ISO_8859-1'", "iso-8859-1"),
            ("latin1", "iso-8859-1"),
            ("Latin-1; profile=x", "iso-8859-1"),
            ("windows-1252", "windows-1252"),
            ("cp1252", "windows-1252"),
            ("utf-16", "utf-16"),
            ("utf-16le", "utf-16le"),
            ("utf-32", "utf-32"),
            ("GBK", "gbk"),
            ("us-ascii", "utf-8"),
            ("euc-jp", "utf-8"),
            ("utf8", "utf-8-sig"),
            ("rot13", "utf-8"),
        ],
    )
    def test_a_declared_charset_or_else_utf_8(self, declared: str, sent: str, server: Server, http: Make) -> None:
        text = json.dumps({"access_token": "t0ken", "note": "é"}, ensure_ascii=False)
        kind = f"application/json; charset={declared}"
        server.replies[:] = [Reply(text.encode(sent), headers={"content-type": kind})]
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
        fields = {"grant_type": "x y", "secret": "hunter2"}
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

    def test_a_list_is_no_form(self, server: Server, http: Make) -> None:
        form = {"content-type": "application/x-www-form-urlencoded"}
        failure(http(body=lambda: [["secret", "hunter2"]], headers=form), TokenFormatError)
        assert server.requests == []


GZIP = {"content-encoding": "gzip"}
EMPTY_BLOCK = b"\0\0\0\xff\xff"  # of deflate: five bytes that stand for nothing


def bare_deflate(data: bytes) -> bytes:
    """Without the header that RFC 9110 wants."""
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


def with_long_name(data: bytes, length: int) -> bytes:
    """gzip that says it was made of a file with a name of that length."""
    packed = gzip.compress(data)
    return packed[:3] + b"\x08" + packed[4:10] + b"n" * length + b"\0" + packed[10:]


def with_empty_blocks(data: bytes, count: int) -> bytes:
    packed = gzip.compress(data)
    return packed[:10] + EMPTY_BLOCK * count + packed[10:]


class TestCompressedAnswers:
    """`max_bytes` bounds what comes over the wire and what it stands for."""

    def _source(self, server: Server, ca: Path) -> HTTPTokenSource:
        return HTTPTokenSource(server.url, ca=ca, max_bytes=1000)

    @pytest.mark.parametrize("tail", [b"x", b"\0" * 8, gzip.compress(b"more")], ids=["x", "zeros", "more"])
    def test_bytes_behind_the_end_are_refused(self, tail: bytes, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(gzip.compress(b"t0ken") + tail, headers=GZIP)]
        assert "compressed, and broken" in str(failure(self._source(server, ca), TokenUnavailableError))

    @pytest.mark.parametrize("missing", [1, 8, 9, 15])
    def test_a_cut_one_is_refused(self, missing: int, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(gzip.compress(b"t0ken" * 10)[:-missing], headers=GZIP)]
        assert "compressed, and broken" in str(failure(self._source(server, ca), TokenUnavailableError))

    @pytest.mark.parametrize(
        "body",
        [
            pytest.param(gzip.compress(b"x" * 50_000_000), id="one that grows"),
            pytest.param(gzip.compress(b"x" * 1001), id="one byte too many"),
            pytest.param(gzip.compress(b"t0ken") + b"x" * 1_000_000, id="much behind its end"),
            pytest.param(gzip.compress(b"t0ken") + gzip.compress(b"") * 10_000, id="ten thousand behind its end"),
            pytest.param(with_long_name(b"t0ken", 1_000_000), id="a header without end"),
            pytest.param(with_empty_blocks(b"t0ken", 200_000), id="blocks that stand for nothing"),
        ],
    )
    @pytest.mark.parametrize("headers", [GZIP, {}])
    def test_a_longer_one_is_refused(self, body: bytes, headers: dict[str, str], server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(body, headers=headers)]
        assert str(failure(self._source(server, ca), TokenFormatError)).endswith("answered with more than 1000 bytes")

    def test_it_is_not_read_to_its_end(self, tls: ssl.SSLContext, ca: Path) -> None:
        def pour(connection: socket.socket, over: threading.Event) -> None:
            read_request(connection)
            head = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\nconnection: close\r\n\r\n"
            connection.sendall(head + with_long_name(b"", 0)[:10])
            while not over.is_set():
                connection.sendall(b"n" * 10_000)

        with raw_server(pour, tls) as port:
            source = HTTPTokenSource(f"https://localhost:{port}/", ca=ca, max_bytes=1000)
            assert "more than 1000 bytes" in str(failure(source, TokenFormatError))

    @pytest.mark.parametrize(
        ("encoding", "body"),
        [
            ("gzip", gzip.compress(b"t0ken")),
            ("GZIP", with_long_name(b"t0ken", 500)),
            ("x-gzip", with_empty_blocks(b"t0ken", 100)),
            ("gzip, identity", gzip.compress(b"t0ken")),
            ("deflate", zlib.compress(b"t0ken")),
            ("deflate", bare_deflate(b"t0ken")),
            ("identity", b"t0ken"),
            ("utf-8", b"t0ken"),
        ],
        ids=lambda value: value if isinstance(value, str) else str(len(value)),
    )
    def test_a_whole_one_is_read(self, encoding: str, body: bytes, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(body, headers={"content-encoding": encoding})]
        assert self._source(server, ca).fetch(CONTEXT).value == "t0ken"

    def test_as_long_as_it_may_be(self, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(gzip.compress(b"x" * 1000), headers=GZIP)]
        assert self._source(server, ca).fetch(CONTEXT).value == "x" * 1000

    def test_one_whose_header_a_proxy_took_away_is_read(self, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(gzip.compress(b"t0ken"))]
        assert self._source(server, ca).fetch(CONTEXT).value == "t0ken"

    @pytest.mark.parametrize("encoding", ["gzip", "deflate"])
    def test_what_is_not_compressed_as_it_says_is_refused(self, encoding: str, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(b"t0ken", headers={"content-encoding": encoding})]
        assert "compressed, and broken" in str(failure(self._source(server, ca), TokenUnavailableError))

    def test_one_that_is_announced_and_empty_is_empty(self, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(b"", 401, GZIP)]
        assert "answered 401" in str(failure(self._source(server, ca), TokenRejectedError))

    def test_a_compressed_refusal_tells_its_code(self, server: Server, ca: Path) -> None:
        server.replies[:] = [Reply(gzip.compress(b'{"error": "invalid_client"}'), 401, GZIP)]
        assert "answered 401 invalid_client" in str(failure(self._source(server, ca), TokenRejectedError))


class TestRefusals:
    @pytest.mark.parametrize("code", ["invalid_grant", "invalid_client", "interaction_required", "use_dpop_nonce"])
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

    @pytest.mark.parametrize(("refresh", "expected"), [(30.0, 30.0), (60.0, None), (100.0, None), (None, None)])
    def test_a_time_to_refresh_at_stays_if_it_comes_before(self, refresh: float | None, expected: float | None) -> None:
        token = Token("t0", refresh_at=None if refresh is None else NOW + refresh)
        given = CallableSource(lambda: token, max_age=60).fetch(CONTEXT).refresh_at
        assert given == (None if expected is None else NOW + expected)

    @pytest.mark.parametrize("age", [0, -1, True, "60", float("inf"), float("nan")])
    def test_it_is_a_number_of_seconds(self, age: Any) -> None:
        with pytest.raises(ConfigurationError, match="max_age"):
            CallableSource(lambda: "t0", max_age=age)
