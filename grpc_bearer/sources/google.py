"""google-auth both ways: its credentials as a source of tokens, and a `BearerAuth` as its credentials."""

from __future__ import annotations

import copy
import functools
import inspect
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Protocol

from grpc_bearer._base.arguments import checked_text
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Shared, Token, fingerprint, secrets_may_travel
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import (
    ConfigurationError,
    GrpcBearerError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.sources._http import NEEDS
from grpc_bearer.sources._parse import OAUTH_CODES, jwt_expiry, made_token

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

__all__ = ["GoogleAuthSource", "as_google_credentials"]


class GoogleAuthSource(Shared, Source):
    """Tokens from google-auth credentials: service accounts, workload identity, user credentials, self-signed JWTs.

    A token that the credentials hold already is taken as it is, once. Their quota project goes out beside it, as
    `x-goog-user-project`. `google.auth.jwt.OnDemandCredentials` sign one token for each service, with its URL as
    audience.

    Args:
        credentials: a `google.auth.credentials.Credentials` that refreshes with blocking calls.
        request: the transport for refreshing; `None`: one that follows no redirect, reads no netrc, logs nothing, and
            ends within 10 seconds. (google-auth's own logs secrets at DEBUG, follows redirects with them, and does not
            bound an answer that trickles.)

    Raises:
        ConfigurationError: no credentials, or of a kind that has no bearer token; or no header can carry their quota
            project.

    >>> from google.oauth2.credentials import Credentials
    >>> source = GoogleAuthSource(Credentials(token="s3cret"))
    >>> source.fetch(CallContext())
    Token(<hidden>)
    """

    needs: tuple[str, ...] = (*NEEDS, "google.auth.exceptions", "grpc_bearer.sources._google_transport")

    def __init__(self, credentials: Credentials, *, request: Callable[..., Any] | None = None) -> None:
        if problem := _unusable(credentials):
            raise ConfigurationError(problem, field="credentials")
        if request is None:
            from grpc_bearer.sources._google_transport import send

            request = send
        self._credentials = credentials
        self._request = request
        self._on_demand = _signs_on_demand(credentials)
        quota = _quota_headers(getattr(credentials, "quota_project_id", None))  # a class of somebody's own may lack it
        self.beside: tuple[tuple[str, str], ...] = tuple(quota.items())
        self._given_out = ""

    def key(self, context: CallContext) -> Hashable:
        """The service URL if it is the audience of a token."""
        return context.service_url if self._on_demand else ()

    def fetch(self, context: CallContext) -> Token:
        """The token that google-auth holds, if it has not been given out yet; else a new one.

        Raises:
            TokenUnavailableError: no connection, or an error that google-auth calls retryable.
            TokenRejectedError: the credential was refused, or cannot be refreshed.
            TokenFormatError: there was no usable token after all.
        """
        if self._on_demand:
            return self._signed_for(context)
        credentials = self._credentials
        if not (credentials.valid and fingerprint(_text(credentials.token)) != self._given_out):
            # With always_use_jwt_access; older versions do this in their own transports only, newer ones in refresh.
            if prepare := getattr(credentials, "_create_self_signed_jwt", None):
                _calling_google(prepare, None)
            _calling_google(credentials.refresh, self._request)
        self._given_out = fingerprint(_text(credentials.token))  # whatever it is worth: the next one is another
        return made_token(
            type(credentials).__name__,
            _text(credentials.token),
            now=context.clock.time(),
            expires_at=_since_epoch(credentials.expiry),
        )

    def _signed_for(self, context: CallContext) -> Token:
        if not context.service_url:
            raise TokenRejectedError("OnDemandCredentials: need a service URL as audience: use auth.token(url)")
        # They keep each token until the very end of its life; a copy with an empty cache signs a new one.
        credentials: Any = copy.copy(self._credentials)
        credentials._cache = {}
        headers: dict[str, str] = {}
        _calling_google(credentials.before_request, self._request, context.method, context.service_url, headers)
        value = headers.get("authorization", "").removeprefix("Bearer ")
        return made_token("OnDemandCredentials", value, now=context.clock.time(), expires_at=jwt_expiry(value))

    def __repr__(self) -> str:
        return f"GoogleAuthSource({type(self._credentials).__name__})"

    def __reduce__(self) -> tuple[Callable[..., GoogleAuthSource], tuple[Credentials]]:
        if secrets_may_travel.get():
            return functools.partial(GoogleAuthSource, request=self._request), (self._credentials,)
        raise ConfigurationError(
            "google-auth credentials may hold a key, which a pickle would carry in the clear; "
            "load them anew in the other process (google.auth.default reads the file that "
            "GOOGLE_APPLICATION_CREDENTIALS names), or say BearerAuth(..., pickle_secrets=True)",
            field="credentials",
        )


def _quota_headers(project: str | None) -> dict[str, str]:
    """What tells Google who pays.

    Raises:
        ConfigurationError: no header can carry it.
    """
    if not project:
        return {}
    text = checked_text("quota_project_id", project)
    if not text.isascii():
        raise ConfigurationError("has a character outside ASCII", field="quota_project_id")
    return {"x-goog-user-project": text}


def _unusable(credentials: object) -> str:
    from google.auth.credentials import AnonymousCredentials, Credentials

    if not isinstance(credentials, Credentials):
        return f"expected google.auth.credentials.Credentials, got {type(credentials).__name__}"
    if isinstance(credentials, AnonymousCredentials):
        return "AnonymousCredentials have no token; use a plain channel"
    if type(credentials).__module__ == "google.auth.api_key":
        return "an API key is no bearer token; use StaticSource with header='x-goog-api-key', scheme=''"
    if inspect.iscoroutinefunction(credentials.refresh):
        return "these refresh with coroutines; give the blocking ones, they serve asyncio too"
    return ""


def _signs_on_demand(credentials: Credentials) -> bool:
    from google.auth.jwt import OnDemandCredentials

    return isinstance(credentials, OnDemandCredentials)


def _text(token: str | bytes | None) -> str:
    # google.auth.jwt.Credentials hold it as bytes.
    return token.decode("ascii", "replace") if isinstance(token, bytes) else token or ""


def _since_epoch(expiry: datetime | None) -> float | None:
    # google-auth's times are UTC without saying so.
    if expiry is None:
        return None
    return (expiry if expiry.tzinfo else expiry.replace(tzinfo=timezone.utc)).timestamp()


def _calling_google(function: Callable[..., object], *args: object) -> None:
    """google-auth's exceptions as ours, without what they hold: answers, requests and, through them, secrets."""
    with translating(Exception, to=_translated):
        function(*args)


def _translated(error: Exception) -> GrpcBearerError | None:
    if isinstance(error, GrpcBearerError):
        return None
    from google.auth import exceptions

    kind = type(error).__name__
    if isinstance(error, exceptions.TransportError) or isinstance(error.__cause__, exceptions.TransportError):
        # Also where a metadata server could not be reached, which google-auth calls a RefreshError.
        return TokenUnavailableError(f"google-auth: no answer ({kind})", suspect="endpoint")
    if getattr(error, "retryable", False):
        return TokenUnavailableError(f"google-auth: refresh failed for now ({kind})")
    if isinstance(error, exceptions.GoogleAuthError):
        text = f"google-auth: {_oauth_error(error) or 'refresh refused'} ({kind})"
        return TokenRejectedError(text, suspect="credential")
    if isinstance(error, (ValueError, TypeError, KeyError)):
        return TokenFormatError(f"google-auth: an answer or a file that it could not read ({kind})")
    return TokenUnavailableError(f"google-auth: refresh failed ({kind})")


def _oauth_error(error: Exception) -> str:
    answer = error.args[1] if len(error.args) > 1 else None
    code = answer.get("error") if isinstance(answer, Mapping) else None
    return code if code in OAUTH_CODES else ""


class _Auth(Protocol):
    """What is needed of a `BearerAuth`. That stands in a higher layer, and cannot be imported here."""

    @property
    def header(self) -> str: ...
    def token(self, url: str = "", method: str = "") -> Token: ...
    def headers(self, url: str = "", method: str = "") -> dict[str, str]: ...
    def invalidate(self, token: Token | str) -> bool: ...


def as_google_credentials(auth: _Auth, quota_project_id: str | None = None) -> Credentials:
    """A `BearerAuth` as google-auth credentials, for libraries that take those.

    They serve `google.auth.transport.grpc.AuthMetadataPlugin`, `AuthorizedSession` and `credentials=` of Google's
    clients. Tokens stay with the auth: each request asks it, and `refresh` (after a 401) gives up only the token that
    this thread sent.
    """
    credentials: Credentials = _credentials_class()(auth, quota_project_id)
    return credentials


@functools.cache
def _credentials_class() -> type[Any]:
    from google.auth.credentials import CredentialsWithQuotaProject

    class BearerCredentials(CredentialsWithQuotaProject):
        def __init__(self, auth: _Auth, quota_project_id: str | None = None) -> None:
            super().__init__()  # type: ignore[no-untyped-call]  # untyped_calls_exclude sees no super()
            self._auth = auth
            self._quota_project_id = quota_project_id
            self._beside = _quota_headers(quota_project_id)
            self._sent = threading.local()

        def before_request(self, request: Any, method: str, url: str, headers: MutableMapping[str, str]) -> None:
            url = url.partition("?")[0].partition("#")[0]
            with _errors_for_google():
                ours = self._auth.headers(url, method)
            self._sent.last = (ours[self._auth.header].rpartition(" ")[2], url, method)
            headers.update(ours, **self._beside)

        def with_quota_project(self, quota_project_id: str | None) -> Credentials:
            credentials: Credentials = BearerCredentials(self._auth, quota_project_id)
            return credentials

        def refresh(self, request: Any) -> None:
            value, url, method = getattr(self._sent, "last", ("", "", ""))
            with _errors_for_google():
                if value:
                    self._auth.invalidate(value)
                token = self._auth.token(url, method)
            self._sent.last = (token.value, url, method)
            self.token = token.value
            self.expiry = None if token.expires_at is None else _naive_utc(token.expires_at)

        @property
        def expired(self) -> bool:
            # Without google-auth's margin of almost four minutes, in which short tokens would pass their whole life.
            return self.expiry is not None and _naive_utc() >= self.expiry

        def apply(self, headers: MutableMapping[str, str], token: str | None = None) -> None:
            if token is None:
                with _errors_for_google():
                    headers.update(self._auth.headers(), **self._beside)
            else:
                super().apply(headers, token)  # type: ignore[no-untyped-call]  # likewise

        def __repr__(self) -> str:
            return f"BearerCredentials({self._auth!r})"

        def __reduce__(self) -> tuple[Callable[..., Credentials], tuple[_Auth, str | None]]:
            return as_google_credentials, (self._auth, self.quota_project_id)

    return BearerCredentials


def _naive_utc(seconds: float | None = None) -> datetime:
    now = datetime.now(timezone.utc) if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)
    return now.replace(tzinfo=None)


@contextmanager
def _errors_for_google() -> Iterator[None]:
    from google.auth.exceptions import RefreshError

    try:
        yield
    except GrpcBearerError as error:
        # Chained, unlike the other way round: our own errors hold no secret.
        retryable = getattr(error, "retryable", False)
        raise RefreshError(str(error), retryable=retryable) from error
