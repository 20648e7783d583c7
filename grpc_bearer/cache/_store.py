"""What a store of sealed entries must do. There are two: a directory (`_files`), and Redis (`_redis`).

Every step may fail or hang: whoever calls it waits a bounded time, and goes on without the store.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

#: Seconds after which a lock whose holder says nothing is free again.
LEASE = 5.0
#: For so many seconds after a fetch has failed nobody waits for another's: each asks for itself, as without a cache.
AFTERMATH = 1.0


class Stored(NamedTuple):
    """An entry as it was found.

    Args:
        number: its fencing number, as the store says.
        blob: the sealed entry.
        age: seconds since it was stored, by the store's own clock.
    """

    number: int
    blob: bytes
    age: float


class Grant(NamedTuple):
    """A lock that was got. Its number is higher than that of any before. `owner`: what the store knows it by."""

    name: str
    number: int
    owner: object


class Denied(enum.Enum):
    """Why a lock was not got."""

    HELD = "somebody fetches"
    FAILED = "somebody fetched just now, and failed"


class View(NamedTuple):
    """What a store shows: the entry, and why a lock would not be got just now (`None`: it may be)."""

    stored: Stored | None
    denied: Denied | None = None


class Store(Protocol):
    """Where entries are kept, by name."""

    #: Whether a lock must be renewed while it is held.
    leased: bool

    def read(self, name: str) -> View:
        """The entry, and whether somebody fetches it now."""
        ...

    def lock(self, name: str) -> Grant | Denied:
        """Try to become the one who fetches; does not wait."""
        ...

    def renew(self, grant: Grant) -> None:
        """Say that the holder is alive."""
        ...

    def publish(self, grant: Grant, blob: bytes, life: float, bad: int | None) -> bool:
        """Store an entry for `life` seconds, unless one with a higher number is there, and free the lock.

        `bad`: the number of an entry that does not open: that one is replaced, however high its number is. Returns
        whether the new one was stored.
        """
        ...

    def release(self, grant: Grant, *, failed: bool) -> None:
        """Free the lock without an entry."""
        ...
