"""FileSource: a token that somebody else writes into a file."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
from _https import assert_hidden, failure, unsigned_jwt

from grpc_bearer import CallContext
from grpc_bearer.errors import TokenFormatError, TokenUnavailableError
from grpc_bearer.sources import FileSource
from grpc_bearer.testing import ManualClock

NOW = 1_700_000_000.0
CONTEXT = CallContext(clock=ManualClock(NOW))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "token"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("content", ["s3cret", "s3cret\n", "  s3cret\r\n", "\ufeffs3cret\n"])
def test_the_content_is_the_token(path: Path, content: str) -> None:
    token = FileSource(write(path, content)).fetch(CONTEXT)

    assert (token.value, token.expires_at) == ("s3cret", None)


def test_it_asks_to_be_read_again_after_the_poll_interval(path: Path) -> None:
    write(path, "s3cret")

    assert FileSource(path).fetch(CONTEXT).refresh_at == NOW + 5
    assert FileSource(path, poll=60).fetch(CONTEXT).refresh_at == NOW + 60


def test_a_jwt_expires_at_its_exp(path: Path) -> None:
    token = FileSource(write(path, unsigned_jwt(exp=NOW + 600) + "\n")).fetch(CONTEXT)

    assert (token.expires_at, token.refresh_at) == (NOW + 600, NOW + 5)


def test_each_fetch_sees_the_content_of_now_even_within_one_second_and_of_one_size(path: Path) -> None:
    source = FileSource(write(path, "first!"))
    stamp = path.stat()
    first = source.fetch(CONTEXT)
    write(path, "second")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert [first.value, source.fetch(CONTEXT).value] == ["first!", "second"]


def test_a_link_that_is_swapped_is_followed_anew(tmp_path: Path) -> None:
    # Kubernetes: token -> ..data/token, ..data -> ..2024; the middle link is replaced in one step.
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "token", f"token-{name}")
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "token").symlink_to("..data/token")
    source = FileSource(tmp_path / "token")
    before = source.fetch(CONTEXT).value
    (tmp_path / "..tmp").symlink_to("two")
    os.replace(tmp_path / "..tmp", tmp_path / "..data")

    assert [before, source.fetch(CONTEXT).value] == ["token-one", "token-two"]


def test_a_file_that_is_replaced_is_read_anew(path: Path, tmp_path: Path) -> None:
    source = FileSource(write(path, "old"))
    source.fetch(CONTEXT)
    os.replace(write(tmp_path / "new", "new"), path)

    assert source.fetch(CONTEXT).value == "new"


def test_a_file_may_come_later(path: Path) -> None:
    source = FileSource(path)

    error = failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, "No such file")
    assert str(path) in str(error)
    write(path, "s3cret")
    assert source.fetch(CONTEXT).value == "s3cret"


@pytest.mark.parametrize("content", ["", "\n", " \t\n"])
def test_an_empty_file_is_being_written_and_may_be_tried_again(path: Path, content: str) -> None:
    error = failure(lambda: FileSource(write(path, content)).fetch(CONTEXT), TokenUnavailableError, "empty")

    assert error.retryable


def test_an_unreadable_path_names_the_reason(path: Path) -> None:
    # Not by permissions: the tests may run as root, whom none stop.
    failure(lambda: FileSource(write(path, "x") / "below").fetch(CONTEXT), TokenUnavailableError, "Not a directory")
    path.unlink()
    path.symlink_to(path)
    failure(lambda: FileSource(path).fetch(CONTEXT), TokenUnavailableError, "symbolic links")


def test_an_expired_jwt_waits_for_whoever_renews_the_file(path: Path) -> None:
    jwt = unsigned_jwt(exp=NOW - 60)
    error = failure(lambda: FileSource(write(path, jwt)).fetch(CONTEXT), TokenUnavailableError, "expired 60 s ago")

    assert_hidden(error, jwt)


def test_without_strip_white_space_is_refused(path: Path) -> None:
    source = FileSource(write(path, "s3cret\n"), strip=False)

    failure(lambda: source.fetch(CONTEXT), TokenFormatError, "white space")
    write(path, "s3cret")
    assert source.fetch(CONTEXT).value == "s3cret"


@pytest.mark.parametrize(
    ("document", "field"),
    [({"token": "s3cret"}, "token"), ({"a": {"b": "s3cret"}}, "a.b"), ({"a.b": "s3cret"}, "a.b")],
)
def test_a_json_field_is_read(path: Path, document: object, field: str) -> None:
    assert FileSource(write(path, json.dumps(document)), json_field=field).fetch(CONTEXT).value == "s3cret"


def test_a_relative_path_holds_after_a_change_of_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(path, "s3cret").parent)
    source = FileSource("token")
    monkeypatch.chdir("/")

    assert source.fetch(CONTEXT).value == "s3cret"


def test_it_pickles_for_it_holds_no_secret(path: Path) -> None:
    source = pickle.loads(pickle.dumps(FileSource(write(path, "s3cret"))))

    assert source.fetch(CONTEXT).value == "s3cret"
