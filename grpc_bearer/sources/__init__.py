"""Where tokens come from: one file a kind."""

from grpc_bearer.sources._base import Source
from grpc_bearer.sources.callable import CallableSource
from grpc_bearer.sources.file import FileSource
from grpc_bearer.sources.google import GoogleAuthSource
from grpc_bearer.sources.http import HTTPTokenSource
from grpc_bearer.sources.jwt import JWTSource
from grpc_bearer.sources.oauth import ClientCredentialsSource
from grpc_bearer.sources.routed import RoutedSource
from grpc_bearer.sources.static import StaticSource

__all__ = [
    "CallableSource",
    "ClientCredentialsSource",
    "FileSource",
    "GoogleAuthSource",
    "HTTPTokenSource",
    "JWTSource",
    "RoutedSource",
    "Source",
    "StaticSource",
]
