"""asyncio unary calls, one and fifty at once: wall time and client CPU."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import grpc

import grpc_bearer
from benchmarks import loop, tables
from benchmarks.aio_stubs import AioStubs, aio_stubs
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import SELDOM, SELDOM_NOTE, Role, Variant
from benchmarks.peers import BY_HAND
from benchmarks.server import APART, Server
from benchmarks.stubs import REQUEST, WARM_UP, Reusable
from benchmarks.tables import Check, Goal, Grid, Result
from grpc_bearer import BearerAuth
from grpc_bearer._calls import channel_security
from grpc_bearer.testing import ProbeStub

AT_ONCE = 50
FLOOR, AGAIN, OURS, WITHOUT = (
    "header by hand",
    "header by hand, again",
    "grpc_bearer.aio.secure_channel",
    "aio.secure_channel(retry=None)",
)
ALWAYS = (FLOOR, AGAIN, OURS, WITHOUT)
INTERCEPTORS, GOOGLE = "grpc_bearer.aio.interceptors", "google-auth AuthMetadataPlugin"
PLAIN, PLAIN_AGAIN = "plain interceptor", "plain interceptor, again"
#: Interceptors are compared with each other.
AMONG: dict[str, Role] = {PLAIN: "floor", PLAIN_AGAIN: "A/A", INTERCEPTORS: "ours"}
#: Goals for time and client CPU, by how many calls are made at once.
GOALS = {1: (1.01, 1.02), 50: (1.02, 1.02)}
ON_OURS = "aio.secure_channel(interceptors=[the user's])"
Call = Callable[[], Awaitable[Any]]


def _calls(at: AioStubs) -> list[tuple[str, Any, Call]]:
    def by_hand() -> Any:
        return at.plain.Unary(REQUEST, metadata=BY_HAND)

    def call(stub: Any) -> Call:
        method = stub.Unary
        return lambda: method(REQUEST)

    return [
        (FLOOR, "floor", by_hand),
        (AGAIN, "A/A", by_hand),
        (OURS, "ours", call(at.ours)),
        (WITHOUT, "ours", call(at.without_retry)),
        (INTERCEPTORS, "ours", call(at.interceptors)),
        ("bare AuthMetadataPlugin", "peer", call(at.plugin)),
        (GOOGLE, "peer", call(at.google)),
        (PLAIN, "peer", call(at.plain_interceptor)),
        (PLAIN_AGAIN, "peer", call(at.plain_interceptor_again)),
    ]


def _with_users(at: AioStubs) -> list[Variant]:
    """Channels that have an interceptor of the user's: plain with the header by hand, and ours."""

    def by_hand(stub: Any) -> Call:
        method = stub.Unary
        return lambda: method(REQUEST, metadata=BY_HAND)

    ours = at.users_on_ours.Unary
    return [
        Variant("grpc.aio with the same one, header by hand", "floor", by_hand(at.users)),
        Variant("grpc.aio with the same one, header by hand, again", "A/A", by_hand(at.users_again)),
        Variant(ON_OURS, "ours", lambda: ours(REQUEST)),
    ]


def _many(call: Call) -> Call:
    async def together() -> None:
        # A task each, as callers have them: grpc.aio calls themselves start at once.
        await asyncio.gather(*(call() for _ in range(AT_ONCE)))

    return together


async def _measure(server: Server, scale: Scale) -> Result:
    result = Result()
    async with aio_stubs(server) as at:
        calls = _calls(at)
        for _, _, call in calls:
            for _ in range(WARM_UP):
                await call()
        one = [Variant(name, role, call, 1 if name in ALWAYS else SELDOM) for name, role, call in calls]
        many = [replace(variant, call=_many(variant.call)) for variant in one]
        await _add(result, one, scale, 1, SELDOM_NOTE)
        with server.apart():
            await _add(result, many, scale, AT_ONCE, SELDOM_NOTE, APART)
        await _add_users(result, _with_users(at), scale)
        result.grids.append(await _proved(server))
    return result


async def _add(result: Result, variants: list[Variant], scale: Scale, at_once: int, *notes: str) -> None:
    """Two tables."""
    key, title = f"asyncio-{at_once}", f"asyncio, {at_once} at once"
    wall = await loop.wall_async(variants, scale.budget(20), per=at_once)
    cpu = await loop.cpu_async(variants, scale.budget(20), per=at_once)
    for_time, for_cpu = GOALS[at_once]
    result.tables += [
        tables.compare(f"{key}-wall", f"{title}, wall time", wall, {OURS: Goal(for_time)}, notes=notes),
        tables.compare(f"{key}-cpu", f"{title}, client CPU", cpu, {OURS: Goal(for_cpu)}, notes=notes),
        *tables.interceptors(key, f"asyncio interceptors, {at_once} at once", wall, cpu, AMONG),
    ]
    result.benchmarks += held(wall, cpu)


async def _add_users(result: Result, variants: list[Variant], scale: Scale) -> None:
    """Two tables."""
    for variant in variants:
        for _ in range(WARM_UP):
            await variant.call()
    wall = await loop.wall_async(variants, scale.budget(10))
    cpu = await loop.cpu_async(variants, scale.budget(10))
    title = "asyncio with an interceptor of the user's"
    result.tables += [
        tables.compare("asyncio-users-wall", f"{title}, wall time", wall, {ON_OURS: Goal(1.02)}),
        tables.compare("asyncio-users-cpu", f"{title}, client CPU", cpu, {ON_OURS: Goal(1.04)}),
    ]
    result.benchmarks += held(wall, cpu)


async def _proved(server: Server) -> Grid:
    """How many calls of a new channel go through core, where gRPC says where its channels lead, and where not."""
    told, untold = await _through_core(server), await _through_core(server, tells=False)
    what = "asyncio calls that go through core until the channel is proved"
    columns = ["gRPC", "calls", "through core"]
    rows = [["tells where its channels lead (1.81 and newer)", str(WARM_UP), str(told)]]
    rows.append(["does not (1.66 to 1.80)", str(WARM_UP), str(untold)])
    check = Check(f"{what}, grpcio 1.66 to 1.80", "1", str(untold), "met" if untold == 1 else "missed")
    return Grid("asyncio-proved", f"{WARM_UP} {what}", columns, rows, [check])


async def _through_core(server: Server, *, tells: bool = True) -> int:
    """Call credentials that were made for the first calls of a channel."""
    made = mock.patch.object(grpc, "metadata_call_credentials", wraps=grpc.metadata_call_credentials)
    silent = mock.patch.object(channel_security, "target_of", None if tells else lambda channel: None)
    with made as counted, contextlib.nullcontext() if tells else silent:
        auth = BearerAuth(Reusable())
        async with grpc_bearer.aio.secure_channel(server.target, server.credentials(), auth=auth) as channel:
            for _ in range(WARM_UP):
                await ProbeStub(channel).Unary(REQUEST)
        return counted.call_count


def run(scale: Scale) -> Result:
    """All tables; values are for one call."""
    with Server() as server:
        return asyncio.run(_measure(server, scale))
