"""OpenTelemetry beside us: its OTLP exporter with our credentials, and its interceptors with ours, in either order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import jose
import pytest

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer.testing import ManualClock, ProbeRequest, ProbeServer, ProbeStub, TokenServer

_WHY = "the packages of the extra `neighbours` are not installed"
pytest.importorskip("opentelemetry.sdk.trace", reason=_WHY, exc_type=ImportError)
otlp = pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter", reason=_WHY, exc_type=ImportError)
instrumentation = pytest.importorskip("opentelemetry.instrumentation.grpc", reason=_WHY, exc_type=ImportError)

from opentelemetry.instrumentation.grpc import grpcext  # noqa: E402
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc  # noqa: E402
from opentelemetry.sdk.trace import TracerProvider  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402

# ------------------------------------------------------------------------------------------------------- OTLP exporter


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the names of the spans that it was sent."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
        scopes = [scope for resource in request.resource_spans for scope in resource.scope_spans]
        self.names += [span.name for scope in scopes for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector(bearer_grpc_server: ProbeServer) -> Collector:
    made = Collector()
    bearer_grpc_server.serve(trace_service_pb2_grpc.add_TraceServiceServicer_to_server, made)
    return made


@pytest.fixture
def exporter(bearer_grpc_server: ProbeServer, bearer_auth: BearerAuth) -> Iterator[Any]:
    security = bearer_grpc_server.channel_credentials()
    made = otlp.OTLPSpanExporter(
        endpoint=f"https://{bearer_grpc_server.target}",
        credentials=grpc_bearer.channel_credentials(bearer_auth, security),
        timeout=10,
    )
    yield made
    made.shutdown()


def spans(*names: str) -> list[Any]:
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    for name in names:
        provider.get_tracer("tests").start_span(name).end()
    return list(memory.get_finished_spans())


def test_the_otlp_exporter_brings_a_token_that_verifies(
    collector: Collector,
    exporter: Any,
    bearer_grpc_server: ProbeServer,
    bearer_token_server: TokenServer,
    no_secrets_logged: Any,
) -> None:
    assert exporter.export(spans("drive", "park")) is SpanExportResult.SUCCESS

    (attempt,) = bearer_grpc_server.ledger
    assert collector.names == ["drive", "park"]
    assert attempt.header_values == [f"Bearer {attempt.token}"]
    assert jose.verified(attempt.token or "", bearer_token_server.public_key, "ES256")


def test_a_tracer_provider_exports_through_it(collector: Collector, exporter: Any) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    with provider.get_tracer("tests").start_as_current_span("drive"):
        pass
    provider.shutdown()

    assert collector.names == ["drive"]


def test_an_expired_token_is_replaced_before_the_next_export(
    bearer_clock: ManualClock, collector: Collector, exporter: Any, bearer_grpc_server: ProbeServer
) -> None:
    exporter.export(spans("drive"))
    bearer_clock.advance(4000)
    exporter.export(spans("park"))

    assert collector.names == ["drive", "park"]
    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, True]
    assert len(bearer_grpc_server.ledger.tokens) == 2


def test_a_revoked_token_is_replaced_after_invalidate(
    collector: Collector, exporter: Any, bearer_token_server: TokenServer, bearer_auth: BearerAuth
) -> None:
    exporter.export(spans("drive"))
    bearer_token_server.revoke(*bearer_token_server.issued)

    refused = exporter.export(spans("lost"))
    bearer_auth.invalidate(bearer_token_server.issued[-1])
    healed = exporter.export(spans("park"))

    assert (refused, healed) == (SpanExportResult.FAILURE, SpanExportResult.SUCCESS)
    assert collector.names == ["drive", "park"]


# -------------------------------------------------------------------------------------------------------- interceptors


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(memory: InMemorySpanExporter) -> Iterator[TracerProvider]:
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(memory))
    yield made
    made.shutdown()


Open = Callable[[ProbeServer, BearerAuth, TracerProvider], Any]


def _traced(channel: grpc.Channel, provider: TracerProvider) -> grpc.Channel:
    # Their sync interceptors are of a kind of their own, which gRPC's function does not take.
    traced: grpc.Channel = grpcext.intercept_channel(channel, instrumentation.client_interceptor(provider))
    return traced


def otel_around_our_channel(server: ProbeServer, auth: BearerAuth, provider: TracerProvider) -> grpc.Channel:
    return _traced(grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth), provider)


def ours_around_otels_channel(server: ProbeServer, auth: BearerAuth, provider: TracerProvider) -> grpc.Channel:
    return grpc_bearer.intercept_channel(_traced(server.channel(), provider), auth)


def otel_around_our_interceptor(server: ProbeServer, auth: BearerAuth, provider: TracerProvider) -> grpc.Channel:
    return _traced(grpc.intercept_channel(server.channel(), grpc_bearer.interceptor(auth)), provider)


def our_interceptor_around_otel(server: ProbeServer, auth: BearerAuth, provider: TracerProvider) -> grpc.Channel:
    return grpc.intercept_channel(_traced(server.channel(), provider), grpc_bearer.interceptor(auth))


SYNC: list[Open] = [
    otel_around_our_channel,
    ours_around_otels_channel,
    otel_around_our_interceptor,
    our_interceptor_around_otel,
]


def _aio(server: ProbeServer, *interceptors: Any) -> grpc.aio.Channel:
    return grpc.aio.secure_channel(server.target, server.channel_credentials(), interceptors=interceptors)


def aio_otel_in_our_channel(server: ProbeServer, auth: BearerAuth, provider: TracerProvider) -> grpc.aio.Channel:
    theirs = instrumentation.aio_client_interceptors(provider)
    return grpc_bearer.aio.secure_channel(server.target, server.channel_credentials(), interceptors=theirs, auth=auth)


def aio_ours_around_otels_channel(server: ProbeServer, auth: BearerAuth, provider: TracerProvider) -> grpc.aio.Channel:
    return grpc_bearer.aio.intercept_channel(_aio(server, *instrumentation.aio_client_interceptors(provider)), auth)


def aio_otels_interceptors_then_ours(
    server: ProbeServer, auth: BearerAuth, provider: TracerProvider
) -> grpc.aio.Channel:
    return _aio(server, *instrumentation.aio_client_interceptors(provider), *grpc_bearer.aio.interceptors(auth))


def aio_our_interceptors_then_otels(
    server: ProbeServer, auth: BearerAuth, provider: TracerProvider
) -> grpc.aio.Channel:
    return _aio(server, *grpc_bearer.aio.interceptors(auth), *instrumentation.aio_client_interceptors(provider))


AIO: list[Open] = [
    aio_otel_in_our_channel,
    aio_ours_around_otels_channel,
    aio_otels_interceptors_then_ours,
    aio_our_interceptors_then_otels,
]


def call_all_kinds(channel: grpc.Channel) -> None:
    stub = ProbeStub(channel)
    stub.Unary(ProbeRequest(index=1))
    assert len(list(stub.ServerStream(ProbeRequest(replies=3)))) == 3
    assert stub.ClientStream(ProbeRequest(index=index) for index in range(3)).count == 3
    assert len(list(stub.BidiStream(ProbeRequest(index=index) for index in range(3)))) == 3


async def acall_all_kinds(channel: grpc.aio.Channel) -> None:
    stub = ProbeStub(channel)
    await stub.Unary(ProbeRequest(index=1))
    assert len([reply async for reply in stub.ServerStream(ProbeRequest(replies=3))]) == 3
    assert (await stub.ClientStream(ProbeRequest(index=index) for index in range(3))).count == 3
    assert len([reply async for reply in stub.BidiStream(ProbeRequest(index=index) for index in range(3))]) == 3


def check(server: ProbeServer, memory: InMemorySpanExporter, tokens: TokenServer) -> None:
    """Each call had one span, and brought that span's trace and one token."""
    kinds = ["Unary", "ServerStream", "ClientStream", "BidiStream"]
    finished = memory.get_finished_spans()
    assert [span.name.rpartition("/")[2] for span in finished] == kinds
    assert [attempt.accepted for attempt in server.ledger] == [True] * 4
    for attempt, span in zip(server.ledger, finished, strict=True):
        assert len(attempt.header_values) == 1
        assert dict(attempt.metadata)["traceparent"].split("-")[1] == f"{span.context.trace_id:032x}"
    assert server.ledger.tokens == tokens.issued
    assert not any("Bearer" in str(span.attributes) for span in finished)


