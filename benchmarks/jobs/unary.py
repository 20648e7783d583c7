"""Sync unary calls with a reusable token at hand: wall time and client CPU, every way to attach and every peer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from benchmarks import loop, stats, tables
from benchmarks.jobs import Scale
from benchmarks.loop import SELDOM, SELDOM_NOTE, Role, Samples, Variant
from benchmarks.server import Server
from benchmarks.stubs import REQUEST, Stubs, by_hand, stubs, unary, warm
from benchmarks.tables import Goal, Result

OURS, INTERCEPTOR = "grpc_bearer.secure_channel", "grpc_bearer.interceptor"
PLAIN, PLAIN_AGAIN = "plain interceptor", "plain interceptor, again"
GOOGLE = "google-auth secure_authorized_channel"
#: Interceptors are compared with each other.
AMONG: dict[str, Role] = {PLAIN: "floor", PLAIN_AGAIN: "A/A", INTERCEPTOR: "ours"}


def variants(at: Stubs) -> list[Variant]:
    """The floor, our ways to attach, and what others do."""
    credentials, call = at.call_credentials, at.plain.Unary
    always = [
        Variant("header by hand", "floor", by_hand(at.plain)),
        Variant("header by hand, again", "A/A", by_hand(at.plain)),
        Variant(OURS, "ours", unary(at.ours)),
    ]
    others = [
        Variant("grpc_bearer.secure_channel, observed", "ours", unary(at.observed)),
        Variant("grpc_bearer.wrap_stub", "ours", unary(at.wrapped_stub)),
        Variant("grpc_bearer.intercept_channel", "ours", unary(at.intercepted_channel)),
        Variant(INTERCEPTOR, "ours", unary(at.interceptor)),
        Variant('secure_channel(attach="call_credentials")', "ours", unary(at.through_core)),
        Variant("credentials=grpc_bearer.call_credentials", "ours", lambda: call(REQUEST, credentials=credentials)),
        Variant(GOOGLE, "peer", unary(at.google)),
        Variant("bare AuthMetadataPlugin", "peer", unary(at.plugin)),
        Variant("grpc.access_token_call_credentials", "peer", unary(at.access_token)),
        Variant(PLAIN, "peer", unary(at.plain_interceptor)),
        Variant(PLAIN_AGAIN, "peer", unary(at.plain_interceptor_again)),
    ]
    return always + [replace(variant, every=SELDOM) for variant in others]


def run(scale: Scale) -> Result:
    """Both tables."""
    with Server() as server, stubs(server) as at:
        chosen = variants(at)
        warm([variant.call for variant in chosen])
        wall = loop.wall(chosen, scale.budget(40))
        cpu = loop.cpu(chosen, scale.budget(40))
    return Result(
        [
            tables.compare("unary-wall", "Sync unary, wall time", wall, {OURS: Goal(1.01)}, notes=[SELDOM_NOTE]),
            tables.compare("unary-cpu", "Sync unary, client CPU", cpu, {OURS: Goal(1.02)}, notes=[SELDOM_NOTE]),
            *tables.interceptors("unary", "Sync interceptors", wall, cpu, AMONG),
        ],
        benchmarks=held(wall, cpu),
    )


def held(*loops: Sequence[Samples]) -> list[Any]:
    """All samples, as pyperf keeps them."""
    return [stats.held(each) for samples in loops for each in samples]
