"""asyncio unary calls, one and fifty at once: wall time and client CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks import loop, tables
from benchmarks.aio_stubs import AioStubs, aio_stubs
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Variant
from benchmarks.peers import BY_HAND
from benchmarks.server import Server
from benchmarks.stubs import REQUEST, WARM_UP
from benchmarks.tables import Reach, Result

AT_ONCE = 50
OURS = "grpc_bearer.aio.secure_channel"
Call = Callable[[], Awaitable[Any]]


def _calls(at: AioStubs) -> list[tuple[str, Any, Call]]:
    def by_hand() -> Any:
        return at.plain.Unary(REQUEST, metadata=BY_HAND)

    def call(stub: Any) -> Call:
        method = stub.Unary
        return lambda: method(REQUEST)

    return [
        ("header by hand", "floor", by_hand),
        ("header by hand, again", "A/A", by_hand),
        (OURS, "ours", call(at.ours)),
        ("aio.secure_channel(retry=None)", "ours", call(at.without_retry)),
        ("grpc_bearer.aio.interceptors", "ours", call(at.interceptors)),
        ("bare AuthMetadataPlugin", "peer", call(at.plugin)),
        ("google-auth AuthMetadataPlugin", "peer", call(at.google)),
        ("plain interceptor", "peer", call(at.plain_interceptor)),
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
        one = [Variant(name, role, call) for name, role, call in calls]
        many = [Variant(name, role, _many(call)) for name, role, call in calls]
        for key, variants, per in ((1, one, 1), (AT_ONCE, many, AT_ONCE)):
            wall = await loop.wall_async(variants, scale.budget(18), per=per)
            cpu = await loop.cpu_async(variants, scale.budget(18), per=per)
            result.tables += [
                tables.compare(f"asyncio-{key}-wall", f"asyncio, {key} at once, wall time", wall, {OURS: Reach(1.02)}),
                tables.compare(f"asyncio-{key}-cpu", f"asyncio, {key} at once, client CPU", cpu, {OURS: Reach(1.03)}),
            ]
            result.benchmarks += held(wall, cpu)
    return result


def run(scale: Scale) -> Result:
    """All four tables; values are for one call."""
    with Server() as server:
        return asyncio.run(_measure(server, scale))
