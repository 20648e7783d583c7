"""The token on requests of httpx. Imported by those who use it: httpx is not among our dependencies."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx

from grpc_bearer._engine.engine import Lease
from grpc_bearer._rest.token_for_url import UNAUTHORIZED, TokenForURL, origin
from grpc_bearer.errors import GrpcBearerError


class HTTPXAuth(httpx.Auth):
    """Made by `grpc_bearer.rest.httpx_auth`. The flow decides, and asks its two drivers for leases and answers."""

    def __init__(self, token_for: TokenForURL) -> None:
        self._token_for = token_for

    def __repr__(self) -> str:
        return f"HTTPXAuth({self._token_for!r})"

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        flow = self._flow(request)
        step = next(flow)
        while step is not None:
            try:
                got: Any = self._token_for.lease(step) if isinstance(step, str) else (yield step)
            except GrpcBearerError as error:
                step = flow.throw(error)
            else:
                step = flow.send(got)

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        flow = self._flow(request)
        step = next(flow)
        while step is not None:
            try:
                got: Any = await self._token_for.alease(step) if isinstance(step, str) else (yield step)
            except GrpcBearerError as error:
                step = flow.throw(error)
            else:
                step = flow.send(got)

    def _flow(self, request: httpx.Request) -> Generator[str | httpx.Request | None, Any, None]:
        """Yields a URL and is sent its lease; yields a request and is sent the answer; yields `None` at its end."""
        if self._token_for.header in request.headers and not isinstance(request.headers, _Given):
            yield request  # a header of the caller's own wins, as on gRPC calls
            yield None
            return
        home = origin(str(request.url))
        lease: Lease = yield str(request.url)
        response: httpx.Response = yield self._with(request, lease)
        # httpx has followed redirects by now: what is sent again is the last request, not the first.
        if self._was_dropped(response, home):
            lease = yield str(response.request.url)
            response = yield self._with(response.request, lease)
        if response.status_code == UNAUTHORIZED and origin(str(response.request.url)) == home:
            other = yield from self._other(response.request, lease)
            if other is not None:
                yield self._with(response.request, other)
        yield None

    def _was_dropped(self, response: httpx.Response, home: str) -> bool:
        """Whether a redirect within the origin has lost the token, and was refused for want of it."""
        request = response.request
        lost = self._token_for.header not in request.headers and origin(str(request.url)) == home
        return lost and response.is_client_error and _replayable(request)

    def _other(self, request: httpx.Request, refused: Lease) -> Generator[str, Lease, Lease | None]:
        """Another token in place of the refused one, which is given up whether the request can be sent again or not."""
        if not self._token_for.gives_up(refused, str(request.url)) or not _replayable(request):
            return None
        try:
            lease = yield str(request.url)
        except GrpcBearerError:
            return None  # the server's own answer says more
        return None if lease.token.fingerprint == refused.token.fingerprint else lease

    def _with(self, request: httpx.Request, lease: Lease) -> httpx.Request:
        (name, value), *beside = lease.metadata
        for header, text in beside:
            request.headers.setdefault(header, text)
        copied = name == "authorization" and not self._token_for.single_use
        request.headers = (_Given if copied else _Uncopied)(request.headers, name, value)
        return request


class _Given(httpx.Headers):
    """Headers with one of ours, which is not mistaken for the caller's own when the request is sent again."""

    def __init__(self, headers: httpx.Headers, name: str, value: str) -> None:
        super().__init__(headers)
        self[name] = value


class _Uncopied(_Given):
    """Headers with one of ours that is sent, but that a copy does not have.

    httpx copies the headers for a redirect before its auth hears of it. It knows to leave out `Authorization` if the
    origin is another, but no other header; and a token for a single use must not go along at all.
    """

    def __init__(self, headers: httpx.Headers, name: str, value: str) -> None:
        self._name, self._value = "", ""
        super().__init__(headers, name, value)
        del self[name]
        self._name, self._value = name, value

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        return [*super().raw, (self._name.encode(), self._value.encode())]

    def __getitem__(self, key: str) -> str:
        return self._value if key.lower() == self._name else super().__getitem__(key)

    def __contains__(self, key: Any) -> bool:
        return str(key).lower() == self._name or super().__contains__(key)


def _replayable(request: httpx.Request) -> bool:
    return isinstance(request.stream, httpx.ByteStream)
