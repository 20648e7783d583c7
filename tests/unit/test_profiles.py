"""The five services: exactly the claims, headers and limits that their documents ask for, and clear words when not."""

from __future__ import annotations

import json
import pickle
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jose import verified

from grpc_bearer import BearerAuth, CallContext, Source, Token, profiles
from grpc_bearer.errors import (
    ConfigurationError,
    TokenRejectedError,
)
from grpc_bearer.sources.routed import RoutedSource
from grpc_bearer.sources.static import StaticSource
from grpc_bearer.testing import CA, ManualClock, TokenServer, private_pem, throwaway_key

NOW = 1_700_000_000
ISSUED = NOW - 5  # what is signed is back-dated a little
BEAR = {"api_key": "deca1611-key", "scope": "YOUR_SCOPE", "secret": "2cd66c59-s3cret"}
EC_KEY, RSA_KEY = throwaway_key("ES256"), throwaway_key("RS256")
EC_PEM, RSA_PEM = private_pem(EC_KEY), private_pem(RSA_KEY)
OPENFX = {"name": "org/o-1/apiKey/k-1", "privateKey": EC_PEM}
FLEET = "https://api.example.com/fleet.v1.Fleet"


def everything_said(error: BaseException) -> str:
    """Messages and arguments along the whole chain, without the lines of this file that a traceback would quote."""
    said, link = "", error
    while link is not None:
        said += "".join(traceback.format_exception_only(link)) + repr(link.args) + repr(vars(link))
        link = link.__cause__ or link.__context__
    return said


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def json_forms(tmp_path: Path, content: dict[str, str]) -> dict[str, Any]:
    path = written(tmp_path / "credentials.json", content)
    return {
        "path": path,
        "str": str(path),
        "text": json.dumps(content),
        "mapping": content,
        "bytes": json.dumps(content).encode(),
    }


FORMS = ("path", "str", "text", "mapping", "bytes")

