"""1, 100, 1,000 and 10,000 calls that wait for the first token: exchanges, threads, memory.

What gRPC itself takes is measured on a plain channel with a plugin that waits as well as one can: it returns at once
and calls back when the token has come.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

import grpc_bearer
from benchmarks import children, peers, stats, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Role, Samples
from benchmarks.peers import BY_HAND, TOKEN
from benchmarks.server import Server
from benchmarks.tables import Check, Goal, Grid, Result
from grpc_bearer import BearerAuth, Source, Token
from grpc_bearer._base.token import CallContext
from grpc_bearer.testing import ProbeRequest, ProbeStub

#: Times that the memory of all calls is measured, each in a new process.
REPEATS = 2
FLOOR, AGAIN = "plugin on the channel that waits", "plugin on the channel that waits, again"
PER_CALL, OURS, WITHOUT = "the same plugin as credentials= of each call", "grpc_bearer", "grpc_bearer, retry=None"
GOOGLE = "google-auth"
ROLES: dict[str, Role] = {FLOOR: "floor", AGAIN: "A/A", PER_CALL: "peer", OURS: "ours", WITHOUT: "ours", GOOGLE: "peer"}


# ------------------------------------------------------------------------------------------------ in the child


class WaitingPlugin(grpc.AuthMetadataPlugin):
    """Parks the callbacks, not the threads."""

    def __init__(self) -> None:
        self._waiting: list[Callable[..., None]] = []

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        self._waiting.append(callback)

    def release(self) -> None:
        for callback in self._waiting:
            callback(BY_HAND, None)


class Exchange:
    """The exchange for the first token: takes until released, and counts."""

    def __init__(self) -> None:
        self.count = 0
        self._lock, self._come = threading.Lock(), threading.Event()

    def __call__(self) -> str:
        with self._lock:
            self.count += 1
        self._come.wait()
        return TOKEN

    def release(self) -> None:
        self._come.set()


class ColdSource(Source):
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def fetch(self, context: CallContext) -> Token:
        return Token(self._exchange(), expires_at=time.time() + 3600)


def _client(name: str, target: str, ssl: grpc.ChannelCredentials) -> tuple[grpc.Channel, Any, Any, dict[str, Any]]:
    """Channel, exchange, what to release, and what each call takes."""
    exchange, plugin = Exchange(), WaitingPlugin()
    if name in (FLOOR, AGAIN):
        return grpc.secure_channel(target, peers.plugin_credentials(ssl, plugin)), None, plugin, {}
    if name == PER_CALL:
        each = {"credentials": lambda: grpc.metadata_call_credentials(plugin)}
        return grpc.secure_channel(target, ssl), None, plugin, each
    if name == GOOGLE:
        google = peers.RefreshingGoogleCredentials(exchange, 3600, background=False)
        return peers.google_channel(google, target, ssl), exchange, exchange, {}
    auth = BearerAuth(ColdSource(exchange))
    how = {"retry": None} if name == WITHOUT else {}
    return grpc_bearer.secure_channel(target, ssl, auth=auth, **how), exchange, exchange, {}  # type: ignore[arg-type]


def child(name: str, calls: int, target: str, ca: str) -> dict[str, Any]:
    """Start the calls, look at the process while they wait, let them go."""
    with open(ca, "rb") as file:
        ssl = grpc.ssl_channel_credentials(file.read())
    channel, exchange, gate, each = _client(name, target, ssl)
    grpc.channel_ready_future(channel).result(30)
    stub, request = ProbeStub(channel), ProbeRequest(index=1)
    memory, threads = children.rss(), children.threads()
    waiting = [stub.Unary.future(request, timeout=300, **{k: make() for k, make in each.items()}) for _ in range(calls)]
    children.until_calm()
    found: dict[str, Any] = {
        "memory": (children.rss() - memory) / calls,
        "threads": children.threads() - threads,
        "ours": children.our_threads(),
    }
    released = time.perf_counter()
    gate.release()
    failed = sum(call.exception() is not None for call in waiting)
    found |= {"seconds": time.perf_counter() - released, "failed_calls": failed}
    channel.close()
    found["exchanges"] = exchange.count if exchange is not None else None
    return found


# ----------------------------------------------------------------------------------------------- in the parent


def run(scale: Scale) -> Result:
    """Facts for each number of calls, and the memory of a waiting call."""
    sizes = sorted({1, scale.count(100, 5), scale.count(1_000, 8), scale.count(10_000, 10)})
    found: dict[str, dict[int, list[dict[str, Any]]]] = {name: {} for name in ROLES}
    with Server() as server:

        def measure(name: str, calls: int) -> None:
            config = {"name": name, "calls": calls, "target": server.target, "ca": str(server.ca)}
            found[name].setdefault(calls, []).append(children.measured(__name__, config))

        for calls in sizes:
            # Round by round, so that a machine that grows busier does so for all.
            for repeat in range(REPEATS if calls == sizes[-1] else 1):
                for name in ROLES:
                    if name not in (GOOGLE, WITHOUT) or repeat == 0:
                        measure(name, calls)
    memory = _memory(found, sizes[-1])
    return Result([memory], [_facts(found, sizes)], {"cold_start": _series(found, sizes)}, held_bytes(found, sizes[-1]))


def _memory(found: Any, calls: int) -> tables.Table:
    notes = [
        f"{calls:,} calls wait; resident memory of the client's process, in new processes each time.",
        "What gRPC takes is more if a call has credentials of its own, as ours need while they wait.",
    ]
    goals = {OURS: Goal(1.4, "difference")}
    return tables.compare(
        "cold-memory",
        "Memory of a call that waits for the first token",
        _samples(found, calls),
        goals,
        unit="KiB",
        factor=1 / 1024,
        notes=notes,
    )


def _samples(found: Any, calls: int) -> list[Samples]:
    samples = []
    for name, role in ROLES.items():
        values = [each["memory"] for each in found[name][calls] if "failed" not in each]
        if values:
            samples.append(Samples(name, role, list(range(len(values))), [max(value, 1e-9) for value in values]))
    return samples


def held_bytes(found: Any, calls: int) -> list[Any]:
    """As pyperf keeps them."""
    return [stats.held(each, "byte") for each in _samples(found, calls)] if found else held([])


_COLUMNS = ["", "calls", "exchanges", "threads more", "of them ours", "KiB a call", "s until all done", "failed calls"]


def _facts(found: Any, sizes: list[int]) -> Grid:
    rows = []
    for name, by_size in found.items():
        for calls, runs in by_size.items():
            rows.append([name, f"{calls:,}", *_fact(runs[0])])
    return Grid("cold-start", "Cold start: calls that wait for the first token", _COLUMNS, rows, _checks(found, sizes))


def _fact(run: dict[str, Any]) -> list[str]:
    if "failed" in run:
        return [f"failed: {run['failed']}", "", "", "", "", ""]
    exchanges = "–" if run["exchanges"] is None else f"{run['exchanges']:,}"
    memory = f"{run['memory'] / 1024:.1f}"
    return [
        exchanges,
        f"{run['threads']:,}",
        str(run["ours"]),
        memory,
        f"{run['seconds']:.3f}",
        str(run["failed_calls"]),
    ]


def _checks(found: Any, sizes: list[int]) -> list[Check]:
    runs = {calls: found[OURS][calls][0] for calls in sizes}
    exchanges, ours = [runs[n].get("exchanges") for n in sizes], [runs[n].get("ours") for n in sizes]
    at = " / ".join(f"{n:,}" for n in sizes)

    def line(what: str, goal: str, values: list[Any], good: bool) -> Check:
        return Check(f"Cold start, {at} calls: {what}", goal, " / ".join(map(str, values)), "met" if good else "missed")

    return [
        line("exchanges", "1", exchanges, set(exchanges) == {1}),
        line("our threads", "constant", ours, len(set(ours)) == 1 and None not in ours),
    ]


def _series(found: Any, sizes: list[int]) -> dict[str, Any]:
    keys = ("memory", "threads", "seconds")
    return {
        name: {key: [found[name][n][0].get(key) for n in sizes] for key in keys} | {"sizes": sizes} for name in found
    }


if __name__ == "__main__":
    print(json.dumps(child(**json.loads(sys.argv[1]))))
