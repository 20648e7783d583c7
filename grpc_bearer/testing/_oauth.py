"""The token endpoint of an OAuth 2.0 authorization server, for the client credentials grant (RFC 6749 section 4.4)."""

from __future__ import annotations

import base64
import binascii
import json
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

from grpc_bearer._base.clock import Clock
from grpc_bearer.testing._http import Request, Response
from grpc_bearer.testing._verifiers import Refusal, check_parties, check_times, decode_with_pyjwt

__all__ = ["AUTH_METHODS", "ClientCredentialsEndpoint"]

#: As RFC 7591 names them.
AUTH_METHODS = ("client_secret_basic", "client_secret_post", "private_key_jwt")

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 section 2.2
# Servers cap the life of an assertion; ten minutes is what the lenient ones allow, in seconds.
_MAX_ASSERTION = 600


class _OAuthError(Exception):
    """`error` is one of RFC 6749 section 5.2."""

    def __init__(self, error: str, why: str) -> None:
        super().__init__(why)
        self.error = error
        self.why = why


@dataclass(frozen=True)
class ClientCredentialsEndpoint:
    """One registered client. `mint(scope)` makes the token, `lifetime` says for how many seconds it holds."""

    client_id: str
    client_secret: str | None = field(repr=False)
    public_key: Any
    kid: str | None
    algorithms: Sequence[str]
    methods: Collection[str]
    audiences: Collection[str]
    scopes: Collection[str] | None
    lifetime: int
    clock: Clock
    mint: Callable[[str | None], str]
    _seen: set[str] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self, request: Request) -> Response:
        try:
            form = _form(request)
            self._authenticate(request, form)
            if form.get("grant_type") != "client_credentials":
                raise _OAuthError("unsupported_grant_type", "grant_type must be client_credentials")
            self._check_scope(form.get("scope"))
        except _OAuthError as error:
            return _refused(error, request)
        token = self.mint(form.get("scope"))
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": self.lifetime}
        headers = {"Cache-Control": "no-store"}
        return _json(200, answer, headers, credential=self.client_id, token=token)

    def _authenticate(self, request: Request, form: dict[str, str]) -> None:
        offered = {
            "client_secret_basic": "authorization" in request.headers,
            "client_secret_post": "client_secret" in form,
            "private_key_jwt": "client_assertion" in form,
        }
        used = [method for method, there in offered.items() if there]
        if len(used) != 1:
            error = "invalid_request" if used else "invalid_client"
            raise _OAuthError(error, f"{len(used)} ways to authenticate, want 1")
        if used[0] not in self.methods:
            raise _OAuthError("invalid_client", f"{used[0]} is not enabled")
        if used[0] == "private_key_jwt":
            self._check_assertion(form)
            return
        pair = _basic(request.headers["authorization"]) if offered["client_secret_basic"] else _posted(form)
        if self.client_secret is None or pair != (self.client_id, self.client_secret):
            raise _OAuthError("invalid_client", "wrong client_id or client_secret")

    def _check_assertion(self, form: dict[str, str]) -> None:
        if form.get("client_assertion_type") != _ASSERTION_TYPE:
            raise _OAuthError("invalid_request", "wrong client_assertion_type")
        if form.get("client_id", self.client_id) != self.client_id:
            raise _OAuthError("invalid_client", "client_id differs from the assertion's")
        header, claims = self._decode(form["client_assertion"])
        if self.kid is not None and header.get("kid") != self.kid:
            raise _OAuthError("invalid_client", "no such kid")
        self._check_claims(claims)
        with self._lock:
            if claims["jti"] in self._seen:
                raise _OAuthError("invalid_client", "jti seen before")
            self._seen.add(claims["jti"])

    def _decode(self, assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return decode_with_pyjwt(assertion, self.public_key, self.algorithms)
        except Exception:  # whatever PyJWT finds wrong with it
            raise _OAuthError("invalid_client", "assertion: bad signature, or no JWT at all") from None

    def _check_claims(self, claims: dict[str, Any]) -> None:
        try:
            check_times(claims, ("iss", "sub", "aud", "exp", "iat", "jti"), self.clock.time(), 0, _MAX_ASSERTION)
            check_parties(claims, self.client_id, None)
        except Refusal as refusal:
            raise _OAuthError("invalid_client", f"assertion: {refusal.reason}") from None
        if claims["sub"] != self.client_id:
            raise _OAuthError("invalid_client", "assertion: sub is not the client_id")
        audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        if not set(audience) & set(self.audiences):
            raise _OAuthError("invalid_client", "assertion: wrong audience")

    def _check_scope(self, scope: str | None) -> None:
        if self.scopes is not None and not set((scope or "").split()) <= set(self.scopes):
            raise _OAuthError("invalid_scope", "no such scope")


def _form(request: Request) -> dict[str, str]:
    if request.method != "POST":
        raise _OAuthError("invalid_request", "want POST")
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        raise _OAuthError("invalid_request", "want application/x-www-form-urlencoded")
    pairs = parse_qsl(request.body.decode("ascii", "replace"), keep_blank_values=True)
    if len(dict(pairs)) != len(pairs):
        raise _OAuthError("invalid_request", "a parameter stands twice")
    return dict(pairs)


def _basic(header: str) -> tuple[str, str]:
    """Client and secret; both are form-encoded before they are joined and put in base64 (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = header.partition(" ")
    try:
        if scheme.lower() != "basic":
            raise ValueError
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode("ascii").partition(":")
    except (ValueError, binascii.Error):
        raise _OAuthError("invalid_client", "authorization is no Basic header") from None
    if not colon:
        raise _OAuthError("invalid_client", "authorization has no colon")
    return unquote_plus(client_id), unquote_plus(secret)


def _posted(form: dict[str, str]) -> tuple[str, str]:
    return form.get("client_id", ""), form["client_secret"]


def _refused(error: _OAuthError, request: Request) -> Response:
    status = 401 if error.error == "invalid_client" else 400
    by_header = status == 401 and "authorization" in request.headers
    challenge = {"WWW-Authenticate": 'Basic realm="tokens"'} if by_header else {}
    return _json(status, {"error": error.error, "error_description": error.why}, challenge)


def _json(
    status: int, value: object, headers: dict[str, str], *, credential: str | None = None, token: str | None = None
) -> Response:
    body = json.dumps(value).encode()
    return Response(status, body, headers, "application/json", credential=credential, token=token)
