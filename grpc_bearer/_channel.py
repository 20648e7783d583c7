"""The sync doors: our `grpc.Channel` with its multicallables, and the functions that open them."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import grpc

from grpc_bearer._auth import as_auth
from grpc_bearer._calls import SyncCall, concluded, deadline_exceeded, failure_of, tokenless
from grpc_bearer._door import (
    WAIT,
    Attach,
    Attempt,
    Door,
    Route,
    check_attach,
    materialised,
    with_attach_options,
    wrapped_method,
)
from grpc_bearer._engine import Lease
from grpc_bearer._replay import UNKNOWN, Once, ReplayBuffer, serialise, snapshot
from grpc_bearer._retry import DEFAULT, RetryPolicy
from grpc_bearer._security import protecting, provable_target, refuse_plaintext
from grpc_bearer._trial import Trial
from grpc_bearer.errors import ConfigurationError, GrpcBearerError

Replay = Once | ReplayBuffer
Options = Sequence[tuple[str, Any]]


class _MultiCallable:
    """One method of a channel.

    Args:
        inner: gRPC's own multicallable.
        route: the method.
        serializer: of requests; `inner` then takes what `_replay.serialise` gives. Not given: `inner` takes requests.
    """

    def __init__(self, inner: Any, route: Route, serializer: Any = UNKNOWN) -> None:
        self._inner = inner
        self._route = route
        self._serializer = serializer

    def _one(self, request: Any) -> Any:
        return request if self._serializer is UNKNOWN else serialise(self._serializer, request)

    def _kept_one(self, request: Any) -> Any:
        """The request, for a call that goes on after it was handed out: what the caller does to it now is theirs."""
        if self._serializer is not UNKNOWN:
            return serialise(self._serializer, request)
        return request if self._route.policy is None else snapshot(request)

    def _many(self, requests: Any) -> Replay:
        policy = self._route.policy
        if self._serializer is UNKNOWN or policy is None:
            return Once(requests)
        return ReplayBuffer(requests, self._serializer, policy.replay_messages, policy.replay_bytes)

    def _blocking(
        self,
        call: Callable[..., Any],
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
        if carrier is WAIT or isinstance(carrier, Attempt):
            self._route.refuse_wait()
        if carrier is not WAIT:
            try:
                first = request if replay is None else replay.reader()
                return call(first, timeout, sent, credentials, wait_for_ready, compression)
            except grpc.RpcError as error:
                if carrier is None or not isinstance(error, grpc.Call):
                    raise
                failed: Any = error
        else:
            failed = None

        def make(left: float | None, sent: Any, credentials: Any) -> Any:
            requests = request if replay is None else replay.reader()
            return call(requests, left, sent, credentials, wait_for_ready, compression)

        trial = Trial(self._route, metadata, wait_for_ready, None if timeout is None else began + timeout, began)
        return _try_again(trial, make, carrier, failed, replay)

    def _open(
        self,
        call: Callable[..., Any],
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
            requests = request if replay is None else replay.reader()
            return call(requests, left, sent, credentials, wait_for_ready, compression)

        if carrier is None or (isinstance(carrier, Lease) and self._route.policy is None):
            if replay is not None:
                replay.release()
            return make(timeout, sent, credentials)
        trial = Trial(self._route, metadata, wait_for_ready, None if timeout is None else began + timeout, began)
        return SyncCall(trial, make, replay).begin(sent, credentials, carrier)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _try_again(trial: Trial, make: Callable[..., Any], carrier: Any, failed: Any, replay: Replay | None) -> Any:
    """The attempts of a blocking call after its first, on the caller's own thread."""
    try:
        return _attempts(trial, make, carrier, failed, replay)
    finally:
        if replay is not None:
            replay.stop()


def _attempts(trial: Trial, make: Callable[..., Any], carrier: Any, failed: Any, replay: Replay | None) -> Any:
    while True:
        if failed is not None:
            failure = failure_of(failed)
            delay = trial.after(failed, carrier, failure, replayable=replay is None or replay.whole)
            if delay is None:
                raise concluded(trial, carrier, failed, failure)
            if delay > 0:
                time.sleep(delay)
        sent, credentials, carrier = trial.plan()
        if carrier is WAIT:
            sent, carrier = _waited(trial)
        try:
            return make(trial.left(), sent, credentials)
        except grpc.RpcError as error:
            if not isinstance(error, grpc.Call):
                raise
            failed = error


def _waited(trial: Trial) -> tuple[Any, Lease]:
    """The caller's own thread waits for the token, where core cannot."""
    error: GrpcBearerError | None = None
    try:
        lease = trial.route.door.engine.future(trial.route.context).result(trial.left())
        if lease.token.fingerprint != trial.avoid:
            return (*(trial.metadata or ()), *lease.metadata), lease
    except concurrent.futures.TimeoutError:
        raise deadline_exceeded() from None
    except GrpcBearerError as reason:
        error = reason
    raise tokenless(trial, error)


