"""Interceptors of OpenTelemetry's and Google's that read requests and log metadata, above ours and below."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from attachments import AIO_KINDS, PATIENCE, SYNC_KINDS, TLS
from grpc import aio

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer.testing import OpaqueVerifier, ProbeServer, ProbeStub

TOKEN = "secret-token"
_WHY = "the packages of the extra `neighbours` are not installed"


class OpenTelemetry:
    """Its interceptors, with a `request_hook` that reads a field."""

    def __init__(self) -> None:
        self.instrumentation = pytest.importorskip(
            "opentelemetry.instrumentation.grpc", reason=_WHY, exc_type=ImportError
        )
        self.trace = pytest.importorskip("opentelemetry.sdk.trace", reason=_WHY, exc_type=ImportError)
        self.provider = self.trace.TracerProvider()
        self.spans: list[Any] = []
        self.requests: list[tuple[str, int]] = []
        self.kinds, self.akinds = ("unary", "unary.future"), ("unary", "server_stream")

    def _hook(self, span: Any, request: Any) -> None:
        self.spans.append(span)
        self.requests.append((type(request).__name__, request.index))

    def around(self, channel: grpc.Channel, *inside: Any) -> Any:
        from opentelemetry.instrumentation.grpc import grpcext

        inner = grpc.intercept_channel(channel, *inside)
        made = self.instrumentation.client_interceptor(self.provider, request_hook=self._hook)
        return grpcext.intercept_channel(inner, made)

    def asynchronous(self) -> list[Any]:
        made: list[Any] = self.instrumentation.aio_client_interceptors(self.provider, request_hook=self._hook)
        return made

    @property
    def logged(self) -> list[str]:
        return [f"{span.attributes} {span.events}" for span in self.spans]

    def close(self) -> None:
        self.provider.shutdown()


class Google(logging.Handler):
    """The interceptor that every client of Google Cloud has; at DEBUG it logs requests and metadata."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            service = "google.cloud.secretmanager_v1.services.secret_manager_service.transports"
            self.sync = pytest.importorskip(f"{service}.grpc", reason=_WHY, exc_type=ImportError)
            self.aio = pytest.importorskip(f"{service}.grpc_asyncio", reason=_WHY, exc_type=ImportError)
        self.records: list[logging.LogRecord] = []
        self.kinds, self.akinds = ("unary", "unary.future"), ("unary",)  # it knows no other
        self.loggers = [self.sync._LOGGER, self.aio._LOGGER]
        self.before = [(each.level, each.propagate) for each in self.loggers]
        for each in self.loggers:
            each.setLevel(logging.DEBUG)
            each.propagate = False
            each.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def around(self, channel: grpc.Channel, *inside: Any) -> Any:
        return grpc.intercept_channel(channel, self.sync._LoggingClientInterceptor(), *inside)

    def asynchronous(self) -> list[Any]:
        return [self.aio._LoggingClientAIOInterceptor()]

    @property
    def requests(self) -> list[tuple[str, int]]:
        """A request that is no message is pickled there, and its payload no JSON."""
        sent = [record.request for record in self.records if hasattr(record, "request")]
        return [("ProbeRequest", int(json.loads(each["payload"])["index"])) for each in sent]

    @property
    def logged(self) -> list[str]:
        return [str(vars(record)) for record in self.records]

    def close(self) -> None:
        for each, (level, propagate) in zip(self.loggers, self.before, strict=True):
            each.removeHandler(self)
            each.setLevel(level)
            each.propagate = propagate
        super().close()


@pytest.fixture(params=[OpenTelemetry, Google])
def theirs(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.fixture(scope="module")
def _server() -> Iterator[ProbeServer]:
    with ProbeServer(None, TLS) as server:
        yield server


@pytest.fixture
def server(_server: ProbeServer) -> ProbeServer:
    _server.verifier = OpaqueVerifier([f"{TOKEN}.{number}" for number in range(9)])
    _server.ledger.clear()
    return _server


@pytest.fixture
def auth() -> BearerAuth:
    numbers = itertools.count()
    return BearerAuth(lambda: f"{TOKEN}.{next(numbers)}")


def _ours(server: ProbeServer, auth: BearerAuth) -> grpc.Channel:
    return grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth)