# -- Bear --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[CA, Path]:
    ca = CA()
    return ca, ca.write(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def tokens(ca_file: tuple[CA, Path], clock: ManualClock) -> Iterator[TokenServer]:
    with TokenServer(ca_file[0], clock) as server:
        yield server


@pytest.fixture
def bear(tokens: TokenServer, ca_file: tuple[CA, Path], clock: ManualClock) -> Iterator[Callable[..., BearerAuth]]:
    made: list[BearerAuth] = []

    def make(credentials: Any = BEAR, *, lifetime: int = 3600, **options: Any) -> BearerAuth:
        url = tokens.serve_bear(BEAR, lifetime=lifetime)
        made.append(profiles.bear(credentials, url=url, ca=ca_file[1], clock=clock, **options))
        return made[-1]

    yield make
    for auth in made:
        auth.close()


@pytest.mark.parametrize("form", FORMS)
def test_bear_posts_its_three_fields_as_json_and_takes_the_text(
    bear: Callable[..., BearerAuth], tokens: TokenServer, tmp_path: Path, form: str
) -> None:
    auth = bear(json_forms(tmp_path, BEAR)[form])

    headers = auth.headers(FLEET)

    assert headers == {"authorization": f"Bearer {tokens.issued[0]}"}
    [exchange] = tokens.exchanges
    assert (exchange.method, exchange.path) == ("POST", "/authorizeApiAccess")
    assert json.loads(exchange.body) == BEAR


def test_bear_is_refreshed_at_an_age_of_15_to_20_minutes_or_before_its_exp(bear: Callable[..., BearerAuth]) -> None:
    ages = []
    for _ in range(10):
        token = bear().token()
        assert token.expires_at == NOW + 3600
        assert token.refresh_at is not None
        ages.append(token.refresh_at - NOW)

    assert all(900 <= age <= 1200 for age in ages)
    assert len(set(ages)) > 1
    short = bear(lifetime=600).token()
    assert short.refresh_at is not None
    assert short.refresh_at <= NOW + 600


def test_bear_reads_its_file_again_for_each_exchange(
    bear: Callable[..., BearerAuth], tokens: TokenServer, tmp_path: Path, clock: ManualClock
) -> None:
    path = written(tmp_path / "key.json", {**BEAR, "secret": "wrong"})
    auth = bear(path)
    with pytest.raises(TokenRejectedError, match="401"):
        auth.token()

    written(path, BEAR)

    clock.advance(300)  # as long as it leaves an endpoint alone that refused it, at most
    assert auth.token().value == tokens.issued[0]


def test_bear_pickles_with_a_file_and_refuses_with_inline_credentials(ca_file: tuple[CA, Path], tmp_path: Path) -> None:
    with TokenServer(ca_file[0]) as server:
        url = server.serve_bear(BEAR)
        dumped = pickle.dumps(profiles.bear(written(tmp_path / "key.json", BEAR), url=url, ca=ca_file[1]))

        assert pickle.loads(dumped).token().value == server.issued[0]
    assert BEAR["secret"].encode() not in dumped
    with pytest.raises(ConfigurationError, match="given inline"):
        pickle.dumps(profiles.bear(BEAR))


# -- Skykit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("traditional", [True, False], ids=["PKCS#1", "PKCS#8"])
@pytest.mark.parametrize("passphrase", [None, "s3cret"], ids=["open", "encrypted"])
def test_skykit_signs_iss_iat_and_exp_and_nothing_else(
    tmp_path: Path, clock: ManualClock, traditional: bool, passphrase: str | None
) -> None:
    pem = private_pem(RSA_KEY, traditional=traditional, passphrase=passphrase.encode() if passphrase else None)
    path = written(tmp_path / "private.pem", pem)

    headers = profiles.skykit(path, "me@example.com", passphrase=passphrase, clock=clock).headers(FLEET)

    scheme, _, token = headers["authorization"].partition(" ")
    header, claims = verified(token, RSA_KEY, "RS256")
    assert scheme == "Bearer"
    assert header == {"alg": "RS256", "typ": "JWT"}
    assert claims == {"iss": "me@example.com", "iat": ISSUED, "exp": ISSUED + 3600}


def test_skykit_signs_once_and_reuses_until_near_expiry(clock: ManualClock) -> None:
    auth = profiles.skykit(RSA_PEM, "me@example.com", clock=clock)

    first = auth.token(FLEET)
    clock.advance(600)
    second = auth.token("https://api.example.com/other.Service")
    clock.advance(3000)
    third = auth.token()

    assert first == second
    assert verified(third.value, RSA_KEY, "RS256")[1]["iat"] == ISSUED + 3600


# -- BitBroker ---------------------------------------------------------------------------------------------------------

ROLES = {"coordinator": "t-coordinator", "contributor": "t-contributor", "consumer": "t-consumer"}
ROUTES = {
    "bbk.Users/Read": "consumer",
    "bbk.Users": "coordinator",
    "/bbk.data.*/*": "contributor",
    "bbk.*": "consumer",
}


def test_bitbroker_sends_the_bare_token_in_its_own_header() -> None:
    assert profiles.bitbroker("4735d360.5d5c9eab.423c9101").headers(FLEET) == {
        "x-bbk-auth-token": "4735d360.5d5c9eab.423c9101"
    }


@pytest.mark.parametrize(
    ("service", "method", "role"),
    [
        ("bbk.Users", "Read", "consumer"),
        ("bbk.Users", "Create", "coordinator"),
        ("bbk.data.Entities", "Put", "contributor"),
        ("bbk.Policies", "Get", "consumer"),
    ],
)
def test_bitbroker_takes_the_role_of_the_first_route_that_matches(service: str, method: str, role: str) -> None:
    auth = profiles.bitbroker(**ROLES, routes=ROUTES)

    assert auth.headers(f"https://host:8443/{service}", method) == {"x-bbk-auth-token": f"t-{role}"}


def test_bitbroker_without_a_route_fails_and_names_service_method_and_patterns() -> None:
    auth = profiles.bitbroker(consumer="s3cret", routes={"bbk.Consumer/*": "consumer", "other.*": "consumer"})

    with pytest.raises(TokenRejectedError) as caught:
        auth.headers("https://host/bank.Accounts", "List")

    assert str(caught.value) == "no route for bank.Accounts/List: none of bbk.Consumer/*, other.* matches"


def test_bitbroker_with_roles_needs_a_service_url_outside_a_call() -> None:
    auth = profiles.bitbroker(consumer="a", coordinator="b", routes={"x.A": "consumer", "x.B": "coordinator"})

    with pytest.raises(TokenRejectedError, match="outside a call give its URL"):
        auth.token()
    assert auth.token("https://host/x.B").value == "b"


def test_bitbroker_takes_files_and_functions_and_a_changed_file(tmp_path: Path) -> None:
    path = written(tmp_path / "token", "t0\n")
    auth = profiles.bitbroker(consumer=path, coordinator=lambda: "t9", routes={"x.A": "consumer", "x.B": "coordinator"})
    url = "https://host/x.A"

    first = auth.token(url)
    written(path, "t1\n")
    auth.invalidate(first)

    assert (first.value, auth.token(url).value, auth.token("https://host/x.B").value) == ("t0", "t1", "t9")


# -- CRM ---------------------------------------------------------------------------------------------------------------


async def coroutine() -> str:
    return "s3cret"


def test_crm_sends_a_bearer_token_from_a_str_a_file_or_a_function(tmp_path: Path) -> None:
    path = written(tmp_path / "token", " s3cret\n")

    for token in ("s3cret", path, lambda: "s3cret", lambda: Token("s3cret"), coroutine):
        with profiles.crm(token) as auth:
            assert auth.headers(FLEET) == {"authorization": "Bearer s3cret"}


def test_crm_takes_up_a_changed_file(tmp_path: Path) -> None:
    path = written(tmp_path / "token", "t0")
    auth = profiles.crm(path)

    first = auth.token()
    written(path, "t1")
    auth.invalidate(first)

    assert (first.value, auth.token().value) == ("t0", "t1")


# -- OpenFX ------------------------------------------------------------------------------------------------------------


def one_line(pem: str) -> str:
    return pem.replace("\n", "")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("traditional", [False, True], ids=["PKCS#8", "SEC1"])
@pytest.mark.parametrize(
    "pasted", [str, one_line, lambda pem: pem.replace("\n", "\\n")], ids=["PEM", "one line", "\\n"]
)
def test_openfx_signs_exactly_what_its_document_asks_for(
    tmp_path: Path, clock: ManualClock, form: str, traditional: bool, pasted: Callable[[str], str]
) -> None:
    pem = pasted(private_pem(EC_KEY, traditional=traditional))
    credentials = {"name": OPENFX["name"], "privateKey": pem, "orgId": "o-1"}

    headers = profiles.openfx(json_forms(tmp_path, credentials)[form], clock=clock).headers(FLEET)

    scheme, _, token = headers["authorization"].partition(" ")
    header, claims = verified(token, EC_KEY, "ES256")
    assert scheme == "Bearer"
    assert re.fullmatch("[0-9a-f]{32}", header.pop("nonce"))
    assert header == {"alg": "ES256", "kid": OPENFX["name"], "typ": "JWT"}
    assert claims == {
        "aud": ["developer-api"],
        "iss": "openfx",
        "sub": OPENFX["name"],
        "iat": ISSUED,
        "nbf": ISSUED,
        "exp": ISSUED + 120,
    }


def test_openfx_signs_a_new_token_for_each_use(clock: ManualClock) -> None:
    auth = profiles.openfx(OPENFX, clock=clock)

    tokens = [auth.token(FLEET) for _ in range(200)]

    nonces = {verified(token.value, EC_KEY, "ES256")[0]["nonce"] for token in tokens}
    assert len(nonces) == 200
    assert all(token.single_use for token in tokens)


def test_openfx_options_reach_the_claims(clock: ManualClock) -> None:
    auth = profiles.openfx(OPENFX, audience="sandbox", issuer="fx", lifetime=30, clock=clock)

    claims = verified(auth.token().value, EC_KEY, "ES256")[1]

    assert (claims["aud"], claims["iss"], claims["exp"]) == (["sandbox"], "fx", NOW - 3 + 30)


def test_openfx_pickles_with_a_file_and_refuses_with_an_inline_key(tmp_path: Path) -> None:
    dumped = pickle.dumps(profiles.openfx(written(tmp_path / "key.json", OPENFX)))

    token = pickle.loads(dumped).token()

    assert verified(token.value, EC_KEY, "ES256")[0]["kid"] == OPENFX["name"]
    assert EC_PEM.splitlines()[2].encode() not in dumped
    with pytest.raises(ConfigurationError, match="a pickle would carry it in the clear"):
        pickle.dumps(profiles.openfx(OPENFX))


# -- all of them -------------------------------------------------------------------------------------------------------

ALL: dict[str, Callable[..., BearerAuth]] = {
    "bear": lambda **options: profiles.bear(BEAR, **options),
    "skykit": lambda **options: profiles.skykit(RSA_PEM, "me", **options),
    "bitbroker": lambda **options: profiles.bitbroker("s3cret", **options),
    "crm": lambda **options: profiles.crm("s3cret", **options),
    "openfx": lambda **options: profiles.openfx(OPENFX, **options),
}


@pytest.mark.parametrize("name", ALL)
def test_every_profile_takes_the_options_of_bearer_auth_and_shows_no_secret(name: str, clock: ManualClock) -> None:
    with ALL[name](keep_warm=True, clock=clock) as auth:
        shown = repr(auth)

    assert isinstance(auth, BearerAuth)
    assert not [secret for secret in ("s3cret", BEAR["api_key"], EC_PEM.splitlines()[1]) if secret in shown]


# -- routing -----------------------------------------------------------------------------------------------------------


class ByMethod(Source):
    def __init__(self, single_use: bool = False) -> None:
        self.single_use = single_use
        self.closed = False

    def key(self, context: CallContext) -> str:
        return context.method

    def fetch(self, context: CallContext) -> Token:
        return Token(f"t-{context.method}")

    def close(self) -> None:
        self.closed = True


def context(service: str, method: str = "Get") -> CallContext:
    return CallContext(f"https://host/{service}", method)


def test_a_route_delegates_key_fetch_and_close() -> None:
    inner = ByMethod()
    source = RoutedSource({"a.*": inner, "b.*": StaticSource("t-b")})

    assert source.fetch(context("a.S", "List")).value == "t-List"
    assert source.key(context("a.S", "List")) != source.key(context("a.S", "Get"))
    assert source.key(context("b.S", "List")) == source.key(context("b.T", "Get"))
    source.close()
    assert inner.closed


def test_patterns_with_one_source_share_its_tokens() -> None:
    shared = StaticSource("t")
    source = RoutedSource({"a.*": shared, "b.*": StaticSource("u"), "c.S/Get": shared})

    assert source.key(context("a.S")) == source.key(context("c.S")) != source.key(context("b.S"))


@pytest.mark.parametrize(
    ("pattern", "service", "method", "matches"),
    [
        ("*", "a.S", "Get", True),
        ("a.S", "a.S", "Get", True),
        ("a.S", "a.Some", "Get", False),
        ("/a.S/Get", "a.S", "Get", True),
        ("a.S/Get", "a.S", "GetAll", False),
        ("a.S/Get*", "a.S", "GetAll", True),
        ("*/Get", "a.b.S", "Get", True),
        ("a.s", "a.S", "Get", False),
        ("a.[ST]", "a.T", "Get", True),
        ("a.S?", "a.S2", "Get", True),
        ("a+S", "aaS", "Get", False),
    ],
)
def test_patterns_are_those_of_fnmatch_with_case(pattern: str, service: str, method: str, matches: bool) -> None:
    source = RoutedSource({pattern: StaticSource("t")})

    if matches:
        assert source.fetch(context(service, method)).value == "t"
    else:
        with pytest.raises(TokenRejectedError, match="no route for"):
            source.key(context(service, method))


def test_one_source_alone_needs_no_url() -> None:
    assert RoutedSource({"a.*": StaticSource("t")}).fetch(CallContext()).value == "t"


def test_a_routed_source_is_single_use_and_local_as_its_sources_are() -> None:
    assert RoutedSource({"*": ByMethod(single_use=True)}).single_use
    assert not RoutedSource({"*": ByMethod()}).local
    assert RoutedSource({"*": StaticSource("t")}).local == StaticSource("t").local


def test_a_routed_source_pickles_with_its_sources(tmp_path: Path) -> None:
    from grpc_bearer.sources.file import FileSource

    source = RoutedSource({"a.*": FileSource(written(tmp_path / "token", "t0"))})

    assert pickle.loads(pickle.dumps(source)).fetch(context("a.S")).value == "t0"
    assert repr(source) == "RoutedSource(a.*)"
