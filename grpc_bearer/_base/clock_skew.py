"""How far this machine's clock is off, learnt from those who have the right time.

A token that is signed here, or whose `exp` is read here, is only as good as this machine's clock. Token endpoints and
proxies say the time in each answer (`Date`). What they say is believed only if it came over TLS, fast, not from a
cache, from two answers that agree, and within a bound: a `Date` that lies must not make us sign tokens for another day.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from grpc_bearer._base import threads
from grpc_bearer._base.clock import Clock

#: The largest correction, in seconds: if a `Date` lies, tokens that are signed here live so much longer, and no more.
MAX_SKEW = 900.0
#: A smaller difference is no skew: whole-second dates and the way between two machines explain it, in seconds.
NO_SKEW = 5.0
#: Two samples agree if they differ by no more than this, in seconds.
AGREE = 3.0
#: An answer that took longer says too little about the time, in seconds.
MAX_ROUND_TRIP = 5.0
#: The correction changes at most once in so many seconds.
MIN_INTERVAL = 300.0
#: Some issuers back-date what they issue; a difference below this is not learnt from `iat` alone, in seconds.
NO_SKEW_BY_IAT = 120.0


class Skew(NamedTuple):
    """What is known: seconds to add to this machine's clock, and a correction still to be confirmed."""

    offset: float = 0.0
    candidate: float | None = None


def measured(date: float, received: float, elapsed: float) -> float | None:
    """How far this machine's clock is behind, by one answer; `None` if the answer does not tell.

    Args:
        date: what the other side says, in whole seconds since the Unix epoch.
        received: this machine's uncorrected clock when the answer came.
        elapsed: seconds between request and answer.
    """
    if not 0 <= elapsed <= MAX_ROUND_TRIP:
        return None
    # The date was written between request and answer, say in the middle; and it is cut to whole seconds, hence 0.5.
    return date + 0.5 - (received - elapsed / 2)


def observed(skew: Skew, sample: float, *, confirming: bool = False) -> Skew:
    """What is known after one more sample.

    Args:
        skew: what was known.
        sample: from `measured`.
        confirming: it may confirm a candidate, but is no candidate itself.
    """
    if abs(sample) > MAX_SKEW:
        return skew
    sample = 0.0 if abs(sample) < NO_SKEW else sample
    if abs(sample - skew.offset) < NO_SKEW:
        return skew if skew.candidate is None or confirming else skew._replace(candidate=None)
    if skew.candidate is not None and abs(sample - skew.candidate) <= AGREE:
        return Skew(sample)
    return skew if confirming else skew._replace(candidate=sample)


class SkewedClock:
    """A clock that is put right by what others say; one for each auth.

    Args:
        base: the clock of this machine.
        changed: called with the old and the new correction, in seconds, whenever it changes; with no lock held.

    >>> from grpc_bearer.testing import ManualClock
    >>> slow = ManualClock(1_000_000.0)
    >>> clock = SkewedClock(slow)
    >>> clock.learn(1_000_600.0, 0.1), clock.learn(1_000_600.0, 0.1), round(clock.time())
    (False, True, 1000601)
    """

    def __init__(self, base: Clock, changed: Callable[[float, float], object] | None = None) -> None:
        self.base = base
        self._changed = changed or _nobody
        self.monotonic: Callable[[], float] = base.monotonic
        self.call_later = base.call_later
        self.skew = Skew()
        #: The last measurement, believed or not; `grpc-bearer check` shows it.
        self.sample: float | None = None
        self._learnt_at = -math.inf
        self._epoch = 0.0  # the wall clock at the monotonic zero when the offset was learnt

    def time(self) -> float:
        wall = self.base.time()
        offset = self.skew.offset
        if not offset:
            return wall
        if abs(wall - self.monotonic() - self._epoch) > NO_SKEW:
            # Somebody has set the clock meanwhile, most likely to the right time: it needs no correction any more.
            self.skew = Skew()
            # Told on a worker, since whoever asks for the time may hold a lock. Not told if the system gives no thread.
            with suppress(RuntimeError):
                threads.submit(functools.partial(self._changed, offset, 0.0))
            offset = 0.0
        return wall + offset

    @property
    def suspected(self) -> bool:
        """Whether one answer said that this machine's clock is off, and no second one has yet."""
        return self.skew.candidate is not None

    def learn(self, date: float, elapsed: float, issued: float | None = None) -> bool:
        """Take notice of an answer that came just now, over TLS and from no cache.

        Args:
            date: its `Date`, in seconds since the Unix epoch.
            elapsed: seconds between request and answer.
            issued: the `iat` of a token in it, if any: it confirms the date if it agrees.

        Returns:
            Whether the correction has changed.
        """
        return self._take(date, elapsed) | (issued is not None and self._take(issued, elapsed, confirming=True))

    def learn_issued(self, issued: float, elapsed: float) -> bool:
        """As `learn`, from the `iat` of a token fresh from an endpoint that says no date."""
        sample = measured(issued, self.base.time(), elapsed)
        return sample is not None and abs(sample) > NO_SKEW_BY_IAT and self._take(issued, elapsed)

    def _take(self, date: float, elapsed: float, *, confirming: bool = False) -> bool:
        received = self.base.time()
        sample = measured(date, received, elapsed)
        if sample is None:
            return False
        self.sample = sample
        skew = observed(self.skew, sample, confirming=confirming)
        if skew.offset != self.skew.offset:
            if self.monotonic() - self._learnt_at < MIN_INTERVAL:
                return False  # two servers may disagree, and each change costs a token
            self._learnt_at = self.monotonic()
        before, self.skew = self.skew, skew
        self._epoch = received - self.monotonic()
        if skew.offset == before.offset:
            return False
        self._changed(before.offset, skew.offset)
        return True


def _nobody(before: float, after: float) -> None:
    """Stands for `changed` where nobody wants to be told."""


def suspects(clock: Clock) -> bool:
    """Whether this clock is one that learns, and suspects that it is off."""
    return isinstance(clock, SkewedClock) and clock.suspected
