"""ExecSource: a command that prints a token, run by the system itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from _https import assert_hidden, failure, in_a_child, unsigned_jwt

from grpc_bearer import BearerAuth, CallContext, ExecSource, TokenFormatError, TokenUnavailableError
from grpc_bearer.testing import ManualClock

NOW = 1_700_000_000.0
CONTEXT = CallContext(clock=ManualClock(NOW))
FOREVER = 600


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


def shell(script: str, **how: float) -> ExecSource:
    return ExecSource(["/bin/sh", "-c", script], **how)  # type: ignore[arg-type]


def gone(pid: int) -> bool:
    """Whether a process has ended; one that somebody has yet to wait for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def soon(check: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not check() and time.monotonic() < end:
        threading.Event().wait(0.01)
    return check()


def test_a_token_alone_and_one_in_json() -> None:
    jwt = unsigned_jwt(exp=NOW + 600)
    plugin = {"kind": "ExecCredential", "status": {"token": "s3cret", "expirationTimestamp": "2030-01-01T00:00:00Z"}}

    plain, own, named = (
        ExecSource(python("print(__import__('sys').argv[1])", text)).fetch(CONTEXT)
        for text in ("\ufeff s3cret \n", jwt, json.dumps(plugin))
    )

    assert (plain.value, plain.expires_at) == ("s3cret", None)
    assert (own.value, own.expires_at) == (jwt, NOW + 600)
    assert (named.value, named.expires_at) == ("s3cret", 1_893_456_000.0)


def test_arguments_reach_the_program_as_they_are(tmp_path: Path) -> None:
    words = ["a b", "$HOME", "`id`", "*", ";", "'", '"', "", "ä"]
    script = "import json, sys; print(json.dumps({'token': sys.argv[1:].__repr__().encode().hex()}))"

    token = ExecSource([Path(sys.executable), "-c", script, *words]).fetch(CONTEXT)

    assert bytes.fromhex(token.value).decode() == repr(words)


def test_the_environment_is_passed_by_name_and_as_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os; print('.'.join(sorted(k for k in os.environ if k[:3] in ('PAT', 'MY_', 'MIN', 'KUB'))))"
    for name in ("MY_SECRET", "MY_NAME", "MINE_A", "MINE_B"):
        monkeypatch.setenv(name, "x")
    few, some, more, everything = (
        ExecSource(python(script), env=env) for env in ((), ["MY_NAME", "MINE_*"], ["MY_LATE"], ["*"])
    )
    monkeypatch.setenv("MY_LATE", "x")

    assert few.fetch(CONTEXT).value == "KUBERNETES_EXEC_INFO.PATH"
    assert some.fetch(CONTEXT).value == "KUBERNETES_EXEC_INFO.MINE_A.MINE_B.MY_NAME.PATH"
    assert more.fetch(CONTEXT).value == "KUBERNETES_EXEC_INFO.MY_LATE.PATH"
    assert "MY_SECRET" in everything.fetch(CONTEXT).value


def test_it_has_no_stdin_no_terminal_no_descriptor_of_ours_and_a_session_of_its_own() -> None:
    script = """
import os
try:
    terminal = os.open("/dev/tty", os.O_RDWR)
except OSError:
    terminal = None
descriptors = sorted(int(n) for n in os.listdir("/proc/self/fd"))[:-1]
print("ok" if (os.read(0, 1), terminal, descriptors, os.getsid(0)) == (b"", None, [0, 1, 2], os.getpid()) else "bad")
"""
    ours = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(ours, True)
    try:
        assert ExecSource(python(script)).fetch(CONTEXT).value == "ok"
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    ("script", "how", "kind", "words"),
    [
        ("echo s3cret >&2; exit 3", {}, TokenUnavailableError, "exited with code 3; run it by hand"),
        ("echo s3cret; exit 1", {}, TokenUnavailableError, "exited with code 1"),
        ("kill -9 $$", {}, TokenUnavailableError, "was ended by SIGKILL"),
        ("kill -40 $$", {}, TokenUnavailableError, "was ended by signal 40"),
        ("exit 0", {}, TokenUnavailableError, "exited with code 0, and printed nothing"),
        ("echo; echo", {}, TokenUnavailableError, "printed nothing"),
        ("cat", {}, TokenUnavailableError, "printed nothing"),
        (f"echo s3cret; sleep {FOREVER}", {"timeout": 0.2}, TokenUnavailableError, "not ended after 0.2 s"),
        (f"exec >&-; sleep {FOREVER}", {"timeout": 0.2}, TokenUnavailableError, "not ended after 0.2 s"),
        ("while :; do echo s3cret; done", {}, TokenFormatError, "printed more than 1048576 bytes"),
        ("printf 0123456789", {"max_bytes": 9}, TokenFormatError, "printed more than 9 bytes"),
        ("printf 's3cret\\377'", {}, TokenFormatError, "not UTF-8"),
        ("echo s3cret s3cret", {}, TokenFormatError, "a space"),
        ("echo warning; echo s3cret", {}, TokenFormatError, "several lines"),
    ],
)
def test_how_it_fails(
    script: str, how: dict[str, float], kind: type[TokenFormatError | TokenUnavailableError], words: str
) -> None:
    error = failure(lambda: shell(script, **how).fetch(CONTEXT), kind, f"^'/bin/sh': .*{words}")

    assert_hidden(error, "s3cret")


