"""Why a goal is missed: the prose of `reasons.md`, for the rows that need it.

There each heading is a pattern (`fnmatch` rules) over the rows of the report's first table, and the text below it is
what is known of those rows. Rows that are met are not excused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.tables import Check

FILE = Path(__file__).with_suffix(".md")


def read(file: Path = FILE) -> dict[str, str]:
    """Text by pattern."""
    if not file.exists():
        return {}
    parts = file.read_text("utf-8").split("\n## ")[1:]
    return {head.strip(): text.strip() for head, _, text in (part.partition("\n") for part in parts)}


def section(checks: Sequence[Check], known: Mapping[str, str]) -> list[str]:
    """The report's section, in pieces; none if nothing is missed."""
    missed = [check for check in checks if check.verdict.startswith("missed")]
    return [f"**{check.what}** {_reason(check, known)}\n" for check in missed]


def _reason(check: Check, known: Mapping[str, str]) -> str:
    measured = f"({check.measured}, goal {check.goal}):"
    texts = [text for pattern, text in known.items() if fnmatchcase(check.what, pattern)]
    return f"{measured} {' '.join(texts) or 'not explained yet; the place for it is `benchmarks/reasons.md`.'}"
