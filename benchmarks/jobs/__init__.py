"""The parts of the report. Each runs in a process of its own, and may be run alone: `--only NAME`."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.loop import Budget
from benchmarks.tables import Result

#: In the order in which they are run and shown; each is a module here with a function `run(scale)`.
NAMES = (
    "unary",
    "future",
    "threads",
    "asyncio_unary",
    "streams",
    "runtimes",
    "lookup",
    "signing",
    "openfx",
    "opening",
    "cold_start",
    "refresh",
    "renewal",
    "many_auths",
    "retry",
    "import_time",
)


@dataclass(frozen=True)
class Scale:
    """How much of everything: 1 is the report's, 0 is the least that runs at all."""

    size: float

    def budget(self, seconds: float, *, least: int = 200, most: int = 1_000_000) -> Budget:
        """A loop's, given what it takes in full."""
        return Budget(seconds * self.size, max(5, round(least * min(1.0, self.size))), most)

    def count(self, full: int, least: int = 1) -> int:
        """A number of things, given the full one."""
        return max(least, min(full, round(full * self.size)))


def job(name: str) -> Callable[[Scale], Result]:
    """The function that does it."""
    run: Callable[[Scale], Result] = importlib.import_module(f"benchmarks.jobs.{name}").run
    return run
