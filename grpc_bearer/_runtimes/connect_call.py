"""One call of a connectrpc client, and whether a refused attempt of it is followed by another."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from google.protobuf.any_pb2 import Any as Packed
from google.rpc.status_pb2 import Status

from grpc_bearer._calls.attach_token import Attachment, honest_code
from grpc_bearer._calls.attempt_history import SENT_OR_SEEN, AttemptHistory
from grpc_bearer._calls.failure import Failure, blame
from grpc_bearer._engine.engine import Lease
from grpc_bearer._runtimes.routes import history_of, status_named
from grpc_bearer.errors import GrpcBearerError

_LATE = "Request timed out"  # connectrpc's own words


class ConnectCall:
    """Puts a token onto each attempt, and decides about the next one.

    Args:
        attachment: where the client leads, and with whose tokens.
        ctx: connectrpc's own; its attempts share it, and so its deadline.
    """

    def __init__(self, attachment: Attachment, ctx: Any) -> None:
        self._route = attachment.route(f"/{ctx.method.service_name}/{ctx.method.name}")
        self.policy = self._route.policy
        self._ctx, self._engine = ctx, attachment.engine
        self._began = time.monotonic()
        self._lease: Lease | None = None
        self._history: AttemptHistory | None = None

    def _left(self) -> float | None:
        milliseconds = self._ctx.timeout_ms
        return None if milliseconds is None else max(milliseconds / 1000, 0.0)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[None]:
        """While it lasts the headers have the token. Without a token the call ends here."""
        try:
            lease = self._route.at_hand() or self._waited()
        except GrpcBearerError as error:
            raise self._ended_by(error) from error
        with self._carrying(lease):
            yield

    @contextlib.asynccontextmanager
    async def aattempt(self) -> Any:
        """The same on an event loop, which is never blocked."""
        try:
            lease = self._route.at_hand()
            if lease is None:
                lease = await asyncio.wait_for(self._engine.ask(self._route.context), self._left())
        except asyncio.TimeoutError:
            raise ConnectError(Code.DEADLINE_EXCEEDED, _LATE) from None
        except GrpcBearerError as error:
            raise self._ended_by(error) from error
        with self._carrying(lease):
            yield

    def _waited(self) -> Lease:
        delivered = self._engine.wait(self._route.context, self._left())
        if delivered is None:
            raise ConnectError(Code.DEADLINE_EXCEEDED, _LATE)
        lease, error = delivered
        if lease is None:
            raise self._ended_by(error)
        return lease

    @contextlib.contextmanager
    def _carrying(self, lease: Lease) -> Iterator[None]:
        if self._history is not None and lease.token.fingerprint == self._history.avoid:
            raise self._ended_by(None)
        headers, added = self._ctx.request_headers, []
        for name, value in lease.metadata:
            if name not in headers:  # of what goes beside the token, the caller's own wins
                headers[name] = str(value)
                added.append(name)
        self._lease = lease
        try:
            yield
        finally:
            for name in added:
                headers.pop(name, None)

    def _ended_by(self, error: GrpcBearerError | None) -> ConnectError:
        """A call that ended for want of a token; if the server has refused one before, that is what is shown."""
        if self._history is not None:
            shown, cause = self._history.tokenless(error)
        elif error is None:
            return ConnectError(Code.UNAUTHENTICATED, "no token is to be had")
        else:
            shown, cause = ConnectError(Code[_spelled(honest_code(error).name)], str(error)), error
        blame(shown, cause)
        refused: ConnectError = shown
        return refused

    def seconds_until_next(self, error: ConnectError, obstacle: bool = False) -> float | None:
        """Seconds until the next attempt; `None`: this error counts, and has its cause by now.

        Args:
            error: how the attempt failed.
            obstacle: something was delivered, or cannot be sent again.
        """
        if self._lease is None or isinstance(error.__cause__, GrpcBearerError):
            return None
        if self._history is None:
            self._history = history_of(self._route, self._began, self._left())
        history, failure = self._history, _failure(error)
        delay = history.after(error, self._lease, failure, obstacle=SENT_OR_SEEN if obstacle else "")
        history.tell()
        if delay is None and (found := history.cause(self._lease, failure)) is not None:
            blame(error, found[1])
        return delay


def _spelled(name: str) -> str:
    return "CANCELED" if name == "CANCELLED" else name


def _failure(error: ConnectError) -> Failure:
    """How it failed. connectrpc shows no headers with an error, but the details of the rich status."""
    status = Status()
    for each in error.details:
        status.details.append(Packed(type_url=f"type.googleapis.com/{each.type_name}", value=each.message_bytes))
    trailing = (("grpc-status-details-bin", status.SerializeToString()),) if error.details else ()
    # What the client made of an exception of its own never came from the server.
    local = error.__cause__ is not None
    return Failure(error, status_named(error.code.name), error.message, trailing=trailing, local=local)
