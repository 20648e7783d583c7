"""The sync interceptor.

It learns with each call what is behind it. Where that is gRPC's own channel, with nobody in between, and core has run
our plugin on it through an interceptor once, the token goes as metadata; everywhere else, through core.
"""

from __future__ import annotations

import contextvars
import time
import weakref
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import grpc

from grpc_bearer._auth import AuthLike, BearerAuth, as_auth
from grpc_bearer._base.not_credentials import NotCredentials
from grpc_bearer._calls.attach_token import NOBODY, WAIT, Attachment, Carrier, Route, materialised
from grpc_bearer._calls.attempt_history import AttemptHistory
from grpc_bearer._calls.call_details import changed
from grpc_bearer._calls.channel_security import attachment_for
from grpc_bearer._calls.grpc_private import is_blocking, sync_channel_behind
from grpc_bearer._calls.grpc_types import CallDetails, Metadata
from grpc_bearer._calls.replay import NotReplayable, snapshot
from grpc_bearer._calls.retry_policy import DEFAULT, RetryPolicy, checked_policy
from grpc_bearer._calls.sync_call import SyncCall
from grpc_bearer._calls.sync_iterator_call import whole

Continuation = Callable[[Any, Any], Any]


class BearerInterceptor(
    grpc.AuthMetadataPlugin,
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """A client interceptor of all four kinds, and an `AuthMetadataPlugin`.

    Make one with `grpc_bearer.interceptor(auth)`.

    >>> import grpc_bearer
    >>> channel = grpc.secure_channel("localhost:1", grpc.ssl_channel_credentials())
    >>> channel = grpc.intercept_channel(channel, grpc_bearer.interceptor("s3cret"))
    """

    _credentials: Any = NotCredentials()

    def __init__(self, auth: BearerAuth, policy: RetryPolicy | None, allow_plaintext: bool) -> None:
        self._auth = auth
        self._how: Any = {"plaintext": allow_plaintext, "retry": policy}
        self._attachment = self._intercepting(Attachment(auth, None, **self._how))  # of what is not known; never proved
        self._attachments: WeakKeyDictionary[object, Attachment] = WeakKeyDictionary()
        # Most programs have one channel, and to look it up costs more than all else here.
        self._last: tuple[Callable[[], object], Attachment] = (lambda: None), self._attachment

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        self._auth(context, callback)

    def _attachment_of(self, channel: Any) -> Attachment:
        """The attachment of a channel that is behind a call; `None`: it is not known what is."""
        if channel is None:
            return self._attachment
        # Of two threads that make one at once, the first one's counts.
        attachment = self._attachments.get(channel) or self._attachments.setdefault(
            channel, self._intercepting(attachment_for(channel, self._auth, **self._how))
        )
        self._last = weakref.ref(channel), attachment
        return attachment

    def _route(self, continuation: Continuation, details: CallDetails) -> Route:
        channel = sync_channel_behind(continuation)
        last, attachment = self._last
        if channel is None or last() is not channel:
            attachment = self._attachment_of(channel)
        return attachment.route(details.method)

    def _intercepting(self, attachment: Attachment) -> Attachment:
        attachment.intercepts = True
        return attachment

    def _intercept(
        self,
        continuation: Continuation,
        details: CallDetails,
        route: Route,
        request: object,
        replay: NotReplayable | None = None,
    ) -> Any:
        metadata, began = materialised(details.metadata), time.monotonic()
        sent, carried, carrier = route.plan(metadata, *_own(details))
        inner = None
        if carrier is not WAIT:
            inner = whole(continuation(changed(details, details.timeout, sent, carried), request))
            # A blocking call has ended by now, and gRPC's own object for its outcome says it best.
            if carrier is None or (inner.done() and not isinstance(inner, grpc.RpcError)):
                return inner
        return _call(continuation, details, metadata, route, request, replay, inner, carrier, began)

    # The names of arguments are gRPC's, and so are their types.
    def _intercept_one(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        route, details = self._route(continuation, client_call_details), client_call_details
        if is_blocking(continuation):
            # Nearly every call comes with nothing of its own and finds the token at hand: in as few steps as can be.
            lease, waits = None, getattr(details, "wait_for_ready", None)
            if details.metadata is None and getattr(details, "credentials", None) is None and not waits:
                lease = route.at_hand()
            if lease is not None:
                began = time.monotonic()
                outcome = continuation(changed(details, details.timeout, lease.metadata, None), request)
                if not isinstance(outcome, grpc.RpcError):  # gRPC's own object says it best
                    return outcome
                return _call(continuation, details, None, route, request, None, outcome, lease, began)
        elif route.policy is not None:
            # A call that is handed out goes on while the caller does what they want with the request.
            request = snapshot(request)
        return self._intercept(continuation, details, route, request)

    def _intercept_many(self, continuation: Continuation, client_call_details: Any, request_iterator: Any) -> Any:
        route = self._route(continuation, client_call_details)
        return self._intercept(
            continuation, client_call_details, route, request_iterator, NotReplayable(request_iterator)
        )

    intercept_unary_unary = _intercept_one
    intercept_unary_stream = _intercept_one
    intercept_stream_unary = _intercept_many
    intercept_stream_stream = _intercept_many

    def __repr__(self) -> str:
        return f"BearerInterceptor({self._auth!r})"


def _own(details: CallDetails) -> tuple[grpc.CallCredentials | None, bool | None]:
    """Credentials and `wait_for_ready`, where whoever made the details knows them."""
    return getattr(details, "credentials", None), getattr(details, "wait_for_ready", None)


def _call(
    continuation: Continuation,
    details: CallDetails,
    metadata: Metadata | None,
    route: Route,
    request: object,
    replay: NotReplayable | None,
    inner: Any,
    carrier: Carrier,
    began: float,
) -> Any:
    """What the user gets of a call that may be made again: what counts, if that is known by now."""
    credentials, wait_for_ready = _own(details)

    def make(left: float | None, sent: Metadata | None, credentials: grpc.CallCredentials | None) -> Any:
        return whole(continuation(changed(details, left, sent, credentials), request))

    deadline = None if details.timeout is None else began + details.timeout
    caller = contextvars.copy_context() or NOBODY
    begun = (AttemptHistory, route, make, metadata, credentials, wait_for_ready, deadline, began, caller)
    call = SyncCall(begun, replay, inner, carrier)
    return call.outcome() or call


def interceptor(
    auth: AuthLike, *, retry: RetryPolicy | None = DEFAULT, allow_plaintext: bool = False
) -> BearerInterceptor:
    """A `BearerInterceptor` for `grpc.intercept_channel`.

    Args:
        auth: as for `secure_channel`.
        retry: likewise; request streams are never sent again here, since their serializer is the channel's own.
        allow_plaintext: tokens may travel in the clear on the channels it is used on.
    """
    return BearerInterceptor(as_auth(auth), checked_policy(retry), allow_plaintext)
