"""Whose token a header holds: the caller's own, that of another auth of ours on the same call, or nobody's yet.

Two auths under different headers share a call (one for the service, one for the gateway before it), so call credentials
that are made here say which headers they fill. What other libraries make says nothing, and is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc

from grpc_bearer._base.token import HiddenText
from grpc_bearer._calls.grpc_types import Metadata
from grpc_bearer.errors import ConfigurationError

#: The caller's own: it goes out as it is, and ours does not.
CALLER: Any = object()

_FILLS = "_grpc_bearer_fills"


def filling(credentials: grpc.CallCredentials, header: str, owner: object) -> grpc.CallCredentials:
    """Have call credentials say that they fill this header, and for whom."""
    setattr(credentials, _FILLS, {header: owner})
    return credentials


def owner_of(header: str, metadata: Metadata | None, credentials: grpc.CallCredentials | None) -> object:
    """Who fills this header of a call: `CALLER`, an auth of ours, the text that one has put there, or nobody (`None`).

    Args:
        header: in lower case.
        metadata: of the call, materialised.
        credentials: of the call; other libraries' are the caller's choice, whatever they fill.
    """
    if credentials is not None:
        fills: Mapping[str, object] | None = getattr(credentials, _FILLS, None)
        if fills is None:
            return CALLER
        if header in fills:
            return fills[header]
    return None if metadata is None else _owner_in(metadata, header)


def _owner_in(metadata: Metadata, header: str) -> object:
    try:
        names = (header, header.encode())  # gRPC takes keys as bytes, too
        values = [entry[1] for entry in metadata if entry[0] in names]
    except (TypeError, IndexError, KeyError):
        return CALLER  # only gRPC can refuse it
    if not values:
        return None
    return values[0] if isinstance(values[0], HiddenText) else CALLER


def both(theirs: grpc.CallCredentials | None, ours: grpc.CallCredentials) -> grpc.CallCredentials:
    """Call credentials for one call that carries both."""
    if theirs is None:
        return ours
    made = grpc.composite_call_credentials(theirs, ours)
    setattr(made, _FILLS, {**getattr(theirs, _FILLS), **getattr(ours, _FILLS)})
    return made


def doubled(header: str) -> ConfigurationError:
    """For two auths that fill one header."""
    return ConfigurationError(
        f"auth: another auth puts its token under {header!r} on the same call, and servers disagree about which of two "
        "counts; use one of them, or give one another header="
    )
