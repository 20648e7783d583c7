"""All that is used here of gRPC's objects and is not public: what it is for, in which versions of grpcio it was seen
(the oldest and the newest that were looked at), and what happens without it.

Each function answers that it does not know where gRPC has something else in its place. Then tokens go through core:
calls become slower, and some are not made again that could be, but no token goes where it should not.
`tests/wire/test_grpc_private.py` runs calls of all kinds with everything in this module taken away.

What gRPC reads of our objects stands there: `AioCall._channel`, `_done_writing_flag`, and what `Around` passes on.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import weakref
from collections.abc import Awaitable, Callable, Sequence
from types import FunctionType, MethodType
from typing import Any

import grpc

from grpc_bearer._calls.grpc_types import Metadata
from grpc_bearer._calls.owners import is_function_of, is_of, names_of, self_of

# The modules whose classes lead straight to core. What others derive from them does not count.
_SYNC, _AIO, _CORE = "grpc._channel", "grpc.aio._channel", "grpc._cython.cygrpc"
# Those of asyncio's calls, and of what stands between a call and a channel where there are interceptors.
_AIO_CALL, _SYNC_INTERCEPTOR, _AIO_INTERCEPTOR = "grpc.aio._call", "grpc._interceptor", "grpc.aio._interceptor"


def is_grpcs(thing: object) -> bool:
    """Whether this is exactly a channel or a multicallable of gRPC's own: nobody stands between it and core but, in
    asyncio, the interceptors that it has; more may be added at any time.

    Seen: 1.66 to 1.85. Without it no channel is ever proved, and requests are kept as copies, not as bytes.
    """
    kind = type(thing)
    if kind.__module__ not in (_SYNC, _AIO, _CORE) or not is_of(thing, names_of(kind.__module__)):
        return False
    return kind.__module__ != _AIO or hasattr(thing, "_interceptors") or hasattr(thing, "_unary_unary_interceptors")


def is_sync_grpcs(thing: object) -> bool:
    """Whether this is of gRPC's sync half: its channel, one of its multicallables, what `grpc.intercept_channel` makes.

    Seen: 1.66 to 1.85. Without it, a forked child does not wait for its channels, and may lose its first call.
    """
    return type(thing).__module__ in (_SYNC, _SYNC_INTERCEPTOR)


def target_of(thing: object) -> str | None:
    """Where a channel or a multicallable of gRPC's own leads, or asyncio's channel inside of core.

    Sync objects and asyncio's keep it in different places. Core itself is not asked: it crashes if the channel is
    closed.

    Seen: 1.66 to 1.85 for sync channels, 1.81 to 1.85 for asyncio's. Without it only asyncio's that we opened
    ourselves are ever proved.
    """
    inside = getattr(thing, "_channel", None)
    target = getattr(thing, "_target", None) or getattr(inside, "target", None) or getattr(thing, "target", None)
    if callable(target):  # of sync channels
        target = None
    if isinstance(target, bytes):
        target = target.decode()
    return target if isinstance(target, str) else None


def opens_as_told(function: object) -> bool:
    """Whether an asyncio function that opens channels is gRPC's own, so that they lead where it was told.

    Seen: 1.66 to 1.85. Without it, our asyncio channels are not proved where gRPC's do not say where they lead.
    """
    return is_function_of(function, names_of(_AIO))


def method_of(multicallable: object) -> str | bytes:
    """`/package.Service/Method` of a multicallable; empty, if it does not say.

    Seen: 1.66 to 1.85. Without it, `wrap_stub` proves no channel, and makes no call again where any is excluded.
    """
    method = getattr(multicallable, "_method", "")
    return method if isinstance(method, (str, bytes)) else ""


def core_of(thing: object) -> Any:
    """Core's channel, to which a channel or multicallable of gRPC's own leads; `None` for those of others.

    Seen: 1.66 to 1.85. Without it, each method of a stub is proved by itself.
    """
    return getattr(thing, "_channel", None) if is_grpcs(thing) else None


def channel_in(thing: object) -> Any:
    """The channel to which what `grpc.intercept_channel` made leads; for what else says nothing, `None`.

    Seen: 1.66 to 1.85. Without it, two auths under one header are noticed when a call is made, and not before.
    """
    return getattr(thing, "__dict__", {}).get("_channel")


def is_closed(channel: Any) -> bool:
    """Whether a sync channel is closed.

    Seen: 1.66 to 1.85. Without it, a stub made on one that is may crash the process, as with gRPC.
    """
    while is_sync_grpcs(channel):
        channel = getattr(channel, "_channel", None)
    try:
        channel.check_connectivity_state(False)
    except Exception as error:
        return isinstance(error, ValueError)
    return False


def connectivity_of(channel: Any) -> int | None:
    """The state of the sync channel that this is, or leads to, as core's number; `None` if it cannot be asked.

    Seen: 1.66 to 1.85. Without it, a forked child does not wait for its channels, and may lose its first call.
    """
    try:
        # The public way to ask takes a thread of its own.
        while channel is not None and not hasattr(channel, "check_connectivity_state"):
            channel = getattr(channel, "_channel", None)  # of a multicallable; of what grpc.intercept_channel makes
        return None if channel is None else int(channel.check_connectivity_state(False))
    except Exception:  # it is closed
        return None


def aio_is_closed(thing: Any) -> bool:
    """Whether asyncio's channel inside of core is closed, or that of this asyncio multicallable.

    Seen: 1.66 to 1.85. Without it, a call on a closed channel may wait for its token in vain, and memory is not freed.
    """
    try:
        return bool(getattr(thing, "_channel", thing).closed())
    except AttributeError:
        return False


# ------------------------------------------------------------------------------------------------------ interceptors


def interceptors_of(thing: object) -> Sequence[object]:
    """The interceptors of a channel or a multicallable, for unary calls.

    Seen: 1.66 to 1.85. Without it, as without `channel_in`.
    """
    attributes = getattr(thing, "__dict__", {})
    if "_interceptor" in attributes:  # what grpc.intercept_channel makes has one each
        return (attributes["_interceptor"],)
    return attributes.get("_interceptors") or attributes.get("_unary_unary_interceptors") or ()


def aio_interceptors(multicallable: Any) -> Sequence[object]:
    """Those of an asyncio multicallable of gRPC's own (`is_grpcs`), as they are now.

    Seen: 1.66 to 1.85. Without it `is_grpcs` says no, and nobody asks.
    """
    interceptors: Sequence[object] = multicallable._interceptors
    return interceptors


def below(multicallable: Any, interceptors: Sequence[object]) -> Any:
    """The same asyncio multicallable of gRPC's own with other interceptors; as `aio_interceptors`."""
    other = copy.copy(multicallable)
    other._interceptors = list(interceptors)
    return other


