"""`grpc-bearer demo`: the five services on loopback with real TLS, called in every way, sync and asyncio.

Each service is played by a server that really verifies. Two rounds of calls go through every way to attach; between
them the first token comes to its end, as tokens of that service do. What the servers wrote down decides whether all
went well. At last the token in use is revoked: the next call heals by itself, or its error says why it cannot.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from grpc_bearer import BearerAuth, GrpcBearerError, TokenRejectedError, secure_channel
from grpc_bearer._cli.demo_calls import AIO_ATTACHMENTS, ATTACHMENTS, WrongReply, acall_all, call_all
from grpc_bearer._cli.terminal import print_json, print_line, progress
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


@dataclass(frozen=True, slots=True)
class Act:
    """How a service's token comes to its end, and what the server's ledger must show after that.

    Args:
        end: called between the two rounds.
        refusal: why the server refuses the first token from then on.
        retried: how many calls meet that refusal, and pass with another token.
        tokens: how many distinct ones were accepted; `None`: one for each call.
        story: the same in a few words.
        heals: whether a call with a revoked token passes after all; if not, its error has to say why.
    """

    end: Callable[[Service, ManualClock], None]
    refusal: str
    retried: int
    tokens: int | None
    story: str
    heals: bool = True


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one service."""

    service: str
    calls: int
    accepted: int
    tokens: int
    doors: list[str]
    story: str = ""
    revoked: str = ""
    error: str = ""

    def __str__(self) -> str:
        counts = f"{self.calls} calls, {self.accepted} accepted, {self.tokens:>2} tokens"
        revoked = f"\n{'':<11}revoked: {self.revoked}" if self.revoked else ""
        return f"{self.service:<10} {counts}: {self.error or self.story}{revoked}"

    def as_json(self) -> dict[str, Any]:
        shown = {name: getattr(self, name) for name in ("service", "calls", "accepted", "tokens", "doors")}
        return shown | ({"error": self.error} if self.error else {})


def main(*, as_json: bool = False) -> int:
    """Play every service and print what came of it.

    Returns:
        The exit code: 0 only if what the servers wrote down agrees with the calls that were made.
    """
    with progress("calling five services"):
        results = play_all()
    ok = not any(result.error for result in results)
    if as_json:
        print_json({"services": [result.as_json() for result in results], "ok": ok})
    else:
        for result in results:
            print_line(str(result), "fail" if result.error else "")
        print_line(f"Each through {', '.join(_attachments())}.")
        print_line("The servers' ledgers agree." if ok else "NOT as it should be.", "ok" if ok else "fail")
    return 0 if ok else 1


def play_all() -> list[Result]:
    clock = ManualClock()
    with tempfile.TemporaryDirectory() as directory, Services(directory, clock, bear_lifetime=int(_HOUR)) as services:
        return [play(service, ACTS[service.name], clock) for service in services]


def play(service: Service, act: Act, clock: ManualClock) -> Result:
    """Two rounds through every way to attach, and the end of a token between them; then the ledger is read."""
    calls, error, ledger = 0, "", service.server.ledger
    accepted, tokens, revoked = 0, 0, ""
    try:
        with service.auth() as auth:
            calls += _round(service.server, auth)
            act.end(service, clock)
            calls += _round(service.server, auth)
            _repeat_first_token(service.server, auth.header)
            error = disagreement(ledger, act, calls)
            accepted, tokens = len(ledger.accepted), len(ledger.tokens)
            revoked = _revoked(service, auth, act, clock)
    except (GrpcBearerError, grpc.RpcError, WrongReply) as problem:
        error = _described(problem)
    service.server.stop(grace=1)  # else gRPC logs that it hung up on channels which are just closing
    return Result(service.name, calls, accepted, tokens, _attachments(), act.story, revoked, error)


def _revoked(service: Service, auth: BearerAuth, act: Act, clock: ManualClock) -> str:
    """Revoke what is in use: the next call passes with another token, or its error says clearly why it does not."""
    server, verifier = service.server, service.verifier
    if isinstance(verifier, JWTVerifier) and verifier.single_use:
        verifier.key = public_pem(throwaway_key("ES256", 99))  # single-use tokens cannot be revoked, but their key can
    if isinstance(verifier, (JWTVerifier, OpaqueVerifier)):
        verifier.revoke(*server.ledger.tokens)
    clock.advance(1)  # what is signed again in the same second is the same
    with secure_channel(server.target, server.ca.channel_credentials(), DIRECT, auth=auth) as channel:
        try:
            ProbeStub(channel).Unary(ProbeRequest(), timeout=10)
        except grpc.RpcError as refusal:
            if act.heals or not isinstance(refusal.__cause__, TokenRejectedError):
                raise
            return str(refusal.__cause__)
    if not act.heals:
        raise WrongReply("a revoked token was accepted")
    return "healed within the call"


def _attachments() -> list[str]:
    return [*ATTACHMENTS, *AIO_ATTACHMENTS]


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
    if service.replace_token is not None:  # it is there wherever tokens are opaque
        service.replace_token()


def _used_up(_service: Service, _clock: ManualClock) -> None:
    """Each came to its end when it was sent."""


ACTS = {
    "bear": Act(_time_passes, "expired", 0, 2, "exchanged again when it expired"),
    "skykit": Act(_time_passes, "expired", 0, 2, "signed again when it expired"),
    "bitbroker": Act(
        _replaced_in_its_file, "token revoked", 3, 6, "three roles, each revoked and replaced in its file", heals=False
    ),
    "crm": Act(_replaced_in_its_file, "token revoked", 1, 2, "revoked and replaced in its file", heals=False),
    "openfx": Act(_used_up, "nonce seen before", 0, None, "one for each attempt", heals=False),
}
