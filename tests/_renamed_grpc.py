"""A gRPC that has other private names than those we know: what the functions of `grpc_private` make of it."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from types import FunctionType, ModuleType

import pytest

from grpc_bearer import _calls
from grpc_bearer._base import grpc_private_credentials
from grpc_bearer._calls import grpc_private

MODULES = (grpc_private, grpc_private_credentials)
PRIVATE = re.compile(r"_[a-z]\w*|grpc\.(aio\.)?_\w+(\.\w+)*")


class _Rename(ast.NodeTransformer):
    """Gives the private names of gRPC's others, which gRPC does not have.

    Args:
        names: which; `None`: all.
    """

    def __init__(self, names: set[str] | None = None) -> None:
        self._names = names
        self.seen: set[str] = set()

    def _other(self, name: str) -> str:
        if not PRIVATE.fullmatch(name):
            return name
        self.seen.add(name)
        return name if self._names is not None and name not in self._names else f"{name}_of_another_version"

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        node.attr = self._other(node.attr)
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str):
            node.value = self._other(node.value)
        return node


def names_in(module: ModuleType) -> set[str]:
    """The private names of gRPC's that a module uses."""
    rename = _Rename()
    rename.visit(ast.parse(inspect.getsource(module)))
    return rename.seen


NAMES = set().union(*map(names_in, MODULES))


def renamed(known: ModuleType, names: set[str]) -> ModuleType:
    """A module as it is where gRPC has other names for these: its source, but it looks for what is not there."""
    module = ModuleType("renamed")
    tree = _Rename(names).visit(ast.parse(inspect.getsource(known)))
    exec(compile(tree, module.__name__, "exec"), vars(module))
    return module


def functions(module: ModuleType) -> dict[str, FunctionType]:
    """Those that it offers."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and not name.startswith("_")
    }


def take_away(monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    """Wherever a function of `grpc_private` was imported, it no longer finds these names in gRPC."""
    for info in pkgutil.iter_modules(_calls.__path__, f"{_calls.__name__}."):
        importlib.import_module(info.name)  # all that could import one later, and keep it
    known = {name: value for module in MODULES for name, value in functions(module).items()}
    other = {name: value for module in MODULES for name, value in functions(renamed(module, names)).items()}
    users = [module for name, module in sys.modules.items() if name.partition(".")[0] == "grpc_bearer"]
    for module in users:
        for name, value in list(vars(module).items()):
            if isinstance(value, FunctionType) and known.get(value.__name__) is value:
                monkeypatch.setattr(module, name, other[value.__name__])
