"""What a service says of an error beside its status and text: the details of a `google.rpc.Status`."""

from __future__ import annotations

import base64
import json
from typing import Any

from grpc_bearer._cli.codes import CommandFailure
from grpc_bearer._cli.descriptions import Descriptions


def details_of(error: Any, known: Descriptions, token: str) -> list[dict[str, Any]]:
    """The details, as JSON; one of a type that nobody describes as base64.

    Args:
        error: a `grpc.RpcError` that is a call.
        known: describes their types.
        token: not to be shown.
    """
    from grpc_status import rpc_status

    try:
        status = rpc_status.from_call(error)
    except ValueError:  # of another error than the call's own
        return []
    return [] if status is None else [_shown(each, known, token) for each in status.details]


def _shown(detail: Any, known: Descriptions, token: str) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict
    from google.protobuf.message import DecodeError

    try:
        found = MessageToDict(detail, descriptor_pool=known.types)
    except (TypeError, DecodeError, CommandFailure):
        found = {"@type": detail.type_url, "value": base64.b64encode(detail.value).decode()}
    text = json.dumps(found)
    shown: dict[str, Any] = json.loads(text.replace(token, "<token>") if token else text)
    return shown
