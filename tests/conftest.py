"""What all tests share."""

from __future__ import annotations

import grpc
import pytest


def pytest_configure(config: pytest.Config) -> None:
    if tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 80):
        # Its asyncio interceptors leave behind what a `write()` waited for, if the loop ends first. The collector finds
        # that in any later test.
        forgotten = r"ignore:Exception ignored in. <coroutine object Queue\.put:pytest.PytestUnraisableExceptionWarning"
        config.addinivalue_line("filterwarnings", forgotten)
