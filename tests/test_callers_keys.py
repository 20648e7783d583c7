"""Whose context a source runs in where no caller is at hand: on the timer of `keep_warm`, and without a key."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from doors import eventually, nothing_in_flight

from grpc_bearer import BearerAuth, CallableSource, CallContext, Token
from grpc_bearer.errors import TokenError
from grpc_bearer.testing import ManualClock

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
NAMES = ("ada", "bob", "cyd")


def as_tenant(name: str, work: Callable[[], Any]) -> Any:
    context = contextvars.Context()
    context.run(tenant.set, name)
    return context.run(work)


class Short:
    """Tokens that live for 100 s by a clock moved by hand, of whoever is the tenant where they are fetched."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.fetched: Counter[str] = Counter()

    def auth(self, key: Callable[[CallContext], Any]) -> BearerAuth:
        return BearerAuth(CallableSource(self._fetch, key=key), keep_warm=True, clock=self.clock)

    def _fetch(self) -> Token:
        name = tenant.get("nobody")
        self.fetched[name] += 1
        return Token(f"{name}.{self.fetched[name] - 1}", expires_at=self.clock.time() + 100)


def test_a_token_kept_warm_is_refreshed_in_the_context_of_its_key_s_last_caller() -> None:
    short = Short()
    with short.auth(lambda context: tenant.get("nobody")) as auth:
        for name in NAMES:
            as_tenant(name, auth.token)
        short.clock.advance(99)
        assert eventually(lambda: nothing_in_flight(auth))

        held = [as_tenant(name, auth.token).value for name in NAMES]

    assert held == [f"{name}.1" for name in NAMES]
    assert short.fetched == dict.fromkeys(NAMES, 2)


def test_a_token_whose_key_has_become_another_is_not_kept_warm() -> None:
    """What a context variable holds may change: the key is asked again, and nothing is stored under the old one."""
    who: contextvars.ContextVar[list[str]] = contextvars.ContextVar("who")
    short, session = Short(), ["ada"]

    def token(auth: BearerAuth) -> str:
        who.set(session)
        tenant.set(session[0])
        return auth.token().value

    with short.auth(lambda context: who.get(["nobody"])[0]) as auth:
        first = contextvars.Context().run(token, auth)
        session[0] = "bob"
        short.clock.advance(99)
        assert eventually(lambda: nothing_in_flight(auth))
        kept = dict(short.fetched)
        session[0] = "ada"
        again = contextvars.Context().run(token, auth)

    assert (first, kept, again) == ("ada.0", {"ada": 1}, "ada.1")


async def _aasks() -> str:
    return tenant.get()


@pytest.mark.parametrize("fn", [lambda: tenant.get(), _aasks], ids=["function", "coroutine function"])
def test_a_function_without_a_key_that_asks_for_the_caller_is_told_of_key(fn: Any) -> None:
    """Its token is everybody's: with the caller's variables at hand bob would get alice's, without a word."""
    with BearerAuth(fn) as auth:
        for name in ("alice", "bob"):
            with pytest.raises(TokenError, match=r"LookupError.*key="):
                as_tenant(name, auth.token)


def test_a_function_without_a_key_runs_in_an_empty_context() -> None:
    with BearerAuth(lambda: f"token-of-{tenant.get('nobody')}") as auth:
        assert as_tenant("alice", auth.token).value == "token-of-nobody"
        assert as_tenant("bob", lambda: asyncio.run(auth.atoken())).value == "token-of-nobody"
