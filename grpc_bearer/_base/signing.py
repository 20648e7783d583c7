"""Signers: a private key, loaded once and bound to the one algorithm it fits (JWS: RFC 7515, RFC 7518, RFC 8037).

Nothing here is cryptography of our own: `cryptography` signs. What is here are the questions of which key fits which
algorithm, and the answers when one does not.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

from grpc_bearer._base.arguments import Place, Where, as_dict, expanded_path
from grpc_bearer._base.credential_files import as_path
from grpc_bearer._base.keys import KeyFile, LoadedKey, is_key_text, load_jwk, load_text, passphrase_of
from grpc_bearer._base.token import Shared, secrets_may_travel
from grpc_bearer._base.translating import translating
from grpc_bearer._base.user_code import of_call
from grpc_bearer.errors import ConfigurationError, GrpcBearerError, SigningError, TokenUnavailableError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from google.auth.crypt import Signer as GoogleSigner

    #: The forms of a private key; see `load_signer`.
    KeyLike: TypeAlias = (
        "str | bytes | os.PathLike[str] | Mapping[str, object] | PrivateKeyTypes | GoogleSigner | Sign | Signer"
    )

Sign: TypeAlias = Callable[[bytes], bytes]


class _Algorithm(NamedTuple):
    key: str  # what `_describe` says of the keys that fit
    hash: str = ""
    size: int = 0  # bytes of each of r and s


# RFC 7518 section 3.1 and RFC 8037; HS* is left out on purpose: a shared secret signs nothing for a public service.
ALGORITHMS = {
    "RS256": _Algorithm("RSA", "SHA256"),
    "RS384": _Algorithm("RSA", "SHA384"),
    "RS512": _Algorithm("RSA", "SHA512"),
    "PS256": _Algorithm("RSA", "SHA256"),
    "PS384": _Algorithm("RSA", "SHA384"),
    "PS512": _Algorithm("RSA", "SHA512"),
    "ES256": _Algorithm("EC P-256", "SHA256", 32),
    "ES384": _Algorithm("EC P-384", "SHA384", 48),
    "ES512": _Algorithm("EC P-521", "SHA512", 66),
    "EdDSA": _Algorithm("Ed25519 or Ed448"),
}
_DEFAULTS = {
    "RSA": "RS256",
    "EC P-256": "ES256",
    "EC P-384": "ES384",
    "EC P-521": "ES512",
    "Ed25519": "EdDSA",
    "Ed448": "EdDSA",
}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
MIN_RSA_BITS = 2048  # RFC 7518 sections 3.3 and 3.5


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class Signer(Shared):
    """A key bound to one algorithm.

    Args:
        algorithm: the JWS name, such as `ES256`.
        key_type: what the key is, in words.
        sign: signs bytes; the signature is as JWS wants it (for `ES*`: r and s side by side, RFC 7518 section 3.4).
        key_id: the key's own name, from a JWK or a google-auth signer.
        local: whether signing is quick and does no I/O.
        origin: what loads it again after pickling; `None` if that would carry a secret.
        private: gives the private key itself, as PKCS#8 in DER; `None` if it is not at hand.
    """

    algorithm: str
    key_type: str
    sign: Sign
    key_id: str | None = None
    local: bool = True
    origin: Callable[[], Signer] | None = None
    private: Callable[[], bytes] | None = None

    def __repr__(self) -> str:
        return f"Signer({self.algorithm}, {self.key_type})"

    def __reduce__(self) -> tuple[Callable[[], Signer], tuple[()]]:
        if self.origin is not None:
            return self.origin, ()
        if self.private is not None and secrets_may_travel.get():
            return functools.partial(_from_pkcs8, self.private(), self.algorithm, self.key_id), ()
        raise ConfigurationError(
            "given inline or with a passphrase, and a pickle would carry it in the clear; name a file without a "
            "passphrase, or say BearerAuth(..., pickle_secrets=True)",
            field="key",
        )


def load_signer(
    key: object,
    algorithm: str | None = None,
    *,
    passphrase: str | bytes | os.PathLike[str] | None = None,
    field: str = "key",
) -> Signer:
    """A signer out of any form of private key; everything that can be wrong with it is found here.

    Args:
        key: PEM (PKCS#1, SEC1, PKCS#8; `str`, with line ends also as `\\n` in letters, or `bytes`); a JWK (mapping or
            JSON text); a file that holds either (an `os.PathLike`, or a `str` that names a file); a private key object
            of `cryptography`; a google-auth `Signer`; or a callable `bytes -> signature`, which may do I/O (KMS, HSM)
            and for `ES*` may return either DER or r and s side by side.
        algorithm: a JWS name; `None`: chosen by the key. A callable has none of its own and must be told.
        passphrase: of an encrypted PEM, or the path of a file that holds it.
        field: what errors call the key.

    Raises:
        SigningError: the key does not fit the algorithm, is too weak, public, damaged, or the passphrase is wrong.
        ConfigurationError: no such file or algorithm, no key at all, or a passphrase missing or without use.
    """
    if algorithm is not None and (not isinstance(algorithm, str) or algorithm not in ALGORITHMS):
        raise ConfigurationError(f"{algorithm!r} is not one of {', '.join(ALGORITHMS)}", field="algorithm")
    if isinstance(key, str) and not is_key_text(key):
        key = as_path(key, field)
    if isinstance(key, os.PathLike):
        key = KeyFile(Path(expanded_path(field, key)))
    password = passphrase_of(passphrase)
    if isinstance(key, KeyFile):
        again = functools.partial(load_signer, key, algorithm, passphrase=passphrase, field=field)
        where = Where(field, str(key.path))
        loaded = load_text(key.read(field), password, where)
        return _from_loaded(loaded, algorithm, where, None if isinstance(passphrase, (str, bytes)) else again)
    if isinstance(key, (str, bytes)):
        text = key.encode("utf-8", "replace") if isinstance(key, str) else key
        return _from_loaded(load_text(text, password, field), algorithm, field)
    if isinstance(key, Signer) and passphrase is None and algorithm in (None, key.algorithm):
        return key
    if passphrase is not None:
        raise ConfigurationError(f"only a PEM takes one, and {field} is a {type(key).__name__}", field="passphrase")
    if isinstance(key, Mapping):
        return _from_loaded(load_jwk(as_dict(field, key), field), algorithm, field)
    if _is_google_signer(key):
        return _from_google(cast("GoogleSigner", key), algorithm, field)
    if callable(key) and not inspect.isclass(key):
        return _from_callable(key, algorithm, field)
    return _from_loaded(LoadedKey(key), algorithm, field)


def _from_loaded(
    loaded: LoadedKey, algorithm: str | None, where: Place, again: Callable[[], Signer] | None = None
) -> Signer:
    kind = _describe(loaded.key, where)
    if algorithm and loaded.algorithm and algorithm != loaded.algorithm:
        raise SigningError(f"{algorithm} was asked for, and the JWK's own 'alg' is another", field=where)
    algorithm = algorithm or loaded.algorithm or _DEFAULTS.get(kind)
    if algorithm not in ALGORITHMS:
        raise SigningError(f"a key of type {kind}, for which there is no algorithm here", field=where)
    wanted = ALGORITHMS[algorithm].key
    if kind not in wanted.split(" or "):
        raise SigningError(f"{algorithm} needs a private key of type {wanted}, and this one is {kind}", field=where)
    sign, private = _sign_with(loaded.key, algorithm), functools.partial(_pkcs8, loaded.key)
    return Signer(algorithm, kind, sign, loaded.key_id, origin=again, private=private)


def _pkcs8(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return cast(bytes, key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def _from_pkcs8(der: bytes, algorithm: str, key_id: str | None) -> Signer:
    from cryptography.hazmat.primitives.serialization import load_der_private_key

    return _from_loaded(LoadedKey(load_der_private_key(der, None), algorithm, key_id), algorithm, "key")


def _describe(key: object, where: Place) -> str:
    """The type of a private key, in the words of `ALGORITHMS`."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if isinstance(key, rsa.RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise SigningError(f"an RSA key of {key.key_size} bits; at least {MIN_RSA_BITS} are needed", field=where)
        return "RSA"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"EC {_CURVES.get(key.curve.name, key.curve.name)}"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "Ed25519"
    if isinstance(key, ed448.Ed448PrivateKey):
        return "Ed448"
    if isinstance(key, x509.Certificate):
        raise SigningError("a certificate; signing needs the private key that belongs to it", field=where)
    if hasattr(key, "private_bytes"):  # DSA, X25519, …
        return type(key).__name__.removesuffix("PrivateKey")
    if hasattr(key, "public_bytes"):
        raise SigningError("a public key; signing needs the private key", field=where)
    raise ConfigurationError(
        f"expected PEM, a JWK, a file, a private key object, a google-auth Signer or a callable, "
        f"got {type(key).__name__}",
        field=where,
    )


