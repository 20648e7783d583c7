"""Metrics and spans, read back from the real OpenTelemetry SDK."""

from __future__ import annotations

import ast
import contextlib
import gc
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from _refusing import AIO, BOTH, PATIENCE, SYNC, Place, Side
from attachments import asking, eventually

import grpc_bearer
from grpc_bearer import BearerAuth, CallContext, Source, Token, TokenUnavailableError, events, otel
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.testing import ManualClock, ProbeRequest

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

WHO = {"grpc_bearer.auth.name": "crm", "grpc_bearer.source": "Scripted"}


class Scripted(Source):
    """Does what its script says, and the last line of it for ever; each fetch takes two seconds of its clock."""

    def __init__(self, clock: ManualClock, *script: Any, tracer: trace.Tracer | None = None) -> None:
        self.clock = clock
        self.script = list(script) or ["token"]
        self.tracer = tracer
        self.count = 0
        self.entered, self.go = threading.Event(), threading.Event()
        self.go.set()

    def fetch(self, context: CallContext) -> Token:
        self.count += 1
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.entered.set()
        assert self.go.wait(PATIENCE)
        self.clock.advance(2.0)
        if self.tracer is not None:
            with self.tracer.start_as_current_span("POST", kind=trace.SpanKind.CLIENT):
                pass
        if isinstance(step, BaseException):
            raise step
        return Token(f"t{self.count}", expires_at=self.clock.time() + 1000.0)


