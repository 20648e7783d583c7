"""Five services, each as data over the public parts: which source, which header, which limits.

Every function returns a `BearerAuth`. Further keyword arguments (`keep_warm=`, `clock=`, …) are `BearerAuth`'s own.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from grpc_bearer._auth import AuthOptions, BearerAuth, HeaderOptions, as_source
from grpc_bearer._base.arguments import Place, Where, as_dict, checked_text
from grpc_bearer._base.credential_files import checked_fields, read_object
from grpc_bearer._base.identity import Identity
from grpc_bearer._base.keys import KeyFile
from grpc_bearer._base.signing import load_signer
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import Secret, TokenFunction
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError, TokenUnavailableError
from grpc_bearer.sources.http import HTTPTokenSource
from grpc_bearer.sources.jwt import JWTSource, nonce
from grpc_bearer.sources.routed import RoutedSource

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on; only checkers need it

    from grpc_bearer._base.signing import KeyLike

_TokenLike: TypeAlias = str | os.PathLike[str] | TokenFunction

__all__ = ["bear", "bitbroker", "crm", "openfx", "skykit"]

_BEAR_FIELDS, _BEAR_SECRETS = ("api_key", "scope", "secret"), ("api_key", "secret")
_BEAR_AGES = (900.0, 1200.0)  # "ideally every 15 to 20 minutes", in seconds
_BITBROKER_HEADER = "x-bbk-auth-token"


def bear(
    credentials: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    url: str = "https://api-auth.bearrobotics.ai/authorizeApiAccess",
    ca: str | os.PathLike[str] | None = None,
    **options: Unpack[HeaderOptions],
) -> BearerAuth:
    """Bear Cloud API: an API key is exchanged for a JWT ("Authentication and Authorization with API Key").

    The credentials go out as JSON by HTTPS POST; the answer is the JWT as text. A new one is fetched at an age of 15 to
    20 minutes, as Bear recommends, or earlier if its `exp` demands.

    Args:
        credentials: the JSON file, its text or a mapping, with exactly `api_key`, `scope` and `secret`; in a mapping,
            `api_key` and `secret` may each be the path of a file. Files are read again for each exchange, so a rotated
            key is taken up.
        url: where to exchange it.
        ca: a file or folder of certificate authorities, for an endpoint behind a private one.
        **options: for `BearerAuth`; `keep_warm=True` refreshes on a timer even if no calls are made.

    Raises:
        ConfigurationError: names the file and every field that is wrong, never a value.
    """
    data, path = read_object(credentials, "credentials")
    body = checked_fields(data, _BEAR_FIELDS, _where(path), secrets=_BEAR_SECRETS)
    source = (
        HTTPTokenSource(url, json=body, refresh_after=_BEAR_AGES, ca=ca) if path is None else _BearFile(path, url, ca)
    )
    return BearerAuth(source, **options)


class _BearFile(HTTPTokenSource):
    """Bear's credentials in a file, read for each exchange. Nothing secret stays here, so it pickles."""

    def __init__(self, path: Path, url: str, ca: str | os.PathLike[str] | None) -> None:
        body, kind = functools.partial(_bear_body, path), {"content-type": "application/json"}
        super().__init__(url, body=body, headers=kind, refresh_after=_BEAR_AGES, ca=ca)
        self._again = path, url, ca

    def identity(self) -> Identity | None:
        try:
            body = _bear_body(self._again[0])
        except TokenUnavailableError:
            return None
        return self._identity_with(Secret(json.dumps(body), "credentials"))

    def __reduce__(self) -> tuple[type[_BearFile], tuple[Any, ...]]:
        return _BearFile, self._again


def _bear_body(path: Path) -> dict[str, object]:
    # It was right when the auth was built, so somebody is writing it: worth another try later.
    with translating(ConfigurationError, to=lambda error: TokenUnavailableError(str(error))):
        data, _ = read_object(path, "credentials")
        return checked_fields(data, _BEAR_FIELDS, _where(path), secrets=_BEAR_SECRETS)


def _where(path: Path | None) -> Place:
    return "credentials" if path is None else Where("credentials", str(path))


def skykit(
    key: KeyLike,
    issuer: str,
    *,
    passphrase: str | bytes | os.PathLike[str] | None = None,
    lifetime: float = 3600.0,
    **options: Unpack[HeaderOptions],
) -> BearerAuth:
    """Skykit API: a JWT signed with your own RSA key (RS256), used until near its expiry. Claims: `iss`, `iat`, `exp`.

    Args:
        key: the private key whose public half Skykit Support knows: a PEM file (PKCS#1 or PKCS#8) or PEM text, or
            whatever else `JWTSource` takes.
        issuer: the e-mail address that the key is registered with.
        passphrase: of an encrypted PEM, or the path of a file that holds it.
        lifetime: in seconds, one hour at most.
        **options: for `BearerAuth`.

    Raises:
        ConfigurationError: an argument is wrong.
        SigningError: no RSA key, too short a key, a public key, a wrong passphrase.
    """
    source = JWTSource(
        key,
        algorithm="RS256",
        claims={"iss": checked_text("issuer", issuer)},
        lifetime=lifetime,
        max_lifetime=3600.0,
        passphrase=passphrase,
    )
    return BearerAuth(source, **options)


