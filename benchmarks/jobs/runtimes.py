"""Unary calls of other runtimes with a token at hand: client CPU and wall time of grpclib and of connectrpc's clients.

A runtime that is not installed is left out: the report then says nothing of it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import loop, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Samples, Variant
from benchmarks.peers import BY_HAND
from benchmarks.server import Server
from benchmarks.stubs import REQUEST, WARM_UP, Reusable
from benchmarks.tables import Goal, Result
from grpc_bearer import BearerAuth
from grpc_bearer.testing import ProbeReply, ProbeRequest

FLOOR, AGAIN, OURS = "header by hand", "header by hand, again", "grpc_bearer"
GOAL = Goal(1.03)
SERVICE, METHOD = "grpc_bearer.testing.v1.Probe", "Unary"
HEADERS = dict(BY_HAND)
#: Calls have a deadline, as they should.
SECONDS = 20
Call = Callable[[], Any]


def _variants(by_hand: Call, ours: Call) -> list[Variant]:
    return [Variant(FLOOR, "floor", by_hand), Variant(AGAIN, "A/A", by_hand), Variant(OURS, "ours", ours)]


def run(scale: Scale) -> Result:
    """Two tables for each runtime that is here."""
    result = Result()
    with Server() as server:
        if importlib.util.find_spec("grpclib") is not None:
            _add(result, "grpclib", "grpclib", *asyncio.run(_grpclib(server, scale)))
        if importlib.util.find_spec("connectrpc") is not None:
            _add(result, "connect-sync", "connectrpc, sync", *_connect(server, scale))
            _add(result, "connect-aio", "connectrpc, asyncio", *asyncio.run(_connect_asyncio(server, scale)))
    return result


def _add(result: Result, key: str, title: str, wall: list[Samples], cpu: list[Samples]) -> None:
    result.tables += [
        tables.compare(f"{key}-cpu", f"{title}, client CPU", cpu, {OURS: GOAL}),
        tables.compare(f"{key}-wall", f"{title}, wall time", wall, {OURS: GOAL}),
    ]
    result.benchmarks += held(wall, cpu)


async def _measured(variants: list[Variant], scale: Scale) -> tuple[list[Samples], list[Samples]]:
    for variant in variants:
        for _ in range(WARM_UP):
            await variant.call()
    return await loop.wall_async(variants, scale.budget(8)), await loop.cpu_async(variants, scale.budget(15))


# -------------------------------------------------------------------------------------------------------------- grpclib


async def _grpclib(server: Server, scale: Scale) -> tuple[list[Samples], list[Samples]]:
    from grpclib.client import Channel, UnaryUnaryMethod

    import grpc_bearer.grpclib

    host, _, port = server.target.rpartition(":")
    tls = ssl.create_default_context(cafile=str(server.ca))
    tls.set_alpn_protocols(["h2"])
    auth = BearerAuth(Reusable())

    def method(channel: Channel) -> Callable[..., Awaitable[Any]]:
        return UnaryUnaryMethod(channel, f"/{SERVICE}/{METHOD}", ProbeRequest, ProbeReply)

    async with (
        Channel(host, int(port), ssl=tls) as plain,
        grpc_bearer.grpclib.channel(host, int(port), auth=auth, ssl=tls) as ours,
    ):
        by_hand, without = method(plain), method(ours)
        return await _measured(
            _variants(
                lambda: by_hand(REQUEST, timeout=SECONDS, metadata=HEADERS), lambda: without(REQUEST, timeout=SECONDS)
            ),
            scale,
        )


# ----------------------------------------------------------------------------------------------------------- connectrpc


def _made(client_class: Any, server: Server, http_client: Any) -> list[Variant]:
    """The variants of a client, which speaks gRPC."""
    from connectrpc.compat import google_protobuf_binary_codec
    from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
    from connectrpc.protocol import ProtocolType

    import grpc_bearer.connect

    method: Any = MethodInfo(
        name=METHOD,
        service_name=SERVICE,
        input=ProbeRequest,
        output=ProbeReply,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )
    options: dict[str, Any] = {
        "protocol": ProtocolType.GRPC,
        "codec": google_protobuf_binary_codec(),
        "send_compression": None,
        "http_client": http_client,
    }
    how: dict[str, Any] = {"request": REQUEST, "method": method, "timeout_ms": SECONDS * 1000}
    address = f"https://{server.target}"
    plain = client_class(address, **options)
    ours = grpc_bearer.connect.client(client_class, address, auth=BearerAuth(Reusable()), **options)
    return _variants(lambda: plain.execute_unary(headers=HEADERS, **how), lambda: ours.execute_unary(**how))


def _tls(server: Server) -> dict[str, Any]:
    from pyqwest import HTTPVersion

    return {"tls_ca_cert": server.ca.read_bytes(), "http_version": HTTPVersion.HTTP2}


def _connect(server: Server, scale: Scale) -> tuple[list[Samples], list[Samples]]:
    from connectrpc.client import ConnectClientSync
    from pyqwest import SyncClient, SyncHTTPTransport

    with SyncHTTPTransport(**_tls(server)) as transport:
        variants = _made(ConnectClientSync, server, SyncClient(transport))
        for variant in variants:
            for _ in range(WARM_UP):
                variant.call()
        return loop.wall(variants, scale.budget(8)), loop.cpu(variants, scale.budget(15))


async def _connect_asyncio(server: Server, scale: Scale) -> tuple[list[Samples], list[Samples]]:
    from connectrpc.client import ConnectClient
    from pyqwest import Client, HTTPTransport

    async with HTTPTransport(**_tls(server)) as transport:
        return await _measured(_made(ConnectClient, server, Client(transport)), scale)
