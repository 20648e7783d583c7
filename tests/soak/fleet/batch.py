"""What a batch engine's workers run: calls with an auth that came to them in a pickle. Imported by name over there."""

from __future__ import annotations

from typing import Any

import grpc

import grpc_bearer
from grpc_bearer.testing import ProbeRequest, ProbeStub

_stubs: dict[str, Any] = {}


def credential() -> dict[str, int]:
    """The body of a token request: what a real one would read from a file or the environment."""
    return {"pid": 0}


def make_auth(url: str, ca: str, directory: str, key: str) -> grpc_bearer.BearerAuth:
    """An auth that travels: nothing in it is secret."""
    from pathlib import Path

    cache = grpc_bearer.SharedCache(directory, encryption_key=Path(key), name="batch", timeout=10.0)
    source = grpc_bearer.HTTPTokenSource(url, body=credential, field="access_token", ca=ca, timeout=30.0)
    return grpc_bearer.BearerAuth(source, cache=cache)


def call(auth: grpc_bearer.BearerAuth, target: str, root: bytes, index: int) -> int:
    """One call. The first one in a process makes its channel, and keeps the auth that it came with."""
    stub = _stubs.get(target)
    if stub is None:
        credentials = grpc.ssl_channel_credentials(root)
        stub = _stubs[target] = ProbeStub(grpc_bearer.secure_channel(target, credentials, auth=auth))
    return int(stub.Unary(ProbeRequest(index=index), timeout=60).indexes[0])


def calls(auth: grpc_bearer.BearerAuth, target: str, root: bytes, start: int, count: int) -> int:
    """Several, one after another; their sum."""
    return sum(call(auth, target, root, index) for index in range(start, start + count))
