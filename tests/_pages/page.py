"""What can be run in a Markdown page.

* A `python` block runs. What it prints is held against an `output` block that follows.
* A block with a `:caption:` is a file by that name.
* A `console` block's commands (`$ …`) run; what follows each is what it prints. `...` stands for anything. Its
  `localhost:50051` is the world's server; `# exit code 6` at a command's end is what it must exit with. With
  the class `figures` numbers are free.
* A line that begins with `%>` is Python that the reader does not see: a comment in MyST.
* `sh` and `text` blocks, and those in `SHOWN`, are only shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

SHOWN = ("sh", "text", "json", "yaml", "proto", "http", "mermaid")
#: Directives of MyST that hold no code of ours.
_PROSE = ("{", "")
_FENCE = re.compile(r"^(?P<ticks>`{3,})(?P<info>[^`]*)$")
_OPTION = re.compile(r"^:(?P<name>[\w-]+):\s*(?P<value>.*)$")


@dataclass(frozen=True)
class Block:
    """One fenced block. `line` is that of its first line of code, from 1."""

    language: str
    code: str
    line: int
    options: dict[str, str] = field(default_factory=dict)

    @property
    def caption(self) -> str | None:
        """The file that it is."""
        return self.options.get("caption")


def blocks(text: str) -> list[Block]:
    """All fenced blocks and hidden lines, in the order in which they stand."""
    found: list[Block] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.match(line)
        if fence:
            end = next(i for i in range(number + 1, len(lines) + 1) if lines[i].strip() == fence["ticks"])
            found.append(_block(fence["info"].strip(), lines[number + 1 : end], number + 2))
            number = end
        elif line.startswith("%>"):
            found.append(Block("hidden", line[2:].removeprefix(" ") + "\n", number + 1))
        number += 1
    return _joined(found)


def _block(info: str, lines: list[str], line: int) -> Block:
    language = info.removeprefix("{code-block}").strip() if info.startswith("{code-block}") else info
    options: dict[str, str] = {}
    while info.startswith("{") and lines and (match := _OPTION.match(lines[0])):
        options[match["name"]] = match["value"]
        lines, line = lines[1:], line + 1
    if info.startswith("{") and lines and not lines[0].strip():
        lines, line = lines[1:], line + 1
    return Block(language, "".join(f"{each}\n" for each in lines), line, options)


def _joined(found: list[Block]) -> list[Block]:
    """Hidden lines that follow each other are one block, so that an `if` may have a body."""
    joined: list[Block] = []
    for block in found:
        last = joined[-1] if joined else None
        if last and block.language == last.language == "hidden" and block.line == last.line + last.code.count("\n"):
            joined[-1] = Block("hidden", last.code + block.code, last.line)
        else:
            joined.append(block)
    return joined


def commands(block: Block) -> list[tuple[str, str, int]]:
    """Of a console block: command, what it should print, and its line."""
    found: list[tuple[str, str, int]] = []
    for offset, line in enumerate(block.code.splitlines()):
        if line.startswith("$ "):
            found.append((line[2:], "", block.line + offset))
        elif found:
            command, output, at = found[-1]
            if command.endswith("\\"):
                found[-1] = (f"{command}\n{line}", output, at)
            else:
                found[-1] = (command, f"{output}{line}\n", at)
    return found


def unknown(block: Block) -> bool:
    """Whether it is neither run nor of a kind that is only shown: an example that nobody checks."""
    runs = block.language in ("python", "output", "console", "hidden") or block.caption is not None
    return not runs and block.language not in SHOWN and not block.language.startswith("{")


def pages(root: Path) -> list[Path]:
    """All pages of the documentation."""
    docs = root / "docs"
    return sorted(path for path in docs.rglob("*.md") if not path.relative_to(docs).parts[0].startswith("_"))
