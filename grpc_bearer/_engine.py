"""The refresh engine: tokens by key, fetched once for everybody who wants them.

What to do is decided in `_refresh`, under one lock that is held for nothing else; `_entry` does it for one key. Whoever
must wait is called back: a flight has one `concurrent.futures.Future`, and threads, gRPC's plugin threads and event
loops all hang on to that. Fetches run on the shared workers, so no caller's deadline or cancellation reaches them.
"""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import math
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import TypeAlias

from grpc_bearer import _workers
from grpc_bearer._clock import SYSTEM_CLOCK, Clock
from grpc_bearer._entry import Answer, Deliver, Entry, Lease, Outcome, Pending, on_outcome
from grpc_bearer._fetching import Fetcher, Metadata, closed_error, fetching_for, is_lasting, system_random
from grpc_bearer._notify import Notifier, Tale
from grpc_bearer._presign import Presigned
from grpc_bearer._refresh import Decision
from grpc_bearer._token import CallContext, Token
from grpc_bearer.errors import GrpcBearerError, TokenUnavailableError
from grpc_bearer.sources._base import Source

__all__ = ["FETCH_TIMEOUT", "Deliver", "Engine", "Lease"]

#: Seconds after which those who wait for a fetch are told that it takes too long (it goes on).
FETCH_TIMEOUT = 60.0

#: Says, as long as it is asked, whether a call still waits for its token.
Patient: TypeAlias = Callable[[], bool]

# So many single-use tokens may be fetched at once on gRPC's own threads; more go through the workers, which are few. A
# source whose own calls go through the channel that it serves would else ask itself without end.
_OWN_THREADS = 64


