"""What the tests of interceptors share: one function for every kind of call, sync and asyncio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
from grpc import aio

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
    import inspect

    return intercept_aio if inspect.iscoroutinefunction(does) else intercept


def with_metadata(details: Any, *pairs: tuple[str, str]) -> Any:
    """The details with more metadata, in the form that each of gRPC's two sides expects."""
    more = (*(details.metadata or ()), *pairs)
    return details._replace(metadata=aio.Metadata(*more) if isinstance(details, aio.ClientCallDetails) else more)


def text(metadata: Any) -> str:
    """All of it, to look for what must not be there."""
    return " ".join(f"{key}={value}" for key, value in metadata or ())
