"""A `BearerAuth` carried by engines that others wrote: a pickle goes out, 1,000 calls come back, one exchange is made.

`make fleet` makes 10,000 (`GRPC_BEARER_BATCH`).
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from _redis import RedisServer, needs_redis, redis_server
from fleet import batch
from fleet.world import World

CALLS = int(os.environ.get("GRPC_BEARER_BATCH", "1000"))
TOTAL = CALLS * (CALLS - 1) // 2
HERE = Path(__file__).parent
WORKERS = 4

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="gRPC's fork support and process engines are POSIX's"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", ""))))
    (tmp_path / "key").write_text("0123456789abcdef" * 2)
    with World(tmp_path) as world:
        yield world


def settings(world: World) -> tuple[str, str, str, str]:
    return world.url, str(world.ca_file), str(world.folder / "tokens"), str(world.folder / "key")


def one_exchange(world: World) -> None:
    assert len(world.issued_at) == 1
    assert len(world.server.ledger.accepted) >= CALLS
    assert not world.server.ledger.refused


@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_multiprocessing_pool(world: World, start: str) -> None:
    auth = batch.make_auth(*settings(world))
    job = functools.partial(batch.call, auth, world.server.target, world.ca.pem)

    with multiprocessing.get_context(start).Pool(WORKERS) as pool:
        answers = pool.map(job, range(CALLS), chunksize=100)

    assert answers == list(range(CALLS))
    one_exchange(world)


# In a process of its own: the servers of this one have threads, which a fork would lose in the midst of their work.
FORKED = """
import functools, multiprocessing, os, sys, traceback
from pathlib import Path
from fleet import batch
import grpc
url, ca, directory, key, target, calls, workers, how = sys.argv[1:]
calls, workers, root = int(calls), int(workers), Path(ca).read_bytes()
auth = batch.make_auth(url, ca, directory, key)

def share(number):
    return range(calls * number // workers, calls * (number + 1) // workers)

def work(number):
    return sum(batch.call(auth, target, root, index) for index in share(number))

if how == "pool":
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        total = sum(pool.map(work, range(workers)))
else:
    # As a pre-forking server does: load everything, be ready, fork.
    if how == "channel":
        batch.call(auth, target, root, 0)  # the workers go on with its channel
    else:
        auth.token()
    pids = {}
    for number in range(workers):
        inlet, outlet = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                os.write(outlet, str(work(number)).encode())
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(outlet)
        pids[pid] = inlet
    total = 0
    if how == "channel":
        for index in range(100):  # so does the parent
            batch.call(auth, target, root, index)
    for pid, inlet in pids.items():
        total += int(os.read(inlet, 100) or b"0")
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0, os.waitstatus_to_exitcode(status)
print(total)
"""


@pytest.mark.parametrize(
    ("how", "fork_support"),
    [
        pytest.param("pool", "0", id="a pool under fork"),
        pytest.param("auth", "0", id="prefork, fork support off: auth in the parent, channels in the workers"),
        pytest.param("auth", "1", id="prefork, fork support on: auth in the parent, channels in the workers"),
        pytest.param(
            "channel",
            "1",
            id="prefork, fork support on: auth and channel in the parent",
            marks=pytest.mark.skipif(
                tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 82),
                reason="until 1.82 gRPC itself closes a child's copies of the parent's channels",
            ),
        ),
    ],
)
def test_workers_that_are_forked(world: World, how: str, fork_support: str) -> None:
    arguments = [*settings(world), world.server.target, str(CALLS), str(WORKERS), how]
    environment = {**os.environ, "GRPC_ENABLE_FORK_SUPPORT": fork_support, "GRPC_VERBOSITY": "ERROR"}

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )

    assert done.stdout == f"{TOTAL}\n", done.stderr
    one_exchange(world)


def test_a_dask_cluster(world: World) -> None:
    distributed = pytest.importorskip("distributed", reason="no dask.distributed here")
    auth = batch.make_auth(*settings(world))
    how = {"processes": True, "threads_per_worker": 2, "dashboard_address": None, "silence_logs": 50}

    with (
        distributed.LocalCluster(n_workers=3, **how) as cluster,
        distributed.Client(cluster) as client,
    ):
        scattered = client.scatter(auth, broadcast=True)
        job = functools.partial(batch.call, target=world.server.target, root=world.ca.pem)
        futures = client.map(lambda index, auth: job(auth, index=index), range(CALLS), auth=scattered, batch_size=500)
        answers = client.gather(futures)
        workers = len(client.scheduler_info()["workers"])

    assert answers == list(range(CALLS))
    assert workers == 3
    one_exchange(world)


@pytest.mark.filterwarnings("default")  # Ray's own
def test_rays_tasks_and_actors(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # of its own processes among each other
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "120")  # its own limits are too short for a busy machine
    monkeypatch.setenv("RAY_agent_register_timeout_ms", "120000")
    ray = pytest.importorskip("ray", reason="no Ray here (make test-clients)")
    auth = batch.make_auth(*settings(world))
    target, root = world.server.target, world.ca.pem

    def job(auth: Any, start: int, count: int) -> int:
        return batch.calls(auth, target, root, start, count)

    class Caller:
        def __init__(self, auth: Any) -> None:
            self.auth = auth

        def calls(self, start: int, count: int) -> int:
            return job(self.auth, start, count)

    count = CALLS // 20
    tasks, rest = range(0, CALLS // 2, count), range(CALLS // 2, CALLS, count)
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    try:
        task, shared = ray.remote(job), ray.put(auth)
        sums = [task.remote(shared, start, count) for start in tasks]
        actors = [ray.remote(num_cpus=0)(Caller).remote(auth) for _ in range(2)]
        sums += [actors[number % 2].calls.remote(start, count) for number, start in enumerate(rest)]
        total = sum(ray.get(sums))
    finally:
        ray.shutdown()

    assert total == TOTAL
    one_exchange(world)


CELERY = """
from celery import Celery
from fleet import batch
import os
app = Celery("fleet", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.update(
    task_serializer="pickle", accept_content=["pickle", "json"], result_serializer="json"
)

@app.task
def calls(auth, target, root, start, count):
    return batch.calls(auth, target, root, start, count)
"""


@needs_redis
def test_a_celery_worker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("celery", reason="no Celery here")
    pytest.importorskip("redis", reason="no redis-py here")
    (world.folder / "celery_app.py").write_text(textwrap.dedent(CELERY))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), str(HERE.parent), str(world.folder))))
    monkeypatch.setenv("C_FORCE_ROOT", "1")  # Celery refuses pickles for root, as CI may be
    monkeypatch.syspath_prepend(str(world.folder))
    with redis_server() as server:
        monkeypatch.setenv("BROKER", f"{server.url}/0")
        total = _by_celery(world, server)

    assert total == TOTAL
    one_exchange(world)


def _by_celery(world: World, server: RedisServer) -> int:
    auth = batch.make_auth(world.url, str(world.ca_file), f"{server.url}/1", str(world.folder / "key"))
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "celery_app", "worker", "--pool", "prefork"]
    log = (world.folder / "celery.log").open("w")
    worker = subprocess.Popen(
        [*command, "--concurrency", str(WORKERS), "--loglevel", "WARNING"], stdout=log, stderr=log
    )
    try:
        import celery_app

        count = CALLS // 100
        tasks: list[Any] = [
            celery_app.calls.delay(auth, world.server.target, world.ca.pem, start, count)
            for start in range(0, CALLS, count)
        ]
        return sum(task.get(timeout=100) for task in tasks)
    finally:
        worker.terminate()
        worker.wait(30)
        log.close()
