"""`python tests/soak/chaos/run.py --seed N --seconds S [--json]`: see the package. Exits with 0 if all is right."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # core tells of each GOAWAY
    sys.path[:0] = map(str, Path(__file__).parents[1:3])  # this package, and what all tests share

from chaos import controls, leaks, lines, script
from chaos.faults import Conductor, Log
from chaos.forks import Forks
from chaos.judge import Evidence, Judge, Verdict, exchanges_of, least_exchanges, repeated_nonces
from chaos.leaks import Capture
from chaos.lines import Line, Member
from chaos.load import REST, Ended, Results, Worker, loop_thread, threads
from chaos.table import Report, rows, text
from chaos.world import HOUR, OPENFX, SHORT, SteppingClock, World, all_tokens

CALLERS, LOOPS, TASKS = 16, 2, 8  # 32 workers in all
# After the last event, workers may take so long to come to their end; then something hangs, in seconds.
_PATIENCE = 40.0
# Until the channels have connected, nothing goes wrong; for so many seconds at most.
_WARMING = 5.0
_TOLD = 12
_BEAT = 0.02
CAST = script.Cast(
    revocable=lines.REVOCABLE,
    controls=controls.NAMES,
    files=("crm-raw", "crm-link", "crm-json"),
    keys=lines.KEYED,
    clocks=lines.CLOCKED,
    servers=("bear", "opaque", "skykit"),
)


@dataclass
class Played:
    """All that is left of a run."""

    began: float
    ended: float
    calls: list[Ended]
    log: Log
    stalled: float = 0.0
    broken: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


class Pulse(threading.Thread):
    """Looks how late it is woken: on a machine that stands still, no deadline says anything of the library."""

    def __init__(self) -> None:
        super().__init__(name="pulse", daemon=True)
        self._stop_it = threading.Event()
        self._latest = 0.0

    def run(self) -> None:
        while not self._stop_it.is_set():
            began = time.monotonic()
            self._stop_it.wait(_BEAT)
            self._latest = max(self._latest, time.monotonic() - began - _BEAT)

    def stop(self) -> float:
        """The longest delay, in seconds."""
        self._stop_it.set()
        self.join()
        return self._latest


def run(seed: int, seconds: float, directory: Path) -> Report:
    """Play, then judge."""
    capture = Capture()
    with _trusting(directory), World(directory, seed, (*lines.BEAR, *controls.NAMES)) as world, capture.listening():
        played = _play(world, seed, seconds, capture)
        time.sleep(0.5)  # what was cut off reaches the ledgers
    return _judged(world, played, Report(seed, seconds))


@contextlib.contextmanager
def _trusting(directory: Path) -> Iterator[None]:
    """google-auth's transport has no other way to be told of an authority."""
    before = os.environ.get("REQUESTS_CA_BUNDLE")
    os.environ["REQUESTS_CA_BUNDLE"] = str(directory / "ca.pem")
    try:
        yield
    finally:
        if before is None:
            del os.environ["REQUESTS_CA_BUNDLE"]
        else:
            os.environ["REQUESTS_CA_BUNDLE"] = before


def _play(world: World, seed: int, seconds: float, capture: Capture) -> Played:
    clocks = {name: SteppingClock() for name in lines.CLOCKED}
    conductor = Conductor(world, script.write(seed, seconds, CAST), clocks, seed)
    members = lines.members(world, clocks)
    results, stop, began = Results(capture), threading.Event(), time.time()
    pulse = Pulse()
    pulse.start()
    forks = Forks(world.directory, _fork_config(world, seed))
    with lines.closing(members):
        sync = list(lines.lines(world, members, asynchronous=False))
        workers = _workers(world, members, sync, results, stop, seed)
        for worker in workers:
            worker.start()
        warm = time.monotonic() + _WARMING
        while len(results.calls) < len(sync) and time.monotonic() < warm:
            time.sleep(0.05)
        conductor.start()
        time.sleep(seconds)
        stop.set()
        stalled = pulse.stop()
        conductor.stop()
        until = time.monotonic() + _PATIENCE
        for worker in workers:
            worker.join(max(until - time.monotonic(), 0))
        hung = [f"{worker.name} hangs" for worker in workers if worker.is_alive()]
        if hung:
            faulthandler.dump_traceback(all_threads=True)
        texts = list(leaks.shown([*members, *(each.auth for each in members), *(each.stub for each in sync), *sync]))
    calls, seen, counted = forks.finish()
    conductor.log.done.update({f"forked: {what}": count for what, count in counted.items()})
    conductor.log.done["GOAWAY sent"] = sum(proxy.connections for proxy in world.proxies.values())
    broken = [*conductor.log.broken, *hung]
    calls += results.calls
    return Played(began, time.time(), calls, conductor.log, stalled, broken, [*texts, *seen, *capture.texts])


