"""connectrpc's clients for the tests, and a server of its own, over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from _refusing import Place, Seen, requests, soon
from attachments import PATIENCE, TLS

from grpc_bearer.testing import ProbeReply, ProbeRequest

pytest.importorskip("connectrpc", reason="no connectrpc here (it needs Python 3.11)")
pytest.importorskip("connectrpc.compat", reason="this connectrpc is too old")
pytest.importorskip("hypercorn", reason="no hypercorn here, to serve connectrpc's applications")

import hypercorn.asyncio
import hypercorn.config
from connectrpc.client import ConnectClient, ConnectClientSync
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_codecs
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from connectrpc.server import ConnectASGIApplication, Endpoint
from pyqwest import Client, HTTPTransport, HTTPVersion, SyncClient, SyncHTTPTransport

import grpc_bearer.connect

SERVICE = "grpc_bearer.testing.v1.Probe"


def method_info(name: str, kind: StreamType) -> Any:
    return MethodInfo(
        name=name,
        service_name=SERVICE,
        input=ProbeRequest,
        output=ProbeReply,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=kind,
    )


UNARY = method_info("Unary", StreamType.UNARY)
SERVER_STREAM = method_info("ServerStream", StreamType.SERVER_STREAM)
CLIENT_STREAM = method_info("ClientStream", StreamType.CLIENT_STREAM)
BIDI_STREAM = method_info("BidiStream", StreamType.BIDI_STREAM)


def seen(*replies: Any) -> Seen:
    return list(replies[-1].indexes), len(replies)


SYNC: dict[str, Callable[..., Seen]] = {
    "Unary": lambda client, **how: seen(client.execute_unary(request=ProbeRequest(index=1), method=UNARY, **how)),
    "ServerStream": lambda client, **how: seen(
        *client.execute_server_stream(request=ProbeRequest(index=1, replies=3), method=SERVER_STREAM, **how)
    ),
    "ClientStream": lambda client, **how: seen(
        client.execute_client_stream(request=iter(requests()), method=CLIENT_STREAM, **how)
    ),
    "BidiStream": lambda client, **how: seen(
        *client.execute_bidi_stream(request=iter(requests()), method=BIDI_STREAM, **how)
    ),
}


async def _requests() -> AsyncIterator[ProbeRequest]:
    for request in requests():
        yield request


async def made_aio(client: Any, kind: str, **how: Any) -> Seen:
    if kind == "Unary":
        return seen(await client.execute_unary(request=ProbeRequest(index=1), method=UNARY, **how))
    if kind == "ClientStream":
        return seen(await client.execute_client_stream(request=_requests(), method=CLIENT_STREAM, **how))
    if kind == "ServerStream":
        request = ProbeRequest(index=1, replies=3)
        replies = client.execute_server_stream(request=request, method=SERVER_STREAM, **how)
    else:
        replies = client.execute_bidi_stream(request=_requests(), method=BIDI_STREAM, **how)
    return seen(*[reply async for reply in replies])


HOW: dict[str, Any] = {"codec": google_protobuf_binary_codec(), "send_compression": None}
_HTTP: dict[str, Any] = {"tls_ca_cert": TLS.pem, "http_version": HTTPVersion.HTTP2}


@contextlib.contextmanager
def opened(target: str, auth: Any, protocol: ProtocolType = ProtocolType.GRPC, **how: Any) -> Iterator[Any]:
    """A sync client."""
    with SyncHTTPTransport(**_HTTP) as transport:
        how = {**HOW, "protocol": protocol, "http_client": SyncClient(transport), **how}
        yield grpc_bearer.connect.client(ConnectClientSync, f"https://{target}", auth=auth, **how)


@contextlib.asynccontextmanager
async def aopened(target: str, auth: Any, protocol: ProtocolType = ProtocolType.GRPC, **how: Any) -> AsyncIterator[Any]:
    """The same for asyncio."""
    async with HTTPTransport(**_HTTP) as transport:
        how = {**HOW, "protocol": protocol, "http_client": Client(transport), **how}
        yield grpc_bearer.connect.client(ConnectClient, f"https://{target}", auth=auth, **how)


class Calls:
    """Makes calls of one side, sync or asyncio, by one protocol."""

    def __init__(self, side: str, protocol: ProtocolType) -> None:
        self.side, self.protocol = side, protocol

    def make(
        self, target: str, kind: str, auth: Any, headers: Any = None, timeout_ms: int = 20_000, **how: Any
    ) -> Seen:
        if self.side == "sync":
            with opened(target, auth, self.protocol, **how) as client:
                return SYNC[kind](client, headers=headers, timeout_ms=timeout_ms)

        async def main() -> Seen:
            async with aopened(target, auth, self.protocol, **how) as client:
                made: Seen = await soon(made_aio(client, kind, headers=headers, timeout_ms=timeout_ms))
                return made

        return asyncio.run(main())

    def error(self, *args: Any, **how: Any) -> ConnectError:
        with pytest.raises(ConnectError) as caught:
            self.make(*args, **how)
        return caught.value


def sent(here: Place) -> list[str]:
    return [attempt.token for attempt in here.server.ledger]


class App(ConnectASGIApplication[None]):
    """A server of connectrpc's that knows tokens.

    It reads requests before it refuses them. hypercorn (0.18) does not stand an answer that comes before the end of its
    request: by HTTP/2 the whole connection breaks, by HTTP/1.1 the client may wait for ever.
    """

    path = f"/{SERVICE}"

    def __init__(self) -> None:
        self.heard: list[dict[str, str]] = []  # headers of requests
        super().__init__(
            service=None,
            endpoints=lambda _: {
                f"/{SERVICE}/Unary": Endpoint.unary(UNARY, self._unary),
                f"/{SERVICE}/ServerStream": Endpoint.server_stream(SERVER_STREAM, self._server_stream),
                f"/{SERVICE}/ClientStream": Endpoint.client_stream(CLIENT_STREAM, self._client_stream),
                f"/{SERVICE}/BidiStream": Endpoint.bidi_stream(BIDI_STREAM, self._bidi_stream),
            },
            codecs=google_protobuf_codecs(),
        )

    def _admit(self, ctx: Any) -> None:
        self.heard.append(dict(ctx.request_headers))
        token = ctx.request_headers.get("authorization")
        ctx.response_trailers["x-of"] = str(token)
        if token != "Bearer new":
            raise ConnectError(Code.UNAUTHENTICATED, "not that one")

    async def _unary(self, request: ProbeRequest, ctx: Any) -> ProbeReply:
        self._admit(ctx)
        return ProbeReply(indexes=[request.index])

    async def _server_stream(self, request: ProbeRequest, ctx: Any) -> AsyncIterator[ProbeReply]:
        self._admit(ctx)
        for index in range(request.replies):
            yield ProbeReply(index=index, indexes=[request.index])

    async def _client_stream(self, incoming: AsyncIterator[ProbeRequest], ctx: Any) -> ProbeReply:
        indexes = [request.index async for request in incoming]
        self._admit(ctx)
        return ProbeReply(indexes=indexes)

    async def _bidi_stream(self, incoming: AsyncIterator[ProbeRequest], ctx: Any) -> AsyncIterator[ProbeReply]:
        indexes = [request.index async for request in incoming]
        self._admit(ctx)
        for index in range(len(indexes)):
            yield ProbeReply(index=index, indexes=indexes)


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[tuple[str, App]]:
    """A server, and its address."""
    key, chain = TLS.issue().write(folder)
    config = hypercorn.config.Config()
    config.certfile, config.keyfile = str(chain), str(key)
    config.bind = ["127.0.0.1:0"]
    sockets = config.create_sockets()
    (listening,) = sockets.secure_sockets
    listening.listen()  # now, so that no call comes too early
    target = f"127.0.0.1:{listening.getsockname()[1]}"
    config.bind = [f"fd://{listening.detach()}"]
    app, loop, stop = App(), asyncio.new_event_loop(), asyncio.Event()
    asgi: Any = app

    def serve() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(hypercorn.asyncio.serve(asgi, config, shutdown_trigger=stop.wait))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield target, app
    loop.call_soon_threadsafe(stop.set)
    thread.join(PATIENCE)
