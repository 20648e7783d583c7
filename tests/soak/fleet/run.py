"""`python tests/soak/fleet/run.py [--processes 200] [--lifetimes 10] [--out FILE]`: see the package.

Exits with 0 if all is right.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = map(str, Path(__file__).parents[1:3])  # this package, and what all tests share

from fleet import scenes
from fleet.scenes import Row
from fleet.world import World


def run(processes: int, lifetimes: int, folder: Path, say: Callable[[str], None] = print) -> list[list[Row]]:
    """The rows of both tables."""
    few, span = max(processes // 10, 2), 4.0 * scenes.LIFETIME
    starts: list[Callable[[World], Any]] = [
        lambda world: scenes.together(world, processes),
        lambda world: scenes.killed_holder(world, processes),
        lambda world: scenes.never_there(world, few),
    ]
    days: list[Callable[[World], Any]] = [
        *(
            lambda world, size=size: scenes.rolling(world, size, lifetimes)
            for size in sorted({max(processes // 20, 2), max(processes // 2, 2), processes})
        ),
        lambda world: scenes.rolling(world, processes, lifetimes, "files"),
        lambda world: scenes.load_on_redis(world, few, 8.0),
        lambda world: scenes.redis_dies(world, few, span),
        lambda world: scenes.redis_hangs(world, few, span),
        lambda world: scenes.line_cut(world, few, span),
        lambda world: scenes.disk_full(world, few, span),
    ]
    tables = []
    with World(folder) as world:
        for part in (starts, days):
            rows: list[Row] = []
            for scene in part:
                found = scene(world)
                new = [row for row in (found if isinstance(found, list) else [found]) if row is not None]
                for row in new:
                    say(
                        f"{row.scene}: {row.processes} processes; {row.cells}"
                        + "".join(f" !! {p}" for p in row.problems)
                    )
                rows += new
            tables.append(rows)
    return tables


def markdown(tables: Sequence[Sequence[Row]]) -> str:
    """Both tables."""
    lines: list[str] = []
    for rows in tables:
        heads = ["", "processes", *rows[0].cells]
        lines += ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
        lines += ["| " + " | ".join([row.scene, str(row.processes), *row.cells.values()]) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="One token for a fleet of processes.")
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--lifetimes", type=int, default=10, help="how many lifetimes of a token it rolls on")
    parser.add_argument("--out", type=Path, help="write the tables here, as Markdown")
    chosen = parser.parse_args(argv)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tables = run(chosen.processes, chosen.lifetimes, Path(folder), lambda text: print(text, flush=True))
    text = markdown(tables)
    print(f"\n{text}\n{os.cpu_count()} cores, Python {platform.python_version()}, {time.monotonic() - began:.0f} s")
    if chosen.out is not None:
        chosen.out.write_text(text, "utf-8")
    problems = [f"{row.scene}: {problem}" for rows in tables for row in rows for problem in row.problems]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
