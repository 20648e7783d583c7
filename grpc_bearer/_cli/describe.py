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
    labels = _labels(found)
    fields = [_field_json(each, labels[each.number].strip()) for each in found.fields]
    return {"kind": "message", "name": found.full_name, "fields": fields}


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
    done, labels = set(), _labels(found)
    for field in found.fields:
        group = field.containing_oneof
        if group is None or labels[field.number]:  # `optional` of proto3 is kept as a group of one
            yield f"{labels[field.number]}{_type_of(field)} {field.name} = {field.number};"
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


def _field_json(field: Any, label: str) -> dict[str, Any]:
    return {
        "name": field.name,
        "json": field.json_name,
        "number": field.number,
        "type": _type_of(field),
        "label": label,
        "oneof": field.containing_oneof.name if field.containing_oneof and not label else None,
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


def _labels(message: Any) -> dict[int, str]:
    """By the number of a field: `repeated `, `required `, `optional ` or nothing, with a blank behind it."""
    from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

    whole, file = DescriptorProto(), FileDescriptorProto()
    message.CopyToProto(whole)
    message.file.CopyToProto(file)
    maps = {each.name for each in whole.nested_type if each.options.map_entry}
    proto2 = file.syntax in ("", "proto2")

    def label(field: FieldDescriptorProto) -> str:
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return "" if field.type_name.rpartition(".")[2] in maps else "repeated "
        if field.label == FieldDescriptorProto.LABEL_REQUIRED:
            return "required "
        return "optional " if field.proto3_optional or (proto2 and not field.HasField("oneof_index")) else ""

    return {field.number: label(field) for field in whole.field}
