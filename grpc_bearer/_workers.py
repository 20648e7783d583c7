"""The threads of this library: a few workers that fetch and one timer, all daemons, shared by everybody.

A `ThreadPoolExecutor` will not do: the interpreter joins its threads when it exits, and would wait for a fetch.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

#: More fetches than this do not run at once in a process; the others wait for their turn.
MAX_WORKERS = 16

_LOGGER = logging.getLogger("grpc_bearer")
_here = threading.local()


def _run(job: Callable[[], object]) -> None:
    try:
        job()
    except BaseException as error:  # a thread shared by all survives everything; no text: it may hold a secret
        _LOGGER.error("a background job raised %s", type(error).__name__)


class _Pool:
    """Workers, started when a job finds none idle. Each job in the queue is promised to exactly one thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._limit = MAX_WORKERS
        self._threads = 0
        self._idle = 0
        self._backlog = 0
        self._names = itertools.count(1)

    def submit(self, job: Callable[[], object]) -> None:
        with self._lock:
            if self._idle:
                self._idle -= 1
            elif self._threads >= self._limit or not self._spawn():
                self._backlog += 1
            self._jobs.put(job)

    def _spawn(self) -> bool:
        """Start a worker. If the system gives no more threads, those that there are must do."""
        thread = threading.Thread(target=self._work, name=f"grpc-bearer-worker-{next(self._names)}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            if not self._threads:
                raise
            return False
        self._threads += 1
        return True

    def _work(self) -> None:
        _here.is_worker = True
        while True:
            job = self._jobs.get()
            _run(job)
            del job  # an idle thread must not keep the engine of its last job alive
            with self._lock:
                if self._backlog:
                    self._backlog -= 1
                elif self._threads > self._limit:
                    self._threads -= 1
                    return
                else:
                    self._idle += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While a worker waits inside here for another job (a source that asks a second auth), it does not count."""
        with self._lock:
            self._limit += 1
            if self._backlog and self._spawn():
                self._backlog -= 1
        try:
            yield
        finally:
            with self._lock:
                self._limit -= 1


class _Timer:
    """One thread that calls what is due. Started with the first call to be made."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._due: list[tuple[float, int, list[Callable[[], object]]]] = []
        self._count = itertools.count()
        self._running = False

    def call_later(self, delay: float, fn: Callable[[], object]) -> Callable[[], None]:
        cell = [fn]
        item = (time.monotonic() + delay, next(self._count), cell)
        with self._changed:
            if not self._running:
                threading.Thread(target=self._work, name="grpc-bearer-timer", daemon=True).start()
                self._running = True
            heapq.heappush(self._due, item)
            if self._due[0] is item:
                self._changed.notify()
        return cell.clear  # what is cancelled keeps nothing alive; its empty cell goes when it comes due

    def _work(self) -> None:
        while True:
            cell = self._next()
            try:
                fn = cell.pop()
            except IndexError:
                continue
            _run(fn)
            del fn

    def _next(self) -> list[Callable[[], object]]:
        with self._changed:
            while True:
                wait = self._due[0][0] - time.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(None if wait is None else min(wait, threading.TIMEOUT_MAX))


_pool = _Pool()
_timer = _Timer()
# In a forked child the parent's jobs are kept, never run and never freed: freeing them could touch gRPC's core.
_graveyard: list[object] = []


def submit(job: Callable[[], object]) -> None:
    """Run `job` on a worker, soon.

    Raises:
        RuntimeError: the system gives no thread, or the interpreter is shutting down.
    """
    _pool.submit(job)


def call_later(delay: float, fn: Callable[[], object]) -> Callable[[], None]:
    """Call `fn`, which must be quick, on the timer thread after `delay` seconds. Returns what cancels it."""
    return _timer.call_later(delay, fn)


@contextmanager
def waiting() -> Iterator[None]:
    """Around a wait for another job: if this thread is a worker, another may take its place meanwhile."""
    if not getattr(_here, "is_worker", False):
        yield
        return
    with _pool.waiting():
        yield


def bury(thing: object) -> None:
    """Keep `thing` for ever, untouched: it belongs to the parent of a fork."""
    _graveyard.append(thing)


def _after_fork_in_child() -> None:
    global _pool, _timer
    bury((_pool, _timer))
    _pool, _timer = _Pool(), _Timer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
