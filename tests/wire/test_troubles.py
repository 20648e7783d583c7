"""Troubles that are nobody's fault: no thread to be had, no more recursion, a finalizer at any moment, functions that
hang, callbacks that take long. The call that meets them may fail; all others go on.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from attachments import PATIENCE, eventually
from tenacity import wait_fixed

import grpc_bearer
from grpc_bearer import BearerAuth, RetryPolicy, StaticSource
from grpc_bearer._base import threads
from grpc_bearer.errors import TokenUnavailableError
from grpc_bearer.testing import ProbeRequest, ProbeServer, ProbeStub, Refuse

SOON = 5.0  # seconds: what another call may take, and never does


def run(script: str) -> None:
    """In a fresh process, which has no threads of ours yet."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=90, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


# --------------------------------------------------------------------------------------------------------- no thread

NO_THREAD = """
import logging, sys, threading
import grpc
import grpc_bearer
from grpc_bearer import BearerAuth, FileSource, JWTSource, StaticSource, TokenUnavailableError
from grpc_bearer.testing import ProbeRequest, ProbeStub, private_pem, throwaway_key

logging.getLogger("grpc_bearer").disabled = True

def none_more():
    threading.stack_size(1 << 45)  # more than there is of memory: the system itself refuses

def enough():
    threading.stack_size(0)

def told(call):
    try:
        call()
    except TokenUnavailableError as error:
        return str(error)

none_more()
try:
    threading.Thread(target=print).start()
except RuntimeError:
    pass
else:
    sys.exit("this system gives threads of any size")
"""


def test_without_a_thread_what_is_made_here_is_made_on_the_caller_s() -> None:
    run(
        NO_THREAD
        + """
key = private_pem(throwaway_key("ES256"))
for source in (StaticSource("s3cret"), JWTSource(key, lifetime=60), JWTSource(key, single_use=True)):
    assert BearerAuth(source).token(timeout=5)
print("well")
"""
    )


def test_without_a_thread_a_fetch_fails_at_once_and_with_one_the_next_goes_well() -> None:
    run(
        NO_THREAD
        + """
auths = BearerAuth(lambda: "s3cret"), BearerAuth(lambda: "other")
for auth in auths:
    assert "no thread" in told(lambda: auth.token(timeout=5))
enough()
for auth in auths:
    auth._engine.invalidate()  # the backoff
    assert auth.token(timeout=5)
print("well")
"""
    )


def test_without_a_thread_a_call_that_was_handed_out_ends() -> None:
    run(
        NO_THREAD
        + """
auth = BearerAuth(lambda: "s3cret")
channel = grpc_bearer.insecure_channel("localhost:1", auth=auth, allow_plaintext=True)
call = ProbeStub(channel).Unary.future(ProbeRequest(), timeout=5)
error = call.exception(timeout=5)
assert isinstance(error.__cause__, TokenUnavailableError), error
print("well")
"""
    )


def test_the_threads_that_there_are_do_what_comes_when_there_are_no_more() -> None:
    run(
        NO_THREAD
        + """
enough()
assert BearerAuth(lambda: "s3cret").token(timeout=5)
none_more()
for _ in range(50):
    assert BearerAuth(lambda: "s3cret").token(timeout=5)
print("well")
"""
    )


# --------------------------------------------------------------------------------------------------------- recursion


def test_a_call_at_any_depth_leaves_everything_working() -> None:
    def at(depth: int, call: Callable[[], object]) -> object:
        return call() if depth == 0 else at(depth - 1, call)

    limit, failed = sys.getrecursionlimit(), 0
    try:
        sys.setrecursionlimit(600)
        for depth in range(450, 600):
            auth, other = BearerAuth(lambda: "s3cret"), BearerAuth(StaticSource("other"))
            try:
                at(depth, lambda auth=auth: auth.token(timeout=SOON))  # type: ignore[misc]
            except (RecursionError, TokenUnavailableError):
                failed += 1
            assert [auth.token(timeout=SOON).value, other.token(timeout=SOON).value] == ["s3cret", "other"], depth
            auth.close()
            other.close()
    finally:
        sys.setrecursionlimit(limit)

    assert failed > 10


# --------------------------------------------------------------------------------------------------------- finalizers

FINALIZERS = """
import faulthandler, gc, itertools, logging, sys, threading, time
from grpc_bearer import BearerAuth, Token

faulthandler.dump_traceback_later(60, exit=True)
logging.getLogger("grpc_bearer").disabled = True
counted = itertools.count()
finalized, over = 0, False

def token():
    return Token(f"t{next(counted)}", expires_at=time.time() + 1000)

class Last:
    '''A cycle that asks the auth for something when it is collected, and leaves another one behind.'''
    def __init__(self):
        self.me = self
    def __del__(self):
        global finalized
        if not over:
            finalized += 1
            act()
            Last()

gc.set_threshold(1)
"""


