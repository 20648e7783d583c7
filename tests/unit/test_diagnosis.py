"""Why a server refused: said as the cause of its own error, as far as it can be known, and without the token."""

from __future__ import annotations

import base64
import email.utils
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from _refusing import AIO, BOTH, SYNC, UNAUTHENTICATED, Place, Side, Sync, request, soon
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import grpc_bearer
from grpc_bearer import BearerAuth, FileSource, StaticSource, Token, TokenRejectedError
from grpc_bearer._calls.diagnosis import diagnose
from grpc_bearer._calls.failure import Failure, blame
from grpc_bearer.testing import ManualClock, ProbeServer, ProbeStub, Refuse

NOW = 1_700_000_000.0
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED


def part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode().rstrip("=")


def jwt(**claims: Any) -> Token:
    return Token(f"{part({'alg': 'ES256'})}.{part(claims)}.c2lnbmF0dXJl")


def text(token: Token, *, code: grpc.StatusCode = UNAUTHENTICATED, why: str = "", **headers: str) -> str:
    trailing = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    error = diagnose(token, Failure(None, code, "no", (), trailing), NOW, why)
    assert isinstance(error, TokenRejectedError)
    assert token.value not in str(error)
    return str(error)


class TestText:
    """What is said of a token, by its kind and times and by the server's answer."""

    def test_an_opaque_token(self) -> None:
        assert "opaque: revoked, mistyped, or meant for another service" in text(Token("s3cret"))

    def test_an_opaque_token_that_has_expired(self) -> None:
        assert "expired 30 s ago" in text(Token("s3cret", expires_at=NOW - 30))

    def test_an_expired_jwt(self) -> None:
        assert "expired 90 s ago by this machine's clock" in text(jwt(exp=NOW - 90, iat=NOW - 900))

    @pytest.mark.parametrize("claim", ["nbf", "iat"])
    def test_a_jwt_from_the_future(self, claim: str) -> None:
        said = text(jwt(**{"iat": NOW - 10, "exp": NOW + 600, claim: NOW + 120}))

        assert f"its {claim} is 120 s ahead of this machine's clock" in said

    def test_a_jwt_whose_times_are_right_may_be_for_another_audience(self) -> None:
        said = text(jwt(iat=NOW - 10, exp=NOW + 600, aud=["https://other.example.com"]))

        assert "revoked" in said
        assert "another audience than ['https://other.example.com']" in said

    def test_a_jwt_without_a_date_from_the_server_may_be_off_by_the_clock(self) -> None:
        assert "clock" in text(jwt(iat=NOW - 10, exp=NOW + 600))

    @pytest.mark.parametrize(("offset", "said"), [(-600, "600 s ahead of"), (600, "600 s behind")])
    def test_the_servers_date_shows_a_wrong_clock(self, offset: float, said: str) -> None:
        date = email.utils.formatdate(NOW + offset, usegmt=True)

        assert f"this machine's clock is {said} the server's, which is the likely cause" in text(jwt(), date=date)

    @pytest.mark.parametrize("date", ["yesterday", "", "Mon, 99 Jan 2024 00:00:00 GMT", "\xff"])
    def test_a_date_that_is_none_says_nothing(self, date: str) -> None:
        assert "likely cause" not in text(Token("s3cret"), date=date)

    def test_a_date_nearly_right_says_nothing(self) -> None:
        assert "the server's" not in text(Token("s3cret"), date=email.utils.formatdate(NOW + 3, usegmt=True))

    def test_the_servers_challenge_is_told(self) -> None:
        challenge = 'Bearer realm="x", error="invalid_token", error_description="a b"'

        assert "it says invalid_token" in text(Token("s3cret"), www_authenticate=challenge)

    def test_the_challenges_free_text_is_not(self) -> None:
        challenge = 'Bearer error_description="no such token: s3cret"'

        assert "s3cret" not in text(Token("s3cret"), www_authenticate=challenge)

    @pytest.mark.parametrize(
        ("reason", "told"), [("ACCESS_TOKEN_EXPIRED", True), ("s3cret", False), ("no such token: s3cret", False)]
    )
    def test_a_reason_is_told_if_it_is_a_fixed_word(self, reason: str, told: bool) -> None:
        info = error_details_pb2.ErrorInfo(reason=reason, domain="example.com")
        trailing = Refuse(UNAUTHENTICATED, "no", rich=info).trailing_metadata
        said = str(diagnose(Token("s3cret"), Failure(None, UNAUTHENTICATED, "no", (), trailing), NOW))

        assert (f"it says {reason}" in said) is told
        assert "s3cret" not in said

    def test_a_denied_permission_is_a_matter_of_scope_role_or_audience(self) -> None:
        assert "scope or a role" in text(Token("s3cret"), code=PERMISSION_DENIED)
        assert "another audience than 'a'" in text(jwt(aud="a", exp=NOW - 1), code=PERMISSION_DENIED)

    def test_why_there_was_no_other_attempt_is_told(self) -> None:
        assert text(Token("s3cret"), why="its source has no other").endswith("; its source has no other")

    @pytest.mark.parametrize(
        "claims",
        [{"exp": True}, {"exp": 10**400}, {"nbf": float("inf")}, {"exp": "soon"}, {"aud": {"a": 1}}, {"iat": None}, {}],
    )
    def test_claims_of_any_shape_are_borne(self, claims: dict[str, Any]) -> None:
        assert text(jwt(**claims)).startswith("the server refused the token (UNAUTHENTICATED)")


