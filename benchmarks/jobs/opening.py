"""Opening a channel and making its first call, which goes through core: it is what proves that the channel may carry
tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

import grpc_bearer
from benchmarks import loop, peers, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Variant
from benchmarks.server import Server
from benchmarks.stubs import REQUEST, Reusable
from benchmarks.tables import Goal, Result
from grpc_bearer import BearerAuth
from grpc_bearer.testing import ProbeStub

OURS = "grpc_bearer.secure_channel"


def _first(opened: Callable[[], grpc.Channel], **how: Any) -> Callable[[], Any]:
    def call() -> None:
        with opened() as channel:
            ProbeStub(channel).Unary(REQUEST, **how)

    return call


def run(scale: Scale) -> Result:
    """Time and client CPU."""
    with Server() as server:
        target, ssl, auth = server.target, server.credentials(), BearerAuth(Reusable())
        plugin = peers.plugin_credentials(ssl, peers.BarePlugin())
        by_hand = _first(lambda: grpc.secure_channel(target, ssl), metadata=peers.BY_HAND)
        chosen = [
            Variant("header by hand", "floor", by_hand),
            Variant("header by hand, again", "A/A", by_hand),
            Variant(OURS, "ours", _first(lambda: grpc_bearer.secure_channel(target, ssl, auth=auth))),
            Variant("bare AuthMetadataPlugin", "peer", _first(lambda: grpc.secure_channel(target, plugin))),
        ]
        for variant in chosen:
            variant.call()
        wall = loop.wall(chosen, scale.budget(8, least=50))
        cpu = loop.cpu(chosen, scale.budget(8, least=50))
    title, goals = "A channel and its first call", {OURS: Goal(1.10)}
    return Result(
        [
            tables.compare("opening-wall", f"{title}, wall time", wall, goals),
            tables.compare("opening-cpu", f"{title}, client CPU", cpu, goals),
        ],
        benchmarks=held(wall, cpu),
    )
