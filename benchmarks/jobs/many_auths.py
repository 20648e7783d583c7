"""1, 100 and 10,000 auths in one process, a tenant each, all of them refreshing: threads, memory, cost."""

from __future__ import annotations

import json
import statistics
import sys
import threading
import time
from typing import Any

from benchmarks import children, stats, tables
from benchmarks.jobs import Scale
from benchmarks.loop import Role, Samples
from benchmarks.peers import TOKEN, ThreadedCredential
from benchmarks.tables import Check, Grid, Goal, Result
from grpc_bearer import BearerAuth, Source, Token
from grpc_bearer._base.token import CallContext

#: A thousand are measured in so many processes, ten thousand in a sixth of that.
PROCESSES = 18
#: Refreshes a second, of whatever number: how often a thread has to be woken is a good part of what they cost.
RATE = 2000
#: Seconds until all threads have begun.
WARM_UP = 0.35
OURS, PEER = "grpc_bearer, keep_warm=True", "a thread a credential"
#: Kilobytes an auth may take, and by how much its refresh may be dearer among ten times as many.
MEMORY, LINEAR = 8.0, 1.25
#: With more threads than this, the machine does little but switch between them.
PEER_MOST = 1_000
#: Workers, as many as fetch at once but never more than 16, and a timer.
MOST_THREADS = 17


# ------------------------------------------------------------------------------------------------ in the child


class Tenant(Source):
    """A token endpoint that answers at once; what is measured is what is around it."""

    fetched = 0
    _lock = threading.Lock()

    def __init__(self, number: int, period: float) -> None:
        self._number, self._period = number, period

    def token(self) -> str:
        with Tenant._lock:
            Tenant.fetched += 1
            return f"{TOKEN}{self._number}.{Tenant.fetched}"

    def fetch(self, context: CallContext) -> Token:
        now = context.clock.time()
        return Token(self.token(), expires_at=now + 100 * self._period, refresh_at=now + self._period)


def _auth(number: int, period: float) -> Any:
    auth = BearerAuth(Tenant(number, period), keep_warm=True)
    auth.token()
    return auth


def child(name: str, auths: int, period: float, windows: list[float]) -> dict[str, Any]:
    """Build them, let each refresh a few times, look at the process."""
    one = _auth(-1, 3600)  # what is there once for all is not counted
    make = _auth if name == OURS else lambda n, period: ThreadedCredential(Tenant(n, period).token, period)
    memory, threads = children.rss(), children.threads()
    began = time.process_time()
    held = [make(number, period) for number in range(auths)]
    building = time.process_time() - began
    found: dict[str, Any] = {"memory": (children.rss() - memory) / auths, "building": building / auths}
    found["threads"] = children.threads() - threads
    time.sleep(min(windows[0], WARM_UP))
    most, costs, first = 0, [], Tenant.fetched
    for window in windows:
        before, began = Tenant.fetched, time.process_time()
        time.sleep(window)
        costs.append((time.process_time() - began) / max(Tenant.fetched - before, 1))
        most = max(most, children.threads() - threads)
    found |= {"refreshes": (Tenant.fetched - first) / auths, "costs": costs, "cost": statistics.mean(costs)}
    found |= {"threads": most, "ours": children.our_threads(), "held": len(held) + bool(one)}
    return found


# ----------------------------------------------------------------------------------------------- in the parent


def run(scale: Scale) -> Result:
    """Facts for each number, and two comparisons."""
    few, middle, most = scale.count(100, 3), scale.count(1_000, 5), scale.count(10_000, 10)
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}

    def measure(name: str, auths: int) -> None:
        period = max(0.05, auths / RATE)
        windows = [period] * (3 if auths == most else 6)
        config = {"name": name, "auths": auths, "period": period, "windows": windows}
        found.setdefault((name, auths), []).append(children.measured(__name__, config))

    for number in range(scale.count(PROCESSES, 6)):
        measure(OURS, middle)
        if number % 6 == 3:
            measure(OURS, most)
    for auths in (1, few):
        measure(OURS, auths)
    for auths in (1, few, min(middle, PEER_MOST)):
        measure(PEER, auths)
    checks = _checks(found, [1, few, most], most)
    grid = Grid("many-auths", "Many auths, all refreshing", _COLUMNS, _rows(found), checks)
    return Result([_cost(found, middle, most)], [grid], {"many_auths": _series(found)})