@pytest.mark.parametrize("act", ["auth._engine.invalidate()", "auth.invalidate('t1')", "others.pop().close()"])
def test_a_finalizer_that_comes_at_any_moment_finds_no_lock_taken(act: str) -> None:
    run(
        FINALIZERS
        + f"""
others = [BearerAuth(token) for _ in range(500)]
def act():
    if others:
        {act}

auth = BearerAuth(lambda: token())
Last()
for number in range(150):
    assert auth.token(timeout=20)
    auth.invalidate(auth.token(timeout=20))
assert finalized > 100, finalized
over = True
print("well")
"""
    )


def test_a_finalizer_may_close_the_very_auth_that_is_asked() -> None:
    run(
        FINALIZERS
        + """
from grpc_bearer import TokenError
closing = []
def act():
    for auth in closing:
        auth.close()

for number in range(150):
    auth = BearerAuth(token)
    closing[:] = [auth]
    Last()
    try:
        auth.token(timeout=20)
    except TokenError as error:
        assert "closed" in str(error), error
assert finalized > 100, finalized
over = True
print("well")
"""
    )


# ------------------------------------------------------------------------------------------------ what others do to us


@pytest.fixture
def going_on() -> Iterator[threading.Event]:
    going_on = threading.Event()
    yield going_on
    going_on.set()


def test_functions_that_hang_keep_nobody_else_from_a_token(
    going_on: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They count as long as a fetch may well take; then another worker may begin."""
    monkeypatch.setattr(threads, "SLOW", 0.05)

    def hangs() -> str:
        going_on.wait()
        return "late"

    auths = [BearerAuth(hangs) for _ in range(3 * threads.MAX_WORKERS)]
    with ThreadPoolExecutor(len(auths)) as callers:
        waiting = [callers.submit(auth.token) for auth in auths]
        assert BearerAuth(lambda: "s3cret").token(timeout=PATIENCE).value == "s3cret"
        going_on.set()
        assert {call.result(PATIENCE).value for call in waiting} == {"late"}

    def ours() -> int:
        return sum(thread.name.startswith("grpc-bearer-worker") for thread in threading.enumerate())

    assert eventually(lambda: ours() <= threads.KEPT)


def test_done_callbacks_that_take_long_keep_no_other_call_from_its_deadline(going_on: threading.Event) -> None:
    ended = threading.Event()
    auth = BearerAuth(lambda: going_on.wait() and "never")  # type: ignore[arg-type,return-value]
    with grpc_bearer.insecure_channel("localhost:1", auth=auth, allow_plaintext=True) as channel:
        stub = ProbeStub(channel)
        calls = [stub.Unary.future(ProbeRequest(), timeout=0.05) for _ in range(20)]
        for call in calls:
            call.add_done_callback(lambda _: going_on.wait(PATIENCE))
        last = stub.Unary.future(ProbeRequest(), timeout=0.1)
        last.add_done_callback(lambda _: ended.set())  # nobody asks for its end: the timer alone can bring it

        assert ended.wait(PATIENCE / 2)
        assert last.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        going_on.set()


def test_what_runs_after_a_pause_of_one_call_keeps_no_other_from_its_deadline(going_on: threading.Event) -> None:
    """An interceptor of the user's runs once more with the attempt that follows the pause, and may take its time."""

    class Slow(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc]
        attempts = 0

        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            self.attempts += 1
            if self.attempts == 2:
                entered.set()
                going_on.wait(PATIENCE)
            return continuation(details, request)

    entered, ended = threading.Event(), threading.Event()
    numbers = itertools.count()
    auth = BearerAuth(lambda: f"s3cret{next(numbers)}")
    ours = grpc_bearer.interceptor(auth, retry=RetryPolicy(wait=wait_fixed(0.05)))
    never = BearerAuth(lambda: going_on.wait() and "never")  # type: ignore[arg-type,return-value]
    with (
        ProbeServer() as server,
        server.channel() as plain,
        grpc_bearer.insecure_channel("localhost:1", auth=never, allow_plaintext=True) as channel,
    ):
        server.script(Refuse())
        slow = ProbeStub(grpc.intercept_channel(plain, ours, Slow())).Unary.future(ProbeRequest(), timeout=PATIENCE)
        assert entered.wait(PATIENCE)
        last = ProbeStub(channel).Unary.future(ProbeRequest(), timeout=0.1)
        last.add_done_callback(lambda _: ended.set())

        assert ended.wait(PATIENCE / 2)
        going_on.set()
        assert slow.code() is grpc.StatusCode.OK


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_token_is_kept_warm_in_a_forked_child_too() -> None:
    run(
        """
import os, time, threading, warnings
from grpc_bearer import BearerAuth, Token
warnings.simplefilter("ignore", DeprecationWarning)

refreshed = threading.Event()
parent = os.getpid()

def token():
    if os.getpid() != parent:
        refreshed.set()
    return Token(str(os.getpid()), refresh_at=time.time() + 0.3)

auth = BearerAuth(token, keep_warm=True)
auth.token(timeout=20)
child = os.fork()
if child == 0:
    os._exit(0 if refreshed.wait(20) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print("well")
"""
    )
