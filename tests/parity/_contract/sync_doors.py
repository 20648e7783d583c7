"""Every sync door, and the plain channel that it has to behave like."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import grpc

import grpc_bearer
from _contract.stage import KINDS, PATIENCE, QUICK, SERVICE, WARM, Act, Stage
from grpc_bearer import BearerAuth, CallContext, Source, Token

TOKEN = "t0"
_NUMBERS = itertools.count()


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


def token() -> str:
    return TOKEN


def reusable() -> BearerAuth:
    """A token that is fetched on another thread, and then kept."""
    return BearerAuth(token)


class OneTime(Source):
    """A token for each attempt, so that core carries every one of them."""

    single_use = True

    def fetch(self, context: CallContext) -> Token:
        return Token(TOKEN, single_use=True)


def single_use() -> BearerAuth:
    return BearerAuth(OneTime())


@dataclass(frozen=True)
class Door:
    """A way to put tokens on calls.

    Args:
        wrap: makes the channel that users hold: `(target, credentials, auth, keyword arguments of secure_channel)`.
        reference: the same without tokens.
        auth: makes the auth.
        warm: whether a first call has gone through before the scenario begins.
        method: wraps one multicallable more, for the door that is no channel.
        clear: against the plaintext server.
        main: one of those that play every scenario with every kind of call.
    """

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
        world = World(stages["clear" if self.clear else "tls"], self, *how)
        try:
            yield world
        finally:
            world.close()


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
        self.name = f"world-{next(_NUMBERS)}"
        self._wrap, self._wrap_method = wrap, wrap_method
        self._open: list[grpc.Channel] = []
        self._acts: list[Act] = []
        self._channel: grpc.Channel | None = None

    @property
    def channel(self) -> grpc.Channel:
        if self._channel is None:
            self._channel = self.open()
        return self._channel

    def open(self, target: str | None = None, stage: Stage | None = None, **arguments: Any) -> grpc.Channel:
        """A channel to the stage, or to where nobody may be."""
        arguments["options"] = (*arguments.get("options", ()), *QUICK, ("grpc.primary_user_agent", self.name))
        credentials = (stage or self.stage).server.channel_credentials()
        channel = self._wrap(target or (stage or self.stage).target, credentials, self.auth, arguments)
        self._open.append(channel)
        if self.door.warm and target is None:
            channel.unary_unary(f"/{SERVICE}/{WARM}")(b"", timeout=PATIENCE)
        elif self.door.warm and self.auth is not None:
            self.auth.token()
            with contextlib.suppress(AttributeError):
                # Nobody is there to warm the channel with: say what core says when it runs our plugin.
                channel._attachment.prove(f"https://localhost/{SERVICE}", f"/{SERVICE}")
        return channel

    def method(self, kind: str, *serializers: Any, channel: grpc.Channel | None = None, **named: Any) -> Any:
        made = getattr(channel or self.channel, kind)(f"/{SERVICE}/{kind}", *serializers, **named)
        return self._wrap_method(made, self.auth) if self._wrap_method and self.auth else made

    def stub(self, make: Callable[[grpc.Channel], Any]) -> Any:
        """A generated stub, by way of this door."""
        stub = make(self.channel)
        return grpc_bearer.wrap_stub(stub, self.auth) if self._wrap_method and self.auth else stub

    def act(self, **part: Any) -> Act:
        act = self.stage.put(self.name, Act(**part))
        self._acts.append(act)
        return act

    def start(self, kind: str, requests: Iterable[bytes] = (b"r",), **arguments: Any) -> Any:
        """A call of that kind which does not block: a future, or a stream."""
        method = arguments.pop("method", None) or self.method(kind)
        make = method if kind.endswith("stream") else method.future
        return make(iter(requests) if kind.startswith("stream") else next(iter(requests)), **arguments)

    def check_tokens(self) -> None:
        """Each attempt carried our header once."""
        for attempt in self.stage.attempts(self.name):
            sent = [value for key, value in attempt.metadata if key == "authorization"]
            assert sent == [f"Bearer {TOKEN}"], attempt.method

    def close(self) -> None:
        for act in self._acts:
            act.release.set()
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
    "interceptor": Door(_interceptor, "intercepted", main=True),
    "under_users": Door(_under_users, "intercepted"),
    "over_users": Door(_over_users, "intercepted", warm=True),
    "composite": Door(_composite),
    "clear": Door(_clear, clear=True, main=True),
    "clear_warm": Door(_clear, clear=True, warm=True),
}

__all__ = ["DOORS", "KINDS", "Door", "Noop", "World"]
