"""Private keys out of text: PEM and JWK, with an answer in words when the text holds something else.

`cryptography` reads PEM, PyJWT reads JWKs. Nothing of the text is ever in an error, nor in what it is chained to.
"""

from __future__ import annotations

import os
import re
import textwrap
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from grpc_bearer._base.arguments import UNFILLED, Place, Where, is_placeholder, refuse_file_name
from grpc_bearer._base.credential_files import checked_fields, parse_object, read_file, read_object
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError, SigningError


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key in a file: PEM or JWK, or PEM in one member of a JSON object."""

    path: Path
    member: str | None = None

    def read(self, field: str) -> bytes:
        """The PEM or JWK text; raises `ConfigurationError`."""
        if self.member is None:
            return read_file(self.path, field)
        data, _ = read_object(self.path, field)
        fields = checked_fields(data, (self.member,), Where(field, str(self.path)), extra=True)
        return str(fields[self.member]).encode("utf-8", "replace")


class LoadedKey(NamedTuple):
    """A private key object of `cryptography`, and what a JWK said about it."""

    key: object
    algorithm: str | None = None
    key_id: str | None = None


def is_key_text(text: str) -> bool:
    """Whether it begins like PEM or a JWK, and so is no file name."""
    return "-----BEGIN" in text or text.removeprefix("\ufeff").lstrip().startswith("{")


def load_text(text: bytes, passphrase: bytes | None, where: Place) -> LoadedKey:
    """The private key in PEM or JWK text.

    Raises:
        SigningError: public, damaged, not to be decrypted, or not for signing.
        ConfigurationError: not text of a key, or a passphrase missing or without use.
    """
    text = text.removeprefix(b"\xef\xbb\xbf").strip()
    if not text.startswith(b"{"):
        return LoadedKey(_load_pem(text, passphrase, where))
    if passphrase is not None:
        raise ConfigurationError(f"only a PEM takes one, and {where} is a JWK", field="passphrase")
    return load_jwk(parse_object(text.decode("utf-8", "replace"), where), where)


_COORDINATES = {"P-256": 32, "P-384": 48, "P-521": 66}  # bytes
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)


def _load_pem(text: bytes, passphrase: bytes | None, where: Place) -> object:
    label, body = _private_block(_unescaped(text), where)
    password = _checked_passphrase(passphrase, b"ENCRYPTED" in label or b"ENCRYPTED" in body, where)
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    problem = "wrong passphrase, or a damaged key" if password else "the PEM is damaged, or of a kind not supported"
    with translating(ValueError, TypeError, UnsupportedAlgorithm, to=lambda _: SigningError(problem, field=where)):
        return load_pem_private_key(_rewrapped(label, body), password)


def _unescaped(text: bytes) -> bytes:
    """With line ends that are line ends: in JSON and environment variables they are often the letters \\r and \\n, also
    escaped twice, or have a backslash before them. No PEM has a backslash of its own."""
    return re.sub(rb"\\+r?", b"", re.sub(rb"\\+n", b"\n", text))


def _private_block(text: bytes, where: Place) -> tuple[bytes, bytes]:
    """The one private key among the PEM blocks: openssl puts `EC PARAMETERS` first, others a certificate."""
    blocks = _BLOCK.findall(text)
    private = [block for block in blocks if block[0].endswith(b"PRIVATE KEY")]
    if len(private) > 1:
        raise SigningError(f"holds {len(private)} private keys; leave the one to sign with", field=where)
    if private and private[0][0] == b"OPENSSH PRIVATE KEY":
        raise SigningError("in OpenSSH's own format; convert it with `ssh-keygen -p -m PKCS8 -f FILE`", field=where)
    if private:
        return cast("tuple[bytes, bytes]", private[0])
    labels = [label for label, _ in blocks]
    if b"CERTIFICATE" in labels:
        raise SigningError("a certificate; signing needs the private key that belongs to it", field=where)
    if any(label.endswith(b"PUBLIC KEY") for label in labels):
        raise SigningError("a public key; signing needs the private key", field=where)
    raise SigningError("no private key in it; expected PEM ('-----BEGIN PRIVATE KEY-----' …) or a JWK", field=where)


def passphrase_of(given: object) -> bytes | None:
    """A passphrase out of what was given for it: a text, bytes or the path of a file, without the line end there.

    Raises:
        ConfigurationError: something else, the name of a file, a placeholder, or a file that cannot be read.
    """
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, os.PathLike):
        return read_file(given, "passphrase").rstrip(b"\r\n")
    if not isinstance(given, str):
        raise ConfigurationError(f"expected a str, bytes or a path, got {type(given).__name__}", field="passphrase")
    refuse_file_name("passphrase", given)
    if is_placeholder(given.strip()):
        raise ConfigurationError(UNFILLED, field="passphrase")
    # A lone surrogate would raise, and show the passphrase; replaced, it is a wrong one.
    return given.rstrip("\r\n").encode("utf-8", "replace")


def _checked_passphrase(passphrase: bytes | None, encrypted: bool, where: Place) -> bytes | None:
    if encrypted and not passphrase:
        state = "missing" if passphrase is None else "empty"
        raise ConfigurationError(f"{state}, and {where} is encrypted", field="passphrase")
    if passphrase is not None and not encrypted:
        raise ConfigurationError(f"given, but {where} is not encrypted; leave it out", field="passphrase")
    return passphrase


def _rewrapped(label: bytes, body: bytes) -> bytes:
    """The block with line ends where PEM wants them: a key on one line is refused by some versions of the parser."""
    if b":" not in body:  # a header such as DEK-Info lives by its lines
        body = "\n".join(textwrap.wrap(b"".join(body.split()).decode("ascii", "replace"), 64)).encode()
    return b"-----BEGIN %s-----\n%s\n-----END %s-----\n" % (label, body.strip(), label)


def load_jwk(jwk: Mapping[str, Any], where: Place) -> LoadedKey:
    """The private key in a JWK (RFC 7517).

    Raises:
        SigningError: public, shared, damaged, or not for signing.
    """
    if problem := _jwk_problem(jwk):
        raise SigningError(problem, field=where)
    from jwt.algorithms import get_default_algorithms

    reader = get_default_algorithms()[{"RSA": "RS256", "EC": "ES512", "OKP": "EdDSA"}[jwk["kty"]]]
    problem = "the JWK is damaged, or of a curve not supported"
    # PyJWT lets TypeError, KeyError, binascii.Error and more through; their text may hold parts of the key.
    with translating(Exception, to=lambda _: SigningError(problem, field=where)):
        key = reader.from_jwk(_padded(jwk))
    algorithm, key_id = jwk.get("alg"), jwk.get("kid")
    return LoadedKey(
        key, algorithm if isinstance(algorithm, str) else None, key_id if isinstance(key_id, str) else None
    )


def _padded(jwk: Mapping[str, Any]) -> dict[str, Any]:
    """EC coordinates at their full length (RFC 7518 section 6.2.1.2).

    Several libraries leave out leading zeros when they write a JWK, and PyJWT refuses what they wrote.
    """
    size = _COORDINATES.get(jwk.get("crv", ""), 0)
    full = {
        name: urlsafe_b64encode(urlsafe_b64decode(jwk[name] + "==").rjust(size, b"\0")).decode().rstrip("=")
        for name in ("x", "y", "d")
        if size and name in jwk
    }
    return {**jwk, **full}


def _jwk_problem(jwk: Mapping[str, Any]) -> str:
    if "keys" in jwk and "kty" not in jwk:
        return "a set of JWKs; give the one to sign with"
    kty = jwk.get("kty")
    if kty == "oct":
        return "a shared secret ('kty' is 'oct'); signing needs a private key"
    if kty not in ("RSA", "EC", "OKP"):
        return "no JWK that can sign: its 'kty' is not RSA, EC or OKP"
    if "d" not in jwk:
        return "a public JWK (without 'd'); signing needs the private key"
    operations = jwk.get("key_ops")
    if jwk.get("use", "sig") != "sig" or (isinstance(operations, list) and "sign" not in operations):
        return "the JWK's 'use' or 'key_ops' says that it is not for signing"
    return ""