class _UnaryUnary(_MultiCallable, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._blocking(
            self._inner, self._one(request), None, timeout, metadata, credentials, wait_for_ready, compression
        )

    def with_call(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._blocking(
            self._inner.with_call, self._one(request), None, timeout, metadata, credentials, wait_for_ready, compression
        )

    def future(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._open(
            self._inner.future,
            self._kept_one(request),
            None,
            timeout,
            metadata,
            credentials,
            wait_for_ready,
            compression,
        )


class _UnaryStream(_MultiCallable, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    def __call__(
        self,
        request: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._open(
            self._inner, self._kept_one(request), None, timeout, metadata, credentials, wait_for_ready, compression
        )


class _StreamUnary(_MultiCallable, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._blocking(
            self._inner, None, self._many(request_iterator), timeout, metadata, credentials, wait_for_ready, compression
        )

    def with_call(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._blocking(
            self._inner.with_call,
            None,
            self._many(request_iterator),
            timeout,
            metadata,
            credentials,
            wait_for_ready,
            compression,
        )

    def future(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._open(
            self._inner.future,
            None,
            self._many(request_iterator),
            timeout,
            metadata,
            credentials,
            wait_for_ready,
            compression,
        )


class _StreamStream(_MultiCallable, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    def __call__(
        self,
        request_iterator: Any,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        return self._open(
            self._inner, None, self._many(request_iterator), timeout, metadata, credentials, wait_for_ready, compression
        )


#: gRPC's own kinds of multicallable, and ours around them.
KINDS: dict[type, type[_MultiCallable]] = {
    grpc.UnaryUnaryMultiCallable: _UnaryUnary,
    grpc.UnaryStreamMultiCallable: _UnaryStream,
    grpc.StreamUnaryMultiCallable: _StreamUnary,
    grpc.StreamStreamMultiCallable: _StreamStream,
}


class Channel(grpc.Channel):
    """A `grpc.Channel` whose calls carry a token; in all else the channel it wraps."""

    def __init__(self, channel: grpc.Channel, door: Door) -> None:
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

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        self._inner.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._inner.unsubscribe(callback)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    auth: object,
    retry: RetryPolicy | None = DEFAULT,
    attach: Attach = "auto",
) -> grpc.Channel:
    """`grpc.secure_channel`, with a token on every call.

    Args:
        target: as gRPC takes it.
        credentials: `None` means TLS with the default roots; any `grpc.ChannelCredentials` is accepted.
        options: as gRPC takes them.
        compression: as gRPC takes it.
        auth: a `BearerAuth`, or what one can be made of: a source, a `str`, a path, a (coroutine) function, google-auth
            credentials.
        retry: when a refused call is made once more; `None`: never.
        attach: how the token is put on a call. `"auto"`: as metadata where that is safe, through core where not.
            `"metadata"`: single-use tokens as metadata too, which gives up core's own retries (see the guide on doors).
            `"call_credentials"`: composite channel credentials, core alone.

    Raises:
        ConfigurationError: `auth` or `attach` cannot be used.
        InsecureChannelError: `credentials` are known not to protect the channel.
    """
    bearer = as_auth(auth)
    credentials = protecting(credentials)
    if check_attach(attach) == "call_credentials":
        composite = channel_credentials(bearer, credentials)
        return grpc.secure_channel(target, composite, options, compression)
    channel = grpc.secure_channel(target, credentials, with_attach_options(options, attach), compression)
    return Channel(channel, Door(bearer, provable_target(channel, credentials), attach=attach, retry=retry))


def insecure_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    auth: object,
    retry: RetryPolicy | None = DEFAULT,
    allow_plaintext: bool = False,
) -> grpc.Channel:
    """`grpc.insecure_channel`, with a token on every call, in the clear: for a mesh that encrypts below.

    Raises:
        InsecureChannelError: without `allow_plaintext=True`.
    """
    bearer = as_auth(auth)
    if not allow_plaintext:
        raise refuse_plaintext()
    channel = grpc.insecure_channel(target, options, compression)
    return Channel(channel, Door(bearer, provable_target(channel), plaintext=True, retry=retry))


def intercept_channel(
    channel: grpc.Channel, auth: object, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False
) -> grpc.Channel:
    """A channel that someone else built, with a token on every call.

    Core itself decides whether the channel protects the token; a call on one that does not ends with UNAUTHENTICATED,
    caused by `InsecureChannelError`, before any token leaves. Closing the result closes `channel`.

    Args:
        channel: a sync channel.
        auth: as for `secure_channel`.
        retry: likewise.
        allow_plaintext: tokens may travel in the clear on this channel.
    """
    if not isinstance(channel, grpc.Channel):
        raise ConfigurationError(
            f"channel: expected a grpc.Channel, got {type(channel).__name__}; asyncio channels go to "
            "grpc_bearer.aio.intercept_channel"
        )
    return Channel(channel, Door(as_auth(auth), provable_target(channel), plaintext=allow_plaintext, retry=retry))


def call_credentials(auth: object) -> grpc.CallCredentials:
    """Call credentials: `credentials=` of one call, or one part of composite channel credentials.

    A call whose token cannot be had ends with core's UNAVAILABLE.
    """
    return grpc.metadata_call_credentials(as_auth(auth), "grpc-bearer")


def channel_credentials(auth: object, credentials: grpc.ChannelCredentials | None = None) -> grpc.ChannelCredentials:
    """Composite channel credentials, for libraries that take those.

    Args:
        auth: as for `secure_channel`.
        credentials: what protects the channel; `None` means TLS with the default roots.
    """
    return grpc.composite_channel_credentials(protecting(credentials), call_credentials(auth))