def play(open_channel: Open, *how: Any, sync: Callable[[Any], None], asynchronous: Callable[[Any], Any]) -> None:
    """On a channel of either kind."""

    async def played() -> None:
        async with open_channel(*how) as channel:
            await asynchronous(channel)

    if open_channel in AIO:
        asyncio.run(played())
        return
    with open_channel(*how) as channel:
        sync(channel)


@pytest.mark.parametrize("open_channel", [*SYNC, *AIO])
def test_every_kind_of_call_is_traced_and_authenticated(
    open_channel: Open,
    provider: TracerProvider,
    memory: InMemorySpanExporter,
    bearer_grpc_server: ProbeServer,
    bearer_token_server: TokenServer,
    bearer_auth: BearerAuth,
) -> None:
    how = bearer_grpc_server, bearer_auth, provider
    play(open_channel, *how, sync=call_all_kinds, asynchronous=acall_all_kinds)

    check(bearer_grpc_server, memory, bearer_token_server)


@pytest.mark.parametrize("open_channel", [*SYNC, *AIO])
def test_a_revoked_token_is_replaced_whichever_stands_outside(
    open_channel: Open,
    provider: TracerProvider,
    bearer_grpc_server: ProbeServer,
    bearer_token_server: TokenServer,
    bearer_auth: BearerAuth,
) -> None:
    def sync(channel: grpc.Channel) -> None:
        stub = ProbeStub(channel)
        stub.Unary(ProbeRequest())
        bearer_token_server.revoke(*bearer_token_server.issued)
        stub.Unary(ProbeRequest())

    async def asynchronous(channel: grpc.aio.Channel) -> None:
        stub = ProbeStub(channel)
        await stub.Unary(ProbeRequest())
        bearer_token_server.revoke(*bearer_token_server.issued)
        await stub.Unary(ProbeRequest())

    play(open_channel, bearer_grpc_server, bearer_auth, provider, sync=sync, asynchronous=asynchronous)

    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, False, True]