def sync_channel_behind(continuation: object) -> Any:
    """The channel of gRPC's own to which the continuation of a sync interceptor leads, with nobody in between.

    * The continuation was made in a method of the multicallable that `grpc.intercept_channel` gives;
    * that one's `_thunk` was made in a method of what `grpc.intercept_channel` returned, which has the channel;
    * the thunk will call a method of the channel. Tracers put their own in its place, on one channel or on the class.
    All of it may change, so it is walked for each call; in one frame, for every call pays for each.

    Seen: 1.66 to 1.85. Without it (`None`) the tokens of an interceptor's calls go through core.
    """
    names, core, methods = _sync_names()
    if type(continuation) is not FunctionType or continuation.__globals__ is not names:
        return None
    try:
        multicallable = self_of(continuation)
        method = methods[type(multicallable)]
        thunk = multicallable._thunk
        if type(thunk) is not FunctionType or thunk.__globals__ is not names:
            return None
        made = self_of(thunk)
        if type(made) is not names["_Channel"]:
            return None
        channel = made._channel
        if type(channel) is not core["Channel"]:
            return None
        function = getattr(channel, method).__func__
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None
    return channel if type(function) is FunctionType and function.__globals__ is core else None


@functools.cache
def _sync_names() -> tuple[dict[str, Any], dict[str, Any], dict[Any, str]]:
    """The names in gRPC's modules of sync interceptors and channels; the channel's method for each multicallable."""
    names, methods = names_of(_SYNC_INTERCEPTOR), ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
    kinds = {names.get(f"_{name.title().replace('_', '')}MultiCallable"): name for name in methods}
    return names, names_of(_SYNC), kinds


def is_blocking(continuation: object) -> bool:
    """Whether the call will have ended when this continuation of a sync interceptor returns.

    Seen: 1.66 to 1.85. Without it, a request is copied that need not be.
    """
    return is_function_of(continuation, names_of(_SYNC_INTERCEPTOR)) and "with_call." in continuation.__qualname__


def aio_channel_behind(continuation: object) -> Any:
    """Core's channel to which the continuation of an asyncio interceptor leads, if no other interceptor is to come.

    Seen: 1.66 to 1.85. Without it (`None`) the tokens of an interceptor's calls go through core.
    """
    if type(continuation) is not functools.partial or continuation.keywords:
        return None
    if continuation.args[:1] != ([],):  # the interceptors still to come
        return None
    run: Any = continuation.func  # a method; before grpcio 1.81 a function inside of one
    names, inside = names_of(_AIO_INTERCEPTOR), type(run) is not MethodType
    if not is_function_of(run if inside else run.__func__, names):
        return None
    try:
        call = self_of(run) if inside else run.__self__
    except (IndexError, TypeError, ValueError):
        return None
    return getattr(call, "_channel", None) if is_of(call, names) else None


# ---------------------------------------------------------------------------------------------------------------- calls


def status_of(call: Any) -> grpc.StatusCode | None:
    """The status of a sync future or stream; `None` while it has not ended. Takes no lock of gRPC's, and never waits.

    Seen: 1.66 to 1.85. Without it the call is asked in public, which takes its lock twice.
    """
    try:
        return call._state.code  # type: ignore[no-any-return]  # untyped
    except AttributeError:
        return call.code() if call.done() else None


