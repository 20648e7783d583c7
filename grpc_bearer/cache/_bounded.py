"""A store may hang, whatever its client promises: no step is waited for without end, and a failure brings a pause."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from grpc_bearer._base.bounded_threads import start
from grpc_bearer._base.private_files import InsecureError
from grpc_bearer._engine.fetch import system_random
from grpc_bearer.errors import ConfigurationError

T = TypeVar("T")

#: Seconds for which a store that failed is left alone: at first, and at most. Each is spread by a half either way.
PAUSE = (1.0, 30.0)
#: At most so many steps hang at a time; while they do, no other is begun.
HANGING = 4
#: The timeout of a step is waited for in so many slices, and grows by that to so many times its length at most.
SLICES, STRETCH = 20, 10.0
#: About a store that comes and goes there is one warning in so many seconds.
QUIET = 60.0

_LOGGER = logging.getLogger("grpc_bearer")


class OutOfOrderError(Exception):
    """The store is down, or too slow: go on without."""


class _Step(Generic[T]):
    """One step on a thread of its own. If nobody waits for it any more when it ends, `undo` gets what it brought."""

    def __init__(self, step: Callable[[], T], undo: Callable[[T], object] | None) -> None:
        self._step, self._undo = step, undo
        self._abandoned = self.ended = False
        self.result: list[T] = []
        self.failure = ""

    def run(self) -> None:
        try:
            self._run()
        finally:
            self.ended = True

    def _run(self) -> None:
        try:
            result = self._step()
        except BaseException as error:  # whatever a client raises; its text may hold an address with a password
            self.failure = _reason(error)
            return
        self.result.append(result)
        if self._abandoned:
            self._take_back()

    def abandon(self) -> None:
        self._abandoned = True
        self._take_back()

    def _take_back(self) -> None:
        # Both threads may come here; what is popped is popped once.
        with contextlib.suppress(Exception):
            result = self.result.pop()
            if self._undo is not None:
                self._undo(result)


# The words with which a Redis server refuses. For some redis-py takes away the word, and has a class instead.
_REDIS_WORDS = re.compile(
    r"\b(NOPERM|WRONGPASS|NOAUTH|OOM|READONLY|MISCONF|LOADING|CLUSTERDOWN|MASTERDOWN|CROSSSLOT|BUSY|WRONGTYPE)\b"
)
# How a script says NOPERM, in Redis 6 and 7.
_REDIS_DENIED = re.compile(r"ACL failure in script|executing the script can't")
_REDIS_CLASSES = {
    "NoPermissionError": "NOPERM",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "AuthenticationError": "NOAUTH or WRONGPASS",
}


def _reason(error: BaseException) -> str:
    """Why a step failed, in a word of the store's own; its free text may hold an address with a password."""
    if isinstance(error, InsecureError):
        return str(error)
    if isinstance(error, ConfigurationError):
        return error._without("cache")
    name = type(error).__name__
    if type(error).__module__.partition(".")[0] in ("redis", "valkey"):
        word = _REDIS_WORDS.search(str(error))
        denied = "NOPERM" if _REDIS_DENIED.search(str(error)) else None
        told = word[1] if word is not None else denied or _REDIS_CLASSES.get(name)
        return name if told is None else f"{told} ({name})"
    return (getattr(error, "strerror", None) if isinstance(error, OSError) else None) or name


def in_time(ended: Callable[[float], bool], timeout: float, monotonic: Callable[[], float]) -> bool:
    """Whether something ends within `timeout` seconds in which this process gets to run.

    Where hundreds of processes start on few cores, an answer may be there long before this process gets to run and can
    read it. So a slice that took longer than it should says that the machine is busy, not that the store is slow: it
    counts for no more than the time that was asked for.

    Args:
        ended: waits for the end for as many seconds as it is given; whether it has come.
        timeout: in seconds.
        monotonic: where to read time.
    """
    latest = monotonic() + STRETCH * timeout
    for _ in range(SLICES):
        if ended(timeout / SLICES):
            return True
        if monotonic() >= latest:
            break
    return False


class CircuitBreaker:
    """How long a store is waited for, and what is remembered of its failures.

    Args:
        what: the store, for the log.
        timeout: seconds for a step.
        monotonic: where to read time.
    """

    def __init__(self, what: str, timeout: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._what, self._timeout, self._monotonic = what, timeout, monotonic
        self._again_at = self._quiet_until = float("-inf")
        self._failures = 0
        self._silent = True  # no warning was given after which "works again" is due
        self._hanging: list[_Step[Any]] = []
        self._pid = os.getpid()

    @property
    def exhausted(self) -> bool:
        """Whether the store is to be left alone for now."""
        return self._monotonic() < self._again_at

    def bounded(self, step: Callable[[], T], undo: Callable[[T], object] | None = None) -> T:
        """What `step` returns.

        Args:
            step: talks to the store.
            undo: given what `step` brought after all, when nobody waited for it any more.

        Raises:
            OutOfOrderError: it failed or took too long, or others did just now.
        """
        if self._pid != os.getpid():  # in a forked child the parent's steps never end
            self._pid, self._hanging = os.getpid(), []
        self._hanging = [other for other in self._hanging if not other.ended]
        if self.exhausted or len(self._hanging) >= HANGING:
            raise OutOfOrderError
        job = _Step(step, undo)
        try:
            ended = in_time(start(job.run).wait, self._timeout, self._monotonic)
        except RuntimeError:  # no more threads
            raise OutOfOrderError from None
        if not ended and not job.result:
            self._hanging.append(job)
            job.abandon()
            self._failed(f"no answer within {self._timeout * 1000:.0f} ms")
        if job.failure:
            self._failed(job.failure)
        try:
            result = job.result[0]
        except IndexError:
            raise OutOfOrderError from None
        self._worked()
        return result

    def _failed(self, reason: str) -> None:
        now = self._monotonic()
        first, longest = PAUSE
        self._again_at = now + min(first * 2.0**self._failures, longest) * (0.5 + system_random())
        self._failures = min(self._failures + 1, 10)
        if now >= self._quiet_until:
            self._quiet_until, self._silent = now + QUIET, False
            _LOGGER.warning("the shared cache (%s) is out of order: %s; going on without it", self._what, reason)
        raise OutOfOrderError

    def _worked(self) -> None:
        if not self._failures:
            return
        self._failures, self._again_at = 0, float("-inf")
        if not self._silent:
            self._silent = True
            _LOGGER.info("the shared cache (%s) works again", self._what)
