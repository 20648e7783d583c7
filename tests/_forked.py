"""Runs commands in processes that are forked off one that has imported what they need, at a fifth of the cost.

Each is a process of its own all the same: with streams, environment and folder of its own, and an end of its own. What
the interpreter reads when it starts (`PYTHON…`, `-W`) is that of the first process: who tests that starts a new one.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

#: What most of them import. None of it starts a thread, which a fork would lose.
_IMPORTS = ("cryptography.x509", "grpc", "grpc_bearer._cli", "grpc_bearer.testing", "jwt", "requests", "tenacity")
_ASKED = threading.Lock()


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def run_module(
    name: str,
    *arguments: str,
    env: Mapping[str, str],
    cwd: Path | None = None,
    stdin: str = "",
    strict: bool = False,
    timeout: float = 60,
) -> Ended:
    """As `python -m name arguments` would; with `strict`, a warning is an error."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin.encode())
        files[0].seek(0)
        job = {
            "name": name,
            "arguments": arguments,
            "env": dict(env),
            "cwd": str(cwd or Path.cwd()),
            "strict": strict,
            "timeout": timeout,
        }
        with _ASKED, _connection() as connection:
            connection.settimeout(2 * timeout)
            socket.send_fds(connection, [json.dumps(job).encode()], [file.fileno() for file in files])
            code = int(connection.recv(100))
        for file in files:
            file.seek(0)
        ended = Ended(code, files[1].read().decode(), files[2].read().decode())
    assert "Timeout (" not in ended.err, ended.err  # where it hung, thread by thread
    return ended


@contextlib.contextmanager
def _connection() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_address())
        yield connection


@functools.cache
def _address() -> str:
    """Where the process listens that all others are forked off; it ends with this one."""
    folder = tempfile.TemporaryDirectory(prefix="forked")
    address = f"{folder.name}/socket"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "GRPC_ENABLE_FORK_SUPPORT": "0"}
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "_forked", address]
    process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"

    def end() -> None:
        process.kill()
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    return address


def _serve(address: str) -> None:
    for name in _IMPORTS:
        __import__(name)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection:
                job, files, _, _ = socket.recv_fds(connection, 1_000_000, 3)
                child = os.fork()
                if child == 0:
                    listener.close()
                    connection.close()
                    return _run(json.loads(job), files)
                for file in files:
                    os.close(file)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(OSError):  # of a test that waits no longer
                    connection.send(b"%d" % code)


def _run(job: dict[str, object], files: list[int]) -> None:
    """In the child, which ends as any program does."""
    for place, file in enumerate(files):
        os.dup2(file, place)
        os.close(file)
    os.environ.clear()
    os.environ.update(job["env"])  # type: ignore[call-overload]
    os.chdir(str(job["cwd"]))
    if job["strict"]:
        warnings.simplefilter("error")
    seconds = int(job["timeout"])  # type: ignore[call-overload]
    faulthandler.dump_traceback_later(seconds, exit=True)
    signal.alarm(seconds + 5)
    sys.path[0] = str(job["cwd"])
    name = str(job["name"])
    sys.argv = [name, *job["arguments"]]  # type: ignore[misc]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve(sys.argv[1])
