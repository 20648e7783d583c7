"""One HTTP exchange over `requests`, bounded in bytes and in time. Imported with the first request: it is slow.

An adapter is used without a `Session`: a session would read a redirect's whole body before giving it back, take netrc
and `REQUESTS_CA_BUNDLE` into account, and keep cookies.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ProtocolError, SSLError
from urllib3.util.ssl_match_hostname import CertificateError

from grpc_bearer._base.clock import SYSTEM_CLOCK
from grpc_bearer._base.openssl import UNKNOWN_ISSUER
from grpc_bearer.sources._parse import Answer, http_date
from grpc_bearer.sources._tls import Files, context_for

#: Is in those reasons that say little. Then the files of certificates are looked at, which may be wrong by now.
FAILED = "failed"
_KEPT_HEADERS = ("age", "content-type", "date", "metadata-flavor", "retry-after")
_CHUNK = 16 * 1024

# An exchange has its thread to itself while it runs, so the connection finds it here.
_running = threading.local()


class _WatchedConnection(HTTPConnection):
    """A connection that tells its exchange which socket to shut down at the deadline."""

    def _new_conn(self) -> socket.socket:
        # urllib3 has no public hook between connecting and the TLS handshake, which may be where the server hangs.
        sock = super()._new_conn()
        _running.exchange.watch(sock)
        return sock

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # kept alive from an earlier exchange
            _running.exchange.watch(self.sock)
        super().request(*args, **kwargs)


class _WatchedTLSConnection(_WatchedConnection, HTTPSConnection):
    _files: Files | None = None

    def connect(self) -> None:
        # urllib3 would make a context for each connection, and read the files into it. It connects again by this too.
        if self._files is None:
            self._files = Files(self.ca_certs, self.ca_cert_dir, self.cert_file, self.key_file)
        try:
            self.ssl_context = context_for(self._files)
        except OSError as error:
            raise SSLError(error) from error  # as urllib3 does
        self.ca_certs = self.ca_cert_dir = self.cert_file = self.key_file = None
        super().connect()


class _WatchedPool(HTTPConnectionPool):
    ConnectionCls = _WatchedConnection


class _WatchedTLSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedTLSConnection


class WatchedAdapter(HTTPAdapter):
    """`requests`' adapter on connections that can be cut."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        _watch_pools(self.poolmanager)

    def proxy_manager_for(self, proxy: Any, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if not proxy.lower().startswith("socks"):  # those connect in their own way, and are left behind at the deadline
            _watch_pools(manager)
        return manager


def _watch_pools(manager: Any) -> None:
    manager.pool_classes_by_scheme = {"http": _WatchedPool, "https": _WatchedTLSPool}


@dataclass(frozen=True, slots=True)
class Request:
    """What to send, and how.

    `seconds` is for each socket operation; `proxied` says whether the environment's proxies apply.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False)
    seconds: float
    max_bytes: int
    verify: str | bool
    cert: tuple[str, str] | None
    proxied: bool


class Exchange:
    """One request and its answer: `run` on one thread, `cut` at the deadline from the one that waits.

    One of `answer` and `reason` is set in the end, and neither after a cut that came first. `proxy` says which one is
    in between, if any.
    """

    def __init__(self, request: Request) -> None:
        self.answer: Answer | None = None
        self.reason: str | None = None
        self.proxy = ""
        self._request = request
        self._lock = threading.Lock()  # guards the two below
        self._cut = False
        self._twin: socket.socket | None = None

    def run(self, adapter: WatchedAdapter) -> None:
        _running.exchange = self
        answer, reason = None, None
        try:
            answer = self._exchange(adapter)
        # Whatever it is, it is told by its reason: the exception holds the request, and with it the credential.
        except Exception as error:
            reason = _reason(error, self.proxy)
        finally:
            del _running.exchange  # the thread stays, and must not keep the credential
        with self._lock:
            if not self._cut:
                self.answer, self.reason = answer, reason
            self._forget()

    def watch(self, sock: socket.socket) -> None:
        """Remember the socket, by a copy of its descriptor: TLS, and `Connection: close`, take away the original."""
        with self._lock:
            self._forget()
            # Family and type play no part in a shutdown, and not every TLS wrapper knows them.
            self._twin = socket.fromfd(sock.fileno(), socket.AF_INET, socket.SOCK_STREAM)
            if self._cut:
                _shut(self._twin)

    def cut(self) -> None:
        """End the exchange wherever it is, without waiting; nothing happens if it has ended."""
        with self._lock:
            self._cut = True
            if self._twin is not None:
                _shut(self._twin)

    def _forget(self) -> None:
        twin, self._twin = self._twin, None
        if twin is not None:
            twin.close()

    def _exchange(self, adapter: WatchedAdapter) -> Answer:
        request = self._request
        prepared = requests.Request(
            request.method, request.url, headers=dict(request.headers), data=request.body
        ).prepare()
        proxies = get_environ_proxies(request.url) if request.proxied else {}
        if select_proxy(request.url, proxies):
            self.proxy = _named_proxy()
        began = SYSTEM_CLOCK.monotonic()
        response = adapter.send(
            prepared,
            stream=True,
            timeout=request.seconds,
            verify=request.verify,
            cert=request.cert,
            proxies=proxies,
        )
        response.raw.enforce_content_length = True  # urllib3 1.26 would take half an answer for a whole one
        try:
            content, overlong = _bounded(response.raw.stream(_CHUNK, decode_content=False), request.max_bytes)
        finally:
            # Closed if unread bytes are left, given back to the pool if none are.
            response.close()
        if not overlong:
            content, overlong = _inflated(content, response.headers.get("content-encoding", ""), request.max_bytes)
        return Answer(
            status=response.status_code,
            headers={name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers},
            body=content,
            overlong=overlong,
            elapsed=SYSTEM_CLOCK.monotonic() - began,
            date=http_date(response.headers.get("date")),
        )


def _shut(sock: socket.socket) -> None:
    with suppress(OSError):  # the other side was quicker
        sock.shutdown(socket.SHUT_RDWR)


def _bounded(chunks: Iterator[bytes], limit: int) -> tuple[bytes, bool]:
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > limit:
            return bytes(content[:limit]), True
    return bytes(content), False


def _inflated(wire: bytes, encoding: str, limit: int) -> tuple[bytes, bool]:
    """The body without its compression, with the same bound: a few bytes may become gigabytes, and many may
    become none.

    Some proxies take away the header that says gzip; its first two bytes say it too, and begin no text.
    """
    encoding = encoding.lower()
    if wire.startswith(b"\x1f\x8b") or (wire and "gzip" in encoding):
        window = zlib.MAX_WBITS | 16
    elif wire and "deflate" in encoding:
        window = zlib.MAX_WBITS if _has_zlib_header(wire) else -zlib.MAX_WBITS  # some servers send it without
    else:
        return wire, False
    inflate = zlib.decompressobj(window)
    content = inflate.decompress(wire, limit + 1)
    if len(content) > limit:
        return content[:limit], True
    if not inflate.eof or inflate.unused_data:
        raise zlib.error("cut short, or with something behind its end")
    return content, False


def _has_zlib_header(wire: bytes) -> bool:
    return wire[0] & 15 == zlib.DEFLATED and int.from_bytes(wire[:2], "big") % 31 == 0


# -- reasons ----------------------------------------------------------------------------------------------------------


def _reason(error: BaseException, proxy: str) -> str:
    """A few words that hold nothing of the request."""
    causes = list(_causes(error))
    reason = _network_reason(causes) or _tls_reason(causes) or f"{FAILED} ({type(error).__name__})"
    if proxy and any(isinstance(cause, _PROXY) for cause in causes):
        return f"{proxy} {_proxy_reason(causes) or f'could not be used: {reason}'}"
    return reason


def _network_reason(causes: list[BaseException]) -> str | None:
    return next((words for kind, words in _REASONS if any(isinstance(cause, kind) for cause in causes)), None)


def _tls_reason(causes: list[BaseException]) -> str | None:
    cause = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if isinstance(cause, ssl.SSLCertVerificationError):
        advice = "; name the authority that issued it with ca=" if cause.verify_code in UNKNOWN_ISSUER else ""
        return f"certificate verify failed ({cause.verify_message.rstrip('.')}){advice}"
    return None if cause is None else f"TLS {FAILED} ({cause.reason or type(cause).__name__})"


# The address of the endpoint was accepted before, so if an address is wrong now, it is the proxy's.
_PROXY = (requests.exceptions.ProxyError, requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)
_STATUS = re.compile(r"[Tt]unnel connection failed: (\d{3})\b")


def _proxy_reason(causes: list[BaseException]) -> str | None:
    """What a proxy said, or what is wrong with its address, which is not shown: it may hold a password."""
    status = next((found[1] for cause in causes if (found := _STATUS.search(str(cause)))), None)
    if status is not None:
        wants = ", so it wants a user and a password in its address" if status == "407" else ""
        return f"refused to connect (it answered {status}){wants}"
    if any(isinstance(cause, requests.exceptions.InvalidSchema) for cause in causes):
        return "cannot be used: SOCKS needs the package PySocks, and other schemes are not known"
    if any(isinstance(cause, requests.exceptions.InvalidURL) for cause in causes):
        return "cannot be used: its address is not one, such as http://proxy.example.com:3128"
    if any(isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS for cause in causes):
        return "does not speak TLS: its own address begins with http:// then, also for https:// addresses behind it"
    return None


def _named_proxy() -> str:
    """The proxy in words, by the variable in which `requests` finds it. An empty one in lower case hides the other."""
    for name in ("https_proxy", "all_proxy"):
        found = next((each for each in (name, name.upper()) if each in os.environ), "")
        if os.environ.get(found):
            return f"the proxy in {found}"
    return "the proxy of this system's settings"


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "the host name was not found"),
    (ConnectionRefusedError, "connection refused"),
    (CertificateError, "certificate verify failed (it is for another host)"),  # raised by urllib3 1.26
    (ConnectionResetError, "connection reset"),
    (ssl.SSLEOFError, "connection closed in the middle"),
    (zlib.error, "the answer is compressed, and broken"),
    (TimeoutError, "timed out"),
    (requests.exceptions.Timeout, "timed out"),
    (requests.exceptions.InvalidURL, "the host name is none"),
    (ProtocolError, "the answer was cut short, or is no HTTP"),
)
# What OpenSSL makes of an answer in plain HTTP.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception with all that it was raised from: urllib3 and requests put it in `args`, `reason` and the chain."""
    pending, seen = [error], set[int]()
    while pending:
        cause = pending.pop(0)
        if id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        inner = (*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__)
        pending += [item for item in inner if isinstance(item, BaseException)]
