"""The three streaming kinds: a whole call with one message, and one message of a long stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import loop, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Variant
from benchmarks.peers import BY_HAND
from benchmarks.server import APART, Server
from benchmarks.stubs import REQUEST, Stubs, stubs, warm
from benchmarks.tables import Goal, Result
from grpc_bearer.testing import ProbeRequest

LONG = 200
OURS, WITHOUT = "grpc_bearer.secure_channel", "secure_channel(retry=None)"


def _server_stream(stub: Any, messages: int, **how: Any) -> Any:
    return list(stub.ServerStream(ProbeRequest(replies=messages), **how))


def _client_stream(stub: Any, messages: int, **how: Any) -> Any:
    return stub.ClientStream(iter([REQUEST] * messages), **how)


def _bidi_stream(stub: Any, messages: int, **how: Any) -> Any:
    return list(stub.BidiStream(iter([REQUEST] * messages), **how))


KINDS = {"server stream": _server_stream, "client stream": _client_stream, "bidi stream": _bidi_stream}


def variants(at: Stubs, call: Callable[..., Any], messages: int) -> list[Variant]:
    """One kind, one length."""
    return [
        Variant("header by hand", "floor", lambda: call(at.plain, messages, metadata=BY_HAND)),
        Variant("header by hand, again", "A/A", lambda: call(at.plain, messages, metadata=BY_HAND)),
        Variant(OURS, "ours", lambda: call(at.ours, messages)),
        Variant(WITHOUT, "ours", lambda: call(at.without_retry, messages)),
        Variant("bare AuthMetadataPlugin", "peer", lambda: call(at.plugin, messages)),
    ]


def run(scale: Scale) -> Result:
    """A table for each kind and length."""
    result = Result()
    with Server() as server, stubs(server) as at, server.apart():
        for kind, call in KINDS.items():
            for messages, what, seconds in ((1, "per call", 12), (LONG, "per message", 14)):
                chosen = variants(at, call, messages)
                warm([variant.call for variant in chosen])
                samples = loop.wall(chosen, scale.budget(seconds, least=100), per=messages)
                key = f"{kind} {what}".replace(" ", "-")
                title = f"{kind.capitalize()}, {what}"
                most = 1.04 if (kind, messages) == ("bidi stream", 1) else 1.05
                goals = {OURS: Goal(most), WITHOUT: Goal(1.03)}
                note = (
                    "One message."
                    if messages == 1
                    else f"Streams of {messages} messages; replay on, unless retry=None."
                )
                result.tables.append(tables.compare(key, title, samples, goals, notes=[note, APART]))
                result.benchmarks += held(samples)
    return result
