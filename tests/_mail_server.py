"""A service with all that descriptions can hold, whose server tells only a part of them by reflection."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection_pb2

MAIL = "play.v1.Mail"
_F = FieldDescriptorProto


def _field(name: str, number: int, kind: int, type_name: str = "", **more: Any) -> FieldDescriptorProto:
    more |= {"type_name": type_name} if type_name else {}
    return _F(name=name, number=number, type=kind, **{"label": _F.LABEL_OPTIONAL, **more})  # type: ignore[arg-type]


def _counts() -> DescriptorProto:
    entry = DescriptorProto(
        name="CountsEntry", field=[_field("key", 1, _F.TYPE_STRING), _field("value", 2, _F.TYPE_INT32)]
    )
    entry.options.map_entry = True
    return entry


def files() -> dict[str, FileDescriptorProto]:
    """The files of the service, by name: one is needed for options only, and one by nobody who names it."""
    main = FileDescriptorProto(name="play/mail.proto", package="play.v1", syntax="proto3")
    main.dependency.extend(
        ["google/protobuf/any.proto", "google/protobuf/timestamp.proto", "play/options.proto", "play/place.proto"]
    )
    letter = main.message_type.add(name="Letter")
    letter.oneof_decl.add(name="kind")
    letter.oneof_decl.add(name="_note")
    letter.field.extend(
        [
            _field("body", 1, _F.TYPE_MESSAGE, ".google.protobuf.Any"),
            _field("at", 2, _F.TYPE_MESSAGE, ".google.protobuf.Timestamp"),
            _field("text", 3, _F.TYPE_STRING, oneof_index=0),
            _field("number", 4, _F.TYPE_INT32, oneof_index=0),
            _field("counts", 5, _F.TYPE_MESSAGE, ".play.v1.Letter.CountsEntry", label=_F.LABEL_REPEATED),
            _field("colour", 6, _F.TYPE_ENUM, ".play.v1.Colour"),
            _field("note", 7, _F.TYPE_STRING, proto3_optional=True, oneof_index=1),
            _field("to", 8, _F.TYPE_MESSAGE, ".play.v1.Place", label=_F.LABEL_REPEATED),
        ]
    )
    letter.nested_type.add().CopyFrom(_counts())
    colour = main.enum_type.add(name="Colour")
    colour.value.add(name="RED", number=0)
    colour.value.add(name="GREEN", number=1)
    service = main.service.add(name="Mail")
    kind = {"input_type": ".play.v1.Letter", "output_type": ".play.v1.Letter"}
    service.method.add(name="Echo", **kind)
    service.method.add(name="Watch", server_streaming=True, **kind)
    service.method.add(name="Fail", **kind)
    service.method.add(name="Send", client_streaming=True, **kind)
    place = FileDescriptorProto(name="play/place.proto", package="play.v1", syntax="proto3")
    place.message_type.add(name="Place").field.append(_field("city", 1, _F.TYPE_STRING))
    parcel = FileDescriptorProto(name="play/parcel.proto", package="play.v1", syntax="proto3")
    parcel.message_type.add(name="Parcel").field.append(_field("grams", 1, _F.TYPE_INT32))
    options = FileDescriptorProto(name="play/options.proto", package="play.v1", syntax="proto3")
    return {each.name: each for each in (main, place, parcel, options)}


def well_known() -> Iterable[FileDescriptorProto]:
    """What protoc takes along with `--include_imports`."""
    for module in (any_pb2, timestamp_pb2):
        yield FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)


#: What defines a symbol.
_SYMBOLS = {MAIL: "play/mail.proto", "play.v1.Letter": "play/mail.proto", "play.v1.Parcel": "play/parcel.proto"}


def with_mail(hidden: Collection[str] = ()) -> Any:
    """What registers the service on a server, whose reflection has none of the hidden files."""
    known = {name: file for name, file in files().items() if name not in hidden}

    def answer(request: Any) -> Any:
        response = reflection_pb2.ServerReflectionResponse()
        name = request.file_by_filename or _SYMBOLS.get(request.file_containing_symbol, "")
        if request.HasField("list_services"):
            response.list_services_response.service.add(name=MAIL)
        elif name in known:
            response.file_descriptor_response.file_descriptor_proto.append(known[name].SerializeToString())
        else:
            response.error_response.error_code = 5
        return response

    def reflect(requests: Iterator[Any], _context: Any) -> Iterator[Any]:
        return map(answer, requests)

    def echo(request: bytes, context: Any) -> bytes:
        context.send_initial_metadata([("x-served-by", "mail-1"), ("x-session-token", "s3cret")])
        context.set_trailing_metadata([("x-cost", "3"), ("trace-bin", b"\x00\x01")])
        return request

    def watch(request: bytes, context: Any) -> Iterator[bytes]:
        yield request
        yield request
        if b"fail" in request:
            context.abort(grpc.StatusCode.DATA_LOSS, "lost")

    def fail(_request: bytes, context: Any) -> bytes:
        parcel = any_pb2.Any(type_url="type.googleapis.com/play.v1.Parcel", value=b"\x08\x07")
        unknown = any_pb2.Any(type_url="type.googleapis.com/play.v1.Nothing", value=b"x")
        token = dict(context.invocation_metadata())["authorization"].split()[1]
        reason = any_pb2.Any()
        reason.Pack(error_details_pb2.ErrorInfo(reason="NO_STAMP", metadata={"seen": token}))
        never = any_pb2.Any()
        never.Pack(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=10**13)))
        status = status_pb2.Status(code=9, message="no stamp", details=[reason, parcel, unknown, never])
        echo = ("x-echo", f"Bearer {token}")
        context.set_trailing_metadata([echo, ("grpc-status-details-bin", status.SerializeToString())])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no stamp")
        return b""

    def send(requests: Iterator[bytes], _context: Any) -> bytes:
        return b"".join(requests)

    def register(server: grpc.Server) -> None:
        handlers: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(echo),
            "Watch": grpc.unary_stream_rpc_method_handler(watch),
            "Fail": grpc.unary_unary_rpc_method_handler(fail),
            "Send": grpc.stream_unary_rpc_method_handler(send),
        }
        reflection = grpc.stream_stream_rpc_method_handler(
            reflect,
            reflection_pb2.ServerReflectionRequest.FromString,
            reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(MAIL, handlers),
                grpc.method_handlers_generic_handler(
                    "grpc.reflection.v1alpha.ServerReflection", {"ServerReflectionInfo": reflection}
                ),
            ]
        )

    return register
