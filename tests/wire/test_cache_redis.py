"""Redis itself: kinds of clients, a server that dies, hangs and comes back, and a lock whose holder was killed."""

from __future__ import annotations

import functools
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _redis import BINARY, RedisServer, free_port, redis_server, wait_for
from attachments import asking, eventually

from grpc_bearer import BearerAuth, ConfigurationError, SharedCache, Token
from grpc_bearer.cache import _bounded
from grpc_bearer.cache._bounded import CircuitBreaker, OutOfOrderError, in_time
from grpc_bearer.testing import CA

redis = pytest.importorskip("redis", reason="no redis-py here")

KEY = os.urandom(32)


@pytest.fixture(scope="module")
def running() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
def server(running: RedisServer) -> RedisServer:
    running.command("FLUSHALL")
    return running


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The clients that a test makes belong to it: left to the garbage collector, their sockets count as forgotten."""
    made: weakref.WeakSet[Any] = weakref.WeakSet()
    make = redis.Redis.__init__

    def making(self: Any, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        made.add(self)

    with monkeypatch.context() as patched:
        patched.setattr(redis.Redis, "__init__", making)
        yield
    for client in list(made):
        client.close()


class Counting:
    def __init__(self, prefix: str = "t", lifetime: float = 600.0) -> None:
        self.calls, self.prefix, self.lifetime = 0, prefix, lifetime

    def __call__(self) -> Token:
        self.calls += 1
        return Token(f"{self.prefix}{self.calls}", time.time() + self.lifetime)


def cache_in(store: object, **options: Any) -> SharedCache:
    return SharedCache(store, **{"encryption_key": KEY, "name": "test", "timeout": 10.0, "spread": 0.0} | options)


def two_values(store: object, **options: Any) -> list[str]:
    counting = Counting()
    return [BearerAuth(counting, cache=cache_in(store, **options)).token().value for _ in range(2)]


# ------------------------------------------------------------------------------------------------------------ clients


def test_any_blocking_client_will_do(server: RedisServer) -> None:
    makers = [
        redis.Redis(port=server.port),
        redis.Redis(port=server.port, decode_responses=True),
        functools.partial(redis.Redis, port=server.port),
        lambda: redis.Redis(port=server.port, protocol=3),
        server.url,
    ]
    for maker in makers:
        server.command("FLUSHALL")
        assert two_values(maker) == ["t1", "t1"]


def test_a_client_with_tls_and_a_password(tmp_path: Path) -> None:
    ca, port = CA(), free_port()
    key, certificate = ca.issue("localhost").write(tmp_path)
    root = ca.write(tmp_path)
    files = {"cert-file": certificate, "key-file": key, "ca-cert-file": root, "port": port, "auth-clients": "no"}
    options = [part for name, value in files.items() for part in (f"--tls-{name}", str(value))]
    with redis_server(*options, "--requirepass", "s3cret-password"):
        client = redis.Redis(host="localhost", port=port, ssl=True, ssl_ca_certs=str(root), password="s3cret-password")
        assert two_values(client) == ["t1", "t1"]
        assert two_values(f"rediss://:s3cret-password@localhost:{port}?ssl_ca_certs={root}", name="other") == ["t1"] * 2
        assert two_values(f"rediss://:wrong@localhost:{port}?ssl_ca_certs={root}") == ["t1", "t2"]


def test_a_client_by_way_of_sentinel(server: RedisServer, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nsentinel monitor fleet 127.0.0.1 {server.port} 1\n")
    sentinel = subprocess.Popen([str(BINARY), str(config), "--sentinel"], stdout=subprocess.DEVNULL)
    try:
        wait_for(port)
        client = redis.sentinel.Sentinel([("127.0.0.1", port)]).master_for("fleet")
        assert two_values(client) == ["t1", "t1"]
    finally:
        sentinel.kill()
        sentinel.wait()


def test_the_client_of_a_url_is_closed_when_the_cache_goes(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []  # so that it is not the garbage collector who closes it
    make = redis.Redis.from_url
    monkeypatch.setattr(redis.Redis, "from_url", lambda *given, **how: kept.append(make(*given, **how)) or kept[-1])
    cache = cache_in(server.url)
    BearerAuth(Counting(), cache=cache).token()
    number = str(kept[0].client_id())

    def connected() -> bool:
        return f"id={number} " in str(server.command("CLIENT", "LIST"))

    assert connected()
    del cache

    assert eventually(lambda: gc.collect() >= 0 and not connected())


def test_an_asyncio_client_is_refused() -> None:
    import redis.asyncio

    with pytest.raises(ConfigurationError, match="asyncio Redis client; give the blocking one"):
        SharedCache(redis.asyncio.Redis())


def test_a_url_that_redis_does_not_understand_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="does not understand") as caught:
        SharedCache("redis://:s3cret@host:port/0")

    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(SharedCache("redis://:s3cret@127.0.0.1:1/0"))


def test_all_keys_of_an_entry_live_on_one_node_of_a_cluster_and_end_by_themselves(server: RedisServer) -> None:
    BearerAuth(Counting(lifetime=100.0), cache=cache_in(server.url)).token()
    with redis.Redis(port=server.port) as client:
        keys = {key.decode(): client.pttl(key) for key in client.keys("*")}

    assert {key.rpartition(":")[2] for key in keys} == {"entry", "fence"}
    assert len({key[key.index("{") : key.index("}")] for key in keys}) == 1
    lives = {key.rpartition(":")[2]: life for key, life in keys.items()}
    assert 90_000 < lives["entry"] <= 100_000
    assert lives["fence"] > 0


def test_nothing_in_redis_shows_the_token_or_the_name(server: RedisServer) -> None:
    BearerAuth(lambda: Token("s3cret-s3cret", time.time() + 60), cache=cache_in(server.url, name="billing")).token()
    with redis.Redis(port=server.port) as client:
        seen = b"".join(b"".join([key, *client.hgetall(key).values()]) for key in client.keys("*:entry"))

    assert b"s3cret" not in seen
    assert b"billing" not in seen


def test_a_real_cluster_of_one_node(tmp_path: Path) -> None:
    with redis_server("--cluster-enabled", "yes", "--dir", str(tmp_path)) as server:
        server.command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        deadline = time.monotonic() + 20
        while "cluster_state:ok" not in str(server.command("CLUSTER", "INFO")):
            assert time.monotonic() < deadline
            time.sleep(0.02)

        assert two_values(redis.cluster.RedisCluster(host="127.0.0.1", port=server.port)) == ["t1", "t1"]
        with pytest.raises(ConfigurationError, match="encoding="):
            cache_in(redis.cluster.RedisCluster(host="127.0.0.1", port=server.port, encoding="utf-16"))
        with pytest.raises(ConfigurationError, match="a Redis pipeline"):
            cache_in(redis.cluster.RedisCluster(host="127.0.0.1", port=server.port).pipeline())


@pytest.mark.parametrize("key", ["entry", "lock", "fence"])
@pytest.mark.parametrize("junk", ["string", "list", "hash", "huge"])
def test_junk_in_the_place_of_any_key_fails_nothing(server: RedisServer, key: str, junk: str) -> None:
    counting, cache = Counting(), cache_in(server.url, patience=0.2)
    BearerAuth(counting, cache=cache).token()
    with redis.Redis(port=server.port) as client:
        (entry,) = client.keys("*:entry")
        name = entry.decode().removesuffix("entry") + key
        client.delete(name)
        if junk == "string":
            client.set(name, "junk")
        elif junk == "list":
            client.rpush(name, "junk")
        elif junk == "hash" or key == "entry":
            client.hset(name, mapping={"number": "9" * 15 if junk == "hash" else "9" * 40, "blob": "AAAA", "at": "x"})
        else:
            client.set(name, "9" * 40)

    values = [BearerAuth(counting, cache=cache_in(server.url, patience=0.2)).token().value for _ in range(3)]

    if key == "lock" and junk in ("list", "hash"):  # the server does not read it as a text: each goes on without
        assert values == ["t2", "t3", "t4"]
    else:
        assert values == ["t2" if key == "entry" else "t1"] * 3


def test_a_lock_that_would_stay_for_ever_is_none(server: RedisServer) -> None:
    counting = Counting()
    BearerAuth(counting, cache=cache_in(server.url)).token()
    with redis.Redis(port=server.port) as client:
        (entry,) = client.keys("*:entry")
        client.delete(entry)
        client.set(entry.decode().removesuffix("entry") + "lock", "junk")

    began = time.monotonic()
    values = [BearerAuth(counting, cache=cache_in(server.url)).token().value for _ in range(2)]

    assert values == ["t2", "t2"]
    assert time.monotonic() - began < 20  # of the 60 for which a holder is waited for


# ------------------------------------------------------------------------------------------------------------ trouble


def test_a_server_that_is_not_there_costs_sharing_and_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as server:
        pass
    cache, counting = cache_in(server.url, timeout=0.25), Counting()
    began = time.monotonic()

    with caplog.at_level(logging.INFO, "grpc_bearer"):
        values = [BearerAuth(counting, cache=cache).token().value for _ in range(50)]

    assert values == [f"t{number}" for number in range(1, 51)]
    assert time.monotonic() - began < 10  # a guard against fifty waits
    assert [record.getMessage() for record in caplog.records] == [
        "the shared cache (Redis, by URL) is out of order: ConnectionError; going on without it"
    ]


def test_a_server_that_hangs_is_not_waited_for_even_if_its_client_would(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = redis.Redis(port=server.port)  # without any timeout of its own
    client.ping()
    cache, counting = cache_in(client, timeout=0.1), Counting()
    server.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with caplog.at_level(logging.INFO, "grpc_bearer"):
            values = [BearerAuth(counting, cache=cache).token().value for _ in range(3)]
        took = time.monotonic() - began
    finally:
        server.signal(signal.SIGCONT)

    assert values == ["t1", "t2", "t3"]
    assert took < 30  # and not for ever
    assert [record.getMessage() for record in caplog.records] == [
        "the shared cache (Redis, by a client) is out of order: no answer within 100 ms; going on without it"
    ]


def test_a_lock_that_was_granted_too_late_is_given_back(server: RedisServer) -> None:
    class Slow:
        """A client whose first lock takes too long, as on a bad network."""

        def __init__(self) -> None:
            self.inner, self.gate, self.late = redis.Redis(port=server.port), threading.Event(), 0

        def eval(self, script: str, *arguments: object) -> object:
            answer = self.inner.eval(script, *arguments)
            if "FENCE" not in script and "return number" in script and not self.late:
                self.late = 1
                self.gate.wait(20)
            return answer

    slow, counting = Slow(), Counting()
    assert BearerAuth(counting, cache=cache_in(slow, timeout=0.1)).token().value == "t1"
    slow.gate.set()
    deadline = time.monotonic() + 3  # less than the lease
    while server.command("KEYS", "*:lock"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_comes_back_is_used_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_bounded, "PAUSE", (0.01, 0.01))
    with redis_server() as server, caplog.at_level(logging.INFO, "grpc_bearer"):
        cache, counting = cache_in(server.url), Counting()
        assert BearerAuth(counting, cache=cache).token().value == "t1"
        server.stop()
        alone = [BearerAuth(counting, cache=cache).token().value for _ in range(2)]
        server.start()
        time.sleep(0.05)  # longer than the pauses above
        together = [BearerAuth(counting, cache=cache).token().value for _ in range(2)]

    assert (alone, together) == (["t2", "t3"], ["t4", "t4"])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_the_pause_after_a_failure_grows_and_one_success_ends_it() -> None:
    now = [0.0]
    breaker = CircuitBreaker("test", 5.0, monotonic=lambda: now[0])

    def fail() -> None:
        raise OSError(5, "s3cret")

    pauses = []
    for _ in range(10):
        with pytest.raises(OutOfOrderError):
            breaker.bounded(fail)
        with pytest.raises(OutOfOrderError):
            breaker.bounded(lambda: pytest.fail("asked during the pause"))
        pauses.append(breaker._again_at - now[0])
        now[0] = breaker._again_at

    assert 0.5 <= pauses[0] <= 1.5
    assert all(15 <= pause <= 45 for pause in pauses[5:])
    assert breaker.bounded(lambda: "well") == "well"
    assert not breaker.exhausted


class Waiter:
    """Something that ends after so many seconds of a clock moved by hand, on which each wait takes `lag` more."""

    def __init__(self, ends_at: float, lag: float = 0.0) -> None:
        self.now, self.ends_at, self.lag = 0.0, ends_at, lag

    def wait(self, seconds: float) -> bool:
        self.now = min(self.now + seconds, max(self.ends_at, self.now)) + self.lag
        return self.now >= self.ends_at


def test_a_step_has_its_time_and_no_more() -> None:
    prompt, slow = Waiter(0.7), Waiter(30.0)

    assert in_time(prompt.wait, 1.0, lambda: prompt.now)
    assert not in_time(slow.wait, 1.0, lambda: slow.now)
    assert slow.now == pytest.approx(1.0)


def test_time_in_which_the_process_does_not_get_to_run_counts_little_but_it_counts() -> None:
    starved, lost = Waiter(4.0, lag=0.3), Waiter(3600.0, lag=0.9)

    assert in_time(starved.wait, 1.0, lambda: starved.now)
    assert not in_time(lost.wait, 1.0, lambda: lost.now)
    assert _bounded.STRETCH <= lost.now <= _bounded.STRETCH + 1


def test_only_so_many_steps_hang_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bounded, "PAUSE", (0.0, 0.0))
    gate, begun = threading.Event(), []
    breaker = CircuitBreaker("test", 0.02)

    def hang() -> None:
        begun.append(1)
        gate.wait(20)

    for _ in range(10):
        with pytest.raises(OutOfOrderError):
            breaker.bounded(hang)
    assert len(begun) == _bounded.HANGING

    gate.set()
    deadline = time.monotonic() + 10
    while True:
        try:
            assert breaker.bounded(lambda: "well") == "well"
            break
        except OutOfOrderError:
            assert time.monotonic() < deadline


def test_what_hangs_in_a_parent_does_not_count_in_its_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bounded, "PAUSE", (0.0, 0.0))
    gate = threading.Event()
    breaker = CircuitBreaker("test", 0.02)
    for _ in range(_bounded.HANGING + 1):
        with pytest.raises(OutOfOrderError):
            breaker.bounded(lambda: gate.wait(20))

    monkeypatch.setattr(os, "getpid", lambda: -1)  # as a fork would change it

    assert breaker.bounded(lambda: "well") == "well"
    gate.set()


# ------------------------------------------------------------------------------------------------------ killed holders


def test_a_killed_holders_lock_runs_out_and_another_takes_it(server: RedisServer) -> None:
    script = """
        import sys, time
        from grpc_bearer import BearerAuth, SharedCache
        def hang():
            print("held", flush=True)
            time.sleep(600)
        cache = SharedCache(sys.argv[1], encryption_key=bytes.fromhex(sys.argv[2]), name="test", timeout=10.0)
        BearerAuth(hang, cache=cache).token()
    """
    command = [sys.executable, "-c", textwrap.dedent(script), server.url, KEY.hex()]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    counting = Counting()
    auths = [BearerAuth(counting, cache=cache_in(server.url)) for _ in range(4)]
    waiting = [asking(auth) for auth in auths]
    began = time.monotonic()

    holder.kill()
    holder.communicate()

    assert {future.result(20).value for future in waiting} == {"t1"}
    assert counting.calls == 1
    assert time.monotonic() - began < 16  # a lease, and something: of the 20 that were waited for


def test_the_lock_of_a_holder_that_is_slow_but_alive_is_kept(server: RedisServer) -> None:
    gate, asked = threading.Event(), threading.Event()

    def slow() -> Token:
        asked.set()
        gate.wait(30)
        return Token("slow", time.time() + 60)

    first = BearerAuth(slow, cache=cache_in(server.url))
    second = BearerAuth(Counting("other"), cache=cache_in(server.url, patience=60.0))
    held = asking(first)
    assert asked.wait(20)
    waiting = asking(second)
    time.sleep(5.6)  # longer than a lease: the point is that it is real time on the server

    gate.set()

    assert (held.result(20).value, waiting.result(20).value) == ("slow", "slow")


ACL = "+eval +time +get +set +del +pttl +pexpire +type +hset +hget +hmget"


class TestWhatOthersLeaveInRedis:
    def _keys(self, server: RedisServer) -> dict[str, str]:
        two_values(server.url)
        found: Any = server.command("KEYS", "grpc-bearer:*")
        return {name.rpartition(":")[2]: name for name in map(bytes.decode, found)}

    @pytest.mark.parametrize("value", ["somebody", "failed"])
    def test_a_lock_ten_years_long_delays_nobody(self, server: RedisServer, value: str) -> None:
        keys = self._keys(server)
        server.command("DEL", keys["entry"])
        server.command("SET", keys["entry"].replace(":entry", ":lock"), value, "EX", "315360000")

        began = time.monotonic()
        assert two_values(server.url, patience=3600.0) == ["t1", "t1"]

        assert time.monotonic() - began < 3600 / 2

    @pytest.mark.parametrize("fence", ["nan", "-nan", "inf", "-inf", "1e400", "0x10", "many"])
    def test_a_fence_that_is_no_number_keeps_nobody_out(self, server: RedisServer, fence: str) -> None:
        keys = self._keys(server)
        server.command("SET", keys["fence"], fence)
        server.command("DEL", keys["entry"])

        assert two_values(server.url) == ["t1", "t1"]
        assert two_values(server.url) == ["t1", "t1"]
        kept: Any = server.command("GET", keys["fence"])
        assert abs(int(kept) - time.time() * 1000) < 86_400_000


class TestWhatTheServerRefuses:
    def _as(self, server: RedisServer, *rules: str) -> str:
        server.command("ACL", "SETUSER", "bearer", "reset", "on", ">s3cret-pw", *rules)
        return server.url.replace("redis://", "redis://bearer:s3cret-pw@")

    def test_the_rights_in_the_guide_are_enough(self, server: RedisServer) -> None:
        guide = (Path(__file__).parents[2] / "docs" / "guides" / "fleet.md").read_text()
        assert f"~grpc-bearer:* -@all {ACL}\n" in guide

        url = self._as(server, "resetkeys", "~grpc-bearer:*", "-@all", *ACL.split())
        assert two_values(url) == ["t1", "t1"]

    @pytest.mark.parametrize("missing", ACL.split())
    def test_without_one_of_them_the_log_says_noperm(
        self, server: RedisServer, missing: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = self._as(server, "~grpc-bearer:*", "-@all", *(right for right in ACL.split() if right != missing))
        with caplog.at_level(logging.WARNING, "grpc_bearer"):
            two_values(url)
        if missing not in ("+hget", "+hmget", "+pexpire", "+del"):  # those are for entries that are there already
            assert "out of order: NOPERM" in caplog.text
        assert "s3cret-pw" not in caplog.text

    def test_a_wrong_password_and_a_full_server_have_their_words_too(
        self, server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = self._as(server, "~*", "+@all").replace("s3cret-pw", "other-pw")
        with caplog.at_level(logging.WARNING, "grpc_bearer"):
            assert two_values(url) == ["t1", "t2"]
            assert "WRONGPASS" in caplog.text
            caplog.clear()
            server.command("CONFIG", "SET", "maxmemory", "1")
            try:
                two_values(server.url)
            finally:
                server.command("CONFIG", "SET", "maxmemory", "0")
        assert "out of order: OOM" in caplog.text
        assert "other-pw" not in caplog.text

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "cp037", "no-such"])
    def test_clients_that_cannot_serve_are_refused_when_built(self, server: RedisServer, encoding: str) -> None:
        client = redis.Redis(port=server.port)
        with pytest.raises(ConfigurationError, match="a Redis pipeline"):
            cache_in(client.pipeline())
        with pytest.raises(ConfigurationError, match="encoding="):
            cache_in(redis.Redis(port=server.port, encoding=encoding))
        with pytest.raises(ConfigurationError, match="encoding="):
            cache_in(f"{server.url}?encoding={encoding}")
        assert two_values(redis.Redis(port=server.port, encoding="latin-1")) == ["t1", "t1"]

    def test_a_function_that_brings_one_is_told_of_in_the_log(
        self, server: RedisServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING, "grpc_bearer"):
            assert two_values(lambda: redis.Redis(port=server.port).pipeline()) == ["t1", "t2"]
        assert "out of order: a Redis pipeline, which answers later; give the client" in caplog.text
