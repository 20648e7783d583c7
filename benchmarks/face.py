"""What a user asks first, in five figures and one picture: the head of the report, and the README's part of it.

All of it is made of the report's own data. `into` puts it into a page between two marks, so that no figure there is
typed by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.jobs import asyncio_unary, cold_start, signing, unary
from benchmarks.tables import Result, Row, Table

#: Between these the figures stand in a page.
BEGIN, END = "<!-- figures: made by `make bench` -->", "<!-- end of the figures -->"
#: Calls that wait for one token, in the last figure; of what was measured, the nearest is shown.
WAITING = 1000

PLOT = "face.svg"
#: Ways to attach, in the order of the picture, as the unary tables name them.
WAYS = {
    unary.OURS: "grpc_bearer.secure_channel",
    unary.INTERCEPTOR: "grpc_bearer.interceptor",
    unary.PLAIN: "a plain interceptor",
    "bare AuthMetadataPlugin": "a bare AuthMetadataPlugin",
    unary.GOOGLE: "google-auth",
}


@dataclass(frozen=True)
class Figure:
    """One line: what is asked, what it is here, and what it is with others."""

    question: str
    ours: str
    others: str


def figures(results: Mapping[str, Result]) -> list[Figure]:
    """Those that there are data for."""
    found = [_call(results), _intercepted(results), _asyncio(results), _signature(results), _waiting(results)]
    return [figure for figure in found if figure is not None]


def markdown(results: Mapping[str, Result], facts: Mapping[str, str]) -> str:
    """The figures as a table, and what they were taken on; empty, if there are none."""
    chosen = figures(results)
    if not chosen:
        return ""
    lines = ["| what it costs | grpc-bearer | others |", "| --- | --- | --- |"]
    lines += [f"| {each.question} | **{each.ours}** | {each.others} |" for each in chosen]
    day, python = facts["taken"].partition(" ")[0], facts["Python"].rpartition(" ")[2]
    note = "Percent: more than the same call with a header written by hand takes; time, and CPU of the client. "
    note += f"Measured {day} with grpcio {facts['grpcio']} on Python {python}."
    return "\n".join([*lines, "", note, ""])


def into(page: str, text: str) -> str:
    """A page with this text between its marks.

    Raises:
        ValueError: it has no marks.
    """
    head, begin, rest = page.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for the figures: {BEGIN} … {END}")
    return f"{head}{BEGIN}\n\n{text}\n{END}{tail}"


def write_into(path: Path, results: Mapping[str, Result], facts: Mapping[str, str]) -> None:
    """The same to a file; as it is, where there is no figure."""
    text = markdown(results, facts)
    if text:
        path.write_text(into(path.read_text("utf-8"), text), "utf-8")


# ---------------------------------------------------------------------------------------------------- the figures


def _call(results: Mapping[str, Result]) -> Figure | None:
    ours, google = (_overhead(results, "unary", name) for name in (unary.OURS, unary.GOOGLE))
    return Figure("A call on our channel", ours, f"google-auth: {google}") if ours and google else None


def _intercepted(results: Mapping[str, Result]) -> Figure | None:
    ours, plain = (_overhead(results, "unary", name) for name in (unary.INTERCEPTOR, unary.PLAIN))
    if not ours or not plain:
        return None
    return Figure("A call through our interceptor", ours, f"a plain interceptor: {plain}")


def _asyncio(results: Mapping[str, Result]) -> Figure | None:
    names = asyncio_unary.OURS, asyncio_unary.GOOGLE, asyncio_unary.PLAIN
    ours, google, plain = (_overhead(results, "asyncio-1", name) for name in names)
    if not ours or not google or not plain:
        return None
    return Figure("An asyncio call", ours, f"google-auth: {google}; a plain interceptor: {plain}")


def _signature(results: Mapping[str, Result]) -> Figure | None:
    table = _table(results, "sign-es256")
    if table is None:
        return None
    rows = {row.name: row for row in table.rows}
    ours, theirs = rows.get(signing.OURS), next((row for name, row in rows.items() if "samples" in name), None)
    if ours is None or theirs is None or ours.ratio is None:
        return None
    text = f"{_number(ours.value)} µs, {ours.ratio.value:.2f} of the bare signature"
    return Figure("Signing an ES256 token", text, f"PyJWT, as services show it: {_number(theirs.value)} µs")


def _waiting(results: Mapping[str, Result]) -> Figure | None:
    series = results["cold_start"].series.get("cold_start", {}) if "cold_start" in results else {}
    ours, floor, google = (series.get(name) for name in (cold_start.OURS, cold_start.FLOOR, cold_start.GOOGLE))
    if not ours or not floor or not google:
        return None
    place = min(range(len(ours["sizes"])), key=lambda number: abs(ours["sizes"][number] - WAITING))
    calls = ours["sizes"][place]
    told = [_thousand(each, floor, place, calls) for each in (ours, google)]
    return Figure(f"{calls:,} calls that wait for one fetch", told[0], f"google-auth: {told[1]}")


def _thousand(each: Mapping[str, Any], floor: Mapping[str, Any], place: int, calls: int) -> str:
    threads, memory, least = (source[place] for source in (each["threads"], each["memory"], floor["memory"]))
    if threads is None or memory is None or least is None:
        return "did not end"
    more = max(memory - least, 0.0) * calls / 2**20
    return f"{threads:,} {'thread' if threads == 1 else 'threads'}, {more:.1f} MiB more than gRPC's own"


def _overhead(results: Mapping[str, Result], key: str, name: str) -> str:
    """Of a row, time and CPU over the header by hand; empty, if it was not measured."""
    wall, cpu = (_row(results, f"{key}-{kind}", name) for kind in ("wall", "cpu"))
    if wall is None or cpu is None or wall.ratio is None or cpu.ratio is None:
        return ""
    return f"+{_percent(wall.ratio.value)} %, CPU +{_percent(cpu.ratio.value)} %".replace("+-", "−")


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):.0f}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _table(results: Mapping[str, Result], key: str) -> Table | None:
    return next((table for result in results.values() for table in result.tables if table.key == key), None)


def _row(results: Mapping[str, Result], key: str, name: str) -> Row | None:
    table = _table(results, key)
    return None if table is None else next((row for row in table.rows if row.name == name), None)


# ---------------------------------------------------------------------------------------------------- the picture


def ways(results: Mapping[str, Result]) -> list[tuple[str, Row, Row]]:
    """What the picture shows: each way with its row of time and its row of CPU."""
    rows = [(text, _row(results, "unary-wall", name), _row(results, "unary-cpu", name)) for name, text in WAYS.items()]
    return [(text, wall, cpu) for text, wall, cpu in rows if wall is not None and cpu is not None]


def draw(figure: Any, chosen: Sequence[tuple[str, Row, Row]]) -> None:
    """Two bars a way, narrow enough for a phone."""
    axes = figure.subplots()
    for number, (text, wall, cpu) in enumerate(reversed(chosen)):
        ours = "grpc_bearer" in text
        for row, place, colour in ((wall, 0.08, "#0b6e4f"), (cpu, -0.24, "#7fc4a8")):
            shade = colour if ours else {"#0b6e4f": "#c8553d", "#7fc4a8": "#e8b0a3"}[colour]
            value = 100 * (row.ratio.value - 1) if row.ratio is not None else 0.0
            axes.barh(number + place, value, height=0.3, color=shade)
            label = f" {value:+.0f} % {'time' if row is wall else 'CPU'}"
            axes.text(max(value, 0), number + place, label, va="center", fontsize=8)
        axes.text(0, number + 0.32, text, fontsize=9, fontweight="bold" if ours else "normal")
    axes.set_yticks([])
    axes.margins(x=0.25)
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_xlabel("% over the same call with a header written by hand")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
