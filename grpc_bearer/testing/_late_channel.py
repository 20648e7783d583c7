"""An asyncio channel that a fixture can give away before any event loop runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from grpc import aio

__all__ = ["LateChannel"]


def _forwarded(name: str) -> Callable[..., Any]:
    def method(self: LateChannel, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._opened(), name)(*args, **kwargs)

    method.__name__ = method.__qualname__ = name
    return method


class LateChannel(aio.Channel):
    """A channel that is opened when it is first used, in the event loop that runs then.

    Args:
        open_channel: opens it; called once for each loop that uses it.
    """

    def __init__(self, open_channel: Callable[[], aio.Channel]) -> None:
        self._open = open_channel
        self._channels: dict[asyncio.AbstractEventLoop, aio.Channel] = {}

    def _opened(self) -> aio.Channel:
        loop = asyncio.get_running_loop()
        if loop not in self._channels:
            self._channels[loop] = self._open()
        return self._channels[loop]

    unary_unary = _forwarded("unary_unary")
    unary_stream = _forwarded("unary_stream")
    stream_unary = _forwarded("stream_unary")
    stream_stream = _forwarded("stream_stream")
    get_state = _forwarded("get_state")
    wait_for_state_change = _forwarded("wait_for_state_change")
    channel_ready = _forwarded("channel_ready")
    close = _forwarded("close")

    async def __aenter__(self) -> LateChannel:
        self._opened()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def close_now(self) -> None:
        """Close what is open, outside of the loops. Where a loop is closed, gRPC has nothing left to wait for."""
        for loop, channel in self._channels.items():
            if not loop.is_closed() and not loop.is_running():
                loop.run_until_complete(channel.close())
        self._channels.clear()
