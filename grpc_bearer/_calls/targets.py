"""Which targets somebody has named: gRPC's target strings, compared without a guess."""

from __future__ import annotations

import re
from collections.abc import Iterable

from grpc_bearer._base.arguments import checked_text, kind_of
from grpc_bearer.errors import ConfigurationError

# gRPC looks names without a port up as https, on plaintext channels too.
_DEFAULT_PORT = "443"
#: A URL, or a name with a path: gRPC would take all of it for the name of a host, and look that up.
_URL = re.compile(
    r"((?P<scheme>https?|grpcs?|tcp)://)?(?P<host>\[[0-9a-f:.]+\]|[\w.-]*)(?P<port>:\d+)?(?P<path>/)?", re.IGNORECASE
)
_NAME = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:/\[\],%]+)(?::(?P<port>[0-9*]+))?")


def canonical(target: str) -> str:
    """A target as `host:port` in lower case, if it is a name that gRPC looks up in DNS by itself; others as they are.

    >>> canonical("dns:///API.example.com"), canonical("unix:/run/api.sock")
    ('api.example.com:443', 'unix:/run/api.sock')
    """
    name = target.removeprefix("dns:///") if target.startswith("dns:///") else target.removeprefix("dns:")
    found = _NAME.fullmatch(name.lower())
    return target if found is None else f"{found['host']}:{found['port'] or _DEFAULT_PORT}"


def check_target(target: object) -> None:
    """Explain what gRPC would explain badly: no target at all, and a URL.

    Raises:
        ConfigurationError: it is one of these.
    """
    if not isinstance(target, (str, bytes)):
        raise ConfigurationError(f"expected 'api.example.com:443' or the like, got {kind_of(target)}", field="target")
    if not target:
        raise ConfigurationError("empty; expected 'api.example.com:443' or the like", field="target")
    if isinstance(target, str):
        _refuse_url(target, "target")


def _refuse_url(target: str, field: str) -> None:
    """Of a URL no more than host and port is shown: it may hold a password."""
    found = _URL.match(target)
    if found is None or target.startswith("unix:") or not (found["scheme"] or found["path"]):
        return
    port = found["port"] or (":80" if (found["scheme"] or "").lower() == "http" else ":443")
    meant = f"{found['host']}{port}" if found["host"] and "@" not in target else "api.example.com:443"
    raise ConfigurationError(f"a target of gRPC is no URL, but host and port: {meant!r}", field=field)


def checked_targets(targets: str | Iterable[str]) -> re.Pattern[str]:
    """What matches the canonical form of each of these targets, and of nothing else.

    Raises:
        ConfigurationError: there are none, or one cannot be a target.
    """
    if not isinstance(targets, (str, Iterable)):
        raise ConfigurationError(f"expected targets, got {type(targets).__name__}", field="targets")
    named = [targets] if isinstance(targets, str) else list(targets)
    if not named:
        raise ConfigurationError("none is named; say where the token may go: ['api.example.com:443']", field="targets")
    return re.compile("|".join(_pattern(checked_text("targets", each)) for each in named))


def _pattern(target: str) -> str:
    _refuse_url(target, "targets")
    name = canonical(target)
    host = name.rpartition(":")[0]
    if "*" in name and not _NAME.fullmatch(name):
        raise ConfigurationError("'*' can stand in a host name or for its port only", field="targets")
    if "*" in host and not host.strip("*."):
        raise ConfigurationError("this would name every host; say which", field="targets")
    return re.escape(name).replace(r"\*", "[^.:/]+")
