"""What can be observed: one small value for each thing that happens to a token, and who is told.

An observer is anything that can be called with an `Event`: a function, a bound method, `list.append`. Give it to one
auth (`BearerAuth(..., observers=[fn])`) or to all of them (`add_observer(fn)`); `grpc_bearer.otel` has one for
OpenTelemetry. The log (`logging.getLogger("grpc_bearer")`) is told in any case, and first.

>>> import grpc_bearer
>>> seen = []
>>> with grpc_bearer.BearerAuth("s3cret", name="crm", observers=[seen.append]) as auth:
...     token = auth.token()
>>> [type(event).__name__ for event in seen]
['FetchBegun', 'TokenFetched']
>>> seen[1].auth, seen[1].source, seen[1].lifetime
('crm', 'StaticSource', None)

Rules, for those who write an observer:

* A call whose token is at hand is never heard of, so observers cost it nothing.
* Each fetch that begins is told to have ended exactly once, by `TokenFetched` or `RefreshFailed`; whoever waits for the
  token goes on after the observers were told. Events of one fetch come in order, those of several are interleaved.
* Observers are called with no lock held, on the thread that does the work: a worker or timer of this library, a thread
  of gRPC's, or the caller's own, which may be the one of an event loop. So they must be quick and must not block; an
  asyncio program may hand events over by `loop.call_soon_threadsafe`. The caller's context variables are there wherever
  they can be known: always for fetches that a call has caused.
* What an observer raises harms nobody. It is logged once, as a type without text.
* A token for one attempt only is told of when the attempt waits for it; of those signed in advance only failures are.
* Events hold no token, no fingerprint of one, no key of a source, no argument of a call.

A pickled auth leaves its observers behind: they belong to their process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from grpc_bearer._base.observers import checked_observer, everywhere

__all__ = [
    "CallRetried",
    "Event",
    "FetchBegun",
    "Observer",
    "RefreshFailed",
    "RefreshForced",
    "RefreshOverdue",
    "SkewLearnt",
    "TokenFetched",
    "add_observer",
    "remove_observer",
]


@dataclass(frozen=True, slots=True)
class Event:
    """What all events have.

    Args:
        auth: the `name=` of the `BearerAuth`; empty if it has none.
        source: the class of its source.

    >>> Event("crm", "FileSource")
    Event(auth='crm', source='FileSource')
    """

    auth: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchBegun(Event):
    """A token is being fetched.

    Args:
        fetch: the fetch's number in this process, from 1 on; the event that ends it has the same.
        ahead: nobody waits for it: the token in use is still good, and is replaced before it expires.

    >>> FetchBegun("crm", "FileSource", fetch=1).ahead
    False
    """

    fetch: int
    ahead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFetched(Event):
    """A fetch has brought a token.

    Args:
        fetch: the number that its `FetchBegun` had.
        ahead: nobody waited for it.
        duration: how long the source took, in seconds.
        lifetime: how long the token lives from now on, in seconds; `None`: until revoked.
        failures: how many fetches had failed in a row before this one.
        kept: whether this is the current token now. Not if it is for one attempt only, if a server had refused that
            very token meanwhile, or if the auth was closed.
        shared: whether it came out of the `SharedCache`, where another process had put it: the source was not asked.

    >>> TokenFetched("crm", "HTTPTokenSource", fetch=1, duration=0.12, lifetime=3600.0).kept
    True
    """

    fetch: int
    ahead: bool = False
    duration: float
    lifetime: float | None
    failures: int = 0
    kept: bool = True
    shared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshFailed(Event):
    """A fetch has brought no token.

    Args:
        fetch: the number that its `FetchBegun` had; 0 if it could not even begin, for want of a thread.
        ahead: nobody waited for it.
        duration: how long the source took, in seconds.
        error: the class of the error, one of `grpc_bearer.errors` (or a source's own subclass of one).
        message: its text.
        help: its code, the heading under which the page "Troubleshooting" explains it.
        retryable: whether the same request may succeed later without anybody changing anything.
        failures: how many fetches have failed in a row, this one among them; 0 where they are not counted, for tokens
            for one attempt only.
        retry_in: no other fetch is begun for so many seconds; `None`: never, the auth is closed.
        usable: whether there is a token that is still valid, and is used meanwhile.

    >>> RefreshFailed(
    ...     "crm", "HTTPTokenSource", fetch=1, duration=0.1, error="TokenUnavailableError", message="status 503",
    ...     retryable=True, failures=1, retry_in=1.0, usable=False,
    ... ).error
    'TokenUnavailableError'
    """

    fetch: int
    ahead: bool = False
    duration: float
    error: str
    message: str
    retryable: bool
    failures: int
    retry_in: float | None
    usable: bool
    help: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshOverdue(Event):
    """A fetch takes too long: those who wait for it are told so. It goes on, and will end with an event of its own.

    Args:
        fetch: the number that its `FetchBegun` had; 0 if it has not begun yet, for want of an idle worker.
        waited: for how long, in seconds.
        usable: whether there is a token that is still valid, and is used meanwhile.

    >>> RefreshOverdue("crm", "HTTPTokenSource", fetch=1, waited=60.0, usable=True).waited
    60.0
    """

    fetch: int
    waited: float
    usable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RefreshForced(Event):
    """A token was given up before its time; the next call waits for another.

    Any number of calls that were refused with one token give it up once.

    Args:
        reason: `"refused"`: a server did not take it; `"changed"`: something outside has changed, so that nothing
            fetched or remembered before is worth anything (this machine's clock was put right).

    >>> RefreshForced("crm", "HTTPTokenSource", reason="refused").reason
    'refused'
    """

    reason: Literal["refused", "changed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRetried(Event):
    """A call that the server has refused is about to be made once more, with another token.

    Args:
        method: `package.Service/Method`; empty for a block tried again by `RetryPolicy.attempts` that names none.
        code: the name of the refusal's status, such as `"UNAUTHENTICATED"`.
        attempt: how many attempts have failed; 1 when the second is about to be made.
        delay: seconds until that one.

    >>> CallRetried("crm", "FileSource", method="crm.v1.Crm/Get", code="UNAUTHENTICATED", attempt=1, delay=0.0).code
    'UNAUTHENTICATED'
    """

    method: str
    code: str
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SkewLearnt(Event):
    """What is known of this machine's clock has changed.

    Args:
        offset: seconds that are added to it from now on; 0.0: it is right, or somebody has set it.
        previous: what was added until now.

    >>> SkewLearnt("crm", "JWTSource", offset=600.5, previous=0.0).offset
    600.5
    """

    offset: float
    previous: float


class Observer(Protocol):
    """Whoever wants to hear of events: anything that can be called with one."""

    def __call__(self, event: Event, /) -> object:
        """Take notice, quickly; what is returned is ignored."""
        ...


def add_observer(observer: Observer) -> None:
    """Tell `observer` of the events of every auth, those made already too. To add one twice changes nothing.

    Raises:
        ConfigurationError: it cannot be called, or is a coroutine function.

    >>> add_observer(print)
    >>> remove_observer(print)
    """
    checked_observer(observer)
    if observer not in everywhere:
        everywhere.append(observer)


def remove_observer(observer: Observer) -> None:
    """Undo `add_observer`; if it was never added, nothing happens."""
    if observer in everywhere:
        everywhere.remove(observer)
