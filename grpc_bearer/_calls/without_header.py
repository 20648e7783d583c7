"""A client's own channel credentials without what they would put under our header: a call never carries it twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc

from grpc_bearer._auth import BearerAuth
from grpc_bearer._base.grpc_private_credentials import credentials_kind, parts_of, plugin_of


class _Without(grpc.AuthMetadataPlugin):
    """Another plugin, but for one header."""

    def __init__(self, plugin: Callable[..., None], header: str) -> None:
        self._plugin = plugin
        self._header = header

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        def deliver(metadata: Any, error: Exception | None) -> None:
            callback(tuple(entry for entry in metadata or () if entry[0].lower() != self._header), error)

        self._plugin(context, deliver)


def fills(credentials: grpc.ChannelCredentials, header: str) -> bool:
    """Whether an auth of ours is in these credentials already, under this header."""
    plugins = map(plugin_of, parts_of(credentials)[1])
    return any(isinstance(plugin, BearerAuth) and plugin.header == header for plugin in plugins)


def without_header(credentials: grpc.ChannelCredentials, header: str) -> grpc.ChannelCredentials:
    """Credentials that add to a call what these add, but for one header; these themselves, if they add nothing.

    Those of `grpc.compute_engine_channel_credentials`, which Google's clients use wherever they run, show nothing of
    what they add: in their place goes TLS, which is what core does with them, and all that they would add is left out.
    """
    channel, calls = parts_of(credentials)
    hidden = credentials_kind(channel) == "ComputeEngineChannelCredentials"
    if not calls and not hidden:
        return credentials
    channel = grpc.ssl_channel_credentials() if hidden else channel
    kept = [each for call in calls if (each := _kept(call, header)) is not None]
    return grpc.composite_channel_credentials(channel, *kept) if kept else channel


def _kept(call: grpc.CallCredentials, header: str) -> grpc.CallCredentials | None:
    plugin = plugin_of(call)
    if plugin is None or isinstance(plugin, BearerAuth):
        return call
    if header == "authorization" and type(plugin).__name__ == "AccessTokenAuthMetadataPlugin":
        return None  # of grpc.access_token_call_credentials: it adds nothing else
    return grpc.metadata_call_credentials(_Without(plugin, header))
