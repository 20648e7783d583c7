"""RefreshTokenSource, against a server that takes each refresh token once and ends a login if one comes back."""

from __future__ import annotations

import functools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from _https import assert_hidden, failure
from _login_server import CLIENT_ID, LoginServer
from attachments import TLS, eventually, nothing_in_flight

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    CallContext,
    ConfigurationError,
    RefreshTokenSource,
    SharedCache,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)
from grpc_bearer.testing import ManualClock, ProbeRequest, ProbeServer, ProbeStub, Reset, Response, TokenServer


@pytest.fixture
def server(tokens: TokenServer) -> LoginServer:
    return LoginServer(tokens)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "login"


def put(path: Path, content: str) -> Path:
    path.touch(0o600)
    path.write_text(content)
    return path


def test_each_refresh_token_is_used_once_and_the_next_process_goes_on(
    server: LoginServer, ca: Path, store: Path, clock: ManualClock
) -> None:
    given = server.new()
    put(store, given)
    values = []
    for _ in range(3):  # three starts of a program
        source = RefreshTokenSource(server.token_url, CLIENT_ID, refresh_token=store, scope="read", ca=ca)
        with BearerAuth(source, clock=clock) as auth:
            values += [auth.token().value for _ in range(3)]
            clock.advance(3000)  # past the refresh point
            values.append(auth.token().value)
            assert eventually(lambda: nothing_in_flight(auth))  # asked at once
            values.append(auth.token().value)

    assert server.refreshed[0] == given
    assert len(set(server.refreshed)) == len(server.refreshed)
    assert not server._ended
    assert {(form["client_id"], form["scope"]) for form in server.asked} == {(CLIENT_ID, "read")}
    document = json.loads(store.read_text())
    assert (document["refresh_token"], document["access_token"]) == (server.secrets[-1], values[-1])


def test_a_second_process_takes_the_access_token_that_is_there_without_a_request(
    server: LoginServer, ca: Path, store: Path, clock: ManualClock
) -> None:
    put(store, server.new())
    sources = [RefreshTokenSource(server.token_url, CLIENT_ID, store=store, ca=ca) for _ in range(2)]

    first, second = (BearerAuth(source, clock=clock).token() for source in sources)

    assert (first.value, first.expires_at) == (second.value, second.expires_at)
    assert len(server.asked) == 1


def test_a_token_that_a_grpc_server_refuses_is_replaced_for_all(
    server: LoginServer, tokens: TokenServer, ca: Path, store: Path, clock: ManualClock
) -> None:
    put(store, server.new())
    verifier = tokens.verifier()
    with ProbeServer(verifier, TLS) as probe:
        auths = [
            BearerAuth(RefreshTokenSource(server.token_url, CLIENT_ID, store=store, ca=ca), clock=clock) for _ in "ab"
        ]
        codes = []
        for step in range(2):
            for auth in auths:
                with grpc_bearer.secure_channel(probe.target, TLS.channel_credentials(), auth=auth) as channel:
                    codes.append(ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=20).count)
            if step == 0:
                verifier.revoke(*tokens.issued)

    assert codes == [1] * 4
    assert len(server.asked) == 2


def test_what_ends_a_login_is_told_lasts_and_heals_with_the_next_login(
    server: LoginServer, ca: Path, store: Path, clock: ManualClock
) -> None:
    put(store, server.new())
    source = RefreshTokenSource(server.token_url, CLIENT_ID, store=store, ca=ca)
    server.end()
    with BearerAuth(source, clock=clock) as auth:
        for seconds in (0, 60, 300):
            clock.advance(seconds)
            error = failure(auth.token, TokenRejectedError, r"no longer good \(invalid_grant\); log in again$")
            assert error.code is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]
            assert_hidden(error, *server.secrets)
        assert len(server.asked) == 1
        put(store, server.new())
        clock.advance(300)
        assert auth.token().value in server.tokens.issued


def test_a_server_that_is_down_is_no_end_of_a_login(
    server: LoginServer, tokens: TokenServer, ca: Path, store: Path, clock: ManualClock
) -> None:
    put(store, server.new())
    source = RefreshTokenSource(server.token_url, CLIENT_ID, store=store, ca=ca)
    tokens.fail_with(Reset())

    failure(lambda: source.fetch(CallContext(clock=clock)), TokenUnavailableError, "connection reset")
    tokens.heal()

    assert source.fetch(CallContext(clock=clock)).value in tokens.issued
    assert store.read_text().startswith("{")


