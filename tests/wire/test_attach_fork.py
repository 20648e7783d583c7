"""Processes that fork, and processes that end, while a token is being fetched. Each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from attachments import PATIENCE, TLS

from grpc_bearer.testing import Hang, ProbeServer, TokenServer

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

BEAR = {"api_key": "key-1", "scope": "all", "secret": "s3cret"}

#: What every script begins with. `call` makes one call through a channel of its own.
PREAMBLE = """
import asyncio, faulthandler, os, sys, threading, warnings
faulthandler.dump_traceback_later(50, exit=True)
warnings.filterwarnings("ignore", category=DeprecationWarning)  # 3.12 on: threads and fork
import grpc, grpc_bearer
from grpc_bearer.testing import ProbeRequest, ProbeStub

TARGET, URL, CA = sys.argv[1:]
BEAR = {"api_key": "key-1", "scope": "all", "secret": "s3cret"}
TLS = grpc.ssl_channel_credentials(open(CA, "rb").read())
auth = grpc_bearer.BearerAuth(grpc_bearer.HTTPTokenSource(URL, json=BEAR, ca=CA, timeout=45))

def open_channel():
    return grpc_bearer.secure_channel(TARGET, TLS, auth=auth)

def call(channel=None):
    return ProbeStub(channel or open_channel()).Unary(ProbeRequest(index=1), timeout=30).count

async def acall():
    async with grpc_bearer.aio.secure_channel(TARGET, TLS, auth=auth) as channel:
        return (await ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=30)).count

def until_the_endpoint_has_the_request():
    sys.stdout.write("fetching\\n"); sys.stdout.flush()
    sys.stdin.readline()

def end_of(child):
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)
"""


class Ground:
    """A token endpoint and a server in this process, for scripts that run in another."""

    def __init__(self, ca: Path) -> None:
        self.ca = ca
        self.tokens = TokenServer(TLS)
        self.url = self.tokens.serve_bear(BEAR)
        self.server = ProbeServer(self.tokens.verifier(), TLS)

    def run(self, script: str, *, fork_support: str | None = None) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
        if fork_support is not None:
            env["GRPC_ENABLE_FORK_SUPPORT"] = fork_support
        command = [sys.executable, "-c", PREAMBLE + textwrap.dedent(script), self.server.target, self.url, str(self.ca)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(TLS.write(tmp_path))
    with ground.tokens, ground.server:
        yield ground


def finish(process: subprocess.Popen[str], *, told: str = "go\n") -> str:
    """Let the script go on; its output, once it has ended well."""
    output, errors = process.communicate(told, timeout=60)
    assert process.returncode == 0, f"exit {process.returncode}\n{output}\n{errors}"
    return output


def child_and_parent_call(ground: Ground, process: subprocess.Popen[str], hang: Hang) -> None:
    """It forks while its own fetch hangs; when the child's call has come, the fetch goes on."""
    assert hang.arrived.wait(PATIENCE)
    assert process.stdin is not None
    process.stdin.write("fork\n")
    process.stdin.flush()
    arrived = ground.server.ledger.wait_for(1, 40)
    hang.release.set()
    output = finish(process)

    assert arrived
    assert output.splitlines() == ["fetching", "child 0", "parent 1"]


FORK_SUPPORT = pytest.mark.parametrize("fork_support", ["0", "1", None], ids=["off", "on", "default"])


@FORK_SUPPORT
@pytest.mark.parametrize("child", ["call()", "asyncio.run(acall())"], ids=["sync", "asyncio"])
def test_trap_43_a_child_forked_in_the_middle_of_a_fetch_works(
    child: str, fork_support: str | None, ground: Ground
) -> None:
    """The auth is the parent's, its fetch hangs; the child makes a channel, fetches for itself and calls."""
    hang = Hang()
    ground.tokens.script(hang)
    process = ground.run(
        f"""
        asking = threading.Thread(target=auth.token, daemon=True)
        asking.start()
        until_the_endpoint_has_the_request()
        child = os.fork()
        if child == 0:
            os._exit(0 if {child} == 1 else 3)
        print("child", end_of(child), flush=True)
        sys.stdin.readline()
        asking.join(30)
        print("parent", call())
        """,
        fork_support=fork_support,
    )
    child_and_parent_call(ground, process, hang)
    assert len(ground.tokens.exchanges) == 2  # one each
    assert len(ground.server.ledger.tokens) == 2


@pytest.mark.skipif(
    tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 82),
    reason="until 1.82 gRPC itself loses the child of a fork while a plugin is to answer, whoever's plugin it is",
)
@pytest.mark.parametrize("waiting", ["sync", "asyncio"])
def test_trap_43_a_child_forked_while_calls_wait_in_core_works(waiting: str, ground: Ground) -> None:
    """With gRPC's fork support on, the parent may have channels, and calls that wait for the token."""
    hang = Hang()
    ground.tokens.script(hang)
    begin = {
        "sync": "calls = [ProbeStub(channel).Unary.future(ProbeRequest(index=1), timeout=40) for _ in range(3)]",
        "asyncio": "thread = threading.Thread(target=lambda: asyncio.run(acall()), daemon=True); thread.start()",
    }[waiting]
    end = {"sync": "[call.result(30) for call in calls]", "asyncio": "thread.join(30)"}[waiting]
    process = ground.run(
        f"""
        channel = open_channel()
        {begin}
        until_the_endpoint_has_the_request()
        child = os.fork()
        if child == 0:
            os._exit(0 if call() == 1 else 3)
        print("child", end_of(child), flush=True)
        sys.stdin.readline()
        {end}
        print("parent", call(channel))
        """,
        fork_support="1",
    )
    child_and_parent_call(ground, process, hang)
    assert len(ground.tokens.exchanges) == 2


