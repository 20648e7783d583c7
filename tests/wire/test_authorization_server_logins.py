"""Logins at an authorization server that others wrote, npm's oidc-provider: by a browser, kept, and shared."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from _authorization_server import ORDERS, Api, AuthorizationServer
from _https import assert_hidden, failure
from doors import PATIENCE, TLS

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    CallContext,
    DeviceCodeSource,
    RefreshTokenSource,
    TokenRejectedError,
)
from grpc_bearer.testing import ManualClock, ProbeRequest, ProbeServer, ProbeStub

CLIENTS = ("basic", "post", "key", "federated", "cert", "public")

Server = AuthorizationServer


@pytest.fixture(scope="module")
def server(authorization_server: Server) -> Server:
    return authorization_server


class Browser:
    """Somebody who does what the prompt says, or declines, and whose wait for the next question takes no time."""

    def __init__(self, server: Server, *, decline: bool = False) -> None:
        self.server, self.decline = server, decline
        self.prompts: list[Any] = []
        self.clock = ManualClock(time.time())
        self._over = threading.Event()

    def __call__(self, prompt: Any) -> None:
        self.prompts.append(prompt)
        self.server.visit(prompt.verification_uri_complete, decline=self.decline)

    def __enter__(self) -> Browser:
        self._thread = threading.Thread(target=self._hurry, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _hurry(self) -> None:
        while not self._over.wait(0.01):
            self.clock.advance(0.1)


def log_in(server: Server, how: dict[str, Any], **more: Any) -> tuple[Any, Browser]:
    """The access token of somebody who logs in."""
    with Browser(server) as browser:
        source = DeviceCodeSource(**how, prompt=browser, **more)
        return source.log_in(clock=browser.clock), browser


@pytest.mark.parametrize("name", CLIENTS)
def test_somebody_logs_in_and_stays_so(server: Server, name: str, tmp_path: Path) -> None:
    how = server.client(name, "/openid")
    targets = {"scope": ["openid", "offline_access", "read"], "resource": ORDERS}
    token, browser = log_in(server, how, store=tmp_path / "login", **targets)
    assert whose(server, token.value) == "somebody"
    assert len(browser.prompts) == 1

    # As the next start of the program, and the one after it: each refresh token is used once.
    stored = set()
    for _ in range(2):
        with BearerAuth(RefreshTokenSource(**how, store=tmp_path / "login", **targets)) as auth:
            auth.invalidate(auth.token())
            token = auth.token()
        stored.add(json.loads((tmp_path / "login").read_text())["refresh_token"])
        assert whose(server, token.value) == "somebody"
    assert len(stored) == 2


def whose(server: Server, token: str) -> str:
    """Who has given this token, which is to read orders and nothing else."""
    claims = server.claims(token)
    assert (claims["aud"], claims["scope"]) == (ORDERS, "read")
    return str(claims["sub"])


def test_calls_wait_for_one_login_and_a_token_that_the_api_refuses_asks_nobody_again(server: Server) -> None:
    refused: set[str] = set()
    api = Api(lambda token: token not in refused and server.introspect(token)["active"])
    how = {
        **server.client("public"),
        "device_authorization_url": server.url("/device/auth"),
        "scope": "openid offline_access",
    }
    with Browser(server) as browser, ThreadPoolExecutor(8) as pool, ProbeServer(api, TLS) as probe:
        auth = BearerAuth(DeviceCodeSource(**how, prompt=browser), clock=browser.clock)
        with auth, grpc_bearer.secure_channel(probe.target, TLS.channel_credentials(), auth=auth) as channel:

            def call(index: int) -> object:
                return ProbeStub(channel).Unary(ProbeRequest(index=index), timeout=PATIENCE)

            list(pool.map(call, range(8)))
            refused.add(auth.token().value)
            list(pool.map(call, range(8)))

    assert len(browser.prompts) == 1
    assert len(probe.ledger.accepted) == 16
    assert len(set(probe.ledger.tokens)) == 2


def test_somebody_declines(server: Server) -> None:
    how = server.client("public", "/openid")
    with Browser(server, decline=True) as browser:
        source = DeviceCodeSource(**how, prompt=browser, scope="openid")
        context = CallContext(clock=browser.clock)
        failure(lambda: source.fetch(context), TokenRejectedError, r"declined \(access_denied\)")
    assert len(browser.prompts) == 1


PROCESS = """
import sys
from grpc_bearer import BearerAuth, RefreshTokenSource

issuer, ca, store, resource = sys.argv[1:]
source = RefreshTokenSource(issuer=issuer, client_id="public", store=store, ca=ca, resource=resource)
with BearerAuth(source) as auth:
    for _ in range(3):
        token = auth.token()
        auth.invalidate(token)
    print(auth.token().value)
"""


def test_processes_that_share_a_login_never_use_a_refresh_token_twice(server: Server, tmp_path: Path) -> None:
    """The server ends the whole login if one is used twice, as RFC 9700 section 4.14.2 wants it to."""
    store = tmp_path / "login"
    log_in(server, server.client("public", "/openid"), store=store, scope="openid read offline_access", resource=ORDERS)
    command = [sys.executable, "-c", PROCESS, server.url("/openid"), str(server.roots), str(store), ORDERS]
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(lambda _: subprocess.run(command, capture_output=True, text=True, check=False), range(3)))

    assert [run.stderr for run in runs] == [""] * 3
    for run in runs:
        assert whose(server, run.stdout.strip()) == "somebody"
    refresh_token = json.loads(store.read_text())["refresh_token"]
    assert server.introspect(refresh_token, "/openid")["active"]


def test_a_login_that_has_ended_says_to_log_in_again(server: Server, tmp_path: Path) -> None:
    how, store = server.client("public", "/openid"), tmp_path / "login"
    targets = {"scope": "openid offline_access"}
    log_in(server, how, store=store, **targets)
    stolen = json.loads(store.read_text())["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": stolen, "client_id": "public"}
    assert requests.post(server.url("/openid/token"), form, verify=server.roots, timeout=PATIENCE).ok
    clock = ManualClock(time.time())
    with BearerAuth(RefreshTokenSource(**how, store=store, **targets), clock=clock) as auth:
        auth.invalidate(auth.token())
        error = failure(auth.token, TokenRejectedError, r"no longer good \(invalid_grant\); log in again$")
        assert_hidden(error, stolen)
        log_in(server, how, store=store, **targets)  # somebody does
        clock.advance(900)  # past the backoff of a failure that lasts
        assert server.introspect(auth.token().value, "/openid")["active"]
