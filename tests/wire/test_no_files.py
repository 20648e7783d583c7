"""A process that can open no file, at the moment when a fetch fails, succeeds or is refused for the first time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SERVED = """
import sys
import grpc, grpc_bearer
from grpc_bearer.testing import ProbeRequest, ProbeServer, ProbeStub, Refuse
server = ProbeServer().start()
answers = [ValueError("s3cret"), "t1", "t2", "t3"]
def function():
    answer = answers.pop(0)
    if isinstance(answer, Exception):
        raise answer
    return answer
auth = grpc_bearer.BearerAuth(function)
channel = grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth)
stub = ProbeStub(channel)
refuse = Refuse()
def fails():
    try:
        auth.token(timeout=10)
    except grpc_bearer.TokenError as error:
        return str(error)
"""


def test_nothing_is_imported_between_a_fetch_or_a_refusal_and_its_end() -> None:
    """It may be the moment when no file can be opened, or when another version lies in its place."""
    script = """
before = set(sys.modules)
print(fails())
auth._engine.invalidate()
print(stub.Unary(ProbeRequest(index=1), timeout=10).count)
server.script(refuse)
print(stub.Unary(ProbeRequest(index=1), timeout=10).count)
server.script(refuse, refuse)
try:
    stub.Unary(ProbeRequest(index=1), timeout=10)
except grpc.RpcError as error:
    print(type(error.__cause__).__name__)
print(sorted(set(sys.modules) - before))
"""

    assert run(SERVED + script).splitlines() == ["function(): raised ValueError", "1", "1", "TokenRejectedError", "[]"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_process_without_a_file_descriptor_fails_and_fetches_and_has_its_errors() -> None:
    script = """
import os, resource
channel.close()  # a connection needs one; a fetch of a function does not
highest = max(map(int, os.listdir("/dev/fd")))
resource.setrlimit(resource.RLIMIT_NOFILE, (0, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
said = [fails(), fails()]
auth._engine.invalidate()
said.append(auth.token(timeout=10).value)
auth.invalidate(said[-1])
said.append(auth.token(timeout=10).value)
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
print(said)
"""

    failed = "function(): raised ValueError"
    assert run(SERVED + script) == f"{[failed, failed, 't1', 't2']}\n"
