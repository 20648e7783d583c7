"""What the tests of the ways share: every kind of call, every way, sync and asyncio under one roof."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import grpc

import grpc_bearer
from grpc_bearer import BearerAuth, CallContext, Source, Token
from grpc_bearer._engine.known import nothing
from grpc_bearer._engine.refresh_table import next_fetch_at
from grpc_bearer.testing import CA, ProbeRequest, ProbeServer, ProbeStub

#: Long enough for the slowest machine, short enough that a test which hangs is a test that fails.
PATIENCE = 20.0
TLS = CA()


# ------------------------------------------------------------------------------------------------------ kinds of call


def requests(count: int = 3) -> Iterator[ProbeRequest]:
    return (ProbeRequest(index=index) for index in range(count))


SYNC_KINDS: dict[str, Callable[..., object]] = {
    "unary": lambda stub, **how: stub.Unary(ProbeRequest(index=1), **how),
    "unary.with_call": lambda stub, **how: stub.Unary.with_call(ProbeRequest(index=1), **how),
    "unary.future": lambda stub, **how: stub.Unary.future(ProbeRequest(index=1), **how).result(PATIENCE),
    "server_stream": lambda stub, **how: list(stub.ServerStream(ProbeRequest(replies=3), **how)),
    "client_stream": lambda stub, **how: stub.ClientStream(requests(), **how),
    "client_stream.with_call": lambda stub, **how: stub.ClientStream.with_call(requests(), **how),
    "client_stream.future": lambda stub, **how: stub.ClientStream.future(requests(), **how).result(PATIENCE),
    "bidi_stream": lambda stub, **how: list(stub.BidiStream(requests(), **how)),
}


async def _all(call: Any) -> list[Any]:
    return [message async for message in call]


# What write() raises depends on how far the call has come; here the call itself is asked.
_WRITE_ERRORS = (asyncio.InvalidStateError, grpc.aio.AioRpcError)


async def _write(call: Any) -> Any:
    with contextlib.suppress(*_WRITE_ERRORS):
        for request in requests():
            await call.write(request)
        await call.done_writing()
    return await call


async def _write_and_read(call: Any) -> list[Any]:
    replies = []
    for request in requests():
        with contextlib.suppress(*_WRITE_ERRORS):
            await call.write(request)
        replies.append(await call.read())
    await call.done_writing()
    return replies


AIO_KINDS: dict[str, Callable[..., Awaitable[object]]] = {
    "unary": lambda stub, **how: _awaited(stub.Unary(ProbeRequest(index=1), **how)),
    "server_stream": lambda stub, **how: _all(stub.ServerStream(ProbeRequest(replies=3), **how)),
    "server_stream.read": lambda stub, **how: _awaited(stub.ServerStream(ProbeRequest(replies=3), **how).read()),
    "client_stream": lambda stub, **how: _awaited(stub.ClientStream(requests(), **how)),
    "client_stream.write": lambda stub, **how: _write(stub.ClientStream(**how)),
    "bidi_stream": lambda stub, **how: _all(stub.BidiStream(requests(), **how)),
    "bidi_stream.write": lambda stub, **how: _write_and_read(stub.BidiStream(**how)),
}


#: One for each of gRPC's four.
FOUR = ("unary", "server_stream", "client_stream", "bidi_stream")


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


# -------------------------------------------------------------------------------------------------------------- ways
#
# A way to attach is a context manager that gives a stub to call through. `allow_plaintext` is for those that take it.

Credentials = grpc.ChannelCredentials | None
Options = Sequence[tuple[str, Any]]


def _plain(target: str, credentials: Credentials, options: Options) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, options)
    return grpc.secure_channel(target, credentials, options)


def _plain_aio(target: str, credentials: Credentials, options: Options, **how: Any) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(target, options, **how)
    return grpc.aio.secure_channel(target, credentials, options, **how)


@contextlib.contextmanager
def _secure_channel(
    target: str, credentials: Credentials, auth: Any, options: Options = (), **how: Any
) -> Iterator[Any]:
    with grpc_bearer.secure_channel(target, credentials, options, auth=auth, **how) as channel:
        yield ProbeStub(channel)


@contextlib.contextmanager
def _intercept_channel(
    target: str, credentials: Credentials, auth: Any, options: Options = (), **how: Any
) -> Iterator[Any]:
    with grpc_bearer.intercept_channel(_plain(target, credentials, options), auth, **how) as channel:
        yield ProbeStub(channel)


@contextlib.contextmanager
def _wrap_stub(target: str, credentials: Credentials, auth: Any, options: Options = (), **how: Any) -> Iterator[Any]:
    with _plain(target, credentials, options) as channel:
        yield grpc_bearer.wrap_stub(ProbeStub(channel), auth, **how)


@contextlib.contextmanager
def _interceptor(target: str, credentials: Credentials, auth: Any, options: Options = (), **how: Any) -> Iterator[Any]:
    with _plain(target, credentials, options) as channel:
        yield ProbeStub(grpc.intercept_channel(channel, grpc_bearer.interceptor(auth, **how)))


@contextlib.contextmanager
def _channel_credentials(target: str, credentials: Credentials, auth: Any, options: Options = ()) -> Iterator[Any]:
    with grpc.secure_channel(target, grpc_bearer.channel_credentials(auth, credentials), options) as channel:
        yield ProbeStub(channel)


class _WithCredentials:
    """A stub whose calls all pass `credentials=call_credentials(auth)`."""

    def __init__(self, stub: Any, credentials: grpc.CallCredentials) -> None:
        self._stub, self._credentials = stub, credentials

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self._stub, name), self._credentials)


class _Method:
    def __init__(self, inner: Any, credentials: grpc.CallCredentials) -> None:
        self._inner, self._credentials = inner, credentials

    def __call__(self, *args: Any, **how: Any) -> Any:
        return self._inner(*args, credentials=self._credentials, **how)

    def __getattr__(self, name: str) -> Any:
        return _Method(getattr(self._inner, name), self._credentials)


@contextlib.contextmanager
def _call_credentials(target: str, credentials: Credentials, auth: Any, options: Options = ()) -> Iterator[Any]:
    with _plain(target, credentials, options) as channel:
        yield _WithCredentials(ProbeStub(channel), grpc_bearer.call_credentials(auth))


@contextlib.asynccontextmanager
async def _aio_secure_channel(
    target: str, credentials: Credentials, auth: Any, options: Options = (), **how: Any
) -> AsyncIterator[Any]:
    async with grpc_bearer.aio.secure_channel(target, credentials, options, auth=auth, **how) as channel:
        yield ProbeStub(channel)


@contextlib.asynccontextmanager
async def _aio_intercept_channel(
    target: str, credentials: Credentials, auth: Any, options: Options = (), **how: Any
) -> AsyncIterator[Any]:
    async with grpc_bearer.aio.intercept_channel(_plain_aio(target, credentials, options), auth, **how) as channel:
        yield ProbeStub(channel)


@contextlib.asynccontextmanager
async def _aio_wrap_stub(
    target: str, credentials: Credentials, auth: Any, options: Options = (), **how: Any
) -> AsyncIterator[Any]:
    async with _plain_aio(target, credentials, options) as channel:
        yield grpc_bearer.wrap_stub(ProbeStub(channel), auth, **how)


@contextlib.asynccontextmanager
async def _aio_interceptors(
    target: str, credentials: Credentials, auth: Any, options: Options = (), **how: Any
) -> AsyncIterator[Any]:
    interceptors = grpc_bearer.aio.interceptors(auth, **how)
    async with _plain_aio(target, credentials, options, interceptors=interceptors) as channel:
        yield ProbeStub(channel)


@contextlib.asynccontextmanager
async def _aio_channel_credentials(
    target: str, credentials: Credentials, auth: Any, options: Options = ()
) -> AsyncIterator[Any]:
    async with grpc.aio.secure_channel(target, grpc_bearer.channel_credentials(auth, credentials), options) as channel:
        yield ProbeStub(channel)


@contextlib.asynccontextmanager
async def _aio_call_credentials(
    target: str, credentials: Credentials, auth: Any, options: Options = ()
) -> AsyncIterator[Any]:
    async with _plain_aio(target, credentials, options) as channel:
        yield _WithCredentials(ProbeStub(channel), grpc_bearer.call_credentials(auth))


SYNC_WAYS: dict[str, Callable[..., contextlib.AbstractContextManager[Any]]] = {
    "secure_channel": _secure_channel,
    "intercept_channel": _intercept_channel,
    "wrap_stub": _wrap_stub,
    "interceptor": _interceptor,
    "channel_credentials": _channel_credentials,
    "call_credentials": _call_credentials,
}

AIO_WAYS: dict[str, Callable[..., contextlib.AbstractAsyncContextManager[Any]]] = {
    "aio.secure_channel": _aio_secure_channel,
    "aio.intercept_channel": _aio_intercept_channel,
    "aio.wrap_stub": _aio_wrap_stub,
    "aio.interceptors": _aio_interceptors,
    "aio.channel_credentials": _aio_channel_credentials,
    "aio.call_credentials": _aio_call_credentials,
}

#: Ways to attach where our own code stands between the caller and gRPC, so that errors can be explained.
EXPLAINING = [name for name in (*SYNC_WAYS, *AIO_WAYS) if not name.endswith("_credentials")]
#: Ways to attach for channels that someone else made, which may be anything.
FOREIGN = [name for name in EXPLAINING if not name.endswith("secure_channel")]
#: Ways to attach that leave everything to core.
CORE_ONLY = [name for name in (*SYNC_WAYS, *AIO_WAYS) if name.endswith("_credentials")]
ALL_WAYS = EXPLAINING + CORE_ONLY


def kinds_of(way: str) -> list[str]:
    return list(AIO_KINDS if way.startswith("aio.") else SYNC_KINDS)


# ------------------------------------------------------------------------------------------------- calls and outcomes


class Ended:
    """How one call ended, and how long it took, in seconds. `value` is the error, or what the call returned."""

    def __init__(self, value: Any, seconds: float) -> None:
        self.value = value
        self.seconds = seconds

    @property
    def code(self) -> grpc.StatusCode:
        if isinstance(self.value, grpc.RpcError):
            return self.value.code()
        if isinstance(self.value, BaseException):
            raise AssertionError(f"no RpcError: {self.value!r}") from self.value
        return grpc.StatusCode.OK

    @property
    def cause(self) -> BaseException | None:
        return self.value.__cause__ if isinstance(self.value, BaseException) else None

    def __repr__(self) -> str:
        return f"<{self.value!r} after {self.seconds:.2f} s>"


def try_all(
    way: str, target: str, credentials: Credentials, auth: Any, /, *, way_how: Any = None, **how: Any
) -> dict[str, Ended]:
    """A call of every kind through one way to attach, all at once; how each ended."""
    way_how = way_how or {}
    if way in AIO_WAYS:
        return asyncio.run(_try_all_aio(AIO_WAYS[way](target, credentials, auth, **way_how), how))
    with SYNC_WAYS[way](target, credentials, auth, **way_how) as stub:
        return try_sync(stub, **how)


def try_sync(stub: Any, kinds: Iterable[str] = SYNC_KINDS, **how: Any) -> dict[str, Ended]:
    ends: dict[str, Future[Ended]] = {kind: Future() for kind in kinds}

    def run(kind: str) -> None:
        ends[kind].set_result(_ended(SYNC_KINDS[kind], stub, how))

    for kind in ends:
        # Daemons, which no executor has: a call that hangs must fail its test, and not hang the whole run.
        threading.Thread(target=run, args=(kind,), daemon=True).start()
    return {kind: end.result(PATIENCE) for kind, end in ends.items()}


def _ended(call: Callable[..., object], stub: Any, how: dict[str, Any]) -> Ended:
    begin = time.monotonic()
    value: Any
    try:
        value = call(stub, **how)
    except Exception as error:
        value = error
    return Ended(value, time.monotonic() - begin)


async def try_aio(stub: Any, kinds: Iterable[str] = AIO_KINDS, **how: Any) -> dict[str, Ended]:
    kinds = list(kinds)
    ends = await asyncio.gather(*(_ended_aio(AIO_KINDS[kind], stub, how) for kind in kinds))
    return dict(zip(kinds, ends, strict=True))


async def _try_all_aio(way: contextlib.AbstractAsyncContextManager[Any], how: dict[str, Any]) -> dict[str, Ended]:
    async with way as stub:
        return await try_aio(stub, **how)


async def _ended_aio(call: Callable[..., Awaitable[object]], stub: Any, how: dict[str, Any]) -> Ended:
    begin = time.monotonic()
    value: Any
    try:
        value = await asyncio.wait_for(call(stub, **how), PATIENCE)
    except Exception as error:
        value = error
    return Ended(value, time.monotonic() - begin)


def codes(ends: dict[str, Ended]) -> dict[str, grpc.StatusCode]:
    return {kind: end.code for kind, end in ends.items()}


def causes(ends: dict[str, Ended]) -> dict[str, type]:
    return {kind: type(end.cause) for kind, end in ends.items()}


def everywhere(way: str, value: Any) -> dict[str, Any]:
    """The same expectation for every kind of call of a way to attach."""
    return dict.fromkeys(kinds_of(way), value)


def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Look until it is so; false if it was not within `patience` seconds."""
    pause = threading.Event()
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        pause.wait(0.005)
    return True