def _aplain(server: ProbeServer, *interceptors: Any) -> aio.Channel:
    return aio.secure_channel(server.target, server.channel_credentials(), interceptors=interceptors)


Open = Callable[[ProbeServer, BearerAuth, Any], Any]
bearer, bearers = grpc_bearer.interceptor, grpc_bearer.aio.interceptors
SYNC_WAYS: dict[str, Open] = {
    "above secure_channel": lambda s, a, theirs: theirs.around(_ours(s, a)),
    "below intercept_channel": lambda s, a, theirs: grpc_bearer.intercept_channel(theirs.around(s.channel()), a),
    "below wrap_stub": lambda s, a, theirs: theirs.around(s.channel()),
    "above interceptor": lambda s, a, theirs: theirs.around(s.channel(), bearer(a)),
    "below interceptor": lambda s, a, theirs: grpc.intercept_channel(theirs.around(s.channel()), bearer(a)),
}
AIO_WAYS: dict[str, Open] = {
    "in aio.secure_channel": lambda s, a, theirs: grpc_bearer.aio.secure_channel(
        s.target, s.channel_credentials(), interceptors=theirs.asynchronous(), auth=a
    ),
    "below aio.intercept_channel": lambda s, a, theirs: grpc_bearer.aio.intercept_channel(
        _aplain(s, *theirs.asynchronous()), a
    ),
    "below aio.wrap_stub": lambda s, a, theirs: _aplain(s, *theirs.asynchronous()),
    "above aio.interceptors": lambda s, a, theirs: _aplain(s, *theirs.asynchronous(), *bearers(a)),
    "below aio.interceptors": lambda s, a, theirs: _aplain(s, *bearers(a), *theirs.asynchronous()),
}


def _stub(way: str, channel: Any, auth: BearerAuth) -> Any:
    return grpc_bearer.wrap_stub(ProbeStub(channel), auth) if "wrap_stub" in way else ProbeStub(channel)


def revoke(server: ProbeServer) -> None:
    verifier: Any = server.verifier
    verifier.revoke(*server.ledger.tokens)
    server.ledger.clear()


def check(way: str, kinds: tuple[str, ...], server: ProbeServer, theirs: Any) -> None:
    """Three rounds of calls, and one more whose first call was refused and made again."""
    calls = 4 * len(kinds)
    assert set(theirs.requests) <= {("ProbeRequest", 1), ("ProbeRequest", 0)}
    # Above ours a call made again is one call; in asyncio, ours is innermost wherever it was put.
    assert len(theirs.requests) == calls + (
        way.startswith("below") and way not in ("below aio.intercept_channel", "below aio.wrap_stub")
    )
    assert [attempt.accepted for attempt in server.ledger] == [False, *[True] * len(kinds)]
    assert theirs.logged
    assert not any(TOKEN in text or "Bearer" in text for text in theirs.logged)


# Google's interceptor takes it for granted that a call has metadata.
HOW = {"timeout": PATIENCE, "metadata": (("x-goog-request-params", "name=n"),)}


@pytest.mark.parametrize("way", SYNC_WAYS)
def test_they_see_messages_and_no_token(way: str, theirs: Any, server: ProbeServer, auth: BearerAuth) -> None:
    with SYNC_WAYS[way](server, auth, theirs) as channel:
        stub = _stub(way, channel, auth)
        for number in range(4):
            if number == 3:
                revoke(server)
            for kind in theirs.kinds:
                SYNC_KINDS[kind](stub, **HOW)

    check(way, theirs.kinds, server, theirs)


@pytest.mark.parametrize("way", AIO_WAYS)
def test_they_see_messages_and_no_token_in_asyncio(
    way: str, theirs: Any, server: ProbeServer, auth: BearerAuth
) -> None:
    async def main() -> None:
        async with AIO_WAYS[way](server, auth, theirs) as channel:
            stub = _stub(way, channel, auth)
            for number in range(4):
                if number == 3:
                    revoke(server)
                for kind in theirs.akinds:
                    await asyncio.wait_for(AIO_KINDS[kind](stub, **HOW), PATIENCE)

    asyncio.run(main())
    check(way, theirs.akinds, server, theirs)
