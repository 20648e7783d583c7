"""What a service says of an error beside its status and text: the details of a `google.rpc.Status`."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from grpc_bearer._cli.codes import CommandFailure
from grpc_bearer._cli.descriptions import Descriptions
from grpc_bearer._cli.status import without_tokens


def details_of(error: Any, known: Descriptions, tokens: Collection[str]) -> list[dict[str, Any]]:
    """The details, as JSON; of one that cannot be read, or whose type nobody describes, no more than its size.

    Args:
        error: a `grpc.RpcError` that is a call.
        known: describes their types.
        tokens: not to be shown.
    """
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(error)
    except ValueError:  # of another error than the call's own
        return []
    return [] if status is None else [_shown(each, known, tokens) for each in status.details]


def _shown(detail: Any, known: Descriptions, tokens: Collection[str]) -> dict[str, Any]:
    from google.protobuf.json_format import Error, MessageToDict
    from google.protobuf.message import DecodeError

    try:
        found = MessageToDict(detail, descriptor_pool=known.types)
    except (TypeError, ValueError, Error, DecodeError, CommandFailure):
        found = {"@type": detail.type_url, "value": f"<{len(detail.value)} bytes>"}
    shown: dict[str, Any] = _without(found, tokens)
    return shown


def _without(value: Any, tokens: Collection[str]) -> Any:
    if isinstance(value, str):
        return without_tokens(value, tokens)
    if isinstance(value, list):
        return [_without(each, tokens) for each in value]
    if isinstance(value, dict):
        return {_without(name, tokens): _without(each, tokens) for name, each in value.items()}
    return value
