"""A grpclib channel whose calls carry a token. Imported by those who use it: grpclib is not among our dependencies."""

from __future__ import annotations

from typing import Any

from grpclib.client import Channel, Stream
from grpclib.const import Cardinality
from grpclib.metadata import Deadline
from multidict import MultiDict

from grpc_bearer._auth import AuthLike
from grpc_bearer._calls.retry_policy import RetryPolicy
from grpc_bearer._runtimes.grpclib_stream import BearerStream
from grpc_bearer._runtimes.routes import attachment_to


class BearerChannel(Channel):
    """Made by `grpc_bearer.grpclib.channel`. All calls of stubs, whoever has generated them, come by `request`."""

    def __init__(
        self,
        host: str | None,
        port: int | None,
        *,
        auth: AuthLike,
        retry: RetryPolicy | None,
        allow_plaintext: bool,
        **how: Any,
    ) -> None:
        scheme = "https" if how.get("ssl") else "http"
        place = self._get_authority(host or "127.0.0.1", port or 50051)  # as grpclib has them
        self._attachment = attachment_to(f"{scheme}://{place}", auth, retry, allow_plaintext)
        super().__init__(host, port, **how)

    def request(
        self,
        name: str,
        cardinality: Cardinality,
        request_type: type[Any],
        reply_type: type[Any],
        *,
        timeout: float | None = None,
        deadline: Deadline | None = None,
        metadata: Any = None,
    ) -> Stream[Any, Any]:
        sent: Any = MultiDict(metadata or ())
        if self._attachment.header in sent:  # the caller's own wins
            return super().request(
                name, cardinality, request_type, reply_type, timeout=timeout, deadline=deadline, metadata=sent
            )
        if timeout is not None:
            timed = Deadline.from_timeout(timeout)
            deadline = timed if deadline is None else min(timed, deadline)
        route = self._attachment.route(name)
        return BearerStream(route, self, name, sent, cardinality, request_type, reply_type, deadline)
