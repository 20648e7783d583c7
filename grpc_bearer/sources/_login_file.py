"""The file that keeps a refresh token, for all processes of a user: read and written under a lock only.

A server that rotates refresh tokens takes each of them once (RFC 9700 section 4.14.2). Used twice, it counts as stolen,
and the whole login ends. So whoever wants to use it takes the lock, and reads then what the last one has written.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import NoReturn

from grpc_bearer._base.arguments import text_problem
from grpc_bearer._base.file_locks import FileLock, check_locking, lock_file
from grpc_bearer._base.private_files import InsecureError, read_private, replacing, settle
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import TokenError, TokenFormatError, TokenRejectedError, TokenUnavailableError
from grpc_bearer.sources._files import checked_path
from grpc_bearer.sources._parse import json_document, number_of

_MAX_BYTES = 1 << 20
#: Bytes of the disk that are taken before a refresh token is used. Most logins fit; a longer one takes its chance.
_ROOM = 8192
#: Seconds to wait for whoever holds the lock, who asks the token endpoint (10 s, if not told otherwise) or a person.
_PATIENCE = 30.0
#: Seconds between two looks whether the lock is free.
_LOOK = 0.05


@dataclass(frozen=True, slots=True, repr=False)
class Login:
    """What is kept of a login.

    Args:
        refresh_token: the one that is to be used next.
        client: whose it is: it must be sent nowhere else. Empty: somebody has put it there by hand.
        seed: the fingerprint of the refresh token that was given to this program, and that this one descends from.
        access_token: the last one that came; empty: none that others could use.
        asked_for: what it was asked for: a token for something else is no use.
        issued_at, expires_at: its life, in seconds since the Unix epoch.
    """

    refresh_token: str
    client: str = ""
    seed: str = ""
    access_token: str = ""
    asked_for: str = ""
    issued_at: float = 0.0
    expires_at: float = 0.0

    def __repr__(self) -> str:
        return "Login(<hidden>)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Login does not pickle: name its file")


class LoginFile:
    """A file with a `Login`, or with a refresh token alone that somebody has put there.

    Args:
        path: need not be there yet.
        field: how errors call it.

    Raises:
        ConfigurationError: no path; or, on Windows, filelock is not installed.
    """

    def __init__(self, path: object, field: str) -> None:
        self.path: str = checked_path(field, path)
        check_locking(field)
        #: What could not be written, and the refresh token that it follows: there is no other copy of it.
        self._unsaved: tuple[str, Login] | None = None

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_unsaved": None}

    @contextmanager
    def locked(self) -> Iterator[HeldFile]:
        """Hold the lock, once whoever has it now is ready.

        Raises:
            TokenUnavailableError: it is held for too long, or cannot be made.
            TokenRejectedError: the file is open to others, or another user's.
            TokenFormatError: it holds something else.
        """
        # A link is followed: the lock and what is written belong where the file is.
        place = os.path.realpath(self.path)
        lock = self._lock(f"{place}.lock")
        try:
            held = HeldFile(place, self._keep)
            if self._unsaved is not None and self._unsaved[0] == held.before:
                with held.writing() as write:
                    write(self._unsaved[1])
            self._unsaved = None
            yield held
        finally:
            lock.release()

    def _keep(self, unsaved: tuple[str, Login] | None) -> None:
        self._unsaved = unsaved

    def _lock(self, path: str) -> FileLock:
        until = time.monotonic() + _PATIENCE
        while True:
            with translating(OSError, to=lambda error: _unavailable(path, error, "cannot be locked")):
                lock = lock_file(path)
            if lock is not None:
                return lock
            if time.monotonic() > until:
                raise TokenUnavailableError(
                    f"{path!r}: held by another process for over {_PATIENCE:g} s; is it waiting for somebody to log in?"
                )
            time.sleep(_LOOK)


class HeldFile:
    """The file, while its lock is held.

    Raises:
        TokenError: as `LoginFile.locked`.
    """

    def __init__(self, place: str, keep: Callable[[tuple[str, Login] | None], None]) -> None:
        self._place, self._keep = place, keep
        self._beside = f"{place}.new"
        self.login = _read(place)
        left_behind = _left_behind(self._beside, self.login)
        if left_behind is not None:
            self._adopt()
            self.login = left_behind

    def _adopt(self) -> None:
        with translating(OSError, to=lambda error: _unavailable(self._place, error, "cannot be written")):
            settle(self._beside, self._place)

    @contextmanager
    def writing(self) -> Iterator[Callable[[Login], None]]:
        """Make ready to write: what can go wrong does so before a refresh token is used.

        Raises:
            TokenUnavailableError: it cannot be written; the reason is told.
        """
        with translating(OSError, to=lambda error: _unavailable(self._place, error, "cannot be written")):
            with suppress(FileNotFoundError):
                os.unlink(self._beside)  # a killed writer's, and not whole
            with replacing(self._place, self._beside, durable=_ROOM) as put:
                yield lambda login: self._put(put, login)

    @property
    def before(self) -> str:
        """The refresh token in the file; empty if there is none."""
        return "" if self.login is None else self.login.refresh_token

    def _put(self, put: Callable[[bytes], None], login: Login) -> None:
        self._keep((self.before, login))
        put(json.dumps({**asdict(login), "before": self.before}).encode())
        self._keep(None)
        self.login = login


def _unavailable(path: str, error: OSError, what: str) -> TokenUnavailableError:
    return TokenUnavailableError(f"{path!r}: {what} ({error.strerror or type(error).__name__})")


def _read(path: str) -> Login | None:
    """What the file holds; `None` if it is not there, or empty."""
    with (
        suppress(FileNotFoundError),
        translating(
            OSError,
            to=lambda error: None if isinstance(error, FileNotFoundError) else _unavailable(path, error, "not read"),
        ),
        translating(InsecureError, to=lambda error: TokenRejectedError(f"{path!r}: {error}")),
    ):
        return _parsed(read_private(path, _MAX_BYTES)[0], path)[0]
    return None


def _left_behind(path: str, login: Login | None) -> Login | None:
    """What was written there to follow `login`, by a process that was killed before it could put it into its place."""
    try:
        after, before = _parsed(read_private(path, _MAX_BYTES)[0], path)
    except (OSError, InsecureError, TokenError):
        return None
    return after if before == ("" if login is None else login.refresh_token) else None


def _parsed(content: bytes, path: str) -> tuple[Login | None, str | None]:
    """The login, and the refresh token that it followed.

    Raises:
        TokenFormatError: it is none.
    """
    with translating(UnicodeDecodeError, to=lambda _: TokenFormatError(f"{path!r}: not UTF-8 text")):
        text = content.decode("utf-8-sig").strip()
    if not text:
        return None, None
    document: object = {"refresh_token": text} if text[0] not in '{["' else json_document(text, repr(path))
    if not isinstance(document, dict) or not (_text(document, "refresh_token") or _text(document, "access_token")):
        raise TokenFormatError(f"{path!r}: neither a refresh token, nor JSON with one under refresh_token")
    login = Login(
        _text(document, "refresh_token").strip(),
        client=_text(document, "client"),
        seed=_text(document, "seed"),
        access_token=_text(document, "access_token"),
        asked_for=_text(document, "asked_for"),
        issued_at=number_of(document.get("issued_at")) or 0.0,
        expires_at=number_of(document.get("expires_at")) or 0.0,
    )
    if login.refresh_token and (problem := text_problem(login.refresh_token)):
        raise TokenFormatError(f"{path!r}: refresh_token: {problem}")
    return login, _text(document, "before")


def _text(document: dict[str, object], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) else ""
