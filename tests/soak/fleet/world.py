"""What the workers meet: the endpoint, the server, Redis behind a line that can be cut, a disk that can be full."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpc_bearer.testing import CA, ProbeServer, Request, Response, TokenServer

HERE = Path(__file__).parent


class World:
    """The servers, for one scene after another.

    Args:
        folder: for certificates, reports and directories of tokens.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = CA()
        self.ca_file = self.ca.write(folder)
        self.tokens = TokenServer(self.ca)
        self.server = ProbeServer(self.tokens.verifier(), self.ca, workers=32)
        self.url = self.tokens.serve("/token", self._answer)
        self.lifetime, self.slowness = 3600, 0.1
        self.issued_at: list[float] = []
        self.asked: Callable[[int], None] | None = None  # told the process id of who asks, before the answer
        self._number = 0

    def __enter__(self) -> World:
        self.tokens.start()
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        self.tokens.stop()

    def _answer(self, request: Request) -> Response:
        if self.asked is not None:
            self.asked(json.loads(request.body)["pid"])
        time.sleep(self.slowness)
        token = self.tokens.mint("fleet", lifetime=self.lifetime)
        self.issued_at.append(time.monotonic())
        return Response(200, json.dumps({"access_token": token}).encode(), token=token)

    def fresh_directory(self) -> Path:
        self._number += 1
        return self.folder / f"tokens-{self._number}"

    def fleet(self, processes: int, store: str | None, **orders: Any) -> Fleet:
        """A fleet, held at its barrier."""
        reports = Path(tempfile.mkdtemp(dir=self.folder))
        self.issued_at.clear()
        given = {"seconds": 0.0, "every": 0.0, "timeout": 10.0, **orders}
        where = {"url": self.url, "ca": str(self.ca_file), "target": self.server.target, "reports": str(reports)}
        return Fleet({"processes": processes, "store": store, **where, **given}, reports)


@dataclass
class Outcome:
    """What a fleet reports. Times in seconds."""

    first: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    held: int = 0
    granted: int = 0
    killed: int = 0
    broken: int = 0
    took: float = 0.0


class Fleet:
    """Processes that are ready, and wait."""

    def __init__(self, orders: dict[str, Any], reports: Path) -> None:
        self._reports = reports
        environment = {**os.environ, "GRPC_VERBOSITY": "ERROR", "PYTHONWARNINGS": "ignore::DeprecationWarning"}
        command = [sys.executable, str(HERE / "worker.py"), json.dumps(orders)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the fleet did not start")

    def let_go(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()

    def outcome(self) -> Outcome:
        """Wait for all, and read what they left."""
        began = time.monotonic()
        text, _ = self._process.communicate()
        ends = json.loads(text)
        outcome = Outcome(took=time.monotonic() - began)
        outcome.killed = sum(end == -signal.SIGKILL for end in ends)
        outcome.broken = sum(end not in (0, -signal.SIGKILL) for end in ends)
        for path in self._reports.iterdir():
            report = json.loads(path.read_text("utf-8"))
            outcome.first.append(report["waits"][0])
            outcome.waits += report["waits"]
            outcome.failures += report["failures"]
            outcome.troubles += report["troubles"]
            outcome.held += report.get("held", 0) > 0
            outcome.granted += report.get("granted", 0)
        return outcome


class Line:
    """A TCP line to a server on loopback, which can be cut: its port is closed, and so is every connection."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.mend()

    def mend(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def cut(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(source, sink), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of 256 KiB; `None` if this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> None:
    with open(folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
