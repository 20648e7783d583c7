"""The documentation: each page's examples run as they are printed, and each picture is the code's.

That the site builds without a warning is for `make docs` to say.
"""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
from _pages.page import Block, blocks, pages, unknown
from _pages.run import needs, run_page
from attachments import AIO_WAYS, SYNC_WAYS

import grpc_bearer
from grpc_bearer.__main__ import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).with_suffix("").as_posix(): path for path in pages(ROOT)}
TEXTS = {name: path.read_text("utf-8") for name, path in PAGES.items()}
#: A page that says `% run by: tests/…` needs what is not installed here.
RUNNABLE = [
    name
    for name, text in TEXTS.items()
    if "\n% run by: " not in text and any(b.language in ("python", "console") for b in blocks(text))
]


@pytest.mark.parametrize("name", RUNNABLE)
def test_the_examples_of_the_page_run_as_they_are_printed(name: str, tmp_path: Path) -> None:
    for package, least in needs(PAGES[name]).items():
        pytest.importorskip(package, least, reason="the page is about an extra")
    outcome = run_page(PAGES[name], tmp_path)

    assert outcome.errors == ""
    assert outcome.refused == outcome.announced
    assert outcome.accepted + outcome.refused >= outcome.shown


@pytest.mark.parametrize("name", PAGES)
def test_no_example_is_left_unrun(name: str) -> None:
    left = [block for block in blocks(TEXTS[name]) if unknown(block)]

    assert left == []


def test_an_example_that_is_not_true_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n```output\n3\n```\n", "utf-8")
    (tmp_path / "ground").mkdir()

    assert "page.md:5: expected\n    3\nbut it printed\n    2\n" in run_page(page, tmp_path / "ground").errors


def test_an_error_in_an_example_is_told_with_the_line_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Prose.\n\n```python\n1 / 0\n```\n", "utf-8")
    (tmp_path / "ground").mkdir()

    assert f'File "{page}", line 4' in run_page(page, tmp_path / "ground").errors


def test_blocks_are_found_with_their_lines_and_options() -> None:
    text = "```{code-block} python\n:caption: a.py\n\nx = 1\n```\n%> y = 2\n%> z = 3\n```console\n$ ls\n```\n"

    assert blocks(text) == [
        Block("python", "x = 1\n", 4, {"caption": "a.py"}),
        Block("hidden", "y = 2\nz = 3\n", 6),
        Block("console", "$ ls\n", 9),
    ]


# ------------------------------------------------------------------------------------------------------- what is there


@pytest.mark.parametrize("service", ["bear", "skykit", "bitbroker", "crm", "openfx"])
def test_each_service_has_a_page(service: str) -> None:
    assert f"profiles.{service}(" in TEXTS[f"services/{service}"]


@pytest.mark.parametrize("way", ["attach_to", *SYNC_WAYS, *AIO_WAYS])
def test_each_way_to_attach_has_an_example(way: str) -> None:
    pages = TEXTS["guides/attach"] + TEXTS["guides/asyncio"]
    code = "".join(block.code for block in blocks(pages) if block.language == "python")

    assert f"grpc_bearer.{way}(" in code or f"grpc_bearer.{way.removeprefix('aio.')}(" in code


def documented() -> set[str]:
    """The names that the reference shows."""
    found: set[str] = set()
    for path in (DOCS / "reference").glob("*.md"):
        module = "grpc_bearer"
        for line in path.read_text("utf-8").splitlines():
            if match := re.match(r"\.\. (?:currentmodule|automodule):: (\S+)", line):
                module = match[1]
            elif match := re.match(r"\s*\.\. (?:auto(?:class|function|data|exception)|class|data):: ([\w.]+)", line):
                found.add(f"{module}.{match[1]}")
            elif match := re.match(r"\s+:members:(.*)", line):
                names = match[1].replace(",", " ").split() or importlib.import_module(module).__all__
                found |= {f"{module}.{name}" for name in names}
    return found


@pytest.mark.parametrize(
    "module", ["", "aio", "cache", "connect", "errors", "events", "grpclib", "otel", "profiles", "rest", "testing"]
)
def test_the_reference_has_every_public_name(module: str) -> None:
    public = importlib.import_module(f"grpc_bearer.{module}".rstrip("."))
    names = {name for name in public.__all__ if not inspect.ismodule(getattr(public, name))}
    shown = {name.rpartition(".")[2] for name in documented()}

    assert names - shown == set()


# ------------------------------------------------------------------------------------------------------- pictures, site


def test_the_picture_of_how_a_token_goes_is_what_the_code_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    attach_table = importlib.import_module("attach_table")

    assert [answer for _, answer in attach_table.steps()] == [
        *("own", "metadata", "wait", "core", "core", "metadata", "metadata", "core")
    ]


def test_the_exit_codes_are_those_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    told = re.findall(r"^ +(\d+)  (.+)$", capsys.readouterr().out, re.MULTILINE)

    assert re.findall(r"^\| (\d+) \| (.+) \|$", TEXTS["guides/command-line"], re.MULTILINE) == told


@pytest.mark.parametrize("page", ["how-it-works", "project/architecture"])
def test_the_files_that_the_page_names_exist(page: str) -> None:
    package = Path(grpc_bearer.__file__).parent
    named = set(re.findall(r"`([\w./-]+(?:\.py|/))`", TEXTS[page]))

    assert named
    assert {name for name in named if not (package / name).exists() and not (ROOT / name).exists()} == set()


def test_the_words_that_the_architecture_explains_are_in_the_code() -> None:
    code = "\n".join(path.read_text("utf-8") for path in Path(grpc_bearer.__file__).parent.rglob("*.py"))
    rows = re.findall(r"^\| (`.+?) \|", TEXTS["project/architecture"].partition("## The words")[2], re.MULTILINE)
    words = {word for row in rows for word in re.findall(r"`(\w+)`", row)}

    assert words
    assert {word for word in words if not re.search(rf"^\s*(?:class|def)? ?{word}\b", code, re.MULTILINE)} == set()


def test_the_site_asks_nothing_of_other_machines(tmp_path: Path) -> None:
    """Fonts, scripts and pictures come with it."""
    styles = (DOCS / "_static" / "site.css").read_text("utf-8")

    assert "http" not in styles
    assert "@import" not in styles


def test_the_version_of_the_site_is_that_of_the_package() -> None:
    assert grpc_bearer.__version__ in (ROOT / "setup.cfg").read_text("utf-8")
