"""The form parameters of a token request that do not depend on the grant, checked when a source is built."""

from __future__ import annotations

from collections.abc import Iterable

from grpc_bearer._base.arguments import Where, as_dict, checked_text
from grpc_bearer._base.token import Secret
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources._secrets import given_text

# Those of all grants. What a grant has beside them, `extra` may not have too.
_OURS = frozenset(
    {"grant_type", "client_id", "client_secret", "client_assertion", "client_assertion_type", "scope", "audience"}
)


def checked_extra(extra: object) -> dict[str, Secret]:
    """More parameters of the user's own; a path stands for what its file holds.

    Raises:
        ConfigurationError: no mapping, or a name that is an argument's.
    """
    form: dict[str, Secret] = {}
    for name, value in as_dict("extra", {} if extra is None else extra).items():
        if not isinstance(name, str):
            raise ConfigurationError("a name is no str", field="extra")
        if name in _OURS:
            raise ConfigurationError(f"{name} has an argument of its own", field="extra")
        form[name] = given_text(Where("extra", name), value)
    return form


def targets(
    scope: object, audience: object, resource: object, *, audiences: bool = False
) -> dict[str, str | tuple[str, ...]]:
    """The parameters that say what the token is for; those that were not given are left out.

    Args:
        scope: a `str` as the server wants it, or several in a list, which are sent as one.
        audience: a `str`.
        resource: a `str`, or several: absolute URIs (RFC 8707).
        audiences: whether `audience` may be several too (RFC 8693 section 2.1).

    Raises:
        ConfigurationError: something else was given.
    """
    found: dict[str, str | tuple[str, ...]] = {}
    if scope is not None:
        found["scope"] = " ".join(checked_text("scope", text) for text in _texts("scope", scope) if text)
    if audience is not None and not audiences:
        audience = checked_text("audience", audience)
    for name, value in (("audience", audience), ("resource", resource)):
        if value is not None:
            found[name] = tuple(checked_text(name, text) for text in _texts(name, value))
    return {name: value for name, value in found.items() if value}


def _texts(field: str, value: object) -> list[str]:
    given: list[object] = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [None]
    texts = [item for item in given if isinstance(item, str)]
    if len(texts) < len(given):
        raise ConfigurationError("expected a str, or several in a list", field=field)
    return texts
