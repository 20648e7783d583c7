"""What one attempt of a grpclib call has of its own: the token behind its metadata, and how it failed."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import grpc
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_bin_value

from grpc_bearer._calls.attach_token import honest_code
from grpc_bearer._calls.failure import Failure, blame
from grpc_bearer._engine.engine import Lease
from grpc_bearer.errors import GrpcBearerError


class Dispatch:
    """What tells of the request of an attempt. Adds the token last, so that no listener of the user's sees it."""

    __slots__ = ("_inner", "lease")

    def __init__(self, inner: Any, lease: Lease) -> None:
        self._inner = inner
        self.lease: Lease | None = lease

    async def send_request(self, metadata: Any, **how: Any) -> tuple[Any]:
        (metadata,) = await self._inner.send_request(metadata, **how)
        token = self.lease.metadata if self.lease is not None else ()
        if metadata and token[0][0] in metadata:  # from a listener: the user's own wins, and none goes out twice
            self.lease = None
            return (metadata,)
        return ([*metadata.items(), *token],)


def failure_of(error: GRPCError, stream: Any) -> Failure:
    """How an attempt failed.

    grpclib keeps gRPC's own headers, such as the rich status, out of the metadata that it shows.
    """
    code, details = grpc.StatusCode[error.status.name], error.message or ""
    return Failure(error, code, details, _entries(stream.headers), _entries(stream.trailers or stream.headers))


def _entries(headers: Any) -> tuple[tuple[str, str | bytes], ...]:
    return tuple(
        (name, decode_bin_value(value.encode("ascii")) if name.endswith("-bin") else value)
        for name, value in headers or ()
        if not name.startswith(":")
    )


def release(release: Callable[[], None], replaying: asyncio.Task[None]) -> None:
    """When the call is left nothing of it may be sent any more."""
    replaying.cancel()
    release()


def nothing() -> None:
    """There is nothing to release any more."""


if sys.version_info >= (3, 11):

    def cancels() -> int:
        """How often the task at hand was asked to end."""
        task = asyncio.current_task()
        return 0 if task is None else task.cancelling()

    def uncancelled(before: int) -> None:
        """grpclib wakes a task by cancelling it, which must not count as a wish of its user's: those came `before`."""
        task = asyncio.current_task()
        if task is not None and task.cancelling() > before:
            task.uncancel()

else:

    def cancels() -> int:
        """Python 3.10 does not count."""
        return 0

    def uncancelled(before: int) -> None:
        """There is nothing to take back."""


def ended_by(error: GrpcBearerError) -> GRPCError:
    """A call that failed for want of a token."""
    made = GRPCError(Status[honest_code(error).name], error._told)
    blame(made, error)
    return made
