"""Our `grpc.Channel`, and the functions that open it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import grpc

from grpc_bearer._auth import AuthLike, as_auth
from grpc_bearer._base.arguments import checked_flag, kind_of
from grpc_bearer._calls import fork
from grpc_bearer._calls.attach_token import Attach, Attachment, check_attach, with_attach_options
from grpc_bearer._calls.channel_security import attachment_for, protecting, refuse_plaintext
from grpc_bearer._calls.combine import CALLER, filling
from grpc_bearer._calls.grpc_private import is_closed
from grpc_bearer._calls.grpc_types import Deserializer, Serializer
from grpc_bearer._calls.methods import Methods
from grpc_bearer._calls.own_channels import own_channel
from grpc_bearer._calls.retry_policy import DEFAULT, RetryPolicy, checked_policy
from grpc_bearer._calls.sync_multicallables import KINDS
from grpc_bearer._calls.targets import check_target
from grpc_bearer.errors import ConfigurationError

Options = Sequence[tuple[str, Any]]


class Channel(Methods, grpc.Channel):
    """A `grpc.Channel` whose calls carry a token; in all else the channel it wraps."""

    _kinds = KINDS

    def __init__(self, channel: Any, attachment: Attachment) -> None:
        super().__init__(channel, attachment)
        fork.watch(channel)

    def _method(
        self,
        make: Callable[..., Any],
        method: str,
        serializer: Serializer | None,
        deserializer: Deserializer | None,
        registered: bool | None,
    ) -> Any:
        if registered and is_closed(self._inner):
            raise ValueError("Cannot invoke RPC on closed channel!")
        return super()._method(make, method, serializer, deserializer, registered)

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        self._inner.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._inner.unsubscribe(callback)

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.close()


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    auth: AuthLike,
    retry: RetryPolicy | None = DEFAULT,
    attach: Attach = "auto",
) -> grpc.Channel:
    """`grpc.secure_channel`, with a token on every call.

    Args:
        target: as gRPC takes it.
        credentials: `None` means TLS with the default roots; any `grpc.ChannelCredentials` is accepted.
        options: as gRPC takes them.
        compression: as gRPC takes it.
        auth: a `BearerAuth`, or what one can be made of: a source, a `str`, a path, a (coroutine) function, google-auth
            credentials.
        retry: when a refused call is made once more; `None`: never.
        attach: how the token is put on a call. `"auto"`: as metadata where that is safe, through core where not.
            `"metadata"`: single-use tokens as metadata too, which gives up core's own retries.
            `"call_credentials"`: composite channel credentials, core alone, and no `retry`.

    Raises:
        ConfigurationError: `target` is a URL or empty, or `auth` or `attach` cannot be used.
        InsecureChannelError: `credentials` are known not to protect the channel.
    """
    check_target(target)
    bearer = as_auth(auth)
    credentials = protecting(credentials)
    checked_policy(retry)
    if check_attach(attach) == "call_credentials":
        composite = channel_credentials(bearer, credentials)
        with own_channel():
            plain = grpc.secure_channel(target, composite, options, compression)
        fork.watch(plain)
        return plain
    with own_channel():
        channel = grpc.secure_channel(target, credentials, with_attach_options(options, attach), compression)
    return Channel(channel, attachment_for(channel, bearer, credentials, attach=attach, retry=retry))


def insecure_channel(
    target: str,
    options: Options | None = None,
    compression: grpc.Compression | None = None,
    *,
    auth: AuthLike,
    retry: RetryPolicy | None = DEFAULT,
    allow_plaintext: bool = False,
) -> grpc.Channel:
    """`grpc.insecure_channel`, with a token on every call, in the clear: for a mesh that encrypts below.

    Raises:
        InsecureChannelError: without `allow_plaintext=True`.
    """
    check_target(target)
    bearer = as_auth(auth)
    if not checked_flag("allow_plaintext", allow_plaintext):
        raise refuse_plaintext()
    # Core's retries would send a single-use token again, and here it can only go as metadata.
    options = with_attach_options(options, "metadata" if bearer.single_use else "auto")
    with own_channel():
        channel = grpc.insecure_channel(target, options, compression)
    return Channel(channel, attachment_for(channel, bearer, plaintext=True, retry=retry))


def intercept_channel(
    channel: grpc.Channel, auth: AuthLike, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False
) -> grpc.Channel:
    """A channel that someone else built, with a token on every call.

    Core itself decides whether the channel protects the token; a call on one that does not ends with UNAUTHENTICATED,
    caused by `InsecureChannelError`, before any token leaves. Closing the result closes `channel`.

    Args:
        channel: a sync channel.
        auth: as for `secure_channel`.
        retry: likewise.
        allow_plaintext: tokens may travel in the clear on this channel.
    """
    if not isinstance(channel, grpc.Channel):
        raise ConfigurationError(
            f"channel: expected a grpc.Channel, got {kind_of(channel)}; asyncio channels go to "
            "grpc_bearer.aio.intercept_channel"
        )
    return Channel(channel, attachment_for(channel, as_auth(auth), plaintext=allow_plaintext, retry=retry))


def call_credentials(auth: AuthLike) -> grpc.CallCredentials:
    """Call credentials: `credentials=` of one call, or one part of composite channel credentials.

    A call whose token cannot be had ends with core's UNAVAILABLE.
    """
    bearer = as_auth(auth)
    return filling(grpc.metadata_call_credentials(bearer, "grpc-bearer"), bearer.header, CALLER)


def channel_credentials(auth: AuthLike, credentials: grpc.ChannelCredentials | None = None) -> grpc.ChannelCredentials:
    """Composite channel credentials, for libraries that take those.

    Args:
        auth: as for `secure_channel`.
        credentials: what protects the channel; `None` means TLS with the default roots.
    """
    return grpc.composite_channel_credentials(protecting(credentials), call_credentials(auth))
