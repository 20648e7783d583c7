"""`python -m benchmarks`: run the jobs one after another, each in a process of its own, and write the report.

A run that was interrupted goes on where it stopped: what is done stands in `build/bench/`, as JSON beside pyperf's own
files (`python -m pyperf stats build/bench/unary.pyperf.json.gz`). A run that came to its end is begun anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import face, machine, report, tables
from benchmarks.jobs import NAMES, Scale, job
from benchmarks.tables import Result

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "benchmarks" / "report"
#: How long one job may take, in seconds, before it is given up.
PATIENCE = 420


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 if every job has run; goals that are missed are for the report to say."""
    chosen = _parser().parse_args(argv)
    if chosen.job:
        _run_job(chosen.job, Scale(chosen.scale), chosen.work)
        return 0
    names = [name for name in NAMES if not chosen.only or name in chosen.only]
    began, facts = time.monotonic(), machine.facts() | {"scale": f"{chosen.scale:g}"}
    _prepare(chosen.work, facts, fresh=chosen.fresh)
    failed = {}
    for number, name in enumerate(names, 1):
        done = chosen.work / f"{name}.json"
        print(f"[{number}/{len(names)}] {name}: ", end="", flush=True)
        if done.exists():
            print("done before")
            continue
        start = time.monotonic()
        why = _in_a_process(name, chosen.scale, chosen.work)
        print(why or f"{time.monotonic() - start:.0f} s", flush=True)
        if why:
            failed[name] = why
    results = {name: _read(chosen.work / f"{name}.json") for name in names if (chosen.work / f"{name}.json").exists()}
    facts |= {"load at the start": json.loads((chosen.work / "run.json").read_text("utf-8"))["load"]}
    report.write(chosen.out, results, facts, failed)
    if chosen.out == REPORT:
        face.write_into(ROOT / "README.md", results, facts)
    _summary(results, chosen.out, time.monotonic() - began)
    if not failed and not chosen.only:
        (chosen.work / "finished").touch()
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").partition(":")[2].strip())
    parser.add_argument("--only", action="append", choices=NAMES, help="this part; may be given several times")
    parser.add_argument("--scale", type=float, default=1.0, help="1: the report's; 0: the least that runs at all")
    parser.add_argument("--fresh", action="store_true", help="forget what an interrupted run has left")
    parser.add_argument("--out", type=Path, default=REPORT, help="where the report goes")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench", help="where samples are kept")
    parser.add_argument("--job", choices=NAMES, help=argparse.SUPPRESS)
    return parser


def _prepare(work: Path, facts: dict[str, str], *, fresh: bool) -> None:
    """Go on with what is there if it is of the same code, machine and scale, and was not finished."""
    same = {key: value for key, value in facts.items() if key != "taken"}
    run = work / "run.json"
    going_on = run.exists() and json.loads(run.read_text("utf-8"))["facts"] == same
    if fresh or not going_on or (work / "finished").exists():
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        run.write_text(json.dumps({"facts": same, "load": machine.load()}), "utf-8")


def _in_a_process(name: str, scale: float, work: Path) -> str:
    """Run a job; empty, or why there is no result."""
    command = [sys.executable, "-m", "benchmarks", "--job", name, "--scale", str(scale), "--work", str(work)]
    with open(work / f"{name}.log", "w", encoding="utf-8") as log:
        try:
            code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, timeout=PATIENCE, check=False).returncode
        except subprocess.TimeoutExpired:
            return f"FAILED: no end after {PATIENCE} s"
    lines = (work / f"{name}.log").read_text("utf-8").strip().splitlines()
    return f"FAILED: {lines[-1] if lines else f'exit code {code}'}" if code else ""


def _run_job(name: str, scale: Scale, work: Path) -> None:
    """In the job's own process."""
    import pyperf

    result = job(name)(scale)
    if result.benchmarks:
        named: dict[str, pyperf.Benchmark] = {}
        for number, benchmark in enumerate(result.benchmarks):
            benchmark.update_metadata({"name": f"{number:02}: {benchmark.get_name()}"})
            named[benchmark.get_name()] = benchmark
        pyperf.BenchmarkSuite(list(named.values())).dump(str(work / f"{name}.pyperf.json.gz"), replace=True)
    part = work / f"{name}.json.part"
    part.write_text(json.dumps(tables.to_json(result)), "utf-8")
    part.rename(work / f"{name}.json")


def _read(path: Path) -> Result:
    return tables.from_json(json.loads(path.read_text("utf-8")))


def _summary(results: dict[str, Result], out: Path, seconds: float) -> None:
    print()
    for check in report.all_checks(results):
        print(f"{check.verdict:20} {check.what}: {check.measured} (goal {check.goal})")
    print(
        f"\n{seconds / 60:.1f} minutes; the report is in {out.relative_to(ROOT) if out.is_relative_to(ROOT) else out}"
    )


if __name__ == "__main__":
    sys.exit(main())
