"""A token that the processes of a machine, or of a fleet, share: one of them fetches it, the others take it up."""

from grpc_bearer.cache._shared import SharedCache

__all__ = ["SharedCache"]
