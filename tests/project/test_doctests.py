"""Every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import grpc_bearer

# Generated, or run when imported.
LEFT_OUT: tuple[str, ...] = ("grpc_bearer.testing._pb", "grpc_bearer.__main__")
if importlib.util.find_spec("grpclib") is None:
    LEFT_OUT += ("grpc_bearer._runtimes.grpclib_",)
if importlib.util.find_spec("connectrpc") is None:
    LEFT_OUT += ("grpc_bearer._runtimes.connect_",)


def examples() -> list[doctest.DocTest]:
    names = [info.name for info in pkgutil.walk_packages(grpc_bearer.__path__, "grpc_bearer.")]
    found: list[doctest.DocTest] = []
    for name in ["grpc_bearer", *names]:
        if not name.startswith(LEFT_OUT):
            found += doctest.DocTestFinder().find(importlib.import_module(name))
    return [example for example in found if example.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_the_example_is_true(example: doctest.DocTest) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)

    assert runner.run(example).failed == 0
