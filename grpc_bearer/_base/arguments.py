"""How an argument is read: a switch, a number, a text, a mapping, a path. Errors name the argument, never its value."""

from __future__ import annotations

import math
import os
import re
import stat
import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeGuard

from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError

_LINE_BREAK = re.compile(r"[\r\n\v\f\x85\u2028\u2029]")
# What a template or a shell should have replaced:
# ${TOKEN}, $TOKEN, $(cat token), {{ token }}, %TOKEN%, <Your_Token_Here>.
_PLACEHOLDER = re.compile(
    r"\$\{[^{}]*\}|\$[A-Z_][A-Z0-9_]*|\$\([^()]*\)|\{\{.*\}\}|%[A-Z_][A-Z0-9_]*%|<[A-Za-z][\w .-]*>"
)


class Where(NamedTuple):
    """A place inside what was given for an argument: its file, or the name of one of its members."""

    field: str
    inside: str

    def __str__(self) -> str:
        return f"{self.field}: {self.inside}"


#: What an error is about: an argument by its name, or a place inside it.
Place: TypeAlias = str | Where


def checked_flag(field: str, value: object) -> bool:
    """A switch: `"false"` out of a file or the environment is true to Python, so nothing but a bool is taken."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"expected True or False, got {type(value).__name__}", field=field)
    return value


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number, and one that fits into a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # 10**400
        return False


def checked_seconds(field: str, value: object, *, zero: bool = False) -> float:
    """A finite time span: above 0, or, with `zero`, 0 or more."""
    if not is_number(value) or value < 0 or (value == 0 and not zero):
        raise ConfigurationError(f"expected a number of seconds{', 0 or more' if zero else ' above 0'}", field=field)
    return float(value)


def seconds_or_none(field: str, value: object) -> float | None:
    """A time span above 0, if one was given."""
    return None if value is None else checked_seconds(field, value)


def checked_wait(field: str, value: object) -> float | None:
    """How long to wait: `None`, or seconds; no longer than the system can wait."""
    if value is None:
        return None
    if not is_number(value):
        raise ConfigurationError("expected a number of seconds, or None", field=field)
    return min(float(value), threading.TIMEOUT_MAX)


def as_dict(field: str, value: object) -> dict[Any, Any]:
    """A copy of a mapping; what reading it raises becomes an error of ours."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"expected a mapping, got {type(value).__name__}", field=field)
    # It may be of somebody's own, such as one that looks things up elsewhere.
    with translating(
        Exception,
        to=lambda error: ConfigurationError(f"reading the mapping raised {type(error).__name__}", field=field),
    ):
        return dict(value)


def checked_text(field: Place, value: object) -> str:
    """A text that is to be sent or signed, trimmed as tokens are: files and copies end in a line break or a blank.

    Raises:
        ConfigurationError: no `str`, empty, of several lines, with an invisible character, or a placeholder.
    """
    if not isinstance(value, str):
        raise ConfigurationError(f"expected a str, got {type(value).__name__}", field=field)
    if problem := text_problem(value):
        raise ConfigurationError(problem, field=field)
    return value.strip()


def text_problem(value: str) -> str:
    """What is wrong with a text that is to be sent or signed, in words; nothing if it can be taken."""
    text = value.strip()
    if not text:
        return "expected a str that is not empty"
    if _LINE_BREAK.search(text):
        return "has a line break in it"
    if not text.isprintable():
        return "has a control character, or another that cannot be seen"
    if is_placeholder(text):
        return UNFILLED
    return ""


#: What is said of a placeholder.
UNFILLED = "a placeholder that was not filled in; put the value itself in its place"


def is_placeholder(text: str) -> bool:
    """Whether the whole text is one."""
    return _PLACEHOLDER.fullmatch(text) is not None


def kind_of(value: object) -> str:
    """The class of a value with its module, where several libraries have one of that name: `grpc.aio._channel.Channel`.

    >>> kind_of(3), kind_of(threading.Thread())
    ('int', 'threading.Thread')
    """
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


# -- paths ------------------------------------------------------------------------------------------------------------


def expanded_path(field: Place, path: object) -> str:
    """A path as text, with `~` replaced by the home folder. What it names need not be there.

    Raises:
        ConfigurationError: no path, empty, with a NUL, or there is no such home.
    """
    text = _fspath(path)
    if text is None:
        raise ConfigurationError(f"expected a path, got {type(path).__name__}", field=field)
    if not text or "\0" in text:
        raise ConfigurationError("empty, or with a NUL in it", field=field)
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise ConfigurationError(
            "begins with '~', and there is no such home directory; give the whole path, or './~…' for a "
            "file of that name",
            field=field,
        )
    return found


def _fspath(path: object) -> str | None:
    if not isinstance(path, (str, os.PathLike)):
        return None
    try:
        # Path-like objects of somebody's own may hold bytes, or raise.
        return path if isinstance(path, str) else os.fsdecode(path)
    except Exception:
        return None


def refuse_file_name(field: Place, text: str) -> None:
    """Refuse the name of a file where a secret is expected: the name would be sent in its place.

    Raises:
        ConfigurationError: there is such a file.
    """
    if names_file(text):
        raise ConfigurationError(A_FILE_NAME, field=field)


#: What is said of such a text.
A_FILE_NAME = "this text is the name of a file, and would be sent itself; pass pathlib.Path(…) to have the file read"


def names_file(text: str) -> bool:
    """Whether there is a file of this name."""
    try:
        return not stat.S_ISDIR(os.stat(os.path.expanduser(text.strip())).st_mode)
    except (OSError, ValueError):  # too long, with a NUL, not to be encoded
        return False
