"""An authorization server that people log in at: refresh tokens that are good once, and devices (RFC 8628)."""

from __future__ import annotations

import json
import secrets
from urllib.parse import parse_qsl

from grpc_bearer.testing import Request, Response, TokenServer

CLIENT_ID = "my-app"


class LoginServer:
    """Grants of one public client, served by a `TokenServer`.

    A refresh token that is used a second time is taken for stolen: its whole family ends.

    Args:
        tokens: makes the access tokens.
        rotates: whether a refresh token is good once only.
        lifetime: of access tokens, in seconds.
    """

    def __init__(self, tokens: TokenServer, *, rotates: bool = True, lifetime: int = 3600) -> None:
        self.tokens, self.rotates, self.lifetime = tokens, rotates, lifetime
        self.token_url = tokens.serve("/login/token", self._token)
        self.device_url = tokens.serve("/login/device", self._device)
        #: The forms that were posted to the token endpoint, and to the other one.
        self.asked: list[dict[str, str]] = []
        self.devices: list[dict[str, str]] = []
        #: What a waiting device is told: an error code, or "" for a token.
        self.verdict = "authorization_pending"
        #: What else stands in the answers.
        self.more: dict[str, object] = {}
        self.device_answer: dict[str, object] = {"expires_in": 900, "interval": 5}
        self.gives_refresh_tokens = True
        self.secrets: list[str] = []
        self._family: dict[str, int] = {}
        self._used: set[str] = set()
        self._ended: set[int] = set()

    def new(self, family: int | None = None) -> str:
        """A refresh token; of a new login, if no family is said."""
        token = f"rt-{secrets.token_hex(24)}"
        self._family[token] = len(self.secrets) if family is None else family
        self.secrets.append(token)
        return token

    def end(self) -> None:
        """End all logins so far, as an administrator does."""
        self._ended.update(self._family.values())

    @property
    def refreshed(self) -> list[str]:
        """The refresh tokens that came, in order."""
        return [form["refresh_token"] for form in self.asked if form["grant_type"] == "refresh_token"]

    def _token(self, request: Request) -> Response:
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        self.asked.append(form)
        if form.get("client_id") != CLIENT_ID:
            return _json(401, {"error": "invalid_client"})
        if form["grant_type"] == "refresh_token":
            return self._refresh(form["refresh_token"])
        if form["grant_type"] != "urn:ietf:params:oauth:grant-type:device_code":
            return _json(400, {"error": "unsupported_grant_type"})
        if form.get("device_code") not in self.secrets:
            return _json(400, {"error": "invalid_grant"})
        if self.verdict:
            return _json(400, {"error": self.verdict})
        return self._granted(self.new() if self.gives_refresh_tokens else None)

    def _refresh(self, token: str) -> Response:
        family = self._family.get(token)
        if family is None or family in self._ended:
            return _json(400, {"error": "invalid_grant", "error_description": f"{token} is not good"})
        if token in self._used:
            self._ended.add(family)
            return _json(400, {"error": "invalid_grant", "error_description": f"{token} was used before"})
        if not self.rotates:
            return self._granted(None)
        self._used.add(token)
        return self._granted(self.new(family))

    def _granted(self, refresh_token: str | None) -> Response:
        access = self.tokens.mint("somebody", lifetime=self.lifetime)
        answer = {"access_token": access, "token_type": "Bearer", "expires_in": self.lifetime}
        beside = {} if refresh_token is None else {"refresh_token": refresh_token}
        return _json(200, {**answer, **beside, **self.more})

    def _device(self, request: Request) -> Response:
        form = dict(parse_qsl(request.body.decode(), keep_blank_values=True))
        self.devices.append(form)
        if form.get("client_id") != CLIENT_ID:
            return _json(401, {"error": "invalid_client"})
        code = f"dc-{secrets.token_hex(24)}"
        self.secrets.append(code)
        page = self.tokens.url("/login")
        answer = {"device_code": code, "user_code": "WDJB-MJHT", "verification_uri": page, **self.device_answer}
        return _json(200, {**answer, "verification_uri_complete": f"{page}?user_code=WDJB-MJHT"})


def _json(status: int, document: dict[str, object]) -> Response:
    return Response(status, json.dumps(document).encode(), content_type="application/json")
