"""What is known of a channel's protection when a door is built. What is not known, core finds out call by call."""

from __future__ import annotations

from typing import Any

import grpc

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


def provable_target(channel: Any, credentials: grpc.ChannelCredentials | None = None) -> str | None:
    """Where a channel or multicallable leads, or `None` if that is not known, or not for sure.

    gRPC has no public way to ask. Should its objects change, the answer becomes `None`, and every call takes the way
    through core: slower, never less safe.
    """
    if credentials is not None and _kind(credentials) == "XDSChannelCredentials":
        return None
    if not type(channel).__module__.startswith("grpc."):
        return None  # somebody else's may lead its methods to several channels, of which core proves but one
    inner = getattr(channel, "_channel", None)
    if isinstance(inner, grpc.Channel):  # what grpc.intercept_channel makes
        return provable_target(inner)
    # Where sync objects and asyncio's keep it. Core itself is not asked: of a closed channel that would be a crash.
    target = getattr(channel, "_target", None) or getattr(inner, "target", None)
    if isinstance(target, bytes):
        target = target.decode()
    return target if isinstance(target, str) and not target.startswith(_XDS_SCHEMES) else None


def _kind(credentials: grpc.ChannelCredentials) -> str:
    return type(getattr(credentials, "_credentials", None)).__name__
