"""`JWTBearerSource`: a token for an assertion (RFC 7523 section 2.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike
from typing import TYPE_CHECKING

from grpc_bearer._base.source import Source
from grpc_bearer._base.token import Token
from grpc_bearer.sources._form import targets
from grpc_bearer.sources._given import SecretGiven, given_assertion
from grpc_bearer.sources._oauth import ClientOptions, OAuthClient, OAuthSource

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on; only checkers need it

__all__ = ["JWTBearerSource"]

_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


class JWTBearerSource(OAuthSource):
    """A token in return for an assertion, a JWT that says who wants it (RFC 7523 section 2.1).

    Each request has an assertion of its own. What a `JWTSource` signs has a `jti` that is never the same twice, unless
    its claims say what makes it; another source is fetched from, a function called, and a file read each time.

    Args:
        token_url: the token endpoint, `https://`; or give `issuer`.
        assertion: a `JWTSource` or another `Source`, a path (`pathlib.Path`), or a function.
        scope: a `str` as the server wants it, or several in a list.
        audience: sent as the `audience` parameter, which is not of the RFC; the assertion's own is in its claims.
        resource: the API that the token is for, an absolute URI, or several in a list (RFC 8707).
        client_id: as registered; `None`: the assertion tells enough.
        client_secret: the secret itself, a path (the file is read for each request), or a function that returns it.
        lifetime: the token's lifetime in seconds if the answer does not tell it.
        client: `issuer`, `auth_method`, `client_assertion`, `key`, `extra`, `ca`, `cert`, `timeout` and all else as for
            `ClientCredentialsSource`.

    Raises:
        ConfigurationError: an argument is wrong; it is named, its value is not shown.
        SigningError: the key cannot be used.

    >>> from cryptography.hazmat.primitives.asymmetric import ec
    >>> from grpc_bearer.sources.jwt import JWTSource
    >>> key, url = ec.generate_private_key(ec.SECP256R1()), "https://auth.example.com/token"
    >>> JWTBearerSource(url, assertion=JWTSource(key, claims={"iss": "me", "sub": "me"}, audience=url, lifetime=300))
    JWTBearerSource(host='auth.example.com', auth_method='none')
    """

    def __init__(
        self,
        token_url: str | None = None,
        *,
        assertion: PathLike[str] | Callable[[], str | Token] | Source,
        scope: str | Iterable[str] | None = None,
        audience: str | Iterable[str] | None = None,
        resource: str | Iterable[str] | None = None,
        client_id: str | None = None,
        client_secret: SecretGiven | None = None,
        lifetime: float | None = None,
        **client: Unpack[ClientOptions],
    ) -> None:
        grant = {
            "grant_type": _GRANT,
            "assertion": given_assertion("assertion", assertion),
            **targets(scope, audience, resource, audiences=True),
        }
        super().__init__(grant, OAuthClient(token_url, client_id, client_secret, **client), lifetime)
