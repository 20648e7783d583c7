"""Retry policies and errors as users write them. Read by type checkers (`make types`), never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import grpc
import tenacity
from typing_extensions import assert_type

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    ConfigurationError,
    GrpcBearerError,
    InsecureChannelError,
    RetryPolicy,
    SigningError,
    TokenError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
    errors,
)

# tenacity's strategies, alone and combined.
RetryPolicy()
RetryPolicy(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(1) + tenacity.wait_random(0, 2))
RetryPolicy(stop=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(10))
RetryPolicy(codes=[grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED], exclude={"shop.v1.Orders/*"})
RetryPolicy(retry_if=lambda error: "stale" in error.details(), replay_messages=10, replay_bytes=1024)
RetryPolicy(stop=3)  # type: ignore[arg-type]
RetryPolicy(codes=["UNAUTHENTICATED"])  # type: ignore[list-item]
RetryPolicy(retry_if=lambda: True)  # type: ignore[misc, arg-type]
RetryPolicy(replay_messages=1.5)  # type: ignore[arg-type]
RetryPolicy(attempts=3)  # type: ignore[call-arg]
RetryPolicy().replay_bytes = 7  # type: ignore[misc]
assert_type(RetryPolicy().applies("/shop.v1.Orders/Create"), bool)

# A block of one's own. What it assigned may be unassigned after it: a checker cannot know that the last attempt raises.
auth = BearerAuth("t0")
for attempt in RetryPolicy().attempts(auth, "https://localhost/shop.v1.Orders", "Create", timeout=30):
    with attempt:
        assert_type(attempt.number, int)
RetryPolicy().attempts("t0")  # type: ignore[arg-type]

# Everything of ours is caught by its root; the tree is as it is drawn.
roots: list[type[GrpcBearerError]] = [ConfigurationError, InsecureChannelError, SigningError, TokenError]
tokens: list[type[TokenError]] = [TokenUnavailableError, TokenRejectedError, TokenFormatError]
values: list[type[ValueError]] = [ConfigurationError, InsecureChannelError]
wrong: list[type[TokenError]] = [SigningError]  # type: ignore[list-item]
assert_type(errors.TokenError, type[TokenError])

try:
    auth.token()
except TokenError as error:
    assert_type(error.retryable, bool)
    assert_type(error.retry_after, float | None)
    assert_type(error.code, grpc.StatusCode)
except GrpcBearerError as error:
    error.code  # type: ignore[attr-defined]  # noqa: B018 - looked at for its type

try:
    grpc_bearer.secure_channel("localhost:443", auth=auth)
except grpc.RpcError as failed:
    if isinstance(failed.__cause__, InsecureChannelError):
        raise
