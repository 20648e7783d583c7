"""The pictures, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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
        "refresh.svg": ("refresh", _refresh),
        "waiting.svg": ("cold_start", _waiting),
        "auths.svg": ("many_auths", _auths),
    }
    drawn = []
    for file, (job, drawer) in drawers.items():
        if job in results:
            _figure(folder / file, drawer, results[job])
            drawn.append(file)
    return drawn


def _figure(path: Path, drawer: Callable[[Any, Result], None], result: Result) -> None:
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(9, 4))
    drawer(figure, result)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def _doors(figure: Any, result: Result) -> None:
    """Bars of overhead per door, against the peers."""
    axes = figure.subplots(1, 2, sharey=True)
    for each, table in zip(axes, result.tables, strict=True):
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
    _growth(figure, result.series["cold_start"], "calls waiting for the first token")


def _auths(figure: Any, result: Result) -> None:
    _growth(figure, result.series["many_auths"], "auths in one process, all refreshing")


def _growth(figure: Any, series: Mapping[str, Any], what: str) -> None:
    """Threads and memory as a number grows."""
    axes = figure.subplots(1, 2)
    shown = {name: values for name, values in series.items() if not name.endswith(", again")}
    for colour, (name, values) in zip(_LINES, shown.items(), strict=False):
        sizes = values["sizes"]
        kept = [
            (n, t, m * n / 2**20)
            for n, t, m in zip(sizes, values["threads"], values["memory"], strict=True)
            if t is not None
        ]
        axes[0].plot([k[0] for k in kept], [max(k[1], 0.5) for k in kept], marker="o", label=name, color=colour)
        axes[1].plot([k[0] for k in kept], [max(k[2], 0.01) for k in kept], marker="o", label=name, color=colour)
    for each, title in zip(axes, ("threads", "memory in all, MiB"), strict=True):
        each.set_xscale("log")
        each.set_yscale("log")
        each.set_xlabel(what)
        each.set_title(title)
    axes[0].legend()
