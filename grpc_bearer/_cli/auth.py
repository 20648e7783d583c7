"""Which auth the arguments ask for."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from grpc_bearer._auth import BearerAuth
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.parser import FIELD, option
from grpc_bearer._config.build import built, specified
from grpc_bearer._config.fields import Given
from grpc_bearer._config.toml_file import VARIABLE, environment_names_one, given_by, read_config


@dataclass(frozen=True, slots=True)
class Chosen:
    """The auth, and the profile that it has, if it has one."""

    auth: BearerAuth = field(repr=False)
    profile: str | None


def is_asked_for(arguments: Namespace) -> bool:
    """Whether the arguments or the environment name an auth."""
    return bool(arguments.profile or arguments.auth or arguments.config or environment_names_one())


def chosen(arguments: Namespace) -> Chosen:
    """The auth that the arguments, the TOML file and the environment give.

    Raises:
        CommandFailure: the arguments contradict each other, or name nothing.
        ConfigurationError, SigningError: as from `grpc_bearer.load`.
    """
    fields = {
        name.removeprefix(FIELD): value
        for name, value in vars(arguments).items()
        if name.startswith(FIELD) and value is not None
    }
    if arguments.profile is not None:
        if arguments.auth or arguments.config:
            raise CommandFailure(Exit.USAGE, "--profile beside --auth or --config", "leave one of them out")
        given = Given(
            {"profile": arguments.profile, **_routes(fields)},
            lambda name: option(name) if name else f"--profile {arguments.profile}",
            Path(),
            spelled=option,
            inline=False,
            once=True,
        )
        return Chosen(built(specified(given), given), arguments.profile)
    if fields:
        raise CommandFailure(Exit.USAGE, f"{option(next(iter(fields)))} goes with --profile", "name the profile")
    if not is_asked_for(arguments):
        advice = f"give --profile NAME and its options, or a TOML file by --config or ${VARIABLE}"
        raise CommandFailure(Exit.USAGE, "which auth?", advice)
    _, given = given_by(read_config(arguments.config), arguments.auth)
    profile = given.values.get("profile")
    return Chosen(built(specified(given), given), profile if isinstance(profile, str) else None)


def _routes(fields: dict[str, object]) -> dict[str, object]:
    routes = fields.get("routes")
    if not isinstance(routes, list):
        return fields
    pairs = [each.partition("=") for each in routes]
    if not all(pattern and role for pattern, _, role in pairs):
        raise CommandFailure(Exit.USAGE, "--routes: expected PATTERN=ROLE", "as in 'bbk.Consumer/*=consumer'")
    return {**fields, "routes": {pattern: role for pattern, _, role in pairs}}
