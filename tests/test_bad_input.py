"""Whatever is wrong gets our error, at the earliest moment, naming file and field, and shows no secret anywhere.

The table is in `_bad_input/`; how each row is judged, in `_bad_input/row.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _bad_input import fields
from _bad_input.row import Row, Stage, judge, no_environment

ROWS = [*fields.ROWS]


@pytest.fixture(scope="module")
def _stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def stage(_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with no_environment(monkeypatch, _stage):
        yield _stage


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bad_input_is_told_in_time_by_name_and_without_a_secret(row: Row, stage: Stage) -> None:
    judge(row, stage)


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 200
