"""`RetryPolicy.attempts`: a block of the user's own, tried again with another token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from grpc_bearer._base.token import CallContext
from grpc_bearer._calls.failure import Failure
from grpc_bearer._engine.engine import Engine, Lease

#: Seconds for which a source is waited for that does no I/O.
PATIENCE = 1.0

#: Seconds until the next attempt, from the failure, the attempts made and the seconds gone; `None`: there is none.
Decide = Callable[[Failure, int, float], "float | None"]


def renewable(engine: Engine, lease: Lease, context: CallContext) -> bool:
    """Give up a refused token, if it is still the current one; whether another is to be had."""
    if engine.invalidate(lease.token.fingerprint) or engine.single_use:
        return True
    held = engine.held(context)
    return held is None or held.token.fingerprint != lease.token.fingerprint


def replaceable(engine: Engine, lease: Lease, context: CallContext) -> bool:
    """As `renewable`, and begin to fetch the other one: a source that answers at once may have none."""
    if not renewable(engine, lease, context) or engine.single_use:
        return engine.single_use
    others: list[Lease | None] = []
    if engine.local:  # no time to speak of
        others += (engine.wait(context, PATIENCE) or ())[:1]
    else:
        engine.request(context, lambda other, error: others.append(other))
    return not others or (others[0] is not None and others[0].token.fingerprint != lease.token.fingerprint)


class LocalError(grpc.RpcError):
    """What marks an error as made on our side of the wire: no other token cures it."""


class RetriedBlock:
    """RetriedBlock at a block: iterate with `for` or `async for`, and put the block into `with attempt:`.

    It ends after the first block that raises nothing. An error that is not to be retried passes through.
    """

    def __init__(self, engine: Engine, context: CallContext, decide: Decide, timeout: float | None) -> None:
        self._engine = engine
        self._context = context
        self._decide = decide
        self._timeout = timeout
        self._began = time.monotonic()
        self._made = 0
        self._delay: float | None = 0.0
        self._lease: Lease | None = None

    def __iter__(self) -> Iterator[RetriedBlock]:
        while self._delay is not None:
            time.sleep(self._delay)
            yield self._begun()

    async def __aiter__(self) -> AsyncIterator[RetriedBlock]:
        while self._delay is not None:
            await asyncio.sleep(self._delay)
            yield self._begun()

    def _begun(self) -> RetriedBlock:
        self._made += 1
        self._delay = None
        self._lease = self._engine.held(self._context)
        return self

    @property
    def number(self) -> int:
        """Which attempt this is; the first is 1."""
        return self._made

    def __enter__(self) -> RetriedBlock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, grpc.RpcError) and not isinstance(error, LocalError):
            self._delay = self._after(error)
        return self._delay is not None

    def _after(self, error: grpc.RpcError) -> float | None:
        failure = failure_in(error)
        if failure is None:
            return None
        elapsed = time.monotonic() - self._began
        delay = self._decide(failure, self._made, elapsed)
        if delay is None or (self._timeout is not None and elapsed + delay >= self._timeout):
            return None
        lease = self._lease or self._engine.held(self._context)
        if lease is not None and not replaceable(self._engine, lease, self._context):
            return None
        from grpc_bearer.events import CallRetried

        notify, context = self._engine.notify, self._context
        method = f"{context.service}/{context.method}" if context.method else ""
        notify(CallRetried(*notify.who, method=method, code=failure.code.name, attempt=self._made, delay=delay))
        return delay


def failure_in(error: grpc.RpcError) -> Failure | None:
    """How the call behind an error failed; `None` if the error does not say."""
    call: Any = error
    try:
        initial, trailing = call.initial_metadata(), call.trailing_metadata()
        return Failure(error, call.code(), call.details() or "", tuple(initial or ()), tuple(trailing or ()))
    except AttributeError:
        return None