# ------------------------------------------------------------------------------------------------------------ sources


class Waiting(Source):
    """Gives its token once it is let; counts how often it was asked."""

    def __init__(self, value: str, *, single_use: bool = False) -> None:
        self.value = value
        self.single_use = single_use
        self.asked = threading.Event()
        self.go = threading.Event()
        self.fetches = 0

    def fetch(self, context: CallContext) -> Token:
        self.fetches += 1
        self.asked.set()
        assert self.go.wait(PATIENCE)
        return Token(self.value, single_use=self.single_use)


def nothing_in_flight(auth: Any) -> bool:
    """Whether a clock moved by hand may go on: it would leave behind the fetches that calls do not wait for, and the
    timers that they set last."""
    return all(entry.state.flight is None and _timer_is_set(entry) for entry in auth._engine._entries.values())


def _timer_is_set(entry: Any) -> bool:
    needs_none = not entry._fetcher.keep_warm or math.isinf(next_fetch_at(entry.state))
    return needs_none or entry._cancel_timer is not nothing


def warmed(auth: Any, server: ProbeServer) -> Any:
    """The auth after calls through a TLS channel: its token is at hand, and core has run its plugin."""
    with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
        stub = ProbeStub(channel)
        for _ in range(2):
            stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)
    return auth


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def asking(auth: BearerAuth, url: str = "", method: str = "") -> Future[Token]:
    """A future of a token; the auth has been asked for it by the time that this returns."""
    future = asyncio.run_coroutine_threadsafe(auth.atoken(url, method), _loop())
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), _loop()).result(PATIENCE)  # behind it in the loop's queue
    return future
