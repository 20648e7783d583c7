"""A client that a token server knows: what a program under test is configured with."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpc_bearer.testing._token_server import TokenServer

if TYPE_CHECKING:
    from grpc_bearer.sources.oauth import ClientCredentialsSource

__all__ = ["OAuthClient"]


@dataclass(frozen=True, slots=True)
class OAuthClient:
    """An OAuth 2.0 client (RFC 6749 section 4.4), with all it takes to get tokens.

    Attributes:
        token_url: where.
        client_id, client_secret: as registered there.
        ca_file: the certificate authority of the token server, PEM.

    >>> import tempfile
    >>> from grpc_bearer import CallContext
    >>> from grpc_bearer.testing import CA
    >>> ca = CA()
    >>> with tempfile.TemporaryDirectory() as directory, TokenServer(ca) as server:
    ...     client = OAuthClient.registered(server, ca.write(directory))
    ...     token = client.source().fetch(CallContext())
    >>> server.issued == [token.value]
    True
    """

    token_url: str
    client_id: str
    client_secret: str = field(repr=False)
    ca_file: Path

    @classmethod
    def registered(cls, server: TokenServer, ca_file: Path, *, lifetime: int = 3600) -> OAuthClient:
        """A new one, made known to the server, which gives it tokens of that many seconds."""
        client_id, client_secret = f"client-{secrets.token_hex(4)}", secrets.token_urlsafe(32)
        url = server.serve_client_credentials(
            client_id, client_secret, lifetime=lifetime, path=f"/oauth2/{client_id}/token"
        )
        return cls(url, client_id, client_secret, ca_file)

    def source(self, **options: Any) -> ClientCredentialsSource:
        """As a source of this library; `options` are those of `ClientCredentialsSource`."""
        from grpc_bearer.sources.oauth import ClientCredentialsSource

        return ClientCredentialsSource(
            self.token_url, self.client_id, self.client_secret, **{"ca": self.ca_file, **options}
        )
