"""`python worker.py ORDERS`: the fleet itself. Orders are JSON; each worker leaves its report in a file of its own."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# All that a worker needs is imported before the forks, and no thread, lock or channel of gRPC is made: those are the
# children's own.
import cryptography.hazmat.primitives.ciphers.aead
import cryptography.hazmat.primitives.kdf.hkdf
import grpc
import redis
import requests
import tenacity

import grpc_bearer
from grpc_bearer.sources import _wire
from grpc_bearer.testing._pb import probe_pb2, probe_pb2_grpc

FULLY_IMPORTED = (cryptography, redis, requests, tenacity, _wire)


class Watched:
    """A store, and how often its lock was asked for and held by another."""

    def __init__(self, store: Any) -> None:
        self._store, self.leased = store, store.leased
        self.granted = self.held = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, name: str) -> Any:
        view = self._store.read(name)
        self.held += view.denied is not None
        return view

    def lock(self, name: str) -> Any:
        answer = self._store.lock(name)
        granted = not hasattr(answer, "value")
        self.granted, self.held = self.granted + granted, self.held + (not granted)
        return answer


class Endpoint(grpc_bearer.HTTPTokenSource):
    """The source, and what the endpoint failed to do: no call need notice."""

    troubles: list[str] = []  # noqa: RUF012  # one source a process

    def fetch(self, context: grpc_bearer.CallContext) -> grpc_bearer.Token:
        try:
            return super().fetch(context)
        except grpc_bearer.GrpcBearerError as error:
            self.troubles.append(str(error))
            raise


def work(orders: dict[str, Any]) -> dict[str, Any]:
    """One worker's day: a first call, then one each `every` seconds for `seconds`."""
    watched, cache = None, None
    if orders["store"]:
        cache = grpc_bearer.SharedCache(
            orders["store"], encryption_key="0123456789abcdef" * 2, name="fleet", timeout=orders["timeout"], spread=0.25
        )
        watched = cache._store = Watched(cache._store)  # type: ignore[assignment]
    source = Endpoint(
        orders["url"], body=lambda: {"pid": os.getpid()}, field="access_token", ca=orders["ca"], timeout=30.0
    )
    auth = grpc_bearer.BearerAuth(source, cache=cache)
    credentials = grpc.ssl_channel_credentials(Path(orders["ca"]).read_bytes())
    began, waits, failures = time.monotonic(), [], []
    with grpc_bearer.secure_channel(orders["target"], credentials, auth=auth) as channel:
        stub = probe_pb2_grpc.ProbeStub(channel)
        while True:
            start = time.monotonic()
            try:
                stub.Unary(probe_pb2.ProbeRequest(index=1), timeout=60)
            except grpc.RpcError as error:
                failures.append(f"{error.code().name}: {error.details()}")
            waits.append(time.monotonic() - start)
            if time.monotonic() - began + orders["every"] > orders["seconds"]:
                break
            time.sleep(max(orders["every"] - waits[-1], 0.0))
    auth.close()
    counted = {} if watched is None else {"granted": watched.granted, "held": watched.held}
    return {"waits": waits, "failures": failures, "began": began, "troubles": Endpoint.troubles, **counted}


def child(orders: dict[str, Any], ready: int, barrier: int) -> None:
    code = 70
    try:
        os.write(ready, b".")
        os.read(barrier, 1)  # until the parent closes the other end
        report = work(orders)
        (Path(orders["reports"]) / f"{os.getpid()}.json").write_text(json.dumps(report), "utf-8")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> None:
    orders = json.loads(sys.argv[1])
    ready, say_ready = os.pipe()
    barrier, let_go = os.pipe()
    pids = []
    for _ in range(orders["processes"]):
        pid = os.fork()
        if pid == 0:
            os.close(let_go)
            child(orders, say_ready, barrier)
        pids.append(pid)
    waiting = 0
    while waiting < len(pids):
        waiting += len(os.read(ready, 4096))
    print("ready", flush=True)
    sys.stdin.readline()
    os.close(let_go)
    ends = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    print(json.dumps(ends), flush=True)


if __name__ == "__main__":
    main()
