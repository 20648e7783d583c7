"""Entries in Redis or Valkey, through a client of redis-py (or one with the same methods).

Each step is one script, so each is atomic, and all keys of an entry carry the same hash tag, so that they live on one
node of a cluster. Entries are base64: a client that decodes responses is welcome too.
"""

from __future__ import annotations

import base64
import inspect
import secrets
from collections.abc import Callable
from typing import Any

from grpc_bearer._base.translating import translating
from grpc_bearer.cache._store import AFTERMATH, LEASE, Denied, Grant, Stored, View
from grpc_bearer.errors import ConfigurationError

URL_SCHEMES = ("redis://", "rediss://", "unix://", "valkey://", "valkeys://")

# KEYS: entry, lock, fence. The time is the server's: one clock for all.
_NOW = "local t = redis.call('TIME'); local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"
_READ = (
    _NOW
    + """
local held, entry, left = redis.call('GET', KEYS[2]) or '', {}, redis.call('PTTL', KEYS[2])
if left < 0 or left > 60000 then held = '' end
if redis.call('TYPE', KEYS[1]).ok == 'hash' then entry = redis.call('HMGET', KEYS[1], 'number', 'blob', 'at') end
return {held, entry[1] or '', entry[2] or '', now - (tonumber(entry[3] or '') or 0)}
"""
)
# The fence is counted up, and never below the time: it stays ahead of old entries even if it was lost with a restart.
# What is a day ahead of the time, or no number, is not of our making, nor is a lock that would stay for more than a
# minute (ours are renewed every few seconds): they keep nobody out.
_LOCK = (
    _NOW
    + """
local held, left = redis.call('GET', KEYS[2]), redis.call('PTTL', KEYS[2])
if held and left > 0 and left <= 60000 then return held == 'failed' and -1 or 0 end
local number = (tonumber(redis.call('GET', KEYS[3]) or '') or 0) + 1
if not (number >= now and number <= now + 86400000) then number = now end
redis.call('SET', KEYS[3], string.format('%.0f', number), 'PX', 172800000)
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return number
"""
)
_RENEW = "if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('PEXPIRE', KEYS[2], ARGV[2]) end"
# A holder whose lock has gone to another is late: what the other stored has a higher number, and stays.
_PUBLISH = (
    _NOW
    + """
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  local kept = redis.call('HGET', KEYS[1], 'number') or ''
  local number = tonumber(kept) or 0
  if kept ~= ARGV[5] and number >= tonumber(ARGV[2]) and number < now + 86400000 then return 0 end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'number', ARGV[2], 'blob', ARGV[3], 'at', string.format('%.0f', now))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
)
_RELEASE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return end
if ARGV[2] == '0' then redis.call('DEL', KEYS[2]) else redis.call('SET', KEYS[2], 'failed', 'PX', ARGV[2]) end
"""


class RedisStore:
    """Entries in a server that many machines reach.

    Args:
        connect: gives the client; called once a process, with the first use.
        lease: seconds after which the lock of a dead holder is free.
    """

    leased = True

    def __init__(self, connect: Callable[[], Any], lease: float = LEASE) -> None:
        self._connect = connect
        self._lease = str(int(lease * 1000))
        self._client: Any = None

    def read(self, name: str) -> View:
        *texts, age = self._run(_READ, name)
        held, number, blob = map(_text, texts)
        denied = Denied.FAILED if held == "failed" else Denied.HELD if held else None
        if not blob:
            return View(None, denied)
        try:
            return View(Stored(int(number), base64.b64decode(blob), max(int(age), 0) / 1000), denied)
        except ValueError:
            # Not of our making, so it will not open. With its number it can be replaced, however high that is.
            return View(Stored(_as_int(number), b"", 0.0), denied)

    def lock(self, name: str) -> Grant | Denied:
        owner = secrets.token_hex(16)
        number = int(self._run(_LOCK, name, owner, self._lease))
        if number > 0:
            return Grant(name, number, owner)
        return Denied.FAILED if number else Denied.HELD

    def renew(self, grant: Grant) -> None:
        self._run(_RENEW, grant.name, grant.owner, self._lease)

    def publish(self, grant: Grant, blob: bytes, life: float, bad: int | None) -> bool:
        text, milliseconds = base64.b64encode(blob).decode(), max(int(life * 1000), 1)
        replaces = "" if bad is None else str(bad)
        return bool(self._run(_PUBLISH, grant.name, grant.owner, str(grant.number), text, milliseconds, replaces))

    def release(self, grant: Grant, *, failed: bool) -> None:
        self._run(_RELEASE, grant.name, grant.owner, str(int(AFTERMATH * 1000)) if failed else "0")

    def _run(self, script: str, name: str, *arguments: object) -> Any:
        if self._client is None:
            self._client = checked_client(self._connect())
        tag = f"grpc-bearer:{{{name}}}"
        # The whole script each time: it costs half a kilobyte, and nobody need know what the server remembers.
        return self._client.eval(script, 3, f"{tag}:entry", f"{tag}:lock", f"{tag}:fence", *arguments)


def _text(value: str | bytes) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value


def _as_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        return 0


def checked_client(client: object) -> object:
    """The client, if it can be used.

    Raises:
        ConfigurationError: something else, or an asyncio client.
    """
    run = getattr(client, "eval", None)
    if not callable(run) or isinstance(client, type):
        raise ConfigurationError(f"expected a Redis client, got {type(client).__name__}", field="cache")
    if inspect.iscoroutinefunction(run) or ".asyncio" in type(client).__module__:
        raise ConfigurationError(
            "an asyncio Redis client; give the blocking one (redis.Redis), it is used on threads of its own "
            "and serves asyncio too",
            field="cache",
        )
    if hasattr(client, "command_stack") or type(client).__name__.endswith("Pipeline"):
        raise ConfigurationError(
            "a Redis pipeline, which answers later; give the client that it was made of", field="cache"
        )
    if not _is_ascii_compatible(client):
        raise ConfigurationError(
            "the Redis client's encoding= is not one that keeps ASCII; leave it at utf-8", field="cache"
        )
    return client


def _is_ascii_compatible(client: object) -> bool:
    encoder = getattr(client, "get_encoder", None)  # redis-py's, a cluster's too
    if encoder is None:
        return True
    try:
        return "grpc-bearer:{}".encode(encoder().encoding) == b"grpc-bearer:{}"
    except (LookupError, TypeError, ValueError):
        return False


def client_of(url: str, timeout: float) -> Any:
    """A client for a URL.

    Raises:
        ConfigurationError: redis-py is not installed, or it does not understand the URL.
    """
    missing = "a Redis URL needs redis-py: pip install 'grpc-bearer[redis]'"
    with translating(ImportError, to=lambda _: ConfigurationError(missing, field="cache")):
        import redis
    if url.startswith("valkey"):
        url = "redis" + url.removeprefix("valkey")
    # Its own error may show the URL, and with it a password.
    with translating(
        ValueError, to=lambda _: ConfigurationError("redis-py does not understand this URL", field="cache")
    ):
        client = redis.Redis.from_url(url, socket_timeout=timeout, socket_connect_timeout=timeout)
    return checked_client(client)
