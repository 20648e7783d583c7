"""Calls while a new token is fetched ahead: nobody should notice.

Each client refreshes by a real HTTPS exchange, over and over. A call belongs to `during` if a fetch was in flight when
it began or ended, and to `without` otherwise.
"""

from __future__ import annotations

import json
import random
import ssl
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc

import grpc_bearer
from benchmarks import peers, stats
from benchmarks.jobs import Scale
from benchmarks.loop import Samples
from benchmarks.server import BEAR, Server
from benchmarks.stats import Estimate
from benchmarks.stubs import by_hand, stubs, unary, warm
from benchmarks.tables import AA_WITHIN, Check, Goal, Grid, Result, Row, Table, interval_text
from grpc_bearer import BearerAuth, HTTPTokenSource, Token
from grpc_bearer._base.token import CallContext
from grpc_bearer.testing import ProbeStub

#: Seconds that the endpoint takes for a token, and after which the next one is fetched.
EXCHANGE, PERIOD = 0.03, 0.06
OURS, GOOGLE, BACKGROUND = "grpc_bearer", "google-auth", "google-auth, non-blocking refresh"
P50, P99 = stats.median, stats.percentile(99)


@dataclass
class Watched:
    """A client whose fetches are watched, or those of another: then its calls tell what the fetch costs by itself."""

    name: str
    call: Callable[[], Any] = lambda: None
    other: Watched | None = None
    began: float = 0.0
    in_flight: bool = False
    fetches: int = 0
    during: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    course: list[tuple[float, float]] = field(default_factory=list)

    def fetching(self, fetch: Callable[..., Any]) -> Callable[..., Any]:
        """`fetch`, watched."""

        def watched(*args: Any) -> Any:
            self.began, self.in_flight = time.perf_counter(), True
            try:
                return fetch(*args)
            finally:
                self.in_flight, self.fetches = False, self.fetches + 1

        return watched

    def make(self) -> None:
        """One call, measured."""
        watched = self.other or self
        fetches, flying, began = watched.fetches, watched.in_flight, time.perf_counter()
        self.call()
        took = time.perf_counter() - began
        overlapped = flying or watched.in_flight or fetches != watched.fetches
        (self.during if overlapped else self.without).append(took)
        if watched.began:
            self.course.append((began - watched.began, took))


class Refreshing(HTTPTokenSource):
    """Fetched ahead all the time."""

    def __init__(self, server: Server, watched: Watched) -> None:
        super().__init__(
            server.token_url, json=BEAR, field="access_token", refresh_after=(PERIOD, PERIOD * 1.2), ca=str(server.ca)
        )
        self._watched = watched.fetching(super().fetch)

    def fetch(self, context: CallContext) -> Token:
        token: Token = self._watched(context)
        return token


