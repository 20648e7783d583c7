"""grpclib's calls: against gRPC's own server and against grpclib's, with its own stubs and with betterproto2's."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import tenacity
from _refusing import EXPECTED, Place, Seen, Slow, requests, soon
from attachments import PATIENCE, TLS, Waiting

import grpc_bearer
from grpc_bearer import BearerAuth, RetryPolicy, Token
from grpc_bearer.errors import (
    ConfigurationError,
    InsecureChannelError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.events import CallRetried
from grpc_bearer.testing import OpaqueVerifier, ProbeReply, ProbeRequest, Refuse

pytest.importorskip("grpclib", reason="no grpclib here")

from grpclib.client import Channel, StreamStreamMethod, StreamUnaryMethod, UnaryStreamMethod, UnaryUnaryMethod
from grpclib.const import Cardinality, Handler, Status
from grpclib.events import SendRequest, listen
from grpclib.exceptions import GRPCError
from grpclib.server import Server

import grpc_bearer.grpclib as bearer_grpclib

SERVICE = "/grpc_bearer.testing.v1.Probe/"


class Stub:
    """What grpclib's protoc plugin generates."""

    def __init__(self, channel: Channel) -> None:
        def method(kind: Any, name: str) -> Any:
            return kind(channel, SERVICE + name, ProbeRequest, ProbeReply)

        self.Unary = method(UnaryUnaryMethod, "Unary")
        self.ServerStream = method(UnaryStreamMethod, "ServerStream")
        self.ClientStream = method(StreamUnaryMethod, "ClientStream")
        self.BidiStream = method(StreamStreamMethod, "BidiStream")


async def _unary(channel: Channel, **how: Any) -> Seen:
    return _seen(await Stub(channel).Unary(ProbeRequest(index=1), **how))


async def _server_stream(channel: Channel, **how: Any) -> Seen:
    return _seen(*await Stub(channel).ServerStream(ProbeRequest(index=1, replies=3), **how))


async def _client_stream(channel: Channel, **how: Any) -> Seen:
    return _seen(await Stub(channel).ClientStream(requests(), **how))


async def _bidi_stream(channel: Channel, **how: Any) -> Seen:
    return _seen(*await Stub(channel).BidiStream(requests(), **how))


async def _bidi_in_turn(channel: Channel, **how: Any) -> Seen:
    replies = []
    async with Stub(channel).BidiStream.open(**how) as stream:
        for message in requests():
            await stream.send_message(message)
            replies.append(await stream.recv_message())
        await stream.end()
        assert await stream.recv_message() is None
    return _seen(*replies)


async def _one_message_filled_again(channel: Channel, **how: Any) -> Seen:
    message = ProbeRequest()
    async with Stub(channel).ClientStream.open(**how) as stream:
        for index in range(3):
            message.index = index
            await stream.send_message(message)
        message.index = 99
        await stream.end()
        return _seen(await stream.recv_message())


async def _better_unary(channel: Channel, **how: Any) -> Seen:
    better = _better()
    return _seen(await better.ProbeStub(channel).unary(better.ProbeRequest(index=1), **how))


async def _better_server_stream(channel: Channel, **how: Any) -> Seen:
    better = _better()
    request = better.ProbeRequest(index=1, replies=3)
    return _seen(*[reply async for reply in better.ProbeStub(channel).server_stream(request, **how)])


async def _better_client_stream(channel: Channel, **how: Any) -> Seen:
    better = _better()
    return _seen(await better.ProbeStub(channel).client_stream(_better_requests(), **how))


async def _better_bidi_stream(channel: Channel, **how: Any) -> Seen:
    better = _better()
    return _seen(*[reply async for reply in better.ProbeStub(channel).bidi_stream(_better_requests(), **how)])


def _better() -> Any:
    pytest.importorskip("betterproto2", reason="no betterproto2 here")
    import _betterproto_probe

    return _betterproto_probe


async def _better_requests() -> AsyncIterator[Any]:
    for index in range(3):
        await asyncio.sleep(0)
        yield _better().ProbeRequest(index=index)


def _seen(*replies: Any) -> Seen:
    return list(replies[-1].indexes), len(replies)


