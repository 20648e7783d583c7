"""The server's process: gRPC over TLS and a token endpoint, told what to do by its one argument and by lines on stdin.

with Server() as server:
    channel = grpc.secure_channel(server.target, server.credentials())
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from benchmarks import machine

#: What the token endpoint takes for a credential.
BEAR = {"api_key": "key-1", "scope": "all", "secret": "s3cret"}

#: What a table says that was taken with `Server.apart`.
APART = "Client and server keep to a processor each (or half of them): threads that wander cost more than all else."

# Without the first two, a burst of calls is partly dropped.
_OPTIONS = (("grpc.server.max_pending_requests", 20_000), ("grpc.server.max_pending_requests_hard_limit", 40_000))
_ROOT = Path(__file__).parent.parent


class Server:
    """The other process, as its client sees it. A context manager.

    Args:
        ledger: it writes down which tokens arrived; `seen()` tells.
        tokens: it has a token endpoint too, at `token_url`.
        delay: seconds that a token takes there.
    """

    def __init__(self, *, ledger: bool = False, tokens: bool = False, delay: float = 0.0) -> None:
        self._config = {"ledger": ledger, "tokens": tokens, "delay": delay}
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "benchmarks.server", json.dumps(self._config)]
        self._process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._out: Any = self._process.stdout
        self._in: Any = self._process.stdin
        line = self._out.readline()
        if not line:
            raise RuntimeError("the benchmark's server did not start")
        told = json.loads(line)
        self.target, self.token_url = told["target"], told["token_url"]
        self.ca = Path(self._folder.name) / "ca.pem"
        self.ca.write_text(told["ca"], "utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._in.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._out.close()
        self._folder.cleanup()

    def apart(self) -> AbstractContextManager[None]:
        """Its process and this one on processors of their own; see `machine.apart`."""
        return machine.apart(self._process.pid)

    def credentials(self) -> grpc.ChannelCredentials:
        """Those that trust it."""
        return grpc.ssl_channel_credentials(self.ca.read_bytes())

    def seen(self) -> tuple[int, int]:
        """Calls that arrived since the last time this was asked, and how many different tokens they carried."""
        self._in.write("seen\n")
        self._in.flush()
        calls, tokens = json.loads(self._out.readline())
        return calls, tokens


class _Seen(grpc.ServerInterceptor):
    """Counts calls and their tokens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: list[int] = []

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        tokens = [hash(entry.value) for entry in details.invocation_metadata if entry.key == "authorization"]
        with self._lock:
            self._tokens += tokens
        return continuation(details)

    def take(self) -> tuple[int, int]:
        with self._lock:
            tokens, self._tokens = self._tokens, []
        return len(tokens), len(set(tokens))


def main(config: dict[str, Any]) -> None:
    """Serve until stdin ends."""
    from grpc_bearer import testing as kit
    from grpc_bearer.testing._pb import probe_pb2_grpc

    seen, ca, token_url = _Seen(), kit.CA(), ""
    interceptors: list[grpc.ServerInterceptor] = [seen] if config["ledger"] else []
    server = grpc.server(ThreadPoolExecutor(64), interceptors=interceptors, options=_OPTIONS)
    probe_pb2_grpc.add_ProbeServicer_to_server(kit.ProbeService(), server)
    port = server.add_secure_port("127.0.0.1:0", ca.server_credentials())
    server.start()
    if config["tokens"]:
        tokens = kit.TokenServer(ca).start()
        tokens.serve_bear(BEAR)
        token_url = tokens.serve("/slow", _slow(tokens, config["delay"]))
    print(json.dumps({"target": f"127.0.0.1:{port}", "ca": ca.pem.decode(), "token_url": token_url}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(seen.take()), flush=True)
    server.stop(None)


def _slow(tokens: Any, delay: float) -> Any:
    from grpc_bearer.testing._http import Response

    count = iter(range(10**9))

    def answer(request: Any) -> Any:
        time.sleep(delay)
        body = {"access_token": f"{'t' * 300}{next(count)}", "expires_in": 3600}
        return Response(200, json.dumps(body).encode(), {"content-type": "application/json"})

    return answer


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
