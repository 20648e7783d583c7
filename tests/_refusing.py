"""What the tests of retry share: a server that refuses, tokens that can be revoked, and every kind of call."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any

import grpc
from doors import TLS

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer.testing import ManualClock, OpaqueVerifier, ProbeReply, ProbeRequest, ProbeServer, ProbeStub, Refuse

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
#: Long enough for the slowest machine, short enough that a test which hangs is a test that fails.
PATIENCE = 20.0


class Mint:
    """A source of tokens that the server knows, one after the other; counts how often it was asked."""

    _numbers = itertools.count()

    def __init__(self, verifier: OpaqueVerifier) -> None:
        self._verifier = verifier
        self.minted: list[str] = []

    def __call__(self) -> str:
        token = f"minted-{next(self._numbers)}"
        self._verifier.accept(token)
        self.minted.append(token)
        return token


class Place:
    """A server over TLS, and what a test does to it."""

    def __init__(self) -> None:
        self.verifier = OpaqueVerifier([])
        self.server = ProbeServer(self.verifier, TLS)
        self.credentials = self.server.channel_credentials()
        self._made: weakref.WeakKeyDictionary[BearerAuth, tuple[Mint, ManualClock]] = weakref.WeakKeyDictionary()

    def auth(self, **how: Any) -> BearerAuth:
        """An auth whose tokens the server knows; its clock stands still, see `later`."""
        mint, clock = Mint(self.verifier), ManualClock()
        auth = BearerAuth(mint, clock=clock, **how)
        self._made[auth] = mint, clock
        return auth

    def minted(self, auth: BearerAuth) -> list[str]:
        """Every token that this auth has fetched."""
        return self._made[auth][0].minted

    def later(self, auth: BearerAuth) -> None:
        """The budget of forced refreshes is full again."""
        self._made[auth][1].advance(1e6)

    def revoke(self, auth: BearerAuth) -> str:
        """The server no longer knows the current token; returns it. The budget of forced refreshes is full again."""
        self.later(auth)
        token = auth.token().value
        self.verifier.revoke(token)
        return token

    def refuse(self, *faults: Refuse | None, method: str | None = None) -> None:
        """Refuse the next calls whose tokens are right; nothing is left over from an earlier test."""
        self.server.faults.clear()
        self.server.script(*faults, method=method)

    def channel(self, auth: object, **how: Any) -> grpc.Channel:
        return grpc_bearer.secure_channel(self.server.target, self.credentials, auth=auth, **how)

    @contextlib.contextmanager
    def stub(self, auth: object, **how: Any) -> Iterator[Any]:
        with self.channel(auth, **how) as channel:
            yield ProbeStub(channel)

    def aio_channel(self, auth: object, **how: Any) -> grpc.aio.Channel:
        return grpc_bearer.aio.secure_channel(self.server.target, self.credentials, auth=auth, **how)

    @contextlib.asynccontextmanager
    async def aio_stub(self, auth: object, **how: Any) -> AsyncIterator[Any]:
        async with self.aio_channel(auth, **how) as channel:
            yield ProbeStub(channel)


@contextlib.contextmanager
def place() -> Iterator[Place]:
    here = Place()
    with here.server:
        yield here


def request(index: int = 1, payload: bytes = b"", **how: Any) -> ProbeRequest:
    return ProbeRequest(index=index, payload=payload, **how)


def requests(count: int = 3) -> list[ProbeRequest]:
    return [request(index, b"payload %d" % index) for index in range(count)]


def digest_of(sent: Sequence[ProbeRequest]) -> bytes:
    return hashlib.sha256(b"".join(message.payload for message in sent)).digest()


def same(reply: ProbeReply, sent: Sequence[ProbeRequest]) -> bool:
    """Whether the server got these requests, all of them, once each, in this order and as they were."""
    return list(reply.indexes) == [message.index for message in sent] and reply.digest == digest_of(sent)


# Every kind of call: makes it, and tells how many requests the server saw and how many replies came.
Seen = tuple[list[int], int]


def _seen(*replies: ProbeReply) -> Seen:
    return list(replies[-1].indexes), len(replies)


SYNC: dict[str, Callable[..., Seen]] = {
    "unary": lambda stub, **how: _seen(stub.Unary(request(1), **how)),
    "unary.with_call": lambda stub, **how: _seen(stub.Unary.with_call(request(1), **how)[0]),
    "unary.future": lambda stub, **how: _seen(stub.Unary.future(request(1), **how).result(PATIENCE)),
    "server_stream": lambda stub, **how: _seen(*stub.ServerStream(request(1, replies=3), **how)),
    "client_stream": lambda stub, **how: _seen(stub.ClientStream(iter(requests()), **how)),
    "client_stream.with_call": lambda stub, **how: _seen(stub.ClientStream.with_call(iter(requests()), **how)[0]),
    "client_stream.future": lambda stub, **how: _seen(
        stub.ClientStream.future(iter(requests()), **how).result(PATIENCE)
    ),
    "bidi_stream": lambda stub, **how: _seen(*stub.BidiStream(iter(requests()), **how)),
}


async def _async_requests() -> AsyncIterator[ProbeRequest]:
    for message in requests():
        await asyncio.sleep(0)
        yield message


async def _unary(stub: Any, **how: Any) -> Seen:
    return _seen(await stub.Unary(request(1), **how))


async def _server_stream(stub: Any, **how: Any) -> Seen:
    return _seen(*[reply async for reply in stub.ServerStream(request(1, replies=3), **how)])


async def read_all(call: Any) -> list[ProbeReply]:
    replies = []
    while (reply := await call.read()) is not grpc.aio.EOF:
        replies.append(reply)
    return replies


async def _server_stream_read(stub: Any, **how: Any) -> Seen:
    return _seen(*await read_all(stub.ServerStream(request(1, replies=3), **how)))


async def _client_stream(stub: Any, **how: Any) -> Seen:
    return _seen(await stub.ClientStream(iter(requests()), **how))


async def _client_stream_async(stub: Any, **how: Any) -> Seen:
    return _seen(await stub.ClientStream(_async_requests(), **how))


async def write_all(call: Any, sent: Sequence[ProbeRequest]) -> None:
    """Write them; a call that ends meanwhile says so to whoever asks for its answer."""
    with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
        for message in sent:
            await call.write(message)
        await call.done_writing()


async def _client_stream_write(stub: Any, **how: Any) -> Seen:
    call = stub.ClientStream(**how)
    await write_all(call, requests())
    return _seen(await call)


async def _bidi_stream(stub: Any, **how: Any) -> Seen:
    return _seen(*[reply async for reply in stub.BidiStream(iter(requests()), **how)])


async def _bidi_stream_async(stub: Any, **how: Any) -> Seen:
    return _seen(*[reply async for reply in stub.BidiStream(_async_requests(), **how)])


async def _bidi_stream_write(stub: Any, **how: Any) -> Seen:
    call = stub.BidiStream(**how)
    replies = []
    try:
        for message in requests():
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
                await call.write(message)
            replies.append(await call.read())
    finally:
        await call.done_writing()  # until then grpc.aio's interceptors wait for more
    assert await call.read() is grpc.aio.EOF
    return _seen(*replies)


AIO: dict[str, Callable[..., Awaitable[Seen]]] = {
    "unary": _unary,
    "server_stream": _server_stream,
    "server_stream.read": _server_stream_read,
    "client_stream": _client_stream,
    "client_stream.async": _client_stream_async,
    "client_stream.write": _client_stream_write,
    "bidi_stream": _bidi_stream,
    "bidi_stream.async": _bidi_stream_async,
    "bidi_stream.write": _bidi_stream_write,
}

METHODS = {
    "unary": "Unary",
    "server_stream": "ServerStream",
    "client_stream": "ClientStream",
    "bidi_stream": "BidiStream",
}
EXPECTED: dict[str, Seen] = {
    "Unary": ([1], 1),
    "ServerStream": ([1], 3),
    "ClientStream": ([0, 1, 2], 1),
    "BidiStream": ([0, 1, 2], 3),
}


def method_of(kind: str) -> str:
    return METHODS[kind.partition(".")[0]]


def expected(kind: str) -> Seen:
    return EXPECTED[method_of(kind)]


async def soon(awaitable: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(awaitable, PATIENCE)
