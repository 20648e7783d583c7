"""What files say of a server's methods, where it has no reflection: sets that protoc or buf made, and .proto files."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grpc_bearer._base.translating import translating
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.descriptions import Descriptions
from grpc_bearer._cli.streams import reason_of
from grpc_bearer._cli.terminal import safe

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

#: Seconds for protoc.
_PATIENCE = 60.0


class ProtoFiles(Descriptions):
    """Knows what is in files.

    Args:
        given: all of them, in any order.
    """

    whose = "the files"
    advice = "give all that it needs; protoc takes imports along with --include_imports, and buf build by itself"

    def __init__(self, given: Sequence[FileDescriptorProto]) -> None:
        super().__init__()
        self._services = sorted(
            f"{file.package}.{service.name}".lstrip(".") for file in given for service in file.service
        )
        self.add(given)

    def services(self) -> list[str]:
        return self._services

    def look_up(self, symbol: str) -> bool:
        try:
            self.pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return False
        return True

    def imported(self, name: str) -> Iterable[FileDescriptorProto]:
        return ()


def protosets(paths: Sequence[str]) -> list[FileDescriptorProto]:
    """The files in sets (`FileDescriptorSet`).

    Raises:
        CommandFailure: one cannot be read, or is none.
    """
    return [file for path in paths for file in _protoset(path)]


def _protoset(path: str) -> Iterable[FileDescriptorProto]:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.message import DecodeError

    unread = lambda error: CommandFailure(Exit.USAGE, f"--protoset: cannot read {path}: {reason_of(error)}")  # noqa: E731
    with translating(OSError, to=unread):
        data = Path(path).read_bytes()
    advice = "make one by protoc --include_imports --descriptor_set_out=FILE, or by buf build -o FILE"
    no_set = CommandFailure(Exit.USAGE, f"--protoset: {path} is no set of file descriptors", advice)
    with translating(DecodeError, to=lambda _: no_set):
        files = FileDescriptorSet.FromString(data).file
    if not files:
        raise no_set
    return files


def compiled(paths: Sequence[str], import_paths: Sequence[str]) -> list[FileDescriptorProto]:
    """What .proto files say, with all that they import.

    Args:
        paths: the files, by themselves or below one of the import paths.
        import_paths: the folders where imports are looked for; without any: the current one, and that of each file.

    Raises:
        CommandFailure: there is no protoc, or it does not like them.
    """
    command = _protoc()
    folders = [Path(each) for each in import_paths] or [Path(), *dict.fromkeys(Path(each).parent for each in paths)]
    names = [_name_of(path, folders) for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "protoset")
        options = [*(f"-I{each}" for each in folders), "--include_imports", f"--descriptor_set_out={out}"]
        try:
            ran = subprocess.run(  # noqa: S603  # a program that was looked for, and no shell
                [*command, *options, *names], capture_output=True, text=True, timeout=_PATIENCE
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CommandFailure(Exit.USAGE, f"--proto: protoc: {reason_of(error)}") from None
        if ran.returncode:
            advice = "--import-path names the folders where imports are looked for"
            raise CommandFailure(Exit.USAGE, f"--proto: {_said(ran.stderr)}", advice)
        return protosets([str(out)])


def _protoc() -> list[str]:
    if importlib.util.find_spec("grpc_tools"):
        return [sys.executable, "-m", "grpc_tools.protoc"]
    if found := shutil.which("protoc"):
        return [found]
    advice = "install it: pip install grpcio-tools; or give --protoset FILE, which needs nothing more"
    raise CommandFailure(Exit.USAGE, "--proto needs grpcio-tools, which is not installed", advice)


def _name_of(path: str, folders: Sequence[Path]) -> str:
    """The name that protoc knows the file by: below one of the folders."""
    for folder in folders:
        if not Path(path).is_absolute() and (folder / path).is_file():
            return path
        if Path(path).is_file() and Path(path).resolve().is_relative_to(folder.resolve()):
            return Path(path).resolve().relative_to(folder.resolve()).as_posix()
    if Path(path).is_file():
        raise CommandFailure(Exit.USAGE, f"--proto: {path} is below no --import-path", "add the folder it begins at")
    raise CommandFailure(Exit.USAGE, f"--proto: cannot read {path}: No such file or directory")


def _said(text: str) -> str:
    """What protoc complained of, as one line."""
    lines = [safe(each) for each in text.splitlines() if each.strip() and "unused" not in each]
    return "; ".join(lines[:3]) or "protoc failed"
