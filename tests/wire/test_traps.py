"""The traps of token-bearing gRPC clients, numbered as the tests are, and the tests that keep us out of each.

The tests here are those of the plugin path (what a source, a plugin or an interceptor may do to a call); others
stand in other files, and bear the number of their trap in their name.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import pickle
import re
import threading
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from attachments import (
    AIO_WAYS,
    ALL_WAYS,
    CORE_ONLY,
    EXPLAINING,
    PATIENCE,
    SYNC_WAYS,
    TLS,
    Waiting,
    causes,
    codes,
    eventually,
    everywhere,
    try_all,
)

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    CallableSource,
    CallContext,
    HTTPTokenSource,
    SigningError,
    Source,
    Token,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.testing import (
    Delay,
    ManualClock,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Status,
    TokenServer,
)

SECRET = "s3cret-s3cret-s3cret"
OK, UNAVAILABLE, UNAUTHENTICATED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED,
)


@pytest.fixture(scope="module")
def server() -> Iterator[ProbeServer]:
    with ProbeServer(None, TLS) as server:
        yield server


@pytest.fixture
def ledger(server: ProbeServer) -> Any:
    server.ledger.clear()
    return server.ledger


# --------------------------------------------------------------------------------------- sources that do not behave


class Failing(Source):
    """Does what it is told."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act = act

    def fetch(self, context: CallContext) -> Token:
        result: Token = self._act()
        return result


def raising(error: BaseException) -> Callable[[], Any]:
    def act() -> Any:
        raise error

    return act


#: What a source does, the status that explaining ways to attach give it, and the type of the cause.
MISDEEDS: dict[str, tuple[Callable[[], Any], grpc.StatusCode, type]] = {
    "unavailable": (raising(TokenUnavailableError("the endpoint is down")), UNAVAILABLE, TokenUnavailableError),
    "rejected": (raising(TokenRejectedError("the endpoint said no")), UNAUTHENTICATED, TokenRejectedError),
    "format": (raising(TokenFormatError("no token in the answer")), UNAUTHENTICATED, TokenFormatError),
    "signing": (raising(SigningError("the key does not sign")), UNAUTHENTICATED, SigningError),
    "foreign exception": (raising(RuntimeError(f"refused: {SECRET}")), UNAVAILABLE, TokenUnavailableError),
    "SystemExit": (raising(SystemExit(SECRET)), UNAVAILABLE, TokenUnavailableError),
    "KeyboardInterrupt": (raising(KeyboardInterrupt(SECRET)), UNAVAILABLE, TokenUnavailableError),
    "returns None": (lambda: None, UNAUTHENTICATED, TokenFormatError),
    "returns a str": (lambda: SECRET, UNAUTHENTICATED, TokenFormatError),
    "returns a dict": (lambda: {"authorization": SECRET}, UNAUTHENTICATED, TokenFormatError),
    "expired": (lambda: Token(SECRET, expires_at=1.0), UNAUTHENTICATED, TokenFormatError),
    "newline in it": (lambda: Token(f"{SECRET}\nx-evil: 1"), UNAUTHENTICATED, TokenFormatError),
    "not ASCII": (lambda: Token(f"{SECRET}é"), UNAUTHENTICATED, TokenFormatError),
    "empty": (lambda: Token(" "), UNAUTHENTICATED, TokenFormatError),
}


def told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged; but grpc.aio's poller now and then complains in the loop of a test that is over."""
    return [record for record in caplog.records if "PollerCompletionQueue" not in record.getMessage()]


def everything_shown(ends: dict[str, Any], caplog: pytest.LogCaptureFixture) -> str:
    """All that a user, or a user's log, could see of these calls."""
    shown = []
    for end in ends.values():
        error = end.value
        shown += [str(error), repr(error), str(error.details()), str(error.debug_error_string())]
        shown += traceback.format_exception(type(error), error, error.__traceback__)
        while error is not None:
            shown += [str(error), repr(error), repr(error.args), repr(getattr(error, "__dict__", ""))]
            error = error.__cause__ or error.__context__
    shown += [f"{record.getMessage()} {record.__dict__}" for record in caplog.records]
    return "\n".join(shown)


