"""How the token reaches a call: as metadata, or through core.

An `Attachment` is what is known of one wrapped channel; a `Route` is one method behind it, and plans each of its
attempts.

Metadata costs nothing and is used when the token is at hand, reusable and fresh, *and core has already run our plugin
on this very channel*: channel credentials are opaque and TLS-looking ones can be plaintext, so only core can prove that
a channel may carry tokens. In every other case the call goes out with call credentials of its own, an `Attempt`, and
core does the waiting, under the call's own deadline and cancellation. The proof lives with the wrapped channel, never
with the auth.
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal
from weakref import WeakSet

import grpc

from grpc_bearer._auth import BearerAuth
from grpc_bearer._base.arguments import checked_flag
from grpc_bearer._base.token import CallContext, Shared
from grpc_bearer._calls import fork
from grpc_bearer._calls.combine import CALLER, both, doubled, filling, owner_of
from grpc_bearer._calls.grpc_types import Entry, Metadata
from grpc_bearer._calls.retry_policy import RetryPolicy, checked_policy
from grpc_bearer._engine.engine import Engine, Lease
from grpc_bearer.errors import (
    ConfigurationError,
    GrpcBearerError,
    InsecureChannelError,
    TokenError,
    TokenRejectedError,
    TokenUnavailableError,
)

Attach = Literal["auto", "metadata", "call_credentials"]

# So many methods are remembered of an interceptor's channel: more than any service has, and little memory.
_ROUTES = 1024


class Attachment(Shared):
    """What is known of one wrapped channel.

    Args:
        auth: whose tokens go through it.
        target: where the channel leads; `None`: not known for sure, or somebody stands between it and us, so that its
            calls always go through core.
        direct: the channel is gRPC's own, so that it may be given requests as bytes; others want messages.
        plaintext: the user said that tokens may travel in the clear here.
        attach: `"metadata"` lets single-use tokens go as metadata too.
        retry: when a refused call is made once more; `None`: never.
    """

    __slots__ = (
        "_routes",
        "auth",
        "closing",
        "direct",
        "engine",
        "header",
        "intercepts",
        "mints",
        "plaintext",
        "provable",
        "proven",
        "retry",
        "target",
        "url",
        "waiting",
    )

    def __init__(
        self,
        auth: BearerAuth,
        target: str | None,
        *,
        direct: bool = False,
        plaintext: bool = False,
        attach: Attach = "auto",
        retry: RetryPolicy | None = None,
    ) -> None:
        self.auth: BearerAuth = auth
        self.target: str | None = target
        self.direct: bool = direct
        self.engine: Engine = auth._engine
        self.header: str = auth.header
        self.plaintext: bool = checked_flag("allow_plaintext", plaintext)
        self.intercepts: bool = False
        self.retry: RetryPolicy | None = checked_policy(retry)
        source = auth._source
        #: Its tokens are made on the caller's own thread where they go as metadata.
        self.mints: bool = source.local and (plaintext or (attach == "metadata" and source.single_use))
        self.closing: bool = False
        self.waiting: WeakSet[Any] = WeakSet()  # asyncio calls that have not begun, for want of a token
        self._routes: dict[str | bytes, Route] = {}
        self.provable: bool = target is not None
        self.proven: bool = False
        # Core tells the true one when it runs the plugin; in the clear it never does.
        self.url: str = f"http://{(target or '').rpartition('/')[2]}" if plaintext else ""

    def route(self, method: str | bytes) -> Route:
        """The route of a method, for those who learn of it with each call."""
        route = self._routes.get(method)
        if route is None:
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            route = self._routes[method] = Route(self, method)
        return route

    def prove(self, service_url: str, service_path: str) -> None:
        """Core ran our plugin: it found privacy and integrity, so the channel may carry tokens."""
        if self.provable and not self.proven:
            self.url = service_url.removesuffix(service_path)
            self.proven = True


class Attempt(grpc.AuthMetadataPlugin):
    """Call credentials of one call: they know whether the plugin ran, and with what it answered.

    Args:
        route: the method.
        avoid: the fingerprint of a token that the server has refused; it is not sent again.
        patient: rather wait for a token than fail while none is to be had.
        impossible: why the call cannot be made: the plugin answers with it, and nothing is sent.
    """

    __slots__ = ("_avoid", "_caller", "_impossible", "_patient", "_route", "context", "error", "lease", "ran", "same")

    def __init__(
        self,
        route: Route,
        avoid: str | None = None,
        *,
        patient: bool = False,
        impossible: GrpcBearerError | None = None,
    ) -> None:
        self._route: Route | None = route
        self._avoid = avoid
        self._patient = patient
        self._impossible = impossible
        # Thousands of calls may wait for one token: what they can share they share.
        self._caller = contextvars.copy_context() or NOBODY
        self.context = route.context
        self.ran = False
        self.same = False
        self.lease: Lease | None = None
        self.error = impossible

    def credentials(self, attachment: Attachment, theirs: grpc.CallCredentials | None = None) -> grpc.CallCredentials:
        """As gRPC takes them, beside those of another auth if there are such.

        Made in an empty context: gRPC keeps a copy of all context variables that are set here, for each call.
        """
        plugin: Any = fork.lend(self)
        made: grpc.CallCredentials = contextvars.Context().run(grpc.metadata_call_credentials, plugin, "grpc-bearer")
        return both(theirs, filling(made, attachment.header, attachment.auth))

    def retire(self) -> None:
        """The attempt is over: hold on to nothing. grpc.aio (1.85) never lets go of the credentials of a call."""
        self._route, self._caller = None, NOBODY
        self.context, self.lease = _NOWHERE, None

    def waits(self) -> bool:
        """Whether the call has not ended, as far as is known."""
        return self._route is not None

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        self._caller.copy().run(self._answer, context, callback)

    def _answer(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        route = self._route
        if route is None:
            callback((), TokenUnavailableError("the call has ended"))
            return
        # Core asks again for each attempt that it makes itself; the last one is the one that counts.
        self.ran, self.lease, self.error = True, None, self._impossible
        if self.error is not None:
            callback((), self.error)
            return
        attachment = route.attachment
        attachment.prove(context.service_url, route.service_path)
        self.context = route.context_of(context)
        deliver, patient = _Delivery(self, callback), self.waits if self._patient else None
        attachment.engine.request(self.context, deliver, own_thread=True, patient=patient)

    def take(self, lease: Lease | None, error: GrpcBearerError | None) -> tuple[Lease | None, GrpcBearerError | None]:
        """What has come for this call, and what it means for it."""
        if lease is not None and self._avoid is not None and lease.token.fingerprint == self._avoid:
            self.same, lease, error = True, None, TokenRejectedError("the source has no other token")
        if self._route is not None:
            self.lease, self.error = lease, error
        return lease, error


class _Delivery:
    """Brings core what has come for an attempt; smaller than a partial."""

    __slots__ = ("_attempt", "_callback")

    def __init__(self, attempt: Attempt, callback: grpc.AuthMetadataPluginCallback) -> None:
        self._attempt = attempt
        self._callback = callback

    def __call__(self, lease: Lease | None, error: GrpcBearerError | None) -> None:
        lease, error = self._attempt.take(lease, error)
        self._callback(() if lease is None else lease.metadata, error)


_NOWHERE = CallContext()
#: The context variables of a caller that has none: thousands of calls share it. It is copied, never entered.
NOBODY = contextvars.Context()


#: What carried the token of an attempt: metadata, call credentials, or nothing of ours.
Carrier = Lease | Attempt | None

#: The plan of a call that has to wait for its token before it may start; only where core cannot do the waiting.
WAIT: Any = object()


class Route:
    """One method of a channel; plans each attempt of its calls.

    Args:
        attachment: the channel.
        method: `/package.Service/Method`.
    """

    __slots__ = ("_context", "_method", "attachment", "policy", "service_path")

    def __init__(self, attachment: Attachment, method: str | bytes) -> None:
        path = method.decode() if isinstance(method, bytes) else method
        self.attachment: Attachment = attachment
        service_path, _, self._method = path.rpartition("/")
        self.service_path: str = service_path
        retry = attachment.retry
        # Of a method without a name nobody knows whether it is one of those that are excluded.
        again = retry is not None and (retry.applies(path) if path else not retry.exclude)
        self.policy: RetryPolicy | None = retry if again else None
        self._context: CallContext | None = None

    @property
    def path(self) -> str:
        """`package.Service/Method`."""
        return f"{self.service_path}/{self._method}".strip("/")

    @property
    def context(self) -> CallContext:
        """The call as a source sees it; the same as core tells the plugin."""
        if self._context is not None:
            return self._context
        context = CallContext(self.attachment.url + self.service_path, self._method, self.attachment.auth._clock)
        if self.attachment.url:  # until core has told where the channel leads, this is but a guess
            self._context = context
        return context

    def context_of(self, asked: grpc.AuthMetadataContext) -> CallContext:
        """The same for a call of which core tells; one for all calls, unless core tells something new."""
        known, url, method = self.context, asked.service_url, asked.method_name
        if known.service_url == url and known.method == method:
            return known
        return CallContext(sys.intern(url), sys.intern(method), self.attachment.auth._clock)

    def at_hand(self) -> Lease | None:
        """The token for a call with nothing of its own, if it can go as metadata right away: the hot path of `plan`."""
        attachment = self.attachment
        return attachment.engine.peek(self._context or self.context) if attachment.proven else None

    def refuse_wait(self) -> None:
        """Asked on a thread that may be about to wait for a token; see `Source.refuse_wait`."""
        try:
            self.attachment.auth._source.refuse_wait()
        except ConfigurationError:
            # With a token at hand nobody will wait, as far as that can be said before the channel's URL is known.
            if not self.attachment.url or self.attachment.engine.peek(self.context) is None:
                raise

    def _is_ours(self, text: object) -> bool:
        """Whether it is the same auth, around the channel once more, that has put this text under our header."""
        held = self.attachment.engine.held(self.context) if isinstance(text, str) else None
        return held is not None and held.metadata[0][1] == text

    def plan(
        self,
        metadata: Metadata | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        avoid: str | None = None,
    ) -> tuple[Metadata | None, grpc.CallCredentials | None, Carrier]:
        """Metadata and credentials to make the call with, and the carrier of its token (or `WAIT`).

        One identity a call: credentials of the caller's own, or metadata of theirs under our header, go out as they
        are. Nobody's metadata object is ever changed.

        Args:
            metadata: the caller's, materialised.
            credentials: the caller's.
            wait_for_ready: the caller's.
            avoid: the fingerprint of a token not to be sent again.
        """
        attachment = self.attachment
        if metadata is not None or credentials is not None:
            owner = owner_of(attachment.header, metadata, credentials)
            if owner is CALLER or owner is attachment.auth or self._is_ours(owner):
                return metadata, credentials, None
            if owner is not None:
                attempt = Attempt(self, impossible=doubled(attachment.header))
                return metadata, attempt.credentials(attachment, credentials), attempt
        # A call that waits for its connection may wait longer than its token lives; core asks once connected.
        if attachment.plaintext or (attachment.proven and not wait_for_ready):
            context = self._context or self.context
            lease = attachment.engine.peek(context) or attachment.engine.renewing(context)
            if lease is None and attachment.mints:
                lease = _minted(attachment.engine, self.context)
            if lease is not None and (avoid is None or lease.token.fingerprint != avoid):
                return (*metadata, *lease.metadata) if metadata else lease.metadata, credentials, lease
            if attachment.plaintext:
                return metadata, credentials, WAIT
        attempt = Attempt(self, avoid, patient=bool(wait_for_ready))
        return metadata, attempt.credentials(attachment, credentials), attempt


def _minted(engine: Engine, context: CallContext) -> Lease | None:
    """A token made ahead or on the caller's thread; `None` if that failed: who asks next will be told why."""
    lease = engine.take(context)
    if lease is not None:
        return lease
    made: list[Lease | None] = []
    engine.request(context, lambda lease, error: made.append(lease))
    return made[0] if made else None


