"""A signal that comes at the n-th line of this package on the calling thread, and is handled by raising."""

from __future__ import annotations

import contextlib
import dis
import functools
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import grpc_bearer

PACKAGE = str(Path(grpc_bearer.__file__).parent)
TESTING = str(Path(PACKAGE) / "testing")


class Limit(Exception):
    """What a task queue's handler raises when a task has had its time: an Exception like any other."""


class Stop(BaseException):
    """What a program may have of its own."""


class Interruption:
    """Raises at one line, if the code gets that far; counts the lines on the way.

    Args:
        at: the number of the line, from 1; 0: none, only count.
        raised: what the signal handler raises.
    """

    def __init__(self, at: int, raised: Callable[[], BaseException] = KeyboardInterrupt) -> None:
        self.at = at
        self.raised = raised
        self.lines = 0
        self.where = ""

    def run(self, work: Callable[[], object]) -> None:
        """Do the work, to be interrupted.

        Raised at some lines, an exception leaves the one that was handled there behind, as if it were handled still
        (CPython 3.11; real signals do not come at those). A generator has a place of its own for that, which goes with
        it; left on the thread, it would be the `__context__` of all that later tests raise.
        """

        def apart() -> Iterator[object]:
            yield work()

        with self._watching():
            next(apart())

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        before = signal.signal(signal.SIGUSR1, self._handle)
        traced, collects = sys.gettrace(), gc.isenabled()
        gc.disable()  # or the lines of what others have left behind come in between
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(traced)
            if collects:
                gc.enable()
            signal.signal(signal.SIGUSR1, before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        raise self.raised()

    def _called(self, frame: FrameType, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        return self._line if file.startswith(PACKAGE) and not file.startswith(TESTING) else None

    def _line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event != "line" or frame.f_lasti in ways_out(frame.f_code):
            return self._line
        self.lines += 1
        if self.lines == self.at and not _is_lost(frame):
            self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
            signal.raise_signal(signal.SIGUSR1)
        return self._line


def _is_lost(frame: FrameType | None) -> bool:
    """Whether what is raised here is lost, whosoever it is: in a finalizer, and in a repr that Python asks for."""
    while frame is not None:
        if frame.f_code.co_name in ("__del__", "__repr__"):
            return True
        frame = frame.f_back
    return False


@functools.cache
def ways_out(code: CodeType) -> frozenset[int]:
    """Where blocks of `with` are left: before `__exit__` of a lock, Python handles no signal, though it tells tracers
    of a line there."""
    found, run = set(), []
    for step in dis.get_instructions(code):
        if step.opname in ("NOP", "POP_BLOCK", "SWAP", "ROT_TWO") and not any(op == "None" for _, op in run):
            run.append((step.offset, step.opname))
        elif (step.opname == "LOAD_CONST" and step.argval is None) or step.opname == "DUP_TOP":
            run.append((step.offset, "None"))
            if sum(op == "None" for _, op in run) == 3:
                found.update(offset for offset, _ in run)
        else:
            run = []
    return frozenset(found)
