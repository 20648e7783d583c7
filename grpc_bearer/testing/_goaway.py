"""A proxy that ends HTTP/2 connections by GOAWAY, as proxies in the field do after so many requests.

A stream above the `last_stream_id` of a GOAWAY was not processed, and gRPC's core tries it again on a new connection
without telling anybody. What was sent as metadata is then sent twice; what a call credentials plugin gave is asked for
anew. (RFC 9113 section 6.8.)
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from grpc_bearer.testing._ledger import Attempt
from grpc_bearer.testing._ports import DIRECT, reserve_port
from grpc_bearer.testing._verifiers import peek_header

if TYPE_CHECKING:
    from grpc_bearer.testing._http2 import Connection
    from grpc_bearer.testing._probe import ProbeServer

__all__ = ["GoawayProxy", "RefusedStream"]


# How long a peer may take to answer the end of TLS before the connection is cut, in seconds; not every client answers.
_FAREWELL = 0.1


@dataclass(frozen=True, slots=True)
class RefusedStream:
    """The headers of a stream that was answered by GOAWAY.

    >>> RefusedStream([(":path", "/s/M"), ("authorization", "Bearer t0")]).values("authorization")
    ['Bearer t0']
    """

    headers: list[tuple[str, str]] = field(repr=False)

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def path(self) -> str:
        return "".join(self.values(":path"))


class GoawayProxy:
    """Stands on loopback before a `ProbeServer`, speaks TLS to the client, and refuses streams by GOAWAY.

    What it refuses goes into the server's ledger too, as attempts with the reason `"goaway"`: the token was sent, and
    whoever ended the connection had it. Needs the packages `hpack` and `hyperframe`.

    Args:
        upstream: the server, started or not.
        script: for each connection in turn, how many streams it lets through before it answers the next one by
            GOAWAY; `None` for all. Connections after the script's end are let through. gRPC's core retries a refused
            stream once, so never script two 0 in a row unless the call is to fail.

    >>> from grpc_bearer.testing import OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub
    >>> with ProbeServer(OpaqueVerifier(["t0"])) as server, GoawayProxy(server, [0]) as proxy:
    ...     with proxy.channel() as channel:
    ...         reply = ProbeStub(channel).Unary(ProbeRequest(index=7), metadata=[("authorization", "Bearer t0")])
    >>> len(proxy.refused), server.ledger
    (1, <Ledger: 1 accepted, 1 refused>)
    """

    def __init__(self, upstream: ProbeServer, script: Iterable[int | None] = ()) -> None:
        from grpc_bearer.testing._http2 import Connection  # with hpack and hyperframe, which are an extra

        self._connection: type[Connection] = Connection
        self.upstream = upstream
        self.refused: list[RefusedStream] = []
        self.connections: int = 0
        self._script: Iterator[int | None] = itertools.chain(script, itertools.repeat(None))
        self._server_context = upstream.ca.server_context()
        self._server_context.set_alpn_protocols(["h2"])
        self._socket = reserve_port()
        self.target: str = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._open: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="goaway-proxy", daemon=True)

    def __repr__(self) -> str:
        return f"<GoawayProxy {self.target} before {self.upstream.target}>"

    def __enter__(self) -> GoawayProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> GoawayProxy:
        """Listen."""
        if not self._thread.is_alive():
            self._thread.start()
            self._listening.wait()
        return self

    def stop(self) -> None:
        """Hang up on everybody. Idempotent, and for good."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        self._socket.close()

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Those that fit."""
        return self.upstream.ca.channel_credentials()

    def channel(self, options: Iterable[tuple[str, Any]] = ()) -> grpc.Channel:
        """A plain gRPC channel through the proxy, without tokens."""
        return grpc.secure_channel(self.target, self.channel_credentials(), (*DIRECT, *options))

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connected, sock=self._socket, ssl=self._server_context, backlog=256)
        self._listening.set()
        await self._stopping.wait()
        server.close()
        while self._open:  # aborted, not cancelled: each connection ends the way it does when a client hangs up
            for writer in self._open:
                writer.transport.abort()
            await asyncio.sleep(0.001)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        limit = next(self._script)
        self._open.add(writer)
        try:
            up_reader, up_writer = await self._dial()
        except OSError:  # the server is down: hang up, as a proxy would
            await self._close(writer)
            return
        self._open.add(up_writer)
        connection = self._connection(writer, up_writer, limit, self._refuse)
        await _first(connection.upwards(reader), connection.downwards(up_reader))
        await self._close(up_writer)
        await self._close(writer)

    async def _close(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), _FAREWELL)
        writer.transport.abort()
        self._open.discard(writer)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if sys.platform != "win32" and self.upstream.target.startswith("unix:"):
            return await asyncio.open_unix_connection(self.upstream.target[len("unix:") :])
        host, _, port = self.upstream.target.rpartition(":")
        if self.upstream.credentials != "tls":
            return await asyncio.open_connection(host, int(port))
        context = self.upstream.ca.client_context()
        context.set_alpn_protocols(["h2"])
        return await asyncio.open_connection(host, int(port), ssl=context)

    def _refuse(self, headers: list[tuple[str, str]]) -> None:
        stream = RefusedStream(headers)
        self.refused.append(stream)
        self.upstream.ledger.add(_attempt(stream, self.upstream))


async def _first(*coroutines: Any) -> None:
    """Run both until one ends (it always ends by an error: somebody hung up), then stop the other."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, OSError | EOFError | asyncio.CancelledError):
            raise RuntimeError("the proxy itself failed") from outcome


def _attempt(stream: RefusedStream, server: ProbeServer) -> Attempt:
    header, scheme = getattr(server.verifier, "header", "authorization"), getattr(server.verifier, "scheme", "Bearer")
    values = stream.values(header)
    token = values[0].removeprefix(f"{scheme} ") if len(values) == 1 else None
    return Attempt(
        method=stream.path,
        accepted=False,
        reason="goaway",
        token=token,
        header_values=values,
        jwt_header=peek_header(token or ""),
        received_at=server.gate.clock.time(),
        metadata=[(name, value) for name, value in stream.headers if not name.startswith(":")],
    )
