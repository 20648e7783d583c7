"""One attempt after another, until one of them counts: what a call does alike on threads and on an event loop.

Nothing waits: the next attempt begins where the news of the last one came, or where the token came. How to get there,
and what the user is shown at the end, is said by `sync_attempts` and `aio_attempts`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from grpc_bearer._calls.attach_token import WAIT, Carrier
from grpc_bearer._calls.attempt_history import SENT_OR_SEEN, AttemptHistory
from grpc_bearer._calls.failure import Failure
from grpc_bearer._calls.grpc_types import DoneCallback, Metadata
from grpc_bearer._engine.engine import Lease
from grpc_bearer._engine.fetch import threadless_error
from grpc_bearer.errors import GrpcBearerError

Begin = Callable[[Lease | None, GrpcBearerError | None], None]
#: What makes the history of a call, and its arguments: smaller than a partial, and thousands may wait.
Begun = tuple[Any, ...]


def made(begun: Begun) -> AttemptHistory:
    """The history of a call that comes to have one."""
    history: AttemptHistory = begun[0](*begun[1:])
    return history


class CallAttempts:
    """The attempts of one call. Those that derive from it say what stands at the end here."""

    _inner: Any  # the attempt at hand; None between attempts
    _carrier: Carrier
    _final: bool  # the attempt at hand is the one that counts
    _seen: bool  # headers or a message of the answer have reached the user
    _cancelled: bool
    _replay: Any  # the requests, if they are a stream
    _stop_pause: Callable[[], None] | None  # between two attempts

    def outcome(self) -> Any:
        """The attempt that counts, once it is known."""
        return self._inner if self._final else None

    def _advance(self) -> None:
        """Make the next attempt."""
        if self._final:
            return
        metadata, credentials, carrier = self._attempt_history.plan()
        if carrier is WAIT:
            self._await_token()
        else:
            self._make(metadata, credentials, carrier)

    def _await_token(self) -> None:
        """Where core cannot do the waiting: begin when the token has come, or end when time is up."""
        history = self._attempt_history

        def begin(lease: Lease | None, error: GrpcBearerError | None) -> None:
            if self._final:
                return
            if lease is None or lease.token.fingerprint == history.avoid:
                self._end_without_token(error)
            else:
                self._make((*(history.metadata or ()), *lease.metadata), history.credentials, lease)

        self._request_token(begin)
        left = history.left()
        if left is not None and self._inner is None:
            stop = self._later(left, self._expire)
            if stop is None:
                self._end_without_token(threadless_error())
            else:
                self.add_done_callback(lambda _: stop())

    def _expire(self) -> None:
        if self._inner is None:
            self._end_overdue()

    def _seconds_until_next(self, ended: object, failure: Failure) -> float | None:
        """Seconds until another attempt, now that one has failed; `None`: this one counts."""
        replayable = not self._seen and (self._replay is None or self._replay.rewind())
        obstacle = "the call was cancelled" if self._cancelled else "" if replayable else SENT_OR_SEEN
        return self._attempt_history.after(ended, self._carrier, failure, obstacle=obstacle)

    def _advance_after(self, delay: float) -> None:
        stop = self._later(delay, self._advance) if delay > 0 else None
        if stop is None:  # no thread to be had: rather too early than never
            self._advance()
            return
        self._stop_pause = stop
        if self._final:  # ended since, and found no pause to stop
            stop()

    # What threads and an event loop do each in its own way.

    @property
    def _attempt_history(self) -> AttemptHistory:
        """What became of the call so far; made when it is first asked for, since most calls go well at once."""
        raise NotImplementedError

    def _make(self, metadata: Metadata | None, credentials: grpc.CallCredentials | None, carrier: Carrier) -> None:
        """Make an attempt of a call that was handed out before: what gRPC would raise has to come out of it."""
        raise NotImplementedError

    def _request_token(self, begin: Begin) -> None:
        """Have `begin` called with the token, where an attempt may be made."""
        raise NotImplementedError

    def _later(self, seconds: float, work: Callable[[], None]) -> Callable[[], None] | None:
        """Do it then. Returns what cancels it, or `None` if there is no thread for it."""
        raise NotImplementedError

    def add_done_callback(self, callback: DoneCallback) -> None:
        """As gRPC has it."""
        raise NotImplementedError

    def _end_without_token(self, error: GrpcBearerError | None) -> None:
        raise NotImplementedError

    def _end_overdue(self) -> None:
        raise NotImplementedError
