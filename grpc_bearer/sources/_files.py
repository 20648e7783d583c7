"""Reading a small file that somebody else writes: a mounted token, a client secret."""

from __future__ import annotations

import encodings.utf_8_sig  # noqa: F401  # the codec for `read_text`, while files can be opened
import os
import stat
from typing import TypeAlias

from grpc_bearer._base.arguments import Place, expanded_path
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError, TokenFormatError, TokenUnavailableError
from grpc_bearer.sources._parse import is_jwt

#: What tells a file from what it was: when it was changed, its size, its number on the disk.
Stamp: TypeAlias = tuple[int, int, int]

_MAX_BYTES = 1 << 20
# Not blocking, or opening a named pipe would wait for its writer for ever. Windows has only the other flag.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def checked_path(field: Place, path: object) -> str:
    """The path, made absolute. The file itself need not be there yet: it may be mounted later.

    Raises:
        ConfigurationError: not a path, or a token given in its place.
    """
    text = expanded_path(field, path)
    if is_jwt(text):
        raise ConfigurationError("this is a token, not the path of a file with one; use StaticSource", field=field)
    # Joined, not normalised: "a/../b" is another file where "a" is a link. A later chdir changes nothing.
    return os.path.join(os.getcwd(), text)


def read_text(path: str) -> str:
    """The file's text, never empty.

    Raises:
        TokenUnavailableError: it cannot be read now, or is empty, as a file being rewritten is for a moment.
        TokenFormatError: it is no small text file.
    """
    with translating(
        OSError, to=lambda error: TokenUnavailableError(f"{path!r}: {error.strerror or type(error).__name__}")
    ):
        content = _content(path)
    if len(content) > _MAX_BYTES:
        raise TokenFormatError(f"{path!r}: over {_MAX_BYTES} bytes; is this the right file?")
    with translating(UnicodeDecodeError, to=lambda _: TokenFormatError(f"{path!r}: not UTF-8 text")):
        text = content.decode("utf-8-sig")
    if not text.strip():
        raise TokenUnavailableError(f"{path!r}: empty; is it being written?")
    return text


def stamps_of(*paths: str | None) -> list[Stamp]:
    """The stamps of these files, of those that are one.

    Raises:
        OSError: one is not there.
    """
    seen = [os.stat(path) for path in paths if path]
    return [(each.st_mtime_ns, each.st_size, each.st_ino) for each in seen]


def _content(path: str) -> bytes:
    descriptor = os.open(path, _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise TokenFormatError(f"{path!r}: a directory, a pipe or a device, where a regular file is expected")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_MAX_BYTES + 1)
    finally:
        os.close(descriptor)
