"""A token fetched after a pause: the connection to the endpoint has been closed since, as it has in real life."""

from __future__ import annotations

import http.client
import json
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi

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


def _ours(server: Server, bundle: Path) -> Callable[[], Any]:
    """A source that has lost its connection each time."""
    source = HTTPTokenSource(server.token_url, json=BEAR, field="access_token", ca=str(bundle))

    def fetch() -> None:
        source.fetch(CallContext())
        source.close()

    return fetch


def _by_hand(server: Server, bundle: Path, context: ssl.SSLContext | None = None) -> Callable[[], Any]:
    """The same exchange by the standard library, with a context at hand or one made for it."""
    url, body = urlsplit(server.token_url), json.dumps(BEAR)

    def fetch() -> None:
        made = context or ssl.create_default_context(cafile=str(bundle))
        connection = http.client.HTTPSConnection(url.netloc, context=made)
        connection.request("POST", url.path, body, {"content-type": "application/json"})
        json.load(connection.getresponse())
        connection.close()

    return fetch


def run(scale: Scale) -> Result:
    """The table."""
    with Server(tokens=True) as server, tempfile.TemporaryDirectory() as folder:
        # As long as what systems trust, which takes its time to read.
        bundle = Path(folder) / "bundle.pem"
        bundle.write_bytes(Path(certifi.where()).read_bytes() + server.ca.read_bytes())
        by_hand = _by_hand(server, bundle, ssl.create_default_context(cafile=str(bundle)))
        chosen = [
            Variant("http.client, one SSLContext", "floor", by_hand),
            Variant("http.client, one SSLContext, again", "A/A", by_hand),
            Variant(OURS, "ours", _ours(server, bundle)),
            Variant("http.client, an SSLContext each", "peer", _by_hand(server, bundle)),
        ]
        for variant in chosen:
            variant.call()
        cpu = loop.cpu(chosen, scale.budget(8, least=50))
    title, goals = "CPU of a token fetched after a pause", {OURS: Goal(MOST, "value")}
    table = tables.compare("renewal-cpu", title, cpu, goals, unit="ms", factor=1e3)
    return Result([table], benchmarks=held(cpu))
