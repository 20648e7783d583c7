"""The clients of docs/guides/clients.md: what is called, which methods that is on the wire, and what they answer."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

#: In a list of replies: say nothing more, and end when the client does.
HOLD = "hold"
#: Makes the next token, the one that lives.
Fetch = Callable[[], str]


def nothing(fetch: Fetch) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Client:
    """One example of the page.

    Attributes:
        needs: the package; without it the test skips.
        call: an expression of names that the example leaves: what is done before and after the token is revoked.
        methods: of `call`, on the wire, in order.
        connects: likewise, of the example's own lines.
        header: and the scheme before the token.
        lines: the examples of the page that are run; that of the same name, unless given.
        background: methods that the client calls by itself, at any time.
        replies, refusals: by method; see `_server.Server`. Functions, since they need the client's messages.
        web: what web.example.com answers over HTTPS, by path.
        elsewhere: the server is another process, which the example starts: it asks `admits`.
        environment: what the client reads there.
    """

    needs: str
    call: str
    methods: tuple[str, ...]
    connects: tuple[str, ...] = ()
    header: tuple[str, str] = ("authorization", "Bearer ")
    lines: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    replies: Callable[[Fetch], Mapping[str, Any]] = nothing
    refusals: Callable[[], Mapping[str, Any]] = dict
    web: Mapping[str, str] = field(default_factory=dict)
    elsewhere: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def _ydb(fetch: Fetch) -> dict[str, Any]:
    from ydb import _apis

    def answer(response: Any, result: Any) -> list[bytes]:
        response.operation.ready, response.operation.status = True, _apis.StatusIds.SUCCESS
        response.operation.result.Pack(result)
        return [response.SerializeToString()]

    found = _apis.ydb_discovery.ListEndpointsResult()
    found.endpoints.add(address="node-1.ydb.example.com", port=2135, ssl=True)
    return {
        "ListEndpoints": answer(_apis.ydb_discovery.ListEndpointsResponse(), found),
        "ListDirectory": answer(_apis.ydb_scheme.ListDirectoryResponse(), _apis.ydb_scheme.ListDirectoryResult()),
    }


def _firestore(fetch: Fetch) -> dict[str, Any]:
    from google.cloud.firestore_v1.types import BatchGetDocumentsResponse

    name = "projects/fleet/databases/(default)/documents/robots/ada"
    answer = BatchGetDocumentsResponse({"missing": name, "read_time": {"seconds": 1}})
    return {"BatchGetDocuments": [BatchGetDocumentsResponse.serialize(answer)]}


def _pubsub(fetch: Fetch) -> dict[str, Any]:
    from google.pubsub_v1 import PublishResponse, StreamingPullResponse

    message = {"ack_id": "7", "message": {"data": b"hello", "message_id": "1"}}
    return {
        "Publish": [PublishResponse.serialize(PublishResponse(message_ids=["1"]))],
        "StreamingPull": [StreamingPullResponse.serialize(StreamingPullResponse(received_messages=[message])), HOLD],
    }


def _spanner(fetch: Fetch) -> dict[str, Any]:
    from google.cloud.spanner_v1 import PartialResultSet, Session

    field = {"name": "one", "type_": {"code": "INT64"}}
    result = PartialResultSet({"metadata": {"row_type": {"fields": [field]}}, "last": True})
    PartialResultSet.pb(result).values.add(string_value="1")
    session = Session(name="projects/p/instances/i/databases/d/sessions/s", multiplexed=True)
    return {
        "CreateSession": [Session.serialize(session)],
        "ExecuteStreamingSql": [PartialResultSet.serialize(result)],
    }


def _spark(fetch: Fetch) -> dict[str, Any]:
    from pyspark.sql.connect.proto import AnalyzePlanRequest, AnalyzePlanResponse

    def is_local(request: bytes) -> bytes:
        asked = AnalyzePlanRequest.FromString(request)
        answer = AnalyzePlanResponse(session_id=asked.session_id, server_side_session_id="s")
        answer.is_local.is_local = True
        return answer.SerializeToString()

    return {"AnalyzePlan": [is_local]}


def etcd(messages: str) -> dict[str, Any]:
    """What etcd's clients have in common, and where their messages are."""

    def replies(fetch: Fetch) -> dict[str, Any]:
        rpc = importlib.import_module(messages)
        created, event = rpc.WatchResponse(created=True), rpc.WatchResponse()
        event.events.add().kv.value = b"value"
        return {
            "Authenticate": [lambda request: rpc.AuthenticateResponse(token=fetch()).SerializeToString()],
            "Watch": [created.SerializeToString(), event.SerializeToString(), HOLD],
        }

    def refusals() -> dict[str, Any]:
        cancelled = importlib.import_module(messages).WatchResponse(
            created=True,
            canceled=True,
            watch_id=-1,
            cancel_reason="rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
        )
        return {
            "Authenticate": None,
            "Snapshot": (grpc.StatusCode.UNKNOWN, "auth: invalid auth token"),
            "Watch": [cancelled.SerializeToString(), HOLD],
            # What it says of all tokens once a user or a role was changed.
            "Put": (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old"),
        }

    # etcd3's messages were generated for an older protobuf.
    environment = {"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"} if messages == "etcd3.etcdrpc" else {}
    return {"header": ("token", ""), "replies": replies, "refusals": refusals, "environment": environment}


ETCD3, AETCD = etcd("etcd3.etcdrpc"), etcd("aetcd.rpc")

NO_METRICS = "__import__('opentelemetry.sdk.metrics.export', fromlist=['_']).MetricsData([])"
TESTS = Path(__file__).parents[1]
RAY = {
    "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS / "clients", TESTS / "_pages" / "stubs"))),
    "RAY_AUTH_MODE": "disabled",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_raylet_start_wait_time_s": "120",
}

CLIENTS = {
    "qdrant": Client("qdrant_client", "client.get_collections()", ("List",), ("List",)),
    "qdrant-asyncio": Client("qdrant_client", "await client.get_collections()", ("List",), ("List",)),
    "qdrant-function": Client("qdrant_client", "client.get_collections()", ("List",)),
    "qdrant-retry": Client("qdrant_client", "collections()", ("List",), lines=("qdrant-function", "qdrant-retry")),
    "milvus": Client("pymilvus", "client.list_collections()", ("ShowCollections",), ("Connect",)),
    "weaviate": Client(
        "weaviate",
        "articles.query.fetch_objects(limit=1)",
        ("Search",),
        web={"/v1/meta": '{"version": "1.32.0"}'},
    ),
    "otlp": Client("opentelemetry.exporter.otlp", "export()", ("Export",)),
    "otlp-metrics": Client(
        "opentelemetry.exporter.otlp", f"metrics.export({NO_METRICS})", ("Export",), lines=("otlp",)
    ),
    "authzed": Client("authzed", "client.ReadSchema(ReadSchemaRequest(), timeout=20)", ("ReadSchema",)),
    "triton": Client("tritonclient.grpc", "client.is_server_live()", ("ServerLive",)),
    "dgraph": Client("pydgraph", "client.check_version()", ("CheckVersion",)),
    "dapr": Client(
        "dapr",
        "client.get_secret('store', 'key')",
        ("GetSecret",),
        header=("dapr-api-token", ""),
        web={"/v1.0/healthz/outbound": ""},
        environment={"DAPR_HTTP_ENDPOINT": "https://web.example.com"},
    ),
    "durabletask": Client("durabletask", "client.get_orchestration_state('7')", ("GetInstance",)),
    "zeebe": Client("pyzeebe", "await client.topology()", ("Topology",)),
    "ydb": Client(
        "ydb",
        "client.list_directory('/local')",
        ("ListDirectory",),
        ("ListEndpoints",),
        header=("x-ydb-auth-ticket", ""),
        replies=_ydb,
        environment={"YDB_SSL_ROOT_CERTIFICATES_FILE": "ca.pem"},
    ),
    "firestore": Client(
        "google.cloud.firestore",
        "db.document('robots/ada').get()",
        ("BatchGetDocuments",),
        ("BatchGetDocuments",),
        replies=_firestore,
    ),
    "pubsub": Client(
        "google.cloud.pubsub_v1", "publisher.publish(topic, b'hello').result(20)", ("Publish",), replies=_pubsub
    ),
    "spanner": Client(
        "google.cloud.spanner",
        "rows()",
        ("ExecuteStreamingSql",),
        ("CreateSession", "ExecuteStreamingSql"),
        replies=_spanner,
    ),
    "spanner-channel": Client(
        "google.cloud.spanner", "client.create_session(database='d')", ("CreateSession",), replies=_spanner
    ),
    "spanner-credentials": Client(
        "google.cloud.spanner",
        "rows()",
        ("ExecuteStreamingSql",),
        ("CreateSession", "ExecuteStreamingSql"),
        replies=_spanner,
    ),
    "bigtable": Client("google.cloud.bigtable", "table.read_row(b'ada')", ("ReadRows",), background=("PingAndWarm",)),
    "pubsub-subscriber": Client(
        "google.cloud.pubsub_v1", "received()", ("StreamingPull",), background=("ModifyAckDeadline",), replies=_pubsub
    ),
    "etcd3": Client("etcd3", "client.get('key')", ("Range",), **ETCD3),
    "etcd3-revision": Client("etcd3", "client.put('key', 'value')", ("Put",), lines=("etcd3",), **ETCD3),
    "etcd3-snapshot": Client("etcd3", "client.snapshot(io.BytesIO())", ("Snapshot",), lines=("etcd3",), **ETCD3),
    "aetcd": Client("aetcd", "await client.get(b'key')", ("Range",), **AETCD),
    "aetcd-revision": Client("aetcd", "await client.put(b'key', b'value')", ("Put",), lines=("aetcd",), **AETCD),
    "aetcd-snapshot": Client("aetcd", "await client.snapshot(io.BytesIO())", ("Snapshot",), lines=("aetcd",), **AETCD),
    "aetcd-watch": Client("aetcd", "await anext(events(b'key'))", ("Watch",), lines=("aetcd", "aetcd-watch"), **AETCD),
    "spark-connect": Client(
        "pyspark.sql.connect", "spark.range(1).isLocal()", ("AnalyzePlan",), background=("Config",), replies=_spark
    ),
    "arrow-flight": Client(
        "pyarrow.flight", "list(client.list_flights())", ("ListFlights",), replies=lambda fetch: {"ListFlights": []}
    ),
    "ray-serve": Client(
        "ray.serve",
        "stub.List(ListRequest(site='north'), timeout=60)",
        ("List",),
        lines=("ray-serve-deployment", "ray-serve"),
        elsewhere=True,
        environment=RAY,
    ),
    "milvus-asyncio": Client(
        "pymilvus", "await client.list_collections()", ("ShowCollections",), ("Connect", "ShowCollections")
    ),
    "weaviate-asyncio": Client(
        "weaviate",
        "await articles.query.fetch_objects(limit=1)",
        ("Search",),
        web={"/v1/meta": '{"version": "1.32.0"}'},
    ),
    "firestore-asyncio": Client(
        "google.cloud.firestore",
        "await db.document('robots/ada').get()",
        ("BatchGetDocuments",),
        ("BatchGetDocuments",),
        replies=_firestore,
    ),
    "authzed-asyncio": Client("authzed", "await client.ReadSchema(ReadSchemaRequest(), timeout=20)", ("ReadSchema",)),
    "triton-asyncio": Client("tritonclient.grpc", "await client.is_server_live()", ("ServerLive",)),
    "dgraph-asyncio": Client("pydgraph", "await client.check_version()", ("CheckVersion",)),
    "dapr-asyncio": Client(
        "dapr",
        "await client.get_secret('store', 'key')",
        ("GetSecret",),
        header=("dapr-api-token", ""),
        web={"/v1.0/healthz/outbound": ""},
        environment={"DAPR_HTTP_ENDPOINT": "https://web.example.com"},
    ),
    "durabletask-asyncio": Client("durabletask", "await client.get_orchestration_state('7')", ("GetInstance",)),
    "ydb-asyncio": Client(
        "ydb",
        "await client.list_directory('/local')",
        ("ListDirectory",),
        ("ListEndpoints",),
        header=("x-ydb-auth-ticket", ""),
        replies=_ydb,
        environment={"YDB_SSL_ROOT_CERTIFICATES_FILE": "ca.pem"},
    ),
    "bigtable-asyncio": Client(
        "google.cloud.bigtable", "await table.read_row(b'ada')", ("ReadRows",), background=("PingAndWarm",)
    ),
}
