"""A shared cache in a configuration: `cache = { … }`, or a table `[auth.NAME.cache]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpc_bearer._base.credential_files import _shown
from grpc_bearer._config import fields as f
from grpc_bearer._config.fields import Field, Given, Problem
from grpc_bearer.errors import ConfigurationError

if TYPE_CHECKING:
    from grpc_bearer.cache import SharedCache

#: The arguments of `SharedCache`, and where it is: `directory` or `url`, which may hold a password.
FIELDS: Mapping[str, Field] = {
    "directory": Field(f.path),
    "url": Field(f.text, secret=True),
    "encryption_key": Field(f.text, secret=True, by_file=Path),
    "name": Field(f.text),
    "timeout": Field(f.number),
    "spread": Field(f.number),
    "patience": Field(f.number),
}


@dataclass(frozen=True, slots=True)
class Cache:
    """A cache that has been checked and not opened yet. Two are equal if they would be the same."""

    values: Mapping[str, object] = field(repr=False)

    def opened(self) -> SharedCache:
        """The cache.

        Raises:
            ConfigurationError: as `SharedCache` does, with `cache: ` before it.
        """
        from grpc_bearer.cache import SharedCache

        values: dict[str, Any] = {**self.values}
        store = values.pop("directory", None) or values.pop("url", None)
        try:
            return SharedCache(store, **values)
        except ConfigurationError as error:
            problem = str(error)
        raise ConfigurationError(f"cache: {problem.removeprefix('cache: ')}")


def cache(value: object, given: Given) -> Cache:
    """What a table says of a cache.

    Raises:
        Problem: names the field, as `cache.NAME`.
    """
    if not isinstance(value, dict):
        raise ValueError('expected a table, such as { directory = "token-cache" }')
    inner = Given(value, folder=given.folder, environ=given.environ, spelled=lambda name: f"cache.{name}")
    known = [each for name, what in FIELDS.items() for each in what.names(name)]
    for name in value:
        if name not in known:
            close = get_close_matches(name, known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise Problem(f"cache.{_shown(name)}", f"not known here{hint}")
    try:
        found = {name: what.value(name, inner) for name, what in FIELDS.items()}
    except Problem as error:
        problem = error
    else:
        if found["directory"] is not None and found["url"] is not None:
            raise Problem("cache.url", "given beside cache.directory; leave one of them")
        if isinstance(found["url"], str) and "://" not in found["url"]:
            raise Problem("cache.url", "expected a Redis URL (redis://, rediss://, unix://)")
        return Cache({name: each for name, each in found.items() if each is not None})
    raise Problem(f"cache.{problem.field}" if problem.field else "cache", problem.text)


def in_words_of_a_file(problem: str) -> str:
    """What is said of `SharedCache`'s arguments, said of the fields."""
    return re.sub(r"SharedCache\((\w+)=\.\.\.\)", r"cache.\1", problem)
