"""A credential that a token request shows, as it was given: a text, a file, a function, or another source.

A text stays. A file is read and a function is called for each request. The token of another source is kept by an engine
of its own, refreshed ahead and fetched once for all, so that sources can stand in a chain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import replace
from os import PathLike
from typing import Any, Protocol, TypeAlias

import grpc

from grpc_bearer._base.arguments import text_problem
from grpc_bearer._base.identity import Identity, is_strong
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Secret, Token, fingerprint
from grpc_bearer._base.user_code import called, nobody
from grpc_bearer._engine.engine import Engine
from grpc_bearer.errors import ConfigurationError, GrpcBearerError, TokenFormatError, TokenUnavailableError
from grpc_bearer.sources._secrets import given_secret

#: A secret of the client's own.
SecretGiven: TypeAlias = str | PathLike[str] | Callable[[], str]


class TokenKeeper(Protocol):
    """What a `BearerAuth` is to a source, which stands below it and does not know it."""

    def token(self) -> Token: ...
    def invalidate(self, token: Token | str) -> bool: ...


#: A token that is shown to get another.
TokenGiven: TypeAlias = str | PathLike[str] | Callable[[], str | Token] | Source | TokenKeeper


class Given(ABC):
    """What stands for a text that is shown to an authorization server."""

    #: Whether nobody can put another in its place.
    fixed: bool = True
    #: Whether it is signed on this machine: the clock then decides what it is worth.
    signs: bool = False
    #: Modules that `shown` imports; see `Source.needs`.
    needs: tuple[str, ...] = ()
    #: Which calls it is the same for, if it is not for all.
    key: Callable[[CallContext], Hashable] | None = None

    @abstractmethod
    def shown(self, context: CallContext) -> str:
        """The text to show now.

        Raises:
            TokenError: there is none.
            SigningError: the key cannot be used.
        """

    @abstractmethod
    def replaced(self, context: CallContext, refused: str) -> bool:
        """Whether there is another text by now than this one, which the server has refused."""

    @abstractmethod
    def identity(self) -> Identity | None:
        """Whose it is, for a shared cache; `None`: it cannot tell."""

    def refuse_wait(self) -> None:
        """As of a source."""
        return

    def close(self) -> None:
        """As of a source."""
        return


class GivenText(Given):
    """A text, a file or a function.

    Args:
        field: what errors call it.
        value: any of the three.
        rotates: whether what a file holds is replaced all the time, so that it does not tell whose it is.
        anew: whether the function makes another text each time.
    """

    def __init__(self, field: str, value: object, *, rotates: bool, anew: bool = False) -> None:
        self._field, self._rotates, self._anew = field, rotates, anew
        self._function = value if callable(value) else None
        self._secret = None if callable(value) else given_secret(field, value)
        self.fixed = self._secret is not None and self._secret.fixed

    def shown(self, context: CallContext) -> str:
        return self._now()

    def replaced(self, context: CallContext, refused: str) -> bool:
        return not (self.fixed or self._anew) and self._now() != refused

    def identity(self) -> Identity | None:
        """The text itself, if it is a strong one that is at hand. A function may give anything."""
        if self._secret is None or (self._rotates and not self.fixed):
            return None
        try:
            text = self._now()
        except GrpcBearerError:  # its file is not there yet
            return None
        return Identity((self._field,), text.encode()) if is_strong(text) else None

    def _now(self) -> str:
        return nobody().run(self._text)

    def _text(self) -> str:
        value: object = called(self._field, self._function) if self._function else self._of_file()
        if isinstance(value, Token):
            value = value.value
        if not isinstance(value, str):
            kind = type(value).__name__
            raise TokenFormatError(f"{self._field}: expected its function to return a str, got {kind}")
        value = value.strip()
        if not value:
            raise TokenUnavailableError(f"{self._field}: its function returned an empty str")
        if problem := text_problem(value):
            raise TokenFormatError(f"{self._field}: {problem}")
        return value

    def _of_file(self) -> object:
        return None if self._secret is None else self._secret.reveal()


class GivenSource(Given):
    """The token of another source.

    Args:
        source: where it comes from.
        key: which calls share it, if not all do.
        kept: whether it may be shown again while it is good.
    """

    def __init__(self, source: Source, key: Callable[[CallContext], Hashable] | None, *, kept: bool) -> None:
        self._source, self._kept = source, kept and not source.single_use
        self._engines: dict[str, Engine] = {}  # one, once it is needed
        self.key = key
        self.needs = source.needs
        self.signs = self.fixed = source.signs

    def __getstate__(self) -> dict[str, object]:
        """Configuration only."""
        return {**vars(self), "_engines": {}}

    def shown(self, context: CallContext) -> str:
        own = replace(context, refused="")  # which token of ours was refused is nothing to it
        token = self._engine(context).token(own).token if self._kept else self._source.fetch(own)
        return token.value

    def replaced(self, context: CallContext, refused: str) -> bool:
        if not (self._kept and self._engine(context).invalidate(fingerprint(refused))):
            return False
        try:
            return self.shown(context) != refused
        except GrpcBearerError:  # what the server has said counts more
            return False

    def identity(self) -> Identity | None:
        found = self._source.identity()
        return found and Identity(found.about and (type(self._source).__name__, *found.about), found.secret)

    def _engine(self, context: CallContext) -> Engine:
        engine = self._engines.get("")
        # Two threads may come here at once. An engine that was never asked is nothing but an object.
        return engine or self._engines.setdefault("", Engine(self._source, metadata_of=_none, clock=context.clock))

    def refuse_wait(self) -> None:
        self._source.refuse_wait()

    def close(self) -> None:
        """Stop the engine, and with it the source. Whoever asks again gets a new one."""
        engine = self._engines.pop("", None)
        if engine is None:
            self._source.close()
        else:
            engine.close()


class GivenAuth(GivenSource):
    """The token of a `BearerAuth`, which is used for calls as well."""

    def __init__(self, auth: Any, field: str) -> None:
        engine, source = getattr(auth, "_engine", None), getattr(auth, "_source", None)
        if not isinstance(engine, Engine) or not isinstance(source, Source):
            raise _not_given(field, "a BearerAuth or what it is made of", auth)
        super().__init__(source, _key_of(source), kept=True)
        self._auth, self._field = auth, field

    def __reduce__(self) -> tuple[type[GivenAuth], tuple[object, str]]:
        return GivenAuth, (self._auth, self._field)  # the auth decides what of it may travel

    def _engine(self, context: CallContext) -> Engine:
        engine: Engine = self._auth._engine
        return engine

    def close(self) -> None:
        """It is not ours to close."""


def _none(token: Token) -> tuple[tuple[str, str], ...]:
    return ()


def given_client_secret(field: str, value: object) -> Given:
    """A secret as users give it: `SecretGiven`.

    Raises:
        ConfigurationError: it is none.
    """
    if not callable(value) and not isinstance(value, (str, PathLike, Secret)):
        raise _not_given(field, "a str, a path or a function", value)
    return GivenText(field, value, rotates=False)


def given_token(field: str, value: object) -> Given:
    """A token as users give it: `TokenGiven`. Of another source it is kept, and shown again while it is good.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(value, Source):
        return GivenSource(value, _key_of(value), kept=True)
    if isinstance(value, grpc.AuthMetadataPlugin):  # which is callable, too
        return GivenAuth(value, field)
    if not callable(value) and not isinstance(value, (str, PathLike, Secret)):
        raise _not_given(field, "a str, a path, a function, a Source or a BearerAuth", value)
    return GivenText(field, value, rotates=True)


