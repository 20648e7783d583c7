"""What the report is made of: tables of variants against a floor, and whether each goal is met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import pyperf

from benchmarks import stats
from benchmarks.loop import Role, Samples
from benchmarks.stats import Estimate, Statistic

#: The floor against itself may be off by so much; a table where it is more shows nothing.
AA_WITHIN = 0.01

Kind = Literal["ratio", "difference", "value"]


@dataclass(frozen=True)
class Goal:
    """What a variant should come to.

    Args:
        limit: the bound.
        kind: of its ratio to the floor, of its difference to it, or of the value itself.
        at_least: the bound is below, not above.
    """

    limit: float
    kind: Kind = "ratio"
    at_least: bool = False

    def met_by(self, estimate: Estimate) -> bool:
        """Whether the interval does not exclude it."""
        return estimate.high >= self.limit if self.at_least else estimate.low <= self.limit


@dataclass
class Row:
    """One variant in a table. `value` is in the table's unit; the estimates are ratios, or as its goal says."""

    name: str
    role: str
    value: float | None
    spread: float | None = None
    ratio: Estimate | None = None
    goal: Goal | None = None
    judged: Estimate | None = None
    note: str = ""


@dataclass
class Table:
    """Variants against their floor. `unit` names what `value` is in; `factor` made it so."""

    key: str
    title: str
    unit: str
    rows: list[Row]
    samples: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def again(self) -> Row | None:
        """The A/A row."""
        return next((row for row in self.rows if row.role == "A/A"), None)

    @property
    def steady(self) -> bool:
        """Whether the floor against itself came out as itself."""
        row = self.again
        return row is not None and row.ratio is not None and abs(row.ratio.value - 1) <= AA_WITHIN

    def verdict(self, row: Row) -> str:
        """What to say about a row with a goal."""
        if row.goal is None or row.judged is None:
            return ""
        if not row.goal.met_by(row.judged):
            return "missed" if self.steady else "missed (A/A off)"
        return "met" if self.steady else "not shown: A/A off"


@dataclass
class Grid:
    """A table of plain facts, with checks that are yes or no."""

    key: str
    title: str
    columns: list[str]
    rows: list[list[str]]
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass
class Check:
    """One line of the summary."""

    what: str
    goal: str
    measured: str
    verdict: str


@dataclass
class Result:
    """What a job has found: tables, grids, and series of numbers for the plots."""

    tables: list[Table] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)
    benchmarks: list[pyperf.Benchmark] = field(default_factory=list)


def compare(
    key: str,
    title: str,
    samples: Sequence[Samples],
    goals: Mapping[str, Goal] | None = None,
    *,
    unit: str = "µs",
    factor: float = 1e6,
    statistic: Statistic = stats.median,
    throughput: bool = False,
    notes: Sequence[str] = (),
) -> Table:
    """A table out of the samples of a loop.

    Args:
        key: names its files.
        title: names it for people.
        samples: of all variants; one has the role `floor`.
        goals: by variant.
        unit: what values are shown in.
        factor: from the samples' unit to that.
        statistic: what is compared.
        throughput: samples are seconds, but shown and compared as their inverse.
        notes: shown below the table.
    """
    floor = next(each for each in samples if each.role == "floor")
    rows = [_row(each, floor, (goals or {}).get(each.name), statistic, factor, throughput) for each in samples]
    return Table(key, title, unit, rows, samples=len(floor.values), notes=list(notes))


def among(samples: Sequence[Samples], roles: Mapping[str, Role]) -> list[Samples]:
    """Some of the samples of a loop, to be compared with another floor; by name, what each is compared as."""
    chosen = {each.name: each for each in samples}
    return [replace(chosen[name], role=role) for name, role in roles.items()]


#: What an interceptor of ours may take of the time, and of the client's CPU, of a plain one.
_INTERCEPTORS = Goal(1.03), Goal(1.06)


def interceptors(
    key: str, title: str, wall: Sequence[Samples], cpu: Sequence[Samples], roles: Mapping[str, Role]
) -> list[Table]:
    """Ours against a plain one, which adds a header that never changes: time and client CPU."""
    ours = [name for name, role in roles.items() if role == "ours"]
    return [
        compare(f"{key}-among-{kind}", f"{title}, {what}", among(samples, roles), dict.fromkeys(ours, goal))
        for kind, what, samples, goal in zip(
            ("wall", "cpu"), ("wall time", "client CPU"), (wall, cpu), _INTERCEPTORS, strict=True
        )
    ]


def _row(
    each: Samples, floor: Samples, goal: Goal | None, statistic: Statistic, factor: float, throughput: bool
) -> Row:
    kept = stats.held(each)
    value = float(kept.median()) if statistic is stats.median else float(statistic(kept.get_values()))
    spread = float(kept.median_abs_dev())
    ratio = None if each is floor else stats.ratio(each, floor, statistic, inverse=throughput)
    judged = ratio
    if goal is not None and goal.kind == "difference":
        judged = _times(stats.difference(each, floor, statistic), factor)
    elif goal is not None and goal.kind == "value":
        judged = _times(stats.alone(each, statistic), factor)
    shown = 1 / value * factor if throughput else value * factor
    return Row(each.name, each.role, shown, spread / value, ratio, goal, judged if goal else None)


def _times(estimate: Estimate, factor: float) -> Estimate:
    return Estimate(estimate.value * factor, estimate.low * factor, estimate.high * factor)


def to_json(result: Result) -> dict[str, Any]:
    """All but the samples themselves."""
    tables = [{**asdict(table), "steady": table.steady} for table in result.tables]
    return {"tables": tables, "grids": [asdict(grid) for grid in result.grids], "series": result.series}


def from_json(data: Mapping[str, Any]) -> Result:
    """The way back."""
    tables = []
    for entry in data["tables"]:
        rows = [
            Row(
                **{
                    **row,
                    "ratio": _estimate(row["ratio"]),
                    "judged": _estimate(row["judged"]),
                    "goal": None if row["goal"] is None else Goal(**row["goal"]),
                }
            )
            for row in entry["rows"]
        ]
        tables.append(Table(**{**{k: v for k, v in entry.items() if k != "steady"}, "rows": rows}))
    grids = [Grid(**{**entry, "checks": [Check(**check) for check in entry["checks"]]}) for entry in data["grids"]]
    return Result(tables, grids, data["series"])


def _estimate(data: Mapping[str, float] | None) -> Estimate | None:
    return None if data is None else Estimate(**data)


def checks(result: Result) -> list[Check]:
    """All goals of a result, each as a line."""
    found = []
    for table in result.tables:
        for row in table.rows:
            if row.goal is not None and row.judged is not None:
                what = f"{table.title}: {row.name}"
                found.append(Check(what, goal_text(row.goal, table), judged_text(row, table), table.verdict(row)))
    return found + [check for grid in result.grids for check in grid.checks]


def goal_text(goal: Goal, table: Table) -> str:
    sign, unit = "≥" if goal.at_least else "≤", "" if goal.kind == "ratio" else f" {table.unit}"
    return f"{sign} {goal.limit:g}{unit}{' more' if goal.kind == 'difference' else ''}"


def judged_text(row: Row, table: Table) -> str:
    assert row.judged is not None
    if row.goal is not None and row.goal.kind == "ratio":
        return interval_text(row.judged)
    return f"{row.judged.value:.3g} {table.unit} ({row.judged.low:.3g} – {row.judged.high:.3g})"


def interval_text(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} – {estimate.high:.3f})"
