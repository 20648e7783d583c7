"""`grpc-bearer demo`: the five services on loopback with real TLS, called in every way, sync and asyncio.

Each service is played by a server that really verifies. Two rounds of calls go through every way to attach; between
them the first token comes to its end, as tokens of that service do. What the servers wrote down decides whether all
went well. At last the token in use is revoked, under the eyes of a clock: the call heals by itself, or, where there is
no other token, its error says why it cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from grpc_bearer import BearerAuth, GrpcBearerError, TokenRejectedError, secure_channel
from grpc_bearer._cli.channel import quiet_core
from grpc_bearer._cli.demo_calls import AIO_ATTACHMENTS, ATTACHMENTS, WrongReply, acall_all, call_all
from grpc_bearer._cli.terminal import Cell, Row, print_json, print_line, print_table, progress
from grpc_bearer.testing import (
    JWTVerifier,
    Ledger,
    ManualClock,
    OpaqueVerifier,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Service,
    Services,
    public_pem,
    throwaway_key,
)
from grpc_bearer.testing._ports import DIRECT

_HOUR = 3600.0
_WAYS = [*ATTACHMENTS, *AIO_ATTACHMENTS]
# Columns: longer lines are hard to read, however wide the terminal is.
_WIDEST = 110

_OPENING = (
    "Five gRPC services are started on loopback, with real TLS. Each verifies the token of every call, and keeps a "
    "ledger of what arrived. Each is called twice, unary and in streams, through every way to attach a token: {}."
)


@dataclass(frozen=True, slots=True)
class Act:
    """How a service's token comes to its end, and what the server's ledger must show after that.

    Args:
        needs: what the service wants of whoever calls it.
        end: called between the two rounds.
        story: what `end` does, in a few words.
        refusal: why the server refuses the first token from then on.
        retried: how many calls meet that refusal, and pass with another token.
        tokens: how many distinct ones were accepted; `None`: one for each call.
        revoke: has the server refuse the token in use while another is to be had; `None`: none is ever used twice.
        ruin: has it refuse every token that is to be had; `None`: there is always another.
    """

    needs: str
    end: Callable[[Service, ManualClock], None]
    story: str
    refusal: str
    retried: int
    tokens: int | None
    revoke: Callable[[Service], None] | None = None
    ruin: Callable[[Service], None] | None = None


@dataclass(frozen=True, slots=True)
class Healed:
    """What a call took, in milliseconds: one as usual, and one whose token was refused and replaced under way."""

    usual: float
    healed: float


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one service."""

    service: str
    target: str
    calls: int
    accepted: int
    tokens: int
    doors: list[str]
    healed: Healed | None = None
    unhealed: str = ""
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in ("service", "calls", "accepted", "tokens", "doors")}
        return shown | ({"error": self.error} if self.error else {})


def main(*, as_json: bool = False) -> int:
    """Play every service and print what came of it.

    Returns:
        The exit code: 0 only if what the servers wrote down agrees with the calls that were made.
    """
    with quiet_core():  # else its log tells of calls that Ctrl-C has cut off
        return _played(as_json=as_json)


def _played(*, as_json: bool) -> int:
    results: list[Result] = []
    if as_json:
        with progress("calling five services"):
            results += play_all()
    else:
        print_line(_filled(_OPENING.format(", ".join(_WAYS))))
        for result in play_all():
            _tell(result, ACTS[result.service])
            results.append(result)
    ok = not any(result.error for result in results)
    if as_json:
        print_json({"services": [result.as_json() for result in results], "ok": ok})
    else:
        _sum_up(results, ok)
    return 0 if ok else 1


def _tell(result: Result, act: Act) -> None:
    """The story of one service."""
    print_line(f"\n{result.service}, at {result.target}", "name")
    _entry("needs", act.needs)
    if result.error:
        _entry("FAILED", result.error, "fail")
        return
    _entry("calls", f"{result.calls} in {len(_WAYS)} ways: {result.accepted} accepted")
    _entry("tokens", f"{result.tokens}: {act.story}")
    if result.healed is not None:
        took = f"{result.healed.healed:.1f} ms where a call usually takes {result.healed.usual:.1f}"
        _entry("refused", f"the token was revoked; refused, replaced and accepted within one call: {took}", "ok")
    if result.unhealed:
        _entry("no other", f"where there is no other token, the error says so: {result.unhealed}", "warn")


