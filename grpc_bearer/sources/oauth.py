"""`ClientCredentialsSource`: OAuth 2.0 client credentials (RFC 6749 section 4.4)."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote_plus, urlencode

from grpc_bearer._base.arguments import Where, as_dict, checked_text, seconds_or_none, text_problem
from grpc_bearer._base.clock_skew import suspects
from grpc_bearer._base.identity import Identity, is_strong
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Secret, Token
from grpc_bearer._base.user_code import called
from grpc_bearer.errors import ConfigurationError, GrpcBearerError, TokenError, TokenFormatError, TokenUnavailableError
from grpc_bearer.sources._http import MAX_BYTES, NEEDS, TIMEOUT, Endpoint, File
from grpc_bearer.sources._parse import (
    CREDENTIAL_REFUSED,
    SUCCESS,
    Answer,
    check_bearer,
    decoded_text,
    field_of,
    json_document,
    jwt_expiry,
    learn_time,
    lifetime_of,
    made_token,
    oauth_refusal,
)
from grpc_bearer.sources._secrets import SecretLike, given_secret, given_text, is_fixed, revealed

if TYPE_CHECKING:
    from grpc_bearer._base.signing import KeyLike

__all__ = ["ClientCredentialsSource"]

_AuthMethod = Literal["client_secret_basic", "client_secret_post", "private_key_jwt"]
_ClientSecret = str | PathLike[str] | Callable[[], str]

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"  # RFC 7523 section 2.2
# An assertion is used at once, so it need not outlive a slow exchange and a clock that is a little behind.
_ASSERTION_LIFETIME = 120.0

_OURS = frozenset(
    {"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope", "audience"}
)


class ClientCredentialsSource(Source):
    """A token for this program itself, from an OAuth 2.0 authorization server.

    Args:
        token_url: the token endpoint, `https://`.
        client_id: as registered.
        client_secret: the secret itself, a path (the file is read for each request), or a function that returns it.
        scope: a `str` as the server wants it, or several in a list.
        audience: sent as the `audience` parameter (Auth0 and others; not of RFC 6749).
        auth_method: how the client proves itself: `client_secret_basic`, with id and secret form-encoded as RFC 6749
            section 2.3.1 demands; `client_secret_post`; or `private_key_jwt` (RFC 7523), a new assertion each time.
        key: for `private_key_jwt`: any form that `JWTSource` takes.
        algorithm: of the assertion; `None`: chosen by the key.
        passphrase: of an encrypted PEM, or the path of a file that holds it.
        key_id: the assertion's `kid`.
        assertion_audience: the assertion's `aud`; `None`: `token_url`.
        extra: more form parameters, such as `resource`; a path stands for what its file holds, read for each request.
        lifetime: the token's lifetime in seconds if the answer does not tell it.
        ca, cert, timeout, max_bytes, allow_http_loopback: as for `HTTPTokenSource`.

    Raises:
        ConfigurationError: an argument is wrong; it is named, its value is not shown.
        SigningError: the key cannot be used.

    >>> ClientCredentialsSource("https://auth.example.com/token", "me", "s3cret", scope=["read", "write"])
    ClientCredentialsSource(host='auth.example.com', auth_method='client_secret_basic')
    """

    needs: tuple[str, ...] = NEEDS

    def __init__(
        self,
        token_url: str,
        client_id: str,
        client_secret: _ClientSecret | None = None,
        *,
        scope: str | Iterable[str] | None = None,
        audience: str | None = None,
        auth_method: _AuthMethod = "client_secret_basic",
        key: KeyLike | None = None,
        algorithm: str | None = None,
        passphrase: str | bytes | PathLike[str] | None = None,
        key_id: str | None = None,
        assertion_audience: str | None = None,
        extra: Mapping[str, SecretLike] | None = None,
        lifetime: float | None = None,
        ca: File | None = None,
        cert: tuple[File, File] | None = None,
        timeout: float = TIMEOUT,
        max_bytes: int = MAX_BYTES,
        allow_http_loopback: bool = False,
    ) -> None:
        self._endpoint = Endpoint(
            token_url,
            field="token_url",
            timeout=timeout,
            max_bytes=max_bytes,
            ca=ca,
            cert=cert,
            allow_http_loopback=allow_http_loopback,
        )
        self._client_id = checked_text("client_id", client_id)
        self._auth_method = _checked_method(auth_method, client_secret, key)
        self._secret = _checked_secret(client_secret)
        self._holds_secret = isinstance(client_secret, (str, PathLike))
        self._assertion = (
            None
            if key is None
            else _assertion_source(
                self._client_id,
                token_url if assertion_audience is None else checked_text("assertion_audience", assertion_audience),
                key,
                algorithm,
                passphrase,
                None if key_id is None else checked_text("key_id", key_id),
            )
        )
        self._form = _checked_form(scope, audience, extra)
        written_here = client_secret is None or isinstance(client_secret, str)
        self.replaceable: bool = not (written_here and all(map(is_fixed, self._form.values())))
        self._lifetime = seconds_or_none("lifetime", lifetime)

    def __repr__(self) -> str:
        return f"ClientCredentialsSource(host={self._endpoint.host!r}, auth_method={self._auth_method!r})"

    def fetch(self, context: CallContext) -> Token:
        """Ask the authorization server for a token.

        Raises:
            TokenUnavailableError: no answer in time, no connection, status 408, 429 or 5xx, `temporarily_unavailable`.
            TokenRejectedError: the server said no; its error code is named if it is a registered one.
            TokenFormatError: the answer is no token of type Bearer.
            SigningError: the key cannot be used.
        """
        where = self._endpoint.host
        answer, now = self._answer(context)
        refused = oauth_refusal(answer, where, now)
        if refused is not None:
            raise refused
        document = json_document(decoded_text(answer, where), where)
        check_bearer(document, where)
        value = field_of(document, "access_token", where)
        # The stated lifetime before the token's own `exp`: an access token is opaque to its client (RFC 6749 section
        # 1.4), and a span is right whatever our clock says.
        lifetime = lifetime_of(document, "expires_in", where)
        expires_at = jwt_expiry(value) if lifetime is None else now + lifetime
        if expires_at is None and self._lifetime is not None:
            expires_at = now + self._lifetime
        return made_token(where, value, now=now, expires_at=expires_at)

    def _answer(self, context: CallContext) -> tuple[Answer, float]:
        """The server's answer, and the time of the request.

        A refused assertion is signed again, at most twice, if the server's `Date` says that our clock is off: once to
        get a second answer that confirms it, and once by the corrected clock. A refused secret is tried again if there
        is another one in its place by now.
        """
        for last in (False, False, True):
            now, shown = context.clock.time(), self._shown()
            headers, form = self._authenticated(context, *shown)
            answer = self._endpoint.send("POST", headers, urlencode(form, errors="replace").encode())
            corrected = self._endpoint.secure and learn_time(context.clock, answer)
            if last or answer.status in SUCCESS:
                break
            clock_was_off = self._assertion is not None and (corrected or suspects(context.clock))
            if not clock_was_off and (answer.status not in CREDENTIAL_REFUSED or self._shown() == shown):
                break
        return answer, context.clock.time() - answer.elapsed if corrected else now

    def _shown(self) -> tuple[str, dict[str, str]]:
        """The secret and the form as they are now."""
        secret = "" if self._secret is None else self._seen_by_functions().run(_current, self._secret)
        return secret, {name: revealed(value) for name, value in self._form.items()}

    def identity(self) -> Identity | None:
        """The client, what it asks for, and its credential if that is a strong one."""
        try:
            form = {name: revealed(value) for name, value in self._form.items()}
        except TokenError:  # a file of it is not there yet
            return None
        about = (self._endpoint.url, self._client_id, self._auth_method, form.get("scope"), form.get("audience"))
        more = {name: value for name, value in sorted(form.items()) if name not in ("scope", "audience")}
        secret = self._strong_secret()
        if secret is None:
            return None if more else Identity(about)
        return Identity(about, secret + json.dumps(more).encode())

    def _strong_secret(self) -> bytes | None:
        if self._assertion is not None:
            identity = self._assertion.identity()
            return None if identity is None else identity.secret
        if self._secret is None or not self._holds_secret:
            return None
        try:
            text = _current(self._secret)
        except GrpcBearerError:  # its file is not there yet
            return None
        return text.encode() if is_strong(text) else None

    def close(self) -> None:
        """Close the kept-alive connections."""
        self._endpoint.close()

    def _authenticated(
        self, context: CallContext, secret: str, form: dict[str, str]
    ) -> tuple[dict[str, Secret], dict[str, str]]:
        """Headers and form of one request."""
        headers = {
            "accept": Secret("application/json", "accept"),
            "content-type": Secret("application/x-www-form-urlencoded", "content-type"),
        }
        form = {"grant_type": "client_credentials", **form}
        if self._assertion is not None:
            assertion = self._assertion.fetch(context).value
            return headers, {
                **form,
                "client_id": self._client_id,
                "client_assertion_type": _ASSERTION_TYPE,
                "client_assertion": assertion,
            }
        if self._auth_method == "client_secret_post":
            return headers, {**form, "client_id": self._client_id, "client_secret": secret}
        return {**headers, "authorization": Secret(_basic_credentials(self._client_id, secret), "authorization")}, form


# -- requests ---------------------------------------------------------------------------------------------------------


def _basic_credentials(client_id: str, secret: str) -> str:
    """The header's value by RFC 6749 section 2.3.1: both parts form-encoded first, which many clients forget."""
    pair = f"{quote_plus(client_id, errors='replace')}:{quote_plus(secret, errors='replace')}"
    return f"Basic {b64encode(pair.encode()).decode()}"


