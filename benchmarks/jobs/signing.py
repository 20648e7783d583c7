"""One signed JWT, as OpenFX and Skykit want it."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Callable
from typing import Any

import jwt

from benchmarks import loop, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Variant
from benchmarks.tables import Goal, Result
from grpc_bearer import JWTSource, profiles
from grpc_bearer._base.token import CallContext
from grpc_bearer.sources.jwt import nonce
from grpc_bearer.testing import private_pem, throwaway_key

NAME = "org/3f1c6f6e/apiKey/9d0e4c7a"
OURS = "grpc_bearer"
GOALS = {"ES256": Goal(1.30), "RS256": Goal(1.02), "EdDSA": Goal(1.12)}


def openfx_auth(presign: int = 0) -> Any:
    """OpenFX, with a throw-away key."""
    return profiles.openfx({"name": NAME, "privateKey": private_pem(throwaway_key("ES256"))}, presign=presign)


def openfx_members() -> tuple[dict[str, Any], dict[str, Any]]:
    """Claims and headers, as OpenFX's own Python sample makes them."""
    now = int(time.time())
    claims = {"aud": ["developer-api"], "iss": "openfx", "sub": NAME, "iat": now, "nbf": now, "exp": now + 120}
    return claims, {"kid": NAME, "nonce": secrets.token_hex(16)}


def skykit_members() -> tuple[dict[str, Any], dict[str, Any]]:
    """As Skykit's sample makes them."""
    now = int(time.time())
    return {"iss": "me@example.com", "iat": now, "exp": now + 3600}, {}


def by_pyjwt(algorithm: str, key: Any) -> Callable[[], str]:
    """The same token by PyJWT; with a PEM text for a key, the services' own samples."""
    members = skykit_members if algorithm == "RS256" else openfx_members

    def make() -> str:
        claims, headers = members()
        return jwt.encode(claims, key, algorithm=algorithm, headers=headers)

    return make


def _source(algorithm: str) -> Any:
    key = throwaway_key(algorithm)
    if algorithm == "ES256":
        return openfx_auth()._source
    if algorithm == "RS256":
        return profiles.skykit(key, "me@example.com")._source
    headers, claims = {"kid": NAME, "nonce": nonce}, {"aud": ["developer-api"], "iss": "openfx", "sub": NAME}
    return JWTSource(key, headers=headers, claims=claims, lifetime=120, not_before=True, single_use=True)


def raw_sign(algorithm: str, token: str) -> Callable[[], bytes]:
    """The floor: the key's own `sign`, on what this token signs."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding

    data, sign = token.rpartition(".")[0].encode(), throwaway_key(algorithm).sign
    how = {"ES256": (ec.ECDSA(hashes.SHA256()),), "RS256": (padding.PKCS1v15(), hashes.SHA256()), "EdDSA": ()}
    # Where the bytes happen to lie in memory is worth up to a sixth (EdDSA): so they lie in many places.
    arguments, copies = how[algorithm], itertools.cycle([bytes(bytearray(data)) for _ in range(64)])
    return lambda: sign(next(copies), *arguments)


def variants(algorithm: str) -> list[Variant]:
    """One algorithm."""
    source, key, context = _source(algorithm), throwaway_key(algorithm), CallContext()
    fetch, floor = source.fetch, raw_sign(algorithm, source.fetch(context).value)
    # Checking an RSA key each time takes 50 times as long as signing with it.
    sometimes = 20 if algorithm == "RS256" else 4
    return [
        Variant("key.sign() on the same bytes", "floor", floor),
        Variant("key.sign() on the same bytes, again", "A/A", floor),
        Variant(OURS, "ours", lambda: fetch(context)),
        Variant("PyJWT, key object", "peer", by_pyjwt(algorithm, key)),
        Variant(
            "PyJWT, PEM on each call (the services' samples)", "peer", by_pyjwt(algorithm, private_pem(key)), sometimes
        ),
    ]


def run(scale: Scale) -> Result:
    """A table for each algorithm."""
    result = Result()
    for algorithm, seconds in (("ES256", 8), ("RS256", 15), ("EdDSA", 8)):
        samples = loop.wall(variants(algorithm), scale.budget(seconds, least=100))
        title = f"One {algorithm} token"
        result.tables.append(tables.compare(f"sign-{algorithm.lower()}", title, samples, {OURS: GOALS[algorithm]}))
        result.benchmarks += held(samples)
    return result
