"""`RetryPolicy`: which failures are tried again, how often, and after how long."""

from __future__ import annotations

import itertools
import subprocess
import sys
import textwrap
import time
from typing import Any

import grpc
import pytest
import tenacity
from _refusing import UNAUTHENTICATED, Place, request
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

import grpc_bearer
from grpc_bearer import RetryPolicy, TokenRejectedError
from grpc_bearer._calls.failure import Failure, rich
from grpc_bearer._calls.retry_policy import MAX_ATTEMPTS, MAX_TIME, delay_after, delay_before, means_stale
from grpc_bearer.testing import Refuse

UNAVAILABLE, PERMISSION_DENIED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.PERMISSION_DENIED


def error_info(reason: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="example.com")


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def failure(code: grpc.StatusCode = UNAUTHENTICATED, *details: Any) -> Failure:
    trailing = Refuse(code, "no", rich=list(details) or None).trailing_metadata
    return Failure(RuntimeError("no"), code, "no", (), trailing)


def asked(here: Place, auth: Any, retry: RetryPolicy | None, *faults: Refuse | None, **how: Any) -> Any:
    """One call that meets these faults: its reply or error, and how many attempts reached the server."""
    here.refuse(*faults)
    here.server.ledger.clear()
    with here.stub(auth, retry=retry) as stub:
        try:
            end = stub.Unary(request(7), **how)
        except grpc.RpcError as error:
            end = error
    return end, len(here.server.ledger)


