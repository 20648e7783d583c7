"""How a client proves to an authorization server who it is, as a value: `ClientAuthentication`."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args
from urllib.parse import quote_plus

from grpc_bearer._base.arguments import checked_text
from grpc_bearer._base.token import Secret
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources._given import Given, given_client_assertion, given_client_secret

if TYPE_CHECKING:
    from grpc_bearer._base.signing import KeyLike

#: `client_assertion`: a token that somebody else has issued, such as a platform to what runs on it.
AuthMethod: TypeAlias = Literal[
    "client_secret_basic",
    "client_secret_post",
    "private_key_jwt",
    "client_assertion",
    "tls_client_auth",
    "none",
]

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 section 2.2
# An assertion is used at once, so it need not outlive a slow exchange and a clock that is a little behind.
_ASSERTION_LIFETIME = 120.0
# What each method shows, by the name of the argument.
_SHOWS = {
    "client_secret_basic": "client_secret",
    "client_secret_post": "client_secret",
    "private_key_jwt": "key",
    "client_assertion": "client_assertion",
    "tls_client_auth": "cert",
    "none": None,
}
_METHOD_OF: dict[str, AuthMethod] = {
    "client_secret": "client_secret_basic",
    "key": "private_key_jwt",
    "client_assertion": "client_assertion",
    "cert": "tls_client_auth",
}
_VERB = {"key": "signs with one", "cert": "shows it in the handshake"}


@dataclass(frozen=True, slots=True)
class ClientAuthentication:
    """How one client authenticates, at every endpoint alike.

    Args:
        method: by the names of RFC 7591 and RFC 8705.
        client_id: as registered; `None`: the server has no clients, or an assertion tells.
        proof: what is shown beside it; `None`: nothing, or it is in the TLS handshake.
    """

    method: AuthMethod
    client_id: str | None
    proof: Given | None = None

    def applied(self, proof: str) -> tuple[dict[str, Secret], dict[str, str]]:
        """The headers and the form parameters that carry it."""
        if self.method == "client_secret_basic":
            return {"authorization": Secret(_basic(self.client_id or "", proof), "authorization")}, {}
        form = {} if self.client_id is None else {"client_id": self.client_id}
        if self.method == "client_secret_post":
            return {}, {**form, "client_secret": proof}
        if self.proof is not None:
            return {}, {**form, "client_assertion_type": _ASSERTION_TYPE, "client_assertion": proof}
        return {}, form


def client_authentication(
    auth_method: AuthMethod | None,
    client_id: str | None,
    client_secret: object,
    client_assertion: object,
    key: KeyLike | None,
    cert: object,
    *,
    audience: str,
    public: bool,
    algorithm: str | None,
    passphrase: str | bytes | PathLike[str] | None,
    key_id: str | None,
    assertion_audience: str | None,
) -> ClientAuthentication:
    """The client's authentication out of arguments.

    Args:
        auth_method: `None`: what the other arguments are for.
        audience: the assertion's `aud`, unless `assertion_audience` says another.
        public: whether a client may show nothing.

    Raises:
        ConfigurationError: an argument is wrong, missing, or goes with another method.
        SigningError: the key cannot be used.
    """
    given = {"client_secret": client_secret, "key": key, "client_assertion": client_assertion, "cert": cert}
    method = _method(auth_method, given, public)
    shows = _SHOWS[method]
    if shows is not None and given[shows] is None:
        raise ConfigurationError(f"missing; {method} {_VERB.get(shows, 'sends it')}", field=shows)
    for name, value in given.items():
        if value is not None and name not in (shows, "cert"):  # whoever has a certificate may show it in any case
            raise ConfigurationError(f"{method} has no use for it; {_instead(name)}", field=name)
    # Only an assertion tells by itself who the client is (RFC 7521 section 4.2); and who needs no proof needs no name.
    if client_id is not None or not (method == "client_assertion" or (method == "none" and public)):
        client_id = checked_text("client_id", client_id)
    if method == "private_key_jwt":
        aud = audience if assertion_audience is None else checked_text("assertion_audience", assertion_audience)
        kid = None if key_id is None else checked_text("key_id", key_id)
        return ClientAuthentication(method, client_id, _signed(client_id, aud, key, algorithm, passphrase, kid))
    if method == "client_assertion":
        return ClientAuthentication(method, client_id, given_client_assertion("client_assertion", client_assertion))
    if shows == "client_secret":
        return ClientAuthentication(method, client_id, given_client_secret("client_secret", client_secret))
    return ClientAuthentication(method, client_id)


def _method(auth_method: object, given: dict[str, object], public: bool) -> AuthMethod:
    if auth_method is None:
        return next(
            (method for shown, method in _METHOD_OF.items() if given[shown] is not None),
            "none" if public else "client_secret_basic",
        )
    for known in get_args(AuthMethod):
        if auth_method == known:
            return known  # type: ignore[no-any-return]
    *others, last = get_args(AuthMethod)
    raise ConfigurationError(f"expected {', '.join(others)} or {last}", field="auth_method")


def _instead(name: str) -> str:
    return "leave it out" if name == "client_secret" else f"use auth_method={_METHOD_OF[name]!r}"


def _basic(client_id: str, secret: str) -> str:
    """The header's value by RFC 6749 section 2.3.1: both parts form-encoded first, which many clients forget."""
    pair = f"{quote_plus(client_id, errors='replace')}:{quote_plus(secret, errors='replace')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _signed(
    client_id: str | None,
    audience: str,
    key: KeyLike | None,
    algorithm: str | None,
    passphrase: str | bytes | PathLike[str] | None,
    key_id: str | None,
) -> Given:
    from grpc_bearer.sources.jwt import JWTSource

    source = JWTSource(
        key,  # type: ignore[arg-type]  # not None here
        claims={"iss": client_id, "sub": client_id},
        headers=None if key_id is None else {"kid": key_id},
        audience=audience,
        algorithm=algorithm,
        lifetime=_ASSERTION_LIFETIME,
        passphrase=passphrase,
    )
    return given_client_assertion("key", source)