_COLUMNS = ["", "auths", "threads more", "of them ours", "KiB an auth", "µs CPU a refresh", "refreshes an auth"]


def _rows(found: Any) -> list[list[str]]:
    rows = []
    for (name, auths), runs in sorted(found.items()):
        run = runs[0]
        if "failed" in run:
            rows.append([name, f"{auths:,}", f"failed: {run['failed']}", "", "", "", ""])
            continue
        facts = [f"{run['memory'] / 1024:.1f}", f"{run['cost'] * 1e6:.0f}", f"{run['refreshes']:.1f}"]
        rows.append([name, f"{auths:,}", f"{run['threads']:,}", str(run["ours"]), *facts])
    return rows


def _checks(found: Any, sizes: list[int], most: int) -> list[Check]:
    ours = [found[OURS, n][0].get("ours") for n in sizes]
    kept = [run["memory"] / 1024 for run in found[OURS, most] if "failed" not in run]
    if not kept or None in ours:
        return [Check(f"{most:,} auths", "memory and threads", "failed", "missed")]
    memory = stats.alone(Samples(OURS, "ours", list(range(len(kept))), kept))
    text = f"{memory.value:.2f} KiB ({memory.low:.2f} – {memory.high:.2f})"
    return [
        Check(f"{_list(sizes)} auths: our threads", f"≤ {MOST_THREADS}", _list(ours), _met(max(ours) <= MOST_THREADS)),
        Check(f"{most:,} auths: memory an auth", f"≤ {MEMORY:g} KiB", text, _met(memory.low <= MEMORY)),
    ]


def _list(numbers: list[int]) -> str:
    return " / ".join(f"{number:,}" for number in numbers)


def _met(good: bool) -> str:
    return "met" if good else "missed"


_NOTE = f"""\
Both refresh {RATE:,} times a second in all, so that threads are woken equally often. A hundred are no measure of many:
they stay in the processor's caches."""


def _cost(found: Any, middle: int, most: int) -> tables.Table:
    def samples(name: str, role: Role, costs: list[float], every: int = 1) -> Samples:
        return Samples(name, role, list(range(0, every * len(costs), every)), costs)

    # A thousand against themselves: every other window of each process, by turns the even and the odd ones.
    middles = [run["costs"] for run in found[OURS, middle] if "failed" not in run]
    floor = [statistics.mean(costs[number % 2 :: 2]) for number, costs in enumerate(middles)]
    again = [statistics.mean(costs[1 - number % 2 :: 2]) for number, costs in enumerate(middles)]
    mosts = [cost for run in found[OURS, most] if "failed" not in run for cost in run["costs"]]
    among = f"among {most:,}"
    return tables.compare(
        "auths-cost",
        "CPU of one refresh",
        [
            samples(f"among {middle:,}", "floor", floor),
            samples(f"among {middle:,}, again", "A/A", again),
            samples(among, "ours", mosts, 2),
        ],
        {among: Goal(LINEAR)},
        notes=[_NOTE],
    )


def _series(found: Any) -> dict[str, Any]:
    series: dict[str, Any] = {}
    for name in (OURS, PEER):
        sizes = sorted(n for each, n in found if each == name)
        series[name] = {key: [found[name, n][0].get(key) for n in sizes] for key in ("memory", "threads", "cost")}
        series[name]["sizes"] = sizes
    return series


if __name__ == "__main__":
    print(json.dumps(child(**json.loads(sys.argv[1]))))
