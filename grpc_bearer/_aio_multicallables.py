"""The asyncio multicallables: gRPC's own, with a token on every call."""

from __future__ import annotations

from typing import Any

import grpc
from grpc import aio

from grpc_bearer._aio_calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from grpc_bearer._methods import MultiCallable
from grpc_bearer._replay import AsyncReplayBuffer, Once


class _AioMultiCallable(MultiCallable):
    _buffer = AsyncReplayBuffer


class _Watched(Once):
    pushed = True


class _StreamRequests(_AioMultiCallable):
    def _many(self, requests: Any) -> Any:
        # grpc.aio puts a placeholder before the server's status when a write fails, and only our call looks behind it:
        # so every request stream gets one, those too that are not kept.
        replay = super()._many(requests)
        if not isinstance(replay, Once):
            return replay
        if requests is not None:
            return _Watched(requests)
        unkept = AsyncReplayBuffer(None, None, 0, 0)
        unkept.release()
        return unkept


class _UnaryUnary(_AioMultiCallable, aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    _call = UnaryUnaryCall

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._open(
            self._inner, self._kept_one(request), None, timeout, metadata, credentials, wait_for_ready, compression
        )


class _UnaryStream(_AioMultiCallable, aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    _call = UnaryStreamCall

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._open(
            self._inner, self._kept_one(request), None, timeout, metadata, credentials, wait_for_ready, compression
        )


class _StreamUnary(_StreamRequests, aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    _call = StreamUnaryCall

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        replay = self._many(request_iterator)
        return self._open(self._inner, None, replay, timeout, metadata, credentials, wait_for_ready, compression)


class _StreamStream(_StreamRequests, aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    _call = StreamStreamCall

    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        replay = self._many(request_iterator)
        return self._open(self._inner, None, replay, timeout, metadata, credentials, wait_for_ready, compression)


#: gRPC's own kinds of multicallable, and ours around them.
KINDS: dict[type, type[MultiCallable]] = {
    aio.UnaryUnaryMultiCallable: _UnaryUnary,
    aio.UnaryStreamMultiCallable: _UnaryStream,
    aio.StreamUnaryMultiCallable: _StreamUnary,
    aio.StreamStreamMultiCallable: _StreamStream,
}