@FORK_SUPPORT
def test_a_token_fetched_before_the_fork_serves_the_child_too(fork_support: str | None, ground: Ground) -> None:
    process = ground.run(
        """
        auth.token()
        child = os.fork()
        if child == 0:
            os._exit(0 if call() == 1 else 3)
        print("child", end_of(child))
        print("parent", call())
        """,
        fork_support=fork_support,
    )
    output = finish(process)

    assert output.splitlines() == ["child 0", "parent 1"]
    assert len(ground.tokens.exchanges) == 1


@FORK_SUPPORT
def test_single_use_tokens_of_parent_and_children_never_repeat(fork_support: str | None, ground: Ground) -> None:
    process = ground.run(
        """
        from grpc_bearer.sources.jwt import nonce
        from grpc_bearer.testing import throwaway_key
        key = throwaway_key("ES256")
        auth = grpc_bearer.BearerAuth(grpc_bearer.JWTSource(key, headers={"nonce": nonce}, single_use=True))
        auth.token()
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                channel = open_channel()
                for _ in range(5):
                    try:
                        call(channel)
                    except grpc.RpcError as error:
                        if error.code() is not grpc.StatusCode.UNAUTHENTICATED:  # the server knows another key
                            os._exit(3)
                os._exit(0)
            children.append(child)
        print([end_of(child) for child in children])
        """,
        fork_support=fork_support,
    )
    ground.server.gate.verifier = None
    output = finish(process)
    tokens = [value for attempt in ground.server.ledger for key, value in attempt.metadata if key == "authorization"]

    assert output.splitlines() == ["[0, 0, 0]"]
    assert len(tokens) == 15
    assert len(set(tokens)) == 15


# -------------------------------------------------------------------------------------------------------------- exit


WAITERS = {
    "a future": "held = ProbeStub(open_channel()).Unary.future(ProbeRequest(), timeout=40)",
    "a stream": "held = ProbeStub(open_channel()).BidiStream(iter([ProbeRequest()]), timeout=40)",
    "a daemon thread": "threading.Thread(target=call, daemon=True).start()",
    "auth.token() on a thread": "threading.Thread(target=auth.token, daemon=True).start()",
    "a cancelled asyncio.run": """
async def main():
    task = asyncio.ensure_future(acall())
    await asyncio.get_running_loop().run_in_executor(None, until_the_endpoint_has_the_request)
    task.cancel()
asyncio.run(main())
""",
    "keep_warm": """
auth = grpc_bearer.BearerAuth(grpc_bearer.HTTPTokenSource(URL, json=BEAR, ca=CA, timeout=45), keep_warm=True)
held = ProbeStub(open_channel()).Unary.future(ProbeRequest(), timeout=40)
""",
    "an auth that is closed": """
held = ProbeStub(open_channel()).Unary.future(ProbeRequest(), timeout=40)
until_the_endpoint_has_the_request()
auth.close()
""",
    "a coroutine": """
begun = threading.Event()
async def never():
    begun.set()
    await asyncio.Event().wait()
auth = grpc_bearer.BearerAuth(never)
held = ProbeStub(open_channel()).Unary.future(ProbeRequest(), timeout=40)
assert begun.wait(20)
""",
}


#: A plain channel too, if its call has a done-callback: 2 of 20 processes never ended.
OLD_AIO = pytest.mark.skipif(
    tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 80),
    reason="older grpc.aio waits at exit, now and then for ever, for its own thread",
)


@pytest.mark.parametrize(
    "waiter", [pytest.param(name, marks=OLD_AIO) if "asyncio" in name else name for name in WAITERS]
)
def test_the_interpreter_exits_at_once_with_a_fetch_in_flight(waiter: str, ground: Ground) -> None:
    hang = Hang()
    ground.tokens.script(hang)
    script = WAITERS[waiter]
    if "until_the_endpoint" not in script and waiter != "a coroutine":
        script += "\nuntil_the_endpoint_has_the_request()"
    process = ground.run(script + "\nprint('end', flush=True)\n")
    if waiter != "a coroutine":
        assert hang.arrived.wait(PATIENCE)
    begin = time.monotonic()
    output = finish(process)
    seconds = time.monotonic() - begin

    assert "end" in output.splitlines()
    assert seconds < 30  # of the 45 that the fetch would have taken
    hang.release.set()


def test_exit_is_clean_when_auth_and_channel_are_module_globals(ground: Ground) -> None:
    """Trap 14: credentials kept in globals have crashed the interpreter's end."""
    process = ground.run(
        """
        channel = open_channel()
        composite = grpc.secure_channel(TARGET, grpc_bearer.channel_credentials(auth, TLS))
        credentials = grpc_bearer.call_credentials(auth)
        interceptor = grpc_bearer.interceptor(auth)
        print(call(channel), call(channel))
        """
    )
    output, errors = process.communicate("", timeout=60)

    assert process.returncode == 0
    assert output.split() == ["1", "1"]
    assert "Traceback" not in errors
