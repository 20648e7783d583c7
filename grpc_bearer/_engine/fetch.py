"""One fetch: ask the source, survive whatever it does, and say how long to leave it alone after a failure."""

from __future__ import annotations

import inspect
import logging
import math
import os
import time
from _thread import RLock  # what is in threading is a function around it
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from grpc_bearer._base.clock import SYSTEM_CLOCK, Clock, Elapsed
from grpc_bearer._base.clock_skew import SkewedClock
from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer._base.user_code import fetching_for as fetching_for
from grpc_bearer._base.user_code import of_call
from grpc_bearer._engine.notify import FetchReport, Notifier
from grpc_bearer._engine.promise import Promise
from grpc_bearer.errors import GrpcBearerError, TokenFormatError, TokenRejectedError, TokenUnavailableError

Metadata: TypeAlias = tuple[tuple[str, str], ...]

#: Seconds of backoff after a failure that may cure itself: the first, and the longest.
PASSING = (1.0, 120.0)
#: The same after one that will not (a bad key; 400, 401, 403 from the token endpoint).
LASTING = (300.0, 3600.0)
#: And where the credential may have been replaced meanwhile (`Source.replaceable`).
REPLACEABLE = (30.0, 120.0)
#: Each backoff is so many times the one before: gRPC's own factor.
GROWTH = 1.6
#: The longest `Retry-After` that is honoured, in seconds.
RETRY_AFTER_MAX = 3600.0

_LOGGER = logging.getLogger("grpc_bearer")


def system_random() -> float:
    """A number in [0, 1), from the system: a generator of our own would give a forked child the same numbers."""
    return int.from_bytes(os.urandom(6), "big") / 2**48


class Fetched(NamedTuple):
    """What a fetch brought. `shared`: another process had fetched the token already."""

    token: Token
    metadata: Metadata
    shared: bool = False

    def for_one_attempt(self) -> Lease:
        """The token for who asked, and for nobody later."""
        return Lease(self.token, self.metadata, fresh_until=-math.inf)


@dataclass(frozen=True, slots=True)
class Lease:
    """A token ready to be sent.

    Args:
        token: the token.
        metadata: the same as gRPC metadata, made once a token.
        fresh_until: the monotonic time until which it may be used without asking again: its refresh point, or later
            while a fetch is under way or in backoff.
        wall_from: from here to `wall_until`, on the wall clock, it may be used without a look at the monotonic clock.
        wall_until: the end of that. It is a few seconds only: somebody may set a wall clock, or the machine may sleep.
    """

    token: Token
    metadata: Metadata = field(repr=False)
    fresh_until: float
    wall_from: float = math.inf
    wall_until: float = -math.inf


Deliver: TypeAlias = Callable[[Lease | None, GrpcBearerError | None], None]
Outcome: TypeAlias = Lease | GrpcBearerError
#: What callers of a fetch wait for. An error is its value too: it is not raised, and each caller gets a copy of it.
Pending: TypeAlias = Promise[Outcome]


