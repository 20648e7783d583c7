"""Bearer tokens on gRPC calls: every kind of token, every way of gRPC to attach one, sync and asyncio.

>>> import grpc_bearer
>>> channel = grpc_bearer.secure_channel("api.example.com:443", auth="s3cret")
>>> channel.close()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc_bearer import aio, errors
from grpc_bearer._auth import AuthLike, BearerAuth
from grpc_bearer._base.clock import Clock
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer._calls.retry_policy import RetryPolicy
from grpc_bearer._calls.stub import wrap_stub
from grpc_bearer._calls.sync_channel import (
    call_credentials,
    channel_credentials,
    insecure_channel,
    intercept_channel,
    secure_channel,
)
from grpc_bearer._calls.sync_interceptor import BearerInterceptor, interceptor
from grpc_bearer.errors import (
    ConfigurationError,
    GrpcBearerError,
    InsecureChannelError,
    SigningError,
    TokenError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.sources import Source

if TYPE_CHECKING:
    from grpc_bearer import events, profiles, rest
    from grpc_bearer._calls.attach_to import attach_to
    from grpc_bearer._calls.if_refused import if_refused
    from grpc_bearer._config.toml_file import load
    from grpc_bearer.cache import SharedCache
    from grpc_bearer.events import Observer
    from grpc_bearer.sources import (
        AzureIdentitySource,
        CallableSource,
        ClientCredentialsSource,
        DeviceCodeSource,
        ExecSource,
        FileSource,
        GoogleAuthSource,
        HTTPTokenSource,
        JWTBearerSource,
        JWTSource,
        RefreshTokenSource,
        RoutedSource,
        StaticSource,
        TokenExchangeSource,
    )

__all__ = [
    "AuthLike",
    "AzureIdentitySource",
    "BearerAuth",
    "BearerInterceptor",
    "CallContext",
    "CallableSource",
    "ClientCredentialsSource",
    "Clock",
    "ConfigurationError",
    "DeviceCodeSource",
    "ExecSource",
    "FileSource",
    "GoogleAuthSource",
    "GrpcBearerError",
    "HTTPTokenSource",
    "InsecureChannelError",
    "JWTBearerSource",
    "JWTSource",
    "Observer",
    "RefreshTokenSource",
    "RetryPolicy",
    "RoutedSource",
    "SharedCache",
    "SigningError",
    "Source",
    "StaticSource",
    "Token",
    "TokenError",
    "TokenExchangeSource",
    "TokenFormatError",
    "TokenRejectedError",
    "TokenUnavailableError",
    "aio",
    "attach_to",
    "call_credentials",
    "channel_credentials",
    "errors",
    "events",
    "if_refused",
    "insecure_channel",
    "intercept_channel",
    "interceptor",
    "load",
    "profiles",
    "rest",
    "secure_channel",
    "wrap_stub",
]


# What only some programs need is imported when it is first asked for: half of the time that the whole would take. All
# of it that is not named here is a source.
_LATER = {
    "Observer": "grpc_bearer.events",
    "SharedCache": "grpc_bearer.cache",
    "attach_to": "grpc_bearer._calls.attach_to",
    "if_refused": "grpc_bearer._calls.if_refused",
    "load": "grpc_bearer._config.toml_file",
}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "__version__":
        from grpc_bearer._base.version import version

        return version()
    if name in ("events", "profiles", "rest"):
        return import_module(f"{__name__}.{name}")
    if name in __all__:
        return getattr(import_module(_LATER.get(name, "grpc_bearer.sources")), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