@pytest.mark.parametrize("misdeed", MISDEEDS)
@pytest.mark.parametrize("way", EXPLAINING)
def test_trap_03_21_a_failing_source_gives_an_honest_code_and_a_typed_cause(
    way: str, misdeed: str, server: ProbeServer, ledger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    act, code, cause = MISDEEDS[misdeed]
    family = grpc.aio.AioRpcError if way.startswith("aio.") else grpc.Call

    ends = try_all(way, server.target, server.channel_credentials(), BearerAuth(Failing(act)), timeout=PATIENCE)

    assert codes(ends) == everywhere(way, code)
    assert causes(ends) == everywhere(way, cause)
    assert {kind: isinstance(end.value, family) for kind, end in ends.items()} == everywhere(way, True)
    told = {kind: f"{end.cause} [{end.cause.help}]" for kind, end in ends.items()}
    assert {kind: end.value.details() for kind, end in ends.items()} == told
    assert len({id(end.cause) for end in ends.values()}) == len(ends)
    assert len(ledger) == 0
    assert SECRET not in everything_shown(ends, caplog)


@pytest.mark.parametrize("misdeed", MISDEEDS)
@pytest.mark.parametrize("way", CORE_ONLY)
def test_trap_02_a_failing_source_never_leaves_a_call_hanging(
    way: str, misdeed: str, server: ProbeServer, ledger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Core calls every failure of a plugin UNAVAILABLE; what is ours to see to is that it is told, and told cleanly."""
    caplog.set_level(logging.DEBUG)
    act, _, _ = MISDEEDS[misdeed]

    ends = try_all(way, server.target, server.channel_credentials(), BearerAuth(Failing(act)), timeout=PATIENCE)

    assert codes(ends) == everywhere(way, UNAVAILABLE)
    assert [end for end in ends.values() if end.seconds > PATIENCE / 2] == []
    assert len(ledger) == 0
    assert SECRET not in everything_shown(ends, caplog)


@pytest.mark.parametrize("way", ALL_WAYS)
def test_trap_04_grpc_s_own_plugin_logger_has_nothing_to_say(
    way: str, server: ProbeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It logs the plugin's repr and a traceback when a plugin raises: ours never does, and shows no token if it did."""
    caplog.set_level(logging.DEBUG)
    # By a clock that stands still the pause after a failure does not end, however slow this machine is.
    auths = [BearerAuth(Failing(act), clock=ManualClock()) for act, _, _ in MISDEEDS.values()]

    def loud() -> list[tuple[str, int]]:
        return [(record.name, record.levelno) for record in told(caplog) if record.levelno >= logging.WARNING]

    for auth in auths:
        try_all(way, server.target, server.channel_credentials(), auth, timeout=PATIENCE)

    assert [record for record in caplog.records if record.name == "grpc._plugin_wrapping"] == []
    # One line for each source that fails, however many calls it fails. They are written by a thread of their own.
    assert eventually(lambda: len(loud()) >= len(auths))
    assert loud() == [("grpc_bearer", logging.WARNING)] * len(auths)


def test_trap_04_the_repr_of_what_grpc_holds_shows_no_token() -> None:
    auth = BearerAuth(SECRET)
    held = [auth, grpc_bearer.interceptor(auth), *grpc_bearer.aio.interceptors(auth), auth.token()]
    held += [grpc_bearer.call_credentials(auth), *vars(auth).values()]

    assert SECRET not in repr(held)
    assert not any(SECRET in str(thing) for thing in held)


@pytest.mark.parametrize("status", [401, 500])
@pytest.mark.parametrize("way", ALL_WAYS)
def test_trap_04_a_refusal_of_the_endpoint_shows_no_credential_anywhere(
    way: str, status: int, server: ProbeServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bear = {"api_key": "key-1", "scope": "all", "secret": SECRET}
    with TokenServer(TLS) as tokens:
        tokens.fail_with(Status(status, body=f"bad credential {SECRET}"))
        auth = BearerAuth(HTTPTokenSource(tokens.serve_bear(bear), json=bear, ca=TLS.write(tmp_path)))
        ends = try_all(way, server.target, server.channel_credentials(), auth, timeout=PATIENCE)
        exchanges = len(tokens.exchanges)

    expected = UNAUTHENTICATED if status == 401 and way in EXPLAINING else UNAVAILABLE
    assert codes(ends) == everywhere(way, expected)
    assert exchanges == 1
    assert all(str(status) in end.value.details() for end in ends.values())
    assert SECRET not in everything_shown(ends, caplog)


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("way", ["secure_channel", "aio.secure_channel", "channel_credentials"])
def test_trap_02_a_source_whose_fetch_is_async_is_told_so(way: str, server: ProbeServer) -> None:
    class Async(Source):
        async def fetch(self, context: CallContext) -> Token:
            return Token("t0")

    ends = try_all(way, server.target, server.channel_credentials(), BearerAuth(Async()), timeout=PATIENCE)
    gc.collect()  # the coroutine says that nobody awaited it: here, and not in another test

    assert codes(ends) == everywhere(way, UNAVAILABLE if way in CORE_ONLY else UNAUTHENTICATED)
    assert all("coroutine" in end.value.details() for end in ends.values())


@pytest.mark.parametrize("way", ["secure_channel", "aio.secure_channel", "interceptor", "aio.interceptors"])
def test_trap_02_a_coroutine_function_is_a_source_like_any_other(way: str, server: ProbeServer, ledger: Any) -> None:
    async def fetch() -> str:
        await asyncio.sleep(0)
        return SECRET

    ends = try_all(way, server.target, server.channel_credentials(), BearerAuth(fetch), timeout=PATIENCE)

    assert codes(ends) == everywhere(way, OK)
    assert ledger.contains(SECRET)


@pytest.mark.parametrize("way", ["secure_channel", "intercept_channel"])
def test_trap_02_a_source_that_takes_for_ever_ends_calls_without_a_deadline_too(way: str, server: ProbeServer) -> None:
    clock, source = ManualClock(), Waiting("t0")
    with SYNC_WAYS[way](server.target, server.channel_credentials(), BearerAuth(source, clock=clock)) as stub:
        call = stub.Unary.future(ProbeRequest())  # no timeout
        assert source.asked.wait(PATIENCE)
        clock.advance(61)
        error = call.exception(PATIENCE)
        source.go.set()

    assert error.code() is UNAVAILABLE
    assert isinstance(error.__cause__, TokenUnavailableError)
    assert "60 s" in str(error.__cause__)


@pytest.mark.parametrize("way", ALL_WAYS)
def test_trap_05_closing_while_calls_wait_ends_them_once(
    way: str, server: ProbeServer, caplog: pytest.LogCaptureFixture
) -> None:
    """They are called back when the auth is closed, and not a second time when the late token comes."""
    caplog.set_level(logging.DEBUG)
    source = Waiting(SECRET)
    auth = BearerAuth(source)

    def close() -> None:
        assert source.asked.wait(PATIENCE)
        auth.close()
        source.go.set()

    closer = threading.Thread(target=close)
    closer.start()
    ends = try_all(way, server.target, server.channel_credentials(), auth, timeout=PATIENCE)
    closer.join()

    assert codes(ends) == everywhere(way, UNAVAILABLE if way in CORE_ONLY else UNAUTHENTICATED)
    assert all("closed" in end.value.details() for end in ends.values())
    assert [record for record in told(caplog) if record.levelno >= logging.WARNING] == []


# -------------------------------------------------------------------------------------------------------- big tokens


@pytest.mark.parametrize("way", ["secure_channel", "aio.secure_channel", "channel_credentials"])
def test_trap_07_a_token_over_the_server_s_limit_is_warned_of_and_refused_with_the_size(
    way: str, server: ProbeServer
) -> None:
    with pytest.warns(UserWarning, match="20000 bytes; many servers and proxies refuse headers over 8192"):
        source = grpc_bearer.StaticSource("x" * 20_000)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        ends = try_all(way, server.target, server.channel_credentials(), BearerAuth(source), timeout=PATIENCE)

    assert codes(ends) == everywhere(way, grpc.StatusCode.RESOURCE_EXHAUSTED)
    assert all("metadata size" in end.value.details() for end in ends.values())


@pytest.mark.filterwarnings("ignore:token:UserWarning")
@pytest.mark.parametrize("way", EXPLAINING)
def test_trap_07_a_token_over_the_server_s_limit_is_named_as_the_cause(way: str, server: ProbeServer) -> None:
    auth = BearerAuth("x" * 20_000)

    ends = try_all(way, server.target, server.channel_credentials(), auth, timeout=PATIENCE)

    assert causes(ends) == everywhere(way, TokenFormatError)


# --------------------------------------------------------------------------------------- what a source learns of a call


class Noting(Source):
    local = True

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.fetches = 0

    def key(self, context: CallContext) -> Hashable:
        self.seen.append((context.service_url, context.method))
        return context.service_url, context.method

    def fetch(self, context: CallContext) -> Token:
        self.fetches += 1
        return Token("t0")


PROBE = "grpc_bearer.testing.v1.Probe"


@pytest.mark.parametrize("override", [False, True], ids=["as dialled", "name overridden"])
@pytest.mark.parametrize("way", ["secure_channel", "intercept_channel", "wrap_stub"])
def test_trap_09_a_source_sees_the_same_url_whichever_way_the_token_goes(
    way: str, override: bool, server: ProbeServer
) -> None:
    source = Noting()
    options = [("grpc.ssl_target_name_override", "localhost")] if override else []
    with SYNC_WAYS[way](server.target, server.channel_credentials(), BearerAuth(source), options=options) as stub:
        for _ in range(5):
            stub.Unary(ProbeRequest(), timeout=PATIENCE)

    host = "localhost" if override else server.target
    assert set(source.seen) == {(f"https://{host}/{PROBE}", "Unary")}
    assert source.fetches == 1


def test_trap_09_the_same_over_a_unix_socket(tmp_path: Path) -> None:
    source = Noting()
    with (
        ProbeServer(None, credentials="local", address=f"unix:{tmp_path}/probe.sock") as server,
        grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=source) as channel,
    ):
        for _ in range(5):
            ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)

    assert len(set(source.seen)) == 1
    assert source.seen[0][0].endswith(PROBE)
    assert source.fetches == 1


def test_trap_09_in_asyncio_too(server: ProbeServer) -> None:
    source = Noting()

    async def main() -> None:
        how = {"auth": source}
        async with grpc_bearer.aio.secure_channel(server.target, server.channel_credentials(), **how) as channel:
            for _ in range(5):
                await ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)

    asyncio.run(main())

    assert set(source.seen) == {(f"https://{server.target}/{PROBE}", "Unary")}
    assert source.fetches == 1