@dataclass(slots=True, eq=False)
class Fetcher:
    """A source with all that its fetches need; shared by the entries of one engine, and so is the lock."""

    source: Source
    metadata_of: Callable[[Token], Metadata]
    clock: Clock
    jitter: Callable[[], float]
    timeout: float
    keep_warm: bool
    notify: Notifier
    #: The clock of all times in the engine: monotonic, and goes on while the machine sleeps.
    elapsed: Elapsed = field(init=False)
    wall: Callable[[], float] = field(init=False)  # not corrected: a new correction is no time that passed
    lock: RLock = field(default_factory=RLock)  # a finalizer may take it on the thread that holds it

    def __post_init__(self) -> None:
        clock = self.clock
        base = clock.base if isinstance(clock, SkewedClock) else clock
        self.wall = time.time if base is SYSTEM_CLOCK else base.time  # the function itself: each call reads it
        self.elapsed = Elapsed(clock.monotonic, self.wall)

    @property
    def name(self) -> str:
        """The source's, for messages."""
        return type(self.source).__name__

    def report(self, *, ahead: bool = False, quiet: bool = False) -> FetchReport:
        """What observers are to hear of the next fetch."""
        return FetchReport(self.notify, self.clock.monotonic, ahead=ahead, quiet=quiet)

    def key(self, context: CallContext) -> Hashable | GrpcBearerError:
        """The source's key for this call; an error if it gives none that can be one."""
        try:
            key = self.source.key(context)
            hash(key)
        except BaseException as error:
            if is_interrupt(error):
                raise
            return _wrapped(error, f"{self.name}.key")
        return key

    def fetch(self, context: CallContext) -> Fetched | GrpcBearerError:
        """A token with its metadata, or an error of ours. Raises nothing but interrupts (see `is_interrupt`)."""
        try:
            token, shared = self.source._fetch_or_take(context)
            if isinstance(token, Token):
                metadata = self.metadata_of(token)
        except BaseException as error:
            if is_interrupt(error):
                raise
            return _wrapped(error, f"{self.name}.fetch")
        if inspect.iscoroutine(token):
            token.close()
            return TokenFormatError(f"{self.name}.fetch: is a coroutine function; use CallableSource for those")
        if not isinstance(token, Token):
            return TokenFormatError(f"{self.name}.fetch: expected a Token, got {type(token).__name__}")
        if token.single_use and not self.source.single_use:
            return TokenFormatError(f"{self.name}.fetch: gave a single-use token, but its single_use is not True")
        return Fetched(token, metadata, shared)

    def fetch_single_use(self, context: CallContext) -> Fetched | GrpcBearerError:
        """The same for a token that is not kept. No entry will look at its expiry, so it is checked here."""
        fetched = self.fetch(context)
        if isinstance(fetched, GrpcBearerError) or fetched.token.expires_at is None:
            return fetched
        return fetched if fetched.token.expires_at > self.clock.time() else expired_error()

    def backoff(self, strikes: int, error: GrpcBearerError | None = None, *, lasting: bool = False) -> float:
        """Seconds to leave the source alone, spread by a fifth either way; never less than it asked for itself."""
        if lasting:
            first, longest = REPLACEABLE if self.source.replaceable else LASTING
        else:
            first, longest = PASSING
        # Not by tenacity, whose import opens files: this is where a fetch ends, maybe one that failed because no file
        # could be opened. Imported with the first auth it would make that one take two to three times as long.
        delay = min(first * GROWTH ** min(strikes - 1, 100), longest)
        asked_for = getattr(error, "retry_after", None) or 0.0
        return max(delay * (0.8 + 0.4 * self.jitter()), min(asked_for, RETRY_AFTER_MAX))

    def overdue_error(self) -> GrpcBearerError:
        """For those who waited too long."""
        return TokenUnavailableError(
            f"{self.name}.fetch: no token after {self.timeout:g} s; it goes on, and its token will serve later calls"
        )


class Telling:
    """Calls `deliver` with an outcome; an error as a new instance. Smaller than a closure, and thousands may wait."""

    __slots__ = ("_deliver",)

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver

    def __call__(self, outcome: Outcome) -> None:
        if isinstance(outcome, Lease):
            self._deliver(outcome, None)
        else:
            self._deliver(None, outcome.fresh())


def is_lasting(error: GrpcBearerError) -> bool:
    """Whether to try again soon is of no use. A malformed answer is not lasting: a proxy may have sent it."""
    return not getattr(error, "retryable", False) and not isinstance(error, TokenFormatError)


def threadless_error() -> GrpcBearerError:
    """For a fetch that has nowhere to run."""
    return TokenUnavailableError("the system gives no thread to fetch a token on")


def closed_error() -> GrpcBearerError:
    """Not retryable: it stays closed."""
    return TokenRejectedError("the auth is closed; make a new one")


def expired_error() -> GrpcBearerError:
    """For a token without any life left."""
    return TokenFormatError("the token was already expired when it arrived; is the clock right?", suspect="clock")


def _wrapped(error: BaseException, what: str) -> GrpcBearerError:
    """Our errors as they are, without traceback. Of others only the type is told: their text may hold a secret."""
    if isinstance(error, GrpcBearerError):
        try:
            return error.fresh()
        except Exception:  # a subclass that does not copy
            _LOGGER.debug("%s does not copy", type(error).__name__)
    return of_call(error, what) or TokenUnavailableError(f"{what} raised {type(error).__name__}")
