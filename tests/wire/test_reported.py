"""What people reported of the auth of other clients, played on ours: each test names the report."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from attachments import PATIENCE, TLS, eventually, nothing_in_flight

from grpc_bearer import BearerAuth, CallableSource, HTTPTokenSource, Token
from grpc_bearer.errors import TokenError, TokenUnavailableError
from grpc_bearer.testing import ManualClock

LIFETIME = 100.0  # seconds


class Troubled:
    """Tokens t0, t1, … that live for 100 s by a clock moved by hand; `trouble`, if set, is raised once instead."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.trouble: BaseException | None = None
        self.asked = 0
        self.made = 0

    def __call__(self) -> Token:
        self.asked += 1
        trouble, self.trouble = self.trouble, None
        if trouble is not None:
            raise trouble
        self.made += 1
        return Token(f"t{self.made - 1}", expires_at=self.clock.time() + LIFETIME)

    async def acall(self) -> Token:
        await asyncio.sleep(0)
        return self()


class NotOfAnyLibrary(Exception):
    pass


@pytest.mark.parametrize(
    "trouble",
    [
        NotOfAnyLibrary("x"),
        KeyError("refresh_token"),
        asyncio.CancelledError(),
        SystemExit(3),
        MemoryError(),
        StopIteration(),
    ],
    ids=lambda trouble: type(trouble).__name__,
)
@pytest.mark.parametrize("kind", ["function", "coroutine function"])
def test_an_error_of_an_unknown_kind_does_not_end_the_refreshing_in_the_background(
    trouble: BaseException, kind: str
) -> None:
    """weaviate-python-client#2110, kinesis-producer#49, smoke-aws-credentials#7: the thread that refreshes caught only
    its HTTP library's errors, and died of the others without a word."""
    source = Troubled()
    fn: Callable[[], Any] = source if kind == "function" else source.acall
    with BearerAuth(fn, keep_warm=True, clock=source.clock) as auth:
        assert auth.token(timeout=PATIENCE).value == "t0"
        source.trouble = trouble
        source.clock.advance(85)
        assert eventually(lambda: source.asked >= 2 and nothing_in_flight(auth))
        for _ in range(20):  # past any backoff, a second at a time
            source.clock.advance(1)
            assert eventually(lambda: nothing_in_flight(auth))

        assert source.made >= 2
        assert auth.token(timeout=PATIENCE).value != "t0"


def test_a_first_refresh_that_fails_does_not_end_the_refreshing_of_a_token_that_came_nearly_expired() -> None:
    """idunno.Bluesky#474: a token that had less than a minute to live when it came, and a refresh that failed then."""
    clock, asked = ManualClock(), 0

    def token() -> Token:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise ConnectionResetError
        return Token(f"t{asked}", expires_at=clock.time() + (5 if asked == 1 else LIFETIME))

    with BearerAuth(token, keep_warm=True, clock=clock) as auth:
        assert auth.token(timeout=PATIENCE).value == "t1"
        for _ in range(60):
            clock.advance(1)
            assert eventually(lambda: nothing_in_flight(auth))

        assert asked >= 3
        assert auth.token(timeout=PATIENCE).value == f"t{asked}"


def test_a_task_that_is_cancelled_while_it_waits_leaves_nothing_cancelled_behind() -> None:
    """gcloud-aio#500: whoever asked later awaited the cancelled future, and was told of a cancellation for ever."""
    go = threading.Event()

    def token() -> str:
        go.wait(PATIENCE)
        return "t0"

    async def main() -> list[str]:
        first = [asyncio.ensure_future(auth.atoken()) for _ in range(20)]
        await asyncio.sleep(0)
        for task in first[::2]:
            task.cancel()
        go.set()
        ended = await asyncio.gather(*first, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ended[::2])
        return [end.value for end in ended[1::2] if isinstance(end, Token)] + [(await auth.atoken()).value]

    with BearerAuth(token) as auth:
        assert asyncio.run(main()) == ["t0"] * 11


def test_a_source_that_is_cancelled_itself_cancels_no_caller() -> None:
    """The same report, from within: an async function whose own inner task was cancelled."""
    ended: list[BaseException] = []

    async def token() -> str:
        inner = asyncio.ensure_future(asyncio.sleep(PATIENCE))
        inner.cancel()
        await inner
        return "never"

    async def main() -> None:
        try:
            await auth.atoken()
        except BaseException as error:
            ended.append(error)

    with BearerAuth(token) as auth:
        asyncio.run(main())
        assert [type(error) for error in ended] == [TokenUnavailableError]


@pytest.mark.parametrize("kind", ["function", "coroutine function"])
def test_one_event_loop_after_another_with_many_callers_in_each(kind: str) -> None:
    """haystack-core-integrations#3789, unstructured-python-client#339: the lock belonged to the first loop that had
    waited for it, and `asyncio.run` makes a new one each time."""
    source = Troubled()
    fn: Callable[[], Any] = source if kind == "function" else source.acall

    async def main() -> set[str]:
        return {token.value for token in await asyncio.gather(*(auth.atoken() for _ in range(20)))}

    with BearerAuth(fn, clock=source.clock) as auth:
        seen = []
        for _ in range(4):
            seen.append(asyncio.run(main()))
            source.clock.advance(LIFETIME + 1)

        assert seen == [{"t0"}, {"t1"}, {"t2"}, {"t3"}]