def headers_at_hand(call: object) -> Metadata:
    """Initial metadata of a sync call, as far as it has come; `initial_metadata()` would wait for it.

    Seen: 1.66 to 1.85. Without it, what the server says in its headers of a refusal (its time, say) is not read.
    """
    return getattr(getattr(call, "_state", None), "initial_metadata", None) or ()


def hidden_failure(call: Any) -> Any:
    """The failed call inside of the one that users get if an interceptor lets a call's error through (sync). That one
    itself says INTERNAL, whatever the error was. `None`, if this is nothing of the kind.

    Seen: 1.66 to 1.85. Without it such a failure is not retried.
    """
    if type(call).__module__ != _SYNC_INTERCEPTOR or not call.done():
        return None
    error = call.exception()
    return error if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Future) else None


def is_plain(call: object) -> bool:
    """Whether this is exactly an asyncio call of gRPC's own, with nobody's interceptor in it: it ends as calls do.

    Seen: 1.66 to 1.85. Without it, two more questions are asked of each call.
    """
    return type(call).__module__ == _AIO_CALL


def is_response(call: object) -> bool:
    """Whether grpc.aio made this because an interceptor returned a response, or messages, in place of a call. It has
    ended well from the start, and calls no done-callbacks.

    Seen: 1.66 to 1.85. Without it, adding one raises, as in grpc.aio.
    """
    if type(call).__module__ != _AIO_INTERCEPTOR:
        return False
    return hasattr(call, "_response") or getattr(call, "_call", call) is None


def intercepted(call: object) -> object:
    """The call that an asyncio interceptor has returned, if `call` stands for it in grpc.aio; otherwise `call` itself.

    Seen: 1.66 to 1.85. Without it, an error of another wrapper of ours is taken for the server's, and costs a retry.
    """
    task = getattr(call, "_interceptors_task", None)
    if task is None or not task.done() or task.cancelled() or task.exception() is not None:
        return call
    return task.result()


def if_interceptors_raise(call: object, tell: Callable[[], None]) -> None:
    """Call `tell` when an asyncio interceptor raises: older versions of grpc.aio (1.66) call no done-callback then.

    Seen: 1.66 to 1.85. Without it, such a call never ends there for those who wait for its end.
    """

    def ended(task: asyncio.Task[object]) -> None:
        if not task.cancelled() and task.exception() is not None:
            tell()

    task = getattr(call, "_interceptors_task", None)
    if task is not None:
        task.add_done_callback(ended)


def went_well(call: Any) -> bool:
    """Whether an asyncio call has ended with OK, as gRPC itself asks.

    Seen: 1.66 to 1.85. Without it (`False`) its status is asked for, which takes four coroutines.
    """
    try:
        well: bool = call._cython_call.is_ok()
    except AttributeError:
        return False
    return well


def locally_cancelled(call: Any) -> bool:
    """Whether an asyncio call was cancelled by this side, and not by the server, as gRPC itself asks.

    Seen: 1.66 to 1.85. Without it, and of an interceptor's call, it is whether it was cancelled, by whomever.
    """
    try:
        return bool(call._cython_call.is_locally_cancelled())
    except AttributeError:
        return bool(call.cancelled())


def raw_read(call: object) -> Callable[[], Awaitable[object]] | None:
    """What reads the next message of an asyncio stream even when its status is known, which `read` does not.

    Seen: 1.66 to 1.85. Without it, a stream that has ended while it was written to may show INTERNAL, as with gRPC.
    """
    return getattr(call, "_read", None)


def aio_channel_of(call: object) -> Any:
    """Core's channel of an asyncio call.

    Seen: 1.66 to 1.85; up to 1.80 gRPC itself reads it of running calls, when their channel is closed. Without it, the
    calls are ended by core then.
    """
    return getattr(call, "_channel", None) or getattr(getattr(call, "_cython_call", None), "_channel", None)


def let_status_come(call: Any, sent_all_in: Callable[[object], bool]) -> None:
    """Keep an asyncio call with a request stream from cancelling itself when the server has ended it already.

    Once all requests were taken, grpc.aio tells the server so in the task that took them, and if that fails it cancels
    the call: `await call` then raises CancelledError, and the status that was on its way is lost. So what that task
    wants to cancel goes on until its status has come.

    Seen: 1.66 to 1.85. Without it, such a call is cancelled, as with gRPC, and not made again.

    Args:
        call: of gRPC's own; others are left as they are.
        sent_all_in: whether it is in this task that all requests were taken.
    """
    if is_plain(call):
        call.cancel = functools.partial(_cancel, weakref.ref(call), sent_all_in)


def _cancel(ref: weakref.ref[Any], sent_all_in: Callable[[object], bool]) -> bool:
    call = ref()
    if call is None or sent_all_in(asyncio.current_task()):
        return False
    return bool(type(call).cancel(call))
