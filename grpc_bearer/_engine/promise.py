"""Waiting for one value: callbacks that are called with it, and threads that sleep until it is there.

No `concurrent.futures.Future` where threads meet: its lock is taken in Python code, and an exception that a signal
handler raises there leaves it taken for ever, so that whoever brings the value hangs. Here every step is one operation
of C on a deque, a list or a lock: it has happened, or it has not.
"""

from __future__ import annotations

import _thread
import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from grpc_bearer._base.interrupts import is_interrupt

T = TypeVar("T")

_LOGGER = logging.getLogger("grpc_bearer")


class Promise(Generic[T]):
    """A value that comes once, and those who wait for it: each is called exactly once.

    `tell` takes out callbacks and calls them, so it must run on a thread of ours: on a caller's thread, an exception
    between these two steps would lose a callback, and whoever left it would wait for ever.

    >>> promise = Promise()
    >>> promise.then(print)
    >>> promise.keep("a value")
    >>> promise.keep("another")
    >>> promise.tell()
    a value
    """

    __slots__ = ("__weakref__", "_kept", "_waiting")

    def __init__(self) -> None:
        self._kept: list[T] = []
        self._waiting: deque[Callable[[T], object]] = deque()

    @property
    def kept(self) -> bool:
        """Whether the value is there."""
        return bool(self._kept)

    def then(self, callback: Callable[[T], object]) -> None:
        """Call `callback` with the value: on whatever thread tells, or here if the value is there already."""
        self._waiting.append(callback)
        if self._kept:
            try:
                self._waiting.remove(callback)
            except ValueError:
                return  # `tell` has it already
            guarded(callback, self._kept[0])

    def keep(self, value: T) -> None:
        """This is the value, if there is none yet. Who waits is told by `tell`."""
        if not self._kept:
            self._kept.append(value)  # of two at once the first one counts

    def tell(self) -> None:
        """Call all who wait, once the value is there."""
        while self._kept and self._waiting:
            try:
                callback = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            guarded(callback, self._kept[0])


class Latch:
    """What a thread sleeps on until another one calls `open`, once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._lock.acquire()

    def open(self) -> None:
        """Let the one who waits go on."""
        self._lock.release()

    def wait(self, timeout: float | None) -> bool:
        """Sleep, for at most so many seconds; whether it was opened."""
        longest = _thread.TIMEOUT_MAX
        return self._lock.acquire(timeout=-1 if timeout is None or timeout > longest else max(timeout, 0.0))


def guarded(callback: Callable[[T], object], value: T) -> None:
    """Call somebody's function; whatever it raises, the next one is served too."""
    try:
        callback(value)
    except BaseException as error:
        if is_interrupt(error):
            raise
        _LOGGER.error("whoever waited for a token raised %s", type(error).__name__)
