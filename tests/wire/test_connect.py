"""connectrpc's clients: gRPC against gRPC's own server, Connect and gRPC-Web against connectrpc's, all over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from _connect import HOW, SERVICE, UNARY, App, Calls, opened, sent, serving
from _refusing import EXPECTED, Place
from connectrpc.client import ConnectClient, ConnectClientSync
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.protocol import ProtocolType

import grpc_bearer.connect
from grpc_bearer import BearerAuth, RetryPolicy
from grpc_bearer.errors import ConfigurationError, InsecureChannelError, TokenRejectedError, TokenUnavailableError
from grpc_bearer.events import CallRetried
from grpc_bearer.testing import ProbeRequest, Refuse


@pytest.fixture(params=["sync", "asyncio"])
def grpc_calls(request: pytest.FixtureRequest, here: Place) -> Calls:
    here.server.faults.clear()
    here.server.ledger.clear()
    return Calls(request.param, ProtocolType.GRPC)


@pytest.mark.parametrize("kind", EXPECTED)
class TestOverGRPC:
    def test_carries_the_token(self, here: Place, grpc_calls: Calls, kind: str) -> None:
        auth = here.auth()

        assert grpc_calls.make(here.server.target, kind, auth) == EXPECTED[kind]
        assert sent(here) == here.minted(auth)

    def test_is_made_again_with_another_token(self, here: Place, grpc_calls: Calls, kind: str) -> None:
        told: list[CallRetried] = []
        auth = here.auth(observers=[lambda event: told.append(event) if isinstance(event, CallRetried) else None])
        old = here.revoke(auth)

        assert grpc_calls.make(here.server.target, kind, auth) == EXPECTED[kind]
        assert sent(here) == [old, auth.token().value]
        assert [(event.method, event.code) for event in told] == [(f"{SERVICE}/{kind}", "UNAUTHENTICATED")]

    def test_but_only_once(self, here: Place, grpc_calls: Calls, kind: str) -> None:
        here.refuse(Refuse(details="no 0"), Refuse(details="no 1"))
        error = grpc_calls.error(here.server.target, kind, here.auth())

        assert (error.code, error.message) == (Code.UNAUTHENTICATED, "no 1")
        assert isinstance(error.__cause__, TokenRejectedError)
        assert len(sent(here)) == 2

    def test_keeps_a_header_of_its_own(self, here: Place, grpc_calls: Calls, kind: str) -> None:
        here.verifier.accept("mine")
        grpc_calls.make(here.server.target, kind, here.auth(), headers={"authorization": "Bearer mine"})

        assert sent(here) == ["mine"]

    def test_with_a_policy_of_none_is_not_made_again(self, here: Place, grpc_calls: Calls, kind: str) -> None:
        here.refuse(Refuse())
        error = grpc_calls.error(here.server.target, kind, here.auth(), retry=None)

        assert isinstance(error.__cause__, TokenRejectedError)
        assert len(sent(here)) == 1


def test_once_a_message_was_delivered_the_stream_is_not_made_again(here: Place, grpc_calls: Calls) -> None:
    here.refuse(Refuse(after_replies=1))

    assert grpc_calls.error(here.server.target, "ServerStream", here.auth()).code is Code.UNAUTHENTICATED
    assert len(sent(here)) == 1


def test_a_stream_past_its_bound_is_not_made_again(here: Place, grpc_calls: Calls) -> None:
    here.refuse(Refuse(after_requests=3))
    policy = RetryPolicy(replay_messages=2)
    error = grpc_calls.error(here.server.target, "ClientStream", here.auth(), retry=policy)

    assert (error.code, len(sent(here))) == (Code.UNAUTHENTICATED, 1)


def test_a_reason_that_no_token_cures_is_shown_at_once(here: Place, grpc_calls: Calls) -> None:
    from google.rpc.error_details_pb2 import ErrorInfo

    here.refuse(Refuse(rich=ErrorInfo(reason="ACCESS_TOKEN_SCOPE_INSUFFICIENT")))
    error = grpc_calls.error(here.server.target, "Unary", here.auth())

    assert "ACCESS_TOKEN_SCOPE_INSUFFICIENT" in str(error.__cause__)
    assert len(sent(here)) == 1


def test_want_of_a_token_is_an_error_of_connectrpc_with_ours_behind_it(here: Place, grpc_calls: Calls) -> None:
    def fails() -> str:
        raise TokenUnavailableError("the vault is shut")

    error = grpc_calls.error(here.server.target, "Unary", BearerAuth(fails))

    assert error.code is Code.UNAVAILABLE
    assert isinstance(error.__cause__, TokenUnavailableError)


# -------------------------------------------------------------------------------------- against connectrpc's own server


@pytest.fixture(scope="module")
def connect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, App]]:
    with serving(tmp_path_factory.mktemp("connect")) as server:
        yield server


@pytest.mark.parametrize("side", ["sync", "asyncio"])
@pytest.mark.parametrize("protocol", ["CONNECT", "GRPC_WEB"])
@pytest.mark.parametrize("kind", EXPECTED)
def test_every_kind_of_call_heals_by_every_protocol(
    connect_server: tuple[str, App], side: str, protocol: str, kind: str
) -> None:
    target, server = connect_server
    server.heard.clear()
    auth = BearerAuth(["new", "old"].pop)
    auth.token()

    assert Calls(side, ProtocolType[protocol]).make(target, kind, auth) == EXPECTED[kind]
    assert [headers["authorization"] for headers in server.heard] == ["Bearer old", "Bearer new"]
    first, second = (int(headers[name].rstrip("m")) for headers in server.heard for name in TIMEOUTS & headers.keys())
    assert first == 20_000 > second  # the server, too, hears of the time that is left


TIMEOUTS = {"connect-timeout-ms", "grpc-timeout"}


@pytest.mark.parametrize("protocol", ["CONNECT", "GRPC_WEB"])
def test_what_connectrpc_shows_of_the_answer_is_of_the_last_attempt_alone(
    connect_server: tuple[str, App], protocol: str
) -> None:
    from connectrpc.client import ResponseMetadata

    tokens = ["new", "old"]
    with (
        opened(connect_server[0], BearerAuth(tokens.pop), ProtocolType[protocol]) as client,
        ResponseMetadata() as shown,
    ):
        client.execute_unary(request=ProbeRequest(index=1), method=UNARY)

    assert list(shown.trailers.getall("x-of")) == ["Bearer new"]


# ------------------------------------------------------------------------------- an interceptor, on somebody's client


class Watching:
    """An interceptor of the user's: sees headers before and after."""

    def __init__(self) -> None:
        self.seen: list[bool] = []

    def intercept_unary_sync(self, call_next: Any, request: Any, ctx: Any) -> Any:
        self.seen.append("authorization" in ctx.request_headers)
        try:
            return call_next(request, ctx)
        finally:
            self.seen.append("authorization" in ctx.request_headers)


