"""A program moves here from an interceptor written by hand, as the guide has it: it runs after each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from attachments import PATIENCE, TLS

import grpc_bearer
from grpc_bearer.testing import OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub

OLD, NEW = "token-1", "token-2"


class ByHand(grpc.UnaryUnaryClientInterceptor):
    """The guide's, with what many have besides: on UNAUTHENTICATED it fetches, and calls once more."""

    def __init__(self, fetch: Callable[[], str], *, attaches: bool = True) -> None:
        self._fetch, self._attaches = fetch, attaches
        self._token = fetch() if attaches else ""
        self.retries = 0

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        call = self._attempt(continuation, details, request)
        if call.code() is grpc.StatusCode.UNAUTHENTICATED:
            self.retries += 1
            self._token = self._fetch()
            return self._attempt(continuation, details, request)
        return call

    def _attempt(self, continuation: Any, details: Any, request: Any) -> Any:
        entries = [("authorization", f"Bearer {self._token}")] if self._attaches else []
        return continuation(details._replace(metadata=[*(details.metadata or ()), *entries]), request)


class Program:
    """A program that calls a server whose token is revoked meanwhile."""

    def __init__(self) -> None:
        self.current = OLD
        self.verifier = OpaqueVerifier([OLD, NEW])
        self.server = ProbeServer(self.verifier, TLS)
        self.auth = grpc_bearer.BearerAuth(lambda: self.current)
        self.by_hand = ByHand(lambda: self.current)
        self.retry_only = ByHand(lambda: self.current, attaches=False)

    def plain(self) -> grpc.Channel:
        return self.server.channel()

    def ours(self) -> grpc.Channel:
        return grpc_bearer.secure_channel(self.server.target, self.server.channel_credentials(), auth=self.auth)


@pytest.fixture
def program() -> Iterator[Program]:
    made = Program()
    with made.server, made.auth:
        yield made


#: The states of the guide, and how often the program's own retry is at work after a refusal.
STEPS: dict[str, tuple[Callable[[Program], grpc.Channel], int]] = {
    "before": (lambda p: grpc.intercept_channel(p.plain(), p.by_hand), 1),
    "1, ours in its place": (lambda p: grpc_bearer.intercept_channel(p.plain(), p.auth), 0),
    "1, with its retry kept": (
        lambda p: grpc.intercept_channel(grpc_bearer.intercept_channel(p.plain(), p.auth), p.retry_only),
        0,
    ),
    "2, our channel, with its retry kept": (lambda p: grpc.intercept_channel(p.ours(), p.retry_only), 0),
    "3, our channel": (Program.ours, 0),
    # Not a step, but what somebody may have for a while: theirs above ours wins.
    "theirs above ours": (lambda p: grpc.intercept_channel(p.ours(), p.by_hand), 1),
}


@pytest.mark.parametrize("step", STEPS)
def test_the_program_runs_after_each_step_with_one_token_a_call(program: Program, step: str) -> None:
    open_channel, retries = STEPS[step]
    with open_channel(program) as channel:
        stub = ProbeStub(channel)
        stub.Unary(ProbeRequest(), timeout=PATIENCE)
        stub.Unary(ProbeRequest(), timeout=PATIENCE)
        program.current = NEW
        program.verifier.revoke(OLD)
        stub.Unary(ProbeRequest(), timeout=PATIENCE)

    arrived = [(list(attempt.header_values), attempt.reason) for attempt in program.server.ledger]
    assert arrived == [
        ([f"Bearer {OLD}"], ""),
        ([f"Bearer {OLD}"], ""),
        ([f"Bearer {OLD}"], "token revoked"),
        ([f"Bearer {NEW}"], ""),
    ]
    assert program.by_hand.retries + program.retry_only.retries == retries


def test_with_both_theirs_below_ours_there_are_two_headers(program: Program) -> None:
    below = grpc.intercept_channel(program.plain(), program.by_hand)
    with grpc_bearer.intercept_channel(below, program.auth) as channel, pytest.raises(grpc.RpcError) as caught:
        ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert {len(attempt.header_values) for attempt in program.server.ledger} == {2}


def test_with_neither_there_is_no_token(program: Program) -> None:
    with program.plain() as channel, pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)

    assert [list(attempt.header_values) for attempt in program.server.ledger] == [[]]
