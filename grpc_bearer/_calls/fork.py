"""What a fork needs where gRPC's fork support is on (`GRPC_ENABLE_FORK_SUPPORT=1`), as seen with grpcio 1.85.

Before: core's handler runs inside fork(), with the interpreter's lock held, and waits for core's own threads to rest.
If one of them is about to let go of the plugin of a call that has just ended, it wants that same lock, and the fork
never returns. So we wait first, until core holds no plugin that was lent to it for one call.

After, in the child: the parent's connections are closed there, but a channel takes a moment to notice, and a call begun
meanwhile is lost with them (UNAVAILABLE, "Wrong file descriptor generation"), whoever makes it. So we wait until no
channel takes the parent's connection for its own.
"""

from __future__ import annotations

import functools
import os
import time
import weakref
from collections.abc import Callable
from typing import Any

from grpc_bearer._base import fork_hooks
from grpc_bearer._calls.grpc_private import connectivity_of, is_sync_grpcs

#: Seconds for which a fork waits for plugins. What core holds longer belongs to a call that goes on.
PLUGINS = 0.5
#: Seconds for which a child waits for its channels. A few milliseconds is what it takes as a rule.
CHANNELS = 0.5

_PAUSE = 0.0005
_READY = 2  # GRPC_CHANNEL_READY in grpc/impl/connectivity_state.h
# As gRPC reads it, and when it does: while it is imported.
_SUPPORTED = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "0").lower() in ("yes", "true", "1")

_channels: weakref.WeakSet[Any] = weakref.WeakSet()
# By the id() of the plugin: it lives as long as what was lent.
_lent: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def watch(channel: object) -> None:
    """Have a child wait until this sync channel (or that of this multicallable) has done with the parent's connection.

    gRPC itself keeps its channels until they are closed, where fork support is on.
    """
    if _SUPPORTED and is_sync_grpcs(channel):
        _channels.add(channel)


def lend(plugin: Callable[..., Any]) -> Callable[..., Any]:
    """The plugin of one call, to be given to gRPC and kept by nobody else."""
    if not _SUPPORTED:
        return plugin
    lent = functools.partial(plugin)
    _lent[id(plugin)] = lent
    return lent


def forget(plugin: object) -> None:
    """No fork need wait for this one: grpc.aio (1.85) never lets go of the plugin of a call."""
    if _SUPPORTED:
        _lent.pop(id(plugin), None)


def _before() -> None:
    until = time.monotonic() + PLUGINS
    while _lent:
        if time.monotonic() > until:
            _lent.clear()  # nor does the next fork wait for them
            return
        time.sleep(_PAUSE)


def _after_in_child() -> None:
    _lent.clear()
    until = time.monotonic() + CHANNELS
    for channel in list(_channels):
        while _seems_connected(channel) and time.monotonic() < until:
            time.sleep(_PAUSE)


def _seems_connected(channel: object) -> bool:
    """Whether a channel would send a call at once."""
    return connectivity_of(channel) == _READY


if _SUPPORTED:
    fork_hooks.before(_before)
    fork_hooks.in_child(fork_hooks.Phase.WAIT, _after_in_child)
