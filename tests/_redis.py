"""A Redis server of the test's own: from the system's package, on a free port, with nothing on disk."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

BINARY = shutil.which("redis-server") or shutil.which("valkey-server")

needs_redis = pytest.mark.skipif(BINARY is None, reason="no redis-server here (Debian: apt install redis-server)")


def free_port() -> int:
    """A port that nobody listens on. A cluster's bus port (10,000 above) is free too: both are below those that the
    system gives to whoever asks for any."""
    while True:
        port = random.SystemRandom().randrange(20_000, 22_700)
        with contextlib.suppress(OSError), socket.socket() as reserved, socket.socket() as bus:
            reserved.bind(("127.0.0.1", port))
            bus.bind(("127.0.0.1", port + 10_000))
            return port


def wait_for(port: int) -> None:
    """Until a server answers there."""
    deadline = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(7):
                return
        assert time.monotonic() < deadline, "redis-server does not answer"
        time.sleep(0.01)


class RedisServer:
    """One server; `stop` and `start` keep the port, and lose the data."""

    def __init__(self, *options: str) -> None:
        pytest.importorskip("redis", reason="no redis-py here")
        if BINARY is None:
            pytest.skip("no redis-server here (Debian: apt install redis-server)")
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [str(BINARY), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen([*command, *self._options], stdout=subprocess.DEVNULL)
        wait_for(self.port)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """As `kill -9` does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def command(self, *parts: object) -> object:
        import redis

        with redis.Redis(port=self.port) as client:
            return client.execute_command(*parts)


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    server = RedisServer(*options)
    try:
        yield server
    finally:
        server.stop()
