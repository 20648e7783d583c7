"""`python -m benchmarks.fleet`: what 100,000 workers ask of a token endpoint, with and without cache and jitter.

A simulation, since no machine here runs so many processes (`make fleet` runs 200). Only time is simulated: when a token
is fetched ahead, and whether an entry of the cache is taken up, is decided by the library's own functions.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grpc_bearer import CallContext, Token
from grpc_bearer._engine.refresh_table import arrival
from grpc_bearer.cache._judged import Mine, judged
from grpc_bearer.cache._sealed import SealedToken
from grpc_bearer.cache._store import Stored

#: Seconds: of a token's life, that a start of the whole fleet takes, of an exchange, and that are simulated.
LIFETIME, ROLLOUT, EXCHANGE, SPAN = 3600.0, 10.0, 0.1, 4 * 3600.0
#: When the cache is away, in one of the cases: just when the fleet would renew its token.
AWAY = (40 * 60.0, 60 * 60.0)
#: As `SharedCache` has it, in seconds.
SPREAD = 0.25


@dataclass(frozen=True)
class Case:
    """One way to run a fleet."""

    name: str
    cache: bool
    jitter: bool
    away: tuple[float, float] | None = None


CASES = (
    Case("no cache, no jitter", cache=False, jitter=False),
    Case("no cache, jitter", cache=False, jitter=True),
    Case("cache", cache=True, jitter=True),
    Case("cache away for 20 min, no jitter", cache=True, jitter=False, away=AWAY),
    Case("cache away for 20 min, jitter", cache=True, jitter=True, away=AWAY),
)


class _Clock:
    now = 0.0

    def time(self) -> float:
        return self.now

    monotonic = time

    def call_later(self, delay: float, fn: Callable[[], object]) -> Callable[[], None]:
        raise NotImplementedError


class Fleet:
    """Workers that wake when their token wants to be renewed, one after another in time.

    Args:
        case: how they are run.
        workers: how many.
        seed: of their jitter.
    """

    def __init__(self, case: Case, workers: int, seed: int = 1) -> None:
        self._case = case
        self._random = random.Random(seed)
        self._clock = _Clock()
        self._context = CallContext(clock=self._clock)
        self._mine = [Mine()] * workers
        self._entry: SealedToken | None = None
        self._busy_until = -1.0
        self._due = [(self._random.random() * ROLLOUT, number) for number in range(workers)]
        heapq.heapify(self._due)

    def exchanges(self, span: float = SPAN) -> Iterator[float]:
        """When the endpoint is asked."""
        while self._due and self._due[0][0] < span:
            now, worker = heapq.heappop(self._due)
            again, asked = self._wake(now, worker)
            heapq.heappush(self._due, (again, worker))
            if asked is not None:
                yield asked

    def _jitter(self) -> float:
        return self._random.random() if self._case.jitter else 0.5

    def _wake(self, now: float, worker: int) -> tuple[float, float | None]:
        """When this worker wakes again, and when it asks the endpoint, if it does."""
        self._clock.now = now
        if not self._case.cache or self._is_away(now):
            at = now + (SPREAD * self._random.random() if self._case.cache and self._case.jitter else 0.0)
            self._mine[worker] = Mine(self._mine[worker].number, at + LIFETIME)
            return self._renewed_at(at + EXCHANGE), at
        if now < self._busy_until:
            return self._busy_until + 0.05 * self._random.random(), None  # waits for whoever asks
        entry = self._entry
        if entry is not None:
            stored = Stored(entry.number, b"", now - entry.written_at)
            found = judged(entry, stored, self._mine[worker], self._context, self._jitter())
            if found is not None and not found.stale:
                self._mine[worker] = Mine(entry.number, entry.until)
                return found.token.refresh_at or now, None
        number = 1 if entry is None else entry.number + 1
        done = self._busy_until = now + EXCHANGE
        self._entry = SealedToken(number, Token("t", done + LIFETIME), done, done + LIFETIME)
        self._mine[worker] = Mine(number, done + LIFETIME)
        return self._renewed_at(done), now

    def _renewed_at(self, now: float) -> float:
        held = arrival(Token("t", now + LIFETIME), 1, now_wall=now, now=now, jitter=self._jitter())
        return now if held is None else held.refresh_at

    def _is_away(self, now: float) -> bool:
        return self._case.away is not None and self._case.away[0] <= now < self._case.away[1]


@dataclass(frozen=True)
class Load:
    """What the endpoint saw: fetches in each second, and in all."""

    seconds: Counter[int]
    total: int

    def peak(self, start: float = 0.0, end: float = SPAN) -> int:
        """The most in one second."""
        return max((count for second, count in self.seconds.items() if start <= second < end), default=0)


def load(case: Case, workers: int) -> Load:
    """The endpoint's four hours."""
    seconds = Counter(int(at) for at in Fleet(case, workers).exchanges())
    return Load(seconds, seconds.total())


def table(loads: dict[tuple[str, int], Load]) -> str:
    """As Markdown."""
    lines = [
        "| | workers | fetches in 4 h | most in one second, at the start | most in one second, later |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for (name, workers), found in loads.items():
        start, later = found.peak(0, ROLLOUT + 1), found.peak(ROLLOUT + 1)
        lines.append(f"| {name} | {workers:,} | {found.total:,} | {start:,} | {later:,} |")
    return "\n".join(lines) + "\n"


def plot(path: Path, loads: dict[str, Load]) -> None:
    """Fetches per second over four hours, one panel a case: of each 20 s the busiest second."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "grpc-bearer", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(loads), 1, sharex=True, sharey=True, figsize=(9, 1.5 * len(loads)))
    for axes, (name, found) in zip(panels, loads.items(), strict=True):
        busiest: dict[int, int] = {}
        for second, count in found.seconds.items():
            busiest[second // 20] = max(busiest.get(second // 20, 0), count)
        axes.vlines([at / 3 for at in busiest], 0.5, list(busiest.values()), color="#0b6e4f", linewidth=1.0)
        axes.set_yscale("log")
        axes.set_ylim(0.5, 3e5)
        axes.set_title(f"{name}: {found.total:,} fetches", loc="left", fontsize=9)
    panels[len(loads) // 2].set_ylabel("fetches per second at the token endpoint")
    panels[-1].set_xlabel("minutes after the start of the fleet")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Write `fleet.md`, `fleet.json` and `fleet.svg`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1_000, 100_000])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/fleet"))
    chosen = parser.parse_args(argv)
    loads = {(case.name, size): load(case, size) for case in CASES for size in chosen.workers}
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "fleet.md").write_text(table(loads), "utf-8")
    data = [{"case": name, "workers": size, "total": found.total} for (name, size), found in loads.items()]
    (chosen.out / "fleet.json").write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    largest = max(chosen.workers)
    plot(chosen.out / "fleet.svg", {name: found for (name, size), found in loads.items() if size == largest})
    print(table(loads))


if __name__ == "__main__":
    main()