KINDS: dict[str, tuple[Callable[..., Coroutine[Any, Any, Seen]], str]] = {
    "unary": (_unary, "Unary"),
    "server_stream": (_server_stream, "ServerStream"),
    "client_stream": (_client_stream, "ClientStream"),
    "client_stream.one_message": (_one_message_filled_again, "ClientStream"),
    "bidi_stream": (_bidi_stream, "BidiStream"),
    "bidi_stream.in_turn": (_bidi_in_turn, "BidiStream"),
    "betterproto2.unary": (_better_unary, "Unary"),
    "betterproto2.server_stream": (_better_server_stream, "ServerStream"),
    "betterproto2.client_stream": (_better_client_stream, "ClientStream"),
    "betterproto2.bidi_stream": (_better_bidi_stream, "BidiStream"),
}


def spoken(context: ssl.SSLContext) -> ssl.SSLContext:
    """grpclib says nothing of HTTP/2 on a context that it has not made."""
    context.set_alpn_protocols(["h2"])
    return context


@contextlib.asynccontextmanager
async def opened(target: str, auth: Any, **how: Any) -> AsyncIterator[Channel]:
    host, _, port = target.rpartition(":")
    how.setdefault("ssl", spoken(TLS.client_context()))
    async with bearer_grpclib.channel(host, int(port), auth=auth, **how) as channel:
        yield channel
        lost = asyncio.Event()
        if (protocol := channel._protocol) is not None:
            protocol.connection_lost = lambda _: lost.set()  # type: ignore[method-assign]
            protocol.connection._transport.abort()
            await soon(lost.wait())  # or its socket stays behind when the loop ends


async def made(channel: Channel, kind: str, **how: Any) -> Seen:
    call, _ = KINDS[kind]
    seen: Seen = await soon(call(channel, timeout=PATIENCE, **how))
    return seen


async def error_of(channel: Channel, kind: str, **how: Any) -> GRPCError:
    with pytest.raises(GRPCError) as caught:
        await made(channel, kind, **how)
    return caught.value


def sent(here: Place) -> list[str]:
    return [attempt.token for attempt in here.server.ledger]


@pytest.fixture(autouse=True)
def fresh(here: Place) -> None:
    here.server.faults.clear()
    here.server.ledger.clear()


# -------------------------------------------------------------------------------------------- against gRPC's own server


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKindOfCall:
    async def test_carries_the_token(self, here: Place, kind: str) -> None:
        auth = here.auth()
        async with opened(here.server.target, auth) as channel:
            assert await made(channel, kind) == EXPECTED[KINDS[kind][1]]

        assert sent(here) == here.minted(auth)

    async def test_is_made_again_with_another_token(self, here: Place, kind: str) -> None:
        told: list[CallRetried] = []
        auth = here.auth(observers=[lambda event: told.append(event) if isinstance(event, CallRetried) else None])
        old = here.revoke(auth)
        async with opened(here.server.target, auth) as channel:
            assert await made(channel, kind) == EXPECTED[KINDS[kind][1]]

        assert sent(here) == [old, auth.token().value]
        assert [(event.method, event.code, event.attempt) for event in told] == [
            ((SERVICE + KINDS[kind][1]).strip("/"), "UNAUTHENTICATED", 1)
        ]

    @pytest.mark.parametrize("when", ["start", "headers"])
    async def test_but_only_once(self, here: Place, kind: str, when: str) -> None:
        auth = here.auth()
        here.refuse(Refuse(details="no 0", when=when), Refuse(details="no 1", when=when))
        async with opened(here.server.target, auth) as channel:
            error = await error_of(channel, kind)

        assert (error.status, error.message) == (Status.UNAUTHENTICATED, "no 1")
        assert isinstance(error.__cause__, TokenRejectedError)
        assert sent(here) == here.minted(auth)
        assert len(here.minted(auth)) == 2

    async def test_that_is_refused_behind_its_headers_is_made_again(self, here: Place, kind: str) -> None:
        here.refuse(Refuse(when="headers"))
        async with opened(here.server.target, here.auth()) as channel:
            assert await made(channel, kind) == EXPECTED[KINDS[kind][1]]

    async def test_with_a_policy_of_none_is_not_made_again(self, here: Place, kind: str) -> None:
        here.refuse(Refuse())
        async with opened(here.server.target, here.auth(), retry=None) as channel:
            error = await error_of(channel, kind)

        assert error.status is Status.UNAUTHENTICATED
        assert isinstance(error.__cause__, TokenRejectedError)

    async def test_keeps_a_header_of_its_own(self, here: Place, kind: str) -> None:
        here.verifier.accept("mine")
        auth = here.auth()
        async with opened(here.server.target, auth) as channel:
            await made(channel, kind, metadata={"authorization": "Bearer mine"})

        assert sent(here) == ["mine"]
        assert here.minted(auth) == []


