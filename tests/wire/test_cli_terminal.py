"""The command on a real terminal, in a pipe, and while something takes long."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _cli_server import PROBE, TOKEN, run, with_reflection

from grpc_bearer.testing import CA, Hang, OpaqueVerifier, ProbeServer, TokenServer, private_pem, throwaway_key

pty = pytest.importorskip("pty", reason="no terminals of this kind here")

COMMANDS = ("token", "inspect", "check", "call", "login", "auths", "demo", "bench", "completion")
PATIENCE = 30.0


@pytest.fixture
def signing(tmp_path: Path) -> list[str]:
    """Options for a token that is signed here, with nobody asked."""
    (tmp_path / "key.pem").write_text(private_pem(throwaway_key("RS256")))
    return ["--profile", "skykit", "--key-file", str(tmp_path / "key.pem"), "--issuer", "me@example.com"]


def started(*arguments: str, **how: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "grpc_bearer", *arguments], **how)


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What the command prints on a terminal."""
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    ours, theirs = pty.openpty()
    process = started(*arguments, stdout=theirs, stdin=theirs, env={**clean, "TERM": "xterm", **environment})
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], PATIENCE)[0]:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # so Linux says that the other end is closed
            piece = b""
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(PATIENCE) == 0
    return seen.decode()


def test_colours_on_a_terminal_none_in_a_pipe_and_none_if_not_wanted(signing: list[str]) -> None:
    pytest.importorskip("rich", reason="needs the cli extra")

    colour = re.compile(r"\x1b\[(?:\d+;)*3\dm")
    assert colour.search(on_a_terminal("inspect", *signing))
    for plain in (on_a_terminal("inspect", *signing, "--no-color"), on_a_terminal("inspect", *signing, NO_COLOR="1")):
        assert "\x1b[" not in plain
    assert colour.search(on_a_terminal("inspect", *signing, NO_COLOR="")), "as no-color.org wants it"
    assert "\x1b[" not in on_a_terminal("inspect", *signing, "--json")
    assert "\x1b[" not in run("inspect", *signing).out
    assert "Nothing looks wrong." in run("inspect", *signing, extras=False).out


@pytest.mark.parametrize("columns", ["0", "1", "7"])
def test_a_terminal_that_calls_itself_narrow_gets_all_of_it(signing: list[str], columns: str) -> None:
    pytest.importorskip("rich", reason="needs the cli extra")
    shown = on_a_terminal("inspect", *signing, COLUMNS=columns, NO_COLOR="1")
    words = re.sub(r"\x1b\[[0-9;]*m", "", shown).split()

    assert words[:4] == ["A", "JWT.", "header", "alg"]
    assert {"RS256", "me@example.com", "signature", "verified"} <= set(words)
    assert words[-3:] == ["Nothing", "looks", "wrong."]


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
def test_a_terminal_that_lacks_a_character_gets_it_escaped(signing: list[str], encoding: str) -> None:
    shown = on_a_terminal("inspect", *signing, "--issuer", "\u2192\U0001f600", PYTHONIOENCODING=encoding, COLUMNS="100")

    assert r"\u2192\U0001f600" in shown


def test_every_command_takes_json() -> None:
    assert set(re.findall(r"^ {4}([a-z]+)", run("--help").out, re.MULTILINE)) == set(COMMANDS)
    assert [command for command in COMMANDS if "--json" not in run(command, "--help").out] == []


def test_a_completion_script_as_json() -> None:
    found = run("completion", "bash", "--json").json

    assert found == {"shell": "bash", "script": run("completion", "bash").out}


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[tuple[Hang, list[str]]]:
    """A token endpoint that takes its time, and the options that ask it."""
    ca = CA()
    credentials = {"api_key": "key-1", "scope": "s", "secret": "tok-s3cret"}
    (tmp_path / "bear.json").write_text(json.dumps(credentials))
    with TokenServer(ca) as server:
        url, hang = server.serve_bear(credentials), Hang()
        server.script(hang)
        files = ["--credentials-file", str(tmp_path / "bear.json"), "--token-ca", str(ca.write(tmp_path))]
        yield hang, ["--profile", "bear", "--url", url, *files]
        hang.release.set()


