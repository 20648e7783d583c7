"""HTTPTokenSource and the token request beneath it, over real TLS on loopback."""

from __future__ import annotations

import gzip
import json
import logging
import os
import pickle
import ssl
import sys
import threading
import time
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET, socket
from struct import pack
from typing import Any

import pytest
from _https import (
    Reply,
    Server,
    assert_hidden,
    failure,
    https_server,
    in_a_child,
    raw_server,
    read_request,
    unsigned_jwt,
)
from attachments import eventually

from grpc_bearer import CallContext
from grpc_bearer.errors import ConfigurationError, TokenFormatError, TokenRejectedError, TokenUnavailableError
from grpc_bearer.sources import HTTPTokenSource
from grpc_bearer.testing import CA, ManualClock

NOW = 1_700_000_000.0
CONTEXT = CallContext(clock=ManualClock(NOW))
SECRET = "hunter2-in-the-body"
AUTHORITY = CA()


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(scope="module")
def tls() -> ssl.SSLContext:
    return AUTHORITY.server_context("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return AUTHORITY.write(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def server(tls: ssl.SSLContext) -> Iterator[Server]:
    with https_server("s3cret", context=tls) as running:
        yield running


@pytest.fixture
def source(server: Server, ca: Path) -> Iterator[Callable[..., HTTPTokenSource]]:
    """Makes sources of that server, and closes them."""
    made: list[HTTPTokenSource] = []

    def make(**options: Any) -> HTTPTokenSource:
        made.append(HTTPTokenSource(**{"url": server.url, "ca": ca, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


Make = Callable[..., HTTPTokenSource]


# -- what is asked ----------------------------------------------------------------------------------------------------


def test_the_default_is_a_post_without_a_body(server: Server, source: Make) -> None:
    assert source().fetch(CONTEXT).value == "s3cret"

    (request,) = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/token", b"")


def test_a_json_body_is_sent_with_its_type(server: Server, source: Make) -> None:
    source(json={"secret": SECRET, "scope": "ü"}).fetch(CONTEXT)

    assert json.loads(server.requests[0].body) == {"secret": SECRET, "scope": "ü"}
    assert server.requests[0].headers["content-type"] == "application/json"


def test_a_form_is_sent_with_its_type(server: Server, source: Make) -> None:
    source(form={"a b": "c&d=é"}).fetch(CONTEXT)

    assert server.requests[0].form == {"a b": "c&d=é"}
    assert server.requests[0].headers["content-type"] == "application/x-www-form-urlencoded"


@pytest.mark.parametrize(("body", "sent"), [("ü", "ü".encode()), (b"\xff\0", b"\xff\0"), (None, b"")])
def test_any_method_and_body_is_sent_as_it_is(server: Server, source: Make, body: Any, sent: bytes) -> None:
    source(method="put", body=body, headers={"Content-Type": "x/y", "X-Key": "k"}).fetch(CONTEXT)

    (request,) = server.requests
    assert (request.method, request.body) == ("PUT", sent)
    assert (request.headers["content-type"], request.headers["x-key"]) == ("x/y", "k")


def test_a_callable_body_is_made_for_each_request(server: Server, source: Make) -> None:
    bodies: list[Any] = ["one", b"two", {"three": "3"}]
    asking = source(body=lambda: bodies.pop(0))
    for _ in range(3):
        asking.fetch(CONTEXT)

    assert [request.body for request in server.requests] == [b"one", b"two", b'{"three": "3"}']


def test_headers_of_the_user_replace_ours_whatever_their_case(server: Server, source: Make) -> None:
    source(json={}, headers={"CONTENT-type": "application/vnd.x+json", "User-Agent": "mine"}).fetch(CONTEXT)

    assert server.requests[0].headers["content-type"] == "application/vnd.x+json"
    assert server.requests[0].headers["user-agent"] == "mine"


def test_basic_auth_is_sent_and_netrc_is_not(
    server: Server, source: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine localhost login them password theirs\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    source().fetch(CONTEXT)
    source(auth=("me", "pässword")).fetch(CONTEXT)

    assert "authorization" not in server.requests[0].headers
    assert b64decode(server.requests[1].headers["authorization"].removeprefix("Basic ")).decode() == "me:pässword"


def test_connections_are_kept_alive_and_made_anew_after_close(server: Server, source: Make) -> None:
    asking = source()
    for step in (asking.fetch, asking.fetch):
        step(CONTEXT)
    asking.close()
    asking.close()
    asking.fetch(CONTEXT)
    ports = [request.port for request in server.requests]

    assert ports[0] == ports[1] != ports[2]


def test_a_kept_connection_that_the_server_closed_is_not_used(tls: ssl.SSLContext, ca: Path) -> None:
    connections = []

    def script(connection: socket, over: threading.Event) -> None:
        connections.append(1)
        read_request(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ns3cret")

    with raw_server(script, tls) as port:
        source = HTTPTokenSource(f"https://localhost:{port}/", ca=ca)
        values = [source.fetch(CONTEXT).value for _ in range(3)]
        source.close()

    assert (values, len(connections)) == (["s3cret"] * 3, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12: fork with threads about
def test_a_forked_child_uses_a_connection_of_its_own(server: Server, source: Make) -> None:
    asking = source()
    asking.fetch(CONTEXT)
    passed = in_a_child(lambda: asking.fetch(CONTEXT).value == "s3cret")
    asking.fetch(CONTEXT)
    ports = [request.port for request in server.requests]

    assert passed
    assert ports[0] == ports[2] != ports[1]


# -- what is answered -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", ["s3cret", " s3cret\r\n", "\ufeffs3cret"])
def test_a_raw_answer_is_trimmed(server: Server, source: Make, body: str) -> None:
    server.replies = [Reply(body, headers={"content-type": "text/html"})]  # what PHP says of everything

    assert source().fetch(CONTEXT).value == "s3cret"


@pytest.mark.parametrize(
    ("document", "field"),
    [({"token": "s3cret"}, "token"), ({"a": {"b": {"c": "s3cret"}}}, "a.b.c"), ({"a.b": "s3cret"}, "a.b")],
)
def test_a_json_field_is_found(server: Server, source: Make, document: dict[str, Any], field: str) -> None:
    server.replies = [Reply(document)]

    assert source(field=field).fetch(CONTEXT).value == "s3cret"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_a_compressed_answer_is_read(server: Server, source: Make, encoding: str) -> None:
    pack_up = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding]
    server.replies = [Reply(pack_up(b"s3cret"), headers={"content-encoding": encoding})]

    assert source(headers={"accept-encoding": encoding}).fetch(CONTEXT).value == "s3cret"


@pytest.mark.parametrize(
    ("document", "options", "expires_in"),
    [
        ({}, {}, None),
        ({"expires_in": 60}, {}, 60),
        ({"expires_in": "60"}, {}, 60),
        ({"expires_in": 59.5}, {}, 59.5),
        ({"expires_in": None}, {}, None),
        ({"expires_in": True}, {}, None),
        ({"expires_in": "soon"}, {}, None),
        ({"expires_in": [60]}, {}, None),
        ({"expires_in": 1e300}, {}, None),
        ({"expires_in": 10**400}, {}, None),
        ({"expires_in": float("nan")}, {}, None),
        ({"expires_in": float("inf")}, {}, None),
        ({"expires_in": "soon"}, {"lifetime": 30}, 30),
        ({}, {"lifetime": 30}, 30),
        ({"expires_in": 60}, {"lifetime": 30}, 60),
        ({"expires_in": 60}, {"expires_in_field": None}, None),
        ({"data": {"ttl": 60}}, {"expires_in_field": "data.ttl"}, 60),
        ({"token": unsigned_jwt(exp=NOW + 90), "expires_in": 60}, {"lifetime": 30}, 90),
        ({"token": unsigned_jwt(exp=str(NOW + 90)), "expires_in": 60}, {}, 60),
        ({"token": unsigned_jwt(exp=1e17)}, {}, None),
        ({"token": unsigned_jwt(sub="me")}, {"lifetime": 30}, 30),
    ],
)
def test_the_expiry_is_the_jwts_else_the_stated_one_else_the_given_one(
    server: Server, source: Make, document: dict[str, Any], options: dict[str, Any], expires_in: float | None
) -> None:
    server.replies = [Reply({"token": "s3cret", **document})]
    expires_at = source(field="token", **options).fetch(CONTEXT).expires_at

    assert expires_at == (None if expires_in is None else NOW + expires_in)


def test_a_raw_jwt_expires_at_its_exp(server: Server, source: Make) -> None:
    server.replies = [Reply(unsigned_jwt(exp=NOW + 3600) + "\n")]

    assert source(lifetime=5).fetch(CONTEXT).expires_at == NOW + 3600


def test_the_refresh_point_is_drawn_from_the_range_and_never_beyond_the_expiry(server: Server, source: Make) -> None:
    asking = source(refresh_after=(900, 1200))
    drawn = [asking.fetch(CONTEXT).refresh_at or 0 for _ in range(20)]
    server.replies = [Reply(unsigned_jwt(exp=NOW + 60))]

    assert all(NOW + 900 <= at <= NOW + 1200 for at in drawn)
    assert len(set(drawn)) > 10
    assert asking.fetch(CONTEXT).refresh_at == NOW + 60


FORMAT = [
    ("json with a huge number", Reply("9" * 10_000), {"field": "token"}, "not JSON|without the field"),
    ("negative lifetime", Reply({"token": SECRET, "expires_in": "-5"}), {"field": "token"}, "already expired"),
    ("already expired JWT", Reply(unsigned_jwt(exp=NOW - 30, jti=SECRET)), {}, "expired 30 s ago"),
    ("a JWT that expires now", Reply(unsigned_jwt(exp=NOW)), {}, "expired 0 s ago"),
    ("over the limit by one", Reply("x" * 101), {"max_bytes": 100}, "more than 100 bytes"),
    ("no content", Reply("", 204), {}, "answered 204"),
]


@pytest.mark.parametrize(("reply", "options", "words"), [case[1:] for case in FORMAT], ids=[case[0] for case in FORMAT])
def test_an_answer_that_is_no_token_says_why(
    server: Server, source: Make, reply: Reply, options: dict[str, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.replies = [reply]
    error = failure(lambda: source(json={"secret": SECRET}, **options).fetch(CONTEXT), TokenFormatError, words)

    assert str(error).startswith("localhost:")
    assert_hidden(error, SECRET, "eyJ")
    assert SECRET not in caplog.text


def test_an_answer_exactly_as_long_as_allowed_is_read(server: Server, source: Make) -> None:
    server.replies = [Reply("x" * 100)]

    assert source(max_bytes=100).fetch(CONTEXT).value == "x" * 100


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "999999999"}, 86400.0),
        ({"retry-after": "later"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": formatdate(NOW + 30, usegmt=True), "date": formatdate(NOW, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True), "date": formatdate(NOW + 25, usegmt=True)}, 5.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True), "date": formatdate(NOW, usegmt=True)}, 0.0),
        ({"retry-after": "Mon, 99 Foo 2024"}, None),
    ],
)
def test_retry_after_is_understood(
    tls: ssl.SSLContext, ca: Path, headers: dict[str, str], seconds: float | None
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def script(connection: socket, over: threading.Event) -> None:
        read_request(connection)
        connection.sendall(f"HTTP/1.1 503 No\r\n{lines}Content-Length: 0\r\n\r\n".encode())

    with raw_server(script, tls) as port:
        source = HTTPTokenSource(f"https://localhost:{port}/", ca=ca)
        error = failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, "answered 503")
        source.close()

    assert error.retry_after == seconds


# -- what the network does --------------------------------------------------------------------------------------------


def trickle(head: bytes) -> Callable[[socket, threading.Event], None]:
    """Sends the head, and then a byte at a time, always before any socket timeout."""

    def script(connection: socket, over: threading.Event) -> None:
        read_request(connection)
        connection.sendall(head)
        while not over.wait(0.02):
            connection.sendall(b"x")

    return script


def busy_threads() -> int:
    """Threads with an exchange to do; the others wait in `_serve` itself."""
    frames = sys._current_frames()
    threads = [thread for thread in threading.enumerate() if thread.name == "grpc-bearer-http"]
    return sum(frames[thread.ident].f_code.co_name != "_serve" for thread in threads if thread.ident in frames)


def hang(connection: socket, over: threading.Event) -> None:
    over.wait()


def trickled_handshake(connection: socket, over: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")  # the start of a long ServerHello
    while not over.wait(0.02):
        connection.sendall(b"\0")


@pytest.mark.parametrize(
    ("script", "over_tls"),
    [
        (trickle(b""), True),
        (trickle(b"HTTP/1.1 200 OK\r\nX-Slow: "), True),
        (trickle(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), True),
        (trickle(b"HTTP/1.1 200 OK\r\n\r\n"), True),  # to the end of the connection
        (trickle(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n"), True),
        (trickle(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 100000\r\n\r\n"), True),
        (trickle(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 100000\r\n\r\n"), True),
        (hang, True),
        (hang, False),  # before the TLS handshake
        (trickled_handshake, False),
    ],
    ids=["nothing", "headers", "body", "endless", "chunk", "redirect", "last", "hang", "handshake", "slow handshake"],
)
def test_whatever_the_server_does_the_timeout_holds_and_no_thread_stays(
    script: Any, over_tls: bool, tls: ssl.SSLContext, ca: Path
) -> None:
    with raw_server(script, tls if over_tls else None) as port:
        source = HTTPTokenSource(f"https://localhost:{port}/?q={SECRET}", json={"s": SECRET}, ca=ca, timeout=0.3)
        began = time.monotonic()
        error = failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, r"no complete answer within 0\.3 s")
        took = time.monotonic() - began
        # While the server goes on, which it does for ever: the shutdown alone frees the thread.
        freed = eventually(lambda: busy_threads() == 0)
        source.close()

    assert took >= 0.3
    assert freed
    assert_hidden(error, SECRET)


def reset(connection: socket, over: threading.Event) -> None:
    read_request(connection)
    connection.setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))


def close(connection: socket, over: threading.Event) -> None:
    read_request(connection)


def saying(text: bytes) -> Callable[[socket, threading.Event], None]:
    def script(connection: socket, over: threading.Event) -> None:
        with suppress(OSError):
            read_request(connection)
            connection.sendall(text)

    return script


def not_tls(connection: socket, over: threading.Event) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize(
    ("script", "over_tls", "words"),
    [
        (reset, True, "connection reset|connection closed in the middle"),
        (close, True, "connection reset|connection closed in the middle"),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), True, "cut short"),
        (saying(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhalf"), True, "cut short"),
        (saying(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), True, "no HTTP"),
        (
            saying(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nhalf"),
            True,
            "compressed, and broken",
        ),
        (not_tls, False, "TLS failed"),
    ],
    ids=["reset", "close", "short", "bad chunk", "not HTTP", "bad gzip", "not TLS"],
)
def test_a_broken_exchange_is_unavailable_with_a_reason(
    script: Any, over_tls: bool, words: str, tls: ssl.SSLContext, ca: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with raw_server(script, tls if over_tls else None) as port:
        source = HTTPTokenSource(
            f"https://localhost:{port}/", form={"s": SECRET}, headers={"x-key": SECRET}, ca=ca, timeout=5
        )
        error = failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, f"^localhost:{port}: .*({words})")
        source.close()

    assert error.__context__ is None
    assert_hidden(error, SECRET)
    assert SECRET not in caplog.text


# -- trust ------------------------------------------------------------------------------------------------------------


def test_an_unknown_authority_is_told_and_ca_is_named(server: Server) -> None:
    source = HTTPTokenSource(server.url, json={"s": SECRET})
    error = failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, "certificate verify failed.*ca=")

    assert server.requests == []
    assert_hidden(error, SECRET)


def test_a_certificate_for_another_host_is_refused(ca: Path) -> None:
    with https_server("s3cret", context=AUTHORITY.server_context("other.example")) as server:
        source = HTTPTokenSource(server.url, ca=ca)
        failure(
            lambda: source.fetch(CONTEXT),
            TokenUnavailableError,
            "certificate verify failed.*(ostname mismatch|another host)",
        )


def test_the_environments_authorities_count_but_never_beat_ca(
    server: Server, ca: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca))
    assert HTTPTokenSource(server.url).fetch(CONTEXT).value == "s3cret"
    other = CA().write(tmp_path)
    failure(lambda: HTTPTokenSource(server.url, ca=other).fetch(CONTEXT), TokenUnavailableError, "certificate")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))

    assert HTTPTokenSource(server.url, ca=ca).fetch(CONTEXT).value == "s3cret"


def test_mutual_tls(ca: Path, tmp_path: Path) -> None:
    context = AUTHORITY.server_context("localhost")
    context.load_verify_locations(cadata=AUTHORITY.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    key, chain = AUTHORITY.issue("client").write(tmp_path)
    with https_server("s3cret", context=context) as server:
        assert HTTPTokenSource(server.url, ca=ca, cert=(chain, key)).fetch(CONTEXT).value == "s3cret"
        failure(
            lambda: HTTPTokenSource(server.url, ca=ca).fetch(CONTEXT), TokenUnavailableError, "TLS failed|reset|closed"
        )


def test_http_to_this_machine_needs_to_be_asked_for() -> None:
    with https_server("s3cret", context=None) as server:
        failure(lambda: HTTPTokenSource(server.url), ConfigurationError, "allow_http_loopback=True")
        source = HTTPTokenSource(server.url, allow_http_loopback=True)
        assert source.fetch(CONTEXT).value == "s3cret"
        source.close()


def test_the_environments_proxy_is_used_but_never_to_this_machine(
    server: Server, source: Make, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = AUTHORITY.server_context("auth.example")
    asked = []

    def proxy(connection: socket, over: threading.Event) -> None:
        asked.append(read_request(connection).split(b"\r\n")[0])
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with inside.wrap_socket(connection, server_side=True) as tunnel:
            read_request(tunnel)
            tunnel.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ns3cret")

    with raw_server(proxy, None) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{port}")
        through = HTTPTokenSource("https://auth.example/token", ca=ca)
        assert through.fetch(CONTEXT).value == "s3cret"
        assert source().fetch(CONTEXT).value == "s3cret"
        through.close()

    assert asked == [b"CONNECT auth.example:443 HTTP/1.0"] or asked == [b"CONNECT auth.example:443 HTTP/1.1"]


def test_the_timeout_holds_for_a_proxy_that_trickles(ca: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(trickle(b"HTTP/1.1 200 X-"), None) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://localhost:{port}")
        source = HTTPTokenSource("https://auth.example/token", ca=ca, timeout=0.2)
        failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, r"within 0\.2 s")


def test_a_proxy_that_refuses_is_told() -> None:
    with (
        raw_server(saying(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), None) as port,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("HTTPS_PROXY", f"http://user:{SECRET}@localhost:{port}")
        source = HTTPTokenSource("https://auth.example/token", timeout=5)
        error = failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, "the proxy in HTTPS_PROXY refused")

    assert_hidden(error, SECRET)


# -- wrong arguments --------------------------------------------------------------------------------------------------


def test_its_repr_shows_the_host_alone() -> None:
    source = HTTPTokenSource(f"https://auth.example.com:8443/p?key={SECRET}", json=SECRET, headers={"x": SECRET})

    assert repr(source) == "HTTPTokenSource(host='auth.example.com:8443')"


def test_it_pickles_only_without_inline_secrets(server: Server, source: Make) -> None:
    asking = source(body=bytes)
    asking.fetch(CONTEXT)
    copy = pickle.loads(pickle.dumps(asking))
    assert copy.fetch(CONTEXT).value == "s3cret"
    copy.close()

    error = failure(lambda: pickle.dumps(source(json={"s": SECRET})), ConfigurationError, "^json: given inline")
    assert_hidden(error, SECRET)


def test_a_refused_credential_that_was_replaced_meanwhile_is_followed_by_the_new_one(
    server: Server, source: Callable[..., HTTPTokenSource]
) -> None:
    server.replies[:] = [Reply(status=401), Reply("t0ken")]
    bodies = iter(["old", "new"])

    assert source(body=lambda: next(bodies)).fetch(CONTEXT).value == "t0ken"
    assert [request.body for request in server.requests] == [b"old", b"new"]


@pytest.mark.parametrize("body", ["same", lambda: "same"])
def test_a_refused_credential_that_is_still_the_same_is_not_sent_again(
    body: Any, server: Server, source: Callable[..., HTTPTokenSource]
) -> None:
    server.replies[:] = [Reply(status=401)]

    failure(lambda: source(body=body).fetch(CONTEXT), TokenRejectedError, "the credential was refused")
    assert len(server.requests) == 1
