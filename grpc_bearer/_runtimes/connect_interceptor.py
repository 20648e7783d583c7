"""The interceptor of connectrpc's clients. Imported by those who use it: connectrpc is not among our dependencies.

Requests are kept as copies of their messages, since an interceptor knows no serializer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from connectrpc.errors import ConnectError

from grpc_bearer._calls.aio_replay import AsyncReplayBuffer
from grpc_bearer._calls.attach_token import Attachment
from grpc_bearer._calls.replay import ReplayBuffer, snapshot
from grpc_bearer._calls.retry_policy import UNKEPT
from grpc_bearer._runtimes.connect_call import ConnectCall, refuse_elsewhere

_copy: Any = snapshot
_END: Any = object()


class BearerInterceptor:
    """For clients of both sides: connectrpc finds by its methods what it can do.

    Args:
        attachment: where its clients lead, and with whose tokens.
        sure: that is where they lead.
    """

    def __init__(self, attachment: Attachment, *, sure: bool) -> None:
        self._attachment, self._sure = attachment, sure

    def _call(self, call_next: Callable[..., Any], ctx: Any) -> ConnectCall:
        if not self._sure:
            refuse_elsewhere(self._attachment, call_next, ctx)
        return ConnectCall(self._attachment, ctx)

    # ------------------------------------------------------------------------------------------------------------- sync
    #
    # A single request is not copied: the thread that could change it is the one that waits here.

    def intercept_unary_sync(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Any:
        call = self._call(call_next, ctx)
        try:  # straight, for nearly every call ends here
            with call:
                return call_next(request, ctx)
        except ConnectError as error:
            delay = call.seconds_until_next(error, again=True)
            if delay is None:
                raise
        time.sleep(delay)
        return self._single(call_next, ctx, call, _Once(request))

    def intercept_client_stream_sync(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Any:
        call = self._call(call_next, ctx)
        return self._single(call_next, ctx, call, ReplayBuffer(request, _copy, *_bounds(call)))

    def intercept_server_stream_sync(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Iterator[Any]:
        return self._many(call_next, ctx, self._call(call_next, ctx), _Once(request))

    def intercept_bidi_stream_sync(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Iterator[Any]:
        call = self._call(call_next, ctx)
        return self._many(call_next, ctx, call, ReplayBuffer(request, _copy, *_bounds(call)))

    def _single(self, call_next: Callable[..., Any], ctx: Any, call: ConnectCall, requests: Any) -> Any:
        try:
            while True:
                try:
                    with call:
                        return call_next(requests.reader(), ctx)
                except ConnectError as error:
                    delay = call.seconds_until_next(error, again=requests.rewind())
                    if delay is None:
                        raise
                time.sleep(delay)
        finally:
            requests.stop()

    def _many(self, call_next: Callable[..., Any], ctx: Any, call: ConnectCall, requests: Any) -> Iterator[Any]:
        seen = False
        try:
            while True:
                try:
                    with call:
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
                    delay = call.seconds_until_next(error, again=not seen and requests.rewind())
                    if delay is None:
                        raise
                time.sleep(delay)
        finally:
            requests.stop()

    # ---------------------------------------------------------------------------------------------------------- asyncio

    async def intercept_unary(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Any:
        return await self._asingle(call_next, ctx, self._call(call_next, ctx), _Once(snapshot(request)))

    async def intercept_client_stream(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> Any:
        call = self._call(call_next, ctx)
        return await self._asingle(call_next, ctx, call, _Requests(request, _copy, *_bounds(call)))

    def intercept_server_stream(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> AsyncIterator[Any]:
        return self._amany(call_next, ctx, self._call(call_next, ctx), _Once(snapshot(request)))

    def intercept_bidi_stream(self, call_next: Callable[..., Any], request: Any, ctx: Any) -> AsyncIterator[Any]:
        call = self._call(call_next, ctx)
        return self._amany(call_next, ctx, call, _Requests(request, _copy, *_bounds(call)))

    async def _asingle(self, call_next: Callable[..., Any], ctx: Any, call: ConnectCall, requests: Any) -> Any:
        try:
            while True:
                try:
                    async with call:
                        return await call_next(requests.reader(), ctx)
                except ConnectError as error:
                    delay = call.seconds_until_next(error, again=requests.rewind())
                    if delay is None:
                        raise
                await asyncio.sleep(delay)
        finally:
            requests.stop()

    async def _amany(
        self, call_next: Callable[..., Any], ctx: Any, call: ConnectCall, requests: Any
    ) -> AsyncIterator[Any]:
        seen = False
        try:
            while True:
                try:
                    async with call:
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
                    delay = call.seconds_until_next(error, again=not seen and requests.rewind())
                    if delay is None:
                        raise
                await asyncio.sleep(delay)
        finally:
            requests.stop()


class _Once:
    """A single request: the same for each attempt."""

    def __init__(self, request: object) -> None:
        self._request = request

    def reader(self) -> Any:
        return self._request

    def rewind(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing grows."""

    stop = release


class _Requests(AsyncReplayBuffer):
    """Requests of an asyncio stream, each asked for in a task of its own.

    pyqwest cancels whoever reads for an attempt that is over. The user's iterator, midway to a request that belongs to
    the next attempt too, must hear nothing of it; only when the call is over.
    """

    def __init__(self, requests: Any, *how: Any) -> None:
        # `None` would say that they come one by one; here it is a mistake, of which connectrpc complains.
        given: Any = object() if requests is None else requests
        super().__init__(given, *how)

    async def _ask(self, requests: Any, reader: Any) -> None:
        task = asyncio.ensure_future(super()._ask(requests, reader))
        self._asking = reader, task
        await asyncio.shield(task)

    def stop(self) -> None:
        super().stop()
        _, task = self._asking or (None, None)
        if task is not None:
            task.cancel()


def _bounds(call: ConnectCall) -> tuple[int, int]:
    kept = call.policy or UNKEPT
    return kept.replay_messages, kept.replay_bytes