# ---------------------------------------------------------------------------------------------------------- recursion


class Recursive(Source):
    """Asks for its token through the very channel that the token is for."""

    def __init__(self, *, single_use: bool) -> None:
        self.single_use = single_use
        self.stub: Any = None
        self.fetches = 0

    def fetch(self, context: CallContext) -> Token:
        self.fetches += 1
        if self.fetches < 200:  # lest a failure of this test be one of the machine
            self.stub.Unary(ProbeRequest(), timeout=1)
        return Token("t0", single_use=self.single_use)


@pytest.mark.parametrize("single_use", [False, True], ids=["reusable", "single-use"])
@pytest.mark.parametrize("way", SYNC_WAYS)
def test_trap_13_a_token_call_through_the_same_channel_fails_and_does_not_recurse_without_end(
    way: str, single_use: bool, server: ProbeServer, ledger: Any
) -> None:
    """Through core alone single-use tokens are fetched for each call: such a source asks itself, but only so often."""
    source = Recursive(single_use=single_use)
    with (
        SYNC_WAYS[way](server.target, server.channel_credentials(), BearerAuth(source)) as source.stub,
        pytest.raises(grpc.RpcError) as caught,
    ):
        source.stub.Unary(ProbeRequest(), timeout=PATIENCE)

    assert caught.value.code() is UNAVAILABLE
    assert isinstance(caught.value.__cause__, TokenUnavailableError) is (way in EXPLAINING)
    assert 1 <= source.fetches <= (100 if single_use and way in CORE_ONLY else 1)
    assert len(ledger) == 0


