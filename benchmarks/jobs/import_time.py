"""What `import grpc_bearer` adds to `import grpc`."""

from __future__ import annotations

import os
import subprocess
import sys

from benchmarks import loop, tables
from benchmarks.jobs import Scale
from benchmarks.jobs.unary import held
from benchmarks.loop import Role, Samples, Variant
from benchmarks.tables import Goal, Result

_SCRIPT = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
OURS = "import grpc_bearer"


def _imports(statement: str) -> float:
    command = [sys.executable, "-c", _SCRIPT.format(statement)]
    # Compiled once, as an installed package is; without this, a setting of the shell's would compile on each import.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def run(scale: Scale) -> Result:
    """The table; each sample is an interpreter of its own."""
    statements: list[tuple[str, Role, str]] = [
        ("import grpc", "floor", "import grpc"),
        ("import grpc, again", "A/A", "import grpc"),
        (OURS, "ours", "import grpc, grpc_bearer"),
        ("import google.auth.transport.grpc", "peer", "import grpc, google.auth.transport.grpc"),
    ]
    variants = [Variant(name, role, lambda: None) for name, role, _ in statements]
    samples = {variant.name: Samples(variant.name, variant.role) for variant in variants}
    texts = {name: text for name, _, text in statements}
    import random

    chance = random.Random(5)
    for number in scale.budget(30, least=25).rounds():
        for variant in loop.order(variants, number, chance):
            samples[variant.name].add(number, _imports(texts[variant.name]))
    table = tables.compare(
        "import",
        "Import time",
        list(samples.values()),
        {OURS: Goal(15, "difference")},
        unit="ms",
        factor=1e3,
    )
    return Result([table], benchmarks=held(list(samples.values())))
