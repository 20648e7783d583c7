"""The benchmarks run and report; what they come to is no test."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from grpc_bearer.__main__ import main
from grpc_bearer.testing import private_pem, throwaway_key

ROOT = Path(__file__).parents[2]
TOOLS = ("pyperf", "matplotlib", "psutil")
with_tools = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in TOOLS), reason="needs the extra: pip install -e '.[bench]'"
)


def bench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", "--scale", "0", "--out", str(folder / "report")]
    return subprocess.run(
        [*command, "--work", str(folder / "work"), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


@with_tools
def test_a_small_run_writes_tables_json_and_plots(tmp_path: Path) -> None:
    parts = ("unary", "lookup", "openfx")

    run = bench(tmp_path, *(word for part in parts for word in ("--only", part)))

    assert run.returncode == 0, run.stdout + run.stderr
    text = (tmp_path / "report/README.md").read_text("utf-8")
    data = json.loads((tmp_path / "report/report.json").read_text("utf-8"))
    assert list(data["results"]) == list(parts)
    assert "| header by hand, again (A/A) |" in text
    assert text.index("face.svg") < text.index("| A call on our channel |") < text.index("<details>")
    assert text.count("<details>") == text.count("</details>") > len(parts)
    assert "### " not in text  # a section cannot begin in one fold and end in another
    assert data["machine"]["grpcio"] in text
    for picture in ("face.svg", "doors.svg"):
        assert "<svg" in (tmp_path / "report" / picture).read_text("utf-8")


@with_tools
def test_every_table_has_its_floor_and_the_floor_again(tmp_path: Path) -> None:
    bench(tmp_path, "--only", "lookup", "--only", "retry")
    data = json.loads((tmp_path / "report/report.json").read_text("utf-8"))
    tables = [table for result in data["results"].values() for table in result["tables"]]
    roles = [{row["role"] for row in table["rows"]} for table in tables]

    assert len(tables) == 2
    assert all({"floor", "A/A", "ours"} <= each for each in roles)


@with_tools
def test_every_runtime_that_is_here_has_its_figures(tmp_path: Path) -> None:
    here = {"grpclib": ["grpclib"], "connectrpc": ["connectrpc, sync", "connectrpc, asyncio"]}
    titles = [title for name, found in here.items() if importlib.util.find_spec(name) for title in found]

    run = bench(tmp_path, "--only", "runtimes")

    assert run.returncode == 0, run.stdout + run.stderr
    text = (tmp_path / "report/README.md").read_text("utf-8")
    checks = json.loads((tmp_path / "report/report.json").read_text("utf-8"))["checks"]
    assert [check["goal"] for check in checks] == ["≤ 1.03"] * len(titles) * 2
    assert all(f"| {title}, client CPU: grpc_bearer | ≤ 1.03 |" in text for title in titles)


@with_tools
def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    bench(tmp_path, "--only", "lookup")
    run = bench(tmp_path, "--only", "lookup", "--only", "retry")

    assert "lookup: done before" in run.stdout
    assert "retry: done before" not in run.stdout


@with_tools
def test_what_waits_and_what_refreshes_is_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    from benchmarks.jobs import cold_start, many_auths
    from benchmarks.server import Server

    with Server() as server:
        waiting = cold_start.child(cold_start.OURS, 3, server.target, str(server.ca))
    refreshing = many_auths.child(many_auths.OURS, 2, 0.05, [0.1])

    assert waiting["exchanges"] == 1
    assert waiting["failed_calls"] == 0
    assert refreshing["refreshes"] > 0


@with_tools
def test_a_missed_reach_is_explained_in_the_report_and_one_that_is_met_is_not() -> None:
    from benchmarks import reasons
    from benchmarks.tables import Check

    known = {"Streams, *": "They are kept."}
    checks = [
        Check("Streams, per call: ours", "≤ 1.05", "1.070", "missed"),
        Check("Streams, per message: ours", "≤ 1.05", "1.010", "met"),
        Check("Import time: ours", "≤ 15 ms more", "20 ms", "missed (A/A off)"),
    ]

    streams, imports = reasons.section(checks, known)

    assert streams == "**Streams, per call: ours** (1.070, goal ≤ 1.05): They are kept.\n"
    assert "not explained yet" in imports
    assert reasons.section(checks[1:2], known) == []


@with_tools
def test_the_figures_in_the_readme_are_those_of_the_committed_report() -> None:
    from benchmarks import face, tables

    data = json.loads((ROOT / "benchmarks/report/report.json").read_text("utf-8"))
    results = {name: tables.from_json(result) for name, result in data["results"].items()}
    text, readme = face.markdown(results, data["machine"]), (ROOT / "README.md").read_text("utf-8")

    assert len(face.figures(results)) == 5
    assert face.into(readme, text) == readme, "made by `make bench`, which writes both"
    assert text in (ROOT / "benchmarks/report/README.md").read_text("utf-8")


@with_tools
def test_figures_that_were_not_measured_are_left_out_and_a_page_without_a_place_for_them_is_refused() -> None:
    from benchmarks import face
    from benchmarks.tables import Result

    assert face.figures({"lookup": Result()}) == []
    assert face.markdown({}, {}) == ""
    assert face.into(f"a\n{face.BEGIN}\nold\n{face.END}\nb", "new\n") == f"a\n{face.BEGIN}\n\nnew\n\n{face.END}\nb"
    with pytest.raises(ValueError, match="no place"):
        face.into("a page", "new")


@with_tools
def test_every_written_reason_has_a_pattern_and_a_text() -> None:
    from benchmarks import reasons

    assert len(reasons.read()) > 5
    assert all(pattern and text for pattern, text in reasons.read().items())


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
def test_the_command_measures_a_users_own_key(
    algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key.pem"
    key.write_text(private_pem(throwaway_key(algorithm)), "utf-8")

    code = main(["bench", "--key", str(key), "--seconds", "0"])

    text = capsys.readouterr().out
    assert code == 0
    assert f"One {algorithm} token" in text
    assert text.count("PyJWT") == 2


def test_the_command_says_what_is_wrong_with_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["bench", "--key", str(tmp_path / "none.pem")])

    assert code == 2
    assert "none.pem" in capsys.readouterr().err
