"""Whether a JWT was signed by a key of a set: `inspect --verify`. PyJWT verifies; the times are looked at elsewhere."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc_bearer._base.clock import SYSTEM_CLOCK
from grpc_bearer._base.credential_files import read_file
from grpc_bearer._base.token import Secret
from grpc_bearer._base.translating import translating
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.flags import in_flags
from grpc_bearer._cli.sources import FIELD
from grpc_bearer._cli.terminal import safe
from grpc_bearer.errors import ConfigurationError, TokenError
from grpc_bearer.sources._http import Endpoint
from grpc_bearer.sources._parse import decoded_text, json_document, status_error

_FIELD = "--verify"
_HEADERS = {"accept": Secret("application/json", "accept")}
_TLS = re.compile(r"certificate verify failed|\bTLS\b")
#: What a public key in PEM can verify: never an HMAC, for whose secret it could be taken.
_BY_PEM = ("ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512")


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys to verify by.

    Args:
        where: where they come from, for people.
        found: JWKs, or one PEM.
    """

    where: str
    found: Sequence[Mapping[str, Any]] | bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the signature holds: by which key, or why not."""

    by: str = ""
    problem: str = ""


def keys_of(where: str, arguments: Namespace, timeout: float) -> Keys:
    """The keys that a URL or a file gives: a JWK set, a single JWK, or a public key or certificate in PEM.

    A URL may also be that of an OpenID provider's configuration, which names the set.

    Raises:
        CommandFailure: they cannot be had.
        ConfigurationError: the file cannot be read, or the URL is none.
    """
    if "://" not in where:
        data = read_file(Path(where), _FIELD)
        if b"-----BEGIN " in data:
            return Keys(where, data)
        return Keys(where, _jwks(_parsed(data.decode("utf-8", "replace"), where), where))
    document = _fetched(where, arguments, timeout)
    if isinstance(document, dict) and isinstance(named := document.get("jwks_uri"), str):
        where, document = named, _fetched(named, arguments, timeout)
    return Keys(where, _jwks(document, where))


def _fetched(url: str, arguments: Namespace, timeout: float) -> object:
    ca, loopback = (getattr(arguments, f"{FIELD}{name}") for name in ("ca", "allow_http_loopback"))

    def in_words(error: Exception) -> str:
        return in_flags(str(error), arguments, always=True)

    to = lambda error: CommandFailure(Exit.USAGE, in_words(error), error=error)  # noqa: E731
    with translating(ConfigurationError, to=to):
        endpoint = Endpoint(url, field=_FIELD, timeout=timeout or 30.0, ca=ca, allow_http_loopback=bool(loopback))
    try:
        answer = endpoint.send("GET", _HEADERS, None)
        if refused := status_error(answer, endpoint.host, SYSTEM_CLOCK.time()):
            raise refused
        return json_document(decoded_text(answer, endpoint.host), endpoint.host)
    except TokenError as error:
        text = f"{_FIELD}: {in_words(error)}"
        unreached = Exit.TLS if _TLS.search(text) else Exit.NETWORK
        code, advice = (unreached, "") if error.retryable else (Exit.USAGE, "give the URL of a JWK set")
    finally:
        endpoint.close()
    raise CommandFailure(code, text, advice)


def _parsed(text: str, where: str) -> object:
    to = lambda _: ConfigurationError(f"{where} is neither JSON nor PEM", field=_FIELD)  # noqa: E731
    with translating(TokenError, to=to):
        return json_document(text, where)


def _jwks(document: object, where: str) -> list[Mapping[str, Any]]:
    keys = document.get("keys", [document] if "kty" in document else None) if isinstance(document, dict) else None
    if not isinstance(keys, list) or not keys:
        raise CommandFailure(Exit.USAGE, f"{_FIELD}: {safe(where)} holds no keys", 'expected a JWK set: {"keys": […]}')
    return [each for each in keys if isinstance(each, dict)]


# -- the signature ----------------------------------------------------------------------------------------------------


def verified(token: str, header: Mapping[str, Any], keys: Keys) -> Verdict:
    """Whether one of the keys has signed the token."""
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm.lower() == "none":
        return Verdict(problem="it has no signature that could be verified")
    if isinstance(keys.found, bytes):
        return _by(keys.where, _pem(keys.found, keys.where) if algorithm in _BY_PEM else None, token, algorithm)
    named = header.get("kid")
    having = [each for each in keys.found if named is None or each.get("kid", named) == named]
    if not having:
        known = ", ".join(safe(str(each.get("kid"))) for each in keys.found[:5])
        return Verdict(problem=f"{keys.where} has no key with the kid {safe(str(named))} (it has {known})")
    verdicts = [_by(_named(each, keys.where), key, token, algorithm) for each, key in _usable(having, algorithm)]
    none = Verdict(problem=f"no key of {keys.where} is for {safe(algorithm)}")
    return next((each for each in verdicts if each.by), verdicts[0] if verdicts else none)


def _named(key: Mapping[str, Any], where: str) -> str:
    return f"the key {safe(str(key['kid']))} of {where}" if "kid" in key else f"a key of {where}"


def _usable(keys: Sequence[Mapping[str, Any]], algorithm: str) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """The keys that are for the algorithm, as PyJWT takes them."""
    import jwt

    for each in keys:
        if each.get("alg", algorithm) == algorithm and each.get("use", "sig") == "sig":
            try:
                yield each, jwt.PyJWK(dict(each), algorithm=algorithm).key
            except (jwt.PyJWTError, ValueError, TypeError):
                continue


def _pem(data: bytes, where: str) -> Any:
    """A public key; that of a certificate too."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        if b"BEGIN CERTIFICATE" in data:
            return x509.load_pem_x509_certificate(data).public_key()
        return load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        problem = f"{_FIELD}: {safe(where)} holds no certificate and no public key that can be read"
    raise CommandFailure(Exit.USAGE, problem, "private keys are not taken")


def _by(name: str, key: Any, token: str, algorithm: str) -> Verdict:
    import jwt

    if key is None:
        return Verdict(problem=f"{name} is not for {safe(algorithm)}")
    try:
        jwt.PyJWS().decode_complete(token, key, algorithms=[algorithm])
    except jwt.InvalidSignatureError:
        return Verdict(problem=f"its signature is not by {name}")
    except (jwt.PyJWTError, ValueError, TypeError, NotImplementedError) as error:
        return Verdict(problem=f"its signature cannot be verified by {name} ({type(error).__name__})")
    return Verdict(by=name)
