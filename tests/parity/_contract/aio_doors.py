"""Every asyncio door, and the plain channel that it has to behave like."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from grpc import aio

import grpc_bearer
from _contract.stage import PATIENCE, QUICK, SERVICE, WARM, Act, Stage
from _contract.sync_doors import TOKEN, reusable, single_use
from grpc_bearer import BearerAuth

_NUMBERS = itertools.count()


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
class Door:
    """As its sync namesake; each scenario runs on an event loop of its own."""

    wrap: Callable[..., Any]
    plain: str = "plain"
    auth: Callable[[], BearerAuth] = reusable
    warm: bool = False
    method: Callable[[Any, BearerAuth], Any] | None = None
    clear: bool = False
    main: bool = False

    @property
    def reference(self) -> str:
        return f"{self.plain}{', warm' if self.warm else ''}{', clear' if self.clear else ''}"

    def observe(self, scenario: Callable[[World], Any], stages: Mapping[str, Stage], kind: str) -> Any:
        with self.auth() as auth:
            return self._run(scenario, stages, kind, self.wrap, auth, self.method)

    def observe_plain(self, scenario: Callable[[World], Any], stages: Mapping[str, Stage], kind: str) -> Any:
        return self._run(scenario, stages, kind, PLAIN[self.plain], None, None)

    def _run(
        self, scenario: Callable[[World], Coroutine[Any, Any, Any]], stages: Mapping[str, Stage], kind: str, *how: Any
    ) -> Any:
        async def play() -> Any:
            async with World(stages["clear" if self.clear else "tls"], self, kind, *how) as world:
                playing = asyncio.create_task(scenario(world))
                # Not `wait_for`: a scenario that looks at cancellations would take this one for another.
                await asyncio.wait([playing], timeout=3 * PATIENCE)
                assert playing.done(), "the scenario does not end"
                seen = playing.result()
                if world.auth is not None and world.carries_token:
                    world.check_tokens()
            return seen

        return asyncio.run(play())


class World:
    """What a scenario has: a stage to play on, and channels to it."""

    def __init__(
        self,
        stage: Stage,
        door: Door,
        kind: str,
        wrap: Callable[..., Any],
        auth: BearerAuth | None,
        wrap_method: Callable[[Any, BearerAuth], Any] | None,
    ) -> None:
        self.stage, self.door, self.kind, self.auth = stage, door, kind, auth
        self.carries_token = True
        self.name = f"aio-world-{next(_NUMBERS)}"
        self._wrap, self._wrap_method = wrap, wrap_method
        self._open: list[aio.Channel] = []
        self._acts: list[Act] = []

    async def __aenter__(self) -> World:
        self.channel = await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for act in self._acts:
            act.release.set()
        for channel in self._open:
            await channel.close()
        self.stage.clear(self.name)

    async def open(self, target: str | None = None, stage: Stage | None = None, **arguments: Any) -> aio.Channel:
        """A channel to the stage, or to where nobody may be."""
        at = stage or self.stage
        arguments["options"] = (*arguments.get("options", ()), *QUICK, ("grpc.primary_user_agent", self.name))
        channel = self._wrap(target or at.target, at.server.channel_credentials(), self.auth, arguments)
        self._open.append(channel)
        if self.door.warm and target is None:
            await channel.unary_unary(f"/{SERVICE}/{WARM}")(b"", timeout=PATIENCE)
        elif self.door.warm and self.auth is not None:
            await self.auth.atoken()
            with contextlib.suppress(AttributeError):
                # Nobody is there to warm the channel with: say what core says when it runs our plugin.
                channel._attachment.prove(f"https://localhost/{SERVICE}", f"/{SERVICE}")
        return channel

    def method(self, kind: str, *serializers: Any, channel: aio.Channel | None = None, **named: Any) -> Any:
        made = getattr(channel or self.channel, kind)(f"/{SERVICE}/{kind}", *serializers, **named)
        return self._wrap_method(made, self.auth) if self._wrap_method and self.auth else made

    def stub(self, make: Callable[[Any], Any]) -> Any:
        """A generated stub, by way of this door."""
        stub = make(self.channel)
        return grpc_bearer.wrap_stub(stub, self.auth) if self._wrap_method and self.auth else stub

    def act(self, **part: Any) -> Act:
        act = self.stage.put(self.name, Act(**part))
        self._acts.append(act)
        return act

    def start(self, kind: str, requests: Any = (b"r",), **arguments: Any) -> Any:
        """A call of that kind; `requests=None` for one to write to."""
        method = arguments.pop("method", None) or self.method(kind)
        if kind.startswith("stream"):
            return method(requests if requests is None else iterated(requests), **arguments)
        return method(next(iter(requests)), **arguments)

    def check_tokens(self) -> None:
        """Each attempt carried our header once."""
        for attempt in self.stage.attempts(self.name):
            sent = [value for key, value in attempt.metadata if key == "authorization"]
            assert sent == [f"Bearer {TOKEN}"], attempt.method


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


def _wrap_method(method: Any, auth: BearerAuth) -> Any:
    return grpc_bearer.wrap_stub(SimpleNamespace(method=method), auth).method


PLAIN: dict[str, Callable[..., Any]] = {"plain": _plain, "intercepted": _plain_intercepted}

DOORS = {
    "cold": Door(_ours, main=True),
    "warm": Door(_ours, warm=True, main=True),
    "cold_once": Door(functools.partial(_ours, retry=None)),
    "warm_once": Door(functools.partial(_ours, retry=None), warm=True),
    "core": Door(_ours, auth=single_use),
    "intercept_channel": Door(_intercept_channel),
    "wrap_stub": Door(_plain, method=_wrap_method),
    "interceptors": Door(_interceptors, "intercepted", main=True),
    "under_users": Door(_under_users, "intercepted"),
    "over_users": Door(_over_users, "intercepted", warm=True),
    "composite": Door(_composite),
    "clear": Door(_clear, clear=True, main=True),
    "clear_warm": Door(_clear, clear=True, warm=True),
}

__all__ = ["DOORS", "Door", "Noop", "World", "users", "wait"]