def test_trap_13_an_asyncio_token_call_through_the_same_channel_fails_and_does_not_recurse(
    server: ProbeServer, ledger: Any
) -> None:
    fetches = []

    async def main() -> grpc.StatusCode:
        async def fetch() -> str:
            fetches.append(1)
            await stub.Unary(ProbeRequest(), timeout=PATIENCE)
            return "t0"

        auth = BearerAuth(CallableSource(fetch, loop=asyncio.get_running_loop()))
        async with grpc_bearer.aio.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
            stub = ProbeStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                await stub.Unary(ProbeRequest(), timeout=PATIENCE)
            return caught.value.code()

    assert asyncio.run(main()) is UNAVAILABLE
    assert len(fetches) == 1
    assert len(ledger) == 0


def test_trap_13_a_token_call_with_a_header_of_its_own_goes_through_the_same_channel(
    server: ProbeServer, ledger: Any
) -> None:
    """The way out: the login call says itself who it is."""

    def login() -> str:
        stub.Unary(ProbeRequest(), timeout=PATIENCE, metadata=[("authorization", "Basic bG9naW4=")])
        return "t0"

    with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=login) as channel:
        stub = ProbeStub(channel)
        stub.Unary(ProbeRequest(), timeout=PATIENCE)

    sent = [value for attempt in ledger for key, value in attempt.metadata if key == "authorization"]
    assert sent == ["Basic bG9naW4=", "Bearer t0"]


