"""Events as OpenTelemetry metrics and spans. Needs the extra `otel`.

```python
from grpc_bearer import events, otel

events.add_observer(otel.OpenTelemetryObserver())          # every auth of this process
```

Metrics, each with the attributes `grpc_bearer.source` (the class of the source) and, if it has a name,
`grpc_bearer.auth.name`:

=================================== ========= =========== ============================================================
name                                kind      unit        further attributes
=================================== ========= =========== ============================================================
`grpc_bearer.token.fetch.duration`  histogram s           `error.type` if it failed; `grpc_bearer.token.shared`: true if
                                                          the token came out of the shared cache
`grpc_bearer.token.fetch.failures`  counter   {failure}   `error.type`
`grpc_bearer.token.fetch.overdue`   counter   {fetch}
`grpc_bearer.token.forced_refreshes` counter  {refresh}   `grpc_bearer.refresh.reason`: `refused` or `changed`
`grpc_bearer.call.retries`          counter   {retry}     `rpc.method`, `rpc.response.status_code`
`grpc_bearer.clock.skew`            gauge     s
=================================== ========= =========== ============================================================

Each fetch is a span named `fetch token`. If a call waits for it, it is a child of the span that is current where the
call was made; a fetch ahead, which nobody waits for, is a trace of its own with a link to the one that gave rise to it.
While a source fetches, the span is the current one, so that the HTTP request of a token endpoint is a child of it. A
retry is an event `grpc_bearer.call.retry` on the span that is current where the call was made, if it has not ended.

`error.type` is a class of `grpc_bearer.errors`. Names follow the semantic conventions 1.38 and later; nothing here
tells a token, a key or an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from grpc_bearer._base.translating import translating
from grpc_bearer._base.user_code import carried
from grpc_bearer._base.version import version
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.events import (
    CallRetried,
    Event,
    FetchBegun,
    RefreshFailed,
    RefreshForced,
    RefreshOverdue,
    SkewLearnt,
    TokenFetched,
)

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["OpenTelemetryObserver"]

# Those of http.client.request.duration: a fetch is most often one HTTP request. Seconds.
_BOUNDARIES = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

_Attributes = dict[str, Any]


class OpenTelemetryObserver:
    """Tells OpenTelemetry of events; see the module. Give it to `events.add_observer` or to `BearerAuth(observers=…)`.

    Args:
        tracer_provider: where spans go; `None`: to the global provider.
        meter_provider: where metrics go; `None`: to the global provider.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.

    >>> import grpc_bearer
    >>> auth = grpc_bearer.BearerAuth("s3cret", name="crm", observers=[OpenTelemetryObserver()])
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        missing = "OpenTelemetry is not installed: pip install 'grpc-bearer[otel]'"
        with translating(ImportError, to=lambda _: ConfigurationError(missing)):
            from opentelemetry import metrics, trace
        self._tracer = trace.get_tracer("grpc_bearer", version(), tracer_provider)
        meter = metrics.get_meter("grpc_bearer", version(), meter_provider)
        self._duration = meter.create_histogram(
            "grpc_bearer.token.fetch.duration",
            "s",
            "How long sources take to bring a token, or to fail.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        self._failures = meter.create_counter(
            "grpc_bearer.token.fetch.failures", "{failure}", "Fetches that brought no token."
        )
        self._overdue = meter.create_counter(
            "grpc_bearer.token.fetch.overdue", "{fetch}", "Fetches that took too long to be waited for."
        )
        self._forced = meter.create_counter(
            "grpc_bearer.token.forced_refreshes", "{refresh}", "Tokens given up before their time."
        )
        self._retries = meter.create_counter(
            "grpc_bearer.call.retries", "{retry}", "Calls made once more with another token."
        )
        self._skew = meter.create_gauge(
            "grpc_bearer.clock.skew", "s", "How far this machine's clock is behind, as far as it is known."
        )
        # Fetches begun and not ended, by number: the span, and what detaches it again. A fetch begins and ends on one
        # thread, in one context of its own.
        self._open: dict[int, tuple[Span, Token[Context]]] = {}
        if _carry not in carried:
            carried.append(_carry)

    def __call__(self, event: Event, /) -> None:
        """Take notice of an event."""
        shared = _shared(event)
        match event:
            case FetchBegun():
                self._begin(event, shared)
            case TokenFetched():
                # Only where it is true: who has no shared cache sees no attribute of it.
                taken = {"grpc_bearer.token.shared": True} if event.shared else {}
                self._duration.record(event.duration, {**shared, **taken})
                self._end(event.fetch, event)
            case RefreshFailed():
                failed = {**shared, "error.type": _error_type(event.error)}
                self._failures.add(1, failed)
                if event.fetch:
                    self._duration.record(event.duration, failed)
                self._end(event.fetch, event)
            case RefreshOverdue():
                self._overdue.add(1, shared)
            case RefreshForced(reason=reason):
                self._forced.add(1, {**shared, "grpc_bearer.refresh.reason": reason})
            case CallRetried():
                self._retry(event, shared)
            case SkewLearnt(offset=offset):
                self._skew.set(offset, shared)

    def _begin(self, event: FetchBegun, shared: _Attributes) -> None:
        from opentelemetry import context, trace

        if _suppressed():
            return
        attributes = {**shared, "grpc_bearer.fetch.ahead": event.ahead}
        if event.ahead:
            cause = trace.get_current_span().get_span_context()
            links = [trace.Link(cause)] if cause.is_valid else []
            span = self._tracer.start_span("fetch token", context.Context(), attributes=attributes, links=links)
        else:
            span = self._tracer.start_span("fetch token", attributes=attributes)
        self._open[event.fetch] = span, context.attach(trace.set_span_in_context(span))

    def _end(self, fetch: int, event: TokenFetched | RefreshFailed) -> None:
        from opentelemetry import context, trace

        begun = self._open.pop(fetch, None)
        if begun is None:  # suppressed, or this observer was added in between
            return
        span, token = begun
        context.detach(token)
        if isinstance(event, RefreshFailed):
            span.set_attribute("error.type", _error_type(event.error))
            span.set_status(trace.Status(trace.StatusCode.ERROR, event.message))
        else:
            if event.lifetime is not None:
                span.set_attribute("grpc_bearer.token.lifetime", event.lifetime)
            if event.shared:
                span.set_attribute("grpc_bearer.token.shared", True)
        span.end()

    def _retry(self, event: CallRetried, shared: _Attributes) -> None:
        from opentelemetry import trace

        attributes = {**shared, "rpc.response.status_code": event.code}
        if event.method:
            attributes["rpc.method"] = event.method
        self._retries.add(1, attributes)
        told = {"grpc_bearer.call.attempt": event.attempt, "grpc_bearer.call.delay": event.delay}
        trace.get_current_span().add_event("grpc_bearer.call.retry", {**attributes, **told})


def _carry() -> Callable[[], object]:
    """The span at hand, for functions that run without the caller's context variables; no baggage, which is theirs."""
    from opentelemetry import context, trace

    span = trace.get_current_span()
    return lambda: context.attach(trace.set_span_in_context(span, context.Context()))


def _shared(event: Event) -> _Attributes:
    attributes = {"grpc_bearer.source": event.source}
    if event.auth:
        attributes["grpc_bearer.auth.name"] = event.auth
    return attributes


def _error_type(name: str) -> str:
    """The error's class, by its full name if it is one of ours, as the semantic conventions want it."""
    from grpc_bearer import errors

    return f"grpc_bearer.errors.{name}" if name in errors.__all__ else name


def _suppressed() -> bool:
    """Whether an exporter is at work here: what it sends over a channel of ours must cause no more spans."""
    from opentelemetry import context

    key = getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", None)
    return key is not None and bool(context.get_value(key))