def test_ten_bytes_are_no_more_than_ten() -> None:
    assert shell("printf 0123456789", max_bytes=10).fetch(CONTEXT).value == "0123456789"


@pytest.mark.parametrize(
    ("content", "words"),
    [("#!/no/such/interpreter\n", "the interpreter in its first line"), ("echo s3cret\n", "Exec format error")],
)
def test_what_cannot_be_started(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "plugin"
    path.write_text(content)
    path.chmod(0o755)
    source = ExecSource([path])

    failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, words)
    path.unlink()
    failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, "not found")


def test_all_that_it_began_is_killed_at_the_time_limit_and_nothing_is_left_to_wait_for(tmp_path: Path) -> None:
    script = f"sleep {FOREVER} & echo $! $$ > {tmp_path}/pids; wait"

    failure(lambda: shell(script, timeout=1).fetch(CONTEXT), TokenUnavailableError, "not ended after 1 s")

    child, itself = map(int, (tmp_path / "pids").read_text().split())
    assert soon(lambda: gone(child))
    with pytest.raises(ChildProcessError):
        os.waitpid(itself, os.WNOHANG)


def test_an_agent_that_it_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    token = shell(f"sleep {FOREVER} & echo $! > {tmp_path}/pid; echo s3cret", timeout=30).fetch(CONTEXT)
    agent = int((tmp_path / "pid").read_text())

    assert token.value == "s3cret"
    assert not gone(agent)
    os.kill(agent, signal.SIGKILL)


def test_a_thousand_pieces_slowly_written_are_one_token() -> None:
    script = "import sys\nfor n in range(1000): sys.stdout.write(str(n % 10)); sys.stdout.flush()"

    assert ExecSource(python(script)).fetch(CONTEXT).value == "0123456789" * 100


def test_it_serves_threads_and_a_forked_child() -> None:
    source, values = shell("echo s3cret"), []
    threads = [threading.Thread(target=lambda: values.append(source.fetch(CONTEXT).value)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert values == ["s3cret"] * 16
    assert in_a_child(lambda: source.fetch(CONTEXT).value == "s3cret")


def test_ctrl_c_ends_the_command(tmp_path: Path) -> None:
    # It gets past this only when it is being read. Ctrl-C before that may come inside of `subprocess.Popen`, which then
    # loses the process that it has begun.
    longer_than_a_pipe = "head -c 500000 /dev/zero"
    command = f"{longer_than_a_pipe}; echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid; sleep {FOREVER}"
    script = f"""
import sys
import signal
from grpc_bearer import CallContext, ExecSource
signal.signal(signal.SIGINT, signal.default_int_handler)  # who is started in the background ignores it
ExecSource(["/bin/sh", "-c", "{command}"], timeout={FOREVER}).fetch(CallContext())
"""
    process = subprocess.Popen(python(script), stderr=subprocess.PIPE)
    assert soon(lambda: (tmp_path / "pid").exists())

    process.send_signal(signal.SIGINT)

    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]
    assert gone(int((tmp_path / "pid").read_text()))


def test_it_is_run_again_after_max_age_and_as_the_one_command_of_many_callers(tmp_path: Path) -> None:
    clock = ManualClock(NOW)
    source = shell(f"echo x >> {tmp_path}/runs; echo token-$(wc -l < {tmp_path}/runs | tr -d ' ')", max_age=600)

    with BearerAuth(source, clock=clock) as auth:
        first = [auth.token().value for _ in range(3)]
        clock.advance(700)
        second = auth.token().value

    assert (first, second) == (["token-1"] * 3, "token-2")


def test_a_relative_program_holds_after_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugin").write_text("#!/bin/sh\necho s3cret\n")
    (tmp_path / "plugin").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    source = ExecSource(["./plugin"])
    monkeypatch.chdir("/")

    assert source.fetch(CONTEXT).value == "s3cret"
