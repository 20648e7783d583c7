"""Single-use tokens made ahead of their use, so that a call finds one at hand instead of waiting for its signature.

There is a stock of them for each key of the source. Only calls have it filled: a call takes a token, finds the stock
half empty, and lets a worker put in some more, twice as many as the last time until the limit is reached. What has lain
too long, was made by a clock that was set since, or belongs to the parent of a fork is thrown away, and its stock with
it; a stock begins small, so little is lost where calls are few. A call that finds none makes its own.
"""

from __future__ import annotations

import contextvars
import functools
import math
import threading
from _thread import RLock
from collections import deque
from collections.abc import Hashable
from typing import NamedTuple

from grpc_bearer._base import threads
from grpc_bearer._base.token import CallContext
from grpc_bearer._engine.fetch import Fetcher, Lease, fetching_for
from grpc_bearer.errors import GrpcBearerError

#: How long a token may lie unused: for this share of its life, but for no more than so many seconds.
SHARE, LONGEST = 0.25, 30.0
#: The two clocks differ by less than this over such a time, unless one was set or the machine slept; in seconds.
STEP = 1.0
#: So many keys have a stock at a time; if there are more, the oldest goes.
MAX_STOCKS = 64
#: For so many seconds no second worker is sent to a stock. Then one is: an exception may have stopped the first.
PATIENCE = 1.0


class Made(NamedTuple):
    """A token, the wall-clock and the monotonic time just before it was made, and for how many seconds it may lie."""

    lease: Lease
    wall: float
    monotonic: float
    keeps: float


def usable(made: Made, wall: float, monotonic: float) -> bool:
    """Whether a token made ahead is as good as one made now.

    >>> from grpc_bearer._base.token import Token
    >>> made = Made(Lease(Token("t"), (), 0.0), wall=1000.0, monotonic=10.0, keeps=30.0)
    >>> usable(made, 1029.0, 39.0), usable(made, 1030.0, 40.0), usable(made, 1600.0, 11.0), usable(made, 999.0, 11.0)
    (True, False, False, False)
    """
    age = monotonic - made.monotonic
    passed = wall - made.wall
    return 0 <= age < made.keeps and 0 <= passed < made.keeps and abs(passed - age) < STEP


class _Stock:
    """The tokens of one key, the oldest first, and how many there should be. It is replaced, never emptied."""

    __slots__ = ("filling", "given_up", "goal", "key", "sent", "tokens")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.tokens: deque[Made] = deque()  # popleft() is atomic: no token is given to two
        self.goal = 0
        self.filling = threading.Lock()  # held by the worker that fills it
        self.sent = -math.inf  # when the last worker was sent
        self.given_up = False


class Presigned:
    """The stocks of one engine.

    Args:
        fetcher: makes the tokens.
        limit: how many there are of a key at most.
    """

    def __init__(self, fetcher: Fetcher, limit: int) -> None:
        self._fetcher = fetcher
        self._limit = limit
        self._lock = RLock()  # guards which stocks there are, not what is in them
        self._stocks: dict[Hashable, _Stock] = {}
        self._closed = False

    def take(self, context: CallContext) -> Lease | None:
        """A token for this call and for no other, if one is at hand. Never blocks; may send a worker."""
        stock = self._stock(context)
        if stock is None:
            return None
        lease = None
        try:
            made = stock.tokens.popleft()
        except IndexError:
            pass
        else:
            clock = self._fetcher.clock
            if usable(made, clock.time(), clock.monotonic()):
                lease = made.lease
            else:
                stock = self._replaced(stock)
        if len(stock.tokens) <= stock.goal // 2:
            self._refill(stock, context)
        return lease

    def drop(self) -> None:
        """Throw away all that was made so far, and what is being made."""
        with self._lock:
            stocks, self._stocks = self._stocks, {}
        for stock in stocks.values():
            stock.given_up = True

    def close(self) -> None:
        """As `drop`, and for good."""
        self._closed = True
        self.drop()

    def after_fork_in_child(self) -> None:
        """The tokens are the parent's, which will use them; so are the locks and the workers."""
        self._lock, self._stocks = RLock(), {}

    def _stock(self, context: CallContext) -> _Stock | None:
        key = self._fetcher.key(context)
        stock = self._stocks.get(key)  # `key` may be an error, for which there is no stock
        if stock is not None:
            return stock
        if isinstance(key, GrpcBearerError):
            return None  # the call makes its token itself, and learns of the error then
        with self._lock:
            if self._closed:
                return None
            if len(self._stocks) >= MAX_STOCKS and key not in self._stocks:
                self._stocks.pop(next(iter(self._stocks))).given_up = True
            return self._stocks.setdefault(key, _Stock(key))

    def _replaced(self, stock: _Stock) -> _Stock:
        """A new stock instead of one with a token that is no longer good: the others are hardly younger."""
        stock.given_up = True
        with self._lock:
            if self._stocks.get(stock.key) is stock:
                self._stocks[stock.key] = _Stock(stock.key)
            return self._stocks.get(stock.key, stock)

    def _refill(self, stock: _Stock, context: CallContext) -> None:
        now = self._fetcher.clock.monotonic()
        if stock.given_up or now - stock.sent < PATIENCE:
            return
        stock.sent = now
        stock.goal = min(max(2 * stock.goal, 1), self._limit)
        # With the caller's context variables, for the source's functions of the call may read them.
        job = functools.partial(contextvars.copy_context().run, self._fill, stock, context)
        try:
            threads.submit(job)
        except RuntimeError:  # no thread to be had: each call makes its own
            stock.sent = -math.inf

    def _fill(self, stock: _Stock, context: CallContext) -> None:
        if not stock.filling.acquire(blocking=False):
            return
        fetching_for.set((*fetching_for.get(), self._fetcher))
        try:
            # The source's functions may read what only the caller's thread has (a `threading.local`). Then they give
            # another key on this thread, and the token would be one for that key.
            if self._fetcher.key(context) != stock.key:
                return
            while not stock.given_up and len(stock.tokens) < stock.goal:
                made = self._make(context)
                if made is None:
                    stock.goal = 0
                    return
                stock.tokens.append(made)
        finally:
            stock.filling.release()
            stock.sent = -math.inf

    def _make(self, context: CallContext) -> Made | None:
        fetcher = self._fetcher
        report = fetcher.report(ahead=True, quiet=True)  # with a token for each call, only failures are worth an event
        report.begun()
        wall, monotonic = fetcher.clock.time(), fetcher.clock.monotonic()
        fetched = fetcher.fetch_single_use(context)
        if isinstance(fetched, GrpcBearerError):
            report.failed(fetched)
            return None
        expires_at = fetched.token.expires_at
        life = math.inf if expires_at is None else expires_at - wall
        return Made(fetched.for_one_attempt(), wall, monotonic, min(SHARE * life, LONGEST))
