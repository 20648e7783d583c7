"""What commands show: tables in colour on a terminal and as plain text in a pipe, and a word on what takes long."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from grpc_bearer._cli.streams import JSON_ESCAPE, is_terminal, note, results_terminal, write

#: Seconds after which something is worth a word.
PATIENCE = 1.0
# Columns: a terminal that calls itself narrower gets lines that it has to wrap.
_NARROWEST = 40
_UNSURE = re.compile(r"[^\n -~]")
#: How all of a command speaks; see `manner`.
_manner = {"quiet": False, "colour": True}
_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim", "name": "bold"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A table's cell; `style` is a key of the colours, or nothing."""

    text: str
    style: str = ""


Row = Sequence["Cell | str"]


@contextlib.contextmanager
def manner(*, quiet: bool, colour: bool) -> Iterator[None]:
    """While a command runs.

    Args:
        quiet: results and errors alone: no progress, no remarks.
        colour: whether a terminal gets any.
    """
    before = dict(_manner)
    _manner.update(quiet=quiet, colour=colour)
    try:
        yield
    finally:
        _manner.update(before)


def remark(text: str) -> None:
    """Say something on stderr that is no error."""
    if not _manner["quiet"]:
        note(f"grpc-bearer: {safe(text)}\n")


def safe(text: str) -> str:
    """The text on one line, with nothing in it that a terminal would obey: what servers and tokens say is not ours."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a result as JSON."""
    write(json_line(value, indent), JSON_ESCAPE)


def json_line(value: Any, indent: int | None = None) -> str:
    """As JSON, with what a terminal would obey escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return f"{_UNSURE.sub(_escaped, text)}\n"


def _escaped(found: re.Match[str]) -> str:
    return found[0] if found[0].isprintable() else json.dumps(found[0])[1:-1]


def print_table(rows: Iterable[Row], headers: Sequence[str] = (), *, right: Collection[int] = ()) -> None:
    """Print a table.

    Args:
        rows: their cells.
        headers: of the columns, if any.
        right: which columns are numbers.
    """
    cells = [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in rows]
    console = _console()
    if console is None:
        lines = ([[Cell(each) for each in headers]] if headers else []) + cells
        write("".join(f"{line}\n" for line in _aligned(lines, right)))
        return
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, show_header=bool(headers), header_style="bold", pad_edge=False)
    for number in range(max(map(len, cells), default=0)):
        header = headers[number] if number < len(headers) else ""
        grid.add_column(header, justify="right" if number in right else "left", overflow="fold")
    for row in cells:
        # Text, never markup: what stands in square brackets is somebody's data.
        grid.add_row(*(Text(each.text, _COLOURS.get(each.style, "")) for each in row))
    _print_rich(console, grid)


def print_line(text: str, style: str = "") -> None:
    """Print a line, in colour on a terminal."""
    console = _console()
    if console is None:
        write(f"{text}\n")
        return
    from rich.text import Text

    _print_rich(console, Text(text, _COLOURS.get(style, "")))


def _print_rich(console: Any, what: Any) -> None:
    with console.capture() as captured:
        console.print(what)
    write(captured.get())


def _console() -> Any:
    """rich's console, if it is installed and there is somebody to see colours."""
    terminal = results_terminal()
    if terminal is None:
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    # By rich itself COLUMNS=0 leaves nothing of a line, and a very narrow terminal nothing of some columns.
    width = max(shutil.get_terminal_size().columns or 80, _NARROWEST)
    plain = not _manner["colour"] or bool(os.environ.get("NO_COLOR"))  # rich itself would still write in bold
    return Console(file=terminal, highlight=False, width=width, color_system=None if plain else "auto", no_color=plain)


def _aligned(rows: list[list[Cell]], right: Collection[int]) -> list[str]:
    widths = [max(len(row[n].text) for row in rows if n < len(row)) for n in range(max(map(len, rows), default=0))]
    return [
        "  ".join(
            cell.text.rjust(widths[n]) if n in right else cell.text.ljust(widths[n]) for n, cell in enumerate(row)
        ).rstrip()
        for row in rows
    ]


@contextlib.contextmanager
def progress(what: str, stream: TextIO | None = None, patience: float = PATIENCE) -> Iterator[None]:
    """Say on stderr what is going on, if it takes over a second: a counting line on a terminal, one line elsewhere."""
    if _manner["quiet"]:
        yield
        return
    done = threading.Event()
    to = stream or sys.stderr
    teller = threading.Thread(target=_tell, args=(what, to, done, patience), name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()


def _tell(what: str, to: TextIO | None, done: threading.Event, patience: float) -> None:
    began = time.monotonic()
    if done.wait(patience):
        return
    if not is_terminal(to):
        note(f"{what} …\n", stream=to)
        return
    while True:
        note(f"\r{what} … {time.monotonic() - began:.0f} s", stream=to)
        if done.wait(PATIENCE):
            break
    note("\r\x1b[K", stream=to)
