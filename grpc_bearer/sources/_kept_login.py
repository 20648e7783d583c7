"""A login that lives on: its refresh token is used, followed by the next one, and kept, in a file or in memory."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from grpc_bearer._base.token import CallContext, HiddenText, Token, fingerprint
from grpc_bearer.errors import ConfigurationError, TokenError, TokenRejectedError
from grpc_bearer.sources._login_file import Login

#: Of another process's access token so much of its life must be left. Later its owner would fetch the next one, too.
_WORTH = 0.25
#: So many seconds a refresh token that was refused is not sent again. Then it is, since servers make mistakes.
_REFUSED = 3600.0

_LOGGER = logging.getLogger("grpc_bearer")


@dataclass(frozen=True, slots=True, repr=False)
class Granted:
    """What an answer brought.

    Args:
        token: the access token, or why it is none. The answer counts all the same: the server has made it.
        refresh_token: the next one; empty: there is none in it.
    """

    token: Token | TokenError
    refresh_token: str


class Held(Protocol):
    """A place for a login, while nobody else can use it."""

    login: Login | None

    def writing(self) -> AbstractContextManager[Callable[[Login], None]]:
        """Make ready to write."""
        ...


class Place(Protocol):
    """Where a login is kept: a `LoginFile` or a `LoginMemory`."""

    def locked(self) -> AbstractContextManager[Held]:
        """Have it alone."""
        ...


class LoginMemory:
    """A login of this process only.

    Args:
        given: a refresh token was given. It matters then if the server takes it once only.
    """

    def __init__(self, given: bool) -> None:
        self._given = given
        self._login: Login | None = None
        self._lock = os.getpid(), threading.Lock()

    @property
    def _used_up(self) -> bool:
        """Whether the server has given another refresh token in the place of the one that this program was given."""
        return self._given and self._login is not None and fingerprint(self._login.refresh_token) != self._login.seed

    def __getstate__(self) -> dict[str, bool]:
        if self._used_up:
            raise ConfigurationError(
                "the server has given another one in its place, which two processes cannot share without a file; "
                "give store= the path of one",
                field="refresh_token",
            )
        return {"given": self._given}

    def __setstate__(self, state: dict[str, bool]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    @contextmanager
    def locked(self) -> Iterator[HeldMemory]:
        """Have it alone.

        Raises:
            TokenRejectedError: this is the child of a fork, and the parent needs the refresh token itself.
        """
        process, lock = self._lock
        if process != os.getpid():
            if self._used_up:
                raise TokenRejectedError(
                    "refresh_token: the server takes each once only, so a forked child cannot use that of its parent; "
                    "give store= the path of a file, which they share",
                    suspect="credential",
                )
            self._login = None
            self._lock = _, lock = os.getpid(), threading.Lock()
        with lock:
            yield HeldMemory(self, self._login)

    def put(self, login: Login) -> None:
        """Keep it."""
        before, self._login = self._used_up, login
        if self._used_up and not before:
            _LOGGER.warning(
                "refresh_token: the server has given another one in its place, which will be lost when this process "
                "ends, and the one that was given may be of no use then; give store= the path of a file"
            )


class HeldMemory:
    """A login in memory, while nobody else can use it."""

    def __init__(self, memory: LoginMemory, login: Login | None) -> None:
        self._memory, self.login = memory, login

    @contextmanager
    def writing(self) -> Iterator[Callable[[Login], None]]:
        """Nothing is to be made ready."""
        yield self._memory.put


class KeptLogin:
    """A login, and how its access token is renewed.

    Args:
        place: where it is kept.
        where: the server, for messages.
        client: whose it is.
        asked_for: what its access tokens are for.
        seed: gives the refresh token that was given; `None` if none was.
        advice: what to do once it has ended.
    """

    def __init__(
        self,
        place: Place,
        where: str,
        *,
        client: str,
        asked_for: str,
        seed: Callable[[CallContext], str] | None = None,
        advice: str = "log in again",
    ) -> None:
        self._place, self._where, self._client = place, where, client
        self._asked_for, self._seed, self._advice = asked_for, seed, advice
        self._last = ""  # the fingerprint of the token that was given last
        self._refused = "", 0.0  # that of a refused refresh token, and until when it is not tried again

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": "", "_refused": ("", 0.0)}

    def token(
        self, context: CallContext, refresh: Callable[[str], Granted | None], begin: Callable[[], Granted] | None = None
    ) -> Token:
        """An access token: another process's, or by the refresh token, or by a new login.

        Args:
            context: of the call.
            refresh: asks the server with a refresh token; `None`: that is refused for good (`invalid_grant`).
            begin: asks somebody to log in; `None`: nobody is to be asked.

        Raises:
            TokenError: none is to be had.
        """
        known = self._last  # what comes while this thread waits for the lock, is news to it
        with self._place.locked() as held:
            login = self._current(held.login, context)
            token = (
                self._worth(login, context, known)
                or self._refreshed(held, login, context, refresh)
                or self._begun(held, login, context, begin)
            )
            self._last = token.fingerprint
            return token

    def begun(self, context: CallContext, begin: Callable[[], Granted]) -> Token:
        """An access token by a new login, in place of any that was kept."""
        with self._place.locked() as held:
            self._current(held.login, context)  # refuses that of another client
            token = self._begun(held, None, context, begin)
            self._last = token.fingerprint
            return token

    def _current(self, kept: Login | None, context: CallContext) -> Login | None:
        """The login to go on with: what was kept, or the refresh token that was given, if that is another by now."""
        if kept is not None and kept.client not in ("", self._client):
            raise TokenRejectedError(
                f"{self._where}: the file holds the login of another client, which must not be sent here; give each a "
                "file of its own",
                suspect="credential",
            )
        if self._seed is None:
            return kept
        given = self._seed(context)
        if kept is not None and kept.seed == fingerprint(given):
            return kept
        return Login(given, self._client, fingerprint(given))

    def _worth(self, login: Login | None, context: CallContext, known: str) -> Token | None:
        """The access token that was kept, if it is another one than is known and has enough of its life left."""
        if login is None or not login.access_token or login.asked_for != self._asked_for:
            return None
        left = login.expires_at - context.clock.time()
        if left <= 0 or left < _WORTH * (login.expires_at - login.issued_at):
            return None
        token = Token(login.access_token, expires_at=login.expires_at)
        return None if token.fingerprint in (known, context.refused) else token

    def _refreshed(
        self, held: Held, login: Login | None, context: CallContext, refresh: Callable[[str], Granted | None]
    ) -> Token | None:
        """A token by the refresh token; `None` if there is none, or none that the server takes."""
        if login is None or not login.refresh_token:
            return None
        mark, now = fingerprint(login.refresh_token), context.clock.monotonic()
        if self._refused[0] == mark and now < self._refused[1]:
            return None
        with held.writing() as write:
            granted = refresh(HiddenText(login.refresh_token))
            if granted is None:
                self._refused = mark, now + _REFUSED
                return None
            # First the login, then the token: whoever is killed between the two has lost nothing.
            write(self._followed(login, granted, context))
        return _token_of(granted)

    def _begun(
        self, held: Held, login: Login | None, context: CallContext, begin: Callable[[], Granted] | None
    ) -> Token:
        if begin is None:
            has_ended = login is not None and login.refresh_token != ""
            had = "the refresh token is no longer good (invalid_grant)" if has_ended else "there is no login"
            raise TokenRejectedError(f"{self._where}: {had}; {self._advice}", suspect="credential")
        with held.writing() as write:
            granted = begin()
            write(self._followed(Login(""), granted, context))
        return _token_of(granted)

    def _followed(self, login: Login, granted: Granted, context: CallContext) -> Login:
        """What is to be kept once an answer has come. One without a refresh token leaves the old one in force."""
        token = granted.token
        # Without a known end nobody could say whether it is worth anything.
        value, end = (token.value, token.expires_at) if isinstance(token, Token) and token.expires_at else ("", 0.0)
        return replace(
            login,
            refresh_token=granted.refresh_token or login.refresh_token,
            client=self._client,
            access_token=value,
            asked_for=self._asked_for,
            issued_at=context.clock.time(),
            expires_at=end,
        )


def _token_of(granted: Granted) -> Token:
    if isinstance(granted.token, TokenError):
        raise granted.token
    return granted.token
