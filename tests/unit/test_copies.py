"""Copies: of an auth the same one, of what holds one a working copy. Only pickling refuses to carry a secret."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from attachments import PATIENCE, TLS
from google.oauth2.credentials import Credentials

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    CallContext,
    ClientCredentialsSource,
    ConfigurationError,
    GoogleAuthSource,
    GrpcBearerError,
    HTTPTokenSource,
    JWTSource,
    RoutedSource,
    SharedCache,
    Source,
    StaticSource,
    Token,
    TokenUnavailableError,
    profiles,
)
from grpc_bearer._calls.call_details import changed
from grpc_bearer.testing import OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub, private_pem, throwaway_key

SECRET = "s3cret-" * 8
PEM = private_pem(throwaway_key("ES256"))
URL = "https://auth.example.com/token"

COPIES: dict[str, Callable[[Any], Any]] = {"copy": copy.copy, "deepcopy": copy.deepcopy}


@dataclasses.dataclass
class Config:
    """As programs keep their settings."""

    target: str
    auth: BearerAuth


class Counting(Source):
    """Gives another token each time."""

    def __init__(self) -> None:
        self.fetches = 0

    def fetch(self, context: CallContext) -> Token:
        self.fetches += 1
        return Token(f"token-{self.fetches}", expires_at=context.clock.time() + 600)


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
@pytest.mark.parametrize(
    "auth",
    [
        BearerAuth(SECRET, name="crm", observers=[print]),
        profiles.openfx({"name": "n", "privateKey": PEM}),
        profiles.bear({"api_key": "k", "scope": "s", "secret": SECRET}),
        BearerAuth(lambda: SECRET),
    ],
    ids=["static", "openfx", "bear", "function"],
)
def test_a_copy_of_an_auth_is_the_auth(auth: BearerAuth, copied: Callable[[Any], Any]) -> None:
    assert copied(auth) is auth


def _through_a_pickle(error: Exception) -> Any:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("copied", [*COPIES.values(), _through_a_pickle, GrpcBearerError.fresh])
@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("key: missing"),
        ConfigurationError("missing", field="key"),
        TokenUnavailableError("down", retry_after=3.0, field="host"),
    ],
    ids=str,
)
def test_a_copy_of_an_error_is_as_the_error(error: GrpcBearerError, copied: Callable[[Any], Any]) -> None:
    twin = copied(error)

    assert twin is not error
    assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))


def test_settings_that_were_copied_share_the_token() -> None:
    source = Counting()
    config = Config("localhost:1", BearerAuth(source))

    others = [copy.deepcopy(config).auth, dataclasses.asdict(config)["auth"], dataclasses.replace(config).auth]

    assert {auth.token().value for auth in (config.auth, *others)} == {"token-1"}
    assert source.fetches == 1


def test_one_of_a_class_of_the_users_own_stays_one() -> None:
    class Theirs(BearerAuth):
        pass

    assert type(copy.deepcopy(Theirs(SECRET))) is Theirs


def test_a_pickle_still_refuses_a_secret_given_inline() -> None:
    for thing in (BearerAuth(SECRET), copy.deepcopy(StaticSource(SECRET)), copy.copy(BearerAuth(SECRET))):
        with pytest.raises(ConfigurationError, match="a pickle would carry it in the clear"):
            pickle.dumps(thing)
    with pytest.raises(TypeError, match="does not pickle"):
        pickle.dumps(copy.deepcopy(Token(SECRET)))


@pytest.mark.parametrize(
    "source",
    [
        StaticSource(SECRET),
        JWTSource(PEM, claims={"iss": "me"}),
        RoutedSource({"*": StaticSource(SECRET)}),
    ],
    ids=lambda source: type(source).__name__,
)
def test_a_copy_of_a_source_with_a_secret_gives_its_tokens(source: Source) -> None:
    call = CallContext("https://localhost/shop.v1.Orders", "List")

    assert [type(copied(source).fetch(call)) for copied in COPIES.values()] == [Token, Token]


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_google_credentials_keep_their_own_token_so_a_copy_of_their_source_is_the_source(
    copied: Callable[[Any], Any],
) -> None:
    source = GoogleAuthSource(Credentials(SECRET))  # type: ignore[no-untyped-call]

    assert copied(source) is source


@pytest.mark.parametrize(
    "source",
    [
        ClientCredentialsSource(URL, "me", SECRET),
        ClientCredentialsSource(URL, "me", auth_method="private_key_jwt", key=PEM),
        HTTPTokenSource(URL, json={"secret": SECRET}, headers={"x-api-key": SECRET}),
    ],
    ids=repr,
)
def test_a_copy_of_a_source_that_would_ask_is_the_same_one_to_a_cache(source: Source) -> None:
    twin = copy.deepcopy(source)

    assert (type(twin), twin.identity()) == (type(source), source.identity())


def test_a_copy_of_a_cache_reads_what_the_first_has_kept(tmp_path: Path) -> None:
    cache = SharedCache(tmp_path / "cache", encryption_key=os.urandom(32), name="crm", timeout=PATIENCE)
    first, second = Counting(), Counting()
    BearerAuth(first, cache=cache).token()

    assert BearerAuth(second, cache=copy.deepcopy(cache)).token().value == "token-1"
    assert (first.fetches, second.fetches) == (1, 0)


@pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))
def test_copies_of_interceptors_work(copied: Callable[[Any], Any]) -> None:
    with ProbeServer(OpaqueVerifier([SECRET]), TLS) as server, server.channel() as plain:
        channel = grpc.intercept_channel(plain, copied(grpc_bearer.interceptor(SECRET)))

        assert ProbeStub(channel).Unary(ProbeRequest(index=3), timeout=PATIENCE).count == 1


def test_a_copy_of_a_channel_or_of_a_method_calls_as_the_first_does() -> None:
    with (
        ProbeServer(OpaqueVerifier([SECRET]), TLS) as server,
        grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=SECRET) as channel,
    ):
        replies = [
            ProbeStub(copy.copy(channel)).Unary(ProbeRequest(), timeout=PATIENCE),
            copy.copy(ProbeStub(channel).Unary)(ProbeRequest(), timeout=PATIENCE),
        ]

    assert [reply.count for reply in replies] == [1, 1]


def test_details_of_a_call_that_another_library_made_are_copied_with_what_is_changed() -> None:
    theirs: Any = SimpleNamespace(method="/s/M", timeout=1, metadata=None)

    twin = copy.copy(changed(theirs, 2, (), None))

    assert (twin.method, twin.timeout) == ("/s/M", 2)
