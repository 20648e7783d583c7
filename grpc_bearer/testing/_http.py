"""A small HTTPS server on loopback: routes, a list of exchanges, faults. What it serves is decided elsewhere."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Protocol
from urllib.parse import urlsplit

from grpc_bearer._base.arguments import checked_flag
from grpc_bearer._base.clock import Clock
from grpc_bearer.testing._ports import reserve_port

__all__ = ["Exchange", "HTTPFault", "Listener", "Request", "Response"]

# A client that stops in the middle must not keep its thread for ever, in seconds.
_IDLE = 60.0
# `shutdown()` takes this long at most, in seconds.
_POLL = 0.02


@dataclass(slots=True)
class Exchange:
    """One request and what became of it; `status` is `None` until it is answered, and stays so after a reset.

    >>> Exchange(0.0, "POST", "/token", 401, "client-1", body=b"client_secret=x")
    Exchange(time=0.0, method='POST', path='/token', status=401, credential='client-1')
    """

    time: float
    method: str
    path: str
    status: int | None = None
    credential: str | None = None
    token: str | None = field(default=None, repr=False)
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler gets. Header names are in lower case; `query` is what follows a `?` in the address.

    >>> Request("POST", "/token", {"content-type": "application/json"}, b"{}")
    Request(method='POST', path='/token')
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    query: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Response:
    """What a handler gives, and how it is sent.

    Args:
        status, body, headers: as in HTTP.
        content_type: of the body.
        credential: whose request it was, for the list of exchanges.
        token: what was issued, likewise.
        date: whether to send a `Date` header.
        chunk, pause: send the body that many bytes at a time, with that many seconds between.
        reset: close the connection hard in place of answering.

    >>> Response(429, b"slow down", {"Retry-After": "7"}).status
    429
    """

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content_type: str = "text/plain; charset=utf-8"
    credential: str | None = None
    token: str | None = field(default=None, repr=False)
    date: bool = True
    chunk: int | None = None
    pause: float = 0.0
    reset: bool = False

    def __post_init__(self) -> None:
        checked_flag("date", self.date)
        checked_flag("reset", self.reset)


class HTTPFault(Protocol):
    """Stands between a request and its handler.

    >>> class Teapot:
    ...     def answer(self, request, respond):
    ...         return Response(418)
    ...     def heal(self): ...
    >>> Teapot().answer(None, None).status
    418
    """

    def answer(self, request: Request, respond: Callable[[], Response]) -> Response:
        """Answer in place of the handler, or call `respond` and change what it gives."""
        ...

    def heal(self) -> None:
        """Let go of requests that it holds."""
        ...


class Listener:
    """The routes, the faults and the exchanges. May be started and stopped again and again, always on the same port."""

    def __init__(self, context: ssl.SSLContext | None, clock: Clock) -> None:
        self._context = context
        self._clock = clock
        self._routes: dict[str, Callable[[Request], Response]] = {}
        self._changed = threading.Condition()
        self._exchanges: list[Exchange] = []
        self._queued: deque[HTTPFault | None] = deque()
        self._standing: HTTPFault | None = None
        self._taken: list[HTTPFault] = []
        self._tcp: _TCPServer | None = None
        self._reserved: socket.socket | None = reserve_port()
        self.port: int = self._reserved.getsockname()[1]
        self.stopping = threading.Event()

    def route(self, path: str, handler: Callable[[Request], Response]) -> None:
        self._routes[path] = handler

    def start(self) -> None:
        with self._changed:
            if self._tcp is not None:
                return
            self.stopping.clear()
            self._release_port()
            self._tcp = _TCPServer(self, self._context, self.port)
        threading.Thread(target=self._tcp.serve_forever, args=(_POLL,), name="token-server", daemon=True).start()

    def stop(self) -> None:
        with self._changed:
            tcp, self._tcp = self._tcp, None
            self._release_port()
        if tcp is None:
            return
        self.stopping.set()
        self.release()
        tcp.shutdown()
        tcp.server_close()
        tcp.hang_up()

    @property
    def exchanges(self) -> list[Exchange]:
        with self._changed:
            return list(self._exchanges)

    def wait_for(self, count: int, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: len(self._exchanges) >= count, timeout)

    def queue(self, *faults: HTTPFault | None) -> None:
        with self._changed:
            self._queued.extend(faults)

    def stand(self, fault: HTTPFault | None) -> None:
        with self._changed:
            self._standing = fault

    def heal(self) -> None:
        with self._changed:
            self._queued.clear()
            self._standing = None
        self.release()

    def release(self) -> None:
        with self._changed:
            taken, self._taken = self._taken, []
        for fault in taken:
            fault.heal()

    def answer(self, request: Request) -> tuple[Response, Exchange]:
        """What to send back. The exchange is written down at once: a request that hangs has arrived all the same."""
        exchange = Exchange(self._clock.time(), request.method, request.path)
        exchange.headers, exchange.body = dict(request.headers), request.body
        fault = self._take(exchange)
        handler = self._routes.get(request.path, _not_found)
        response = handler(request) if fault is None else fault.answer(request, lambda: handler(request))
        with self._changed:
            exchange.credential, exchange.token = response.credential, response.token
            exchange.status = None if response.reset else response.status
            self._changed.notify_all()
        return response, exchange

    def date(self) -> str:
        return formatdate(self._clock.time(), usegmt=True)

    def _release_port(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None

    def _take(self, exchange: Exchange) -> HTTPFault | None:
        with self._changed:
            self._exchanges.append(exchange)
            self._changed.notify_all()
            fault = self._queued.popleft() if self._queued else self._standing
            if fault is not None:
                self._taken.append(fault)
            return fault


def _not_found(request: Request) -> Response:
    return Response(404, b"no such path")


class _TCPServer(ThreadingMixIn, TCPServer):
    """The TLS handshake is made on the connection's own thread: a client that is slow keeps nobody else waiting."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 1024

    def __init__(self, listener: Listener, context: ssl.SSLContext | None, port: int) -> None:
        self.listener = listener
        self._context = context
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.settimeout(_IDLE)
        with self._open_lock:
            self._open.add(request)
        connection = request
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
                with self._open_lock:
                    self._open.discard(request)
                    self._open.add(connection)
                connection.do_handshake()
            _Handler(connection, client_address, self)
        finally:
            with self._open_lock:
                self._open -= {request, connection}
            connection.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, or does not trust the certificate, is no error of this server's."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """End kept-alive connections, whose threads would otherwise wait for the next request."""
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _TCPServer

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        headers = {name.lower(): value for name, value in self.headers.items()}
        address = urlsplit(self.path)
        request = Request(self.command, address.path, headers, self.rfile.read(length), address.query)
        response, _ = self.server.listener.answer(request)
        if response.reset:
            self._reset()
        else:
            self._send(response)

    do_GET = do_POST = do_PUT = _serve

    def _send(self, response: Response) -> None:
        self.send_response_only(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        if response.date:
            self.send_header("Date", self.server.listener.date())
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.end_headers()
        step = response.chunk or len(response.body) or 1
        for start in range(0, len(response.body), step):
            self.wfile.write(response.body[start : start + step])
            if response.pause and self.server.listener.stopping.wait(response.pause):
                return

    def _reset(self) -> None:
        """Close with an RST in place of a FIN."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.close(self.connection.detach())

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet."""
