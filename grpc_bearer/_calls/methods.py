"""What our channels and multicallables share, sync and asyncio: how a method is wrapped and a call is begun."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import grpc

from grpc_bearer._calls.around import Around
from grpc_bearer._calls.attach_token import Attachment, Route
from grpc_bearer._calls.attempt_history import AttemptHistory
from grpc_bearer._calls.channel_security import leads_on
from grpc_bearer._calls.grpc_types import Begin, Deserializer, Metadata, Serializer
from grpc_bearer._calls.replay import UNKNOWN, NotReplayable, passthrough_serializer, serialise, snapshot
from grpc_bearer.errors import ConfigurationError


class MultiCallable(Around):
    """One method of a channel.

    Args:
        inner: gRPC's own multicallable.
        route: the method.
        serializer: what a request is kept as, to be sent again: its bytes, where `inner` takes what `replay.serialise`
            gives; a copy, where somebody below us wants messages. Not given: request streams are not kept.
    """

    _buffer: Any  # the class that keeps a request stream
    _one: Callable[[object], object]
    _kept_one: Callable[[object], object]

    def __init__(self, inner: Any, route: Route, serializer: Any = UNKNOWN) -> None:
        self._inner = inner
        self._route = route
        self._serializer = serializer
        # The request, for a call that lasts as long as the caller waits for it; and for one that goes on after it was
        # handed out, for which it is kept as it is now: what the caller does to it then is theirs.
        if serializer is not UNKNOWN:
            self._one = self._kept_one = functools.partial(serialise, serializer)
        else:
            self._one = _same
            self._kept_one = _same if route.policy is None else snapshot

    def _many(self, requests: Iterable[object]) -> Any:
        policy = self._route.policy
        if self._serializer is UNKNOWN or policy is None:
            return NotReplayable(requests)
        return self._buffer(requests, self._serializer, policy.replay_messages, policy.replay_bytes)


def _same(request: object) -> object:
    return request


class CallOptions(NamedTuple):
    """What a caller may give with a call, as gRPC takes it. `metadata`: materialised, once it was looked at."""

    timeout: float | None
    metadata: Metadata | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


def history_of(
    route: Route,
    call: Begin,
    request: object,
    replay: Any,
    options: CallOptions,
    began: float,
    caller: contextvars.Context | None = None,
) -> AttemptHistory:
    """The history of a call, from what its first attempt was made with.

    Args:
        route: the method.
        call: of gRPC's own multicallable: makes an attempt.
        request: the request, if it is one.
        replay: the requests, if they are a stream.
        options: the caller's.
        began: when the first attempt was made, in `time.monotonic()` seconds.
        caller: the caller's context variables, for a call that goes on after it was handed out.
    """
    timeout, metadata, credentials, wait_for_ready, compression = options

    def make(left: float | None, sent: Metadata | None, carried: grpc.CallCredentials | None) -> Any:
        return call(
            request if replay is None else replay.reader(),
            timeout=left,
            metadata=sent,
            credentials=carried,
            wait_for_ready=wait_for_ready,
            compression=compression,
        )

    deadline = None if timeout is None else began + timeout
    return AttemptHistory(route, make, metadata, credentials, wait_for_ready, deadline, began, caller)


def _factory(name: str) -> Callable[..., Any]:
    """The factory method of a channel with this name; its arguments are gRPC's."""

    def factory(
        self: Methods,
        method: str,
        request_serializer: Serializer | None = None,
        response_deserializer: Deserializer | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        make = getattr(self._inner, name)
        return self._method(make, method, request_serializer, response_deserializer, _registered_method)

    factory.__name__, factory.__qualname__ = name, f"Channel.{name}"
    return factory


class Methods(Around):
    """The four factory methods of a channel, and everything that is the wrapped channel's own.

    Some reach for what gRPC does not promise, such as the interceptors of an asyncio channel.
    """

    _kinds: Mapping[type, Callable[..., Any]]

    def __init__(self, channel: Any, attachment: Attachment) -> None:
        self._inner = channel
        self._attachment = attachment

    unary_unary: Callable[..., Any] = _factory("unary_unary")
    unary_stream: Callable[..., Any] = _factory("unary_stream")
    stream_unary: Callable[..., Any] = _factory("stream_unary")
    stream_stream: Callable[..., Any] = _factory("stream_stream")

    def _method(
        self,
        make: Callable[..., Any],
        method: str,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
        registered: bool | None,
    ) -> Any:
        # Generated stubs say `_registered_method`; channels older than that, and other libraries', do not know it.
        extra = {"_registered_method": True} if registered else {}
        # To send a request again as it was, it has to be serialised here, once; or copied, if others are to read it.
        route = Route(self._attachment, method)
        as_bytes = self._attachment.direct and route.policy is not None
        made = make(method, passthrough_serializer(serializer) if as_bytes else serializer, deserializer, **extra)
        attachment = leads_on(self._attachment, made, self._inner)
        if attachment is not self._attachment:
            route = Route(attachment, method)
        if route.policy is None:
            return wrapped(self._kinds, made, route)
        if as_bytes and not attachment.direct:
            made = make(method, serializer, deserializer, **extra)
        return wrapped(self._kinds, made, route, serializer if attachment.direct else snapshot)


def wrapped(kinds: Mapping[type, Callable[..., Any]], inner: Any, *rest: Any) -> Any:
    """Our multicallable around gRPC's, of the same kind."""
    for kind, ours in kinds.items():
        if isinstance(inner, kind):
            return ours(inner, *rest)
    raise ConfigurationError(f"channel: it made a {type(inner).__name__}, which is none of gRPC's multicallables")
