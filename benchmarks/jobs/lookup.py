"""The token lookup alone: what a call pays to find out which token it carries."""

from __future__ import annotations

import timeit
from typing import Any

from benchmarks import loop, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Role, Variant
from benchmarks.peers import BY_HAND, GoogleCredentials
from benchmarks.stubs import Reusable
from benchmarks.tables import Goal, Result
from grpc_bearer import BearerAuth
from grpc_bearer._base.token import CallContext
from grpc_bearer._calls.attach_token import Attachment, Route

#: So many in a row for one sample, since the clock itself takes as long as one.
AT_ONCE = 200
OURS = "the lookup (Engine.peek)"


def variants() -> list[Variant]:
    """As statements, each timed in a loop of its own."""
    auth, google = BearerAuth(Reusable()), GoogleCredentials()
    auth.token()
    attachment = Attachment(auth, "127.0.0.1:1")
    attachment.prove("https://127.0.0.1:1/grpc_bearer.testing.Probe", "/grpc_bearer.testing.Probe")
    route = Route(attachment, "/grpc_bearer.testing.Probe/Unary")
    names: dict[str, Any] = {
        "held": auth.token(),
        "peek": auth._engine.peek,
        "context": CallContext(),
        "plan": route.plan,
        "headers": auth.headers,
        "before_request": google.before_request,
        "mine": BY_HAND,
    }
    statements: list[tuple[str, Role, str]] = [
        ("one attribute read", "floor", "held.value"),
        ("one attribute read, again", "A/A", "held.value"),
        (OURS, "ours", "peek(context)"),
        ("the whole plan of a call (Route.plan)", "ours", "plan(None, None, None)"),
        ("auth.headers()", "ours", "headers()"),
        ("google-auth before_request", "peer", "before_request(None, 'GET', 'https://x.example/S', {})"),
    ]
    return [Variant(name, role, _timed(statement, names)) for name, role, statement in statements]


def _timed(statement: str, names: dict[str, Any]) -> Any:
    timer = timeit.Timer(statement, globals=names)
    return lambda: timer.timeit(AT_ONCE)


def run(scale: Scale) -> Result:
    """The table."""
    samples = loop.wall(variants(), scale.budget(10), per=AT_ONCE)
    note = f"Each sample is {AT_ONCE} in a row, the loop around them included (about 0.01 µs each)."
    table = tables.compare("lookup", "The token lookup alone", samples, {OURS: Goal(0.5, "value")}, notes=[note])
    return Result([table], benchmarks=held(samples))
