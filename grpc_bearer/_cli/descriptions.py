"""What is known of a server's services and messages, wherever it comes from."""

from __future__ import annotations

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

from grpc_bearer._base.arguments import did_you_mean
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.terminal import safe

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.descriptor_pool import DescriptorPool

#: Files that come with protobuf and with googleapis-common-protos, and that many servers leave out.
_COMMON = re.compile(r"google/(?:api|longrunning|protobuf|rpc|type)/\w+\.proto")
#: The types of details that services give of errors; hardly any names them.
_ERROR_DETAILS = "google/rpc/error_details.proto"


class Descriptions(ABC):
    """Services, methods and messages by name; what is asked for is put into the pool.

    Attributes:
        pool: a `DescriptorPool` with all that was needed so far.
        whose: who knows them, for errors.
        advice: what to do where something is missing.
    """

    whose: str
    advice: str

    def __init__(self) -> None:
        from google.protobuf.descriptor_pool import DescriptorPool

        self.pool = DescriptorPool()
        self._known: set[str] = set()

    @abstractmethod
    def services(self) -> list[str]:
        """The names of all services, sorted."""

    @abstractmethod
    def look_up(self, symbol: str) -> bool:
        """Put what defines the symbol into the pool; whether there is such a thing."""

    @abstractmethod
    def imported(self, name: str) -> Iterable[FileDescriptorProto]:
        """The file of this name, perhaps with others that it imports; nothing if it is not there."""

    def service(self, name: str) -> ServiceDescriptor:
        """All about one service.

        Raises:
            CommandFailure: there is none of this name, or it cannot be told.
        """
        if not self.look_up(name):
            known = self.services()
            hint = did_you_mean(name, known)
            problem = f"{self.whose} {_HAVE[self.whose]} no service {name}{hint}"
            raise CommandFailure(Exit.CALL, problem, f"there is {', '.join(known) or 'none at all'}")
        found = self.symbol(name)
        if not hasattr(found, "methods_by_name"):
            raise CommandFailure(Exit.CALL, f"{name} is no service", "write package.Service/Method")
        return found  # type: ignore[no-any-return]

    def method(self, path: str) -> MethodDescriptor:
        """All about `package.Service/Method`.

        Raises:
            CommandFailure: there is none of this name, or it cannot be told.
        """
        service, _, name = path.partition("/")
        methods: Any = self.service(service).methods_by_name
        if name not in methods:
            hint = did_you_mean(name, methods)
            raise CommandFailure(Exit.CALL, f"{service} has no method {name}{hint}", f"it has {', '.join(methods)}")
        found: MethodDescriptor = methods[name]
        return found

    def symbol(self, name: str) -> Any:
        """The descriptor of a service, message, enum or method.

        Raises:
            CommandFailure: there is none of this name.
        """
        bare = name.strip("./").replace("/", ".")
        for each in (bare, bare.rpartition(".")[0]):  # some servers do not find a method by its name
            if each and self.look_up(each):
                break
        for find in ("Service", "MessageType", "EnumType", "Method"):
            try:
                return getattr(self.pool, f"Find{find}ByName")(bare)
            except KeyError:
                continue
        problem = f"{self.whose} {_HAVE[self.whose]} no service, message, enum or method {bare}"
        raise CommandFailure(Exit.CALL, problem + did_you_mean(bare, self.services()), self.advice)

    @property
    def types(self) -> DescriptorPool:
        """What protobuf's JSON needs of a pool, which is two methods: this very object has them."""
        return cast("DescriptorPool", self)

    # An `Any` may be of a type that nothing else has named.
    def FindMessageTypeByName(self, name: str) -> Any:
        try:
            return self.pool.FindMessageTypeByName(name)
        except KeyError:
            if name.startswith("google.rpc.") and (common := _common(_ERROR_DETAILS)):
                self.add([common])
            elif not self.look_up(name):
                raise
        return self.pool.FindMessageTypeByName(name)

    def FindExtensionByName(self, name: str) -> Any:
        return self.pool.FindExtensionByName(name)

    # -- files --------------------------------------------------------------------------------------------------------

    def add(self, given: Iterable[FileDescriptorProto]) -> None:
        """Put files into the pool, and before each what it imports.

        Raises:
            CommandFailure: something that they need is not there.
        """
        files = {file.name: file for file in given}
        for file in files.values():
            self._add_file(file, files)

    def _add_file(self, file: FileDescriptorProto, others: Mapping[str, FileDescriptorProto]) -> None:
        if file.name in self._known:
            return
        self._known.add(file.name)
        missing = [name for name in file.dependency if not self._add_import(name, others)]
        try:
            self.pool.Add(file)
            return
        except TypeError as error:
            reason = safe(str(error).rpartition("descriptor pool: ")[2])
        if missing:
            problem = f"{self.whose} {_HAVE[self.whose]} no {' and no '.join(missing)}, which {file.name} imports"
        else:
            problem = f"{self.whose} {_HAVE[self.whose]} a {file.name} that cannot be read: {reason}"
        raise CommandFailure(Exit.CALL, problem, self.advice)

    def _add_import(self, name: str, others: Mapping[str, FileDescriptorProto]) -> bool:
        """Whether it was found. If not, an empty file stands for it: one that only options need is not missed."""
        from google.protobuf.descriptor_pb2 import FileDescriptorProto

        if name in self._known:
            return True
        found = {name: others[name]} if name in others else {file.name: file for file in self.imported(name)}
        if name not in found and (common := _common(name)):
            found[name] = common
        wanted = found.get(name)
        self._add_file(wanted or FileDescriptorProto(name=name), {**others, **found})
        return wanted is not None


_HAVE = {"the server": "has", "the files": "have"}


def _common(name: str) -> FileDescriptorProto | None:
    """A file that everybody has."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    if not _COMMON.fullmatch(name):
        return None
    try:
        module: Any = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    except ImportError:
        return None
    return FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
