"""Throw-away signing keys. RSA ones take a tenth of a second and more to make, so each process makes one of a kind."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from grpc_bearer._base.arguments import checked_flag

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["private_pem", "public_pem", "throwaway_key"]


_made: dict[tuple[str, int], Any] = {}
_making = threading.Lock()


def throwaway_key(algorithm: str = "ES256", serial: int = 0) -> Any:
    """A private key of `cryptography` for a JWS algorithm, the same one each time within the process.

    Args:
        algorithm: RS*, PS*, ES256, ES384, ES512 or EdDSA.
        serial: another number gives another key.

    >>> throwaway_key("ES256") is throwaway_key("ES256"), throwaway_key("ES256") is throwaway_key("ES256", 1)
    (True, False)
    """
    with _making:
        if (algorithm, serial) not in _made:
            _made[algorithm, serial] = _make(algorithm)
        return _made[algorithm, serial]


def _make(algorithm: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    makers: dict[str, Callable[[], Any]] = {
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ES512": lambda: ec.generate_private_key(ec.SECP521R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }
    if algorithm in makers:
        return makers[algorithm]()
    if algorithm[:2] in ("RS", "PS"):
        return rsa.generate_private_key(65537, 2048)
    raise ValueError(f"algorithm: no key for {algorithm!r}")


def private_pem(key: Any, *, traditional: bool = False, passphrase: bytes | None = None) -> str:
    """The key as PEM: PKCS#8, or with `traditional` PKCS#1 (RSA) or SEC1 (EC)."""
    from cryptography.hazmat.primitives import serialization as s

    how = s.PrivateFormat.TraditionalOpenSSL if checked_flag("traditional", traditional) else s.PrivateFormat.PKCS8
    cipher = s.BestAvailableEncryption(passphrase) if passphrase else s.NoEncryption()
    pem: bytes = key.private_bytes(s.Encoding.PEM, how, cipher)
    return pem.decode()


def public_pem(key: Any) -> str:
    """The public half, of a private key or of one that is public already, as PEM."""
    from cryptography.hazmat.primitives import serialization as s

    public = key.public_key() if hasattr(key, "public_key") else key
    pem: bytes = public.public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()
