"""The kit refuses what it should: a server that accepts anything proves nothing. Tokens are made by joserfc."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

from grpc_bearer.testing import (
    CA,
    Delay,
    JWTVerifier,
    ManualClock,
    OpaqueVerifier,
    PlaintextRecorder,
    ProbeReply,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Refuse,
    private_pem,
    public_pem,
    throwaway_key,
)

KID = "org/1/apiKey/2"
NONCE = "0123456789abcdef0123456789abcdef"
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
KINDS = ("Unary", "ServerStream", "ClientStream", "BidiStream")
# joserfc refuses headers it does not know, and `nonce` is not registered.
REGISTRY = JWSRegistry(strict_check_header=False, algorithms=["ES256", "RS256"])


@pytest.fixture(scope="module")
def ca() -> CA:
    return CA()


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


def call(channel: grpc.Channel, kind: str, metadata: Any = None, count: int = 3, **keywords: Any) -> list[ProbeReply]:
    """One call of any kind; its replies."""
    method = getattr(ProbeStub(channel), kind)
    requests = [ProbeRequest(index=index, payload=b"%d" % index) for index in range(count)]
    outgoing: Any = iter(requests) if kind in ("ClientStream", "BidiStream") else requests[0]
    replies = method(outgoing, metadata=metadata, **keywords)
    return [replies] if isinstance(replies, ProbeReply) else list(replies)


def failure(channel: grpc.Channel, kind: str = "Unary", metadata: Any = None, **keywords: Any) -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, kind, metadata, **keywords)
    return caught.value


def openfx_token(clock: ManualClock, *, serial: int = 0, alg: str = "ES256", **changes: Any) -> str:
    """What OpenFX wants; `changes` to headers (`kid`, `nonce`) and claims, `None` leaves one out."""
    now = int(clock.time())
    header = {"alg": alg, "kid": KID, "nonce": NONCE}
    claims = {"aud": ["developer-api"], "iss": "openfx", "sub": KID, "iat": now, "nbf": now, "exp": now + 120}
    for name, value in changes.items():
        (header if name in header else claims)[name] = value
    pem = private_pem(throwaway_key(alg, serial))
    key = ECKey.import_key(pem) if alg == "ES256" else RSAKey.import_key(pem)
    kept = {name: value for name, value in claims.items() if value is not None}
    return joserfc_jwt.encode(
        {name: value for name, value in header.items() if value is not None}, kept, key, [alg], REGISTRY
    )


def openfx_verifier(clock: ManualClock, **changes: Any) -> JWTVerifier:
    settings: dict[str, Any] = {
        "key": {KID: throwaway_key("ES256").public_key()},
        "algorithms": ["ES256"],
        "issuer": "openfx",
        "audience": "developer-api",
        "required_claims": ("aud", "iss", "sub", "iat", "nbf", "exp"),
        "max_lifetime": 120,
        "require_headers": ("kid", "nonce"),
        "single_use": True,
        "clock": clock,
    }
    return JWTVerifier(**{**settings, **changes})


# --- the verifiers, without a server ---


def judged(verifier: JWTVerifier | OpaqueVerifier, *values: str, method: str = "/p.S/M") -> str:
    """Why the verifier refuses these header values; empty if it does not."""
    refusal = verifier.verify([(verifier.header, value) for value in values], method).refusal
    return refusal.reason if refusal else ""


def test_a_right_token_is_let_through(clock: ManualClock) -> None:
    assert judged(openfx_verifier(clock), f"Bearer {openfx_token(clock)}") == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": 0}, "expired"),
        ({"exp": -1}, "expired"),
        ({"iat": 1}, "iat lies ahead"),
        ({"nbf": 1}, "nbf lies ahead"),
        ({"exp": 121}, "lifetime of 121 s, allowed are 120"),
    ],
)
def test_times_are_judged_to_the_second(clock: ManualClock, changes: dict[str, int], reason: str) -> None:
    now = int(clock.time())
    token = openfx_token(clock, **{name: now + offset for name, offset in changes.items()})

    assert judged(openfx_verifier(clock), f"Bearer {token}") == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"serial": 1}, "bad signature, or no JWT at all"),
        ({"alg": "RS256"}, "bad signature, or no JWT at all"),
        ({"kid": None}, "no such kid"),
        ({"kid": "another"}, "no such kid"),
        ({"nonce": None}, "JWT header nonce missing, or no string"),
        ({"nonce": NONCE[1:]}, "nonce has fewer than 128 bits of lower-case hex"),
        ({"nonce": NONCE.upper()}, "nonce has fewer than 128 bits of lower-case hex"),
        ({"iss": "another"}, "wrong issuer"),
        ({"aud": ["another"]}, "wrong audience"),
        ({"aud": "developer"}, "wrong audience"),
        ({"sub": None}, "claim sub missing"),
        ({"exp": 1_700_000_060.5}, "claim exp is not in whole seconds"),
        ({"iat": "1700000000"}, "claim iat is not in whole seconds"),
    ],
)
def test_wrong_tokens_are_refused(clock: ManualClock, changes: dict[str, Any], reason: str) -> None:
    assert judged(openfx_verifier(clock), f"Bearer {openfx_token(clock, **changes)}") == reason


def test_a_replayed_nonce_is_refused_in_another_token_too(clock: ManualClock) -> None:
    verifier = openfx_verifier(clock)

    reasons = [judged(verifier, f"Bearer {openfx_token(clock, nonce=nonce)}") for nonce in (NONCE, "f" * 32, NONCE)]

    assert reasons == ["", "", "nonce seen before"]


def test_without_a_nonce_single_use_goes_by_the_token(clock: ManualClock) -> None:
    verifier = openfx_verifier(clock, require_headers=())
    token = openfx_token(clock, nonce=None)

    assert [judged(verifier, f"Bearer {token}") for _ in range(2)] == ["", "nonce seen before"]


def test_a_revoked_jwt_is_refused(clock: ManualClock) -> None:
    verifier, token = openfx_verifier(clock, single_use=False), openfx_token(clock)
    verifier.revoke(token)

    assert judged(verifier, f"Bearer {token}") == "token revoked"


def test_an_unsigned_token_is_refused(clock: ManualClock) -> None:
    _, claims, _ = openfx_token(clock).split(".")
    none = "eyJhbGciOiJub25lIiwia2lkIjoib3JnLzEvYXBpS2V5LzIifQ"  # {"alg":"none","kid":"org/1/apiKey/2"}

    assert judged(openfx_verifier(clock), f"Bearer {none}.{claims}.") == "bad signature, or no JWT at all"


def test_signatures_may_be_checked_by_another_library(clock: ManualClock) -> None:
    def decode(token: str, key: Any, algorithms: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        decoded = joserfc_jwt.decode(token, ECKey.import_key(public_pem(key)), algorithms, REGISTRY)
        return decoded.header, decoded.claims

    verifier = openfx_verifier(clock, decode=decode)

    assert judged(verifier, f"Bearer {openfx_token(clock)}") == ""
    assert judged(verifier, f"Bearer {openfx_token(clock, serial=1)}") == "bad signature, or no JWT at all"


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "no authorization header"),
        (["Bearer t0", "Bearer t0"], "2 authorization headers, want 1"),
        (["bearer t0"], "authorization does not begin with 'Bearer '"),
        (["t0"], "authorization does not begin with 'Bearer '"),
        (["Bearer  t0"], "authorization has no token, or white space in it"),
        (["Bearer "], "authorization has no token, or white space in it"),
        (["Bearer t1"], "unknown token"),
    ],
)
def test_the_header_is_judged_to_the_letter(values: list[str], reason: str) -> None:
    assert judged(OpaqueVerifier(["t0"]), *values) == reason


def test_a_bare_token_in_a_header_of_its_own_and_by_role() -> None:
    verifier = OpaqueVerifier(header="x-bbk-auth-token", scheme="", roles={"t0": ["p.S/Get*"], "t1": ["p.S/*"]})

    assert judged(verifier, "t0", method="/p.S/GetIt") == ""
    assert judged(verifier, "t0", method="/p.S/Set") == "token is for another role"
    assert judged(verifier, "t1", method="/p.S/Set") == ""
    assert judged(verifier, "Bearer t0") == "x-bbk-auth-token has no token, or white space in it"


def test_refusals_name_no_token(clock: ManualClock) -> None:
    token = openfx_token(clock, serial=1)
    verdict = openfx_verifier(clock).verify(bearer(token), "/p.S/M")

    assert verdict.refusal is not None
    assert token not in repr(verdict)
    assert verdict.refusal.__context__ is None or token not in repr(verdict.refusal.__context__)


# --- the server ---


@pytest.fixture
def server(ca: CA) -> Iterator[ProbeServer]:
    with ProbeServer(OpaqueVerifier(["t0"]), ca) as running:
        yield running


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_call_is_verified_and_written_down(server: ProbeServer, kind: str) -> None:
    with server.channel() as channel:
        replies = call(channel, kind, bearer("t0"))
        error = failure(channel, kind, bearer("t1"))

    accepted, refused = server.ledger.attempts
    streams = kind in ("ClientStream", "BidiStream")
    assert list(replies[-1].indexes) == accepted.requests == ([0, 1, 2] if streams else [0])
    assert replies[-1].digest == sha256(b"012" if streams else b"0").digest()
    assert (accepted.token, accepted.accepted, accepted.method) == ("t0", True, f"/grpc_bearer.testing.v1.Probe/{kind}")
    assert (refused.token, refused.accepted, refused.reason) == ("t1", False, "unknown token")
    assert (error.code(), error.details()) == (UNAUTHENTICATED, "unknown token")


def test_a_refusal_is_trailers_only_with_a_challenge(server: ProbeServer) -> None:
    with server.channel() as channel:
        error = failure(channel, "ServerStream", None)

    challenge = 'Bearer error="invalid_token", error_description="no authorization header"'
    assert dict(error.trailing_metadata()) == {"www-authenticate": challenge}
    assert list(error.initial_metadata()) == []


def test_a_wrong_role_is_permission_denied(ca: CA) -> None:
    with ProbeServer(OpaqueVerifier(roles={"t0": ["*/Unary"]}), ca) as server, server.channel() as channel:
        assert failure(channel, "ClientStream", bearer("t0")).code() is grpc.StatusCode.PERMISSION_DENIED
        assert call(channel, "Unary", bearer("t0"))


def test_a_jwt_over_the_wire_leaves_its_claims_in_the_ledger(ca: CA, clock: ManualClock) -> None:
    with ProbeServer(openfx_verifier(clock), ca, clock=clock) as server, server.channel() as channel:
        token = openfx_token(clock)
        call(channel, "Unary", bearer(token))
        failure(channel, "Unary", bearer(token))

    first, second = server.ledger.attempts
    assert (first.claims["iss"], first.jwt_header["nonce"], first.received_at) == ("openfx", NONCE, clock.time())
    assert second.reason == "nonce seen before"
    assert server.ledger.repeated_nonces() == [NONCE]


def test_a_token_expires_when_the_clock_says_so(ca: CA, clock: ManualClock) -> None:
    verifier = openfx_verifier(clock, single_use=False)
    with ProbeServer(verifier, ca, clock=clock) as server, server.channel() as channel:
        token = openfx_token(clock)
        clock.advance(119)
        call(channel, "Unary", bearer(token))
        clock.advance(1)
        assert failure(channel, "Unary", bearer(token)).details() == "expired"


@pytest.mark.parametrize("credentials", ["tls", "local", "insecure"])
def test_each_kind_of_server_credentials_serves(ca: CA, credentials: Any) -> None:
    with ProbeServer(OpaqueVerifier(["t0"]), ca, credentials=credentials) as server, server.channel() as channel:
        assert call(channel, "Unary", bearer("t0"))


@pytest.mark.parametrize("credentials", ["local", "insecure"])
def test_it_serves_on_a_unix_socket(tmp_path: Path, credentials: Any) -> None:
    address = f"unix:{tmp_path}/probe.sock"
    with ProbeServer(None, credentials=credentials, address=address) as server, server.channel() as channel:
        assert call(channel, "Unary")
    assert server.target == address


def test_mutual_tls_keeps_out_clients_without_a_certificate(ca: CA) -> None:
    with ProbeServer(None, ca, require_client=True) as server:
        with server.channel() as channel:
            assert call(channel, "Unary")
        with grpc.secure_channel(server.target, ca.channel_credentials()) as channel:
            assert failure(channel, "Unary", timeout=10).code() is grpc.StatusCode.UNAVAILABLE


def test_another_authority_is_not_trusted(server: ProbeServer) -> None:
    with grpc.secure_channel(server.target, CA().channel_credentials()) as channel:
        assert failure(channel, "Unary", bearer("t0"), timeout=10).code() is grpc.StatusCode.UNAVAILABLE
    assert len(server.ledger) == 0


def test_it_can_be_dialled_before_it_starts(ca: CA) -> None:
    server = ProbeServer(None, ca)
    with server.channel() as channel:
        assert failure(channel, "Unary", timeout=10).code() is grpc.StatusCode.UNAVAILABLE
        waiting = ProbeStub(channel).Unary.future(ProbeRequest(index=1), wait_for_ready=True, timeout=20)
        with server:
            assert list(waiting.result().indexes) == [1]


def test_it_restarts_on_the_same_port(server: ProbeServer) -> None:
    target = server.target
    with server.channel() as channel:
        call(channel, "Unary", bearer("t0"))
        server.restart()
        call(channel, "Unary", bearer("t0"), wait_for_ready=True, timeout=20)

    assert server.target == target
    assert len(server.ledger.accepted) == 2


def test_stop_may_be_called_twice_and_on_one_never_started(ca: CA) -> None:
    server = ProbeServer(None, ca)
    server.stop()
    server.stop()

    assert "ProbeServer" in repr(server)


def test_a_burst_of_a_thousand_calls_is_served_whole(server: ProbeServer) -> None:
    with server.channel() as channel:
        method = ProbeStub(channel).Unary
        futures = [method.future(ProbeRequest(index=index), metadata=bearer("t0")) for index in range(1000)]
        found = sorted(future.result().indexes[0] for future in futures)

    assert found == list(range(1000))
    assert len(server.ledger.accepted) == 1000


def test_the_ledger_tells_what_time_a_call_had_left(server: ProbeServer) -> None:
    with server.channel() as channel:
        for timeout in (30, None):
            ProbeStub(channel).Unary(ProbeRequest(), timeout=timeout, metadata=bearer("t0"))

    bounded, unbounded = (attempt.time_left for attempt in server.ledger)
    assert 0 < bounded < 31
    assert unbounded > 1e9


# --- scripted faults ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["start", "headers"])
def test_a_scripted_refusal_meets_one_attempt(server: ProbeServer, kind: str, when: str) -> None:
    server.script(Refuse(grpc.StatusCode.UNAVAILABLE, "busy", trailing=[("x-why", "test")], when=when))
    with server.channel() as channel:
        error = failure(channel, kind, bearer("t0"))
        call(channel, kind, bearer("t0"))

    assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "busy")
    assert dict(error.trailing_metadata())["x-why"] == "test"
    assert [attempt.reason for attempt in server.ledger] == ["scripted: UNAVAILABLE", ""]


def test_a_refusal_after_some_requests(server: ProbeServer) -> None:
    server.script(Refuse(after_requests=2))
    with server.channel() as channel:
        assert failure(channel, "ClientStream", bearer("t0"), count=4).code() is UNAUTHENTICATED

    assert server.ledger[0].requests == [0, 1]
    assert not server.ledger[0].accepted


def test_a_refusal_after_some_replies(server: ProbeServer) -> None:
    server.script(Refuse(after_replies=2))
    with server.channel() as channel:
        stream = ProbeStub(channel).ServerStream(ProbeRequest(replies=5), metadata=bearer("t0"))
        received = [next(stream).index, next(stream).index]
        with pytest.raises(grpc.RpcError):
            next(stream)

    assert (received, stream.code()) == ([0, 1], UNAUTHENTICATED)


def test_a_rich_status_agrees_with_the_plain_one(server: ProbeServer) -> None:
    info = error_details_pb2.ErrorInfo(reason="TOKEN_STALE", domain="example.com")
    server.script(Refuse(details="stale", rich=info))
    with server.channel() as channel:
        status = rpc_status.from_call(failure(channel, "Unary", bearer("t0")))

    found = error_details_pb2.ErrorInfo()
    assert status is not None
    assert status.details[0].Unpack(found)
    assert found == info


def test_faults_go_by_method_and_may_spare_one(server: ProbeServer) -> None:
    server.script(Refuse(), method="Unary")
    server.script(None, Refuse())
    with server.channel() as channel:
        call(channel, "ClientStream", bearer("t0"))
        failure(channel, "Unary", bearer("t0"))
        failure(channel, "BidiStream", bearer("t0"))
        call(channel, "Unary", bearer("t0"))

    assert len(server.ledger.refused) == 2


def test_a_delayed_attempt_waits_for_its_release(server: ProbeServer) -> None:
    delay = Delay()
    server.script(delay)
    with server.channel() as channel:
        future = ProbeStub(channel).Unary.future(ProbeRequest(index=1), metadata=bearer("t0"))
        assert delay.arrived.wait(10)
        assert not future.done()
        delay.release.set()
        assert list(future.result().indexes) == [1]


# --- plaintext ---


def test_an_insecure_server_writes_down_a_token_in_the_clear() -> None:
    with ProbeServer(None, credentials="insecure") as server, server.channel() as channel:
        call(channel, "Unary", bearer("t0-secret"))

    assert server.ledger.contains("t0-secret")
    assert not server.ledger.contains("another")


def test_the_recorder_sees_a_token_in_the_clear_and_none_under_tls(ca: CA) -> None:
    with PlaintextRecorder() as recorder:
        with grpc.insecure_channel(recorder.target) as channel:
            future = ProbeStub(channel).Unary.future(ProbeRequest(), metadata=bearer("t0-secret"), timeout=20)
            assert recorder.wait_for("t0-secret")
            future.cancel()
        with grpc.secure_channel(recorder.target, ca.channel_credentials()) as channel:
            failure(channel, "Unary", bearer("t1-secret"), timeout=10)

    assert recorder.received
    assert not recorder.contains("t1-secret")


def test_no_thread_is_left_running_by_a_stopped_server(ca: CA) -> None:
    before = set(threading.enumerate())
    with ProbeServer(None, ca, workers=2) as server, server.channel() as channel:
        call(channel, "Unary")
    with PlaintextRecorder():
        pass
    left = [thread for thread in set(threading.enumerate()) - before if not thread.daemon]
    for thread in left:
        thread.join(5)

    assert [thread for thread in left if thread.is_alive()] == []


def test_the_kit_imports_nothing_beyond_what_the_package_needs() -> None:
    unwanted = "('hpack', 'hyperframe', 'h2', 'joserfc', 'pytest', 'cryptography', 'jwt', 'requests')"
    script = f"import sys, grpc_bearer.testing; print([name for name in {unwanted} if name in sys.modules])"

    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"
