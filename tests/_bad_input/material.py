"""Keys and secrets, made anew for each run: no source line, which a traceback would show, holds one."""

from __future__ import annotations

import base64
import json
import secrets
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa, x25519
from secrets_harness import Watch

from grpc_bearer.testing import CA, private_pem, public_pem, throwaway_key


def _secret(name: str) -> str:
    # Letters that percent-encoding and JSON write in another way are in all of them.
    return f'{name}-{secrets.token_hex(12)}/+"%{secrets.token_hex(6)}'


TOKEN = f"tok-{secrets.token_hex(24)}"
LONG_TOKEN = secrets.token_hex(10_000)
API_KEY, BEAR_SECRET, CLIENT_SECRET, PASSWORD, REFRESH_TOKEN = map(_secret, ("api", "bear", "client", "password", "rt"))
PASSPHRASE, WRONG_PASSPHRASE = _secret("passphrase"), _secret("wrong")
HIDDEN = _secret("hidden")  # for texts of exceptions, claims, answers

BEAR = {"api_key": API_KEY, "scope": "probe", "secret": BEAR_SECRET}
CLIENT_ID = "the-client"

RSA, P256 = throwaway_key("RS256"), throwaway_key("ES256")
KEYS: dict[str, Any] = {
    "RSA": RSA,
    "P-256": P256,
    "P-384": throwaway_key("ES384"),
    "P-521": throwaway_key("ES512"),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()),
    "Ed25519": throwaway_key("EdDSA"),
    "Ed448": ed448.Ed448PrivateKey.generate(),
    "X25519": x25519.X25519PrivateKey.generate(),
    "DSA": dsa.generate_private_key(1024),
}
WEAK = rsa.generate_private_key(65537, 1024)
PEMS = {name: private_pem(key) for name, key in KEYS.items()}
WEAK_PEM = private_pem(WEAK)
ENCRYPTED = {name: private_pem(KEYS[name], passphrase=PASSPHRASE.encode()) for name in ("RSA", "P-256")}
OLD_ENCRYPTED = private_pem(RSA, traditional=True, passphrase=PASSPHRASE.encode())  # with DEK-Info
PUBLIC = {name: public_pem(KEYS[name]) for name in ("RSA", "P-256")}
OPENSSH = P256.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
).decode()
CERTIFICATE = CA().pem.decode()
CERTIFICATE_OBJECT = x509.load_pem_x509_certificate(CERTIFICATE.encode())
OPENFX = {"name": "org/o-1/apiKey/k-1", "privateKey": PEMS["P-256"]}

JWK_RSA: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(RSA, as_dict=True)
JWK_EC: dict[str, Any] = jwt.algorithms.ECAlgorithm.to_jwk(P256, as_dict=True)
JWK_OKP: dict[str, Any] = jwt.algorithms.OKPAlgorithm.to_jwk(KEYS["Ed25519"], as_dict=True)
JWK_OCT = {"kty": "oct", "k": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")}
EXPIRED_JWT = jwt.encode({"iat": 999_996_400, "exp": 1_000_000_000, "jti": HIDDEN}, P256, algorithm="ES256")
FOREIGN_JWT = jwt.encode({"sub": "me", "aud": "another-service", "jti": HIDDEN}, P256, algorithm="ES256")


def damaged(pem: str) -> str:
    """The PEM without some of its lines."""
    lines = pem.splitlines()
    return "\n".join([lines[0], *lines[2:]])


def in_one_line(pem: str) -> str:
    """As keys stand in environment variables: line ends as the letters backslash and n."""
    return pem.replace("\n", "\\n")


def without(mapping: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


def as_text(value: object) -> str:
    return json.dumps(value)


def tell(watch: Watch) -> None:
    """All secrets there are, to whoever searches."""
    watch.keep(
        TOKEN=TOKEN,
        LONG_TOKEN=LONG_TOKEN[:200],
        API_KEY=API_KEY,
        BEAR_SECRET=BEAR_SECRET,
        CLIENT_SECRET=CLIENT_SECRET,
        PASSWORD=PASSWORD,
        REFRESH_TOKEN=REFRESH_TOKEN,
        PASSPHRASE=PASSPHRASE,
        WRONG_PASSPHRASE=WRONG_PASSPHRASE,
        HIDDEN=HIDDEN,
        EXPIRED_JWT=EXPIRED_JWT,
        FOREIGN_JWT=FOREIGN_JWT,
        WEAK_PEM=WEAK_PEM,
        OPENSSH=OPENSSH,
        OLD_ENCRYPTED=OLD_ENCRYPTED,
        **{f"{name} PEM": pem for name, pem in PEMS.items()},
        **{f"{name} encrypted": pem for name, pem in ENCRYPTED.items()},
    )
    for name, jwk in (("RSA", JWK_RSA), ("EC", JWK_EC), ("OKP", JWK_OKP), ("oct", JWK_OCT)):
        watch.keep_jwk(jwk, f"{name} JWK")
