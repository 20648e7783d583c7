"""From the fields of one auth as they were given to the auth: what is checked, and in which words it is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grpc_bearer._auth import BearerAuth
from grpc_bearer._base.arguments import did_you_mean
from grpc_bearer._base.credential_files import shown
from grpc_bearer._base.source import Source
from grpc_bearer._base.translating import translating
from grpc_bearer._config.cache_fields import Cache, in_words_of_a_file
from grpc_bearer._config.fields import Given, PlacedError
from grpc_bearer._config.kinds import AUTH, HEADER, PROFILES, SOURCES, Kind
from grpc_bearer.errors import ConfigurationError, GrpcBearerError


def kind_of(given: Given) -> tuple[str, Kind]:
    """Its profile or kind of source, and the name of that; within another source, that of a source.

    Raises:
        ConfigurationError: neither, both, or one that does not exist.
    """
    named = [name for name in ("profile", "source") if name in given.values]
    if len(named) != 1:
        problem = "profile and source: leave one of them" if named else "profile or source: missing"
        raise ConfigurationError(
            f"{given.where('')}: {problem} (profiles: {_list(PROFILES)}; sources: {_list(SOURCES)})"
        )
    known = PROFILES if named[0] == "profile" else SOURCES
    value = given.values[named[0]]
    if isinstance(value, str) and value in known:
        return value, known[value]
    text = value if isinstance(value, str) else ""
    other, name = (SOURCES, "source") if known is PROFILES else (PROFILES, "profile")
    hint = f'; write {name} = "{text}"' if text in other else did_you_mean(text, known)
    raise ConfigurationError(f"{given.where(named[0])}: expected one of {_list(known)}{hint}")


def _list(names: Mapping[str, object]) -> str:
    return ", ".join(names)


@dataclass(frozen=True, slots=True, eq=True, repr=False)
class Spec:
    """An auth that has been checked and not built yet. Two are equal if they would build the same."""

    name: str
    kind: Kind
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True, repr=False)
class Inner:
    """A source within another one, checked and not built yet."""

    spec: Spec
    given: Given = field(compare=False)

    def opened(self) -> Source:
        """The source."""
        return built(self.spec, self.given)._source


def inner(given: Given) -> Inner:
    """What stands in a table within an auth's.

    Raises:
        PlacedError: as `specified`.
    """
    # The others are of the auth around it.
    others = [name for name in ("profile", *AUTH, *HEADER) if name in given.values]
    if others:
        raise PlacedError(f"{given.where(others[0])}: not known here, where only a source can be")
    with translating(ConfigurationError, to=lambda error: PlacedError(str(error))):
        return Inner(specified(given), given)


def specified(given: Given) -> Spec:
    """Check everything that can be checked without building; all problems are told at once, a line each.

    Raises:
        ConfigurationError: names file, table, field and line as far as they are known.
    """
    name, kind = kind_of(given)
    allowed = [each for known, field in kind.fields.items() for each in field.names(known)]
    problems = [
        f"{given.where(shown(each))}: not known to {name}{did_you_mean(each, allowed)}"
        for each in given.values
        if each not in allowed and each not in ("profile", "source")
    ]
    values: dict[str, object] = {}
    for known, each_field in kind.fields.items():
        try:
            value = each_field.value(known, given)
        except PlacedError as error:
            problems.append(str(error))
        except ConfigurationError as error:
            problems.append(f"{given.where(error._field)}: {error._reason}")
        else:
            if value is not None:
                values[known] = value
    if problems:
        raise ConfigurationError("\n".join(problems))
    return Spec(name, kind, values)


def built(spec: Spec, given: Given) -> BearerAuth:
    """The auth.

    Raises:
        ConfigurationError, SigningError: what the profile or source found, with the field as it was given.
    """
    sources = {name: value.opened() for name, value in spec.values.items() if isinstance(value, Inner)}
    with translating(GrpcBearerError, to=lambda error: type(error)(_told(error, spec, given))):
        opened = {name: value.opened() for name, value in spec.values.items() if isinstance(value, Cache)}
        return spec.kind.build(**{**spec.values, **opened, **sources})


def _told(error: GrpcBearerError, spec: Spec, given: Given) -> str:
    """An error of the builder in the words of whoever gave the fields."""
    if "cache" in spec.values and "SharedCache(" in str(error):
        return f"{given.where('cache')}: {in_words_of_a_file(str(error))}"
    names = spec.kind.fields[error._field].names(error._field) if error._field in spec.values else []
    used = next((each for each in names if each in given.values), "")
    return f"{given.where(used)}: {error._reason if used else error}"
