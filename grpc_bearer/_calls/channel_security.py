"""What is known of a channel's protection when a door is built. What is not known, core finds out call by call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc

from grpc_bearer._auth import BearerAuth
from grpc_bearer._base.grpc_private import core_of, interceptors_of, is_grpcs, target_of
from grpc_bearer._calls.attach_token import Attach, Door
from grpc_bearer._calls.combine import doubled
from grpc_bearer._calls.retry_policy import RetryPolicy
from grpc_bearer.errors import ConfigurationError, InsecureChannelError

# The control plane may point these anywhere and change what protects them, at any time.
_XDS_SCHEMES = ("xds:", "google-c2p:", "google-c2p-experimental:")


def protecting(credentials: grpc.ChannelCredentials | None) -> grpc.ChannelCredentials:
    """The channel credentials to use; TLS with the default roots for `None`.

    Raises:
        InsecureChannelError: they are known to protect nothing.
        ConfigurationError: they are no channel credentials.
    """
    if credentials is None:
        return grpc.ssl_channel_credentials()
    if not isinstance(credentials, grpc.ChannelCredentials):
        raise ConfigurationError(
            f"credentials: expected grpc.ChannelCredentials, got {type(credentials).__name__}; the token goes to auth="
        )
    if _kind(credentials) == "InsecureChannelCredentials":
        raise refuse_plaintext()
    return credentials


def refuse_plaintext() -> InsecureChannelError:
    return InsecureChannelError(
        "credentials: this channel would carry the token in the clear; use TLS, grpc.local_channel_credentials() for "
        "loopback and Unix sockets, or insecure_channel(..., allow_plaintext=True) for a mesh that encrypts below"
    )


def door_to(
    channel: Any,
    auth: BearerAuth,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    plaintext: bool = False,
    attach: Attach = "auto",
    retry: RetryPolicy | None = None,
) -> Door:
    """What is known of a channel, or a multicallable, that shall carry the tokens of an auth.

    Args:
        channel: the channel or multicallable, which may be anybody's.
        auth: whose tokens.
        credentials: what the channel was made with, where that is known.
        plaintext: as for `Door`; and so on.

    Raises:
        ConfigurationError: another auth fills the same header there.
    """
    for other in _doors_on_the_way(channel):
        if other.header == auth.header and other.auth is not auth:
            raise doubled(auth.header)
    xds = credentials is not None and _kind(credentials) == "XDSChannelCredentials"
    target = None if xds else _provable_target(channel)
    return Door(auth, target, direct=is_grpcs(channel), plaintext=plaintext, attach=attach, retry=retry)


def _provable_target(channel: Any) -> str | None:
    """Where a channel or multicallable leads, or `None` if that is not known, or may change.

    Whoever stands between us and gRPC's own objects may send a call elsewhere, in the clear, at any later moment.
    """
    door = _own_door(channel)
    if door is not None:
        # The interceptors of an asyncio channel run above the inner door, but below this one.
        return door.target if isinstance(channel, grpc.Channel) else None
    target = target_of(channel) if is_grpcs(channel) else None
    return None if target is None or target.startswith(_XDS_SCHEMES) else target


def leads_on(door: Door, made: Any, channel: Any) -> Door:
    """The door of a multicallable that a channel has made: the channel's, if it leads where the channel does.

    Tracers and balancers put methods of their own in the place of a channel's, on the object or on its class.
    """
    inner_door = _own_door(channel)
    ours = inner_door is not None and _own_door(made) is inner_door
    if ours or (is_grpcs(made) and core_of(made) is core_of(channel)):
        return door
    return unproved(door)


def unproved(door: Door) -> Door:
    """The same, where it is not known what is behind it."""
    return Door(door.auth, None, plaintext=door.plaintext, retry=door.retry)


def _doors_on_the_way(thing: Any) -> Iterator[Door]:
    """The doors of ours that a call through this channel or multicallable passes, as far as can be seen."""
    while thing is not None:
        yield from (door for each in (thing, *interceptors_of(thing)) if (door := _own_door(each)) is not None)
        # Ours keep what they wrap in the one; what grpc.intercept_channel makes, in the other.
        attributes = getattr(thing, "__dict__", {})
        thing = attributes.get("_inner", attributes.get("_channel"))


def _own_door(thing: Any) -> Door | None:
    """The door of a channel, multicallable or interceptor of ours."""
    attributes = getattr(thing, "__dict__", {})
    route, doors = attributes.get("_route"), attributes.get("_doors")
    found = (getattr(route, "door", None), getattr(doors, "unknown", None), attributes.get("_door"))
    return next((door for door in found if isinstance(door, Door)), None)


def _kind(credentials: grpc.ChannelCredentials) -> str:
    return type(getattr(credentials, "_credentials", None)).__name__
