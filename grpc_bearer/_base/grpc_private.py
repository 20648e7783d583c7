"""What is known here of gRPC's objects that gRPC does not promise. Seen with grpcio 1.66 to 1.85.

Each function says what happens where gRPC's objects are other than these: calls take the way through core, which is
slower and never less safe.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import importlib
import sys
import weakref
from collections.abc import Callable, Sequence
from types import FunctionType, MethodType
from typing import Any

import grpc

# The modules whose classes lead straight to core. What others derive from them does not count.
_SYNC, _AIO, _CORE = "grpc._channel", "grpc.aio._channel", "grpc._cython.cygrpc"


def is_grpcs(thing: object) -> bool:
    """Whether this is exactly a channel or a multicallable of gRPC's own, with nobody in between but, in asyncio, the
    interceptors that it tells of in `_interceptors`; more may be added to them at any time.

    Without it no channel is ever proved, and requests are kept as copies, not as bytes.
    """
    kind = type(thing)
    if kind.__module__ not in (_SYNC, _AIO, _CORE) or not _is_of(thing, kind.__module__):
        return False
    return kind.__module__ != _AIO or hasattr(thing, "_interceptors") or hasattr(thing, "_unary_unary_interceptors")


def target_of(thing: Any) -> str | None:
    """Where a channel or a multicallable of gRPC's own leads, or asyncio's channel inside of core.

    Without it the channel is never proved; so it is in asyncio before grpcio 1.81.

    Sync objects and asyncio's keep it in different places. Core itself is not asked: of a closed channel that would be
    a crash.
    """
    inside = getattr(thing, "_channel", None)
    target = getattr(thing, "_target", None) or getattr(inside, "target", None) or getattr(thing, "target", None)
    if callable(target):  # of sync channels
        target = None
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


def core_of(thing: Any) -> Any:
    """Core's channel, to which a channel or multicallable of gRPC's own leads; `None` for those of others."""
    return getattr(thing, "_channel", None) if is_grpcs(thing) else None


def sync_channel_behind(continuation: Any) -> Any:
    """The channel of gRPC's own to which the continuation of a sync interceptor leads, with nobody in between.

    `None`: that cannot be said, and the token of the call goes through core. A function of gRPC's is known by what
    nobody else's has, the dictionary of gRPC's module for its globals; in it stands the multicallable, in whose thunk
    stands what `grpc.intercept_channel` made of the channel, whose own method the thunk will call: tracers put another
    in its place, on one channel or on the class.
    """
    multicallable = _self_in(continuation, "grpc._interceptor")
    intercepted = _self_in(getattr(multicallable, "_thunk", None), "grpc._interceptor")
    channel = getattr(intercepted, "_channel", None)
    if channel is None or not is_grpcs(channel):
        return None
    method = getattr(channel, _METHODS.get(type(multicallable).__name__, ""), None)
    inside = getattr(getattr(method, "__func__", None), "__globals__", None)
    return channel if inside is _globals(_SYNC) else None


_METHODS = {
    "_UnaryUnaryMultiCallable": "unary_unary",
    "_UnaryStreamMultiCallable": "unary_stream",
    "_StreamUnaryMultiCallable": "stream_unary",
    "_StreamStreamMultiCallable": "stream_stream",
}


def is_blocking(continuation: Any) -> bool:
    """Whether the call will have ended when this continuation of gRPC's returns. Without it, a request is copied."""
    return ".with_call." in continuation.__qualname__ or "._with_call." in continuation.__qualname__


def aio_channel_behind(continuation: Any) -> Any:
    """Core's channel on which what grpc.aio gave an interceptor makes the call, with no other interceptor to come.

    `None`: that cannot be said, and the token of the call goes through core.
    """
    if type(continuation) is not functools.partial or continuation.keywords or not continuation.args:
        return None
    if continuation.args[0] != []:  # the interceptors still to come
        return None
    run = continuation.func  # a method; before grpcio 1.81 a function inside of one
    if type(run) is MethodType:
        inside = getattr(run.__func__, "__globals__", None) is _globals("grpc.aio._interceptor")
        call = run.__self__ if inside else None
    else:
        call = _self_in(run, "grpc.aio._interceptor")
    return getattr(call, "_channel", None) if _is_of(call, "grpc.aio._interceptor") else None


def _self_in(function: Any, module: str) -> Any:
    """What `self` is in a function that stands in a method of gRPC's; `None`, if this is another's function."""
    if type(function) is not FunctionType or function.__globals__ is not _globals(module):
        return None
    try:
        found = (function.__closure__ or ())[function.__code__.co_freevars.index("self")].cell_contents
    except (IndexError, ValueError):
        return None
    return found if _is_of(found, module) else None


def _is_of(thing: object, module: str) -> bool:
    """Whether the class of a thing is exactly one of this module's."""
    return _globals(module).get(type(thing).__name__) is type(thing)


def _globals(module: str) -> dict[str, Any]:
    return sys.modules[module].__dict__ if module in sys.modules else {}


def hidden_failure(call: Any) -> Any:
    """The failed call in what `grpc.intercept_channel` makes of an error that came out of an interceptor.

    To every other question that answers INTERNAL. `None`, if this is nothing of the kind; without it such a failure is
    not retried.
    """
    if type(call).__module__ != "grpc._interceptor" or not call.done():
        return None
    error = call.exception()
    return error if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Future) else None


def is_plain(call: object) -> bool:
    """Whether this is exactly an asyncio call of gRPC's own, with nobody's interceptor in it: it ends as calls do.

    Without it, two more questions are asked of each call.
    """
    return type(call).__module__ == "grpc.aio._call"


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


def if_interceptors_raise(call: Any, tell: Callable[[], None]) -> None:
    """Hear of it when an asyncio interceptor raises, of which grpc.aio tells nobody in its older versions (1.66).

    Without it, such a call never ends there for those who wait for its end.
    """

    def ended(task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is not None:
            tell()

    task = getattr(call, "_interceptors_task", None)
    if task is not None:
        task.add_done_callback(ended)


def is_closed(channel: Any) -> bool:
    """Whether a sync channel is closed. Without it, a stub made on one that is may crash the process, as with gRPC."""
    while channel is not None and type(channel).__module__ in (_SYNC, "grpc._interceptor"):
        channel = getattr(channel, "_channel", None)
    try:
        channel.check_connectivity_state(False)
    except ValueError:
        return True
    except Exception:
        return False
    return False


def let_status_come(call: Any, sent_all_in: Callable[[object], bool]) -> None:
    """Keep an asyncio call with a request stream from cancelling itself when the server has ended it already.

    Once all requests were taken, grpc.aio (1.66 to 1.85) tells the server so in the task that took them, and if that
    fails it cancels the call: `await call` then raises CancelledError, and the status that was on its way is lost. So
    what that task wants to cancel goes on until its status has come.

    Args:
        call: of gRPC's own; others are left as they are.
        sent_all_in: whether it is in this task that all requests were taken.
    """
    if type(call).__module__ == "grpc.aio._call":
        call.cancel = functools.partial(_cancel, weakref.ref(call), sent_all_in)


def _cancel(ref: weakref.ref[Any], sent_all_in: Callable[[object], bool]) -> bool:
    call = ref()
    if call is None or sent_all_in(asyncio.current_task()):
        return False
    return bool(type(call).cancel(call))


def load_plugin_wrapper() -> None:
    """Import what gRPC imports for the first call credentials. Without it the first call does."""
    with contextlib.suppress(ImportError):
        importlib.import_module("grpc._plugin_wrapping")
