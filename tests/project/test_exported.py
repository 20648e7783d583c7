"""The public names: each public module says what they are, in order, leaving none out."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import grpc_bearer

ROOT = Path(__file__).parents[2]

PUBLIC_MODULES = [
    "grpc_bearer",
    *(
        info.name
        for info in pkgutil.walk_packages(grpc_bearer.__path__, "grpc_bearer.")
        if not any(part.startswith("_") for part in info.name.split("."))
    ),
]


def public_names(module: ModuleType) -> set[str]:
    """What a reader would take for public: a module's own names, and what a package's front way lets in from us."""
    names = {name for name in own_names(module) if not name.startswith("_")}
    if hasattr(module, "__path__"):
        names |= {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", "").startswith("grpc_bearer")
        }
    return names


def own_names(module: ModuleType) -> set[str]:
    names: set[str] = set()
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def in_order(name: str) -> tuple[int, str]:
    """CONSTANTS, then Classes, then functions: the order that ruff's RUF022 keeps."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_all_is_sorted_complete_and_true(name: str) -> None:
    module = importlib.import_module(name)
    listed = list(module.__all__)

    assert listed == sorted(set(listed), key=in_order)
    assert [entry for entry in listed if not hasattr(module, entry)] == []
    assert sorted(public_names(module) - set(listed)) == []


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_name_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    things = {entry: getattr(module, entry) for entry in module.__all__}

    undocumented = [
        entry
        for entry, thing in things.items()
        if (callable(thing) or inspect.ismodule(thing))
        and not inspect.getdoc(thing)
        and typing.get_origin(thing) is None
    ]

    assert inspect.getdoc(module)
    assert undocumented == []


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_class_shows_an_example(name: str) -> None:
    module = importlib.import_module(name)
    classes = [getattr(module, entry) for entry in module.__all__ if inspect.isclass(getattr(module, entry))]

    without = [
        cls.__name__
        for cls in classes
        # The tree of errors is shown once, at its root; a protocol is shown by what fits it; protoc writes no examples.
        if not issubclass(cls, BaseException)
        and not getattr(cls, "_is_protocol", False)
        and "._pb" not in cls.__module__
        and not any(mark in (cls.__doc__ or "") for mark in (">>> ", "::\n", "```"))
    ]

    assert without == []


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_name_is_in_the_changelog(name: str) -> None:
    quoted = "\n".join(re.findall(r"`([^`]+)`", (ROOT / "CHANGELOG.md").read_text("utf-8")))
    words = set(re.findall(r"\w+", quoted))

    unnamed = [entry for entry in importlib.import_module(name).__all__ if entry not in words]

    assert not unnamed, f"CHANGELOG.md: say under its newest heading, in backquotes, what {', '.join(unnamed)} are"


@pytest.mark.parametrize("name", PUBLIC_MODULES)
def test_every_public_name_is_typed(name: str) -> None:
    module = importlib.import_module(name)

    bare = [
        f"{entry}: {missing}"
        for entry in module.__all__
        for function in functions_of(getattr(module, entry))
        for missing in unannotated(function)
    ]

    assert not bare, f"annotate {', '.join(bare)}"


def functions_of(thing: object) -> Iterator[object]:
    """The function, or the public methods of the class as far as we wrote them; what protoc generates has a .pyi."""
    if inspect.isfunction(thing):
        yield thing
    elif inspect.isclass(thing) and thing.__module__.startswith("grpc_bearer") and "._pb" not in thing.__module__:
        for name, member in vars(thing).items():
            if name == "__init__" or not name.startswith("_"):
                function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
                if inspect.isfunction(function) and function.__module__.startswith("grpc_bearer"):
                    yield function


def unannotated(function: object) -> Iterator[str]:
    assert inspect.isfunction(function)
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name not in ("self", "cls") and parameter.annotation is inspect.Parameter.empty:
            yield f"{function.__qualname__}({parameter.name})"
    if "return" not in function.__annotations__:
        yield f"{function.__qualname__} -> ?"