def test_what_takes_long_is_told_on_stderr_and_the_result_alone_on_stdout(hanging: tuple[Hang, list[str]]) -> None:
    hang, options = hanging
    with started("token", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        told = process.stderr.readline().decode()  # comes while the endpoint is still silent
        hang.release.set()
        out, more = process.communicate(timeout=PATIENCE)

    assert told == "getting a token …\n"
    assert len(out.split()) == 1
    assert (process.returncode, more) == (0, b"")


def test_quiet_tells_of_nothing_but_errors(hanging: tuple[Hang, list[str]]) -> None:
    hang, options = hanging
    watch = threading.Timer(1.5, hang.release.set)  # longer than a command is patient
    watch.start()
    with started("token", "--quiet", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=PATIENCE)
    wrong = run("token", "--quiet", "--token-file", "nix")

    assert (process.returncode, len(out.split()), err) == (0, 1, b"")
    assert wrong.err.startswith("grpc-bearer: --token-file: cannot read nix: No such file or directory. See GB-CONFIG")


def test_ctrl_c_is_exit_code_130(hanging: tuple[Hang, list[str]]) -> None:
    hang, options = hanging
    # What a shell starts with `&` ignores SIGINT, and so do its children: unless it is handled here.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = started("token", *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    assert hang.arrived.wait(PATIENCE)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)

    assert process.returncode == 130
    assert (out, b"Traceback" in err) == (b"", False)


def test_ctrl_c_in_the_demo_leaves_nothing_of_grpc_on_stderr() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = started("demo", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    while not process.stdout.readline().startswith(b"bear, at"):  # the next service is being called then
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)

    assert (process.returncode, err) == (130, b"")


def test_a_reader_that_leaves_a_stream_ends_the_call(tmp_path: Path) -> None:
    pytest.importorskip("grpc_reflection", reason="needs the cli extra")
    ca = CA()
    (tmp_path / "token").write_text(TOKEN)
    with ProbeServer(OpaqueVerifier([TOKEN]), ca, register=[with_reflection]) as server:
        options = ["--ca", str(ca.write(tmp_path)), "--profile", "crm", "--token-file", str(tmp_path / "token")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with started("call", server.target, f"{PROBE}/BidiStream", "-", *options, **pipes) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b'{"index": 1}\n')
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["indexes"] == ["1"]
            process.stdout.close()
            process.stdin.write(b'{"index": 2}\n')
            process.stdin.flush()  # and stays open: the thread that reads it must not keep the command
            code = process.wait(PATIENCE)

    assert code == 141


def test_a_reply_of_a_stream_is_there_before_the_next_request(tmp_path: Path) -> None:
    pytest.importorskip("grpc_reflection", reason="needs the cli extra")
    ca = CA()
    (tmp_path / "token").write_text(TOKEN)
    with ProbeServer(OpaqueVerifier([TOKEN]), ca, register=[with_reflection]) as server:
        options = ["--ca", str(ca.write(tmp_path)), "--profile", "crm", "--token-file", str(tmp_path / "token")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with started("call", server.target, f"{PROBE}/BidiStream", "-", *options, **pipes) as process:
            watch = threading.Timer(PATIENCE, process.kill)
            watch.start()
            assert process.stdin is not None
            assert process.stdout is not None
            replies = []
            for index in (1, 2, 3):
                process.stdin.write(json.dumps({"index": index}).encode() + b"\n")
                process.stdin.flush()
                replies.append(json.loads(process.stdout.readline()))
            process.stdin.close()
            code = process.wait(PATIENCE)
            watch.cancel()

    assert [int(reply["indexes"][-1]) for reply in replies] == [1, 2, 3]
    assert code == 0
