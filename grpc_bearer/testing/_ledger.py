"""What a server saw, written down attempt by attempt."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Attempt", "Ledger"]


@dataclass(slots=True)
class Attempt:
    """One attempt of one call, as the server saw it; a retried call leaves several.

    Attributes:
        method: `/package.Service/Method`.
        accepted: whether the call reached the service; a scripted refusal makes it false.
        reason: why it was refused; empty if it was not.
        token: the bare token, if there was exactly one.
        header_values: every value under the verifier's header.
        claims: of the JWT, once its signature was found right.
        jwt_header: likewise.
        received_at: the server's clock, in seconds since the Unix epoch.
        peer: as gRPC writes it.
        requests: indexes of the requests read so far, in order.
        metadata: everything that arrived.
        time_left: seconds until the call's deadline, which gRPC rounds up by 3 % at most; huge without one.

    >>> Attempt("/s/M", token="t0", requests=[1, 2])
    Attempt(method='/s/M', accepted=True, reason='', received_at=0.0, peer='', requests=[1, 2])
    """

    method: str
    accepted: bool = True
    reason: str = ""
    token: str | None = field(default=None, repr=False)
    header_values: list[str] = field(default_factory=list, repr=False)
    claims: dict[str, Any] = field(default_factory=dict, repr=False)
    jwt_header: dict[str, Any] = field(default_factory=dict, repr=False)
    received_at: float = 0.0
    peer: str = ""
    requests: list[int] = field(default_factory=list)
    metadata: list[tuple[str, str | bytes]] = field(default_factory=list, repr=False)
    time_left: float = field(default=math.inf, repr=False)


class Ledger:
    """A list of attempts that many threads write, in the order of arrival.

    >>> ledger = Ledger()
    >>> ledger.add(Attempt("/s/M", token="t0"))
    >>> ledger.add(Attempt("/s/M", accepted=False, reason="revoked", token="t0"))
    >>> len(ledger), len(ledger.accepted), ledger.refused[0].reason, len(ledger.tokens)
    (2, 1, 'revoked', 1)
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._attempts: list[Attempt] = []

    def __repr__(self) -> str:
        return f"<Ledger: {len(self.accepted)} accepted, {len(self.refused)} refused>"

    def __len__(self) -> int:
        return len(self.attempts)

    def __iter__(self) -> Iterator[Attempt]:
        return iter(self.attempts)

    def __getitem__(self, index: int) -> Attempt:
        return self.attempts[index]

    def add(self, attempt: Attempt) -> None:
        with self._changed:
            self._attempts.append(attempt)
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget everything (a verifier still remembers its nonces)."""
        with self._changed:
            self._attempts.clear()

    def wait_for(self, count: int, timeout: float = 10.0) -> bool:
        """Wait until there are that many attempts; false if `timeout` seconds were not enough."""
        return self.wait_until(lambda attempts: len(attempts) >= count, timeout)

    def wait_until(self, condition: Callable[[list[Attempt]], bool], timeout: float = 10.0) -> bool:
        """Wait until the condition holds of the attempts; asked whenever one is added."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self._attempts), timeout)

    @property
    def attempts(self) -> list[Attempt]:
        """All of them, as a list of its own."""
        with self._changed:
            return list(self._attempts)

    @property
    def accepted(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.accepted]

    @property
    def refused(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.accepted]

    @property
    def tokens(self) -> list[str]:
        """The distinct tokens, in the order of their first arrival."""
        return list(dict.fromkeys(attempt.token for attempt in self.attempts if attempt.token is not None))

    @property
    def nonces(self) -> list[str]:
        """The `nonce` of each attempt that had one, repeats included."""
        return [attempt.jwt_header["nonce"] for attempt in self.attempts if "nonce" in attempt.jwt_header]

    def repeated_nonces(self) -> list[str]:
        """Those that arrived more than once, whether the attempts were accepted or not."""
        return [nonce for nonce, count in Counter(self.nonces).items() if count > 1]

    def contains(self, text: str) -> bool:
        """Whether the text stands anywhere in the metadata that arrived: to show that a token did not."""
        return any(text in _text(value) for attempt in self.attempts for _, value in attempt.metadata)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
