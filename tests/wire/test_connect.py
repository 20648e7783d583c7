"""connectrpc's clients: gRPC against gRPC's own server, Connect and gRPC-Web against connectrpc's, all over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from _refusing import EXPECTED, Place, Seen, requests
from attachments import PATIENCE, TLS

from grpc_bearer import BearerAuth, RetryPolicy
from grpc_bearer.errors import ConfigurationError, InsecureChannelError, TokenRejectedError, TokenUnavailableError
from grpc_bearer.events import CallRetried
from grpc_bearer.testing import ProbeReply, ProbeRequest, Refuse

pytest.importorskip("connectrpc", reason="no connectrpc here (it needs Python 3.11)")
pytest.importorskip("connectrpc.compat", reason="this connectrpc is too old")
pytest.importorskip("hypercorn", reason="no hypercorn here, to serve connectrpc's applications")

import hypercorn.asyncio
import hypercorn.config
from connectrpc.client import ConnectClient, ConnectClientSync
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_codecs
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from connectrpc.server import ConnectASGIApplication, Endpoint
from pyqwest import Client, HTTPTransport, HTTPVersion, SyncClient, SyncHTTPTransport

import grpc_bearer.connect

SERVICE = "grpc_bearer.testing.v1.Probe"


def _method(name: str, kind: StreamType) -> Any:
    return MethodInfo(
        name=name,
        service_name=SERVICE,
        input=ProbeRequest,
        output=ProbeReply,
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=kind,
    )


UNARY = _method("Unary", StreamType.UNARY)
SERVER_STREAM = _method("ServerStream", StreamType.SERVER_STREAM)
CLIENT_STREAM = _method("ClientStream", StreamType.CLIENT_STREAM)
BIDI_STREAM = _method("BidiStream", StreamType.BIDI_STREAM)


def _seen(*replies: Any) -> Seen:
    return list(replies[-1].indexes), len(replies)


SYNC: dict[str, Callable[..., Seen]] = {
    "Unary": lambda client, **how: _seen(
        client.execute_unary(request=ProbeRequest(index=1), method=UNARY, timeout_ms=20_000, **how)
    ),
    "ServerStream": lambda client, **how: _seen(
        *client.execute_server_stream(
            request=ProbeRequest(index=1, replies=3), method=SERVER_STREAM, timeout_ms=20_000, **how
        )
    ),
    "ClientStream": lambda client, **how: _seen(
        client.execute_client_stream(request=iter(requests()), method=CLIENT_STREAM, timeout_ms=20_000, **how)
    ),
    "BidiStream": lambda client, **how: _seen(
        *client.execute_bidi_stream(request=iter(requests()), method=BIDI_STREAM, timeout_ms=20_000, **how)
    ),
}


async def _requests() -> AsyncIterator[ProbeRequest]:
    for request in requests():
        yield request


async def _aio(client: Any, kind: str, **how: Any) -> Seen:
    how["timeout_ms"] = 20_000
    if kind == "Unary":
        return _seen(await client.execute_unary(request=ProbeRequest(index=1), method=UNARY, **how))
    if kind == "ClientStream":
        return _seen(await client.execute_client_stream(request=_requests(), method=CLIENT_STREAM, **how))
    if kind == "ServerStream":
        request = ProbeRequest(index=1, replies=3)
        replies = client.execute_server_stream(request=request, method=SERVER_STREAM, **how)
    else:
        replies = client.execute_bidi_stream(request=_requests(), method=BIDI_STREAM, **how)
    return _seen(*[reply async for reply in replies])


class Calls:
    """Makes calls of one side, sync or asyncio, by one protocol."""

    def __init__(self, side: str, protocol: ProtocolType) -> None:
        self.side, self.protocol = side, protocol

    def make(self, target: str, kind: str, auth: Any, headers: Any = None, **how: Any) -> Seen:
        options: dict[str, Any] = {
            "protocol": self.protocol,
            "codec": google_protobuf_binary_codec(),
            "send_compression": None,
            "auth": auth,
            **how,
        }
        address, tls = f"https://{target}", {"tls_ca_cert": TLS.pem, "http_version": HTTPVersion.HTTP2}
        if self.side == "sync":
            with SyncHTTPTransport(**tls) as transport:
                client = grpc_bearer.connect.client(
                    ConnectClientSync, address, http_client=SyncClient(transport), **options
                )
                return SYNC[kind](client, headers=headers)

        async def main() -> Seen:
            async with HTTPTransport(**tls) as transport:
                client = grpc_bearer.connect.client(ConnectClient, address, http_client=Client(transport), **options)
                return await asyncio.wait_for(_aio(client, kind, headers=headers), PATIENCE)

        return asyncio.run(main())

    def error(self, *args: Any, **how: Any) -> ConnectError:
        with pytest.raises(ConnectError) as caught:
            self.make(*args, **how)
        return caught.value


@pytest.fixture(params=["sync", "asyncio"])
def grpc_calls(request: pytest.FixtureRequest, here: Place) -> Calls:
    here.server.faults.clear()
    here.server.ledger.clear()
    return Calls(request.param, ProtocolType.GRPC)


def sent(here: Place) -> list[str]:
    return [attempt.token for attempt in here.server.ledger]


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


def _admitted(ctx: Any) -> None:
    if ctx.request_headers.get("authorization") != "Bearer new":
        raise ConnectError(Code.UNAUTHENTICATED, "not that one")


async def _answer(request: ProbeRequest, ctx: Any) -> ProbeReply:
    _admitted(ctx)
    return ProbeReply(indexes=[request.index])


async def _answers(request: ProbeRequest, ctx: Any) -> AsyncIterator[ProbeReply]:
    _admitted(ctx)
    for index in range(request.replies):
        yield ProbeReply(index=index, indexes=[request.index])


async def _answer_to_all(incoming: AsyncIterator[ProbeRequest], ctx: Any) -> ProbeReply:
    indexes = [request.index async for request in incoming]  # hypercorn keeps an answer back until then
    _admitted(ctx)
    return ProbeReply(indexes=indexes)


async def _answers_to_all(incoming: AsyncIterator[ProbeRequest], ctx: Any) -> AsyncIterator[ProbeReply]:
    indexes = [request.index async for request in incoming]
    _admitted(ctx)
    for index in range(len(indexes)):
        yield ProbeReply(index=index, indexes=indexes)


class App(ConnectASGIApplication[None]):
    path = f"/{SERVICE}"

    def __init__(self) -> None:
        super().__init__(
            service=None,
            endpoints=lambda _: {
                f"/{SERVICE}/Unary": Endpoint.unary(UNARY, _answer),
                f"/{SERVICE}/ServerStream": Endpoint.server_stream(SERVER_STREAM, _answers),
                f"/{SERVICE}/ClientStream": Endpoint.client_stream(CLIENT_STREAM, _answer_to_all),
                f"/{SERVICE}/BidiStream": Endpoint.bidi_stream(BIDI_STREAM, _answers_to_all),
            },
            codecs=google_protobuf_codecs(),
        )


@pytest.fixture(scope="module")
def connect_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("connect")
    key, chain = TLS.issue().write(folder)
    config = hypercorn.config.Config()
    config.certfile, config.keyfile = str(chain), str(key)
    config.bind = ["127.0.0.1:0"]
    sockets = config.create_sockets()
    (listening,) = sockets.secure_sockets
    listening.listen()  # now, so that no call comes too early
    target = f"127.0.0.1:{listening.getsockname()[1]}"
    config.bind = [f"fd://{listening.detach()}"]
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    def serve() -> None:
        with contextlib.closing(loop):
            app: Any = App()
            loop.run_until_complete(hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield target
    loop.call_soon_threadsafe(stop.set)
    thread.join(PATIENCE)


@pytest.mark.parametrize("side", ["sync", "asyncio"])
@pytest.mark.parametrize("protocol", ["CONNECT", "GRPC_WEB"])
@pytest.mark.parametrize("kind", EXPECTED)
def test_every_kind_of_call_heals_by_every_protocol(connect_target: str, side: str, protocol: str, kind: str) -> None:
    tokens = iter(["old", "new"])
    calls = Calls(side, ProtocolType[protocol])

    assert calls.make(connect_target, kind, BearerAuth(lambda: next(tokens))) == EXPECTED[kind]


# --------------------------------------------------------------------------------------------------------- in the clear


@pytest.mark.parametrize("client", [ConnectClient, ConnectClientSync])
@pytest.mark.parametrize("address", ["http://api.example.com", "http://127.0.0.1:8080", "HTTP://localhost"])
def test_plaintext_is_refused_to_this_machine_too(client: Any, address: str) -> None:
    with pytest.raises(InsecureChannelError, match="allow_plaintext"):
        grpc_bearer.connect.client(client, address, auth="t0")


def test_what_is_no_client_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="client_class"):
        grpc_bearer.connect.client(object, "https://api.example.com", auth="t0")
