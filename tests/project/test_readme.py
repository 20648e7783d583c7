"""The README: short, with a picture, and its examples run as they are printed; its links hold on PyPI's page too."""

from __future__ import annotations

import configparser
import json
import re
from pathlib import Path

import pytest
from _pages.page import blocks
from _pages.run import run_page
from attachments import AIO_WAYS, SYNC_WAYS

from grpc_bearer import profiles

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "README.md"
README = PAGE.read_text("utf-8")
LINES = README.splitlines()
BLOCKS = [block.code for block in blocks(README) if block.language == "python"]
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", "utf-8")
URLS = dict(re.findall(r"^(\w+) = (\S+)$", SETUP["metadata"]["project_urls"], re.MULTILINE))
LINKS = re.findall(r"\]\(([^)]+)\)", README)


def test_every_example_runs_as_it_is_printed(tmp_path: Path) -> None:
    outcome = run_page(PAGE, tmp_path)

    assert outcome.errors == ""
    assert "FleetStub" not in README  # nothing stands for something else


def test_it_is_read_in_one_go() -> None:
    assert len(LINES) < 120


@pytest.mark.parametrize("service", ["bear", "skykit", "bitbroker", "crm", "openfx"])
def test_there_is_an_example_for_the_service(service: str) -> None:
    assert any(f"profiles.{service}(" in block for block in BLOCKS)


def test_the_credentials_are_as_the_services_issue_them() -> None:
    bear, openfx = (json.loads(block.code) for block in blocks(README) if block.language == "json")

    profiles.bear(bear).close()
    assert set(openfx) == {"name", "privateKey"}


@pytest.mark.parametrize("way", [*SYNC_WAYS, *AIO_WAYS, "attach_to"])
def test_the_way_to_attach_is_named(way: str) -> None:
    table = README.partition("## Ways to attach it")[2].partition("\n## ")[0]

    assert f"`{way}`" in table or f"`{way.removeprefix('aio.')}`" in table  # some serve both


def test_the_two_commands_stand_near_the_top() -> None:
    head = LINES[:24]

    assert any(line.startswith("make demo") for line in head)
    assert any(line.startswith("make test") for line in head)


def test_there_is_a_picture_in_the_first_screen() -> None:
    assert any(re.match(r"!\[.+\]\(.+/benchmarks/report/face\.svg\)$", line) for line in LINES[:15])


@pytest.mark.parametrize("link", LINKS)
def test_links_hold_on_other_sites_too(link: str) -> None:
    path = re.fullmatch(rf"{re.escape(URLS['Source'])}/(?:blob|raw)/main/(\S+)", link)

    assert path, "an address of its own, under project_urls' Source"
    assert (ROOT / path[1]).is_file()


def test_the_addresses_of_the_project_are_one_places() -> None:
    assert set(URLS) == {"Source", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith(URLS["Source"]) for url in URLS.values())
