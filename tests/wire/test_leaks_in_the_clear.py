"""An interceptor below ours may send a call to another channel, in the clear: no token ever goes along as metadata.

Core has proved the channel that we know; where a call really goes only core can say. Everything is judged by what
arrives at a plaintext server that keeps all metadata.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from attachments import FOUR, PATIENCE, TLS, codes, everywhere, try_aio, try_sync
from grpc import aio
from interceptors import CARRIES, KINDS, Redirect, aio_interceptors, sync_interceptor

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer.testing import OpaqueVerifier, ProbeServer, ProbeStub

SECRET = "t0-secret-that-must-not-leak"
OK = grpc.StatusCode.OK


@pytest.fixture(scope="module")
def _servers() -> Iterator[tuple[ProbeServer, ProbeServer]]:
    with ProbeServer(OpaqueVerifier([SECRET]), TLS) as secure, ProbeServer(credentials="insecure") as clear:
        yield secure, clear


@pytest.fixture
def secure(_servers: tuple[ProbeServer, ProbeServer]) -> ProbeServer:
    _servers[0].ledger.clear()
    return _servers[0]


@pytest.fixture
def clear(_servers: tuple[ProbeServer, ProbeServer]) -> ProbeServer:
    _servers[1].ledger.clear()
    return _servers[1]


class Router(grpc.Channel):
    """A channel of a user's own making, which asks at each call where it goes."""

    def __init__(self, channel: grpc.Channel, redirect: Redirect) -> None:
        self._channel, self._redirect = channel, redirect
        for kind in KINDS:
            setattr(self, kind, lambda method, *rest, _kind=kind, **named: self._make(_kind, method, *rest, **named))

    def _make(self, kind: str, method: str, *rest: Any, **named: Any) -> Any:
        # The multicallable is gRPC's; which channel it stands on is decided when it is made, as a balancer would.
        return getattr(self._redirect.channel if self._redirect.on else self._channel, kind)(method, *rest, **named)

    unary_unary = unary_stream = stream_unary = stream_stream = _make  # abstract in gRPC

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None: ...
    def unsubscribe(self, callback: Any) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None: ...


Stub = Callable[[grpc.Channel, Any, BearerAuth], Any]

#: A stub of a channel, an interceptor below us, and the auth.
SYNC_WAYS: dict[str, Stub] = {
    "intercept_channel": lambda channel, below, auth: ProbeStub(
        grpc_bearer.intercept_channel(grpc.intercept_channel(channel, below), auth)
    ),
    "intercept_channel, twice below": lambda channel, below, auth: ProbeStub(
        grpc_bearer.intercept_channel(grpc.intercept_channel(grpc.intercept_channel(channel, below), _nothing()), auth)
    ),
    "wrap_stub": lambda channel, below, auth: grpc_bearer.wrap_stub(
        ProbeStub(grpc.intercept_channel(channel, below)), auth
    ),
    "interceptor": lambda channel, below, auth: ProbeStub(
        grpc.intercept_channel(channel, grpc_bearer.interceptor(auth), below)
    ),
    "interceptor over an intercepted channel": lambda channel, below, auth: ProbeStub(
        grpc.intercept_channel(grpc.intercept_channel(channel, below), grpc_bearer.interceptor(auth))
    ),
    "intercept_channel of ours, then of gRPC's": lambda channel, below, auth: ProbeStub(
        grpc.intercept_channel(grpc_bearer.intercept_channel(grpc.intercept_channel(channel, below), auth), _nothing())
    ),
}


def _nothing() -> Any:
    return sync_interceptor(lambda kind, continuation, details, request: continuation(details, request))


