"""What all tests share."""

from __future__ import annotations

import grpc
import pytest


def pytest_configure(config: pytest.Config) -> None:
    if tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 80):
        # Its asyncio interceptors leave behind what a `write()` waited for, if the loop ends first; its poller, the two
        # sockets by which it wakes a loop. The collector finds them in any later test.
        for forgotten in (r"<coroutine object Queue\.put", r"<socket\.socket fd=\d+, family=AddressFamily\.AF_UNIX"):
            ignored = f"ignore:Exception ignored in. {forgotten}:pytest.PytestUnraisableExceptionWarning"
            config.addinivalue_line("filterwarnings", ignored)
