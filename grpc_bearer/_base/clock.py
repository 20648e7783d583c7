"""Time as an argument: a wall clock for `exp`, `iat` and `nbf`, a monotonic one for everything else."""

from __future__ import annotations

import time as _time
from collections.abc import Callable
from typing import Protocol

from grpc_bearer.errors import ConfigurationError


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


#: The two clocks differ by less than this, unless one was set or the machine slept; in seconds.
STEP = 1.0


#: For so many seconds the two clocks are not compared again, since that means to read both.
UNSEEN = 5.0


class Elapsed:
    """Monotonic time that goes on while the machine sleeps.

    A machine's monotonic clock may stand still then; its wall clock does not. So if the wall clock is suddenly further
    ahead, the difference counts as time that has passed: a token may have expired while the machine slept. It looks the
    same if somebody puts the wall clock forward, and costs a fetch; a clock that is put back changes nothing.

    >>> from grpc_bearer.testing import ManualClock
    >>> clock = ManualClock()
    >>> elapsed = Elapsed(clock.monotonic, clock.time)
    >>> began = elapsed()
    >>> clock.advance(10)
    >>> clock.step_wall(3600)
    >>> elapsed() - began
    3610.0
    """

    __slots__ = ("_monotonic", "_seen", "_wall")

    def __init__(self, monotonic: Callable[[], float], wall: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._wall = wall
        # How far the wall clock is ahead, and for how long the machine has slept: one value, replaced as a whole.
        self._seen = wall() - monotonic(), 0.0

    def __call__(self) -> float:
        now, (seen, slept) = self._monotonic(), self._seen
        ahead = self._wall() - now
        if abs(ahead - seen) > STEP:
            slept += max(ahead - seen, 0.0)
            self._seen = ahead, slept
        return now + slept

    def until(self, at: float) -> tuple[float, float, float]:
        """`at` on the monotonic clock; and two times of the wall clock between which it has not come yet for sure."""
        left, wall = at - self(), self._wall()
        return at - self._seen[1], wall, wall + min(left, UNSEEN)


class _SystemClock:
    # The function itself, not a method around it: the hot path reads this clock on each call.
    monotonic = staticmethod(_time.monotonic)

    @staticmethod
    def time() -> float:
        return _time.time()  # looked up when called, so that libraries for tests may put another in its place

    @staticmethod
    def call_later(delay: float, fn: Callable[[], object]) -> Callable[[], None]:
        from grpc_bearer._base.threads import call_later  # imported only by those who need it

        return call_later(delay, fn)

    def __repr__(self) -> str:
        return "SYSTEM_CLOCK"

    def __reduce__(self) -> str:
        return "SYSTEM_CLOCK"


SYSTEM_CLOCK: Clock = _SystemClock()


def checked_clock(clock: Clock) -> Clock:
    """A clock as users give it.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(clock, type) or not all(
        callable(getattr(clock, name, None)) for name in ("time", "monotonic", "call_later")
    ):
        raise ConfigurationError("expected an object with time(), monotonic() and call_later()", field="clock")
    return clock
