"""Spark Connect through our channel, with a real server that wants a bearer token; an auth carried to its workers.

Needs Java and `pip install 'pyspark[connect]'`, 400 MB of it. 1,000 calls; `make fleet` makes 10,000
(`GRPC_BEARER_BATCH`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from _redis import free_port
from fleet import batch
from fleet.world import World

import grpc_bearer

pyspark = pytest.importorskip("pyspark", reason="no PySpark here")
pytestmark = [
    pytest.mark.skipif(shutil.which("java") is None, reason="no Java here"),
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("default"),  # PySpark's own
]

CALLS = int(os.environ.get("GRPC_BEARER_BATCH", "1000"))
HERE = Path(__file__).parent
TOKEN = "a-token-that-the-server-was-started-with"


@pytest.fixture(scope="module")
def spark_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A Spark Connect server's port. Its workers find this folder's modules."""
    pytest.importorskip("pyspark.sql.connect.session", reason="no Spark Connect here (pip install 'pyspark[connect]')")
    folder, port = tmp_path_factory.mktemp("spark"), free_port()
    settings = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": str(port),
        "spark.connect.authenticate.token": TOKEN,
        "spark.master": "local[2]",
        "spark.driver.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.sql.artifact.isolation.enabled": "false",
        "spark.local.dir": str(folder),
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
    }
    submit = Path(pyspark.__file__).parent / "bin" / "spark-submit"
    options = [part for name, value in settings.items() for part in ("--conf", f"{name}={value}")]
    command = [
        str(submit),
        *options,
        "--class",
        "org.apache.spark.sql.connect.service.SparkConnectServer",
        "spark-internal",
    ]
    environment = {
        **os.environ,
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join(map(str, (HERE, *HERE.parents[:2]))),
    }
    environment["SPARK_LOCAL_IP"] = "127.0.0.1"
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
        try:
            _wait_for(port, server, folder / "log")
            yield port
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if server.poll() is not None or time.monotonic() > deadline:
            pytest.skip(f"the Spark Connect server did not start: {log.read_text()[-600:]}")
        time.sleep(0.1)


def session(port: int, auth: object) -> Any:
    from pyspark.sql.connect.client import DefaultChannelBuilder
    from pyspark.sql.connect.session import SparkSession

    class Bearing(DefaultChannelBuilder):
        def toChannel(self) -> grpc.Channel:  # Spark's name
            credentials = grpc.local_channel_credentials()
            return grpc_bearer.secure_channel(self.endpoint, credentials, self._channel_options, auth=auth)

    return SparkSession.builder.channelBuilder(Bearing(f"sc://127.0.0.1:{port}")).create()


def test_spark_connect_lets_in_who_has_the_token_and_nobody_else(spark_server: int) -> None:
    spark = session(spark_server, TOKEN)
    try:
        assert spark.range(100).selectExpr("sum(id)").collect()[0][0] == 4950
    finally:
        spark.stop()

    with pytest.raises(Exception, match=r"UNAUTHENTICATED|[Aa]uthenti|[Ii]nvalid.*token"):
        session(spark_server, "another-token").range(1).collect()


def test_an_auth_is_carried_to_sparks_workers(
    spark_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key").write_text("0123456789abcdef" * 2)
    with World(tmp_path) as world:
        auth = batch.make_auth(world.url, str(world.ca_file), str(tmp_path / "tokens"), str(tmp_path / "key"))
        target, root = world.server.target, world.ca.pem

        def work(frames: Any) -> Any:
            for frame in frames:
                yield frame.assign(id=[batch.call(auth, target, root, int(index)) for index in frame["id"]])

        spark = session(spark_server, TOKEN)
        try:
            total = spark.range(0, CALLS, 1, 4).mapInPandas(work, "id long").selectExpr("sum(id)").collect()[0][0]
        finally:
            spark.stop()

        assert total == CALLS * (CALLS - 1) // 2
        assert len(world.issued_at) == 1
        assert len(world.server.ledger.accepted) >= CALLS
