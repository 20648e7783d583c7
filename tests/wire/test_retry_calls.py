"""A refused token is healed in place: every kind of call, every door, sync; and what the user holds meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import pytest
import tenacity
from _refusing import PATIENCE, SYNC, UNAUTHENTICATED, Place, expected, method_of, place, request, requests
from doors import SYNC_DOORS, TLS, eventually

from grpc_bearer import BearerAuth, JWTSource, RetryPolicy
from grpc_bearer._base.clock import SYSTEM_CLOCK
from grpc_bearer.testing import Delay, JWTVerifier, ManualClock, ProbeServer, Refuse, throwaway_key

DOORS = ("secure_channel", "intercept_channel", "wrap_stub", "interceptor")
#: Doors that do not own the serializer of requests.
BORROWED = ("wrap_stub", "interceptor")


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as here:
        yield here


class TestHealing:
    """A revoked token costs the user nothing."""

    @pytest.mark.parametrize("path", ["cold", "warm"])
    @pytest.mark.parametrize("kind", SYNC)
    @pytest.mark.parametrize("door", DOORS)
    def test_a_revoked_token_is_healed(self, here: Place, door: str, kind: str, path: str) -> None:
        auth = here.auth()
        with SYNC_DOORS[door](here.server.target, here.credentials, auth) as stub:
            if path == "warm":
                SYNC["unary"](stub)
            here.revoke(auth)
            here.server.ledger.clear()
            if door in BORROWED and "_stream" in kind and not kind.startswith("server"):
                with pytest.raises(grpc.RpcError) as caught:
                    SYNC[kind](stub)

                assert caught.value.code() is UNAUTHENTICATED
                assert [attempt.accepted for attempt in here.server.ledger] == [False]

                here.server.ledger.clear()
                assert SYNC[kind](stub) == expected(kind)  # the next one has another token
                assert [attempt.accepted for attempt in here.server.ledger] == [True]
                return

            assert SYNC[kind](stub) == expected(kind)
            assert [attempt.accepted for attempt in here.server.ledger] == [False, True]
            assert {attempt.method.rpartition("/")[2] for attempt in here.server.ledger} == {method_of(kind)}
            assert len(here.minted(auth)) == 2


# ------------------------------------------------------------------------------------------------ the object in hand

STREAM_REPLY = ("ServerStream", "BidiStream")
HANDED_OUT = ("Unary", "ClientStream", *STREAM_REPLY)
SLOWLY = RetryPolicy(wait=tenacity.wait_fixed(PATIENCE))  # whoever waits for the second attempt waits in vain


def retried(kinds: Iterable[str], *request_streams: str) -> list[tuple[str, str]]:
    """Doors with the kinds of call that they make again."""
    return [(door, kind) for door in DOORS for kind in kinds if door not in BORROWED or kind not in request_streams]


def open_call(stub: Any, method: str, **how: Any) -> Any:
    """A call that is handed out at once."""
    if method == "Unary":
        return stub.Unary.future(request(1), **how)
    if method == "ServerStream":
        return stub.ServerStream(request(1, replies=2), **how)
    if method == "ClientStream":
        return stub.ClientStream.future(iter(requests()), **how)
    return stub.BidiStream(iter(requests()), **how)


def end_of(call: Any, method: str) -> Any:
    """The error a call ended with; `None` for success. A stream is read to its end."""
    if method not in STREAM_REPLY:
        return call.exception(PATIENCE)
    try:
        list(call)
    except grpc.RpcError as error:
        return error
    return None


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


class TestFutures:
    """`.future()` and streams: nobody waits, and callbacks come once, with what the user holds."""

    @pytest.mark.parametrize(("door", "kind"), retried(HANDED_OUT, "ClientStream", "BidiStream"))
    def test_nothing_blocks_while_a_token_is_fetched_again(self, here: Place, kind: str, door: str) -> None:
        slow = Slow(here)
        auth = BearerAuth(slow)
        here.verifier.revoke(auth.token().value)
        here.refuse()
        with SYNC_DOORS[door](here.server.target, here.credentials, auth) as stub:
            call = open_call(stub, kind)  # this very thread lets the token come: had it blocked, none would
            assert slow.asked.wait(PATIENCE)
            assert not call.done()
            assert call.running()
            assert call.is_active()
            assert not call.cancelled()
            called = []
            over = threading.Event()
            call.add_done_callback(lambda ended: (called.append(ended), over.set()))
            assert call.add_callback(lambda: called.append(None))
            slow.go.set()
            assert end_of(call, kind) is None
            assert over.wait(PATIENCE)
            assert eventually(lambda: len(called) == 2)

        assert called == [call, None]
        assert call.code() is grpc.StatusCode.OK

    @pytest.mark.parametrize("kind", HANDED_OUT)
    @pytest.mark.parametrize("refusals", [0, 1, 2])
    def test_callbacks_come_once_with_the_object_the_user_holds(self, here: Place, kind: str, refusals: int) -> None:
        slow = Slow(here)
        slow.count = 1  # the first token waits, too: once a call has ended, callbacks are called where they are added
        with here.stub(BearerAuth(slow)) as stub:
            here.refuse(*[Refuse()] * refusals)
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            call.add_done_callback(lambda _: 1 / 0)  # one that raises keeps nobody from being called
            call.add_callback(lambda: called.append("done"))
            slow.go.set()
            end_of(call, kind)
            assert eventually(lambda: len(called) >= 2)
            late: list[Any] = []
            call.add_done_callback(late.append)

            assert called == [call, "done"]
            assert late == [call]
            assert not call.add_callback(lambda: late.append("too late"))
            assert late == [call]

    @pytest.mark.parametrize("kind", HANDED_OUT)
    @pytest.mark.parametrize("refusals", [0, 1, 2])
    def test_metadata_code_and_details_are_the_last_attempts(self, here: Place, kind: str, refusals: int) -> None:
        with here.stub(here.auth()) as stub:
            here.refuse(*[Refuse(details=f"no {n}", trailing=[("attempt", str(n))]) for n in range(refusals)])
            call = open_call(stub, kind)
            error = end_of(call, kind)

            if refusals == 2:
                assert (error.code(), error.details()) == (UNAUTHENTICATED, "no 1")
                assert (call.code(), call.details()) == (UNAUTHENTICATED, "no 1")
                assert ("attempt", "1") in list(call.trailing_metadata())
                assert "no 1" in call.debug_error_string()
                assert call.exception(PATIENCE) is not None
                assert call.traceback(PATIENCE) is not None
            else:
                assert error is None
                assert (call.code(), call.details()) == (grpc.StatusCode.OK, "")
                assert "attempt" not in dict(call.trailing_metadata())
                assert call.traceback(PATIENCE) is None
            assert call.initial_metadata() is not None
            assert call.done()
            assert not call.running()
            assert not call.is_active()
            assert not call.cancelled()

    def test_with_call_gives_the_last_attempts_call(self, here: Place) -> None:
        with here.stub(here.auth()) as stub:
            here.refuse(Refuse(trailing=[("attempt", "0")]))
            _, call = stub.Unary.with_call(request())

        assert call.code() is grpc.StatusCode.OK
        assert "attempt" not in dict(call.trailing_metadata())

    @pytest.mark.parametrize("kind", HANDED_OUT)
    def test_between_two_attempts_every_question_has_an_answer(self, here: Place, kind: str) -> None:
        with here.stub(here.auth(), retry=SLOWLY) as stub:
            here.refuse(Refuse())
            here.server.ledger.clear()
            call = open_call(stub, kind, timeout=2 * PATIENCE)
            assert eventually(lambda: "between" in repr(call))

            assert not call.done()
            assert call.running()
            assert call.is_active()
            assert not call.cancelled()
            assert 0 < call.time_remaining() <= 2 * PATIENCE
            for ask in (call.result, call.exception, call.traceback):
                with pytest.raises(grpc.FutureTimeoutError):
                    ask(timeout=0)
            assert "between" in str(call)
            assert call.cancel()


class TestCancel:
    """`cancel()` works in every phase, and is final."""

    def check(self, call: Any, called: list[Any]) -> None:
        assert eventually(call.done)
        assert call.cancelled()
        assert call.code() is grpc.StatusCode.CANCELLED
        assert call.details() == "Locally cancelled by application!"
        assert not call.running()
        for ask in (call.result, call.exception, call.traceback):
            with pytest.raises(grpc.FutureCancelledError):
                ask(timeout=PATIENCE)
        assert eventually(lambda: len(called) == 1)
        assert called == [call]
        assert call.initial_metadata() is not None
        assert call.trailing_metadata() is not None
        assert call.time_remaining() is None or call.time_remaining() >= 0
        assert not call.add_callback(lambda: None)

    @pytest.mark.parametrize("kind", HANDED_OUT)
    def test_before_the_first_attempt_has_a_token(self, here: Place, kind: str) -> None:
        slow = Slow(here)
        slow.count = 1
        with here.stub(BearerAuth(slow)) as stub:
            here.server.ledger.clear()
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            assert slow.asked.wait(PATIENCE)
            assert call.cancel()

            self.check(call, called)
            slow.go.set()
            assert len(here.server.ledger) == 0

    @pytest.mark.parametrize("kind", HANDED_OUT)
    @pytest.mark.parametrize("attempt", [1, 2])
    def test_during_an_attempt(self, here: Place, kind: str, attempt: int) -> None:
        with here.stub(here.auth()) as stub:
            delay = Delay()
            here.server.faults.clear()
            here.server.script(*([Refuse()] * (attempt - 1)), delay)
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            assert delay.arrived.wait(PATIENCE)
            assert call.cancel()

            self.check(call, called)
            delay.release.set()

    @pytest.mark.parametrize("kind", HANDED_OUT)
    def test_between_two_attempts(self, here: Place, kind: str) -> None:
        pause = 0.3
        with here.stub(here.auth(), retry=RetryPolicy(wait=tenacity.wait_fixed(pause))) as stub:
            here.refuse(Refuse())
            here.server.ledger.clear()
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            assert eventually(lambda: "between" in repr(call))
            assert call.cancel()

            self.check(call, called)
            over = threading.Event()
            SYSTEM_CLOCK.call_later(pause, over.set)  # by the timer that made the pause, and due after it
            assert over.wait(PATIENCE)
            stub.Unary(request())
            assert len(here.server.ledger) == 2  # nothing came of the pause any more

    @pytest.mark.parametrize("kind", HANDED_OUT)
    def test_while_the_second_attempts_token_is_fetched(self, here: Place, kind: str) -> None:
        slow = Slow(here)
        auth = BearerAuth(slow)
        here.verifier.revoke(auth.token().value)
        here.refuse()
        with here.stub(auth) as stub:
            here.server.ledger.clear()
            called: list[Any] = []
            call = open_call(stub, kind)
            call.add_done_callback(called.append)
            assert slow.asked.wait(PATIENCE)
            assert call.cancel()

            self.check(call, called)
            slow.go.set()
            assert len(here.server.ledger) == 1
            stub.Unary(request())  # the late token serves the next call
            assert slow.count == 2

    @pytest.mark.parametrize("kind", HANDED_OUT)
    def test_after_the_end(self, here: Place, kind: str) -> None:
        with here.stub(here.auth()) as stub:
            here.refuse(Refuse())
            call = open_call(stub, kind)
            assert end_of(call, kind) is None
            assert call.done()
            assert not call.cancel()

            assert call.code() is grpc.StatusCode.OK
            assert not call.cancelled()


class TestDeadline:
    """One deadline spans all attempts."""

    @pytest.mark.parametrize("kind", SYNC)
    def test_the_second_attempt_gets_what_the_first_one_left(self, here: Place, kind: str) -> None:
        with here.stub(here.auth(), retry=RetryPolicy(wait=tenacity.wait_fixed(0.15))) as stub:
            here.refuse(Refuse())
            here.server.ledger.clear()
            assert SYNC[kind](stub, timeout=3) == expected(kind)

        _, second = here.server.ledger
        assert 0 < second.time_left < 2.87  # 2.85, that is; gRPC rounds up, but never by as much as the pause

    @pytest.mark.parametrize(("door", "kind"), retried(SYNC, *(kind for kind in SYNC if kind[0] in "cb")))
    def test_a_refresh_that_hangs_ends_the_call_on_time(self, here: Place, kind: str, door: str) -> None:
        slow = Slow(here)
        auth = BearerAuth(slow)
        here.verifier.revoke(auth.token().value)
        here.refuse()
        with SYNC_DOORS[door](here.server.target, here.credentials, auth) as stub:
            begin = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                SYNC[kind](stub, timeout=0.4)
            took = time.monotonic() - begin
            slow.go.set()  # only now: the call has ended while the refresh hung

        assert slow.asked.is_set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert 0.35 <= took < PATIENCE / 2


def test_signed_tokens_revoked_one_after_another_within_a_second_are_healed() -> None:
    """RSA signs the same text alike: what is signed again in the same second would be the revoked token."""
    key, clock = throwaway_key("RS256"), ManualClock()
    verifier = JWTVerifier(key.public_key(), ["RS256"], max_lifetime=3600, clock=clock)
    auth = BearerAuth(JWTSource(key, claims={"iss": "me"}, max_lifetime=3600), clock=clock)
    with ProbeServer(verifier, TLS) as server:
        with SYNC_DOORS["secure_channel"](server.target, server.channel_credentials(), auth) as stub:
            for _ in range(4):
                verifier.revoke(auth.token().value)
                assert SYNC["unary"](stub) == expected("unary")

        assert [attempt.accepted for attempt in server.ledger] == [False, True] * 4


def test_a_pause_in_an_interceptor_holds_up_nobody_else(here: Place) -> None:
    """Its continuation blocks as long as the call lasts; the timer's thread serves everybody."""
    retry = RetryPolicy(wait=tenacity.wait_fixed(0.05))
    with SYNC_DOORS["interceptor"](here.server.target, here.credentials, here.auth(), retry=retry) as stub:
        delay = Delay()
        here.server.faults.clear()
        here.server.script(Refuse(), delay, method="Unary")
        caller = threading.Thread(target=lambda: stub.Unary(request()))
        caller.start()
        assert delay.arrived.wait(PATIENCE)
        fired = threading.Event()
        SYSTEM_CLOCK.call_later(0.01, fired.set)

        assert fired.wait(PATIENCE)
        delay.release.set()
        caller.join(PATIENCE)
        assert not caller.is_alive()


def test_the_headers_may_come_after_the_status(here: Place) -> None:
    """gRPC brings both on one thread: to wait for the one while it brings the other is to wait for ever."""
    here.refuse()
    with here.stub(auth := here.auth()) as stub:
        for _ in range(100):
            here.revoke(auth)
            call = stub.ClientStream.future(iter([request()]))
            assert call.exception(PATIENCE) is None
