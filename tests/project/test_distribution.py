"""The wheel and the sdist that `make package` built: what is in them, and what they say of themselves.

`make test-wheel` runs all tests on the installed wheel, in a copy of the sdist whose package was taken away.
"""

from __future__ import annotations

import configparser
import email
import importlib.metadata
import inspect
import os
import re
import subprocess
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import grpc_bearer

DIST = Path(os.environ.get("GRPC_BEARER_DIST", ""))
ROOT = Path(__file__).parents[2]
INSTALLED = Path(grpc_bearer.__file__).parent
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", "utf-8")
NAME = f"grpc_bearer-{SETUP['metadata']['version']}"

pytestmark = pytest.mark.skipif(not DIST.name, reason="looks at what `make package` built")
# In `make test-wheel` the working folder is a copy of the sdist; otherwise the source lies in it.
on_the_wheel = pytest.mark.skipif(INSTALLED.parent == ROOT, reason="the package under test is the source folder's")


@pytest.fixture(scope="module")
def wheel() -> dict[str, bytes]:
    """The files of the wheel."""
    with zipfile.ZipFile(DIST / f"{NAME}-py3-none-any.whl") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist() -> dict[str, bytes]:
    """The files of the sdist, without the folder that all of them lie in."""
    with tarfile.open(DIST / f"{NAME}.tar.gz") as archive:
        members = [member for member in archive.getmembers() if not member.isdir()]
        texts = {member.name: archive.extractfile(member) for member in members}
        return {name.removeprefix(f"{NAME}/"): file.read() for name, file in texts.items() if file}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return email.message_from_bytes(wheel[f"{NAME}.dist-info/METADATA"])


def kept(folder: Path) -> set[str]:
    """What git holds or would take; skips where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("the distributions were not built in a git checkout")
    return {name for name in run.stdout.splitlines() if (folder / name).exists()}


def test_there_is_one_wheel_and_one_sdist() -> None:
    assert sorted(path.name for path in DIST.iterdir()) == [f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"]


def test_the_sdist_holds_what_git_holds_and_nothing_else(sdist: dict[str, bytes]) -> None:
    made = {name for name in sdist if name == "PKG-INFO" or name.startswith("grpc_bearer.egg-info/")}
    expected = kept(DIST.parent)

    assert sorted(expected - set(sdist)) == [], "missing: MANIFEST.in needs a line for them"
    assert sorted(set(sdist) - made - expected) == [], "stray: MANIFEST.in should leave them out"


def test_the_wheel_holds_the_package_and_nothing_else(wheel: dict[str, bytes], sdist: dict[str, bytes]) -> None:
    package = {name: text for name, text in sdist.items() if name.startswith(("grpc_bearer/", "_grpc_bearer_pytest"))}
    said = {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt"}

    assert {name: text for name, text in wheel.items() if ".dist-info/" not in name} == package
    assert set(wheel) - set(package) == {f"{NAME}.dist-info/{name}" for name in said}
    assert {Path(name).suffix for name in package} == {".py", ".pyi", ".typed"}


def test_every_module_of_the_wheel_compiles(wheel: dict[str, bytes]) -> None:
    modules = [name for name in wheel if name.endswith((".py", ".pyi"))]

    assert "grpc_bearer/__init__.py" in modules
    for name in modules:
        compile(wheel[name], name, "exec")  # a SyntaxError tells the file


def test_the_wheel_tells_type_checkers_that_it_is_typed(wheel: dict[str, bytes]) -> None:
    assert wheel["grpc_bearer/py.typed"] == b""


def test_the_wheel_fits_every_machine(wheel: dict[str, bytes]) -> None:
    lines = wheel[f"{NAME}.dist-info/WHEEL"].decode().splitlines()

    assert "Root-Is-Purelib: true" in lines
    assert "Tag: py3-none-any" in lines


def test_the_metadata_is_that_of_setup_cfg(metadata: Message) -> None:
    declared = SETUP["metadata"]

    assert (metadata["Name"], metadata["Version"]) == (declared["name"], declared["version"])
    assert metadata["Requires-Python"] == SETUP["options"]["python_requires"]
    assert metadata["Summary"] == declared["description"]
    assert metadata.get("License-Expression", metadata["License"]) == declared["license"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Classifier") == declared["classifiers"].split("\n")[1:]
    assert metadata.get_all("License-File") == ["LICENSE"]


def test_the_description_is_the_readme_and_the_changelog(metadata: Message) -> None:
    text = metadata.get_payload()

    assert isinstance(text, str)
    assert text.index("# grpc-bearer\n") < text.index("# Changelog\n")


def test_the_wheel_requires_what_setup_cfg_says(metadata: Message) -> None:
    def bare(line: str) -> str:
        return re.sub(r"[\s()\"']", "", line).lower().replace("_", "-")

    def given(lines: str) -> list[str]:
        return [line for line in lines.splitlines() if line and not line.startswith("#")]

    extras = SETUP["options.extras_require"]
    declared = {bare(line) for line in given(SETUP["options"]["install_requires"])}
    for extra, lines in extras.items():
        for line in given(lines):
            requirement, _, marker = line.partition(";")
            marker = f"({marker})and" if "or" in marker.split() else f"{marker}and" * bool(marker)
            declared.add(bare(f"{requirement};{marker}extra=={extra}"))

    assert {bare(line) for line in metadata.get_all("Requires-Dist", [])} == declared
    assert set(metadata.get_all("Provides-Extra", [])) == set(extras)


def test_the_wheel_has_the_entry_points_of_setup_cfg(wheel: dict[str, bytes]) -> None:
    said = configparser.ConfigParser()
    said.read_string(wheel[f"{NAME}.dist-info/entry_points.txt"].decode())
    declared = configparser.ConfigParser()
    declared.read_string("".join(f"[{group}]\n{lines}\n" for group, lines in SETUP["options.entry_points"].items()))

    assert said == declared


@on_the_wheel
def test_the_package_under_test_is_the_wheel(wheel: dict[str, bytes]) -> None:
    differing = [
        name
        for name, text in wheel.items()
        if ".dist-info/" not in name and (INSTALLED.parent / name).read_bytes() != text
    ]

    assert differing == []
    assert not (ROOT / "grpc_bearer").exists()
    assert not list(ROOT.glob("*.py"))
    assert importlib.metadata.distribution("grpc-bearer").read_text("RECORD"), "metadata is that of a source folder"


@on_the_wheel
def test_every_entry_point_can_be_loaded() -> None:
    loaded = {point.name: point.load() for point in importlib.metadata.distribution("grpc-bearer").entry_points}

    assert "grpc-bearer" in loaded
    assert [name for name, thing in loaded.items() if not callable(thing) and not inspect.ismodule(thing)] == []
