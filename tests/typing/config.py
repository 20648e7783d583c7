"""Auths by name, and tokens that processes share, as users write them. Read by type checkers, never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import os
from pathlib import Path

from typing_extensions import assert_type

import grpc_bearer
from grpc_bearer import BearerAuth, SharedCache, profiles

# From a TOML file.
assert_type(grpc_bearer.load("fleet"), BearerAuth)
assert_type(grpc_bearer.load(), BearerAuth)
assert_type(grpc_bearer.load("fleet", config=Path("auths.toml")), BearerAuth)
grpc_bearer.load(7)  # type: ignore[arg-type]
grpc_bearer.load("fleet", path="auths.toml")  # type: ignore[call-arg]

# One token for many processes.
cache = SharedCache(Path("tokens"), encryption_key=os.urandom(32), name="billing", timeout=0.1)
assert_type(SharedCache(), SharedCache)
BearerAuth("t0", cache=cache, pickle_secrets=True)
profiles.crm("t0", cache=cache)
BearerAuth("t0", cache="tokens")  # type: ignore[arg-type]
SharedCache("tokens", encryption_key=7)  # type: ignore[arg-type]
