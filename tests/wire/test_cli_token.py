"""The commands that need no extra: `token`, `inspect`, `bench`, `completion`, and what all of them share."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from _cli_server import TOKEN, run
from jose import verified

from grpc_bearer.__main__ import main
from grpc_bearer._cli import terminal
from grpc_bearer._cli.jwt import RULES, Rules, inspected, span
from grpc_bearer.testing import CA, Response, Services, Status, TokenServer, private_pem, throwaway_key


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_text(private_pem(throwaway_key("RS256")))
    return path


@pytest.fixture
def skykit(key: Path) -> list[str]:
    return ["--profile", "skykit", "--key-file", str(key), "--issuer", "me@example.com"]


# -- token ------------------------------------------------------------------------------------------------------------


def test_the_token_and_nothing_else(skykit: list[str]) -> None:
    ran = run("token", *skykit, extras=False)
    (token,) = ran.out.splitlines()

    assert (ran.code, ran.err) == (0, "")
    assert verified(token, throwaway_key("RS256"), "RS256")[1]["iss"] == "me@example.com"


def test_the_header_as_grpcurl_takes_it_and_json(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    options = ["--profile", "bitbroker", "--token-file", str(tmp_path / "token")]

    assert run("token", *options, "--header").out == f"x-bbk-auth-token: {TOKEN}\n"
    assert run("token", *options, "--json").json == {
        "token": TOKEN,
        "expires_at": None,
        "header": "x-bbk-auth-token",
        "value": TOKEN,
    }


def test_the_token_alone_of_google_credentials_that_have_a_quota_project(tmp_path: Path) -> None:
    ca = CA()
    with TokenServer(ca) as server:
        answer = Response(body=json.dumps({"access_token": TOKEN, "expires_in": 3600}).encode())
        info = {
            "type": "service_account",
            "client_email": "robot@project.iam.gserviceaccount.com",
            "private_key": private_pem(throwaway_key("RS256")),
            "token_uri": server.serve("/token", lambda request: answer),
        }
        (tmp_path / "adc.json").write_text(json.dumps(info))
        (tmp_path / "auths.toml").write_text('[auth.a]\nsource = "google"\nscopes = "s"\n')
        env = {
            "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "adc.json"),
            "GOOGLE_CLOUD_QUOTA_PROJECT": "who-pays",
            "REQUESTS_CA_BUNDLE": str(ca.write(tmp_path)),
        }
        ran = run(
            "token", "--config", str(tmp_path / "auths.toml"), "--auth", "a", "--header", env=env, warnings="default"
        )

    assert ran.out == f"authorization: Bearer {TOKEN}\n", ran.err


def test_a_token_that_differs_by_call(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    options = ["--profile", "bitbroker", "--consumer-file", str(tmp_path / "token"), "--routes", "bbk.C/*=consumer"]

    assert run("token", *options, "--service-url", "https://h/bbk.C", "--method", "Get").out == f"{TOKEN}\n"
    assert run("token", *options).code == 0  # there is but one
    assert run("token", *options, "--service-url", "https://h/x.Y").code == 5
    assert run("token", *options[:-1], "nonsense").code == 2


@pytest.mark.parametrize("service", ["bear", "skykit", "crm", "openfx"])
def test_each_service_by_its_profile(tmp_path: Path, service: str) -> None:
    with Services(tmp_path) as services:
        file = str(services[service].arguments[0])
        options = {
            "bear": ["--credentials-file", file, "--url", services["bear"].options["url"]],
            "skykit": ["--key-file", file, "--issuer", "probe@example.com"],
            "crm": ["--token-file", file],
            "openfx": ["--credentials-file", file],
        }[service]
        ca = ["--token-ca", str(services.ca_file)] if service == "bear" else []
        token = run("token", "--profile", service, *options, *ca).out.strip()
        verdict = services[service].verifier.verify([("authorization", f"Bearer {token}")], "/s/M")

    assert verdict.refusal is None


def test_an_auth_of_the_file_by_option_environment_and_default(tmp_path: Path) -> None:
    config = tmp_path / "auths.toml"
    config.write_text(
        'default = "b"\n[auth.a]\nprofile = "crm"\ntoken_env = "A"\n[auth.b]\nsource = "static"\ntoken_env = "B"\n'
    )
    env = {"A": "tok-aaaaaaaaaaaa", "B": "tok-bbbbbbbbbbbb"}

    assert run("token", "--config", str(config), env=env).out == "tok-bbbbbbbbbbbb\n"
    assert run("token", "--config", str(config), "--auth", "a", env=env).out == "tok-aaaaaaaaaaaa\n"
    assert run("token", "--auth", "a", env={**env, "GRPC_BEARER_CONFIG": str(config)}).out == "tok-aaaaaaaaaaaa\n"


@pytest.mark.parametrize(
    "command", ["sh -c 'printf a-token | cat; true'", "sh -ec 'echo $(echo a-token)'", "echo a-token"]
)
def test_what_a_shell_of_your_own_runs(command: str) -> None:
    assert run("token", "--exec", command).out == "a-token\n"


def test_a_file_without_auths_and_a_key_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "auths.toml").write_text("")
    empty = run("auths", "--config", str(tmp_path / "auths.toml"))
    quiet = run("auths", "--quiet", "--config", str(tmp_path / "auths.toml"))
    missing = run("bench", "--key", "nope")

    assert (empty.code, empty.out, empty.err) == (0, "", "grpc-bearer: no auths in it; write a table [auth.NAME].\n")
    assert (quiet.code, quiet.err) == (0, "")
    assert (missing.code, missing.err.partition(" nope")[0]) == (2, "grpc-bearer: --key: cannot read")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "which auth?"),
        (["--profile", "crm"], "--token-file or --token-env: missing"),
        (["--profile", "crm", "--key-file", "x"], "--key-file: not known to crm"),
        (["--profile", "crm", "--auth", "x"], "--profile beside --auth"),
        (["--credentials-file", "x"], "--credentials-file goes with --profile. Name the profile."),
        (["--client-id", "x", "--client-secret-file", "f"], "token comes from. Give --token-url URL or --issuer URL."),
        (["--scope", "x"], "--scope does not say by itself where the token comes from. Give --token-url URL or"),
        (["--json-field", "x"], "Give --exec COMMAND."),
        *(
            (["--exec", each], "--exec: no shell runs it. Use sh -c '…'.")
            for each in ("a | b", "a > b", "a 2>/dev/null", "a < b", "a && b", "a; b", "a ; b", "a $(b)", "a || b")
        ),
        (["--profile", "crm", "--token-env", "NOT_SET_X"], "--token-env: environment variable NOT_SET_X is not set"),
        (["--profile", "skykit", "--issuer", "me", "--key-file", "nix.pem"], "--key-file: cannot read nix.pem"),
        (["--config", "nix.toml"], "cannot read nix.toml"),
    ],
)  # fmt: skip
def test_wrong_use_is_exit_code_2_on_stderr(arguments: list[str], expected: str) -> None:
    ran = run("token", *arguments)

    assert (ran.code, ran.out) == (2, "")
    assert expected in ran.err


def test_a_secret_is_not_taken_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--profile", "crm", "--token", TOKEN]) == 2
    assert main(["token", "--profile", "crm", f"--token={TOKEN}"]) == 2
    assert main(["token", "--profile", TOKEN]) == 2
    assert main(["inspect", f"--max-lifetime={TOKEN}"]) == 2
    assert main([TOKEN]) == 2

    shown = "".join(capsys.readouterr())
    assert TOKEN not in shown
    assert "unrecognized arguments: --token;" in shown


def test_an_endpoint_that_says_no_is_exit_code_5(tmp_path: Path) -> None:
    ca = CA()
    (tmp_path / "bear.json").write_text(json.dumps({"api_key": "k", "scope": "s", "secret": TOKEN}))
    with TokenServer(ca) as server:
        server.fail_with(Status(403))
        options = [
            "--credentials-file",
            str(tmp_path / "bear.json"),
            "--url",
            server.url("/"),
            "--token-ca",
            str(ca.write(tmp_path)),
        ]
        ran = run("token", "--profile", "bear", *options)
        as_json = run("token", "--profile", "bear", *options, "--json")

    assert (ran.code, ran.out) == (5, "")
    assert "answered 403" in ran.err
    assert json.loads(as_json.err)["exit_code"] == 5


# -- inspect ----------------------------------------------------------------------------------------------------------


def made(claims: dict[str, Any], header: dict[str, Any] | None = None, signature: str = "c2ln" * 85 + "cw") -> str:
    parts = [header or {"alg": "RS256", "typ": "JWT"}, claims]
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(each).encode()).decode().rstrip("=") for each in parts), signature]
    )


NOW = 1_800_000_000


@pytest.mark.parametrize(
    ("token", "rules", "expected"),
    [
        (made({"exp": NOW + 60}), None, []),
        (made({"exp": NOW - 3700}), None, ["expired 1 h 1 min ago"]),
        (made({"exp": NOW}), None, ["expired 0 s ago"]),
        (made({"exp": NOW + 60, "nbf": NOW + 5}), None, ["nbf is 5 s ahead of this machine's clock: not valid yet"]),
        (made({"exp": NOW + 60, "iat": NOW + 5}), None, ["iat is 5 s ahead of this machine's clock: not valid yet"]),
        (made({"iat": NOW}), None, ["no exp: it never expires"]),
        (made({"exp": str(NOW + 60)}), None, ["exp is no number"]),
        (made({"exp": (NOW + 60) * 1000}), None, ["exp is more than 100 years away: written in milliseconds?"]),
        (
            made({"exp": NOW + 60}, {"alg": "none"}, ""),
            None,
            ["alg is none: it is not signed, and anybody could have made it"],
        ),
        (made({"exp": NOW + 60}, {"typ": "JWT"}), None, ["no alg in its header"]),
        (made({"exp": NOW + 60}, signature=""), None, ["its signature is missing; was it cut off?"]),
        (f"Bearer {made({'exp': NOW + 60})}", None, ["begins with 'Bearer ': the scheme is no part of the token"]),
        (
            made({"exp": NOW + 60}).replace(".", ".\n"),
            None,
            ["has white space in it; was it copied over several lines?"],
        ),
        (
            made({"exp": NOW + 7200, "iat": NOW, "iss": "me"}),
            RULES["skykit"],
            ["lives 2 h, and the service permits 1 h"],
        ),
        (
            made({"exp": NOW + 60, "iat": NOW}, {"alg": "ES256"}, "c2ln" * 21 + "cw"),
            RULES["skykit"],
            ["alg is ES256, and the service takes RS256 only", "no iss in its claims"],
        ),
        (made({"exp": NOW + 600, "iat": NOW}), Rules(max_lifetime=60), ["lives 10 min, and the service permits 1 min"]),
        ("opaque", None, ["not a JWT: 1 part between dots, where a JWT has 3"]),
        ("opaque", RULES["crm"], []),
        ("a.b.c", None, ["not a JWT: its header or its claims are no JSON object in base64url"]),
    ],
)
def test_what_looks_wrong(token: str, rules: Rules | None, expected: list[str]) -> None:
    assert inspected(token, NOW, rules).problems == expected


@pytest.mark.parametrize("service", ["bear", "skykit", "openfx", "crm"])
def test_nothing_is_wrong_with_the_tokens_of_our_own_profiles(tmp_path: Path, service: str) -> None:
    with Services(tmp_path) as services, services[service].auth() as auth:
        assert inspected(auth.token().value, time.time(), RULES[service]).problems == []


def test_inspect_shows_header_claims_and_time_left_but_no_signature(skykit: list[str]) -> None:
    token = run("token", *skykit).out.strip()
    for ran in (
        run("inspect", token),
        run("inspect", "-", stdin=token),
        run("inspect", stdin=f"{token}\n"),
        run("inspect", *skykit),
    ):
        assert ran.code == 0
        assert "me@example.com" in ran.out
        assert "Time left: 59 min " in ran.out
        assert ran.out.endswith("Nothing looks wrong.\n")
        assert token.rpartition(".")[2][:20] not in ran.out
        assert token.split(".")[1] not in ran.out


def test_inspect_as_json_with_a_limit(skykit: list[str]) -> None:
    ran = run("inspect", "--json", "--max-lifetime", "60", *skykit)

    assert ran.code == 1
    assert ran.json["header"] == {"alg": "RS256", "typ": "JWT"}
    assert ran.json["problems"] == ["lives 1 h, and the service permits 1 min"]


def test_an_opaque_token_is_not_shown() -> None:
    ran = run("inspect", "-", stdin=TOKEN)

    assert ran.code == 1
    assert "not a JWT" in ran.out
    assert TOKEN[:12] not in ran.out


def test_what_a_terminal_would_obey_is_written_out() -> None:
    ran = run("inspect", made({"exp": NOW * 2, "iss": "\x1b[31mred\n[bold]x"}))

    assert "\x1b" not in ran.out
    assert "\\x1b[31mred\\n[bold]x" in ran.out


def test_nothing_to_inspect() -> None:
    assert run("inspect", "-", stdin=" \n").code == 2


# -- bench, completion and all of them --------------------------------------------------------------------------------


def test_bench_prints_a_table_or_json(key: Path) -> None:
    table = run("bench", "--key", str(key), "--seconds", "0.1", extras=False)
    found = run("bench", "--key", str(key), "--seconds", "0.1", "--json").json

    assert table.code == 0
    assert "grpc-bearer " in table.out
    assert found["algorithm"] == "RS256"
    assert {"way", "median", "low", "high", "ratio"} == set(found["ways"][0])
    assert run("bench", "--key", "nix.pem").code == 2


# The command of the environment that is tested.
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
COMPLETED = {
    "in": {"inspect"},
    "--v": {"--version"},
    "token --credentials-": {"--credentials-file", "--credentials-env"},
    "check --profile b": {"bear", "bitbroker"},
    "token --auth check --credentials-f": {"--credentials-file"},
    "completion f": {"fish"},
    "check --ca on": {"one.pem"},
    "check on": set(),
    "token --token-env GRPC_BEARER_T": {"GRPC_BEARER_TEST"},
}


@pytest.mark.parametrize("words", COMPLETED)
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_offers_what_may_follow(shell: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "one.pem").touch()
    assert offered(shell, words, tmp_path, {"HOME": str(tmp_path)}) == COMPLETED[words]


def offered(shell: str, words: str, folder: Path, env: dict[str, str]) -> set[str]:
    """What the shell offers after these words."""
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (folder / "script").write_text(run("completion", shell).out)
    line = f"grpc-bearer {words}"
    ask = {
        "fish": f"source ./script; complete -C '{line}'",
        "bash": f"source ./script; COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_TYPE=63; "
        f"_python_argcomplete grpc-bearer; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
    }[shell]
    environment = {**os.environ, "PATH": PATH, "GRPC_BEARER_TEST": "x", **env}
    done = subprocess.run([shell, "-c", ask], cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    return {re.split("[\t ]", row)[0] for row in done.stdout.splitlines() if row}


def test_completion_without_its_library_says_what_to_install() -> None:
    ran = run("completion", "bash", extras=False)
    assert (ran.code, ran.out) == (2, "")
    assert "argcomplete" in ran.err
    assert "grpc-bearer[cli]" in ran.err


class _Zsh:
    """An interactive zsh on a terminal of its own; what stands on its line is asked for by Ctrl-X."""

    def __init__(self, folder: Path) -> None:
        import pty

        script = folder / "script"
        script.write_text(run("completion", "zsh").out)
        self._terminal, theirs = pty.openpty()
        environment = {
            **os.environ,
            "HOME": str(folder),
            "ZDOTDIR": str(folder),
            "TERM": "vt100",
            "COLUMNS": "200",
            "PATH": PATH,
        }
        command = ["zsh", "-f", "-i"]
        self._shell = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        show = 'show() { print -r -- "<<$BUFFER>>"; BUFFER=""; }; zle -N show; bindkey "^X" show'
        self._send(
            f"autoload -Uz compinit; compinit -u; source {script}; {show}; print re''ady\n"
        )  # what is typed is echoed: it must not be the mark
        self._until("ready\r\n")

    def _send(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def _until(self, mark: str) -> str:
        import select

        seen = ""
        while mark not in seen:
            ready, _, _ = select.select([self._terminal], [], [], 30)
            assert ready, f"zsh is silent after {seen!r}"
            seen += os.read(self._terminal, 4096).decode()
        return seen

    def completed(self, line: str) -> str:
        """The line after the TAB key."""
        self._send(f"{line}\t\x18")
        return self._until(">>").rpartition("<<")[2].partition(">>")[0]

    def close(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._terminal)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_completes_when_the_tab_key_is_pressed(tmp_path: Path) -> None:
    (tmp_path / "one.pem").touch()
    zsh = _Zsh(tmp_path)
    try:
        assert zsh.completed("grpc-bearer ins").rstrip() == "grpc-bearer inspect"
        assert zsh.completed("grpc-bearer token --credentials-f").rstrip() == "grpc-bearer token --credentials-file"
        assert zsh.completed("grpc-bearer check --profile bi").rstrip() == "grpc-bearer check --profile bitbroker"
        assert zsh.completed("grpc-bearer completion f").rstrip() == "grpc-bearer completion fish"
        assert zsh.completed(f"grpc-bearer check --ca {tmp_path}/o").rstrip().endswith("/one.pem")
        assert zsh.completed("grpc-bearer token --token-env ZDOTD").rstrip() == "grpc-bearer token --token-env ZDOTDIR"
    finally:
        zsh.close()


def test_help_names_every_command_and_exit_code() -> None:
    ran = run("--help")

    assert all(
        f"\n    {name}" in ran.out for name in ("token", "inspect", "check", "call", "demo", "bench", "completion")
    )
    assert all(f"  {code}  " in ran.out for code in (*range(10), 70, 130, 141))


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has a file in their own folder; it names one auth for each letter."""
    folder = tmp_path / ".config" / "grpc-bearer"
    folder.mkdir(parents=True)
    table = '[auth.{0}]\nprofile = "crm"\ntoken_env = "TOKEN_{0}"\n'
    (folder / "auths.toml").write_text('default = "a"\n' + "".join(map(table.format, ("a", "abc", "b"))))
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": "", "TOKEN_a": "tok-aaaaaaaaaaaa", "TOKEN_b": "tok-bbbbbbbbbbbb"}


