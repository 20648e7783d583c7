"""The same token on REST calls to the same service: adapters for requests and for httpx.

Both put the header on a request, and send it once more with another token if the answer is a 401. Neither lets the
token out in the clear, nor along a redirect to another origin. httpx is not installed with this library.

>>> import requests
>>> session = requests.Session()
>>> session.auth = requests_auth("s3cret")
>>> request = session.prepare_request(requests.Request("GET", "https://api.example.com/v1/cars"))
>>> print(request.headers["authorization"])
Bearer s3cret
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from grpc_bearer._auth import AuthLike
from grpc_bearer._rest.token_for_url import TokenForURL
from grpc_bearer.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx
    from requests.auth import AuthBase

__all__ = ["httpx_auth", "requests_auth"]


def httpx_auth(auth: AuthLike, *, url: str | None = None, allow_plaintext: bool = False) -> httpx.Auth:
    """An `httpx.Auth`, for `httpx.Client` and, on asyncio, `httpx.AsyncClient`.

    ::

        async with httpx.AsyncClient(auth=grpc_bearer.rest.httpx_auth(auth)) as client:
            cars = await client.get("https://api.example.com/v1/cars")

    A request whose body is a stream or a multipart form is not sent twice: its 401 is handed on, and the next request
    gets another token. A request that has the auth's header already keeps it.

    Args:
        auth: as for `grpc_bearer.secure_channel`.
        url: what a source whose tokens differ by call is told; `None`: the request's own, without its query.
        allow_plaintext: tokens may go out over `http://`, to this machine too (a proxy of the client's would get them).

    Raises:
        ConfigurationError: `auth` cannot be used, or httpx is not installed.
        InsecureChannelError: raised by requests over `http://`.
        TokenError: raised by requests for which no token is to be had.
    """
    token_for = TokenForURL(auth, url, allow_plaintext)
    try:
        from grpc_bearer._rest.httpx_auth import HTTPXAuth
    except ImportError as error:
        raise ConfigurationError("httpx_auth: httpx is not installed: pip install httpx") from error
    return HTTPXAuth(token_for)


def requests_auth(auth: AuthLike, *, url: str | None = None, allow_plaintext: bool = False) -> AuthBase:
    """An `AuthBase`, for `auth=` of a request, or `Session.auth`; arguments and errors are those of `httpx_auth`.

    A request whose body is a generator, or a file that cannot be rewound, is not sent twice.
    """
    from grpc_bearer._rest.requests_auth import RequestsAuth

    return RequestsAuth(TokenForURL(auth, url, allow_plaintext))
