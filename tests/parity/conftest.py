"""The servers that both contracts play on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from _contract.stage import Stage


@pytest.fixture(scope="module")
def stages() -> Iterator[dict[str, Stage]]:
    stages = {"tls": Stage(), "clear": Stage("insecure")}
    with stages["tls"].server, stages["clear"].server:
        yield stages
