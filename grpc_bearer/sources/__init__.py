"""Where tokens come from: one file a kind."""

from grpc_bearer.sources._base import Source

__all__ = ["Source"]
