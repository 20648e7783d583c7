"""`TokenExchangeSource`: one token for another (RFC 8693)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from grpc_bearer._base.arguments import checked_text, did_you_mean
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer.errors import ConfigurationError, TokenFormatError
from grpc_bearer.sources._form import targets
from grpc_bearer.sources._given import Given, SecretGiven, TokenGiven, given_token
from grpc_bearer.sources._oauth import ClientOptions, OAuthClient, OAuthSource
from grpc_bearer.sources._reply import Reply

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on; only checkers need it

__all__ = ["TokenExchangeSource"]

_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
_TYPE = "urn:ietf:params:oauth:token-type:"
# RFC 8693 section 3.
_NAMES = ("access_token", "refresh_token", "id_token", "saml1", "saml2", "jwt")
# What no API expects, unless somebody asked for it by name.
_NO_ACCESS_TOKEN = ("refresh_token", "id_token", "saml1", "saml2")


class TokenExchangeSource(OAuthSource):
    """A token in exchange for another one (RFC 8693): of another audience, for another service, on behalf of somebody.

    A token to exchange may be the token itself, a path (`pathlib.Path`, read for each exchange), a function, another
    `Source`, or a `BearerAuth`. The token of these two is kept and refreshed by itself, so that sources can stand in a
    chain and an exchange costs one request; if the server refuses it, one new token is fetched and tried.

    The type of a token is a short name (`access_token`, `refresh_token`, `id_token`, `saml1`, `saml2`, `jwt`) or a URI.

    Args:
        token_url: the token endpoint, `https://`; or give `issuer`.
        subject_token: the token to exchange: whose rights the new one has.
        subject_token_type: its type.
        actor_token: the token of who acts on behalf of the subject.
        actor_token_type: its type, which must be given with it.
        audience: the service that the token is for, by a name that the server knows, or several in a list.
        resource: the same as an absolute URI, or several in a list (RFC 8707).
        scope: a `str` as the server wants it, or several in a list.
        requested_token_type: the type to ask for; the server must answer with that one. `None`: the server chooses.
        client_id: as registered; `None`: the server wants none, as some cloud providers' do.
        client_secret: the secret itself, a path (the file is read for each request), or a function that returns it.
        lifetime: the token's lifetime in seconds if the answer does not tell it.
        client: `issuer`, `auth_method`, `client_assertion`, `key`, `extra`, `ca`, `cert`, `timeout` and all else as for
            `ClientCredentialsSource`. With no credential of the client's at all, it is a public one.

    Raises:
        ConfigurationError: an argument is wrong; it is named, its value is not shown.
        SigningError: the key cannot be used.

    >>> from pathlib import Path
    >>> TokenExchangeSource(
    ...     "https://auth.example.com/token",
    ...     subject_token=Path("/var/run/secrets/tokens/service-account"),
    ...     subject_token_type="jwt",
    ...     audience="orders",
    ... )
    TokenExchangeSource(host='auth.example.com', auth_method='none')
    """

    def __init__(
        self,
        token_url: str | None = None,
        *,
        subject_token: TokenGiven,
        subject_token_type: str = "access_token",  # noqa: S107  # a name, no secret
        actor_token: TokenGiven | None = None,
        actor_token_type: str | None = None,
        audience: str | Iterable[str] | None = None,
        resource: str | Iterable[str] | None = None,
        scope: str | Iterable[str] | None = None,
        requested_token_type: str | None = None,
        client_id: str | None = None,
        client_secret: SecretGiven | None = None,
        lifetime: float | None = None,
        **client: Unpack[ClientOptions],
    ) -> None:
        grant: dict[str, str | tuple[str, ...] | Given] = {
            "grant_type": _GRANT,
            "subject_token": given_token("subject_token", subject_token),
            "subject_token_type": _checked_type("subject_token_type", subject_token_type),
            **targets(scope, audience, resource, audiences=True),
        }
        if (actor_token is None) is not (actor_token_type is None):
            missing = "actor_token" if actor_token is None else "actor_token_type"
            raise ConfigurationError("missing; actor_token and actor_token_type go together", field=missing)
        if actor_token is not None:
            grant["actor_token"] = given_token("actor_token", actor_token)
            grant["actor_token_type"] = _checked_type("actor_token_type", actor_token_type)
        self._requested = None
        if requested_token_type is not None:
            self._requested = _checked_type("requested_token_type", requested_token_type)
            grant["requested_token_type"] = self._requested
        super().__init__(grant, OAuthClient(token_url, client_id, client_secret, **client), lifetime)

    def fetch(self, context: CallContext) -> Token:
        """Exchange the token for another.

        Raises:
            TokenUnavailableError: no answer in time, no connection, status 408, 429 or 5xx, `temporarily_unavailable`;
                or the token to exchange cannot be had now.
            TokenRejectedError: the server said no; its error code is named if it is a registered one.
            TokenFormatError: the answer is no token of type Bearer, or of another type than the one asked for.
            SigningError: the key cannot be used.
        """
        reply = self._client.ask(context, self._grant)
        # A token that is no access token has no token_type (RFC 8693 section 2.2.1). Whoever asks for it may have it.
        token = reply.token(self._lifetime, not_only_bearer=self._requested is not None)
        self._check_issued(reply)
        return token

    def _check_issued(self, reply: Reply) -> None:
        issued = reply.document().get("issued_token_type")  # some servers leave it out, though the RFC demands it
        if issued in (None, "", self._requested):
            return
        name = issued.removeprefix(_TYPE) if isinstance(issued, str) else ""
        # A JWT that is an access token is both. What a server calls by a name of its own, only it knows.
        if name == "jwt" and self._requested in (None, f"{_TYPE}access_token"):
            return
        if self._requested is None and name and name not in _NO_ACCESS_TOKEN:
            return
        got = name if name in _NAMES else "of another type"
        wanted = (
            "if that is right, ask for it with requested_token_type="
            if self._requested is None
            else f"{self._requested.removeprefix(_TYPE)} was requested"
        )
        raise TokenFormatError(f"{reply.where}: issued_token_type: the token is {got}; {wanted}", suspect="endpoint")


def _checked_type(field: str, value: object) -> str:
    """The URI of a token type."""
    name = checked_text(field, value)
    if name in _NAMES:
        return _TYPE + name
    if ":" not in name:
        known = ", ".join(_NAMES)
        raise ConfigurationError(f"expected a URI or one of {known}{did_you_mean(name, _NAMES)}", field=field)
    return name
