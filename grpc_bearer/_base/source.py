"""What every source is: one method that gets a token, in plain blocking code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING

from grpc_bearer._base.token import CallContext, Token
from grpc_bearer._base.user_code import nobody

if TYPE_CHECKING:
    from grpc_bearer._base.identity import Identity


class Source(ABC):
    """Where tokens come from.

    A source knows nothing of caching, threads, loops or channels: the engine calls `fetch` on a thread of its own,
    never twice at once for one key, and keeps what it returns. Write `fetch`; override `key` only if tokens differ by
    call.

    >>> class Clockwork(Source):
    ...     def fetch(self, context: CallContext) -> Token:
    ...         return Token("tick", expires_at=context.clock.time() + 60)
    >>> Clockwork().fetch(CallContext())  # doctest: +ELLIPSIS
    Token(<hidden>, expires_at=...)
    """

    #: True if each attempt needs a token of its own; nothing is kept then, and `fetch` runs for each attempt.
    single_use: bool = False

    #: True if `fetch` is quick and does no I/O (such as a signature). A single-use token is then made on the thread
    #: that asks for it; so is a token for all, if the system gives no other thread.
    local: bool = False

    #: True if its tokens are signed on this machine, so that its clock decides what they are worth.
    signs: bool = False

    #: How many single-use tokens of a key the engine may make ahead of their use. Only for a `local` source, and only
    #: if calls with equal keys may use each other's tokens.
    presign: int = 0

    #: True if its credential is read anew for each fetch, from a file or a function. Somebody may replace it there, so
    #: after a refusal it is tried again soon.
    replaceable: bool = False

    #: Seconds after which those who wait for a fetch are told that it takes too long (it goes on). More makes sense
    #: only where a person has to do something.
    fetch_timeout: float = 60.0

    #: Headers that are sent beside each token. No secrets.
    beside: tuple[tuple[str, str], ...] = ()

    #: Modules that `fetch` imports. The auth imports them when it is built: later no file may be left to open.
    needs: tuple[str, ...] = ()

    #: False if a shared cache is of no use, since this process has the token at hand (a file, a text).
    worth_sharing: bool = True

    @abstractmethod
    def fetch(self, context: CallContext) -> Token:
        """Get a token, blocking.

        Raises:
            TokenError: one of its subclasses, with no secret in it nor in anything it is chained to.
            SigningError: the key cannot be used.
        """

    def _fetch_or_take(self, context: CallContext) -> tuple[Token, bool]:
        """A token, and whether another process had fetched it already."""
        return self.fetch(context), False

    def key(self, context: CallContext) -> Hashable:
        """Which calls may share a token: those with equal keys. The default is one token for all."""
        return ()

    def _seen_by_functions(self) -> Context:
        """The context variables that functions of the user's see: the caller's where a `key` may tell callers apart."""
        return nobody() if getattr(self.key, "__func__", None) is Source.key else copy_context()

    def identity(self) -> Identity | None:
        """Who this source is, for a cache that processes share: whoever gives an equal one may use its tokens.

        `None`: it cannot tell; the cache then needs `encryption_key=` and `name=`.
        """
        return None

    def refuse_wait(self) -> None:
        """Asked on a thread that is about to wait for a `fetch` elsewhere; most sources have nothing against it.

        Raises:
            ConfigurationError: the fetch needs this very thread, and the wait would never end.
        """
        return

    def close(self) -> None:
        """Give up what the source holds (sessions, loops). Idempotent."""
        return
