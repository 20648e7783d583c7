"""`CallableSource`: what a function of the user's returns, or awaits."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Hashable
from contextvars import Context, copy_context

from grpc_bearer._base.arguments import checked_seconds, seconds_or_none
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Token, TokenFunction
from grpc_bearer._base.user_code import called, name_of, nobody
from grpc_bearer.errors import ConfigurationError, TokenFormatError
from grpc_bearer.sources._loop import awaited, background_loop, runs_here
from grpc_bearer.sources._parse import jwt_expiry, made_token, no_older

__all__ = ["CallableSource"]


class CallableSource(Source):
    """The token that a function returns: `fn()`, or `await fn()` if what it returns can be awaited.

    A function whose one required parameter can be given by position, or that has one called `context`, is given the
    `CallContext`; each service and method then has a token of its own, unless `key` says otherwise.
    A coroutine runs on one private event loop, on a daemon thread that all sources share, or on `loop`.
    Whatever the function raises is told by the name of its type only, since its text may hold a secret. To say more,
    raise a `TokenUnavailableError` or a `TokenRejectedError`.

    Args:
        fn: returns a `str` or a `Token`. A `str` that is a JWT expires at its `exp`, any other never.
        loop: the running loop for coroutines, if what they use is bound to one.
        timeout: seconds that a coroutine may take. A plain function is not bounded: give its own I/O a timeout.
        key: which calls may share a token: those for which `key(context)` is equal.
        max_age: seconds after which the function is asked again, at the latest. Without it a token that does not tell
            when it expires is asked for once, and kept until a server refuses it.

    Raises:
        ConfigurationError: an argument is wrong.

    >>> CallableSource(lambda: "s3cret").fetch(CallContext())
    Token(<hidden>)
    """

    def __init__(
        self,
        fn: TokenFunction,
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        timeout: float = 30.0,
        key: Callable[[CallContext], Hashable] | None = None,
        max_age: float | None = None,
    ) -> None:
        if not callable(fn):
            raise ConfigurationError(f"expected a function, got {type(fn).__name__}", field="fn")
        if loop is not None and not isinstance(loop, asyncio.AbstractEventLoop):
            raise ConfigurationError(f"expected an asyncio event loop, got {type(loop).__name__}", field="loop")
        if key is not None and not callable(key):
            raise ConfigurationError(f"expected a function of the CallContext, got {type(key).__name__}", field="key")
        self._fn = fn
        self._loop = loop
        self._timeout = checked_seconds("timeout", timeout)
        self._key = key
        self._max_age = seconds_or_none("max_age", max_age)
        self._wants_context = _wants_context(fn)
        # Whoever gives a loop has something to await on it; without one, this is known if `fn` is a coroutine function.
        self._awaits = loop is not None or inspect.iscoroutinefunction(fn)
        self._where = f"{name_of(fn)}()"

    def __repr__(self) -> str:
        return f"CallableSource({name_of(self._fn)})"

    def key(self, context: CallContext) -> Hashable:
        """One token for all, or one for each service and method if the function asks for the context."""
        if self._key is not None:
            return self._key(context)
        return (context.service_url, context.method) if self._wants_context else ()

    def refuse_wait(self) -> None:
        """Refuse to wait on the thread of the loop that is to make the token: it would wait for itself.

        `fetch` asks this itself; whoever waits for a `fetch` on another thread must ask it first.

        Raises:
            ConfigurationError: the calling thread runs that loop.
        """
        if self._awaits and runs_here(self._loop):
            raise ConfigurationError(
                "its coroutine needs the event loop that runs on this thread, and waiting for it here "
                "would block that loop for ever; use grpc_bearer.aio or `await auth.atoken()`, or leave out loop=",
                field=self._where,
            )

    def fetch(self, context: CallContext) -> Token:
        """Call the function, and wait for what it returns.

        Raises:
            TokenError: as the function raised it; `TokenUnavailableError` for any other exception, for a loop that does
                not run, and after `timeout`; `TokenFormatError` if what it returned is no token.
            ConfigurationError: called on the thread of the loop that would have to make the token.
        """
        self.refuse_wait()
        return self._seen_by_functions().run(self._made, context)

    def _seen_by_functions(self) -> Context:
        return nobody() if self._key is None else copy_context()

    def _made(self, context: CallContext) -> Token:
        now = context.clock.time()
        result = called(self._where, self._fn, *([context] if self._wants_context else []))
        if inspect.isawaitable(result):
            result = awaited(result, self._loop or background_loop(), self._timeout, self._where)
        if isinstance(result, str):
            result = made_token(self._where, result, now=now, expires_at=jwt_expiry(result))
        if not isinstance(result, Token):
            raise TokenFormatError(f"{self._where}: should return a str or a Token, not {type(result).__name__}")
        return result if self._max_age is None else no_older(result, now + self._max_age)


def _wants_context(fn: Callable[..., object]) -> bool:
    """Whether to pass the context: one required parameter, or an optional one by that name.

    Not any other optional one (`lambda secret=secret: ...` is a habit), nor `*args` (a decorator's wrapper).
    """
    try:
        parameters = inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):  # some builtins tell nothing
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) > 1 or (required and required[0] not in positional):
        raise ConfigurationError(
            f"{name_of(fn)} has required parameters {', '.join(p.name for p in required)}; "
            "it is called with nothing, or with the CallContext alone",
            field="fn",
        )
    return bool(required) or bool(positional and positional[0].name == "context")
