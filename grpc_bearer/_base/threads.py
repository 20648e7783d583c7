"""The threads of this library: workers that fetch, workers for what must not wait, and one timer; all are daemons.

A `ThreadPoolExecutor` will not do: the interpreter joins its threads when it exits, and would wait for a fetch. Nor
will locks and conditions: Ctrl-C or a time limit may interrupt a caller in here, and a finalizer may run at any moment.
So each step is one operation of C on a deque, a list, a dict or a `SimpleQueue`, and after each one all is in order: a
job that is in its queue is taken by whoever looks next.
"""

from __future__ import annotations

import _thread
import functools
import heapq
import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import TypeAlias

from grpc_bearer._base import fork_hooks
from grpc_bearer._base.interrupts import is_interrupt

Job: TypeAlias = Callable[[], object]

#: More fetches than this do not run at once in a process; the others wait for their turn.
MAX_WORKERS = 16
#: A job that takes longer than this hangs, in seconds: its worker no longer counts, and another one may begin.
SLOW = 2.0
#: At most so many threads fetch, however many of them hang.
MAX_THREADS = 512
#: So many workers stay when there is nothing to do.
KEPT = 16
#: The timer looks at its clock at least this often, in seconds: longer waits are too much for some systems.
LONGEST_WAIT = 3600.0

_LOGGER = logging.getLogger("grpc_bearer")
_here = threading.local()
_numbers = itertools.count(1)


def _run(job: Job) -> None:
    try:
        job()
    except BaseException as error:  # a thread shared by all survives everything; no text: it may hold a secret
        _LOGGER.error("a background job raised %s", type(error).__name__)


def start(work: Job, name: str) -> None:
    """Begin a daemon thread.

    `Thread.start` waits for the thread on a condition, which an exception from a signal handler may leave locked: the
    thread would never come to its work. So a bare thread does that, where no handler runs.

    Raises:
        RuntimeError: the system gives no thread, or the interpreter is shutting down.
    """
    _thread.start_new_thread(_start_named, (work, name))


def _start_named(work: Job, name: str) -> None:
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError:  # there is no second thread: the bare one does it
        work()


