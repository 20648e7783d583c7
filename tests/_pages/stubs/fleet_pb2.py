"""What protoc would make of the `fleet.proto` that the pages speak of, made here without protoc."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

#: With the service's name: reflection looks there.
POOL = descriptor_pool.DescriptorPool()

_METHODS = (
    ("List", "ListRequest", "ListReply", False, False),
    ("Watch", "WatchRequest", "Position", False, True),
    ("Upload", "Position", "UploadReply", True, False),
    ("Steer", "Command", "Position", True, True),
)
_FIELDS = {
    "ListRequest": {"site": "string"},
    "ListReply": {"robots": "string*"},
    "WatchRequest": {"robot": "string", "positions": "int32"},
    "Position": {"robot": "string", "x": "double", "y": "double"},
    "UploadReply": {"received": "int32"},
    "Command": {"robot": "string", "move": "string"},
}


def _messages() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="fleet.proto", package="fleet.v1", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            type_ = getattr(kinds, f"TYPE_{kind.rstrip('*').upper()}")
            message.field.add(name=field, number=number, type=type_, label=label)
    service = file.service.add(name="Fleet")
    for name, request, reply, streams, streamed in _METHODS:
        service.method.add(
            name=name,
            input_type=f".fleet.v1.{request}",
            output_type=f".fleet.v1.{reply}",
            client_streaming=streams,
            server_streaming=streamed,
        )
    POOL.Add(file)
    return {name: message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"fleet.v1.{name}")) for name in _FIELDS}


_made = _messages()
ListRequest, ListReply, WatchRequest = _made["ListRequest"], _made["ListReply"], _made["WatchRequest"]
Position, UploadReply, Command = _made["Position"], _made["UploadReply"], _made["Command"]
