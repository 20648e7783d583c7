"""Whose context a source runs in where no caller is at hand: on the timer of `keep_warm`, and without a key."""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from attachments import TLS, eventually, nothing_in_flight

from grpc_bearer import BearerAuth, CallableSource, CallContext, HTTPTokenSource, JWTSource, Token
from grpc_bearer.errors import TokenError
from grpc_bearer.sources.jwt import PerToken
from grpc_bearer.testing import ManualClock, Request, Response, TokenServer, throwaway_key

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


def test_a_body_function_without_a_key_runs_in_an_empty_context(tmp_path: Path) -> None:
    def answer(request: Request) -> Response:
        return Response(200, f"token-of-{request.body.decode()}".encode())

    with TokenServer(TLS) as server:
        url = server.serve("/token", answer)
        source = HTTPTokenSource(url, body=lambda: tenant.get("nobody"), ca=TLS.write(tmp_path))
        with BearerAuth(source) as auth:
            assert as_tenant("alice", auth.token).value == "token-of-nobody"

        class PerTenant(HTTPTokenSource):
            def key(self, context: CallContext) -> str:
                return tenant.get()

        keyed = PerTenant(url, body=lambda: tenant.get("nobody"), ca=TLS.write(tmp_path))
        with BearerAuth(keyed) as auth:
            assert [as_tenant(name, auth.token).value for name in NAMES] == [f"token-of-{name}" for name in NAMES]


def test_a_claim_made_anew_for_each_token_sees_no_caller_where_callers_share_it() -> None:
    def claimed(token: Token) -> str:
        return str(jwt.decode(token.value, options={"verify_signature": False})["who"])

    key = throwaway_key("ES256")
    claims = {"who": PerToken(lambda: tenant.get("nobody"))}
    with BearerAuth(JWTSource(key, claims=claims)) as auth:
        assert claimed(as_tenant("alice", auth.token)) == "nobody"
    with BearerAuth(JWTSource(key, claims=claims, single_use=True)) as auth:
        assert claimed(as_tenant("alice", auth.token)) == "alice"


def test_a_function_that_asks_for_its_own_token_is_told_so_though_it_sees_no_caller() -> None:
    with (
        BearerAuth(lambda: auth.token(timeout=5).value) as auth,
        pytest.raises(TokenError, match="that very token"),
    ):
        auth.token(timeout=5)