async def test_a_call_that_goes_well_sets_no_more_attributes_than_python_finds_fast(here: Place) -> None:
    async with opened(here.server.target, here.auth()) as channel:
        await made(channel, "unary")  # its token is at hand from now on
        async with Stub(channel).Unary.open(timeout=PATIENCE) as stream:
            await stream.send_message(ProbeRequest(index=1), end=True)
            await stream.recv_message()

    assert len(vars(stream)) <= 30


@pytest.mark.parametrize("kind", ["client_stream", "betterproto2.client_stream"])
async def test_a_refusal_midway_sends_the_requests_again_once_each(here: Place, kind: str) -> None:
    here.refuse(Refuse(after_requests=2))
    async with opened(here.server.target, here.auth()) as channel:
        assert await made(channel, kind) == EXPECTED[KINDS[kind][1]]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tasks do not count before")
@pytest.mark.parametrize("wishes", [0, 1])
async def test_a_call_that_heals_while_it_sends_leaves_the_count_of_cancellations(here: Place, wishes: int) -> None:
    async def heal() -> None:
        here.refuse(Refuse())
        async with opened(here.server.target, here.auth()) as channel:
            reply = await Stub(channel).ClientStream(
                [ProbeRequest(index=index, payload=b"x" * 100_000) for index in range(6)]
            )
        assert list(reply.indexes) == list(range(6))

    async def call() -> list[int]:
        task: Any = asyncio.current_task()
        counts = []
        try:
            for _ in range(wishes):
                task.cancel()
            await asyncio.sleep(0)
        except asyncio.CancelledError:  # the user cleans up, and calls meanwhile
            pass
        for _ in range(8):  # not each time is the refusal met while the call sends
            await heal()
            counts.append(task.cancelling())
        return counts

    assert await asyncio.create_task(call()) == [wishes] * 8


async def test_once_a_message_was_delivered_the_stream_is_not_made_again(here: Place) -> None:
    auth = here.auth()
    here.refuse(Refuse(after_replies=1))
    async with opened(here.server.target, auth) as channel:
        error = await error_of(channel, "server_stream")

        assert error.status is Status.UNAUTHENTICATED
        assert len(sent(here)) == 1
        await made(channel, "unary")
    assert len(here.minted(auth)) == 2  # but its token was given up


async def test_a_stream_past_its_bound_is_not_made_again(here: Place) -> None:
    here.refuse(Refuse(after_requests=3))
    async with opened(here.server.target, here.auth(), retry=RetryPolicy(replay_messages=2)) as channel:
        error = await error_of(channel, "client_stream")

    assert (error.status, len(sent(here))) == (Status.UNAUTHENTICATED, 1)


async def test_calls_that_fail_with_one_token_cost_one_fetch(here: Place) -> None:
    auth = here.auth()
    here.revoke(auth)
    async with opened(here.server.target, auth) as channel:
        await asyncio.gather(*(made(channel, kind) for kind in KINDS for _ in range(5)))

    assert len(here.minted(auth)) == 2


async def test_a_policy_with_more_attempts_and_other_codes_is_honoured(here: Place) -> None:
    import grpc

    denied = Refuse(grpc.StatusCode.PERMISSION_DENIED)
    here.refuse(denied, denied)
    policy = RetryPolicy(stop=tenacity.stop_after_attempt(3), codes=[grpc.StatusCode.PERMISSION_DENIED])
    async with opened(here.server.target, here.auth(), retry=policy) as channel:
        await made(channel, "unary")

    assert len(sent(here)) == 3


async def test_a_reason_that_no_token_cures_is_shown_at_once(here: Place) -> None:
    from google.rpc.error_details_pb2 import ErrorInfo

    here.refuse(Refuse(rich=ErrorInfo(reason="ACCESS_TOKEN_SCOPE_INSUFFICIENT")))
    async with opened(here.server.target, here.auth()) as channel:
        error = await error_of(channel, "unary")

    assert "ACCESS_TOKEN_SCOPE_INSUFFICIENT" in str(error.__cause__)
    assert len(sent(here)) == 1


async def test_a_token_that_cannot_change_is_sent_once(here: Place) -> None:
    async with opened(here.server.target, "fixed") as channel:
        error = await error_of(channel, "unary")

    assert error.status is Status.UNAUTHENTICATED
    assert sent(here) == ["fixed"]


async def test_one_deadline_covers_the_wait_for_a_token(here: Place) -> None:
    source = Waiting("never")
    async with opened(here.server.target, BearerAuth(source)) as channel:
        with pytest.raises(asyncio.TimeoutError):
            await soon(Stub(channel).Unary(ProbeRequest(), timeout=0.05))
    source.go.set()

    assert sent(here) == []


