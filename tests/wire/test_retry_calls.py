"""A refused token is healed in place: every kind of call, every way to attach; and what the user holds meanwhile."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import grpc
import pytest
import tenacity
from _refusing import (
    BOTH,
    HANDED_OUT,
    PATIENCE,
    SYNC,
    UNAUTHENTICATED,
    Asyncio,
    Place,
    Side,
    Slow,
    Sync,
    expected,
    method_of,
    request,
)
from attachments import SYNC_WAYS, TLS, eventually

from grpc_bearer import BearerAuth, JWTSource, RetryPolicy
from grpc_bearer.testing import Delay, JWTVerifier, ManualClock, ProbeServer, Refuse, throwaway_key

WAYS = ("secure_channel", "intercept_channel", "wrap_stub", "interceptor")
#: Ways to attach that do not own the serializer of requests.
BORROWED = ("wrap_stub", "interceptor")
SLOWLY = RetryPolicy(wait=tenacity.wait_fixed(PATIENCE))  # whoever waits for the second attempt waits in vain


def of_streams_taken(kind: str) -> bool:
    """Whether the caller gives a stream of requests."""
    return kind.startswith(("client_stream", "bidi_stream"))


class TestHealing:
    """A revoked token costs the user nothing."""

    @pytest.mark.parametrize("path", ["cold", "warm"])
    @pytest.mark.parametrize(("calls", "kind"), BOTH, indirect=["calls"])
    @pytest.mark.parametrize("way", WAYS)
    def test_a_revoked_token_is_healed(self, here: Place, way: str, calls: Side, kind: str, path: str) -> None:
        auth = here.auth()
        with calls.way(way, here, auth) as stub:
            if path == "warm":
                calls.make("unary", stub)
            here.revoke(auth)
            here.server.ledger.clear()
            if way in BORROWED and of_streams_taken(kind):
                with pytest.raises(grpc.RpcError) as caught:
                    calls.make(kind, stub)

                assert caught.value.code() is UNAUTHENTICATED
                assert [attempt.accepted for attempt in here.server.ledger] == [False]

                here.server.ledger.clear()
                assert calls.make(kind, stub) == expected(kind)  # the next one has another token
                assert [attempt.accepted for attempt in here.server.ledger] == [True]
                return

            assert calls.make(kind, stub) == expected(kind)
            assert [attempt.accepted for attempt in here.server.ledger] == [False, True]
            assert {attempt.method.rpartition("/")[2] for attempt in here.server.ledger} == {method_of(kind)}
            assert len(here.minted(auth)) == 2


# ------------------------------------------------------------------------------------------------ the object in hand


class TestFutures:
    """`.future()` and streams: nobody waits, and callbacks come once, with what the user holds."""

    @pytest.mark.parametrize(
        ("way", "kind"),
        [
            (way, kind)
            for way in WAYS
            for kind in HANDED_OUT
            if way not in BORROWED or kind in ("Unary", "ServerStream")
        ],
    )
    def test_nothing_blocks_while_a_token_is_fetched_again(self, here: Place, kind: str, way: str) -> None:
        slow = Slow(here)
        auth = BearerAuth(slow)
        here.verifier.revoke(auth.token().value)
        here.refuse()
        with SYNC_WAYS[way](here.server.target, here.credentials, auth) as stub:
            call = Sync().open(stub, kind)  # this very thread lets the token come: had it blocked, none would
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
            assert Sync().end_of(call, kind) is None
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
            call = Sync().open(stub, kind)
            call.add_done_callback(called.append)
            call.add_done_callback(lambda _: 1 / 0)  # one that raises keeps nobody from being called
            call.add_callback(lambda: called.append("done"))
            slow.go.set()
            Sync().end_of(call, kind)
            assert eventually(lambda: len(called) >= 2)
            late: list[Any] = []
            call.add_done_callback(late.append)

            assert called == [call, "done"]
            assert late == [call]
            assert not call.add_callback(lambda: late.append("too late"))
            assert late == [call]

    @pytest.mark.parametrize("kind", HANDED_OUT)
    @pytest.mark.parametrize("refusals", [0, 1, 2])
    def test_metadata_code_and_details_are_the_last_attempts(
        self, here: Place, calls: Side, kind: str, refusals: int
    ) -> None:
        with calls.way("secure_channel", here, here.auth()) as stub:
            here.refuse(*[Refuse(details=f"no {n}", trailing=[("attempt", str(n))]) for n in range(refusals)])
            call = calls.open(stub, kind)
            error = calls.end_of(call, kind)

            if refusals == 2:
                assert (error.code(), error.details()) == (UNAUTHENTICATED, "no 1")
                assert ("attempt", "1") in list(error.trailing_metadata())
                assert (call.code(), call.details()) == (UNAUTHENTICATED, "no 1")
                assert ("attempt", "1") in list(call.trailing_metadata())
                assert "no 1" in call.debug_error_string()
            else:
                assert error is None
                assert call.code() is grpc.StatusCode.OK
                assert "attempt" not in dict(tuple(call.trailing_metadata()))
            assert call.initial_metadata() is not None
            assert call.done()
            assert not call.cancelled()
            call.time_remaining()
            assert repr(call)
            if isinstance(calls, Sync):
                assert (call.exception(PATIENCE) is None) == (call.traceback(PATIENCE) is None) == (refusals < 2)
                assert not call.running()
                assert not call.is_active()
            else:
                assert not call.cancel()

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
            call = Sync().open(stub, kind, timeout=2 * PATIENCE)
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

    def check(self, calls: Side, call: Any, called: list[Any], kind: str) -> None:
        assert eventually(call.done)
        assert call.cancelled()
        if isinstance(calls, Asyncio):
            assert isinstance(calls.end_of(call, kind), asyncio.CancelledError)
            assert not call.cancel()
        else:
            assert not call.running()
            for ask in (call.result, call.exception, call.traceback):
                with pytest.raises(grpc.FutureCancelledError):
                    ask(timeout=PATIENCE)
            assert not call.add_callback(lambda: None)
        assert call.code() is grpc.StatusCode.CANCELLED
        assert call.details() == "Locally cancelled by application!"
        assert call.initial_metadata() is not None
        assert call.trailing_metadata() is not None
        assert call.time_remaining() is None or call.time_remaining() >= 0
        assert eventually(lambda: len(called) == 1)
        assert called == [calls.held(call)]

    @pytest.mark.parametrize("kind", HANDED_OUT)
    def test_before_the_first_attempt_has_a_token(self, here: Place, calls: Side, kind: str) -> None:
        slow = Slow(here)
        slow.count = 1
        with calls.way("secure_channel", here, BearerAuth(slow)) as stub:
            here.server.ledger.clear()
            called: list[Any] = []
            call = calls.open(stub, kind)
            call.add_done_callback(called.append)
            assert slow.asked.wait(PATIENCE)
            assert call.cancel()

            self.check(calls, call, called, kind)
            slow.go.set()
            assert len(here.server.ledger) == 0

    @pytest.mark.parametrize("kind", HANDED_OUT)
    @pytest.mark.parametrize("attempt", [1, 2])
    def test_during_an_attempt(self, here: Place, calls: Side, kind: str, attempt: int) -> None:
        with calls.way("secure_channel", here, here.auth()) as stub:
            delay = Delay()
            here.server.faults.clear()
            here.server.script(*([Refuse()] * (attempt - 1)), delay)
            called: list[Any] = []
            call = calls.open(stub, kind)
            call.add_done_callback(called.append)
            assert delay.arrived.wait(PATIENCE)
            assert call.cancel()

            self.check(calls, call, called, kind)
            delay.release.set()

    @pytest.mark.parametrize("kind", HANDED_OUT)
    def test_between_two_attempts(self, here: Place, calls: Side, kind: str) -> None:
        pause = 0.3
        retry = RetryPolicy(wait=tenacity.wait_fixed(pause))
        with calls.way("secure_channel", here, here.auth(), retry=retry) as stub:
            here.refuse(Refuse())
            here.server.ledger.clear()
            called: list[Any] = []
            call = calls.open(stub, kind)
            call.add_done_callback(called.append)
            assert eventually(lambda: "between" in repr(call))
            assert call.cancel()

            self.check(calls, call, called, kind)
            calls.pause(pause)
            calls.make("unary", stub)
            assert len(here.server.ledger) == 2  # nothing came of the pause any more

    @pytest.mark.parametrize("kind", HANDED_OUT)
    def test_while_the_second_attempts_token_is_fetched(self, here: Place, calls: Side, kind: str) -> None:
        slow = Slow(here)
        auth = BearerAuth(slow)
        here.verifier.revoke(auth.token().value)
        here.refuse()
        with calls.way("secure_channel", here, auth) as stub:
            here.server.ledger.clear()
            called: list[Any] = []
            call = calls.open(stub, kind)
            call.add_done_callback(called.append)
            assert slow.asked.wait(PATIENCE)
            assert call.cancel()

            self.check(calls, call, called, kind)
            slow.go.set()
            assert len(here.server.ledger) == 1
            calls.make("unary", stub)  # the late token serves the next call
            assert slow.count == 2

    @pytest.mark.parametrize("kind", HANDED_OUT)
    def test_after_the_end(self, here: Place, calls: Side, kind: str) -> None:
        with calls.way("secure_channel", here, here.auth()) as stub:
            here.refuse(Refuse())
            call = calls.open(stub, kind)
            assert calls.end_of(call, kind) is None
            assert call.done()
            assert not call.cancel()

            assert call.code() is grpc.StatusCode.OK
            assert not call.cancelled()


class TestDeadline:
    """One deadline spans all attempts."""

    @pytest.mark.parametrize(("calls", "kind"), BOTH, indirect=["calls"])
    def test_the_second_attempt_gets_what_the_first_one_left(self, here: Place, calls: Side, kind: str) -> None:
        retry = RetryPolicy(wait=tenacity.wait_fixed(0.15))
        with calls.way("secure_channel", here, here.auth(), retry=retry) as stub:
            here.refuse(Refuse())
            here.server.ledger.clear()
            assert calls.make(kind, stub, timeout=3) == expected(kind)

        _, second = here.server.ledger
        assert 0 < second.time_left < 2.87  # 2.85, that is; gRPC rounds up, but never by as much as the pause

    @pytest.mark.parametrize(
        ("way", "calls", "kind"),
        [
            (way, name, kind)
            for way in WAYS
            for name, kind in BOTH
            if not of_streams_taken(kind) or (name == "sync" and way not in BORROWED)
        ],
        indirect=["calls"],
    )
    def test_a_refresh_that_hangs_ends_the_call_on_time(self, here: Place, calls: Side, kind: str, way: str) -> None:
        for timeout in (0.4, 2.0, 10.0):  # on a busy machine a deadline may pass before the refusal has come
            slow = Slow(here)
            auth = BearerAuth(slow)
            here.verifier.revoke(auth.token().value)
            here.refuse()
            with calls.way(way, here, auth) as stub:
                begin = time.monotonic()
                with pytest.raises(grpc.RpcError) as caught:
                    calls.make(kind, stub, timeout=timeout)
                took = time.monotonic() - begin
                slow.go.set()  # only now: the call has ended while the refresh hung
            if slow.asked.is_set():
                break

        assert slow.asked.is_set()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert timeout * 0.9 <= took < timeout + PATIENCE / 2


def test_signed_tokens_revoked_one_after_another_within_a_second_are_healed() -> None:
    """RSA signs the same text alike: what is signed again in the same second would be the revoked token."""
    key, clock = throwaway_key("RS256"), ManualClock()
    verifier = JWTVerifier(key.public_key(), ["RS256"], max_lifetime=3600, clock=clock)
    auth = BearerAuth(JWTSource(key, claims={"iss": "me"}, max_lifetime=3600), clock=clock)
    with ProbeServer(verifier, TLS) as server:
        with SYNC_WAYS["secure_channel"](server.target, server.channel_credentials(), auth) as stub:
            for _ in range(4):
                verifier.revoke(auth.token().value)
                assert SYNC["unary"](stub) == expected("unary")

        assert [attempt.accepted for attempt in server.ledger] == [False, True] * 4


def test_a_pause_in_an_interceptor_holds_up_nobody_else(here: Place) -> None:
    """Its continuation blocks as long as the call lasts; the timer's thread serves everybody."""
    retry = RetryPolicy(wait=tenacity.wait_fixed(0.05))
    with SYNC_WAYS["interceptor"](here.server.target, here.credentials, here.auth(), retry=retry) as stub:
        delay = Delay()
        here.server.faults.clear()
        here.server.script(Refuse(), delay, method="Unary")
        caller = threading.Thread(target=lambda: stub.Unary(request()))
        caller.start()
        assert delay.arrived.wait(PATIENCE)
        Sync().pause(0.01)
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