def bitbroker(
    token: _TokenLike | None = None,
    *,
    coordinator: _TokenLike | None = None,
    contributor: _TokenLike | None = None,
    consumer: _TokenLike | None = None,
    routes: Mapping[str, str] | None = None,
    **options: Unpack[AuthOptions],
) -> BearerAuth:
    """BitBroker ("Authorization and Tokens"): the bare token in `x-bbk-auth-token`; one, or one for each role.

    Each token is a `str`, a file (`os.PathLike`; a changed file is taken up) or a function that returns one.

    Args:
        token: the one token for all calls.
        coordinator: the Coordinator API's token.
        contributor: the Contributor API's token.
        consumer: the Consumer API's token.
        routes: pattern to role, such as `{"bbk.Coordinator/*": "coordinator"}`; the first that matches decides, as in
            `RoutedSource`. A call that none matches fails before anything is sent.
        **options: for `BearerAuth`.

    Raises:
        ConfigurationError: a token and roles, neither, an unknown role, or a role without a token.
    """
    given = {"coordinator": coordinator, "contributor": contributor, "consumer": consumer}
    sources = {role: _token_source(value, role) for role, value in given.items() if value is not None}
    if token is not None:
        if sources or routes is not None:
            raise ConfigurationError(
                "is for all calls; leave out the roles and routes, or leave out the token", field="token"
            )
        source = _token_source(token, "token")
    else:
        source = RoutedSource(_routed(sources, routes, tuple(given)))
    return BearerAuth(source, _BITBROKER_HEADER, "", **options)


def _routed(
    sources: Mapping[str, Source], routes: Mapping[str, str] | None, roles: tuple[str, ...]
) -> dict[str, Source]:
    if not sources:
        raise ConfigurationError(
            f"missing; give one, or one for each role ({', '.join(roles)}) with routes", field="token"
        )
    if not isinstance(routes, Mapping) or not (routes := as_dict("routes", routes)):
        raise ConfigurationError(
            "missing; say which calls take which role, as in {'pkg.Service/*': 'consumer'}", field="routes"
        )
    for pattern, role in routes.items():
        if role not in roles:
            raise ConfigurationError(f"{pattern}: the role is none of {', '.join(roles)}", field="routes")
        if role not in sources:
            raise ConfigurationError(f"missing; the route {pattern} needs its token", field=role)
    return {pattern: sources[role] for pattern, role in routes.items()}


def crm(token: _TokenLike, **options: Unpack[HeaderOptions]) -> BearerAuth:
    """A CRM's token, valid until revoked, as `authorization: Bearer …`.

    Args:
        token: a `str`, a file (`os.PathLike`; a changed file is taken up) or a function that returns one.
        **options: for `BearerAuth`.

    Raises:
        ConfigurationError: something else.
        TokenFormatError: a token that no header may carry.
    """
    return BearerAuth(_token_source(token, "token"), **options)


def _token_source(token: object, field: str) -> Source:
    if not (isinstance(token, (str, os.PathLike, Source)) or callable(token)) or isinstance(token, type):
        raise ConfigurationError(f"expected a str, a path or a function, got {type(token).__name__}", field=field)
    return as_source(token)


def openfx(
    credentials: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    *,
    audience: str = "developer-api",
    issuer: str = "openfx",
    lifetime: float = 120.0,
    presign: int = 0,
    **options: Unpack[HeaderOptions],
) -> BearerAuth:
    """OpenFX: a JWT signed with an API key (ES256), two minutes long, for one request only.

    Header `kid` (the key's name) and a 128-bit `nonce`; claims `aud`, `iss`, `sub`, `iat`, `nbf` and `exp`. Every
    attempt of a call gets a new one.

    Args:
        credentials: the API key file from the dashboard, its JSON text or a mapping, with `name` and `privateKey` (PEM,
            PKCS#8 or SEC1; on one line too). Other fields are let pass.
        audience: the service's name.
        issuer: as OpenFX wants it.
        lifetime: in seconds, 120 at most.
        presign: how many tokens may be signed ahead for channels with `attach="metadata"`; see `JWTSource`.
        **options: for `BearerAuth`.

    Raises:
        ConfigurationError: names the file and every field that is wrong, never a value.
        SigningError: no P-256 key, a public key, a damaged PEM.
    """
    data, path = read_object(credentials, "credentials")
    fields = checked_fields(data, ("name", "privateKey"), _where(path), secrets=("privateKey",), extra=True)
    name, key = fields["name"], fields["privateKey"]
    if path is not None:
        key = KeyFile(path, "privateKey")  # read from there again after pickling
    elif isinstance(key, str):
        key = key.encode("utf-8", "replace")
    source = JWTSource(
        load_signer(key, "ES256", field="privateKey"),
        headers={"kid": name, "nonce": nonce},
        claims={"aud": [checked_text("audience", audience)], "iss": checked_text("issuer", issuer), "sub": name},
        lifetime=lifetime,
        max_lifetime=120.0,
        not_before=True,
        single_use=True,
        presign=presign,
    )
    return BearerAuth(source, **options)
