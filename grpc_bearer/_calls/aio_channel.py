"""Our `grpc.aio.Channel`, and the functions that open it: the asyncio twin of `sync_channel`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import grpc
from grpc import aio

from grpc_bearer._auth import AuthLike, as_auth
from grpc_bearer._base.arguments import checked_flag, kind_of
from grpc_bearer._calls.aio_errors import explain_loop
from grpc_bearer._calls.aio_multicallables import KINDS
from grpc_bearer._calls.attach_token import Attach, check_attach, with_attach_options
from grpc_bearer._calls.channel_security import attachment_for, protecting, refuse_plaintext
from grpc_bearer._calls.grpc_private import opens_as_told
from grpc_bearer._calls.methods import Methods
from grpc_bearer._calls.own_channels import own_channel
from grpc_bearer._calls.retry_policy import DEFAULT, RetryPolicy, checked_policy
from grpc_bearer._calls.targets import check_target
from grpc_bearer.errors import ConfigurationError

_Options = Sequence[tuple[str, Any]]


class Channel(Methods, aio.Channel):
    """A `grpc.aio.Channel` whose calls carry a token; in all else the channel it wraps.

    >>> import asyncio
    >>> async def main():
    ...     async with secure_channel("api.example.com:443", auth="s3cret") as channel:
    ...         return isinstance(channel, grpc.aio.Channel)
    >>> asyncio.run(main())
    True
    """

    _kinds = KINDS

    def get_state(self, try_to_connect: bool = False) -> Any:
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._inner.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        until = time.monotonic() + (grace or 0)
        await self._settle_waiting(grace)
        await self._inner.close(None if grace is None else max(until - time.monotonic(), 0))

    async def _settle_waiting(self, grace: float | None) -> None:
        """Calls that wait for their token, where gRPC does not know of them: they begin within the grace, or end."""
        self._attachment.closing = True
        waiting = [call for call in self._attachment.waiting if not call.done()]
        if waiting and grace:
            await asyncio.wait([asyncio.ensure_future(call.begun()) for call in waiting], timeout=grace)
        for call in waiting:
            if not call.has_begun():
                call.cancel()

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        await self._settle_waiting(None)
        await self._inner.__aexit__(kind, error, trace)
        return None


@contextmanager
def _opening() -> Iterator[None]:
    """gRPC opens a channel for us, and wants an event loop."""
    try:
        with own_channel():
            yield
    except RuntimeError as error:
        explain_loop(error)
        raise


def secure_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    options: _Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[aio.ClientInterceptor] | None = None,
    *,
    auth: AuthLike,
    retry: RetryPolicy | None = DEFAULT,
    attach: Attach = "auto",
) -> aio.Channel:
    """`grpc.aio.secure_channel`, with a token on every call; see `grpc_bearer.secure_channel`."""
    check_target(target)
    bearer = as_auth(auth)
    credentials = protecting(credentials)
    checked_policy(retry)
    # By name: where a program is instrumented, OpenTelemetry stands in gRPC's place here and adds its own to them.
    if check_attach(attach) == "call_credentials":
        composite = grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(bearer))
        with _opening():
            return aio.secure_channel(target, composite, options, compression, interceptors=interceptors)
    told = target if opens_as_told(aio.secure_channel) else None
    options = with_attach_options(options, attach)
    with _opening():
        channel = aio.secure_channel(target, credentials, options, compression, interceptors=interceptors)
    return Channel(channel, attachment_for(channel, bearer, credentials, attach=attach, retry=retry, target=told))


def insecure_channel(
    target: str,
    options: _Options | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[aio.ClientInterceptor] | None = None,
    *,
    auth: AuthLike,
    retry: RetryPolicy | None = DEFAULT,
    allow_plaintext: bool = False,
) -> aio.Channel:
    """`grpc.aio.insecure_channel`, with a token on every call, in the clear; see `grpc_bearer.insecure_channel`."""
    check_target(target)
    bearer = as_auth(auth)
    if not checked_flag("allow_plaintext", allow_plaintext):
        raise refuse_plaintext()
    options = with_attach_options(options, "metadata" if bearer.single_use else "auto")
    with _opening():
        channel = aio.insecure_channel(target, options, compression, interceptors=interceptors)
    return Channel(channel, attachment_for(channel, bearer, plaintext=True, retry=retry))


def intercept_channel(
    channel: aio.Channel, auth: AuthLike, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False
) -> aio.Channel:
    """An asyncio channel that someone else built, with a token on every call; see `grpc_bearer.intercept_channel`."""
    if not isinstance(channel, aio.Channel):
        raise ConfigurationError(
            f"channel: expected a grpc.aio.Channel, got {kind_of(channel)}; sync channels go to "
            "grpc_bearer.intercept_channel"
        )
    return Channel(channel, attachment_for(channel, as_auth(auth), plaintext=allow_plaintext, retry=retry))
