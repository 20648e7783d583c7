"""What a configuration can name: profiles and kinds of source, each with its fields, as one table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc_bearer import profiles
from grpc_bearer._auth import BearerAuth, as_source
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext
from grpc_bearer._base.translating import translating
from grpc_bearer._config import fields as f
from grpc_bearer._config.cache_fields import cache
from grpc_bearer._config.fields import Field
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources.callable import CallableSource
from grpc_bearer.sources.device import DeviceCodeSource
from grpc_bearer.sources.exec import ExecSource
from grpc_bearer.sources.file import FileSource
from grpc_bearer.sources.google import GoogleAuthSource
from grpc_bearer.sources.http import HTTPTokenSource
from grpc_bearer.sources.jwt import JWTSource, nonce
from grpc_bearer.sources.jwt_bearer import JWTBearerSource
from grpc_bearer.sources.oauth import ClientCredentialsSource
from grpc_bearer.sources.refresh import RefreshTokenSource
from grpc_bearer.sources.token_exchange import TokenExchangeSource

_TEXT, _NUMBER, _FLAG, _PATH, _TEXTS = Field(f.text), Field(f.number), Field(f.flag), Field(f.path), Field(f.texts)
_TOKEN = Field(f.text, secret=True, by_file=Path, help="the token")
_KEY = Field(f.text, secret=True, required=True, names_file=True, by_file=Path, help="the private key, PEM or JWK")
_PASSPHRASE = Field(f.text, secret=True, by_file=Path, help="the passphrase of an encrypted key")
_CREDENTIALS = Field(
    f.text_or_table, secret=True, required=True, names_file=True, by_file=Path, help="the credentials, JSON"
)
_LIFETIME = Field(f.number, help="the token's lifetime in seconds")
_CA = Field(f.path, help="certificate authorities of the token endpoint")
#: What every auth takes beside its own.
AUTH = {
    "name": _TEXT,
    "keep_warm": _FLAG,
    "max_keys": Field(f.whole),
    "pickle_secrets": _FLAG,
    "cache": Field(cache),
    "observers": Field(f.functions),
}
#: What every source takes that a profile decides itself.
HEADER = {"header": _TEXT, "scheme": _TEXT}
_ENDPOINT = {
    "ca": _CA,
    "cert": Field(f.paths),
    "timeout": _NUMBER,
    "max_bytes": Field(f.whole),
    "allow_http_loopback": _FLAG,
}


def _token_field(name: str, text: str, required: bool = False) -> Field:
    return Field(f.token_or_source(name), secret=True, required=required, by_file=Path, help=text)


#: What all OAuth sources take.
_CLIENT = {
    "token_url": Field(f.text, help="the token endpoint"),
    "issuer": Field(f.text, help="the authorization server, whose metadata tells its endpoints"),
    "client_id": Field(f.text, help="as registered"),
    "client_secret": Field(f.text, secret=True, by_file=Path, help="the client's secret"),
    "client_assertion": _token_field("client_assertion", "a token that was issued to the client"),
    "auth_method": Field(f.text, help="how the client proves itself"),
    "key": Field(f.text, secret=True, names_file=True, by_file=Path),
    "algorithm": _TEXT,
    "passphrase": _PASSPHRASE,
    "key_id": _TEXT,
    "assertion_audience": _TEXT,
    "scope": Field(f.texts, help="what is asked for"),
    "audience": Field(f.texts, help="who the token is for"),
    "resource": Field(f.texts, help="the API that the token is for, a URI"),
    "extra": Field(f.text_table),
    "lifetime": _LIFETIME,
    **_ENDPOINT,
}


def _static(token: Any) -> Source:
    return as_source(token)


def _callable(function: Callable[..., Any], **options: Any) -> CallableSource:
    return CallableSource(function, **options)


def _http(*, user: str | None = None, password: str | Path | None = None, **options: Any) -> HTTPTokenSource:
    if (user is None) is not (password is None):
        raise ConfigurationError("goes with password; give both, or neither", field="user")
    return HTTPTokenSource(**options, auth=None if user is None else (user, password or ""))


def _service_url(call: CallContext) -> str:
    return call.service_url


def _jwt(
    key: str | Path,
    *,
    claims: Mapping[str, object] | None = None,
    headers: Mapping[str, object] | None = None,
    random_claims: str | Sequence[str] = (),
    random_headers: str | Sequence[str] = (),
    audience: object = None,
    audience_from_url: bool = False,
    **options: Any,
) -> JWTSource:
    if audience is not None and audience_from_url:
        raise ConfigurationError("given beside audience; leave one of them", field="audience_from_url")
    return JWTSource(
        key,
        claims={**(claims or {}), **dict.fromkeys(_listed(random_claims), nonce)},
        headers={**(headers or {}), **dict.fromkeys(_listed(random_headers), nonce)},
        audience=_service_url if audience_from_url else audience,
        **options,
    )


def _listed(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _google(service_account_file: Path | None = None, scopes: str | list[str] | None = None) -> GoogleAuthSource:
    import google.auth as google_auth
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2 import service_account

    wanted = None if scopes is None else _listed(scopes)
    library: Any = google_auth  # some of its versions have types, and some have not
    accounts: Any = service_account.Credentials
    if service_account_file is None:
        problem = ConfigurationError("google-auth finds no default credentials; give service_account_file")
    else:
        text = f"{service_account_file} is no service account's key file"
        problem = ConfigurationError(text, field="service_account_file")
    with translating(GoogleAuthError, OSError, ValueError, to=lambda _: problem):
        if service_account_file is None:
            found, _ = library.default(scopes=wanted)
        else:
            found = accounts.from_service_account_file(str(service_account_file), scopes=wanted)
    return GoogleAuthSource(found)


def _of_source(build: Callable[..., Source], **options: Any) -> BearerAuth:
    outer = {name: options.pop(name) for name in (*AUTH, *HEADER) if name in options}
    return BearerAuth(build(**options), **outer)


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing that a configuration can name.

    Args:
        build: makes the auth; keyword arguments are the fields that were given.
        fields: those it knows.
    """

    build: Callable[..., BearerAuth]
    fields: Mapping[str, Field]


