"""As much of HTTP/2's framing as `GoawayProxy` and `PlaintextRecorder` need (RFC 9113 section 4 and 6)."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

__all__ = [
    "CONTINUATION",
    "END_HEADERS",
    "HEADERS",
    "PREFACE",
    "SETTINGS",
    "Frame",
    "goaway",
    "header_fragment",
    "read_frame",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEADERS, CONTINUATION = 0x1, 0x9
END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_NO_ERROR = 0

#: An empty SETTINGS frame, with which a server's side of the connection begins.
SETTINGS = bytes([0, 0, 0, 0x4, 0, 0, 0, 0, 0])


@dataclass(frozen=True, slots=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes
    raw: bytes


async def read_frame(reader: asyncio.StreamReader) -> Frame:
    """The next frame.

    Raises:
        asyncio.IncompleteReadError: the connection ended.
    """
    head = await reader.readexactly(9)
    high, low, kind, flags, stream = struct.unpack(">BHBBI", head)
    payload = await reader.readexactly(high << 16 | low)
    return Frame(kind, flags, stream & 0x7FFF_FFFF, payload, head + payload)


def header_fragment(frame: Frame) -> bytes:
    """The piece of a header block that a HEADERS or CONTINUATION frame carries."""
    piece = frame.payload
    if frame.kind == HEADERS and frame.flags & _PADDED:
        piece = piece[1 : len(piece) - piece[0]]
    if frame.kind == HEADERS and frame.flags & _PRIORITY:
        piece = piece[5:]
    return piece


def goaway(last_stream: int) -> bytes:
    """A GOAWAY frame with NO_ERROR: streams above `last_stream` were not processed."""
    return struct.pack(">BHBBIII", 0, 8, 0x7, 0, 0, last_stream, _NO_ERROR)