class TestSurfaced:
    """On the real stack: the server's own error, untouched, with ours as its cause."""

    @pytest.mark.parametrize(("calls", "kind"), BOTH, indirect=["calls"])
    @pytest.mark.parametrize("path", ["cold", "warm"])
    def test_a_static_token_that_was_revoked(self, here: Place, calls: Side, kind: str, path: str) -> None:
        here.verifier.accept("static")
        with calls.way("secure_channel", here, BearerAuth(StaticSource("static"))) as stub:
            here.refuse()
            if path == "warm":
                calls.make("unary", stub)
            here.verifier.revoke("static")
            here.server.ledger.clear()
            with pytest.raises(grpc.RpcError) as caught:
                calls.make(kind, stub)

        error: Any = caught.value
        assert (error.code(), error.details()) == (UNAUTHENTICATED, "token revoked")
        assert ("www-authenticate", 'Bearer error="invalid_token", error_description="token revoked"') in list(
            error.trailing_metadata()
        )
        assert type(error).__module__ == ("grpc._channel" if isinstance(calls, Sync) else "grpc.aio._call")
        assert isinstance(error.__cause__, TokenRejectedError)
        assert "no other" in str(error.__cause__)
        assert "invalid_token" in str(error.__cause__)
        assert len(here.server.ledger) == 1

    def test_a_file_that_gives_another_token_is_read_again(self, here: Place, tmp_path: Path) -> None:
        file = tmp_path / "token"
        file.write_text("in-file-1\n")
        here.verifier.accept("in-file-1", "in-file-2")
        with here.stub(BearerAuth(FileSource(file), clock=(clock := ManualClock()))) as stub:
            here.refuse()
            stub.Unary(request())
            here.verifier.revoke("in-file-1")
            here.server.ledger.clear()
            with pytest.raises(grpc.RpcError) as caught:
                stub.Unary(request())
            assert isinstance(caught.value.__cause__, TokenRejectedError)
            assert len(here.server.ledger) == 1
            file.write_text("in-file-2\n")
            here.server.ledger.clear()
            clock.advance(2)  # what was read in vain is not read again at once
            assert list(stub.Unary(request(3)).indexes) == [3]

        assert here.server.ledger[-1].token == "in-file-2"

    def test_a_callable_that_gives_another_token_is_asked_again(self, here: Place) -> None:
        current = ["callable-1"]
        here.verifier.accept("callable-1", "callable-2")
        with here.stub(BearerAuth(lambda: current[0], clock=ManualClock())) as stub:
            here.refuse()
            stub.Unary(request())
            here.verifier.revoke("callable-1")
            current[0] = "callable-2"
            here.server.ledger.clear()

            assert list(stub.Unary(request(3)).indexes) == [3]
        assert [attempt.accepted for attempt in here.server.ledger] == [False, True]

    @pytest.mark.parametrize("make", ["call", "future", "stream"])
    def test_a_denied_permission_is_the_servers_own_error_with_our_cause(self, here: Place, make: str) -> None:
        auth = here.auth()
        with here.stub(auth) as stub:
            here.refuse(Refuse(PERMISSION_DENIED, "not yours"))
            here.server.ledger.clear()
            with pytest.raises(grpc.RpcError) as caught:
                {"call": stub.Unary, "future": lambda r: stub.Unary.future(r).result(), "stream": drained(stub)}[make](
                    request()
                )

        assert (caught.value.code(), caught.value.details()) == (PERMISSION_DENIED, "not yours")
        assert isinstance(caught.value.__cause__, TokenRejectedError)
        assert (len(here.server.ledger), len(here.minted(auth))) == (1, 1)

    def test_a_spent_budget_of_refreshes_surfaces_the_refusal(self, here: Place) -> None:
        auth = here.auth()  # its clock stands still, so the budget does not fill again
        with here.stub(auth) as stub:
            here.refuse(*[Refuse()] * 200)
            for _ in range(30):
                with pytest.raises(grpc.RpcError):
                    stub.Unary(request())
            minted = len(here.minted(auth))
            here.refuse(Refuse(details="last"))
            here.server.ledger.clear()
            with pytest.raises(grpc.RpcError) as caught:
                stub.Unary(request())

        assert caught.value.details() == "last"
        assert isinstance(caught.value.__cause__, TokenRejectedError)
        assert "the budget of refreshes that refusals may force is spent (10 at once" in str(caught.value.__cause__)
        assert minted <= 12
        assert len(here.server.ledger) == 1

    def test_the_callers_own_header_is_theirs(self, here: Place) -> None:
        auth = here.auth()
        with here.stub(auth) as stub:
            here.refuse()
            stub.Unary(request())
            here.server.ledger.clear()
            with pytest.raises(grpc.RpcError) as caught:
                stub.Unary(request(), metadata=[("authorization", "Bearer their-own")])

        assert caught.value.__cause__ is None
        assert (len(here.server.ledger), len(here.minted(auth))) == (1, 1)

    def test_the_callers_own_credentials_are_theirs(self, here: Place) -> None:
        auth = here.auth()
        with here.stub(auth) as stub:
            here.refuse()
            stub.Unary(request())
            here.server.ledger.clear()
            for make in (stub.Unary, lambda r, **how: stub.Unary.future(r, **how).result(), drained(stub)):
                with pytest.raises(grpc.RpcError) as caught:
                    make(request(), credentials=grpc_bearer.call_credentials("nobody"))
                assert caught.value.__cause__ is None

        assert (len(here.server.ledger), len(here.minted(auth))) == (3, 1)

    def test_an_error_made_locally_costs_no_token(self, here: Place) -> None:
        auth = here.auth()
        with ProbeServer(credentials="insecure") as server:
            channel = grpc_bearer.intercept_channel(grpc.insecure_channel(server.target), auth)
            with channel, pytest.raises(grpc.RpcError) as caught:
                ProbeStub(channel).Unary(request())
            assert len(server.ledger) == 0

        assert isinstance(caught.value.__cause__, grpc_bearer.InsecureChannelError)
        assert len(here.minted(auth)) == 0

    def test_a_server_that_echoes_the_token_makes_us_say_nothing_of_it(self, here: Place) -> None:
        here.verifier.accept("echoed-s3cret")
        with here.stub(BearerAuth("echoed-s3cret")) as stub:
            info = error_details_pb2.ErrorInfo(reason="echoed-s3cret", domain="echoed-s3cret")
            challenge = 'Bearer error="invalid_token", error_description="echoed-s3cret"'
            refusal = Refuse(details="no", trailing=[("www-authenticate", challenge)], rich=info)
            here.refuse(refusal, refusal)
            with pytest.raises(grpc.RpcError) as caught:
                stub.Unary(request())

        assert "echoed-s3cret" not in str(caught.value.__cause__) + repr(caught.value.__cause__)


