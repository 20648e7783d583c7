"""The workers: threads and asyncio tasks that make calls until they are told to stop, and write down each one's end."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from chaos import kinds
from chaos.kinds import Job
from chaos.leaks import Capture
from chaos.lines import Line

#: Seconds that a call may take; some callers have less patience than a fault lasts.
DEADLINES = (8.0, 20.0, 30.0)
#: A call that outlives its deadline by more is a fault of its own, in seconds. (Two busy cores are slow.)
GRACE = 2.0
# A worker rests for up to so many seconds after a call, and so many after one that failed, as callers do.
REST, _REST_AFTER_FAILURE = 0.15, 1.0
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a call ended; times are wall-clock seconds."""

    job: Job
    who: str
    auth: str
    site: str
    way: str
    asynchronous: bool
    began: float
    ended: float
    deadline: float
    patient: bool = True
    code: str = "OK"
    error: str = ""
    cause: str = ""

    @property
    def ok(self) -> bool:
        return self.code == "OK" and not self.error


@dataclass
class Results:
    """What all workers write."""

    capture: Capture
    calls: list[Ended] = field(default_factory=list)

    def add(self, line: Line, job: Job, asynchronous: bool, began: float, timeout: float, outcome: Any) -> bool:
        code, error, cause = "OK", "", ""
        if isinstance(outcome, BaseException):
            code, error, cause = described(outcome)
            self.capture.exception(outcome)
        elif wrong := job.wrong(outcome):
            error = wrong
        end = Ended(
            job, line.who, line.auth, line.site, line.way, asynchronous, began, time.time(), began + timeout,
            job.patient and line.knows_patience(job.kind), code, error, cause,
        )  # fmt: skip
        self.calls.append(end)
        return end.ok


def described(error: BaseException) -> tuple[str, str, str]:
    """Status, text and the type of the cause."""
    cause = type(error.__cause__).__name__ if error.__cause__ else ""
    if isinstance(error, grpc.RpcError) and callable(getattr(error, "code", None)):
        failed: Any = error
        why = f" <- {cause}: {error.__cause__}" if cause else ""
        return failed.code().name, f"{failed.details()}{why}", cause
    return type(error).__name__, str(error), cause


def how_of(job: Job, timeout: float) -> dict[str, Any]:
    return {"timeout": timeout, "metadata": (("x-call", str(job.number)),), "wait_for_ready": job.patient}


def call(line: Line, job: Job, timeout: float) -> Any:
    """One call as a user makes it: its replies, or its error."""
    make = kinds.SYNC[job.kind]
    until = time.monotonic() + timeout
    replies = None
    try:
        if line.attempts is None or job.kind not in line.by_attempts:
            return make(line.stub, job, **how_of(job, timeout))
        for attempt in line.attempts(timeout):
            with attempt:
                replies = make(line.stub, job, **how_of(job, max(until - time.monotonic(), 0.001)))
    except Exception as error:
        return error
    return replies


async def acall(line: Line, job: Job, timeout: float) -> Any:
    """The same for asyncio."""
    make = kinds.AIO[job.kind]
    until = time.monotonic() + timeout
    replies = None
    try:
        if line.attempts is None or job.kind not in line.by_attempts:
            return await asyncio.wait_for(make(line.stub, job, **how_of(job, timeout)), timeout + 2 * GRACE)
        async for attempt in line.attempts(timeout):
            with attempt:
                left = max(until - time.monotonic(), 0.001)
                replies = await asyncio.wait_for(make(line.stub, job, **how_of(job, left)), left + 2 * GRACE)
    except (Exception, asyncio.CancelledError) as error:  # grpc.aio's word for what a server that stops has cancelled
        return error
    return replies


class Worker:
    """One caller: takes a line at random, makes a call, rests."""

    def __init__(
        self, seed: str, lines: Sequence[Line], results: Results, stop: threading.Event, rest: float = REST
    ) -> None:
        self._chance = random.Random(seed)
        self._lines = lines
        self._results = results
        self._stop = stop
        self._longest_rest = rest

    def _draw(self) -> tuple[Line, Job, float]:
        line = self._chance.choice(self._lines)
        job = Job.draw(
            next(_numbers), self._chance.choice(line.kinds), self._chance, long=line.long, full=line.who == "naive"
        )
        if line.way == "interceptor" and job.kind.endswith("write"):
            job = replace(job, reuse=False)  # grpc.aio itself keeps what is written through interceptors, for a while
        return line, job, DEADLINES[-1] if line.long else self._chance.choice(DEADLINES)

    def _rest(self, ok: bool) -> float:
        return self._chance.uniform(0, self._longest_rest) if ok else _REST_AFTER_FAILURE

    def run(self) -> None:
        while not self._stop.is_set():
            line, job, timeout = self._draw()
            began = time.time()
            outcome = call(line, job, timeout)
            self._stop.wait(self._rest(self._results.add(line, job, False, began, timeout, outcome)))

    async def arun(self) -> None:
        while not self._stop.is_set():
            line, job, timeout = self._draw()
            began = time.time()
            outcome = await acall(line, job, timeout)
            await asyncio.sleep(self._rest(self._results.add(line, job, True, began, timeout, outcome)))


def threads(workers: Sequence[Worker]) -> list[threading.Thread]:
    return [threading.Thread(target=worker.run, name=f"worker-{number}") for number, worker in enumerate(workers)]


def loop_thread(
    count: int, worker: Callable[[int, Sequence[Line]], Worker], lines: Callable[[], Sequence[Line]]
) -> threading.Thread:
    """An event loop on a thread of its own, with channels and workers of its own."""

    async def run() -> None:
        asyncio.get_running_loop().set_debug(False)
        made = lines()
        await asyncio.gather(*(worker(number, made).arun() for number in range(count)))

    return threading.Thread(target=lambda: asyncio.run(run()), name="loop")
