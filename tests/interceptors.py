"""What the tests of interceptors share: one function for every kind of call, and what users let interceptors do."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from attachments import AIO_KINDS
from grpc import aio

from grpc_bearer.testing import ProbeReply, ProbeRequest

#: What a sync interceptor does: `(kind, continuation, details, request)`, the kind as gRPC names it.
Does = Callable[[str, Callable[[Any, Any], Any], Any, Any], Any]

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_SYNC = (
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
)
_AIO = (
    aio.UnaryUnaryClientInterceptor,
    aio.UnaryStreamClientInterceptor,
    aio.StreamUnaryClientInterceptor,
    aio.StreamStreamClientInterceptor,
)


def sync_interceptor(does: Does) -> Any:
    """One object for all four kinds."""
    return type("Mine", _SYNC, {f"intercept_{kind}": _method(kind, does) for kind in KINDS})()


def aio_interceptors(does: Does) -> list[Any]:
    """One object for each kind, since grpc.aio takes each for one kind alone; `does` is a coroutine function."""
    pairs = zip(KINDS, _AIO, strict=True)
    return [type("Mine", (base,), {f"intercept_{kind}": _method(kind, does)})() for kind, base in pairs]


def _method(kind: str, does: Does) -> Callable[..., Any]:
    async def intercept_aio(_: Any, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await does(kind, continuation, client_call_details, request)

    def intercept(_: Any, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return does(kind, continuation, client_call_details, request)

    # grpc.aio looks for coroutine functions.
    return intercept_aio if inspect.iscoroutinefunction(does) else intercept


def with_metadata(details: Any, *pairs: tuple[str, str]) -> Any:
    """The details with more metadata, in the form that each of gRPC's two sides expects."""
    more = (*(details.metadata or ()), *pairs)
    return details._replace(metadata=aio.Metadata(*more) if isinstance(details, aio.ClientCallDetails) else more)


def text(metadata: Any) -> str:
    """All of it, to look for what must not be there."""
    return " ".join(f"{key}={value}" for key, value in metadata or ())


# ----------------------------------------------------------------------------------------- what interceptors may do

ANSWER = ProbeReply(index=7, count=7)


class Mine(Exception):
    """What a user's interceptor raises."""


