"""DeviceCodeSource: somebody logs in, while calls wait; the clock is moved by hand."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import pickle
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from _https import assert_hidden, failure
from _login_server import CLIENT_ID, LoginServer
from attachments import TLS, eventually

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    CallContext,
    ConfigurationError,
    DeviceCodeSource,
    RefreshTokenSource,
    RoutedSource,
    StaticSource,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.sources.device import DevicePrompt
from grpc_bearer.testing import ManualClock, ProbeRequest, ProbeServer, ProbeStub, Reset, Response, Status, TokenServer


@pytest.fixture
def server(tokens: TokenServer) -> LoginServer:
    return LoginServer(tokens)


class Person:
    """Sees prompts, and confirms each."""

    def __init__(self, server: LoginServer, verdict: str = "") -> None:
        self.server, self.verdict = server, verdict
        self.prompts: list[DevicePrompt] = []

    def __call__(self, prompt: DevicePrompt) -> None:
        self.prompts.append(prompt)
        self.server.verdict = self.verdict


@pytest.fixture
def source(server: LoginServer, ca: Path) -> Callable[..., DeviceCodeSource]:
    return functools.partial(
        DeviceCodeSource, server.token_url, CLIENT_ID, device_authorization_url=server.device_url, ca=ca
    )


class Aside:
    """Runs something on a thread, while the clock goes on until it is done."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(do,), daemon=True)
        self._thread.start()

    def _run(self, do: Callable[[], Any]) -> None:
        try:
            self.result = do()
        except BaseException as error:
            self.error = error

    def done(self, clock: ManualClock, seconds: float = 1.0) -> Any:
        def over() -> bool:
            clock.advance(seconds)
            return not self._thread.is_alive()

        assert eventually(over)
        if self.error is not None:
            raise self.error
        return self.result


def test_one_prompt_serves_all_callers_and_the_refresh_token_all_later_times(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock, tmp_path: Path
) -> None:
    person, store = Person(server), tmp_path / "login"
    with BearerAuth(source(prompt=person, store=store, scope=["openid", "offline_access"]), clock=clock) as auth:
        callers = [Aside(auth.token) for _ in range(12)]
        values = {caller.done(clock).value for caller in callers}
        clock.advance(4000)
        values.add(auth.token().value)
    values.add(BearerAuth(source(scope="openid offline_access", store=store), clock=clock).token().value)

    assert len(values) == 2
    assert [str(prompt) for prompt in person.prompts] == [
        f"To log in, open {server.tokens.url('/login')}?user_code=WDJB-MJHT, or open {server.tokens.url('/login')} "
        "and enter the code WDJB-MJHT within 15 minutes."
    ]
    assert server.devices == [{"client_id": CLIENT_ID, "scope": "openid offline_access"}]
    assert [form["grant_type"].rpartition(":")[2] for form in server.asked] == ["device_code", "refresh_token"]


def test_a_grpc_call_waits_for_somebody_longer_than_for_any_server(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock, tokens: TokenServer
) -> None:
    person = Person(server, "authorization_pending")
    auth = BearerAuth(RoutedSource({"no.Service": StaticSource("x"), "*": source(prompt=person)}), clock=clock)
    with (
        ProbeServer(tokens.verifier(), TLS) as probe,
        grpc_bearer.secure_channel(probe.target, TLS.channel_credentials(), auth=auth) as channel,
    ):
        call = ProbeStub(channel).Unary.future(ProbeRequest(index=1), timeout=60)
        assert eventually(lambda: len(person.prompts) == 1)
        for _ in range(100):
            clock.advance(5)
        server.verdict = ""

        assert Aside(call.result).done(clock).count == 1


