"""The token on requests of requests. Imported by those who use it: requests takes its time."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import AuthBase
from requests.exceptions import UnrewindableBodyError
from requests.utils import rewind_body

from grpc_bearer._engine.engine import Lease
from grpc_bearer._rest.token_for_url import UNAUTHORIZED, TokenForURL, origin
from grpc_bearer.errors import GrpcBearerError


class RequestsAuth(AuthBase):
    """Made by `grpc_bearer.rest.requests_auth`."""

    def __init__(self, token_for: TokenForURL) -> None:
        self._token_for = token_for

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token_for.header not in request.headers:  # a header of the caller's own wins, as on gRPC calls
            _Visit(self._token_for, request)
        return request

    def __repr__(self) -> str:
        return f"RequestsAuth({self._token_for!r})"


class _Visit:
    """One request with its redirects: those take the hook along, but nobody asks the auth about them."""

    def __init__(self, token_for: TokenForURL, request: requests.PreparedRequest) -> None:
        self._token_for = token_for
        self._first = request
        self._home = origin(request.url or "")
        self._lease = token_for.lease(request.url or "")
        self._retried = False
        _give(request.headers, self._lease)
        request.register_hook("response", self._answered)  # type: ignore[no-untyped-call]  # so in their stubs

    def _answered(self, response: requests.Response, **options: Any) -> requests.Response:
        if response.request is self._first:  # a prepared request may be sent many times
            self._retried = False
        if response.status_code == UNAUTHORIZED and not self._retried and origin(response.url) == self._home:
            self._retried = True
            response = self._again(response, options)
        if response.is_redirect:
            self._leaves(response)
        return response

    def _leaves(self, response: requests.Response) -> None:
        # requests copies the headers of this request; it takes away no other than Authorization, and that not always.
        headers = response.request.headers
        target = urljoin(response.url, response.headers["location"])
        if not _is_within(target, response.url):
            headers.pop(self._token_for.header, None)
        elif self._token_for.single_use and self._token_for.header in headers:
            self._lease = self._token_for.lease(target)
            _give(headers, self._lease)

    def _again(self, response: requests.Response, options: dict[str, Any]) -> requests.Response:
        """The answer to the same request with another token; the refusal itself if there is none."""
        request = response.request
        lease = self._other(response.url)
        if lease is None or not _rewound(request):
            return response
        if not options.get("stream"):
            _ = response.content  # read to its end, so that the connection can be used again
        response.close()
        self._lease = lease
        # The same object, no copy: it is the one whose headers a redirect takes along.
        _give(request.headers, lease)
        answer: requests.Response = response.connection.send(request, **options)
        answer.history.append(response)
        return answer

    def _other(self, url: str) -> Lease | None:
        """Another token in place of the refused one, which is given up whether this request is sent again or not."""
        if not self._token_for.gives_up(self._lease, url):
            return None
        try:
            lease = self._token_for.lease(url)
        except GrpcBearerError:
            return None  # the server's own answer says more
        return None if lease.token.fingerprint == self._lease.token.fingerprint else lease


def _give(headers: MutableMapping[str, str], lease: Lease) -> None:
    (name, value), *beside = lease.metadata
    headers[name] = value
    for header, text in beside:  # the caller's own wins
        headers.setdefault(header, text)


def _is_within(target: str, url: str) -> bool:
    """Whether a redirect stays at its origin. By the letter: parsers differ about backslashes and the like."""
    parts = urlsplit(url)
    home = f"{parts.scheme}://{parts.netloc}"
    return target == home or target.startswith(f"{home}/")


def _rewound(request: requests.PreparedRequest) -> bool:
    if request.body is None or isinstance(request.body, (str, bytes)):
        return True
    try:
        rewind_body(request)
    except UnrewindableBodyError:
        return False
    return True