def test_what_is_given_inline_by_file_and_by_a_function(
    server: LoginServer, ca: Path, store: Path, tmp_path: Path, clock: ManualClock
) -> None:
    context = CallContext(clock=clock)
    first = put(tmp_path / "first", server.new())
    in_memory: list[Any] = [server.new(), functools.partial(str, server.new())]
    with_store: list[Any] = [server.new(), first, functools.partial(str, server.new())]
    for given, kept in [*((each, None) for each in in_memory), *((each, store) for each in with_store)]:
        source = RefreshTokenSource(server.token_url, CLIENT_ID, refresh_token=given, store=kept, ca=ca)
        assert source.fetch(context).value in server.tokens.issued
        assert source.fetch(context).value in server.tokens.issued

    assert first.read_text().startswith("rt-")


@pytest.mark.parametrize(
    ("more", "words"),
    [({"token_type": "DPoP"}, "token_type is not Bearer"), ({"expires_in": -1}, "already expired")],
)
def test_a_refresh_token_beside_an_unusable_token_is_kept(
    server: LoginServer, ca: Path, store: Path, clock: ManualClock, more: dict[str, object], words: str
) -> None:
    put(store, server.new())
    source = RefreshTokenSource(server.token_url, CLIENT_ID, store=store, ca=ca)
    server.more = more
    failure(lambda: source.fetch(CallContext(clock=clock)), TokenFormatError, words)
    server.more = {}

    assert source.fetch(CallContext(clock=clock)).value in server.tokens.issued
    assert not server._ended


def test_no_refresh_token_in_the_answer_keeps_the_old_one(
    tokens: TokenServer, ca: Path, store: Path, clock: ManualClock
) -> None:
    server = LoginServer(tokens, rotates=False)
    source = RefreshTokenSource(server.token_url, CLIENT_ID, refresh_token=(given := server.new()), store=store, ca=ca)

    for _ in range(3):
        source.fetch(CallContext(clock=clock))

    assert server.refreshed == [given] * 3
    assert json.loads(store.read_text())["refresh_token"] == given


def test_another_clients_login_is_sent_nowhere(server: LoginServer, ca: Path, store: Path, clock: ManualClock) -> None:
    put(store, server.new())
    RefreshTokenSource(server.token_url, CLIENT_ID, store=store, ca=ca).fetch(CallContext(clock=clock))
    for url, client in ((server.token_url, "other"), (server.tokens.url("/elsewhere"), CLIENT_ID)):
        source = RefreshTokenSource(url, client, store=store, ca=ca)
        failure(lambda: source.fetch(CallContext(clock=clock)), TokenRejectedError, "of another client")  # noqa: B023

    assert len(server.tokens.exchanges) == 1


SCRIPT = """
import json, os, signal, sys
from grpc_bearer import BearerAuth, CallContext, RefreshTokenSource
from grpc_bearer.sources import _login_source
url, ca, store, how, times = json.loads(sys.argv[1])
source = RefreshTokenSource(url, "my-app", store=store, ca=ca)

def dying(function, at):
    calls = []
    def called(*args, **named):
        calls.append(1)
        if len(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **named)
    return called

if how == "answer":  # the answer is here, and nothing is written
    _login_source.LoginSource._granted = dying(_login_source.LoginSource._granted, 1)
elif how == "sync":  # written, and not yet synced; the first is of the room that is taken before
    os.fsync = dying(os.fsync, 2)
elif how == "move":
    os.replace = dying(os.replace, 1)
elif how == "folder":
    os.fsync = dying(os.fsync, 3)
elif how == "use":
    RefreshTokenSource.fetch = dying(RefreshTokenSource.fetch, 2)
for n in range(times):
    print(source.fetch(CallContext()).value, flush=True)
"""


def started(server: LoginServer, ca: Path, store: Path, how: str = "", times: int = 1) -> subprocess.Popen[str]:
    arguments = json.dumps([server.token_url, str(ca), str(store), how, times])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_refresh_all_the_time_never_use_one_twice(server: LoginServer, ca: Path, store: Path) -> None:
    put(store, server.new())
    processes = [started(server, ca, store, times=8) for _ in range(5)]

    ends = [process.communicate(timeout=120) for process in processes]

    assert [process.returncode for process in processes] == [0] * 5, ends
    assert len(set(server.refreshed)) == len(server.refreshed)
    assert sorted({value for out, _ in ends for value in out.split()}) == sorted(server.tokens.issued)