class TestRetries:
    """How often a call is made, on the real stack."""

    def test_by_default_a_refused_call_is_made_once_more_with_another_token(self, here: Place) -> None:
        auth = here.auth()
        reply, attempts = asked(here, auth, grpc_bearer.RetryPolicy(), Refuse())

        assert (list(reply.indexes), attempts) == ([7], 2)
        assert here.server.ledger.tokens == here.minted(auth)
        assert len(here.minted(auth)) == 2

    def test_trap_45_by_default_a_call_refused_twice_is_not_made_a_third_time(self, here: Place) -> None:
        error, attempts = asked(here, here.auth(), RetryPolicy(), Refuse(details="1"), Refuse(details="2"))

        assert (error.code(), error.details(), attempts) == (UNAUTHENTICATED, "2", 2)
        assert isinstance(error.__cause__, TokenRejectedError)

    def test_no_policy_means_no_retry(self, here: Place) -> None:
        auth = here.auth()
        error, attempts = asked(here, auth, None, Refuse(details="no"))

        assert (error.code(), error.details(), attempts) == (UNAUTHENTICATED, "no", 1)
        assert len(here.minted(auth)) == 1

    @pytest.mark.parametrize(
        ("stop", "wait", "attempts"),
        [
            (tenacity.stop_after_attempt(3), None, 3),
            (tenacity.stop_after_attempt(1), None, 1),
            (tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(60), tenacity.wait_fixed(0.01), 4),
            (tenacity.stop_after_attempt(4) & tenacity.stop_after_attempt(5), tenacity.wait_random(0, 0.01), 5),
            (tenacity.stop_after_delay(0), None, 1),
            (tenacity.stop_before_delay(5), tenacity.wait_fixed(10), 1),
            (None, tenacity.wait_fixed(0.01) + tenacity.wait_random(0, 0.01), 2),
            (lambda state: state.attempt_number >= 3, lambda state: 0.001 * state.attempt_number, 3),
            (tenacity.stop_never, None, MAX_ATTEMPTS),
        ],
    )
    def test_stop_and_wait_are_tenacitys(self, here: Place, stop: Any, wait: Any, attempts: int) -> None:
        retry = RetryPolicy(stop=stop, wait=wait)
        error, made = asked(here, here.auth(), retry, *[Refuse(details=str(n)) for n in range(MAX_ATTEMPTS + 5)])

        assert made == attempts
        assert error.details() == str(attempts - 1)  # the last attempt's

    def test_a_pause_between_attempts_is_made(self, here: Place) -> None:
        begin = time.monotonic()
        reply, _ = asked(here, here.auth(), RetryPolicy(wait=tenacity.wait_fixed(0.2)), Refuse())

        assert list(reply.indexes) == [7]
        assert time.monotonic() - begin >= 0.2  # a lower bound: no load can break it

    def test_extra_codes_mean_a_stale_token_too(self, here: Place) -> None:
        retry = RetryPolicy(codes=[UNAUTHENTICATED, PERMISSION_DENIED])
        auth = here.auth()
        reply, attempts = asked(here, auth, retry, Refuse(PERMISSION_DENIED))

        assert (list(reply.indexes), attempts, len(here.minted(auth))) == ([7], 2, 2)

    @pytest.mark.parametrize("code", [PERMISSION_DENIED, UNAVAILABLE, grpc.StatusCode.INTERNAL])
    def test_trap_44_other_codes_do_not(self, here: Place, code: grpc.StatusCode) -> None:
        auth = here.auth()
        error, attempts = asked(here, auth, RetryPolicy(), Refuse(code, "no"))

        assert (error.code(), error.details(), attempts, len(here.minted(auth))) == (code, "no", 1, 1)

    def test_codes_given_leave_out_unauthenticated(self, here: Place) -> None:
        error, attempts = asked(here, here.auth(), RetryPolicy(codes=PERMISSION_DENIED), Refuse())

        assert (error.code(), attempts) == (UNAUTHENTICATED, 1)

    def test_retry_if_sees_the_error(self, here: Place) -> None:
        retry = RetryPolicy(retry_if=lambda error: "session" in error.details())
        stale = Refuse(grpc.StatusCode.INVALID_ARGUMENT, "stale session", [("reason", "old")])
        reply, attempts = asked(here, here.auth(), retry, stale)
        error, once = asked(here, here.auth(), retry, Refuse(grpc.StatusCode.INVALID_ARGUMENT, "bad index"))

        assert (list(reply.indexes), attempts) == ([7], 2)
        assert (error.details(), once) == ("bad index", 1)

    @pytest.mark.parametrize("pattern", ["*/Unary", "/*/Unary", "*.Probe/*", "*"])
    def test_excluded_methods_are_not_retried(self, here: Place, pattern: str) -> None:
        error, attempts = asked(here, here.auth(), RetryPolicy(exclude=[pattern]), Refuse())

        assert (error.code(), attempts) == (UNAUTHENTICATED, 1)

    def test_methods_not_excluded_are(self, here: Place) -> None:
        reply, attempts = asked(here, here.auth(), RetryPolicy(exclude=["*/ServerStream"]), Refuse())

        assert (list(reply.indexes), attempts) == ([7], 2)

    def test_a_retry_info_delay_is_honoured(self, here: Place) -> None:
        begin = time.monotonic()
        reply, _ = asked(here, here.auth(), RetryPolicy(), Refuse(rich=retry_info(0.25)))

        assert list(reply.indexes) == [7]
        assert time.monotonic() - begin >= 0.25  # a lower bound, too

    def test_a_retry_info_delay_beyond_the_deadline_ends_the_call_at_once(self, here: Place) -> None:
        error, attempts = asked(here, here.auth(), RetryPolicy(), Refuse(rich=retry_info(30)), timeout=5)

        assert (error.code(), attempts) == (UNAUTHENTICATED, 1)  # DEADLINE_EXCEEDED, had it waited
        assert "no time is left" in str(error.__cause__)

    @pytest.mark.parametrize("reason", ["ACCOUNT_STATE_INVALID", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "SERVICE_DISABLED"])
    def test_a_reason_that_no_token_cures_is_surfaced_at_once(self, here: Place, reason: str) -> None:
        auth = here.auth()
        error, attempts = asked(here, auth, RetryPolicy(), Refuse(details="no", rich=error_info(reason)))

        assert (error.code(), error.details(), attempts) == (UNAUTHENTICATED, "no", 1)
        assert len(here.minted(auth)) == 1
        assert isinstance(error.__cause__, TokenRejectedError)
        assert reason in str(error.__cause__)

    @pytest.mark.parametrize("reason", ["ACCESS_TOKEN_EXPIRED", "CREDENTIALS_MISSING", "SOMETHING_ELSE"])
    def test_other_reasons_are_retried(self, here: Place, reason: str) -> None:
        reply, attempts = asked(here, here.auth(), RetryPolicy(), Refuse(rich=error_info(reason)))

        assert (list(reply.indexes), attempts) == ([7], 2)

    @pytest.mark.parametrize("broken", ["retry_if", "stop", "wait"])
    def test_a_strategy_that_raises_neither_hides_the_servers_error_nor_hangs_the_call(
        self, here: Place, broken: str
    ) -> None:
        def fail(_: Any) -> Any:
            raise ZeroDivisionError

        retry = RetryPolicy(codes=() if broken == "retry_if" else [UNAUTHENTICATED], **{broken: fail})
        here.refuse(Refuse(details="a"), Refuse(details="b"), Refuse(details="c"))
        with here.stub(here.auth(), retry=retry) as stub:
            future = stub.Unary.future(request())
            assert future.exception(10).details() == "a"
            with pytest.raises(grpc.RpcError) as blocking:
                stub.Unary(request())
            with pytest.raises(grpc.RpcError) as stream:
                list(stub.ServerStream(request()))

        assert (blocking.value.details(), stream.value.details()) == ("b", "c")


