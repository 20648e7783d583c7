"""What sync and asyncio share of a way to attach, and of the world that a scenario plays in."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import grpc_bearer
from _contract.stage import QUICK, SERVICE, Act, Stage
from grpc_bearer import BearerAuth, CallContext, Source, Token

TOKEN = "t0"
_NUMBERS = itertools.count()


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


def wrap_method(method: Any, auth: BearerAuth) -> Any:
    return grpc_bearer.wrap_stub(SimpleNamespace(method=method), auth).method


@dataclass(frozen=True)
class BaseWay:
    """A way to put tokens on calls.

    Args:
        wrap: makes the channel that users hold: `(target, credentials, auth, keyword arguments of secure_channel)`.
        reference: the same without tokens.
        auth: makes the auth.
        warm: whether a first call has gone through before the scenario begins.
        method: wraps one multicallable more, for the way to attach that is no channel.
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

    def stage(self, stages: Mapping[str, Stage]) -> Stage:
        return stages["clear" if self.clear else "tls"]


class BaseWorld:
    """What a scenario has: a stage to play on, and channels to it."""

    channel: Any

    def __init__(
        self,
        stage: Stage,
        way: BaseWay,
        kind: str,
        wrap: Callable[..., Any],
        auth: BearerAuth | None,
        wrap_method: Callable[[Any, BearerAuth], Any] | None,
    ) -> None:
        self.stage, self.way, self.kind, self.auth = stage, way, kind, auth
        self.carries_token = True
        self.name = f"world-{next(_NUMBERS)}"
        self._wrap, self._wrap_method = wrap, wrap_method
        self._open: list[Any] = []
        self._acts: list[Act] = []

    def _opened(self, target: str | None, stage: Stage | None, arguments: dict[str, Any]) -> Any:
        """A channel to the stage, or to where nobody may be."""
        at = stage or self.stage
        arguments["options"] = (*arguments.get("options", ()), *QUICK, ("grpc.primary_user_agent", self.name))
        channel = self._wrap(target or at.target, at.server.channel_credentials(), self.auth, arguments)
        self._open.append(channel)
        return channel

    def method(self, kind: str, *serializers: Any, channel: Any = None, **named: Any) -> Any:
        made = getattr(channel or self.channel, kind)(f"/{SERVICE}/{kind}", *serializers, **named)
        return self._wrap_method(made, self.auth) if self._wrap_method and self.auth else made

    def stub(self, make: Callable[[Any], Any]) -> Any:
        """A generated stub whose calls bring tokens."""
        stub = make(self.channel)
        return grpc_bearer.wrap_stub(stub, self.auth) if self._wrap_method and self.auth else stub

    def act(self, **part: Any) -> Act:
        act = self.stage.put(self.name, Act(**part))
        self._acts.append(act)
        return act

    def check_tokens(self) -> None:
        """Each attempt carried our header once."""
        for attempt in self.stage.attempts(self.name):
            sent = [value for key, value in attempt.metadata if key == "authorization"]
            assert sent == [f"Bearer {TOKEN}"], attempt.method

    def _release(self) -> None:
        for act in self._acts:
            act.release.set()


def prove(channel: Any) -> None:
    """Nobody is there to warm the channel with: say what core says when it runs our plugin."""
    if hasattr(channel, "_attachment"):
        channel._attachment.prove(f"https://localhost/{SERVICE}", f"/{SERVICE}")


def ways(way: Callable[..., Any], make: Mapping[str, Callable[..., Any]]) -> dict[str, Any]:
    """The same for sync and asyncio, but for what makes the channels."""
    interceptor = "interceptors" if "interceptors" in make else "interceptor"
    return {
        "cold": way(make["ours"], main=True),
        "warm": way(make["ours"], warm=True, main=True),
        "cold_once": way(make["once"]),
        "warm_once": way(make["once"], warm=True),
        "core": way(make["ours"], auth=single_use),
        "intercept_channel": way(make["intercept_channel"]),
        "wrap_stub": way(make["plain"], method=wrap_method),
        interceptor: way(make[interceptor], "intercepted", main=True),
        "under_users": way(make["under_users"], "intercepted"),
        "over_users": way(make["over_users"], "intercepted", warm=True),
        "composite": way(make["composite"]),
        "clear": way(make["clear"], clear=True, main=True),
        "clear_warm": way(make["clear"], clear=True, warm=True),
    }
