"""A gRPC server over TLS that answers any method with bytes that were prepared for it, and notes what arrived."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from _table import HOLD

from grpc_bearer.testing import CA, LOOPBACK_NAMES, Certificate, Response, TokenServer

#: A message, what makes one of the request, or `HOLD`.
Reply = bytes | str | Callable[[bytes], bytes]
#: The names in the page's examples.
NAMES = ("*.example.com", "*.ydb.example.com", "*.googleapis.com", *LOOPBACK_NAMES)


class PageCA(CA):
    """Its certificates are good for the names of the page."""

    def issue(self, *names: str) -> Certificate:
        return super().issue(*(names or NAMES))


def web(ca: CA, answers: Mapping[str, str]) -> int:
    """The port of an HTTPS server that answers these paths with these texts."""
    server = TokenServer(ca)
    for path, text in answers.items():
        server.serve(path, lambda _, text=text: Response(200, text.encode(), content_type="application/json"))
    return int(server.start().url("").rpartition(":")[2])


class Server:
    """Takes the token that is `alive`, and no other.

    Args:
        header: where the token is looked for.
        scheme: what stands before it.
        replies: by method; an empty message for those that are not named, which every client can read.
        refusals: what a method answers for a dead token: a status with text, messages, or `None`, if it wants no token;
            others UNAUTHENTICATED.
    """

    def __init__(
        self,
        ca: CA,
        header: str = "authorization",
        scheme: str = "Bearer ",
        replies: Mapping[str, Sequence[Reply]] | None = None,
        refusals: Mapping[str, Any] | None = None,
    ) -> None:
        self.alive = ""
        self.arrived: list[tuple[str, list[str]]] = []
        self._header, self._scheme = header, scheme
        self._replies, self._refusals = dict(replies or {}), dict(refusals or {})
        self._credentials = ca.server_credentials()
        self._server: grpc.Server | None = None
        self.restart()

    def restart(self) -> None:
        """End all connections, and listen on other ports."""
        if self._server is not None:
            self._server.stop(None).wait()
        options = [("grpc.so_reuseport", 0)]
        self._server = grpc.server(ThreadPoolExecutor(32), handlers=[_Anything(self._serve)], options=options)
        self.port = self._server.add_secure_port("127.0.0.1:0", self._credentials)
        self.plaintext_port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def taken(self) -> list[tuple[str, list[str]]]:
        """What has arrived since this was asked last: method by method, all values of the header."""
        arrived, self.arrived = self.arrived, []
        return arrived

    def _serve(self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        replies = self._replies.get(method, (b"",))
        refusal = self._refusals.get(method, (grpc.StatusCode.UNAUTHENTICATED, "the token is dead"))
        if refusal is not None:
            replies = self._admitted(method, context, replies, refusal)
        request = next(requests, b"")
        for reply in replies:
            if reply == HOLD:
                ended = threading.Event()
                if context.add_callback(ended.set):
                    ended.wait()
            else:
                yield reply(request) if callable(reply) else reply

    def _admitted(self, method: str, context: grpc.ServicerContext, replies: Any, refusal: Any) -> Any:
        values = [str(value) for key, value in context.invocation_metadata() if key == self._header]
        self.arrived.append((method, values))
        if values == [f"{self._scheme}{self.alive}"]:
            return replies
        if isinstance(refusal[0], grpc.StatusCode):
            context.abort(*refusal)
        return refusal


class Elsewhere:
    """What a server in another process takes, and what it noted, by files in a folder."""

    port = plaintext_port = 0

    def __init__(self, folder: Path) -> None:
        self._alive, self._noted = folder / "alive", folder / "noted"

    @property
    def alive(self) -> str:
        return self._alive.read_text()

    @alive.setter
    def alive(self, token: str) -> None:
        self._alive.write_text(token)

    def admits(self, method: str, value: str) -> bool:
        """Note what came, and say whether it is good."""
        with self._noted.open("a") as noted:
            noted.write(json.dumps([method, [value]]) + "\n")
        return value == f"Bearer {self.alive}"

    def taken(self) -> list[Any]:
        noted = self._noted.read_text().splitlines() if self._noted.exists() else []
        self._noted.write_text("")
        return [json.loads(line) for line in noted]


class _Anything(grpc.GenericRpcHandler):
    """Every method, as a stream of bytes each way, which is what the other kinds are on the wire too."""

    def __init__(self, serve: Callable[..., Iterator[bytes]]) -> None:
        self._serve = serve

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        return grpc.stream_stream_rpc_method_handler(lambda requests, context: self._serve(method, requests, context))
