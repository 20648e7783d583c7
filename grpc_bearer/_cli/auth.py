"""Which auth the arguments ask for."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grpc_bearer._auth import BearerAuth
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.sources import FIELD, lead_of, option, source_of, spelled
from grpc_bearer._config.build import built, specified
from grpc_bearer._config.fields import Given
from grpc_bearer._config.toml_file import VARIABLE, environment_names_one, given_by, read_config


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


def chosen(arguments: Namespace, kind: str = "") -> Chosen:
    """The auth that the arguments, the TOML file and the environment give.

    Args:
        arguments: the command line.
        kind: of the source that options stand for, where the command knows it.

    Raises:
        CommandFailure: the arguments contradict each other, or name nothing.
        ConfigurationError, SigningError: as from `grpc_bearer.load`.
    """
    given = _given(arguments, kind)
    profile, spec = given.values.get("profile"), specified(given)
    store = spec.values.get("store")
    return Chosen(
        built(spec, given), profile if isinstance(profile, str) else None, store if isinstance(store, Path) else None
    )


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
        raise CommandFailure(Exit.USAGE, f"{option(next(iter(fields)))} goes with --profile", "name the profile")
    if not is_asked_for(arguments):
        advice = f"give --profile NAME or --token-file FILE and the like, or a TOML file by --config or ${VARIABLE}"
        raise CommandFailure(Exit.USAGE, "which auth?", advice)
    return given_by(read_config(arguments.config), arguments.auth)[1]


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