def _sum_up(results: list[Result], ok: bool) -> None:
    print_line("")
    rows: list[Row] = [
        [
            Cell(result.service, "name"),
            str(result.calls),
            str(result.accepted),
            str(result.tokens),
            "" if result.healed is None else f"{result.healed.healed:.1f} ms",
            Cell("NOT as it should be", "fail") if result.error else Cell("agrees", "ok"),
        ]
        for result in results
    ]
    print_table(rows, ["service", "calls", "accepted", "tokens", "refused and healed", "ledger"], right={1, 2, 3, 4})
    print_line("")
    print_line("The servers' ledgers agree." if ok else "NOT as it should be.", "ok" if ok else "fail")


def _entry(label: str, text: str, style: str = "") -> None:
    print_line(_filled(text, f"  {label:<9}"), style)


def _filled(text: str, first: str = "") -> str:
    width = max(min(shutil.get_terminal_size().columns or _WIDEST, _WIDEST), 40)
    return textwrap.fill(text, width, initial_indent=first, subsequent_indent=" " * len(first))


def play_all() -> Iterator[Result]:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as directory, Services(directory, clock, bear_lifetime=int(_HOUR)) as services:
        for service in services:
            yield play(service, ACTS[service.name], clock)


def play(service: Service, act: Act, clock: ManualClock) -> Result:
    """Two rounds through every way to attach, and the end of a token between them; then the ledger is read."""
    calls, error, ledger = 0, "", service.server.ledger
    accepted, tokens, healed, unhealed = 0, 0, None, ""
    try:
        with service.auth() as auth:
            calls += _round(service.server, auth)
            act.end(service, clock)
            calls += _round(service.server, auth)
            _repeat_first_token(service.server, auth.header)
            error = disagreement(ledger, act, calls)
            accepted, tokens = len(ledger.accepted), len(ledger.tokens)
            with secure_channel(
                service.server.target, service.server.ca.channel_credentials(), DIRECT, auth=auth
            ) as channel:
                healed = _healed(service, ProbeStub(channel), act.revoke, clock)
                unhealed = _unhealed(service, ProbeStub(channel), act.ruin)
    except (GrpcBearerError, grpc.RpcError, WrongReply) as problem:
        error = _described(problem)
    service.server.stop(grace=1)  # else gRPC logs that it hung up on channels which are just closing
    return Result(service.name, service.server.target, calls, accepted, tokens, _WAYS, healed, unhealed, error)


def _healed(service: Service, stub: Any, revoke: Callable[[Service], None] | None, clock: ManualClock) -> Healed | None:
    """Revoke what is in use: the next call passes with another token, and takes so long."""
    if revoke is None:
        return None
    _timed(stub)  # connects
    usual = min(_timed(stub) for _ in range(3))
    revoke(service)
    clock.advance(1)  # what is signed again in the same second is the same
    healed = _timed(stub)
    seen = [attempt.reason for attempt in list(service.server.ledger)[-2:]]
    if seen != ["token revoked", ""]:
        raise WrongReply(f"a revoked token: expected it to be refused and another to be accepted, got {seen}")
    return Healed(usual, healed)


def _unhealed(service: Service, stub: Any, ruin: Callable[[Service], None] | None) -> str:
    """Have the server refuse whatever comes: the error says clearly why the call does not pass."""
    if ruin is None:
        return ""
    ruin(service)
    try:
        _timed(stub)
    except grpc.RpcError as refusal:
        if not isinstance(refusal.__cause__, TokenRejectedError):
            raise
        return str(refusal.__cause__)
    raise WrongReply("a revoked token was accepted")


