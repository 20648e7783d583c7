"""Which auth the arguments ask for."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grpc_bearer._auth import BearerAuth
from grpc_bearer._base.credential_files import read_file
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer._base.translating import translating
from grpc_bearer._cli.codes import CommandFailure, Exit, code_of
from grpc_bearer._cli.flags import in_flags
from grpc_bearer._cli.sources import FIELD, lead_for, lead_of, option, source_of, spelled
from grpc_bearer._config.build import Inner, Spec, built, specified
from grpc_bearer._config.fields import Given, is_pipe
from grpc_bearer._config.kinds import PROFILES
from grpc_bearer._config.toml_file import VARIABLE, ConfigFile, environment_names_one, given_by, read_config
from grpc_bearer.errors import ConfigurationError, GrpcBearerError
from grpc_bearer.events import Observer


@dataclass(frozen=True, slots=True)
class Chosen:
    """The auth, and the profile that it has, if it has one, and the file that keeps its login."""

    auth: BearerAuth = field(repr=False)
    profile: str | None
    store: Path | None = None


def is_asked_for(arguments: Namespace) -> bool:
    """Whether the arguments or the environment name an auth."""
    named = getattr(arguments, "profile", None) or arguments.auth or arguments.config or source_of(_fields(arguments))
    return bool(named or environment_names_one())


def chosen(arguments: Namespace, kind: str = "", observers: Sequence[Observer] = ()) -> Chosen:
    """The auth that the arguments, the TOML file and the environment give.

    Args:
        arguments: the command line.
        kind: of the source that options stand for, where the command knows it.
        observers: of the command itself.

    Raises:
        CommandFailure: the arguments contradict each other, or name nothing.
        ConfigurationError, SigningError: as from `grpc_bearer.load`, or a file is not there.
    """
    given = _given(arguments, kind)
    profile, spec = given.values.get("profile"), specified(given)
    for where, path in _files(spec, given):
        _see(path, where)
    store = spec.values.get("store")
    for each in observers:
        spec = _with(spec, each)
    return Chosen(
        built(spec, given), profile if isinstance(profile, str) else None, store if isinstance(store, Path) else None
    )


def collect_tokens(auth: BearerAuth, tokens: set[str]) -> None:
    """Put each token that the auth gets from now on into the set: none may show, whichever attempt it went out with."""
    source, fetch = auth._source, auth._source._fetch_or_take

    def heard(context: CallContext) -> tuple[Token, bool]:
        token, shared = fetch(context)
        tokens.add(token.value)
        return token, shared

    source._fetch_or_take = heard  # type: ignore[method-assign]


def _with(spec: Spec, observer: Observer) -> Spec:
    others: Any = spec.values.get("observers", ())
    return Spec(spec.name, spec.kind, {**spec.values, "observers": [*others, observer]})


def _files(spec: Spec, given: Given) -> Iterator[tuple[str, Path]]:
    """The files that the auth will read later, each with how errors call it: one that is missing is told now."""
    for name, value in spec.values.items():
        if isinstance(value, Inner):
            yield from _files(value.spec, value.given)
        elif isinstance(value, Path) and name != "ca" and not is_pipe(value):  # which the auth reads when it is built
            used = next(each for each in spec.kind.fields[name].names(name) if each in given.values)
            if used != "store" or _needs_login(spec):
                yield given.where(used), value


def _see(path: Path, where: str) -> None:
    with translating(ConfigurationError, to=lambda error: ConfigurationError(f"{where}: {error._reason}")):
        if not read_file(path, "file").strip():
            raise ConfigurationError("empty", field="file")


def _needs_login(spec: Spec) -> bool:
    """Whether a file that keeps a login must be there: `login` makes it, and so does a refresh token."""
    return spec.name == "refresh_token" and "refresh_token" not in spec.values


def failure_of(error: GrpcBearerError, arguments: Namespace, before: str = "", advice: str = "") -> CommandFailure:
    """The end of the command that an error of the library stands for, in the words of the command line."""
    problem = before + in_flags(str(error), arguments)
    return CommandFailure(code_of(error), problem, in_flags(advice, arguments), error=error)


# -- the file ---------------------------------------------------------------------------------------------------------


def default_config() -> Path:
    """Where the file is looked for that nobody names (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    home = Path(base) if os.path.isabs(base) else Path("~/.config").expanduser()  # relative ones are to be ignored
    return home / "grpc-bearer" / "auths.toml"


def config_file(arguments: Namespace) -> ConfigFile:
    """The TOML file: that of `--config`, of the environment, or the one in the user's own folder.

    Raises:
        CommandFailure: there is none.
        ConfigurationError: it cannot be read, or is no TOML.
    """
    where = "--config" if arguments.config else f"${VARIABLE}"
    path = arguments.config or os.environ.get(VARIABLE)
    if not path:
        path, where = _in_home(), "config"
    to = lambda error: ConfigurationError(f"{where}: {error._reason}" if error._field == "config" else str(error))  # noqa: E731
    with translating(ConfigurationError, to=to):
        return read_config(path)


def _in_home() -> Path:
    path = default_config()
    if not path.exists():
        advice = f"name it by --config FILE or ${VARIABLE}, or write {path}"
        raise CommandFailure(Exit.USAGE, "which TOML file?", advice)
    return path


# -- options ----------------------------------------------------------------------------------------------------------


def _given(arguments: Namespace, kind: str) -> Given:
    fields = _fields(arguments)
    by_file = arguments.auth or arguments.config
    if getattr(arguments, "profile", None) is not None:
        if by_file:
            raise CommandFailure(Exit.USAGE, "--profile beside --auth or --config", "leave one of them out")
        return _by_options({"profile": arguments.profile, **_routes(fields)}, f"--profile {arguments.profile}", option)
    if fields and by_file:
        raise CommandFailure(
            Exit.USAGE, f"{option(next(iter(fields)))} beside --auth or --config", "leave one of them out"
        )
    source = source_of(fields, kind)
    if source is not None:
        return _by_options(source, option(lead_of(fields)), spelled)
    if fields:
        raise _without_lead(fields)
    if not is_asked_for(arguments) and not default_config().exists():
        advice = (
            f"give --profile NAME or --token-file FILE and the like, or a TOML file by --config, ${VARIABLE} or as "
            f"{default_config()}"
        )
        raise CommandFailure(Exit.USAGE, "which auth?", advice)
    return given_by(config_file(arguments), arguments.auth)[1]


def _without_lead(fields: Mapping[str, object]) -> CommandFailure:
    """What to say of options that name neither a profile nor a source."""
    for each in fields:
        if any(name in kind.fields for kind in PROFILES.values() for name in (each, *_referred(each))):
            return CommandFailure(Exit.USAGE, f"{option(each)} goes with --profile", "name the profile")
    first = next(iter(fields))
    advice = f"give {lead_for(first)}"
    return CommandFailure(Exit.USAGE, f"{option(first)} does not say by itself where the token comes from", advice)


def _referred(field: str) -> Iterator[str]:
    """The field whose value a file or an environment variable holds."""
    yield from (field.removesuffix(end) for end in ("_file", "_env") if field.endswith(end))


def _fields(arguments: Namespace) -> dict[str, object]:
    return {
        name.removeprefix(FIELD): value
        for name, value in vars(arguments).items()
        if name.startswith(FIELD) and value is not None
    }


def _by_options(values: Mapping[str, object], whole: str, spelled: Callable[[str], str]) -> Given:
    where = lambda name: spelled(name) if name else whole  # noqa: E731
    return Given(values, where, Path(), spelled=spelled, inline=False, once=True)


def _routes(fields: dict[str, object]) -> dict[str, object]:
    routes = fields.get("routes")
    if not isinstance(routes, list):
        return fields
    pairs = [each.partition("=") for each in routes]
    if not all(pattern and role for pattern, _, role in pairs):
        raise CommandFailure(Exit.USAGE, "--routes: expected PATTERN=ROLE", "as in 'bbk.Consumer/*=consumer'")
    return {**fields, "routes": {pattern: role for pattern, _, role in pairs}}