def _source(build: Callable[..., Source], **fields: Field) -> Kind:
    return Kind(functools.partial(_of_source, build), {**fields, **HEADER, **AUTH})


#: By the value of `profile`.
PROFILES: Mapping[str, Kind] = {
    "bear": Kind(
        profiles.bear,
        {"credentials": _CREDENTIALS, "url": Field(f.text, help="the token endpoint"), "ca": _CA, **AUTH},
    ),
    "bitbroker": Kind(
        profiles.bitbroker,
        {
            "token": _TOKEN,
            "coordinator": Field(f.text, secret=True, by_file=Path, help="the Coordinator API's token"),
            "contributor": Field(f.text, secret=True, by_file=Path, help="the Contributor API's token"),
            "consumer": Field(f.text, secret=True, by_file=Path, help="the Consumer API's token"),
            "routes": Field(f.text_table, help="which calls take which role"),
            **AUTH,
        },
    ),
    "crm": Kind(profiles.crm, {"token": Field(f.text, True, True, by_file=Path), **AUTH}),
    "openfx": Kind(
        profiles.openfx,
        {
            "credentials": _CREDENTIALS,
            "audience": Field(f.text, help="the aud claim"),
            "issuer": Field(f.text, help="the iss claim"),
            "lifetime": _LIFETIME,
            "presign": Field(f.whole),
            **AUTH,
        },
    ),
    "skykit": Kind(
        profiles.skykit,
        {
            "key": _KEY,
            "issuer": Field(f.text, required=True, help="the iss claim: the address the key is registered with"),
            "passphrase": _PASSPHRASE,
            "lifetime": _LIFETIME,
            **AUTH,
        },
    ),
}

#: By the value of `source`.
SOURCES: Mapping[str, Kind] = {
    "callable": _source(
        _callable, function=Field(f.function, required=True), key=Field(f.function), timeout=_NUMBER, max_age=_NUMBER
    ),
    "client_credentials": _source(ClientCredentialsSource, **_CLIENT),
    "device_code": _source(
        DeviceCodeSource,
        device_authorization_url=_TEXT,
        store=Field(f.path, help="the file that keeps the login"),
        prompt=Field(f.function),
        **_CLIENT,
    ),
    "exec": _source(
        ExecSource,
        command=Field(f.command, required=True, help="a program that prints a token, and its arguments"),
        env=_TEXTS,
        json_field=_TEXT,
        max_age=_NUMBER,
        timeout=_NUMBER,
        max_bytes=Field(f.whole),
    ),
    "file": _source(FileSource, path=Field(f.path, required=True), strip=_FLAG, json_field=_TEXT, poll=_NUMBER),
    "google": _source(_google, service_account_file=_PATH, scopes=_TEXTS),
    "http": _source(
        _http,
        url=Field(f.text, required=True),
        method=_TEXT,
        headers=Field(f.text_table),
        body=Field(f.text, secret=True, by_file=Path),
        json=Field(f.parsed_or_table, secret=True, from_text=f.parsed),
        form=Field(f.text_table),
        user=_TEXT,
        password=Field(f.text, secret=True, by_file=Path),
        field=_TEXT,
        expires_in_field=_TEXT,
        lifetime=_LIFETIME,
        refresh_after=Field(f.pair),
        **_ENDPOINT,
    ),
    "jwt": _source(
        _jwt,
        key=_KEY,
        claims=Field(f.table),
        headers=Field(f.table),
        random_claims=_TEXTS,
        random_headers=_TEXTS,
        audience=_TEXTS,
        audience_from_url=_FLAG,
        algorithm=_TEXT,
        lifetime=_LIFETIME,
        max_lifetime=_NUMBER,
        backdate=_NUMBER,
        not_before=_FLAG,
        single_use=_FLAG,
        presign=Field(f.whole),
        passphrase=_PASSPHRASE,
    ),
    "jwt_bearer": _source(JWTBearerSource, assertion=_token_field("assertion", "the assertion", True), **_CLIENT),
    "refresh_token": _source(
        RefreshTokenSource,
        refresh_token=Field(f.text, secret=True, by_file=Path, help="the refresh token, replaced by those that follow"),
        store=Field(f.path, help="the file that keeps the login"),
        **_CLIENT,
    ),
    "static": _source(_static, token=Field(f.text, True, True, by_file=Path)),
    "token_exchange": _source(
        TokenExchangeSource,
        subject_token=_token_field("subject_token", "the token to exchange", True),
        subject_token_type=Field(f.text, help="its type: access_token, id_token, jwt, …"),
        actor_token=_token_field("actor_token", "the token of who acts for the subject"),
        actor_token_type=Field(f.text, help="its type"),
        requested_token_type=Field(f.text, help="the type to ask for"),
        **_CLIENT,
    ),
}
