"""Every asyncio way to attach, and the plain channel that it has to behave like."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from grpc import aio

import grpc_bearer
from _contract.base import BaseWay, BaseWorld, prove, ways
from _contract.stage import PATIENCE, SERVICE, WARM, Stage


class Noop:
    """A user's interceptor that does nothing; `seen` counts its calls."""

    def __init__(self) -> None:
        self.seen = 0

    async def intercept(self, continuation: Any, details: Any, request: Any) -> Any:
        self.seen += 1
        return await continuation(details, request)


def users(interceptor: Any) -> list[Any]:
    """The four objects that grpc.aio wants, around one with a coroutine `intercept`."""
    kinds = ("UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream")
    methods = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")

    async def intercept(self: Any, continuation: Any, details: Any, request: Any) -> Any:
        return await interceptor.intercept(continuation, details, request)

    return [
        type(kind, (getattr(aio, f"{kind}ClientInterceptor"),), {f"intercept_{method}": intercept})()
        for kind, method in zip(kinds, methods, strict=True)
    ]


@dataclass(frozen=True)
class Way(BaseWay):
    """Each scenario runs on an event loop of its own."""

    def observe(self, scenario: Callable[[World], Any], stages: Mapping[str, Stage], kind: str) -> Any:
        with self.auth() as auth:
            return self._run(scenario, stages, kind, self.wrap, auth, self.method)

    def observe_plain(self, scenario: Callable[[World], Any], stages: Mapping[str, Stage], kind: str) -> Any:
        return self._run(scenario, stages, kind, PLAIN[self.plain], None, None)

    def _run(
        self, scenario: Callable[[World], Coroutine[Any, Any, Any]], stages: Mapping[str, Stage], kind: str, *how: Any
    ) -> Any:
        async def play() -> Any:
            async with World(self.stage(stages), self, kind, *how) as world:
                playing = asyncio.create_task(scenario(world))
                # Not `wait_for`: a scenario that looks at cancellations would take this one for another.
                await asyncio.wait([playing], timeout=3 * PATIENCE)
                assert playing.done(), "the scenario does not end"
                seen = playing.result()
                if world.auth is not None and world.carries_token:
                    world.check_tokens()
            return seen

        return asyncio.run(play())


class World(BaseWorld):
    async def __aenter__(self) -> World:
        self.channel = await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._release()
        for channel in self._open:
            await channel.close()
        self.stage.clear(self.name)

    async def open(self, target: str | None = None, stage: Stage | None = None, **arguments: Any) -> aio.Channel:
        channel: aio.Channel = self._opened(target, stage, arguments)
        if self.way.warm and target is None:
            await channel.unary_unary(f"/{SERVICE}/{WARM}")(b"", timeout=PATIENCE)
        elif self.way.warm and self.auth is not None:
            await self.auth.atoken()
            prove(channel)
        return channel

    def start(self, kind: str, requests: Any = (b"r",), **arguments: Any) -> Any:
        """A call of that kind; `requests=None` for one to write to."""
        method = arguments.pop("method", None) or self.method(kind)
        if kind.startswith("stream"):
            return method(requests if requests is None else iterated(requests), **arguments)
        return method(next(iter(requests)), **arguments)


def iterated(requests: Any) -> Any:
    """Requests that iterate once, if they are not an asynchronous iterator already."""

    async def one_by_one(given: Iterable[bytes]) -> AsyncIterator[bytes]:
        for request in given:
            yield request

    return one_by_one(requests) if isinstance(requests, (tuple, list)) else requests


async def wait(event: threading.Event) -> bool:
    """For what the server's threads tell."""
    assert await asyncio.to_thread(event.wait, PATIENCE), "the event did not come"
    return True


def _plain(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> aio.Channel:
    if credentials is None:
        return aio.insecure_channel(target, **arguments)
    return aio.secure_channel(target, credentials, **arguments)


def _plain_intercepted(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> aio.Channel:
    return _plain(target, credentials, auth, {"interceptors": users(Noop()), **arguments})


def _ours(target: str, credentials: Any, auth: Any, arguments: dict[str, Any], **ours: Any) -> aio.Channel:
    return grpc_bearer.aio.secure_channel(target, credentials, auth=auth, **ours, **arguments)


def _intercept_channel(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> aio.Channel:
    return grpc_bearer.aio.intercept_channel(_plain(target, credentials, auth, arguments), auth)


def _interceptors(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> aio.Channel:
    interceptors = [*grpc_bearer.aio.interceptors(auth), *arguments.pop("interceptors", ())]
    return _plain(target, credentials, auth, {"interceptors": interceptors, **arguments})


def _under_users(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> aio.Channel:
    return _ours(target, credentials, auth, {"interceptors": users(Noop()), **arguments})


def _over_users(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> aio.Channel:
    return grpc_bearer.aio.intercept_channel(_plain_intercepted(target, credentials, auth, arguments), auth)


def _composite(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> aio.Channel:
    return aio.secure_channel(target, grpc_bearer.channel_credentials(auth, credentials), **arguments)


def _clear(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> aio.Channel:
    return grpc_bearer.aio.insecure_channel(target, auth=auth, allow_plaintext=True, **arguments)


PLAIN: dict[str, Callable[..., Any]] = {"plain": _plain, "intercepted": _plain_intercepted}

WAYS: dict[str, Way] = ways(
    Way,
    {
        "plain": _plain,
        "ours": _ours,
        "once": functools.partial(_ours, retry=None),
        "intercept_channel": _intercept_channel,
        "interceptors": _interceptors,
        "under_users": _under_users,
        "over_users": _over_users,
        "composite": _composite,
        "clear": _clear,
    },
)

__all__ = ["WAYS", "Noop", "Way", "World", "users", "wait"]
