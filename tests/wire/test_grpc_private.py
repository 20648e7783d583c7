"""Calls of all kinds where gRPC has none of the private names that we know: slower, and never wrong."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.experimental
import pytest
from _refusing import AIO, SYNC, UNAUTHENTICATED, Place, expected, requests, soon
from _renamed_grpc import NAMES, take_away
from attachments import (
    AIO_KINDS,
    AIO_WAYS,
    EXPLAINING,
    FOREIGN,
    FOUR,
    PATIENCE,
    SYNC_KINDS,
    SYNC_WAYS,
    causes,
    codes,
    everywhere,
    try_aio,
    try_all,
    try_sync,
)
from grpc import aio
from interceptors import Redirect, aio_interceptors, sync_interceptor

import grpc_bearer
from grpc_bearer import BearerAuth, ConfigurationError, InsecureChannelError
from grpc_bearer.testing import ProbeRequest, ProbeServer, ProbeStub

OK = grpc.StatusCode.OK
ROOT = Path(grpc_bearer.__file__).parent
SECRET = "t0-secret-that-must-not-leak"
SYNC_EXPLAINING = [name for name in SYNC_WAYS if name in EXPLAINING]
AIO_EXPLAINING = [name for name in AIO_WAYS if name in EXPLAINING]


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    take_away(monkeypatch, NAMES)


@pytest.fixture(scope="module")
def clear() -> Iterator[ProbeServer]:
    with ProbeServer(credentials="insecure") as server:
        yield server


@pytest.fixture(autouse=True)
def _empty(here: Place, clear: ProbeServer) -> None:
    here.server.ledger.clear()
    clear.ledger.clear()


def accepted(here: Place) -> list[bool]:
    return [attempt.accepted for attempt in here.server.ledger]


async def when_accepted(here: Place) -> AsyncIterator[ProbeRequest]:
    """Requests that begin once the server has taken a token: grpc.aio cancels a call that it cannot write to."""
    while True not in accepted(here):
        await asyncio.sleep(0.001)
    for message in requests():
        yield message


REFUSED_AIO: dict[str, Callable[[Place, Any], Awaitable[Any]]] = {
    "unary": lambda here, stub: AIO["unary"](stub),
    "server_stream": lambda here, stub: AIO["server_stream"](stub),
    "client_stream": lambda here, stub: _awaited(stub.ClientStream(when_accepted(here))),
    "bidi_stream": lambda here, stub: _read(stub.BidiStream(when_accepted(here))),
}


async def _awaited(call: Any) -> Any:
    reply = await call
    return list(reply.indexes), 1


async def _read(call: Any) -> Any:
    replies = [reply async for reply in call]
    return list(replies[-1].indexes), len(replies)


def heals(way: str, kind: str) -> bool:
    """Whether a refused call is made again: request streams only where their serializer is ours to call."""
    return way.endswith("_channel") or kind.partition(".")[0] in ("unary", "server_stream")


class TestWithNothingKnown:
    @pytest.mark.parametrize("way", SYNC_EXPLAINING)
    def test_every_sync_call_brings_its_token_through_core(
        self, way: str, here: Place, unknown: None, through_core: list[None]
    ) -> None:
        with SYNC_WAYS[way](here.server.target, here.credentials, here.auth()) as stub:
            for _ in range(2):
                assert codes(try_sync(stub, timeout=PATIENCE)) == everywhere(way, OK)

        assert accepted(here) == [True] * 2 * len(SYNC_KINDS)
        assert len(through_core) == 2 * len(SYNC_KINDS)

    @pytest.mark.parametrize("way", AIO_EXPLAINING)
    async def test_every_asyncio_call_brings_its_token_through_core(
        self, way: str, here: Place, unknown: None, through_core: list[None]
    ) -> None:
        async with AIO_WAYS[way](here.server.target, here.credentials, here.auth()) as stub:
            for _ in range(2):
                assert codes(await try_aio(stub, timeout=PATIENCE)) == everywhere(way, OK)

        assert accepted(here) == [True] * 2 * len(AIO_KINDS)
        assert len(through_core) == 2 * len(AIO_KINDS)

    @pytest.mark.parametrize("path", ["cold", "warm"])
    @pytest.mark.parametrize("kind", SYNC)
    @pytest.mark.parametrize("way", SYNC_EXPLAINING)
    def test_a_refused_sync_call_is_healed(self, way: str, kind: str, path: str, here: Place, unknown: None) -> None:
        auth = here.auth()
        with SYNC_WAYS[way](here.server.target, here.credentials, auth) as stub:
            if path == "warm":
                SYNC["unary"](stub)
            here.revoke(auth)
            here.server.ledger.clear()
            if not heals(way, kind):
                with pytest.raises(grpc.RpcError) as caught:
                    SYNC[kind](stub)
                assert caught.value.code() is UNAUTHENTICATED
            assert SYNC[kind](stub) == expected(kind)

        assert accepted(here) == [False, True]

    @pytest.mark.parametrize("path", ["cold", "warm"])
    @pytest.mark.parametrize("kind", FOUR)
    @pytest.mark.parametrize("way", AIO_EXPLAINING)
    async def test_a_refused_asyncio_call_is_healed(
        self, way: str, kind: str, path: str, here: Place, unknown: None
    ) -> None:
        auth = here.auth()
        async with AIO_WAYS[way](here.server.target, here.credentials, auth) as stub:
            if path == "warm":
                await soon(AIO["unary"](stub))
            here.revoke(auth)
            here.server.ledger.clear()
            if not heals(way, kind):
                with pytest.raises(grpc.RpcError) as caught:
                    await soon(REFUSED_AIO[kind](here, stub))
                assert caught.value.code() is UNAUTHENTICATED
            ended = asyncio.ensure_future(REFUSED_AIO[kind](here, stub))
            assert await soon(ended) == expected(kind)

        assert accepted(here) == [False, True]

    @pytest.mark.parametrize(
        ("way", "credentials"),
        [(way, None) for way in FOREIGN]
        + [(way, grpc.experimental.insecure_channel_credentials()) for way in EXPLAINING],
    )
    def test_nothing_goes_in_the_clear(self, way: str, credentials: Any, clear: ProbeServer, unknown: None) -> None:
        ends = try_all(way, clear.target, credentials, BearerAuth(SECRET), timeout=PATIENCE)

        assert codes(ends) == everywhere(way, UNAUTHENTICATED)
        assert causes(ends) == everywhere(way, InsecureChannelError)
        assert not clear.ledger.contains("Bearer")


def below_sync(channel: grpc.Channel, below: Any, auth: BearerAuth) -> dict[str, Any]:
    """Stubs with an interceptor of a user's between us and the channel."""
    return {
        "intercept_channel": ProbeStub(grpc_bearer.intercept_channel(grpc.intercept_channel(channel, below), auth)),
        "wrap_stub": grpc_bearer.wrap_stub(ProbeStub(grpc.intercept_channel(channel, below)), auth),
        "interceptor": ProbeStub(grpc.intercept_channel(channel, grpc_bearer.interceptor(auth), below)),
    }


