"""An HTTP/2 server on loopback, without TLS, that answers as proxies do and no gRPC server can be made to."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

import hpack

from grpc_bearer.testing._frames import CONTINUATION, END_HEADERS, HEADERS, PREFACE, SETTINGS, Frame, header_fragment

_DATA, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0x0, 0x3, 0x4, 0x6, 0x7
_ACK = END_STREAM = 0x1
CANCEL, ENHANCE_YOUR_CALM = 8, 11
_BODY = b"<html><body><h1>No</h1></body></html>"

#: From the headers of a request, its stream and whether it has all come: what is answered.
Answer = Callable[["Request"], bytes]


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


class Request:
    """One request, and the ways to answer it."""

    def __init__(self, headers: dict[str, str], size: int, stream: int, ended: bool, encoder: hpack.Encoder) -> None:
        self.headers, self.size, self.ended = headers, size, ended
        self._stream, self._encoder = stream, encoder

    @property
    def path(self) -> str:
        return self.headers[":path"].removeprefix("/")

    def _headers(self, flags: int, *fields: tuple[str, str]) -> bytes:
        return _frame(HEADERS, END_HEADERS | flags, self._stream, self._encoder.encode(fields))

    def grpc(self, status: int) -> bytes:
        """A trailers-only answer."""
        fields = (":status", "200"), ("content-type", "application/grpc"), ("grpc-status", str(status))
        return self._headers(END_STREAM, *fields)

    def bare(self, status: int) -> bytes:
        """An answer of HTTP's, with a page for people."""
        return self._headers(0, (":status", str(status)), ("content-type", "text/html")) + _frame(
            _DATA, END_STREAM, self._stream, _BODY
        )

    def reset(self, error: int) -> bytes:
        return _frame(_RST_STREAM, 0, self._stream, struct.pack(">I", error))

    def goaway(self, error: int, text: bytes = b"") -> bytes:
        return _frame(_GOAWAY, 0, 0, struct.pack(">II", self._stream, error) + text)


class Peer:
    """Answers every request by a function; `paths` are those that came."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.paths: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Peer:
        threading.Thread(target=self._serve, name="http2-peer", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._talk, args=(connection,), name="http2-peer", daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        decoder, encoder, block = hpack.Decoder(max_header_list_size=1 << 20), hpack.Encoder(), b""
        with connection, contextlib.suppress(OSError, EOFError):
            _exactly(connection, len(PREFACE))
            connection.sendall(SETTINGS)
            while True:
                frame = _read(connection)
                if frame.kind in (_SETTINGS, _PING) and not frame.flags & _ACK:
                    connection.sendall(_frame(frame.kind, _ACK, 0, frame.payload if frame.kind == _PING else b""))
                if frame.kind not in (HEADERS, CONTINUATION):
                    continue
                block += header_fragment(frame)
                if not frame.flags & END_HEADERS:
                    continue
                headers, size, block = dict(decoder.decode(block)), len(block), b""
                request = Request(headers, size, frame.stream, _has_ended(connection, frame), encoder)
                self.paths.append(request.path)
                answer = self._answer(request)
                connection.sendall(answer)
                if answer[3] == _GOAWAY:
                    # Hangs up, and reads what still comes: else the client may get a reset before the GOAWAY.
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def _read(connection: socket.socket) -> Frame:
    head = _exactly(connection, 9)
    high, low, kind, flags, stream = struct.unpack(">BHBBI", head)
    payload = _exactly(connection, high << 16 | low)
    return Frame(kind, flags, stream, payload, head + payload)


def _has_ended(connection: socket.socket, frame: Frame) -> bool:
    """Whether the request's end has come together with its headers, as it does if there is but one message."""
    if frame.flags & END_STREAM and frame.kind == HEADERS:
        return True
    try:
        more = connection.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    while len(more) >= 9:
        high, low, kind, flags, stream = struct.unpack(">BHBBI", more[:9])
        if (kind, stream, flags & END_STREAM) == (_DATA, frame.stream, END_STREAM):
            return True
        more = more[9 + (high << 16 | low) :]
    return False
