"""What may stand where a source takes a secret: a text, which is kept, or a path, whose file is read for each use."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TypeAlias

from grpc_bearer._base.arguments import Place, checked_text, refuse_file_name
from grpc_bearer._base.token import Secret
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources._files import checked_path, read_text

#: A secret as users give it.
SecretLike: TypeAlias = str | PathLike[str]


class FileSecret(Secret):
    """A secret in a file, read each time: somebody may put another there. Nothing of it stays here, so it pickles."""

    __slots__ = ()
    fixed = False

    def reveal(self) -> str:
        """What the file holds now, trimmed; raises `TokenUnavailableError` or `TokenFormatError`."""
        return read_text(self._value).strip()

    def __reduce__(self) -> tuple[type[Secret], tuple[object, ...]]:
        return FileSecret, (self._value, self._field)


class Plain(Secret):
    """A text that is not secret, where a `Secret` is expected."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type[Secret], tuple[object, ...]]:
        return Plain, (self._value, self._field)


class Composed(Secret):
    """A text made of secrets each time it is asked for, since one of them is in a file."""

    __slots__ = ("_make", "_parts")
    fixed = False

    def __init__(self, field: str, make: Callable[..., str], parts: tuple[Secret, ...]) -> None:
        super().__init__("", field)
        self._make, self._parts = make, parts

    def reveal(self) -> str:
        """Made of what the parts are now."""
        return self._make(*(part.reveal() for part in self._parts))

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __reduce__(self) -> tuple[type[Secret], tuple[object, ...]]:
        return Composed, (self._field, self._make, self._parts)


def composed(field: str, make: Callable[..., str], *parts: Secret) -> Secret:
    """`make` of the parts: now if they are at hand, else each time it is asked for."""
    if all(part.fixed for part in parts):
        return Secret(make(*(part.reveal() for part in parts)), field)
    return Composed(field, make, parts)


def given_secret(field: str, value: object) -> Secret:
    """A secret as it was given.

    Raises:
        ConfigurationError: neither a text that can be sent nor a path; or a text that names a file.
    """
    if isinstance(value, (Secret, PathLike)):
        return _kept(field, value)
    text = checked_text(field, value)
    refuse_file_name(field, text)
    return Secret(text, field)


def given_text(field: Place, value: object) -> Secret:
    """The same for a text that need not be secret, and may be any: the value of a form."""
    if isinstance(value, (Secret, PathLike)):
        return _kept(field, value)
    if not isinstance(value, str):
        raise ConfigurationError(f"expected a str or a path, got {type(value).__name__}", field=field)
    if "." in value or "/" in value:  # a word such as `read` may be the name of a file as well
        refuse_file_name(field, value)
    return Secret(value, str(field))


def revealed(value: str | Secret) -> str:
    """The text, whether it is kept plain or as a `Secret`."""
    return value.reveal() if isinstance(value, Secret) else value


def is_fixed(value: str | Secret) -> bool:
    """Whether it is the same each time."""
    return isinstance(value, str) or value.fixed


def _kept(field: Place, value: Secret | PathLike[str]) -> Secret:
    return value if isinstance(value, Secret) else FileSecret(checked_path(field, value), str(field))
