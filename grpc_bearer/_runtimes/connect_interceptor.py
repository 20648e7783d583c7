"""The interceptor of connectrpc's clients. Imported by those who use it: connectrpc is not among our dependencies.

Request streams are kept as copies of their messages, since an interceptor knows no serializer.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from connectrpc.errors import ConnectError

from grpc_bearer._calls.aio_replay import AsyncReplayBuffer
from grpc_bearer._calls.attach_token import Attachment
from grpc_bearer._calls.replay import ReplayBuffer, snapshot
from grpc_bearer._calls.retry_policy import UNKEPT
from grpc_bearer._runtimes.connect_call import ConnectCall

_copy: Any = snapshot


class _Once:
    """A single request: the same for each attempt."""

    def __init__(self, request: object) -> None:
        self._request = snapshot(request)

    def reader(self) -> Any:
        return self._request

    def rewind(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing grows."""

    stop = release


class SyncInterceptor:
    """For `…ClientSync`."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment

    def intercept_unary_sync(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Any:
        return self._single(call_next, ctx, lambda _: _Once(request))

    def intercept_client_stream_sync(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Any:
        return self._single(call_next, ctx, lambda policy: ReplayBuffer(request, _copy, *_bounds(policy)))

    def intercept_server_stream_sync(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Iterator[Any]:
        return self._many(call_next, ctx, lambda _: _Once(request))

    def intercept_bidi_stream_sync(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Iterator[Any]:
        return self._many(call_next, ctx, lambda policy: ReplayBuffer(request, _copy, *_bounds(policy)))

    def _single(self, call_next: Callable[..., Any], ctx: Any, kept: Callable[[Any], Any]) -> Any:
        call = ConnectCall(self._attachment, ctx)
        requests, own = kept(call.policy), self._attachment.header in ctx.request_headers
        while True:
            try:
                with contextlib.nullcontext() if own else call.attempt():
                    return call_next(requests.reader(), ctx)
            except ConnectError as error:
                delay = call.seconds_until_next(error, not requests.rewind())
                if delay is None:
                    raise
            time.sleep(delay)

    def _many(self, call_next: Callable[..., Any], ctx: Any, kept: Callable[[Any], Any]) -> Iterator[Any]:
        call, seen = ConnectCall(self._attachment, ctx), False
        requests, own = kept(call.policy), self._attachment.header in ctx.request_headers
        while True:
            try:
                with contextlib.nullcontext() if own else call.attempt():
                    replies = call_next(requests.reader(), ctx)
                    first = next(replies, _END)
                with contextlib.closing(replies):
                    if first is not _END:
                        seen = True
                        requests.release()
                        yield first
                        yield from replies
                return
            except ConnectError as error:
                delay = call.seconds_until_next(error, seen or not requests.rewind())
                if delay is None:
                    raise
            time.sleep(delay)


class AioInterceptor:
    """For the asyncio clients: the twin of `SyncInterceptor`."""

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment

    async def intercept_unary(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Any:
        return await self._single(call_next, ctx, lambda _: _Once(request))

    async def intercept_client_stream(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Any:
        return await self._single(call_next, ctx, lambda policy: AsyncReplayBuffer(request, _copy, *_bounds(policy)))

    def intercept_server_stream(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> AsyncIterator[Any]:
        return self._many(call_next, ctx, lambda _: _Once(request))

    def intercept_bidi_stream(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> AsyncIterator[Any]:
        return self._many(call_next, ctx, lambda policy: AsyncReplayBuffer(request, _copy, *_bounds(policy)))

    async def _single(self, call_next: Callable[..., Any], ctx: Any, kept: Callable[[Any], Any]) -> Any:
        call = ConnectCall(self._attachment, ctx)
        requests, own = kept(call.policy), self._attachment.header in ctx.request_headers
        while True:
            try:
                async with contextlib.nullcontext() if own else call.aattempt():
                    return await call_next(requests.reader(), ctx)
            except ConnectError as error:
                delay = call.seconds_until_next(error, not requests.rewind())
                if delay is None:
                    raise
            await asyncio.sleep(delay)

    async def _many(self, call_next: Callable[..., Any], ctx: Any, kept: Callable[[Any], Any]) -> AsyncIterator[Any]:
        call, seen = ConnectCall(self._attachment, ctx), False
        requests, own = kept(call.policy), self._attachment.header in ctx.request_headers
        while True:
            try:
                async with contextlib.nullcontext() if own else call.aattempt():
                    replies = call_next(requests.reader(), ctx)
                    first = await anext(replies, _END)
                async with contextlib.aclosing(replies):
                    if first is not _END:
                        seen = True
                        requests.release()
                        yield first
                        async for reply in replies:
                            yield reply
                return
            except ConnectError as error:
                delay = call.seconds_until_next(error, seen or not requests.rewind())
                if delay is None:
                    raise
            await asyncio.sleep(delay)


_END: Any = object()


def _bounds(policy: Any) -> tuple[int, int]:
    kept = policy or UNKEPT
    return kept.replay_messages, kept.replay_bytes or sys.maxsize
