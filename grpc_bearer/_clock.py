"""Time as an argument: a wall clock for `exp`, `iat` and `nbf`, a monotonic one for everything else."""

from __future__ import annotations

import time as _time
from typing import Protocol


class Clock(Protocol):
    """Where the library reads time. `grpc_bearer.testing.ManualClock` is one that tests move by hand."""

    def time(self) -> float:
        """Seconds since the Unix epoch; may step."""
        ...

    def monotonic(self) -> float:
        """Seconds since some fixed point; never goes back."""
        ...


class _SystemClock:
    # The functions themselves, not methods around them: the hot path reads this clock on each call.
    time = staticmethod(_time.time)
    monotonic = staticmethod(_time.monotonic)

    def __repr__(self) -> str:
        return "SYSTEM_CLOCK"

    def __reduce__(self) -> str:
        return "SYSTEM_CLOCK"


SYSTEM_CLOCK: Clock = _SystemClock()
