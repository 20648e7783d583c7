"""What a token request takes from its surroundings, files of certificates and proxies: what is wrong there is said."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _https import Reply, Server, assert_hidden, https_server, raw_server, read_request

from grpc_bearer import CallContext, Source
from grpc_bearer.errors import ConfigurationError, GrpcBearerError, TokenUnavailableError
from grpc_bearer.sources import ClientCredentialsSource, HTTPTokenSource
from grpc_bearer.testing import CA, ManualClock

CONTEXT = CallContext(clock=ManualClock(1_700_000_000.0))
AUTHORITY = CA()
PROXIES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy")
BEHIND_A_PROXY = "https://auth.example.com/token"
NOT_PEM = {
    "empty": b"",
    "text": b"nothing",
    "binary": bytes(range(256)),
    "broken": b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
}


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *(name.upper() for name in PROXIES), "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    return AUTHORITY.server_context("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def server(tls: ssl.SSLContext) -> Iterator[Server]:
    with https_server(Reply("t0ken"), context=tls) as running:
        yield running


def failure(source: Source) -> GrpcBearerError:
    """The error of a fetch."""
    with pytest.raises(TokenUnavailableError) as caught:
        source.fetch(CONTEXT)
    return caught.value


def said(source: HTTPTokenSource | ClientCredentialsSource) -> str:
    """What the error of a fetch says after the host."""
    return str(failure(source)).partition(": ")[2]


class TestFilesOfCertificates:
    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_a_bundle_that_is_not_there(self, name: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "/nowhere/ca.pem")
        assert said(HTTPTokenSource(server.url)) == f"{name}: no such file: '/nowhere/ca.pem'"
        assert said(ClientCredentialsSource(server.url, "me", "s3cret")) == f"{name}: no such file: '/nowhere/ca.pem'"

    def test_a_ca_that_went_away_and_came_back(self, server: Server, tmp_path: Path) -> None:
        source = HTTPTokenSource(server.url, ca=(path := AUTHORITY.write(tmp_path)))
        path.unlink()
        assert said(source) == f"ca: no such file: {str(path)!r}"
        AUTHORITY.write(tmp_path)
        assert source.fetch(CONTEXT).value == "t0ken"

    @pytest.mark.parametrize("content", NOT_PEM.values(), ids=NOT_PEM)
    def test_a_bundle_that_holds_no_certificates(
        self, content: bytes, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (bundle := tmp_path / "ca.pem").write_bytes(content)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        assert said(HTTPTokenSource(server.url)) == f"REQUESTS_CA_BUNDLE: no PEM certificates in {str(bundle)!r}"

    def test_a_bundle_that_may_not_be_read(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (bundle := AUTHORITY.write(tmp_path)).chmod(0)
        if os.access(bundle, os.R_OK):
            pytest.skip("root may read everything")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        words = f"REQUESTS_CA_BUNDLE: cannot read {str(bundle)!r} (Permission denied)"
        assert said(HTTPTokenSource(server.url)) == words
        with pytest.raises(ConfigurationError, match="ca: cannot read"):
            HTTPTokenSource(server.url, ca=bundle)

    def test_a_good_bundle_is_not_blamed_for_another_authority(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CA("another").write(tmp_path)))
        assert said(HTTPTokenSource(server.url)).startswith("certificate verify failed (")

    def test_a_client_certificate_that_went_away(self, server: Server, tmp_path: Path) -> None:
        key, chain = AUTHORITY.issue("me").write(tmp_path)
        source = HTTPTokenSource(server.url, ca=AUTHORITY.write(tmp_path), cert=(chain, key))
        key.unlink()
        assert said(source) == f"cert: no such file: {str(key)!r}"
        chain.unlink()
        assert said(source) == f"cert: no such file: {str(chain)!r}"

    def test_a_client_certificate_of_which_one_half_was_replaced(self, server: Server, tmp_path: Path) -> None:
        key, chain = AUTHORITY.issue("me").write(tmp_path)
        source = HTTPTokenSource(server.url, ca=AUTHORITY.write(tmp_path), cert=(chain, key))
        key.write_bytes(AUTHORITY.issue("me").key_pem)
        pair = f"{str(chain)!r} and {str(key)!r}"
        assert said(source) == f"cert: {pair} are no PEM certificate with its unencrypted key"


class TestProxies:
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
        error = failure(HTTPTokenSource("https://auth.example.com/token"))
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
            error = failure(HTTPTokenSource("https://auth.example.com/token"))
        assert f"the proxy in HTTPS_PROXY refused to connect (it answered {status})" in str(error)
        assert ("a user and a password" in str(error)) is (status == 407)

    @pytest.mark.parametrize(
        ("variables", "named"),
        [
            ({"https_proxy": "lower", "HTTPS_PROXY": "upper"}, "https_proxy"),
            ({"HTTPS_PROXY": "upper", "all_proxy": "all"}, "HTTPS_PROXY"),
            ({"https_proxy": "", "HTTPS_PROXY": "upper", "ALL_PROXY": "all"}, "ALL_PROXY"),
            ({"HTTPS_PROXY": "", "http_proxy": "plain", "all_proxy": "all"}, "all_proxy"),
        ],
    )
    def test_the_variable_that_counts_is_the_one_that_is_named(
        self, variables: dict[str, str], named: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used = []

        def refuse(connection: Any, over: Any) -> None:
            used.append(read_request(connection))
            connection.sendall(b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")

        with raw_server(refuse, None) as port:
            for name, value in variables.items():
                proxy = f"http://127.0.0.1:{port if name == named else 1}"
                monkeypatch.setenv(name, value and proxy)
            words = said(HTTPTokenSource(BEHIND_A_PROXY))
        assert words == f"the proxy in {named} refused to connect (it answered 403)"
        assert len(used) == 1

    @pytest.mark.parametrize(
        ("proxy", "words"),
        [
            ("http://127.0.0.1:1", "could not be used: connection refused"),
            ("127.0.0.1:1", "could not be used: connection refused"),
            ("http://no-such-host.invalid:3128", "could not be used: the host name was not found"),
            ("'http://127.0.0.1:1'", "could not be used: the host name was not found"),
            ("http://127.0.0.1:99999", "cannot be used: its address is not one, such as http://proxy.example.com:3128"),
        ],
    )
    def test_it_is_said_why(self, proxy: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        assert said(HTTPTokenSource(BEHIND_A_PROXY)) == f"the proxy in HTTPS_PROXY {words}"

    def test_an_address_with_https_for_a_proxy_that_speaks_http(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(connection: Any, over: Any) -> None:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")

        with raw_server(refuse, None) as port:
            monkeypatch.setenv("HTTPS_PROXY", f"https://user:s3cret@127.0.0.1:{port}")
            error = failure(HTTPTokenSource(BEHIND_A_PROXY))
        assert "the proxy in HTTPS_PROXY does not speak TLS: its own address begins with http://" in str(error)
        assert_hidden(error, "s3cret")

    def test_one_that_is_silent_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with raw_server(lambda connection, over: over.wait(30) and None, None) as port:
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:s3cret@127.0.0.1:{port}")
            words = said(HTTPTokenSource(BEHIND_A_PROXY, timeout=0.3))
        assert words == "no complete answer within 0.3 s through the proxy in HTTPS_PROXY"

    def test_what_is_not_asked_through_one_says_nothing_of_it(
        self, tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ca = AUTHORITY.write(tmp_path)
        monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
        with raw_server(lambda connection, over: over.wait(30) and None, tls) as port:
            silent = HTTPTokenSource(f"https://localhost:{port}/", ca=ca, timeout=0.3)
            assert said(silent) == "no complete answer within 0.3 s"
        monkeypatch.setenv("NO_PROXY", "example.invalid")
        assert said(HTTPTokenSource("https://auth.example.invalid/")) == "the host name was not found"
