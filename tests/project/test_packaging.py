"""What setup.cfg, pyproject.toml, the floors and the installed distribution say, they say together."""

from __future__ import annotations

import configparser
import importlib.metadata
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import grpc_bearer
from grpc_bearer.__main__ import main

ROOT = Path(__file__).parents[2]
PACKAGE = Path(grpc_bearer.__file__).parent  # the tests also run on an installed wheel, with no source beside them
SETUP = configparser.ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg", "utf-8")
REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[[\w,-]+\])?\s*(?P<comparison>==|>=)\s*(?P<version>[\w.]+)")


def pins(lines: str, comparison: str) -> dict[str, str]:
    """Name to version; what has a condition (`; python_version …`) is left out."""
    wanted = [line.strip() for line in lines.splitlines() if line.strip() and line[0] != "#" and ";" not in line]
    matches = [REQUIREMENT.fullmatch(line) for line in wanted]
    assert all(match and match["comparison"] == comparison for match in matches), lines
    return {match["name"].lower(): match["version"] for match in matches if match}


def test_the_floors_in_setup_cfg_are_the_floors_that_are_tested() -> None:
    declared, _carried_along = (ROOT / "tests/floors.txt").read_text("utf-8").split("\n\n")

    assert pins(declared, "==") == pins(SETUP["options"]["install_requires"], ">=")


def test_the_six_dependencies_and_no_other() -> None:
    expected = {"cryptography", "google-auth", "grpcio", "grpcio-status", "pyjwt", "tenacity"}

    assert set(pins(SETUP["options"]["install_requires"], ">=")) == expected


def test_python_3_10_alone_takes_one_dependency_more() -> None:
    conditional = [line for line in SETUP["options"]["install_requires"].splitlines() if ";" in line]

    assert conditional == ['tomli>=2.0.0; python_version < "3.11"']


def test_pyproject_holds_only_what_cannot_stand_in_setup_cfg() -> None:
    tables = re.findall(r"^\[([^\]]+)\]", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE)

    assert tables[0] == "build-system"
    assert all(table.startswith("tool.ruff") for table in tables[1:])


def test_the_oldest_python_is_the_same_everywhere() -> None:
    classifiers = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
    ruff = re.search(r'target-version = "py3(\d+)"', (ROOT / "pyproject.toml").read_text("utf-8"))

    assert SETUP["options"]["python_requires"] == ">=3.10"
    assert classifiers[0] == SETUP["mypy"]["python_version"] == "3.10"
    assert ruff
    assert ruff[1] == "10"


def test_the_version_stands_in_one_place() -> None:
    version = SETUP["metadata"]["version"]
    holders = [path.name for path in PACKAGE.rglob("*.py") if f'"{version}"' in path.read_text("utf-8")]

    assert importlib.metadata.version("grpc-bearer") == version
    assert holders == []


def test_the_changelog_has_an_entry_for_this_version() -> None:
    assert f"## [{SETUP['metadata']['version']}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_type_checkers_see_that_the_package_is_typed() -> None:
    assert files("grpc_bearer").joinpath("py.typed").is_file()
    assert "py.typed" in SETUP["options.package_data"]["grpc_bearer"]


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text("utf-8")

    assert SETUP["metadata"]["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_console_script_is_the_cli() -> None:
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="grpc-bearer")

    assert script.load() is main


def test_version_option_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"grpc-bearer {SETUP['metadata']['version']}\n"


def test_python_dash_m_runs_the_cli() -> None:
    run = subprocess.run([sys.executable, "-m", "grpc_bearer", "--help"], check=True, capture_output=True, text=True)

    assert "demo" in run.stdout


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["demo", "--no-such-option"]])
def test_wrong_arguments_exit_with_2_and_a_hint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert re.search(r"`grpc-bearer( demo)? --help` lists what there is\.\n$", capsys.readouterr().err)


def test_the_make_targets_that_the_documents_and_ci_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    commands = r"^(?:\$ |step )?make ([a-z-]+)"  # a line of its own; "and make are enough" is prose
    texts = ((ROOT / path).read_text("utf-8") for path in (".ci/run", "README.md", "CONTRIBUTING.md"))
    named = {name for text in texts for name in re.findall(commands, text, re.MULTILINE)}

    assert {"test", "demo"} <= named
    assert named <= targets


def test_the_hosted_ci_calls_the_targets_of_make_check() -> None:
    here = set(re.findall(r"^ *step make ([a-z-]+)", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE))
    hosted = set(re.findall(r"- run: make ([a-z-]+)", (ROOT / ".github/workflows/ci.yml").read_text("utf-8")))

    here.discard("test-pythons")  # there each Python has a machine of its own
    assert sorted(here - hosted) == [], "in .ci/run, but not in .github/workflows/ci.yml"
    assert sorted(hosted - here) == [], "in .github/workflows/ci.yml, but not in .ci/run"


def test_what_a_branch_waits_for_is_every_job() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    jobs = re.findall(r"^  ([a-z]+):$", text.partition("\njobs:\n")[2], re.MULTILINE)
    needs = re.search(r"needs: \[(.*)\]", text)

    assert needs
    assert needs[1].split(", ") == [job for job in jobs if job != "all"]


def test_contributors_are_told_the_targets_of_make_check() -> None:
    here = set(re.findall(r"^ *step make ([a-z-]+)", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE))
    told = set(re.findall(r"^make ([a-z-]+)", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.MULTILINE))

    assert sorted(here - told) == [], "in .ci/run, but not in CONTRIBUTING.md"


def test_the_hosted_ci_covers_every_python_that_the_classifiers_name() -> None:
    text = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
    matrix = re.search(r"python: \[(.*)\]", text)

    assert matrix
    assert re.findall(r"3\.\d+", matrix[1]) == re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])


def test_the_hosted_ci_runs_nothing_that_can_change_under_it() -> None:
    used = re.findall(r"uses: (\S+)", (ROOT / ".github/workflows/ci.yml").read_text("utf-8"))

    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


def test_the_hooks_are_targets_of_make_check() -> None:
    hooks = set(re.findall(r"entry: make ([a-z-]+)", (ROOT / ".pre-commit-config.yaml").read_text("utf-8")))
    here = set(re.findall(r"^ *step make ([a-z-]+)", (ROOT / ".ci/run").read_text("utf-8"), re.MULTILINE))

    assert {"lint", "types"} <= hooks <= here


def test_the_checkers_are_pinned() -> None:
    lines = SETUP["options.extras_require"]["dev"].splitlines()
    tools = {"build", "mypy", "pre-commit", "pyright", "ruff", "twine"}

    assert {line.split("[")[0].split("==")[0] for line in lines if "==" in line} >= tools