def _current(secret: Callable[[], object]) -> str:
    value = called("client_secret", secret)
    if not isinstance(value, str):
        raise TokenFormatError(f"client_secret: expected its function to return a str, got {type(value).__name__}")
    value = value.strip()
    if not value:
        raise TokenUnavailableError("client_secret: its function returned an empty str")
    if problem := text_problem(value):
        raise TokenFormatError(f"client_secret: {problem}")
    return value


def _assertion_source(
    client_id: str,
    audience: str,
    key: KeyLike,
    algorithm: str | None,
    passphrase: str | bytes | PathLike[str] | None,
    key_id: str | None,
) -> Source:
    from grpc_bearer.sources.jwt import JWTSource, nonce

    return JWTSource(
        key,
        claims={"iss": client_id, "sub": client_id, "jti": nonce},
        headers=None if key_id is None else {"kid": key_id},
        audience=audience,
        algorithm=algorithm,
        lifetime=_ASSERTION_LIFETIME,
        single_use=True,
        passphrase=passphrase,
    )


# -- checks -----------------------------------------------------------------------------------------------------------


def _checked_method(auth_method: str, client_secret: object, key: object) -> str:
    if auth_method not in ("client_secret_basic", "client_secret_post", "private_key_jwt"):
        raise ConfigurationError(
            "expected client_secret_basic, client_secret_post or private_key_jwt", field="auth_method"
        )
    by_key = auth_method == "private_key_jwt"
    if by_key and key is None:
        raise ConfigurationError("missing; private_key_jwt signs with one", field="key")
    if by_key and client_secret is not None:
        raise ConfigurationError("private_key_jwt has no use for it; leave it out", field="client_secret")
    if not by_key and client_secret is None:
        raise ConfigurationError(f"missing; {auth_method} sends it", field="client_secret")
    if not by_key and key is not None:
        raise ConfigurationError(f"{auth_method} has no use for it; use auth_method='private_key_jwt'", field="key")
    return auth_method


