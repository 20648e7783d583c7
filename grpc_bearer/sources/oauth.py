"""`ClientCredentialsSource`: OAuth 2.0 client credentials (RFC 6749 section 4.4)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from grpc_bearer.sources._form import targets
from grpc_bearer.sources._given import SecretGiven
from grpc_bearer.sources._oauth import ClientOptions, OAuthClient, OAuthSource

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on; only checkers need it

__all__ = ["ClientCredentialsSource"]


class ClientCredentialsSource(OAuthSource):
    """A token for this program itself, from an OAuth 2.0 authorization server.

    Args:
        token_url: the token endpoint, `https://`.
        client_id: as registered.
        client_secret: the secret itself, a path (the file is read for each request), or a function that returns it.
        scope: a `str` as the server wants it, or several in a list.
        audience: sent as the `audience` parameter (Auth0 and others; not of RFC 6749).
        resource: the API that the token is for, an absolute URI, or several in a list (RFC 8707).
        lifetime: the token's lifetime in seconds if the answer does not tell it.
        issuer: in place of `token_url`: the server's name, `https://`. Its endpoints are found in its metadata (RFC
            8414, OpenID Connect Discovery), which is kept and must be of that very issuer.
        auth_method: how the client proves itself; `None`: by what is given. `client_secret_basic`, with id and secret
            form-encoded as RFC 6749 section 2.3.1 demands; `client_secret_post`; `private_key_jwt` (RFC 7523), a new
            assertion each time, signed with `key`; `client_assertion`; `tls_client_auth` (RFC 8705), by the certificate
            in `cert`; `none`, for a public client.
        client_assertion: a token that another has issued to this client (RFC 7523 section 2.2), such as a platform to
            what runs on it: itself, a path (read for each request), a function, or another `Source`, whose token is
            kept while it is good.
        key: for `private_key_jwt`: any form that `JWTSource` takes.
        algorithm: of the assertion; `None`: chosen by the key.
        passphrase: of an encrypted PEM, or the path of a file that holds it.
        key_id: the assertion's `kid`.
        assertion_audience: the assertion's `aud`; `None`: `token_url`, or `issuer`.
        extra: more form parameters; a path stands for what its file holds, read for each request.
        cert: certificate and key files of this client, read again when they change.
        ca, timeout, max_bytes, allow_http_loopback: as for `HTTPTokenSource`.

    Raises:
        ConfigurationError: an argument is wrong; it is named, its value is not shown.
        SigningError: the key cannot be used.

    >>> ClientCredentialsSource("https://auth.example.com/token", "me", "s3cret", scope=["read", "write"])
    ClientCredentialsSource(host='auth.example.com', auth_method='client_secret_basic')
    """

    def __init__(
        self,
        token_url: str | None = None,
        client_id: str | None = None,
        client_secret: SecretGiven | None = None,
        *,
        scope: str | Iterable[str] | None = None,
        audience: str | None = None,
        resource: str | Iterable[str] | None = None,
        lifetime: float | None = None,
        **client: Unpack[ClientOptions],
    ) -> None:
        grant = {"grant_type": "client_credentials", **targets(scope, audience, resource)}
        asking = OAuthClient(token_url, client_id, client_secret, public=False, **client)
        super().__init__(grant, asking, lifetime)
