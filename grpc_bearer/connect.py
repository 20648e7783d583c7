"""Tokens on calls of connectrpc's clients: `pip install grpc-bearer[connect]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from grpc_bearer._auth import AuthLike
from grpc_bearer._calls.retry_policy import DEFAULT, RetryPolicy
from grpc_bearer._runtimes.routes import attachment_to
from grpc_bearer.errors import ConfigurationError

__all__ = ["client", "interceptor"]

_Client = TypeVar("_Client")

#: Without a user or password, which would show wherever the address does.
_ADDRESS = re.compile(r"https?://[^/\s@?#]+(/[^\s@?#]*)?", re.IGNORECASE)


def client(
    client_class: Callable[..., _Client],
    address: str,
    *,
    auth: AuthLike,
    retry: RetryPolicy | None = DEFAULT,
    allow_plaintext: bool = False,
    interceptors: Iterable[Any] = (),
    **options: Any,
) -> _Client:
    """A client of connectrpc's, sync or asyncio, whose calls carry a token and are made once more if it is refused.

    ::

        fleet = grpc_bearer.connect.client(FleetClientSync, "https://api.example.com", auth=auth)
        reply = fleet.list(ListRequest(), timeout_ms=10_000)

    The rules are those of `grpc_bearer.secure_channel`, with the Connect protocol, gRPC and gRPC-Web. Errors are
    connectrpc's own (`ConnectError`), with ours as their `__cause__`. A call that has the auth's header already keeps
    it. Interceptors of yours see one call, whatever the number of attempts, and never the token.

    Args:
        client_class: a generated client.
        address: of the server, with its scheme.
        auth: as for `grpc_bearer.secure_channel`.
        retry: when a refused call is made again; `None`: never. Its `retry_if` is called with connectrpc's error.
        allow_plaintext: tokens may go out over `http://`, to this machine too.
        interceptors: your own, as the client takes them.
        options: the others of the client, such as `protocol`, `codec`, `timeout_ms` and `http_client`. An `http_client`
            must not follow redirects (pyqwest's do not, unless told to): they could take a token elsewhere.

    Raises:
        ConfigurationError: an argument cannot be used, or connectrpc is not installed.
        InsecureChannelError: tokens would travel in the clear.
    """
    ours = _made(auth, address, retry, allow_plaintext, sure=True)
    from connectrpc.client import ConnectClient, ConnectClientSync

    if not (isinstance(client_class, type) and issubclass(client_class, (ConnectClient, ConnectClientSync))):
        raise ConfigurationError("expected a client that connectrpc has generated", field="client_class")
    made: Any = client_class
    client: _Client = made(address, interceptors=(*interceptors, ours), **options)
    return client


def interceptor(
    auth: AuthLike, address: str, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False
) -> Any:
    """An interceptor that does what `client` does, for clients that somebody else makes, sync or asyncio.

    ::

        ours = grpc_bearer.connect.interceptor(auth, "https://api.example.com")
        fleet = FleetClient("https://api.example.com", interceptors=[..., ours])

    Give it last: what stands before it sees one call, and never the token. It does not know where its client leads, so
    it is told. A call of a client at another address ends with UNAUTHENTICATED, and takes no token there.

    Args:
        auth: as for `grpc_bearer.secure_channel`.
        address: the client's, with its scheme.
        retry: as for `client`.
        allow_plaintext: likewise.

    Raises:
        ConfigurationError: an argument cannot be used, or connectrpc is not installed.
        InsecureChannelError: tokens would travel in the clear.
    """
    return _made(auth, address, retry, allow_plaintext, sure=False)


def _made(auth: AuthLike, address: object, retry: RetryPolicy | None, allow_plaintext: bool, *, sure: bool) -> Any:
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address):
        where = "expected where the server is, such as https://api.example.com, without a user or a password"
        raise ConfigurationError(where, field="address")
    attachment = attachment_to(address.rstrip("/"), auth, retry, allow_plaintext)
    try:
        from grpc_bearer._runtimes.connect_interceptor import BearerInterceptor
    except ImportError as error:
        raise ConfigurationError("connectrpc is not installed: pip install grpc-bearer[connect]") from error
    return BearerInterceptor(attachment, sure=sure)
