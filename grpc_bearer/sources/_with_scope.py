"""What is handed over together with a scope."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources.azure import AzureIdentitySource, TokenCredential


def with_scope(source: object, scope: str | Iterable[str] | None) -> AzureIdentitySource:
    """The source of what was given with a scope, or wants one.

    Raises:
        ConfigurationError: one of the two is missing.
    """
    if isinstance(source, type) or not callable(getattr(source, "get_token", None)):
        raise ConfigurationError("only for a credential with get_token(scope), as azure-identity's are", field="scope")
    if scope is None:
        name = type(source).__name__
        raise ConfigurationError(f"missing; give BearerAuth({name}(…), scope='api://…/.default')", field="scope")
    return AzureIdentitySource(cast(TokenCredential, source), scope)
