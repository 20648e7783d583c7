"""What it costs to be ready to try again, when nothing fails."""

from __future__ import annotations

from typing import Any

import grpc
import tenacity

from benchmarks import loop, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Variant
from benchmarks.server import Server
from benchmarks.stubs import stubs, unary, warm
from benchmarks.tables import Goal, Result

OURS = "retry policy on (the default)"


def _stale(error: BaseException) -> bool:
    return isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.UNAUTHENTICATED


def run(scale: Scale) -> Result:
    """The table."""
    with Server() as server, stubs(server) as at:
        plain = unary(at.without_retry)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(2), retry=tenacity.retry_if_exception(_stale), reraise=True
        )

        def by_tenacity() -> Any:
            return retrying(plain)

        chosen = [
            Variant("retry=None", "floor", plain),
            Variant("retry=None, again", "A/A", plain),
            Variant(OURS, "ours", unary(at.ours)),
            Variant("tenacity around the call", "peer", by_tenacity),
        ]
        warm([variant.call for variant in chosen])
        samples = loop.wall(chosen, scale.budget(25))
    table = tables.compare("retry", "Retry policy, no failure", samples, {OURS: Goal(1.01)})
    return Result([table], benchmarks=held(samples))
