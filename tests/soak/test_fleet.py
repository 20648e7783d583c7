"""A small fleet of real processes (`make fleet` runs 200), and the simulation of a large one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from _redis import needs_redis
from fleet import run, scenes
from fleet.scenes import Row
from fleet.world import World

from benchmarks import fleet as simulation

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="the fleet is forked"),
    pytest.mark.timeout(300),
]

pytest.importorskip("redis", reason="no redis here")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as world:
        yield world


@needs_redis
def test_a_fleet_that_starts_together_makes_one_exchange(world: World) -> None:
    rows = scenes.together(world, 10)

    assert [row.problems for row in rows] == [()] * 4
    assert [row.cells["exchanges"] for row in rows[:3]] == ["10", "1", "1"]


@needs_redis
def test_one_who_is_killed_while_it_fetches_holds_nobody_up_for_long(world: World) -> None:
    rows = scenes.killed_holder(world, 8)

    assert [row.problems for row in rows] == [(), ()]


@needs_redis
def test_many_lifetimes_with_one_exchange_each(world: World) -> None:
    row = scenes.rolling(world, 8, 2)

    assert row.problems == ()
    assert row.cells["most in one lifetime"] == "1"


@needs_redis
def test_a_line_to_redis_that_is_cut_fails_no_call(world: World) -> None:
    row = scenes.line_cut(world, 4, 2.0 * scenes.LIFETIME)

    assert row.problems == ()


def test_the_tables_are_markdown() -> None:
    row = Row("started", 3, {"exchanges": "1"})

    assert run.markdown([[row]]) == "|  | processes | exchanges |\n| --- | ---: | ---: |\n| started | 3 | 1 |\n"


def test_in_the_simulation_a_cache_makes_one_fetch_a_lifetime_and_jitter_flattens_the_rest() -> None:
    loads = {case.name: simulation.load(case, 2000) for case in simulation.CASES}

    assert loads["cache"].total == 6
    assert loads["no cache, no jitter"].total == 5 * 2000
    later = {name: found.peak(simulation.ROLLOUT + 1) for name, found in loads.items()}
    assert later["no cache, jitter"] < later["no cache, no jitter"] / 5
    assert later["cache away for 20 min, no jitter"] == 2000
    assert later["cache away for 20 min, jitter"] < 100


def test_the_simulation_writes_its_table_and_its_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="no matplotlib here")

    simulation.main(["--workers", "50", "--out", str(tmp_path)])

    assert capsys.readouterr().out.startswith("| | workers |")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet.json", "fleet.md", "fleet.svg"]
