"""A process that forks, as servers that load first do: the auth is the parent's, the channels are its children's.

A process of its own (`forks.py CONFIG`), because servers and event loops do not survive a fork. Its parent has a token
and makes no calls: once a process has used a channel, gRPC's own handlers may hang in `os.fork()` for ever, or in a
child that makes its first channel (grpcio 1.85.1 alone: once in some hundred forks). It prints each call's end as a
line of JSON, and what could be seen in it goes to a file, to be searched for secrets.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc

if __name__ == "__main__":
    sys.path[:0] = map(str, Path(__file__).parents[1:3])

import grpc_bearer
from chaos import kinds, load
from chaos.kinds import Job
from chaos.leaks import Capture
from chaos.lines import STREAMING, Line
from chaos.load import Ended, Results
from grpc_bearer import BearerAuth, profiles
from grpc_bearer.testing import ProbeStub

_FIRST = 1_000_000_000
_CALLS, _TIMEOUT, _CHILD_MAY_TAKE, _MAY_END_IN = 4, 10.0, 45.0, 60.0
_EVERY, _MID_FETCH_EACH = 0.5, 12


# ------------------------------------------------------------------------------------------------- in the run's process


class Forks:
    """The other process, started and listened to."""

    def __init__(self, directory: Path, config: dict[str, Any]) -> None:
        self._seen = directory / "forks.seen"
        path = directory / "forks.config"
        path.write_text(json.dumps({**config, "seen": str(self._seen)}))
        environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": "1", "GRPC_VERBOSITY": "ERROR"}
        # Files, not pipes: nobody reads until the end, and whoever writes to a full pipe waits.
        self._said, self._errors = directory / "forks.said", directory / "forks.errors"
        with self._said.open("w") as said, self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore::DeprecationWarning", __file__, str(path)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=errors,
                env=environment,
            )

    def finish(self) -> tuple[list[Ended], list[str], dict[str, int]]:
        """Let it end: its calls, the text that could be seen, and what it counted."""
        try:
            self._process.communicate(b"stop\n", timeout=_MAY_END_IN)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGABRT)  # faulthandler tells where it hangs
            self._process.wait()
        errors = self._errors.read_text()
        calls, counted = [], {"children": 0}
        for line in self._said.read_text().splitlines():
            said = json.loads(line)
            if "job" in said:
                calls.append(Ended(**{**said, "job": Job(**said["job"])}))
            else:
                counted = said
        if self._process.returncode:
            sys.stderr.write(errors)
            raise RuntimeError(f"the process that forks ended with {self._process.returncode}")
        if any(call.code == "CHILD" for call in calls):
            sys.stderr.write(errors)
        return calls, [errors, self._seen.read_text() if self._seen.exists() else ""], counted


# --------------------------------------------------------------------------------------------- in a process of its own


def main(config: dict[str, Any]) -> None:
    faulthandler.enable()
    capture = Capture()
    stop = threading.Event()
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    auth = profiles.bear(config["credentials"], url=config["url"], ca=config["ca"])
    counted = {"children": 0, "in the middle of a fetch": 0}
    rng = random.Random(f"{config['seed']} forks")
    with capture.listening():
        while not stop.is_set():
            with contextlib.suppress(grpc_bearer.TokenError):
                token = auth.token(timeout=1)
                if counted["children"] % _MID_FETCH_EACH == 0:
                    counted["in the middle of a fetch"] += auth.invalidate(token)
            threading.Thread(target=_quietly, args=(auth,), daemon=True).start()
            counted["children"] += 1
            _fork(config, auth, capture, counted["children"], rng)
            stop.wait(_EVERY)
    _say(counted)
    _dump(config, capture)


def _listen(stop: threading.Event) -> None:
    sys.stdin.readline()
    stop.set()


def _quietly(auth: BearerAuth) -> None:
    with contextlib.suppress(grpc_bearer.TokenError):
        auth.token()


class Caller:
    """Calls over a channel made here, each said on standard output."""

    def __init__(
        self, config: dict[str, Any], auth: BearerAuth, capture: Capture, first: int, rng: random.Random
    ) -> None:
        self._config, self._auth, self._rng = config, auth, rng
        self._numbers = iter(range(first, first + 1000))
        self._results = Results(capture)
        self._tls = grpc.ssl_channel_credentials(Path(config["ca"]).read_bytes())

    def _line(self) -> tuple[Any, Line]:
        channel = grpc_bearer.secure_channel(self._config["target"], self._tls, STREAMING, auth=self._auth)
        return channel, Line("ours", "bear-fork", "bear", "secure_channel", ProbeStub(channel), tuple(kinds.SYNC))

    def _jobs(self, line: Line, count: int) -> Iterator[Job]:
        for _ in range(count):
            yield Job.draw(next(self._numbers), self._rng.choice(line.kinds), self._rng)

    def calls(self, count: int) -> None:
        channel, line = self._line()
        with channel:
            for job in self._jobs(line, count):
                began = time.time()
                self._results.add(line, job, False, began, _TIMEOUT, load.call(line, job, _TIMEOUT))
                _say(asdict(self._results.calls[-1]))


def _fork(config: dict[str, Any], auth: BearerAuth, capture: Capture, number: int, rng: random.Random) -> None:
    seed = rng.random()
    began = time.time()
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            caller = Caller(config, auth, capture, _FIRST + number * 1000 + 500, random.Random(seed))
            caller.calls(_CALLS)
            _dump(config, capture)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    left = _waited(pid)
    if left != 0:
        job = Job(_FIRST + number * 1000 + 999, "child", 0, 0)
        why = "hung" if left is None else f"ended with {left}"
        ended = Ended(job, "ours", "bear-fork", "bear", "a child", False, began, time.time(), time.time(), "CHILD", why)
        _say(asdict(ended))


def _waited(pid: int) -> int | None:
    until = time.monotonic() + _CHILD_MAY_TAKE
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGABRT)  # faulthandler tells where it hangs
    os.waitpid(pid, 0)
    return None


def _say(value: Any) -> None:
    os.write(1, json.dumps(value).encode() + b"\n")


def _dump(config: dict[str, Any], capture: Capture) -> None:
    with open(config["seen"], "a") as file:
        file.writelines(f"{text}\n" for text in capture.texts)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
