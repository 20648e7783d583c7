"""Imports point downward only, and slow packages wait until they are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import grpc_bearer

# Where it is imported from: the tests also run on an installed wheel, with no source beside them.
ROOT = Path(grpc_bearer.__file__).parent.parent
PACKAGE = "grpc_bearer"

# The house, from the ground up. What stands on a line may import from the lines above its own, never from its own or
# from one below. A folder counts as one; "package" is `grpc_bearer` itself.
LAYERS = """
errors
_base
events
_engine otel
sources
cache
_auth
_calls profiles
_config _rest _runtimes aio testing
connect grpclib rest
package
_cli
__main__
"""

SLOW = (
    "cryptography",
    "google.auth",
    "google.protobuf",
    "httpx",
    "importlib.metadata",
    "jwt",
    "opentelemetry",
    "requests",
    "rich",
    "tenacity",
)


def layer_table(text: str) -> dict[str, int]:
    """Unit to height."""
    return {unit: height for height, line in enumerate(text.strip().splitlines()) for unit in line.split()}


def unit_of(module: str) -> str:
    """The file or folder of the table that holds a module."""
    _, _, rest = module.partition(".")
    return rest.split(".")[0] or "package"


def modules() -> dict[str, Path]:
    """Every module of the package by its full name."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(module: str, is_package: bool, source: str, known: set[str]) -> Iterator[tuple[int, str]]:
    """Line and full name of each module of ours that the source imports, anywhere in it.

    Imports inside functions count, and so do those under `TYPE_CHECKING`: what a lower module needs stands too high.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == PACKAGE)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(module, is_package, node)
            if base.split(".")[0] == PACKAGE:
                for alias in node.names:
                    # `from package import x` means the module x if there is one, else a name in the package.
                    yield node.lineno, f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base


def absolute(module: str, is_package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parents = parts[: len(parts) - node.level + is_package]
    return ".".join(parents + ([node.module] if node.module else []))


def imports() -> dict[str, list[tuple[int, str]]]:
    """Each module and what it imports of ours, but for what protoc generated."""
    found = modules()
    return {
        module: list(imported(module, path.name == "__init__.py", path.read_text("utf-8"), set(found)))
        for module, path in found.items()
        if "._pb" not in module
    }


def upward(table: dict[str, int]) -> list[str]:
    """Each import of another unit that does not point downward, as `module:line imports module`."""
    return [
        f"{module}:{line} imports {target}"
        for module, targets in imports().items()
        for line, target in targets
        if unit_of(target) != unit_of(module)
        if table.get(unit_of(target), sys.maxsize) >= table.get(unit_of(module), -1)
    ]


def circular(graph: dict[str, set[str]]) -> set[str]:
    """The modules that import themselves by way of others."""
    left = dict(graph)
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    return set(left)


def test_every_module_stands_in_the_table_and_the_table_names_no_other() -> None:
    assert sorted(layer_table(LAYERS)) == sorted({unit_of(module) for module in modules()})


def test_imports_point_downward_only() -> None:
    assert upward(layer_table(LAYERS)) == []


def test_no_modules_import_each_other_within_a_folder_either() -> None:
    graph = {module: {target for _, target in targets} - {module} for module, targets in imports().items()}

    assert circular(graph) == set()


def test_a_module_that_only_one_folder_uses_lives_in_that_folder() -> None:
    users: dict[str, set[str]] = {}
    for module, targets in imports().items():
        for _, target in targets:
            users.setdefault(target, set()).add(unit_of(module))
    astray = {
        module: by for module, by in users.items() if unit_of(module) == "_base" and len(by) == 1 and "_base" not in by
    }

    assert astray == {}


def test_no_file_is_longer_than_can_be_read_in_one_sitting() -> None:
    lengths = {module: len(path.read_text("utf-8").splitlines()) for module, path in modules().items()}

    assert {module: lines for module, lines in lengths.items() if lines > 400 and "._pb" not in module} == {}


def test_the_checks_see_an_upward_import_and_a_circle() -> None:
    upside_down = {unit: -height for unit, height in layer_table(LAYERS).items()}

    assert any(
        line.startswith("grpc_bearer._base.token:") and "grpc_bearer.errors" in line for line in upward(upside_down)
    )
    assert circular({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import grpc_bearer.errors", ["grpc_bearer.errors"]),
        ("def f():\n    from grpc_bearer._base.token import Token", ["grpc_bearer._base.token"]),
        ("if TYPE_CHECKING:\n    from grpc_bearer import errors, BearerAuth", ["grpc_bearer.errors", "grpc_bearer"]),
        ("from . import _parse", ["grpc_bearer.sources._parse"]),
        ("from ._parse import Answer", ["grpc_bearer.sources._parse"]),
        ("from ..errors import TokenError", ["grpc_bearer.errors"]),
        ("import grpc, grpc_bearerish", []),
    ],
)
def test_the_check_reads_every_form_of_import(source: str, expected: list[str]) -> None:
    known = {"grpc_bearer", "grpc_bearer.errors", "grpc_bearer._base.token", "grpc_bearer.sources._parse"}

    found = [target for _, target in imported("grpc_bearer.sources._jwt", False, source, known)]

    assert found == expected


def test_nothing_that_runs_needs_typing_extensions() -> None:
    """It is for checkers, and no dependency of ours."""
    needing = [
        path.name
        for path in modules().values()
        for node in outside_type_checking(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom) and "typing_extensions" in ast.unparse(node)
    ]

    assert needing == []


def outside_type_checking(node: ast.AST) -> Iterator[ast.AST]:
    """What runs: all but the blocks that only checkers read."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from outside_type_checking(child)


def brought(module: str) -> set[str]:
    """What an import brings besides what `import grpc` does: asyncio and grpc.aio are not ours to save."""
    script = f"""
import sys, grpc
before = set(sys.modules)
import {module}
print(*sorted(set(sys.modules) - before))
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(run.stdout.split())


def test_importing_brings_nothing_that_waits_for_a_fetch_an_observer_or_a_refusal() -> None:
    new = brought("grpc_bearer")

    assert new.isdisjoint(
        {"hashlib", "random", "grpc_bearer.events", "grpc_bearer._engine.log", "grpc_bearer._calls.diagnosis"}
    )


@pytest.mark.parametrize(
    "module", ["grpc_bearer", "grpc_bearer.aio", "grpc_bearer.profiles", "grpc_bearer.rest", "grpc_bearer.sources"]
)
def test_importing_brings_no_slow_package(module: str) -> None:
    new = brought(module)

    assert module in new
    assert not [name for name in new if name.startswith(SLOW)]
    assert not [
        name for name in new if name.startswith(("grpc_bearer.testing", "grpc_bearer._cli.demo", "grpc_bearer._cli"))
    ]
