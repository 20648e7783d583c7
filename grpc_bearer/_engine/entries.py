"""The entries of one engine by key, within a bound."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Hashable

from grpc_bearer._engine.entry import Entry
from grpc_bearer._engine.fetch import Fetcher

# At most so many entries are looked at to find one to evict: a new key is as cheap among many as among few.
_CANDIDATES = 8


class Entries(OrderedDict[Hashable, Entry]):
    """Entries by key. Those not used for longest go first, those with a fetch in flight last.

    Args:
        fetcher: of the engine; its lock is held while an entry is added.
        max_keys: how many are kept.
    """

    def __init__(self, fetcher: Fetcher, max_keys: int) -> None:
        super().__init__()
        self.closed = False
        self._fetcher = fetcher
        self._max_keys = max_keys
        #: Those whose fetch is still in flight; made when there is one, since it takes a kilobyte of each auth.
        self._evicted: weakref.WeakSet[Entry] | None = None

    def obtain(self, key: Hashable) -> Entry:
        """The entry of a key, made if need be."""
        entry = self.get(key)
        if entry is None:
            with self._fetcher.lock:
                entry = Entry(self._fetcher, key)
                if self.closed:
                    entry.close()
                    return entry
                if key not in self:
                    self._make_room()
                entry = self.setdefault(key, entry)
        entry.touched = True
        return entry

    def _make_room(self) -> None:
        """Evict an entry that was not used for long. By second chance, so that its users need only set `touched`."""
        for _ in range(_CANDIDATES):
            if len(self) < self._max_keys:
                return
            key, entry = next(iter(self.items()))
            if not entry.touched and entry.known.fetch is None:
                break
            entry.touched = False
            self.move_to_end(key)
        if len(self) >= self._max_keys:
            _, entry = self.popitem(last=False)
            if entry.known.fetch is not None:
                if self._evicted is None:
                    self._evicted = weakref.WeakSet()
                self._evicted.add(entry)  # no new call finds it; those who wait there are told, also by `close`

    def close(self) -> list[Entry]:
        """Add no more. Returns all there are, for the caller to close."""
        with self._fetcher.lock:
            self.closed = True
            return [*self.values(), *(self._evicted or ())]
