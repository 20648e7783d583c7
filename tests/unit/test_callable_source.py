"""CallableSource: what a function of the user's returns, or awaits."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import pickle
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from _https import assert_hidden, failure, in_a_child, unsigned_jwt

from grpc_bearer import CallContext, Token
from grpc_bearer.errors import (
    ConfigurationError,
    SigningError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.sources import CallableSource
from grpc_bearer.testing import ManualClock

NOW = 1_700_000_000.0
CONTEXT = CallContext("https://api.example.com/fleet.v1.Fleet", "List", ManualClock(NOW))


@contextmanager
def loop_on_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    ready: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = queue.SimpleQueue()

    async def main() -> None:
        stop = asyncio.Event()
        ready.put((asyncio.get_running_loop(), stop))
        await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="user-loop")
    thread.start()
    loop, stop = ready.get()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


async def coroutine_token() -> str:
    await asyncio.sleep(0)
    return "s3cret"


async def running_loop_name() -> str:
    return f"{threading.current_thread().name}-{id(asyncio.get_running_loop())}"


def plain_token() -> str:
    return "s3cret"


class Awaitable:
    def __await__(self) -> Iterator[Any]:
        yield from asyncio.sleep(0).__await__()
        return "s3cret"


@pytest.mark.parametrize(
    "fn",
    [
        plain_token,
        coroutine_token,
        lambda: coroutine_token(),
        lambda: Awaitable(),
        functools.partial(coroutine_token),
        lambda: Token("s3cret"),
        lambda secret="s3cret": secret,
        lambda *args, **kwargs: "s3cret" if not args else "given something",
    ],
)
def test_plain_and_awaited_functions_give_their_token(fn: Callable[..., Any]) -> None:
    assert CallableSource(fn).fetch(CONTEXT) == Token("s3cret")


def test_a_str_that_is_a_jwt_expires_at_its_exp() -> None:
    assert CallableSource(lambda: unsigned_jwt(exp=NOW + 60)).fetch(CONTEXT).expires_at == NOW + 60


def test_a_token_is_passed_on_as_it_is() -> None:
    token = Token("s3cret", expires_at=1.0, refresh_at=0.5, single_use=True)

    assert CallableSource(lambda: token).fetch(CONTEXT) is token


def test_a_function_that_wants_the_context_gets_it_and_shares_no_token_between_methods() -> None:
    for source in (
        CallableSource(lambda call: call.service),
        CallableSource(lambda context=None: context.service),
        CallableSource(lambda call, /, *rest: call.service),
    ):
        assert source.fetch(CONTEXT).value == "fleet.v1.Fleet"
        assert source.key(CONTEXT) == ("https://api.example.com/fleet.v1.Fleet", "List")


def test_which_calls_share_a_token_can_be_said() -> None:
    source = CallableSource(lambda call: call.service, key=lambda call: call.service_url)

    assert source.key(CONTEXT) == "https://api.example.com/fleet.v1.Fleet"
    assert CallableSource(plain_token).key(CONTEXT) == ()


def test_builtins_without_a_signature_are_called_with_nothing() -> None:
    failure(lambda: CallableSource(dict).fetch(CONTEXT), TokenFormatError, "should return a str or a Token, not dict")


# -- loops ------------------------------------------------------------------------------------------------------------


def test_coroutines_share_one_private_daemon_thread() -> None:
    names = {CallableSource(running_loop_name).fetch(CONTEXT).value for _ in range(3)}
    thread = next(thread for thread in threading.enumerate() if thread.name == "grpc-bearer-loop")

    assert len(names) == 1
    assert names.pop().startswith("grpc-bearer-loop-")
    assert thread.daemon


def test_a_coroutine_runs_on_the_loop_that_was_named() -> None:
    with loop_on_a_thread() as loop:
        assert CallableSource(running_loop_name, loop=loop).fetch(CONTEXT).value.endswith(f"-{id(loop)}")


async def test_a_wait_on_the_thread_of_its_own_loop_is_refused_with_what_to_do() -> None:
    source = CallableSource(coroutine_token, loop=asyncio.get_running_loop())

    failure(lambda: source.fetch(CONTEXT), ConfigurationError, r"block that loop for ever.*await auth\.atoken\(\)")
    failure(source.refuse_wait, ConfigurationError, r"await auth\.atoken\(\)")
    assert (await asyncio.to_thread(source.fetch, CONTEXT)).value == "s3cret"


async def test_another_loop_may_wait_and_so_may_a_plain_function() -> None:
    with loop_on_a_thread() as loop:
        assert CallableSource(coroutine_token, loop=loop).fetch(CONTEXT).value == "s3cret"
    assert CallableSource(coroutine_token).fetch(CONTEXT).value == "s3cret"
    assert CallableSource(plain_token).fetch(CONTEXT).value == "s3cret"


def test_a_coroutine_on_the_private_loop_must_not_wait_for_another_one_there() -> None:
    inner = CallableSource(coroutine_token)

    async def outer() -> str:
        return inner.fetch(CONTEXT).value

    failure(lambda: CallableSource(outer).fetch(CONTEXT), ConfigurationError, "block that loop")


def test_a_loop_that_is_closed_or_stands_still_is_unavailable() -> None:
    loop = asyncio.new_event_loop()
    source = CallableSource(coroutine_token, loop=loop)

    failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, "closed or not running")
    loop.close()
    failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, "closed or not running")


def test_a_loop_that_is_closed_during_the_wait_is_noticed() -> None:
    entered = threading.Event()

    async def hang() -> str:
        entered.set()
        await loop.create_future()
        return "never"

    async def close_after_entered() -> None:
        await asyncio.to_thread(entered.wait)

    def run_and_close() -> None:
        loop.call_soon(running.set)
        loop.run_until_complete(close_after_entered())
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # a loop closed under its tasks is the point here
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    loop, running = asyncio.new_event_loop(), threading.Event()
    thread = threading.Thread(target=run_and_close)
    thread.start()
    running.wait()
    failure(lambda: CallableSource(hang, loop=loop).fetch(CONTEXT), TokenUnavailableError, "closed meanwhile")
    thread.join()


def test_a_coroutine_that_takes_too_long_is_cancelled() -> None:
    cancelled = threading.Event()

    async def hang() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    failure(lambda: CallableSource(hang, timeout=0.05).fetch(CONTEXT), TokenUnavailableError, r"within 0\.05 s")
    assert cancelled.wait(5)


def test_a_loop_whose_thread_is_blocked_is_told_apart_from_a_slow_coroutine() -> None:
    release = threading.Event()
    with loop_on_a_thread() as loop:
        loop.call_soon_threadsafe(release.wait)
        source = CallableSource(coroutine_token, loop=loop, timeout=0.05)
        try:
            failure(lambda: source.fetch(CONTEXT), TokenUnavailableError, "did not begin it.*thread blocked")
        finally:
            release.set()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12: fork with threads about
def test_a_forked_child_makes_a_loop_of_its_own() -> None:
    source = CallableSource(coroutine_token)
    source.fetch(CONTEXT)

    assert in_a_child(lambda: source.fetch(CONTEXT).value == "s3cret")
    assert source.fetch(CONTEXT).value == "s3cret"


# -- failures ---------------------------------------------------------------------------------------------------------


def raiser(error: BaseException) -> Callable[[], str]:
    def fails() -> str:
        raise error

    return fails


def coroutine_raiser(error: BaseException) -> Callable[[], Any]:
    async def fails() -> str:
        raise error

    return fails


@pytest.mark.parametrize("make", [raiser, coroutine_raiser])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("hidden"),
        KeyError("hidden"),
        OSError(2, "hidden"),
        SystemExit("hidden"),
        asyncio.CancelledError("hidden"),
    ],
)
def test_of_a_foreign_exception_the_type_alone_is_told(
    make: Callable[[BaseException], Any], error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = CallableSource(make(error))
    with ThreadPoolExecutor(1) as worker:  # as the engine does; on the main thread an exit would be the program's own
        told = failure(
            worker.submit(source.fetch, CONTEXT).result, TokenUnavailableError, f"raised {type(error).__name__}$"
        )

    assert_hidden(told, "hidden")
    assert told.__context__ is None
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("make", [raiser, coroutine_raiser])
@pytest.mark.parametrize(
    "error", [TokenRejectedError("no"), TokenUnavailableError("later", retry_after=7), SigningError("key")]
)
def test_our_own_errors_are_passed_on(make: Callable[[BaseException], Any], error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        CallableSource(make(error)).fetch(CONTEXT)

    assert caught.value is error


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "not NoneType"),
        (b"hidden", "not bytes"),
        (("hidden", 3600), "not tuple"),
        ("", "empty"),
        ("hid den", "space"),
        ("Bearer hidden", "bare token"),
        (unsigned_jwt(exp=NOW - 5), "expired 5 s ago"),
    ],
)
def test_trap_06_what_is_no_token_is_a_format_error(value: object, words: str) -> None:
    error = failure(lambda: CallableSource(lambda: value).fetch(CONTEXT), TokenFormatError, words)

    assert_hidden(error, "hid", unsigned_jwt(exp=NOW - 5))


def test_its_repr_shows_no_arguments() -> None:
    assert repr(CallableSource(functools.partial(str, "s3cret"))) == "CallableSource(partial)"


def test_it_pickles_by_the_name_of_its_function() -> None:
    assert pickle.loads(pickle.dumps(CallableSource(plain_token))).fetch(CONTEXT).value == "s3cret"
