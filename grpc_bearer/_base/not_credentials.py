"""What is said where gRPC is given an object of ours and wants credentials of its own."""

from __future__ import annotations

from typing import NoReturn

from grpc_bearer.errors import ConfigurationError


class _NotCredentials(ConfigurationError, AttributeError):
    """An error of ours; for `hasattr`, `getattr` with a default, mocks and the like an attribute that is not there."""


class NotCredentials:
    """The attribute that gRPC reads of all credentials, and of nothing else: it says how to make some.

    It has no setter, so that a subclass of a user's may well have an attribute of that name.
    """

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise _NotCredentials(
            f"credentials: gRPC cannot take a {owner.__name__} here; write "
            "grpc.secure_channel(target, grpc_bearer.channel_credentials(auth)) for a channel, or "
            "credentials=grpc_bearer.call_credentials(auth) for a call; the latter is also what "
            "grpc.composite_channel_credentials takes"
        )