BELOW_SYNC = ("intercept_channel", "wrap_stub", "interceptor")


def redirected(way: str, here: Place, clear: ProbeServer) -> None:
    """Calls go well, and then to the plaintext server, with nothing of ours."""
    with clear.channel() as elsewhere, grpc.secure_channel(here.server.target, here.credentials) as channel:
        redirect = Redirect(elsewhere, on=False)
        stub = below_sync(channel, sync_interceptor(redirect.sync), here.auth())[way]
        for on in (False, False, True):
            redirect.on = on
            assert codes(try_sync(stub, FOUR, timeout=PATIENCE)) == dict.fromkeys(FOUR, OK)

    assert len(clear.ledger) == len(FOUR)
    assert not clear.ledger.contains("Bearer")
    clear.ledger.clear()


async def redirected_aio(way: str, here: Place, clear: ProbeServer) -> None:
    auth, target, credentials = here.auth(), here.server.target, here.credentials
    async with aio.insecure_channel(clear.target) as elsewhere:
        redirect = Redirect(elsewhere, on=False)
        users = aio_interceptors(redirect.aio)
        if way == "aio.interceptors":
            users = [*grpc_bearer.aio.interceptors(auth), *users]
        if way == "aio.secure_channel":
            channel = grpc_bearer.aio.secure_channel(target, credentials, interceptors=users, auth=auth)
        else:
            channel = aio.secure_channel(target, credentials, interceptors=users)
        async with channel:
            wrapped = grpc_bearer.aio.intercept_channel(channel, auth) if way == "aio.intercept_channel" else channel
            stub: Any = ProbeStub(wrapped)
            if way == "aio.wrap_stub":
                stub = grpc_bearer.wrap_stub(stub, auth)
            for on in (False, False, True):
                redirect.on = on
                assert codes(await try_aio(stub, FOUR, timeout=PATIENCE)) == dict.fromkeys(FOUR, OK)

    assert len(clear.ledger) == len(FOUR)
    assert not clear.ledger.contains("Bearer")
    clear.ledger.clear()