# -------------------------------------------------------------------------------------------- channels, calls, details


def test_trap_14_what_pickles_is_configuration_and_never_a_token(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    auth = BearerAuth(file, header="x-token", scheme="")
    assert auth.token().value == SECRET

    pickled = pickle.dumps(auth)

    assert SECRET.encode() not in pickled
    assert pickle.loads(pickled).headers() == {"x-token": SECRET}
    with pytest.raises(Exception, match="pickle"):
        pickle.dumps(BearerAuth(SECRET))


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
@pytest.mark.parametrize("registered", [None, False, True])
def test_trap_26_our_channels_take_registered_method(kind: str, registered: Any, server: ProbeServer) -> None:
    async def asynchronous() -> Any:
        async with grpc_bearer.aio.secure_channel(server.target, auth=SECRET) as channel:
            return getattr(channel, kind)("/s/M", _registered_method=registered)

    with grpc_bearer.secure_channel(server.target, auth=SECRET) as channel:
        sync = getattr(channel, kind)("/s/M", _registered_method=registered)
    name = "".join(part.title() for part in kind.split("_")) + "MultiCallable"

    assert isinstance(sync, getattr(grpc, name))
    assert isinstance(asyncio.run(asynchronous()), getattr(grpc.aio, name))


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_trap_25_every_attribute_of_call_details_survives_our_interceptor(kind: str) -> None:
    """Other libraries make details of their own, with what gRPC may know tomorrow, and need not be namedtuples."""
    passed_on: list[Any] = []

    class Details(grpc.ClientCallDetails):
        method, timeout, metadata = "/s/M", 5.0, (("x-a", "1"),)
        credentials, wait_for_ready, compression = None, True, grpc.Compression.Gzip
        of_tomorrow = "kept"

    class Call:
        def done(self) -> bool:
            return False

        def add_done_callback(self, callback: Any) -> None:
            """It never ends."""

        def cancel(self) -> None:
            """Somebody dropped it."""

    def continuation(details: Any, request: Any) -> Any:
        passed_on.append(details)
        return Call()

    getattr(grpc_bearer.interceptor(SECRET), f"intercept_{kind}")(continuation, Details(), iter([ProbeRequest()]))
    details = passed_on[0]

    assert isinstance(details, grpc.ClientCallDetails)
    assert (details.method, details.metadata) == ("/s/M", (("x-a", "1"),))
    assert 4 < details.timeout <= 5
    assert (details.wait_for_ready, details.compression) == (True, grpc.Compression.Gzip)
    assert details.of_tomorrow == "kept"
    assert isinstance(details.credentials, grpc.CallCredentials)


def test_trap_25_our_interceptor_stands_anywhere_among_others(server: ProbeServer, ledger: Any) -> None:
    class Details(grpc.ClientCallDetails):
        """No credentials, no wait_for_ready, no compression: a copy with few fields, as is common."""

    class Other(grpc.UnaryUnaryClientInterceptor):
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            mine = Details()
            mine.method, mine.timeout = details.method, details.timeout
            mine.metadata = [*(details.metadata or ()), ("x-other", "1")]
            return continuation(mine, request)

    with server.channel() as channel:
        intercepted = grpc.intercept_channel(channel, Other(), grpc_bearer.interceptor(SECRET), Other())
        ProbeStub(intercepted).Unary(ProbeRequest(), timeout=PATIENCE)

    assert [value for key, value in ledger[0].metadata if key == "x-other"] == ["1", "1"]
    assert ledger.contains(SECRET)


def test_trap_20_a_call_that_fails_does_not_stop_its_channel(server: ProbeServer) -> None:
    """Its end is judged on gRPC's own thread: whoever waits there for what that thread is to bring, waits for ever."""
    failed: list[Any] = []

    def calls() -> None:
        auth = BearerAuth(Failing(MISDEEDS["rejected"][0]))
        for _ in range(100):
            with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
                call = ProbeStub(channel).ClientStream.future(iter([ProbeRequest()]), timeout=PATIENCE)
                failed.append(call.exception(PATIENCE))

    thread = threading.Thread(target=calls, daemon=True)
    thread.start()
    thread.join(PATIENCE)

    assert {type(error.__cause__) for error in failed} == {TokenRejectedError}
    assert len(failed) == 100


@pytest.mark.parametrize("way", [way for way in EXPLAINING if not way.startswith("aio.")])
def test_trap_24_what_a_stream_gives_back_has_the_whole_api_of_a_call(way: str, server: ProbeServer) -> None:
    with SYNC_WAYS[way](server.target, server.channel_credentials(), BearerAuth(SECRET)) as stub:
        for _ in range(2):
            call = stub.ServerStream(ProbeRequest(replies=2), timeout=PATIENCE)
            done = threading.Event()
            added = call.add_callback(done.set)
            messages = list(call)

            assert isinstance(call, grpc.Call)
            assert added
            assert len(messages) == 2
            assert done.wait(PATIENCE)
            assert call.code() is OK
            assert call.details() is not None
            assert not call.is_active()
            assert call.initial_metadata() is not None
            assert call.trailing_metadata() is not None


@pytest.mark.parametrize("way", [way for way in EXPLAINING if way.startswith("aio.")])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_trap_31_cancelling_the_outer_call_cancels_what_runs_on_the_server(way: str, warm: bool) -> None:
    """The server serves one call at a time: the next is served only once the cancelled one has gone."""
    delay = Delay()

    async def caller(stub: Any, index: int) -> Any:
        return await stub.Unary(ProbeRequest(index=index), timeout=PATIENCE)

    async def main() -> tuple[bool, list[int]]:
        async with AIO_WAYS[way](server.target, server.channel_credentials(), BearerAuth(SECRET)) as stub:
            if warm:
                await caller(stub, 1)
            server.script(delay)
            task = asyncio.ensure_future(caller(stub, 2))
            while not delay.arrived.is_set():
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE)
            return task.cancelled(), list((await caller(stub, 3)).indexes)

    with ProbeServer(None, TLS, workers=1) as server:
        cancelled, served = asyncio.run(main())

    assert cancelled
    assert served == [3]
    assert not delay.release.is_set()


