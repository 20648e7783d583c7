"""The asyncio interceptor door: four objects, since `grpc.aio` takes each object for one kind of call only.

As in the sync door nothing is ever proved here: each call takes its token through core.
"""

from __future__ import annotations

import contextvars
import functools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from grpc import aio

from grpc_bearer._aio_call import AioCall
from grpc_bearer._aio_calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from grpc_bearer._aio_ends import refused
from grpc_bearer._auth import as_auth
from grpc_bearer._door import WAIT, Door, Route, materialised
from grpc_bearer._interceptor import changed
from grpc_bearer._replay import Once, snapshot
from grpc_bearer._retry import DEFAULT, RetryPolicy
from grpc_bearer._trial import Trial

Continuation = Callable[[Any, Any], Awaitable[Any]]


class _Interceptor:
    _call: type[AioCall]

    def __init__(self, door: Door) -> None:
        self._door = door

    async def _intercept(self, continuation: Continuation, details: Any, request: Any, replay: Any = None) -> Any:
        route = Route(self._door, details.method)
        metadata, timeout = materialised(details.metadata), details.timeout
        sent, credentials, carrier = route.plan(metadata, details.credentials, details.wait_for_ready)

        def make(left: float | None, sent: Any, credentials: Any) -> Awaitable[Any]:
            fresh = sent if sent is None else aio.Metadata(*sent)  # interceptors after us expect one, and may change it
            return continuation(changed(details, timeout=left, metadata=fresh, credentials=credentials), request)

        if carrier is None:
            return await make(timeout, sent, credentials)
        began = time.monotonic()
        deadline = None if timeout is None else began + timeout
        begun = functools.partial(Trial, route, make, metadata, details.wait_for_ready, deadline, began, contextvars.copy_context())
        if carrier is WAIT:
            return self._call(begun, replay, None, carrier)
        try:
            inner = await make(timeout, sent, credentials)
        except aio.UsageError as error:
            inner = refused(carrier, error)
        return self._call(begun, replay, inner, carrier)

    # The names of arguments are gRPC's.
    async def _intercept_one(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await self._intercept(
            continuation, client_call_details, snapshot(request) if self._door.retry else request
        )

    async def _intercept_many(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await self._intercept(continuation, client_call_details, request_iterator, Once(request_iterator))


class _UnaryUnary(_Interceptor, aio.UnaryUnaryClientInterceptor):
    _call = UnaryUnaryCall
    intercept_unary_unary = _Interceptor._intercept_one


class _UnaryStream(_Interceptor, aio.UnaryStreamClientInterceptor):
    _call = UnaryStreamCall
    intercept_unary_stream = _Interceptor._intercept_one


class _StreamUnary(_Interceptor, aio.StreamUnaryClientInterceptor):
    _call = StreamUnaryCall
    intercept_stream_unary = _Interceptor._intercept_many


class _StreamStream(_Interceptor, aio.StreamStreamClientInterceptor):
    _call = StreamStreamCall
    intercept_stream_stream = _Interceptor._intercept_many


def interceptors(auth: object, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False) -> list[Any]:
    """Four interceptors for `grpc.aio.secure_channel(interceptors=...)`, one for each kind of call.

    Args:
        auth: as for `grpc_bearer.secure_channel`.
        retry: likewise; request streams are never sent again here, since their serializer is the channel's own.
        allow_plaintext: tokens may travel in the clear on the channels they are used on.
    """
    door = Door(as_auth(auth), None, plaintext=allow_plaintext, retry=retry)
    return [kind(door) for kind in (_UnaryUnary, _UnaryStream, _StreamUnary, _StreamStream)]
