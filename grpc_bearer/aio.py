"""The asyncio doors, under the same names as the sync ones."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import grpc
from grpc import aio

from grpc_bearer._aio_calls import (
    AioCall,
    Replay,
    StreamStreamCall,
    StreamUnaryCall,
    UnaryStreamCall,
    UnaryUnaryCall,
)
from grpc_bearer._aio_interceptor import interceptors
from grpc_bearer._auth import as_auth
from grpc_bearer._door import Attach, Door, Route, check_attach, materialised, with_attach_options, wrapped_method
from grpc_bearer._engine import Lease
from grpc_bearer._replay import UNKNOWN, AsyncReplayBuffer, Once, serialise, snapshot
from grpc_bearer._retry import DEFAULT, RetryPolicy
from grpc_bearer._security import protecting, provable_target, refuse_plaintext
from grpc_bearer._trial import Trial
from grpc_bearer.errors import ConfigurationError

__all__ = ["Channel", "insecure_channel", "intercept_channel", "interceptors", "secure_channel"]

Options = Sequence[tuple[str, Any]]


class _MultiCallable:
    """One method of a channel.

    Args:
        inner: gRPC's own multicallable.
        route: the method.
        serializer: of requests; `inner` then takes what `_replay.serialise` gives. Not given: `inner` takes requests.
    """

    _call: type[AioCall]

    def __init__(self, inner: Any, route: Route, serializer: Any = UNKNOWN) -> None:
        self._inner = inner
        self._route = route
        self._serializer = serializer

    def _one(self, request: Any) -> Any:
        """The request, for a call that goes on after it was handed out: what the caller does to it now is theirs."""
        if self._serializer is not UNKNOWN:
            return serialise(self._serializer, request)
        return request if self._route.policy is None else snapshot(request)

    def _many(self, requests: Any) -> Replay:
        policy = self._route.policy
        if self._serializer is UNKNOWN or policy is None:
            return Once(requests)
        return AsyncReplayBuffer(requests, self._serializer, policy.replay_messages, policy.replay_bytes)

    def _open(
        self,
        request: Any,
        replay: Replay | None,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        metadata = materialised(metadata)
        began = time.monotonic()
        sent, credentials, carrier = self._route.plan(metadata, credentials, wait_for_ready)

        def make(left: float | None, sent: Any, credentials: Any) -> Any:
            return self._inner(
                request if replay is None else replay.reader(),
                timeout=left,
                metadata=sent,
                credentials=credentials,
                wait_for_ready=wait_for_ready,
                compression=compression,
            )

        untouched = carrier is None or (isinstance(carrier, Lease) and self._route.policy is None)
        if untouched and not isinstance(replay, AsyncReplayBuffer):
            return make(timeout, sent, credentials)
        trial = Trial(self._route, metadata, wait_for_ready, None if timeout is None else began + timeout, began)
        return self._call(trial, make, replay).begin(sent, credentials, carrier)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class _UnaryUnary(_MultiCallable, aio.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
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
        return self._open(self._one(request), None, timeout, metadata, credentials, wait_for_ready, compression)


class _UnaryStream(_MultiCallable, aio.UnaryStreamMultiCallable):  # type: ignore[type-arg]
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
        return self._open(self._one(request), None, timeout, metadata, credentials, wait_for_ready, compression)


class _StreamUnary(_MultiCallable, aio.StreamUnaryMultiCallable):  # type: ignore[type-arg]
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
        return self._open(None, replay, timeout, metadata, credentials, wait_for_ready, compression)


class _StreamStream(_MultiCallable, aio.StreamStreamMultiCallable):  # type: ignore[type-arg]
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
        return self._open(None, replay, timeout, metadata, credentials, wait_for_ready, compression)


#: gRPC's own kinds of multicallable, and ours around them.
KINDS: dict[type, type[_MultiCallable]] = {
    aio.UnaryUnaryMultiCallable: _UnaryUnary,
    aio.UnaryStreamMultiCallable: _UnaryStream,
    aio.StreamUnaryMultiCallable: _StreamUnary,
    aio.StreamStreamMultiCallable: _StreamStream,
}


class Channel(aio.Channel):
    """A `grpc.aio.Channel` whose calls carry a token; in all else the channel it wraps."""

    def __init__(self, channel: aio.Channel, door: Door) -> None:
        self._inner = channel
        self._door = door

    def _wrapped(self, kind: str, method: str, serializer: Any, deserializer: Any, registered: bool | None) -> Any:
        return wrapped_method(
            KINDS, getattr(self._inner, kind), self._door, method, serializer, deserializer, registered
        )

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._wrapped("unary_unary", method, request_serializer, response_deserializer, _registered_method)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._wrapped("unary_stream", method, request_serializer, response_deserializer, _registered_method)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._wrapped("stream_unary", method, request_serializer, response_deserializer, _registered_method)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        return self._wrapped("stream_stream", method, request_serializer, response_deserializer, _registered_method)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self._inner.close(grace)

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        await self._inner.__aexit__(kind, error, trace)
        return None

    def __getattr__(self, name: str) -> Any:
        # Some add interceptors to an asyncio channel after it was made.
        return getattr(self._inner, name)


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[aio.ClientInterceptor] | None = None,
    *,
    auth: object,
    retry: RetryPolicy | None = DEFAULT,
    attach: Attach = "auto",
) -> aio.Channel:
    """`grpc.aio.secure_channel`, with a token on every call; see `grpc_bearer.secure_channel`."""
    bearer = as_auth(auth)
    credentials = protecting(credentials)
    if check_attach(attach) == "call_credentials":
        composite = grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(bearer))
        return aio.secure_channel(target, composite, options, compression, interceptors)
    channel = aio.secure_channel(target, credentials, with_attach_options(options, attach), compression, interceptors)
    return Channel(channel, Door(bearer, provable_target(channel, credentials), attach=attach, retry=retry))


def insecure_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[aio.ClientInterceptor] | None = None,
    *,
    auth: object,
    retry: RetryPolicy | None = DEFAULT,
    allow_plaintext: bool = False,
) -> aio.Channel:
    """`grpc.aio.insecure_channel`, with a token on every call, in the clear; see `grpc_bearer.insecure_channel`."""
    bearer = as_auth(auth)
    if not allow_plaintext:
        raise refuse_plaintext()
    channel = aio.insecure_channel(target, options, compression, interceptors)
    return Channel(channel, Door(bearer, provable_target(channel), plaintext=True, retry=retry))


def intercept_channel(
    channel: aio.Channel, auth: object, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False
) -> aio.Channel:
    """An asyncio channel that someone else built, with a token on every call; see `grpc_bearer.intercept_channel`."""
    if not isinstance(channel, aio.Channel):
        raise ConfigurationError(
            f"channel: expected a grpc.aio.Channel, got {type(channel).__name__}; sync channels go to "
            "grpc_bearer.intercept_channel"
        )
    return Channel(channel, Door(as_auth(auth), provable_target(channel), plaintext=allow_plaintext, retry=retry))
