"""`SharedCache`: what the user says about it, checked."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from grpc_bearer._base.arguments import (
    UNFILLED,
    Place,
    Where,
    checked_seconds,
    expanded_path,
    is_placeholder,
    refuse_file_name,
)
from grpc_bearer._base.credential_files import read_file
from grpc_bearer._base.file_locks import check_locking
from grpc_bearer._base.token import Secret
from grpc_bearer._base.translating import translating
from grpc_bearer.cache._bounded import STRETCH, CircuitBreaker
from grpc_bearer.cache._files import FileStore, NoStore, default_directory
from grpc_bearer.cache._redis import URL_SCHEMES, RedisStore, checked_client, client_of
from grpc_bearer.cache._store import Store
from grpc_bearer.errors import ConfigurationError

__all__ = ["SharedCache"]

_MIN_BYTES, _MIN_TEXT = 16, 32


class SharedCache:
    """One token for many processes: whoever needs a new one first fetches it under a lock, and the others take it up.

    Give it to `BearerAuth(source, cache=...)`, or to a profile. It is asked only when a process would fetch a token,
    never for a call. Tokens are stored encrypted (AES-GCM). Who can read them is whoever has `encryption_key`; or, if
    none is given, whoever has the source's own private key or secret, and so could fetch the token anyway.

    Nothing fails because of the cache. If it is down, or slower than `timeout`, each process goes on alone, as it would
    without a cache, and looks again some seconds later.

    Args:
        store: a directory, made if it is not there, for the processes of one machine (on Windows: extra `files`); or
            Redis or Valkey (5 or newer), for a fleet (extra `redis`): a client of redis-py (plain, Sentinel's or
            Cluster's, with TLS as you made it), a function that returns one, or a URL. `None`: a directory of this
            user's own; if there is none that can be used, this process goes on alone, and the log says so. A directory
            must be this user's alone (0700), and no symbolic link.
        encryption_key: at least 16 random bytes, or 32 characters of random text, or the file that holds them. Needed
            for sources without a strong secret of their own: functions, google-auth credentials, keys that live
            elsewhere (KMS, HSM), secrets of under 128 bits.
        name: what the token is for, if the source cannot tell itself (a function, google-auth credentials): processes
            that give the same name share it.
        timeout: seconds for each step of the cache, before this process goes on alone. Time in which this process does
            not get to run counts little, since where hundreds start on few cores that tells nothing of the cache; but
            ten times as long is the most.
        spread: going on alone, a process first waits a random time up to this many seconds, so that a fleet does not
            come down on the token endpoint at once.
        patience: seconds to wait for another process that fetches the token, while the cache answers and says that it
            is at it. Each call waits under its own deadline, and for no more than a minute, as for any fetch.

    Raises:
        ConfigurationError: an argument is wrong, or the directory can be read or changed by others.

    >>> import tempfile, os
    >>> cache = SharedCache(os.path.join(tempfile.mkdtemp(), "tokens"), encryption_key=os.urandom(32), name="billing")
    >>> cache  # doctest: +ELLIPSIS
    SharedCache('/.../tokens')
    """

    def __init__(
        self,
        store: object = None,
        *,
        encryption_key: bytes | str | os.PathLike[str] | None = None,
        name: str = "",
        timeout: float = 1.0,
        spread: float = 0.25,
        patience: float = 60.0,
    ) -> None:
        if not isinstance(name, str):
            raise ConfigurationError(f"expected a str, got {type(name).__name__}", field="name")
        self.name: str = name
        self.timeout: float = checked_seconds("timeout", timeout)
        self.spread: float = checked_seconds("spread", spread, zero=True)
        self.patience: float = checked_seconds("patience", patience, zero=True)
        self._encryption_key = _checked_key(encryption_key)
        self._given, self._shown = _checked_store(store)
        self._store: Store = self._opened()
        self._trust = CircuitBreaker(self._shown, self.timeout)

    def _opened(self) -> Store:
        given = self._given
        if given is None:
            return _default_store()
        if isinstance(given, Secret) or (isinstance(given, str) and given.startswith(URL_SCHEMES)):
            # Steps are given up in due time anyhow; the client's own timeout only sees to it that their threads end.
            client = client_of(given.reveal() if isinstance(given, Secret) else given, STRETCH * self.timeout)
            store = RedisStore(lambda: client)
            # Nobody else has this client. Left to the garbage collector, its socket may be reported as never closed.
            # Not by its `close()`, which in redis-py 5.0 leaves the connections open.
            weakref.finalize(store, client.connection_pool.disconnect).atexit = False
            return store
        if isinstance(given, str):
            return FileStore(given)
        connect = given if callable(given) and not callable(getattr(given, "eval", None)) else None
        if connect is not None:
            return RedisStore(cast("Callable[[], Any]", connect))
        checked_client(given)
        return RedisStore(lambda: given)

    def _key(self) -> bytes | None:
        """The encryption key that was given, as bytes.

        Raises:
            ConfigurationError: its file cannot be read, or holds too little.
        """
        given = self._encryption_key
        if given is None:
            return None
        if isinstance(given, Secret):
            return given.reveal().encode("utf-8", "surrogateescape")
        content = read_file(given, "encryption_key").strip(b"\r\n")
        _check_size(content, content.isascii(), Where("encryption_key", os.fspath(given)))
        return content

    def __repr__(self) -> str:
        return f"SharedCache({self._shown})"

    def __reduce__(self) -> tuple[Callable[..., SharedCache], tuple[Any, ...]]:
        if not isinstance(self._given, (str, Secret)) and callable(getattr(self._given, "eval", None)):
            raise ConfigurationError(
                "a Redis client does not pickle; give SharedCache its URL, or a function that makes the client",
                field="cache",
            )
        options = self.name, self.timeout, self.spread, self.patience
        return _rebuilt, (self._given, self._encryption_key, *options)


def _rebuilt(
    given: object,
    key: Secret | os.PathLike[str] | None,
    name: str,
    timeout: float,
    spread: float,
    patience: float,
) -> SharedCache:
    store = given.reveal() if isinstance(given, Secret) else given
    material = key.reveal().encode("utf-8", "surrogateescape") if isinstance(key, Secret) else key
    return SharedCache(store, encryption_key=material, name=name, timeout=timeout, spread=spread, patience=patience)


def _checked_store(store: object) -> tuple[object, str]:
    """What was given, and how to show it: never a URL, which may hold a password."""
    if store is None:
        return None, repr(default_directory())
    if isinstance(store, str) and store.startswith(URL_SCHEMES):
        return Secret(store, "cache (its URL)") if "@" in store or "?" in store else store, "Redis, by URL"
    if isinstance(store, (str, os.PathLike)):
        path = os.path.join(os.getcwd(), expanded_path("cache", store))
        if "://" in path:
            raise ConfigurationError(
                "expected a directory or a Redis URL (redis://, rediss://, unix://)", field="cache"
            )
        return path, repr(path)
    if callable(getattr(store, "eval", None)) or (callable(store) and not isinstance(store, type)):
        return store, f"Redis, by {'a client' if hasattr(store, 'eval') else 'a function'}"
    raise ConfigurationError(
        f"expected a directory, a Redis client, a function that returns one or a URL, got {type(store).__name__}",
        field="cache",
    )


def _default_store() -> Store:
    """This user's own directory; where there is none that can be used, no cache, for nothing fails because of it."""
    directory, problem = default_directory(), "this user has no directory for it; give one"
    check_locking("cache")
    if directory is not None:
        try:
            return FileStore(directory)
        except ConfigurationError as error:
            problem = error._without("cache")
    return NoStore(problem)


def _checked_key(key: object) -> Secret | os.PathLike[str] | None:
    if key is None:
        return None
    if isinstance(key, os.PathLike):
        return Path(os.getcwd(), expanded_path("encryption_key", key))
    if not isinstance(key, (bytes, str)):
        raise ConfigurationError(f"expected bytes, a str or a path, got {type(key).__name__}", field="encryption_key")
    content = _text_key(key) if isinstance(key, str) else key
    _check_size(content, isinstance(key, str), "encryption_key")
    return Secret(content.decode("utf-8", "surrogateescape"), "encryption_key")


def _text_key(key: str) -> bytes:
    text = key.strip("\r\n")  # as out of a file
    if is_placeholder(text.strip()):
        raise ConfigurationError(UNFILLED, field="encryption_key")
    refuse_file_name("encryption_key", text)
    problem = "has a character that is none (half of a surrogate pair)"
    with translating(UnicodeEncodeError, to=lambda _: ConfigurationError(problem, field="encryption_key")):
        return text.encode("utf-8", "surrogateescape")


def _check_size(content: bytes, is_text: bool, where: Place) -> None:
    least = _MIN_TEXT if is_text else _MIN_BYTES
    if len(content) < least or len(set(content)) < 8:
        unit = "characters of random text" if is_text else "random bytes"
        raise ConfigurationError(
            f"too weak; give at least {least} {unit}, such as those of `openssl rand -hex 32`", field=where
        )