@pytest.mark.parametrize("way", BELOW_SYNC)
def test_a_sync_interceptor_that_redirects_gets_no_token(
    way: str, here: Place, clear: ProbeServer, unknown: None
) -> None:
    redirected(way, here, clear)


@pytest.mark.parametrize("way", AIO_EXPLAINING)
async def test_an_asyncio_interceptor_that_redirects_gets_no_token(
    way: str, here: Place, clear: ProbeServer, unknown: None
) -> None:
    await redirected_aio(way, here, clear)


def test_two_auths_under_one_header_never_send_two_tokens(here: Place, unknown: None) -> None:
    inner = grpc_bearer.interceptor(here.auth())
    with grpc.secure_channel(here.server.target, here.credentials) as channel:
        intercepted = grpc.intercept_channel(channel, inner)
        stub = ProbeStub(grpc_bearer.intercept_channel(intercepted, here.auth()))
        ends = try_sync(stub, timeout=PATIENCE)

    assert codes(ends) == everywhere("interceptor", UNAUTHENTICATED)
    assert causes(ends) == everywhere("interceptor", ConfigurationError)
    assert len(here.server.ledger) == 0


class TestWithOneNameUnknown:
    """Where gRPC has given one thing another name, what is known of the rest must not lead astray."""

    @pytest.mark.parametrize("name", sorted(NAMES))
    def test_sync_calls_go_well_and_refused_ones_are_healed(
        self, name: str, here: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        take_away(monkeypatch, {name})
        for way in SYNC_EXPLAINING:
            auth = here.auth()
            with SYNC_WAYS[way](here.server.target, here.credentials, auth) as stub:
                for _ in range(2):
                    assert codes(try_sync(stub, FOUR, timeout=PATIENCE)) == dict.fromkeys(FOUR, OK)
                for kind in ("unary", "server_stream"):
                    here.revoke(auth)
                    assert SYNC[kind](stub) == expected(kind)

    @pytest.mark.parametrize("name", sorted(NAMES))
    async def test_asyncio_calls_go_well_and_refused_ones_are_healed(
        self, name: str, here: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        take_away(monkeypatch, {name})
        for way in AIO_EXPLAINING:
            auth = here.auth()
            async with AIO_WAYS[way](here.server.target, here.credentials, auth) as stub:
                for _ in range(2):
                    assert codes(await try_aio(stub, FOUR, timeout=PATIENCE)) == dict.fromkeys(FOUR, OK)
                for kind in ("unary", "server_stream"):
                    here.revoke(auth)
                    assert await soon(AIO[kind](stub)) == expected(kind)

    @pytest.mark.parametrize("name", sorted(NAMES))
    def test_nothing_goes_in_the_clear(self, name: str, clear: ProbeServer, monkeypatch: pytest.MonkeyPatch) -> None:
        take_away(monkeypatch, {name})
        for way in FOREIGN:
            ends = try_all(way, clear.target, None, BearerAuth(SECRET), timeout=PATIENCE)
            assert codes(ends) == everywhere(way, UNAUTHENTICATED)

        assert not clear.ledger.contains("Bearer")

    @pytest.mark.parametrize("name", sorted(NAMES))
    async def test_interceptors_that_redirect_get_no_token(
        self, name: str, here: Place, clear: ProbeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        take_away(monkeypatch, {name})
        for way in BELOW_SYNC:
            await asyncio.to_thread(redirected, way, here, clear)
        for way in AIO_EXPLAINING:
            await redirected_aio(way, here, clear)


def reads_private(node: ast.AST) -> bool:
    """Whether it asks an object for one of the names: `thing._name`, `getattr(thing, "_name")`. Ours have some too."""
    if isinstance(node, ast.Attribute):
        return node.attr in NAMES and ast.unparse(node.value) not in ("self", "super()")
    return isinstance(node, ast.Call) and any(isinstance(a, ast.Constant) and a.value in NAMES for a in node.args)


def test_no_other_module_reads_a_private_name_of_grpcs() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in ROOT.rglob("*.py")
        if not path.name.startswith("grpc_private") and "testing" not in path.relative_to(ROOT).parts
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.expr) and reads_private(node)
    ]

    assert found == []
