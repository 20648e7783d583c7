"""The sync interceptor door.

An interceptor does not know which channel it serves, so nothing is ever proved there: each call takes its token through
core, with call credentials of its own. `intercept_channel` is the faster door.
"""

from __future__ import annotations

import contextvars
import functools
import time
from collections.abc import Callable
from typing import Any

import grpc

from grpc_bearer._auth import as_auth
from grpc_bearer._bare import whole
from grpc_bearer._calls import SyncCall
from grpc_bearer._door import WAIT, Door, Route, materialised
from grpc_bearer._replay import Once, snapshot
from grpc_bearer._retry import DEFAULT, RetryPolicy
from grpc_bearer._trial import Trial


def changed(details: Any, **changes: Any) -> Any:
    """Call details with some fields changed and all others kept, also those of later gRPC versions."""
    if hasattr(details, "_replace"):
        return details._replace(**changes)
    return _Details(details, changes)


class _Details(grpc.ClientCallDetails):
    def __init__(self, details: Any, changes: dict[str, Any]) -> None:
        self._details = details
        self.__dict__.update(changes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._details, name)


class BearerInterceptor(
    grpc.AuthMetadataPlugin,
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """A client interceptor of all four kinds, and an `AuthMetadataPlugin`.

    Make one with `grpc_bearer.interceptor(auth)`.

    >>> import grpc_bearer
    >>> channel = grpc.secure_channel("localhost:1", grpc.ssl_channel_credentials())
    >>> channel = grpc.intercept_channel(channel, grpc_bearer.interceptor("s3cret"))
    """

    def __init__(self, door: Door) -> None:
        door.intercepts = True
        self._door = door

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        self._door.auth(context, callback)

    def _intercept(
        self, continuation: Callable[[Any, Any], Any], details: Any, request: Any, replay: Any = None
    ) -> Any:
        route = Route(self._door, details.method)
        metadata, timeout = materialised(details.metadata), details.timeout
        wait_for_ready = getattr(details, "wait_for_ready", None)
        credentials = getattr(details, "credentials", None)
        sent, carried, carrier = route.plan(metadata, credentials, wait_for_ready)

        def make(left: float | None, sent: Any, credentials: Any) -> Any:
            return whole(continuation(changed(details, timeout=left, metadata=sent, credentials=credentials), request))

        if carrier is None:
            return make(timeout, sent, carried)
        began = time.monotonic()
        deadline = None if timeout is None else began + timeout
        begun = functools.partial(
            Trial, route, make, metadata, credentials, wait_for_ready, deadline, began, contextvars.copy_context()
        )
        call = SyncCall(begun, replay, None if carrier is WAIT else make(timeout, sent, carried), carrier)
        # A blocking call has ended by now, and gRPC's own object for its outcome says it best.
        return call.outcome() or call

    # The names of arguments are gRPC's.
    def _intercept_one(self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request: Any) -> Any:
        return self._intercept(continuation, client_call_details, snapshot(request) if self._door.retry else request)

    def _intercept_many(
        self, continuation: Callable[[Any, Any], Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return self._intercept(continuation, client_call_details, request_iterator, Once(request_iterator))

    intercept_unary_unary = _intercept_one
    intercept_unary_stream = _intercept_one
    intercept_stream_unary = _intercept_many
    intercept_stream_stream = _intercept_many

    def __repr__(self) -> str:
        return f"BearerInterceptor({self._door.auth!r})"


def interceptor(
    auth: object, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False
) -> BearerInterceptor:
    """A `BearerInterceptor` for `grpc.intercept_channel`.

    Args:
        auth: as for `secure_channel`.
        retry: likewise; request streams are never sent again here, since their serializer is the channel's own.
        allow_plaintext: tokens may travel in the clear on the channels it is used on.
    """
    return BearerInterceptor(Door(as_auth(auth), None, plaintext=allow_plaintext, retry=retry))
