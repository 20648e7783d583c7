"""One HTTP/2 connection through the `GoawayProxy`. Needs hpack and hyperframe, so it is imported where it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hpack import Decoder
from hyperframe.frame import ContinuationFrame, Frame, GoAwayFrame, HeadersFrame

from grpc_bearer._base.http2 import PREFACE


class Connection:
    """Frames go through untouched until the limit of streams is reached.

    Args:
        down: to the client.
        up: to the server.
        limit: how many streams are let through; `None` for all.
        refuse: told the headers of each stream that was not.
    """

    def __init__(
        self,
        down: asyncio.StreamWriter,
        up: asyncio.StreamWriter,
        limit: int | None,
        refuse: Callable[[list[tuple[str, str]]], None],
    ) -> None:
        self._down, self._up = down, up
        self._limit = limit
        self._decoder = Decoder()
        self._refuse = refuse
        self._streams = 0
        self._last_passed: int | None = None  # set once the GOAWAY is out
        self._newest = 0
        self._block = b""

    async def upwards(self, reader: asyncio.StreamReader) -> None:
        self._up.write(await reader.readexactly(len(PREFACE)))
        while True:
            frame, raw = await _read(reader)
            if isinstance(frame, HeadersFrame | ContinuationFrame):
                self._headers(frame)
            if self._last_passed is None or frame.stream_id <= self._last_passed:
                self._up.write(raw)
                await self._up.drain()

    async def downwards(self, reader: asyncio.StreamReader) -> None:
        """Frame by frame, because the GOAWAY goes out between two of them."""
        while True:
            self._down.write((await _read(reader))[1])
            await self._down.drain()

    def _headers(self, frame: HeadersFrame | ContinuationFrame) -> None:
        """Every block of headers is decoded, also of streams that are let through: each changes HPACK's table."""
        if isinstance(frame, HeadersFrame) and frame.stream_id > self._newest:
            self._begin_stream(frame.stream_id)
        self._block += frame.data
        if "END_HEADERS" not in frame.flags:
            return
        decoded = self._decoder.decode(self._block, raw=True)
        self._block = b""
        if self._last_passed is not None and frame.stream_id > self._last_passed:
            self._refuse([(name.decode("latin-1"), value.decode("latin-1")) for name, value, *_ in decoded])

    def _begin_stream(self, stream: int) -> None:
        self._streams += 1
        if self._last_passed is None and self._limit is not None and self._streams > self._limit:
            self._last_passed = self._newest
            self._down.write(GoAwayFrame(last_stream_id=self._last_passed).serialize())
        self._newest = stream


async def _read(reader: asyncio.StreamReader) -> tuple[Frame, bytes]:
    """The next frame, and its bytes as they came: hyperframe would write gRPC's own settings with other numbers.

    Raises:
        asyncio.IncompleteReadError: the connection ended.
    """
    head = await reader.readexactly(9)
    frame, length = Frame.parse_frame_header(memoryview(head))
    body = await reader.readexactly(length)
    frame.parse_body(memoryview(body))
    return frame, head + body
