"""Entries in a directory that only this user can read: for the processes of one machine.

An entry is written beside its place and moved there, so a reader finds the old one or the new one, whole.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

from grpc_bearer._base.arguments import Where
from grpc_bearer._base.file_locks import FileLock, check_locking, lock_file
from grpc_bearer._base.private_files import InsecureError, check_private, read_private, replacing
from grpc_bearer._base.translating import translating
from grpc_bearer.cache._sealed import header_of
from grpc_bearer.cache._store import AFTERMATH, Denied, Grant, Stored, View
from grpc_bearer.errors import ConfigurationError

_MAX_BYTES = 1 << 20
_ENTRY, _LOCK, _FAILED, _TEMPORARY = ".token", ".lock", ".failed", ".tmp"
#: What is swept away, if it is old, is ours: the directory may be one that has other files in it.
_OURS = re.compile(r"[0-9a-f]{64}(\.token|\.failed)(\.[0-9a-f]{16}\.tmp)?")
#: Seconds after which what a killed writer left behind is swept away.
_LEFT_BEHIND = 60.0
#: Seconds after its end for which an entry is left where it is.
_GRACE = 3600.0


def default_directory() -> str | None:
    """A directory of this user's own, by the custom of the system; `None` if this user has none.

    After `sudo` the environment names directories of another user's, which are left alone: what root leaves there would
    shut that user out.
    """
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        candidates = [os.environ.get("LOCALAPPDATA") or home]
    elif sys.platform == "darwin":
        candidates = [os.path.join(home, "Library", "Caches")]
    else:  # the XDG base directory specification; the runtime directory is in memory, and gone with the session
        runtime, cache = (os.environ.get(name, "") for name in ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME"))
        # The runtime directory is made by whoever begins the session; the cache folder may be made by anybody.
        candidates = [path for path in (runtime,) if os.path.isdir(path)]
        candidates.append(cache if os.path.isabs(cache) else os.path.join(home, ".cache"))
    base = next((path for path in candidates if os.path.isabs(path) and _is_own(path)), None)
    return None if base is None else os.path.join(base, "grpc-bearer")


def _is_own(path: str) -> bool:
    """Whether a directory, or where it is not there yet the one that it would be made in, is this user's."""
    if sys.platform == "win32":
        return True
    while not os.path.lexists(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    try:
        return os.stat(path).st_uid == os.geteuid()
    except OSError:
        return False


class NoStore:
    """Stands for the directory that this user does not have: each step fails, for the reason that is given."""

    leased = False

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def read(self, name: str) -> View:
        raise InsecureError(self._problem)

    def lock(self, name: str) -> Grant | Denied:
        raise InsecureError(self._problem)

    def renew(self, grant: Grant) -> None:
        return

    def publish(self, grant: Grant, blob: bytes, life: float, bad: int | None) -> bool:
        raise InsecureError(self._problem)

    def release(self, grant: Grant, *, failed: bool) -> None:
        return


class FileStore:
    """Entries in a directory.

    Args:
        directory: made if it is not there.

    Raises:
        ConfigurationError: the directory is not this user's alone, or, on Windows, filelock is not installed.
    """

    leased = False

    def __init__(self, directory: str) -> None:
        check_locking("cache")
        self.directory = os.path.join(os.getcwd(), directory)
        where = Where("cache", self.directory)
        with (
            translating(InsecureError, to=lambda error: ConfigurationError(str(error), field=where)),
            translating(
                OSError, to=lambda error: ConfigurationError(error.strerror or type(error).__name__, field=where)
            ),
            self._opened(),
        ):
            pass

    def read(self, name: str) -> View:
        with self._opened() as folder:
            return View(_read(folder, name + _ENTRY))

    def lock(self, name: str) -> Grant | Denied:
        with self._opened() as folder:
            if _age(folder, name + _FAILED) < AFTERMATH:
                return Denied.FAILED
            lock = lock_file(folder(name + _LOCK), folder.at)
            if lock is None:
                return Denied.HELD
            stored = _read(folder, name + _ENTRY)
        # Higher than the number of the entry, and not below the time in milliseconds: so it is higher than all numbers
        # before, even if somebody has emptied the directory meanwhile.
        return Grant(name, max(_now_ms(), _plausible(stored) + 1), lock)

    def renew(self, grant: Grant) -> None:
        return

    def publish(self, grant: Grant, blob: bytes, life: float, bad: int | None) -> bool:
        try:
            with self._opened() as folder:
                stored = _read(folder, grant.name + _ENTRY)
                if stored is not None and stored.number != bad and _plausible(stored) >= grant.number:
                    return False
                _replace(folder, grant.name + _ENTRY, blob)
                _sweep(folder)
                return True
        except OSError:
            # Perhaps the disk is full. Without a mark those who wait would all fetch, one by one, and fail to store.
            # The mark is an empty file, for which there is room as a rule.
            with suppress(OSError, InsecureError):
                self._mark(grant.name)
            raise
        finally:
            _lock_of(grant).release()

    def release(self, grant: Grant, *, failed: bool) -> None:
        try:
            if failed and _lock_of(grant).is_held:
                self._mark(grant.name)
        finally:
            _lock_of(grant).release()

    def _mark(self, name: str) -> None:
        with self._opened() as folder:
            _replace(folder, name + _FAILED, b"")

    @contextmanager
    def _opened(self) -> Iterator[_Folder]:
        """The directory, made if need be, and checked each time: what is behind a path can change.

        Whoever may write in a directory above it can put another in its place, or a link, and so shut us out. More they
        cannot do: what does not belong to this user, or is open to others, is not used, and neither is a link.
        """
        if sys.platform == "win32":
            os.makedirs(self.directory, exist_ok=True)
            yield _Folder(self.directory, None)
            return
        parent = os.path.dirname(self.directory)
        os.makedirs(parent, mode=0o700, exist_ok=True)
        with suppress(FileExistsError):
            os.mkdir(self.directory, 0o700)
        try:
            descriptor = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except NotADirectoryError:
            raise InsecureError("a symbolic link or a file; give the directory itself") from None
        except OSError as error:
            if os.path.islink(self.directory):
                raise InsecureError("a symbolic link; give the directory itself") from None
            raise error
        try:
            check_private(os.fstat(descriptor), "the directory", 0o700)
            yield _Folder(self.directory, descriptor)
        finally:
            os.close(descriptor)


class _Folder:
    """An open directory: paths are looked up in it, whatever its name means by now."""

    def __init__(self, path: str, descriptor: int | None) -> None:
        self._path = path
        self.at = descriptor

    def __call__(self, name: str) -> str:
        return name if self.at is not None else os.path.join(self._path, name)


def _read(folder: _Folder, name: str) -> Stored | None:
    """The entry in a file; a link, somebody else's file or one that others can write counts as none."""
    try:
        blob, status = read_private(folder(name), _MAX_BYTES, folder.at)
    except (OSError, InsecureError):
        return None
    header = header_of(blob)
    return Stored(header[0] if header else 0, blob, max(time.time() - status.st_mtime, 0.0))


def _plausible(stored: Stored | None) -> int:
    """The number of an entry; 0 if it is a day ahead of the time: such a number is not ours, and must stop nobody."""
    return 0 if stored is None or stored.number > _now_ms() + 86_400_000 else stored.number


def _now_ms() -> int:
    return int(time.time() * 1000)


def _age(folder: _Folder, name: str) -> float:
    try:
        return abs(time.time() - os.stat(folder(name), dir_fd=folder.at, follow_symlinks=False).st_mtime)
    except OSError:
        return float("inf")


def _replace(folder: _Folder, name: str, content: bytes) -> None:
    """Put a file in its place in one step. Not synced to the disk: at worst it does not open after a power cut."""
    with replacing(folder(name), folder(f"{name}.{secrets.token_hex(8)}{_TEMPORARY}"), folder.at) as put:
        put(content)


def _sweep(folder: _Folder) -> None:
    """Remove entries that have ended, and the files that killed writers left behind."""
    for name in filter(_OURS.fullmatch, os.listdir(folder.at if folder.at is not None else folder(""))):
        ended = name.endswith((_TEMPORARY, _FAILED)) and _age(folder, name) > _LEFT_BEHIND
        if name.endswith(_ENTRY) and (stored := _read(folder, name)) is not None:
            header = header_of(stored.blob)
            # By this machine's clock, which may be wrong where that of the writers was put right.
            ended = header is not None and header[1] + _GRACE < time.time() and stored.age > _GRACE
        if ended:
            with suppress(OSError):
                os.unlink(folder(name), dir_fd=folder.at)


def _lock_of(grant: Grant) -> FileLock:
    return cast("FileLock", grant.owner)
