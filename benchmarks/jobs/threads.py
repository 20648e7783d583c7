"""Sixteen threads calling at once: calls per second."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from benchmarks import loop, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import SELDOM, Variant
from benchmarks.server import APART, Server
from benchmarks.stubs import by_hand, stubs, unary
from benchmarks.tables import Goal, Result

THREADS, EACH = 16, 2
OURS = "grpc_bearer.secure_channel"


class Crowd:
    """Threads that stand by, so that none has to be started while the clock runs."""

    def __init__(self) -> None:
        self._begin = threading.Barrier(THREADS + 1)
        self._end = threading.Barrier(THREADS + 1)
        self._call: Callable[[], Any] | None = None
        for _ in range(THREADS):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._begin.wait()
            call = self._call
            if call is None:
                return
            for _ in range(EACH):
                call()
            self._end.wait()

    def calling(self, call: Callable[[], Any]) -> Callable[[], None]:
        """A function that has each thread make `EACH` of these calls, and waits for all."""

        def together() -> None:
            self._call = call
            self._begin.wait()
            self._end.wait()

        return together

    def dismiss(self) -> None:
        self._call = None
        self._begin.wait()


def run(scale: Scale) -> Result:
    """The table; what is shuffled are bursts of all threads, since 16 calls at once cannot be shuffled one by one."""
    crowd = Crowd()
    with Server() as server, stubs(server) as at:
        chosen = [
            Variant("header by hand", "floor", crowd.calling(by_hand(at.plain))),
            Variant("header by hand, again", "A/A", crowd.calling(by_hand(at.plain))),
            Variant(OURS, "ours", crowd.calling(unary(at.ours))),
            Variant("bare AuthMetadataPlugin", "peer", crowd.calling(unary(at.plugin)), SELDOM),
            Variant("google-auth secure_authorized_channel", "peer", crowd.calling(unary(at.google)), SELDOM),
        ]
        for variant in chosen:
            variant.call()
        with server.apart():
            samples = loop.wall(chosen, scale.budget(35), per=THREADS * EACH)
        crowd.dismiss()
    note = f"Shuffled in bursts of {THREADS} threads × {EACH} calls. Ratios are of calls per second: more is better."
    table = tables.compare(
        "threads",
        "16 threads, calls per second",
        samples,
        {OURS: Goal(0.97, at_least=True)},
        unit="calls/s",
        factor=1,
        throughput=True,
        notes=[note, APART],
    )
    return Result([table], benchmarks=held(samples))
