"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
import pytest

if TYPE_CHECKING:
    from _authorization_server import AuthorizationServer


def pytest_configure(config: pytest.Config) -> None:
    if tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 80):
        # Its asyncio interceptors leave behind what a `write()` waited for, if the loop ends first; its poller, the two
        # sockets by which it wakes a loop. The collector finds them in any later test.
        for forgotten in (r"<coroutine object Queue\.put", r"<socket\.socket fd=\d+, family=AddressFamily\.AF_UNIX"):
            ignored = f"ignore:Exception ignored in. {forgotten}:pytest.PytestUnraisableExceptionWarning"
            config.addinivalue_line("filterwarnings", ignored)


@pytest.fixture(scope="session")
def authorization_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorizationServer]:
    """A real one; skips where node or its packages are missing."""
    from _authorization_server import running

    with running(tmp_path_factory.mktemp("authorization-server")) as server:
        yield server
