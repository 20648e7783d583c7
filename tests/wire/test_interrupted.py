"""Ctrl-C, time limits and exits on the main thread, at every line: the call fails, and everything else goes on.

Without `INTERRUPT_EVERY_LINE=1` in the environment it is each fifth.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from _refusing import Place
from attachments import asking
from interrupts import Interruption, Limit, Stop

from grpc_bearer import BearerAuth
from grpc_bearer.testing import ProbeRequest

pytestmark = [
    pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signal on this system"),
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # of tasks that a loop leaves behind
]

SOON = 5.0  # seconds: what a call after the interrupted one may take, and never does
#: Every how many lines; where one matters most: `INTERRUPT_EVERY_LINE=1`.
STRIDES = [1] if os.environ.get("INTERRUPT_EVERY_LINE") else [17, pytest.param(5, marks=pytest.mark.nightly)]
RAISED: list[type[BaseException]] = [KeyboardInterrupt, SystemExit, Stop, Limit]


Stub = Any
Setting = Callable[[Place, BearerAuth, Stub], None]
Act = Callable[[Place, BearerAuth, Stub], object]


def _nothing(here: Place, auth: BearerAuth, stub: Stub) -> None:
    """A first call."""


def _called_before(here: Place, auth: BearerAuth, stub: Stub) -> None:
    call(stub)


def _revoked(here: Place, auth: BearerAuth, stub: Stub) -> None:
    call(stub)
    here.revoke(auth)


def _invalidated(here: Place, auth: BearerAuth, stub: Stub) -> None:
    call(stub)
    auth.invalidate(auth.token())


SETTINGS: dict[str, Setting] = {
    "cold": _nothing,
    "warm": _called_before,
    "refused": _revoked,
    "invalidated": _invalidated,
}


def call(stub: Stub) -> object:
    return stub.Unary(ProbeRequest(index=1), timeout=SOON)


ACTS: dict[str, Act] = {
    "call": lambda here, auth, stub: call(stub),
    "future": lambda here, auth, stub: stub.Unary.future(ProbeRequest(index=1), timeout=SOON).result(),
    "stream": lambda here, auth, stub: list(stub.ServerStream(ProbeRequest(replies=2), timeout=SOON)),
    "token": lambda here, auth, stub: auth.token(timeout=SOON),
    "invalidate": lambda here, auth, stub: auth.invalidate(auth.token(timeout=SOON)),
}


ASYNCIO: dict[str, Act] = {"atoken": lambda here, auth, stub: asyncio.run(asyncio.wait_for(auth.atoken(), SOON))}


def interrupted(here: Place, setting: Setting, act: Act, interruption: Interruption) -> BaseException | None:
    """What the act raised; and afterwards a call works, with this auth on this channel and with another."""
    caught: BaseException | None = None
    auth, other = here.auth(), here.auth()
    with here.stub(auth) as stub:
        setting(here, auth, stub)
        try:
            interruption.run(lambda: act(here, auth, stub))
        except BaseException as error:
            caught = error
        where = interruption.where
        assert auth.token(timeout=SOON), where
        assert other.token(timeout=SOON), where
        here.verifier.accept(auth.token().value)
        assert call(stub), where
    auth.close()
    other.close()
    return caught


def _in_grpc_s_hands(caught: BaseException | None) -> bool:
    """Whether it came while gRPC was serialising a message: an Exception there ends the call, with plain gRPC too."""
    return isinstance(caught, grpc.RpcError) and "serializing" in str(caught)


def chosen(lines: int, stride: int) -> range:
    return range(1, lines + 1, stride)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("setting", SETTINGS)
def test_an_exit_at_any_line_ends_an_event_loop_and_leaves_everything_working(
    here: Place, setting: str, raised: type[BaseException], stride: int
) -> None:
    """What else is raised in a callback of a loop the loop keeps to itself, whosoever's callback it is."""
    counted = Interruption(0)
    interrupted(here, SETTINGS[setting], ASYNCIO["atoken"], counted)
    for at in chosen(counted.lines, stride):
        interruption = Interruption(at, raised)
        caught = interrupted(here, SETTINGS[setting], ASYNCIO["atoken"], interruption)
        assert not interruption.where or isinstance(caught, raised), interruption.where


@pytest.mark.parametrize("raised", RAISED)
def test_a_close_that_was_interrupted_is_done_by_the_next(here: Place, raised: type[BaseException]) -> None:
    at, lines = 0, 1
    while at <= lines:
        gate = threading.Event()
        auth, other = BearerAuth(lambda gate=gate: gate.wait(4 * SOON) and "late"), here.auth()  # type: ignore[misc]
        waiting = [asking(auth) for _ in range(3)]
        interruption = Interruption(at, raised)
        with contextlib.suppress(raised):
            interruption.run(auth.close)
        auth.close()

        assert {str(future.exception(SOON)) for future in waiting} == {"the auth is closed; make a new one"}
        assert other.token(timeout=SOON), interruption.where
        gate.set()
        lines = max(lines, interruption.lines) if at == 0 else lines
        at += 1


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize(("act", "setting"), [(a, s) for a in ACTS for s in SETTINGS])
def test_an_exception_at_any_line_goes_to_the_caller_and_leaves_everything_working(
    here: Place, act: str, setting: str, raised: type[BaseException], stride: int
) -> None:
    for _ in range(2):  # what is made on first use is made
        counted = Interruption(0)
        assert interrupted(here, SETTINGS[setting], ACTS[act], counted) is None
    astray = {}
    for at in chosen(counted.lines, stride):
        interruption = Interruption(at, raised)
        caught = interrupted(here, SETTINGS[setting], ACTS[act], interruption)
        if interruption.where and not (isinstance(caught, raised) or _in_grpc_s_hands(caught)):
            astray[interruption.where] = repr(caught)

    assert astray == {}
    assert sys.exc_info()[1] is None  # or it would be the context of whatever later tests raise
