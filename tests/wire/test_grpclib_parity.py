"""Whatever a user does with a grpclib stream of ours, right or wrong, ends as it does with one of grpclib's own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from _refusing import Place, soon
from test_grpclib import TLS, Stub, spoken

from grpc_bearer import BearerAuth
from grpc_bearer.testing import ProbeRequest

pytest.importorskip("grpclib", reason="no grpclib here")

from grpclib.client import Channel

import grpc_bearer.grpclib

REQUEST = ProbeRequest(index=1)


class ByHand(Channel):
    """grpclib's own, whose calls carry a token that the user has put there."""

    def request(self, *args: Any, metadata: Any = None, **how: Any) -> Any:
        return super().request(*args, metadata={**(metadata or {}), "authorization": "Bearer known"}, **how)


def opening(kind: str, *steps: str, **how: Any) -> Callable[[Channel], Coroutine[Any, Any, Any]]:
    """Takes these steps on a stream."""

    async def taken(channel: Channel) -> Any:
        async with getattr(Stub(channel), kind).open(**how) as stream:
            made: dict[str, Callable[[], Any]] = {
                "send": lambda: stream.send_message(REQUEST),
                "send last": lambda: stream.send_message(REQUEST, end=True),
                "send a text": lambda: stream.send_message("text"),
                "raise": lambda: _raise(KeyError("mine")),
                "close": lambda: _closed(channel),
            }
            for step in steps:
                await made.get(step, lambda: getattr(stream, step)())()  # noqa: B023  # it is awaited at once
        shown = stream.initial_metadata, stream.trailing_metadata, stream.peer
        counts = stream._messages_sent, stream._messages_received, channel._calls_started, channel._calls_succeeded
        return [each is not None for each in shown], counts, channel._calls_failed

    return taken


async def _raise(error: Exception) -> None:
    raise error


async def _closed(channel: Channel) -> None:
    asyncio.get_running_loop().call_soon(channel.close)


SCENARIOS: dict[str, Callable[[Channel], Coroutine[Any, Any, Any]]] = {
    "nothing is sent": opening("Unary"),
    "a request alone": opening("Unary", "send_request", timeout=0.1),
    "a unary call step by step": opening(
        "Unary", "send_request", "send", "recv_initial_metadata", "recv_message", "recv_trailing_metadata"
    ),
    "a stream step by step": opening("BidiStream", "send", "recv_message", "send last", "recv_message", "recv_message"),
    "left without an answer": opening("Unary", "send"),
    "left without an end": opening("BidiStream", "send"),
    "an error of the user's": opening("BidiStream", "send", "raise"),
    "sent twice": opening("Unary", "send", "send"),
    "sent after the end": opening("ClientStream", "send last", "send"),
    "requested twice": opening("Unary", "send_request", "send_request"),
    "ended twice": opening("Unary", "send", "end", "end"),
    "a stream ended twice": opening("ClientStream", "send", "end", "end"),
    "ended before it was begun": opening("ClientStream", "end"),
    "received before it was begun": opening("Unary", "recv_message"),
    "initial metadata twice": opening("Unary", "send", "recv_initial_metadata", "recv_initial_metadata"),
    "trailing metadata too early": opening("Unary", "send", "recv_trailing_metadata"),
    "cancelled": opening("BidiStream", "send", "recv_message", "cancel"),
    "cancelled twice": opening("BidiStream", "send", "recv_message", "cancel", "cancel"),
    "closed in flight": opening("BidiStream", "send", "recv_message", "close", "recv_message"),
    "no message": opening("Unary", "send a text"),
    "no metadata": opening("Unary", "send", metadata={"Bad Key": "x"}),
    "no time": opening("Unary", "send", timeout=0),
    "less than no time": opening("Unary", "send", timeout=-1),
    "an empty stream": lambda channel: Stub(channel).BidiStream([]),
}


async def ended(scenario: Callable[[Channel], Coroutine[Any, Any, Any]], channel: Channel) -> tuple[str, str]:
    try:
        return "ended well", repr(await soon(scenario(channel)))
    except Exception as error:
        return type(error).__name__, str(error)


@contextlib.asynccontextmanager
async def tidy(channel: Any) -> AsyncIterator[Channel]:
    """Its connections are gone when the loop ends, also those that it has let go itself."""
    made, gone = channel._create_connection, list[tuple[Any, asyncio.Event]]()

    async def watched() -> Any:
        protocol, lost = await made(), asyncio.Event()
        protocol.connection_lost = lambda _: lost.set()
        gone.append((protocol.connection._transport, lost))
        return protocol

    channel._create_connection = watched
    async with channel:
        yield channel
    for transport, lost in gone:
        transport.abort()
        await soon(lost.wait())


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_stream_ends_as_one_of_grpclibs_own(here: Place, name: str) -> None:
    here.server.faults.clear()
    here.verifier.accept("known")
    host, _, port = here.server.target.rpartition(":")
    tls = spoken(TLS.client_context())
    by_hand = ByHand(host, int(port), ssl=tls)
    ours = grpc_bearer.grpclib.channel(host, int(port), auth=BearerAuth(lambda: "known"), ssl=tls)
    async with tidy(by_hand) as expected, tidy(ours) as channel:
        assert await ended(SCENARIOS[name], channel) == await ended(SCENARIOS[name], expected)