class Seen:
    """What an interceptor saw: requests by type and field, and all that it could have logged."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, int]] = []
        self.logged: list[str] = []

    def _one(self, request: Any) -> Any:
        self.requests.append((type(request).__name__, request.index))
        self.logged.append(repr(request))
        return request

    def take(
        self, kind: str, details: Any, request: Any, change: Callable[[Any], Any] = lambda request: request
    ) -> Any:
        """Log the call, read its request or, as they are pulled, its requests; give them on, changed."""
        self.logged.append(repr(details))
        if kind.startswith("unary"):
            return change(self._one(request))
        if hasattr(request, "__aiter__"):
            return self._later(request, change)
        return (change(self._one(each)) for each in request)

    async def _later(self, requests: AsyncIterator[Any], change: Callable[[Any], Any]) -> AsyncIterator[Any]:
        async for each in requests:
            yield change(self._one(each))


def _another(request: Any) -> ProbeRequest:
    return ProbeRequest(index=request.index + 100, replies=request.replies)


class Answered(grpc.Call, grpc.Future):  # type: ignore[type-arg,misc]
    """An outcome that no server has sent."""

    def result(self, timeout: float | None = None) -> Any:
        return ANSWER

    def add_done_callback(self, fn: Any) -> None:
        fn(self)

    code = lambda self: grpc.StatusCode.OK  # noqa: E731
    done = lambda self: True  # noqa: E731
    details = lambda self: ""  # noqa: E731
    initial_metadata = trailing_metadata = lambda self: ()
    exception = traceback = lambda self, timeout=None: None
    cancel = cancelled = running = is_active = time_remaining = lambda self: None
    add_callback = lambda self, callback: False  # noqa: E731


def reads(seen: Seen) -> Does:
    return lambda kind, continuation, details, request: continuation(details, seen.take(kind, details, request))


def replaces(seen: Seen) -> Does:
    return lambda kind, continuation, details, request: continuation(
        details, seen.take(kind, details, request, _another)
    )


def raises(seen: Seen) -> Does:
    def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        seen.take(kind, details, request)
        raise Mine("not today")

    return does


def answers(seen: Seen) -> Does:
    def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        seen.take(kind, details, request)
        return (ANSWER for _ in range(2)) if kind.endswith("stream") else Answered()

    return does


def waits(seen: Seen) -> Does:
    """For its result, and then gives the call on."""

    def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, seen.take(kind, details, request))
        _ = call.initial_metadata() if kind.endswith("stream") else call.result()
        return call

    return does


def generates(seen: Seen) -> Does:
    """Gives a generator in place of a stream, as OpenTelemetry does."""

    def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = continuation(details, seen.take(kind, details, request))
        return (reply for reply in call) if kind.endswith("stream") else call

    return does


def _coroutine(make: Callable[[Seen], Does]) -> Callable[[Seen], Does]:
    """The same for asyncio, of those that only wait for their continuation."""

    def made(seen: Seen) -> Does:
        does = make(seen)

        async def adoes(kind: str, continuation: Any, details: Any, request: Any) -> Any:
            return await does(kind, continuation, details, request)

        return adoes

    return made


async def _generated(replies: Any) -> AsyncIterator[Any]:
    async for reply in replies:
        yield reply


def aanswers(seen: Seen) -> Does:
    async def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        seen.take(kind, details, request)
        return ANSWER

    return does


def awaits(seen: Seen) -> Does:
    async def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, seen.take(kind, details, request))
        await (call.initial_metadata() if kind.endswith("stream") else call)
        return call

    return does


def responds(seen: Seen) -> Does:
    """Gives a response in place of a call, as gRPC lets it; for a stream a generator."""

    async def does(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        call = await continuation(details, seen.take(kind, details, request))
        return _generated(call) if kind.endswith("stream") else await call

    return does


#: What each does, made for a `Seen`.
SYNC = {each.__name__: each for each in (reads, replaces, raises, answers, waits, generates)}
AIO = {
    **{name: _coroutine(SYNC[name]) for name in ("reads", "replaces", "raises")},
    "answers": aanswers,
    "awaits": awaits,
    "responds": responds,
}
ENDS_THE_CALL = ("raises", "answers")  # no server is asked
# What grpc.aio itself cannot do: take anything but a call in place of a stream-unary call; take the answer to a stream
# without having gone on; read requests that are written one by one while an interceptor waits for the reply; and, in
# its oldest versions, close a channel after such requests met a generator in place of a call.
NOT_IN_AIO = {
    *(("answers", kind) for kind in AIO_KINDS if kind != "unary"),
    *(("responds", kind) for kind in AIO_KINDS if kind.startswith("client_stream") or kind.endswith("write")),
    *(("awaits", kind) for kind in AIO_KINDS if kind.endswith("write")),
}


def _serialised(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


#: What a redirected call takes along of what was below us.
CARRIES = {
    "metadata": lambda details: {"metadata": details.metadata},
    "metadata and credentials": lambda details: {"metadata": details.metadata, "credentials": details.credentials},
}


class Redirect:
    """What an interceptor does that sends calls elsewhere, once it is switched on."""

    def __init__(self, channel: Any, carries: str = "metadata", *, on: bool = True) -> None:
        self.channel, self.carries, self.on = channel, CARRIES[carries], on

    def _method(self, kind: str, details: Any) -> Any:
        return getattr(self.channel, kind)(details.method, _serialised, ProbeReply.FromString)

    def sync(self, kind: str, continuation: Any, details: Any, request: Any) -> Any:
        if not self.on:
            return continuation(details, request)
        method = self._method(kind, details)
        begin = method if kind.endswith("stream") else method.future
        return begin(request, timeout=details.timeout, **self.carries(details))

    async def aio(self, kind: str, continuation: Any, details: Any, request: Any) -> Any:
        if not self.on:
            return await continuation(details, request)
        return self._method(kind, details)(request, timeout=details.timeout, **self.carries(details))