def given_client_assertion(field: str, value: object) -> Given:
    """The same, but what a `JWTSource` gives is signed anew for each request: servers take a `jti` only once."""
    once = _once(value)
    return given_token(field, value) if once is None else once


def given_assertion(field: str, value: object) -> Given:
    """An assertion that is made, fetched or read anew for each request.

    Raises:
        ConfigurationError: it is none, or a text, which could be shown only once.
    """
    once = _once(value)
    if once is not None:
        return once
    if isinstance(value, Source):
        return GivenSource(value, _key_of(value), kept=False)
    if isinstance(value, grpc.AuthMetadataPlugin) or (not callable(value) and not isinstance(value, PathLike)):
        raise _not_given(field, "a JWTSource or another Source, a path or a function", value)
    return GivenText(field, value, rotates=True, anew=callable(value))


def _once(value: object) -> Given | None:
    from grpc_bearer.sources.jwt import JWTSource

    if not isinstance(value, JWTSource):
        return None
    source = value._for_each_request()
    return GivenSource(source, _key_of(source), kept=False)


def _key_of(source: Source) -> Callable[[CallContext], Hashable] | None:
    from grpc_bearer.sources.jwt import JWTSource

    one_for_all = getattr(source.key, "__func__", None) is Source.key
    return None if one_for_all or (isinstance(source, JWTSource) and not source._varies_by_call) else source.key


def _not_given(field: str, expected: str, value: object) -> ConfigurationError:
    return ConfigurationError(f"expected {expected}, got {type(value).__name__}", field=field)