def test_loops_on_several_threads_at_once() -> None:
    """deer-flow#4240: a lock across loops; a waiter that was cancelled took it all the same, and nobody gave it
    back."""
    source = Troubled()

    async def main() -> str:
        waiting = asyncio.ensure_future(auth.atoken())
        await asyncio.sleep(0)
        waiting.cancel()
        return (await auth.atoken()).value

    with BearerAuth(source.acall, clock=source.clock) as auth, ThreadPoolExecutor(8) as threads:
        for number in range(3):
            ran = [threads.submit(asyncio.run, main()) for _ in range(8)]
            assert {loop.result(PATIENCE) for loop in ran} == {f"t{number}"}
            source.clock.advance(LIFETIME + 1)


def test_an_endpoint_that_takes_the_connection_and_never_answers_stops_nobody_for_longer_than_its_timeout(
    tmp_path: Path,
) -> None:
    """zalando/tokens#52, google-drive-mcp#169, OpenHands#13020: a request without a limit, and everybody behind it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"https://localhost:{server.getsockname()[1]}/token"
        source = HTTPTokenSource(url, json={"key": "x"}, ca=TLS.write(tmp_path), timeout=0.3)
        with BearerAuth(source) as auth, ThreadPoolExecutor(8) as callers:
            ended = [callers.submit(auth.token) for _ in range(8)]
            errors = [call.exception(PATIENCE) for call in ended]

    assert {type(error) for error in errors} == {TokenUnavailableError}


@pytest.mark.parametrize("asked", [1, 8])
def test_an_auth_that_is_closed_during_a_fetch_leaves_nobody_waiting(asked: int) -> None:
    """SalesforceMobileSDK-Android#2846: the account went during the refresh, and who waited was never woken."""
    began, go = threading.Event(), threading.Event()

    def token() -> str:
        began.set()
        go.wait(PATIENCE)
        return "late"

    auth = BearerAuth(token)
    with ThreadPoolExecutor(asked) as callers:
        waiting = [callers.submit(auth.token) for _ in range(asked)]
        assert began.wait(PATIENCE)
        auth.close()
        errors = [call.exception(PATIENCE) for call in waiting]
        go.set()

    assert all(isinstance(error, TokenError) and "closed" in str(error) for error in errors)


def test_two_auths_whose_sources_ask_each_other_s_neighbour_in_opposite_order() -> None:
    """bmw-cardata-ha#208: two locks, taken in opposite order."""
    left = BearerAuth(lambda: "left")
    right = BearerAuth(lambda: "right")
    crossed = [
        BearerAuth(lambda: f"{left.token().value}.{right.token().value}"),
        BearerAuth(lambda: f"{right.token().value}.{left.token().value}"),
    ]
    with ThreadPoolExecutor(32) as callers:
        values = {call.result(PATIENCE).value for call in [callers.submit(crossed[n % 2].token) for n in range(32)]}

    assert values == {"left.right", "right.left"}


def test_a_source_that_asks_its_own_auth_fails_and_does_not_wait_for_itself() -> None:
    """medplum#10559: a 401 within the refresh asked for a refresh, which waited for the first."""
    asked: list[BearerAuth] = []
    with BearerAuth(CallableSource(lambda: asked[0].token(timeout=PATIENCE).value)) as auth:
        asked.append(auth)
        with pytest.raises(TokenError):
            auth.token(timeout=PATIENCE)


AT_EXIT = """
import atexit, threading
from grpc_bearer import BearerAuth, TokenUnavailableError

auth = BearerAuth(lambda: "s3cret")

def last():
    try:
        print(auth.token(timeout=5).value)
    except TokenUnavailableError as error:
        print(type(error).__name__)

{how}
"""


@pytest.mark.parametrize(
    "how",
    [
        "atexit.register(last)",
        "threading._register_atexit(last)",
        "auth.invalidate(auth.token()); atexit.register(last)",
        "threading.Thread(target=lambda: (threading.main_thread().join(), last())).start()",
    ],
    ids=["atexit", "as executors end", "atexit, with workers", "a thread that outlives the main one"],
)
def test_a_token_that_is_asked_for_while_the_interpreter_ends(how: str) -> None:
    """python-logging#850, opentelemetry-python#4752: "can't create new thread at interpreter shutdown", in an exporter
    that sends its last batch. Who asks then gets a token, or our error where Python gives no thread (3.12); in
    time, and with no more on stderr than our log's line."""
    done = subprocess.run(
        [sys.executable, "-c", AT_EXIT.format(how=how)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0
    assert (done.stdout, done.stderr) == ("s3cret\n", "") or (
        done.stdout == "TokenUnavailableError\n" and done.stderr.startswith("CallableSource: fetch failed after ")
    )
