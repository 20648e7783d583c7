"""`load`: auths by name, from a TOML file that the command `grpc-bearer` reads too."""

from __future__ import annotations

import functools
import os
import re
import sys
import threading
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grpc_bearer._auth import BearerAuth
from grpc_bearer._base import fork_hooks
from grpc_bearer._base.arguments import did_you_mean, expanded_path
from grpc_bearer._base.credential_files import read_text, shown
from grpc_bearer._config.build import Spec, built, inner, specified
from grpc_bearer._config.fields import Given
from grpc_bearer._config.trust import distrusted
from grpc_bearer.errors import ConfigurationError

#: The environment variable that names the file.
VARIABLE = "GRPC_BEARER_CONFIG"


def load(name: str | None = None, config: str | os.PathLike[str] | None = None) -> BearerAuth:
    """The auth of this name, from a TOML file.

    ::

        # auths.toml
        default = "fleet"

        [auth.fleet]
        profile = "bear"
        credentials_file = "credentials.json"      # beside this file

        [auth.orders]
        source = "client_credentials"
        token_url = "https://auth.example.com/token"
        client_id = "me"
        client_secret_env = "ORDERS_SECRET"

    A table has a `profile` (one of `grpc_bearer.profiles`) or a `source` (`static`, `file`, `exec`, `callable`, `http`,
    `jwt`, `google`, or of OAuth `client_credentials`, `token_exchange`, `jwt_bearer`, `refresh_token`, `device_code`),
    and their arguments under the same names; where a source takes another, that is a table with its `source`. A secret
    `x` is given as `x_file`, `x_env` or `x`. Relative file names start at the TOML file's folder (that of the link, if
    it is a symbolic link), and `~` is the home folder. `cache` is a table with the arguments of `SharedCache`, and its
    store as `directory` or `url`. Functions (`function` of `callable`, `observers`) are named as `package.module:name`,
    and that module is imported, and the `command` of `exec` is run; neither if others can write the file.

    The same name from the same file gives the same object, whose token all callers share, until the file's table, a
    variable it names or the auth itself (`close()`) changes; then a new one is made. May be called from any thread.

    Args:
        name: of a table `[auth.NAME]`; `None`: the one that `default` names, or the only one.
        config: the file; `None`: the one that the environment variable `GRPC_BEARER_CONFIG` names.

    Raises:
        ConfigurationError: names file, line, table and field, and what to do; never a secret.
        SigningError: a key in it cannot be used.
    """
    if isinstance(name, os.PathLike) or (config is None and _is_a_file(name)):
        raise ConfigurationError("a file, and not the name of an auth; give it as config=", field="name")
    file = read_config(config)
    chosen, given = given_by(file, name)
    return _shared((str(file.path.resolve()), str(given.folder), chosen), given)


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration that was read: its auths are tables not checked yet."""

    path: Path
    text: str = field(repr=False)
    auths: Mapping[str, Mapping[str, object]] = field(repr=False)
    default: str | None = None


def config_path(config: str | os.PathLike[str] | None) -> Path:
    """The file that was given, or that the environment names.

    Raises:
        ConfigurationError: neither.
    """
    given = os.environ.get(VARIABLE, "") if config is None else config
    if not given and isinstance(given, str):
        raise ConfigurationError(f"config: missing; name a TOML file here or in the environment variable {VARIABLE}")
    return Path(expanded_path("config", given))


def _is_a_file(name: str | None) -> bool:
    return isinstance(name, str) and name.endswith(".toml") and not environment_names_one()


def environment_names_one() -> bool:
    """Whether the environment names a file."""
    return bool(os.environ.get(VARIABLE))


def read_config(config: str | os.PathLike[str] | None) -> ConfigFile:
    """Read and parse the file.

    Raises:
        ConfigurationError: unreadable, no TOML, or not laid out as it should be.
    """
    path = config_path(config)
    text = read_text(path, "config")
    data = _parsed(text, path)
    auths, default = data.pop("auth", {}), data.pop("default", None)
    for name in data:
        hint = "; an auth is a table [auth.NAME]" if isinstance(data[name], dict) else did_you_mean(name, ["default"])
        raise ConfigurationError(f"{_at(path, _line(text, '', name))}: {shown(name)}: not known here{hint}")
    if not isinstance(auths, dict) or not all(isinstance(each, dict) for each in auths.values()):
        raise ConfigurationError(f"{_at(path, _line(text, '', 'auth'))}: auth: expected tables [auth.NAME]")
    if default is not None and not isinstance(default, str):
        raise ConfigurationError(f"{_at(path, _line(text, '', 'default'))}: default: expected the name of an auth")
    return ConfigFile(path, text, auths, default)


def _parsed(text: str, path: Path) -> dict[str, object]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        document: dict[str, object] = tomllib.loads(text)
        return document
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problem = str(error)
    # Outside the handler: the caught error may hold the whole document.
    place = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)", problem)
    reason = problem[: place.start()].strip() if place else ""
    # What it quotes may be part of a secret; a character or two are not.
    shown = f": {reason}" if reason and not re.search(r"['\"(][^'\"]{4,}", reason) else ""
    line, column = (place[1], place[2]) if place else (None, None)
    where = _at(path, int(line) if line else len(text.splitlines()) if place else 0)
    raise ConfigurationError(f"{where}: not TOML{f', column {column}' if column else ''}{shown}")


def given_by(file: ConfigFile, name: str | None) -> tuple[str, Given]:
    """The name and the table of one auth.

    Raises:
        ConfigurationError: there is no such auth, or several and none was named.
    """
    if name is not None and not isinstance(name, str):
        raise ConfigurationError(f"name: expected a str, got {type(name).__name__}")
    only = next(iter(file.auths)) if len(file.auths) == 1 else None
    wanted = name if name is not None else file.default or only
    chosen = None if wanted is None else _named(wanted, file.auths)
    known = ", ".join(file.auths) or "none yet; write a table [auth.NAME]"
    if chosen is None:
        raise ConfigurationError(f'{file.path}: which auth? Name one, or write default = "NAME" (it has: {known})')
    if chosen not in file.auths:
        hint = did_you_mean(chosen, file.auths)
        raise ConfigurationError(f"{file.path}: no auth of the name {_shown_name(chosen)}{hint} (it has: {known})")

    def where(field: str) -> str:
        table, _, inner = field.rpartition(".")
        places = [(f"auth.{chosen}.{table}", inner), (f"auth.{chosen}", table)] if table else []
        lines = (_line(file.text, *place) for place in (*places, (f"auth.{chosen}", field), (f"auth.{chosen}", "")))
        line = next(filter(None, lines), 0)
        return f"{_at(file.path, line)}: [auth.{chosen}]" + (f" {field}" if field else "")

    # Its name in log lines, events and metrics, unless it says another.
    folder = Path(os.getcwd(), file.path).parent  # a later chdir changes nothing
    distrust = functools.partial(distrusted, file.path, file.text)
    return chosen, Given({"name": chosen, **file.auths[chosen]}, where, folder, distrusted=distrust, inner=inner)


def _named(name: str, auths: Mapping[str, object]) -> str:
    """The name as the file spells it: keyboards and file systems write `ö` as one character or as two."""
    wanted = unicodedata.normalize("NFC", name)
    return next((each for each in auths if unicodedata.normalize("NFC", each) == wanted), name)


def _shown_name(name: str) -> str:
    return repr(name) if len(name) <= 60 and name.isprintable() else "that was asked for"


def _at(path: Path, line: int) -> str:
    return f"{path}:{line}" if line else str(path)


_HEADER = re.compile(r"^\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_KEY = re.compile(r"""^\s*(?:"([^"]+)"|'([^']+)'|([\w-]+))\s*(?:=|\.)""")


def _line(text: str, table: str, field: str = "") -> int:
    """The line of a field, or of its table's header; 0 if it cannot be told (inline tables, for one)."""
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        if header:
            current = re.sub(r"""["']|\s*(\.)\s*""", r"\1", header[1])
            if current == (f"{table}.{field}" if table and field else table or field):
                return number
        elif field and current == table and (key := _KEY.match(line)) and field in key.groups():
            return number
    return 0


# -- one object for each name ---------------------------------------------------------------------------------------

_lock = threading.Lock()
_made: dict[tuple[str, str, str], tuple[Spec, BearerAuth]] = {}


def _shared(key: tuple[str, str, str], given: Given) -> BearerAuth:
    spec = specified(given)
    with _lock:  # held while it is built: a key is read, nothing is fetched
        kept = _made.get(key)
        if kept is None or kept[0] != spec or kept[1]._engine.closed:
            kept = _made[key] = (spec, built(spec, given))
        return kept[1]


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # the thread that held it, if any, is not here


fork_hooks.in_child(fork_hooks.Phase.RENEW, _after_fork_in_child)
