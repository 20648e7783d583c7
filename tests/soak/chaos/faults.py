"""Does to the world what the script says, and writes down what was really done, and when."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from chaos.kinds import REPLAYED, number_of
from chaos.load import DEADLINES
from chaos.script import Event
from chaos.world import SteppingClock, World
from grpc_bearer.testing import Attempt, Garbage, Hang, HTTPFault, Refuse, Reset, Status, Trickle

#: A clock is set back or forward by up to so much, in seconds.
STEP = 600.0

_ENDPOINT: dict[str, Callable[[], HTTPFault]] = {
    "status 500": lambda: Status(500),
    "status 429": lambda: Status(429, retry_after=1),
    "hang": Hang,
    "reset": Reset,
    "trickle": lambda: Trickle(size=40, pause=0.05),
    "garbage": Garbage,
}
_REFUSALS = {
    "after 3": ("ClientStream", Refuse(after_requests=3, details="session ended")),
    "after headers": (None, Refuse(when="headers", details="session ended")),
    "after 1020": ("ClientStream", Refuse(after_requests=1020, details="session ended")),
}


@dataclass(frozen=True, slots=True)
class Window:
    """Something was wrong from `began` to `ended`, in wall-clock seconds; `None`: it still is."""

    what: str
    target: str
    began: float
    ended: float | None = None

    def covers(self, began: float, ended: float) -> bool:
        return self.began <= began and (self.ended is None or ended <= self.ended)

    def meets(self, began: float, ended: float, after: float = 0.0) -> bool:
        return self.began <= ended and (self.ended is None or began <= self.ended + after)


@dataclass
class Log:
    """What was done. `revoked`: name and time, of tokens that were in use."""

    windows: list[Window] = field(default_factory=list)
    revoked: list[tuple[str, float]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)  # of the run itself
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

    def begin(self, what: str, target: str) -> Window:
        window = Window(what, target, time.time())
        with self._lock:
            self.windows.append(window)
        return window

    def end(self, window: Window) -> None:
        with self._lock:
            self.windows.remove(window)
            self.windows.append(Window(window.what, window.target, window.began, time.time()))


class Conductor:
    """Plays the script on threads of its own; `stop` waits until what has begun has ended."""

    def __init__(self, world: World, script: Sequence[Event], clocks: dict[str, SteppingClock], seed: int) -> None:
        self.world = world
        self.log = Log()
        self._script = script
        self._clocks = clocks
        self._chance = random.Random(f"{seed} steps")
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(16, "chaos")
        self._thread = threading.Thread(target=self._run, name="conductor")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._pool.shutdown()
        self.world.tokens.heal()

    def _run(self) -> None:
        began = time.monotonic()
        for event in self._script:
            if self._stop.wait(max(began + event.at - time.monotonic(), 0)):
                return
            self._pool.submit(self._act, event)

    def _act(self, event: Event) -> None:
        try:
            getattr(self, f"_{event.act}")(event)
        except Exception as error:
            self.log.broken.append(f"{event}: {error!r}")

    def _endpoint(self, event: Event) -> None:
        tokens = self.world.tokens
        window = self.log.begin(event.how, "endpoint")
        if event.how == "down":
            tokens.stop()
        else:
            tokens.fail_with(_ENDPOINT[event.how]())
        self._stop.wait(event.seconds)
        if event.how == "down":
            tokens.start()
        tokens.heal()
        self.log.end(window)
        self.log.count(f"token endpoint: {event.how}")

    def _revoke(self, event: Event) -> None:
        if self.world.revoke(event.target) is not None:
            self.log.revoked.append((event.target, time.time()))
            self.log.count("token revoked" + (" (a control's)" if event.target.startswith("control") else ""))

    def _restart(self, event: Event) -> None:
        window = self.log.begin("restart", event.target)
        self.world.restart(event.target, event.seconds)
        self.log.end(window)
        self.log.count("server restarted")

    def _file(self, event: Event) -> None:
        window = self.log.begin("file", event.target) if event.how in ("empty", "half") else None
        self.world.files[event.target].change(event.how)
        if window is not None:
            self.log.end(window)
        self.log.count("token file replaced: " + ("symlink swap" if event.target == "crm-link" else event.how))

    def _key(self, event: Event) -> None:
        (self.world.oauth if event.target == "oauth" else self.world.tenants[event.target]).rotate()
        self.log.count("key file replaced")

    def _clock(self, event: Event) -> None:
        clock = self._clocks[event.target]
        # A signed token lies in the future if the clock is ahead: that is cured elsewhere (see `lines.CLOCK_AHEAD`).
        ahead = 0.0 if event.target == "skykit" else STEP
        clock.offset = self._chance.choice((0.0, self._chance.uniform(-STEP, ahead)))
        self.log.count("clock stepped")

    def _refuse(self, event: Event) -> None:
        method, fault = _REFUSALS[event.how]
        server = self.world.servers["midway"]
        if _coming_back(list(server.ledger), time.time()):
            return  # it has one retry, and a second refusal of a right token would be no stale token
        server.faults.clear()
        server.script(fault, method=method)
        self.log.count(f"refused midway: {event.how}")


def _coming_back(attempts: Sequence[Attempt], now: float) -> bool:
    """Whether the call that was refused last may yet come again: it may have to wait for its token."""
    last = next((at for at, each in reversed(list(enumerate(attempts))) if each.reason.startswith("scripted")), None)
    if last is None or now - attempts[last].received_at > max(DEADLINES) or len(attempts[last].requests) > REPLAYED:
        return False
    return all(number_of(each) != number_of(attempts[last]) for each in attempts[last + 1 :])
