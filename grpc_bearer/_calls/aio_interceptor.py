"""The asyncio interceptors: four objects, since `grpc.aio` takes each object for one kind of call only.

As in the sync one: where gRPC's own channel is behind it, with nobody in between, the token goes as metadata once core
has proved it, and everywhere else through core.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import grpc
from grpc import aio

from grpc_bearer._auth import AuthLike, BearerAuth, as_auth
from grpc_bearer._calls.aio_call import AioCall
from grpc_bearer._calls.aio_call_kinds import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from grpc_bearer._calls.aio_errors import Ended, refused
from grpc_bearer._calls.aio_replay import AsyncReplayBuffer, unkept
from grpc_bearer._calls.attach_token import NOBODY, WAIT, Attachment, Route, materialised
from grpc_bearer._calls.attempt_history import AttemptHistory
from grpc_bearer._calls.call_details import changed
from grpc_bearer._calls.channel_security import attachment_for, unproved
from grpc_bearer._calls.grpc_private import aio_channel_behind, aio_is_closed
from grpc_bearer._calls.grpc_types import AioRequests, CallDetails, Metadata
from grpc_bearer._calls.replay import UNKNOWN, serialise, snapshot
from grpc_bearer._calls.retry_policy import DEFAULT, UNKEPT, RetryPolicy, checked_policy
from grpc_bearer._engine.engine import Lease

Continuation = Callable[[Any, Any], Awaitable[Any]]


class Attachments:
    """One `Attachment` for each of core's channels that our interceptors were found on.

    Such a channel takes no weak reference, so it is held until it is closed and another one comes.
    """

    def __init__(self, auth: BearerAuth, policy: RetryPolicy | None, *, allow_plaintext: bool) -> None:
        self._auth = auth
        self._how: Any = {"plaintext": allow_plaintext, "retry": policy}
        self.unknown = Attachment(auth, None, **self._how)  # what is behind it is not known, so it is never proved
        self._known: dict[int, tuple[Any, Attachment]] = {}

    def behind(self, continuation: Continuation) -> Attachment:
        channel = aio_channel_behind(continuation)
        if channel is None:
            return self.unknown
        held = self._known.get(id(channel))
        if held is None:
            self._known = {number: each for number, each in self._known.items() if not aio_is_closed(each[0])}
            held = self._known[id(channel)] = channel, attachment_for(channel, self._auth, **self._how)
        return held[1]


class OneAttachment:
    """The attachment of a channel of ours, for the interceptor that stands innermost on it.

    Args:
        attachment: of the channel.
        channel: core's channel that it leads to.
    """

    def __init__(self, attachment: Attachment, channel: Any) -> None:
        self._attachment = attachment
        self._channel = channel
        self.unknown = unproved(attachment)

    def behind(self, continuation: Continuation) -> Attachment:
        channel = aio_channel_behind(continuation)
        return self._attachment if channel is not None and channel is self._channel else self.unknown


class TokenMetadata:
    """A token's metadata as grpc.aio has it, made once a token: nobody behind us may change it where it is used."""

    _made: tuple[Lease | None, Any] = (None, None)

    def _metadata_of(self, lease: Lease) -> aio.Metadata:
        made = aio.Metadata(*lease.metadata)
        self._made = lease, made
        return made


