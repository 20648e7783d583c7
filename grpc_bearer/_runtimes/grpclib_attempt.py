"""One attempt of a grpclib call: a stream of grpclib's own, that sends bytes and carries a token."""

from __future__ import annotations

from typing import Any

import grpc
from grpclib.client import Stream
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, StreamTerminatedError
from grpclib.metadata import decode_bin_value

from grpc_bearer._calls.failure import Failure
from grpc_bearer._engine.engine import Lease

_SUPERSEDED = "the server refused the token; another attempt of this call is made"


class Bytes(CodecBase):
    """The codec of requests that are bytes already."""

    def __init__(self, codec: CodecBase) -> None:
        self._codec = codec

    @property
    def __content_subtype__(self) -> str:
        return self._codec.__content_subtype__

    def encode(self, message: Any, message_type: Any) -> bytes:
        sent: bytes = message
        return sent

    def decode(self, data: bytes, message_type: Any) -> Any:
        return self._codec.decode(data, message_type)


class Dispatch:
    """What grpclib tells of events. Adds the token last, so that no listener of the user's sees it."""

    def __init__(self, inner: Any, lease: Lease) -> None:
        self._inner = inner
        self._token = lease.metadata
        self.lease: Lease | None = lease

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def send_request(self, metadata: Any, **how: Any) -> tuple[Any]:
        (metadata,) = await self._inner.send_request(metadata, **how)
        if self._token[0][0] in metadata:  # from a listener: the user's own wins, and none goes out twice
            self.lease = None
        else:
            metadata = metadata.copy()  # what listeners hold stays without it
            for name, value in self._token:
                metadata.add(name, str(value))
        return (metadata,)

    async def send_message(self, message: Any) -> tuple[Any]:
        return (message,)  # told already, once, whatever the number of attempts


class Attempt:
    """One attempt, and how much of the requests it has sent."""

    def __init__(self, stream: Stream[Any, Any], dispatch: Dispatch) -> None:
        self.stream = stream
        self._dispatch = dispatch
        self.sent = 0
        self.ended = False
        self.left = False  # another one takes its place

    @property
    def lease(self) -> Lease | None:
        """What carried its token; `None`: nothing of ours."""
        return self._dispatch.lease

    def status(self) -> GRPCError | None:
        """The server's error, if it has come, also where grpclib has met another end of the stream before."""
        try:
            self.stream._maybe_raise()
        except GRPCError as error:
            return error
        return None

    def failure(self, error: GRPCError) -> Failure:
        """How it failed. grpclib keeps gRPC's own headers, such as the rich status, out of the metadata it shows."""
        raw = self.stream._stream
        code, details = grpc.StatusCode[error.status.name], error.message or ""
        return Failure(error, code, details, _entries(raw.headers), _entries(raw.trailers or raw.headers))

    async def leave(self, error: GRPCError) -> None:
        """End it, and wake whoever still sends or waits on it."""
        self.left = True
        self.stream._wrapper.cancel(StreamTerminatedError(_SUPERSEDED))
        await self.stream.__aexit__(GRPCError, error, None)


def _entries(headers: Any) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(
        (name, decode_bin_value(value.encode("ascii")) if name.endswith("-bin") else value)
        for name, value in headers or ()
        if not name.startswith(":")
    )