async def test_the_wait_for_a_token_blocks_no_loop_and_can_be_cancelled(here: Place) -> None:
    source = Waiting("late")
    here.verifier.accept("late")
    async with opened(here.server.target, BearerAuth(source)) as channel:
        given_up, waiting = (asyncio.ensure_future(made(channel, "unary")) for _ in range(2))
        await asyncio.get_running_loop().run_in_executor(None, source.asked.wait, PATIENCE)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        source.go.set()

        assert await waiting == EXPECTED["Unary"]
    assert source.fetches == 1


async def test_want_of_a_token_is_an_error_of_grpclib_with_ours_behind_it(here: Place) -> None:
    def fails() -> str:
        raise TokenUnavailableError("the vault is shut")

    async with opened(here.server.target, BearerAuth(fails)) as channel:
        error = await error_of(channel, "unary")

    assert error.status is Status.UNAVAILABLE
    assert isinstance(error.__cause__, TokenUnavailableError)
    assert sent(here) == []


async def test_if_there_is_no_other_token_the_refusal_is_shown_with_the_reason(here: Place) -> None:
    tokens = iter(["first"])

    def once() -> str:
        for token in tokens:
            return token
        raise TokenUnavailableError("the vault is shut")

    async with opened(here.server.target, BearerAuth(once)) as channel:
        error = await error_of(channel, "unary")

    assert error.status is Status.UNAUTHENTICATED
    assert isinstance(error.__cause__, TokenUnavailableError)


async def test_single_use_tokens_go_out_once_each(here: Place) -> None:
    numbers = iter(range(10))

    def single() -> Token:
        here.verifier.accept(token := f"single-{next(numbers)}")
        return Token(token, single_use=True)

    class Single(grpc_bearer.Source):
        single_use = True

        def fetch(self, context: object) -> Token:
            return single()

    here.refuse(None, Refuse())
    async with opened(here.server.target, BearerAuth(Single())) as channel:
        await made(channel, "unary")
        await made(channel, "unary")

    assert sent(here) == ["single-0", "single-1", "single-2"]


async def test_listeners_hear_of_each_attempt_and_never_see_the_token(here: Place) -> None:
    seen: list[dict[str, Any]] = []

    async def heard(event: SendRequest) -> None:
        event.metadata.add("x-request", "1")
        seen.append(event.metadata)

    auth = here.auth()
    here.revoke(auth)
    async with opened(here.server.target, auth) as channel:
        listen(channel, SendRequest, heard)
        await made(channel, "unary")

    assert [dict(metadata) for metadata in seen] == [{"x-request": "1"}] * 2
    assert here.server.ledger[-1].metadata.count(("x-request", "1")) == 1


async def test_a_source_is_told_the_url_and_the_method(here: Place) -> None:
    told: list[tuple[str, str]] = []

    class Keyed(grpc_bearer.Source):
        def fetch(self, context: grpc_bearer.CallContext) -> Token:
            told.append((context.service_url, context.method))
            here.verifier.accept("keyed")
            return Token("keyed")

    async with opened(here.server.target, BearerAuth(Keyed())) as channel:
        await made(channel, "unary")

    assert told == [(f"https://{here.server.target}/grpc_bearer.testing.v1.Probe", "Unary")]


# ------------------------------------------------------------------------------------------------ against grpclib's own


class Probe:
    """A service of grpclib's that knows tokens."""

    def __init__(self) -> None:
        self.verifier = OpaqueVerifier([])
        self.known: set[str] = set()

    def __mapping__(self) -> dict[str, Handler]:
        return {
            SERVICE + "Unary": Handler(self._serve, Cardinality.UNARY_UNARY, ProbeRequest, ProbeReply),
            SERVICE + "ServerStream": Handler(self._serve, Cardinality.UNARY_STREAM, ProbeRequest, ProbeReply),
            SERVICE + "ClientStream": Handler(self._serve, Cardinality.STREAM_UNARY, ProbeRequest, ProbeReply),
            SERVICE + "BidiStream": Handler(self._serve, Cardinality.STREAM_STREAM, ProbeRequest, ProbeReply),
        }

    async def _serve(self, stream: Any) -> None:
        if stream.metadata.getall("authorization") != ["Bearer new"]:
            raise GRPCError(Status.UNAUTHENTICATED, "not that one")
        got = [request async for request in stream]
        replies = 1 if not stream._cardinality.server_streaming else max(len(got), got[0].replies)
        for index in range(replies):
            await stream.send_message(ProbeReply(index=index, indexes=[request.index for request in got]))


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None) -> AsyncIterator[str]:
    server = Server([Probe()])
    await server.start("127.0.0.1", 0, ssl=tls)
    try:
        assert server._server is not None
        yield f"127.0.0.1:{server._server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


