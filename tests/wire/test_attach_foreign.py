"""Attached to what others built: one thing that looks whole may lead to several places, or bring its own options."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import grpc
import pytest

import grpc_bearer
import grpc_bearer.testing as kit
from grpc_bearer import CallContext, InsecureChannelError, Source, Token

RETRY = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.01s",
                    "backoffMultiplier": 1,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


class Numbered(Source):
    """Single-use tokens n1, n2, …"""

    local = True
    single_use = True

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def fetch(self, context: CallContext) -> Token:
        return Token(f"n{next(self._numbers)}", single_use=True)


@pytest.fixture
def secure() -> Iterator[kit.ProbeServer]:
    with kit.ProbeServer(kit.OpaqueVerifier(["t0"])) as server:
        yield server


@pytest.fixture
def plain() -> Iterator[kit.ProbeServer]:
    with kit.ProbeServer(credentials="insecure") as server:
        yield server


def headers(server: kit.ProbeServer) -> list[str | bytes]:
    return [value for attempt in server.ledger for key, value in attempt.metadata if key == "authorization"]


def test_a_stub_over_two_channels_is_proved_channel_by_channel(secure: kit.ProbeServer, plain: kit.ProbeServer) -> None:
    with secure.channel() as tls, plain.channel() as clear:
        stub = kit.ProbeStub(tls)
        stub.ServerStream = kit.ProbeStub(clear).ServerStream
        ours = grpc_bearer.wrap_stub(stub, "t0")
        for _ in range(2):
            assert ours.Unary(kit.ProbeRequest(index=1)).count == 1

        with pytest.raises(grpc.RpcError) as caught:
            list(ours.ServerStream(kit.ProbeRequest(index=1)))

    assert isinstance(caught.value.__cause__, InsecureChannelError)
    assert headers(secure) == ["Bearer t0"] * 2
    assert headers(plain) == []


class Split(grpc.Channel):
    """Somebody's channel that sends streams elsewhere."""

    def __init__(self, unary: grpc.Channel, streams: grpc.Channel) -> None:
        self._channel = unary
        self._streams = streams

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.unary_unary(*args, **kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._streams.unary_stream(*args, **kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._streams.stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._streams.stream_stream(*args, **kwargs)

    def subscribe(self, *args: Any, **kwargs: Any) -> None:
        self._channel.subscribe(*args, **kwargs)

    def unsubscribe(self, callback: Any) -> None:
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        self._channel.close()

    def __enter__(self) -> Split:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def test_a_channel_of_somebody_elses_is_never_proved_as_a_whole(
    secure: kit.ProbeServer, plain: kit.ProbeServer
) -> None:
    with secure.channel() as tls, plain.channel() as clear:
        stub = kit.ProbeStub(grpc_bearer.intercept_channel(Split(tls, clear), "t0"))
        for _ in range(2):
            assert stub.Unary(kit.ProbeRequest(index=1)).count == 1

        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerStream(kit.ProbeRequest(index=1)))

    assert isinstance(caught.value.__cause__, InsecureChannelError)
    assert headers(plain) == []


def test_a_header_of_the_callers_own_is_theirs_though_its_key_be_bytes(secure: kit.ProbeServer) -> None:
    with grpc_bearer.secure_channel(secure.target, secure.channel_credentials(), auth="t1") as channel:
        stub = kit.ProbeStub(channel)
        for _ in range(2):
            stub.Unary(kit.ProbeRequest(index=1), metadata=[(b"authorization", b"Bearer t0")])

    assert headers(secure) == ["Bearer t0"] * 2


@pytest.mark.parametrize("options", [[], [("grpc.enable_retries", 1)]])
def test_single_use_tokens_as_metadata_are_not_sent_again_whatever_the_options_say(
    options: list[tuple[str, Any]],
) -> None:
    with kit.ProbeServer() as server:
        options = [*options, ("grpc.service_config", RETRY)]
        with grpc_bearer.secure_channel(
            server.target, server.channel_credentials(), options, auth=Numbered(), attach="metadata"
        ) as channel:
            stub = kit.ProbeStub(channel)
            stub.Unary(kit.ProbeRequest(index=1))
            server.script(*[kit.Refuse(grpc.StatusCode.UNAVAILABLE)] * 3)
            with pytest.raises(grpc.RpcError):
                stub.Unary(kit.ProbeRequest(index=2))

        assert headers(server) == ["Bearer n1", "Bearer n2"]


def test_single_use_tokens_in_the_clear_are_not_sent_again_either(plain: kit.ProbeServer) -> None:
    options = [("grpc.service_config", RETRY)]
    with grpc_bearer.insecure_channel(plain.target, options, auth=Numbered(), allow_plaintext=True) as channel:
        plain.script(*[kit.Refuse(grpc.StatusCode.UNAVAILABLE)] * 3)
        with pytest.raises(grpc.RpcError):
            kit.ProbeStub(channel).Unary(kit.ProbeRequest(index=1))

    assert headers(plain) == ["Bearer n1"]


def test_servers_that_tell_different_times_cost_no_more_tokens_than_the_budget_has() -> None:
    key = kit.throwaway_key("ES256")
    with kit.ProbeServer() as server:
        auth = grpc_bearer.BearerAuth(grpc_bearer.JWTSource(kit.private_pem(key), lifetime=120))
        with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
            stub = kit.ProbeStub(channel)
            for turn in range(30):
                date = formatdate(time.time() + (600, -600)[turn % 2], usegmt=True)
                server.script(*[kit.Refuse(trailing=(("date", date),))] * 3)
                with pytest.raises(grpc.RpcError):
                    stub.Unary(kit.ProbeRequest(index=1))
                server.faults.clear()

        assert len(server.ledger.tokens) <= 12


class Lazy:
    """A stub that makes its methods when they are first asked for, as some hand-written clients do."""

    def __init__(self, channel: grpc.Channel | grpc.aio.Channel) -> None:
        self.channel = channel

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(kit.ProbeStub(self.channel), name)


def test_methods_that_a_stub_makes_when_they_are_first_asked_for_carry_a_token(secure: kit.ProbeServer) -> None:
    with secure.channel() as channel:
        stub = Lazy(channel)
        ours = grpc_bearer.wrap_stub(stub, "t0")

        assert ours.Unary(kit.ProbeRequest(index=1)).count == 1
        assert stub.channel is channel

    assert headers(secure) == ["Bearer t0"]


async def test_methods_that_an_asyncio_stub_makes_so_carry_one_too(secure: kit.ProbeServer) -> None:
    async with grpc.aio.secure_channel(secure.target, secure.channel_credentials()) as channel:
        assert (await grpc_bearer.wrap_stub(Lazy(channel), "t0").Unary(kit.ProbeRequest(index=1))).count == 1

    assert headers(secure) == ["Bearer t0"]


def test_what_keeps_a_channel_for_methods_made_elsewhere_is_no_stub(secure: kit.ProbeServer) -> None:
    class Transport:
        def __init__(self, channel: grpc.Channel) -> None:
            self.channel = channel

    with secure.channel() as channel, pytest.raises(grpc_bearer.ConfigurationError, match="no gRPC method"):
        grpc_bearer.wrap_stub(Transport(channel), "t0")