def drained(stub: Any) -> Any:
    return lambda sent, **how: list(stub.ServerStream(sent, **how))


class TestRichStatus:
    """grpc_status compares the error with the rich status in it: so the error must be untouched."""

    RICH = error_details_pb2.ErrorInfo(reason="SESSION_GONE", domain="example.com")

    def refusal(self) -> Refuse:
        return Refuse(details="gone", rich=self.RICH)

    def check(self, status: Any) -> None:
        assert status is not None
        assert (status.code, status.message) == (UNAUTHENTICATED.value[0], "gone")
        info = error_details_pb2.ErrorInfo()
        assert status.details[0].Unpack(info)
        assert info.reason == "SESSION_GONE"

    @pytest.mark.parametrize("kind", SYNC)
    def test_sync(self, here: Place, kind: str) -> None:
        with here.stub(here.auth()) as stub:
            here.refuse(self.refusal(), self.refusal())
            with pytest.raises(grpc.RpcError) as caught:
                SYNC[kind](stub)

        self.check(rpc_status.from_call(caught.value))

    def test_the_future_itself(self, here: Place) -> None:
        with here.stub(here.auth()) as stub:
            here.refuse(self.refusal(), self.refusal())
            call = stub.Unary.future(request())
            assert call.exception(10) is not None

            self.check(rpc_status.from_call(call))

    @pytest.mark.parametrize("kind", AIO)
    async def test_asyncio(self, here: Place, kind: str) -> None:
        async with here.aio_stub(here.auth()) as stub:
            here.refuse(self.refusal(), self.refusal())
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await soon(AIO[kind](stub))

        self.check(rpc_status.from_call(caught.value))

    async def test_the_asyncio_call_itself(self, here: Place) -> None:
        async with here.aio_stub(here.auth()) as stub:
            here.refuse(self.refusal(), self.refusal())
            call = stub.Unary(request())
            with pytest.raises(grpc.aio.AioRpcError):
                await soon(call)

            self.check(await rpc_status.aio.from_call(call))


