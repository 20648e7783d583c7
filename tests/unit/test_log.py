"""What the logger `grpc_bearer` says without anybody asking: levels, words, and no storms."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from grpc_bearer import BearerAuth, CallContext, Source, Token
from grpc_bearer._engine.log import QUIET, Log, level_of, text_of
from grpc_bearer.errors import TokenRejectedError, TokenUnavailableError
from grpc_bearer.events import (
    CallRetried,
    Event,
    FetchBegun,
    RefreshFailed,
    RefreshForced,
    RefreshOverdue,
    SkewLearnt,
    TokenFetched,
)
from grpc_bearer.testing import ManualClock

WHO = ("crm", "HTTPTokenSource")


def failed(**how: Any) -> RefreshFailed:
    return RefreshFailed(
        *WHO,
        **{
            "fetch": 1,
            "duration": 0.25,
            "error": "TokenUnavailableError",
            "message": "https://crm.example: status 503",
            "retryable": True,
            "failures": 1,
            "retry_in": 1.1,
            "usable": False,
            **how,
        },
    )


FETCHED = TokenFetched(*WHO, fetch=1, duration=0.125, lifetime=3600.0)
REFUSED = RefreshForced(*WHO, reason="refused")


@pytest.mark.parametrize(
    ("event", "level", "text"),
    [
        (FetchBegun(*WHO, fetch=1), logging.DEBUG, "fetching a token"),
        (FetchBegun(*WHO, fetch=1, ahead=True), logging.DEBUG, "fetching a token ahead"),
        (FETCHED, logging.DEBUG, "token fetched in 0.125 s, valid for 3600 s"),
        (
            TokenFetched(*WHO, fetch=1, duration=0.0, lifetime=None, failures=3),
            logging.INFO,
            "token fetched in 0.000 s after 3 that failed, valid until revoked",
        ),
        (
            TokenFetched(*WHO, fetch=1, duration=0.0, lifetime=9.0, kept=False),
            logging.DEBUG,
            "token fetched in 0.000 s, valid for 9 s; not kept",
        ),
        (
            failed(),
            logging.WARNING,
            "fetch failed after 0.250 s: TokenUnavailableError: https://crm.example: status 503; none is begun for "
            "1.1 s, and calls fail meanwhile",
        ),
        (
            failed(usable=True, retry_in=300.0),
            logging.WARNING,
            "fetch failed after 0.250 s: TokenUnavailableError: https://crm.example: status 503; none is begun for "
            "300.0 s, and the old token serves meanwhile",
        ),
        (
            failed(failures=0, retry_in=0.0),
            logging.WARNING,
            "fetch failed after 0.250 s: TokenUnavailableError: https://crm.example: status 503",
        ),
        (
            failed(failures=0, retry_in=None),
            logging.DEBUG,
            "fetch failed after 0.250 s: TokenUnavailableError: https://crm.example: status 503",
        ),
        (
            RefreshOverdue(*WHO, fetch=1, waited=60.0, usable=False),
            logging.WARNING,
            "no token after 60 s; the fetch goes on, and calls fail meanwhile",
        ),
        (REFUSED, logging.INFO, "a server refused the token; the next call gets another"),
        (
            RefreshForced(*WHO, reason="changed"),
            logging.INFO,
            "what was fetched before is given up; the next call gets a new token",
        ),
        (
            CallRetried(*WHO, method="crm.v1.Crm/Get", code="UNAUTHENTICATED", attempt=1, delay=0.0),
            logging.DEBUG,
            "crm.v1.Crm/Get failed with UNAUTHENTICATED (attempt 1), and is made once more",
        ),
        (
            CallRetried(*WHO, method="", code="UNAUTHENTICATED", attempt=2, delay=1.5),
            logging.DEBUG,
            "a block failed with UNAUTHENTICATED (attempt 2), and is made once more in 1.5 s",
        ),
        (
            SkewLearnt(*WHO, offset=600.4, previous=0.0),
            logging.WARNING,
            "this machine's clock is 600 s behind; tokens allow for it",
        ),
        (
            SkewLearnt(*WHO, offset=-42.0, previous=0.0),
            logging.WARNING,
            "this machine's clock is 42 s ahead; tokens allow for it",
        ),
        (SkewLearnt(*WHO, offset=0.0, previous=1.0), logging.INFO, "this machine's clock is taken for right again"),
        (Event(*WHO), logging.DEBUG, "Event"),
    ],
)
def test_each_event_has_its_level_and_its_words(event: Event, level: int, text: str) -> None:
    assert (level_of(event), text_of(event)) == (level, text)


@pytest.fixture
def log(clock: ManualClock) -> Log:
    return Log(clock.monotonic)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[int, str]]]:
    caplog.set_level(logging.DEBUG, "grpc_bearer")

    def lines() -> list[tuple[int, str]]:
        found = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "grpc_bearer"]
        caplog.clear()
        return found

    return lines


def levels(lines: list[tuple[int, str]]) -> list[int]:
    return [level for level, _ in lines]


Said = Callable[[], list[tuple[int, str]]]


def test_lines_name_the_auth_and_its_source(log: Log, said: Said) -> None:
    log(FetchBegun("crm", "FileSource", fetch=1))
    log(FetchBegun("", "FileSource", fetch=1))

    assert said() == [
        (logging.DEBUG, "crm (FileSource): fetching a token"),
        (logging.DEBUG, "FileSource: fetching a token"),
    ]


def test_a_storm_is_one_line_a_minute_that_counts_the_others(log: Log, clock: ManualClock, said: Said) -> None:
    for _ in range(1000):
        log(failed())
    assert levels(said()) == [logging.WARNING] + [logging.DEBUG] * 999

    clock.advance(QUIET)
    log(failed())
    log(failed())
    (first, text), (second, _) = said()
    assert (first, second) == (logging.WARNING, logging.DEBUG)
    assert text.endswith(" (999 more of these were left out)")

    clock.advance(QUIET)
    log(failed())
    assert said()[0][1].endswith(" (1 more of these were left out)")


def test_another_error_is_another_line(log: Log, said: Said) -> None:
    log(failed())
    log(failed(error="TokenRejectedError", message="status 401"))
    log(REFUSED)

    assert levels(said()) == [logging.WARNING, logging.WARNING, logging.INFO]


def test_at_the_default_level_nothing_is_put_into_words_for_routine(
    log: Log, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "grpc_bearer")
    asked: list[Event] = []
    monkeypatch.setattr("grpc_bearer._engine.log.text_of", lambda event: asked.append(event) or "")
    for event in (FetchBegun(*WHO, fetch=1), FETCHED, REFUSED, FETCHED):
        log(event)

    assert asked == []
    assert caplog.records == []


class Tenants(Source):
    """Each URL is a tenant; those on `down` fail."""

    def __init__(self) -> None:
        self.down = True

    def key(self, context: CallContext) -> str:
        return context.service_url

    def fetch(self, context: CallContext) -> Token:
        if self.down:
            raise TokenUnavailableError("the token endpoint: status 503")
        return Token(f"token of {len(context.service_url)}".replace(" ", "-"))


def test_a_thousand_tenants_whose_endpoint_is_down_are_one_warning_and_one_recovery(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "grpc_bearer")
    source = Tenants()
    auth = BearerAuth(source, name="tenants", clock=clock)
    for tenant in range(200):
        with pytest.raises(TokenUnavailableError):
            auth.token(f"https://{tenant}.example/x.Y")
    clock.advance(10.0)
    source.down = False
    for tenant in range(200):
        auth.token(f"https://{tenant}.example/x.Y")

    (down, up) = caplog.records
    assert (down.levelno, up.levelno) == (logging.WARNING, logging.INFO)
    assert "the token endpoint: status 503" in down.getMessage()
    assert "after 1 that failed" in up.getMessage()


def test_two_auths_are_told_apart_and_each_has_its_own_minute(caplog: pytest.LogCaptureFixture) -> None:
    def no() -> str:
        raise TokenRejectedError("status 401")

    for name in ("one", "two"):
        with pytest.raises(TokenRejectedError):
            BearerAuth(no, name=name).token()

    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "one (CallableSource)",
        "two (CallableSource)",
    ]


def test_a_filter_that_raises_harms_nobody() -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise ValueError

    logger = logging.getLogger("grpc_bearer")
    logger.addFilter(broken)
    try:
        with pytest.raises(TokenRejectedError):
            BearerAuth(_rejected).token()
    finally:
        logger.removeFilter(broken)


def _rejected() -> str:
    raise TokenRejectedError("status 401")