class TestASyncInterceptorBelowUs:
    @pytest.mark.parametrize("carries", CARRIES)
    @pytest.mark.parametrize("later", [False, True], ids=["from the first call on", "beginning later"])
    @pytest.mark.parametrize("way", SYNC_WAYS)
    def test_that_redirects_gets_no_token(
        self, way: str, later: bool, carries: str, secure: ProbeServer, clear: ProbeServer
    ) -> None:
        with clear.channel() as elsewhere, secure.channel() as channel:
            redirect = Redirect(elsewhere, carries, on=not later)
            stub = SYNC_WAYS[way](channel, sync_interceptor(redirect.sync), BearerAuth(SECRET))
            for _ in range(2 if later else 0):  # core proves the channel, and calls find their token at hand
                assert codes(try_sync(stub, timeout=PATIENCE)) == everywhere(way, OK)
            redirect.on = True
            for _ in range(2):
                try_sync(stub, timeout=PATIENCE)

        assert secure.ledger.contains(SECRET) == later
        assert not clear.ledger.contains(SECRET)
        assert not clear.ledger.contains("Bearer")
        assert clear.ledger or carries != "metadata"  # they did go there

    def test_on_one_channel_gets_no_token_because_another_was_proved(
        self, secure: ProbeServer, clear: ProbeServer
    ) -> None:
        ours = grpc_bearer.interceptor(SECRET)
        with clear.channel() as elsewhere, secure.channel() as channel:
            straight = ProbeStub(grpc.intercept_channel(channel, ours))
            below = sync_interceptor(Redirect(elsewhere).sync)
            detour = ProbeStub(grpc.intercept_channel(channel, ours, below))
            for _ in range(2):
                assert codes(try_sync(straight, timeout=PATIENCE)) == everywhere("interceptor", OK)
                try_sync(detour, timeout=PATIENCE)

        assert secure.ledger.contains(SECRET)
        assert len(clear.ledger) > 0
        assert not clear.ledger.contains(SECRET)

    @pytest.mark.parametrize("way", ["intercept_channel", "interceptor"])
    def test_nor_does_a_channel_of_a_users_own_making(self, way: str, secure: ProbeServer, clear: ProbeServer) -> None:
        with clear.channel() as elsewhere, secure.channel() as channel:
            redirect = Redirect(elsewhere, on=False)
            router, auth = Router(channel, redirect), BearerAuth(SECRET)
            if way == "intercept_channel":
                wrapped = grpc_bearer.intercept_channel(router, auth)
            else:
                wrapped = grpc.intercept_channel(router, grpc_bearer.interceptor(auth))
            for on in (False, False, True, True):
                redirect.on = on
                try_sync(ProbeStub(wrapped), timeout=PATIENCE)

        assert secure.ledger.contains(SECRET)
        assert not clear.ledger.contains(SECRET)


class Delegating(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]
    """A multicallable of a user's own that stands for gRPC's in all else, and chooses where each call goes."""

    def __init__(self, here: Any, elsewhere: Any, redirect: Redirect) -> None:
        self._here, self._elsewhere, self._redirect = here, elsewhere, redirect

    def _chosen(self) -> Any:
        return self._elsewhere if self._redirect.on else self._here

    def __call__(self, request: Any, *rest: Any, **how: Any) -> Any:
        return self._chosen()(request, *rest, **how)

    def with_call(self, request: Any, *rest: Any, **how: Any) -> Any:
        return self._chosen().with_call(request, *rest, **how)

    def future(self, request: Any, *rest: Any, **how: Any) -> Any:
        return self._chosen().future(request, *rest, **how)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._here, name)


def test_a_multicallable_of_a_users_own_that_redirects_gets_no_token(secure: ProbeServer, clear: ProbeServer) -> None:
    """Though the other methods of its stub are gRPC's own, of a channel that core has proved."""
    with clear.channel() as elsewhere, secure.channel() as channel:
        redirect, stub = Redirect(elsewhere, on=False), ProbeStub(channel)
        unary = vars(stub).pop("Unary")  # so that it is the last one, and all others are known before
        stub.Unary = Delegating(unary, ProbeStub(elsewhere).Unary, redirect)
        ours = grpc_bearer.wrap_stub(stub, SECRET)
        for _ in range(2):
            assert codes(try_sync(ours, timeout=PATIENCE)) == everywhere("wrap_stub", OK)
        redirect.on = True
        for _ in range(2):
            try_sync(ours, timeout=PATIENCE)

    assert secure.ledger.contains(SECRET)
    assert not clear.ledger.contains(SECRET)


