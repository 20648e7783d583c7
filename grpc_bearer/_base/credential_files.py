"""Reading what a user was given as a credential: a file, JSON text or a mapping.

Errors name file and field, never a value.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from grpc_bearer._base.arguments import A_FILE_NAME, Place, Where, as_dict, expanded_path, names_file, text_problem
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError

# A key or credential file is a few kilobytes; what is longer is another file, or /dev/zero.
MAX_FILE = 256 * 1024


def as_path(text: str, field: str) -> Path:
    """The file that a `str` names. It must exist: text that names no file may be a secret in the wrong place.

    Raises:
        ConfigurationError: no such file. The name is shown only if it looks like one.
    """
    try:
        path = Path(text).expanduser()
        exists = path.exists()
    except (OSError, ValueError, RuntimeError):  # too long, with a NUL, or without a home
        exists = False
    if exists:
        return path
    if _looks_like_path(text):
        raise ConfigurationError(f"no such file: {text}", field=field)
    raise ConfigurationError("neither a known format nor the name of a file that exists", field=field)


def _looks_like_path(text: str) -> bool:
    plain = len(text) <= 255 and text.isprintable() and not set(text) & set(" {}\"'=,")
    return plain and 2 <= len(Path(text).suffix) <= 6


def read_file(path: os.PathLike[str] | os.PathLike[bytes], field: str) -> bytes:
    """The whole of a small file.

    Raises:
        ConfigurationError: it cannot be read, or is too long to be a credential.
    """
    name = expanded_path(field, path)
    try:
        with open(name, "rb") as file:
            data = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigurationError(f"cannot read {name}: {reason}", field=field) from None
    if len(data) > MAX_FILE:
        raise ConfigurationError(f"{name} is over {MAX_FILE} bytes, too long for a credential", field=field)
    return data


def read_text(path: os.PathLike[str], field: str) -> str:
    """The text of a small file.

    Raises:
        ConfigurationError: it cannot be read, is too long to be a credential, or is no text.
    """
    data = read_file(path, field)
    problem = f"{os.fspath(path)} is not text in UTF-8"
    with translating(UnicodeDecodeError, to=lambda _: ConfigurationError(problem, field=field)):
        return data.decode("utf-8-sig")


def read_object(credentials: object, field: str) -> tuple[dict[str, Any], Path | None]:
    """A JSON object out of a mapping, JSON text, or a file (an `os.PathLike`, or a `str` that names one); and the file.

    Raises:
        ConfigurationError: unreadable, not JSON, or not an object.
    """
    if isinstance(credentials, Mapping):
        return as_dict(field, credentials), None
    if isinstance(credentials, (str, bytes)) and (text := _as_text(credentials, field)).lstrip().startswith("{"):
        return parse_object(text, field), None
    if isinstance(credentials, str):
        credentials = as_path(credentials, field)
    if isinstance(credentials, os.PathLike):
        path = Path(expanded_path(field, credentials))
        where = Where(field, str(path))
        return parse_object(_as_text(read_file(path, field), where), where), path
    raise ConfigurationError(f"expected a file, a mapping or JSON text, got {type(credentials).__name__}", field=field)


def _as_text(data: str | bytes, where: Place) -> str:
    if isinstance(data, str):
        return data.removeprefix("\ufeff")
    with translating(UnicodeDecodeError, to=lambda _: ConfigurationError("not text in UTF-8", field=where)):
        return data.decode("utf-8-sig")


def parse_object(text: str, where: Place) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ConfigurationError: not JSON, or another JSON value.
    """
    with translating(RecursionError, ValueError, to=lambda error: ConfigurationError(_no_json(error), field=where)):
        value = json.loads(text)
    if not isinstance(value, dict):
        raise ConfigurationError(f"expected a JSON object, found {type(value).__name__}", field=where)
    return value


def _no_json(error: Exception) -> str:
    place = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
    return f"not JSON{place}"


def checked_fields(
    data: Mapping[str, Any],
    fields: tuple[str, ...],
    where: Place,
    *,
    secrets: Collection[str] = (),
    extra: bool = False,
) -> dict[str, Any]:
    """The named fields, each a `str` of one line, or a PEM, trimmed; all problems are told at once.

    Args:
        data: what was read.
        fields: the names that must be there.
        where: the argument, and the file if there is one.
        secrets: those of them that may also be a path, which is given back as it is.
        extra: whether other fields are allowed.

    Raises:
        ConfigurationError: a field is missing, unknown, empty or no `str`.
    """
    problems = [problem for name in fields if (problem := _field_problem(data, name, name in secrets))]
    if not extra:
        problems += [f"{shown(name)}: not known here" for name in data if name not in fields]
    if problems:
        expected = ", ".join(fields) + ("" if extra else ", and nothing else")
        raise ConfigurationError(f"{'; '.join(problems)} (expected {expected})", field=where)
    return {name: value.strip() if isinstance(value := data[name], str) else value for name in fields}


def _field_problem(data: Mapping[str, Any], name: str, secret: bool) -> str:
    if name not in data:
        return f"{name}: missing"
    value = data[name]
    if secret and isinstance(value, os.PathLike):
        return ""
    if not isinstance(value, str):
        return f"{name}: expected a str, got {type(value).__name__}"
    if not value.strip():
        return f"{name}: empty"
    if secret and names_file(value):
        return f"{name}: {A_FILE_NAME}"
    problem = "" if "-----BEGIN" in value else text_problem(value)
    return problem and f"{name}: {problem}"


def shown(name: object) -> str:
    # Someone may have swapped names and values: an unknown name is shown only if it looks like a name.
    plain = isinstance(name, str) and len(name) <= 30 and name.isidentifier()
    return str(name) if plain else "a field whose name is not shown"
