"""`RefreshTokenSource`: access tokens by a refresh token (RFC 6749 section 6)."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING

from grpc_bearer._base.token import CallContext, Token
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources._form import targets
from grpc_bearer.sources._given import Given, SecretGiven, given_client_secret
from grpc_bearer.sources._login_source import LoginSource, store_of
from grpc_bearer.sources._oauth import ClientOptions, OAuthClient

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on; only checkers need it

__all__ = ["RefreshTokenSource"]


class RefreshTokenSource(LoginSource):
    """Access tokens for somebody who has logged in once, by the refresh token that came of it.

    A server may take each refresh token once only, and give the next one with its answer. So it is kept in a file,
    which any number of processes may share: it is used under a lock, and the next one is on the disk before the access
    token is used. If a process dies in between, the next one goes on; only one that dies while the server answers may
    have used up a refresh token for nothing. The file is this user's alone (0600). Beside it is one that ends in
    `.lock`, and the folder must be writable. It holds the access token too, so that one process fetches it for all.

    Once the server refuses the refresh token (`invalid_grant`), calls fail and say that somebody must log in again,
    until there is another one.

    Args:
        token_url: the token endpoint, `https://`; or give `issuer`.
        client_id: as registered.
        client_secret: as for `ClientCredentialsSource`; most clients that people log in with are public, and have none.
        refresh_token: the first one. A path is that of the file: what stands in it, alone or in JSON under
            `refresh_token`, is replaced by what follows it. A text, or a function that returns one, is kept in memory,
            unless there is a `store`; if the server takes it once only, what follows is lost when the process ends (the
            log says so), and forked children cannot use it.
        store: the file, if the first refresh token is somewhere else, or if another program (`grpc-bearer login`)
            writes it. `refresh_token` is used whenever it is another than that which the file descends from; a path of
            one is only read then.
        scope: a `str` as the server wants it, or several in a list; not more than was granted when logging in.
        audience, resource: as for `ClientCredentialsSource`.
        lifetime: the access token's lifetime in seconds if the answer does not tell it.
        client: `issuer`, `auth_method`, `client_assertion`, `key`, `algorithm`, `passphrase`, `key_id`,
            `assertion_audience`, `extra`, `ca`, `cert`, `timeout`, `max_bytes` and `allow_http_loopback`, as for
            `ClientCredentialsSource`.

    Raises:
        ConfigurationError: an argument is wrong; it is named, its value is not shown.
        SigningError: the key cannot be used.

    >>> RefreshTokenSource("https://auth.example.com/token", "my-app", store="~/.config/my-app/login")
    RefreshTokenSource(host='auth.example.com', auth_method='none')
    """

    def __init__(
        self,
        token_url: str | None = None,
        client_id: str | None = None,
        client_secret: SecretGiven | None = None,
        *,
        refresh_token: SecretGiven | None = None,
        store: str | PathLike[str] | None = None,
        scope: str | Iterable[str] | None = None,
        audience: str | None = None,
        resource: str | Iterable[str] | None = None,
        lifetime: float | None = None,
        **client: Unpack[ClientOptions],
    ) -> None:
        file, given = store_of(store), _checked(refresh_token, store)
        if isinstance(refresh_token, PathLike) and file is None:
            file, given = store_of(refresh_token, "refresh_token"), None
        seed: dict[str, Given] = {} if given is None else {"refresh_token": given}
        grant = {"grant_type": "refresh_token", **seed, **targets(scope, audience, resource)}
        asking = OAuthClient(token_url, client_id, client_secret, **client)
        super().__init__(grant, asking, lifetime, file, "log in again")

    def fetch(self, context: CallContext) -> Token:
        """The access token in the file, if it is still good; else one from the server.

        Raises:
            TokenUnavailableError: no answer in time, no connection, status 408, 429 or 5xx; the file cannot be read or
                written now, or is locked for too long.
            TokenRejectedError: the server said no; for `invalid_grant`, or if there is no refresh token, it says to log
                in again; or others may read the file, or it is of another client.
            TokenFormatError: the answer is no token of type Bearer, or the file holds something else.
            SigningError: the key cannot be used.
        """
        return self._kept.token(context, lambda refresh_token: self._refresh(context, refresh_token))


def _checked(refresh_token: SecretGiven | None, store: object) -> Given | None:
    if refresh_token is not None:
        return given_client_secret("refresh_token", refresh_token)
    if store is None:
        raise ConfigurationError("missing; or give store=, the file that holds one", field="refresh_token")
    return None
