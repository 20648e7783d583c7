"""The HTTP transport that google-auth's credentials refresh with here: quiet, bounded, without redirects or netrc."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from grpc_bearer.errors import TokenFormatError, TokenRejectedError
from grpc_bearer.sources._http import MAX_BYTES, TIMEOUT, Endpoint, checked_headers, run_within
from grpc_bearer.sources._parse import Answer


class _Response(NamedTuple):
    """What google-auth reads of an answer."""

    status: int
    headers: Mapping[str, str]
    data: bytes


def send(
    url: str,
    method: str = "GET",
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float | None = None,
    **options: Any,
) -> _Response:
    """A `google.auth.transport.Request`.

    Over plain HTTP nothing is sent that could be a credential: that is enough for the metadata servers of the clouds.

    Raises:
        TokenUnavailableError: no answer within the time.
        TokenRejectedError: a credential over plain HTTP, or an answer that is a redirect.
        google.auth.exceptions.TransportError: a metadata server did not answer; google-auth tries again by itself.
    """
    seconds = min(timeout or TIMEOUT, TIMEOUT)
    if url.startswith("http://"):
        response = _plain(url, method, body, dict(headers or {}), seconds)
    else:
        response = _secure(url, method, body, dict(headers or {}), seconds, options.get("cert"))
    if response.status in (301, 302, 303, 307, 308):
        raise TokenRejectedError(
            f"google-auth: the endpoint answered {response.status}, and redirects are not followed"
        )
    return response


def _secure(
    url: str, method: str, body: bytes | str | None, headers: dict[str, str], timeout: float, cert: Any
) -> _Response:
    endpoint = Endpoint(url, field="token_uri", timeout=timeout, cert=cert)
    try:
        data = body.encode() if isinstance(body, str) else body
        answer = endpoint.send(method, checked_headers(headers), data)
    finally:
        endpoint.close()
    return _response(answer)


def _plain(url: str, method: str, body: bytes | str | None, headers: dict[str, str], timeout: float) -> _Response:
    if body or "authorization" in {name.lower() for name in headers}:
        raise TokenRejectedError("google-auth: token_uri: http:// would send the credential in the clear; use https://")
    from google.auth.exceptions import TransportError

    from grpc_bearer.sources._wire import Exchange, Request, WatchedAdapter

    exchange = Exchange(
        Request(method, url, headers, None, timeout + 1, MAX_BYTES, verify=True, cert=None, proxied=False)
    )
    adapter = WatchedAdapter()
    try:
        run_within(timeout, exchange, adapter)
    finally:
        adapter.close()
    if exchange.answer is None:
        raise TransportError(f"the metadata server did not answer ({exchange.reason or f'not within {timeout:g} s'})")
    return _response(exchange.answer)


def _response(answer: Answer) -> _Response:
    if answer.overlong:  # what was read of it must not pass for the whole
        raise TokenFormatError(f"google-auth: the endpoint answered with more than {len(answer.body)} bytes")
    return _Response(answer.status, answer.headers, answer.body)
