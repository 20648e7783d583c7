"""The README's examples run, in the order in which they stand, against a server that checks what they send."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from grpc_bearer.testing import OpaqueVerifier, ProbeServer, private_pem, throwaway_key

README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
ADDRESS = "api.example.com:443"
TOKEN = "the-token-from-the-crm"

# What the README leaves to its reader: a generated stub and a request for it.
PRELUDE = """
from grpc_bearer.testing import ProbeRequest, ProbeStub

class FleetStub(ProbeStub):
    def __init__(self, channel):
        super().__init__(channel)
        self.List = self.Unary

request = ProbeRequest(index=1)
"""


def write_credentials(directory: Path) -> None:
    """The files that the README names."""
    bear = {"api_key": "deca1611-fb00-40b6", "scope": "SCOPE", "secret": "2cd66c59-a845"}
    openfx = {"name": "org/1/apiKey/2", "privateKey": private_pem(throwaway_key("ES256"))}
    (directory / "bear-credentials.json").write_text(json.dumps(bear))
    (directory / "skykit-private.pem").write_text(private_pem(throwaway_key("RS256")))
    (directory / "crm-token.txt").write_text(TOKEN + "\n")
    (directory / "openfx-key.json").write_text(json.dumps(openfx))


def test_every_example_runs_and_every_call_carries_its_token(tmp_path: Path) -> None:
    write_credentials(tmp_path)
    with ProbeServer(OpaqueVerifier([TOKEN])) as server:
        script = (PRELUDE + "\n".join(BLOCKS)).replace(ADDRESS, server.target)
        # The examples trust the default roots, as a reader's would; here these are the throw-away ones.
        environment = os.environ | {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(server.ca.write(tmp_path))}
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        accepted, refused = len(server.ledger.accepted), len(server.ledger.refused)

    assert run.stderr == ""
    assert run.returncode == 0
    assert accepted == README.count(".List(request")
    assert refused == 0


@pytest.mark.parametrize("service", ["bear", "skykit", "bitbroker", "crm", "openfx"])
def test_there_is_an_example_for_the_service(service: str) -> None:
    assert any(f"profiles.{service}(" in block for block in BLOCKS)


@pytest.mark.parametrize(
    "door",
    [
        "grpc_bearer.secure_channel",
        "grpc_bearer.aio.secure_channel",
        "wrap_stub",
        "grpc_bearer.intercept_channel",
        "channel_credentials",
        "call_credentials",
        "grpc_bearer.interceptor",
        "grpc_bearer.aio.interceptors",
    ],
)
def test_there_is_an_example_for_the_door(door: str) -> None:
    assert any(f"{door}(" in block for block in BLOCKS)


def test_the_two_commands_stand_near_the_top() -> None:
    head = README.splitlines()[:24]

    assert any(line.startswith("make demo") for line in head)
    assert any(line.startswith("make test") for line in head)
