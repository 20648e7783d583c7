"""An HTTP/2 server on loopback, without TLS, that answers as proxies do and no gRPC server can be made to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

NO_ERROR, CANCEL, ENHANCE_YOUR_CALM = 0, 8, 11
_BODY = b"<html><body><h1>No</h1></body></html>"

#: From the headers of a request, its stream and whether it has all come: what is answered. Nothing, `b""`, puts it off
#: until all has come.
Answer = Callable[["Request"], bytes]


class Request:
    """One request, and the ways to answer it."""

    def __init__(self, headers: dict[str, str], size: int, stream: int, ended: bool, encoder: hpack.Encoder) -> None:
        self.headers, self.size, self.ended = headers, size, ended
        self._stream, self._encoder = stream, encoder

    @property
    def path(self) -> str:
        return self.headers[":path"].removeprefix("/")

    def _headers(self, fields: dict[str, str], *flags: str) -> bytes:
        return HeadersFrame(self._stream, self._encoder.encode(fields), flags=("END_HEADERS", *flags)).serialize()

    def grpc(self, status: int, **fields: str) -> bytes:
        """A trailers-only answer; `fields` are more headers."""
        known = {":status": "200", "content-type": "application/grpc", "grpc-status": str(status)}
        return self._headers(known | _dashed(fields), "END_STREAM")

    def bare(self, status: int, **fields: str) -> bytes:
        """An answer of HTTP's, with a page for people."""
        headers = self._headers({":status": str(status), "content-type": "text/html"} | _dashed(fields))
        return headers + DataFrame(self._stream, _BODY, flags=("END_STREAM",)).serialize()

    def empty(self) -> bytes:
        """One message, with nothing in it, and OK."""
        headers = self._headers({":status": "200", "content-type": "application/grpc"})
        message = DataFrame(self._stream, bytes(5)).serialize()
        return headers + message + self._headers({"grpc-status": "0"}, "END_STREAM")

    def reset(self, error: int) -> bytes:
        return RstStreamFrame(self._stream, error).serialize()

    def goaway(self, error: int, text: bytes = b"") -> bytes:
        return GoAwayFrame(0, self._stream, error, text).serialize()


class Peer:
    """Answers every request by a function; `paths` are those that came.

    When `seen` is set, the client has read all that it was sent until then: it has answered a ping.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.paths: list[str] = []
        self.seen = threading.Event()
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
        later: dict[int, Request] = {}
        with connection, contextlib.suppress(OSError, EOFError):
            _exactly(connection, len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
            connection.sendall(SettingsFrame(0).serialize())
            while True:
                frame = _read(connection)
                connection.sendall(self._acknowledgement(frame))
                if isinstance(frame, DataFrame) and "END_STREAM" in frame.flags and frame.stream_id in later:
                    request = later.pop(frame.stream_id)
                    request.ended = True
                    connection.sendall(self._answer(request))
                if not isinstance(frame, HeadersFrame | ContinuationFrame):
                    continue
                block += frame.data
                if "END_HEADERS" not in frame.flags:
                    continue
                headers, size, block = dict(decoder.decode(block)), len(block), b""
                request = Request(headers, size, frame.stream_id, _has_ended(connection, frame), encoder)
                self.paths.append(request.path)
                answer = self._answer(request)
                if not answer:
                    later[frame.stream_id] = request
                    continue
                connection.sendall(answer + PingFrame(0, b"all seen").serialize())
                if answer[3] == GoAwayFrame.type:
                    # Hangs up, and reads what still comes: else the client may get a reset before the GOAWAY.
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1 << 16):
                        pass

    def _acknowledgement(self, frame: Frame) -> bytes:
        """What the frame asks for, if it is one of the connection's own."""
        if isinstance(frame, PingFrame) and "ACK" in frame.flags:
            self.seen.set()
        elif isinstance(frame, PingFrame):
            return PingFrame(0, frame.opaque_data, flags=("ACK",)).serialize()
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            return SettingsFrame(flags=("ACK",)).serialize()
        return b""


def _dashed(fields: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in fields.items()}


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found


def _read(connection: socket.socket) -> Frame:
    frame, length = Frame.parse_frame_header(memoryview(_exactly(connection, 9)))
    frame.parse_body(memoryview(_exactly(connection, length)))
    return frame


def _has_ended(connection: socket.socket, frame: Frame) -> bool:
    """Whether the request's end has come together with its headers, as it does if there is but one message."""
    if "END_STREAM" in frame.flags:
        return True
    try:
        more = connection.recv(1 << 16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    while len(more) >= 9:
        later, length = Frame.parse_frame_header(memoryview(more[:9]))
        if isinstance(later, DataFrame) and later.stream_id == frame.stream_id and "END_STREAM" in later.flags:
            return True
        more = more[9 + length :]
    return False
