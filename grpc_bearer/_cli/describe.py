"""Services, messages and enums in words: as a .proto file has them, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def lines_of(found: Any) -> list[str]:
    """A descriptor as a .proto file has it; a method with the messages that it takes and gives.

    Args:
        found: of a service, message, enum or method.
    """
    if hasattr(found, "methods_by_name"):
        methods = [f"  {rpc_of(method)}" for method in found.methods]
        return [f"service {found.full_name} {{", *methods, "}"]
    if hasattr(found, "containing_service"):
        messages = dict.fromkeys((found.input_type, found.output_type))
        return [rpc_of(found), *(line for each in messages for line in ("", *_message(each, each.full_name)))]
    return _enum(found, found.full_name) if hasattr(found, "values") else _message(found, found.full_name)


def as_json(found: Any) -> dict[str, Any]:
    """The same for programs."""
    if hasattr(found, "methods_by_name"):
        return {"kind": "service", "name": found.full_name, "methods": [as_json(each) for each in found.methods]}
    if hasattr(found, "containing_service"):
        return {
            "kind": "method",
            "name": name_of(found),
            "request": found.input_type.full_name,
            "request_stream": found.client_streaming,
            "reply": found.output_type.full_name,
            "reply_stream": found.server_streaming,
        }
    if hasattr(found, "values"):
        return {"kind": "enum", "name": found.full_name, "values": {each.name: each.number for each in found.values}}
    return {"kind": "message", "name": found.full_name, "fields": [_field_json(each) for each in found.fields]}


def name_of(method: Any) -> str:
    """`package.Service/Method`."""
    return f"{method.containing_service.full_name}/{method.name}"


def shape_of(method: Any) -> str:
    """What it takes and gives."""
    request = ("stream " if method.client_streaming else "") + method.input_type.full_name
    return f"{request} -> {'stream ' if method.server_streaming else ''}{method.output_type.full_name}"


def rpc_of(method: Any) -> str:
    """The same as a .proto file has it."""
    request, reply = shape_of(method).split(" -> ")
    return f"rpc {method.name} ({request}) returns ({reply});"


def _message(found: Any, name: str) -> list[str]:
    return [f"message {name} {{", *(f"  {line}" for line in _members(found)), "}"]


def _members(found: Any) -> Iterator[str]:
    done = set()
    for field in found.fields:
        group = field.containing_oneof
        if group is None or len(group.fields) == 1:  # that of one field is how `optional` is kept
            yield f"{_label_of(field)}{_type_of(field)} {field.name} = {field.number};"
        elif group.name not in done:
            done.add(group.name)
            yield f"oneof {group.name} {{"
            yield from (f"  {_type_of(each)} {each.name} = {each.number};" for each in group.fields)
            yield "}"
    for enum in found.enum_types:
        yield from _enum(enum, enum.name)
    for inner in found.nested_types:
        if not inner.GetOptions().map_entry:
            yield from _message(inner, inner.name)


def _enum(found: Any, name: str) -> list[str]:
    return [f"enum {name} {{", *(f"  {each.name} = {each.number};" for each in found.values), "}"]


def _field_json(field: Any) -> dict[str, Any]:
    return {
        "name": field.name,
        "json": field.json_name,
        "number": field.number,
        "type": _type_of(field),
        "label": _label_of(field).strip(),
        "oneof": field.containing_oneof.name if field.containing_oneof else None,
    }


def _type_of(field: Any) -> str:
    """Such as `string`, `fleet.v1.Robot` or `map<string, int32>`."""
    if field.message_type is not None:
        if field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            return f"map<{_type_of(key)}, {_type_of(value)}>"
        return str(field.message_type.full_name)
    if field.enum_type is not None:
        return str(field.enum_type.full_name)
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    return str(FieldDescriptorProto.Type.Name(field.type)).removeprefix("TYPE_").lower()


def _label_of(field: Any) -> str:
    """`repeated `, `required `, `optional ` or nothing, with a blank behind it."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return ""
    from google.protobuf.descriptor_pb2 import FieldDescriptorProto

    file = FieldDescriptorProto()
    field.CopyToProto(file)
    if file.label == FieldDescriptorProto.LABEL_REPEATED:
        return "repeated "
    if file.label == FieldDescriptorProto.LABEL_REQUIRED:
        return "required "
    return "optional " if file.proto3_optional or _is_proto2(field) else ""


def _is_proto2(field: Any) -> bool:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    file = FileDescriptorProto()
    field.file.CopyToProto(file)
    return file.syntax in ("", "proto2") and field.containing_oneof is None
