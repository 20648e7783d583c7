"""What all tests share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

if TYPE_CHECKING:
    from _authorization_server import AuthorizationServer
    from _refusing import Place, Side

    from grpc_bearer.testing import ManualClock, TokenServer


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's
def pytest_xdist_auto_num_workers() -> int:
    """Two for each core: a test waits for a socket or a process half of its time."""
    return min(2 * len(os.sched_getaffinity(0)), 16) if hasattr(os, "sched_getaffinity") else 4


def pytest_configure(config: pytest.Config) -> None:
    if tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 80):
        # Its asyncio interceptors leave behind what a `write()` waited for, if the loop ends first; its poller, the two
        # sockets by which it wakes a loop; a call whose interceptor has raised complains of that at its own end. The
        # collector finds them in any later test.
        queue, socket = r"<coroutine object Queue\.put", r"<socket\.socket fd=\d+, family=AddressFamily\.AF_UNIX"
        for forgotten in (queue, socket, r"<function InterceptedCall\.__del__"):
            ignored = f"ignore:Exception ignored in. {forgotten}:pytest.PytestUnraisableExceptionWarning"
            config.addinivalue_line("filterwarnings", ignored)


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> None:
    """What is left of earlier modules stays to the end: a test's `gc.collect()` need not look at it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def authorization_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AuthorizationServer]:
    """A real one; skips where node or its packages are missing."""
    from _authorization_server import running

    with running(tmp_path_factory.mktemp("authorization-server")) as server:
        yield server


@pytest.fixture
def clock() -> ManualClock:
    """Moved by hand."""
    from grpc_bearer.testing import ManualClock

    return ManualClock()


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the authority that the tests' servers have their certificates from."""
    from attachments import TLS

    return TLS.write(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def tokens(clock: ManualClock) -> Iterator[TokenServer]:
    """A server of tokens that lives by the clock that is moved by hand."""
    from attachments import TLS

    from grpc_bearer.testing import TokenServer

    with TokenServer(TLS, clock) as tokens:
        yield tokens


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    """A server that tests of refused tokens call."""
    from _refusing import place

    with place() as here:
        yield here


@pytest.fixture
def through_core(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """An item for each attempt whose token goes through core."""
    made: list[None] = []
    make = grpc.metadata_call_credentials

    def counted(*args: Any) -> grpc.CallCredentials:
        made.append(None)
        return make(*args)

    monkeypatch.setattr(grpc, "metadata_call_credentials", counted)
    return made


@pytest.fixture(params=["sync", "asyncio"])
def calls(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Side]:
    """One test for both: calls made on this thread, or on an event loop."""
    from _refusing import side

    with side(request.param, caplog) as calls:
        yield calls


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was collected stays to the end; without this, each `gc.collect()` of a test would look at all of it."""
    import hypothesis  # noqa: F401 - when it is imported it asks the collector who refers to what

    gc.collect()
    gc.freeze()
