"""Files that are this user's alone: read only if nobody else can, and put into their place in one step.

What is new is written beside its place and moved there. So a reader finds the old content or the new one, whole.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

_COMMON = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
# Not blocking, or opening a named pipe would wait for its writer for ever. Windows does not have the flag.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _COMMON
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _COMMON


class InsecureError(Exception):
    """This cannot be used, since others could read or change what is in it. The text says what to do."""


def check_private(status: os.stat_result, what: str, mode: int) -> None:
    """Refuse what is another user's, or is open to others.

    Windows has neither owners nor modes in this sense: there the user's own folder protects what is in it.

    Raises:
        InsecureError: it is; `what` names it, and `mode` is the one that it should have.
    """
    if sys.platform == "win32":
        return
    if status.st_uid != os.geteuid():
        raise InsecureError(f"{what} belongs to another user; give one of your own")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise InsecureError(f"{what} is open to others ({stat.S_IMODE(status.st_mode):04o}); chmod it to {mode:04o}")


def read_private(path: str, max_bytes: int, at: int | None = None) -> tuple[bytes, os.stat_result]:
    """The content of a file, and its status.

    Args:
        path: the file; no link is followed.
        max_bytes: the longest content.
        at: the open folder in which `path` is looked up, if any.

    Raises:
        OSError: it cannot be read.
        InsecureError: it is another user's or open to others; or it is no regular file, or too long.
    """
    descriptor = os.open(path, _READ, dir_fd=at)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InsecureError("a directory, a pipe or a device, where a regular file is expected")
        if status.st_size > max_bytes:
            raise InsecureError(f"over {max_bytes} bytes; is this the right file?")
        check_private(status, "the file", 0o600)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(max_bytes), status
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: str, beside: str, at: int | None = None, *, durable: int = 0) -> Iterator[Callable[[bytes], None]]:
    """Put a file into its place in one step: `with replacing(path, beside) as put: put(content)`.

    Args:
        path: the file, there already or not.
        beside: where it is written first; nothing of that name may be there.
        at: the open folder in which both are looked up, if any.
        durable: if not 0: see to it that the content survives a power cut once `put` has returned; and take room for so
            many bytes on the disk before, so that a full disk or a folder that cannot be written is told while nothing
            is lost yet. If `put` fails all the same, what it has written stays in `beside`.

    Raises:
        OSError: it cannot be written. What was there before is there still.
    """
    file = open(os.open(beside, _WRITE, 0o600, dir_fd=at), "wb")  # noqa: SIM115  # closed by `put`, or in the end
    keep = moved = False

    def put(content: bytes) -> None:
        nonlocal keep, moved
        keep = durable > 0  # from here on it may be all that there is of the content
        _write(file, content, durable > 0)
        file.close()
        os.replace(beside, path, src_dir_fd=at, dst_dir_fd=at)
        moved = True
        if durable:
            _sync_folder(path)

    try:
        if durable:
            _write(file, b" " * durable, True)
        yield put
    finally:
        try:
            file.close()
        finally:
            if not (keep or moved):
                with suppress(OSError):
                    os.unlink(beside, dir_fd=at)


def settle(beside: str, path: str) -> None:
    """Put what a killed writer has left `beside` into its place, for good.

    Raises:
        OSError: it cannot be done. It stays where it is.
    """
    descriptor = os.open(beside, os.O_RDWR | _COMMON)  # Windows syncs only what is open for writing
    try:
        os.fsync(descriptor)  # its writer may not have come so far
    finally:
        os.close(descriptor)
    os.replace(beside, path)
    _sync_folder(path)


def _write(file: IO[bytes], content: bytes, durable: bool) -> None:
    file.seek(0)
    file.write(content)
    file.truncate()
    file.flush()
    if durable:
        os.fsync(file.fileno())


def _sync_folder(path: str) -> None:
    """Have the new name survive a power cut as well. Not every file system can, and Windows does it by itself."""
    with suppress(OSError):
        descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
