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
    """Whether this is exactly a channel or a multicallable of gRPC's own, so that nobody stands between it and core.

    Except, in asyncio, the interceptors that it has in `_interceptors`, to which some may be added at any time.
    Without it no channel is ever proved, and requests are kept as copies, not as bytes.
    """
    kind = type(thing)
    if kind.__module__ not in (_SYNC, _AIO, _CORE) or not _is_of(thing, kind.__module__):
        return False
    return kind.__module__ != _AIO or hasattr(thing, "_interceptors") or hasattr(thing, "_unary_unary_interceptors")


def target_of(thing: Any) -> str | None:
    """Where a channel or a multicallable of gRPC's own leads, or asyncio's channel inside of core.

    Without it the channel is never proved; so it is with asyncio before grpcio 1.81, which does not tell.

    Sync objects and asyncio's keep it in different places. Core itself is not asked: it crashes if the channel
    is closed.
    """
    inside = getattr(thing, "_channel", None)
    target = getattr(thing, "_target", None) or getattr(inside, "target", None) or getattr(thing, "target", None)
    if callable(target):  # of sync channels
        target = None
    if isinstance(target, bytes):
        target = target.decode()
    return target if isinstance(target, str) else None


def interceptors_of(thing: object) -> Sequence[Any]:
    """The interceptors of a channel or a multicallable, for unary calls.

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

    `None`: it is not known, and the token of the call goes through core. Each step on the way is gRPC's own function,
    which has the dictionary of gRPC's module for its globals, as nobody else's has:

    * the continuation was made in a method of the multicallable that `grpc.intercept_channel` gives;
    * that one's `_thunk` was made in a method of what `grpc.intercept_channel` returned, which has the channel;
    * the thunk will call a method of the channel. Tracers put their own in its place, on one channel or on the class.
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
    """Core's channel to which the continuation of an asyncio interceptor leads, if no other interceptor is to come.

    `None`: it is not known, and the token of the call goes through core.
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
    """The `self` of the method of gRPC's in which a function was made; `None` if the function is not gRPC's."""
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
    """The failed call inside of the one that users get if an interceptor lets a call's error through (sync).

    That one itself says INTERNAL, whatever the error was. `None`, if this is nothing of the kind. Without it such a
    failure is not retried.
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
    """Whether grpc.aio made this because an interceptor returned a response, or messages, in place of a call.

    It has ended well from the start, and calls no done-callbacks. Without it, adding one raises, as in grpc.aio.
    """
    if type(call).__module__ != "grpc.aio._interceptor":
        return False
    return hasattr(call, "_response") or getattr(call, "_call", call) is None


def intercepted(call: Any) -> Any:
    """The call that an asyncio interceptor has returned, if `call` stands for it in grpc.aio; otherwise `call` itself.

    Without it, an error of ours that comes through another wrapper of ours is taken for the server's.
    """
    task = getattr(call, "_interceptors_task", None)
    if task is None or not task.done() or task.cancelled() or task.exception() is not None:
        return call
    return task.result()


def if_interceptors_raise(call: Any, tell: Callable[[], None]) -> None:
    """Call `tell` when an asyncio interceptor raises: older versions of grpc.aio (1.66) call no done-callback then.

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
    """Import what gRPC imports for the first call credentials: later no file may be left to open. Without it the first
    call imports it."""
    with contextlib.suppress(ImportError):
        importlib.import_module("grpc._plugin_wrapping")
