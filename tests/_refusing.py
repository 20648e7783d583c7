"""What the tests of retry share: a server that refuses, tokens that can be revoked, and every kind of call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import inspect
import itertools
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from typing import Any

import grpc
import pytest
from attachments import AIO_WAYS, SYNC_WAYS, TLS

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


AIO: dict[str, Callable[..., Coroutine[Any, Any, Seen]]] = {
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

#: For `parametrize(("calls", "kind"), BOTH, indirect=["calls"])`.
BOTH = [("sync", kind) for kind in SYNC] + [("asyncio", kind) for kind in AIO]

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


async def soon(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, PATIENCE)


# ----------------------------------------------------------------------------------- one test, for sync and for asyncio

STREAM_REPLY = ("ServerStream", "BidiStream")
HANDED_OUT = ("Unary", "ClientStream", *STREAM_REPLY)


class Slow:
    """A source whose later tokens come when they are let; the first is there at once."""

    def __init__(self, here: Place) -> None:
        self.here = here
        self.asked, self.go = threading.Event(), threading.Event()
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        if self.count > 1:
            self.asked.set()
            assert self.go.wait(PATIENCE)
        self.here.verifier.accept(token := f"slow-{id(self)}-{self.count}")
        return token


class Sync:
    """Makes calls on this thread, and asks them."""

    @contextlib.contextmanager
    def way(self, name: str, here: Place, auth: Any, **how: Any) -> Iterator[Any]:
        with SYNC_WAYS[name](here.server.target, here.credentials, auth, **how) as stub:
            yield stub

    def make(self, kind: str, stub: Any, **how: Any) -> Seen:
        return SYNC[kind](stub, **how)

    def open(self, stub: Any, method: str, sent: Any = None, **how: Any) -> Any:
        """A call that is handed out at once."""
        factory = getattr(stub, method)
        return (factory if method in STREAM_REPLY else factory.future)(sent or to_send(method), **how)

    def end_of(self, call: Any, method: str) -> Any:
        """The error a call ended with; `None` for success."""
        try:
            self.replies(call, method)
        except grpc.RpcError as error:
            return error
        return None

    def replies(self, call: Any, method: str) -> list[ProbeReply]:
        return list(call) if method in STREAM_REPLY else [call.result(PATIENCE)]

    def next(self, call: Any) -> ProbeReply:
        reply: ProbeReply = next(call)
        return reply

    def held(self, call: Any) -> Any:
        """What the user holds of it."""
        return call

    def pause(self, seconds: float) -> None:
        """Longer than a pause between attempts that has begun already."""
        threading.Event().wait(seconds + 0.05)


class Asyncio:
    """The same on a loop that runs on another thread, so that one test serves both."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    @contextlib.contextmanager
    def way(self, name: str, here: Place, auth: Any, **how: Any) -> Iterator[Any]:
        way = AIO_WAYS[f"aio.{'interceptors' if name == 'interceptor' else name}"]
        opened = way(here.server.target, here.credentials, auth, **how)
        stub = self.wait(opened.__aenter__())
        try:
            yield stub
        finally:
            self.wait(opened.__aexit__(None, None, None))

    def make(self, kind: str, stub: Any, **how: Any) -> Seen:
        seen: Seen = self.wait(AIO[kind](stub, **how))
        return seen

    def open(self, stub: Any, method: str, sent: Any = None, **how: Any) -> Any:
        async def opened() -> Held:
            return Held(self, open_aio(stub, method, sent, **how))

        return self.wait(opened())

    def end_of(self, call: Any, method: str) -> Any:
        return self.wait(end_of_aio(call.held, method))

    def replies(self, call: Any, method: str) -> list[ProbeReply]:
        replies: list[ProbeReply] = self.wait(replies_aio(call.held, method))
        return replies

    def next(self, call: Any) -> ProbeReply:
        reply: ProbeReply = call.read()
        return reply

    def held(self, call: Any) -> Any:
        return call.held

    def pause(self, seconds: float) -> None:
        self.wait(asyncio.sleep(seconds))


class Held:
    """An asyncio call: each question is put on its loop, and the answer awaited."""

    def __init__(self, side: Asyncio, call: Any) -> None:
        self.held = call
        self._side = side

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def answer(*args: Any) -> Any:
            said = getattr(self.held, name)(*args)
            return await said if inspect.isawaitable(said) else said

        return lambda *args: self._side.wait(answer(*args))

    def __repr__(self) -> str:
        return repr(self.held)


def to_send(method: str) -> Any:
    return iter(requests()) if method in ("ClientStream", "BidiStream") else request(1, replies=2)


def open_aio(stub: Any, method: str, sent: Any = None, **how: Any) -> Any:
    return getattr(stub, method)(sent or to_send(method), **how)


async def replies_aio(call: Any, method: str) -> list[ProbeReply]:
    return [reply async for reply in call] if method in STREAM_REPLY else [await call]


async def end_of_aio(call: Any, method: str) -> Any:
    try:
        await replies_aio(call, method)
    except (grpc.RpcError, asyncio.CancelledError) as error:
        return error
    return None


Side = Sync | Asyncio


@contextlib.contextmanager
def side(name: str, caplog: pytest.LogCaptureFixture) -> Iterator[Side]:
    if name == "sync":
        yield Sync()
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asynchronous = Asyncio(loop)
    tidy = tidily(caplog)
    try:
        asynchronous.wait(tidy.__aenter__())
        yield asynchronous
        asynchronous.wait(tidy.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE)
        loop.close()


@contextlib.asynccontextmanager
async def tidily(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No task is left on this loop, nor an exception that nobody has seen."""
    complaints: list[str] = []
    loop = asyncio.get_running_loop()

    def complain(_: object, context: dict[str, Any]) -> None:
        # Until 1.67 grpc.aio's poller wakes the loops of tests that are over, too.
        if "PollerCompletionQueue" not in context["message"]:
            complaints.append(context["message"])

    loop.set_exception_handler(complain)
    before = asyncio.all_tasks()
    yield
    for _ in range(500):
        left = asyncio.all_tasks() - before - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0.01)
    gc.collect()
    await asyncio.sleep(0)
    # Interceptors' writes go through a queue of grpc.aio's own, which older versions leave behind full.
    old = tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 80)
    assert not [task for task in left if not (old and "Queue.put" in repr(task))]
    assert complaints == []
    assert not [r for r in caplog.records if r.name == "asyncio" and "PollerCompletionQueue" not in r.getMessage()]
