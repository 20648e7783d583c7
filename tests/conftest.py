"""What all tests share."""

from __future__ import annotations

import grpc
import pytest


def pytest_configure(config: pytest.Config) -> None:
    if tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 80):
        # Its asyncio interceptors leave behind what a `write()` waited for, if the loop ends first; its poller, the two
        # sockets by which it wakes a loop; a call whose interceptor has raised complains of that at its own end. The
        # collector finds them in any later test.
        queue, socket = r"<coroutine object Queue\.put", r"<socket\.socket fd=\d+, family=AddressFamily\.AF_UNIX"
        for forgotten in (queue, socket, r"<function InterceptedCall\.__del__"):
            ignored = f"ignore:Exception ignored in. {forgotten}:pytest.PytestUnraisableExceptionWarning"
            config.addinivalue_line("filterwarnings", ignored)
