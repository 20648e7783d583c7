"""`if_refused`: heals clients that take a token, or a function that gives one, and make their calls themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from grpc_bearer._auth import BearerAuth, handed_out
from grpc_bearer._calls.retry_block import LocalError, replaceable
from grpc_bearer._engine.engine import Lease
from grpc_bearer.errors import ConfigurationError


def if_refused(auth: BearerAuth, url: str = "", method: str = "") -> Callable[[BaseException], bool]:
    """Whether to make a call again, by its error: yes, if its token was refused and there may be another.

    For `retry=tenacity.retry_if_exception(...)` and for `google.api_core.retry.Retry(predicate=...)`, around calls of a
    client that has its token from `auth.bearer`, `auth.metadata` or `auth.headers`. The token is given up, so that the
    next attempt gets another; calls that failed with one token cost one fetch. It is known for sure where the client
    asked for it in the context of the call (this thread or task); elsewhere it is taken to be the current one. Let at
    least three attempts be made.

    Args:
        auth: whose tokens.
        url: as for `BearerAuth.token`, for sources whose tokens differ by call.
        method: likewise.

    Raises:
        ConfigurationError: `auth` is no `BearerAuth`.

    >>> import tenacity
    >>> auth = BearerAuth(lambda: "s3cret")
    >>> retried = tenacity.retry(
    ...     retry=tenacity.retry_if_exception(if_refused(auth)), stop=tenacity.stop_after_attempt(3), reraise=True
    ... )
    """
    if not isinstance(auth, BearerAuth):
        raise ConfigurationError(f"expected a BearerAuth, got {type(auth).__name__}", field="auth")
    engine, context = auth._engine, auth._context(url, method)

    def refused(error: BaseException) -> bool:
        if _code_of(error) is not grpc.StatusCode.UNAUTHENTICATED or isinstance(error, LocalError):
            return False
        lease = _taken(auth) or engine.held(context)
        return lease is None or replaceable(engine, lease, context)

    return refused


def _code_of(error: BaseException) -> Any:
    """The status of a gRPC error, or of one that google.api_core made of it."""
    code = getattr(error, "code", None)
    return code() if isinstance(error, grpc.RpcError) and callable(code) else getattr(error, "grpc_status_code", None)


def _taken(auth: BearerAuth) -> Lease | None:
    """What was handed out in this context; once, since the next attempt may get its token elsewhere."""
    found = handed_out.get()
    if found is None or found[0]() is not auth:
        return None
    handed_out.set(None)
    return found[1]
