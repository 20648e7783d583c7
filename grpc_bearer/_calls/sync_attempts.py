"""The attempts of a sync call: the next one begins right where the news of the last one came, and nobody waits for it.

When an attempt has ended, `_settle` decides, once and whoever comes first, whether it counts or another is made. How a
call that failed is shown stands in `sync_errors`; what users may ask, in `sync_call`.

Nearly all calls go well at once, so that what only others need is made when they need it: the history, the condition to
wait on, the lists.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from _thread import RLock  # what is in threading is a function around it
from collections.abc import Callable
from typing import Any

import grpc

from grpc_bearer._base import threads
from grpc_bearer._base.clock import SYSTEM_CLOCK
from grpc_bearer._calls.attach_token import WAIT, Attempt, Carrier
from grpc_bearer._calls.attempt_history import AttemptHistory
from grpc_bearer._calls.attempts import Begin, Begun, CallAttempts, made
from grpc_bearer._calls.grpc_private import status_of
from grpc_bearer._calls.grpc_types import AnyCall, Metadata
from grpc_bearer._calls.replay import NotReplayable, ReplayBuffer
from grpc_bearer._calls.sync_errors import concluded, deadline_exceeded, failure_of, raised_later, tokenless
from grpc_bearer._engine.engine import Lease
from grpc_bearer.errors import GrpcBearerError

_LOGGER = logging.getLogger("grpc_bearer")


# type-arg: generic in gRPC's stubs only. misc: the stubs give RpcError some of a call's methods, with other types.
class SyncAttempts(CallAttempts, grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg,misc]
    """A future or a response stream whose attempts are ours to make; `SyncCall` without the questions.

    Args:
        begun: makes the history of the call, for those that come to have one.
        replay: the requests, if they are a stream.
        inner: the first attempt; `None`, if it has to wait for its token.
        carrier: what carries its token, or `WAIT`.
    """

    __slots__ = (
        "_begun",
        "_callbacks",
        "_cancelled",
        "_carrier",
        "_changed",
        "_final",
        "_history",
        "_inner",
        "_lock",
        "_reading",
        "_replay",
        "_seen",
        "_stop_pause",
    )

    def __init__(
        self,
        begun: Begun,
        replay: NotReplayable | ReplayBuffer | None,
        inner: Any,
        carrier: Carrier,
    ) -> None:
        self._final = False  # the attempt at hand is the one that counts
        self.args = ()  # an exception keeps what it was made with
        self._begun = begun
        self._replay = replay
        self._history: AttemptHistory | None = None
        self._lock = RLock()  # guards what follows
        self._changed: threading.Condition | None = None  # made for the first who waits
        self._inner = inner  # the attempt at hand; None between attempts
        self._carrier = carrier
        self._seen = False  # headers or a message of the answer have reached the user
        self._reading = 0  # how many are inside next(): they will know whether a message came
        self._cancelled = False
        self._stop_pause = None
        self._callbacks: list[Callable[[], None]] | None = None
        if carrier is WAIT:
            self._await_token()
        else:
            inner.add_done_callback(functools.partial(_ended, weakref.ref(self)))

    @property
    def _attempt_history(self) -> AttemptHistory:
        """The history of the call."""
        history = self._history
        if history is None:
            # Of two who come here at once, the first one's counts.
            history = self._history = vars(self).setdefault("history", made(self._begun))
        return history

    @property
    def _blocks(self) -> bool:
        """Whether making an attempt may take as long as the attempt: an interceptor's continuation."""
        return self._attempt_history.route.attachment.intercepts

    def _make(self, metadata: Metadata | None, credentials: grpc.CallCredentials | None, carrier: Carrier) -> None:
        self._take(raised_later(lambda: self._attempt_history.attempt(metadata, credentials)), carrier)

    def _request_token(self, begin: Begin) -> None:
        def deliver(lease: Lease | None, error: GrpcBearerError | None) -> None:
            if lease is not None and self._blocks:  # not the thread that brings everybody's tokens
                threads.prompt(functools.partial(begin, lease, error))
            else:
                begin(lease, error)

        self._attempt_history.request(deliver)

    def _later(self, seconds: float, work: Callable[[], None]) -> Callable[[], None] | None:
        try:
            return SYSTEM_CLOCK.call_later(seconds, work)
        except RuntimeError:
            return None

    def _end_without_token(self, error: GrpcBearerError | None) -> None:
        self._end(tokenless(self._attempt_history, error))

    def _end_overdue(self) -> None:
        self._end(deadline_exceeded())

    def _take(self, inner: AnyCall, carrier: Carrier) -> None:
        """This attempt is the one at hand now, unless the call has ended meanwhile."""
        with self._lock:
            late = self._final
            if not late:
                self._inner, self._carrier = inner, carrier
                self._notify()
                cancelled, kept = self._cancelled, bool(self._callbacks)
        if late or cancelled:
            inner.cancel()
        if not late:
            inner.add_done_callback(functools.partial(_ended, (lambda: self) if kept else weakref.ref(self)))

    def _settle(self, inner: AnyCall, *, reader: bool = False) -> bool:
        """Decide, once, about an attempt that may have ended. False: it was superseded by another."""
        with self._lock:
            if inner is not self._inner:
                return self._final
            code = None if self._final or (self._reading and not self._seen and not reader) else status_of(inner)
            if code is None:
                return True
            delay = None
            if code is not grpc.StatusCode.OK and not (self._cancelled and code is grpc.StatusCode.CANCELLED):
                delay = self._judge(inner)
            if delay is None:
                self._final = True
            else:
                self._inner = None
            self._notify()
        if self._history is not None:
            self._history.tell()
        if delay is None:
            self._finish()
            return True
        self._advance_after(delay)
        return False

    def _judge(self, inner: AnyCall) -> float | None:
        """Seconds until another attempt; `None`: this one counts, as it is shown to the user. Under the lock."""
        failure = failure_of(inner)
        delay = self._seconds_until_next(inner, failure)
        if delay is None:
            self._inner = concluded(self._attempt_history, self._carrier, inner, failure)
        return delay

    def _end(self, shown: AnyCall) -> None:
        with self._lock:
            if self._final:
                return
            self._inner, self._final = shown, True
            self._notify()
        self._finish()

    def _finish(self) -> None:
        """Once, by whoever has made it final: nothing is added to the callbacks any more."""
        callbacks, self._callbacks = self._callbacks, None
        if type(self._carrier) is Attempt:
            self._carrier.retire()
        if self._stop_pause is not None:
            self._stop_pause()
        if self._replay is not None:
            self._replay.stop()
        for callback in callbacks or ():
            try:
                callback()
            except Exception:  # as gRPC does: the next one is called all the same
                _LOGGER.exception("Exception in callback %r", callback)

    def __del__(self) -> None:
        # As a plain call that nobody holds any more; the done-callback keeps gRPC's own from noticing.
        inner = getattr(self, "_inner", None)
        if inner is not None and not self._final:
            inner.cancel()

    def _wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        """Under the lock, which is free while this waits."""
        if self._changed is None:
            self._changed = threading.Condition(self._lock)
        return self._changed.wait_for(predicate, timeout)

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.notify_all()


def _ended(me: Callable[[], SyncAttempts | None], _: object) -> None:
    """News of an attempt, on gRPC's thread: see what became of the one at hand.

    A plain call that nobody holds is cancelled, unless somebody waits for its end: so no more than that may hold on to
    ours.
    """
    call = me()
    if call is not None and call._inner is not None:
        call._settle(call._inner)