class Telemetry:
    """An SDK of its own, not the process's."""

    def __init__(self) -> None:
        self.spans_out = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans_out))
        self.tracer = self.tracers.get_tracer("the test")
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.observer = otel.OpenTelemetryObserver(self.tracers, self.meters)

    def spans(self, name: str = "fetch token") -> list[ReadableSpan]:
        return [span for span in self.spans_out.get_finished_spans() if span.name == name]

    def span(self, name: str = "fetch token") -> ReadableSpan:
        (span,) = self.spans(name)
        return span

    def metrics(self) -> dict[str, Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> list[Any]:
        return list(self.metrics()[name].data.data_points)


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    telemetry.tracers.shutdown()
    telemetry.meters.shutdown()
    gc.collect()


@pytest.fixture
def make(clock: ManualClock, telemetry: Telemetry) -> Iterator[Callable[..., BearerAuth]]:
    auths = []

    def made(*script: Any, **options: Any) -> BearerAuth:
        source = Scripted(clock, *script, tracer=options.pop("tracer", None))
        auths.append(BearerAuth(source, name="crm", clock=clock, observers=[telemetry.observer], **options))
        return auths[-1]

    yield made
    for auth in auths:
        auth.close()


Make = Callable[..., BearerAuth]


def child_of(span: ReadableSpan, parent: trace.Span) -> bool:
    return span.parent is not None and span.parent.span_id == parent.get_span_context().span_id


@contextlib.contextmanager
def open_elsewhere(stub: Any) -> Iterator[None]:
    """A stream that goes on meanwhile; gRPC's thread keeps the context variables of the call that has started it."""
    done = threading.Event()

    def requests() -> Iterator[ProbeRequest]:
        yield ProbeRequest(replies=1)
        done.wait(PATIENCE)

    stream = stub.BidiStream(requests(), timeout=PATIENCE)
    next(stream)
    try:
        yield
    finally:
        done.set()
        for _ in stream:
            pass


# -------------------------------------------------------------------------------------------------------------- spans


def test_a_fetch_is_a_child_of_the_span_of_whoever_waits(telemetry: Telemetry, make: Make) -> None:
    auth = make()
    with telemetry.tracer.start_as_current_span("work") as work:
        auth.token()

    span = telemetry.span()
    assert child_of(span, work)
    assert span.kind is trace.SpanKind.INTERNAL
    assert span.status.status_code is trace.StatusCode.UNSET
    assert span.attributes == {**WHO, "grpc_bearer.fetch.ahead": False, "grpc_bearer.token.lifetime": 1000.0}
    assert span.instrumentation_scope is not None
    assert span.instrumentation_scope.name == "grpc_bearer"
    assert span.instrumentation_scope.version == grpc_bearer.__version__


def test_a_token_at_hand_makes_no_span(telemetry: Telemetry, make: Make) -> None:
    auth = make()
    for _ in range(10):
        auth.token()

    assert len(telemetry.spans()) == 1


def test_what_a_source_does_is_a_child_of_the_fetch(telemetry: Telemetry, make: Make) -> None:
    make(tracer=telemetry.tracer).token()

    assert child_of(telemetry.span("POST"), _as_span(telemetry.span()))


def _as_span(span: ReadableSpan) -> trace.Span:
    assert span.context is not None
    return trace.NonRecordingSpan(span.context)


def test_the_caller_has_its_own_span_back_after_the_fetch(telemetry: Telemetry, clock: ManualClock) -> None:
    source = Scripted(clock)
    source.local = True  # fetched on the very thread that asks
    with telemetry.tracer.start_as_current_span("work") as work:
        BearerAuth(source, clock=clock, observers=[telemetry.observer]).token()

        assert trace.get_current_span() is work
    assert child_of(telemetry.span(), work)


def test_a_fetch_ahead_is_a_trace_of_its_own_with_a_link(telemetry: Telemetry, make: Make, clock: ManualClock) -> None:
    auth = make(tracer=telemetry.tracer)
    auth.token()
    telemetry.spans_out.clear()
    clock.advance(900.0)
    with telemetry.tracer.start_as_current_span("work") as work:
        auth.token()
    assert eventually(lambda: len(telemetry.spans()) == 1)

    span = telemetry.span()
    assert span.parent is None
    assert [link.context.span_id for link in span.links] == [work.get_span_context().span_id]
    assert span.attributes is not None
    assert span.attributes["grpc_bearer.fetch.ahead"] is True
    assert child_of(telemetry.span("POST"), _as_span(span))


def test_a_failed_fetch_is_an_error_by_its_class(telemetry: Telemetry, make: Make) -> None:
    auth = make(TokenUnavailableError("status 503"))
    with pytest.raises(TokenUnavailableError):
        auth.token()

    span = telemetry.span()
    assert span.attributes is not None
    assert span.attributes["error.type"] == "grpc_bearer.errors.TokenUnavailableError"
    assert (span.status.status_code, span.status.description) == (trace.StatusCode.ERROR, "status 503")


def test_a_source_that_asks_another_auth_nests_the_spans(telemetry: Telemetry, clock: ManualClock) -> None:
    inner = BearerAuth(Scripted(clock), clock=clock, name="inner", observers=[telemetry.observer])
    outer = BearerAuth(lambda: inner.token().value, clock=clock, name="outer", observers=[telemetry.observer])
    outer.token()

    first, second = telemetry.spans()  # in the order of their ends
    assert first.attributes is not None
    assert first.attributes["grpc_bearer.auth.name"] == "inner"
    assert child_of(first, _as_span(second))


@pytest.mark.parametrize(("calls", "kind"), BOTH, indirect=["calls"])
def test_a_cold_call_is_the_parent_of_its_fetch(here: Place, telemetry: Telemetry, calls: Side, kind: str) -> None:
    auth = here.auth(observers=[telemetry.observer])
    with (
        calls.way("secure_channel", here, auth) as stub,
        telemetry.tracer.start_as_current_span("work") as work,
    ):
        calls.make(kind, stub)

    assert child_of(telemetry.span(), work)


def test_a_retry_is_an_event_on_the_span_of_the_call(here: Place, telemetry: Telemetry) -> None:
    auth = here.auth(observers=[telemetry.observer], name="crm")
    with here.stub(auth) as stub:
        SYNC["unary"](stub)
        here.revoke(auth)
        telemetry.spans_out.clear()
        with telemetry.tracer.start_as_current_span("work") as work:
            SYNC["unary"](stub)

    (event,) = telemetry.span("work").events
    assert event.name == "grpc_bearer.call.retry"
    assert event.attributes == {
        "grpc_bearer.auth.name": "crm",
        "grpc_bearer.source": "CallableSource",
        "rpc.method": "grpc_bearer.testing.v1.Probe/Unary",
        "rpc.response.status_code": "UNAUTHENTICATED",
        "grpc_bearer.call.attempt": 1,
        "grpc_bearer.call.delay": 0.0,
    }
    assert child_of(telemetry.span(), work)  # the second attempt waited for this one


@pytest.mark.parametrize("kind", sorted(SYNC))
def test_each_kind_of_retry_is_on_the_span_of_its_caller(here: Place, telemetry: Telemetry, kind: str) -> None:
    auth = here.auth(observers=[telemetry.observer])
    # The stream: so that gRPC's thread is not one that the call below has started.
    with here.stub(auth) as stub, open_elsewhere(stub):
        here.revoke(auth)
        telemetry.spans_out.clear()
        with telemetry.tracer.start_as_current_span("work") as work:
            SYNC[kind](stub)

    assert [event.name for event in telemetry.span("work").events] == ["grpc_bearer.call.retry"]
    assert child_of(telemetry.span(), work)


@pytest.mark.parametrize("kind", sorted(AIO))
async def test_each_kind_of_retry_of_asyncio_is_on_the_span_of_its_caller(
    here: Place, telemetry: Telemetry, kind: str
) -> None:
    auth = here.auth(observers=[telemetry.observer])
    async with here.aio_stub(auth) as stub:
        await AIO["unary"](stub)
        here.revoke(auth)
        with telemetry.tracer.start_as_current_span("work"):
            await AIO[kind](stub)

    assert [event.name for event in telemetry.span("work").events] == ["grpc_bearer.call.retry"]


def test_a_token_out_of_the_shared_cache_is_marked(telemetry: Telemetry, tmp_path: Path) -> None:
    cache = grpc_bearer.SharedCache(tmp_path / "tokens", encryption_key=os.urandom(32), name="test")
    for _ in range(2):
        with grpc_bearer.BearerAuth(lambda: "s3cret", cache=cache, observers=[telemetry.observer]) as auth:
            auth.token()

    assert [span.attributes.get("grpc_bearer.token.shared") for span in telemetry.spans()] == [None, True]
    points = telemetry.points("grpc_bearer.token.fetch.duration")
    assert sorted(point.attributes.get("grpc_bearer.token.shared", False) for point in points) == [False, True]


# ------------------------------------------------------------------------------------------------------------ metrics


def test_the_duration_of_fetches_counts_failures_apart(telemetry: Telemetry, make: Make, clock: ManualClock) -> None:
    auth = make("token", TokenUnavailableError("status 503"), "token")
    auth.token()
    clock.advance(1000.0)
    with pytest.raises(TokenUnavailableError):
        auth.token()
    clock.advance(1000.0)
    auth.token()

    metric = telemetry.metrics()["grpc_bearer.token.fetch.duration"]
    failed = {**WHO, "error.type": "grpc_bearer.errors.TokenUnavailableError"}
    points = {point.attributes.get("error.type"): point for point in metric.data.data_points}
    good, bad = points[None], points[failed["error.type"]]
    assert metric.unit == "s"
    assert (good.attributes, good.count, good.sum, good.explicit_bounds[0]) == (WHO, 2, 4.0, 0.005)
    assert (bad.attributes, bad.count) == (failed, 1)
    (failures,) = telemetry.points("grpc_bearer.token.fetch.failures")
    assert (failures.attributes, failures.value) == (failed, 1)


def test_forced_refreshes_and_retries_are_counted(here: Place, telemetry: Telemetry) -> None:
    auth = here.auth(observers=[telemetry.observer])
    with here.stub(auth) as stub:
        for _ in range(3):
            SYNC["unary"](stub)
            here.revoke(auth)
            SYNC["unary"](stub)
    telemetry.observer(events.RefreshForced("crm", "CallableSource", reason="changed"))

    forced = {p.attributes["grpc_bearer.refresh.reason"]: p.value for p in telemetry.points(FORCED)}
    (retries,) = telemetry.points("grpc_bearer.call.retries")
    assert forced == {"refused": 3, "changed": 1}
    assert retries.value == 3
    assert retries.attributes == {
        "grpc_bearer.source": "CallableSource",
        "rpc.method": "grpc_bearer.testing.v1.Probe/Unary",
        "rpc.response.status_code": "UNAUTHENTICATED",
    }


FORCED = "grpc_bearer.token.forced_refreshes"


def test_skew_is_a_gauge(telemetry: Telemetry) -> None:
    telemetry.observer(events.SkewLearnt("crm", "Scripted", offset=600.5, previous=0.0))

    (point,) = telemetry.points("grpc_bearer.clock.skew")
    assert (point.attributes, point.value) == (WHO, 600.5)


def test_a_fetch_that_takes_too_long_is_counted(telemetry: Telemetry, clock: ManualClock) -> None:
    source = Scripted(clock)
    source.go.clear()
    future = asking(BearerAuth(source, name="crm", clock=clock, observers=[telemetry.observer]))
    assert source.entered.wait(PATIENCE)
    clock.advance(60.0)
    assert future.exception(PATIENCE) is not None
    source.go.set()
    assert eventually(lambda: len(telemetry.spans()) == 1)

    (point,) = telemetry.points("grpc_bearer.token.fetch.overdue")
    assert (point.attributes, point.value) == (WHO, 1)


def test_every_name_is_documented_and_follows_the_rules_for_names(here: Place, telemetry: Telemetry) -> None:
    observer = telemetry.observer
    who = ("crm", "FileSource")
    for event in (
        events.FetchBegun(*who, fetch=-1),
        events.TokenFetched(*who, fetch=-1, duration=1.0, lifetime=1.0),
        events.RefreshOverdue(*who, fetch=-1, waited=60.0, usable=False),
        events.RefreshForced(*who, reason="refused"),
        events.CallRetried(*who, method="", code="UNAUTHENTICATED", attempt=1, delay=0.0),
        events.SkewLearnt(*who, offset=1.0, previous=0.0),
        events.RefreshFailed(
            *who, fetch=0, duration=0.0, error="Own", message="", retryable=False, failures=1, retry_in=1.0, usable=True
        ),
    ):
        observer(event)

    rows = re.compile(r"^`(grpc_bearer\.[\w.]+)` +(?:histogram|counter|gauge) ", re.MULTILINE)
    documented = set(rows.findall(otel.__doc__ or ""))
    assert set(telemetry.metrics()) == documented
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*(\.[a-z]+(_[a-z]+)*)+", name) for name in documented)
    (failure,) = telemetry.points("grpc_bearer.token.fetch.failures")
    assert failure.attributes["error.type"] == "Own"  # a source's own class


# ---------------------------------------------------------------------------------------------------------- manners


def test_an_exporter_that_needs_the_very_token_causes_no_spans_of_its_own(clock: ManualClock) -> None:
    exported: list[str] = []

    class OverOurChannel(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            auth.invalidate(auth.token(timeout=PATIENCE))
            auth.token(timeout=PATIENCE)
            exported.extend(span.name for span in spans)
            return SpanExportResult.SUCCESS

    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(OverOurChannel()))
    reader = InMemoryMetricReader()
    observer = otel.OpenTelemetryObserver(tracers, MeterProvider([reader]))
    auth = BearerAuth(Scripted(clock), clock=clock, observers=[observer])
    auth.token()

    assert exported == ["fetch token"]
    assert observer._open == {}


def test_while_instrumentation_is_suppressed_only_metrics_are_taken(telemetry: Telemetry, make: Make) -> None:
    token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        make().token()
    finally:
        context.detach(token)

    assert telemetry.spans() == []
    assert telemetry.points("grpc_bearer.token.fetch.duration")[0].count == 1


def test_an_observer_added_while_a_fetch_is_under_way(telemetry: Telemetry, clock: ManualClock) -> None:
    source = Scripted(clock)
    source.go.clear()
    auth = BearerAuth(source, clock=clock)
    future = asking(auth)
    assert source.entered.wait(PATIENCE)
    events.add_observer(telemetry.observer)
    try:
        source.go.set()
        assert future.result(PATIENCE).value == "t1"
    finally:
        events.remove_observer(telemetry.observer)

    assert telemetry.spans() == []
    assert telemetry.points("grpc_bearer.token.fetch.duration")[0].count == 1


def test_one_observer_serves_many_threads(telemetry: Telemetry, clock: ManualClock) -> None:
    auths = [BearerAuth(lambda n=n: f"t{n}", observers=[telemetry.observer]) for n in range(50)]
    threads = [threading.Thread(target=auth.token) for auth in auths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert len(telemetry.spans()) == 50
    assert telemetry.points("grpc_bearer.token.fetch.duration")[0].count == 50
    assert telemetry.observer._open == {}


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'grpc-bearer\[otel\]'"):
        otel.OpenTelemetryObserver()


def test_only_the_module_otel_imports_opentelemetry() -> None:
    package = Path(grpc_bearer.__file__).parent
    importers = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "opentelemetry")
        or (isinstance(node, ast.Import) and any(each.name.split(".")[0] == "opentelemetry" for each in node.names))
    }

    assert importers == {"otel.py"}


def test_a_call_with_its_token_at_hand_makes_no_measurement(here: Place, telemetry: Telemetry) -> None:
    auth = here.auth(observers=[telemetry.observer])
    with here.stub(auth) as stub:
        SYNC["unary"](stub)
        for kind in SYNC:
            SYNC[kind](stub)

    assert len(telemetry.spans()) == 1
    assert list(telemetry.metrics()) == ["grpc_bearer.token.fetch.duration"]
