"""Channels whose server streams are bare iterators: hand-written interceptors make such, and so does OpenTelemetry."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer._calls.sync_iterator_call import BareStream, whole, whole_streams
from grpc_bearer.testing import ProbeRequest, ProbeServer, ProbeStub, TokenServer


class Generates(grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor):
    """As people write them."""

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Iterator[Any]:
        yield from continuation(client_call_details, request)

    intercept_stream_stream = intercept_unary_stream


def our_channel(channel: grpc.Channel, auth: BearerAuth) -> Any:
    return ProbeStub(grpc_bearer.intercept_channel(channel, auth))


def our_interceptor(channel: grpc.Channel, auth: BearerAuth) -> Any:
    return ProbeStub(grpc.intercept_channel(channel, grpc_bearer.interceptor(auth)))


def our_stub(channel: grpc.Channel, auth: BearerAuth) -> Any:
    return grpc_bearer.wrap_stub(ProbeStub(channel), auth)


@pytest.fixture(params=[our_channel, our_interceptor, our_stub])
def stub(request: Any, bearer_grpc_server: ProbeServer, bearer_auth: BearerAuth) -> Iterator[Any]:
    with bearer_grpc_server.channel() as channel:
        yield request.param(grpc.intercept_channel(channel, Generates()), bearer_auth)


def requests() -> Iterator[ProbeRequest]:
    return (ProbeRequest(index=index) for index in range(3))


def test_streams_bring_their_token_and_their_messages(stub: Any, bearer_grpc_server: ProbeServer) -> None:
    assert [reply.index for reply in stub.ServerStream(ProbeRequest(replies=3))] == [0, 1, 2]
    assert [reply.index for reply in stub.BidiStream(requests())] == [0, 1, 2]
    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, True]


def test_a_revoked_token_is_replaced_before_the_first_message(
    stub: Any, bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer
) -> None:
    stub.Unary(ProbeRequest())
    bearer_token_server.revoke(*bearer_token_server.issued)

    assert len(list(stub.ServerStream(ProbeRequest(replies=3)))) == 3
    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, False, True]


def test_a_second_refusal_is_the_servers_own(stub: Any, bearer_grpc_server: ProbeServer, bearer_kit: Any) -> None:
    refuse = bearer_kit.Refuse(details="who are you?", trailing=[("x-why", "because")])
    bearer_grpc_server.script(refuse, refuse)

    call = stub.ServerStream(ProbeRequest(replies=3))
    with pytest.raises(grpc.RpcError) as caught:
        list(call)

    told: Any = caught.value
    assert (told.code(), told.details()) == (grpc.StatusCode.UNAUTHENTICATED, "who are you?")
    assert ("x-why", "because") in [(key, value) for key, value in told.trailing_metadata()]
    assert (call.code(), call.done()) == (grpc.StatusCode.UNAUTHENTICATED, True)
    assert len(bearer_grpc_server.ledger) == 2


def test_an_error_in_the_middle_is_told_as_by_a_plain_call(
    stub: Any, bearer_grpc_server: ProbeServer, bearer_kit: Any
) -> None:
    bearer_grpc_server.script(bearer_kit.Refuse(grpc.StatusCode.ABORTED, "no more", after_replies=1))
    ended: list[Any] = []
    call = stub.ServerStream(ProbeRequest(replies=3))
    call.add_done_callback(ended.append)

    assert next(call).index == 0
    with pytest.raises(grpc.RpcError, match="no more"):
        next(call)

    assert ended == [call]
    assert call.exception(timeout=1).code() is grpc.StatusCode.ABORTED


def test_a_stream_can_be_cancelled(stub: Any, bearer_grpc_server: ProbeServer) -> None:
    call = stub.ServerStream(ProbeRequest(replies=1000))

    assert next(call).index == 0
    assert call.is_active()
    assert call.cancel()
    assert (call.code(), call.is_active()) == (grpc.StatusCode.CANCELLED, False)


def test_an_error_of_the_interceptors_own_comes_out_as_it_is(bearer_grpc_server: ProbeServer) -> None:
    class Fails(Generates):
        def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Iterator[Any]:
            yield from continuation(client_call_details, request)
            raise KeyError("mine")

    bearer_grpc_server.verifier = None
    with bearer_grpc_server.channel() as channel:
        stub = our_channel(grpc.intercept_channel(channel, Fails()), BearerAuth("s3cret-token"))
        call = stub.ServerStream(ProbeRequest())
        assert next(call).index == 0
        with pytest.raises(KeyError, match="mine"):
            next(call)


# --------------------------------------------------------------------------------------------------- the adapter alone


def test_before_its_end_a_bare_stream_knows_nothing() -> None:
    call = BareStream(iter([1, 2]))

    assert (call.code(), call.details(), call.done(), call.running(), call.cancelled()) == (
        None,
        "",
        False,
        True,
        False,
    )
    with pytest.raises(grpc.FutureTimeoutError):
        call.exception(timeout=0)


def test_at_its_end_it_is_ok_and_tells_all_who_asked() -> None:
    call, told = BareStream(iter([1])), []
    call.add_done_callback(told.append)
    assert call.add_callback(lambda: told.append("too"))

    assert list(call) == [1]
    call.add_done_callback(lambda late: told.append("late"))

    assert told == [call, "too", "late"]
    assert not call.add_callback(told.clear)
    assert (call.code(), call.exception(), call.result(), call.traceback()) == (grpc.StatusCode.OK, None, None, None)


def test_an_iterator_that_cannot_be_closed_cannot_be_cancelled() -> None:
    assert not BareStream(iter([1])).cancel()


def test_a_generator_that_is_being_read_elsewhere_cannot_be_cancelled() -> None:
    reading, release = threading.Event(), threading.Event()

    def messages() -> Iterator[int]:
        reading.set()
        release.wait(20)
        yield 1

    call = BareStream(messages())
    reader = threading.Thread(target=lambda: next(call))
    reader.start()
    assert reading.wait(20)

    assert not call.cancel()
    release.set()
    reader.join()


def test_what_has_been_cancelled_says_so() -> None:
    call = BareStream(number for number in range(3))

    assert call.cancel()
    assert call.cancelled()
    for question in (call.exception, call.result, call.traceback):
        with pytest.raises(grpc.FutureCancelledError):
            question()


def test_an_error_that_answers_nothing_is_unknown() -> None:
    def messages() -> Iterator[int]:
        raise grpc.RpcError("odd")
        yield 1

    call = BareStream(messages())

    with pytest.raises(grpc.RpcError):
        next(call)
    assert (call.code(), call.details(), tuple(call.trailing_metadata())) == (grpc.StatusCode.UNKNOWN, "", ())
    assert "odd" in repr(call)
    with pytest.raises(grpc.RpcError):
        call.result()


def test_grpcs_own_streams_and_multicallables_are_left_alone(bearer_grpc_server: ProbeServer) -> None:
    bearer_grpc_server.verifier = None
    with bearer_grpc_server.channel() as channel:
        plain: Callable[..., Any] = ProbeStub(channel).ServerStream
        call = plain(ProbeRequest())

        assert whole_streams(plain) is plain
        assert whole(call) is call
        assert len(list(call)) == 1