class _Pool:
    """Workers, begun when a job finds none idle.

    A job is put into the queue first; then `attend` sees to it that a worker looks there. A worker that has taken a job
    calls `attend` for the next one before it begins. A worker without a job first puts itself on the list of idle ones,
    and then looks into the queue once more: so either whoever brings a job finds the worker, or the worker the job.
    """

    def __init__(self, name: str, limit: float) -> None:
        self._name = name
        self._limit = limit
        self._jobs: deque[Job] = deque()
        self._idle: list[SimpleQueue[None]] = []
        self._began: dict[int, float] = {}  # each worker's number, and when it began what it is doing
        self._next_look = -math.inf

    def submit(self, job: Job) -> None:
        self._jobs.append(job)
        try:
            self.attend()
        except RuntimeError:
            with suppress(ValueError):  # another thread's worker has taken it by now
                self._jobs.remove(job)
                raise

    def attend(self) -> None:
        """Have a worker take the first job, if there is one: an idle one, or a new one."""
        if not self._jobs:
            return
        idle = self._idle[-1:]
        if idle:
            idle[0].put(None)  # it stays in the list until it wakes, and then looks at all jobs
        elif self._may_grow():
            self.grow()
        elif time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + SLOW
            with suppress(RuntimeError):  # without a timer, `attend` is called when the next job comes or ends
                call_later(SLOW, self.attend)

    def _may_grow(self) -> bool:
        now = time.monotonic()
        counting = sum(now - began < SLOW for began in list(self._began.values()))
        return counting < self._limit and len(self._began) < MAX_THREADS

    def grow(self) -> None:
        """Begin a worker. If the system gives no more threads, those that there are must do."""
        me = next(_numbers)
        try:
            start(functools.partial(self._work, me), f"{self._name}-{me}")
        except RuntimeError:
            if not self._began:
                raise
            return
        self._began.setdefault(me, time.monotonic())  # the worker sets this itself, but perhaps has not begun yet

    def staff(self) -> None:
        """See to it that there is a worker at all."""
        if not self._began:
            self.grow()

    def _work(self, me: int) -> None:
        inbox: SimpleQueue[None] = SimpleQueue()
        _here.pool, _here.me = self, me
        while True:
            self._do_all(me)
            if len(self._began) > KEPT:
                del self._began[me]
                if not self._jobs:
                    return
                continue
            self._idle.append(inbox)
            if not self._jobs:
                inbox.get()
            self._idle.remove(inbox)

    def _do_all(self, me: int) -> None:
        while True:
            self._began[me] = time.monotonic()
            try:
                job = self._jobs.popleft()
            except IndexError:
                return
            self.attend()
            _run(job)
            del job  # an idle thread must not keep the engine of its last job alive

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While a worker waits inside here for another job (a source that asks a second auth), it does not count."""
        me = _here.me
        self._began[me] = -math.inf
        self.attend()
        try:
            yield
        finally:
            self._began[me] = time.monotonic()


class _Timer:
    """One thread that gives jobs to workers when they are due, and runs none itself. Begun with the first call."""

    def __init__(self) -> None:
        self._inbox: SimpleQueue[tuple[float, int, list[Job]]] = SimpleQueue()
        self._count = itertools.count()
        self._begun = False

    def call_later(self, delay: float, fn: Job) -> Callable[[], None]:
        cell = [fn]
        self._inbox.put((time.monotonic() + delay, next(self._count), cell))
        if not self._begun:
            try:
                _prompt.staff()  # so that there is always somebody to do what is due
                start(self._work, "grpc-bearer-timer")  # two such threads do no harm: they share the inbox
            except RuntimeError:
                cell.clear()
                raise
            self._begun = True
        return cell.clear  # a cancelled job is freed at once, its cell when it is due

    def _work(self) -> None:
        due: list[tuple[float, int, list[Job]]] = []
        while True:
            wait = min(max(due[0][0] - time.monotonic(), 0.0), LONGEST_WAIT) if due else None
            with suppress(Empty):
                heapq.heappush(due, self._inbox.get(timeout=wait))
            while due and due[0][0] <= time.monotonic():
                for fn in heapq.heappop(due)[2]:
                    _prompt.submit(fn)


_fetching = _Pool("grpc-bearer-worker", MAX_WORKERS)
_prompt = _Pool("grpc-bearer-prompt", math.inf)
_timer = _Timer()
# In a forked child the parent's jobs are kept, never run and never freed: freeing them could touch gRPC's core.
_graveyard: list[object] = []


def submit(job: Job) -> None:
    """Run a fetch on a worker, soon.

    Raises:
        RuntimeError: the system gives no thread, or the interpreter is shutting down.
    """
    _fetching.submit(job)


def prompt(job: Job) -> None:
    """Run `job` at once, however many fetches there are: on another thread, or here if the system gives none."""
    try:
        _prompt.submit(job)
    except RuntimeError:
        try:
            job()
        except BaseException as error:
            if is_interrupt(error):
                raise
            _LOGGER.error("a background job raised %s", type(error).__name__)


def call_later(delay: float, fn: Job) -> Callable[[], None]:
    """Call `fn` on a worker after `delay` seconds. Returns what cancels it.

    Raises:
        RuntimeError: as `submit` does.
    """
    return _timer.call_later(delay, fn)


@contextmanager
def waiting() -> Iterator[None]:
    """Around a wait for another job: if this thread is a worker, another one may begin in its place."""
    pool = getattr(_here, "pool", None)
    if pool is None:
        yield
        return
    with pool.waiting():
        yield


def keep_for_parent(thing: object) -> None:
    """Keep `thing` for ever, untouched: it belongs to the parent of a fork."""
    _graveyard.append(thing)


def _after_fork_in_child() -> None:
    global _fetching, _prompt, _timer
    keep_for_parent((_fetching, _prompt, _timer))
    _fetching, _prompt, _timer = _Pool(_fetching._name, MAX_WORKERS), _Pool(_prompt._name, math.inf), _Timer()
    vars(_here).pop("pool", None)


fork_hooks.in_child(fork_hooks.Phase.RENEW, _after_fork_in_child)
