"""The questions that are put to a fleet. Each gives rows of one of two tables."""

from __future__ import annotations

import itertools
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _redis import RedisServer, redis_server

from fleet.world import Line, Outcome, World, fill, small_disk

#: Lifetime of accelerated tokens, in seconds, and after what share of it the first of a fleet fetches the next.
LIFETIME, EARLIEST = 10, 0.75


@dataclass(frozen=True)
class Row:
    """One line of a table. `problems`: what should not be."""

    scene: str
    processes: int
    cells: dict[str, str]
    problems: tuple[str, ...] = ()


@contextmanager
def stores(world: World, kinds: tuple[str, ...]) -> Iterator[Iterator[tuple[str, str | None]]]:
    """Kind and address of one store after another, each empty."""
    with redis_server() as server:

        def one_by_one() -> Iterator[tuple[str, str | None]]:
            for kind in kinds:
                server.command("FLUSHALL")
                where = {"none": None, "files": str(world.fresh_directory())}
                yield kind, where.get(kind, server.url)

        yield one_by_one()


def seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 0.1 else f"{value * 1000:.0f} ms"


# --------------------------------------------------------------------------------------------------- started together


def together(world: World, processes: int) -> list[Row]:
    """All at once, with and without a cache: how many exchanges, and how long until all have made their first call."""
    rows = []
    world.slowness = 0.5  # long enough for those who start later to meet it
    with stores(world, ("none", "files", "redis", "impatient")) as each:
        for kind, store in each:
            # So many processes on a few cores are slow in all they do; only one of the fleets minds.
            fleet = world.fleet(processes, store, timeout=1.0 if kind == "impatient" else 10.0)
            fleet.let_go()
            outcome, exchanges = fleet.outcome(), len(world.issued_at)
            expected = {"none": processes, "impatient": exchanges}.get(kind, 1)
            rows.append(_started(f"started together, {_NAMES[kind]}", processes, outcome, exchanges, expected))
    world.slowness = 0.1
    return rows


_NAMES = {
    "none": "no cache",
    "files": "files",
    "redis": "Redis",
    "impatient": "Redis, with 1 s for each step (the default)",
}


def killed_holder(world: World, processes: int) -> list[Row]:
    """Whoever fetches is killed (`kill -9`) in the middle of it."""
    rows = []
    with stores(world, ("files", "redis")) as each:
        for kind, store in each:
            victims: list[int] = []

            def kill(pid: int, victims: list[int] = victims) -> None:
                if not victims:
                    victims.append(pid)
                    os.kill(pid, signal.SIGKILL)

            world.asked = kill
            fleet = world.fleet(processes, store)
            fleet.let_go()
            outcome = fleet.outcome()
            world.asked = None
            # The endpoint answered a dead process; the next one's exchange is the one that serves.
            exchanges = len(world.issued_at) - len(victims)
            rows.append(
                _started(f"the one who fetches is killed, {_NAMES[kind]}", processes, outcome, exchanges, 1, killed=1)
            )
    return rows


def _started(scene: str, processes: int, outcome: Outcome, exchanges: int, expected: int, *, killed: int = 0) -> Row:
    problems = _problems(outcome, killed)
    if exchanges != expected:
        problems.append(f"{exchanges} exchanges, and {expected} is right")
    if expected == 1 and outcome.held < 2:
        problems.append("the lock was not contended")
    cells = {
        "exchanges": str(exchanges),
        "saw the lock held": str(outcome.held) if expected == 1 else "–",
        "first call, median": seconds(statistics.median(outcome.first)),
        "all had their first call after": seconds(max(outcome.first)),
        "calls failed": str(len(outcome.failures)),
    }
    return Row(scene, processes, cells, tuple(problems))


def _problems(outcome: Outcome, killed: int = 0) -> list[str]:
    problems = [f"a call failed: {failure}" for failure in sorted(set(outcome.failures))[:3]]
    if outcome.broken or outcome.killed != killed:
        problems.append(f"{outcome.broken} workers broke, {outcome.killed} were killed")
    return problems


# --------------------------------------------------------------------------------------------------------- rolling on


def rolling(world: World, processes: int, lifetimes: int, kind: str = "redis") -> Row:
    """Calls all the time, over many lifetimes of a token: one exchange each."""
    with stores(world, (kind,)) as each:
        ((_, store),) = each
        outcome = _steady(world, processes, store, lifetimes * LIFETIME, lambda: None)
    return _rolled(world, f"rolling, {_NAMES[kind]}", processes, outcome, shared=True)


def _steady(
    world: World, processes: int, store: str | None, span: float, events: Callable[[], None], **orders: Any
) -> Outcome:
    world.lifetime = LIFETIME
    try:
        fleet = world.fleet(processes, store, seconds=span, every=max(processes / 200, 0.1), **orders)
        fleet.let_go()
        thread = threading.Thread(target=events)
        thread.start()
        outcome = fleet.outcome()
        thread.join()
        return outcome
    finally:
        world.lifetime = 3600


