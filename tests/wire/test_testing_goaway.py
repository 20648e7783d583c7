"""GOAWAY as proxies in the field send it: the control for every test of single-use tokens. And the five services."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from grpc_bearer.testing import (
    CA,
    GoawayProxy,
    OpaqueVerifier,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Services,
    private_pem,
    throwaway_key,
)

pytest.importorskip("hpack", reason="GoawayProxy needs the hpack package")
pytest.importorskip("hyperframe", reason="GoawayProxy needs the hyperframe package")

METADATA = [("authorization", "Bearer t0")]


class Minting(grpc.AuthMetadataPlugin):
    """A call credentials plugin that gives another token each time it is asked."""

    def __init__(self, tokens: list[str]) -> None:
        self.left = iter(tokens)

    def __call__(self, context: Any, callback: Any) -> None:
        callback([("authorization", f"Bearer {next(self.left)}")], None)


@pytest.fixture(params=["tls", "local"])
def server(request: pytest.FixtureRequest) -> Iterator[ProbeServer]:
    with ProbeServer(OpaqueVerifier([f"t{number}" for number in range(9)]), credentials=request.param) as running:
        yield running


def test_one_goaway_makes_core_send_a_token_in_metadata_twice(server: ProbeServer) -> None:
    with GoawayProxy(server, [0]) as proxy, proxy.channel() as channel:
        reply = ProbeStub(channel).Unary(ProbeRequest(index=7), metadata=METADATA)

    assert list(reply.indexes) == [7]
    assert [stream.values("authorization") for stream in proxy.refused] == [["Bearer t0"]]
    assert [(attempt.reason, attempt.token) for attempt in server.ledger] == [("goaway", "t0"), ("", "t0")]
    assert proxy.connections == 2


def test_one_goaway_asks_a_plugin_for_another_token(server: ProbeServer) -> None:
    with GoawayProxy(server, [0]) as proxy:
        # More than two: core may also ask for an attempt that it then does not send.
        plugin = grpc.metadata_call_credentials(Minting([f"t{number}" for number in range(9)]))
        credentials = grpc.composite_channel_credentials(proxy.channel_credentials(), plugin)
        with grpc.secure_channel(proxy.target, credentials) as channel:
            ProbeStub(channel).Unary(ProbeRequest(index=7))

    refused, accepted = server.ledger.attempts
    assert (refused.reason, accepted.reason) == ("goaway", "")
    assert refused.token != accepted.token


def test_without_retries_core_gives_up_after_a_goaway(server: ProbeServer) -> None:
    with GoawayProxy(server, [0]) as proxy, proxy.channel([("grpc.enable_retries", 0)]) as channel:
        future = ProbeStub(channel).Unary.future(ProbeRequest(), metadata=METADATA)
        assert future.code() is grpc.StatusCode.UNAVAILABLE

    assert len(proxy.refused) == 1


def test_streams_let_through_end_well_though_the_connection_is_going_away(server: ProbeServer) -> None:
    with GoawayProxy(server, [1]) as proxy, proxy.channel() as channel:
        stub = ProbeStub(channel)
        stream = stub.ServerStream(ProbeRequest(index=1, replies=2000), metadata=METADATA)
        first = next(stream)
        stub.Unary(ProbeRequest(index=2), metadata=METADATA)
        rest = list(stream)

    assert (first.index, len(rest)) == (0, 1999)
    assert len(proxy.refused) == 1


@pytest.mark.parametrize("kind", ["ClientStream", "BidiStream"])
def test_request_streams_that_are_let_through_arrive_whole(server: ProbeServer, kind: str) -> None:
    # Of a stream that was refused, core itself loses messages when it tries again (seen with 1.85.1).
    requests = [ProbeRequest(index=index, payload=b"x" * 1000) for index in range(50)]
    with GoawayProxy(server, [1]) as proxy, proxy.channel() as channel:
        replies: Any = getattr(ProbeStub(channel), kind)(iter(requests), metadata=METADATA)
        last = replies if kind == "ClientStream" else list(replies)[-1]

    assert list(last.indexes) == list(range(50))
    assert proxy.refused == []


def test_a_goaway_every_ten_calls_refuses_one_in_ten(server: ProbeServer) -> None:
    with GoawayProxy(server, itertools.repeat(10)) as proxy, proxy.channel() as channel:
        for index in range(100):
            ProbeStub(channel).Unary(ProbeRequest(index=index), metadata=METADATA)

    assert [attempt.requests for attempt in server.ledger.accepted] == [[index] for index in range(100)]
    assert len(proxy.refused) == 9


def test_large_headers_split_over_frames_are_read(server: ProbeServer) -> None:
    extra = [(f"x-{number}", f"{number}" * 3000) for number in range(1, 10)]
    with GoawayProxy(server, [0]) as proxy, proxy.channel([("grpc.max_metadata_size", 65536)]) as channel:
        future = ProbeStub(channel).Unary.future(ProbeRequest(), metadata=[*METADATA, *extra])
        # Over the server's own limit of 16 KiB; the proxy has none.
        assert future.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    assert [(name, value) for name, value in proxy.refused[0].headers if name.startswith("x-")] == extra


def test_a_proxy_before_a_server_that_is_down_hangs_up() -> None:
    server = ProbeServer(None)
    with GoawayProxy(server) as proxy, proxy.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        ProbeStub(channel).Unary(ProbeRequest(), timeout=10)
    server.stop()
    proxy.stop()

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


# --- the five services ---


def test_the_five_services_know_their_own_credentials_and_no_others(tmp_path: Path) -> None:
    with Services(tmp_path, bear_lifetime=60) as services:
        for service in services:
            with service.server.channel() as channel, pytest.raises(grpc.RpcError):
                ProbeStub(channel).Unary(ProbeRequest(), metadata=METADATA)
        reasons = {service.name: service.server.ledger[0].reason for service in services}

    assert reasons == {
        "bear": "bad signature, or no JWT at all",
        "skykit": "bad signature, or no JWT at all",
        "bitbroker": "no x-bbk-auth-token header",
        "crm": "unknown token",
        "openfx": "no such kid",
    }
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.name != "ca.pem"} == {0o600}
    assert json.loads((tmp_path / "openfx.json").read_text())["privateKey"] == private_pem(throwaway_key("ES256", 1))


def test_a_replaced_token_is_good_and_the_old_one_no_longer(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        crm = services["crm"]
        assert crm.replace_token is not None
        old = (tmp_path / "crm.token").read_text().strip()
        crm.replace_token()
        new = (tmp_path / "crm.token").read_text().strip()
        judged = [crm.verifier.verify([("authorization", f"Bearer {token}")], "/s/M").refusal for token in (old, new)]

    assert [refusal and refusal.reason for refusal in judged] == ["token revoked", None]


@pytest.mark.parametrize("name", ["bear", "skykit", "bitbroker", "crm", "openfx"])
def test_each_profile_gets_in_with_what_its_service_hands_out(tmp_path: Path, name: str) -> None:
    with Services(tmp_path) as services:
        service = services[name]
        with service.auth() as auth:
            headers = auth.headers(f"https://{service.server.target}/grpc_bearer.testing.v1.Probe", "Unary")
        with service.server.channel() as channel:
            ProbeStub(channel).Unary(ProbeRequest(index=1), metadata=list(headers.items()))

    assert len(service.server.ledger.accepted) == 1


def test_a_proxy_speaks_for_an_authority_that_the_client_must_trust() -> None:
    stranger = CA().channel_credentials()
    with (
        ProbeServer(None) as server,
        GoawayProxy(server) as proxy,
        grpc.secure_channel(proxy.target, stranger) as channel,
    ):
        code = ProbeStub(channel).Unary.future(ProbeRequest(), timeout=10).code()

    assert code is grpc.StatusCode.UNAVAILABLE
    assert len(server.ledger) == 0
