"""Time as an argument: a wall clock for `exp`, `iat` and `nbf`, a monotonic one for everything else."""

from __future__ import annotations

import time as _time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Where the library reads time. `grpc_bearer.testing.ManualClock` is one that tests move by hand."""

    def time(self) -> float:
        """Seconds since the Unix epoch; may step."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...

    def call_later(self, delay: float, fn: Callable[[], object]) -> Callable[[], None]:
        """Call `fn`, which must be quick, after `delay` monotonic seconds. Returns a function that cancels it."""
        ...


class _SystemClock:
    # The function itself, not a method around it: the hot path reads this clock on each call.
    monotonic = staticmethod(_time.monotonic)

    @staticmethod
    def time() -> float:
        return _time.time()  # looked up when called, so that libraries for tests may put another in its place

    @staticmethod
    def call_later(delay: float, fn: Callable[[], object]) -> Callable[[], None]:
        from grpc_bearer._workers import call_later  # threads only for those who ask for them

        return call_later(delay, fn)

    def __repr__(self) -> str:
        return "SYSTEM_CLOCK"

    def __reduce__(self) -> str:
        return "SYSTEM_CLOCK"


SYSTEM_CLOCK: Clock = _SystemClock()