def _workers(
    world: World, members: Sequence[Member], sync: Sequence[Line], results: Results, stop: threading.Event, seed: int
) -> list[threading.Thread]:
    def worker(name: str, rest: float = REST) -> Any:
        return lambda number, made: Worker(f"{seed} {name} {number}", made, results, stop, rest)

    callers = threads([worker("sync")(number, sync) for number in range(CALLERS)])
    others = threads([worker(who, REST / 5)(0, made) for who, made in controls.lines(world).items()])
    loops = [
        loop_thread(
            TASKS,
            worker(f"loop {number}"),
            lambda turn=number + 1: list(lines.lines(world, list(members), asynchronous=True, turn=turn)),  # type: ignore[misc]
        )
        for number in range(LOOPS)
    ]
    return [*callers, *others, *loops]


def _fork_config(world: World, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "target": world.servers["bear"].target,
        "ca": str(world.ca_file),
        "url": world.bear_url,
        "credentials": str(world.tenants["bear-fork"].path),
    }


# ------------------------------------------------------------------------------------------------------ what it showed


def _judged(world: World, played: Played, report: Report) -> Report:
    attempts = [attempt for server in world.servers.values() for attempt in server.ledger]
    judge = Judge(Evidence(attempts, world.tokens.exchanges, world.asked, played.log.windows))
    by_who: dict[str, list[Ended]] = defaultdict(list)
    for call in played.calls:
        by_who[call.who].append(call)
    verdicts = {who: judge.verdict(by_who[who]) for who in ("ours", *(name.split()[-1] for name in controls.NAMES))}
    repeated = repeated_nonces(attempts)
    verdicts["ours"].repeated, verdicts["naive"].repeated = repeated[OPENFX["ours"]], repeated[OPENFX["naive"]]
    for owner, token in all_tokens(world):
        world.own(owner, token)
    leaked = leaks.found(played.texts, world.secrets)
    report.rows = rows(verdicts, _exchanges(world, played), {who: len(texts) for who, texts in leaked.items()})
    report.stalled = played.stalled
    report.faults, report.broken = played.log.done, played.broken
    report.over_cap = verdicts["ours"].over_cap(_failing(played))
    report.details = _details(verdicts["ours"], leaked.get("ours", []), played)
    return report


def _failing(played: Played) -> float:
    """That part of the run in which the token endpoint failed."""
    failed = [window for window in played.log.windows if window.target == "endpoint" and window.ended]
    return sum((window.ended or 0) - window.began for window in failed) / (played.ended - played.began)


def _exchanges(world: World, played: Played) -> dict[str, str]:
    """Exchanges that gave a token, the least possible in brackets; then those that failed."""
    made = exchanges_of(world.tokens.exchanges, world.asked)
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    midway = [each.received_at for each in world.servers["midway"].ledger if each.reason.startswith("scripted")]
    for name, (good, failed) in made.items():
        if name == "bear-fork" or not name:
            continue  # a process of its own has a token of its own, and there are many
        who = name.split()[-1] if name.startswith("control") else "ours"
        revoked = midway if name == "midway" else [when for what, when in played.log.revoked if what == name]
        lifetime = SHORT if "short" in name else HOUR
        answered = [(call.began, call.ended) for call in played.calls if call.auth == name and call.ok]
        totals[who]["least"] += least_exchanges(answered, lifetime, revoked)
        totals[who]["good"] += good
        totals[who]["failed"] += failed
    return {who: f"{each['good']} ({each['least']}) +{each['failed']}" for who, each in totals.items()}


def _details(ours: Verdict, leaked: Sequence[str], played: Played) -> list[str]:
    """The first of what should not be, and what was wrong at the time."""
    kinds = Counter(f"{call.auth} {call.code}" for call in ours.avoidable)
    details = [f"avoidable, {count:,} times: {what}" for what, count in kinds.most_common()]
    details += [f"avoidable: {_told(call, played)}" for call in ours.avoidable[:_TOLD]]
    details += [f"mangled: {what}" for what in ours.mangled[:_TOLD]]
    details += [
        f"{call.ended - call.deadline:.1f} s past its deadline: {_told(call, played)}" for call in ours.late[:_TOLD]
    ]
    return details + [f"secret in: {what}" for what in leaked[:_TOLD]]


def _told(call: Ended, played: Played) -> str:
    began = played.began
    near = [
        f"{window.what} {window.target} {window.began - began:.2f}-{(window.ended or played.ended) - began:.2f}"
        for window in played.log.windows
        if window.meets(call.began, call.ended, after=5.0)
    ]
    revoked = [f"{when - began:.2f}" for name, when in played.log.revoked if name == call.auth]
    mode = ("patient " if call.patient else "") + ("aio." if call.asynchronous else "")
    return (
        f"{call.auth} {mode}{call.way}, {call.job.kind} of {call.job.count}: {call.code} {call.error}"
        f" [{call.began - began:.2f}-{call.ended - began:.2f} of {call.deadline - call.began:g} s;"
        f" meanwhile: {', '.join(near) or '-'}; its revocations: {', '.join(revoked[-6:]) or '-'}]"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="faults all around, and the server's ledger as the judge")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--json", action="store_true", help="the table as JSON")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as directory:
        report = run(given.seed, given.seconds, Path(directory))
    print(json.dumps(report.as_json(), indent=2) if given.json else text(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
