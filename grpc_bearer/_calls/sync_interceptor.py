"""The sync interceptor.

It learns with each call what is behind it. Where that is gRPC's own channel, with nobody in between, and core has run
our plugin on it through an interceptor once, the token goes as metadata; everywhere else, through core.
"""

from __future__ import annotations

import contextvars
import functools
import time
import weakref
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import grpc

from grpc_bearer._auth import AuthLike, BearerAuth, as_auth
from grpc_bearer._base.not_credentials import NotCredentials
from grpc_bearer._calls.attach_token import WAIT, Attachment, Route, materialised
from grpc_bearer._calls.attempt_history import AttemptHistory
from grpc_bearer._calls.call_details import changed
from grpc_bearer._calls.channel_security import attachment_for
from grpc_bearer._calls.grpc_private import is_blocking, sync_channel_behind
from grpc_bearer._calls.grpc_types import CallDetails
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

    def _attachment_behind(self, continuation: Continuation) -> Attachment:
        channel = sync_channel_behind(continuation)
        if channel is None:
            return self._attachment
        last, attachment = self._last
        if last() is not channel:
            # Of two threads that make one at once, the first one's counts.
            attachment = self._attachments.get(channel) or self._attachments.setdefault(
                channel, self._intercepting(attachment_for(channel, self._auth, **self._how))
            )
            self._last = weakref.ref(channel), attachment
        return attachment

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
        metadata, timeout = materialised(details.metadata), details.timeout
        wait_for_ready = getattr(details, "wait_for_ready", None)
        credentials = getattr(details, "credentials", None)
        carrier: Any = None
        if metadata is None and credentials is None and not wait_for_ready:
            carrier = route.at_hand()
        if carrier is not None:
            sent, carried = carrier.metadata, None
        else:
            sent, carried, carrier = route.plan(metadata, credentials, wait_for_ready)
        began = time.monotonic()
        inner = None
        if carrier is not WAIT:
            inner = whole(continuation(changed(details, timeout, sent, carried), request))
            # A blocking call has ended by now, and gRPC's own object for its outcome says it best.
            if carrier is None or (inner.done() and not isinstance(inner, grpc.RpcError)):
                return inner

        def make(left: float | None, sent: Any, credentials: Any) -> Any:
            return whole(continuation(changed(details, left, sent, credentials), request))

        deadline = None if timeout is None else began + timeout
        begun = functools.partial(
            AttemptHistory,
            route,
            make,
            metadata,
            credentials,
            wait_for_ready,
            deadline,
            began,
            contextvars.copy_context(),
        )
        call = SyncCall(begun, replay, inner, carrier)
        return call.outcome() or call

    # The names of arguments are gRPC's, and so are their types.
    def _intercept_one(self, continuation: Continuation, client_call_details: Any, request: Any) -> Any:
        route = self._attachment_behind(continuation).route(client_call_details.method)
        # A call that is handed out goes on while the caller does what they want with the request.
        if route.policy is not None and not is_blocking(continuation):
            request = snapshot(request)
        return self._intercept(continuation, client_call_details, route, request)

    def _intercept_many(self, continuation: Continuation, client_call_details: Any, request_iterator: Any) -> Any:
        route = self._attachment_behind(continuation).route(client_call_details.method)
        return self._intercept(
            continuation, client_call_details, route, request_iterator, NotReplayable(request_iterator)
        )

    intercept_unary_unary = _intercept_one
    intercept_unary_stream = _intercept_one
    intercept_stream_unary = _intercept_many
    intercept_stream_stream = _intercept_many

    def __repr__(self) -> str:
        return f"BearerInterceptor({self._auth!r})"


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
