"""Every command on broken streams: what cannot be written is told and counted, and stdout has results alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jwt
import pytest
from _cli_server import PROBE, TOKEN, clean_environment, with_reflection

from grpc_bearer import _cli
from grpc_bearer.testing import CA, OpaqueVerifier, ProbeServer, private_pem, throwaway_key

pytest.importorskip("grpc_reflection", reason="needs the cli extra")
if shutil.which("bash") is None or not Path("/dev/full").exists():
    pytest.skip("no such streams here", allow_module_level=True)

PATIENCE = 60.0
# A name that none of these can carry whole, with a character that a terminal would obey.
ISSUER = "Flöte → 😀\x9b"
ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437")
# They write by the same code: some play in `make test`, all of them in `make check`.
COMMANDS = [
    *("token", "check", "--help"),
    *(
        pytest.param(command, marks=pytest.mark.nightly)
        for command in ("inspect", "call", "demo", "bench", "completion", "--version")
    ),
]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def under(redirection: str, *arguments: str, encoding: str = "utf-8", **environment: str) -> Ended:
    """Run the command with its streams redirected by a real shell; output is decoded by the encoding."""
    script = f'exec "$@" {redirection}'
    command = ["bash", "-c", script, "bash", sys.executable, "-W", "error", "-m", "grpc_bearer", *arguments]
    env = clean_environment() | {"PYTHONIOENCODING": encoding} | environment
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=env, timeout=PATIENCE)
    return Ended(done.returncode, done.stdout.decode(encoding), _without_progress(done.stderr.decode(encoding)))


def _without_progress(err: str) -> str:
    """On a busy machine anything may take long, and is told so."""
    return "".join(line for line in err.splitlines(True) if not line.endswith((" …\n", " \\u2026\n")))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """The commands, such that all of them end well."""
    folder, ca = tmp_path_factory.mktemp("streams"), CA()
    (folder / "token").write_text(TOKEN)
    (folder / "key.pem").write_text(private_pem(throwaway_key("RS256")))
    crm = ["--profile", "crm", "--token-file", str(folder / "token")]
    now = int(time.time())
    claims = {"iss": ISSUER, "iat": now, "exp": now + 3600}
    signed = jwt.encode(claims, throwaway_key("RS256"), algorithm="RS256")
    with ProbeServer(OpaqueVerifier([TOKEN]), ca, register=[with_reflection]) as server:
        there = [server.target, "--ca", str(ca.write(folder)), *crm]
        yield {
            "token": crm,
            "inspect": [signed],
            "check": there,
            "call": [there[0], f"{PROBE}/Unary", '{"index": 7}', *there[1:]],
            "demo": [],
            "bench": ["--key", str(folder / "key.pem"), "--seconds", "0.01"],
            "completion": ["bash"],
            "--help": [],
            "--version": [],
        }


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("redirection", "problem"),
    [
        (">&-", "stdout is closed"),
        (">/dev/full", "stdout cannot be written: No space left on device"),
    ],
)
def test_what_cannot_be_written_is_exit_code_9_and_one_line(
    arguments: dict[str, list[str]], command: str, redirection: str, problem: str
) -> None:
    assert under(redirection, command, *arguments[command]) == (9, "", f"grpc-bearer: {problem}.\n")


def test_a_stdout_that_is_open_for_reading_only(arguments: dict[str, list[str]]) -> None:
    told = "grpc-bearer: stdout cannot be written: Bad file descriptor.\n"

    assert under("1</dev/null", "token", *arguments["token"]) == (9, "", told)


def test_the_line_is_json_if_the_result_would_be(arguments: dict[str, list[str]]) -> None:
    ended = under(">/dev/full", "token", "--json", *arguments["token"])

    assert (ended.code, ended.out) == (9, "")
    assert json.loads(ended.err) == {
        "error": "stdout cannot be written: No space left on device",
        "advice": "",
        "exit_code": 9,
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_has_left_is_exit_code_141_as_with_other_tools(
    arguments: dict[str, list[str]], command: str
) -> None:
    assert under_a_left_reader(command, *arguments[command]) == (141, "", "")


def under_a_left_reader(*arguments: str) -> Ended:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-W", "error", "-m", "grpc_bearer", *arguments]
    try:
        done = subprocess.run(
            command, stdout=write, stderr=subprocess.PIPE, env=clean_environment(), timeout=PATIENCE, text=True
        )
    finally:
        os.close(write)
    return Ended(done.returncode, "", _without_progress(done.stderr))


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_stream_cannot_carry_is_escaped(arguments: dict[str, list[str]], command: str) -> None:
    code, out, err = under("", command, *arguments[command], encoding="ascii")

    assert (code, err) == (0, "")
    assert out.isascii()
    assert out.endswith("\n")


@pytest.mark.parametrize("encoding", [*ENCODINGS, "utf-8"])
def test_json_stays_equal_whatever_the_encoding(arguments: dict[str, list[str]], encoding: str) -> None:
    table = under("", "inspect", *arguments["inspect"], encoding=encoding)
    found = under("", "inspect", "--json", *arguments["inspect"], encoding=encoding)
    skykit = ["--profile", "skykit", "--issuer", "me", "--key-file", f"{ISSUER}.pem"]
    wrong = under("", "inspect", "--json", *skykit, encoding=encoding)

    assert [ended.code for ended in (table, found, wrong)] == [0, 0, 2]
    assert json.loads(found.out)["claims"]["iss"] == ISSUER
    assert json.loads(wrong.err)["error"] == f"--key-file: cannot read {ISSUER}.pem: No such file or directory"
    assert "\x9b" not in table.out + found.out + wrong.err


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_ends_well_needs_no_stderr(
    arguments: dict[str, list[str]], command: str, redirection: str
) -> None:
    ended = under(redirection, command, *arguments[command])

    assert (ended.code, ended.err) == (0, "")
    assert ended.out


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["token", "--profile", "crm", "--token-file", "nix"], 2),
        (["token", "--config", "nix.toml"], 2),
        (["token", "--nonsense"], 2),
        (["token", "--json", "--nonsense"], 2),
        ([], 2),
        (["check", "localhost:1", "--profile", "crm", "--token-file", "nix", "--method", "x"], 2),
    ],
)
def test_an_error_never_lands_on_stdout(words: list[str], code: int, redirection: str) -> None:
    assert under(redirection, *words) == (code, "", "")


def test_stdin_that_is_open_for_writing_only() -> None:
    assert under("0>/dev/null", "inspect") == (9, "", "grpc-bearer: stdin cannot be read: Bad file descriptor.\n")


def test_a_closed_stdin_is_told_as_such(arguments: dict[str, list[str]]) -> None:
    target, _, _, *options = arguments["call"]
    told = (9, "", "grpc-bearer: stdin is closed.\n")

    assert under("<&-", "inspect", "-") == told
    assert under("<&-", "inspect").code == 2, "as on a terminal: which token?"
    assert under("<&-", "call", target, f"{PROBE}/Unary", "-", *options) == told
    assert under("<&-", "call", target, f"{PROBE}/ClientStream", *options) == told
    assert under("<&-", "call", *arguments["call"]).code == 0


def test_stdin_that_is_no_text_is_told_as_such(arguments: dict[str, list[str]]) -> None:
    target, _, _, *options = arguments["call"]
    told = (9, "", "grpc-bearer: stdin: not text in utf-8.\n")
    binary = r"< <(printf '\xff\xfe')"

    assert under(binary, "inspect", "-") == told
    assert under(binary, "call", target, f"{PROBE}/ClientStream", *options) == told


def test_a_token_from_a_shell_that_writes_a_byte_order_mark() -> None:
    ended = under(rf"< <(printf '\xef\xbb\xbf{TOKEN}')", "inspect", "--profile", "crm", "-")

    assert ended == (0, f"An opaque token of {len(TOKEN)} characters.\nNothing looks wrong.\n", "")


def test_a_pipe_that_does_not_block_gets_all_of_it() -> None:
    fcntl = pytest.importorskip("fcntl")
    whole = under("", "check", "--help").out
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    command = [sys.executable, "-m", "grpc_bearer", "check", "--help"]
    with subprocess.Popen(command, stdout=write, env=clean_environment()) as process, open(read, "rb") as reader:
        os.close(write)
        out = reader.read().decode()

    assert len(whole) > 4096
    assert (process.returncode, out) == (0, whole)


def test_what_a_users_function_prints_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(f"def token():\n    print('logging in')\n    return {TOKEN!r}\n")
    (tmp_path / "auths.toml").write_text('[auth.chatty]\nsource = "callable"\nfunction = "chatty:token"\n')
    ended = under("", "token", "--config", str(tmp_path / "auths.toml"), PYTHONPATH=str(tmp_path))

    assert ended == (0, f"{TOKEN}\n", "logging in\n")


@pytest.mark.parametrize(
    "words",
    [
        ["token", "--json", "--nonsense"],
        ["token", "--json", "--timeout", "soon"],
        ["check", "--json"],
        ["inspect", "--json", "a", "b"],
        ["completion", "--json", "tcsh"],
        ["--json"],
    ],
)
def test_wrong_options_with_json_are_told_as_json(words: list[str]) -> None:
    code, out, err = under("", *words)

    assert (code, out) == (2, "")
    assert json.loads(err)["exit_code"] == 2
    assert "--help` lists what there is" in json.loads(err)["advice"]


def test_a_fault_of_our_own_is_no_verdict_on_the_token(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_arguments: object) -> int:
        raise KeyError(TOKEN)

    monkeypatch.setattr(_cli, "_run", fails)
    code = _cli.main(["inspect", TOKEN])
    out, err = capsys.readouterr()

    assert (code, out) == (70, "")
    assert err.startswith("grpc-bearer: a fault in grpc-bearer itself: KeyError at test_cli_streams.py:")
    assert len(err.splitlines()) == 1
    assert TOKEN not in err


# -- pipes in place of files ------------------------------------------------------------------------------------------


def in_bash(script: str, folder: Path, words: Sequence[str] = ()) -> Any:
    """A line of bash; `$1` is Python, `$TOKEN` the token."""
    env = clean_environment() | {"TOKEN": TOKEN}
    command = ["bash", "-c", script, "bash", sys.executable, *words]
    done = subprocess.run(command, capture_output=True, env=env, cwd=folder, timeout=PATIENCE, text=True)
    return Ended(done.returncode, done.stdout, _without_progress(done.stderr))


@pytest.mark.parametrize(
    "script",
    [
        '"$1" -m grpc_bearer token --profile crm --token-file <(echo "$TOKEN")',
        'echo "$TOKEN" | "$1" -m grpc_bearer token --profile crm --token-file /dev/stdin',
        'mkfifo pipe; (echo "$TOKEN" > pipe) & "$1" -m grpc_bearer token --profile crm --token-file pipe',
        '"$1" -m grpc_bearer token --profile bitbroker --consumer-file <(echo "$TOKEN") --routes "a.B/*=consumer"',
    ],
)
def test_a_token_comes_out_of_a_pipe(script: str, tmp_path: Path) -> None:
    assert in_bash(script, tmp_path) == (0, f"{TOKEN}\n", "")


def test_a_key_and_credentials_come_out_of_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(private_pem(throwaway_key("RS256")))
    signed = '"$1" -m grpc_bearer inspect --json --profile skykit --issuer me --key-file <(cat key.pem)'
    bench = '"$1" -m grpc_bearer bench --json --seconds 0.01 --key <(cat key.pem)'

    assert json.loads(in_bash(signed, tmp_path).out)["claims"]["iss"] == "me"
    assert json.loads(in_bash(bench, tmp_path).out)["algorithm"] == "RS256"


def test_authorities_come_out_of_a_pipe(arguments: dict[str, list[str]], tmp_path: Path) -> None:
    target, _, ca, *crm = arguments["check"]
    script = f'shift; "$0" -m grpc_bearer check --json {target} --ca <(cat {ca}) "$@"'.replace('"$0"', sys.executable)

    assert in_bash(script, tmp_path, crm).code == 0


def test_a_pipe_that_tls_would_read_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_text("x")
    script = '"$1" -m grpc_bearer check h:1 --profile crm --token-file a.pem --client-cert a.pem --client-key <(echo x)'
    problem = "grpc-bearer: --client-key: a pipe, and TLS reads it several times. Give a file.\n"

    assert in_bash(script, tmp_path) == (2, "", problem)


def test_an_empty_pipe_is_told_by_its_option(tmp_path: Path) -> None:
    script = '"$1" -m grpc_bearer token --profile crm --token-file <(:)'

    code, out, err = in_bash(script, tmp_path)

    assert (code, out) == (2, "")
    assert err.startswith("grpc-bearer: --token-file: empty. See GB-CONFIG")
