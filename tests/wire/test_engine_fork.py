"""After `os.fork()` the child works, whatever the parent was in the middle of. Real forks, in processes of their own.

Each script runs in a fresh interpreter, for a fork copies whatever threads and locks the test run has.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")

PREAMBLE = """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 warns of forks with threads; they are the point here
from grpc_bearer._base import threads
from grpc_bearer._engine.engine import Engine
from grpc_bearer import CallContext, Token
from grpc_bearer.errors import TokenError
from grpc_bearer import Source

CALL = CallContext()

class Gated(Source):
    def __init__(self, **flags):
        self.calls, self.began, self.gate = 0, threading.Event(), threading.Event()
        self.single_use = flags.get("single_use", False)
    def fetch(self, context):
        self.calls += 1
        self.began.set()
        if not self.gate.is_set():
            assert self.gate.wait(20)
        return Token(f"{os.getpid()}-{self.calls}", expires_at=time.time() + 1000)

def engine_of(source, **options):
    return Engine(source, metadata_of=lambda token: (("authorization", token.value),), **options)

def in_child(job):
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            job()
            code = 0
        except BaseException as error:
            print("child:", type(error).__name__, error, flush=True)
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            assert code == 0, code
            return
        time.sleep(0.005)
    os.kill(pid, 9)
    raise AssertionError("the child hangs")
"""


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "well\n", "")


def test_a_fork_in_the_middle_of_a_fetch_leaves_a_child_that_fetches_for_itself() -> None:
    run("""
source = Gated()
engine = engine_of(source, keep_warm=True)
delivered = []
engine.request(CALL, lambda lease, error: delivered.append(os.getpid()))
assert source.began.wait(10)

def child():
    source.gate = threading.Event()
    source.gate.set()
    lease = engine.token(CALL, 10)
    assert lease.token.value.startswith(f"{os.getpid()}-"), lease
    assert delivered == [], "a callback of the parent ran in the child"

in_child(child)
source.gate.set()
assert engine.token(CALL, 10).token.value == f"{os.getpid()}-1"
assert delivered == [os.getpid()]
print("well")
""")


def test_a_token_in_hand_serves_the_child_without_a_fetch() -> None:
    run("""
source = Gated()
source.gate.set()
engine = engine_of(source)
lease = engine.token(CALL, 10)

def child():
    assert engine.peek(CALL) is lease
    assert engine.invalidate(lease.token.fingerprint)
    assert engine.token(CALL, 10).token.value == f"{os.getpid()}-2"

in_child(child)
assert engine.peek(CALL) is lease and source.calls == 1
print("well")
""")


def test_locks_held_by_other_threads_at_the_fork_do_not_hang_the_child() -> None:
    run("""
source = Gated()
source.gate.set()
engine = engine_of(source)
held, release = threading.Event(), threading.Event()

def hold():
    with engine._fetcher.lock:
        held.set()
        assert release.wait(20)

threading.Thread(target=hold, daemon=True).start()
assert held.wait(10)

def child():
    assert engine.token(CALL, 10).token.value.startswith(f"{os.getpid()}-")
    engine.close()

in_child(child)
release.set()
assert engine.token(CALL, 10).token.value.startswith(f"{os.getpid()}-")
print("well")
""")


def test_single_use_tokens_in_flight_at_the_fork_stay_the_parent_s() -> None:
    run("""
source = Gated(single_use=True)
engine = engine_of(source)
outcome = []
told = threading.Event()
engine.request(CALL, lambda lease, error: (outcome.append(lease), told.set()))
assert source.began.wait(10)

def child():
    source.gate = threading.Event()
    source.gate.set()
    assert engine.token(CALL, 10).token.value.startswith(f"{os.getpid()}-")
    engine.close()
    assert not outcome, "a callback of the parent ran in the child"

in_child(child)
source.gate.set()
assert told.wait(10) and outcome[0].token.value == f"{os.getpid()}-1"
print("well")
""")


def test_a_fork_between_the_stores_of_state_and_lease_is_mended() -> None:
    run("""
source = Gated()
source.gate.set()
engine = engine_of(source)
lease = engine.token(CALL, 10)
engine._only.lease = None  # as another thread leaves it that is half way through

def child():
    assert engine.peek(CALL) is lease

in_child(child)
print("well")
""")


def test_a_child_of_a_child_works_and_closing_in_one_closes_no_other() -> None:
    run("""
source = Gated()
engine = engine_of(source)
engine.request(CALL, lambda lease, error: None)
assert source.began.wait(10)

def grandchild():
    assert engine.token(CALL, 10)
    engine.close()

def child():
    source.gate = threading.Event()
    source.gate.set()
    in_child(grandchild)
    assert engine.token(CALL, 10)

in_child(child)
source.gate.set()
assert engine.token(CALL, 10)
print("well")
""")
