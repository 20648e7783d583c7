"""Options that name a source and make an auth without any file, and what they stand for."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from grpc_bearer._cli.codes import CommandFailure, Exit

#: Where a command line keeps the fields of an auth: `field:credentials_file`.
FIELD = "field:"
_RENAMED = {"ca": "token-ca", "header": "metadata-key", "jwt_key_file": "jwt-key"}  # --ca is the channel's

#: The first of these that was given names the source; the others are its fields.
LEADS: Mapping[str, str] = {
    "exec": "exec",
    "google": "google",
    "service_account_file": "google",
    "jwt_key_file": "jwt",
    "jwt_key_env": "jwt",
    "subject_token_file": "token_exchange",
    "subject_token_env": "token_exchange",
    "assertion_file": "jwt_bearer",
    "refresh_token_file": "refresh_token",
    "refresh_token_env": "refresh_token",
    "store": "refresh_token",
    "token_url": "client_credentials",
    "issuer": "client_credentials",
    "token_file": "static",
    "token_env": "static",
}
#: For fields that name none, and are not for an OAuth client: what they go with.
_LEADS_FOR = {
    "json_field": "--exec COMMAND",
    "claim": "--jwt-key FILE",
    "algorithm": "--jwt-key FILE",
    "header": "--token-file FILE or the like",
    "scheme": "--token-file FILE or the like",
}
# A pipe, a redirection, a second command, or what a command prints.
_OF_A_SHELL = re.compile(r"^(?:[|<;&]|&&|\|\||\d?>.*)$|;$|\$\(")
_TO_A_SHELL = re.compile(r"-[a-z]*c")
#: Fields that have another name on the command line.
_OTHER_NAMES = {"jwt_key_file": "key_file", "jwt_key_env": "key_env", "exec": "command", "claim": "claims"}


def source_of(fields: Mapping[str, object], kind: str = "") -> dict[str, object] | None:
    """What a table of a TOML file would have to hold for the same auth; `None` if no option names a source.

    >>> source_of({"token_url": "https://auth.example.com/token", "client_id": "me"})
    {'source': 'client_credentials', 'token_url': 'https://auth.example.com/token', 'client_id': 'me'}

    Args:
        fields: by the options that were given.
        kind: of the source, where the command knows it.

    Raises:
        CommandFailure: an option cannot be read.
    """
    lead = next((each for each in LEADS if each in fields), None)
    if lead is None:
        return None
    found: dict[str, object] = {"source": kind or LEADS[lead]}
    read = {"exec": _words, "claim": _claims}
    names = {**_OTHER_NAMES, "scope": "scopes"} if found["source"] == "google" else _OTHER_NAMES
    for name, value in fields.items():
        if name != "google":  # which has no field: there is but one of them
            found[names.get(name, name)] = read[name](value) if name in read else value
    return found


def lead_of(fields: Mapping[str, object]) -> str:
    """The option that names the source, as a field."""
    return next(each for each in LEADS if each in fields)


def lead_for(field: str) -> str:
    """The options that a field goes with which names no source itself."""
    return _LEADS_FOR.get(field, "--token-url URL or --issuer URL")


def _words(command: object) -> list[str]:
    try:
        words = shlex.split(str(command))
    except ValueError as error:
        raise CommandFailure(Exit.USAGE, f"--exec: {error}", "quote it as for a shell") from None
    # What a shell is given by `sh -c` is its own.
    if any(map(_OF_A_SHELL.search, words)) and not any(map(_TO_A_SHELL.fullmatch, words)):
        raise CommandFailure(Exit.USAGE, "--exec: no shell runs it", "use sh -c '…'")
    return words


def _claims(given: object) -> dict[str, str]:
    pairs = [str(each).partition("=") for each in given] if isinstance(given, list) else []
    if not all(name and equals for name, equals, _ in pairs):
        raise CommandFailure(Exit.USAGE, "--claim: expected NAME=VALUE", "as in --claim iss=fleet")
    return {name: value for name, _, value in pairs}


def option(field: str) -> str:
    """How a field is called on the command line."""
    return f"--{_RENAMED.get(field, field).replace('_', '-')}"


def spelled(field: str) -> str:
    """The same for a field of a source, where options that name one may be called otherwise."""
    return option(next((name for name, other in _OTHER_NAMES.items() if other == field), field))


_LISTED: dict[str, Any] = {"action": "append"}
_Option: TypeAlias = tuple[str, str, str, dict[str, Any]]
_HTTP: _Option = (
    "allow_http_loopback",
    "",
    "take http:// for a token endpoint on this machine",
    {"action": "store_true", "default": None},
)
#: Field, what stands for its value in help, what it is, and how argparse takes it.
_OPTIONS: tuple[_Option, ...] = (
    ("exec", "COMMAND", "run this command, without a shell, and take what it prints", {}),
    ("json_field", "NAME", "where the token stands in the JSON that it prints", {}),
    ("google", "", "Google's default credentials", {"action": "store_true", "default": None}),
    ("service_account_file", "FILE", "a Google service account's key", {}),
    ("jwt_key_file", "FILE", "sign a JWT with this private key, PEM or JWK", {}),
    ("claim", "NAME=VALUE", "a claim of it; may be repeated", _LISTED),
    ("algorithm", "NAME", "its algorithm, if the key does not tell", {}),
    ("token_url", "URL", "ask this OAuth token endpoint: client credentials, or what the options below say", {}),
    ("client_id", "ID", "the client", {}),
    ("client_secret_file", "FILE", "its secret: a file", {}),
    ("client_secret_env", "NAME", "the same: an environment variable", {}),
    ("client_assertion_file", "FILE", "a token that was issued to it (federated credentials): a file", {}),
    ("auth_method", "NAME", "how it proves itself, if that is not told by what is given", {}),
    ("scope", "SCOPE", "what is asked for; may be repeated", _LISTED),
    ("resource", "URI", "the API that the token is for; may be repeated", _LISTED),
    ("subject_token_file", "FILE", "exchange this token: a file", {}),
    ("subject_token_env", "NAME", "the same: an environment variable", {}),
    ("subject_token_type", "TYPE", "its type: access_token, id_token, jwt, …", {}),
    ("assertion_file", "FILE", "show this assertion (JWT bearer): a file", {}),
    ("refresh_token_file", "FILE", "use the refresh token in this file, and keep those that follow there", {}),
    ("store", "FILE", "the login that `grpc-bearer login` keeps in this file", {}),
    ("header", "KEY", "the metadata key that carries the token (default: authorization)", {}),
    ("scheme", "WORD", "the word before the token (default: Bearer)", {}),
    _HTTP,
)


_SHARED = ("client_id", "client_secret_file", "client_secret_env", "scope", "resource")
_LOGIN = (
    ("issuer", "URL", "the authorization server, whose metadata tells its endpoints", {}),
    ("token_url", "URL", "its token endpoint, in place of --issuer", {}),
    ("device_authorization_url", "URL", "its device authorization endpoint, likewise", {}),
    *(each for each in _OPTIONS if each[0] in _SHARED),
    ("audience", "NAME", "who the token is for", {}),
    ("ca", "FILE", "certificate authorities of the authorization server", {}),
    ("store", "FILE", "where to keep the login", {}),
    _HTTP,
)


def add_options(made: argparse.ArgumentParser) -> None:
    """Add those that no profile has already."""
    _add(made.add_argument_group("auth without a file", "a token by itself (--token-file, --token-env), or"), _OPTIONS)


def add_login_options(made: argparse.ArgumentParser) -> None:
    """Add those that a login needs."""
    _add(made.add_argument_group("authorization server"), _LOGIN)


def _add(group: argparse._ArgumentGroup, chosen: Iterable[_Option]) -> None:
    for name, metavar, text, options in chosen:
        shown: dict[str, Any] = {"metavar": metavar} if metavar else {}
        group.add_argument(option(name), dest=FIELD + name, help=text, **shown, **options)
