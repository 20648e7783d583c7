"""`RetryPolicy`: when a refused call is made once more with another token.

The decision alone stands here, in pure functions; `attempt_history` keeps the history of one call and obeys.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import grpc

from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._base.token import CallContext
from grpc_bearer._calls.failure import Failure, rich
from grpc_bearer._calls.retry_block import RetriedBlock
from grpc_bearer.errors import ConfigurationError

if TYPE_CHECKING:
    from tenacity.stop import StopBaseT
    from tenacity.wait import WaitBaseT

    from grpc_bearer._auth import BearerAuth

#: However generous a policy's own `stop` is, no call is attempted more often than this,
MAX_ATTEMPTS = 10
#: nor for longer than this, in seconds, if it has no deadline of its own.
MAX_TIME = 300.0

# google.api.ErrorReason: what another token of the same kind can cure. A reason that is not listed says nothing either
# way, except where it is known that no token will do.
_INCURABLE = frozenset(
    {
        "ACCESS_TOKEN_SCOPE_INSUFFICIENT",
        "ACCESS_TOKEN_TYPE_UNSUPPORTED",
        "ACCOUNT_STATE_INVALID",
        "API_KEY_ANDROID_APP_BLOCKED",
        "API_KEY_HTTP_REFERRER_BLOCKED",
        "API_KEY_INVALID",
        "API_KEY_IOS_APP_BLOCKED",
        "API_KEY_IP_ADDRESS_BLOCKED",
        "API_KEY_SERVICE_BLOCKED",
        "BILLING_DISABLED",
        "CONSUMER_INVALID",
        "CONSUMER_SUSPENDED",
        "IAM_PERMISSION_DENIED",
        "LOCATION_POLICY_VIOLATED",
        "SECURITY_POLICY_VIOLATED",
        "SERVICE_DISABLED",
        "SYSTEM_PARAMETER_UNSUPPORTED",
        "USER_PROJECT_DENIED",
    }
)


@dataclass(frozen=True)
class RetryPolicy:
    """When a call that the server refused is made once more, after its token was replaced.

    By default UNAUTHENTICATED, once. A call is only retried if the server itself refused it, if its token was ours, if
    another token is to be had, and if nothing of its answer has reached the caller; always under the call's one
    deadline.

    Args:
        stop: a tenacity stop strategy; default: after two attempts in all. Never more than 10 attempts or, without a
            deadline, 300 s.
        wait: a tenacity wait strategy; default: no wait. A `RetryInfo` of the server's is honoured besides.
        codes: which status codes may mean a stale token; some servers say so by PERMISSION_DENIED or INVALID_ARGUMENT.
            Behind a proxy gRPC may lose a status: one that only headers still tell, by a challenge of RFC 6750 or a
            rich status, counts like the status itself.
        retry_if: further errors that mean one: called with the `grpc.RpcError`.
        exclude: methods never to retry, as patterns over `package.Service/Method` (`fnmatch` rules, such as
            `"shop.v1.Orders/*"`).
        replay_messages: how many messages of a request stream are kept to be sent again; beyond, the stream is not
            retried.
        replay_bytes: likewise, in bytes of all messages together.

    Raises:
        ConfigurationError: an argument is of the wrong kind.

    >>> import tenacity
    >>> RetryPolicy(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(1)).applies("/shop.v1.Orders/Create")
    True
    >>> RetryPolicy(exclude=["shop.v1.Orders/Cre*"]).applies("/shop.v1.Orders/Create")
    False
    """

    stop: StopBaseT | None = None
    wait: WaitBaseT | None = None
    codes: Iterable[grpc.StatusCode] = (grpc.StatusCode.UNAUTHENTICATED,)
    retry_if: Callable[[Any], bool] | None = None
    exclude: Iterable[str] = ()
    replay_messages: int = 1000
    replay_bytes: int = 4 * 1024 * 1024

    def __post_init__(self) -> None:
        if isinstance(self.codes, grpc.StatusCode):
            object.__setattr__(self, "codes", (self.codes,))
        for name, kind in (("codes", grpc.StatusCode), ("exclude", str)):
            value = getattr(self, name)
            items = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (None,)
            if not all(isinstance(item, kind) for item in items):
                raise ConfigurationError(f"{name}: expected a collection of {kind.__name__}")
            object.__setattr__(self, name, items)
        for name in ("stop", "wait", "retry_if"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise ConfigurationError(f"{name}: expected a callable, such as tenacity's strategies")
        for name in ("replay_messages", "replay_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigurationError(f"{name}: expected a whole number, 0 or more")

    def attempts(
        self, auth: BearerAuth, url: str = "", method: str = "", *, timeout: float | None = None
    ) -> RetriedBlock:
        """Try a block of your own again, for what a single call cannot retry: several calls, or a stream read midway.

        Use it with `for` or `async for`; the block runs again from its start, so it must be safe to repeat.

        Args:
            auth: whose token the calls in the block use.
            url: the service URL, for sources whose tokens differ by call.
            method: the bare method name, likewise.
            timeout: seconds for all attempts together; the block is never cut short, only not begun again.

        >>> import grpc_bearer
        >>> for attempt in RetryPolicy().attempts(grpc_bearer.BearerAuth("t0")):
        ...     with attempt:
        ...         answer = 42
        """
        if not isinstance(auth, grpc.AuthMetadataPlugin) or not hasattr(auth, "_engine"):
            raise ConfigurationError(f"auth: expected a BearerAuth, got {type(auth).__name__}")
        context = CallContext(url, method, auth._clock)
        return RetriedBlock(auth._engine, context, functools.partial(delay_after, self), timeout)

    def applies(self, method: str) -> bool:
        """Whether calls of this method, `/package.Service/Method`, may be retried."""
        return not any(fnmatchcase(method.lstrip("/"), pattern.lstrip("/")) for pattern in self.exclude)


DEFAULT = RetryPolicy()
#: For a request stream that is not to be sent again.
UNKEPT = RetryPolicy(replay_messages=0, replay_bytes=0)

_LOGGER = logging.getLogger("grpc_bearer")


def means_stale(policy: RetryPolicy, failure: Failure) -> bool:
    """Whether this failure may be one that another token cures."""
    by_code = failure.code in policy.codes or failure.meant in policy.codes
    if not by_code and not _says_yes(policy.retry_if, failure.error):
        return False
    reason, _ = rich(failure)
    return reason not in _INCURABLE


def checked_policy(retry: object) -> RetryPolicy | None:
    """What was given for `retry=`."""
    if retry is not None and not isinstance(retry, RetryPolicy):
        tries = retry if isinstance(retry, int) and not isinstance(retry, bool) and 1 < retry <= MAX_ATTEMPTS else 3
        raise ConfigurationError(
            f"retry: expected a RetryPolicy or None, got {type(retry).__name__}; for {tries} attempts in all: "
            f"grpc_bearer.RetryPolicy(stop=tenacity.stop_after_attempt({tries}))"
        )
    return retry


def _says_yes(predicate: Callable[[Any], bool] | None, error: Any) -> bool:
    """A user's predicate. What it raises would be lost on gRPC's threads, and must not hide the call's own error."""
    try:
        return predicate is not None and bool(predicate(error))
    except Exception as raised:
        if is_interrupt(raised):
            raise
        _LOGGER.error("the policy's retry_if raised %s, so the call is not made again", type(raised).__name__)
        return False


