"""A shared cache in a configuration: `cache = { … }`, or a table `[auth.NAME.cache]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpc_bearer._base.arguments import did_you_mean
from grpc_bearer._base.credential_files import shown
from grpc_bearer._base.translating import translating
from grpc_bearer._config import fields as f
from grpc_bearer._config.fields import Field, Given
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
        with translating(
            ConfigurationError, to=lambda error: ConfigurationError(error._without("cache"), field="cache")
        ):
            return SharedCache(store, **values)


def cache(value: object, given: Given) -> Cache:
    """What a table says of a cache.

    Raises:
        ConfigurationError: names the field, as `cache.NAME`.
    """
    if not isinstance(value, dict):
        raise ValueError('expected a table, such as { directory = "token-cache" }')
    inner = Given(value, folder=given.folder, environ=given.environ, spelled=lambda name: f"cache.{name}")
    known = [each for name, what in FIELDS.items() for each in what.names(name)]
    for name in value:
        if name not in known:
            raise ConfigurationError(f"not known here{did_you_mean(name, known)}", field=f"cache.{shown(name)}")
    with translating(
        ConfigurationError, to=lambda error: ConfigurationError(error._reason, field=f"cache.{error._field}")
    ):
        found = {name: what.value(name, inner) for name, what in FIELDS.items()}
    if found["directory"] is not None and found["url"] is not None:
        raise ConfigurationError("given beside cache.directory; leave one of them", field="cache.url")
    if isinstance(found["url"], str) and "://" not in found["url"]:
        raise ConfigurationError("expected a Redis URL (redis://, rediss://, unix://)", field="cache.url")
    return Cache({name: each for name, each in found.items() if each is not None})


def in_words_of_a_file(problem: str) -> str:
    """What is said of `SharedCache`'s arguments, said of the fields."""
    return re.sub(r"SharedCache\((\w+)=\.\.\.\)", r"cache.\1", problem)
