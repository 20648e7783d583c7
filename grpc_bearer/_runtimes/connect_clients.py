"""What a client of connectrpc's is made with, so that its calls carry a token, and take it nowhere else."""

from __future__ import annotations

from typing import Any

from connectrpc.client import ConnectClient, ConnectClientSync
from pyqwest import Client, HTTPTransport, SyncClient, SyncHTTPTransport

from grpc_bearer._calls.attach_token import Attachment
from grpc_bearer._runtimes.connect_interceptor import AioInterceptor, SyncInterceptor
from grpc_bearer.errors import ConfigurationError


def interceptor_and_transport(client_class: object, attachment: Attachment) -> tuple[Any, Any]:
    """The innermost interceptor, and an HTTP client that follows no redirect, for clients of that class."""
    if isinstance(client_class, type) and issubclass(client_class, ConnectClientSync):
        sync = SyncClient(SyncHTTPTransport(tls_include_system_certs=True, follow_redirects=False))
        return SyncInterceptor(attachment), sync
    if isinstance(client_class, type) and issubclass(client_class, ConnectClient):
        return AioInterceptor(attachment), Client(HTTPTransport(tls_include_system_certs=True, follow_redirects=False))
    raise ConfigurationError("expected a client that connectrpc has generated", field="client_class")
