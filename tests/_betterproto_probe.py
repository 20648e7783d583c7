"""What `protoc --python_betterproto2_out` with `client_generation=async` makes of protos/, without its comments."""

# ruff: noqa: RUF009 - as it is generated
from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Any

import betterproto2
import betterproto2.grpclib as betterproto2_grpclib


@dataclass(eq=False, repr=False)
class ProbeReply(betterproto2.Message):
    index: int = betterproto2.field(1, betterproto2.TYPE_INT64)
    count: int = betterproto2.field(2, betterproto2.TYPE_INT64)
    indexes: list[int] = betterproto2.field(3, betterproto2.TYPE_INT64, repeated=True)
    digest: bytes = betterproto2.field(4, betterproto2.TYPE_BYTES)


@dataclass(eq=False, repr=False)
class ProbeRequest(betterproto2.Message):
    index: int = betterproto2.field(1, betterproto2.TYPE_INT64)
    payload: bytes = betterproto2.field(2, betterproto2.TYPE_BYTES)
    replies: int = betterproto2.field(3, betterproto2.TYPE_INT32)
    delay_ms: int = betterproto2.field(4, betterproto2.TYPE_INT32)


class ProbeStub(betterproto2_grpclib.ServiceStub):
    async def unary(self, message: ProbeRequest, **how: Any) -> ProbeReply:
        return await self._unary_unary("/grpc_bearer.testing.v1.Probe/Unary", message, ProbeReply, **how)

    async def server_stream(self, message: ProbeRequest, **how: Any) -> AsyncIterator[ProbeReply]:
        async for reply in self._unary_stream("/grpc_bearer.testing.v1.Probe/ServerStream", message, ProbeReply, **how):
            yield reply

    async def client_stream(
        self, messages: AsyncIterable[ProbeRequest] | Iterable[ProbeRequest], **how: Any
    ) -> ProbeReply:
        return await self._stream_unary(
            "/grpc_bearer.testing.v1.Probe/ClientStream", messages, ProbeRequest, ProbeReply, **how
        )

    async def bidi_stream(
        self, messages: AsyncIterable[ProbeRequest] | Iterable[ProbeRequest], **how: Any
    ) -> AsyncIterator[ProbeReply]:
        async for reply in self._stream_stream(
            "/grpc_bearer.testing.v1.Probe/BidiStream", messages, ProbeRequest, ProbeReply, **how
        ):
            yield reply
