"""The sync multicallables: gRPC's own, with a token on every call."""

from __future__ import annotations

import concurrent.futures
import functools
import time
from collections.abc import Callable
from typing import Any

import grpc

from grpc_bearer._calls import SyncCall, concluded, deadline_exceeded, failure_of, tokenless
from grpc_bearer._door import WAIT, materialised
from grpc_bearer._engine import Lease
from grpc_bearer._methods import MultiCallable
from grpc_bearer._replay import ReplayBuffer
from grpc_bearer._trial import Trial
from grpc_bearer.errors import GrpcBearerError


class _SyncMultiCallable(MultiCallable):
    _call = SyncCall
    _buffer = ReplayBuffer

    def _blocking(
        self,
        call: Callable[..., Any],
        request: Any,
        replay: Any,
        timeout: float | None,
        metadata: Any,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        compression: grpc.Compression | None,
    ) -> Any:
        metadata = materialised(metadata)
        began = time.monotonic()
        sent, credentials, carrier = self._route.plan(metadata, credentials, wait_for_ready)
        if type(carrier) is not Lease:  # exact, for speed: isinstance() asks an Attempt's abstract base classes
            self._prepare(carrier, replay)
        failed: Any = None
        if carrier is not WAIT:
            try:
                first = request if replay is None else replay.reader()
                return call(first, timeout, sent, credentials, wait_for_ready, compression)
            except grpc.RpcError as error:
                if carrier is None or not isinstance(error, grpc.Call):
                    raise
                failed = error
        # No closure: its cells would slow down each call that goes well.
        make = functools.partial(_make, call, request, replay, wait_for_ready, compression)
        trial = Trial(self._route, metadata, wait_for_ready, None if timeout is None else began + timeout, began)
        return _try_again(trial, make, carrier, failed, replay)

    def _prepare(self, carrier: Any, replay: Any) -> None:
        if carrier is not None:
            self._route.refuse_wait()
        elif replay is not None:
            replay.release()


def _make(
    call: Callable[..., Any],
    request: Any,
    replay: Any,
    wait_for_ready: bool | None,
    compression: grpc.Compression | None,
    left: float | None,
    sent: Any,
    credentials: grpc.CallCredentials | None,
) -> Any:
    requests = request if replay is None else replay.reader()
    return call(requests, left, sent, credentials, wait_for_ready, compression)


def _try_again(trial: Trial, make: Callable[..., Any], carrier: Any, failed: Any, replay: Any) -> Any:
    """The attempts of a blocking call after its first, on the caller's own thread."""
    try:
        return _attempts(trial, make, carrier, failed, replay)
    finally:
        if replay is not None:
            replay.stop()


def _attempts(trial: Trial, make: Callable[..., Any], carrier: Any, failed: Any, replay: Any) -> Any:
    while True:
        if failed is not None:
            failure = failure_of(failed)
            delay = trial.after(failed, carrier, failure, replayable=replay is None or replay.rewind())
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


class _UnaryUnary(_SyncMultiCallable, grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
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


class _UnaryStream(_SyncMultiCallable, grpc.UnaryStreamMultiCallable):  # type: ignore[type-arg]
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


class _StreamUnary(_SyncMultiCallable, grpc.StreamUnaryMultiCallable):  # type: ignore[type-arg]
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


class _StreamStream(_SyncMultiCallable, grpc.StreamStreamMultiCallable):  # type: ignore[type-arg]
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
KINDS: dict[type, type[MultiCallable]] = {
    grpc.UnaryUnaryMultiCallable: _UnaryUnary,
    grpc.UnaryStreamMultiCallable: _UnaryStream,
    grpc.StreamUnaryMultiCallable: _StreamUnary,
    grpc.StreamStreamMultiCallable: _StreamStream,
}
