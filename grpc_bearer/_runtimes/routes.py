"""What the adapters share: the addresses that tokens may go to, and the history of one call.

Whether a failed attempt is followed by another is decided where it is for grpcio's calls, in `AttemptHistory`. There,
core has to prove a channel; here we know that it is TLS, so that all tokens go as metadata.
"""

from __future__ import annotations

import contextvars
import time
from typing import NoReturn

import grpc

from grpc_bearer._auth import AuthLike, as_auth
from grpc_bearer._base.arguments import checked_flag
from grpc_bearer._calls.attach_token import Attachment, Route
from grpc_bearer._calls.attempt_history import AttemptHistory
from grpc_bearer._calls.retry_policy import RetryPolicy
from grpc_bearer.errors import InsecureChannelError


def attachment_to(url: str, auth: AuthLike, retry: RetryPolicy | None, allow_plaintext: bool) -> Attachment:
    """What is known of a channel or client that leads to `url`, which is `https://host:port` or `http://host:port`.

    Raises:
        ConfigurationError: `auth`, `retry` or `allow_plaintext` cannot be used.
        InsecureChannelError: the token would travel in the clear.
    """
    bearer, plaintext = as_auth(auth), not url.lower().startswith("https://")
    if not checked_flag("allow_plaintext", allow_plaintext) and plaintext:
        raise InsecureChannelError(
            f"{url} would get the token in the clear; use TLS, or allow_plaintext=True for this machine and for a mesh "
            "that encrypts below"
        )
    attachment = Attachment(bearer, url, plaintext=plaintext, retry=retry)
    attachment.url, attachment.proven = url, True
    return attachment


def history_of(route: Route, began: float, left: float | None) -> AttemptHistory:
    """The history of a call that came to have one, in the context variables of this task.

    Args:
        route: its method.
        began: when, in `time.monotonic()` seconds.
        left: seconds until its deadline.
    """
    deadline = None if left is None else time.monotonic() + left
    caller = contextvars.copy_context()
    return AttemptHistory(route, _made_elsewhere, None, None, None, deadline, began, caller)


def _made_elsewhere(timeout: object, metadata: object, credentials: object) -> NoReturn:
    raise AssertionError("attempts are made by their runtime")


def status_named(name: str) -> grpc.StatusCode:
    """gRPC's status of that name, in whatever spelling a runtime has it.

    >>> status_named("canceled") is status_named("CANCELLED")
    True
    """
    name = name.upper()
    return grpc.StatusCode["CANCELLED" if name == "CANCELED" else name]
