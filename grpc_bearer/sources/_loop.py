"""Waiting, on a plain thread, for what runs on an event loop; and one private loop for what has none of its own."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable
from concurrent.futures import Future, wait
from typing import Any

from grpc_bearer._base import fork_hooks
from grpc_bearer._base.clock import SYSTEM_CLOCK
from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._base.user_code import scrubbed
from grpc_bearer.errors import GrpcBearerError, TokenUnavailableError

# Who waits looks so often whether the loop was closed meanwhile: no future of a closed loop ever gets a result.
_LOOK = 0.25

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
# Loops of the parent process. Kept for good: collecting one would close it, and with it what the parent still uses.
_inherited: list[asyncio.AbstractEventLoop] = []


def background_loop() -> asyncio.AbstractEventLoop:
    """The private loop, running on a daemon thread that all sources share. Another one after `fork`, or if it died."""
    global _loop, _thread
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():
            _loop = asyncio.new_event_loop()
            ready = threading.Event()
            # A daemon: a function that hangs must not delay the interpreter's exit.
            _thread = threading.Thread(target=_run, args=(_loop, ready), name="grpc-bearer-loop", daemon=True)
            _thread.start()
            ready.wait()
        return _loop


def runs_here(loop: asyncio.AbstractEventLoop | None) -> bool:
    """Whether the calling thread runs this loop, or the private one for `None`."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return False
    return running is (_loop if loop is None else loop)


def awaited(awaitable: Awaitable[Any], loop: asyncio.AbstractEventLoop, timeout: float, where: str) -> Any:
    """What `awaitable` gives on `loop`, waited for on this thread.

    Raises:
        GrpcBearerError: as it was raised, or a `TokenUnavailableError` in the place of any other exception.
        TokenUnavailableError: the loop is not running, was closed, or took longer than `timeout` seconds.
    """
    started = threading.Event()
    future = _scheduled(awaitable, loop, started, where)
    if future is None:
        raise TokenUnavailableError(f"{where}: its event loop is closed or not running")
    # The system's clock: the loop runs in real time, whatever clock the tests move.
    deadline = SYSTEM_CLOCK.monotonic() + timeout
    while not future.done() and not loop.is_closed() and (left := deadline - SYSTEM_CLOCK.monotonic()) > 0:
        wait([future], timeout=min(left, _LOOK))
    if not future.done():
        reason = _given_up(future, awaitable, loop, started, timeout)
        raise TokenUnavailableError(f"{where}: {reason}")
    if future.exception() is not None:  # KeyboardInterrupt on the user's own loop: it goes on there
        raise TokenUnavailableError(f"{where}: interrupted")
    value, failure = future.result()
    if failure is not None:
        raise failure
    return value


def _scheduled(
    awaitable: Awaitable[Any], loop: asyncio.AbstractEventLoop, started: threading.Event, where: str
) -> Future[tuple[Any, GrpcBearerError | None]] | None:
    coroutine = _outcome(awaitable, started, where)
    try:
        if loop.is_running():
            return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:
        pass  # closed since
    coroutine.close()
    _discard(awaitable)
    return None


async def _outcome(
    awaitable: Awaitable[Any], started: threading.Event, where: str
) -> tuple[Any, GrpcBearerError | None]:
    """Value and error as a pair. The error is not raised: a SystemExit out of a task would end the loop's thread."""
    started.set()
    try:
        return await awaitable, None
    except (Exception, asyncio.CancelledError, SystemExit) as error:
        if is_interrupt(error):  # a signal has come, and the loop is the main thread's
            raise
        return None, scrubbed(error, where)


def _given_up(
    future: Future[Any],
    awaitable: Awaitable[Any],
    loop: asyncio.AbstractEventLoop,
    started: threading.Event,
    timeout: float,
) -> str:
    """Stop waiting; why, in words."""
    if loop.is_closed():
        return "its event loop was closed meanwhile"
    future.cancel()
    if started.is_set():
        return f"no answer within {timeout:g} s"
    _discard(awaitable)
    return (
        f"its event loop did not begin it within {timeout:g} s; is that loop's thread blocked, waiting for this "
        "very token? Use grpc_bearer.aio and `await auth.atoken()` there"
    )


def _discard(awaitable: object) -> None:
    # Python warns of a coroutine that nobody ran, on stderr and far from here.
    if inspect.iscoroutine(awaitable):
        awaitable.close()


def _run(loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    loop.call_soon(ready.set)
    loop.run_forever()


def _after_fork() -> None:
    global _lock, _loop, _thread
    if _loop is not None:
        _inherited.append(_loop)
    _lock, _loop, _thread = threading.Lock(), None, None


fork_hooks.in_child(fork_hooks.Phase.RENEW, _after_fork)
