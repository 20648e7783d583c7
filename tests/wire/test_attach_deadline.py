"""Waiting for a token: under the call's own deadline and cancellation, blocking nobody, and no longer than need be."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from attachments import (
    AIO_WAYS,
    ALL_WAYS,
    EXPLAINING,
    FOREIGN,
    PATIENCE,
    SYNC_WAYS,
    TLS,
    codes,
    eventually,
    everywhere,
    nothing_in_flight,
    try_all,
)

import grpc_bearer
from grpc_bearer import BearerAuth, CallContext, HTTPTokenSource, JWTSource, Source, Token, TokenUnavailableError
from grpc_bearer.sources.jwt import nonce
from grpc_bearer.testing import (
    Hang,
    JWTVerifier,
    ManualClock,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Status,
    TokenServer,
    throwaway_key,
)

BEAR = {"api_key": "key-1", "scope": "all", "secret": "s3cret"}
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE
DEADLINE, CANCELLED = grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: Any) -> str:
    return str(TLS.write(tmp_path_factory.mktemp("ca")))


class Setting:
    """A token endpoint, a server that knows its tokens, and an auth between them; all on one clock."""

    def __init__(self, ca_file: str, clock: Any = None, *, lifetime: int = 3600, plaintext: bool = False) -> None:
        how = {} if clock is None else {"clock": clock}
        self.clock = clock
        self.tokens = TokenServer(TLS, **how)
        self.url = self.tokens.serve_bear(BEAR, lifetime=lifetime)
        self.server = ProbeServer(self.tokens.verifier(), TLS, credentials="insecure" if plaintext else "tls", **how)
        self.auth = BearerAuth(HTTPTokenSource(self.url, json=BEAR, ca=ca_file, timeout=PATIENCE), **how)

    def __enter__(self) -> Setting:
        self.tokens.start()
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.auth.close()
        self.tokens.stop()
        self.server.stop()

    def stub(self) -> Any:
        return ProbeStub(
            grpc_bearer.secure_channel(self.server.target, self.server.channel_credentials(), auth=self.auth)
        )


@pytest.fixture
def setting(ca_file: str) -> Iterator[Setting]:
    with Setting(ca_file) as setting:
        yield setting


# ------------------------------------------------------------------------------------ an endpoint that does not answer


@pytest.mark.parametrize("way", [*ALL_WAYS, *(f"plaintext {way}" for way in FOREIGN)])
def test_trap_19_a_call_ends_at_its_own_deadline_while_the_endpoint_hangs(way: str, ca_file: str) -> None:
    way, plaintext = way.removeprefix("plaintext "), way.startswith("plaintext ")
    how = {"allow_plaintext": True} if plaintext else {}
    with Setting(ca_file, plaintext=plaintext) as setting:
        hang = Hang()
        setting.tokens.script(hang)
        arguments = (way, setting.server.target, setting.server.channel_credentials(), setting.auth)

        late = try_all(*arguments, way_how=how, timeout=0.5)
        assert codes(late) == everywhere(way, DEADLINE)
        # The bound above is that of a hang: what ends late by some other clock of ours does not say DEADLINE_EXCEEDED.
        assert [end for end in late.values() if not 0.4 < end.seconds < PATIENCE / 2] == []
        assert len(setting.tokens.exchanges) == 1
        assert len(setting.server.ledger) == 0

        # The late token serves the next calls.
        hang.release.set()
        served = try_all(*arguments, way_how=how, timeout=PATIENCE)
        assert codes(served) == everywhere(way, OK)
        assert len(setting.tokens.exchanges) == 1
        assert setting.server.ledger.tokens == setting.tokens.issued


@pytest.mark.parametrize("way", SYNC_WAYS)
def test_trap_20_future_and_streams_return_at_once_while_the_endpoint_hangs(way: str, setting: Setting) -> None:
    hang = Hang()
    setting.tokens.script(hang)
    with SYNC_WAYS[way](setting.server.target, setting.server.channel_credentials(), setting.auth) as stub:
        # It is this very thread that lets the endpoint go on: one that blocked would never come so far.
        unary = stub.Unary.future(ProbeRequest(index=1), timeout=PATIENCE)
        client_stream = stub.ClientStream.future(iter([ProbeRequest(index=1)]), timeout=PATIENCE)
        server_stream = stub.ServerStream(ProbeRequest(replies=2), timeout=PATIENCE)
        bidi = stub.BidiStream(iter([ProbeRequest(index=1)]), timeout=PATIENCE)
        assert hang.arrived.wait(PATIENCE)
        assert not unary.done()
        assert not client_stream.done()
        assert server_stream.is_active()
        hang.release.set()

        assert unary.result(PATIENCE).count == 1
        assert client_stream.result(PATIENCE).count == 1
        assert [reply.index for reply in server_stream] == [0, 1]
        assert [reply.index for reply in bidi] == [0]
    assert len(setting.tokens.exchanges) == 1


@pytest.mark.parametrize("way", AIO_WAYS)
def test_trap_32_the_event_loop_goes_on_while_the_endpoint_hangs(way: str, setting: Setting) -> None:
    hang = Hang()
    setting.tokens.script(hang)

    async def main() -> tuple[int, int, int]:
        async with AIO_WAYS[way](setting.server.target, setting.server.channel_credentials(), setting.auth) as stub:
            call = stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)
            stream = stub.BidiStream(timeout=PATIENCE)
            writing = asyncio.ensure_future(stream.write(ProbeRequest(index=1)))
            asking = asyncio.ensure_future(setting.auth.atoken())
            turns = 0
            while not hang.arrived.is_set():  # the loop turns, or this never ends
                turns += 1
                await asyncio.sleep(0)
            assert not call.done()
            hang.release.set()
            count = (await call).count
            await writing
            await stream.done_writing()
            reply = await stream.read()
            await asking
            return turns, count, reply.count

    turns, *counts = asyncio.run(main())

    assert turns > 0
    assert counts == [1, 1]
    assert len(setting.tokens.exchanges) == 1


# ------------------------------------------------------------------------------------- an endpoint that fails for once


@pytest.mark.parametrize("way", [*EXPLAINING, *(f"plaintext {way}" for way in FOREIGN)])
def test_calls_that_wait_for_ready_wait_out_the_endpoint_s_backoff_and_others_fail_at_once(
    way: str, ca_file: str
) -> None:
    way, plaintext = way.removeprefix("plaintext "), way.startswith("plaintext ")
    clock = ManualClock()
    with Setting(ca_file, clock, plaintext=plaintext) as setting:
        setting.tokens.script(Status(503))
        with pytest.raises(TokenUnavailableError):
            setting.auth.token()
        how = {"allow_plaintext": True} if plaintext else {}
        arguments = (way, setting.server.target, setting.server.channel_credentials(), setting.auth)
        assert codes(try_all(*arguments, way_how=how, timeout=PATIENCE)) == everywhere(way, UNAVAILABLE)
        late = try_all(*arguments, way_how=how, timeout=0.5, wait_for_ready=True)
        assert codes(late) == everywhere(way, DEADLINE)
        assert len(setting.tokens.exchanges) == 1

        # By then they wait, as a rule: nothing tells. One that comes later finds the backoff over, and is served too.
        over = threading.Timer(0.2, clock.advance, (2.0,))
        over.start()
        served = try_all(*arguments, way_how=how, timeout=PATIENCE, wait_for_ready=True)
        over.join()

        assert codes(served) == everywhere(way, OK)
        assert len(setting.tokens.exchanges) == 2


@pytest.mark.parametrize("way", [way for way in SYNC_WAYS if way in EXPLAINING])
def test_calls_that_ended_in_a_backoff_are_let_go_and_cause_no_fetch_after_it(way: str, ca_file: str) -> None:
    clock = ManualClock()
    with Setting(ca_file, clock) as setting:
        setting.tokens.script(Status(503))
        with pytest.raises(TokenUnavailableError):
            setting.auth.token()
        arguments = (way, setting.server.target, setting.server.channel_credentials(), setting.auth)
        late = try_all(*arguments, timeout=0.3, wait_for_ready=True)
        clock.advance(600.0)

        assert codes(late) == everywhere(way, DEADLINE)
        assert len(setting.tokens.exchanges) == 1


# ---------------------------------------------------------------------------------------------------------- cancelling


@pytest.mark.parametrize("way", SYNC_WAYS)
def test_trap_12_a_call_cancelled_while_it_waits_leaves_the_fetch_to_others(way: str, setting: Setting) -> None:
    hang = Hang()
    setting.tokens.script(hang)
    with SYNC_WAYS[way](setting.server.target, setting.server.channel_credentials(), setting.auth) as stub:
        cancelled = [
            stub.Unary.future(ProbeRequest(), timeout=PATIENCE),
            stub.ClientStream.future(iter([ProbeRequest()]), timeout=PATIENCE),
            stub.ServerStream(ProbeRequest(), timeout=PATIENCE),
            stub.BidiStream(iter([ProbeRequest()]), timeout=PATIENCE),
        ]
        patient = stub.Unary.future(ProbeRequest(index=1), timeout=PATIENCE)
        assert hang.arrived.wait(PATIENCE)
        for call in cancelled:
            call.cancel()
        ends = [call.code() for call in cancelled]  # while the endpoint still hangs
        hang.release.set()

        assert ends == [CANCELLED] * 4
        assert patient.result(PATIENCE).count == 1
    assert len(setting.tokens.exchanges) == 1
    assert len(setting.server.ledger) == 1


@pytest.mark.parametrize("way", AIO_WAYS)
def test_trap_40_a_cancelled_task_does_not_cancel_the_fetch_for_the_rest(way: str, setting: Setting) -> None:
    hang = Hang()
    setting.tokens.script(hang)

    async def main() -> tuple[Any, ...]:
        async with AIO_WAYS[way](setting.server.target, setting.server.channel_credentials(), setting.auth) as stub:

            async def caller() -> Any:
                return await stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)

            first, patient = asyncio.ensure_future(caller()), asyncio.ensure_future(caller())
            asking = asyncio.ensure_future(setting.auth.atoken())
            called = stub.ServerStream(ProbeRequest(), timeout=PATIENCE)
            while not hang.arrived.is_set():
                await asyncio.sleep(0)
            first.cancel()
            asking.cancel()
            called.cancel()
            done, _ = await asyncio.wait([first, asking], timeout=PATIENCE)
            code = await called.code()  # while the endpoint still hangs
            hang.release.set()
            return len(done), first.cancelled(), asking.cancelled(), code, (await patient).count

    assert asyncio.run(main()) == (2, True, True, CANCELLED, 1)
    assert len(setting.tokens.exchanges) == 1
    assert len(setting.server.ledger) == 1


def test_trap_12_when_all_have_gone_the_token_is_kept_all_the_same(setting: Setting) -> None:
    hang = Hang()
    setting.tokens.script(hang)
    stub = setting.stub()
    call = stub.Unary.future(ProbeRequest(), timeout=PATIENCE)
    assert hang.arrived.wait(PATIENCE)
    call.cancel()
    hang.release.set()

    reply = stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)

    assert reply.count == 1
    assert len(setting.tokens.exchanges) == 1
    assert setting.server.ledger.tokens == setting.tokens.issued


# ------------------------------------------------------------------------------------------- an endpoint that is down


def test_with_the_endpoint_down_calls_go_on_until_the_token_truly_expires(ca_file: str) -> None:
    clock = ManualClock()
    with Setting(ca_file, clock, lifetime=600) as setting:
        stub = setting.stub()
        stub.Unary(ProbeRequest(), timeout=PATIENCE)
        expires_at = setting.auth.token().expires_at
        assert expires_at is not None
        setting.tokens.fail_with(Status(503))

        while clock.time() < expires_at - 1:
            clock.advance(min(7.0, expires_at - 1 - clock.time()))
            stub.Unary(ProbeRequest(), timeout=PATIENCE)
            assert eventually(lambda: nothing_in_flight(setting.auth))
        calls = len(setting.server.ledger)
        clock.advance(1)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Unary(ProbeRequest(), timeout=PATIENCE)

        assert calls > 85
        assert len(setting.server.ledger.accepted) == calls
        assert len(setting.server.ledger.tokens) == 1
        assert len(setting.tokens.exchanges) < 20  # of some twenty calls past the refresh point
        assert caught.value.code() is UNAVAILABLE
        assert isinstance(caught.value.__cause__, TokenUnavailableError)

        # And it recovers by itself.
        setting.tokens.heal()
        clock.advance(180)
        stub.Unary(ProbeRequest(), timeout=PATIENCE)
        assert len(setting.server.ledger.tokens) == 2


def test_retry_after_of_the_endpoint_is_honoured(ca_file: str) -> None:
    clock = ManualClock()
    with Setting(ca_file, clock) as setting:
        setting.tokens.fail_with(Status(429, retry_after=90), times=1)
        stub = setting.stub()
        for _ in range(44):
            with pytest.raises(grpc.RpcError):
                stub.Unary(ProbeRequest(), timeout=PATIENCE)
            clock.advance(2)
        refused = len(setting.tokens.exchanges)
        clock.advance(40)
        stub.Unary(ProbeRequest(), timeout=PATIENCE)

        assert refused == 1
        assert len(setting.tokens.exchanges) == 2


# ------------------------------------------------------------------------------------- wait_for_ready and a late server


class Dated(Source):
    """Wraps a source and remembers when each token was made, on the monotonic clock."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.single_use = source.single_use
        self.local = source.local
        self.made: dict[str, float] = {}

    def fetch(self, context: CallContext) -> Token:
        token = self._source.fetch(context)
        self.made[token.value] = time.monotonic()
        return token


