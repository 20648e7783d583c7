"""A token never travels in the clear by accident, and a call never carries two of our headers.

Everything is judged by what arrived: at a gRPC server that writes all metadata down, and at a listener that writes down
every byte.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import grpc.experimental
import pytest
from attachments import (
    AIO_KINDS,
    AIO_WAYS,
    ALL_WAYS,
    CORE_ONLY,
    EXPLAINING,
    FOREIGN,
    PATIENCE,
    SYNC_KINDS,
    SYNC_WAYS,
    TLS,
    Waiting,
    _ended,
    _ended_aio,
    causes,
    codes,
    everywhere,
    try_aio,
    try_all,
    try_sync,
    warmed,
)

import grpc_bearer
from grpc_bearer import BearerAuth, ConfigurationError, InsecureChannelError
from grpc_bearer.testing import OpaqueVerifier, PlaintextRecorder, ProbeRequest, ProbeServer, ProbeStub

SECRET = "t0-secret-that-must-not-leak"
OTHER = "t1-somebody-else"
OK, UNAUTHENTICATED = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED


class _Other(grpc.AuthMetadataPlugin):
    def __call__(self, context: Any, callback: Any) -> None:
        callback((("x-other", "1"),), None)


def _xds(fallback: grpc.ChannelCredentials) -> grpc.ChannelCredentials:
    return grpc.xds_channel_credentials(fallback)


def _composite(credentials: grpc.ChannelCredentials) -> grpc.ChannelCredentials:
    return grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(_Other()))


def _bare() -> grpc.ChannelCredentials:
    return grpc.experimental.insecure_channel_credentials()


#: Channel credentials that look like protection and are none.
HOLLOW: dict[str, Callable[[], grpc.ChannelCredentials]] = {
    "composite": lambda: _composite(_bare()),
    "composite of composite": lambda: _composite(_composite(_bare())),
    "xds with insecure fallback": lambda: _xds(_bare()),
    "composite of xds": lambda: _composite(_xds(_bare())),
}
#: What a channel that someone else made may stand on.
FOREIGN_PLAINTEXT = {"insecure_channel": lambda: None, "insecure_channel_credentials": _bare, **HOLLOW}

OWN = [way for way in ALL_WAYS if way not in FOREIGN and "call_credentials" not in way]


@pytest.fixture(scope="module")
def secure() -> Iterator[ProbeServer]:
    with ProbeServer(OpaqueVerifier([SECRET, OTHER]), TLS) as server:
        yield server


@pytest.fixture(scope="module")
def _clear() -> Iterator[ProbeServer]:
    with ProbeServer(credentials="insecure") as server:
        yield server


@pytest.fixture
def clear(_clear: ProbeServer) -> ProbeServer:
    _clear.ledger.clear()
    return _clear


@pytest.fixture
def wire() -> Iterator[PlaintextRecorder]:
    with PlaintextRecorder() as recorder:
        yield recorder


# --------------------------------------------------------------------------------------------- known at construction


@pytest.mark.parametrize("attach", ["auto", "metadata", "call_credentials"])
@pytest.mark.parametrize("open_", [grpc_bearer.secure_channel, grpc_bearer.aio.secure_channel], ids=["sync", "aio"])
def test_trap_17_insecure_channel_credentials_are_refused_when_the_channel_is_made(open_: Any, attach: Any) -> None:
    with pytest.raises(InsecureChannelError, match="in the clear"):
        open_("localhost:1", _bare(), auth=SECRET, attach=attach)


def test_insecure_channel_credentials_are_refused_by_channel_credentials() -> None:
    with pytest.raises(InsecureChannelError, match="in the clear"):
        grpc_bearer.channel_credentials(SECRET, _bare())


@pytest.mark.parametrize("open_", [grpc_bearer.insecure_channel, grpc_bearer.aio.insecure_channel], ids=["sync", "aio"])
def test_insecure_channel_wants_to_be_told_that_plaintext_is_meant(open_: Any) -> None:
    with pytest.raises(InsecureChannelError, match="allow_plaintext=True"):
        open_("localhost:1", auth=SECRET)


def test_allow_plaintext_is_known_to_five_ways_only() -> None:
    public = {name: getattr(grpc_bearer, name) for name in grpc_bearer.__all__}
    public |= {f"aio.{name}": getattr(grpc_bearer.aio, name) for name in grpc_bearer.aio.__all__}
    functions = {name: thing for name, thing in public.items() if inspect.isfunction(thing)}

    permissive = {name for name, thing in functions.items() if "allow_plaintext" in inspect.signature(thing).parameters}

    assert permissive == {
        "attach_to",
        "insecure_channel",
        "intercept_channel",
        "interceptor",
        "wrap_stub",
        "aio.insecure_channel",
        "aio.intercept_channel",
        "aio.interceptors",
    }


@pytest.mark.parametrize("way", ["secure_channel", "aio.secure_channel"])
def test_an_error_about_the_channel_does_not_show_the_token(way: str) -> None:
    open_ = grpc_bearer.aio.secure_channel if way.startswith("aio") else grpc_bearer.secure_channel
    with pytest.raises(InsecureChannelError) as caught:
        open_("localhost:1", _bare(), auth=SECRET)

    assert SECRET not in repr(caught.value) + str(caught.value)


# ------------------------------------------------------------------------------------------ found out call by call


def expect_refused(way: str, ends: dict[str, Any]) -> None:
    assert codes(ends) == everywhere(way, UNAUTHENTICATED)
    if way in CORE_ONLY:
        return  # nothing of ours stands between core and the caller there
    assert causes(ends) == everywhere(way, InsecureChannelError)
    family = grpc.aio.AioRpcError if way.startswith("aio.") else grpc.Call
    assert {kind: isinstance(end.value, family) for kind, end in ends.items()} == everywhere(way, True)
    assert SECRET not in " ".join(f"{end.value!r} {end.value} {end.value.details()}" for end in ends.values())


@pytest.mark.parametrize("hollow", HOLLOW)
@pytest.mark.parametrize("way", [way for way in OWN if way not in CORE_ONLY])
def test_trap_16_hollow_credentials_do_not_carry_a_token(
    way: str, hollow: str, secure: ProbeServer, clear: ProbeServer
) -> None:
    auth = warmed(BearerAuth(SECRET), secure)

    first = try_all(way, clear.target, HOLLOW[hollow](), auth, timeout=PATIENCE)
    again = try_all(way, clear.target, HOLLOW[hollow](), auth, timeout=PATIENCE)

    expect_refused(way, first)
    expect_refused(way, again)
    assert not clear.ledger.contains(SECRET)
    assert len(clear.ledger) == 0  # not even without the token


@pytest.mark.parametrize("foreign", FOREIGN_PLAINTEXT)
@pytest.mark.parametrize("way", FOREIGN)
def test_trap_17_a_foreign_plaintext_channel_does_not_carry_a_token(
    way: str, foreign: str, secure: ProbeServer, clear: ProbeServer
) -> None:
    auth = warmed(BearerAuth(SECRET), secure)

    ends = try_all(way, clear.target, FOREIGN_PLAINTEXT[foreign](), auth, timeout=PATIENCE)

    expect_refused(way, ends)
    assert not clear.ledger.contains(SECRET)
    assert len(clear.ledger) == 0


@pytest.mark.parametrize("hollow", HOLLOW)
@pytest.mark.parametrize("way", ["channel_credentials", "aio.channel_credentials"])
def test_composite_credentials_over_nothing_do_not_carry_a_token(
    way: str, hollow: str, secure: ProbeServer, clear: ProbeServer
) -> None:
    auth = warmed(BearerAuth(SECRET), secure)

    ends = try_all(way, clear.target, HOLLOW[hollow](), auth, timeout=PATIENCE)

    assert codes(ends) == everywhere(way, UNAUTHENTICATED)
    assert not clear.ledger.contains(SECRET)


def test_call_credentials_on_a_plaintext_channel_are_refused_by_core(secure: ProbeServer, clear: ProbeServer) -> None:
    auth = warmed(BearerAuth(SECRET), secure)

    ends = try_all("call_credentials", clear.target, None, auth, timeout=PATIENCE)

    assert codes(ends) == everywhere("call_credentials", UNAUTHENTICATED)
    assert not clear.ledger.contains(SECRET)


@pytest.mark.parametrize("attach", ["auto", "metadata", "call_credentials"])
@pytest.mark.parametrize("hollow", HOLLOW)
def test_no_way_to_attach_lets_a_token_through_hollow_credentials(
    attach: str, hollow: str, secure: ProbeServer, clear: ProbeServer
) -> None:
    auth = warmed(BearerAuth(SECRET), secure)

    for way in ("secure_channel", "aio.secure_channel"):
        ends = try_all(way, clear.target, HOLLOW[hollow](), auth, way_how={"attach": attach}, timeout=PATIENCE)
        assert codes(ends) == everywhere(way, UNAUTHENTICATED)

    assert not clear.ledger.contains(SECRET)


@pytest.mark.parametrize("foreign", FOREIGN_PLAINTEXT)
@pytest.mark.parametrize("way", FOREIGN)
def test_no_byte_of_the_token_is_on_the_wire(
    way: str, foreign: str, secure: ProbeServer, wire: PlaintextRecorder
) -> None:
    auth = warmed(BearerAuth(SECRET), secure)

    ends = try_all(way, wire.target, FOREIGN_PLAINTEXT[foreign](), auth, timeout=PATIENCE)

    expect_refused(way, ends)
    if not (way.startswith("aio.") and foreign == "insecure_channel"):  # there grpc.aio does not even connect
        assert wire.wait_for("PRI * HTTP/2.0")
    assert not wire.contains(SECRET)
    assert not wire.contains("Bearer")


def test_the_recorder_would_have_seen_a_token(wire: PlaintextRecorder) -> None:
    stub = ProbeStub(grpc_bearer.insecure_channel(wire.target, auth=SECRET, allow_plaintext=True))

    call = stub.Unary.future(ProbeRequest(), timeout=PATIENCE)

    assert wire.wait_for(f"Bearer {SECRET}")
    call.cancel()


# -------------------------------------------------------------------------------- the proof lives with the channel


def test_a_token_proven_on_one_channel_does_not_leak_on_another(secure: ProbeServer, clear: ProbeServer) -> None:
    """Sync: one auth, one TLS channel that was proven, and at the same time plaintext channels through every way."""
    auth = BearerAuth(SECRET)
    with (
        grpc_bearer.secure_channel(secure.target, secure.channel_credentials(), auth=auth) as good,
        grpc.insecure_channel(clear.target) as bad,
    ):
        hollow = grpc_bearer.secure_channel(clear.target, _xds(_bare()), auth=auth)
        stubs = {
            "intercept_channel": ProbeStub(grpc_bearer.intercept_channel(bad, auth)),
            "wrap_stub": grpc_bearer.wrap_stub(ProbeStub(bad), auth),
            "interceptor": ProbeStub(grpc.intercept_channel(bad, grpc_bearer.interceptor(auth))),
            "xds": ProbeStub(hollow),
        }
        for _ in range(3):  # between the calls that leak nothing, calls that prove everything
            assert codes(try_sync(ProbeStub(good), timeout=PATIENCE)) == everywhere("sync", OK)
            for stub in stubs.values():
                expect_refused("sync", try_sync(stub, timeout=PATIENCE))
        hollow.close()

    assert secure.ledger.contains(SECRET)
    assert not clear.ledger.contains(SECRET)


def test_a_token_proven_on_one_channel_does_not_leak_on_another_in_asyncio(
    secure: ProbeServer, clear: ProbeServer
) -> None:
    auth = BearerAuth(SECRET)

    async def main() -> None:
        interceptors = grpc_bearer.aio.interceptors(auth)
        async with (
            grpc_bearer.aio.secure_channel(secure.target, secure.channel_credentials(), auth=auth) as good,
            grpc_bearer.aio.secure_channel(clear.target, _xds(_bare()), auth=auth) as hollow,
            grpc.aio.insecure_channel(clear.target) as bad,
            grpc.aio.insecure_channel(clear.target, interceptors=interceptors) as intercepted,
        ):
            stubs = {
                "intercept_channel": ProbeStub(grpc_bearer.aio.intercept_channel(bad, auth)),
                "wrap_stub": grpc_bearer.wrap_stub(ProbeStub(bad), auth),
                "interceptors": ProbeStub(intercepted),
                "xds": ProbeStub(hollow),
            }
            for _ in range(3):
                assert codes(await try_aio(ProbeStub(good), timeout=PATIENCE)) == everywhere("aio.", OK)
                for stub in stubs.values():
                    expect_refused("aio.", await try_aio(stub, timeout=PATIENCE))

    asyncio.run(main())

    assert not clear.ledger.contains(SECRET)


def test_one_interceptor_object_on_a_tls_channel_and_on_a_plaintext_one_leaks_nothing(
    secure: ProbeServer, clear: ProbeServer
) -> None:
    interceptor = grpc_bearer.interceptor(SECRET)
    with secure.channel() as good, clear.channel() as bad:
        ends = try_sync(ProbeStub(grpc.intercept_channel(good, interceptor)), timeout=PATIENCE)
        refused = try_sync(ProbeStub(grpc.intercept_channel(bad, interceptor)), timeout=PATIENCE)

    assert codes(ends) == everywhere("interceptor", OK)
    expect_refused("interceptor", refused)
    assert not clear.ledger.contains(SECRET)


def test_one_set_of_asyncio_interceptors_on_both_kinds_of_channel_leaks_nothing(
    secure: ProbeServer, clear: ProbeServer
) -> None:
    interceptors = grpc_bearer.aio.interceptors(SECRET)

    async def main() -> tuple[Any, Any]:
        async with (
            grpc.aio.secure_channel(secure.target, secure.channel_credentials(), interceptors=interceptors) as good,
            grpc.aio.insecure_channel(clear.target, interceptors=interceptors) as bad,
        ):
            ends = await try_aio(ProbeStub(good), timeout=PATIENCE)
            return ends, await try_aio(ProbeStub(bad), timeout=PATIENCE)

    ends, refused = asyncio.run(main())

    assert codes(ends) == everywhere("aio.", OK)
    expect_refused("aio.", refused)
    assert not clear.ledger.contains(SECRET)


@pytest.mark.parametrize("way", FOREIGN)
def test_a_user_interceptor_between_us_and_a_plaintext_channel_changes_nothing(
    way: str, secure: ProbeServer, clear: ProbeServer
) -> None:
    """A foreign channel may be wrapped any number of times; what it stands on still counts."""
    auth = warmed(BearerAuth(SECRET), secure)
    if way.startswith("aio."):
        ends = try_all(way, clear.target, None, auth, timeout=PATIENCE)
    else:
        with grpc.insecure_channel(clear.target) as bare:
            channel = grpc.intercept_channel(grpc.intercept_channel(bare, _PassThrough()), _PassThrough())
            stub = {
                "intercept_channel": lambda: ProbeStub(grpc_bearer.intercept_channel(channel, auth)),
                "wrap_stub": lambda: grpc_bearer.wrap_stub(ProbeStub(channel), auth),
                "interceptor": lambda: ProbeStub(grpc.intercept_channel(channel, grpc_bearer.interceptor(auth))),
            }[way]()
            ends = try_sync(stub, timeout=PATIENCE)

    expect_refused(way, ends)
    assert not clear.ledger.contains(SECRET)


class _PassThrough(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def _on(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _on


def test_trap_15_a_refusal_for_plaintext_asks_for_no_token(clear: ProbeServer) -> None:
    source = Waiting(SECRET)
    auth = BearerAuth(source)
    with grpc_bearer.intercept_channel(clear.channel(), auth) as channel:
        ends = [try_sync(ProbeStub(channel), timeout=PATIENCE) for _ in range(3)]

    assert [codes(each) for each in ends] == [everywhere("sync", UNAUTHENTICATED)] * 3
    assert source.fetches == 0


# ---------------------------------------------------------------------------------------------- plaintext on purpose


ALLOWING = [*FOREIGN]


@pytest.mark.parametrize("way", ALLOWING)
@pytest.mark.parametrize("single_use", [False, True], ids=["reusable", "single-use"])
def test_plaintext_on_purpose_carries_exactly_one_header(way: str, single_use: bool, clear: ProbeServer) -> None:
    source = Waiting(SECRET, single_use=single_use)
    source.go.set()

    ends = try_all(way, clear.target, None, BearerAuth(source), way_how={"allow_plaintext": True}, timeout=PATIENCE)

    assert codes(ends) == everywhere(way, OK)
    assert [_ours(attempt) for attempt in clear.ledger] == [[f"Bearer {SECRET}"]] * len(ends)


def _ours(attempt: Any) -> list[Any]:
    return [value for key, value in attempt.metadata if key == "authorization"]


def test_insecure_channel_on_purpose_works_in_sync_and_asyncio(clear: ProbeServer) -> None:
    auth = BearerAuth(SECRET)
    with grpc_bearer.insecure_channel(clear.target, auth=auth, allow_plaintext=True) as channel:
        ends = try_sync(ProbeStub(channel), timeout=PATIENCE)

    async def main() -> Any:
        async with grpc_bearer.aio.insecure_channel(clear.target, auth=auth, allow_plaintext=True) as channel:
            return await try_aio(ProbeStub(channel), timeout=PATIENCE)

    aio_ends = asyncio.run(main())

    assert codes(ends) == everywhere("sync", OK)
    assert codes(aio_ends) == everywhere("aio.", OK)
    assert {tuple(_ours(attempt)) for attempt in clear.ledger} == {(f"Bearer {SECRET}",)}


@pytest.mark.parametrize("way", ["insecure_channel", "intercept_channel", "wrap_stub", "interceptor"])
def test_trap_20_plaintext_future_does_not_block_while_it_waits_for_its_token(way: str, clear: ProbeServer) -> None:
    source = Waiting(SECRET)
    auth = BearerAuth(source)
    bare = clear.channel()
    stub = {
        "insecure_channel": lambda: ProbeStub(
            grpc_bearer.insecure_channel(clear.target, auth=auth, allow_plaintext=True)
        ),
        "intercept_channel": lambda: ProbeStub(grpc_bearer.intercept_channel(bare, auth, allow_plaintext=True)),
        "wrap_stub": lambda: grpc_bearer.wrap_stub(ProbeStub(bare), auth, allow_plaintext=True),
        "interceptor": lambda: ProbeStub(
            grpc.intercept_channel(bare, grpc_bearer.interceptor(auth, allow_plaintext=True))
        ),
    }[way]()

    # Each of these returns while the source still waits: it is this very thread that lets it go on.
    unary = stub.Unary.future(ProbeRequest(index=1), timeout=PATIENCE)
    client_stream = stub.ClientStream.future(iter([ProbeRequest(index=1)]), timeout=PATIENCE)
    server_stream = stub.ServerStream(ProbeRequest(replies=2), timeout=PATIENCE)
    bidi = stub.BidiStream(iter([ProbeRequest(index=1)]), timeout=PATIENCE)
    assert source.asked.wait(PATIENCE)
    assert not unary.done()
    assert not client_stream.done()
    assert server_stream.is_active()
    assert len(clear.ledger) == 0
    source.go.set()

    assert unary.result(PATIENCE).count == 1
    assert client_stream.result(PATIENCE).count == 1
    assert [reply.index for reply in server_stream] == [0, 1]
    assert [reply.index for reply in bidi] == [0]
    assert source.fetches == 1
    assert {tuple(_ours(attempt)) for attempt in clear.ledger} == {(f"Bearer {SECRET}",)}
    bare.close()


def test_plaintext_on_one_channel_gives_no_leave_on_another(clear: ProbeServer, wire: PlaintextRecorder) -> None:
    auth = BearerAuth(SECRET)
    with grpc_bearer.intercept_channel(clear.channel(), auth, allow_plaintext=True) as channel:
        ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)

    ends = try_all("intercept_channel", wire.target, None, auth, timeout=PATIENCE)

    expect_refused("intercept_channel", ends)
    assert not wire.contains(SECRET)


# --------------------------------------------------------------------------------------------- loopback, Unix sockets


@pytest.fixture(scope="module", params=["tcp", "unix"])
def local(request: Any, tmp_path_factory: Any) -> Iterator[ProbeServer]:
    address = "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path_factory.mktemp('uds')}/probe.sock"
    with ProbeServer(OpaqueVerifier([SECRET]), credentials="local", address=address) as server:
        yield server


@pytest.mark.parametrize("way", ALL_WAYS)
def test_trap_18_local_credentials_carry_tokens_over_loopback_and_unix_sockets(way: str, local: ProbeServer) -> None:
    auth = BearerAuth(SECRET)
    local.ledger.clear()

    first = try_all(way, local.target, local.channel_credentials(), auth, timeout=PATIENCE)
    again = try_all(way, local.target, local.channel_credentials(), auth, timeout=PATIENCE)

    assert codes(first) == everywhere(way, OK)
    assert codes(again) == everywhere(way, OK)
    assert {tuple(attempt.header_values) for attempt in local.ledger} == {(f"Bearer {SECRET}",)}


# ------------------------------------------------------------------------------------------------ one identity a call


@pytest.fixture
def ledger_of(secure: ProbeServer) -> ProbeServer:
    secure.ledger.clear()
    return secure


@pytest.mark.parametrize("way", ALL_WAYS)
@pytest.mark.parametrize("times", [1, 2], ids=["cold", "warm"])
def test_trap_08_never_two_authorization_headers(way: str, times: int, ledger_of: ProbeServer) -> None:
    auth = BearerAuth(SECRET)

    for _ in range(times):
        ends = try_all(way, ledger_of.target, ledger_of.channel_credentials(), auth, timeout=PATIENCE)
        assert codes(ends) == everywhere(way, OK)

    assert {tuple(attempt.header_values) for attempt in ledger_of.ledger} == {(f"Bearer {SECRET}",)}


THEIRS = ("authorization", f"Bearer {OTHER}")
#: The shapes that a caller's metadata may have; each is made anew for each call.
SHAPES: dict[str, Callable[[], Any]] = {
    "list": lambda: [("x-a", "1"), THEIRS],
    "tuple": lambda: (("x-a", "1"), THEIRS),
    "generator": lambda: (pair for pair in (("x-a", "1"), THEIRS)),
    "aio.Metadata": lambda: grpc.aio.Metadata(("x-a", "1"), THEIRS),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", EXPLAINING)
def test_trap_08_the_caller_s_own_metadata_under_our_header_wins(way: str, shape: str, ledger_of: ProbeServer) -> None:
    auth = warmed(BearerAuth(SECRET), ledger_of)
    ledger_of.ledger.clear()

    for _ in range(2):
        ends = _each_kind(way, ledger_of, auth, SHAPES[shape])
        assert codes(ends) == everywhere(way, OK)

    assert {tuple(attempt.header_values) for attempt in ledger_of.ledger} == {(f"Bearer {OTHER}",)}
    assert all(("x-a", "1") in attempt.metadata for attempt in ledger_of.ledger)


def _each_kind(way: str, server: ProbeServer, auth: BearerAuth, metadata: Callable[[], Any], **how: Any) -> Any:
    """Like `try_all`, with metadata made anew for each call."""
    credentials = server.channel_credentials()
    how = {"timeout": PATIENCE, **how}
    if way in SYNC_WAYS:
        with SYNC_WAYS[way](server.target, credentials, auth) as stub:
            return {kind: _ended(call, stub, {**how, "metadata": metadata()}) for kind, call in SYNC_KINDS.items()}

    async def main() -> Any:
        async with AIO_WAYS[way](server.target, credentials, auth) as stub:
            return {
                kind: await _ended_aio(call, stub, {**how, "metadata": metadata()}) for kind, call in AIO_KINDS.items()
            }

    return asyncio.run(main())


@pytest.mark.parametrize("way", EXPLAINING)
def test_trap_30_nobody_s_metadata_object_is_changed(way: str, ledger_of: ProbeServer) -> None:
    auth = warmed(BearerAuth(SECRET), ledger_of)
    ledger_of.ledger.clear()
    mine: Any = grpc.aio.Metadata(("x-a", "1")) if way.startswith("aio.") else [("x-a", "1")]

    for _ in range(3):
        ends = _each_kind(way, ledger_of, auth, lambda: mine)
        assert codes(ends) == everywhere(way, OK)

    assert [tuple(pair) for pair in mine] == [("x-a", "1")]
    assert {tuple(attempt.header_values) for attempt in ledger_of.ledger} == {(f"Bearer {SECRET}",)}
    assert {sum(key == "x-a" for key, _ in attempt.metadata) for attempt in ledger_of.ledger} == {1}


@pytest.mark.parametrize("way", EXPLAINING)
def test_credentials_of_one_call_replace_ours_for_that_call(way: str, ledger_of: ProbeServer) -> None:
    auth = warmed(BearerAuth(SECRET), ledger_of)
    ledger_of.ledger.clear()
    act_for = grpc_bearer.call_credentials(OTHER)

    theirs = _each_kind(way, ledger_of, auth, lambda: None, credentials=act_for)
    as_other = {tuple(attempt.header_values) for attempt in ledger_of.ledger}
    ledger_of.ledger.clear()
    ours = _each_kind(way, ledger_of, auth, lambda: None)

    assert codes(theirs) == everywhere(way, OK)
    assert as_other == {(f"Bearer {OTHER}",)}
    assert codes(ours) == everywhere(way, OK)
    assert {tuple(attempt.header_values) for attempt in ledger_of.ledger} == {(f"Bearer {SECRET}",)}


@pytest.mark.parametrize("way", ALL_WAYS)
def test_a_header_of_its_own_with_the_bare_token(way: str) -> None:
    auth = BearerAuth(SECRET, header="X-BBK-Auth-Token", scheme="")
    with ProbeServer(OpaqueVerifier([SECRET], header="x-bbk-auth-token", scheme=""), TLS) as server:
        for _ in range(2):
            ends = try_all(way, server.target, server.channel_credentials(), auth, timeout=PATIENCE)
            assert codes(ends) == everywhere(way, OK)

        assert {tuple(attempt.header_values) for attempt in server.ledger} == {(SECRET,)}
        assert not any(key == "authorization" for attempt in server.ledger for key, _ in attempt.metadata)


@pytest.mark.parametrize("way", EXPLAINING)
def test_metadata_under_authorization_stays_beside_a_header_of_our_own(way: str) -> None:
    auth = BearerAuth(SECRET, header="x-bbk-auth-token", scheme="")
    with ProbeServer(OpaqueVerifier([SECRET], header="x-bbk-auth-token", scheme=""), TLS) as server:
        shape = grpc.aio.Metadata(THEIRS) if way.startswith("aio.") else [THEIRS]
        ends = _each_kind(way, server, auth, lambda: shape)

        assert codes(ends) == everywhere(way, OK)
        assert {tuple(_ours(attempt)) for attempt in server.ledger} == {(f"Bearer {OTHER}",)}
        assert {tuple(attempt.header_values) for attempt in server.ledger} == {(SECRET,)}


def test_somebody_else_s_plugin_or_call_credentials_are_answered_with_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="composite_channel_credentials"):
        grpc_bearer.secure_channel("localhost:1", auth=grpc.access_token_call_credentials("t"))
    with pytest.raises(ConfigurationError, match="metadata_call_credentials"):
        grpc_bearer.secure_channel("localhost:1", auth=_Other())


# ------------------------------------------------------------------------------------------- sent one way or the other


class Here(grpc_bearer.Source):
    """Tells which threads have asked for its token."""

    local = True

    def __init__(self) -> None:
        self.asking: list[str] = []

    def key(self, context: grpc_bearer.CallContext) -> Any:
        self.asking.append(threading.current_thread().name)
        return ()

    def fetch(self, context: grpc_bearer.CallContext) -> grpc_bearer.Token:
        return grpc_bearer.Token(SECRET)


@pytest.mark.parametrize("way", ["secure_channel", "intercept_channel", "wrap_stub"])
def test_once_core_has_proven_a_channel_the_token_goes_without_the_plugin(way: str, ledger_of: ProbeServer) -> None:
    """How it went out shows in who made it: a single-use token is made by whoever asks for it."""
    here = Here()
    with SYNC_WAYS[way](ledger_of.target, ledger_of.channel_credentials(), BearerAuth(here)) as stub:
        stub.Unary(ProbeRequest(), timeout=PATIENCE)
        cold = set(here.asking)
        here.asking.clear()
        for _ in range(20):
            stub.Unary(ProbeRequest(), timeout=PATIENCE)

    me = threading.current_thread().name
    assert cold - {me}
    assert set(here.asking) == {me}


def test_xds_credentials_are_never_proven(ledger_of: ProbeServer) -> None:
    """Their control plane may change what protects the channel at any time, so core is asked each time."""
    here = Here()
    tls = ledger_of.channel_credentials()
    assert tls is not None
    with grpc_bearer.secure_channel(ledger_of.target, _xds(tls), auth=here) as channel:
        stub = ProbeStub(channel)
        for _ in range(5):
            stub.Unary(ProbeRequest(), timeout=PATIENCE)

    assert len(set(here.asking) - {threading.current_thread().name}) == 5  # each on a thread of core's
    assert ledger_of.ledger.tokens == [SECRET]
