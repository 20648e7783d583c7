"""Interceptors attach metadata only where gRPC's own channel is behind them and core has proved that very channel.

How often core was asked is counted by the call credentials that were made; what leaked, by what a plaintext server saw.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.experimental
import pytest
from attachments import AIO_KINDS, FOUR, PATIENCE, TLS
from grpc import aio
from interceptors import aio_interceptors, sync_interceptor

import grpc_bearer
from grpc_bearer import InsecureChannelError
from grpc_bearer._calls import channel_security
from grpc_bearer.testing import OpaqueVerifier, ProbeReply, ProbeRequest, ProbeServer, ProbeStub

#: Before that, an asyncio channel does not tell where it leads, and so is never proved.
TELLS_ITS_TARGET = tuple(map(int, grpc.__version__.split(".")[:2])) >= (1, 81)
can_be_proved = pytest.mark.skipif(not TELLS_ITS_TARGET, reason="gRPC before 1.81 does not tell an asyncio target")
SECRET = "t0-secret-that-must-not-leak"
CALLS = 4


@pytest.fixture
def secure() -> Iterator[ProbeServer]:
    with ProbeServer(OpaqueVerifier([SECRET, "t1"]), TLS) as server:
        yield server


@pytest.fixture
def clear() -> Iterator[ProbeServer]:
    with ProbeServer(credentials="insecure") as server:
        yield server


def tokens(server: ProbeServer) -> list[Any]:
    return [value for attempt in server.ledger for key, value in attempt.metadata if key == "authorization"]


def unary(channel: grpc.Channel) -> ProbeReply:
    return ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=PATIENCE)


def fails(channel: grpc.Channel) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        unary(channel)
    return caught.value


KINDS = {
    "unary": lambda stub: stub.Unary(ProbeRequest(index=1), timeout=PATIENCE),
    "unary.with_call": lambda stub: stub.Unary.with_call(ProbeRequest(index=1), timeout=PATIENCE),
    "unary.future": lambda stub: stub.Unary.future(ProbeRequest(index=1), timeout=PATIENCE).result(),
    "server_stream": lambda stub: list(stub.ServerStream(ProbeRequest(index=1), timeout=PATIENCE)),
    "client_stream": lambda stub: stub.ClientStream(iter([ProbeRequest(index=1)]), timeout=PATIENCE),
    "bidi_stream": lambda stub: list(stub.BidiStream(iter([ProbeRequest(index=1)]), timeout=PATIENCE)),
}


class TestSync:
    @pytest.mark.parametrize("kind", KINDS)
    def test_core_is_asked_once_a_channel(self, kind: str, secure: ProbeServer, through_core: list[None]) -> None:
        ours = grpc_bearer.interceptor(SECRET)
        for count in (1, 2):
            with grpc.intercept_channel(secure.channel(), ours) as channel:
                for _ in range(CALLS):
                    KINDS[kind](ProbeStub(channel))
            assert len(through_core) == count
        assert tokens(secure) == [f"Bearer {SECRET}"] * 2 * CALLS

    def test_a_blocking_call_that_ended_well_gives_grpcs_own_object(self, secure: ProbeServer) -> None:
        with grpc.intercept_channel(secure.channel(), grpc_bearer.interceptor(SECRET)) as channel:
            for _ in range(2):
                _, call = ProbeStub(channel).Unary.with_call(ProbeRequest(index=1), timeout=PATIENCE)
                assert type(call).__module__ == "grpc._interceptor"

    def test_a_refused_call_on_a_proved_channel_is_made_again(
        self, secure: ProbeServer, through_core: list[None]
    ) -> None:
        given = iter([SECRET, "t1"])
        ours = grpc_bearer.interceptor(lambda: next(given))
        with grpc.intercept_channel(secure.channel(), ours) as channel:
            unary(channel)
            secure.verifier.revoke(SECRET)  # type: ignore[union-attr,attr-defined]
            for _ in range(2):
                assert unary(channel).count == 1
        assert [attempt.accepted for attempt in secure.ledger] == [True, False, True, True]

    def test_through_an_interceptor_in_between_core_is_asked_for_each_call(
        self, secure: ProbeServer, through_core: list[None]
    ) -> None:
        nothing = sync_interceptor(lambda kind, continuation, details, request: continuation(details, request))
        with grpc.intercept_channel(secure.channel(), grpc_bearer.interceptor(SECRET), nothing) as channel:
            for _ in range(CALLS):
                unary(channel)
        assert len(through_core) == CALLS

    def test_a_proved_and_a_plaintext_channel_in_turn(self, secure: ProbeServer, clear: ProbeServer) -> None:
        ours = grpc_bearer.interceptor(SECRET)
        with (
            grpc.intercept_channel(secure.channel(), ours) as tls,
            grpc.intercept_channel(clear.channel(), ours) as plain,
        ):
            for _ in range(CALLS):
                unary(tls)
                assert isinstance(fails(plain).__cause__, InsecureChannelError)
        assert tokens(clear) == []

    @pytest.mark.parametrize("make", [grpc.experimental.insecure_channel_credentials, None])
    def test_hollow_credentials_never_carry_a_token(self, make: Any, clear: ProbeServer) -> None:
        hollow = grpc.xds_channel_credentials(grpc.experimental.insecure_channel_credentials())
        channel = grpc.secure_channel(clear.target, make() if make else hollow)
        with grpc.intercept_channel(channel, grpc_bearer.interceptor(SECRET)) as intercepted:
            for _ in range(CALLS):
                assert isinstance(fails(intercepted).__cause__, InsecureChannelError)
        assert tokens(clear) == []

    def test_a_continuation_that_only_looks_like_grpcs_is_not_taken_for_it(
        self, secure: ProbeServer, clear: ProbeServer
    ) -> None:
        ours = grpc_bearer.interceptor(SECRET)
        elsewhere = ProbeStub(clear.channel())

        def around(kind: str, continuation: Any, details: Any, request: Any) -> Any:
            @functools.wraps(continuation)
            def impostor(details: Any, request: Any) -> Any:
                return elsewhere.Unary.future(
                    request, metadata=details.metadata, credentials=details.credentials, timeout=PATIENCE
                )

            return ours.intercept_unary_unary(impostor, details, request)

        with secure.channel() as channel:
            proved = grpc.intercept_channel(channel, ours)
            unary(proved)
            unary(proved)
            for _ in range(CALLS):
                fails(grpc.intercept_channel(channel, sync_interceptor(around)))
        assert tokens(clear) == []

    def test_channels_that_are_gone_leave_nothing_behind_that_another_could_be_taken_for(
        self, secure: ProbeServer, clear: ProbeServer
    ) -> None:
        ours, gone = grpc_bearer.interceptor(SECRET), []
        for _ in range(20):
            inner = secure.channel()
            gone.append(weakref.ref(inner))
            with grpc.intercept_channel(inner, ours) as channel:
                unary(channel)
                unary(channel)
            del inner, channel
            gc.collect()
            with grpc.intercept_channel(clear.channel(), ours) as channel:
                fails(channel)
            del channel
        gc.collect()
        assert tokens(clear) == []
        assert [ref() for ref in gone] == [None] * 20


class TestAsyncio:
    async def _calls(self, channel: aio.Channel, count: int = CALLS) -> None:
        for _ in range(count):
            assert (await ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=PATIENCE)).count == 1

    async def _fails(self, channel: aio.Channel) -> None:
        with pytest.raises(aio.AioRpcError) as caught:
            await ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=PATIENCE)
        assert isinstance(caught.value.__cause__, InsecureChannelError)

    def _secure(self, server: ProbeServer, *interceptors: Any) -> aio.Channel:
        return aio.secure_channel(server.target, server.channel_credentials(), interceptors=interceptors)

    @can_be_proved
    @pytest.mark.parametrize("kind", FOUR)
    async def test_core_is_asked_once_a_channel(self, kind: str, secure: ProbeServer, through_core: list[None]) -> None:
        ours = grpc_bearer.aio.interceptors(SECRET)
        for count in (1, 2):
            async with self._secure(secure, *ours) as channel:
                stub: Any = ProbeStub(channel)
                for _ in range(CALLS):
                    await AIO_KINDS[kind](stub, timeout=PATIENCE)
            assert len(through_core) == count
        assert tokens(secure) == [f"Bearer {SECRET}"] * 2 * CALLS

    async def test_so_is_it_below_interceptors_of_the_users(
        self, secure: ProbeServer, through_core: list[None]
    ) -> None:
        async def nothing(kind: str, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(details, request)

        users = aio_interceptors(nothing)
        async with grpc_bearer.aio.secure_channel(
            secure.target, secure.channel_credentials(), interceptors=users, auth=SECRET
        ) as channel:
            await self._calls(channel)
        assert len(through_core) == 1

        async with self._secure(secure, *grpc_bearer.aio.interceptors(SECRET), *users) as channel:
            await self._calls(channel)
        assert len(through_core) == 1 + CALLS  # these stand between us and core

    async def test_a_channel_of_ours_is_proved_though_grpc_does_not_say_where_it_leads(
        self, secure: ProbeServer, through_core: list[None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(channel_security, "target_of", lambda channel: None)  # as before grpcio 1.81
        opened = aio.secure_channel
        for count in (1, 1 + CALLS):
            async with grpc_bearer.aio.secure_channel(
                secure.target, secure.channel_credentials(), auth=SECRET
            ) as channel:
                await self._calls(channel)
            assert len(through_core) == count
            # Somebody else opens it next, who may have it lead elsewhere, under xDS's control too.
            monkeypatch.setattr(aio, "secure_channel", lambda *args, **how: opened(*args, **how))

    async def test_an_xds_target_is_not_proved_by_being_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channel_security, "target_of", lambda channel: None)
        for target, provable in (("xds:///crm", False), ("crm.example.com", True)):
            async with grpc_bearer.aio.secure_channel(target, auth=SECRET) as channel:
                assert channel._attachment.provable is provable  # type: ignore[attr-defined]

    async def test_a_refused_call_on_a_proved_channel_is_made_again(self, secure: ProbeServer) -> None:
        given = iter([SECRET, "t1"])
        async with self._secure(secure, *grpc_bearer.aio.interceptors(lambda: next(given))) as channel:
            await self._calls(channel, 2)
            secure.verifier.revoke(SECRET)  # type: ignore[union-attr,attr-defined]
            await self._calls(channel, 2)
        assert [attempt.accepted for attempt in secure.ledger] == [True, True, False, True, True]

    async def test_a_proved_and_a_plaintext_channel_in_turn(self, secure: ProbeServer, clear: ProbeServer) -> None:
        ours = grpc_bearer.aio.interceptors(SECRET)
        async with self._secure(secure, *ours) as tls, aio.insecure_channel(clear.target, interceptors=ours) as plain:
            for _ in range(CALLS):
                await self._calls(tls, 1)
                await self._fails(plain)
        assert tokens(clear) == []

    async def test_a_continuation_that_only_looks_like_grpcs_is_not_taken_for_it(
        self, secure: ProbeServer, clear: ProbeServer
    ) -> None:
        ours = grpc_bearer.aio.interceptors(SECRET)
        async with self._secure(secure, *ours) as tls, aio.insecure_channel(clear.target) as plain:
            await self._calls(tls, 2)
            stub: Any = ProbeStub(plain)

            async def elsewhere(remaining: list[Any], details: Any, request: Any) -> Any:
                return stub.Unary(request, metadata=details.metadata, credentials=details.credentials, timeout=PATIENCE)

            async def around(kind: str, continuation: Any, details: Any, request: Any) -> Any:
                impostor = functools.update_wrapper(functools.partial(elsewhere, []), continuation.func)
                return await ours[0].intercept_unary_unary(impostor, details, request)

            async with self._secure(secure, *aio_interceptors(around)) as channel:
                for _ in range(CALLS):
                    with pytest.raises((aio.AioRpcError, aio.UsageError)):
                        await ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=PATIENCE)
        assert tokens(clear) == []

    async def test_channels_that_are_closed_are_not_held_for_ever(
        self, secure: ProbeServer, clear: ProbeServer
    ) -> None:
        ours = grpc_bearer.aio.interceptors(SECRET)
        for _ in range(10):
            async with self._secure(secure, *ours) as channel:
                await self._calls(channel, 2)
            async with aio.insecure_channel(clear.target, interceptors=ours) as channel:
                await self._fails(channel)
            await asyncio.sleep(0)
        assert tokens(clear) == []
        assert len(ours[0]._attachments._known) == 1