@pytest.mark.parametrize("first", [True, False])
def test_an_interceptor_heals_wherever_it_stands(here: Place, first: bool) -> None:
    here.server.ledger.clear()
    auth, watching = here.auth(), Watching()
    old = here.revoke(auth)
    ours = grpc_bearer.connect.interceptor(auth, f"https://{here.server.target}/")
    with opened(here.server.target, "nobody's") as other:
        client = ConnectClientSync(
            f"https://{here.server.target}",
            interceptors=[ours, watching] if first else [watching, ours],
            http_client=other._http_client,
            protocol=ProtocolType.GRPC,
            **HOW,
        )
        client.execute_unary(request=ProbeRequest(index=1), method=UNARY, timeout_ms=20_000)

    assert sent(here) == [old, auth.token().value]
    assert watching.seen == ([True] * 4 if first else [False] * 2)


@pytest.mark.parametrize("address", ["https://127.0.0.1:1", "http://api.example.com", "https://api.example.com/v2"])
def test_an_interceptor_takes_no_token_to_another_address(address: str) -> None:
    ours = grpc_bearer.connect.interceptor("t0", "https://api.example.com")
    client = ConnectClientSync(address, interceptors=[ours], protocol=ProtocolType.GRPC, **HOW)
    with pytest.raises(ConnectError, match="leads elsewhere") as caught:
        client.execute_unary(request=ProbeRequest(index=1), method=UNARY, timeout_ms=20_000)

    assert caught.value.code is Code.UNAUTHENTICATED
    assert isinstance(caught.value.__cause__, InsecureChannelError)


# --------------------------------------------------------------------------------------------------------- in the clear


@pytest.mark.parametrize("client", [ConnectClient, ConnectClientSync])
@pytest.mark.parametrize("address", ["http://api.example.com", "http://127.0.0.1:8080", "HTTP://localhost"])
def test_plaintext_is_refused_to_this_machine_too(client: Any, address: str) -> None:
    with pytest.raises(InsecureChannelError, match="allow_plaintext"):
        grpc_bearer.connect.client(client, address, auth="t0")


NO_ADDRESSES = ["api.example.com:443", "grpcs://api.example.com", "https://", None, b"https://x"]


@pytest.mark.parametrize(
    "address", [*NO_ADDRESSES, "https://me:hunter2@api.example.com", "http://me:hunter2@localhost/a"]
)
def test_what_is_no_address_is_refused(address: Any) -> None:
    with pytest.raises(ConfigurationError, match="address") as refused:
        grpc_bearer.connect.interceptor("t0", address)
    assert "hunter2" not in str(refused.value)


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="client_class"):
        grpc_bearer.connect.client(object, "https://api.example.com", auth="t0")
