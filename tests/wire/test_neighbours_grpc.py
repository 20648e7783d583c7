"""gRPC's own clients for health checking and reflection, over our channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import pytest

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer.testing import ProbeServer, TokenServer

# Not installed; or, with the oldest protobuf that is supported, too new for it.
pytest.importorskip("grpc_health.v1.health_pb2", reason="no grpcio-health-checking", exc_type=ImportError)
pytest.importorskip("grpc_reflection.v1alpha.reflection_pb2", reason="no grpcio-reflection", exc_type=ImportError)

from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

PROBE = "grpc_bearer.testing.v1.Probe"
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def servicer() -> health.HealthServicer:
    made = health.HealthServicer()
    made.set(PROBE, SERVING)
    return made


@pytest.fixture
def bearer_services(servicer: health.HealthServicer) -> Sequence[Callable[[grpc.Server], None]]:
    return [
        lambda server: health_pb2_grpc.add_HealthServicer_to_server(servicer, server),
        lambda server: reflection.enable_server_reflection((PROBE, reflection.SERVICE_NAME), server),
    ]


def test_the_health_of_a_service_that_wants_a_token(
    bearer_channel: grpc.Channel, bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer
) -> None:
    stub = health_pb2_grpc.HealthStub(bearer_channel)

    assert stub.Check(health_pb2.HealthCheckRequest(service=PROBE), timeout=20).status == SERVING
    assert bearer_grpc_server.ledger[0].method == "/grpc.health.v1.Health/Check"
    assert bearer_grpc_server.ledger.tokens == bearer_token_server.issued


def test_watching_health_is_a_stream_that_the_test_ends(
    bearer_channel: grpc.Channel, bearer_grpc_server: ProbeServer, servicer: health.HealthServicer
) -> None:
    watch = health_pb2_grpc.HealthStub(bearer_channel).Watch(health_pb2.HealthCheckRequest(service=PROBE), timeout=20)

    assert next(watch).status == SERVING
    servicer.set(PROBE, health_pb2.HealthCheckResponse.NOT_SERVING)
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    assert watch.code() is grpc.StatusCode.CANCELLED


def test_a_watch_begun_with_a_revoked_token_begins_anew(
    bearer_channel: grpc.Channel, bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer
) -> None:
    stub = health_pb2_grpc.HealthStub(bearer_channel)
    stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
    bearer_token_server.revoke(*bearer_token_server.issued)

    watch = stub.Watch(health_pb2.HealthCheckRequest(service=PROBE), timeout=20)

    assert next(watch).status == SERVING
    watch.cancel()
    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, False, True]


async def test_the_health_stub_over_asyncio(bearer_grpc_server: ProbeServer, bearer_auth: BearerAuth) -> None:
    credentials = bearer_grpc_server.channel_credentials()
    async with grpc_bearer.aio.secure_channel(bearer_grpc_server.target, credentials, auth=bearer_auth) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=PROBE), timeout=20)
        unknown = [each.status async for each in _first(stub.Watch(health_pb2.HealthCheckRequest(service="nobody")))]

    assert answer.status == SERVING
    assert unknown == [health_pb2.HealthCheckResponse.SERVICE_UNKNOWN]


async def _first(call: Any) -> Any:
    async for message in call:
        yield message
        call.cancel()
        return


def test_reflection_describes_the_service_through_our_channel(
    bearer_channel: grpc.Channel, bearer_grpc_server: ProbeServer
) -> None:
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    database = ProtoReflectionDescriptorDatabase(bearer_channel)

    assert set(database.get_services()) == {PROBE, reflection.SERVICE_NAME}
    service = DescriptorPool(database).FindServiceByName(PROBE)
    assert [method.name for method in service.methods] == ["Unary", "ServerStream", "ClientStream", "BidiStream"]
    assert {attempt.accepted for attempt in bearer_grpc_server.ledger} == {True}


def test_without_a_token_reflection_is_refused(bearer_grpc_server: ProbeServer) -> None:
    with bearer_grpc_server.channel() as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        answers = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        with pytest.raises(grpc.RpcError, match="no authorization header"):
            next(answers)
