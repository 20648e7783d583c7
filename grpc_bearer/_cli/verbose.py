"""What `call -v` tells on stderr: the token's age, what was sent and answered beside the messages, and each attempt."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from grpc_bearer._cli.jwt import inspected, span
from grpc_bearer._cli.status import scrubbed
from grpc_bearer._cli.streams import JSON_ESCAPE, note
from grpc_bearer._cli.terminal import json_line, safe
from grpc_bearer.events import CallRetried, Event, TokenFetched
from grpc_bearer.sources._parse import number_of

# Metadata whose values are secrets, by its name.
_SECRET = re.compile(r"auth|bearer|cookie|credential|csrf|jwt|key|passw(?:or)?d|secret|session|sign|token|xsrf")


class Teller:
    """Hears of what happens, and tells it as it comes: as lines that begin as those of curl, or one JSON at the end.

    Args:
        wanted: whether to tell anything.
        as_json: how.
        tokens: not to be shown; there may be more of them later.
        hidden: names of metadata whose values are not shown either.
    """

    def __init__(self, *, wanted: bool, as_json: bool, tokens: Collection[str], hidden: Collection[str] = ()) -> None:
        self._wanted, self._as_json = wanted, as_json
        self._retried: list[CallRetried] = []
        self._fetched: TokenFetched | None = None
        self._tokens, self._hidden = tokens, hidden
        self._told: dict[str, Any] = {}
        self._began = time.monotonic()

    def hear(self, event: Event) -> None:
        """An observer."""
        if isinstance(event, TokenFetched):
            self._fetched = event
        elif isinstance(event, CallRetried) and event.method:
            self._retried.append(event)

    def token(self, value: str, expires_at: float | None, now: float) -> None:
        """The token that was got."""
        found = inspected(value, now)
        issued = number_of((found.claims or {}).get("iat"))
        age = None if issued is None else max(now - issued, 0.0)
        took = None if self._fetched is None else self._fetched.duration
        shared = self._fetched is not None and self._fetched.shared
        parts = [
            found.kind,
            "of unknown age" if age is None else f"{span(age)} old",
            "valid until revoked" if expires_at is None else f"good for {span(max(expires_at - now, 0))}",
            "out of the shared cache" if shared else "" if took is None else f"got in {took * 1e3:.0f} ms",
        ]
        self._line("*", f"token: {', '.join(filter(None, parts))}")
        left = None if expires_at is None else round(expires_at - now, 1)
        self._told["token"] = {"kind": found.kind, "age": age, "expires_in": left, "shared": shared, "seconds": took}

    def sends(self, method: str, header: str, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """The call is about to be made."""
        self._began = time.monotonic()
        self._retried.clear()
        self._line("*", f"calling {method}")
        shown = [(header, "<token>"), *((name, self._value(name, value)) for name, value in metadata)]
        for name, value in shown:
            self._line(">", f"{name}: {value}")
        self._told |= {"method": method, "request_metadata": shown}

    def headers(self, metadata: Iterable[Any] | None) -> None:
        """The answer's initial metadata."""
        self._metadata("headers", metadata)

    def ends(self, code: str, trailers: Iterable[Any] | None) -> None:
        """The call is over."""
        self._metadata("trailers", trailers)
        seconds = time.monotonic() - self._began
        attempts = [each.code for each in self._retried] + [code]
        for number, each in enumerate(self._retried, 1):
            self._line("*", f"attempt {number}: {each.code}; made again with another token")
        self._line("*", f"attempt {len(attempts)}: {code}, {seconds * 1e3:.0f} ms in all")
        self._told |= {"attempts": attempts, "status": code, "seconds": round(seconds, 4)}
        if self._wanted and self._as_json:
            note(json_line(self._told), JSON_ESCAPE)

    def _metadata(self, what: str, metadata: Iterable[Any] | None) -> None:
        shown = [(str(name), self._value(name, value)) for name, value in metadata or ()]
        for name, value in shown:
            self._line("<", f"{name}: {value}")
        if shown or what not in self._told:
            self._told[what] = shown

    def _value(self, name: str, value: object) -> str:
        if name in self._hidden or _SECRET.search(name):
            return "<hidden>"
        if isinstance(value, bytes):
            return f"<{len(value)} bytes>"
        return scrubbed(str(value), self._tokens)

    def _line(self, mark: str, text: str) -> None:
        if self._wanted and not self._as_json:
            note(f"{mark} {safe(text)}\n")
