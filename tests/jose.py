"""Verifying tokens with joserfc, which shares no code with what made them."""

from __future__ import annotations

import warnings
from typing import Any

from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from grpc_bearer.testing import public_pem

_KINDS: dict[str, Any] = {"R": RSAKey, "P": RSAKey, "ES": ECKey, "Ed": OKPKey}


def verified(token: str, key: Any, algorithm: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a JWT whose signature is good under this (private or public) key of `cryptography`."""
    kind = next(kind for start, kind in _KINDS.items() if algorithm.startswith(start))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # joserfc calls EdDSA by its new names only: Ed25519, Ed448
        # Not strict, for OpenFX's `nonce` is a header that no RFC knows.
        registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
        decoded = jwt.decode(token, kind.import_key(public_pem(key)), registry=registry)
    return dict(decoded.header), dict(decoded.claims)
