"""The sync multicallables: gRPC's own, with a token on every call."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Iterable
from typing import Any

import grpc

from grpc_bearer._calls.attach_token import NOBODY, WAIT, Carrier, materialised
from grpc_bearer._calls.attempt_history import SENT_OR_SEEN, AttemptHistory
from grpc_bearer._calls.grpc_types import AnyCall, Begin, Metadata
from grpc_bearer._calls.methods import CallOptions, MultiCallable, history_of
from grpc_bearer._calls.replay import NotReplayable, ReplayBuffer
from grpc_bearer._calls.sync_call import SyncCall
from grpc_bearer._calls.sync_errors import concluded, deadline_exceeded, failure_of, tokenless
from grpc_bearer._calls.sync_iterator_call import whole_streams
from grpc_bearer._engine.engine import Lease
from grpc_bearer.errors import GrpcBearerError

# Where type-arg is ignored: generic in gRPC's stubs only, not when the program runs.

Requests = NotReplayable | ReplayBuffer


class _SyncMultiCallable(MultiCallable):
    _buffer = ReplayBuffer

    def _blocking(self, call: Begin, request: object, replay: Requests | None, options: CallOptions) -> Any:
        """Make a call and wait for its end."""
        timeout, metadata, credentials, wait_for_ready, compression = options
        metadata = materialised(metadata)
        began = time.monotonic()
        sent, carried, carrier = self._route.plan(metadata, credentials, wait_for_ready)
        if type(carrier) is not Lease:  # exact, for speed: isinstance() asks an Attempt's abstract base classes
            self._prepare(carrier, replay)
        failed: AnyCall | None = None
        if carrier is not WAIT:
            try:
                first = request if replay is None else replay.reader()
                return call(first, timeout, sent, carried, wait_for_ready, compression)
            except grpc.RpcError as error:
                if carrier is None or not isinstance(error, grpc.Call):
                    raise
                failed = error
        history = history_of(self._route, call, request, replay, options._replace(metadata=metadata), began)
        return _try_again(history, carrier, failed, replay)

    def _prepare(self, carrier: Carrier, replay: Requests | None) -> None:
        if carrier is not None:
            self._route.refuse_wait()
        elif replay is not None:
            replay.release()

    def _open(self, call: Begin, request: object, replay: Requests | None, options: CallOptions) -> Any:
        """Begin a call that is handed out at once: a future or a stream."""
        route, began = self._route, time.monotonic()
        timeout, metadata, credentials, wait_for_ready, compression = options
        carrier: Any = None
        if metadata is None and credentials is None and not wait_for_ready:
            carrier = route.at_hand()
        if carrier is not None:
            sent, carried = carrier.metadata, None
        else:
            options = options._replace(metadata=materialised(metadata))
            sent, carried, carrier = route.plan(options.metadata, credentials, wait_for_ready)
        inner = None
        if carrier is not WAIT:
            plain = carrier is None or (route.policy is None and type(carrier) is Lease)
            if plain and replay is not None:
                replay.release()
            requests = request if replay is None else replay.reader()
            inner = call(requests, timeout, sent, carried, wait_for_ready, compression)
            if plain:
                return inner
        caller = contextvars.copy_context() or NOBODY
        begun = (history_of, route, call, request, replay, options, began, caller)
        return SyncCall(begun, replay, inner, carrier)


def _try_again(history: AttemptHistory, carrier: Carrier, failed: AnyCall | None, replay: Requests | None) -> Any:
    """The attempts of a blocking call after its first, on the caller's own thread."""
    try:
        return _attempts(history, carrier, failed, replay)
    finally:
        if replay is not None:
            replay.stop()


def _attempts(history: AttemptHistory, carrier: Carrier, failed: AnyCall | None, replay: Requests | None) -> Any:
    while True:
        if failed is not None:
            failure = failure_of(failed)
            obstacle = "" if replay is None or replay.rewind() else SENT_OR_SEEN
            delay = history.after(failed, carrier, failure, obstacle=obstacle)
            history.tell()
            if delay is None:
                raise concluded(history, carrier, failed, failure)
            if delay > 0:
                time.sleep(delay)
        sent, carried, carrier = history.plan()
        if carrier is WAIT:
            sent, carrier = _waited(history)
        try:
            return history.attempt(sent, carried)
        except grpc.RpcError as error:
            if not isinstance(error, grpc.Call):
                raise
            failed = error


def _waited(history: AttemptHistory) -> tuple[Metadata, Lease]:
    """The caller's own thread waits for the token, where core cannot."""
    try:
        delivered = history.wait()
    except GrpcBearerError as reason:
        delivered = None, reason
    if delivered is None:
        raise deadline_exceeded()
    lease, error = delivered
    if lease is not None and lease.token.fingerprint != history.avoid:
        return (*(history.metadata or ()), *lease.metadata), lease
    raise tokenless(history, error)


class _UnaryUnary(_SyncMultiCallable, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    def __call__(
        self,
        request: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        # Nearly every call comes with nothing of its own and finds the token at hand: in as few frames as can be.
        lease = None
        if metadata is None and credentials is None and not wait_for_ready:
            lease = self._route.at_hand()
        call, request = self._inner, self._one(request)
        if lease is None:
            options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
            return self._blocking(call, request, None, options)
        began = time.monotonic()
        try:
            return call(request, timeout, lease.metadata, None, wait_for_ready, compression)
        except grpc.RpcError as error:
            if not isinstance(error, grpc.Call):
                raise
            failed = error
        options = CallOptions(timeout, None, None, wait_for_ready, compression)
        return _try_again(history_of(self._route, call, request, None, options, began), lease, failed, None)

    def with_call(
        self,
        request: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        return self._blocking(self._inner.with_call, self._one(request), None, options)

    def future(
        self,
        request: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        return self._open(self._inner.future, self._kept_one(request), None, options)


class _Streams(_SyncMultiCallable):
    def __init__(self, inner: Any, *rest: Any) -> None:
        super().__init__(whole_streams(inner), *rest)


class _UnaryStream(_Streams, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
    def __call__(
        self,
        request: object,
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        return self._open(self._inner, self._kept_one(request), None, options)


class _StreamUnary(_SyncMultiCallable, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
    def __call__(
        self,
        request_iterator: Iterable[object],
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        return self._blocking(self._inner, None, self._many(request_iterator), options)

    def with_call(
        self,
        request_iterator: Iterable[object],
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        return self._blocking(self._inner.with_call, None, self._many(request_iterator), options)

    def future(
        self,
        request_iterator: Iterable[object],
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        return self._open(self._inner.future, None, self._many(request_iterator), options)


class _StreamStream(_Streams, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
    def __call__(
        self,
        request_iterator: Iterable[object],
        timeout: float | None = None,
        metadata: Metadata | None = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        options = CallOptions(timeout, metadata, credentials, wait_for_ready, compression)
        return self._open(self._inner, None, self._many(request_iterator), options)


#: gRPC's own kinds of multicallable, and ours around them.
KINDS: dict[type, type[MultiCallable]] = {
    grpc.UnaryUnaryMultiCallable: _UnaryUnary,
    grpc.UnaryStreamMultiCallable: _UnaryStream,
    grpc.StreamUnaryMultiCallable: _StreamUnary,
    grpc.StreamStreamMultiCallable: _StreamStream,
}
