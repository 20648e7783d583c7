"""What both REST adapters ask: may this URL have a token, which one, and is there another."""

from __future__ import annotations

import sys
from urllib.parse import urlsplit

from grpc_bearer._auth import AuthLike, as_auth
from grpc_bearer._base.arguments import checked_flag
from grpc_bearer._base.token import CallContext
from grpc_bearer._calls.retry_block import renewable
from grpc_bearer._engine.engine import Lease
from grpc_bearer.errors import InsecureChannelError

UNAUTHORIZED = 401

_DEFAULT_PORTS = {"http": 80, "https": 443}


class TokenForURL:
    """Gives leases to URLs; arguments are those of `grpc_bearer.rest.httpx_auth`."""

    def __init__(self, auth: AuthLike, url: str | None, allow_plaintext: bool) -> None:
        self._auth = as_auth(auth)
        self._url = url
        self._allow_plaintext = checked_flag("allow_plaintext", allow_plaintext)

    def __repr__(self) -> str:
        return repr(self._auth)

    @property
    def header(self) -> str:
        return self._auth.header

    @property
    def single_use(self) -> bool:
        return self._auth.single_use

    def lease(self, url: str) -> Lease:
        """Waits for the token.

        Raises:
            InsecureChannelError: it would travel in the clear.
            TokenError: there is none.
        """
        self._check(url)
        return self._auth._engine.token(self._context(url))

    async def alease(self, url: str) -> Lease:
        """`lease` without blocking the event loop, whichever it is."""
        self._check(url)
        engine, context = self._auth._engine, self._context(url)
        lease = engine.peek(context)
        if lease is not None:
            return lease
        if _is_on_trio():
            from anyio.to_thread import run_sync  # httpx brings anyio

            return await run_sync(engine.token, context, abandon_on_cancel=True)
        return await engine.atoken(context)

    def gives_up(self, refused: Lease, url: str) -> bool:
        """Give up the refused token, if it is still the current one; whether another is to be had."""
        return renewable(self._auth._engine, refused, self._context(url))

    def _context(self, url: str) -> CallContext:
        return CallContext(self._url or url.partition("#")[0].partition("?")[0], "", self._auth._clock)

    def _check(self, url: str) -> None:
        # To this machine too: a proxy that was set on the session or the client would get it, and nobody here knows.
        if urlsplit(url).scheme != "https" and not self._allow_plaintext:
            raise InsecureChannelError(
                f"url: {origin(url)} would get the token in the clear, or a proxy on the way there; use https://, or "
                "allow_plaintext=True for this machine and for a mesh that encrypts below"
            )


def _is_on_trio() -> bool:
    # As httpx itself finds out. Whether a loop of asyncio runs says nothing: trio may be its guest.
    sniffio = sys.modules.get("sniffio")  # trio brings it
    return sniffio is not None and sniffio.current_async_library() == "trio"


def origin(url: str) -> str:
    """Scheme, host and port, in one spelling.

    >>> origin("HTTPS://me:pw@API.example.com/v1?q=1") == origin("https://api.example.com:443")
    True
    """
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _DEFAULT_PORTS.get(parts.scheme, '')}"
