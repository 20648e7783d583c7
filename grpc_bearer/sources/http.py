"""`HTTPTokenSource`: one HTTPS request with a credential; the answer is a raw token, or JSON with a named field."""

from __future__ import annotations

import json as _json
import random
from base64 import b64encode
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike
from secrets import token_hex
from urllib.parse import urlencode

from grpc_bearer._base.arguments import Where, as_dict, checked_seconds, checked_text, refuse_file_name, seconds_or_none
from grpc_bearer._base.identity import Identity, strong_secret
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Secret, Token
from grpc_bearer._base.translating import translating
from grpc_bearer._base.user_code import called
from grpc_bearer.errors import ConfigurationError, GrpcBearerError, TokenError, TokenFormatError
from grpc_bearer.sources._files import checked_path
from grpc_bearer.sources._http import MAX_BYTES, NEEDS, TIMEOUT, Endpoint, carried, checked_headers
from grpc_bearer.sources._parse import (
    CREDENTIAL_REFUSED,
    Answer,
    decoded_text,
    field_of,
    json_document,
    jwt_expiry,
    learn_time,
    lifetime_of,
    made_token,
    raw_token,
    refusal,
)
from grpc_bearer.sources._secrets import FileSecret, Plain, SecretLike, composed, given_secret, given_text, revealed

__all__ = ["HTTPTokenSource"]

# What a body may be, and what a callable that makes one may return: a mapping or a list is sent as JSON.
_Body = str | bytes | Mapping[str, object] | list[object]

_JSON = "application/json"
_FORM = "application/x-www-form-urlencoded"
# The system's generator has no state that two processes could share after a fork, so a fleet does not refresh in step.
_RANDOM = random.SystemRandom()


