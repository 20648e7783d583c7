"""A lock on a file, which the system frees when its holder dies, however it dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from grpc_bearer._base import fork_hooks
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError

_CREATE = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class FileLock:
    """A lock that was got.

    Args:
        free: gives it back; called once, however often `release` is called.
    """

    def __init__(self, free: Callable[[], object]) -> None:
        self._free = [free]

    @property
    def is_held(self) -> bool:
        return bool(self._free)

    def release(self) -> None:
        with suppress(IndexError):
            self._free.pop()()


if sys.platform == "win32":

    def check_locking(field: str) -> None:
        """Raises ConfigurationError: what it takes is not installed; `field` is the argument that needs it."""
        problem = "files need filelock on Windows: pip install 'grpc-bearer[files]'"
        with translating(ImportError, to=lambda _: ConfigurationError(problem, field=field)):
            import filelock  # noqa: F401  # whether it can be

    def lock_file(path: str, at: int | None = None) -> FileLock | None:
        """The lock on a file, made if need be; `None` if somebody else has it."""
        import filelock

        # Another thread may release it, and a lock is used once.
        lock = filelock.FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            return None
        return FileLock(lock.release)

else:
    import fcntl

    def check_locking(field: str) -> None:
        """Nothing is missing here."""

    def lock_file(path: str, at: int | None = None) -> FileLock | None:
        """The lock on a file, made if need be; `None` if somebody else has it.

        By `flock`, as filelock does it, but in the open folder `at`. So it does no harm if somebody puts another folder
        in its place, with links to files of this user: no link is followed, and no file is truncated.
        """
        descriptor = os.open(path, _CREATE, 0o600, dir_fd=at)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, (BlockingIOError, PermissionError)):
                return None
            raise
        _held.add(descriptor)
        return FileLock(lambda: _unlock(descriptor))

    def _unlock(descriptor: int) -> None:
        if descriptor not in _held:  # the lock of the parent, whose descriptor this child has closed
            return
        _held.discard(descriptor)
        try:
            # Closing is not enough: a child that is being forked just now has the descriptor too.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    _held: set[int] = set()

    def _after_fork_in_child() -> None:
        # Otherwise, if the holder of a lock is killed, the lock would stay with its children.
        while _held:
            os.close(_held.pop())

    fork_hooks.in_child(fork_hooks.Phase.RENEW, _after_fork_in_child)
