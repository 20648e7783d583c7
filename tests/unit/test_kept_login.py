"""A login that is kept: who may use its refresh token and when, and what is left when a process dies at any point."""

from __future__ import annotations

import json
import logging
import os
import pickle
import secrets
import signal
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from grpc_bearer import CallContext, Token
from grpc_bearer.errors import (
    ConfigurationError,
    TokenError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.sources import _login_file
from grpc_bearer.sources._kept_login import Granted, KeptLogin, LoginMemory
from grpc_bearer.sources._login_file import LoginFile
from grpc_bearer.testing import ManualClock

NOW, LIFE = 1_700_000_000.0, 1000.0
HOST, CLIENT = "auth.example.com", "me at auth.example.com"


class Issuer:
    """A server that rotates: it takes each refresh token once. All its memory is in a folder, for several processes."""

    def __init__(self, folder: Path, clock: ManualClock, *, rotates: bool = True) -> None:
        self.folder, self.clock, self.rotates = folder, clock, rotates
        folder.mkdir()

    def new(self) -> str:
        token = f"rt-{secrets.token_hex(8)}"
        (self.folder / token).touch()
        return token

    def refresh(self, token: str) -> Granted | None:
        with (self.folder / "log").open("a") as log:
            log.write(f"{token}\n")
        try:
            if self.rotates:
                (self.folder / token).unlink()
        except FileNotFoundError:
            return None
        access = Token(f"at-{secrets.token_hex(8)}", expires_at=self.clock.time() + LIFE)
        return Granted(access, self.new() if self.rotates else "")

    @property
    def asked(self) -> list[str]:
        log = self.folder / "log"
        return log.read_text().split() if log.exists() else []


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def issuer(tmp_path: Path, clock: ManualClock) -> Issuer:
    return Issuer(tmp_path / "issuer", clock)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "login"


def put(path: Path, content: str, mode: int = 0o600) -> Path:
    path.write_text(content)
    path.chmod(mode)
    return path


def kept(path: Path, **how: Any) -> KeptLogin:
    return KeptLogin(LoginFile(path, "store"), HOST, **{"client": CLIENT, "asked_for": "all", **how})


def in_memory(given: str, memory: LoginMemory | None = None) -> KeptLogin:
    memory = LoginMemory(given=True) if memory is None else memory
    return KeptLogin(memory, HOST, client=CLIENT, asked_for="all", seed=lambda context: given)


def in_file(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_text())
    assert isinstance(document, dict)
    return document


# ------------------------------------------------------------------------------------------------------------ one token


def test_the_next_refresh_token_is_in_the_file_before_the_access_token_is_given(
    path: Path, issuer: Issuer, clock: ManualClock
) -> None:
    login, context = kept(put(path, issuer.new())), CallContext(clock=clock)
    values = []
    for _ in range(3):
        token = login.token(context, issuer.refresh)
        assert in_file(path)["access_token"] == token.value
        assert (issuer.folder / in_file(path)["refresh_token"]).exists()
        values.append(token.value)

    assert len(set(issuer.asked)) == len(set(values)) == 3
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(each.name for each in path.parent.iterdir()) == ["issuer", "login", "login.lock"]


def test_an_answer_without_a_refresh_token_leaves_the_old_one_in_force(
    path: Path, tmp_path: Path, clock: ManualClock
) -> None:
    issuer = Issuer(tmp_path / "steady", clock, rotates=False)
    put(path, "rt-steady\n")
    login, context = kept(path), CallContext(clock=clock)

    assert login.token(context, issuer.refresh).value != login.token(context, issuer.refresh).value
    assert issuer.asked == ["rt-steady", "rt-steady"]
    assert in_file(path)["refresh_token"] == "rt-steady"


@pytest.mark.parametrize(
    ("age", "refused", "asked_for", "shared"),
    [
        (0, False, "all", True),
        (0.7, False, "all", True),
        (0.8, False, "all", False),  # its owner would fetch the next one by now
        (1.1, False, "all", False),
        (0, True, "all", False),
        (0, False, "less", False),
    ],
)
def test_another_process_takes_the_access_token_that_is_there_if_it_is_worth_it(
    path: Path, issuer: Issuer, clock: ManualClock, age: float, refused: bool, asked_for: str, shared: bool
) -> None:
    first = kept(put(path, issuer.new())).token(CallContext(clock=clock), issuer.refresh)
    clock.advance(age * LIFE)
    context = CallContext(clock=clock, refused=first.fingerprint if refused else "")

    second = kept(path, asked_for=asked_for).token(context, issuer.refresh)

    assert (second.value == first.value) is shared
    assert len(issuer.asked) == (1 if shared else 2)
    assert len(set(issuer.asked)) == len(issuer.asked)
    if shared:
        assert second.expires_at == first.expires_at


def test_a_refresh_token_that_is_refused_is_sent_no_more_until_there_is_another(
    path: Path, issuer: Issuer, clock: ManualClock
) -> None:
    login, context = kept(put(path, "rt-old")), CallContext(clock=clock)

    for _ in range(3):
        with pytest.raises(TokenRejectedError, match=rf"^{HOST}: .* \(invalid_grant\); log in again\b"):
            login.token(context, issuer.refresh)
    assert issuer.asked == ["rt-old"]
    put(path, issuer.new())
    login.token(context, issuer.refresh)
    put(path, "rt-old")
    clock.advance(3601)  # servers make mistakes
    with pytest.raises(TokenRejectedError):
        login.token(context, issuer.refresh)
    assert issuer.asked.count("rt-old") == 2
    assert path.read_text() == "rt-old"


def test_what_is_given_counts_where_it_is_new(path: Path, issuer: Issuer, clock: ManualClock) -> None:
    given = [issuer.new()]
    context = CallContext(clock=clock)
    login = kept(path, seed=lambda context: given[-1])

    for _ in range(2):
        login.token(context, issuer.refresh)
    given.append(issuer.new())
    login.token(context, issuer.refresh)
    kept(path, seed=lambda context: given[-1]).token(context, issuer.refresh)

    assert [issuer.asked[0], issuer.asked[2]] == given
    assert len(set(issuer.asked)) == 3


def test_a_refresh_token_that_came_beside_an_unusable_access_token_is_kept(
    path: Path, issuer: Issuer, clock: ManualClock
) -> None:
    login, context = kept(put(path, issuer.new())), CallContext(clock=clock)

    def half(token: str) -> Granted | None:
        granted = issuer.refresh(token)
        return granted and replace(granted, token=TokenFormatError("expired; is the clock right?"))

    with pytest.raises(TokenFormatError, match="is the clock right"):
        login.token(context, half)
    login.token(context, issuer.refresh)

    assert len(set(issuer.asked)) == 2


# ----------------------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("content", "mode", "kind", "words"),
    [
        ("rt", 0o644, TokenRejectedError, r"is open to others \(0644\); chmod it to 0600"),
        ("{", 0o600, TokenFormatError, "not JSON"),
        ("[]", 0o600, TokenFormatError, "neither a refresh token, nor JSON with one"),
        ('{"refresh_token": 7}', 0o600, TokenFormatError, "neither a refresh token, nor JSON with one"),
        ("s3cret\ns3cret", 0o600, TokenFormatError, "refresh_token: has a line break"),
        ("${TOKEN}", 0o600, TokenFormatError, "refresh_token: a placeholder"),
        ('{"refresh_token": "s3cret", "client": "another"}', 0o600, TokenRejectedError, "the login of another client"),
        ("s" * (1 << 20) + "s", 0o600, TokenRejectedError, "over 1048576 bytes"),
        (None, 0o600, TokenRejectedError, "there is no login; log in"),
        ("", 0o600, TokenRejectedError, "there is no login; log in"),
    ],
)
def test_a_file_that_is_of_no_use(
    path: Path, issuer: Issuer, content: str | None, mode: int, kind: type[TokenError], words: str
) -> None:
    if content is not None:
        put(path, content, mode)

    with pytest.raises(kind, match=words) as caught:
        kept(path).token(CallContext(), issuer.refresh)

    assert "s3cret" not in str(caught.value)
    assert issuer.asked == []


