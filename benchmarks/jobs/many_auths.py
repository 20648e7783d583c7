"""1, 100 and 10,000 auths in one process, a tenant each, all of them refreshing: threads, memory, cost."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

from benchmarks import children, stats, tables
from benchmarks.jobs import Scale
from benchmarks.loop import Role, Samples
from benchmarks.peers import TOKEN, ThreadedCredential
from benchmarks.tables import Check, Grid, Reach, Result
from grpc_bearer import BearerAuth, Source, Token
from grpc_bearer._token import CallContext

REPEATS = 3
OURS, PEER = "grpc_bearer, keep_warm=True", "a thread a credential"
#: Kilobytes an auth may take, and by how much its refresh may be dearer among many than among a hundred.
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


def child(name: str, auths: int, period: float) -> dict[str, Any]:
    """Build them, let each refresh a few times, look at the process."""
    one = _auth(-1, 3600)  # what is there once for all is not counted
    make = _auth if name == OURS else lambda n, period: ThreadedCredential(Tenant(n, period).token, period)
    memory, threads = children.rss(), children.threads()
    began = time.process_time()
    held = [make(number, period) for number in range(auths)]
    building = time.process_time() - began
    found: dict[str, Any] = {"memory": (children.rss() - memory) / auths, "building": building / auths}
    found["threads"] = children.threads() - threads
    before, began = Tenant.fetched, time.process_time()
    most, end = 0, time.monotonic() + 3 * period
    while time.monotonic() < end:
        time.sleep(min(0.1, period))
        most = max(most, children.threads() - threads)
    refreshes = Tenant.fetched - before
    found |= {"refreshes": refreshes / auths, "cost": (time.process_time() - began) / max(refreshes, 1)}
    found |= {"threads": most, "ours": children.our_threads(), "held": len(held) + bool(one)}
    return found


# ----------------------------------------------------------------------------------------------- in the parent


def run(scale: Scale) -> Result:
    """Facts for each number, and two comparisons."""
    middle, most = scale.count(100, 3), scale.count(10_000, 10)
    periods = {n: max(0.05 if n == 1 else 0.5, 5 * n / 10_000) for n in (1, middle, most, min(most, PEER_MOST))}
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}

    def measure(name: str, auths: int) -> None:
        # A hundred refresh as seldom as it takes to see what a refresh costs, and not what polling costs.
        config = {"name": name, "auths": auths, "period": periods[auths]}
        found.setdefault((name, auths), []).append(children.measured(__name__, config))

    for repeat in range(2 * REPEATS):
        measure(OURS, middle)
        if repeat % 2 == 0:
            measure(OURS, most)
    measure(OURS, 1)
    for auths in sorted({1, middle, min(most, PEER_MOST)}):
        measure(PEER, auths)
    checks = _checks(found, sorted({1, middle, most}), most)
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


def _cost(found: Any, middle: int, most: int) -> tables.Table:
    def samples(name: str, role: Role, runs: list[dict[str, Any]]) -> Samples:
        costs = [run["cost"] for run in runs if "failed" not in run]
        return Samples(name, role, list(range(len(costs))), costs)

    among = f"among {most:,}"
    return tables.compare(
        "auths-cost",
        "CPU of one refresh",
        [
            samples(f"among {middle:,}", "floor", found[OURS, middle][::2]),
            samples(f"among {middle:,}, again", "A/A", found[OURS, middle][1::2]),
            samples(among, "ours", found[OURS, most]),
        ],
        {among: Reach(LINEAR)},
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