@pytest.mark.parametrize("open_channel", [ours_around_otels_channel, our_interceptor_around_otel])
def test_a_server_stream_that_otel_makes_a_generator_has_the_whole_api_of_a_call_again(
    open_channel: Open,
    provider: TracerProvider,
    bearer_grpc_server: ProbeServer,
    bearer_token_server: TokenServer,
    bearer_auth: BearerAuth,
    bearer_kit: Any,
) -> None:
    ended: list[Any] = []
    with open_channel(bearer_grpc_server, bearer_auth, provider) as channel:
        stub = ProbeStub(channel)
        list(stub.ServerStream(ProbeRequest(replies=1)))
        bearer_token_server.revoke(*bearer_token_server.issued)

        healed = stub.ServerStream(ProbeRequest(replies=3))
        healed.add_done_callback(ended.append)
        assert [reply.index for reply in healed] == [0, 1, 2]
        assert (healed.code(), healed.done(), ended) == (grpc.StatusCode.OK, True, [healed])

        bearer_grpc_server.script(bearer_kit.Refuse(grpc.StatusCode.ABORTED, "no more", after_replies=1))
        broken = stub.ServerStream(ProbeRequest(replies=3))
        assert next(broken).index == 0
        with pytest.raises(grpc.RpcError, match="no more") as caught:
            next(broken)
        assert (caught.value.code(), broken.code()) == (grpc.StatusCode.ABORTED, grpc.StatusCode.ABORTED)

        cancelled = stub.ServerStream(ProbeRequest(replies=3))
        assert next(cancelled).index == 0
        assert cancelled.cancel()
        assert cancelled.code() is grpc.StatusCode.CANCELLED

    assert [attempt.accepted for attempt in bearer_grpc_server.ledger][:3] == [True, False, True]


def test_the_span_outside_ours_is_one_and_ok_though_a_token_was_replaced(
    provider: TracerProvider,
    memory: InMemorySpanExporter,
    bearer_grpc_server: ProbeServer,
    bearer_kit: Any,
    bearer_auth: BearerAuth,
) -> None:
    bearer_grpc_server.script(bearer_kit.Refuse())
    with otel_around_our_channel(bearer_grpc_server, bearer_auth, provider) as channel:
        ProbeStub(channel).Unary(ProbeRequest())

    (span,) = memory.get_finished_spans()
    assert (span.attributes or {})["rpc.grpc.status_code"] == 0
    assert len(bearer_grpc_server.ledger) == 2


@pytest.fixture
def instrumented(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What `opentelemetry-instrument` does to a program: gRPC's own functions are wrapped."""
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)  # which a program sets once and for all
    both = (instrumentation.GrpcInstrumentorClient(), instrumentation.GrpcAioInstrumentorClient())
    for each in both:
        each.instrument(tracer_provider=provider)
    yield
    for each in both:
        each.uninstrument()


@pytest.mark.usefixtures("instrumented")
def test_an_instrumented_program_traces_our_channels_too(
    memory: InMemorySpanExporter,
    bearer_grpc_server: ProbeServer,
    bearer_token_server: TokenServer,
    bearer_channel: grpc.Channel,
) -> None:
    call_all_kinds(bearer_channel)

    check(bearer_grpc_server, memory, bearer_token_server)


@pytest.mark.usefixtures("instrumented")
async def test_an_instrumented_program_traces_our_asyncio_channels_too(
    memory: InMemorySpanExporter,
    bearer_grpc_server: ProbeServer,
    bearer_token_server: TokenServer,
    bearer_auth: BearerAuth,
) -> None:
    credentials = bearer_grpc_server.channel_credentials()
    async with grpc_bearer.aio.secure_channel(bearer_grpc_server.target, credentials, auth=bearer_auth) as channel:
        await acall_all_kinds(channel)

    check(bearer_grpc_server, memory, bearer_token_server)