def run(scale: Scale) -> Result:
    """Latency with and without a fetch in flight."""
    least = scale.count(10_000, 20)
    with Server(tokens=True, delay=EXCHANGE) as server, stubs(server) as at:
        warm([by_hand(at.plain)])
        ours = _ours(server)
        floor = Watched("header by hand", by_hand(at.plain), ours)
        again = Watched("header by hand, again", by_hand(at.plain), ours)
        seconds = 70 * scale.size
        # Blocking refreshes of one client would hide those of another: theirs is a loop of its own.
        _shuffle([floor, again, ours], least, seconds)
        theirs = [_google(server, False), _google(server, True)]
        for each in theirs:
            _shuffle([each], max(20, least // 5), seconds / 4)
    return _result(floor, again, ours, theirs)


def _shuffle(clients: list[Watched], least: int, seconds: float) -> None:
    """Call, shuffled, until the clients that fetch have enough of both kinds, or the time is up."""
    chance, end = random.Random(6), time.monotonic() + seconds
    busy = [each for each in clients if each.fetches or each.in_flight]
    for each in clients:
        each.make()
    while time.monotonic() < end or any(min(len(each.during), len(each.without)) < 5 for each in busy):
        chance.shuffle(clients)
        for each in clients:
            each.make()
        if busy and all(min(len(each.during), len(each.without)) >= least for each in busy):
            return


def _ours(server: Server) -> Watched:
    watched = Watched(OURS)
    channel = grpc_bearer.secure_channel(
        server.target, server.credentials(), auth=BearerAuth(Refreshing(server, watched))
    )
    watched.call = unary(ProbeStub(channel))
    watched.call()
    return watched


def _google(server: Server, background: bool) -> Watched:
    watched = Watched(BACKGROUND if background else GOOGLE)
    context = ssl.create_default_context(cafile=str(server.ca))

    def fetch() -> str:
        request = urllib.request.Request(server.token_url, json.dumps(BEAR).encode(), method="POST")
        with urllib.request.urlopen(request, context=context) as answer:
            token: str = json.load(answer)["access_token"]
            return token

    credentials = peers.RefreshingGoogleCredentials(watched.fetching(fetch), PERIOD, background=background)
    channel: grpc.Channel = peers.google_channel(credentials, server.target, server.credentials())
    watched.call = unary(ProbeStub(channel))
    watched.call()
    return watched


def _result(floor: Watched, again: Watched, ours: Watched, theirs: list[Watched]) -> Result:
    result = Result()
    for key, statistic, limit in (("p50", P50, 1.02), ("p99", P99, None)):
        table = _table(key, statistic, limit, (floor, again, ours, *theirs))
        result.tables.append(table)
    result.grids.append(_beside(floor, ours))
    everybody = (floor, ours, *theirs)
    rows = [[each.name, f"{each.fetches:,}", f"{len(each.during):,}", f"{len(each.without):,}"] for each in everybody]
    result.grids.append(
        Grid("refresh-counts", "Refreshes ahead", ["", "fetches", "calls during", "calls without"], rows)
    )
    result.series["refresh"] = {each.name: _course(each) for each in everybody}
    kept = [
        Samples(f"{each.name}, {kind}", "ours", [], getattr(each, kind))
        for each in everybody
        for kind in ("during", "without")
    ]
    result.benchmarks = [stats.held(each) for each in kept if each.values]
    return result


def _beside(floor: Watched, ours: Watched) -> Grid:
    """The 99th percentile of our calls during a fetch against that of calls that have nothing to do with tokens."""
    title, columns = "Calls during a refresh, p99: ours against the header by hand", ["", "p99, µs"]
    if not floor.during or not ours.during:
        return Grid("refresh-beside", title, columns, [["no call met a fetch", ""]])
    estimate, goal = stats.unpaired_ratio(ours.during, floor.during, P99), Goal(1.10)
    rows = [[each.name, f"{_shown(each.during, P99):,.0f}"] for each in (floor, ours)]
    verdict = "met" if goal.met_by(estimate) else "missed"
    check = Check(title, f"≤ {goal.limit:g}", interval_text(estimate), verdict)
    return Grid("refresh-beside", title, columns, rows, [check])


def _table(key: str, statistic: Any, limit: float | None, clients: tuple[Watched, ...]) -> Table:
    floor, again, *busy = clients
    same = stats.unpaired_ratio(again.without + again.during, floor.without + floor.during, statistic)
    rows = [
        Row(floor.name, "floor", float(statistic(_all(floor))) * 1e6),
        Row(again.name, "A/A", float(statistic(_all(again))) * 1e6, ratio=same),
    ]
    beside = f"{floor.name}, while {OURS} fetches"
    rows.append(Row(beside, "peer", _shown(floor.during, statistic), None, _compared(floor, statistic)))
    for each in busy:
        role = "ours" if each.name == OURS else "peer"
        rows.append(Row(f"{each.name}, without", role, _shown(each.without, statistic)))
        ratio = _compared(each, statistic)
        goal = Goal(limit) if role == "ours" and limit else None
        judged = ratio if goal else None
        rows.append(Row(f"{each.name}, during", role, _shown(each.during, statistic), None, ratio, goal, judged))
    notes = [
        f"A fetch takes {EXCHANGE * 1e3:.0f} ms at the endpoint, and the next begins {PERIOD * 1e3:.0f} ms after. "
        "Ratios are of `during` to the same client's `without`.",
        f"The exchange runs in the client's process and takes its share of CPU and of the interpreter's lock from any "
        f"call: what that costs one that has nothing to do with tokens stands in the row `{beside}`.",
    ]
    if key == "p99" and abs(same.value - 1) > AA_WITHIN:
        notes.append("The 99th percentile of the floor against itself differs by more than 1 %: few calls decide it.")
    return Table(f"refresh-{key}", f"Calls during a refresh ahead, {key}", "µs", rows, len(clients[2].during), notes)


def _all(each: Watched) -> list[float]:
    return each.during + each.without


def _shown(values: list[float], statistic: Any) -> float | None:
    return float(statistic(values)) * 1e6 if values else None


def _compared(each: Watched, statistic: Any) -> Estimate | None:
    if not each.during or not each.without:
        return None
    return stats.unpaired_ratio(each.during, each.without, statistic)


def _course(each: Watched) -> dict[str, list[float]]:
    """Median and 99th percentile by milliseconds since the fetch began, for the plot."""
    width, bins = 0.003, {}  # type: ignore[var-annotated]
    for since, took in each.course:
        bins.setdefault(int(since // width), []).append(took)
    chosen = sorted(number for number, values in bins.items() if number * width < 2 * PERIOD and len(values) >= 3)
    return {
        "ms": [number * width * 1e3 for number in chosen],
        "p50": [float(P50(bins[number])) * 1e6 for number in chosen],
        "p99": [float(P99(bins[number])) * 1e6 for number in chosen],
    }
