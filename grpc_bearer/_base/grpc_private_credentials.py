"""What of gRPC's credentials is not public; as `grpc_private`, with the same rules."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator

import grpc


def credentials_kind(credentials: grpc.ChannelCredentials) -> str:
    """The name of core's class for channel credentials; empty, if they do not say.

    Seen: 1.66 to 1.85. Without it, credentials that protect nothing are noticed by core at the first call, and not
    before; and no channel is proved that was made with credentials, since they may be xDS's.
    """
    inside = getattr(credentials, "_credentials", None)
    return "" if inside is None else type(inside).__name__


def load_plugin_wrapper() -> None:
    """Import what gRPC imports for the first call credentials.

    Seen: 1.66 to 1.85. Without it the first call imports it, and there may be no file left to open then.
    """
    with contextlib.suppress(ImportError):
        importlib.import_module("grpc._plugin_wrapping")


def parts_of(
    credentials: grpc.ChannelCredentials,
) -> tuple[grpc.ChannelCredentials, list[grpc.CallCredentials]]:
    """Composite channel credentials as what protects the channel, and what is added to each call; others have no such
    addition.

    Seen: 1.66 to 1.85. Without it, a client's own call credentials stay, and under a header of ours are sent beside it.
    """
    inside = getattr(credentials, "_credentials", None)
    channel, calls = getattr(inside, "_channel_credentials", None), getattr(inside, "_call_credentialses", None)
    if channel is None or calls is None:
        return credentials, []
    first, added = parts_of(grpc.ChannelCredentials(channel))
    return first, [*added, *(each for call in calls for each in _one_by_one(call))]


def _one_by_one(core: object) -> Iterator[grpc.CallCredentials]:
    composed = getattr(core, "_call_credentialses", None)
    if composed is None:
        yield grpc.CallCredentials(core)
    else:
        for each in composed:
            yield from _one_by_one(each)


def plugin_of(credentials: grpc.CallCredentials) -> grpc.AuthMetadataPlugin | None:
    """The plugin of call credentials; `None` if they have none, or do not say.

    Seen: 1.66 to 1.85. Without it, as without `parts_of`.
    """
    wrapper = getattr(getattr(credentials, "_credentials", None), "_metadata_plugin", None)
    plugin = getattr(wrapper, "_metadata_plugin", None)
    return plugin if callable(plugin) else None
