"""Tokens on calls of connectrpc's clients: `pip install grpc-bearer[connect]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from grpc_bearer._auth import AuthLike
from grpc_bearer._calls.retry_policy import DEFAULT, RetryPolicy
from grpc_bearer._runtimes.routes import attachment_to
from grpc_bearer.errors import ConfigurationError

__all__ = ["client"]

_Client = TypeVar("_Client")


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
            must not follow redirects, which could take a token in another header than `authorization` elsewhere.

    Raises:
        ConfigurationError: an argument cannot be used, or connectrpc is not installed.
        InsecureChannelError: tokens would travel in the clear.
    """
    attachment = attachment_to(address.rstrip("/"), auth, retry, allow_plaintext)
    try:
        from grpc_bearer._runtimes.connect_clients import interceptor_and_transport
    except ImportError as error:
        raise ConfigurationError("connectrpc is not installed: pip install grpc-bearer[connect]") from error
    innermost, http_client = interceptor_and_transport(client_class, attachment)
    options.setdefault("http_client", http_client)
    return client_class(address, interceptors=(*interceptors, innermost), **options)
