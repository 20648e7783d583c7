"""Listens in the clear and writes down every byte: to show that no token was among them."""

from __future__ import annotations

import contextlib
import socket
import threading

from grpc_bearer._base.http2 import SETTINGS
from grpc_bearer.testing._ports import reserve_port

__all__ = ["PlaintextRecorder"]


class PlaintextRecorder:
    """A TCP listener that behaves just enough like a plaintext HTTP/2 server for a client to send its headers.

    It answers no call: give them a timeout. gRPC's core writes header values as they are, so a token that was sent is
    found by `contains`. For a server that answers and records metadata, use `ProbeServer(credentials="insecure")`.

    >>> import grpc
    >>> with PlaintextRecorder() as recorder, grpc.insecure_channel(recorder.target) as channel:
    ...     call = channel.unary_unary("/s/M").future(b"", timeout=10, metadata=[("authorization", "Bearer t0-secret")])
    ...     recorder.wait_for("/s/M"), recorder.contains("t0-secret"), call.cancel()
    (True, True, True)
    """

    def __init__(self) -> None:
        self._socket = reserve_port()
        self.target: str = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._changed = threading.Condition()
        self._received = bytearray()
        self._connections: list[socket.socket] = []
        self._stopped = False

    def __repr__(self) -> str:
        return f"<PlaintextRecorder {self.target}>"

    def __enter__(self) -> PlaintextRecorder:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> PlaintextRecorder:
        """Listen."""
        self._socket.listen()
        threading.Thread(target=self._accept, name="plaintext-recorder", daemon=True).start()
        return self

    def stop(self) -> None:
        """Hang up on everybody. Idempotent; what was received stays."""
        with self._changed:
            self._stopped = True
            sockets = [self._socket, *self._connections]
            self._connections = []
        for each in sockets:
            _close(each)

    @property
    def received(self) -> bytes:
        """Every byte so far, of all connections."""
        with self._changed:
            return bytes(self._received)

    @property
    def connections(self) -> int:
        """How many are open."""
        with self._changed:
            return len(self._connections)

    def contains(self, text: str) -> bool:
        """Whether the text was among the bytes."""
        return text.encode() in self.received

    def wait_for(self, text: str, timeout: float = 10.0) -> bool:
        """Wait until the text has arrived; false if `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: text.encode() in self._received, timeout)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with self._changed:
                if self._stopped:
                    connection.close()
                    return
                self._connections.append(connection)
            threading.Thread(target=self._record, args=(connection,), name="plaintext-recorder", daemon=True).start()

    def _record(self, connection: socket.socket) -> None:
        try:
            connection.sendall(SETTINGS)
            while data := connection.recv(65536):
                with self._changed:
                    self._received += data
                    self._changed.notify_all()
        except OSError:
            return


def _close(each: socket.socket) -> None:
    """`shutdown` first: it wakes the thread that waits in `accept` or `recv`, which `close` alone does not."""
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
