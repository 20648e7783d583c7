"""What others do: the ways to put a token on a call that this library is measured against."""

from __future__ import annotations

import datetime
import threading
import time
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import google.auth.credentials
import grpc
from google.auth.transport.grpc import secure_authorized_channel

#: As long as a usual JWT.
TOKEN = "t" * 300
#: The header by hand: the floor.
BY_HAND = (("authorization", f"Bearer {TOKEN}"),)


class BarePlugin(grpc.AuthMetadataPlugin):
    """The least that a plugin can be."""

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        callback(BY_HAND, None)


class PluginOf(grpc.AuthMetadataPlugin):
    """A plugin that makes a token for each call, on the thread that gRPC gives it."""

    def __init__(self, make: Callable[[], str]) -> None:
        self._make = make

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        callback((("authorization", f"Bearer {self._make()}"),), None)


def plugin_credentials(credentials: grpc.ChannelCredentials, plugin: grpc.AuthMetadataPlugin) -> Any:
    """Channel credentials with a plugin."""
    return grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(plugin))


class GoogleCredentials(google.auth.credentials.Credentials):
    """google-auth credentials whose token is at hand and never expires."""

    def __init__(self) -> None:
        super().__init__()
        self.token = TOKEN

    def refresh(self, request: object) -> None:
        """Never called."""


class RefreshingGoogleCredentials(google.auth.credentials.Credentials):
    """google-auth credentials that have to be refreshed `period` seconds after each refresh, by `fetch`."""

    def __init__(self, fetch: Callable[[], str], period: float, *, background: bool) -> None:
        super().__init__()
        self._fetch, self._period = fetch, period
        self._lock = threading.Lock()
        if background:
            self.with_non_blocking_refresh()

    def refresh(self, request: object) -> None:
        """Make a token that google-auth finds stale `period` seconds from now."""
        from google.auth import _helpers

        token = self._fetch()
        with self._lock:
            self.token = token
            self.expiry = _helpers.utcnow() + _helpers.REFRESH_THRESHOLD + datetime.timedelta(seconds=self._period)

    def __deepcopy__(self, memo: object) -> RefreshingGoogleCredentials:
        return self


def google_channel(
    credentials: google.auth.credentials.Credentials, target: str, ssl: grpc.ChannelCredentials
) -> grpc.Channel:
    """google-auth's own channel."""
    channel: grpc.Channel = secure_authorized_channel(credentials, _no_request, target, ssl_credentials=ssl)
    return channel


def google_plugin(credentials: google.auth.credentials.Credentials) -> grpc.AuthMetadataPlugin:
    """google-auth's plugin, for asyncio channels, for which it has no function."""
    from google.auth.transport.grpc import AuthMetadataPlugin

    plugin: grpc.AuthMetadataPlugin = AuthMetadataPlugin(credentials, _no_request)
    return plugin


def _no_request(*args: object, **how: object) -> None:
    raise RuntimeError("no HTTP here")


class _Details(
    namedtuple("_Details", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")),
    grpc.ClientCallDetails,
):
    pass


class PlainInterceptor(grpc.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    """The interceptor that people write: it adds the header."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = [*(details.metadata or ()), *BY_HAND]
        new = _Details(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready, details.compression
        )
        return continuation(new, request)


class PlainAioInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """The same on asyncio."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *BY_HAND)
        new = grpc.aio.ClientCallDetails(
            details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
        )
        return await continuation(new, request)


class UsersInterceptor(grpc.aio.UnaryUnaryClientInterceptor):
    """An interceptor that users have for something else."""

    async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)


class ThreadedCredential:
    """A credential that keeps itself fresh on a thread of its own."""

    def __init__(self, fetch: Callable[[], str], period: float) -> None:
        self._fetch, self._period = fetch, period
        self.token = fetch()
        self._stop = threading.Event()
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        begin = time.monotonic()
        while not self._stop.wait(max(begin + self._period - time.monotonic(), 0)):
            begin = time.monotonic()
            self.token = self._fetch()
