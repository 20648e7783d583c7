"""What the fields of an auth may hold in a configuration: pure checks, and the values that builders take.

A secret field `token` may be given in three ways: `token` itself, `token_file` (a file's name) or `token_env` (the name
of an environment variable). Errors name the field, never a value.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from grpc_bearer._base.arguments import expanded_path, is_number, names_file
from grpc_bearer._base.credential_files import parse_object, read_text
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError

_T = TypeVar("_T")

#: How a secret may be given, as endings of its name; the bare name is the first.
WAYS = ("", "_file", "_env")


class PlacedError(ConfigurationError):
    """One that tells already where it is."""


@dataclass(frozen=True, slots=True)
class Given:
    """The fields of one auth as they were given.

    Args:
        values: name to value.
        where: how errors call a field: a name gives what stands before `: problem`; `""` is the auth as a whole.
        folder: where relative file names start.
        environ: for the fields that name a variable.
        spelled: how a field is written where this comes from.
        inline: whether secrets may be written there themselves.
        once: whether a pipe in place of a file is read here and now, since one token is all that is wanted.
        distrusted: why no module or command that is named here may be run; nothing if it may.
        inner: makes what `value.opened()` makes a source of, from the table of one within this auth; `None`: there are
            none where this comes from.
    """

    values: Mapping[str, object] = field(repr=False)
    where: Callable[[str], str] = lambda name: name
    folder: Path = Path()
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    spelled: Callable[[str], str] = str
    inline: bool = True
    once: bool = False
    distrusted: Callable[[], str] = lambda: ""
    inner: Callable[[Given], object] | None = None

    def path(self, text: str, name: str = "") -> Path:
        return self.folder / expanded_path(name, text)


@dataclass(frozen=True, slots=True)
class Field:
    """One field: what it may hold, and whether it is a secret.

    Args:
        check: gives the value that the builder takes; raises `ValueError` with what was expected.
        secret: it may also be given by file or by environment variable.
        required: it must be there, in one of these ways.
        names_file: of a secret: a text may be the name of its file too, as keys and credentials tell by their look.
        by_file: of a secret: what the builder takes for a file; `None`: the text that is in it now.
        from_text: of a secret: makes the value of the text in a file or variable.
        help: a few words for `--help`.
    """

    check: Callable[[object, Given], object]
    secret: bool = False
    required: bool = False
    names_file: bool = False
    by_file: Callable[[Path], object] | None = None
    from_text: Callable[[str, str], object] | None = None
    help: str = ""

    def names(self, name: str) -> list[str]:
        """The names under which it may be given."""
        return [name + way for way in WAYS] if self.secret else [name]

    def value(self, name: str, given: Given) -> object:
        """What the builder takes for it; `None` if it was not given.

        Raises:
            ConfigurationError: the value cannot be used; whoever knows the file tells where that is.
        """
        used = [each for each in self.names(name) if each in given.values]
        if len(used) > 1:
            raise ConfigurationError(f"given beside {given.spelled(used[0])}; leave one of them", field=used[1])
        if not used:
            if self.required:
                ways = self.names(name)[0 if given.inline or not self.secret else 1 :]
                raise ConfigurationError(f"{' or '.join(map(given.spelled, ways))}: missing")
            return None
        with translating(ValueError, to=lambda error: _told_of(used[0], given, error)):
            return self._read(used[0], used[0][len(name) :], given)

    def _read(self, name: str, way: str, given: Given) -> object:
        value = given.values[name]
        if way == "_file" and self.by_file:
            file = given.path(_named(name, value, "the name of a file"))
            if not (given.once and is_pipe(file)):
                return self.by_file(file)
        if way:
            found = variable(name, value, given) if way == "_env" else contents(name, value, given)
            if way == "_env" and not self.names_file and names_file(found):
                raise ConfigurationError(
                    f"the variable holds {_FILE_INSTEAD.format(given.spelled(name[:-4] + '_file'))}"
                )
            return self.from_text(name, found) if self.from_text else found
        if self.secret and not self.names_file and isinstance(value, str) and names_file(str(given.folder / value)):
            raise ConfigurationError(_FILE_INSTEAD.format(given.spelled(f"{name}_file")))
        return self.check(value, given)


def _told_of(name: str, given: Given, error: ValueError) -> ConfigurationError | None:
    """What is wrong with a field, with its name; `None` if the error has a name already."""
    if isinstance(error, PlacedError):
        return None
    if not isinstance(error, ConfigurationError):
        return ConfigurationError(f"{error}, got {_kind(given.values[name])}", field=name)
    return None if error._field else ConfigurationError(error._reason, field=name)


_FILE_INSTEAD = "the name of a file, which would be sent itself; write {} to have the file read"

# -- what fields hold -------------------------------------------------------------------------------------------------


def text(value: object, _given: Given) -> str:
    return _of(value, str, "a text")


def flag(value: object, _given: Given) -> bool:
    return _of(value, bool, "true or false")


def number(value: object, _given: Given) -> float:
    if not is_number(value):
        raise ValueError("expected a number")
    return value


def whole(value: object, _given: Given) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("expected a whole number")
    return value


def texts(value: object, _given: Given) -> object:
    """A text, or a list of them."""
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(each, str) for each in value)):
        return value
    raise ValueError("expected a text or a list of texts")


def pair(value: object, given: Given) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("expected two numbers in a list")
    return number(value[0], given), number(value[1], given)


def path(value: object, given: Given) -> Path:
    return given.path(_of(value, str, "the name of a file"))


def paths(value: object, given: Given) -> tuple[Path, Path]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError("expected two file names in a list: certificate and key")
    return path(value[0], given), path(value[1], given)


def function(value: object, given: Given) -> Callable[..., object]:
    """What is named as `package.module:name`; the module is imported."""
    named = re.fullmatch(r"([\w.]+):([\w.]+)", _of(value, str, '"package.module:name"'))
    if named is None:
        raise ValueError('expected "package.module:name"')
    if problem := given.distrusted():
        raise ConfigurationError(problem)
    module = named[1]
    with translating(Exception, to=lambda error: ValueError(_not_imported(module, error))):
        found: Any = importlib.import_module(module)
    for name in named[2].split("."):
        found = getattr(found, name, None)
    if not callable(found):
        raise ValueError(f"expected {named[2]} in {named[1]} to be a function")
    return cast("Callable[..., object]", found)


def _not_imported(module: str, error: Exception) -> str:
    missing = f" ({error.name})" if isinstance(error, ModuleNotFoundError) and error.name else ""
    raised = f"{type(error).__name__}{missing}"
    return f"importing {module} raised {raised}; expected a module of this name on the path of Python"


def command(value: object, given: Given) -> list[str]:
    """A program and its arguments, which are run."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError('expected a list of texts: ["program", "argument"]')
    if problem := given.distrusted():
        raise ConfigurationError(problem)
    return value


