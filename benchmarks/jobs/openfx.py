"""A whole OpenFX call: a token for each, signed on the way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

import grpc_bearer
from benchmarks import loop, peers, stats, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.signing import by_pyjwt, openfx_auth, raw_sign
from benchmarks.jobs.unary import held
from benchmarks.loop import Samples, Variant
from benchmarks.server import Server
from benchmarks.stubs import by_hand, unary, warm
from benchmarks.tables import Check, Grid, Goal, Result, Table
from grpc_bearer.testing import ProbeStub, private_pem, throwaway_key

#: How many tokens are signed ahead.
AHEAD = 64
CORE, METADATA, PRESIGN, SAMPLE = (
    "openfx, through core (the default)",
    'openfx, attach="metadata"',
    f'openfx, attach="metadata", presign={AHEAD}',
    "PyJWT in a plugin, PEM on each call",
)
#: What each of ours is made with: `attach` and `presign`.
OURS: dict[str, tuple[Any, int]] = {CORE: ("auto", 0), METADATA: ("metadata", 0), PRESIGN: ("metadata", AHEAD)}
GOALS = {PRESIGN: Goal(1.03)}


def run(scale: Scale) -> Result:
    """Latency against a pre-made token, and the server's word that no token came twice."""
    with Server(ledger=True) as server:
        samples = _measure(server, scale)
        proof = _single_use(server, scale)
    table = tables.compare("openfx", "A whole OpenFX call", samples, GOALS, notes=_notes(samples))
    proof.checks.insert(0, _against_sample(samples, table))
    return Result([table], [proof], benchmarks=held(samples))


def _against_sample(samples: list[Samples], table: Table) -> Check:
    """The core path against what the service's own sample does on each call."""
    at = {each.name: each for each in samples}
    estimate, goal = stats.ratio(at[CORE], at[SAMPLE]), Goal(1.0)
    verdict = "missed" if not goal.met_by(estimate) else "met" if table.steady else "not shown: A/A off"
    return Check("OpenFX, core path against the sample's way", "≤ 1", tables.interval_text(estimate), verdict)


def _channels(server: Server) -> dict[str, Any]:
    target, ssl, key = server.target, server.credentials(), throwaway_key("ES256")

    def plugin(make: Any) -> Any:
        return ProbeStub(grpc.secure_channel(target, peers.plugin_credentials(ssl, peers.PluginOf(make))))

    return {
        "plain": ProbeStub(grpc.secure_channel(target, ssl)),
        **{name: ProbeStub(_channel(server, name)) for name in OURS},
        SAMPLE: plugin(by_pyjwt("ES256", private_pem(key))),
        "PyJWT in a plugin, key object": plugin(by_pyjwt("ES256", key)),
    }


def _channel(server: Server, name: str) -> grpc.Channel:
    attach, presign = OURS[name]
    return grpc_bearer.secure_channel(server.target, server.credentials(), auth=openfx_auth(presign), attach=attach)


def _measure(server: Server, scale: Scale) -> list[Samples]:
    at = _channels(server)
    plain = by_hand(at.pop("plain"))
    chosen = [Variant("header by hand, pre-made token", "floor", plain)]
    chosen.append(Variant("header by hand, pre-made token, again", "A/A", plain))
    chosen += [Variant(name, "peer" if "PyJWT" in name else "ours", unary(stub)) for name, stub in at.items()]
    warm([variant.call for variant in chosen])
    samples = loop.wall(chosen, scale.budget(30))
    server.seen()
    return samples


def _notes(samples: list[Samples]) -> list[str]:
    import statistics
    import timeit

    fetch, calls = openfx_auth()._source.fetch, 200
    from grpc_bearer._base.token import CallContext

    token = fetch(CallContext()).value
    sign = min(timeit.repeat(raw_sign("ES256", token), number=calls, repeat=5)) / calls
    floor = statistics.median(samples[0].values)
    return [
        f"Raw signing alone takes {sign * 1e6:.0f} µs here, in a loop of its own: without presign, "
        f"{1 + sign / floor:.3f} is the least.",
        "With presign the signature costs the same processor time, but on another thread and while the call waits for "
        "its answer; the call that wakes that thread, one in some dozens, pays for it.",
    ]


def _single_use(server: Server, scale: Scale) -> Grid:
    """As many tokens as calls, by the server's own count; the calls come from eight threads."""
    calls, rows, checks = scale.count(5000, 50), [], []
    for name in OURS:
        with _channel(server, name) as channel, ThreadPoolExecutor(8) as pool:
            call = unary(ProbeStub(channel))
            for _ in pool.map(lambda _, call=call: call(), range(calls)):
                pass
        arrived, tokens = server.seen()
        rows.append([name, str(calls), str(arrived), str(tokens)])
        verdict = "met" if arrived == tokens >= calls else "missed"
        checks.append(
            Check(f"Single-use: {name}", "a token an attempt", f"{tokens} tokens in {arrived} attempts", verdict)
        )
    columns = ["", "calls", "attempts", "different tokens"]
    return Grid("openfx-single-use", "OpenFX: tokens that the server saw", columns, rows, checks)
