"""Runs one example of the page with the real client, against a server that revokes the token meanwhile.

`python tests/clients/_play.py NAME`, in an empty folder and with the environment that the client wants, prints as JSON
what arrived. A process of its own for each: clients bring generated messages by the same names, and gRPC reads the
environment when it is first used.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import io
import itertools
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "guides" / "clients.md"
#: Answers HTTPS, for clients that want that too.
WEB_HOST = "web.example.com"
AWAITS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


class Play:
    """One example: its lines run in one namespace, and in one event loop if they await."""

    def __init__(self, name: str) -> None:
        sys.path[:0] = [str(HERE.parent), str(HERE)]
        import _table
        from _pages.page import blocks
        from _pages.proxy import Proxy
        from _server import Elsewhere, PageCA, Server, web

        self.client = _table.CLIENTS[name]
        ca = PageCA()
        roots = str(ca.write(Path.cwd()))
        header, scheme = self.client.header
        self._failing = False  # the next connection through the proxy
        self._web = web(ca, self.client.web)
        proxy = Proxy(self._port_of)
        os.environ |= {
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": roots,
            "SSL_CERT_FILE": roots,
            "https_proxy": proxy.url,
            "HTTPS_PROXY": proxy.url,
            "no_proxy": "127.0.0.1,localhost",
            "GRPC_VERBOSITY": "NONE",
        }
        if self.client.elsewhere:
            self._server = Elsewhere(Path.cwd())
        else:
            self._server = Server(ca, header, scheme, self.client.replies(self._fetch), self.client.refusals())
        self._numbers = itertools.count(1)
        self._names: dict[str, Any] = {"fetch": self._fetch, "io": io, "admits": getattr(self._server, "admits", None)}
        self._loop = asyncio.new_event_loop()
        found = {block.options.get("name"): block for block in blocks(PAGE.read_text("utf-8"))}
        self._blocks = [found[each] for each in ("an-auth", *(self.client.lines or (name,)))]

    def _port_of(self, address: str) -> int:
        self._failing, failing = False, self._failing
        if failing:
            raise ConnectionError("no way for now")
        host = address.partition(":")[0]
        if host == WEB_HOST:
            return self._web
        return int(self._server.plaintext_port if ".mesh." in host else self._server.port)

    def _fetch(self) -> str:
        self._server.alive = f"token.{next(self._numbers)}"
        return self._server.alive

    def run(self) -> list[Any]:
        """What became of connecting, a call, two with a revoked token, one after it was given up, and a restart."""
        warnings.simplefilter("ignore")
        told = [self._phase(self._connect), self._phase(self._call)]
        dead, self._server.alive = self._server.alive, ""
        told += [self._phase(self._call), self._phase(self._call)]
        for auth in [each for each in self._names.values() if isinstance(each, self._names["grpc_bearer"].BearerAuth)]:
            auth.invalidate(dead)
        told.append(self._phase(self._call))
        return told if self.client.elsewhere else [*told, self._after_restart()]

    def _after_restart(self) -> Any:
        """The server ends all connections and is not reached at first: some clients open another channel then."""
        self._failing = True
        self._server.restart()
        deadline, arrived = time.monotonic() + 60, []
        while time.monotonic() < deadline:
            outcome, calls = self._phase(self._call)
            arrived += calls
            if outcome == "ok" and calls:
                break
            time.sleep(0.5)  # pyzeebe closes its channel after ten failures; gRPC connects again after a second
        return outcome, arrived

    def _phase(self, act: Any) -> tuple[str, list[Any]]:
        try:
            act()
            outcome = "ok"
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        return outcome, self._server.taken()

    def _connect(self) -> None:
        for block in self._blocks:
            code = "\n" * (block.line - 1) + block.code
            self._run(compile(code, str(PAGE), "exec", flags=AWAITS))

    def _call(self) -> None:
        self._run(compile(self.client.call, "the call", "eval", flags=AWAITS))

    def _run(self, code: Any) -> None:
        if "await " in self.client.call:
            self._loop.run_until_complete(self._in_loop(code))
        else:
            eval(code, self._names)

    async def _in_loop(self, code: Any) -> None:
        answer = eval(code, self._names)
        if code.co_flags & inspect.CO_COROUTINE:
            await answer


if __name__ == "__main__":
    told = Play(sys.argv[1]).run()
    print(json.dumps(told))
    sys.stdout.flush()
    # Not by way of the interpreter's end: clients leave threads and channels behind, and the server is in this process.
    os._exit(0)
