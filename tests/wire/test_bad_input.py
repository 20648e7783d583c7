"""Whatever is wrong gets our error, at the earliest moment, naming file and field, and shows no secret anywhere.

The table is in `_bad_input/`; how each row is judged, in `_bad_input/row.py`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from _bad_input import attachments, commands, endpoints, fields, files, functions, grants, keys, logins, tokens
from _bad_input import material as m
from _bad_input.row import Row, Stage, judge, no_environment

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    CallContext,
    Source,
    StaticSource,
    Token,
    TokenError,
    TokenRejectedError,
    profiles,
)
from grpc_bearer.testing import ProbeRequest, ProbeStub

MODULES = (fields, tokens, keys, endpoints, grants, logins, files, commands, functions, attachments)
ROWS = [row for module in MODULES for row in module.ROWS]


@pytest.fixture(scope="module")
def _stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def stage(_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    with no_environment(monkeypatch, _stage):
        yield _stage


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ROWS])
def test_bad_input_is_told_in_time_by_name_and_without_a_secret(row: Row, stage: Stage) -> None:
    judge(row, stage)


def test_the_table_is_as_long_as_it_should_be() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS) >= 200


@pytest.mark.parametrize(("do", "headers"), [pytest.param(*rest, id=name) for name, *rest in tokens.FINE])
def test_what_can_be_put_right_is(do: Callable[[Stage], BearerAuth], headers: dict[str, str], stage: Stage) -> None:
    with do(stage) as auth:
        assert auth.headers(stage.service_url) == headers


@pytest.mark.parametrize(
    "make",
    [Token, StaticSource, profiles.crm, profiles.bitbroker, lambda token: BearerAuth(lambda: token).token()],
    ids=["Token", "StaticSource", "crm", "bitbroker", "a function"],
)
def test_a_token_over_8_kib_warns_without_showing_it(make: Callable[[str], Any]) -> None:
    token = m.LONG_TOKEN[: 8 * 1024 + 1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make(token)

    assert "8193 bytes; many servers and proxies refuse" in str(caught[0].message)
    assert all(token[:16] not in str(warning.message) for warning in caught)


def test_a_token_of_8_kib_does_not_warn() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        token = Token(m.LONG_TOKEN[: 8 * 1024])

    assert len(token.value) == 8192
    assert caught == []


def test_a_token_over_the_servers_limit_explains_itself(stage: Stage) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        auth = BearerAuth(m.LONG_TOKEN)
    with (
        grpc_bearer.secure_channel(stage.server.target, stage.credentials, auth=auth) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=10)

    assert isinstance(caught.value.__cause__, TokenError)
    assert "20000 bytes" in str(caught.value.__cause__)


class _Careless(Source):
    def __init__(self, where: str) -> None:
        self._where = where

    def __repr__(self) -> str:
        return m.PASSWORD if self._where == "repr" else "_Careless()"

    def fetch(self, context: CallContext) -> Token:
        if self._where == "log":
            logging.getLogger("my.app").debug("asking", extra={"password": m.PASSWORD})
        raise TokenRejectedError(f"no: {m.PASSWORD if self._where == 'text' else 'no'}")


@pytest.mark.parametrize("where", ["text", "repr", "log"])
def test_control_a_row_that_shows_a_secret_fails(where: str, stage: Stage) -> None:
    row = Row("control", "fetch", TokenRejectedError, ("no",), lambda stage: _Careless(where))

    with pytest.raises(AssertionError, match="PASSWORD in "):
        judge(row, stage)


def test_control_a_row_that_is_told_too_late_fails(stage: Stage) -> None:
    row = Row("control", "build", TokenRejectedError, ("no",), lambda stage: _Careless("nowhere"))

    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        judge(row, stage)