def _late_source(single_use: bool) -> Dated:
    return Dated(
        JWTSource(
            throwaway_key("ES256"),
            claims={"iss": "me"},
            headers={"kid": "k", "nonce": nonce},
            lifetime=120,
            single_use=single_use,
        )
    )


def _late_verifier(clock: Any = None) -> JWTVerifier:
    how = {} if clock is None else {"clock": clock}
    return JWTVerifier(throwaway_key("ES256").public_key(), ["ES256"], **how)


def _seen_down(channel: grpc.Channel, *signs: grpc.ChannelConnectivity) -> threading.Event:
    down = threading.Event()

    def changed(state: grpc.ChannelConnectivity) -> None:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, *signs):
            down.set()

    channel.subscribe(changed, try_to_connect=True)
    return down


IMPATIENT = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 100),
)


@pytest.mark.parametrize("attach", ["auto", "metadata", "call_credentials"])
@pytest.mark.parametrize("single_use", [True, False], ids=["single-use", "reusable"])
def test_trap_28_wait_for_ready_sends_a_token_made_after_the_server_started(single_use: bool, attach: Any) -> None:
    source = _late_source(single_use)
    server = ProbeServer(_late_verifier(), TLS)
    with grpc_bearer.secure_channel(
        server.target, TLS.channel_credentials(), IMPATIENT, auth=source, attach=attach
    ) as channel:
        down = _seen_down(channel)
        stub = ProbeStub(channel)
        calls = [stub.Unary.future(ProbeRequest(), timeout=PATIENCE, wait_for_ready=True) for _ in range(3)]
        stream = stub.ServerStream(ProbeRequest(replies=2), timeout=PATIENCE, wait_for_ready=True)
        assert down.wait(PATIENCE)
        assert source.made == {}
        started = time.monotonic()
        with server:
            replies = [call.result(PATIENCE) for call in calls]
            messages = list(stream)

    assert len(replies) == 3
    assert len(messages) == 2
    assert [made for made in source.made.values() if made < started] == []
    assert set(server.ledger.tokens) == set(source.made)
    assert len(source.made) == (4 if single_use else 1)


