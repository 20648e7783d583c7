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

# The house, from the ground up. A module may import from the lines above its own, never from its own line or below it.
# Modules named without the package's name; "" is the package itself. What protoc generated counts as one module.
LAYERS = """
errors _version _streams _interrupts _identity _grpc_private _around
_workers _promise _replay _bare _terminal
_observers
events
_log
_notify
_given
_clock
_skew
_token _credentials _misplaced
_keys _failure
_signing
sources._foreign
sources._base sources._answer sources._threads
sources._wire sources._files sources._members sources._loop
sources._secrets sources._segment
sources._http
sources._google_transport
sources.static sources.file sources.callable sources.http sources.jwt sources.google sources.routed
sources.oauth
sources
_refresh _fetching
cache._store cache._sealed cache._locks
cache._files cache._redis
cache._bounded
cache._shared cache._judged
cache cache._errand
cache._cached
_entry
_presign _single_use
_engine
_diagnosis
_auth _attempts
_retry _combine
_fork
_door
_security
_trial
_ends _aio_ends
_call _aio_call
_calls _aio_calls
_methods
_multicallables _interceptor
_aio_interceptor
_channel _aio_multicallables
aio
_stub
profiles otel
_config_fields _config_trust
_config_cache
_config_kinds
_config_spec
_config
_rest
_rest_httpx _rest_requests
rest

testing._ca testing._clock testing._frames testing._keys testing._ledger testing._pb testing._ports testing._script
testing._verifiers testing._http testing._recorder testing._watch
testing._http_faults testing._oauth testing._gate
testing._probe testing._token_server
testing._goaway testing._services testing._oauth_client
testing
_demo_doors
_demo _bench
_cli._codes
_cli._parser _cli._jwt
_cli._certificate _cli._auth _cli._status _cli._completion
_cli._network _cli._token _cli._inspect _cli._reflection
_cli._channel _cli._skewed
_cli._probe
_cli._check _cli._call
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
    """Module to height. An empty line is the package itself."""
    table: dict[str, int] = {}
    for height, line in enumerate(text.strip().splitlines()):
        table |= dict.fromkeys(line.split() or [""], height)
    return table


def short(module: str) -> str:
    """The module's name in the table."""
    name = module.removeprefix(PACKAGE).removeprefix(".")
    return "testing._pb" if name.startswith("testing._pb") else name


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


def upward(table: dict[str, int]) -> list[str]:
    """Each import that does not point downward, as `file:line imports module`."""
    found = modules()
    return [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in found.items()
        for line, target in imported(module, path.name == "__init__.py", path.read_text("utf-8"), set(found))
        if not short(module) == short(target) == "testing._pb"  # what protoc generated may import its own
        if table.get(short(target), sys.maxsize) >= table.get(short(module), -1)
    ]


def test_every_module_stands_in_the_table_and_the_table_names_no_other() -> None:
    expected = sorted({short(module) for module in modules()})

    assert sorted(layer_table(LAYERS)) == expected


def test_imports_point_downward_only() -> None:
    # No cycle is possible then: along a cycle some import would have to point up or sideways.
    assert upward(layer_table(LAYERS)) == []


def test_the_check_sees_an_upward_import() -> None:
    upside_down = {module: -height for module, height in layer_table(LAYERS).items()}

    assert any("_token.py" in line and "grpc_bearer.errors" in line for line in upward(upside_down))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import grpc_bearer.errors", ["grpc_bearer.errors"]),
        ("def f():\n    from grpc_bearer._token import Token", ["grpc_bearer._token"]),
        ("if TYPE_CHECKING:\n    from grpc_bearer import errors, BearerAuth", ["grpc_bearer.errors", "grpc_bearer"]),
        ("from . import _base", ["grpc_bearer.sources._base"]),
        ("from ._base import Source", ["grpc_bearer.sources._base"]),
        ("from ..errors import TokenError", ["grpc_bearer.errors"]),
        ("import grpc, grpc_bearerish", []),
    ],
)
def test_the_check_reads_every_form_of_import(source: str, expected: list[str]) -> None:
    known = {"grpc_bearer", "grpc_bearer.errors", "grpc_bearer._token", "grpc_bearer.sources._base"}

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

    assert new.isdisjoint({"hashlib", "random", "grpc_bearer.events", "grpc_bearer._log", "grpc_bearer._diagnosis"})


@pytest.mark.parametrize(
    "module", ["grpc_bearer", "grpc_bearer.aio", "grpc_bearer.profiles", "grpc_bearer.rest", "grpc_bearer.sources"]
)
def test_importing_brings_no_slow_package(module: str) -> None:
    new = brought(module)

    assert module in new
    assert not [name for name in new if name.startswith(SLOW)]
    assert not [
        name for name in new if name.startswith(("grpc_bearer.testing", "grpc_bearer._demo", "grpc_bearer._cli"))
    ]
