"""A clock that stands still until a test moves it."""

from __future__ import annotations

import heapq
import itertools
import threading
from collections.abc import Callable


class ManualClock:
    """A clock to be moved by hand; fits wherever the library takes a `clock=`.

    Args:
        start: the first wall-clock time, in seconds since the Unix epoch.

    >>> clock = ManualClock()
    >>> _ = clock.call_later(10, lambda: print("ten seconds later"))
    >>> clock.advance(9)
    >>> clock.advance(1)
    ten seconds later
    >>> clock.time()
    1700000010.0
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._lock = threading.Lock()
        self._monotonic = 1000.0
        self._offset = start - self._monotonic
        self._due: list[tuple[float, int, list[Callable[[], object]]]] = []
        self._count = itertools.count()

    def time(self) -> float:
        """Seconds since the Unix epoch."""
        return self._monotonic + self._offset

    def monotonic(self) -> float:
        """Seconds since some fixed point."""
        return self._monotonic

    def call_later(self, delay: float, fn: Callable[[], object]) -> Callable[[], None]:
        """Call `fn` once the clock was advanced by `delay` seconds. Returns a function that cancels it."""
        cell = [fn]
        with self._lock:
            heapq.heappush(self._due, (self._monotonic + delay, next(self._count), cell))
        return cell.clear

    def advance(self, seconds: float) -> None:
        """Move both clocks on, calling what falls due on the way, in order, on this thread and at its own time."""
        if seconds < 0:
            raise ValueError("a clock goes forward; to move the wall clock alone, back too, there is step_wall()")
        end = self._monotonic + seconds
        while (cell := self._next(end)) is not None:
            for fn in tuple(cell):  # empty: cancelled
                fn()
        self._monotonic = end

    def _next(self, end: float) -> list[Callable[[], object]] | None:
        with self._lock:
            if not self._due or self._due[0][0] > end:
                return None
            at, _, cell = heapq.heappop(self._due)
            self._monotonic = max(self._monotonic, at)
            return cell

    def step_wall(self, seconds: float) -> None:
        """Move the wall clock alone, as NTP or an administrator does; backwards too."""
        self._offset += seconds

    def __repr__(self) -> str:
        return f"ManualClock(time={self.time()!r})"