def token_or_source(name: str) -> Callable[[object, Given], object]:
    """A check of the field `name`, which holds a token, or in a table of its own the source of one."""

    def check(value: object, given: Given) -> object:
        if not isinstance(value, dict) or given.inner is None:
            return _of(value, str, "a text or a table with source = …")
        where = lambda field: given.where(f"{name}.{field}" if field else name)  # noqa: E731
        return given.inner(replace(given, values=value, where=where))

    return check


def functions(value: object, given: Given) -> list[Callable[..., object]]:
    return [function(each, given) for each in _of(value, list, 'a list of "package.module:name"')]


def table(value: object, given: Given) -> dict[str, object]:
    """Names and values. A value `{ env = "NAME" }` or `{ file = "name" }` is taken from there."""
    return {key: filled(each, key, given) for key, each in _of(value, dict, "a table").items()}


def text_table(value: object, given: Given) -> dict[str, object]:
    found = table(value, given)
    if not all(isinstance(each, str) for each in found.values()):
        raise ValueError("expected a table of texts")
    return found


def text_or_table(value: object, given: Given) -> object:
    return value if isinstance(value, str) else table(value, given)


def filled(value: object, name: str, given: Given) -> object:
    """The value with every `{ env = … }` and `{ file = … }` in it replaced."""
    if isinstance(value, list):
        return [filled(each, name, given) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and isinstance(value.get("env"), str):
        return variable(name, value["env"], given)
    if len(value) == 1 and isinstance(value.get("file"), str):
        return contents(name, value["file"], given)
    return {key: filled(each, key, given) for key, each in value.items()}


# -- secrets from elsewhere -------------------------------------------------------------------------------------------


def variable(name: str, value: object, given: Given) -> str:
    """What an environment variable holds."""
    variable_name = _named(name, value, "the name of an environment variable")
    held = given.environ.get(variable_name, "")
    if held.strip():
        return held
    # Someone may have put the secret itself here: only what looks like a name is shown.
    shown = f"variable {variable_name}" if _is_variable(variable_name) else "a variable of this name"
    state = "is empty" if variable_name in given.environ else "is not set"
    raise ConfigurationError(f"environment {shown} {state}; export it first", field=name)


def contents(name: str, value: object, given: Given) -> str:
    """What a small file holds, without the line end that editors add."""
    return read_text(given.path(_named(name, value, "the name of a file"), name), name).rstrip("\r\n")


def is_pipe(path: Path) -> bool:
    """Whether it can be read only once: `<(…)` of a shell, `/dev/stdin`, a terminal."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def parsed(name: str, value: str) -> object:
    """A JSON object out of text."""
    return parse_object(value, name)


def parsed_or_table(value: object, given: Given) -> object:
    return parsed("json", value) if isinstance(value, str) else table(value, given)


def _of(value: object, kind: type[_T], expected: str) -> _T:
    if not isinstance(value, kind):
        raise ValueError(f"expected {expected}")
    return value


def _named(name: str, value: object, expected: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"expected {expected}, got {_kind(value)}", field=name)
    return value


def _is_variable(name: str) -> bool:
    return name.isidentifier() and len(name) <= 60 and name.upper() == name


_KINDS = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a table"}


def _kind(value: object) -> str:
    return "an empty text" if value == "" else _KINDS.get(type(value), type(value).__name__)