def patch(channel: Any, elsewhere: Any, redirect: Redirect) -> None:
    """What some instrumentation does to a channel: the methods of this one object are replaced."""

    def replaced(kind: str, plain: Any) -> Any:
        other = getattr(elsewhere, kind)
        return lambda *args, **named: (other if redirect.on else plain)(*args, **named)

    for kind in KINDS:
        setattr(channel, kind, replaced(kind, getattr(channel, kind)))


@pytest.mark.parametrize("patched", ["before", "after"])
@pytest.mark.parametrize("way", ["intercept_channel", "interceptor", "wrap_stub"])
def test_a_channel_of_grpcs_whose_methods_are_replaced_gets_no_token(
    way: str, patched: str, secure: ProbeServer, clear: ProbeServer
) -> None:
    with clear.channel() as elsewhere, secure.channel() as channel:
        redirect = Redirect(elsewhere, on=False)
        if patched == "before":
            patch(channel, elsewhere, redirect)
        ours = grpc_bearer.intercept_channel(channel, SECRET)
        intercepted = grpc.intercept_channel(channel, grpc_bearer.interceptor(SECRET))
        make = {
            "intercept_channel": lambda: ProbeStub(ours),
            "interceptor": lambda: ProbeStub(intercepted),
            "wrap_stub": lambda: grpc_bearer.wrap_stub(ProbeStub(channel), SECRET),
        }[way]
        for _ in range(2):
            assert codes(try_sync(make(), timeout=PATIENCE)) == everywhere(way, OK)
        if patched == "after":
            patch(channel, elsewhere, redirect)
        redirect.on = True
        for _ in range(2):
            try_sync(make(), timeout=PATIENCE)

    assert secure.ledger.contains(SECRET)
    assert not clear.ledger.contains(SECRET)


# ------------------------------------------------------------------------------------------------------------ asyncio


def _plain(server: ProbeServer, *interceptors: Any) -> aio.Channel:
    return aio.secure_channel(server.target, server.channel_credentials(), interceptors=interceptors)


def _ours(server: ProbeServer, below: Any, auth: BearerAuth) -> aio.Channel:
    return grpc_bearer.aio.secure_channel(server.target, server.channel_credentials(), interceptors=below, auth=auth)


def append(channel: Any, interceptors: list[Any]) -> None:
    """What some libraries do to a channel that they were given: gRPC has no public way to add to its interceptors."""
    for kind, interceptor in zip(KINDS, interceptors, strict=True):
        getattr(channel, f"_{kind}_interceptors").append(interceptor)


def _both(made: Any) -> tuple[Any, Any]:
    return made, made


def _around(server: ProbeServer, below: Any, auth: BearerAuth) -> tuple[Any, Any]:
    plain = _plain(server, *below)
    return grpc_bearer.aio.intercept_channel(plain, auth), plain


#: The channel to hold, and the one to append to, of a server, interceptors below us and the auth.
AIO_WAYS: dict[str, Callable[[ProbeServer, Any, BearerAuth], tuple[Any, Any]]] = {
    "aio.secure_channel": lambda server, below, auth: _both(_ours(server, below, auth)),
    "aio.intercept_channel": _around,
    "aio.interceptors": lambda server, below, auth: _both(_plain(server, *grpc_bearer.aio.interceptors(auth), *below)),
    "aio.wrap_stub": lambda server, below, auth: _both(_plain(server, *below)),
}
WELL = dict.fromkeys(FOUR, "OK")
FROM_THE_FIRST, LATER, APPENDED = "from the first call on", "beginning later", "appended later"


