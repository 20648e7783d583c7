"""Every sync way to attach, and the plain channel that it has to behave like."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

import grpc_bearer
from _contract.base import BaseWay, BaseWorld, prove, ways
from _contract.stage import PATIENCE, SERVICE, WARM, Stage


class Noop(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """A user's interceptor that does nothing; `seen` counts its calls."""

    def __init__(self) -> None:
        self.seen = 0

    def _intercept(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        self.seen += 1
        return continuation(details, request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_unary = intercept_stream_stream = _intercept


@dataclass(frozen=True)
class Way(BaseWay):
    def observe(self, scenario: Callable[[World], Any], stages: Mapping[str, Stage], kind: str) -> Any:
        with self.auth() as auth, self._world(stages, kind, self.wrap, auth, self.method) as world:
            seen = scenario(world)
            if world.carries_token:
                world.check_tokens()
        return seen

    def observe_plain(self, scenario: Callable[[World], Any], stages: Mapping[str, Stage], kind: str) -> Any:
        with self._world(stages, kind, PLAIN[self.plain], None, None) as world:
            return scenario(world)

    @contextlib.contextmanager
    def _world(self, stages: Mapping[str, Stage], *how: Any) -> Iterator[World]:
        world = World(self.stage(stages), self, *how)
        try:
            yield world
        finally:
            world.close()


class World(BaseWorld):
    _channel: grpc.Channel | None = None

    @property
    def channel(self) -> grpc.Channel:  # type: ignore[override]  # made when it is first asked for
        if self._channel is None:
            self._channel = self.open()
        return self._channel

    def open(self, target: str | None = None, stage: Stage | None = None, **arguments: Any) -> grpc.Channel:
        channel = self._opened(target, stage, arguments)
        if self.way.warm and target is None:
            channel.unary_unary(f"/{SERVICE}/{WARM}")(b"", timeout=PATIENCE)
        elif self.way.warm and self.auth is not None:
            self.auth.token()
            prove(channel)
        return channel

    def start(self, kind: str, requests: Iterable[bytes] = (b"r",), **arguments: Any) -> Any:
        """A call of that kind which does not block: a future, or a stream."""
        method = arguments.pop("method", None) or self.method(kind)
        make = method if kind.endswith("stream") else method.future
        return make(iter(requests) if kind.startswith("stream") else next(iter(requests)), **arguments)

    def close(self) -> None:
        self._release()
        for channel in self._open:
            channel.close()
        self.stage.clear(self.name)


def _plain(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> grpc.Channel:
    if credentials is None:
        return grpc.insecure_channel(target, **arguments)
    return grpc.secure_channel(target, credentials, **arguments)


def _plain_intercepted(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> grpc.Channel:
    return grpc.intercept_channel(_plain(target, credentials, auth, arguments), Noop())


def _ours(target: str, credentials: Any, auth: Any, arguments: dict[str, Any], **ours: Any) -> grpc.Channel:
    return grpc_bearer.secure_channel(target, credentials, auth=auth, **ours, **arguments)


def _intercept_channel(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> grpc.Channel:
    return grpc_bearer.intercept_channel(_plain(target, credentials, auth, arguments), auth)


def _interceptor(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> grpc.Channel:
    return grpc.intercept_channel(_plain(target, credentials, auth, arguments), grpc_bearer.interceptor(auth))


def _under_users(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> grpc.Channel:
    return grpc.intercept_channel(_ours(target, credentials, auth, arguments), Noop())


def _over_users(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> grpc.Channel:
    return grpc_bearer.intercept_channel(_plain_intercepted(target, credentials, auth, arguments), auth)


def _composite(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> grpc.Channel:
    return grpc.secure_channel(target, grpc_bearer.channel_credentials(auth, credentials), **arguments)


def _clear(target: str, credentials: Any, auth: Any, arguments: dict[str, Any]) -> grpc.Channel:
    return grpc_bearer.insecure_channel(target, auth=auth, allow_plaintext=True, **arguments)


PLAIN: dict[str, Callable[..., Any]] = {"plain": _plain, "intercepted": _plain_intercepted}

WAYS: dict[str, Way] = ways(
    Way,
    {
        "plain": _plain,
        "ours": _ours,
        "once": functools.partial(_ours, retry=None),
        "intercept_channel": _intercept_channel,
        "interceptor": _interceptor,
        "under_users": _under_users,
        "over_users": _over_users,
        "composite": _composite,
        "clear": _clear,
    },
)

__all__ = ["WAYS", "Noop", "Way", "World"]
