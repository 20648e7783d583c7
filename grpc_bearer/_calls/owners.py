"""Which module a function or an object comes from, by what others cannot give theirs: a name may be anybody's."""

from __future__ import annotations

import functools
import importlib
from types import FunctionType
from typing import Any, TypeGuard


@functools.cache
def names_of(module: str) -> dict[str, Any]:
    """The names of a module, which its functions look into; none, if there is no such module."""
    try:
        return importlib.import_module(module).__dict__
    except ImportError:
        return {}


def is_function_of(function: object, names: dict[str, Any]) -> TypeGuard[FunctionType]:
    """Whether it is exactly a function of the module with these names: nobody else's looks into that dictionary."""
    return type(function) is FunctionType and function.__globals__ is names


def is_of(thing: object, names: dict[str, Any]) -> bool:
    """Whether the class of a thing is exactly one of the module with these names."""
    return names.get(type(thing).__name__) is type(thing)


def self_of(function: FunctionType) -> Any:
    """The `self` of the method in which a function was made.

    Raises:
        IndexError, TypeError, ValueError: it was made in none.
    """
    return function.__closure__[function.__code__.co_freevars.index("self")].cell_contents  # type: ignore[index]
