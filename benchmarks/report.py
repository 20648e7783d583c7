"""The report: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import face, plots, reasons, tables
from benchmarks.tables import Check, Grid, Result, Row, Table, interval_text

TITLES = {
    "unary": "Sync unary calls",
    "future": "`.future()`",
    "threads": "Sixteen threads",
    "asyncio_unary": "asyncio unary calls",
    "streams": "Streams",
    "runtimes": "Other runtimes",
    "lookup": "The token lookup alone",
    "signing": "Signing",
    "openfx": "A whole OpenFX call",
    "opening": "Opening a channel",
    "cold_start": "Cold start",
    "refresh": "Calls during a refresh ahead",
    "renewal": "Fetching a token after a pause",
    "many_auths": "Many auths in one process",
    "retry": "The retry policy",
    "import_time": "Import time",
}
_PLOTS = {
    "unary": "doors.svg",
    "asyncio_unary": "aio-doors.svg",
    "refresh": "refresh.svg",
    "cold_start": "waiting.svg",
    "many_auths": "auths.svg",
}
_HOW = """\
Each table comes from one small loop that shuffles the variants call by call; the server runs in another process; client
CPU is that of the client's process, all threads together. Values are medians (± is the median absolute deviation,
relative). Ratios are to the table's floor: the median of those of single rounds, in which all variants had the same
luck, with a 95 % bootstrap interval over rounds. **A/A** is the floor against itself: if it is off by more than 1 %,
the table shows nothing. A goal is met if the interval does not exclude it.
"""


def write(folder: Path, results: Mapping[str, Result], facts: Mapping[str, str], failed: Mapping[str, str]) -> None:
    """Everything into the folder; what an older report left there goes."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.svg"), *folder.glob("*.md"), *folder.glob("*.json")]:
        old.unlink()
    drawn = plots.draw(folder, results)
    found = {name: tables.to_json(result) for name, result in results.items()}
    data: dict[str, Any] = {"machine": facts, "results": found}
    data |= {"failed": dict(failed), "checks": [vars(check) for check in all_checks(results)]}
    (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n", "utf-8")
    (folder / "README.md").write_text(markdown(results, facts, failed, drawn), "utf-8")


def all_checks(results: Mapping[str, Result]) -> list[Check]:
    """Every goal, in order."""
    return [check for result in results.values() for check in tables.checks(result)]


def markdown(
    results: Mapping[str, Result], facts: Mapping[str, str], failed: Mapping[str, str], drawn: Sequence[str]
) -> str:
    """The whole report as text: what is asked first, and below it everything, folded."""
    checks = all_checks(results)
    met = sum(check.verdict == "met" for check in checks)
    parts = ["# What auth costs a call\n"]
    parts += [f"![Ways to attach a token]({face.PLOT})\n"] if face.PLOT in drawn else []
    parts += [face.markdown(results, facts), "To repeat it: `make bench`, under fifteen minutes on two cores.\n"]
    parts += [f"**{name} failed:** {why}\n" for name, why in failed.items()]
    goals = _grid(["what", "goal", "measured", "verdict"], _lines(checks))
    parts += ["## Everything that was measured\n", _HOW, _folded(f"The goals: {met} of {len(checks)} met", [goals])]
    why = reasons.section(checks, reasons.read())
    parts += [_folded("Why goals are missed", why)] if why else []
    for name, result in results.items():
        shown = [f"![{TITLES[name]}]({_PLOTS[name]})\n"] if _PLOTS.get(name) in drawn else []
        shown += [_table(table) for table in result.tables] + [_facts(grid) for grid in result.grids]
        parts.append(_folded(TITLES[name], shown))
    parts.append(_folded("Machine and versions", [_grid(["", ""], [[key, value] for key, value in facts.items()])]))
    return "\n".join(parts)


def _folded(title: str, parts: Sequence[str]) -> str:
    """Something long under its title. No headings inside: a section cannot begin in one fold and end in another."""
    summary = re.sub("`(.*?)`", r"<code>\1</code>", title)
    return f"<details>\n<summary>{summary}</summary>\n\n{chr(10).join(parts)}\n</details>\n"


def _lines(checks: Sequence[Check]) -> list[list[str]]:
    def marked(verdict: str) -> str:
        return verdict if verdict == "met" else f"**{verdict}**"

    return [[check.what, check.goal, check.measured, marked(check.verdict)] for check in checks]


def _table(table: Table) -> str:
    judged = any(row.goal for row in table.rows)
    columns = ["", table.unit, "ratio (95 %)", *(["goal"] if judged else [])]
    rows = [_row(table, row)[: len(columns)] for row in table.rows]
    notes = "".join(f"\n{note}\n" for note in [f"{table.samples:,} samples of the floor.", *table.notes])
    return f"**{table.title}**\n\n{_grid(columns, rows)}{notes}"


def _row(table: Table, row: Row) -> list[str]:
    value = "" if row.value is None else number(row.value)
    value += "" if row.spread is None else f" ± {100 * row.spread:.0f} %"
    ratio = "1" if row.role == "floor" else "" if row.ratio is None else interval_text(row.ratio)
    goal = "" if row.goal is None else f"{tables.goal_text(row.goal, table)}: {table.verdict(row)}"
    name = {"ours": f"**{row.name}**", "peer": row.name}.get(row.role, f"{row.name} ({row.role})")
    return [name, value, ratio, goal]


def number(value: float) -> str:
    """Three digits that mean something, whatever the size."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _facts(grid: Grid) -> str:
    return f"**{grid.title}**\n\n{_grid(grid.columns, grid.rows)}" + "".join(f"\n{note}\n" for note in grid.notes)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