def _rolled(world: World, scene: str, processes: int, outcome: Outcome, *, shared: bool) -> Row:
    times = sorted(world.issued_at)
    problems = _problems(outcome)
    # A token is fetched ahead at three quarters of its life, so that is how often an exchange may come.
    crowd = max(sum(start <= other < start + EARLIEST * LIFETIME - 1.2 for other in times) for start in times)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    if shared and crowd > 1:
        shown = ", ".join(f"{gap:.1f}" for gap in gaps)
        problems.append(
            f"{crowd} exchanges within one lifetime (gaps: {shown}; the endpoint failed: {outcome.troubles})"
        )
    cells = {
        "calls": str(len(outcome.waits)),
        "calls failed": str(len(outcome.failures)),
        "exchanges": str(len(times)),
        "most in one lifetime": str(crowd),
        "mean gap between exchanges": seconds(statistics.mean(gaps)) if gaps else "–",
        "worst wait": seconds(max(outcome.waits)),
    }
    return Row(scene, processes, cells, tuple(problems))


# ------------------------------------------------------------------------------------------------------------- trouble


def redis_dies(world: World, processes: int, span: float) -> Row:
    """Redis is killed, and started again with nothing in it."""
    with redis_server() as server:

        def events() -> None:
            time.sleep(span / 4)
            server.stop()
            time.sleep(span / 4)
            server.start()

        outcome = _steady(world, processes, server.url, span, events, timeout=1.0)
    return _rolled(world, "Redis killed, and restarted empty", processes, outcome, shared=False)


def redis_hangs(world: World, processes: int, span: float) -> Row:
    """Redis takes connections and says nothing (SIGSTOP)."""
    with redis_server() as server:

        def events() -> None:
            time.sleep(span / 4)
            server.signal(signal.SIGSTOP)
            time.sleep(span / 4)
            server.signal(signal.SIGCONT)

        outcome = _steady(world, processes, server.url, span, events, timeout=1.0)
    return _rolled(world, "Redis hangs", processes, outcome, shared=False)


def line_cut(world: World, processes: int, span: float) -> Row:
    """The network to Redis is cut: its port closed, every connection reset."""
    with redis_server() as server:
        line = Line(server.port)

        def events() -> None:
            time.sleep(span / 4)
            line.cut()
            time.sleep(span / 4)
            line.mend()

        outcome = _steady(world, processes, f"redis://127.0.0.1:{line.port}", span, events, timeout=1.0)
        line.cut()
    return _rolled(world, "network to Redis cut, and mended", processes, outcome, shared=False)


def never_there(world: World, processes: int) -> Row:
    """Redis was never there: what a first call waits for."""
    with redis_server() as server:
        pass
    fleet = world.fleet(processes, server.url, timeout=1.0)
    fleet.let_go()
    return _started("Redis is not there", processes, fleet.outcome(), len(world.issued_at), processes)


def disk_full(world: World, processes: int, span: float) -> Row | None:
    """The disk with the directory is full for a while; `None` without the right to mount one."""
    with small_disk(Path(world.folder) / "disk") as disk:
        if disk is None:
            return None

        def events() -> None:
            time.sleep(span / 4)
            fill(disk)
            time.sleep(span / 4)
            (disk / "filler").unlink()

        outcome = _steady(world, processes, str(disk / "tokens"), span, events, timeout=1.0)
    return _rolled(world, "disk full, and freed", processes, outcome, shared=False)


def load_on_redis(world: World, processes: int, span: float) -> Row:
    """What Redis is asked while calls are made: nothing but for the refreshes."""
    world.lifetime = 3600
    with redis_server() as server:
        fleet = world.fleet(processes, server.url, seconds=span, every=0.05)
        commands: list[int] = []

        def watch() -> None:
            time.sleep(span / 2)
            commands.append(_commands(server))
            time.sleep(span / 4)
            commands.append(_commands(server))

        fleet.let_go()
        thread = threading.Thread(target=watch)
        thread.start()
        outcome = fleet.outcome()
        thread.join()
    asked = commands[1] - commands[0] - 2  # our own questions
    problems = _problems(outcome) + ([f"Redis was asked {asked} times"] if asked > 0 else [])
    cells = {
        "calls": str(len(outcome.waits)),
        "calls failed": str(len(outcome.failures)),
        "exchanges": str(len(world.issued_at)),
        "most in one lifetime": str(len(world.issued_at)),
        "mean gap between exchanges": "–",
        "worst wait": seconds(max(outcome.waits)),
    }
    return Row(f"calls only: Redis commands meanwhile: {max(asked, 0)}", processes, cells, tuple(problems))


def _commands(server: RedisServer) -> int:
    import redis

    with redis.Redis(port=server.port) as client:
        return int(client.info("stats")["total_commands_processed"])
