"""`wrap_stub`: a stub that someone else built, with a token on every call."""

from __future__ import annotations

import copy
from typing import TypeVar

import grpc
from grpc import aio

from grpc_bearer._auth import AuthLike, as_auth
from grpc_bearer._base.arguments import kind_of
from grpc_bearer._calls import aio_multicallables, fork, sync_multicallables
from grpc_bearer._calls.aio_channel import Channel as AioChannel
from grpc_bearer._calls.attach_token import Attachment, Route
from grpc_bearer._calls.channel_security import attachment_for, unproved
from grpc_bearer._calls.grpc_private import core_of, method_of
from grpc_bearer._calls.methods import wrapped
from grpc_bearer._calls.retry_policy import DEFAULT, RetryPolicy
from grpc_bearer._calls.sync_channel import Channel
from grpc_bearer.errors import ConfigurationError

_KINDS = {**sync_multicallables.KINDS, **aio_multicallables.KINDS}

Stub = TypeVar("Stub")


def wrap_stub(
    stub: Stub, auth: AuthLike, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False
) -> Stub:
    """A copy of a generated stub, sync or asyncio, with a token on every call.

    Core itself decides whether the stub's channel protects the token; a call on one that does not ends with
    UNAUTHENTICATED, caused by `InsecureChannelError`, before any token leaves.

    Args:
        stub: what generated code makes: an object whose attributes are gRPC's multicallables, or the channel that it
            makes them from when they are first asked for. It stays as it is.
        auth: as for `secure_channel`.
        retry: likewise; request streams are never sent again here, since the serializer is the stub's own.
        allow_plaintext: tokens may travel in the clear on this stub's channel.

    Raises:
        ConfigurationError: nothing in `stub` can be called through gRPC.
    """
    attributes = getattr(stub, "__dict__", {})
    methods = {name: value for name, value in attributes.items() if isinstance(value, tuple(_KINDS))}
    # Some stubs make their methods when they are first asked for, from a channel that they keep.
    channels = {name: value for name, value in attributes.items() if isinstance(value, grpc.Channel | aio.Channel)}
    if not methods and not (channels and hasattr(type(stub), "__getattr__")):
        instead = "; a channel goes to intercept_channel" if isinstance(stub, grpc.Channel | aio.Channel) else ""
        raise ConfigurationError(
            f"no gRPC method found in {kind_of(stub)}; expected a generated stub{instead}", field="stub"
        )
    bearer = as_auth(auth)
    attachments: dict[int, Attachment] = {}  # one for each channel: what core proves of one says nothing of another
    ours = copy.copy(stub)
    for name, method in methods.items():
        channel = core_of(method) or method
        if id(channel) not in attachments:
            attachments[id(channel)] = attachment_for(method, bearer, plaintext=allow_plaintext, retry=retry)
            fork.watch(method)
        path, attachment = method_of(method), attachments[id(channel)]
        # Without the method's name it is not known how much of the URL that core tells is the channel's.
        setattr(ours, name, wrapped(_KINDS, method, Route(attachment if path else unproved(attachment), path)))
    for name, channel in channels.items():
        kind = Channel if isinstance(channel, grpc.Channel) else AioChannel
        setattr(ours, name, kind(channel, attachment_for(channel, bearer, plaintext=allow_plaintext, retry=retry)))
    return ours
