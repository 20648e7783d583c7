"""One call of a connectrpc client, and whether a refused attempt of it is followed by another."""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Callable
from typing import Any

from connectrpc.client import ResponseMetadata
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.status_pb2 import Status

from grpc_bearer._calls.attach_token import Attachment, honest_code
from grpc_bearer._calls.attempt_history import SENT_OR_SEEN, AttemptHistory
from grpc_bearer._calls.failure import Failure, blame
from grpc_bearer._calls.retry_policy import RetryPolicy
from grpc_bearer._engine.engine import Lease
from grpc_bearer._engine.fetch import Metadata, closed_error
from grpc_bearer._runtimes.routes import history_of, status_named
from grpc_bearer.errors import GrpcBearerError, InsecureChannelError

# Where connectrpc's client leaves what `ResponseMetadata` shows; not public, so it may be elsewhere some day.
_SHOWN: Any = getattr(sys.modules[ResponseMetadata.__module__], "_current_response", None)

_LATE = "Request timed out"  # connectrpc's own words
# What the two families of protocols tell the server of the time that is left: a name, and the unit in milliseconds.
_TIMEOUTS = (("connect-timeout-ms", ""), ("grpc-timeout", "m"))
_LONGEST = 10**8  # more milliseconds than gRPC's header has room for


class ConnectCall:
    """Puts a token onto each attempt, and decides about the next one.

    Each attempt is made inside of it: `with call:`, or `async with call:` on an event loop, which is never blocked.
    While it lasts the headers have the token; without a token the call ends there.

    Args:
        attachment: where the client leads, and with whose tokens.
        ctx: connectrpc's own; its attempts share it, and so its deadline.
    """

    _began = 0.0  # when its first attempt did; a stream may be read long after it was asked for
    _lease: Lease | None = None
    _history: AttemptHistory | None = None
    _added: Metadata = ()

    def __init__(self, attachment: Attachment, ctx: Any) -> None:
        method = ctx.method
        self._ctx, self._headers = ctx, ctx.request_headers
        self._route = attachment.route(f"/{method.service_name}/{method.name}")
        self._own = attachment.header in self._headers  # the caller's own, which wins

    @property
    def policy(self) -> RetryPolicy | None:
        """The policy of its method."""
        return self._route.policy

    def __enter__(self) -> None:
        lease = self._lease
        if lease is None:
            if self._own:
                return
            lease = self._lease = self._at_hand() or self._waited()
        headers, metadata = self._headers, lease.metadata
        if len(metadata) > 1:  # of what goes beside the token, the caller's own wins
            metadata = tuple(entry for entry in metadata if entry[0] not in headers)
        for name, value in metadata:
            headers[name] = value
        self._added = metadata

    def __exit__(self, *_: object) -> None:
        for name, _value in self._added:
            del self._headers[name]
        self._added = ()

    async def __aenter__(self) -> None:
        if self._lease is None and not self._own:
            self._lease = self._at_hand() or await self._awaited()
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    # --------------------------------------------------------------------------------------------- the wait for a token

    def _at_hand(self) -> Lease | None:
        """For the first attempt only: later, it may be the token that was refused."""
        if self._began:
            return None
        self._began = time.monotonic()
        return self._route.at_hand()

    def _left(self) -> float | None:
        milliseconds = self._ctx.timeout_ms
        return None if milliseconds is None else max(milliseconds / 1000, 0.0)

    def _waited(self) -> Lease:
        delivered = self._route.attachment.engine.wait(self._route.context, self._left())
        if delivered is None:
            raise ConnectError(Code.DEADLINE_EXCEEDED, _LATE)
        lease, error = delivered
        return self._taken(lease, error)

    async def _awaited(self) -> Lease:
        asked = self._route.attachment.engine.ask(self._route.context)
        try:
            await asyncio.wait([asked], timeout=self._left())
        finally:
            late = asked.cancel()
        if late:
            raise ConnectError(Code.DEADLINE_EXCEEDED, _LATE)
        error: Any = asked.exception()  # of ours, if there is one
        return self._taken(None if error else asked.result(), error)

    def _taken(self, lease: Lease | None, error: GrpcBearerError | None) -> Lease:
        """What has come for the next attempt, which never goes out with the token that was refused."""
        avoid = None if self._history is None else self._history.avoid
        if lease is None or lease.token.fingerprint == avoid:
            raise self._ended_by(error)
        self._tell_time()
        return lease

    def _tell_time(self) -> None:
        """The header that tells the server of the deadline was written when the call began."""
        left = self._left()
        if left is None:
            return
        milliseconds = int(left * 1000)
        for name, unit in _TIMEOUTS:
            if name in self._headers and milliseconds < _LONGEST:
                self._headers[name] = f"{milliseconds}{unit}"

    def _ended_by(self, error: GrpcBearerError | None) -> ConnectError:
        """A call that ended for want of a token; if the server has refused one before, that is what is shown."""
        shown, cause = (None, error or closed_error()) if self._history is None else self._history.tokenless(error)
        ended: ConnectError = shown or ConnectError(Code[_spelled(honest_code(cause).name)], cause._told)
        blame(ended, cause)
        return ended

    # ------------------------------------------------------------------------------------------------- the next attempt

    def seconds_until_next(self, error: ConnectError, *, again: bool) -> float | None:
        """Seconds until the next attempt; `None`: this error counts, and has its cause by now.

        Args:
            error: how the attempt failed.
            again: nothing was delivered, and all that was sent can be sent again.
        """
        if self._lease is None:  # it never came to an attempt, or to none of ours
            return None
        if self._history is None:
            self._history = history_of(self._route, self._began, self._left())
        history, failure = self._history, _failure(error)
        delay = history.after(error, self._lease, failure, obstacle="" if again else SENT_OR_SEEN)
        history.tell()
        if delay is None:
            if (found := history.cause(self._lease, failure)) is not None:
                blame(error, found[1])
            return None
        _forget_answer()
        self._lease = None
        return delay


def _spelled(name: str) -> str:
    return "CANCELED" if name == "CANCELLED" else name


def _failure(error: ConnectError) -> Failure:
    """How it failed. connectrpc shows no headers with an error, but the details of the rich status."""
    status = Status()
    for each in error.details:
        status.details.append(Packed(type_url=f"type.googleapis.com/{each.type_name}", value=each.message_bytes))
    trailing = (("grpc-status-details-bin", status.SerializeToString()),) if error.details else ()
    # Time was up, or the task was cancelled: there is no other attempt, whatever the policy says of these codes.
    local = isinstance(error.__cause__, (TimeoutError, asyncio.CancelledError))
    return Failure(error, status_named(error.code.name), error.message, trailing=trailing, local=local)


def _forget_answer() -> None:
    """What `ResponseMetadata` has of the refused attempt: connectrpc would add the next one's trailers to it."""
    held = None if _SHOWN is None else _SHOWN.get(None)
    if held is not None:
        held._http_status = held._headers = held._trailers = None


def refuse_elsewhere(attachment: Attachment, call_next: Callable[..., Any], ctx: Any) -> None:
    """An interceptor is told an address, and may be given to a client that leads to another one, or goes in the clear.

    Raises:
        ConnectError: it does.
    """
    while isinstance(call_next, functools.partial):  # somebody else's interceptor
        call_next = call_next.args[0]
    address = getattr(getattr(call_next, "__self__", None), "_address", None)
    if address is None or address.rstrip("/") != attachment.url:
        error = InsecureChannelError(f"this interceptor is for {attachment.url}, and its client leads elsewhere")
        raise ConnectError(Code.UNAUTHENTICATED, error._told) from error
