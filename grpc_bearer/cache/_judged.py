"""What an entry is worth to this process: a pure question of numbers, times and fingerprints."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from grpc_bearer._base.token import CallContext, Token
from grpc_bearer._engine.refresh_table import MARGIN, MARGIN_FRACTION, REFRESH_FROM, REFRESH_SPREAD
from grpc_bearer.cache._sealed import Entry
from grpc_bearer.cache._store import Stored


class Mine(NamedTuple):
    """What this process took last: the number of an entry, and when the token ends."""

    number: int = 0
    expires_at: float = 0.0


class Found(NamedTuple):
    """An entry that may be used: as a token, and whether its time to be renewed has come."""

    entry: Entry
    token: Token
    stale: bool


def judged(entry: Entry, stored: Stored, mine: Mine, context: CallContext, jitter: float) -> Found | None:
    """What an entry that opened is worth to this process, now; `None`: nothing.

    Clocks of two machines differ, so its life is measured twice, by this clock and by the store's, and the shorter
    counts: a token is never taken for longer than its authenticated expiry.
    """
    now, life = context.clock.time(), entry.until - entry.written_at
    left = min(entry.until - now, life - stored.age)
    if left <= min(MARGIN, MARGIN_FRACTION * life) or not entry.number > mine.number:
        return None
    token = entry.token
    if context.refused and token.fingerprint == context.refused:
        return None
    if not context.refused and now < mine.expires_at and now + left < mine.expires_at:
        return None  # this process went on alone meanwhile, and has the newer one
    # At the point of its life at which its writer renews it, and a random time later: not all processes at once.
    asked_for = None if token.refresh_at is None else token.refresh_at - entry.written_at
    renew_after = (REFRESH_FROM * life if asked_for is None else asked_for) + REFRESH_SPREAD * life * jitter
    refresh_in = left - (life - renew_after)
    if token.expires_at is None and asked_for is None:
        return Found(entry, replace(token, refresh_at=now + refresh_in), refresh_in <= 0)
    refresh_at = now + refresh_in if refresh_in > 0 else None
    expires_at = None if token.expires_at is None else now + left
    return Found(entry, replace(token, expires_at=expires_at, refresh_at=refresh_at), refresh_in <= 0)
