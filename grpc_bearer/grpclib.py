"""Tokens on calls of grpclib, which speaks gRPC on asyncio in plain Python: `pip install grpc-bearer[grpclib]`."""

from __future__ import annotations

import ssl as _ssl
from typing import TYPE_CHECKING, Any

from grpc_bearer._auth import AuthLike
from grpc_bearer._calls.retry_policy import DEFAULT, RetryPolicy
from grpc_bearer.errors import ConfigurationError

if TYPE_CHECKING:
    from grpclib.client import Channel

__all__ = ["channel"]


def channel(
    host: str | None = None,
    port: int | None = None,
    *,
    auth: AuthLike,
    retry: RetryPolicy | None = DEFAULT,
    allow_plaintext: bool = False,
    ssl: bool | _ssl.SSLContext | _ssl.DefaultVerifyPaths | None = True,
    **options: Any,
) -> Channel:
    """A `grpclib.client.Channel` with a token on every call, which is made once more if the server refuses the token.

    ::

        async with grpc_bearer.grpclib.channel("api.example.com", 443, auth=auth) as channel:
            reply = await FleetStub(channel).List(ListRequest(), timeout=10)

    The rules are those of `grpc_bearer.aio.secure_channel`. Errors are grpclib's own (`GRPCError`), with ours as their
    `__cause__`. Listeners of grpclib's events hear of each attempt, and never see the token. A call that has the auth's
    header already keeps it. Call it where the event loop runs.

    Args:
        host: as for `grpclib.client.Channel`.
        port: likewise.
        auth: as for `grpc_bearer.secure_channel`.
        retry: when a refused call is made again; `None`: never. Its `retry_if` is called with grpclib's error.
        allow_plaintext: tokens may travel in the clear, with `ssl=None`; also to this machine and through Unix sockets.
        ssl: as for `grpclib.client.Channel`, but TLS with the default roots if nothing is said.
        options: the others of `grpclib.client.Channel`: `path`, `codec`, `status_details_codec`, `config`.

    Raises:
        ConfigurationError: an argument cannot be used, or grpclib is not installed.
        InsecureChannelError: tokens would travel in the clear.
    """
    try:
        from grpc_bearer._runtimes.grpclib_channel import BearerChannel
    except ImportError as error:
        raise ConfigurationError("grpclib is not installed: pip install grpc-bearer[grpclib]") from error
    return BearerChannel(host, port, auth=auth, retry=retry, allow_plaintext=allow_plaintext, ssl=ssl, **options)
