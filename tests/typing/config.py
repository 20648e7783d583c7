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

# Options of a profile are `BearerAuth`'s, by the same names and types.
profiles.bear("bear.json", keep_warm=True, name="fleet", observers=[print])
profiles.skykit(Path("key.pem"), "me@example.com", header="x-token", scheme="", max_keys=8)
profiles.openfx({"name": "n", "privateKey": "k"}, presign=8, pickle_secrets=True)
profiles.bitbroker(consumer=Path("token"), routes={"*": "consumer"}, keep_warm=True)
profiles.crm(lambda: "t0")
profiles.bear("bear.json", keep_wram=True)  # type: ignore[call-arg]
profiles.skykit("key.pem", "me@example.com", max_keys="8")  # type: ignore[arg-type]
profiles.skykit(5, "me@example.com")  # type: ignore[arg-type]
profiles.openfx("openfx.json", clock="now")  # type: ignore[arg-type]
profiles.bitbroker("t0", header="authorization")  # type: ignore[call-arg]
profiles.bitbroker(5)  # type: ignore[arg-type]
profiles.crm(None)  # type: ignore[arg-type]
profiles.crm("t0", observers=print)  # type: ignore[arg-type]
BearerAuth("t0", cache="tokens")  # type: ignore[arg-type]
SharedCache("tokens", encryption_key=7)  # type: ignore[arg-type]
