"""The ways to attach a token that the demo shows, one short example of each, and the calls it makes through them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

import grpc

import grpc_bearer
from grpc_bearer.testing import ProbeReply, ProbeRequest, ProbeServer, ProbeStub
from grpc_bearer.testing._ports import DIRECT

# Seconds; far more than a call on loopback takes, so that a fault ends the demo instead of hanging it.
_PATIENCE = 10.0
# Requests, and replies, of each stream.
_LENGTH = 3
# Method, whether it streams requests, whether it streams replies.
_KINDS = (
    ("Unary", False, False),
    ("ServerStream", False, True),
    ("ClientStream", True, False),
    ("BidiStream", True, True),
)

# A stub, sync or asyncio, and what its calls need besides.
Opened = tuple[Any, dict[str, Any]]


class WrongReply(Exception):
    """The server answered something else than it should have."""


def call_all(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> int:
    """Make calls of all four kinds through every sync way to attach; how many."""
    calls = 0
    for attach in ATTACHMENTS.values():
        with attach(server, auth) as (stub, options):
            for method, streams_in, streams_out in _KINDS:
                answer = getattr(stub, method)(_request(streams_in), timeout=_PATIENCE, **options)
                _check(method, list(answer) if streams_out else [answer])
                calls += 1
    return calls


async def acall_all(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> int:
    """Make calls of all four kinds through every asyncio way to attach; how many."""
    calls = 0
    for attach in AIO_ATTACHMENTS.values():
        async with attach(server, auth) as (stub, options):
            for method, streams_in, streams_out in _KINDS:
                answer: Any = getattr(stub, method)(_request(streams_in), timeout=_PATIENCE, **options)
                _check(method, [reply async for reply in answer] if streams_out else [await answer])
                calls += 1
    return calls


def _stub(channel: Any) -> Any:
    # Generated stubs take either kind of channel; their types know the sync one only.
    return ProbeStub(channel)


def _request(streams: bool) -> Any:
    if streams:
        return (ProbeRequest(index=index) for index in range(_LENGTH))
    return ProbeRequest(index=0, replies=_LENGTH)


def _check(method: str, replies: list[ProbeReply]) -> None:
    _, streams_in, streams_out = next(kind for kind in _KINDS if kind[0] == method)
    expected = (_LENGTH if streams_out else 1, list(range(_LENGTH if streams_in else 1)))
    found = (len(replies), list(replies[-1].indexes) if replies else [])
    if found != expected:
        raise WrongReply(f"{method}: expected replies and requests {expected}, got {found}")


@contextmanager
def _secure_channel(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> Iterator[Opened]:
    with grpc_bearer.secure_channel(server.target, server.ca.channel_credentials(), DIRECT, auth=auth) as channel:
        yield _stub(channel), {}


@contextmanager
def _intercept_channel(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> Iterator[Opened]:
    with server.channel() as plain:
        yield _stub(grpc_bearer.intercept_channel(plain, auth)), {}


@contextmanager
def _wrap_stub(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> Iterator[Opened]:
    with server.channel() as plain:
        yield grpc_bearer.wrap_stub(_stub(plain), auth), {}


@contextmanager
def _channel_credentials(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> Iterator[Opened]:
    credentials = grpc_bearer.channel_credentials(auth, server.ca.channel_credentials())
    with grpc.secure_channel(server.target, credentials, DIRECT) as channel:
        yield _stub(channel), {}


@contextmanager
def _call_credentials(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> Iterator[Opened]:
    with server.channel() as plain:
        yield _stub(plain), {"credentials": grpc_bearer.call_credentials(auth)}


@contextmanager
def _interceptor(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> Iterator[Opened]:
    with server.channel() as plain:
        yield _stub(grpc.intercept_channel(plain, grpc_bearer.interceptor(auth))), {}


@asynccontextmanager
async def _aio_secure_channel(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> AsyncIterator[Opened]:
    async with grpc_bearer.aio.secure_channel(
        server.target, server.ca.channel_credentials(), DIRECT, auth=auth
    ) as channel:
        yield _stub(channel), {}


@asynccontextmanager
async def _aio_intercept_channel(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> AsyncIterator[Opened]:
    async with grpc.aio.secure_channel(server.target, server.ca.channel_credentials(), DIRECT) as plain:
        yield _stub(grpc_bearer.aio.intercept_channel(plain, auth)), {}


@asynccontextmanager
async def _aio_wrap_stub(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> AsyncIterator[Opened]:
    async with grpc.aio.secure_channel(server.target, server.ca.channel_credentials(), DIRECT) as plain:
        yield grpc_bearer.wrap_stub(_stub(plain), auth), {}


@asynccontextmanager
async def _aio_interceptors(server: ProbeServer, auth: grpc_bearer.BearerAuth) -> AsyncIterator[Opened]:
    interceptors = grpc_bearer.aio.interceptors(auth)
    credentials = server.ca.channel_credentials()
    async with grpc.aio.secure_channel(server.target, credentials, DIRECT, interceptors=interceptors) as channel:
        yield _stub(channel), {}


ATTACHMENTS: Mapping[str, Callable[[ProbeServer, grpc_bearer.BearerAuth], AbstractContextManager[Opened]]] = {
    "secure_channel": _secure_channel,
    "intercept_channel": _intercept_channel,
    "wrap_stub": _wrap_stub,
    "channel_credentials": _channel_credentials,
    "call_credentials": _call_credentials,
    "interceptor": _interceptor,
}
AIO_ATTACHMENTS: Mapping[str, Callable[[ProbeServer, grpc_bearer.BearerAuth], AbstractAsyncContextManager[Opened]]] = {
    "aio.secure_channel": _aio_secure_channel,
    "aio.intercept_channel": _aio_intercept_channel,
    "wrap_stub (aio)": _aio_wrap_stub,
    "aio.interceptors": _aio_interceptors,
}
