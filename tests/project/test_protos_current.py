"""The generated code is what protos/ gives, and runs wherever the package does."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import grpc_bearer

ROOT = Path(__file__).parents[2]
GENERATE = ROOT / "protos" / "generate"
PACKAGE = Path(grpc_bearer.__file__).parent / "testing" / "_pb"


def pinned() -> str:
    found = re.search(r'^TOOLS = "(.+)"$', GENERATE.read_text("utf-8"), re.MULTILINE)
    assert found
    return found[1]


def installed() -> str:
    try:
        return importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def run_generate(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(GENERATE), *arguments], capture_output=True, text=True, check=False)


@pytest.mark.skipif(
    installed() != pinned(), reason=f"grpcio-tools {pinned()} is not installed here; CI has it in a venv"
)
def test_generated_code_is_what_protos_gives() -> None:
    run = run_generate("--check")

    assert (run.returncode, run.stderr) == (0, "")


@pytest.mark.skipif(installed() == pinned(), reason="the right tools are installed")
def test_other_tools_are_refused_and_the_right_ones_named() -> None:
    run = run_generate("--check")

    assert run.returncode == 1
    assert f"needs grpcio-tools {pinned()}, found {installed()}" in run.stderr


def test_an_unknown_argument_is_refused() -> None:
    assert run_generate("--chekc").returncode != 0


def test_generated_code_asks_for_no_newer_grpcio_than_the_tools_that_made_it() -> None:
    text = (PACKAGE / "probe_pb2_grpc.py").read_text("utf-8")

    assert f"GRPC_GENERATED_VERSION = '{pinned()}'" in text
    # Newer tools make code that raises on another grpcio, and ask protobuf for a version of its runtime.
    assert "raise RuntimeError" not in text
    assert "runtime_version" not in (PACKAGE / "probe_pb2.py").read_text("utf-8")


def test_stubs_register_their_methods() -> None:
    # What a drop-in channel must take: traps, 26.
    assert (PACKAGE / "probe_pb2_grpc.py").read_text("utf-8").count("_registered_method=True") == 8


def test_generated_code_imports_without_a_warning() -> None:
    script = "from grpc_bearer.testing._pb import probe_pb2_grpc"

    run = subprocess.run([sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, check=False)

    assert run.returncode == 0, run.stderr


def test_the_hand_written_stub_file_names_what_the_module_has() -> None:
    from grpc_bearer.testing._pb import probe_pb2_grpc

    text = (PACKAGE / "probe_pb2_grpc.pyi").read_text("utf-8")
    classes = re.findall(r"^class (\w+)", text, re.MULTILINE) + re.findall(r"^def (\w+)", text, re.MULTILINE)

    assert [name for name in classes if not hasattr(probe_pb2_grpc, name)] == []
    methods = {name for name in vars(probe_pb2_grpc.ProbeServicer) if not name.startswith("_")}
    assert methods == set(re.findall(r"^    def ([A-Z]\w+)", text, re.MULTILINE))
