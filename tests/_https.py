"""HTTPS on loopback for the tests of token requests: a server that answers as told, and one that is only a socket."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest

from grpc_bearer.errors import GrpcBearerError

#: What a token endpoint answers.
GRANTED = {"access_token": "t0ken", "token_type": "Bearer", "expires_in": 3600}


@dataclass
class Received:
    """One request as the server saw it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    port: int  # the client's: equal ports are one kept-alive connection
    certificate: str = ""  # the name in the client's, if it was asked for one

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.body.decode(), strict_parsing=True).items()}


@dataclass
class Reply:
    body: bytes | str | dict[str, object] = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


class Server:
    """Answers each request with the next reply; the last one stays."""

    def __init__(self, url: str, replies: list[Reply]) -> None:
        self.url = url
        self.replies = replies
        self.requests: list[Received] = []

    def take(self, request: Received) -> Reply:
        self.requests.append(request)
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # headers and body are two writes: the second would wait 40 ms

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = server.take(Received(self.command, self.path, headers, body, self.client_address[1], self.name()))
            content = reply.body
            if isinstance(content, dict):
                content = json.dumps(content)
            if isinstance(content, str):
                content = content.encode()
            self.send_response(reply.status)
            for name, value in {"content-length": str(len(content)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def name(self) -> str:
            shown = self.connection.getpeercert() if isinstance(self.connection, ssl.SSLSocket) else None
            subject: Any = (shown or {}).get("subject", ())
            return str(dict(pair for part in subject for pair in part).get("commonName", ""))

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *args: object) -> None:
            pass

    return Handler


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        pass  # clients that hang up are part of the tests


@contextmanager
def https_server(*replies: Reply | str, context: ssl.SSLContext | None) -> Iterator[Server]:
    """Over TLS with this context; plain HTTP without one."""
    server = Server("", [Reply(reply) if isinstance(reply, str) else reply for reply in replies])
    with _QuietServer(("127.0.0.1", 0), _handler(server)) as httpd:
        if context is not None:
            # The handshake waits for the handler's thread, or a client that hangs would hold the acceptor.
            httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
        server.url = f"{'http' if context is None else 'https'}://localhost:{httpd.server_port}/token"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            httpd.shutdown()
            thread.join()


@contextmanager
def raw_server(
    script: Callable[[socket.socket, threading.Event], None], context: ssl.SSLContext | None
) -> Iterator[int]:
    """A port where each connection is handed to `script`, after the TLS handshake if there is a context.

    The event is set when the test is over.
    """
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), closing(connection):
            if context is not None:
                connection = context.wrap_socket(connection, server_side=True)
            with closing(connection):
                script(connection, over)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True))
                threads[-1].start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        acceptor = threading.Thread(target=accept, daemon=True)
        acceptor.start()
        try:
            yield listener.getsockname()[1]
        finally:
            over.set()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in [acceptor, *threads]:
                thread.join(5)


def read_request(connection: socket.socket) -> bytes:
    """One whole request. What is left unread would turn the closing of the connection into a reset."""
    data = b""
    while b"\r\n\r\n" not in data and (piece := connection.recv(65536)):
        data += piece
    length = re.search(rb"(?i)content-length: *(\d+)", data)
    end = data.index(b"\r\n\r\n") + 4 + int(length[1]) if length else 0
    while len(data) < end and (piece := connection.recv(65536)):
        data += piece
    return data


def in_a_child(check: Callable[[], bool]) -> bool:
    """Whether the check holds in a forked child, which ends whatever happens."""
    child = os.fork()
    if child == 0:
        passed = False
        try:
            passed = check()
        finally:
            os._exit(0 if passed else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def unsigned_jwt(**claims: object) -> str:
    """A JWT in form, with a signature that nobody checks."""
    parts = [{"alg": "RS256", "typ": "JWT"}, claims]
    segments = [urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*segments, "c2lnbmF0dXJl"])


def assert_hidden(error: BaseException, *secrets: str) -> None:
    """No secret in the error, nor in anything that hangs on it."""
    pending, seen = [error], set()
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        shown = f"{item} {item!r} {item.args!r} {vars(item)!r}"
        for secret in secrets:
            assert secret not in shown
        pending += [link for link in (item.__cause__, item.__context__) if link is not None]


def failure(call: Callable[[], object], kind: type[GrpcBearerError], match: str) -> GrpcBearerError:
    """The error that the call raises; its text, without its note, is as expected."""
    with pytest.raises(kind) as caught:
        call()
    assert re.search(match, str(caught.value)), str(caught.value)
    return caught.value
