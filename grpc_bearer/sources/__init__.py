"""Where tokens come from: one file a kind, imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc_bearer._base.source import Source

if TYPE_CHECKING:
    from grpc_bearer.sources.azure import AzureIdentitySource
    from grpc_bearer.sources.callable import CallableSource
    from grpc_bearer.sources.device import DeviceCodeSource
    from grpc_bearer.sources.exec import ExecSource
    from grpc_bearer.sources.file import FileSource
    from grpc_bearer.sources.google import GoogleAuthSource
    from grpc_bearer.sources.http import HTTPTokenSource
    from grpc_bearer.sources.jwt import JWTSource, PerToken, nonce
    from grpc_bearer.sources.jwt_bearer import JWTBearerSource
    from grpc_bearer.sources.oauth import ClientCredentialsSource
    from grpc_bearer.sources.refresh import RefreshTokenSource
    from grpc_bearer.sources.routed import RoutedSource
    from grpc_bearer.sources.static import StaticSource
    from grpc_bearer.sources.token_exchange import TokenExchangeSource

__all__ = [
    "AzureIdentitySource",
    "CallableSource",
    "ClientCredentialsSource",
    "DeviceCodeSource",
    "ExecSource",
    "FileSource",
    "GoogleAuthSource",
    "HTTPTokenSource",
    "JWTBearerSource",
    "JWTSource",
    "PerToken",
    "RefreshTokenSource",
    "RoutedSource",
    "Source",
    "StaticSource",
    "TokenExchangeSource",
    "nonce",
]

_MODULES = {
    "AzureIdentitySource": "azure",
    "CallableSource": "callable",
    "ClientCredentialsSource": "oauth",
    "DeviceCodeSource": "device",
    "ExecSource": "exec",
    "FileSource": "file",
    "GoogleAuthSource": "google",
    "HTTPTokenSource": "http",
    "JWTBearerSource": "jwt_bearer",
    "JWTSource": "jwt",
    "PerToken": "jwt",
    "RefreshTokenSource": "refresh",
    "RoutedSource": "routed",
    "StaticSource": "static",
    "TokenExchangeSource": "token_exchange",
    "nonce": "jwt",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES or name in _MODULES.values():
        from importlib import import_module

        module = import_module(f"{__name__}.{_MODULES.get(name, name)}")
        return getattr(module, name) if name in _MODULES else module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