def _stub(way: str, channel: Any, auth: BearerAuth) -> Any:
    stub = ProbeStub(channel)
    return grpc_bearer.wrap_stub(stub, auth) if way == "aio.wrap_stub" else stub


async def try_four(stub: Any) -> dict[str, str]:
    """A call of each kind: its status, or the name of what else it raised."""
    ends = await try_aio(stub, FOUR, timeout=PATIENCE)
    return {
        kind: type(end.value).__name__ if isinstance(end.value, aio.UsageError) else end.code.name
        for kind, end in ends.items()
    }


class TestAnAsyncioInterceptorBelowUs:
    @pytest.mark.parametrize("carries", CARRIES)
    @pytest.mark.parametrize("when", [FROM_THE_FIRST, LATER, APPENDED])
    @pytest.mark.parametrize("way", AIO_WAYS)
    async def test_that_redirects_gets_no_token(
        self, way: str, when: str, carries: str, secure: ProbeServer, clear: ProbeServer
    ) -> None:
        auth = BearerAuth(SECRET)
        async with aio.insecure_channel(clear.target) as elsewhere:
            redirect = Redirect(elsewhere, carries, on=when == FROM_THE_FIRST)
            below = aio_interceptors(redirect.aio)
            channel, inner = AIO_WAYS[way](secure, [] if when == APPENDED else below, auth)
            async with channel:
                stub = _stub(way, channel, auth)
                for _ in range(0 if redirect.on else 2):
                    assert await try_four(stub) == WELL
                if when == APPENDED:
                    append(inner, below)
                redirect.on = True
                for each in (stub, _stub(way, channel, auth)):  # one made before, one made since
                    for _ in range(2):
                        await try_four(each)

        assert secure.ledger.contains(SECRET) == (when != FROM_THE_FIRST)
        assert not clear.ledger.contains(SECRET)
        assert not clear.ledger.contains("Bearer")
        assert clear.ledger or carries != "metadata"

    def test_on_one_channel_gets_no_token_because_another_was_proved(
        self, secure: ProbeServer, clear: ProbeServer
    ) -> None:
        ours = grpc_bearer.aio.interceptors(SECRET)

        async def main() -> None:
            async with aio.insecure_channel(clear.target) as elsewhere:
                below = aio_interceptors(Redirect(elsewhere).aio)
                async with _plain(secure, *ours) as straight, _plain(secure, *ours, *below) as detour:
                    for _ in range(2):
                        assert await try_four(ProbeStub(straight)) == WELL
                        await try_four(ProbeStub(detour))

        asyncio.run(main())

        assert secure.ledger.contains(SECRET)
        assert len(clear.ledger) > 0
        assert not clear.ledger.contains(SECRET)

    @pytest.mark.parametrize("patched", ["before", "after"])
    @pytest.mark.parametrize("way", ["aio.secure_channel", "aio.intercept_channel", "aio.interceptors"])
    async def test_nor_does_a_channel_of_grpcs_whose_methods_are_replaced(
        self, way: str, patched: str, secure: ProbeServer, clear: ProbeServer
    ) -> None:
        async with aio.insecure_channel(clear.target) as elsewhere:
            redirect = Redirect(elsewhere, on=False)
            channel, inner = AIO_WAYS[way](secure, [], BearerAuth(SECRET))
            inner = getattr(inner, "_inner", inner)  # the channel below ours
            async with channel:
                if patched == "before":
                    patch(inner, elsewhere, redirect)
                for _ in range(2):
                    assert await try_four(ProbeStub(channel)) == WELL
                if patched == "after":
                    patch(inner, elsewhere, redirect)
                redirect.on = True
                for _ in range(2):
                    await try_four(ProbeStub(channel))

        assert secure.ledger.contains(SECRET)
        assert not clear.ledger.contains(SECRET)
