"""The asyncio multicallables: gRPC's own, with a token on every call."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Sequence
from typing import Any

import grpc
from grpc import aio

from grpc_bearer._calls.aio_call import AioCall
from grpc_bearer._calls.aio_call_kinds import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from grpc_bearer._calls.aio_errors import refused
from grpc_bearer._calls.aio_interceptor import KINDS as INTERCEPTORS
from grpc_bearer._calls.aio_interceptor import Interceptor, OneAttachment, TokenMetadata
from grpc_bearer._calls.aio_replay import AsyncReplayBuffer, unkept
from grpc_bearer._calls.attach_token import NOBODY, WAIT, materialised
from grpc_bearer._calls.grpc_private import aio_interceptors, aio_is_closed, below, core_of, is_grpcs
from grpc_bearer._calls.grpc_types import Metadata
from grpc_bearer._calls.methods import CallOptions, MultiCallable, history_of
from grpc_bearer._calls.replay import NotReplayable
from grpc_bearer._engine.engine import Lease

# Where type-arg is ignored: generic in gRPC's stubs only, not when the program runs.


class _AioMultiCallable(TokenMetadata, MultiCallable):
    _call: type[AioCall]
    _buffer = AsyncReplayBuffer
    _made: tuple[Lease | None, aio.Metadata | None] = (None, None)
    _interceptor: type[Interceptor]
    _through: tuple[Sequence[object], Any] = ((), None)

    def __init__(self, inner: Any, *rest: Any) -> None:
        super().__init__(inner, *rest)
        self._is_grpcs = is_grpcs(inner)

    def _below_users(self) -> Any:
        """gRPC's own multicallable with the user's interceptors, and ours after them.

        So they see messages and calls as they would without us, and never the token; and nobody is between us and core.
        """
        users = aio_interceptors(self._inner)
        known, through = self._through
        if known != users:
            ours = self._interceptor(OneAttachment(self._route.attachment, core_of(self._inner)), self._serializer)
            self._through = list(users), (through := below(self._inner, [*users, ours]))
        return through

    def _held(self, request: Any) -> tuple[object, AsyncReplayBuffer | None]:
        """What is kept of a request, or of requests."""
        raise NotImplementedError

    def _open(self, request: Any, options: CallOptions) -> Any:
        """Begin a call."""
        route, call, began = self._route, self._inner, time.monotonic()
        timeout, metadata, credentials, wait_for_ready, compression = options
        if self._is_grpcs and aio_interceptors(call):
            return self._below_users()(
                request,
                timeout=timeout,
                metadata=metadata,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )
        one, replay = self._held(request)
        carrier: Any = None
        sent: Metadata | None
        if metadata is None and credentials is None and not wait_for_ready:
            carrier = route.at_hand()
        if carrier is not None:
            sent, carried = (self._made[1] if carrier is self._made[0] else self._metadata_of(carrier)), None
        else:
            options = options._replace(metadata=materialised(metadata))
            sent, carried, carrier = route.plan(options.metadata, credentials, wait_for_ready)
        inner = None
        if carrier is not WAIT:
            if carrier is None and replay is not None:
                replay.release()  # the caller's own token: the call is not made again
            try:
                inner = call(
                    one if replay is None else replay.reader(),
                    timeout=timeout,
                    metadata=sent,
                    credentials=carried,
                    wait_for_ready=wait_for_ready,
                    compression=compression,
                )
            except aio.UsageError as error:
                inner = refused(carrier, error)
            if replay is None and (carrier is None or (route.policy is None and type(carrier) is Lease)):
                return inner
        elif route.attachment.closing or aio_is_closed(call):
            raise aio.UsageError("Channel is closed.")  # as grpc.aio does, which is not asked before the token is there
        caller = contextvars.copy_context() or NOBODY
        begun = (history_of, route, call, one, replay, options, began, caller)
        return self._call(begun, replay, inner, carrier)


class _OneRequest(_AioMultiCallable):
    def __call__(
        self,
        request: object,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        # Nearly every call comes with nothing of its own and finds the token at hand: in as few frames as can be.
        route, call, lease = self._route, self._inner, None
        if metadata is None and credentials is None and not wait_for_ready:
            lease = None if self._is_grpcs and aio_interceptors(call) else route.at_hand()
        if lease is None:
            return self._open(request, CallOptions(timeout, metadata, credentials, wait_for_ready, compression))
        began, request = time.monotonic(), self._kept_one(request)
        sent = self._made[1] if lease is self._made[0] else self._metadata_of(lease)
        try:
            inner = call(
                request, timeout=timeout, metadata=sent, wait_for_ready=wait_for_ready, compression=compression
            )
        except aio.UsageError as error:
            inner = refused(lease, error)
        if route.policy is None:
            return inner
        options = timeout, None, None, wait_for_ready, compression
        caller = contextvars.copy_context() or NOBODY
        return self._call((history_of, route, call, request, None, options, began, caller), None, inner, lease)

    def _held(self, request: Any) -> tuple[object, AsyncReplayBuffer | None]:
        return self._kept_one(request), None


class _StreamRequests(_AioMultiCallable):
    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._open(request_iterator, CallOptions(timeout, metadata, credentials, wait_for_ready, compression))

    def _held(self, request: Any) -> tuple[object, AsyncReplayBuffer | None]:
        return None, self._many(request)

    def _many(self, requests: Any) -> Any:
        replay = super()._many(requests)
        return unkept(requests) if isinstance(replay, NotReplayable) else replay


class _UnaryUnary(_OneRequest, aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    _call = UnaryUnaryCall
    _interceptor = INTERCEPTORS[aio.UnaryUnaryMultiCallable]


class _UnaryStream(_OneRequest, aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    _call = UnaryStreamCall
    _interceptor = INTERCEPTORS[aio.UnaryStreamMultiCallable]


class _StreamUnary(_StreamRequests, aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    _call = StreamUnaryCall
    _interceptor = INTERCEPTORS[aio.StreamUnaryMultiCallable]


class _StreamStream(_StreamRequests, aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
    _call = StreamStreamCall
    _interceptor = INTERCEPTORS[aio.StreamStreamMultiCallable]


#: gRPC's own kinds of multicallable, and ours around them.
KINDS: dict[type, type[MultiCallable]] = {
    aio.UnaryUnaryMultiCallable: _UnaryUnary,
    aio.UnaryStreamMultiCallable: _UnaryStream,
    aio.StreamUnaryMultiCallable: _StreamUnary,
    aio.StreamStreamMultiCallable: _StreamStream,
}
