"""Faults that a `ProbeServer` commits on demand, one for each attempt."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from google.protobuf.message import Message

__all__ = ["Delay", "Fault", "Refuse", "Script"]


@dataclass(frozen=True, slots=True)
class Refuse:
    """End the attempt with a status.

    Args:
        code: the status.
        details: its text.
        trailing: trailing metadata to go with it.
        when: `"start"` for a trailers-only answer, before anything else is sent; `"headers"` after the headers.
        after_requests: instead, once that many requests were read (not for unary requests).
        after_replies: instead, once that many replies were sent (not for unary replies).
        rich: messages such as `google.rpc.RetryInfo` or `ErrorInfo` for the rich status, or a `Status` itself.

    >>> Refuse(grpc.StatusCode.UNAVAILABLE, "busy", after_replies=2).position
    ('replies', 2)
    """

    code: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED
    details: str = ""
    trailing: Sequence[tuple[str, str | bytes]] = ()
    when: str = "start"
    after_requests: int | None = None
    after_replies: int | None = None
    rich: Message | Sequence[Message] | None = None

    def __post_init__(self) -> None:
        if self.when not in ("start", "headers"):
            raise ValueError(f"when: 'start' or 'headers', not {self.when!r}")

    @property
    def position(self) -> tuple[str, int]:
        """Where in the call it happens: `(what, how many of them)`."""
        if self.after_requests is not None:
            return ("requests", self.after_requests)
        if self.after_replies is not None:
            return ("replies", self.after_replies)
        return (self.when, 0)

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """What goes out with the status, the rich status included."""
        if self.rich is None:
            return tuple(self.trailing)
        return (*self.trailing, ("grpc-status-details-bin", _rich_status(self.rich, self.code, self.details)))


@dataclass(frozen=True, slots=True)
class Delay:
    """Let the attempt wait until `release` is set, then serve it as if nothing had been.

    >>> delay = Delay()
    >>> delay.arrived.is_set()
    False
    """

    release: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)


Fault = Refuse | Delay


class Script:
    """Which fault meets which attempt: those for the attempt's own method first, then those for any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[str | None, deque[Fault | None]] = {}

    def add(self, faults: Iterable[Fault | None], method: str | None = None) -> None:
        with self._lock:
            self._faults.setdefault(method, deque()).extend(faults)

    def clear(self) -> None:
        """Forget the faults not yet committed."""
        with self._lock:
            self._faults.clear()

    def next(self, method: str) -> Fault | None:
        with self._lock:
            for key in (method, method.rpartition("/")[2], None):
                if self._faults.get(key):
                    return self._faults[key].popleft()
        return None


def _rich_status(rich: Message | Sequence[Message], code: grpc.StatusCode, details: str) -> bytes:
    from google.rpc import status_pb2

    if isinstance(rich, status_pb2.Status):
        return bytes(rich.SerializeToString())
    messages: Any = rich if isinstance(rich, Sequence) else [rich]
    status = status_pb2.Status(code=code.value[0], message=details)
    for message in messages:
        status.details.add().Pack(message)
    return bytes(status.SerializeToString())