def _timed(stub: Any) -> float:
    """Milliseconds of a call."""
    began = time.perf_counter()
    stub.Unary(ProbeRequest(), timeout=10)
    return 1000 * (time.perf_counter() - began)


def _round(server: ProbeServer, auth: BearerAuth) -> int:
    return call_all(server, auth) + asyncio.run(acall_all(server, auth))


def _repeat_first_token(server: ProbeServer, header: str) -> None:
    """The control: send the first token once more, by hand. Were it accepted, all the rest would show nothing."""
    metadata = ((header, server.ledger[0].header_values[0]),)
    with server.channel() as channel, contextlib.suppress(grpc.RpcError):  # the ledger says why
        ProbeStub(channel).Unary(ProbeRequest(), metadata=metadata, timeout=10)


def _described(problem: Exception) -> str:
    """On one line; an RPC's own text takes five."""
    if isinstance(problem, (grpc.Call, grpc.aio.AioRpcError)):
        return f"{problem.code().name}: {problem.details()}"
    return f"{type(problem).__name__}: {problem}"


def disagreement(ledger: Ledger, act: Act, calls: int) -> str:
    """Where the ledger does not show what it should; empty if it does."""
    expected_and_found = {
        "accepted": (calls, len(ledger.accepted)),
        "tokens": (calls if act.tokens is None else act.tokens, len({each.token for each in ledger.accepted})),
        # One more is the control.
        "refusals": ([act.refusal] * (act.retried + 1), [attempt.reason for attempt in ledger.refused]),
    }
    return "; ".join(
        f"{what}: expected {expected}, the ledger has {found}"
        for what, (expected, found) in expected_and_found.items()
        if expected != found
    )


def _time_passes(_service: Service, clock: ManualClock) -> None:
    clock.advance(_HOUR)


def _replaced_in_its_file(service: Service, _clock: ManualClock) -> None:
    _replace(service)


def _used_up(_service: Service, _clock: ManualClock) -> None:
    """Each came to its end when it was sent."""


def _replace(service: Service) -> None:
    if service.replace_token is not None:  # it is there wherever tokens are opaque
        service.replace_token()


def _revoke(service: Service) -> None:
    if isinstance(service.verifier, (JWTVerifier, OpaqueVerifier)):
        service.verifier.revoke(*service.server.ledger.tokens)


def _take_another_key(service: Service) -> None:
    """Single-use tokens cannot be revoked, but the key can be that they are signed with."""
    if isinstance(service.verifier, JWTVerifier):
        service.verifier.key = public_pem(throwaway_key("ES256", 99))


ACTS = {
    "bear": Act(
        needs="a JWT from its token endpoint, in exchange for the API key in a JSON file",
        end=_time_passes,
        story="the first one expired between two rounds, and the key was exchanged again",
        refusal="expired",
        retried=0,
        tokens=2,
        revoke=_revoke,
    ),
    "skykit": Act(
        needs="a JWT that is signed here with an RSA key and lasts for an hour at most",
        end=_time_passes,
        story="the first one expired between two rounds, and the next one was signed",
        refusal="expired",
        retried=0,
        tokens=2,
        revoke=_revoke,
    ),
    "bitbroker": Act(
        needs="a token for each of three roles, chosen by the method that is called, bare in a header of its own",
        end=_replaced_in_its_file,
        story="one for each of three roles, each revoked between two rounds and replaced in its file",
        refusal="token revoked",
        retried=3,
        tokens=6,
        revoke=_replace,
        ruin=_revoke,
    ),
    "crm": Act(
        needs="a token that lasts until somebody revokes it, here in a file",
        end=_replaced_in_its_file,
        story="the first one was revoked between two rounds and replaced in its file",
        refusal="token revoked",
        retried=1,
        tokens=2,
        revoke=_replace,
        ruin=_revoke,
    ),
    "openfx": Act(
        needs="a JWT for each attempt of each call, signed here; what was seen once is refused",
        end=_used_up,
        story="one for each call; the first, sent a second time by hand, was refused",
        refusal="nonce seen before",
        retried=0,
        tokens=None,
        ruin=_take_another_key,
    ),
}
