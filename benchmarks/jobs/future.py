"""`.future()`: the call is handed out before it ends, and ours has to be able to try again behind the caller's back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import loop, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Variant
from benchmarks.peers import BY_HAND
from benchmarks.server import Server
from benchmarks.stubs import REQUEST, Stubs, stubs, warm
from benchmarks.tables import Goal, Result

OURS = "grpc_bearer.secure_channel"


def _future(stub: Any) -> Callable[[], Any]:
    call = stub.Unary.future
    return lambda: call(REQUEST).result()


def variants(at: Stubs) -> list[Variant]:
    """The floor, ours with and without retry, and plugins."""
    call = at.plain.Unary.future

    def floor() -> Any:
        return call(REQUEST, metadata=BY_HAND).result()

    return [
        Variant("header by hand", "floor", floor),
        Variant("header by hand, again", "A/A", floor),
        Variant(OURS, "ours", _future(at.ours)),
        Variant("secure_channel(retry=None)", "ours", _future(at.without_retry)),
        Variant("bare AuthMetadataPlugin", "peer", _future(at.plugin)),
        Variant("google-auth secure_authorized_channel", "peer", _future(at.google)),
    ]


def run(scale: Scale) -> Result:
    """Both tables."""
    with Server() as server, stubs(server) as at:
        chosen = variants(at)
        warm([variant.call for variant in chosen])
        wall = loop.wall(chosen, scale.budget(22))
        cpu = loop.cpu(chosen, scale.budget(22))
    return Result(
        [
            tables.compare("future-wall", "`.future()`, wall time", wall, {OURS: Goal(1.04)}),
            tables.compare("future-cpu", "`.future()`, client CPU", cpu, {OURS: Goal(1.06)}),
        ],
        benchmarks=held(wall, cpu),
    )
