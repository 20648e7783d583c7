"""What is known here of gRPC's objects that gRPC does not promise. Seen with grpcio 1.66 to 1.85.

Each function says what happens where gRPC's objects are other than these: calls take the way through core, which is
slower and never less safe.
"""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Sequence
from typing import Any

import grpc

# The modules whose classes lead straight to core. What others derive from them does not count.
_OWN = ("grpc._channel", "grpc.aio._channel")


def is_grpcs(thing: object) -> bool:
    """Whether this is exactly a channel or a multicallable of gRPC's own, with nobody in between but, in asyncio, the
    interceptors that it tells of in `_interceptors`; more may be added to them at any time.

    Without it no channel is ever proved, and requests are kept as copies, not as bytes.
    """
    kind = type(thing)
    if kind.__module__ not in _OWN or getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind:
        return False
    return kind.__module__ == _OWN[0] or hasattr(thing, "_interceptors") or hasattr(thing, "_unary_unary_interceptors")


def target_of(thing: Any) -> str | None:
    """Where a channel or a multicallable of gRPC's own leads. Without it the channel is never proved.

    Sync objects and asyncio's keep it in different places. Core itself is not asked: of a closed channel that would be
    a crash.
    """
    target = getattr(thing, "_target", None) or getattr(getattr(thing, "_channel", None), "target", None)
    if isinstance(target, bytes):
        target = target.decode()
    return target if isinstance(target, str) else None


def interceptors_of(thing: object) -> Sequence[Any]:
    """Those of a channel or a multicallable, for unary calls.

    Without it, two auths under one header are noticed call by call, and not when they are put together.
    """
    attributes = getattr(thing, "__dict__", {})
    if "_interceptor" in attributes:  # what grpc.intercept_channel makes has one each
        return (attributes["_interceptor"],)
    return attributes.get("_interceptors") or attributes.get("_unary_unary_interceptors") or ()


def below(multicallable: Any, interceptors: Sequence[Any]) -> Any:
    """The same asyncio multicallable of gRPC's own (`is_grpcs`) with other interceptors."""
    other = copy.copy(multicallable)
    other._interceptors = list(interceptors)
    return other


def leads_straight(continuation: Any) -> bool:
    """Whether what grpc.aio gave an interceptor makes the call itself, with no other interceptor in between.

    Without it the token of such a call goes through core.
    """
    if type(continuation) is not functools.partial or continuation.keywords or not continuation.args:
        return False
    run = continuation.func  # a method; before grpcio 1.81 a function inside of one
    inside = getattr(run, "__globals__", None) is vars(sys.modules["grpc.aio._interceptor"])
    return inside and continuation.args[0] == []


def hidden_failure(call: Any) -> Any:
    """The failed call in what `grpc.intercept_channel` makes of an error that came out of an interceptor.

    To every other question that answers INTERNAL. `None`, if this is nothing of the kind; without it such a failure is
    not retried.
    """
    if type(call).__module__ != "grpc._interceptor" or not call.done():
        return None
    error = call.exception()
    return error if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Future) else None


def is_response(call: Any) -> bool:
    """Whether this is what grpc.aio makes of a response, or of messages, that an interceptor gave in place of a call.

    It has ended well, and tells nobody. Without it, asking to be told raises, as grpc.aio does.
    """
    if type(call).__module__ != "grpc.aio._interceptor":
        return False
    return hasattr(call, "_response") or getattr(call, "_call", call) is None


def intercepted(call: Any) -> Any:
    """The call that an asyncio interceptor has returned, once it has, in what grpc.aio shows in its place; others as
    they are. Without it, an error of ours that comes through another wrapper of ours is taken for the server's."""
    task = getattr(call, "_interceptors_task", None)
    if task is None or not task.done() or task.cancelled() or task.exception() is not None:
        return call
    return task.result()
