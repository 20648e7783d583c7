"""Who is told of events, and how: one `Notifier` an auth, and one `FetchReport` a fetch.

Where nobody listens, routine events are not even made. The log is written by a worker, not by the thread that fetches:
a log handler may wait for another thread, and that thread for this very token.
"""

from __future__ import annotations

import _thread
import contextvars
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from grpc_bearer._base import threads
from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._base.observers import checked_observer, everywhere
from grpc_bearer._engine.promise import Latch
from grpc_bearer.errors import ConfigurationError, GrpcBearerError

if TYPE_CHECKING:
    from grpc_bearer.events import Event, Observer

#: Who logs a line waits until it is written, but no longer than this, in seconds. As a rule it is written at once, so
#: that whoever reads the log after a call finds the lines of that call there.
WRITTEN_WITHIN = 0.5
#: At most so many lines wait to be written. If a log handler hangs, the oldest are dropped.
BACKLOG = 1000

_LOGGER = logging.getLogger("grpc_bearer")
T = TypeVar("T")

#: Inside of `holding_back`: the thread, and the list into which its events go.
_held: contextvars.ContextVar[tuple[int, list[Any] | None]] = contextvars.ContextVar(
    "grpc_bearer_held", default=(0, None)
)
_numbers = itertools.count(1)
#: What was logged already of observers that raised: name of the observer, and type of the error.
_complaints: set[tuple[str, str]] = set()


