"""What a user can see of a call, an error or a value, as plain values that compare.

Names of private classes, ports, times and addresses differ from run to run and are left out; all else counts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import grpc
from grpc import aio

PUBLIC_TYPES = (
    asyncio.CancelledError,
    asyncio.InvalidStateError,
    aio.AioRpcError,
    aio.Channel,
    aio.Metadata,
    aio.StreamStreamCall,
    aio.StreamStreamMultiCallable,
    aio.StreamUnaryCall,
    aio.StreamUnaryMultiCallable,
    aio.UnaryStreamCall,
    aio.UnaryStreamMultiCallable,
    aio.UnaryUnaryCall,
    aio.UnaryUnaryMultiCallable,
    aio.UsageError,
    aio.Call,
    aio.RpcContext,
    grpc.Call,
    grpc.Channel,
    grpc.Future,
    grpc.FutureCancelledError,
    grpc.FutureTimeoutError,
    grpc.RpcContext,
    grpc.RpcError,
    grpc.StreamStreamMultiCallable,
    grpc.StreamUnaryMultiCallable,
    grpc.UnaryStreamMultiCallable,
    grpc.UnaryUnaryMultiCallable,
    Exception,
)

# What of a text is this run's own, or private.
_OWN = (
    (re.compile(r"Stream removed \((.*?)\)"), r"\1"),  # core says it either way, as threads happen to run
    (re.compile(r"<\w+ of RPC"), "<a call of RPC"),
    (re.compile(r'\tdebug_error_string = ".*?"\n>', re.DOTALL), ">"),  # looked at for itself
    # Of a deadline that passed before the call was sent, core before 1.80 says either.
    (
        re.compile(r'^(UNKNOWN:Error received from peer .*grpc_message:"|DEADLINE_EXCEEDED:)Deadline Exceeded.*'),
        "DEADLINE_EXCEEDED:Deadline Exceeded",
    ),
    # As Cython says it, until its version 3.1.
    (re.compile(r"need more than (\d) values? to unpack"), r"not enough values to unpack (expected 2, got \1)"),
    (re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?"), "#"),  # addresses in memory, ports, sockets, moments
)

REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
TOLD = ("code", "details", "debug_error_string", "initial_metadata", "trailing_metadata")


def scrubbed(text: str | None) -> str | None:
    if text is not None:
        for pattern, instead in _OWN:
            text = pattern.sub(instead, text)
        # Older versions of core list what they know in any order.
        text = re.sub(r"\{(\w+:[^{}]*)\}", lambda known: "{" + ", ".join(sorted(known[1].split(", "))) + "}", text)
    return text


def rough(seen: Any) -> Any:
    """Without the text that tells what the channel was doing at that moment."""
    if isinstance(seen, dict):
        told = ("types", "code", "cancelled", "done", "raised")
        return {name: rough(value) for name, value in seen.items() if name in told}
    return [rough(value) for value in seen] if isinstance(seen, (list, tuple)) else seen


def types(value: object) -> list[str]:
    """Which of gRPC's public types, and the like, the value is."""
    return [kind.__name__ for kind in PUBLIC_TYPES if isinstance(value, kind)]


def running(value: object) -> bool:
    """Whether it is a call in flight, which had better not be asked for its end; gRPC's sync calls are errors too."""
    return isinstance(value, grpc.Future) and not value.done()


def plain(value: Any) -> Any:
    """A value that compares, whatever it was."""
    if isinstance(value, BaseException) and not running(value):
        return error(value)
    if isinstance(value, TracebackType):
        return "traceback"
    if isinstance(value, str):
        return scrubbed(value)
    if isinstance(value, float):
        return "positive" if value > 0 else 0
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (tuple, list, aio.Metadata)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, bytes, grpc.StatusCode)):
        return value
    return types(value) or type(value).__name__


def error(caught: BaseException) -> dict[str, Any]:
    """An error as its catcher sees it."""
    seen: dict[str, Any] = {"types": types(caught), "text": scrubbed(str(caught)), "repr": scrubbed(repr(caught))}
    if not isinstance(caught, grpc.RpcError):
        return {**seen, "class": type(caught).__name__}
    for name in askable(caught, TOLD) if hasattr(caught, "code") else ():
        seen[name] = outcome(getattr(caught, name))
    if seen.get("code") not in REFUSALS:  # of these we tell the cause, and gRPC has none
        seen["cause"] = type(caught.__cause__).__name__
    return seen


def askable(call: Any, names: tuple[str, ...]) -> list[str]:
    """Those of its questions that a sync call has an answer for.

    Of a call that ended on this side gRPC never learns a debug string, and waits for one for ever.
    """
    local = call.code() is grpc.StatusCode.CANCELLED or str(call.details()).startswith("Exception ")
    return [name for name in names if hasattr(call, name) and not (local and name == "debug_error_string")]


def outcome(ask: Callable[[], Any]) -> Any:
    """The answer, or what was raised instead."""
    try:
        return plain(ask())
    except (Exception, asyncio.CancelledError) as caught:
        return {"raised": error(caught)}


async def aoutcome(answer: Awaitable[Any] | Callable[[], Any]) -> Any:
    """The same, for what can be awaited; a function is called first, or called only."""
    try:
        if callable(answer) and not hasattr(answer, "__await__"):
            answer = answer()
        return plain(await answer if hasattr(answer, "__await__") else answer)
    except (Exception, asyncio.CancelledError) as caught:
        return {"raised": error(caught)}


def standing(call: Any) -> dict[str, Any]:
    """What a sync call tells without waiting, in any state."""
    asked = ("is_active", "time_remaining", "running", "done", "cancelled")
    return {"types": types(call), **{name: outcome(getattr(call, name)) for name in asked if hasattr(call, name)}}


def ended(call: Any) -> dict[str, Any]:
    """All that a sync call tells once it has ended; asked twice, the answers must not change."""
    answers = {
        name: outcome(getattr(call, name)) for name in askable(call, (*TOLD, "result", "exception", "traceback"))
    }
    again = {name: outcome(getattr(call, name)) for name in answers}
    same = {"same again": answers == again}
    return {
        **standing(call),
        **answers,
        **same,
        "cancel": outcome(call.cancel),
        "repr": scrubbed(repr(call)),
        "str": scrubbed(str(call)),
    }


def astanding(call: Any) -> dict[str, Any]:
    """What an asyncio call tells without waiting, in any state."""
    return {
        "types": types(call),
        **{name: outcome(getattr(call, name)) for name in ("time_remaining", "done", "cancelled")},
    }


async def aended(call: Any) -> dict[str, Any]:
    """All that an asyncio call tells once it has ended; asked twice, the answers must not change."""
    answers = {name: await aoutcome(getattr(call, name)) for name in TOLD}
    again = {name: await aoutcome(getattr(call, name)) for name in TOLD}
    # Of a call that was cancelled before it was sent some kinds wait for ever.
    answers["wait_for_connection"] = await aoutcome(asyncio.wait_for(call.wait_for_connection(), 0.1))
    late = {"same again": answers | again == answers, "cancel": outcome(call.cancel)}
    return {**astanding(call), **answers, **late}