@pytest.mark.parametrize("single_use", [True, False], ids=["single-use", "reusable"])
def test_trap_28_the_same_in_asyncio(single_use: bool) -> None:
    source = _late_source(single_use)
    server = ProbeServer(_late_verifier(), TLS)

    async def main() -> float:
        async with grpc_bearer.aio.secure_channel(
            server.target, TLS.channel_credentials(), IMPATIENT, auth=source
        ) as channel:
            stub = ProbeStub(channel)
            calls = [stub.Unary(ProbeRequest(), timeout=PATIENCE, wait_for_ready=True) for _ in range(3)]
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                await asyncio.wait_for(channel.wait_for_state_change(state), PATIENCE)
            assert source.made == {}
            started = time.monotonic()
            server.start()
            for call in calls:
                await call
            return started

    try:
        started = asyncio.run(main())
    finally:
        server.stop()

    assert [made for made in source.made.values() if made < started] == []
    assert set(server.ledger.tokens) == set(source.made)
    assert len(source.made) == (3 if single_use else 1)


@pytest.mark.parametrize("way", ["secure_channel", "aio.secure_channel"])
def test_trap_28_a_token_does_not_age_while_a_proven_channel_waits_for_its_server(way: str) -> None:
    """The channel was proven, the token is fresh; then the server goes away for longer than the token lives."""
    clock = ManualClock()
    key = throwaway_key("ES256")
    auth = BearerAuth(JWTSource(key, claims={"iss": "me"}, lifetime=120), clock=clock)
    server = ProbeServer(_late_verifier(clock), TLS, clock=clock)

    def sync() -> None:
        with grpc_bearer.secure_channel(server.target, TLS.channel_credentials(), IMPATIENT, auth=auth) as channel:
            stub = ProbeStub(channel)
            for _ in range(2):
                stub.Unary(ProbeRequest(), timeout=PATIENCE)
            server.stop()
            # A channel that has lost its connection may rest before it tries anew.
            assert _seen_down(channel, grpc.ChannelConnectivity.IDLE).wait(PATIENCE)
            call = stub.Unary.future(ProbeRequest(), timeout=PATIENCE, wait_for_ready=True)
            clock.advance(200)
            server.start()
            call.result(PATIENCE)

    async def asynchronous() -> None:
        async with grpc_bearer.aio.secure_channel(
            server.target, TLS.channel_credentials(), IMPATIENT, auth=auth
        ) as channel:
            stub = ProbeStub(channel)
            for _ in range(2):
                await stub.Unary(ProbeRequest(), timeout=PATIENCE)
            server.stop()
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                await asyncio.wait_for(channel.wait_for_state_change(state), PATIENCE)
            call = stub.Unary(ProbeRequest(), timeout=PATIENCE, wait_for_ready=True)
            await asyncio.sleep(0)
            clock.advance(200)
            server.start()
            await call

    with server:
        if way == "secure_channel":
            sync()
        else:
            asyncio.run(asynchronous())

    assert server.ledger.refused == []
    assert len(server.ledger.accepted) == 3