def _checked_secret(secret: object) -> Callable[[], object] | None:
    """A function that gives the secret as it is now."""
    if secret is None or callable(secret):
        return secret
    if not isinstance(secret, (str, PathLike, Secret)):
        raise ConfigurationError(
            f"expected a str, a path or a function, got {type(secret).__name__}", field="client_secret"
        )
    return given_secret("client_secret", secret).reveal


def _checked_form(scope: object, audience: object, extra: object) -> dict[str, str | Secret]:
    form: dict[str, str | Secret] = {}
    if scope is not None:
        form["scope"] = _checked_scope(scope)
    if audience is not None:
        form["audience"] = checked_text("audience", audience)
    for name, value in as_dict("extra", {} if extra is None else extra).items():
        if not isinstance(name, str):
            raise ConfigurationError("a name is no str", field="extra")
        if name in _OURS:
            raise ConfigurationError(f"{name} has an argument of its own", field="extra")
        form[name] = given_text(Where("extra", name), value)
    return form


def _checked_scope(scope: object) -> str:
    scopes = [scope] if isinstance(scope, str) else list(scope) if isinstance(scope, Iterable) else [None]
    if not all(isinstance(item, str) for item in scopes):
        raise ConfigurationError("expected a str, or several in a list", field="scope")
    return " ".join(checked_text("scope", item) for item in scopes if item)