@pytest.mark.parametrize("way", ["secure_channel", "intercept_channel", "wrap_stub", "interceptor"])
def test_trap_22_nothing_of_ours_asks_an_unread_stream_for_its_code(way: str, server: ProbeServer) -> None:
    """A stream that the server holds open: what it has sent is there at once."""
    with SYNC_WAYS[way](server.target, server.channel_credentials(), BearerAuth(SECRET)) as stub:
        for _ in range(2):
            requests: Any = _Tap()
            call = stub.BidiStream(requests, timeout=PATIENCE)
            requests.send(ProbeRequest(index=1))
            first = next(call)
            active = call.is_active()
            requests.end()
            rest = list(call)

            assert first.count == 1
            assert active
            assert rest == []


class _Tap:
    """Requests given one by one."""

    def __init__(self) -> None:
        from queue import SimpleQueue

        self._queue: SimpleQueue[Any] = SimpleQueue()

    def send(self, request: Any) -> None:
        self._queue.put(request)

    def end(self) -> None:
        self._queue.put(None)

    def __iter__(self) -> _Tap:
        return self

    def __next__(self) -> Any:
        request = self._queue.get(timeout=PATIENCE)
        if request is None:
            raise StopIteration
        return request


@pytest.mark.parametrize("way", ["aio.secure_channel", "aio.intercept_channel", "aio.wrap_stub"])
def test_trap_33_time_remaining_and_code_work_on_what_our_asyncio_ways_give(way: str, server: ProbeServer) -> None:
    async def main() -> list[Any]:
        answers = []
        async with AIO_WAYS[way](server.target, server.channel_credentials(), BearerAuth(SECRET)) as stub:
            for _ in range(2):
                call = stub.Unary(ProbeRequest(), timeout=PATIENCE)
                answers.append(0 < call.time_remaining() <= PATIENCE)
                await call
                answers.append(await call.code())
        return answers

    assert asyncio.run(main()) == [True, OK, True, OK]


