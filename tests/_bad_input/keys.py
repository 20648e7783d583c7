"""Private keys: of the wrong type for the algorithm, public, certificates, damaged, encrypted; claims and headers."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc_bearer
from grpc_bearer import ClientCredentialsSource, ConfigurationError, JWTSource, SigningError, profiles

from . import material as m
from .row import Row, Stage, build

_FITS = {
    "RS256": "RSA",
    "PS384": "RSA",
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
    "EdDSA": "Ed25519 Ed448",
}


def _kind(name: str) -> str:
    return f"EC {name}" if name.startswith(("P-", "secp")) else name


def _file(name: str, content: str) -> Callable[[Stage], Any]:
    return lambda stage: stage.file(name, content)


def algorithms() -> Iterator[Row]:
    """Every key with every algorithm that it does not fit; the forms of keys take turns."""
    forms = itertools.cycle(("text", "bytes", "object", "file", "one line"))
    for algorithm, (name, key) in itertools.product(_FITS, m.KEYS.items()):
        if name in _FITS[algorithm].split():
            continue
        form, pem = next(forms), m.PEMS[name]
        given: dict[str, Callable[[Stage], Any]] = {
            "text": lambda stage, pem=pem: pem,
            "bytes": lambda stage, pem=pem: pem.encode(),
            "object": lambda stage, key=key: key,
            "file": _file("wrong.pem", pem),
            "one line": lambda stage, pem=pem: m.in_one_line(pem),
        }
        wanted = {"RSA": "RSA", "Ed25519 Ed448": "Ed25519"}.get(_FITS[algorithm], f"EC {_FITS[algorithm]}")
        yield build(
            f"JWTSource: {name} key for {algorithm}, as {form}",
            SigningError,
            f"key|{algorithm} needs a private key of type {wanted}|this one is {_kind(name)}"
            + ("|wrong.pem" if form == "file" else ""),
            lambda stage, make=given[form], algorithm=algorithm: JWTSource(make(stage), algorithm=algorithm),
        )
    for name in ("secp256k1", "X25519", "DSA"):
        yield build(
            f"JWTSource: {name} key and no algorithm",
            SigningError,
            f"key: a key of type {_kind(name)}, for which there is no algorithm",
            lambda stage, name=name: JWTSource(m.PEMS[name]),
        )
    for state, value in {"HS256": "HS256", "none": "none", "empty": "", "lower case": "es256"}.items():
        yield build(
            f"JWTSource: algorithm {state}",
            ConfigurationError,
            "algorithm: |is not one of RS256",
            lambda stage, value=value: JWTSource(m.P256, algorithm=value),
        )
    for state, value in {"a number": 7, "a list": ["ES256"]}.items():
        yield build(
            f"JWTSource: algorithm is {state}",
            ConfigurationError,
            "algorithm",
            lambda stage, value=value: JWTSource(m.P256, algorithm=value),
        )


#: What is no private key at all, and what is said of it.
_NO_KEYS: dict[str, tuple[Any, type[grpc_bearer.GrpcBearerError], str]] = {
    "a public key": (m.PUBLIC["P-256"], SigningError, "a public key; signing needs the private key"),
    "a public RSA key": (m.PUBLIC["RSA"], SigningError, "a public key; signing needs the private key"),
    "a certificate": (m.CERTIFICATE, SigningError, "a certificate; signing needs the private key"),
    "two private keys": (m.PEMS["P-256"] + m.PEMS["RSA"], SigningError, "holds 2 private keys"),
    "OpenSSH's own format": (m.OPENSSH, SigningError, "OpenSSH's own format; convert it|ssh-keygen -p -m PKCS8"),
    "a PEM with a line missing": (m.damaged(m.PEMS["P-256"]), SigningError, "the PEM is damaged"),
    "a PEM that breaks off": (m.PEMS["P-256"][:120], SigningError, "no private key in it"),
    "a PEM without a body": (
        "-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n",
        SigningError,
        "the PEM is damaged",
    ),
    "a PEM full of garbage": (
        f"-----BEGIN PRIVATE KEY-----\n{m.HIDDEN}\n-----END PRIVATE KEY-----\n",
        SigningError,
        "the PEM is damaged",
    ),
    "parameters only": (
        "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n",
        SigningError,
        "no private key in it",
    ),
    "an encrypted key": (m.ENCRYPTED["P-256"], ConfigurationError, "passphrase: missing"),
}
_JWKS: dict[str, tuple[dict[str, Any], type[grpc_bearer.GrpcBearerError], str]] = {
    "a shared secret": (m.JWK_OCT, SigningError, "a shared secret ('kty' is 'oct')"),
    "public": (m.without(m.JWK_EC, "d"), SigningError, "a public JWK (without 'd')"),
    "a set": ({"keys": [m.JWK_EC]}, SigningError, "a set of JWKs"),
    "without kty": (m.without(m.JWK_EC, "kty"), SigningError, "'kty' is not RSA, EC or OKP"),
    "of an unknown kty": ({**m.JWK_EC, "kty": "AKP"}, SigningError, "'kty' is not RSA, EC or OKP"),
    "for encryption": ({**m.JWK_EC, "use": "enc"}, SigningError, "'use' or 'key_ops'"),
    "for verifying": ({**m.JWK_EC, "key_ops": ["verify"]}, SigningError, "'use' or 'key_ops'"),
    "of an unknown curve": ({**m.JWK_EC, "crv": "P-999"}, SigningError, "the JWK is damaged"),
    "with a damaged coordinate": ({**m.JWK_EC, "x": "AAAA"}, SigningError, "the JWK is damaged"),
    "with a coordinate that is no base64": ({**m.JWK_EC, "x": "ü"}, SigningError, "the JWK is damaged"),
    "with a coordinate that is a number": ({**m.JWK_EC, "x": 7}, SigningError, "the JWK is damaged"),
    "RSA without its modulus": (m.without(m.JWK_RSA, "n"), SigningError, "the JWK is damaged"),
    "OKP with a damaged key": ({**m.JWK_OKP, "d": "AAAA"}, SigningError, "the JWK is damaged"),
    "EC without y": (m.without(m.JWK_EC, "y"), SigningError, "the JWK is damaged"),
    "with kty a list": ({**m.JWK_EC, "kty": ["EC"]}, SigningError, "'kty' is not RSA, EC or OKP"),
    "empty": ({}, SigningError, "'kty' is not RSA, EC or OKP"),
}


def no_keys() -> Iterator[Row]:
    for state, (pem, kind, words) in _NO_KEYS.items():
        yield build(
            f"openfx: {state}",
            kind,
            f"privateKey|{words}",
            lambda stage, pem=pem: profiles.openfx({**m.OPENFX, "privateKey": pem}),
        )
        yield build(
            f"openfx: {state}, on one line in a file",
            kind,
            f"privateKey|openfx.json|{words}",
            lambda stage, pem=pem: profiles.openfx(
                stage.file("openfx.json", json.dumps({**m.OPENFX, "privateKey": m.in_one_line(pem)}))
            ),
        )
        yield build(
            f"skykit: {state}",
            kind,
            f"key|skykit.pem|{words}",
            lambda stage, pem=pem: profiles.skykit(stage.file("skykit.pem", pem), "me"),
        )
        yield build(
            f"ClientCredentialsSource: {state}",
            kind,
            f"key|{words}",
            lambda stage, pem=pem: ClientCredentialsSource(
                stage.oauth_url, m.CLIENT_ID, key=pem.encode(), auth_method="private_key_jwt"
            ),
        )
    for state, (jwk, kind, words) in _JWKS.items():
        yield build(f"JWTSource: a JWK {state}", kind, f"key: |{words}", lambda stage, jwk=jwk: JWTSource(jwk))
        yield build(
            f"JWTSource: a JWK {state}, in a file",
            kind,
            f"key: |key.jwk|{words}",
            lambda stage, jwk=jwk: JWTSource(stage.file("key.jwk", json.dumps(jwk))),
        )


def others() -> Iterator[Row]:
    def jwt_source(key: Any, **how: Any) -> Callable[[Stage], Any]:
        return lambda stage: JWTSource(key, **how)

    def skykit(key: Any, **how: Any) -> Callable[[Stage], Any]:
        return lambda stage: profiles.skykit(key, "me", **how)

    yield build(
        "skykit: a P-256 key", SigningError, "RS256 needs a private key of type RSA|EC P-256", skykit(m.PEMS["P-256"])
    )
    yield build(
        "skykit: an RSA key of 1024 bits",
        SigningError,
        "key: an RSA key of 1024 bits; at least 2048",
        skykit(m.WEAK_PEM),
    )
    yield build("skykit: a key object of 1024 bits", SigningError, "key: an RSA key of 1024 bits", skykit(m.WEAK))
    for name in ("RSA", "P-384", "P-521", "Ed25519", "secp256k1"):
        yield build(
            f"openfx: an {name} key",
            SigningError,
            f"privateKey: ES256 needs a private key of type EC P-256|{_kind(name)}",
            lambda stage, name=name: profiles.openfx({**m.OPENFX, "privateKey": m.PEMS[name]}),
        )
    for state, pem in {"PKCS#8": m.ENCRYPTED["RSA"], "PKCS#1": m.OLD_ENCRYPTED}.items():
        yield build(
            f"skykit: encrypted {state}, no passphrase",
            ConfigurationError,
            "passphrase: missing|key is encrypted",
            skykit(pem),
        )
        yield build(
            f"skykit: encrypted {state}, an empty passphrase",
            ConfigurationError,
            "passphrase: empty",
            skykit(pem, passphrase=""),
        )
        yield build(
            f"skykit: encrypted {state}, the wrong passphrase",
            SigningError,
            "key: wrong passphrase, or a damaged key",
            skykit(pem, passphrase=m.WRONG_PASSPHRASE),
        )
        yield build(
            f"skykit: encrypted {state}, the wrong passphrase as bytes",
            SigningError,
            "key: wrong passphrase",
            skykit(pem.encode(), passphrase=m.WRONG_PASSPHRASE.encode()),
        )
        yield build(
            f"skykit: encrypted {state}, a passphrase that is a number",
            ConfigurationError,
            "passphrase: expected a str, bytes or a path, got int",
            skykit(pem, passphrase=7),
        )
        yield build(
            f"skykit: encrypted {state}, damaged",
            SigningError,
            "key: wrong passphrase, or a damaged key",
            skykit("\n".join([*pem.splitlines()[:5], *pem.splitlines()[6:]]), passphrase=m.PASSPHRASE),
        )
    yield build(
        "skykit: a passphrase outside UTF-8",
        SigningError,
        "key: wrong passphrase",
        skykit(m.ENCRYPTED["RSA"], passphrase="\udcff"),
    )
    yield build(
        "skykit: a passphrase of 2 kB",
        SigningError,
        "key: wrong passphrase",
        skykit(m.ENCRYPTED["RSA"], passphrase="x" * 2000),
    )
    yield build(
        "skykit: a passphrase for a key that has none",
        ConfigurationError,
        "passphrase: given, but key is not encrypted",
        skykit(m.PEMS["RSA"], passphrase=m.PASSPHRASE),
    )
    yield build(
        "JWTSource: a passphrase for a JWK",
        ConfigurationError,
        "passphrase: only a PEM takes one",
        jwt_source(m.JWK_EC, passphrase=m.PASSPHRASE),
    )
    yield build(
        "JWTSource: a passphrase for a JWK's text",
        ConfigurationError,
        "passphrase: only a PEM takes one",
        jwt_source(json.dumps(m.JWK_EC), passphrase=m.PASSPHRASE),
    )
    yield build(
        "JWTSource: a passphrase for a key object",
        ConfigurationError,
        "passphrase: only a PEM takes one",
        jwt_source(m.P256, passphrase=m.PASSPHRASE),
    )
    yield build(
        "JWTSource: a JWK of another algorithm",
        SigningError,
        "key: |ES256 was asked for",
        jwt_source({**m.JWK_EC, "alg": "ES384"}, algorithm="ES256"),
    )
    yield build(
        "JWTSource: a JWK whose alg is unknown",
        SigningError,
        "key: |no algorithm here",
        jwt_source({**m.JWK_EC, "alg": "HS256"}),
    )
    yield build(
        "JWTSource: JWK text that breaks off",
        ConfigurationError,
        "key: not JSON",
        jwt_source(json.dumps(m.JWK_EC)[:-5]),
    )
    yield build("JWTSource: a public key object", SigningError, "key: a public key", jwt_source(m.P256.public_key()))
    yield build("JWTSource: a certificate object", SigningError, "key: a certificate", jwt_source(m.CERTIFICATE_OBJECT))
    for state, key in {"None": None, "a number": 7, "a class": dict, "a list": [m.PEMS["RSA"]]}.items():
        yield build(
            f"JWTSource: the key is {state}", ConfigurationError, "key: expected PEM, a JWK, a file", jwt_source(key)
        )
    yield build(
        "JWTSource: the key is a token",
        ConfigurationError,
        "key: neither a known format nor the name of a file",
        jwt_source(m.TOKEN),
    )
    yield build(
        "JWTSource: the key is bytes of nothing known",
        SigningError,
        "key: no private key in it",
        jwt_source(m.TOKEN.encode()),
    )
    yield build(
        "JWTSource: the key is binary", SigningError, "key: no private key in it", jwt_source(bytes(range(256)))
    )
    yield build(
        "JWTSource: the key is an endless file", ConfigurationError, "key: |/dev/zero", jwt_source(Path("/dev/zero"))
    )
    yield build("JWTSource: the key is empty", ConfigurationError, "key", jwt_source(""))
    yield build(
        "skykit: no such file",
        ConfigurationError,
        "key: no such file|none.pem",
        lambda stage: profiles.skykit(str(stage.directory / "none.pem"), "me"),
    )
    yield build(
        "skykit: no such path",
        ConfigurationError,
        "key: cannot read|none.pem",
        lambda stage: profiles.skykit(stage.directory / "none.pem", "me"),
    )
    yield build(
        "skykit: a directory",
        ConfigurationError,
        "key: cannot read|Is a directory",
        lambda stage: profiles.skykit(stage.directory, "me"),
    )
    yield build(
        "skykit: a file of 300 kB",
        ConfigurationError,
        "key: |long.pem|over 262144 bytes",
        lambda stage: profiles.skykit(stage.file("long.pem", m.PEMS["RSA"] + "#" * 300_000), "me"),
    )
    yield build(
        "skykit: a DER file",
        SigningError,
        "key: |key.der|no private key in it",
        lambda stage: profiles.skykit(stage.file("key.der", b"0\x82\x04\xbd\x02\x01\x00" + m.HIDDEN.encode()), "me"),
    )
    yield build(
        "skykit: an empty file",
        SigningError,
        "key: |empty.pem|no private key in it",
        lambda stage: profiles.skykit(stage.file("empty.pem", ""), "me"),
    )
    yield build(
        "JWTSource: a callable and no algorithm",
        ConfigurationError,
        "algorithm: missing",
        jwt_source(lambda data: data),
    )

    async def remote(data: bytes) -> bytes:
        return data

    yield build(
        "JWTSource: a coroutine function",
        ConfigurationError,
        "key: a coroutine function",
        jwt_source(remote, algorithm="ES256"),
    )


def claims() -> Iterator[Row]:
    for what in ("claims", "headers"):
        wrong: dict[str, tuple[Any, str]] = {
            "a list": ([m.HIDDEN], f"{what}: expected a mapping, got list"),
            "a str": (m.HIDDEN, f"{what}: expected a mapping, got str"),
            "with a name that is a number": ({7: m.HIDDEN}, f"{what}: a name is int"),
            "with a set": ({"x": {m.HIDDEN}}, f"{what}['x']: set that cannot be written as JSON"),
            "with bytes": ({"x": m.HIDDEN.encode()}, f"{what}['x']: bytes that cannot be written as JSON"),
            "with a UUID": ({"x": uuid.uuid4()}, f"{what}['x']: UUID that cannot be written as JSON"),
            "with NaN": ({"x": float("nan")}, f"{what}['x']: float that cannot be written as JSON"),
        }
        for state, (value, words) in wrong.items():
            yield build(
                f"JWTSource: {what} {state}",
                ConfigurationError,
                words,
                lambda stage, what=what, value=value: JWTSource(m.P256, **{what: value}),
            )
    for name in ("iat", "exp", "nbf"):
        yield build(
            f"JWTSource: the claim {name}",
            ConfigurationError,
            f"claims: '{name}' is set for each token; use lifetime=",
            lambda stage, name=name: JWTSource(m.P256, claims={name: 7}),
        )
    for name, words in {"alg": "follows from the key; use algorithm=", "b64": "is not for JWTs"}.items():
        yield build(
            f"JWTSource: the header {name}",
            ConfigurationError,
            f"headers: '{name}' {words}",
            lambda stage, name=name: JWTSource(m.P256, headers={name: "none"}),
        )
    yield build(
        "JWTSource: an audience that is a set",
        ConfigurationError,
        "claims['aud']: set",
        lambda stage: JWTSource(m.P256, audience={"a"}),
    )
    for state, value in {
        "beyond the maximum": 61,
        "zero": 0,
        "half a second": 0.5,
        "text": "60",
        "None": None,
        "true": True,
        "NaN": float("nan"),
        "infinite": float("inf"),
    }.items():
        yield build(
            f"JWTSource: lifetime is {state}",
            ConfigurationError,
            "lifetime: ",
            lambda stage, value=value: JWTSource(m.P256, lifetime=value, max_lifetime=60),
        )
    for state, value in {"the lifetime": 60, "below zero": -1, "text": "5", "infinite": float("inf")}.items():
        yield build(
            f"JWTSource: backdate is {state}",
            ConfigurationError,
            "backdate: expected a number of seconds",
            lambda stage, value=value: JWTSource(m.P256, lifetime=60, backdate=value),
        )
    for state, value in {"text": "3600", "NaN": float("nan"), "true": True}.items():
        yield build(
            f"JWTSource: max_lifetime is {state}",
            ConfigurationError,
            "max_lifetime",
            lambda stage, value=value: JWTSource(m.P256, max_lifetime=value),
        )


ROWS = [*algorithms(), *no_keys(), *others(), *claims()]
