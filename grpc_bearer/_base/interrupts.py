"""Which exceptions are meant for the whole program, and not for the code that they happen to interrupt."""

from __future__ import annotations

# Not `signal`: it calls the handler's `__repr__`, which may be anybody's code. The type stubs do not know `_signal`.
import _signal  # type: ignore[import-not-found]
import threading
from asyncio import CancelledError
from types import CodeType, TracebackType


def is_interrupt(error: BaseException) -> bool:
    """Whether `error` has to go through to whoever called: code that survives everything must let this one pass.

    Python runs signal handlers on the main thread, between any two steps of whatever runs there. So on that thread
    SystemExit, KeyboardInterrupt and the like are the program's own, and so is what a handler has raised (the time
    limit of a task queue is a plain Exception). On every other thread they would only end the thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    if not isinstance(error, (Exception, CancelledError, GeneratorExit)):
        return True
    return _raised_in(error.__traceback__, _handlers())


def _handlers() -> set[CodeType]:
    """The code of every signal handler that is written in Python: of functions, methods, and objects with a call."""
    found = set()
    for number in _signal.valid_signals():
        handler = _signal.getsignal(number)
        call = getattr(type(handler), "__call__", None)  # noqa: B004  # of an object, its code
        code = getattr(handler, "__code__", None) or getattr(call, "__code__", None)
        if isinstance(code, CodeType):
            found.add(code)
    return found


def _raised_in(trace: TracebackType | None, codes: set[CodeType]) -> bool:
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False