@pytest.mark.parametrize("way", ["aio.secure_channel", "aio.intercept_channel", "aio.wrap_stub", "aio.interceptors"])
def test_trap_33_a_source_s_error_comes_out_of_every_question_as_a_status(way: str, server: ProbeServer) -> None:
    async def main() -> list[Any]:
        auth = BearerAuth(Failing(MISDEEDS["rejected"][0]))
        async with AIO_WAYS[way](server.target, server.channel_credentials(), auth) as stub:
            call = stub.Unary(ProbeRequest(), timeout=PATIENCE)
            return [await call.code(), await call.details(), call.done(), call.cancelled()]

    assert asyncio.run(main()) == [UNAUTHENTICATED, "the endpoint said no [GB-REJECTED]", True, False]


def test_trap_29_the_four_asyncio_interceptors_are_of_one_kind_each() -> None:
    kinds = [
        grpc.aio.UnaryUnaryClientInterceptor,
        grpc.aio.UnaryStreamClientInterceptor,
        grpc.aio.StreamUnaryClientInterceptor,
        grpc.aio.StreamStreamClientInterceptor,
    ]

    of_kind = [[isinstance(each, kind) for kind in kinds] for each in grpc_bearer.aio.interceptors(SECRET)]

    assert of_kind == [[row == column for column in range(4)] for row in range(4)]


async def _what_write_raises(call: Any) -> BaseException:
    """Write until it is refused: the first writes may be over before the call has failed."""
    for _ in range(1000):
        try:
            await call.write(ProbeRequest())
        except (grpc.RpcError, asyncio.InvalidStateError) as error:
            return error
        await asyncio.sleep(0)
    raise AssertionError("nobody minded")