class TestDecision:
    """The same in pure functions, where time costs nothing."""

    @given(
        st.integers(1, 100),
        st.floats(0, 1e6, allow_nan=False),
        st.floats(0, 1e9, allow_nan=False),
        st.floats(0, 1e9, allow_nan=False),
    )
    def test_nothing_makes_a_policy_unbounded(self, attempts: int, elapsed: float, wait: float, info: float) -> None:
        policy = RetryPolicy(stop=tenacity.stop_never, wait=tenacity.wait_fixed(wait))
        delay = delay_before(policy, failure(UNAUTHENTICATED, retry_info(info)), attempts, elapsed)

        assert delay is None or (attempts < MAX_ATTEMPTS and elapsed + delay < MAX_TIME)
        assert delay is None or delay >= max(wait, round(info, 6))

    @given(st.integers(1, 5), st.floats(0, 1e4, allow_nan=False), st.floats(0, 1e9, allow_nan=False))
    def test_neither_does_a_server(self, attempts: int, elapsed: float, info: float) -> None:
        delay = delay_before(RetryPolicy(), failure(UNAUTHENTICATED, retry_info(info)), attempts, elapsed)

        assert delay is None or (attempts == 1 and elapsed + delay < MAX_TIME)

    @pytest.mark.parametrize("wait", [float("nan"), float("inf"), -1.0])
    def test_a_wait_strategy_that_makes_no_sense_waits_neither_for_ever_nor_less_than_nothing(
        self, wait: float
    ) -> None:
        delay = delay_before(RetryPolicy(wait=lambda _: wait), failure(), 1, 0.0)

        assert delay is None or 0 <= delay < MAX_TIME

    def test_the_longer_of_the_policys_pause_and_the_servers_counts(self) -> None:
        policy = RetryPolicy(wait=tenacity.wait_fixed(2))

        assert delay_before(policy, failure(UNAUTHENTICATED, retry_info(5)), 1, 0.0) == 5
        assert delay_before(policy, failure(UNAUTHENTICATED, retry_info(1)), 1, 0.0) == 2

    def test_strategies_see_attempts_time_and_error(self) -> None:
        seen: list[Any] = []
        ended = failure()

        def wait(state: tenacity.RetryCallState) -> float:
            assert state.outcome is not None
            seen.append((state.attempt_number, state.seconds_since_start, state.outcome.exception()))
            return 1.5

        def stop(state: tenacity.RetryCallState) -> bool:
            seen.append(state.upcoming_sleep)
            return False

        assert delay_before(RetryPolicy(stop=stop, wait=wait), ended, 3, 12.0) == 1.5
        assert seen == [(3, pytest.approx(12.0), ended.error), 1.5]

    def test_exponential_waits_grow_with_the_attempts(self) -> None:
        policy = RetryPolicy(stop=tenacity.stop_after_attempt(9), wait=tenacity.wait_exponential(multiplier=1))

        assert [delay_before(policy, failure(), n, 0.0) for n in (1, 2, 3)] == [1, 2, 4]

    def test_delay_after_also_asks_whether_the_token_is_to_blame(self) -> None:
        assert delay_after(RetryPolicy(), failure(), 1, 0.0) == 0.0
        assert delay_after(RetryPolicy(), failure(UNAVAILABLE), 1, 0.0) is None
        assert delay_after(RetryPolicy(), failure(UNAUTHENTICATED, error_info("CONSUMER_INVALID")), 1, 0.0) is None

    def test_an_incurable_reason_beats_the_predicate_and_the_codes(self) -> None:
        policy = RetryPolicy(codes=[PERMISSION_DENIED], retry_if=lambda _: True)

        assert not means_stale(policy, failure(PERMISSION_DENIED, error_info("IAM_PERMISSION_DENIED")))
        assert means_stale(policy, failure(PERMISSION_DENIED))

    @pytest.mark.parametrize("blob", [b"", b"\xff\xff\xff", b"\x1a\x05hello", b"\x00" * 50])
    def test_a_rich_status_that_is_none_says_nothing(self, blob: bytes) -> None:
        assert rich(Failure(None, UNAUTHENTICATED, "", (), (("grpc-status-details-bin", blob),))) == ("", 0.0)

    def test_details_of_a_rich_status_that_are_garbage_say_nothing(self) -> None:
        from google.rpc import status_pb2

        status = status_pb2.Status(code=16)
        status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo", value=b"\xff\xff")

        trailing = (("grpc-status-details-bin", status.SerializeToString()),)
        assert rich(Failure(None, UNAUTHENTICATED, "", (), trailing)) == ("", 0.0)

    def test_a_negative_delay_is_none(self) -> None:
        assert rich(failure(UNAUTHENTICATED, retry_info(-5))) == ("", 0.0)