def materialised(metadata: Metadata | Iterable[Entry] | None) -> Metadata | None:
    """The caller's metadata, in a form that can be read more than once."""
    if metadata is None or isinstance(metadata, Collection) or not isinstance(metadata, Iterable):
        return metadata
    return tuple(metadata)


def explain(carrier: Carrier, code: grpc.StatusCode | None) -> GrpcBearerError | None:
    """Our own error behind a failed attempt; `None` if the failure is the server's, the network's or the caller's."""
    if not isinstance(carrier, Attempt):
        return None
    # Core turns every failure of a plugin into UNAVAILABLE, whatever it was.
    if carrier.error is not None and (code is grpc.StatusCode.UNAVAILABLE or not carrier.ran):
        return carrier.error.fresh()
    if not carrier.ran and code is grpc.StatusCode.UNAUTHENTICATED:
        return InsecureChannelError(
            "the channel does not protect what it carries, so the token was not sent; use TLS credentials, "
            "grpc.local_channel_credentials() for loopback and Unix sockets, or allow_plaintext=True for a mesh that "
            "encrypts below"
        )
    return None


def honest_code(error: GrpcBearerError) -> grpc.StatusCode:
    """The status of a call that failed for `error`, which core would have called UNAVAILABLE."""
    return error.code if isinstance(error, TokenError) else grpc.StatusCode.UNAUTHENTICATED


def check_attach(attach: Attach) -> Attach:
    if attach not in ("auto", "metadata", "call_credentials"):
        raise ConfigurationError(f"attach: expected 'auto', 'metadata' or 'call_credentials', got {attach!r}")
    return attach


def with_attach_options(options: Sequence[tuple[str, Any]] | None, attach: Attach) -> Sequence[tuple[str, Any]] | None:
    # Core's retries, the transparent ones too, would send a single-use token again.
    if attach != "metadata":
        return options
    # Of two equal options core takes the first.
    return (*(option for option in options or () if option[0] != "grpc.enable_retries"), ("grpc.enable_retries", 0))