@pytest.mark.parametrize(
    "way",
    ["aio.secure_channel", "aio.intercept_channel", "aio.wrap_stub", "aio.interceptors"],
)
@pytest.mark.parametrize("method", ["ClientStream", "BidiStream"])
def test_trap_33_write_raises_what_the_call_ended_with(way: str, method: str, server: ProbeServer) -> None:
    auth = BearerAuth(Failing(MISDEEDS["rejected"][0]))

    async def main() -> tuple[BaseException, grpc.StatusCode]:
        async with AIO_WAYS[way](server.target, server.channel_credentials(), auth) as stub:
            call = getattr(stub, method)(timeout=PATIENCE)
            return await _what_write_raises(call), await call.code()

    error, code = asyncio.run(main())

    assert code is UNAUTHENTICATED
    # InvalidStateError is what grpc.aio says of a call that has ended already.
    if isinstance(error, grpc.RpcError):
        assert error.code() is UNAUTHENTICATED
        assert isinstance(error.__cause__, TokenRejectedError)


def test_trap_16_a_writer_on_a_plaintext_channel_is_told_why() -> None:
    async def main() -> BaseException:
        async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
            stub = grpc_bearer.wrap_stub(ProbeStub(channel), SECRET)
            return await _what_write_raises(stub.ClientStream(timeout=PATIENCE))

    assert isinstance(asyncio.run(main()), grpc.RpcError)


# -------------------------------------------------------------------------------------------------------------- index

#: Each trap in a few words. The names of its tests bear the number: `pytest -k trap_13` runs those of one.
TRAPS = {
    1: "gRPC runs the plugin on a new thread for each attempt",
    2: "a plugin that never calls back hangs its call",
    3: "core calls every failure of a plugin UNAVAILABLE",
    4: "the text of a plugin's exception is shown to the caller and to the log",
    5: "calling back twice raises",
    6: "header rules are enforced late, and do not say which header",
    7: "servers refuse large metadata",
    8: "metadata is appended and never replaced",
    9: "the plugin's context has little, and the URL takes several forms",
    10: "the plugin runs once connected, and for each attempt of core's",
    11: "a plugin sees the context variables of where its credentials were made",
    12: "the end of a call is not the end of its fetch",
    13: "a token call through the same channel wants a token",
    14: "credentials hold on to core, and do not pickle",
    15: "UNAUTHENTICATED may be made on this side",
    16: "sync and asyncio disagree about plaintext, and composite credentials hide it",
    17: "metadata has no protection of its own",
    18: "loopback and Unix sockets are for local channel credentials",
    19: "time in an interceptor is not charged to the call",
    20: "futures block for as long as an interceptor does",
    21: "four shapes of failure come back from a continuation",
    22: "asking an unread stream for its code waits for its end",
    23: "a request iterator cannot be read twice",
    24: "what a stream interceptor gives back must be a call",
    25: "call details have no public constructor",
    26: "generated stubs pass `_registered_method`",
    27: "core's own attempts send the same metadata again",
    28: "a token put on before the connection ages there",
    29: "grpc.aio takes an interceptor for one kind of call only",
    30: "asyncio's details differ, and may hold the caller's own metadata",
    31: "cancelling an outer call may leave the inner one running",
    32: "write() waits for the interceptor, which must not wait for the call",
    33: "what an asyncio interceptor raises comes out raw, and parts of the call's API are missing",
    34: "plugins run on threads, and loops come and go",
    35: "a forced refresh must be conditional",
    36: "late results must not win",
    37: "a refresh that extends nothing must back off",
    38: "windows must scale with the lifetime",
    39: "intervals are for the monotonic clock",
    40: "one who gives up must not cancel the fetch for the rest",
    41: "google-auth has no lock, no backoff, and reuses on-demand tokens",
    42: "nonces are 128 bits from the system's generator",
    43: "locks held at a fork stay locked in the child",
    44: "other codes than UNAUTHENTICATED are not about the token unless someone says so",
    45: "a retried call is a second call",
}


def test_every_trap_has_its_tests() -> None:
    files = Path(__file__).parents[1].glob("*/test_*.py")
    borne = {
        int(number)
        for file in files
        for numbers in re.findall(r"def test_trap_((?:\d\d_)+)", file.read_text("utf-8"))
        for number in numbers.split("_")[:-1]
    }

    assert sorted(borne) == sorted(TRAPS) == list(range(1, 46))
