"""`AzureIdentitySource`: the credentials of azure-identity, and others that have its `get_token`, as a source."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Any, Protocol

from grpc_bearer._base.arguments import checked_text
from grpc_bearer._base.token import CallContext, Shared, Token, secrets_may_travel
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError, TokenFormatError, TokenRejectedError
from grpc_bearer.sources._parse import CREDENTIAL_REFUSED, made_token, number_of
from grpc_bearer.sources.callable import CallableSource

__all__ = ["AzureIdentitySource", "TokenCredential"]


class TokenCredential(Protocol):
    """What azure-identity's credentials have in common, blocking ones and those of `azure.identity.aio`.

    >>> from types import SimpleNamespace
    >>> class Fixed:
    ...     def get_token(self, *scopes):
    ...         return SimpleNamespace(token="s3cret", expires_on=1_700_003_600)
    >>> credential: TokenCredential = Fixed()
    """

    def get_token(self, *scopes: str) -> Any:
        """A token for these scopes, as an object with `token` and `expires_on`; or an awaitable of one."""
        ...


class AzureIdentitySource(Shared, CallableSource):
    """Tokens from a credential of azure-identity, or from any object with `get_token(scope)`.

    It keeps tokens itself, and gives the same one until shortly before its end, also if a server has refused it.

    Args:
        credential: blocking, or of `azure.identity.aio`. It is not closed with the auth.
        scope: what to ask for, such as `api://fleet/.default`; or several in a list.
        loop: the running loop for coroutines, if the credential is used on one elsewhere, too.
        timeout: seconds that a coroutine may take. A blocking credential is not bounded.

    Raises:
        ConfigurationError: an argument is wrong.

    >>> from types import SimpleNamespace
    >>> class Fixed:
    ...     def get_token(self, *scopes):
    ...         return SimpleNamespace(token="s3cret", expires_on=4_000_000_000)
    >>> AzureIdentitySource(Fixed(), "api://fleet/.default").fetch(CallContext())
    Token(<hidden>, expires_at=4000000000.0)
    """

    def __init__(
        self,
        credential: TokenCredential,
        scope: str | Iterable[str],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        timeout: float = 30.0,
    ) -> None:
        if isinstance(credential, type) or not callable(getattr(credential, "get_token", None)):
            raise ConfigurationError("expected an object with get_token(scope)", field="credential")
        self._credential = credential
        self._scopes = _checked_scopes(scope)
        super().__init__(self._asked, loop=loop, timeout=timeout)
        self._awaits = loop is not None or inspect.iscoroutinefunction(credential.get_token)
        self._where = f"{type(credential).__name__}.get_token()"

    def __repr__(self) -> str:
        return f"AzureIdentitySource({type(self._credential).__name__})"

    def __reduce__(self) -> tuple[Callable[..., AzureIdentitySource], tuple[TokenCredential, tuple[str, ...]]]:
        if secrets_may_travel.get():
            return AzureIdentitySource, (self._credential, self._scopes)
        raise ConfigurationError(
            "it may hold a secret, which a pickle would carry in the clear; make it anew in the other process "
            "(WorkloadIdentityCredential reads the file that an environment variable names), or say "
            "BearerAuth(..., pickle_secrets=True)",
            field="credential",
        )

    def fetch(self, context: CallContext) -> Token:
        """What the credential gives.

        Raises:
            TokenRejectedError: the token endpoint has refused it (status 400, 401 or 403).
            TokenUnavailableError: any other exception, which is told by the name of its type only; no answer within
                `timeout`.
            TokenFormatError: what it gave is no token.
            ConfigurationError: called on the thread of the loop that would have to make the token.
        """
        return super().fetch(context)

    def key(self, context: CallContext) -> Hashable:
        """One token for all."""
        return ()

    def _asked(self, context: CallContext) -> Token | Awaitable[Token]:
        now = context.clock.time()
        with translating(Exception, to=self._refused):
            found = self._credential.get_token(*self._scopes)
        return self._awaited(found, now) if inspect.isawaitable(found) else self._token(found, now)

    async def _awaited(self, found: Awaitable[Any], now: float) -> Token:
        with translating(Exception, to=self._refused):
            answer = await found
        return self._token(answer, now)

    def _refused(self, error: BaseException) -> TokenRejectedError | None:
        # azure-identity raises ClientAuthenticationError also where it could reach nobody. Only a status tells.
        status = getattr(error, "status_code", None)
        if status not in CREDENTIAL_REFUSED:
            return None
        return TokenRejectedError(f"{self._where}: {type(error).__name__}, answered {status}", suspect="credential")

    def _token(self, found: object, now: float) -> Token:
        value, expires_on = getattr(found, "token", None), number_of(getattr(found, "expires_on", None))
        if not isinstance(value, str) or expires_on is None:
            raise TokenFormatError(f"{self._where}: gave no object with the fields token and expires_on")
        return made_token(self._where, value, now=now, expires_at=expires_on)


def _checked_scopes(scope: object) -> tuple[str, ...]:
    scopes = (scope,) if isinstance(scope, str) else tuple(scope) if isinstance(scope, Iterable) else ()
    if not scopes:
        raise ConfigurationError("expected a scope such as 'api://fleet/.default', or several", field="scope")
    return tuple(checked_text("scope", each) for each in scopes)
