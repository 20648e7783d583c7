"""`grpc-bearer demo`: what it prints, and that it fails when the ledger does not agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest

from grpc_bearer import _cli
from grpc_bearer._cli import demo
from grpc_bearer.testing import Attempt, Ledger, OpaqueVerifier, Service

# Four kinds of call, two rounds, through each of ten ways to attach.
CALLS = 4 * 2 * 10
# Two each, one before and one after its end; BitBroker's has three roles, and OpenFX wants one for each attempt.
TOKENS = {"bear": 2, "skykit": 2, "bitbroker": 6, "crm": 2, "openfx": CALLS}
SERVICES = list(TOKENS)
EXTRAS = ("filelock", "grpc_health", "grpc_reflection", "joserfc", "opentelemetry", "pytest", "redis", "rich")


@pytest.fixture(scope="module")
def run() -> subprocess.CompletedProcess[str]:
    """The demo as a user starts it, and at its end the modules that it loaded."""
    script = """
import sys
from grpc_bearer._cli import main
code = main(["demo", "--json"])
print(*sys.modules)
sys.exit(code)
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)


def test_it_ends_well_and_says_what_it_did(run: subprocess.CompletedProcess[str]) -> None:
    answer = json.loads(run.stdout.splitlines()[0])
    counts = {each["service"]: (each["calls"], each["accepted"], each["tokens"]) for each in answer["services"]}

    assert run.returncode == 0
    assert answer["ok"] is True
    assert counts == {service: (CALLS, CALLS, TOKENS[service]) for service in SERVICES}


def test_every_way_is_opened_for_every_service(run: subprocess.CompletedProcess[str]) -> None:
    answer = json.loads(run.stdout.splitlines()[0])

    assert all(set(each["doors"]) >= {"secure_channel", "aio.secure_channel"} for each in answer["services"])
    assert all(len(each["doors"]) == 10 for each in answer["services"])


def test_it_needs_no_extra(run: subprocess.CompletedProcess[str]) -> None:
    modules = run.stdout.splitlines()[1].split()

    assert "grpc_bearer.testing" in modules
    # gRPC itself imports these two, if they are there; what is in them it does not.
    by_grpc = {"grpc_health", "grpc_reflection"}
    assert [name for name in modules if name.split(".")[0] in EXTRAS and name not in by_grpc] == []


def test_the_story_can_be_followed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    code = _cli.main(["demo"])
    opening, *parts, table, end = capsys.readouterr().out.split("\n\n")
    told = {part.partition(",")[0]: re.findall(r"^  (\w+(?: other)?) +", part, re.MULTILINE) for part in parts}
    rows = [line.split() for line in table.splitlines()]

    assert code == 0
    assert opening.startswith("Five gRPC services are started on loopback, with real TLS.")
    heal, explain = ["needs", "calls", "tokens", "refused"], ["no other"]
    assert told == {
        "bear": heal,
        "skykit": heal,
        "bitbroker": heal + explain,
        "crm": heal + explain,
        "openfx": [*("needs", "calls", "tokens"), *explain],
    }
    assert [row[:4] for row in rows[1:]] == [[name, str(CALLS), str(CALLS), str(TOKENS[name])] for name in SERVICES]
    assert [len(row) for row in rows[1:]] == [7, 7, 7, 7, 5]  # milliseconds, where a token was refused and healed
    assert end == "The servers' ledgers agree.\n"


def test_what_a_healed_call_took_is_told_in_milliseconds(capsys: pytest.CaptureFixture[str]) -> None:
    result = demo.Result("crm", "127.0.0.1:1", CALLS, CALLS, 2, [], demo.Healed(0.5, 4.25))
    demo._tell(result, demo.ACTS["crm"])

    told = " ".join(capsys.readouterr().out.split())
    assert "refused, replaced and accepted within one call: 4.2 ms where a call usually takes 0.5" in told


def test_a_token_that_is_not_replaced_makes_it_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tokens: list[str] = []

    def revoked_only(service: Service, _clock: object) -> None:
        assert isinstance(service.verifier, OpaqueVerifier)
        tokens.extend(service.server.ledger.tokens)
        service.verifier.revoke(*tokens)

    monkeypatch.setitem(demo.ACTS, "crm", replace(demo.ACTS["crm"], end=revoked_only))
    code = _cli.main(["demo"])
    out = capsys.readouterr().out

    assert code == 1
    assert "UNAUTHENTICATED: token revoked" in out
    assert "NOT as it should be" in out
    assert tokens[0] not in out


@pytest.mark.parametrize(
    ("accepted", "tokens", "reasons", "expected"),
    [
        (8, 2, ["revoked", "revoked"], ""),
        (7, 2, ["revoked", "revoked"], "accepted: expected 8, the ledger has 7"),
        (8, 1, ["revoked", "revoked"], "tokens: expected 2, the ledger has 1"),
        (8, 2, ["revoked"], "refusals: expected ['revoked', 'revoked'], the ledger has ['revoked']"),
        (8, 2, ["revoked", "odd"], "refusals: expected ['revoked', 'revoked'], the ledger has ['revoked', 'odd']"),
    ],
)
def test_the_ledger_decides(accepted: int, tokens: int, reasons: list[str], expected: str) -> None:
    ledger = Ledger()
    for number in range(accepted):
        ledger.add(Attempt("/s/M", token=f"t{number % tokens}"))
    for reason in reasons:
        ledger.add(Attempt("/s/M", accepted=False, reason=reason, token="t0"))

    assert demo.disagreement(ledger, replace(demo.ACTS["crm"], refusal="revoked"), 8) == expected