@pytest.mark.parametrize("xdg", ["", "{home}/.config", "relative/folder"])
def test_a_file_in_the_users_own_folder_needs_no_name(home: dict[str, str], xdg: str) -> None:
    env = {**home, "XDG_CONFIG_HOME": xdg.format(home=home["HOME"])}

    assert run("token", env=env).out == "tok-aaaaaaaaaaaa\n"
    assert run("token", "--auth", "b", env=env).out == "tok-bbbbbbbbbbbb\n"
    assert run("auths", env=env).out.split() == ["a", "crm", "default", "abc", "crm", "b", "crm"]


def test_what_is_named_goes_before_the_file_in_the_users_own_folder(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('[auth.o]\nprofile = "crm"\ntoken_env = "TOKEN_b"\n')
    (tmp_path / "token").write_text("tok-cccccccccccc")
    other = str(tmp_path / "other.toml")

    assert run("token", "--config", other, env=home).out == "tok-bbbbbbbbbbbb\n"
    assert run("token", env={**home, "GRPC_BEARER_CONFIG": other}).out == "tok-bbbbbbbbbbbb\n"
    assert run("token", "--token-file", str(tmp_path / "token"), env=home).out == "tok-cccccccccccc\n"
    # What is piped in is meant, and not the auth that is always there.
    token = made({"exp": NOW * 2, "iss": "piped"})
    assert run("inspect", "--json", stdin=token, env=home).json["claims"]["iss"] == "piped"
    assert "opaque token of 16 characters" in run("inspect", "--profile", "crm", "--token-env", "TOKEN_a", env=home).out
    assert "opaque token of 16 characters" in run("inspect", stdin="", env=home).out


@pytest.mark.parametrize("words", ["token --auth a", "check --config {file} --auth a"])
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_a_shell_offers_the_names_of_auths(shell: str, words: str, home: dict[str, str]) -> None:
    file = f"{home['HOME']}/.config/grpc-bearer/auths.toml"
    env = home if "{" not in words else {**home, "HOME": "/nonexistent"}
    assert offered(shell, words.format(file=file), Path(home["HOME"]), env) == {"a", "abc"}
    assert offered(shell, "token --auth z", Path(home["HOME"]), env) == set()


def test_help_waits_for_nothing_slow() -> None:
    script = "import sys; from grpc_bearer._cli.parser import parser; parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    slow = {"cryptography", "requests", "jwt", "rich", "grpc_health.v1", "grpc_reflection.v1alpha", "tomllib"}
    assert slow & set(loaded) == set()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colour_and_a_pipe_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = {}
    for kind in (_Terminal, io.StringIO):
        stream = kind()
        monkeypatch.setattr(sys, "stdout", stream)
        terminal.print_table([[terminal.Cell("ok", "ok"), "[red]x"]], ["a", "b"])
        shown[kind] = stream.getvalue()

    assert "\x1b[" in shown[_Terminal]
    assert "[red]x" in shown[_Terminal]
    assert shown[io.StringIO] == "a   b\nok  [red]x\n"


@pytest.mark.parametrize("stream", [_Terminal(), io.StringIO()])
def test_progress_speaks_up_only_when_it_takes_long(stream: io.StringIO) -> None:
    with terminal.progress("quick", stream):
        pass
    assert stream.getvalue() == ""

    said = threading.Event()
    write = stream.write
    stream.write = lambda text: (write(text), said.set())[0]  # type: ignore[method-assign]
    with terminal.progress("slow", stream, patience=0.0):
        assert said.wait(10)
    assert "slow …" in stream.getvalue()


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0 s"), (59.6, "1 min"), (3661, "1 h 1 min"), (86400 * 3 + 5, "3 d")]
)
def test_spans_for_people(seconds: float, expected: str) -> None:
    assert span(seconds) == expected