class HTTPTokenSource(Source):
    """A token from an HTTPS endpoint that takes a credential.

    Redirects are never followed, netrc is never read, `HTTPS_PROXY` is honoured, and the whole exchange (connecting,
    TLS, headers, body) ends within `timeout`. The token expires at its own `exp` if it is a JWT, else after the
    lifetime that the answer states, else after `lifetime`, else never.

    Args:
        url: an `https://` address. Keep secrets out of it: urllib3 logs the path and query at DEBUG.
        method: the HTTP method.
        headers: sent as they are; kept as secrets. Here, in `json`, in `form` and for the password, a path
            (`pathlib.Path`) stands for what its file holds, trimmed, which is read for each request.
        body: the request's body: `str`, `bytes`, the path of a file that holds it, or a callable that returns a `str`
            or `bytes` (or a mapping, sent as JSON). The last two are read or called for each request, for credentials
            that rotate. Where `headers` say so, the mapping is sent as a form.
        json: sent as a JSON body.
        form: sent as a form body.
        field: where the token is in a JSON answer, such as `"access_token"` or `"data.token"` (dots walk into objects);
            `None`: the whole answer is the token, as text.
        expires_in_field: where a JSON answer states the token's lifetime in seconds.
        lifetime: the token's lifetime in seconds if nothing else tells it.
        refresh_after: fetch ahead at an age between these two numbers of seconds, drawn evenly for each token.
        timeout: seconds for the whole exchange. (A name look-up cannot be interrupted; it is left behind then.)
        max_bytes: a longer answer is refused.
        ca: a file or folder of certificate authorities, instead of `REQUESTS_CA_BUNDLE` or certifi's.
        cert: certificate and key files of this client, for mutual TLS.
        allow_http_loopback: take `http://` too, to this machine only (a sidecar, a test).
        auth: user and password for HTTP Basic.

    Raises:
        ConfigurationError: an argument is wrong; it is named, its value is not shown.

    >>> source = HTTPTokenSource("https://auth.example.com/token", json={"secret": "s3cret"}, refresh_after=(900, 1200))
    >>> source
    HTTPTokenSource(host='auth.example.com')
    """

    needs: tuple[str, ...] = NEEDS

    def __init__(
        self,
        url: str,
        *,
        method: str = "POST",
        headers: Mapping[str, SecretLike] | None = None,
        body: str | bytes | PathLike[str] | Callable[[], _Body] | None = None,
        json: object = None,
        form: Mapping[str, SecretLike] | None = None,
        field: str | None = None,
        expires_in_field: str | None = "expires_in",
        lifetime: float | None = None,
        refresh_after: tuple[float, float] | None = None,
        timeout: float = TIMEOUT,
        max_bytes: int = MAX_BYTES,
        ca: str | PathLike[str] | None = None,
        cert: tuple[str | PathLike[str], str | PathLike[str]] | None = None,
        allow_http_loopback: bool = False,
        auth: tuple[str, SecretLike] | None = None,
    ) -> None:
        self._endpoint = Endpoint(
            url, timeout=timeout, max_bytes=max_bytes, ca=ca, cert=cert, allow_http_loopback=allow_http_loopback
        )
        self._method = _checked_method(method)
        self._body, content_type = _checked_body(body, json, form)
        self._headers = {**content_type, **checked_headers(headers), **_checked_basic(auth)}
        shown = [*self._headers.values(), *([self._body] if isinstance(self._body, Secret) else [])]
        self.replaceable: bool = callable(self._body) or not all(each.fixed for each in shown)
        self._field = _checked_path("field", field)
        self._expires_in_field = _checked_path("expires_in_field", expires_in_field)
        self._lifetime = seconds_or_none("lifetime", lifetime)
        self._refresh_after = _checked_range(refresh_after)

    def __repr__(self) -> str:
        return f"HTTPTokenSource(host={self._endpoint.host!r})"

    def fetch(self, context: CallContext) -> Token:
        """Ask the endpoint for a token.

        Raises:
            TokenUnavailableError: no answer in time, no connection, or status 408, 429 or 5xx.
            TokenRejectedError: any other 4xx, or a redirect.
            TokenFormatError: the answer is no token, or an expired one.
        """
        # Read before the request: a stated lifetime then counts from too early, never from too late.
        now = context.clock.time()
        where = self._endpoint.host
        answer = self._answer()
        refused = refusal(answer, where, now)
        if refused is not None:
            raise refused
        text = decoded_text(answer, where)
        value, stated = self._read(text, where)
        if self._endpoint.secure and learn_time(context.clock, answer, value):
            now = context.clock.time() - answer.elapsed
        expires_at = jwt_expiry(value)
        if expires_at is None and (lifetime := stated or self._lifetime) is not None:
            expires_at = now + lifetime
        return made_token(where, value, now=now, expires_at=expires_at, refresh_at=self._refresh_at(now, expires_at))

    def _answer(self) -> Answer:
        """The endpoint's; it is asked again if the credential that it refused was replaced meanwhile."""
        request = self._request()
        answer = self._endpoint.send(self._method, *request)
        if answer.status in CREDENTIAL_REFUSED and (replaced := self._request()) != request:
            answer = self._endpoint.send(self._method, *replaced)
        return answer

    def identity(self) -> Identity | None:
        """The address and the credential, if that is a strong one."""
        return None if callable(self._body) else self._identity_with(self._body)

    def _identity_with(self, body: Secret | None) -> Identity | None:
        secrets = [*self._headers.values()] + ([] if body is None else [body])
        try:
            secret = strong_secret([each.reveal() for each in secrets])
        except TokenError:  # its file is not there yet
            return None
        return None if secret is None else Identity((self._endpoint.url, self._method, self._field), secret)

    def close(self) -> None:
        """Close the kept-alive connections."""
        self._endpoint.close()

    def _request(self) -> tuple[dict[str, Secret], bytes | None]:
        """Headers and body, as they are now."""
        headers = carried(self._headers) if self.replaceable else self._headers
        if isinstance(self._body, Secret):
            return headers, _to_bytes(self._body.reveal())
        if self._body is None:
            return headers, None
        body = self._seen_by_functions().run(called, "body", self._body)
        if not isinstance(body, (Mapping, list)):
            return headers, _encoded(body)
        kind = headers.get("content-type")
        if kind is not None and kind.reveal().lower().startswith(_FORM):
            return headers, _form_bytes(body)
        return {**_content_type(_JSON), **headers}, _encoded(body)

    def _read(self, text: str, where: str) -> tuple[str, float | None]:
        """The token, and its lifetime as the answer states it."""
        if self._field is None:
            return raw_token(text, where), None
        document = json_document(text, where)
        return field_of(document, self._field, where), lifetime_of(document, self._expires_in_field, where)

    def _refresh_at(self, now: float, expires_at: float | None) -> float | None:
        if self._refresh_after is None:
            return None
        refresh_at = now + _RANDOM.uniform(*self._refresh_after)
        return refresh_at if expires_at is None else min(refresh_at, expires_at)


# -- checks -----------------------------------------------------------------------------------------------------------


def _checked_method(method: object) -> str:
    if not isinstance(method, str) or not method.isascii() or not method.isalpha():
        raise ConfigurationError("expected an HTTP method such as 'POST'", field="method")
    return method.upper()


