"""What a server says of its own methods, by gRPC's server reflection, v1 or v1alpha (they differ in name only)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import grpc

from grpc_bearer._base.arguments import did_you_mean
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.status import failed

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

_PATHS = tuple(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo" for version in ("v1", "v1alpha"))


class Reflection:
    """Asks a server about itself.

    Args:
        channel: whose calls carry the token, since many servers ask for it here too.
        timeout: for each question, in seconds; `None`: no end.
        token: not to be shown in errors.
    """

    def __init__(self, channel: grpc.Channel, timeout: float | None, token: str) -> None:
        from google.protobuf.descriptor_pool import DescriptorPool

        self._channel, self._timeout, self._token = channel, timeout, token
        self._paths = list(_PATHS)
        self._files: set[str] = set()
        self.pool = DescriptorPool()

    def services(self) -> list[str]:
        """The names of its services."""
        answer = self._ask(list_services="*")
        return sorted(each.name for each in answer.list_services_response.service)

    def service(self, name: str) -> ServiceDescriptor:
        """All about one service.

        Raises:
            CommandFailure: there is none of this name, or the server does not say.
        """
        answer = self._ask(file_containing_symbol=name)
        if not answer.HasField("file_descriptor_response"):
            known = self.services()
            hint = did_you_mean(name, known)
            raise CommandFailure(Exit.CALL, f"the server has no service {name}{hint}", f"it has {', '.join(known)}")
        self._add(answer)
        with contextlib.suppress(KeyError):  # a message, then
            found: ServiceDescriptor = self.pool.FindServiceByName(name)
            return found
        raise CommandFailure(Exit.CALL, f"{name} is no service", "write package.Service/Method")

    def method(self, path: str) -> MethodDescriptor:
        """All about `package.Service/Method`.

        Raises:
            CommandFailure: there is none of this name, or the server does not say.
        """
        service, _, name = path.partition("/")
        methods: Any = self.service(service).methods_by_name
        if name not in methods:
            hint = did_you_mean(name, methods)
            raise CommandFailure(Exit.CALL, f"{service} has no method {name}{hint}", f"it has {', '.join(methods)}")
        found: MethodDescriptor = methods[name]
        return found

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
                return next(make(request, timeout=self._timeout))
            except StopIteration:
                failure = CommandFailure(Exit.CALL, "the server's reflection gave no answer")
            except grpc.RpcError as error:
                failure = self._failure(error)
            if len(self._paths) == 1 or failure.code is not Exit.CALL:
                raise failure
            del self._paths[0]

    def _failure(self, error: Any) -> CommandFailure:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return CommandFailure(
                Exit.CALL, "the server has no reflection", "ask for it to be switched on, or use its stubs"
            )
        return failed(error, self._token, "reflection")

    def _add(self, answer: Any) -> None:
        """Put the files of an answer into the pool, and before each what it imports."""
        from google.protobuf.descriptor_pb2 import FileDescriptorProto

        given = map(FileDescriptorProto.FromString, answer.file_descriptor_response.file_descriptor_proto)
        files = {file.name: file for file in given}
        for file in files.values():
            self._add_file(file, files)

    def _add_file(self, file: FileDescriptorProto, others: dict[str, FileDescriptorProto]) -> None:
        if file.name in self._files:
            return
        self._files.add(file.name)
        for name in file.dependency:
            if name in others:
                self._add_file(others[name], others)
            elif name not in self._files:
                self._add(self._ask(file_by_filename=name))
        self.pool.Add(file)
