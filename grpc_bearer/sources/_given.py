"""A credential that a token request shows, as it was given: a text, a file, a function, or another source.

A text stays. A file is read and a function is called for each request. The token of another source is kept by an engine
of its own, refreshed ahead and fetched once for all, so that sources can stand in a chain.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import replace
from os import PathLike
from typing import TypeAlias

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
#: A token that is shown to get another.
TokenGiven: TypeAlias = str | PathLike[str] | Callable[[], str | Token] | Source


class Given(ABC):
    """What stands for a text that is shown to an authorization server."""

    #: Whether nobody can put another in its place.
    fixed: bool = True
    #: Whether it is signed on this machine, for each request: the clock then decides what it is worth.
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
    """

    def __init__(self, field: str, value: object, *, rotates: bool) -> None:
        self._field, self._rotates = field, rotates
        self._function = value if callable(value) else None
        self._secret = None if callable(value) else given_secret(field, value)
        self.fixed = self._secret is not None and self._secret.fixed

    def shown(self, context: CallContext) -> str:
        return self._now()

    def replaced(self, context: CallContext, refused: str) -> bool:
        return not self.fixed and self._now() != refused

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
    """The token of another source."""

    def __init__(self, source: Source, key: Callable[[CallContext], Hashable] | None) -> None:
        self._source = source
        self._engines: dict[str, Engine] = {}  # one, once it is needed
        self.key = key
        self.signs, self.needs = source.signs, source.needs
        self.fixed = source.signs

    def __getstate__(self) -> dict[str, object]:
        """Configuration only."""
        return {**vars(self), "_engines": {}}

    def shown(self, context: CallContext) -> str:
        own = replace(context, refused="")  # which token of ours was refused is nothing to it
        if self._source.single_use:
            return self._source.fetch(own).value  # there is nothing to keep
        return self._engine(context).token(own).token.value

    def replaced(self, context: CallContext, refused: str) -> bool:
        if self._source.single_use or not self._engine(context).invalidate(fingerprint(refused)):
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


def _none(token: Token) -> tuple[tuple[str, str], ...]:
    return ()


def given_client_secret(field: str, value: object) -> Given:
    """A secret as users give it: `SecretGiven`.

    Raises:
        ConfigurationError: it is none.
    """
    if not callable(value) and not isinstance(value, (str, PathLike, Secret)):
        raise ConfigurationError(f"expected a str, a path or a function, got {type(value).__name__}", field=field)
    return GivenText(field, value, rotates=False)


def given_token(field: str, value: object) -> Given:
    """A token as users give it: `TokenGiven`. Of another source it is kept, and shown again while it is good.

    Raises:
        ConfigurationError: it is none.
    """
    if isinstance(value, Source):
        return GivenSource(value, _key_of(value))
    if not callable(value) and not isinstance(value, (str, PathLike, Secret)):
        raise ConfigurationError(
            f"expected a str, a path, a function or a Source, got {type(value).__name__}", field=field
        )
    return GivenText(field, value, rotates=True)


def given_assertion(field: str, value: object) -> Given:
    """The same, but what a `JWTSource` gives is signed anew for each request: servers take an assertion only once."""
    from grpc_bearer.sources.jwt import JWTSource

    if isinstance(value, JWTSource):
        once = value._for_each_request()
        return GivenSource(once, once.key if once._varies_by_call else None)
    return given_token(field, value)


def _key_of(source: Source) -> Callable[[CallContext], Hashable] | None:
    from grpc_bearer.sources.jwt import JWTSource

    one_for_all = getattr(source.key, "__func__", None) is Source.key
    return None if one_for_all or (isinstance(source, JWTSource) and not source._varies_by_call) else source.key