def test_a_link_is_followed_and_stays(path: Path, issuer: Issuer, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    put(tmp_path / "real" / "login", issuer.new())
    path.symlink_to("real/login")

    kept(path).token(CallContext(clock=issuer.clock), issuer.refresh)

    assert path.is_symlink()
    assert in_file(tmp_path / "real" / "login")["access_token"]


@pytest.mark.parametrize("what", ["no folder", "a folder in its place", "a folder where it is written"])
def test_what_cannot_be_written_is_told_before_the_refresh_token_is_used(path: Path, issuer: Issuer, what: str) -> None:
    if what == "no folder":
        path = path / "nowhere"
    elif what == "a folder in its place":
        path.mkdir()
    else:
        put(path, issuer.new())
        (path.parent / "login.new").mkdir()

    with pytest.raises(TokenError, match=r"cannot be locked|a directory|cannot be written"):
        kept(path, seed=lambda context: "s3cret").token(CallContext(), issuer.refresh)

    assert issuer.asked == []


def test_a_disk_that_fails_after_the_answer_loses_nothing(
    path: Path, issuer: Issuer, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    login, context = kept(put(path, issuer.new())), CallContext(clock=clock)
    sync, broken = os.fsync, [False]

    def fsync(descriptor: int) -> None:
        if broken[0]:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    def refresh(token: str) -> Granted | None:
        broken[0] = True
        return issuer.refresh(token)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(TokenUnavailableError, match=r"cannot be written \(No space left on device\)"):
        login.token(context, refresh)
    (path.parent / "login.new").unlink(missing_ok=True)  # at worst not even that is there
    with pytest.raises(TokenUnavailableError):
        login.token(context, issuer.refresh)
    broken[0] = False

    token = login.token(context, issuer.refresh)

    assert len(issuer.asked) == 1
    assert in_file(path)["access_token"] == token.value
    assert (issuer.folder / in_file(path)["refresh_token"]).exists()


def test_the_lock_is_not_waited_for_for_ever(path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_login_file, "_PATIENCE", 0.1)
    with (
        LoginFile(path, "store").locked(),
        pytest.raises(TokenUnavailableError, match=r"held by another process for over 0\.1 s"),
    ):
        kept(path).token(CallContext(), issuer.refresh)


# ---------------------------------------------------------------------------------------------------------- processes


def in_children(count: int, do: Callable[[], object]) -> list[int]:
    """Run it in forked children at the same time; their exit codes, a signal's below zero."""
    children = []
    for _ in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                do()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def test_processes_and_threads_that_all_need_a_token_use_each_refresh_token_once(
    path: Path, issuer: Issuer, clock: ManualClock
) -> None:
    put(path, issuer.new())
    login, context = kept(path), CallContext(clock=clock)

    def some() -> None:
        mine = kept(path)
        threads = [threading.Thread(target=mine.token, args=(context, issuer.refresh)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert in_children(6, some) == [0] * 6
    login.token(context, issuer.refresh)
    # Each process has taken or made one for its first thread, and one for each of the others, which had that one.
    assert len(set(issuer.asked)) == len(issuer.asked)


def test_a_herd_that_wakes_up_at_once_asks_once(path: Path, issuer: Issuer, clock: ManualClock) -> None:
    put(path, issuer.new())

    assert in_children(8, lambda: kept(path).token(CallContext(clock=clock), issuer.refresh)) == [0] * 8

    assert len(issuer.asked) == 1


class _Killed(BaseException):
    """Stands for any exception that comes at a bad time."""


def _after(lines: int, do: Callable[[], object]) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that does it at that line of ours, counted from the answer of the issuer on."""
    left = [lines]

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        if "grpc_bearer" not in name or "test" in Path(name).name:
            return None
        if event == "line" and answered:
            left[0] -= 1
            if left[0] == 0:
                do()
        return trace

    return trace


answered: list[bool] = []
_AGAIN = f"{HOST}: the refresh token is no longer good (invalid_grant); log in again"


def outcome(path: Path, issuer: Issuer) -> str:
    """What the next process gets."""
    try:
        kept(path).token(CallContext(clock=issuer.clock), issuer.refresh)
    except TokenRejectedError as error:
        return str(error)
    return "goes on"


@pytest.mark.parametrize("how", ["killed", "raised"])
def test_a_process_that_dies_at_any_line_between_answer_and_use_leaves_what_the_next_can_go_on_with(
    tmp_path: Path, clock: ManualClock, how: str
) -> None:
    """At each line in turn, until the process gets through."""

    def end() -> None:
        if how == "raised":
            raise _Killed
        os.kill(os.getpid(), signal.SIGKILL)

    outcomes = []
    for line in range(1, 200):
        issuer, path = Issuer(tmp_path / f"issuer{line}", clock), put(tmp_path / f"login{line}", "")
        put(path, first := issuer.new())

        def refresh(token: str, issuer: Issuer = issuer) -> Granted | None:
            granted = issuer.refresh(token)
            answered.append(True)
            return granted

        def victim(path: Path = path, line: int = line, refresh: Callable[[str], Any] = refresh) -> None:
            answered.clear()
            sys.settrace(_after(line, end))
            kept(path).token(CallContext(clock=clock), refresh)

        code = in_children(1, victim)[0]
        outcomes.append(outcome(path, issuer))
        if outcomes[-1] != "goes on":
            assert issuer.asked == [first, first]  # nothing of the answer had reached the disk
        if code == 0:
            break

    turn = outcomes.index("goes on")
    assert 5 < turn < len(outcomes) - 5
    assert outcomes == [_AGAIN] * turn + ["goes on"] * (len(outcomes) - turn)


# -------------------------------------------------------------------------------------------------------------- memory


def test_in_memory_the_loss_at_exit_is_told_once_and_neither_a_pickle_nor_a_child_gets_it(
    issuer: Issuer, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    given, context = issuer.new(), CallContext(clock=clock)
    memory = LoginMemory(given=True)
    login = in_memory(given, memory)
    assert isinstance(pickle.loads(pickle.dumps(memory)), LoginMemory)
    with caplog.at_level(logging.WARNING, "grpc_bearer"):
        for _ in range(3):
            login.token(context, issuer.refresh)

    assert len(set(issuer.asked)) == 3
    assert [record.getMessage().partition(",")[0] for record in caplog.records] == [
        "refresh_token: the server has given another one in its place"
    ]
    with pytest.raises(ConfigurationError, match="give store= the path of one"):
        pickle.dumps(memory)

    def child() -> None:
        with pytest.raises(TokenRejectedError, match="a forked child cannot use that of its parent"):
            login.token(context, issuer.refresh)

    assert in_children(1, child) == [0]
    assert len(issuer.asked) == 3


def test_in_memory_a_server_that_does_not_rotate_serves_children_too(
    tmp_path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    issuer = Issuer(tmp_path / "steady", clock, rotates=False)
    login, context = in_memory("rt-steady"), CallContext(clock=clock)
    with caplog.at_level(logging.WARNING, "grpc_bearer"):
        login.token(context, issuer.refresh)

    assert in_children(1, lambda: login.token(context, issuer.refresh)) == [0]
    assert issuer.asked == ["rt-steady", "rt-steady"]
    assert caplog.records == []


def test_threads_of_one_process_use_each_refresh_token_once(issuer: Issuer, clock: ManualClock) -> None:
    given = issuer.new()
    login = in_memory(given)
    threads = [threading.Thread(target=login.token, args=(CallContext(clock=clock), issuer.refresh)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(issuer.asked)) == len(issuer.asked) > 0


def test_nothing_of_a_login_shows_or_pickles(path: Path, issuer: Issuer, clock: ManualClock) -> None:
    login = kept(put(path, issuer.new()))
    token = login.token(CallContext(clock=clock), issuer.refresh)

    dumped = pickle.dumps(login)
    with LoginFile(path, "store").locked() as held:
        shown = f"{held.login!r}"

    assert token.value.encode() not in dumped
    assert token.fingerprint.encode() not in dumped
    assert shown == "Login(<hidden>)"
    with pytest.raises(TypeError, match="does not pickle"):
        pickle.dumps(held.login)