def _checked_path(name: str, value: object) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ConfigurationError("expected the name of a field, or None", field=name)
    return value


def _checked_range(ages: object) -> tuple[float, float] | None:
    if ages is None:
        return None
    if not isinstance(ages, (tuple, list)) or len(ages) != 2:
        raise ConfigurationError("expected a pair of ages in seconds, such as (900, 1200)", field="refresh_after")
    low, high = (checked_seconds("refresh_after", age) for age in ages)
    if low > high:
        raise ConfigurationError("the first age is above the second", field="refresh_after")
    return low, high


def _checked_basic(auth: object) -> dict[str, Secret]:
    if auth is None:
        return {}
    if not isinstance(auth, (tuple, list)) or len(auth) != 2:
        raise ConfigurationError("expected a pair: (user, password)", field="auth")
    user = checked_text("auth: user", auth[0])
    if ":" in user:
        raise ConfigurationError("HTTP Basic has no way to carry a user name with ':' in it", field="auth")
    return {"authorization": composed("auth", partial(_basic, user), given_secret("auth: password", auth[1]))}


def _basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode('utf-8', 'replace')).decode()}"


def _checked_body(
    body: object, json: object, form: object
) -> tuple[Secret | Callable[[], object] | None, dict[str, Secret]]:
    """The body, ready or to be made, and the header that tells its type."""
    if [body, json, form].count(None) < 2:
        raise ConfigurationError("body, json, form: give one of them only")
    if json is not None:
        return _checked_json(json), _content_type(_JSON)
    if form is not None:
        values = {
            str(name): given_text(Where("form", str(name)), value) for name, value in as_dict("form", form).items()
        }
        return composed("form", partial(_form, tuple(values)), *values.values()), _content_type(_FORM)
    if body is None or callable(body):
        return body, {}
    if isinstance(body, PathLike):
        return FileSecret(checked_path("body", body), "body"), {}
    if not isinstance(body, (str, bytes)):
        raise ConfigurationError(f"expected str, bytes, a path or a function, got {type(body).__name__}", field="body")
    if isinstance(body, str):
        refuse_file_name("body", body)
    return Secret(_to_text(_encoded(body)), "body"), {}


def _form(names: tuple[str, ...], *values: str) -> str:
    return urlencode(list(zip(names, values, strict=True)), errors="replace")


def _checked_json(document: object) -> Secret:
    """JSON as text. If a path is in it, it is made for each request, with what the file holds in the path's place."""
    files: list[Secret] = []
    mark = token_hex(16)  # a text that the document does not have

    def leaf(value: object) -> object:
        if not isinstance(value, PathLike):
            return _revealed(value)
        files.append(FileSecret(checked_path("json", value), "json"))
        return mark

    text = _to_text(_json_bytes("json", document, ConfigurationError, leaf))
    return composed("json", partial(_filled, tuple(text.split(f'"{mark}"'))), *files)


def _filled(pieces: tuple[str, ...], *values: str) -> str:
    return pieces[0] + "".join(_json.dumps(value) + piece for value, piece in zip(values, pieces[1:], strict=True))


def _content_type(kind: str) -> dict[str, Secret]:
    return {"content-type": Plain(kind, "content-type")}


def _encoded(body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    if isinstance(body, str):
        return body.encode("utf-8", "replace")  # a lone surrogate would raise, and show the body
    return _json_bytes("body", body, TokenFormatError)


def _form_bytes(fields: Mapping[object, object] | list[object]) -> bytes:
    members = fields.items() if isinstance(fields, Mapping) else ()
    pairs = {
        name: revealed(value) for name, value in members if isinstance(name, str) and isinstance(value, (str, Secret))
    }
    if len(pairs) != len(fields):
        raise TokenFormatError("body: expected the fields of a form as a mapping of str to str")
    return urlencode(pairs, errors="replace").encode()


def _revealed(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError


def _json_bytes(
    name: str, document: object, kind: type[GrpcBearerError], leaf: Callable[[object], object] = _revealed
) -> bytes:
    def failure(error: Exception) -> GrpcBearerError | None:
        is_ours = isinstance(error, GrpcBearerError)  # of a path that is none
        return None if is_ours else kind("holds something that JSON cannot", field=name)

    with translating(TypeError, ValueError, RecursionError, to=failure):
        return _json.dumps(document, default=leaf).encode()


# A Secret holds text. Bytes that are no UTF-8 go through unchanged.
def _to_text(body: bytes) -> str:
    return body.decode("utf-8", "surrogateescape")


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
