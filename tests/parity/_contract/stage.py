"""A server that plays whatever part a scenario writes for its next call."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from grpc_bearer.testing import CA, Attempt, ProbeServer

SERVICE = "contract.Stage"
WARM = "warm"  # a method that takes no act
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

# Long for a test, short for a hang: whatever waits here is waiting for an event that a bug kept away.
PATIENCE = 8.0

# Seconds. The first is enough as a rule; on a busy machine it may pass before anything has happened, and then the next
# one is tried.
DEADLINES = (0.1, 0.8, 6.4)

# Reconnecting is quick, so that a scenario may meet a server that starts late.
QUICK = (("grpc.initial_reconnect_backoff_ms", 100),)

Metadata = Sequence[tuple[str, "str | bytes"]]


@dataclass
class Act:
    """One call's part: headers, `before` replies, perhaps a wait, `after` replies, and how it ends.

    Attributes:
        reads: whether the requests are read to their end before anything is answered; else each is answered at once.
        hold: wait for `release` (or for the client to go) in the middle.
        arrived, held, cancelled: set when the call is here, waits, and ended before its part was over.
        requests: those read, as they came.
        context: gRPC's, for what it tells of the call.
    """

    headers: Metadata | None = None
    before: int = 0
    hold: bool = False
    after: int = 1
    reads: bool = True
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    trailing: Metadata = ()
    arrived: threading.Event = field(default_factory=threading.Event)
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)
    requests: list[bytes] = field(default_factory=list)
    context: Any = None

    def play(self, requests: Iterator[bytes], context: grpc.ServicerContext, over: threading.Event) -> Iterator[bytes]:
        self.context = context
        gone = threading.Event()
        if not context.add_callback(lambda: (gone.set(), over.is_set() or self.cancelled.set())):
            self.cancelled.set()
            gone.set()
        self.arrived.set()
        if self.headers is not None:
            context.send_initial_metadata(tuple(self.headers))
        if self.reads:
            self.requests.extend(requests)
        yield from (b"before %d" % n for n in range(self.before))
        if self.hold:
            self.held.set()
            self._wait(gone)
        if not self.reads:
            yield from self._echo(requests)
        yield from (b"after %d" % n for n in range(self.after))
        over.set()
        context.set_trailing_metadata(tuple(self.trailing))
        if self.code is not grpc.StatusCode.OK:
            context.abort(self.code, self.details)
        context.set_details(self.details)

    def _wait(self, gone: threading.Event) -> None:
        while not self.release.wait(0.01):
            if gone.is_set():
                return

    def _echo(self, requests: Iterator[bytes]) -> Iterator[bytes]:
        for request in requests:
            self.requests.append(request)
            yield request


def in_flight(world: Any) -> Iterator[float]:
    """Deadlines to begin calls with, until one passes while the server holds the call, which then hears of its end."""
    acts = [world.act(hold=True) for _ in DEADLINES]
    for deadline in DEADLINES:
        before = sum(act.held.is_set() for act in acts)
        yield deadline
        if sum(act.held.is_set() for act in acts) > before:
            break
    assert acts[before].cancelled.wait(PATIENCE)


class Stage:
    """A `ProbeServer` that also serves `contract.Stage`, whose calls play the acts put up for them, in order.

    Each world has acts of its own, known by its user agent: a call that was cancelled may arrive when the next one
    plays.
    """

    def __init__(self, credentials: Any = "tls", ca: CA | None = None) -> None:
        self._acts: defaultdict[str, deque[Act]] = defaultdict(deque)
        self.server = ProbeServer(None, ca, credentials=credentials, register=[self._register])

    @property
    def target(self) -> str:
        return self.server.target

    def put(self, world: str, act: Act) -> Act:
        self._acts[world].append(act)
        return act

    def clear(self, world: str) -> None:
        """Forget the acts that nobody has played, and what was written down."""
        self._acts.pop(world, None)
        self.server.ledger.clear()

    def attempts(self, world: str) -> list[Attempt]:
        """What the server's ledger has of one world."""
        return [attempt for attempt in self.server.ledger if world == _world(attempt.metadata)]

    def _next(self, context: grpc.ServicerContext) -> Act:
        acts = self._acts[_world(context.invocation_metadata())]
        return acts.popleft() if acts else Act()

    def _stream(self, requests: Any, context: grpc.ServicerContext) -> Iterator[bytes]:
        yield from self._next(context).play(requests, context, threading.Event())

    def _unary(self, requests: Any, context: grpc.ServicerContext) -> bytes:
        return b"|".join(self._next(context).play(requests, context, threading.Event()))

    def _register(self, server: grpc.Server) -> None:
        makers = {
            WARM: grpc.unary_unary_rpc_method_handler(lambda request, context: request),
            "unary_unary": grpc.unary_unary_rpc_method_handler(lambda r, c: self._unary(iter([r]), c)),
            "unary_stream": grpc.unary_stream_rpc_method_handler(lambda r, c: self._stream(iter([r]), c)),
            "stream_unary": grpc.stream_unary_rpc_method_handler(self._unary),
            "stream_stream": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, makers),))


def _world(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The first word of the user agent."""
    return str(dict(metadata).get("user-agent", "")).partition(" ")[0]


def nobody() -> str:
    """A loopback address where nobody listens."""
    return "127.0.0.1:1"


def own(act: Act) -> Any:
    """What arrived under our header."""
    return [value for key, value in act.context.invocation_metadata() if key == "authorization"]