# Of a server that answers when it has all requests, in turn is no way to ask.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.endswith("in_turn")])
async def test_every_kind_of_call_heals_on_a_server_of_grpclibs(kind: str) -> None:
    tokens = iter(["old", "new"])
    async with (
        serving(spoken(TLS.server_context("127.0.0.1"))) as target,
        opened(target, BearerAuth(lambda: next(tokens))) as channel,
    ):
        assert await made(channel, kind) == EXPECTED[KINDS[kind][1]]


# --------------------------------------------------------------------------------------------------------- in the clear


@pytest.mark.parametrize(
    "where", [{"host": "127.0.0.1", "port": 1}, {"host": "api.example.com", "port": 443}, {"path": "/run/probe"}]
)
@pytest.mark.parametrize("tls", [None, False])
async def test_plaintext_is_refused_to_this_machine_too(where: Any, tls: Any) -> None:
    with pytest.raises(InsecureChannelError, match="allow_plaintext"):
        bearer_grpclib.channel(**where, auth="t0", ssl=tls)


async def test_plaintext_that_is_allowed_heals_too() -> None:
    tokens = iter(["old", "new"])
    async with (
        serving(None) as target,
        opened(target, BearerAuth(lambda: next(tokens)), ssl=None, allow_plaintext=True) as channel,
    ):
        assert await made(channel, "unary") == EXPECTED["Unary"]


async def test_bad_arguments_are_named() -> None:
    with pytest.raises(ConfigurationError, match="retry"):
        bearer_grpclib.channel("localhost", 1, auth="t0", retry=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="auth"):
        bearer_grpclib.channel("localhost", 1, auth=3)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- while it begins anew


async def test_a_request_that_is_sent_after_the_refusal_goes_to_the_next_attempt() -> None:
    tokens = ["new", "old"]
    async with (
        serving(spoken(TLS.server_context("127.0.0.1"))) as target,
        opened(target, BearerAuth(tokens.pop)) as channel,
        Stub(channel).Unary.open(timeout=PATIENCE) as stream,
    ):
        await stream.send_request()
        reading = asyncio.ensure_future(stream.recv_message())
        await until(lambda: not tokens)
        await stream.send_message(ProbeRequest(index=1), end=True)

        assert _seen(await reading) == EXPECTED["Unary"]


@pytest.mark.parametrize("kind", ["unary", "client_stream", "bidi_stream"])
async def test_a_call_is_cancelled_while_its_next_token_is_fetched(here: Place, kind: str) -> None:
    source = Slow(here)
    auth = BearerAuth(source)
    here.verifier.revoke((await auth.atoken()).value)
    async with opened(here.server.target, auth) as channel:
        call = asyncio.ensure_future(made(channel, kind))
        await asyncio.get_running_loop().run_in_executor(None, source.asked.wait, PATIENCE)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        source.go.set()

        assert await made(channel, "unary") == EXPECTED["Unary"]  # the channel serves on
    assert len(sent(here)) == 2


@pytest.mark.parametrize("kind", ["unary", "client_stream"])
async def test_one_deadline_covers_both_attempts(here: Place, kind: str) -> None:
    source = Slow(here)
    auth = BearerAuth(source)
    here.verifier.revoke((await auth.atoken()).value)
    call, _ = KINDS[kind]
    async with opened(here.server.target, auth) as channel:
        with pytest.raises(asyncio.TimeoutError, match="Deadline exceeded"):
            await soon(call(channel, timeout=0.3))
    source.go.set()

    assert len(sent(here)) == 1


async def test_a_call_is_cancelled_while_the_server_waits(here: Place) -> None:
    async with opened(here.server.target, here.auth()) as channel:
        call = asyncio.ensure_future(_unanswered(channel))
        await until(lambda: sent(here))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        assert await made(channel, "unary") == EXPECTED["Unary"]  # the channel serves on
    assert len(sent(here)) == 2


async def _unanswered(channel: Channel) -> None:
    async with Stub(channel).ClientStream.open() as stream:
        await stream.send_message(ProbeRequest(index=1))
        await stream.recv_message()


async def until(true: Callable[[], Any]) -> None:
    async def waited() -> None:
        while not true():
            await asyncio.sleep(0.005)

    await soon(waited())