def delay_after(policy: RetryPolicy, failure: Failure, attempts: int, elapsed: float) -> float | None:
    """Seconds to wait before the next attempt; `None`: there is none, since the failure is none that a token cures, or
    the policy has had enough."""
    return delay_before(policy, failure, attempts, elapsed) if means_stale(policy, failure) else None


def delay_before(policy: RetryPolicy, failure: Failure, attempts: int, elapsed: float) -> float | None:
    """Seconds to wait before the next attempt; `None`: there is none.

    Args:
        policy: what the user wants.
        failure: how the last attempt ended.
        attempts: how many were made.
        elapsed: seconds since the first began.
    """
    if attempts >= MAX_ATTEMPTS or elapsed >= MAX_TIME:
        return None
    if policy.stop is None and policy.wait is None:
        delay = rich(failure)[1]
        return None if attempts >= 2 or elapsed + delay >= MAX_TIME else delay
    from tenacity import Future, RetryCallState, Retrying, stop_after_attempt, wait_none

    stop, wait = policy.stop or stop_after_attempt(2), policy.wait or wait_none()
    state = RetryCallState(Retrying(stop=stop, wait=wait), None, (), {})
    state.attempt_number = attempts
    state.outcome = Future(attempts)
    state.outcome.set_exception(failure.error)
    state.outcome_timestamp = state.start_time + elapsed
    try:
        delay = state.upcoming_sleep = max(float(wait(state)), rich(failure)[1])
        stopped = stop(state)
    except Exception as error:
        if is_interrupt(error):
            raise
        _LOGGER.error("the policy's stop or wait raised %s, so the call is not made again", type(error).__name__)
        return None
    return None if stopped or not elapsed + delay < MAX_TIME else delay
