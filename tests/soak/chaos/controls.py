"""What the zeros are held against: the same calls without our retry, with google-auth's plugin, and with an interceptor
as most projects write it. Each must show what ours does not, or the run has shown nothing.
"""

from __future__ import annotations

import json
import logging
import secrets
import ssl
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc

import grpc_bearer
from chaos.lines import RETRYING, STREAMING, KeyedCredentials, Line
from chaos.world import OPENFX, World
from grpc_bearer import profiles
from grpc_bearer.testing import ProbeStub

#: By tenant at the token endpoint; the last one has another auth for single-use tokens.
NAMES = ("control retry=None", "control google-auth", "control naive")


class Naive(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Puts a token on each call, and makes the call again with a new one if it was refused."""

    def __init__(self, fetch: Callable[[], str], single_use: bool = False) -> None:
        self._fetch = fetch
        self._single_use = single_use
        self._token: str | None = None

    def _with_token(self, details: Any) -> Any:
        if self._token is None or self._single_use:
            self._token = self._fetch()
        metadata = [*(details.metadata or ()), ("authorization", f"Bearer {self._token}")]
        logging.getLogger("naive").debug("calling %s with %s", details.method, metadata)
        return details._replace(metadata=metadata)

    def _intercept(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        call = continuation(self._with_token(details), request)
        if call.code() is grpc.StatusCode.UNAUTHENTICATED:
            self._token = None
            call = continuation(self._with_token(details), request)
        return call

    intercept_unary_unary: Any = _intercept
    intercept_unary_stream: Any = _intercept
    intercept_stream_unary: Any = _intercept
    intercept_stream_stream: Any = _intercept


def lines(world: World) -> dict[str, list[Line]]:
    """By control; each has one caller."""
    return {"retry=None": _no_retry(world), "google-auth": _google(world), "naive": _naive(world)}


def _no_retry(world: World) -> list[Line]:
    name, server = NAMES[0], world.servers["bear"]
    auth = profiles.bear(world.tenants[name].path, url=world.bear_url, ca=world.ca_file)
    channel = grpc_bearer.secure_channel(server.target, world.credentials(), STREAMING, auth=auth, retry=None)
    return [_line("retry=None", name, "bear", channel, ("unary", "unary.future", "server stream", "client stream"))]


def _google(world: World) -> list[Line]:
    from google.auth.transport.grpc import AuthMetadataPlugin
    from google.auth.transport.requests import Request

    name, server = NAMES[1], world.servers["bear"]
    credentials = KeyedCredentials(world.bear_url, world.tenants[name].keys[0])
    plugin = AuthMetadataPlugin(credentials, Request())  # type: ignore[no-untyped-call]
    composite = grpc.composite_channel_credentials(world.credentials(), grpc.metadata_call_credentials(plugin))
    channel = grpc.secure_channel(server.target, composite, STREAMING)
    return [_line("google-auth", name, "bear", channel, ("unary", "server stream", "client stream"))]


def _naive(world: World) -> list[Line]:
    name, tls = NAMES[2], world.credentials()
    bear = grpc.secure_channel(world.servers["bear"].target, tls, STREAMING)
    openfx = grpc.secure_channel(world.short_tempered.target, tls, RETRYING)
    bear = grpc.intercept_channel(bear, Naive(_asking(world, name)))
    openfx = grpc.intercept_channel(openfx, Naive(_signing(world), single_use=True))
    return [
        _line("naive", name, "bear", bear, ("client stream",)),
        _line("naive", name, "openfx", openfx, ("unary",)),
    ]


def _line(who: str, auth: str, site: str, channel: Any, which: tuple[str, ...]) -> Line:
    return Line(who, auth, site, who, ProbeStub(channel), which)


def _asking(world: World, name: str) -> Callable[[], str]:
    context = ssl.create_default_context(cadata=world.ca.pem.decode())
    body, headers = json.dumps(world.tenants[name].keys[0]).encode(), {"content-type": "application/json"}

    def ask() -> str:
        request = urllib.request.Request(world.bear_url, body, headers, method="POST")
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return str(answer.read().decode())

    return ask


def _signing(world: World) -> Callable[[], str]:
    import jwt

    def sign() -> str:
        now = int(time.time())
        claims = {"aud": ["developer-api"], "iss": "openfx", "sub": "naive", "iat": now, "nbf": now, "exp": now + 120}
        headers = {"kid": OPENFX["naive"], "nonce": secrets.token_hex(16)}
        return jwt.encode(claims, world.openfx_key, algorithm="ES256", headers=headers)

    return sign
