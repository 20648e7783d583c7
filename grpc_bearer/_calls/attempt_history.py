"""One RPC with its attempts: what it was asked with, what became of them, and whether there is another."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import grpc

from grpc_bearer._base.token import CallContext
from grpc_bearer._calls.attach_token import Attempt, Carrier, Route, explain
from grpc_bearer._calls.failure import Failure, too_large
from grpc_bearer._calls.grpc_types import Metadata
from grpc_bearer._calls.retry_block import renewable
from grpc_bearer._calls.retry_policy import RetryPolicy, delay_before, means_stale
from grpc_bearer._engine.engine import Deliver, Lease
from grpc_bearer._engine.notify import holding_back, tell
from grpc_bearer.errors import GrpcBearerError, TokenUnavailableError

#: Makes an attempt, given its timeout, metadata and credentials.
Make: TypeAlias = Callable[["float | None", "Metadata | None", "grpc.CallCredentials | None"], Any]

_T = TypeVar("_T")

#: Why a call is not made again of which something has been sent, or seen, that cannot be taken back.
SENT_OR_SEEN = "what was sent or received can no longer be taken back"

#: What servers answer when they do not take a token, whether another would help or not.
_REFUSALS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


class AttemptHistory:
    """The history of one RPC; serves sync and asyncio, and knows neither.

    Args:
        route: the method.
        make: makes an attempt, given its timeout, metadata and credentials.
        metadata: the caller's own, materialised.
        credentials: those of another auth of ours on the same call, if there is one.
        wait_for_ready: as the caller wants it.
        deadline: for all attempts together, in `time.monotonic()` seconds.
        began: when the first attempt was made, likewise.
        caller: the context variables of a call that goes on after it was handed out: the threads that bring news of it
            are gRPC's and ours, and hold those of somebody else. `None`: the caller's own thread does it all.
    """

    __slots__ = (
        "attempts",
        "avoid",
        "began",
        "caller",
        "corrected",
        "credentials",
        "deadline",
        "make",
        "metadata",
        "news",
        "refusal",
        "route",
        "sent",
        "wait_for_ready",
        "why",
    )

    def __init__(
        self,
        route: Route,
        make: Make,
        metadata: Metadata | None,
        credentials: grpc.CallCredentials | None,
        wait_for_ready: bool | None,
        deadline: float | None,
        began: float,
        caller: contextvars.Context | None = None,
    ) -> None:
        self.route = route
        self.make = make
        self.metadata = metadata
        self.credentials = credentials
        self.wait_for_ready = wait_for_ready
        self.deadline = deadline
        self.began = began
        self.sent = began
        self.attempts = 0
        self.news: list[Any] = []
        self.caller = caller
        self.corrected = False  # the clock was put right on the way
        self.avoid: str | None = None
        self.refusal: tuple[Any, Lease, Failure] | None = None
        self.why = ""  # there is no other attempt

    def left(self) -> float | None:
        """Seconds until the deadline; the next attempt gets these."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def plan(self) -> tuple[Metadata | None, grpc.CallCredentials | None, Carrier]:
        """The next attempt, as `Route.plan` says; never with the token that was refused."""
        self.sent = time.monotonic()
        return self.as_caller(lambda: self.route.plan(self.metadata, self.credentials, self.wait_for_ready, self.avoid))

    def attempt(self, metadata: Metadata | None, credentials: grpc.CallCredentials | None) -> Any:
        """Make an attempt, as planned, with the time that is left."""
        return self.as_caller(lambda: self.make(self.left(), metadata, credentials))

    def request(self, deliver: Deliver) -> None:
        """The token for the next attempt, where core cannot do the waiting; see `Engine.request`."""
        ask = self.route.attachment.engine.request
        self.as_caller(lambda: ask(self.route.context, deliver, patient=self._patient()))

    def wait(self) -> tuple[Lease | None, GrpcBearerError | None] | None:
        """The same for a thread that waits; `None`: time is up."""
        return self.route.attachment.engine.wait(self.route.context, self.left(), patient=self._patient())

    def _patient(self) -> Callable[[], bool] | None:
        return (lambda: self.left() != 0) if self.wait_for_ready else None

    def after(self, call: object, carrier: Carrier, failure: Failure, *, obstacle: str = "") -> float | None:
        """Seconds until the next attempt, now that one has failed; `None`: there is none.

        It may be called under a call's lock, so what observers are to hear of it waits for `tell`.

        Args:
            call: what the user would be shown for this attempt.
            carrier: what carried its token.
            failure: how it ended.
            obstacle: why there can be no other, if its caller knows such a reason.
        """
        return self.as_caller(lambda: holding_back(self.news, lambda: self._after(call, carrier, failure, obstacle)))

    def _after(self, call: object, carrier: Carrier, failure: Failure, obstacle: str) -> float | None:
        self.attempts += 1
        lease = carrier.lease if isinstance(carrier, Attempt) else carrier
        if lease is None or failure.local or explain(carrier, failure.code) is not None:
            return None
        policy = self.route.policy
        stale = policy is not None and means_stale(policy, failure)
        if stale or failure.meant in _REFUSALS or too_large(lease.token, failure):
            self.refusal = call, lease, failure
        if policy is None:
            return None
        if not stale:
            self.why = "no new token cures that"
            return None
        context = carrier.context if isinstance(carrier, Attempt) else self.route.context
        delay = self._delay(policy, lease, context, failure, obstacle)
        if delay is not None:
            self._announce(failure, delay)
        return delay

    def _announce(self, failure: Failure, delay: float) -> None:
        from grpc_bearer.events import CallRetried

        notify, method = self.route.attachment.engine.notify, self.route.path
        notify(CallRetried(*notify.who, method=method, code=failure.code.name, attempt=self.attempts, delay=delay))

    def tell(self) -> None:
        """Tell observers what `after` has decided, now that no lock is held."""
        if self.news:
            self.as_caller(lambda: tell(self.news))

    def as_caller(self, do: Callable[[], _T]) -> _T:
        """Do something in the caller's context variables, whichever thread this is."""
        # A copy: two threads may be at it, and one context runs one thing at a time.
        return do() if self.caller is None else self.caller.copy().run(do)

    def _delay(
        self, policy: RetryPolicy, lease: Lease, context: CallContext, failure: Failure, obstacle: str
    ) -> float | None:
        engine = self.route.attachment.engine
        if self._learn_time(failure):
            engine.invalidate()  # tokens that were signed, or thought fresh, by the wrong clock
            self.attempts -= not self.corrected  # the attempt that showed the clock to be wrong is not counted
            self.corrected = True
        delay = delay_before(policy, failure, self.attempts, time.monotonic() - self.began)
        left = self.left()
        if delay is None:
            return None
        if left is not None and delay >= left:
            self.why = "no time is left for another attempt"
            return None
        # A stream past its bound is not made again, but its token is as stale, and the next call should not meet it.
        if not renewable(engine, lease, context):
            self.why = engine.why_kept(context) or "no other token is to be had for now"
            return None
        if obstacle:
            self.why = obstacle
            return None
        # A clock that may be off needs a second answer to be sure, and the token of the same second is the same.
        again = engine.single_use or self.route.attachment.auth._clock.suspected
        self.avoid = None if again else lease.token.fingerprint
        return delay

    def _learn_time(self, failure: Failure) -> bool:
        """Let the auth's clock take notice of the server's; whether that has put it right."""
        from grpc_bearer.sources._parse import http_date

        date = http_date(failure.header("date"))
        source = self.route.attachment.auth._source
        # Only for what is signed here: others' tokens have a token endpoint, which tells the time itself.
        if date is None or not source.signs or self.route.attachment.plaintext or failure.header("age") is not None:
            return False
        return self.route.attachment.auth._clock.learn(date, time.monotonic() - self.sent)

    def cause(self, carrier: Carrier, failure: Failure) -> tuple[Any, GrpcBearerError] | None:
        """What to show instead of, or behind, the last failure: the call to show, and our typed error as its cause.

        `None`: the failure is none of ours, and shown as it is. If it was made by our own plugin there may be no call
        to show: the first element is `None` then. But if the server has refused an earlier attempt, that refusal is
        what the user should see, and our error is why there was no other.
        """
        ours = None if failure.local else explain(carrier, failure.code)
        if self.refusal is None:
            return None if ours is None else (None, ours)
        call, lease, refusal = self.refusal
        if ours is not None:
            return call, (ours if not isinstance(carrier, Attempt) or not carrier.same else self._same(lease, refusal))
        if refusal is not failure:
            return None
        return call, self._diagnosed(lease, failure, self.why)

    def tokenless(self, error: GrpcBearerError | None) -> tuple[Any, GrpcBearerError]:
        """As `cause`, where no attempt was made: there is no token (`error`), or only the one that was refused."""
        if self.refusal is None:
            return None, error or TokenUnavailableError("no token is to be had")
        call, lease, refusal = self.refusal
        return call, error or self._same(lease, refusal)

    def _same(self, lease: Lease, refusal: Failure) -> GrpcBearerError:
        return self._diagnosed(lease, refusal, "its source has no other")

    def _diagnosed(self, lease: Lease, refusal: Failure, why_not_again: str) -> GrpcBearerError:
        from grpc_bearer._calls.diagnosis import diagnose

        return diagnose(lease.token, refusal, self.route.attachment.auth._clock.time(), why_not_again)