class Notifier:
    """Tells the log and the observers of one auth; never raises, whatever they do.

    Args:
        auth: its name.
        source: the class of its source.
        observers: its own; those for all auths come after them.
        monotonic: where the log reads time.
    """

    __slots__ = ("_lines", "_log", "_observers", "_writer", "_writing", "who")

    def __init__(
        self,
        auth: str = "",
        source: str = "",
        observers: Iterable[Observer] = (),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.who: tuple[str, str] = (auth, source)
        self._observers = tuple(observers)
        from grpc_bearer._engine.log import Log  # now, with the events: later no file may be left to open

        self._log = Log(monotonic)
        self._lines: deque[tuple[contextvars.Context, Event, Latch]] = deque(maxlen=BACKLOG)
        self._writing = _thread.allocate_lock()
        self._writer = 0  # the ident of the thread that writes

    @property
    def heard(self) -> bool:
        """Whether anybody listens but the log."""
        return bool(self._observers or everywhere)

    @property
    def routine_heard(self) -> bool:
        """Whether anybody listens to what is routine, which is DEBUG to the log."""
        return self.heard or _LOGGER.isEnabledFor(logging.DEBUG)

    def __call__(self, event: Event, *, wait: bool = True) -> None:
        """Tell all observers on this thread, and have the log written; inside of `holding_back` only note the event.

        Args:
            event: what happened.
            wait: go on when the log has been written, or after `WRITTEN_WITHIN`.
        """
        thread, held = _held.get()
        if held is not None and thread == threading.get_ident():  # a worker has a copy of this context
            held.append((self, event))
            return
        written = self._have_written(event)
        for observer in (*self._observers, *everywhere):
            try:
                observer(event)
            except BaseException as error:
                if is_interrupt(error):
                    raise
                _complain(observer, error)
        if wait and written is not None and self._writer != _thread.get_ident():  # that is a log handler's event
            written.wait(WRITTEN_WITHIN)

    def _have_written(self, event: Event) -> Latch | None:
        """Have a worker write a line, if the log wants one. The latch opens when it is written."""
        if not self._log.wants(event):
            return None
        written = Latch()
        self._lines.append((contextvars.copy_context(), event, written))
        threads.prompt(self._write)
        return written

    def _write(self) -> None:
        while self._lines:
            if not self._writing.acquire(blocking=False):
                return  # another thread is writing, and will write these too
            try:
                self._writer = _thread.get_ident()
                while self._lines:
                    context, event, written = self._lines.popleft()
                    try:
                        context.run(self._log, event)
                    except BaseException as error:
                        if is_interrupt(error):  # if the system gives no thread, this is the caller's
                            raise
                        _complain(self._log, error)
                    written.open()
            finally:
                self._writer = 0
                self._writing.release()

    def after_fork_in_child(self) -> None:
        """The lines that wait are the parent's, which will write them."""
        threads.keep_for_parent((self._lines, self._writing))
        self._lines, self._writing, self._writer = deque(maxlen=BACKLOG), _thread.allocate_lock(), 0

    def skew(self, previous: float, offset: float) -> None:
        """Tell that the correction of this machine's clock has changed."""
        from grpc_bearer.events import SkewLearnt

        self(SkewLearnt(*self.who, offset=offset, previous=previous), wait=False)


def _complain(observer: object, error: BaseException) -> None:
    """Log that an observer raised: once, and by type only, since the text of a foreign error may hold a secret."""
    with suppress(Exception):  # the log may be broken, by a filter that raises; or the observer's `__qualname__`
        complaint = str(getattr(observer, "__qualname__", type(observer).__qualname__)), type(error).__name__
        if complaint not in _complaints:
            _complaints.add(complaint)
            _LOGGER.error("the observer %s raised %s; not said again", *complaint)


def holding_back(news: list[tuple[Notifier, Event]], do: Callable[[], T]) -> T:
    """Call `do`. What this thread would tell observers meanwhile goes into `news`, for `tell` to tell without a lock.

    It runs in a copy of the context, so that nothing has to be reset, whatever is raised.
    """
    return contextvars.copy_context().run(_hold_and, news, do)


def _hold_and(news: list[tuple[Notifier, Event]], do: Callable[[], T]) -> T:
    _held.set((threading.get_ident(), news))
    return do()


def tell(news: list[tuple[Notifier, Event]]) -> None:
    """Tell what was held back."""
    while news:
        notify, event = news.pop(0)
        notify(event)


class FetchReport:
    """Tells of one fetch: that it began and, exactly once, how it ended.

    Args:
        notify: who is told.
        monotonic: where to read time.
        ahead: nobody waits for the fetch.
        quiet: only a failure is of interest.
    """

    __slots__ = ("_ahead", "_began", "_fetch", "_monotonic", "_notify", "_open", "_quiet")

    def __init__(
        self, notify: Notifier, monotonic: Callable[[], float], *, ahead: bool = False, quiet: bool = False
    ) -> None:
        self._notify = notify
        self._monotonic = monotonic
        self._ahead = ahead
        self._quiet = quiet
        self._open = True
        self._fetch = 0
        self._began = monotonic()

    def begun(self) -> None:
        """Tell that the fetch begins. Called again after its end, it tells of another fetch in its place."""
        self._open, self._fetch, self._began = True, next(_numbers), self._monotonic()
        if not self._quiet and self._notify.routine_heard:
            from grpc_bearer.events import FetchBegun

            self._notify(FetchBegun(*self._notify.who, fetch=self._fetch, ahead=self._ahead), wait=False)

    def fetched(self, lifetime: float | None, *, failures: int = 0, kept: bool = True, shared: bool = False) -> None:
        """Tell that it brought a token, which is valid for `lifetime` seconds."""
        if self._quiet or not self._open:
            return
        self._open = False
        if not failures and not self._notify.routine_heard:
            return
        from grpc_bearer.events import TokenFetched

        event = TokenFetched(
            *self._notify.who,
            fetch=self._fetch,
            ahead=self._ahead,
            duration=self._monotonic() - self._began,
            lifetime=lifetime,
            failures=failures,
            kept=kept,
            shared=shared,
        )
        self._notify(event)

    def failed(
        self, error: GrpcBearerError, *, failures: int = 0, retry_in: float | None = 0.0, usable: bool = False
    ) -> None:
        """Tell that it brought none."""
        if not self._open:
            return
        self._open = False
        from grpc_bearer.events import RefreshFailed

        event = RefreshFailed(
            *self._notify.who,
            fetch=self._fetch,
            ahead=self._ahead,
            duration=self._monotonic() - self._began,
            error=type(error).__name__,
            message=str(error),
            help=error.help,
            retryable=bool(getattr(error, "retryable", False)),
            failures=failures,
            retry_in=retry_in,
            usable=usable,
        )
        self._notify(event)

    def overdue(self, waited: float, *, usable: bool) -> None:
        """Tell that it takes too long; it goes on."""
        from grpc_bearer.events import RefreshOverdue

        self._notify(RefreshOverdue(*self._notify.who, fetch=self._fetch, waited=waited, usable=usable))


def checked_observers(observers: object) -> tuple[Observer, ...]:
    """What `BearerAuth` was given for `observers=`."""
    if not isinstance(observers, Iterable) or isinstance(observers, (str, bytes)):
        raise ConfigurationError("expected a list of them", field="observers")
    listed = tuple(observers)
    for observer in listed:
        checked_observer(observer, "observers")
    return listed


def checked_name(name: object) -> str:
    """What `BearerAuth` was given for `name=`; it stands in log lines and metrics."""
    if not isinstance(name, str) or (name and not name.isprintable()):
        raise ConfigurationError("expected a str without line breaks or control characters", field="name")
    return name