class Interceptor(TokenMetadata):
    """What the four kinds share.

    Args:
        attachments: tells the attachment behind a call.
        serializer: of requests, where the continuation takes what `replay.serialise` gives.
    """

    _call: type[AioCall]

    def __init__(self, attachments: Attachments | OneAttachment, serializer: Any = UNKNOWN) -> None:
        self._attachments = attachments
        self._serializer = serializer

    async def _intercept(
        self,
        continuation: Continuation,
        details: CallDetails,
        route: Route,
        request: object,
        replay: AsyncReplayBuffer | None = None,
    ) -> Any:
        metadata, credentials, first = details.metadata, details.credentials, request
        lease, timeout, began = None, details.timeout, time.monotonic()
        if not metadata and credentials is None and not details.wait_for_ready:
            lease = route.at_hand()
        carrier: Any = lease
        if lease is not None:
            sent, carried = (self._made[1] if lease is self._made[0] else self._metadata_of(lease)), None
        else:
            metadata = materialised(metadata)
            planned, carried, carrier = route.plan(metadata, credentials, details.wait_for_ready)
            sent = None if planned is None or carrier is WAIT else aio.Metadata(*planned)
        if replay is not None:
            if carrier is None:
                replay.release()
            if carrier is not WAIT:
                first = replay.reader()
        inner = None
        if carrier is None:
            return await continuation(changed(details, timeout, sent, carried), first)
        if carrier is not WAIT:
            try:
                inner = await continuation(changed(details, timeout, sent, carried), first)
            except aio.UsageError as error:
                inner = refused(carrier, error)
            except aio.AioRpcError as error:  # of an interceptor that has awaited the call
                inner = Ended(error)
        caller = contextvars.copy_context() or NOBODY
        begun = (_history_of, continuation, details, metadata, route, request, replay, began, caller)
        return self._call(begun, replay, inner, carrier)

    # The names of arguments are gRPC's.
    def _intercept_one(
        self, continuation: Continuation, client_call_details: CallDetails, request: object
    ) -> Coroutine[Any, Any, Any]:
        route = self._attachments.behind(continuation).route(client_call_details.method)
        if self._serializer is not UNKNOWN:
            request = serialise(self._serializer, request)
        elif route.policy is not None:
            request = snapshot(request)
        return self._intercept(continuation, client_call_details, route, request)

    def _intercept_many(
        self, continuation: Continuation, client_call_details: CallDetails, request_iterator: AioRequests
    ) -> Coroutine[Any, Any, Any]:
        route = self._attachments.behind(continuation).route(client_call_details.method)
        if self._serializer is UNKNOWN:
            replay = unkept(request_iterator)
        else:
            policy = route.policy or UNKEPT
            replay = AsyncReplayBuffer(request_iterator, self._serializer, policy.replay_messages, policy.replay_bytes)
        return self._intercept(continuation, client_call_details, route, request_iterator, replay)


def _history_of(
    continuation: Continuation,
    details: CallDetails,
    metadata: Metadata | None,
    route: Route,
    request: object,
    replay: AsyncReplayBuffer | None,
    began: float,
    caller: contextvars.Context,
) -> AttemptHistory:
    """The history of an intercepted call; what its arguments mean is said at `AttemptHistory` and `_intercept`."""

    def make(left: float | None, sent: Metadata | None, credentials: grpc.CallCredentials | None) -> Awaitable[Any]:
        # Interceptors after us expect one of grpc.aio's, and may change it.
        mine = sent if sent is None else aio.Metadata(*sent)
        requests = request if replay is None else replay.reader()
        return continuation(changed(details, left, mine, credentials), requests)

    deadline = None if details.timeout is None else began + details.timeout
    own, wait_for_ready = details.credentials, details.wait_for_ready
    return AttemptHistory(route, make, metadata, own, wait_for_ready, deadline, began, caller)


class _UnaryUnary(Interceptor, aio.UnaryUnaryClientInterceptor):
    _call = UnaryUnaryCall
    intercept_unary_unary = Interceptor._intercept_one


class _UnaryStream(Interceptor, aio.UnaryStreamClientInterceptor):
    _call = UnaryStreamCall
    intercept_unary_stream = Interceptor._intercept_one


class _StreamUnary(Interceptor, aio.StreamUnaryClientInterceptor):
    _call = StreamUnaryCall
    intercept_stream_unary = Interceptor._intercept_many


class _StreamStream(Interceptor, aio.StreamStreamClientInterceptor):
    _call = StreamStreamCall
    intercept_stream_stream = Interceptor._intercept_many


#: gRPC's own kinds of multicallable, and our interceptor for each.
KINDS: dict[type, type[Interceptor]] = {
    aio.UnaryUnaryMultiCallable: _UnaryUnary,
    aio.UnaryStreamMultiCallable: _UnaryStream,
    aio.StreamUnaryMultiCallable: _StreamUnary,
    aio.StreamStreamMultiCallable: _StreamStream,
}


def interceptors(
    auth: AuthLike, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False
) -> list[aio.ClientInterceptor]:
    """Four interceptors for `grpc.aio.secure_channel(interceptors=...)`, one for each kind of call.

    Args:
        auth: as for `grpc_bearer.secure_channel`.
        retry: likewise; request streams are never sent again here, since their serializer is the channel's own.
        allow_plaintext: tokens may travel in the clear on the channels they are used on.
    """
    attachments = Attachments(as_auth(auth), checked_policy(retry), allow_plaintext=allow_plaintext)
    return [_UnaryUnary(attachments), _UnaryStream(attachments), _StreamUnary(attachments), _StreamStream(attachments)]