def noted(error: Any) -> list[str]:
    """Before Python 3.11 errors take no notes."""
    return [f"grpc-bearer: {error.__cause__} [{error.__cause__.help}]"] if sys.version_info >= (3, 11) else []


def raised_again_with_another_cause(call: Callable[[], Any]) -> Exception:
    """What the retry decorators of some clients make of every RpcError."""
    try:
        try:
            call()
        except grpc.RpcError as error:
            raise error from error
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call went well")


class TestNoted:
    """Our diagnosis is a note too, for clients that put a cause of their own in place of it."""

    @pytest.mark.parametrize(("calls", "kind"), BOTH, indirect=["calls"])
    @pytest.mark.parametrize("path", ["cold", "warm"])
    def test_the_servers_error_has_one_note(self, here: Place, calls: Side, kind: str, path: str) -> None:
        auth = here.auth()
        with calls.way("secure_channel", here, auth) as stub:
            here.refuse()
            if path == "warm":
                calls.make("unary", stub)
            here.refuse(*[Refuse()] * 2)
            with pytest.raises(grpc.RpcError) as caught:
                calls.make(kind, stub)

        error: Any = caught.value
        assert getattr(error, "__notes__", []) == noted(error)
        assert isinstance(error.__cause__, TokenRejectedError)
        assert here.minted(auth)[-1] not in str(noted(error))

    def test_asked_again_it_has_no_other(self, here: Place) -> None:
        with here.stub(here.auth()) as stub:
            here.refuse(*[Refuse()] * 2)
            call = stub.Unary.future(request())
            errors = [call.exception(), call.exception()]
            with pytest.raises(grpc.RpcError) as caught:
                call.result()

        assert [getattr(error, "__notes__", []) for error in (*errors, caught.value)] == [noted(errors[0])] * 3

    def test_of_two_auths_on_a_call_the_note_and_the_cause_are_the_same_ones(self, here: Place) -> None:
        outer = BearerAuth("for-the-gateway", "proxy-authorization")
        with grpc_bearer.intercept_channel(here.channel(here.auth()), outer) as channel:
            here.refuse(*[Refuse()] * 4)
            with pytest.raises(grpc.RpcError) as caught:
                ProbeStub(channel).Unary(request())

        assert isinstance(caught.value.__cause__, TokenRejectedError)
        assert getattr(caught.value, "__notes__", []) == noted(caught.value)

    def test_notes_of_others_stay(self) -> None:
        error: Any = grpc.RpcError()
        error.__notes__ = ["theirs"]
        for text in ("one", "two"):
            blame(error, TokenRejectedError(text))

        assert error.__notes__ == ["theirs", *noted(error)]
        assert str(error.__cause__) == "two"

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="errors take no notes before Python 3.11")
    def test_a_client_that_raises_it_again_with_another_cause_still_shows_the_diagnosis(self, here: Place) -> None:
        with here.stub(here.auth()) as stub:
            here.refuse(*[Refuse()] * 2)
            error = raised_again_with_another_cause(lambda: stub.Unary(request()))

        assert error.__cause__ is error
        assert "grpc-bearer: the server refused the token (UNAUTHENTICATED)" in "".join(
            traceback.format_exception(error)
        )

    def test_an_error_of_our_own_says_it_in_its_details_and_needs_no_note(self, here: Place) -> None:
        def fails() -> str:
            raise TokenRejectedError("no such client")

        with here.stub(BearerAuth(fails)) as stub, pytest.raises(grpc.RpcError) as caught:
            stub.Unary(request())

        error: Any = caught.value
        assert (error.details(), getattr(error, "__notes__", [])) == ("no such client [GB-REJECTED]", [])