def test_asyncio_waits_without_blocking_the_loop(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock
) -> None:
    async def main() -> str:
        auth = BearerAuth(source(prompt=Person(server)), clock=clock)
        waiting = asyncio.ensure_future(auth.atoken())
        while not waiting.done():
            clock.advance(1)
            await asyncio.sleep(0.005)
        return waiting.result().value

    assert asyncio.run(main()) in server.tokens.issued


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ("access_denied", "the log-in was declined"),
        ("expired_token", "nobody confirmed the log-in in time"),
        ("authorization_pending", "nobody confirmed the log-in in time"),
        ("invalid_grant", "answered 400 invalid_grant"),
        ("unauthorized_client", "answered 400 unauthorized_client"),
    ],
)
def test_a_login_that_comes_to_nothing(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock, verdict: str, words: str
) -> None:
    person = Person(server, verdict)
    auth = BearerAuth(source(prompt=person), clock=clock)

    error = failure(lambda: Aside(auth.token).done(clock, 5), TokenRejectedError, words)

    assert_hidden(error, *server.secrets)
    person.verdict = ""
    clock.advance(100)  # then they may be asked again
    assert Aside(auth.token).done(clock).value in server.tokens.issued
    assert len(person.prompts) == 2


def test_trouble_on_the_way_is_waited_out(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock, tokens: TokenServer
) -> None:
    def prompt(_: DevicePrompt) -> None:
        server.verdict = ""
        tokens.script(Reset(), Status(503), Status(429, retry_after=60), Reset())

    assert Aside(BearerAuth(source(prompt=prompt), clock=clock).token).done(clock).value in tokens.issued
    assert len(tokens.exchanges) == 6


def test_to_be_asked_again_after_the_refresh_token_has_ended(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock, tmp_path: Path
) -> None:
    person = Person(server)
    for store in (None, tmp_path / "login"):
        person.prompts.clear()
        with BearerAuth(source(prompt=person, store=store), clock=clock) as auth:
            Aside(auth.token).done(clock)
            server.end()
            clock.advance(4000)
            assert Aside(auth.token).done(clock).value == server.tokens.issued[-1]
        assert len(person.prompts) == 2


def test_a_server_that_gives_no_refresh_token_has_somebody_asked_each_time(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock, tmp_path: Path
) -> None:
    person, store, server.gives_refresh_tokens = Person(server), tmp_path / "login", False
    Aside(BearerAuth(source(prompt=person, store=store), clock=clock).token).done(clock)

    assert BearerAuth(source(prompt=person, store=store), clock=clock).token().value == server.tokens.issued[0]
    clock.advance(4000)
    Aside(BearerAuth(source(prompt=person, store=store), clock=clock).token).done(clock)
    assert len(person.prompts) == 2


# -------------------------------------------------------------------------------------------------------- who is asked


def test_nobody_is_asked_where_there_is_no_terminal(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock, capfd: pytest.CaptureFixture[str]
) -> None:
    error = failure(lambda: source().fetch(CallContext(clock=clock)), TokenRejectedError, "there is no login; log in")

    assert "where stderr is a terminal, or give prompt=" in str(error)
    assert server.tokens.exchanges == []
    assert capfd.readouterr() == ("", "")


