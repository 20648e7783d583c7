"""The refresh engine: tokens by key, fetched once for everybody who wants them.

What to do is decided in `refresh_table`; `entry` does it for one key. Whoever must wait is called back: a fetch has one
`Promise`, in which threads, gRPC's plugin threads and event loops all leave a callback. Fetches run on the shared
workers, so they are not ended by a caller's deadline or cancellation, nor by what a signal handler raises there.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import weakref
from _thread import RLock
from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

from grpc_bearer._base import fork_hooks, threads
from grpc_bearer._base.clock import SYSTEM_CLOCK, Clock
from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer._engine.entries import Entries
from grpc_bearer._engine.entry import UNKEYED, Entry
from grpc_bearer._engine.fetch import (
    Deliver,
    Fetcher,
    Lease,
    Metadata,
    Telling,
    closed_error,
    fetching_for,
    is_lasting,
    system_random,
    threadless_error,
)
from grpc_bearer._engine.known import Answer
from grpc_bearer._engine.notify import Notifier
from grpc_bearer._engine.presign import Presigned
from grpc_bearer._engine.promise import Latch
from grpc_bearer._engine.refresh_table import Decision
from grpc_bearer._engine.single_use import SingleUse
from grpc_bearer.errors import GrpcBearerError, TokenUnavailableError

__all__ = ["Deliver", "Engine", "Lease"]

#: Called again and again: whether a call still waits for its token.
Patient: TypeAlias = Callable[[], bool]


class Engine:
    """Keeps the tokens of one source; see the module.

    Args:
        source: where tokens come from.
        metadata_of: makes the gRPC metadata of a token; called once for each token.
        clock: where to read time.
        max_keys: how many keys are kept; those not used for longest go first, those with a fetch in flight last.
        keep_warm: refresh on a timer, on an idle channel too, once a first token was fetched.
        fetch_timeout: seconds after which those who wait for a fetch are told that it takes too long.
        jitter: gives numbers in [0, 1).
        notify: tells observers of what happens.

    >>> from grpc_bearer._base.source import Source
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
        fetch_timeout: float | None = None,
        jitter: Callable[[], float] = system_random,
        notify: Notifier | None = None,
    ) -> None:
        self._source = source
        self.notify: Notifier = notify or Notifier(source=type(source).__name__, monotonic=clock.monotonic)
        longest = source.fetch_timeout if fetch_timeout is None else fetch_timeout
        self._fetcher = Fetcher(source, metadata_of, clock, jitter, longest, keep_warm, self.notify)
        self._wall = self._fetcher.wall
        self._released = False
        self._entries = Entries(self._fetcher, max_keys)
        self._single_use = SingleUse(self._fetcher) if source.single_use else None
        # Most sources have one token for all: their only entry is at hand without asking for a key.
        keyed = getattr(source.key, "__func__", None) is not Source.key
        self._only = None if keyed else self._entries.setdefault((), Entry(self._fetcher, UNKEYED))
        self._presigned: Presigned | None = None
        if source.single_use:
            self._only = Entry(self._fetcher)  # stays empty for ever: `peek` need not ask for a key
            self._presigned = Presigned(self._fetcher, source.presign) if source.presign else None
        _ENGINES.add(self)

    @property
    def single_use(self) -> bool:
        """Whether each attempt needs a token of its own."""
        return self._source.single_use

    @property
    def local(self) -> bool:
        """Whether a fetch takes no time to speak of; see `Source.local`."""
        return self._source.local

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._entries.closed

    def held(self, context: CallContext) -> Lease | None:
        """The current token, fresh or not."""
        entry = self._found(context)
        return None if entry is None else entry.lease

    def why_kept(self, context: CallContext) -> str:
        """Why a token that a server has refused is still the current one, in words; empty, if it is not."""
        entry = self._found(context)
        return "" if entry is None else entry.why_kept()

    def _found(self, context: CallContext) -> Entry | None:
        try:
            return self._only or self._entries.get(self._source.key(context))
        except BaseException as error:  # raised by key(); `request` reports it
            if is_interrupt(error):
                raise
            return None

    def peek(self, context: CallContext) -> Lease | None:
        """The token if it is at hand and fresh; otherwise `None`: then `request` it. Takes no lock."""
        entry = self._only
        if entry is None:
            try:
                entry = self._entries[self._source.key(context)]
            except BaseException as error:  # no entry; or key() failed, which `request` reports
                if not isinstance(error, KeyError) and is_interrupt(error):
                    raise
                return None
            entry.touched = True
        lease = entry.lease
        if lease is not None and lease.wall_from <= self._wall() < lease.wall_until:
            return lease
        return entry.fresh()

    def renewing(self, context: CallContext) -> Lease | None:
        """The token if it is past its refresh point but still good; a worker then fetches the next one. Else `None`."""
        entry = self._found(context)
        if entry is None or entry.lease is None or not entry.to_be_renewed():
            return None
        answer = entry.ask(context)
        self._launch(entry, answer)
        return answer.lease if answer.decision in (Decision.USE, Decision.AHEAD) else None

    def take(self, context: CallContext) -> Lease | None:
        """A single-use token that was made ahead for such a call, if there is one. Nobody else gets it."""
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
            deliver: called with no lock held; each call gets a new instance of the error.
            own_thread: the calling thread may be used for as long as the fetch of a single-use token takes.
            patient: called again and again: whether the call still wants to wait where it would fail with an error that
                may pass. (Not for single-use sources: they have no backoff, so there is nothing to wait for.)
        """
        lease = self.peek(context)
        if lease is not None:
            deliver(lease, None)
        elif self._single_use is not None:
            self._request_single_use(self._single_use, context, deliver, own_thread)
        else:
            self._request_shared(context, deliver, patient)

    def wait(
        self, context: CallContext, timeout: float | None, *, patient: Patient | None = None
    ) -> tuple[Lease | None, GrpcBearerError | None] | None:
        """What `request` would deliver, waited for on this thread; `None`: it did not come within `timeout` seconds.

        Raises:
            ConfigurationError: the source needs the very thread that would wait.
        """
        delivered: list[tuple[Lease | None, GrpcBearerError | None]] = []
        there = Latch()

        def deliver(lease: Lease | None, error: GrpcBearerError | None) -> None:
            delivered.append((lease, error))
            there.open()

        self.request(context, deliver, patient=patient)
        if not delivered:
            self._source.refuse_wait()
            with threads.waiting():
                there.wait(timeout)
        return delivered[0] if delivered else None

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
        delivered = self.wait(context, timeout)
        if delivered is None:
            raise TokenUnavailableError(f"no token within {timeout:g} s; its fetch goes on and will serve later calls")
        lease, error = delivered
        if lease is None:
            raise error or closed_error()
        return lease

    async def atoken(self, context: CallContext) -> Lease:
        """The lease, without blocking the event loop. Cancelling this does nothing to others."""
        return await self.ask(context)

    def ask(self, context: CallContext) -> asyncio.Future[Lease]:
        """The same as a future of the running loop: asked for now, in the context variables of now."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Lease] = loop.create_future()

        def settle(lease: Lease | None, error: GrpcBearerError | None) -> None:
            if future.done():
                return  # cancelled meanwhile
            if lease is not None:
                future.set_result(lease)
            else:
                future.set_exception(error or closed_error())

        def deliver(lease: Lease | None, error: GrpcBearerError | None) -> None:
            with suppress(RuntimeError):  # the loop was closed: nobody waits there
                loop.call_soon_threadsafe(settle, lease, error)

        self.request(context, deliver)
        return future

    def invalidate(self, fingerprint: str | None = None) -> bool:
        """A server refused the token with this fingerprint: forget it, if it is still the current one.

        Args:
            fingerprint: `Token.fingerprint` of the refused token; `None`: every token, and every failure remembered
                (something outside has changed).

        Returns:
            Whether anything was forgotten: not if there is another token by now, nor if the budget for this is spent.
        """
        if self._presigned is not None:
            self._presigned.drop()  # whatever was wrong with that token may be wrong with them
        entries = list(self._entries.values())
        given_up = [entry.invalidate(fingerprint) for entry in entries]
        if fingerprint is None:
            for entry in entries:
                entry.wake()
        if any(given_up):
            from grpc_bearer.events import RefreshForced

            self.notify(RefreshForced(*self.notify.who, reason="changed" if fingerprint is None else "refused"))
        return any(given_up)

    def close(self) -> None:
        """Forget all tokens, and tell those who wait and those who ask later. Idempotent; waits for no fetch."""
        # A caller that was interrupted in here may call again, so each step may be done twice.
        entries = self._entries.close()
        if self._presigned is not None:
            self._presigned.close()
        for entry in entries:
            entry.close()
        if self._single_use is not None:
            self._single_use.close()
        if not self._released:
            self._source.close()
            self._released = True

    # ------------------------------------------------------------------------------------------------ shared tokens

    def _request_shared(self, context: CallContext, deliver: Deliver, patient: Patient | None) -> None:
        key = () if self._only is not None else self._fetcher.key(context)
        if isinstance(key, GrpcBearerError):
            deliver(None, key)
            return
        entry = self._only or self._entries.obtain(key)
        answer = entry.ask(context, patient=patient is not None and patient())
        self._launch(entry, answer)
        if patient is None:
            self._pass_on(answer, deliver, deliver)
            return
        again = functools.partial(contextvars.copy_context().run, self._ask_again, context, deliver, patient)
        if answer.decision is Decision.REST:
            try:
                entry.rest(again)
            except RuntimeError:
                deliver(None, threadless_error())
        else:
            self._pass_on(answer, deliver, functools.partial(_unless_passing, again, deliver))

    def _launch(self, entry: Entry, answer: Answer) -> None:
        """Give the fetch that is in flight to a worker, if nobody has done so yet."""
        if answer.fetch is not None and not answer.fetch.launched:
            entry.launch(answer.fetch)

    def _ask_again(self, context: CallContext, deliver: Deliver, patient: Patient) -> None:
        if patient():
            self._request_shared(context, deliver, patient)
        else:
            deliver(None, TokenUnavailableError("the call has ended"))

    def _pass_on(self, answer: Answer, deliver: Deliver, later: Deliver) -> None:
        """Call `deliver` now with what is known already, or `later` with what the fetch in flight brings."""
        if answer.decision in (Decision.USE, Decision.AHEAD):
            deliver(answer.lease, None)
        elif answer.decision is Decision.FAIL or answer.fetch is None:
            deliver(None, answer.error.fresh() if answer.error else closed_error())
        elif weakref.ref(answer.fetch.pending) in fetching_for.get():
            deliver(None, self._asks_itself())
        else:
            answer.fetch.pending.then(Telling(later))

    # -------------------------------------------------------------------------------------------- single-use tokens

    def _request_single_use(
        self, single_use: SingleUse, context: CallContext, deliver: Deliver, own_thread: bool
    ) -> None:
        if self._fetcher in fetching_for.get():
            deliver(None, self._asks_itself())
        elif (lease := self.take(context)) is not None:
            deliver(lease, None)
        elif self._entries.closed:
            deliver(None, closed_error())
        else:
            single_use.request(context, deliver, own_thread)

    def _asks_itself(self) -> GrpcBearerError:
        return TokenUnavailableError(f"{self._fetcher.name} asks, in order to fetch a token, for that very token")

    # --------------------------------------------------------------------------------------------------------- fork

    def _after_fork_in_child(self) -> None:
        """Make new locks: the thread that held one at the fork is not in the child. See `Entry.after_fork_in_child`."""
        self._fetcher.lock = RLock()
        self.notify.after_fork_in_child()
        if self._single_use is not None:
            self._single_use.after_fork_in_child()
        if self._presigned is not None:
            self._presigned.after_fork_in_child()
        for entry in self._entries.values():
            entry.after_fork_in_child()


def _unless_passing(
    again: Callable[[], None], deliver: Deliver, lease: Lease | None, error: GrpcBearerError | None
) -> None:
    """Tell a patient call what a fetch has brought; but after an error that may pass, ask again."""
    if error is not None and not is_lasting(error):
        again()
    else:
        deliver(lease, error)


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for engine in list(_ENGINES):
        engine._after_fork_in_child()


fork_hooks.in_child(fork_hooks.Phase.RESUME, _after_fork_in_child)