def _sign_with(key: Any, algorithm: str) -> Sign:
    """The signing function itself. It runs for each token, so all that can be made beforehand is made here."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    raw_sign = key.sign
    if algorithm == "EdDSA":
        return cast(Sign, raw_sign)
    _, hash_name, size = ALGORITHMS[algorithm]
    digest: hashes.HashAlgorithm = getattr(hashes, hash_name)()
    if algorithm.startswith("ES"):
        ecdsa = ec.ECDSA(digest)

        def sign_es(data: bytes) -> bytes:
            r, s = decode_dss_signature(raw_sign(data, ecdsa))
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")

        return sign_es
    pkcs1 = padding.PKCS1v15()
    # RFC 7518 section 3.5: the salt is as long as the hash.
    pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=digest.digest_size)
    chosen: padding.PKCS1v15 | padding.PSS = pkcs1 if algorithm.startswith("RS") else pss
    return lambda data: cast(bytes, raw_sign(data, chosen, digest))


def _is_google_signer(key: object) -> bool:
    # Whoever has such a signer has imported google-auth. So if that is not imported, this is none.
    base = sys.modules.get("google.auth.crypt.base")
    return base is not None and isinstance(key, base.Signer)


def _from_google(key: GoogleSigner, algorithm: str | None, where: str) -> Signer:
    own = _google_algorithm(key)
    if algorithm not in (None, own):
        raise SigningError(f"{algorithm} was asked for, and this google-auth signer signs {own}", field=where)
    remote = not type(key).__module__.startswith("google.auth.crypt")
    key_id = key.key_id if isinstance(key.key_id, str) else None
    return Signer(own, f"google-auth {type(key).__name__}", _guarded(key.sign, own, where), key_id, not remote)


def _google_algorithm(key: GoogleSigner) -> str:
    # Newer EC signers say it; in older versions ES256Signer is the only one. RSASigner and iam.Signer sign RS256.
    own = getattr(key, "algorithm", None)
    return own if own in ALGORITHMS else "ES256" if type(key).__name__ == "ES256Signer" else "RS256"


def _from_callable(function: Callable[[bytes], object], algorithm: str | None, where: str) -> Signer:
    if algorithm is None:
        raise ConfigurationError(
            f"missing; {where} is a callable, which does not tell what it signs with", field="algorithm"
        )
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
        raise ConfigurationError(
            "a coroutine function; give a blocking one, it runs on a thread of its own", field=where
        )
    again = functools.partial(load_signer, function, algorithm, field=where)
    return Signer(algorithm, "callable", _guarded(function, algorithm, where), local=False, origin=again)


def _guarded(function: Callable[[bytes], object], algorithm: str, where: str) -> Sign:
    """A foreign signing function, with its failures made ours and its answer checked."""

    def sign(data: bytes) -> bytes:
        with translating(Exception, to=failure):
            signature = function(data)
        return _checked_signature(signature, algorithm, where)

    def failure(error: Exception) -> GrpcBearerError | None:
        """Whatever a KMS client raises; its text may hold anything."""
        if isinstance(error, GrpcBearerError):
            return None
        return of_call(error, where) or TokenUnavailableError(f"{where}: signing failed with {type(error).__name__}")

    return sign


def _checked_signature(signature: object, algorithm: str, where: str) -> bytes:
    if not isinstance(signature, (bytes, bytearray, memoryview)) or not signature:
        raise SigningError(f"expected the signature as bytes, got {type(signature).__name__}", field=where)
    raw = bytes(signature)
    size = ALGORITHMS[algorithm].size
    if not size or len(raw) == 2 * size:
        return raw
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    problem = f"{len(raw)} bytes that are no {algorithm} signature: neither DER nor r and s of {size} bytes each"
    with translating(ValueError, OverflowError, to=lambda _: SigningError(problem, field=where)):
        r, s = decode_dss_signature(raw)
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
