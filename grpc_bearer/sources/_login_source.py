"""What sources have in common that stand on a login: one that was made before, or that somebody makes now."""

from __future__ import annotations

import json
from os import PathLike

from grpc_bearer._base.token import CallContext, Token, fingerprint
from grpc_bearer.errors import TokenError
from grpc_bearer.sources._given import Given
from grpc_bearer.sources._kept_login import Granted, KeptLogin, LoginMemory
from grpc_bearer.sources._login_file import LoginFile
from grpc_bearer.sources._oauth import Grant, OAuthClient, OAuthSource
from grpc_bearer.sources._reply import Reply
from grpc_bearer.sources._secrets import is_fixed, revealed


class LoginSource(OAuthSource):
    """A source whose refresh token is kept.

    Args:
        grant: as of `OAuthSource`; what is in it besides `grant_type` and `refresh_token` says what the token is for.
        client: who asks.
        lifetime: of the access token in seconds, if the answer does not tell it.
        store: the file; `None`: memory.
        advice: what to do once the login has ended.
    """

    def __init__(
        self, grant: Grant, client: OAuthClient, lifetime: float | None, store: LoginFile | None, advice: str
    ) -> None:
        super().__init__(grant, client, lifetime)
        self._targets = {name: value for name, value in grant.items() if name not in ("grant_type", "refresh_token")}
        seed = grant.get("refresh_token")
        given = seed if isinstance(seed, Given) else None
        who = client.authentication.client_id or ""
        self._kept = KeptLogin(
            LoginMemory(given is not None) if store is None else store,
            client.server.host,
            client=json.dumps([client.server.name, who]),
            asked_for=fingerprint(json.dumps([self._targets, _fixed(client)])),
            seed=None if given is None else given.shown,
            advice=advice,
        )
        if store is not None:
            # Who logs in anew writes the file. It has the access token too, for all.
            self.replaceable: bool = True
            self.worth_sharing: bool = False

    def _refresh(self, context: CallContext, refresh_token: str) -> Granted | None:
        """What the server gives for a refresh token (RFC 6749 section 6); `None`: it refuses that for good."""
        grant = {"grant_type": "refresh_token", "refresh_token": refresh_token, **self._targets}
        reply = self._client.ask(context, grant)
        return None if reply.code == "invalid_grant" else self._granted(reply)

    def _granted(self, reply: Reply) -> Granted:
        refresh_token = reply.document().get("refresh_token")
        token: Token | TokenError
        try:
            token = reply.token(self._lifetime)
        except TokenError as error:  # what came beside it counts all the same
            token = error
        return Granted(token, refresh_token.strip() if isinstance(refresh_token, str) else "")


def _fixed(client: OAuthClient) -> list[tuple[str, str]]:
    return [(name, revealed(value) if is_fixed(value) else "") for name, value in sorted(client.extra.items())]


def store_of(store: str | PathLike[str] | None, field: str = "store") -> LoginFile | None:
    """The file that was given, if any.

    Raises:
        ConfigurationError: it is no path.
    """
    return None if store is None else LoginFile(store, field)
