"""Faults that a `TokenServer` commits on demand; each is a value with one method."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from grpc_bearer.testing._http import Request, Response
from grpc_bearer.testing._keys import throwaway_key

__all__ = [
    "BigBody",
    "ExpiredJWT",
    "Garbage",
    "Hang",
    "NotJSON",
    "Redirect",
    "Reset",
    "Status",
    "Trickle",
    "WithoutDate",
]

Respond = Callable[[], Response]

_HTML = "<!doctype html><title>Sign in</title><p>Please sign in to the hotel's network."


class _Fault:
    __slots__ = ()

    def heal(self) -> None:
        """Nothing is held by most faults."""


@dataclass(frozen=True, slots=True)
class Status(_Fault):
    """Answer with a status and a body.

    Args:
        status: the HTTP status.
        retry_after: value of a `Retry-After` header: seconds, or an HTTP date as text.
        body: what to say with it.

    >>> Status(503, retry_after=2)
    Status(status=503, retry_after=2, body='no')
    """

    status: int
    retry_after: float | str | None = None
    body: str = "no"

    def answer(self, request: Request, respond: Respond) -> Response:
        after = f"{self.retry_after:g}" if isinstance(self.retry_after, (int, float)) else self.retry_after
        return Response(self.status, self.body.encode(), {} if after is None else {"Retry-After": after})


@dataclass(frozen=True, slots=True)
class Hang(_Fault):
    """Hold the request until `release` is set (or the server healed or stopped), then answer it as usual.

    >>> hang = Hang()
    >>> hang.arrived.is_set(), hang.release.is_set()
    (False, False)
    """

    release: threading.Event = field(default_factory=threading.Event)
    arrived: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: Request, respond: Respond) -> Response:
        self.arrived.set()
        self.release.wait()
        return respond()

    def heal(self) -> None:
        self.release.set()


@dataclass(frozen=True, slots=True)
class Reset(_Fault):
    """Close the connection hard, without an answer.

    >>> Reset()
    Reset()
    """

    def answer(self, request: Request, respond: Respond) -> Response:
        return Response(reset=True)


@dataclass(frozen=True, slots=True)
class Trickle(_Fault):
    """Send the right answer, but slowly: `size` bytes, then `pause` seconds, and so on.

    >>> Trickle(size=10, pause=0.5)
    Trickle(size=10, pause=0.5)
    """

    size: int = 1
    pause: float = 0.05

    def answer(self, request: Request, respond: Respond) -> Response:
        return replace(respond(), chunk=self.size, pause=self.pause)


@dataclass(frozen=True, slots=True)
class Garbage(_Fault):
    """Answer 200 with a web page, as captive portals do.

    >>> Garbage("<p>")
    Garbage(html='<p>')
    """

    html: str = _HTML

    def answer(self, request: Request, respond: Respond) -> Response:
        return Response(200, self.html.encode(), content_type="text/html")


@dataclass(frozen=True, slots=True)
class Redirect(_Fault):
    """Send the client elsewhere; 307 and 308 make careless ones repeat the body, secret and all.

    >>> Redirect("https://127.0.0.1:9/")
    Redirect(url='https://127.0.0.1:9/', status=307)
    """

    url: str
    status: int = 307

    def answer(self, request: Request, respond: Respond) -> Response:
        return Response(self.status, b"", {"Location": self.url})


@dataclass(frozen=True, slots=True)
class BigBody(_Fault):
    """Answer 200 with that many bytes.

    >>> BigBody(20_000_000)
    BigBody(size=20000000)
    """

    size: int = 10_000_000

    def answer(self, request: Request, respond: Respond) -> Response:
        return Response(200, b"A" * self.size)


@dataclass(frozen=True, slots=True)
class NotJSON(_Fault):
    """Answer 200 with something that calls itself JSON and is not, or is not the JSON that was wanted.

    >>> NotJSON("[]")
    NotJSON(body='[]')
    """

    body: str = '{"access_token": '

    def answer(self, request: Request, respond: Respond) -> Response:
        return Response(200, self.body.encode(), content_type="application/json")


@dataclass(frozen=True, slots=True)
class ExpiredJWT(_Fault):
    """Answer 200 with a well signed JWT that had expired long before.

    Args:
        expires_at: its `exp`, in seconds since the Unix epoch.

    >>> ExpiredJWT()
    ExpiredJWT(expires_at=1000000000)
    """

    expires_at: int = 1_000_000_000  # September 2001

    def answer(self, request: Request, respond: Respond) -> Response:
        import jwt

        claims = {"iat": self.expires_at - 3600, "exp": self.expires_at}
        return Response(200, jwt.encode(claims, throwaway_key("ES256"), algorithm="ES256").encode())


@dataclass(frozen=True, slots=True)
class WithoutDate(_Fault):
    """The right answer, without its `Date` header.

    >>> WithoutDate()
    WithoutDate()
    """

    def answer(self, request: Request, respond: Respond) -> Response:
        return replace(respond(), date=False)
