"""The pictures, as SVG."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import face
from benchmarks.tables import Result, Table

_COLOURS = {"floor": "#888888", "A/A": "#888888", "ours": "#0b6e4f", "peer": "#c8553d"}
_LINES = ("#0b6e4f", "#c8553d", "#e0a458", "#5b7db1", "#888888", "#7a4f8f")


def draw(folder: Path, results: Mapping[str, Result]) -> list[str]:
    """All that there is something for; the names of the files."""
    import matplotlib

    matplotlib.use("Agg")
    # The same figures give the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "grpc-bearer", "svg.fonttype": "none", "font.size": 9})
    drawers: dict[str, tuple[str, Callable[[Any, Result], None]]] = {
        "doors.svg": ("unary", _doors),
        "aio-doors.svg": ("asyncio_unary", _doors),
        "refresh.svg": ("refresh", _refresh),
        "waiting.svg": ("cold_start", _waiting),
        "auths.svg": ("many_auths", _auths),
    }
    drawn = []
    if chosen := face.ways(results):
        _save(folder / face.PLOT, lambda figure: face.draw(figure, chosen), (4.6, 4.2))
        drawn.append(face.PLOT)
    for file, (job, drawer) in drawers.items():
        if job in results:
            _save(folder / file, functools.partial(_drawn, drawer, results[job]), (11, 4))
            drawn.append(file)
    return drawn


def _drawn(drawer: Callable[[Any, Result], None], result: Result, figure: Any) -> None:
    drawer(figure, result)


def _save(path: Path, draw_on: Callable[[Any], None], size: tuple[float, float]) -> None:
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=size)
    draw_on(figure)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def _doors(figure: Any, result: Result) -> None:
    """Bars of overhead for each way to attach, against the peers."""
    axes = figure.subplots(1, 2, sharey=True)
    for each, table in zip(axes, result.tables[:2], strict=True):
        _bars(each, table)


def _bars(axes: Any, table: Table) -> None:
    rows = [row for row in table.rows if row.ratio is not None][::-1]
    ratios = [row.ratio for row in rows if row.ratio is not None]
    values = [100 * (ratio.value - 1) for ratio in ratios]
    errors = [[100 * (r.value - r.low) for r in ratios], [100 * (r.high - r.value) for r in ratios]]
    axes.barh(
        [row.name for row in rows], values, xerr=errors, color=[_COLOURS[row.role] for row in rows], ecolor="#333333"
    )
    axes.axvline(0, color="#333333", linewidth=0.8)
    axes.set_xlabel("% over the header by hand")
    axes.set_title(table.title)


def _refresh(figure: Any, result: Result) -> None:
    """Latency through a refresh."""
    axes = figure.subplots(1, 2)
    for each, key, title in zip(axes, ("p50", "p99"), ("median", "99th percentile"), strict=True):
        for colour, (name, course) in zip(_LINES, result.series["refresh"].items(), strict=False):
            each.plot(course["ms"], course[key], label=name, color=colour)
        each.set_yscale("log")
        each.set_xlabel("ms since a fetch ahead began")
        each.set_ylabel("latency of a call, µs")
        each.set_title(title)
    axes[0].legend()


def _waiting(figure: Any, result: Result) -> None:
    _growth(
        figure, result.series["cold_start"], "calls waiting for the first token", ("seconds", 1, "s until all are done")
    )


def _auths(figure: Any, result: Result) -> None:
    _growth(figure, result.series["many_auths"], "auths in one process", ("cost", 1e6, "CPU of a refresh, µs"))


def _growth(figure: Any, series: Mapping[str, Any], what: str, cost: tuple[str, float, str]) -> None:
    """Threads, memory and cost as a number grows."""
    key, factor, title = cost
    axes = figure.subplots(1, 3)
    shown = {name: values for name, values in series.items() if not name.endswith(", again")}
    for colour, (name, values) in zip(_LINES, shown.items(), strict=False):
        columns = [*zip(values["sizes"], values["threads"], values["memory"], values[key], strict=True)]
        kept = [
            (n, max(t, 0.5), max(m * n / 2**20, 0.01), c * factor) for n, t, m, c in columns if None not in (t, m, c)
        ]
        for each, place in zip(axes, (1, 2, 3), strict=True):
            each.plot([k[0] for k in kept], [k[place] for k in kept], marker="o", label=name, color=colour)
    for each, text in zip(axes, ("threads", "memory in all, MiB", title), strict=True):
        each.set_xscale("log")
        each.set_yscale("log")
        each.set_xlabel(what)
        each.set_title(text)
    axes[0].legend(fontsize=7)