class Engine:
    """Keeps the tokens of one source; see the module.

    Args:
        source: where tokens come from.
        metadata_of: makes the gRPC metadata of a token; called once a token.
        clock: where to read time.
        max_keys: how many keys are kept; those not used for longest go first, but never one with a fetch in flight.
        keep_warm: refresh on a timer, on an idle channel too, once a first token was fetched.
        fetch_timeout: seconds after which those who wait for a fetch are told that it takes too long.
        jitter: gives numbers in [0, 1).
        notify: tells observers of what happens.

    >>> from grpc_bearer.sources._base import Source
    >>> class Clockwork(Source):
    ...     def fetch(self, context: CallContext) -> Token:
    ...         return Token("tick", expires_at=context.clock.time() + 60)
    >>> engine = Engine(Clockwork(), metadata_of=lambda token: (("authorization", f"Bearer {token.value}"),))
    >>> engine.token(CallContext()).metadata
    (('authorization', 'Bearer tick'),)
    >>> engine.close()
    """

    def __init__(
        self,
        source: Source,
        *,
        metadata_of: Callable[[Token], Metadata],
        clock: Clock = SYSTEM_CLOCK,
        max_keys: int = 1024,
        keep_warm: bool = False,
        fetch_timeout: float = FETCH_TIMEOUT,
        jitter: Callable[[], float] = system_random,
        notify: Notifier | None = None,
    ) -> None:
        self._source = source
        self.notify: Notifier = notify or Notifier(source=type(source).__name__, monotonic=clock.monotonic)
        self._fetcher = Fetcher(source, metadata_of, clock, jitter, fetch_timeout, keep_warm, self.notify)
        self._monotonic = clock.monotonic
        self._max_keys = max_keys
        self._closed = False
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self._loose: set[Pending] = set()  # what waits for single-use tokens
        # Most sources have one token for all: their only entry is at hand without asking for a key.
        keyed = getattr(source.key, "__func__", None) is not Source.key
        self._only = None if keyed else self._entries.setdefault((), Entry(self._fetcher))
        self._presigned: Presigned | None = None
        if source.single_use:
            self._only = Entry(self._fetcher)  # for ever empty: no need to look for another
            self._presigned = Presigned(self._fetcher, source.presign) if source.presign else None
        _ENGINES.add(self)

    @property
    def single_use(self) -> bool:
        """Whether each attempt needs a token of its own."""
        return self._source.single_use

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def held(self, context: CallContext) -> Lease | None:
        """The current token, fresh or not."""
        entry = self._found(context)
        return None if entry is None else entry.lease

    def _found(self, context: CallContext) -> Entry | None:
        try:
            return self._only or self._entries.get(self._source.key(context))
        except Exception:  # of key(); request() will tell
            return None

    def peek(self, context: CallContext) -> Lease | None:
        """The token if it is at hand and fresh; otherwise `None`: then `request` it. Takes no lock."""
        entry = self._only
        if entry is None:
            try:
                entry = self._entries[self._source.key(context)]
            except (Exception, SystemExit):  # not there; or key() failed, and request() will tell
                return None
            entry.touched = True
        lease = entry.lease
        if lease is not None and self._monotonic() < lease.fresh_until:
            return lease
        return None

    def renewing(self, context: CallContext) -> Lease | None:
        """The token if it is past its refresh point but good, once a worker is told to fetch the next; else `None`."""
        entry = self._found(context)
        if entry is None or entry.lease is None:
            return None
        with self._fetcher.lock:
            if not entry.to_be_renewed():
                return None
            answer = entry.ask()
        self._launch(entry, answer, context)
        return answer.lease

    def take(self, context: CallContext) -> Lease | None:
        """A single-use token made ahead for a call like this, if there is one; it is the caller's alone."""
        if self._presigned is None or self._fetcher in fetching_for.get():
            return None
        return self._presigned.take(context)

    def request(
        self,
        context: CallContext,
        deliver: Deliver,
        *,
        own_thread: bool = False,
        patient: Patient | None = None,
    ) -> None:
        """Call `deliver` with a lease or an error, exactly once: at once, or later on a worker. Does not block.

        Args:
            context: the call that wants the token.
            deliver: called with no lock held; the error is an instance of its own.
            own_thread: the calling thread may be used for as long as the fetch of a single-use token takes.
            patient: says, as long as it is asked, whether the call would rather wait than fail with an error that may
                pass. (Single-use sources are not left alone after a failure, so that there is nothing to wait for.)
        """
        lease = self.peek(context)
        if lease is not None:
            deliver(lease, None)
        elif self._source.single_use:
            self._request_single_use(context, deliver, own_thread)
        else:
            self._request_shared(context, deliver, patient)

    def future(self, context: CallContext, *, patient: Patient | None = None) -> Future[Lease]:
        """A future of the lease, for whoever asks alone: it is running, so that to cancel it does nothing to others."""
        future: Future[Lease] = Future()
        future.set_running_or_notify_cancel()

        def deliver(lease: Lease | None, error: GrpcBearerError | None) -> None:
            if lease is not None:
                future.set_result(lease)
            else:
                future.set_exception(error)

        self.request(context, deliver, patient=patient)
        return future

    def token(self, context: CallContext, timeout: float | None = None) -> Lease:
        """Wait for the lease, for at most `timeout` seconds.

        Raises:
            TokenError: no token is to be had, or not in time.
            SigningError: the key cannot be used.
            ConfigurationError: the source needs the very thread that would wait.
        """
        lease = self.peek(context)
        if lease is not None:
            return lease
        future = self.future(context)
        if not future.done():
            self._source.refuse_wait()
            with _workers.waiting():
                concurrent.futures.wait((future,), timeout)
        if not future.done():
            raise TokenUnavailableError(f"no token within {timeout:g} s; its fetch goes on and will serve later calls")
        return future.result()

    def invalidate(self, fingerprint: str | None = None) -> bool:
        """A server refused the token with this fingerprint: forget it, if it is still the current one.

        Args:
            fingerprint: `Token.fingerprint` of the refused token; `None`: every token, and every failure remembered
                (something outside has changed).

        Returns:
            Whether anything was forgotten. Not if there is another token by now, nor if forced refreshes are spent.
        """
        if self._presigned is not None:
            self._presigned.drop()  # whatever was wrong with that token may be wrong with them
        with self._fetcher.lock:
            now = self._monotonic()
            entries = list(self._entries.values())
            given_up = [entry.invalidate(fingerprint, now) for entry in entries]
        if fingerprint is None:
            for entry in entries:
                entry.wake()
        if any(given_up):
            from grpc_bearer.events import RefreshForced

            self.notify(RefreshForced(*self.notify.who, reason="changed" if fingerprint is None else "refused"))
        return any(given_up)

    def close(self) -> None:
        """Forget all tokens, and tell those who wait and those who ask later. Idempotent; waits for no fetch."""
        with self._fetcher.lock:
            if self._closed:
                return
            self._closed = True
            entries = [*self._entries.values()]
            waiting = [*self._loose, *(pending for entry in entries if (pending := entry.close()) is not None)]
            self._loose.clear()
        if self._presigned is not None:
            self._presigned.close()
        for entry in entries:
            entry.cancel_timer()
        for pending in waiting:
            pending.set_result(closed_error())
        for entry in entries:
            entry.wake()
        self._source.close()

    # ------------------------------------------------------------------------------------------------ shared tokens

    def _request_shared(self, context: CallContext, deliver: Deliver, patient: Patient | None) -> None:
        key = () if self._only is not None else self._fetcher.key(context)
        if isinstance(key, GrpcBearerError):
            deliver(None, key)
            return
        with self._fetcher.lock:
            entry = self._entry(key)
            answer = entry.ask(patient=patient is not None and patient())
        self._launch(entry, answer, context)
        if patient is None:
            self._pass_on(answer, deliver, deliver)
            return
        again = functools.partial(contextvars.copy_context().run, self._ask_again, context, deliver, patient)
        if answer.decision is Decision.REST:
            entry.rest(again)
        else:
            self._pass_on(answer, deliver, functools.partial(_unless_passing, again, deliver))

    def _launch(self, entry: Entry, answer: Answer, context: CallContext) -> None:
        """Have the fetch done that the answer has begun, if it has begun one."""
        if answer.begun is not None and answer.pending is not None:
            ahead = answer.decision is Decision.AHEAD
            entry.launch(answer.begun, answer.pending, context, inline=self._source.local and not ahead, ahead=ahead)

    def _ask_again(self, context: CallContext, deliver: Deliver, patient: Patient) -> None:
        if patient():
            self._request_shared(context, deliver, patient)
        else:
            deliver(None, TokenUnavailableError("the call has ended"))

    def _pass_on(self, answer: Answer, deliver: Deliver, later: Deliver) -> None:
        """Tell what is known already by `deliver`, and what a flight brings by `later`."""
        if answer.decision in (Decision.USE, Decision.AHEAD):
            deliver(answer.lease, None)
        elif answer.decision is Decision.FAIL or answer.pending is None:
            deliver(None, answer.error.fresh() if answer.error else closed_error())
        elif weakref.ref(answer.pending) in fetching_for.get():
            deliver(None, self._asks_itself())
        else:
            on_outcome(answer.pending, later)

    def _entry(self, key: Hashable) -> Entry:
        """The entry of a key, made if need be. Under the lock."""
        entry = self._entries.get(key)
        if entry is None:
            entry = Entry(self._fetcher)
            if self._closed:
                entry.close()
                return entry
            self._make_room()
            self._entries[key] = entry
        entry.touched = True
        return entry

    def _make_room(self) -> None:
        """Evict what was not used for longest. By second chance, so that `peek` need only leave a mark."""
        for _ in range(2 * len(self._entries)):
            if len(self._entries) < self._max_keys:
                return
            key, entry = self._entries.popitem(last=False)
            if entry.touched or entry.state.flight is not None:
                entry.touched = False
                self._entries[key] = entry

    # -------------------------------------------------------------------------------------------- single-use tokens

    def _request_single_use(self, context: CallContext, deliver: Deliver, own_thread: bool) -> None:
        if self._fetcher in fetching_for.get():
            deliver(None, self._asks_itself())
            return
        lease = self.take(context)
        if lease is not None:
            deliver(lease, None)
            return
        pending: Pending = Future()
        with self._fetcher.lock:
            closed = self._closed
            if not closed:
                self._loose.add(pending)
        if closed:
            deliver(None, closed_error())
            return
        on_outcome(pending, deliver)
        tale = self._fetcher.tale(quiet=not self.notify.heard)
        fetch = functools.partial(self._fetch_single_use, pending, context, tale)
        job = functools.partial(contextvars.copy_context().run, fetch)
        if self._source.local:
            job()
            return
        if own_thread and len(self._loose) <= _OWN_THREADS:
            self._give_up_later(pending, tale)
            job()
            return
        try:
            self._give_up_later(pending, tale)
            _workers.submit(job)
        except RuntimeError:
            error = TokenUnavailableError("the system gives no thread to fetch a token on")
            tale.failed(error)
            self._settle_loose(pending, error)

    def _give_up_later(self, pending: Pending, tale: Tale) -> None:
        def give_up() -> None:
            if not pending.done():
                tale.overdue(self._fetcher.timeout, usable=False)
                self._settle_loose(pending, self._fetcher.overdue_error())

        cancel = self._fetcher.clock.call_later(self._fetcher.timeout, give_up)
        pending.add_done_callback(lambda _: cancel())

    def _fetch_single_use(self, pending: Pending, context: CallContext, tale: Tale) -> None:
        fetching_for.set((*fetching_for.get(), self._fetcher))
        outcome: Outcome = TokenUnavailableError(f"{self._fetcher.name}.fetch: interrupted")
        try:
            tale.begun()
            fetched = self._fetcher.fetch_single_use(context)
            outcome = fetched if isinstance(fetched, GrpcBearerError) else Lease(*fetched, fresh_until=-math.inf)
        finally:
            try:
                self._end_tale(tale, outcome)
            finally:
                self._settle_loose(pending, outcome)

    def _end_tale(self, tale: Tale, outcome: Outcome) -> None:
        if isinstance(outcome, Lease):
            at = outcome.token.expires_at
            tale.fetched(None if at is None else at - self._fetcher.clock.time(), kept=False)
        else:
            tale.failed(outcome, retry_in=None if self._closed else 0.0)

    def _settle_loose(self, pending: Pending, outcome: Outcome) -> None:
        with self._fetcher.lock:
            waited_for = pending in self._loose
            self._loose.discard(pending)
        if waited_for:
            pending.set_result(outcome)

    def _asks_itself(self) -> GrpcBearerError:
        return TokenUnavailableError(f"{self._fetcher.name} asks, in order to fetch a token, for that very token")

    # --------------------------------------------------------------------------------------------------------- fork

    def _after_fork_in_child(self) -> None:
        """No other thread is here any more, whoever held the lock; see `Entry.after_fork_in_child`."""
        self._fetcher.lock = threading.Lock()
        _workers.bury(self._loose)
        self._loose = set()
        if self._presigned is not None:
            self._presigned.after_fork_in_child()
        for entry in self._entries.values():
            entry.after_fork_in_child()


def _unless_passing(
    again: Callable[[], None], deliver: Deliver, lease: Lease | None, error: GrpcBearerError | None
) -> None:
    """Tell a patient call what a flight has brought, unless that is an error that may pass."""
    if error is not None and not is_lasting(error):
        again()
    else:
        deliver(lease, error)


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for engine in list(_ENGINES):
        engine._after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