def test_log_in_asks_whatever_is_kept_and_keeps_what_comes_of_it(
    server: LoginServer,
    source: Callable[..., DeviceCodeSource],
    clock: ManualClock,
    tmp_path: Path,
    ca: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store, server.verdict = tmp_path / "login", ""
    for _ in range(2):
        logged_in = Aside(lambda: source(store=store).log_in(clock=clock)).done(clock)
    other = RefreshTokenSource(server.token_url, CLIENT_ID, store=store, ca=ca).fetch(CallContext(clock=clock))

    assert logged_in.value == other.value == server.tokens.issued[-1]
    assert capsys.readouterr().err.count("To log in, open https://127.0.0.1:") == 2
    assert len(server.devices) == 2


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no terminals here")
def test_the_terminal_is_asked_and_ctrl_c_ends_it_and_frees_the_lock(
    server: LoginServer, source: Callable[..., DeviceCodeSource], tmp_path: Path, ca: Path
) -> None:
    store = tmp_path / "login"
    script = f"""
import signal
from grpc_bearer import BearerAuth, DeviceCodeSource
signal.signal(signal.SIGINT, signal.default_int_handler)  # who is started in the background ignores it
source = DeviceCodeSource({server.token_url!r}, {CLIENT_ID!r}, device_authorization_url={server.device_url!r},
    ca={str(ca)!r}, store={str(store)!r})
BearerAuth(source).token()
"""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", script], stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    while b"WDJB-MJHT within" not in shown:
        shown += os.read(ours, 1024)
    process.send_signal(signal.SIGINT)

    assert process.wait(30) != 0
    os.close(ours)
    server.verdict, person = "", Person(server)
    server.device_answer["interval"] = 0.05
    assert source(prompt=person, store=store).fetch(CallContext()).value in server.tokens.issued


def test_two_programs_that_begin_at_once_ask_once(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock, tmp_path: Path
) -> None:
    person = Person(server, "authorization_pending")
    sources = [source(prompt=person, store=tmp_path / "login") for _ in range(2)]
    both = [Aside(lambda each=each: each.fetch(CallContext(clock=clock))) for each in sources]  # type: ignore[misc]
    assert eventually(lambda: len(person.prompts) == 1)
    server.verdict = ""

    assert len({each.done(clock).value for each in both}) == 1
    assert len(person.prompts) == 1


def test_two_auths_of_one_source_ask_once(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock
) -> None:
    person = Person(server, "authorization_pending")
    one = source(prompt=person)
    both = [Aside(BearerAuth(one, clock=clock).token) for _ in range(2)]
    assert eventually(lambda: len(person.prompts) == 1)
    server.verdict = ""

    assert len({each.done(clock).value for each in both}) == 1
    assert len(person.prompts) == 1


def test_to_close_the_auth_ends_the_waiting(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock
) -> None:
    person = Person(server, "authorization_pending")
    one = source(prompt=person)
    auth, direct = BearerAuth(one, clock=clock), Aside(lambda: one.fetch(CallContext(clock=clock)))
    assert eventually(lambda: one._waiting is not None and len(person.prompts) == 1)
    auth.close()

    failure(lambda: direct.done(clock, 0), TokenRejectedError, "closed while it waited for somebody to log in")


def test_a_prompt_that_fails_is_told_without_its_text(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock
) -> None:
    def no_screen(prompt: DevicePrompt) -> None:
        raise OSError("s3cret")

    error = failure(
        lambda: source(prompt=no_screen).fetch(CallContext(clock=clock)), TokenUnavailableError, "raised OSError"
    )

    assert_hidden(error, "s3cret", *server.secrets)


# -------------------------------------------------------------------------------------------------------- what is given


def test_by_issuer(server: LoginServer, tokens: TokenServer, ca: Path, clock: ManualClock) -> None:
    metadata = {
        "issuer": tokens.url(""),
        "token_endpoint": server.token_url,
        "device_authorization_endpoint": server.device_url,
    }
    tokens.serve("/.well-known/openid-configuration", lambda _: Response(200, json.dumps(metadata).encode()))
    source = DeviceCodeSource(issuer=tokens.url(""), client_id=CLIENT_ID, prompt=Person(server), ca=ca)

    assert Aside(lambda: source.fetch(CallContext(clock=clock))).done(clock).value in tokens.issued
    del metadata["device_authorization_endpoint"]
    source = DeviceCodeSource(issuer=tokens.url(""), client_id=CLIENT_ID, prompt=Person(server), ca=ca)
    failure(lambda: source.fetch(CallContext(clock=clock)), TokenFormatError, "names no device_authorization_endpoint")


def test_it_pickles_without_a_login(
    server: LoginServer, source: Callable[..., DeviceCodeSource], clock: ManualClock
) -> None:
    one = source(prompt=print)
    server.verdict = ""
    token = Aside(lambda: one.fetch(CallContext(clock=clock))).done(clock)
    dumped = pickle.dumps(one)

    assert (
        repr(pickle.loads(dumped))
        == repr(one)
        == f"DeviceCodeSource(host={one._client.server.host!r}, " + ("auth_method='none')")
    )
    assert not any(secret.encode() in dumped for secret in (*server.secrets, token.value))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"prompt": "ask"}, "prompt: expected a function of a DevicePrompt, got str"),
        ({"device_authorization_url": None}, "device_authorization_url: missing"),
        ({"device_authorization_url": "http://example.com/"}, "device_authorization_url: http://"),
        ({"store": b"x"}, "store: expected a path, got bytes"),
    ],
)
def test_wrong_arguments(how: dict[str, Any], words: str, source: Callable[..., DeviceCodeSource]) -> None:
    failure(lambda: source(**how), ConfigurationError, f"^{words}")