class TestConfiguration:
    """Said when it is built, not when it is needed."""

    def test_collections_of_any_kind_are_taken_once(self) -> None:
        policy = RetryPolicy(codes=iter([UNAVAILABLE]), exclude={"a/b"})

        assert policy.codes == (UNAVAILABLE,)
        assert not policy.applies("/a/b")
        assert not policy.applies("/a/b")

    def test_policies_compare_by_value(self) -> None:
        assert RetryPolicy() == RetryPolicy()
        assert RetryPolicy(exclude=["a"]) != RetryPolicy()
        assert len({RetryPolicy(), RetryPolicy(), RetryPolicy(replay_messages=1)}) == 2


@pytest.mark.parametrize(
    ("refusals", "imported"), [("", False), ("kit.Refuse()", False), ("kit.Refuse(), kit.Refuse()", False)]
)
def test_tenacity_is_imported_only_for_its_strategies(refusals: str, imported: bool) -> None:
    program = f"""
        import sys, grpc
        import grpc_bearer, grpc_bearer.testing as kit
        from grpc_bearer import RetryPolicy

        verifier = kit.OpaqueVerifier([])
        tokens = iter(["t0", "t1", "t2"])

        def mint():
            token = next(tokens)
            verifier.accept(token)
            return token

        with kit.ProbeServer(verifier) as server:
            server.script({refusals})
            with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=mint) as channel:
                stub = kit.ProbeStub(channel)
                try:
                    stub.Unary(kit.ProbeRequest())
                    list(stub.ServerStream(kit.ProbeRequest()))
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            print("tenacity" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60)

    assert (done.stdout.strip(), done.returncode) == (str(imported), 0), done.stderr


def test_an_outage_of_the_token_endpoint_after_a_refusal_shows_the_refusal(here: Place) -> None:
    calls = itertools.count()

    def source() -> str:
        if next(calls):
            raise OSError("connection refused")
        return here.minted(auth0)[-1]

    auth0 = here.auth()
    auth0.token()
    error, attempts = asked(here, source, RetryPolicy(), Refuse(details="revoked"))

    assert (error.code(), error.details(), attempts) == (UNAUTHENTICATED, "revoked", 1)
    assert isinstance(error.__cause__, grpc_bearer.TokenUnavailableError)


def test_what_cannot_be_imported_to_read_a_rich_status_hides_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is loaded when the first one comes, which may be when no file can be opened."""
    refused = failure(UNAUTHENTICATED, retry_info(30))
    assert rich(refused) == ("", 30.0)
    package = sys.modules["google.rpc"]
    for name in ("status_pb2", "error_details_pb2"):
        monkeypatch.delattr(package, name, raising=False)
    for name in [name for name in sys.modules if name.startswith("google.rpc.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoFile()])

    assert rich(refused) == ("", 0.0)


class NoFile:
    """Finds no module, since no file can be opened."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        raise OSError(24, "Too many open files")
