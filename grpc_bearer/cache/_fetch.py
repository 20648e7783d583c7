"""One fetch through the cache: look, wait for whoever fetches, or become the one who does."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from grpc_bearer._base import threads
from grpc_bearer._base.bounded_threads import start
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer._engine.fetch import system_random
from grpc_bearer.cache._bounded import OutOfOrderError
from grpc_bearer.cache._judged import Found, Mine, judged
from grpc_bearer.cache._sealed import Entry, Slot, entry_of, opened, seal
from grpc_bearer.cache._shared import SharedCache
from grpc_bearer.cache._store import LEASE, Denied, Grant
from grpc_bearer.errors import TokenError

#: Seconds between looks at a token that another process fetches: the first, and the longest.
POLL = (0.01, 1.0)
#: Each pause is so many times the one before, so the last one is a fraction of the whole wait.
GROWTH = 1.5


class CachedFetch:
    """One fetch through the cache."""

    def __init__(self, cache: SharedCache, slot: Slot, context: CallContext) -> None:
        self._cache, self.slot, self._context = cache, slot, context
        self._store, self._bounded = cache._store, cache._trust.bounded
        self._jitter = system_random()
        self._bad: int | None = None  # the number of an entry that does not open

    def run(self, source: Source, mine: Mine) -> tuple[Token, Mine, bool]:
        """A token, what this process now has, and whether another process had fetched the token already."""
        try:
            found, grant = self._look(mine)
        except OutOfOrderError:
            time.sleep(self._cache.spread * system_random())
            found = grant = None
        if grant is not None:
            return self._fetch_for_all(source, grant, mine, found)
        if found is not None:
            return found.token, Mine(found.entry.number, found.token.expires_at or found.entry.until), True
        token = source.fetch(self._context)
        return token, Mine(mine.number, token.expires_at or 0.0), False

    # ------------------------------------------------------------------------------------------------------- looking

    def _look(self, mine: Mine) -> tuple[Found | None, Grant | None]:
        """A token to use, or the lock to fetch one for all, or both (a token if the fetch fails); neither: go alone."""
        give_up_at, pause = time.monotonic() + self._cache.patience, POLL[0]
        while True:
            found, denied = self._read(mine)
            if found is not None and not found.stale:
                return found, None
            if denied is None:
                grant = self._bounded(lambda: self._store.lock(self.slot.name), undo=self._give_back)
                if isinstance(grant, Grant):
                    return self._after_lock(grant, mine)
                denied = grant
            # While somebody renews it, a stale one is good.
            if found is not None or time.monotonic() >= give_up_at:
                return found, None
            # If the others tried one after the other now, the last one would wait for the failures of all before it.
            if denied is Denied.FAILED:
                time.sleep(self._cache.spread * system_random())
                return self._read(mine)[0], None
            time.sleep(pause * (0.5 + system_random()))
            pause = min(pause * GROWTH, POLL[1])

    def _after_lock(self, grant: Grant, mine: Mine) -> tuple[Found | None, Grant | None]:
        # Between the look and the lock somebody may have fetched.
        try:
            found, _ = self._read(mine)
        except OutOfOrderError:
            self._let_go(grant, failed=False)
            raise
        if found is not None and not found.stale:
            self._let_go(grant, failed=False)
            return found, None
        return found, grant

    def _read(self, mine: Mine) -> tuple[Found | None, Denied | None]:
        stored, denied = self._bounded(lambda: self._store.read(self.slot.name))
        if stored is None:
            return None, denied
        entry = opened(self.slot, stored.blob, stored.number)
        self._bad = stored.number if entry is None else None
        return None if entry is None else judged(entry, stored, mine, self._context, self._jitter), denied

    # ------------------------------------------------------------------------------------------------------ fetching

    def _fetch_for_all(
        self, source: Source, grant: Grant, mine: Mine, fallback: Found | None
    ) -> tuple[Token, Mine, bool]:
        holder = _Holder(self, grant) if self._store.leased else None
        try:
            token = source.fetch(self._context)
        except BaseException as error:
            self._let_go(grant, failed=True)
            if fallback is None or not isinstance(error, TokenError):
                raise
            return fallback.token, Mine(fallback.entry.number, fallback.entry.until), True
        finally:
            if holder is not None:
                holder.stop()
        now = self._context.clock.time()
        entry = entry_of(token, grant.number, now)
        if entry.until <= now or token.single_use:
            self._let_go(grant, failed=True)
            return token, mine, False
        self._publish(grant, entry, entry.until - now)
        return token, Mine(grant.number, token.expires_at or 0.0), False

    def _publish(self, grant: Grant, entry: Entry, life: float) -> None:
        blob, bad = seal(self.slot, entry), self._bad
        try:
            self._bounded(lambda: self._store.publish(grant, blob, life, bad))
        except OutOfOrderError:
            self._let_go(grant, failed=True)  # whoever has the lock next could not store either

    def renew(self, grant: Grant) -> None:
        """Say that the holder of the lock is alive."""
        with suppress(OutOfOrderError):
            self._bounded(lambda: self._store.renew(grant))

    def _let_go(self, grant: Grant, *, failed: bool) -> None:
        """Free the lock. If the store is out of order, a thread does it when that is possible, and nobody waits."""
        try:
            self._bounded(lambda: self._store.release(grant, failed=failed))
        except OutOfOrderError:
            with suppress(RuntimeError):  # no more threads
                start(lambda: self._give_back(grant, failed=failed))

    def _give_back(self, grant: Grant | Denied, *, failed: bool = False) -> None:
        if isinstance(grant, Grant):
            with suppress(Exception):
                self._store.release(grant, failed=failed)


class _Holder:
    """Keeps a lock alive while its holder fetches."""

    def __init__(self, fetch: CachedFetch, grant: Grant) -> None:
        self._fetch, self._grant = fetch, grant
        self._lock = threading.Lock()
        self._stopped = False
        self._cancel = threads.call_later(LEASE / 3, self._beat)

    def _beat(self) -> None:
        self._renew()

    def _renew(self) -> None:
        if self._stopped:
            return
        self._fetch.renew(self._grant)
        with self._lock:
            if not self._stopped:
                self._cancel = threads.call_later(LEASE / 3, self._beat)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._cancel()
