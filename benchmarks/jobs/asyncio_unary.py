"""asyncio unary calls, one and fifty at once: wall time and client CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from benchmarks import loop, tables
from benchmarks.aio_stubs import AioStubs, aio_stubs
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import SELDOM, SELDOM_NOTE, Variant
from benchmarks.peers import BY_HAND
from benchmarks.server import APART, Server
from benchmarks.stubs import REQUEST, WARM_UP
from benchmarks.tables import Goal, Result

AT_ONCE = 50
FLOOR, AGAIN, OURS, WITHOUT = (
    "header by hand",
    "header by hand, again",
    "grpc_bearer.aio.secure_channel",
    "aio.secure_channel(retry=None)",
)
ALWAYS = (FLOOR, AGAIN, OURS, WITHOUT)
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
        one = [Variant(name, role, call, 1 if name in ALWAYS else SELDOM) for name, role, call in calls]
        many = [replace(variant, call=_many(variant.call)) for variant in one]
        await _add(result, one, scale, 1, SELDOM_NOTE)
        with server.apart():
            await _add(result, many, scale, AT_ONCE, SELDOM_NOTE, APART)
    return result


async def _add(result: Result, variants: list[Variant], scale: Scale, at_once: int, *notes: str) -> None:
    """Two tables."""
    key, title = f"asyncio-{at_once}", f"asyncio, {at_once} at once"
    wall = await loop.wall_async(variants, scale.budget(20), per=at_once)
    cpu = await loop.cpu_async(variants, scale.budget(20), per=at_once)
    result.tables += [
        tables.compare(f"{key}-wall", f"{title}, wall time", wall, {OURS: Goal(1.02)}, notes=notes),
        tables.compare(f"{key}-cpu", f"{title}, client CPU", cpu, {OURS: Goal(1.03)}, notes=notes),
    ]
    result.benchmarks += held(wall, cpu)


def run(scale: Scale) -> Result:
    """All four tables; values are for one call."""
    with Server() as server:
        return asyncio.run(_measure(server, scale))
