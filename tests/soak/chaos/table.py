"""The run, to read: one column for ours, one for each control."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.judge import CAPS, Verdict

#: Rows that must be zero for ours, and above zero for at least one control.
ZEROS = ("avoidable failures", "requests lost, doubled or altered", "nonces repeated", "secrets found")
#: Rows that must be zero for ours, and which no control is known to break.
PLAIN_ZEROS = ("calls past their deadline",)


@dataclass
class Report:
    """What the run has shown. `problems`: why it failed; empty: it did not."""

    seed: int
    seconds: float
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    stalled: float = 0.0
    broken: Sequence[str] = ()
    over_cap: Sequence[str] = ()

    @property
    def problems(self) -> list[str]:
        """Why the run fails."""
        found = [f"the run itself: {each}" for each in self.broken]
        for row in (*ZEROS, *PLAIN_ZEROS):
            if self.rows[row]["ours"]:
                found.append(f"{row}: {self.rows[row]['ours']}, and 0 is right")
        for row in ZEROS:
            if not any(value for who, value in self.rows[row].items() if who != "ours"):
                found.append(f"{row}: no control is above 0, so our 0 shows nothing")
        return found + [f"over its cap: {each}" for each in self.over_cap]

    def as_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "stalled": round(self.stalled, 2),
            "rows": self.rows,
            "faults": dict(self.faults),
            "problems": self.problems,
            "ok": not self.problems,
        }


def rows(
    verdicts: Mapping[str, Verdict], exchanges: Mapping[str, str], secrets: Mapping[str, int]
) -> dict[str, dict[str, Any]]:
    def row(value: Any) -> dict[str, Any]:
        return {who: value(who, verdict) for who, verdict in verdicts.items()}

    return {
        "calls": row(lambda _, verdict: verdict.calls),
        "answered": row(lambda _, verdict: verdict.answered),
        "avoidable failures": row(lambda _, verdict: len(verdict.avoidable)),
        **{f"excused: {what}": row(lambda _, verdict: verdict.excused[what]) for what in CAPS},  # noqa: B023
        "requests lost, doubled or altered": row(lambda _, verdict: len(verdict.mangled)),
        "nonces repeated": row(lambda _, verdict: verdict.repeated),
        "token exchanges (least possible)": row(lambda who, _: exchanges.get(who, "")),
        "longest wait, s": row(lambda _, verdict: round(verdict.longest, 1)),
        "calls past their deadline": row(lambda _, verdict: len(verdict.late)),
        "secrets found": row(lambda who, _: secrets.get(who, 0)),
    }


def text(report: Report) -> str:
    columns = list(report.rows["calls"])
    width = max(len(name) for name in report.rows) + 2
    lines = [
        f"seed {report.seed}, {report.seconds:g} s; the machine stood still for {report.stalled:.1f} s at most",
        "",
    ]
    lines.append(" " * width + "".join(f"{name:>16}" for name in columns))
    for name, values in report.rows.items():
        lines.append(f"{name:<{width}}" + "".join(f"{_cell(values[column]):>16}" for column in columns))
    lines += ["", "what went wrong meanwhile:"]
    lines += [f"{count:>7,}  {what}" for what, count in sorted(report.faults.items())]
    if report.details:
        lines += ["", *report.details]
    lines += (
        ["", *(f"FAILED  {problem}" for problem in report.problems)] if report.problems else ["", "all as it should be"]
    )
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)
