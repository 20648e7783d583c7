"""What a server says of its own methods, by gRPC's server reflection, v1 or v1alpha (they differ in name only)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import grpc

from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.descriptions import Descriptions
from grpc_bearer._cli.status import failed

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

_PATHS = tuple(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha"))


class Reflection(Descriptions):
    """Asks a server about itself.

    Args:
        channel: whose calls carry the token, since many servers ask for it here too.
        metadata: goes along, since a proxy may find the server by it.
        left: how many seconds are left for a question; `None`: no end.
        tokens: not to be shown in errors; there may be more of them later.
    """

    whose = "the server"
    advice = "describe it by files: --protoset FILE, or --proto FILE"

    def __init__(
        self,
        channel: grpc.Channel,
        metadata: Sequence[tuple[str, str | bytes]],
        left: Callable[[], float | None],
        tokens: Collection[str],
    ) -> None:
        super().__init__()
        self._channel, self._metadata, self._left, self._tokens = channel, metadata, left, tokens
        self._paths = list(_PATHS)
        self._asked: set[str] = set()

    def services(self) -> list[str]:
        answer = self._ask(list_services="*")
        return sorted(each.name for each in answer.list_services_response.service)

    def look_up(self, symbol: str) -> bool:
        if symbol in self._asked:
            return True
        answer = self._ask(file_containing_symbol=symbol)
        if not answer.HasField("file_descriptor_response"):
            return False
        self.add(_files(answer))
        self._asked.add(symbol)
        return True

    def imported(self, name: str) -> Iterable[FileDescriptorProto]:
        return _files(self._ask(file_by_filename=name))

    def _ask(self, **question: str) -> Any:
        from grpc_reflection.v1alpha import reflection_pb2

        request = reflection_pb2.ServerReflectionRequest(**question)
        while True:
            # One question: asked as a stream, core may lose the status that a proxy gives.
            make: Any = self._channel.unary_stream(
                self._paths[0],
                request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
            )
            try:
                return next(make(request, timeout=self._left(), metadata=self._metadata))
            except StopIteration:
                failure = CommandFailure(Exit.CALL, "the server's reflection gave no answer")
            except grpc.RpcError as error:
                failure = self._failure(error)
            if len(self._paths) == 1 or failure.code is not Exit.CALL:
                raise failure
            del self._paths[0]

    def _failure(self, error: Any) -> CommandFailure:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return CommandFailure(Exit.CALL, "the server has no reflection", self.advice)
        return failed(error, self._tokens, "reflection")


def _files(answer: Any) -> list[FileDescriptorProto]:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    given = answer.file_descriptor_response.file_descriptor_proto
    return [FileDescriptorProto.FromString(each) for each in given]
