"""A token fetched after a pause: the connection to the endpoint has been closed since, as it has in real life."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from benchmarks import loop, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Variant
from benchmarks.server import BEAR, Server
from benchmarks.tables import Goal, Result
from grpc_bearer import HTTPTokenSource
from grpc_bearer._base.token import CallContext

OURS = "HTTPTokenSource"
#: Milliseconds of CPU that such a fetch may take.
MOST = 3.0


def _ours(server: Server) -> Callable[[], Any]:
    """A source each time: what outlives its connection belongs to the process."""

    def fetch() -> None:
        source = HTTPTokenSource(server.token_url, json=BEAR, field="access_token", ca=str(server.ca))
        source.fetch(CallContext())
        source.close()

    return fetch


def _by_hand(server: Server, context: ssl.SSLContext | None) -> Callable[[], Any]:
    """The same exchange by the standard library, with a context at hand or one made for it."""
    url, body = urlsplit(server.token_url), json.dumps(BEAR)

    def fetch() -> None:
        made = context or ssl.create_default_context(cafile=str(server.ca))
        connection = http.client.HTTPSConnection(url.netloc, context=made)
        connection.request("POST", url.path, body, {"content-type": "application/json"})
        json.load(connection.getresponse())
        connection.close()

    return fetch


def run(scale: Scale) -> Result:
    """The table."""
    with Server(tokens=True) as server:
        by_hand = _by_hand(server, ssl.create_default_context(cafile=str(server.ca)))
        chosen = [
            Variant("http.client, one SSLContext", "floor", by_hand),
            Variant("http.client, one SSLContext, again", "A/A", by_hand),
            Variant(OURS, "ours", _ours(server)),
            Variant("http.client, an SSLContext each", "peer", _by_hand(server, None)),
        ]
        for variant in chosen:
            variant.call()
        cpu = loop.cpu(chosen, scale.budget(8, least=50))
    title, goals = "CPU of a token fetched after a pause", {OURS: Goal(MOST, "value")}
    table = tables.compare("renewal-cpu", title, cpu, goals, unit="ms", factor=1e3)
    return Result([table], benchmarks=held(cpu))