@pytest.mark.parametrize(
    ("how", "goes_on", "asked"), [("answer", False, 2), ("sync", True, 1), ("move", True, 1), ("folder", True, 1)]
)
def test_what_a_killed_process_leaves_to_the_next(
    server: LoginServer, ca: Path, store: Path, how: str, goes_on: bool, asked: int, clock: ManualClock
) -> None:
    put(store, server.new())
    victim = started(server, ca, store, how)
    victim.communicate(timeout=60)
    source = RefreshTokenSource(server.token_url, CLIENT_ID, store=store, ca=ca)

    assert victim.returncode == -9
    if goes_on:  # with the token that the other was killed for
        assert source.fetch(CallContext()).value == server.tokens.issued[-1]
        source.fetch(CallContext())
        asked += 1
    else:
        failure(lambda: source.fetch(CallContext()), TokenRejectedError, r"\(invalid_grant\); log in again")
    assert len(server.asked) == asked
    assert not list(store.parent.glob("*.new"))


def test_it_pickles_by_reference_and_never_with_what_followed(
    server: LoginServer, ca: Path, store: Path, clock: ManualClock
) -> None:
    put(store, server.new())
    source = RefreshTokenSource(server.token_url, CLIENT_ID, store=store, ca=ca)
    source.fetch(CallContext(clock=clock))
    dumped = pickle.dumps(source)
    inline = RefreshTokenSource(server.token_url, CLIENT_ID, refresh_token=server.new(), ca=ca)

    assert not any(secret.encode() in dumped for secret in (*server.secrets, *server.tokens.issued))
    assert pickle.loads(dumped).fetch(CallContext(clock=clock)).value == server.tokens.issued[-1]
    failure(lambda: pickle.dumps(inline), ConfigurationError, r"^refresh_token: .*pickle_secrets=True")
    assert pickle.loads(pickle.dumps(BearerAuth(inline, pickle_secrets=True)))
    inline.fetch(CallContext(clock=clock))
    failure(lambda: pickle.dumps(BearerAuth(inline, pickle_secrets=True)), ConfigurationError, "give store=")


def test_a_shared_cache_keeps_what_is_in_no_file(
    server: LoginServer, ca: Path, store: Path, tmp_path: Path, clock: ManualClock
) -> None:
    given, cache = server.new(), SharedCache(tmp_path / "cache")
    inline = [RefreshTokenSource(server.token_url, CLIENT_ID, refresh_token=given, ca=ca) for _ in range(2)]
    assert len({BearerAuth(each, cache=cache, clock=clock).token().value for each in inline}) == 1
    in_file = RefreshTokenSource(server.token_url, CLIENT_ID, store=put(store, server.new()), ca=ca)

    BearerAuth(in_file, cache=cache, clock=clock).token()

    assert len(server.asked) == 2
    assert len(list((tmp_path / "cache").glob("*.token"))) == 1


def test_a_confidential_client_and_an_issuer(
    server: LoginServer, tokens: TokenServer, ca: Path, store: Path, clock: ManualClock
) -> None:
    issuer = tokens.url("")
    metadata: dict[str, Any] = {"issuer": issuer, "token_endpoint": server.token_url}
    tokens.serve("/.well-known/openid-configuration", lambda _: Response(200, json.dumps(metadata).encode()))
    source = RefreshTokenSource(
        issuer=issuer,
        client_id=CLIENT_ID,
        client_secret="s3cret",
        auth_method="client_secret_post",
        store=put(store, server.new()),
        ca=ca,
    )

    assert source.fetch(CallContext(clock=clock)).value in tokens.issued
    assert server.asked[0]["client_secret"] == "s3cret"
    assert repr(source) == f"RefreshTokenSource(host={issuer[8:]!r}, auth_method='client_secret_post')"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "refresh_token: missing; or give store=, the file that holds one"),
        ({"refresh_token": 7}, "refresh_token: expected a str, a path or a function, got int"),
        ({"refresh_token": ""}, "refresh_token: expected a str that is not empty"),
        ({"refresh_token": os.devnull}, "refresh_token: this text is the name of a file"),
        ({"store": 7}, "store: expected a path, got int"),
        ({"store": ""}, "store: empty"),
        ({"store": "x", "lifetime": 0}, "lifetime: expected a number of seconds"),
        ({"store": "x", "scope": 7}, "scope: expected a str"),
    ],
)
def test_wrong_arguments(how: dict[str, Any], words: str) -> None:
    failure(lambda: RefreshTokenSource("https://localhost/token", "me", **how), ConfigurationError, f"^{words}")
