"""How arguments come in: texts and paths of secrets, `~`, what files and shells leave in a text, foreign failures."""

from __future__ import annotations

import base64
import math
import os
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    CallContext,
    ClientCredentialsSource,
    ConfigurationError,
    FileSource,
    HTTPTokenSource,
    JWTSource,
    RoutedSource,
    SharedCache,
    StaticSource,
    Token,
    TokenFormatError,
    TokenUnavailableError,
    profiles,
)
from grpc_bearer.testing import CA, Request, Response, TokenServer, private_pem, throwaway_key

SECRET = "9f86d081-884c7d659a2feaa0c55ad015"
KEY = throwaway_key("ES256")
PEM = private_pem(KEY)
BEAR = {"api_key": "the-api-key", "scope": "probe", "secret": SECRET}
NAMES_A_FILE = "this text is the name of a file, and would be sent itself; pass pathlib.Path(…) to have the file read"
UNFILLED = "a placeholder that was not filled in; put the value itself in its place"


class Endpoint:
    """A token endpoint that takes everything and remembers what was shown to it."""

    def __init__(self, server: TokenServer, ca_file: Path) -> None:
        self.asked: list[Request] = []
        self.statuses: list[int] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.how: dict[str, Any] = {"ca": ca_file}
        self.url = server.serve("/login", self._answer)

    def _answer(self, request: Request) -> Response:
        self.asked.append(request)
        self.meanwhile()
        body = b'{"access_token": "tok-1", "token_type": "Bearer", "expires_in": 60}'
        return Response(self.statuses.pop(0) if self.statuses else 200, body, content_type="application/json")

    def source(self, **how: Any) -> HTTPTokenSource:
        return HTTPTokenSource(self.url, field="access_token", **self.how, **how)

    def client(self, client_id: str = "me", secret: Any = SECRET, **how: Any) -> ClientCredentialsSource:
        return ClientCredentialsSource(self.url, client_id, secret, **self.how, **how)

    def shown(self, source: grpc_bearer.Source) -> Request:
        """What the source shows to get a token."""
        assert source.fetch(CallContext()).value == "tok-1"
        return self.asked[-1]


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    for name in ("HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    ca = CA()
    with TokenServer(ca) as server:
        yield Endpoint(server, ca.write(tmp_path))


@pytest.fixture
def secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a secret, in the folder that this program is in."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "secret.txt"
    path.write_text(f"{SECRET}\n")
    return path


def form_of(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.body.decode())


def basic_of(request: Request) -> str:
    return base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()


def refused(make: Callable[[], object], kind: type[Exception] = ConfigurationError) -> str:
    """What is said; nothing of the secret is in it, nor in what it is chained to."""
    with pytest.raises(kind) as caught:
        make()
    assert type(caught.value) is kind
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None or SECRET not in repr(caught.value.__context__)
    return str(caught.value)


# -- a path stands for what its file holds ----------------------------------------------------------------------------


def test_a_path_is_read_wherever_a_secret_may_stand(endpoint: Endpoint, secret_file: Path) -> None:
    source, client = endpoint.source, endpoint.client

    assert form_of(endpoint.shown(source(form={"subject_token": secret_file})))["subject_token"] == [SECRET]
    assert endpoint.shown(source(json={"a": [{"secret": secret_file}, 7]})).body.decode() == (
        f'{{"a": [{{"secret": "{SECRET}"}}, 7]}}'
    )
    assert endpoint.shown(source(headers={"X-Key": secret_file})).headers["x-key"] == SECRET
    assert basic_of(endpoint.shown(source(auth=("me", secret_file)))) == f"me:{SECRET}"
    assert endpoint.shown(source(body=secret_file)).body.decode() == SECRET
    assert basic_of(endpoint.shown(client(secret=secret_file))) == f"me:{SECRET}"
    assert form_of(endpoint.shown(client(extra={"assertion": secret_file})))["assertion"] == [SECRET]
    bear = profiles.bear({**BEAR, "secret": secret_file}, url=endpoint.url, **endpoint.how)
    with pytest.raises(TokenFormatError):  # Bear answers with a bare token
        bear.token()
    assert endpoint.asked[-1].body.decode() == f'{{"api_key": "the-api-key", "scope": "probe", "secret": "{SECRET}"}}'


def test_a_private_key_and_a_passphrase_are_read_from_paths(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(PEM)
    (tmp_path / "locked.pem").write_text(private_pem(KEY, passphrase=SECRET.encode()))
    (tmp_path / "passphrase").write_text(f"{SECRET}\r\n")

    openfx = profiles.openfx({"name": "k-1", "privateKey": tmp_path / "key.pem"}).token().value
    locked = JWTSource(tmp_path / "locked.pem", passphrase=tmp_path / "passphrase")

    assert jwt.decode(openfx, KEY.public_key(), algorithms=["ES256"], audience="developer-api")["sub"] == "k-1"
    for source in (locked, pickle.loads(pickle.dumps(locked))):
        assert jwt.decode(source.fetch(CallContext()).value, KEY.public_key(), algorithms=["ES256"])


def test_what_is_in_a_file_is_read_for_each_request_and_once_more_after_a_refusal(
    endpoint: Endpoint, secret_file: Path
) -> None:
    endpoint.statuses = [401]
    endpoint.meanwhile = lambda: secret_file.write_text("the-next-one")  # while the request is under way
    source = endpoint.source(headers={"X-Key": secret_file}, form={"secret": secret_file})

    assert source.replaceable
    endpoint.shown(source)
    assert [request.headers["x-key"] for request in endpoint.asked] == [SECRET, "the-next-one"]
    assert [form_of(request)["secret"] for request in endpoint.asked] == [[SECRET], ["the-next-one"]]


def test_a_source_whose_secrets_are_in_files_pickles_and_holds_none(endpoint: Endpoint, secret_file: Path) -> None:
    for source in (
        endpoint.source(auth=("me", secret_file), form={"a": secret_file}),
        endpoint.client(secret=secret_file, extra={"a": secret_file}),
    ):
        again = pickle.loads(pickle.dumps(source))

        assert SECRET not in repr(vars(source))
        assert (form_of(endpoint.shown(again))["a"], basic_of(endpoint.asked[-1])) == ([SECRET], f"me:{SECRET}")


def test_a_file_that_is_not_there_is_told_when_a_token_is_wanted(endpoint: Endpoint, tmp_path: Path) -> None:
    source = endpoint.source(form={"secret": tmp_path / "later"})

    said = refused(lambda: source.fetch(CallContext()), TokenUnavailableError)
    assert said == f"'{tmp_path}/later': No such file or directory"
    assert source.identity() is None
    (tmp_path / "later").write_text(SECRET)
    assert form_of(endpoint.shown(source))["secret"] == [SECRET]


def test_a_file_that_no_header_can_carry_is_told(endpoint: Endpoint, tmp_path: Path) -> None:
    (tmp_path / "two").write_text(f"{SECRET}\n{SECRET}")
    source = endpoint.source(headers={"X-Key": tmp_path / "two"})

    assert refused(lambda: source.fetch(CallContext()), TokenFormatError).startswith("headers: x-key: its file has")


# -- the name of a file is no secret ----------------------------------------------------------------------------------

URL = "https://localhost/"
TAKES_A_SECRET: dict[str, Callable[[str], object]] = {
    "token": StaticSource,
    "auth.token": BearerAuth,
    "channel.token": lambda text: grpc_bearer.secure_channel("localhost:1", auth=text),
    "crm.token": profiles.crm,
    "bitbroker.token": profiles.bitbroker,
    "client_secret": lambda text: ClientCredentialsSource(URL, "me", text),
    "extra: k": lambda text: ClientCredentialsSource(URL, "me", SECRET, extra={"k": text}),
    "form: k": lambda text: HTTPTokenSource(URL, form={"k": text}),
    "auth: password": lambda text: HTTPTokenSource(URL, auth=("me", text)),
    "body": lambda text: HTTPTokenSource(URL, body=text),
    "passphrase": lambda text: JWTSource(private_pem(KEY, passphrase=b"x"), passphrase=text),
    "encryption_key": lambda text: SharedCache("cache", encryption_key=text, name="n"),
}


@pytest.mark.parametrize("where", TAKES_A_SECRET)
@pytest.mark.parametrize("written", ["secret.txt", "./secret.txt", "~/secret.txt", "secret.txt\n"])
def test_the_name_of_a_file_is_refused_where_a_secret_is_expected(
    where: str, written: str, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(secret_file.parent))

    said = refused(lambda: TAKES_A_SECRET[where](written))

    assert said == f"{where.rpartition('.')[2]}: {NAMES_A_FILE}"


def test_the_name_of_a_file_is_refused_among_the_fields_of_credentials(secret_file: Path) -> None:
    assert f"secret: {NAMES_A_FILE}" in refused(lambda: profiles.bear({**BEAR, "secret": secret_file.name}))
    openfx = {"name": "k-1", "privateKey": secret_file.name}
    assert f"privateKey: {NAMES_A_FILE}" in refused(lambda: profiles.openfx(openfx))


def test_the_name_of_a_folder_and_words_of_a_form_are_texts(endpoint: Endpoint, secret_file: Path) -> None:
    (secret_file.parent / "hunter2").mkdir()
    (secret_file.parent / "read").write_text("")

    assert StaticSource("hunter2").fetch(CallContext()).value == "hunter2"
    assert form_of(endpoint.shown(endpoint.source(form={"scope": "read"})))["scope"] == ["read"]


# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {}", "\t{} \n", "{}\u00a0"])
def test_line_breaks_and_blanks_around_a_text_are_cut_off(around: str, endpoint: Endpoint) -> None:
    def text(value: str) -> str:
        return around.format(value)

    def claims(auth: BearerAuth) -> dict[str, Any]:
        return jwt.decode(auth.token().value, options={"verify_signature": False})

    assert basic_of(endpoint.shown(endpoint.client(text("me"), text(SECRET)))) == f"me:{SECRET}"
    post = endpoint.client(text("me"), lambda: text(SECRET), auth_method="client_secret_post")
    sent = form_of(endpoint.shown(post))
    assert (sent["client_id"], sent["client_secret"]) == (["me"], [SECRET])
    assert basic_of(endpoint.shown(endpoint.source(auth=(text("me"), text(SECRET))))) == f"me:{SECRET}"
    with profiles.bear({k: text(v) for k, v in BEAR.items()}, url=endpoint.url, **endpoint.how) as bear:
        with pytest.raises(TokenFormatError):
            bear.token()
        assert endpoint.asked[-1].body.decode() == (
            f'{{"api_key": "the-api-key", "scope": "probe", "secret": "{SECRET}"}}'
        )
    skykit = profiles.skykit(private_pem(throwaway_key("RS256")), text("me@example.com"))
    assert claims(skykit)["iss"] == "me@example.com"
    openfx = profiles.openfx({"name": text("k-1"), "privateKey": text(PEM)}, audience=text("api"), issuer=text("us"))
    assert {name: claims(openfx)[name] for name in ("sub", "aud", "iss")} == {"sub": "k-1", "aud": ["api"], "iss": "us"}
    assert jwt.get_unverified_header(openfx.token().value)["kid"] == "k-1"
    asked = form_of(endpoint.shown(endpoint.client(scope=[text("read"), text("write")], audience=text("api"))))
    assert (asked["scope"], asked["audience"]) == (["read write"], ["api"])
    signed = {"auth_method": "private_key_jwt", "key": KEY, "assertion_audience": text("the-server")}
    assertion = form_of(endpoint.shown(endpoint.client(secret=None, key_id=text("k-2"), **signed)))["client_assertion"]
    assert jwt.decode(assertion[0], KEY.public_key(), audience="the-server", algorithms=["ES256"])["sub"] == "me"
    assert jwt.get_unverified_header(assertion[0])["kid"] == "k-2"


TAKES_A_TEXT: dict[str, Callable[[str], object]] = {
    "client_id": lambda text: ClientCredentialsSource(URL, text, SECRET),
    "client_secret": lambda text: ClientCredentialsSource(URL, "me", text),
    "auth: user": lambda text: HTTPTokenSource(URL, auth=(text, SECRET)),
    "auth: password": lambda text: HTTPTokenSource(URL, auth=("me", text)),
    "credentials: api_key": lambda text: profiles.bear({**BEAR, "api_key": text}),
    "credentials: secret": lambda text: profiles.bear({**BEAR, "secret": text}),
    "credentials: name": lambda text: profiles.openfx({"name": text, "privateKey": PEM}),
    "scope": lambda text: ClientCredentialsSource(URL, "me", SECRET, scope=["read", text]),
    "audience": lambda text: ClientCredentialsSource(URL, "me", SECRET, audience=text),
    "issuer": lambda text: profiles.skykit(private_pem(throwaway_key("RS256")), text),
}


@pytest.mark.parametrize("where", TAKES_A_TEXT)
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{SECRET}\n{SECRET}", "has a line break in it"),
        (f"{SECRET}\u2028{SECRET}", "has a line break in it"),
        (f"{SECRET}\x1b[0m", "has a control character, or another that cannot be seen"),
        (f"{SECRET}\u200b", "has a control character, or another that cannot be seen"),
        (f"{SECRET}\ud800", "has a control character, or another that cannot be seen"),
        ("${THE_SECRET}", UNFILLED),
        ("${THE_SECRET:-none}", UNFILLED),
        ("$THE_SECRET", UNFILLED),
        ("{{ the.secret }}", UNFILLED),
        ("%THE_SECRET%", UNFILLED),
        ("<your secret>", UNFILLED),
        ("$(cat secret)", UNFILLED),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(where: str, text: str, words: str) -> None:
    assert refused(lambda: TAKES_A_TEXT[where](text)).startswith(f"{where}: {words}")


@pytest.mark.parametrize("password", ["p@ss wörd", "$ecret", "100%", "<3<3<3>", "{x}", "a$(b", 'q"q'])
def test_a_password_may_have_every_other_character(password: str, endpoint: Endpoint) -> None:
    assert basic_of(endpoint.shown(endpoint.source(auth=("me", password)))) == f"me:{password}"


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (f'"{SECRET}"', "is in quotes; give it without them"),
        (f"'{SECRET}'", "is in quotes; give it without them"),
        (f"TOKEN={SECRET}", "is an assignment such as TOKEN=…; give what stands behind the '='"),
        (f'export API_TOKEN="{SECRET}"', "is an assignment such as TOKEN=…; give what stands behind the '='"),
        (f"access_token={SECRET}", "is an assignment such as TOKEN=…"),
        ("${TOKEN}", UNFILLED),
        ("${{ secrets.TOKEN }}", UNFILLED),
        ("$TOKEN", UNFILLED),
        ("$token", UNFILLED),
        ("{{ token }}", UNFILLED),
        ("{{token}}", UNFILLED),
        ("%TOKEN%", UNFILLED),
        ("%(token)s", UNFILLED),
        ("$(cat token)", UNFILLED),
        ("<%= token %>", UNFILLED),
        ("#{token}#", UNFILLED),
        ("__TOKEN__", UNFILLED),
        ("<Your_Token_Here>", UNFILLED),  # the CRM's document
        ("<JWT>", UNFILLED),  # Bear's
        ("your-token-will-go-here", UNFILLED),  # BitBroker's
        ("{JWT_Bearer_Token}", UNFILLED),  # OpenFX's
        (f"{SECRET}.${{SUFFIX}}", UNFILLED),
    ],
)
def test_a_token_that_was_not_filled_in_or_is_dressed_up_is_refused(
    token: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "held"
    path.write_text(f"{token}\n")
    monkeypatch.setenv("THE_TOKEN", token)
    config = tmp_path / "auths.toml"
    config.write_text(
        f"[auth.inline]\nsource = 'static'\ntoken = '''{token}'''\n"
        "[auth.env]\nsource = 'static'\ntoken_env = 'THE_TOKEN'\n[auth.file]\nprofile = 'crm'\ntoken_file = 'held'\n"
    )

    assert refused(lambda: BearerAuth(token)).startswith(f"token: {words}")
    assert refused(lambda: Token(token), TokenFormatError).startswith(f"token: {words}")
    assert refused(lambda: BearerAuth(path).token(), TokenFormatError).startswith(f"'{path}': token: {words}")
    assert refused(lambda: BearerAuth(lambda: token).token(), TokenFormatError).endswith(refused_words(token))
    assert refused(lambda: grpc_bearer.load("inline", config)).startswith(f"{config}:3: [auth.inline] token: {words}")
    assert refused(lambda: grpc_bearer.load("env", config)).startswith(f"{config}:6: [auth.env] token_env: {words}")
    with grpc_bearer.load("file", config) as auth:
        assert refused(auth.token, TokenFormatError).startswith(f"'{path}': token: {words}")


def refused_words(token: str) -> str:
    return refused(lambda: Token(token), TokenFormatError)


@pytest.mark.parametrize("token", ["a~b.c-d_e+f/g==", "4735d360-dc03.5d5c9eab", "yourstruly", "KEY=", "TOKEN=="])
def test_a_token_of_the_characters_of_rfc_6750_is_taken_without_a_word(token: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BearerAuth(token).headers() == {"authorization": f"Bearer {token}"}


def test_another_character_warns_once_under_the_scheme_bearer() -> None:
    given = iter(["s3cret:1", "s3cret:2"])
    auth = BearerAuth(lambda: Token(next(given)), name="orders")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first = auth.headers()
        assert auth.invalidate("s3cret:1")
        second = auth.headers()

    assert [str(each.message) for each in caught] == [
        "BearerAuth(CallableSource, header='authorization', name='orders'): its token has a character that no token of "
        "the scheme Bearer may have (RFC 6750 section 2.1); some servers refuse it"
    ]
    assert (first["authorization"], second["authorization"]) == ("Bearer s3cret:1", "Bearer s3cret:2")


@pytest.mark.parametrize("how", [{"scheme": ""}, {"scheme": "Token"}, {"header": "cookie", "scheme": ""}])
def test_another_scheme_may_have_them(how: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BearerAuth("session=a:b", **how).token().value == "session=a:b"


# -- paths ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return folder


def test_a_tilde_is_the_home_folder_in_every_path(home: Path) -> None:
    ca = CA()
    certificate = ca.issue("me")
    for name, content in {
        "token": SECRET,
        "key.pem": PEM,
        "ca.pem": ca.pem.decode(),
        "cert.pem": certificate.chain_pem.decode(),
        "cert.key": certificate.key_pem.decode(),
        "bear.json": '{"api_key": "a", "scope": "s", "secret": "x"}',
        "openfx.json": '{"name": "k-1", "privateKey": "' + PEM.replace("\n", "\\n") + '"}',
        "cache.key": SECRET * 2,
        "auths.toml": "[auth.a]\nprofile = 'crm'\ntoken_file = '~/token'\n",
    }.items():
        (home / name).write_text(content)

    for path in ("~/token", Path("~/token")):
        assert FileSource(path).fetch(CallContext()).value == SECRET
    assert BearerAuth(Path("~/token")).token().value == SECRET
    assert profiles.crm(Path("~/token")).token().value == SECRET
    assert grpc_bearer.load("a", "~/auths.toml").token().value == SECRET
    for key in ("~/key.pem", Path("~/key.pem")):
        assert JWTSource(key).fetch(CallContext()).value.count(".") == 2
    for credentials in ("~/openfx.json", Path("~/openfx.json")):
        assert profiles.openfx(credentials).token().value.count(".") == 2
    profiles.bear("~/bear.json", ca="~/ca.pem").close()
    HTTPTokenSource(URL, ca=Path("~/ca.pem"), cert=("~/cert.pem", Path("~/cert.key"))).close()
    ClientCredentialsSource(URL, "me", Path("~/token"), ca="~/ca.pem").close()
    cache = SharedCache(Path("~/tokens"), encryption_key=Path("~/cache.key"), name="n")

    assert BearerAuth(lambda: SECRET, cache=cache).token().value == SECRET
    assert list((home / "tokens").glob("*.token"))
    assert os.listdir() == []  # no folder of the name `~`


WITHOUT_A_HOME: dict[str, Callable[[Any], object]] = {
    "path": FileSource,
    "ca": lambda path: HTTPTokenSource(URL, ca=path),
    "cert": lambda path: HTTPTokenSource(URL, cert=(path, path)),
    "client_secret": lambda path: ClientCredentialsSource(URL, "me", path),
    "credentials": profiles.bear,
    "key": JWTSource,
    "encryption_key": lambda path: SharedCache("tokens", encryption_key=path, name="n"),
    "cache": SharedCache,
    "config": lambda path: grpc_bearer.load("a", path),
}


@pytest.mark.parametrize("where", WITHOUT_A_HOME)
def test_a_home_that_is_not_there_is_told_in_our_words(where: str, home: Path) -> None:
    said = refused(lambda: WITHOUT_A_HOME[where](Path("~nobody-of-this-name/x")))

    assert said == (
        f"{where}: begins with '~', and there is no such home directory; give the whole path, or './~…' for a file of "
        "that name"
    )
    assert os.listdir() == []


class Wrong:
    """A path of somebody's own."""

    def __fspath__(self) -> str:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize("where", WITHOUT_A_HOME)
def test_a_path_that_fails_is_told_in_our_words(where: str) -> None:
    assert refused(lambda: WITHOUT_A_HOME[where](Wrong())) == f"{where}: expected a path, got Wrong"


# -- what is foreign --------------------------------------------------------------------------------------------------


class Broken(Mapping[str, Any]):
    """A mapping whose look-ups fail, as those do that ask another machine."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError(SECRET)

    def __iter__(self) -> Iterator[str]:
        return iter(["d"])

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("where", "make"),
    [
        ("credentials", lambda: profiles.bear(Broken())),
        ("credentials", lambda: profiles.openfx(Broken())),
        ("key", lambda: JWTSource(Broken())),
        ("claims", lambda: JWTSource(KEY, claims=Broken())),
        ("headers", lambda: JWTSource(KEY, headers=Broken())),
        ("headers", lambda: HTTPTokenSource(URL, headers=Broken())),
        ("form", lambda: HTTPTokenSource(URL, form=Broken())),
        ("extra", lambda: ClientCredentialsSource(URL, "me", SECRET, extra=Broken())),
        ("routes", lambda: profiles.bitbroker(consumer=SECRET, routes=Broken())),
        ("routes", lambda: RoutedSource(Broken())),
    ],
)
def test_a_mapping_whose_look_ups_fail_is_told_by_name(where: str, make: Callable[[], object]) -> None:
    assert refused(make) == f"{where}: reading the mapping raised RuntimeError"


HUGE = 10**400


@pytest.mark.parametrize(
    ("said", "make"),
    [
        ("poll: expected a number of seconds above 0", lambda: FileSource("token", poll=HUGE)),
        ("timeout: expected a number of seconds above 0", lambda: HTTPTokenSource(URL, timeout=HUGE)),
        ("refresh_after: expected a number of seconds above 0", lambda: HTTPTokenSource(URL, refresh_after=(1, HUGE))),
        ("lifetime: expected a number of seconds, at least 1", lambda: JWTSource(KEY, lifetime=HUGE)),
        ("max_lifetime: expected a number of seconds, or None", lambda: JWTSource(KEY, max_lifetime=HUGE)),
        ("timeout: expected a number of seconds above 0", lambda: SharedCache("tokens", timeout=HUGE)),
        ("spread: expected a number of seconds, 0 or more", lambda: SharedCache("tokens", spread=HUGE)),
        ("timeout: expected a number of seconds, or None", lambda: BearerAuth(SECRET).token(timeout=HUGE)),
        ("timeout: expected a number of seconds, or None", lambda: BearerAuth(SECRET).token(timeout=math.inf)),
        ("timeout: expected a number of seconds, or None", lambda: BearerAuth(SECRET).headers(timeout=math.nan)),
        ("timeout: expected a number of seconds, or None", lambda: BearerAuth(SECRET).token(timeout="5")),
        ("token: expected a Token or a str, got NoneType", lambda: BearerAuth(SECRET).invalidate(None)),
        ("token: expected a Token or a str, got bytes", lambda: BearerAuth(SECRET).invalidate(SECRET.encode())),
        ("config: expected a path, got dict", lambda: grpc_bearer.load(config={})),
        ("config: expected a path, got int", lambda: grpc_bearer.load(config=7)),
        ("form: secret: expected a str or a path, got NoneType", lambda: HTTPTokenSource(URL, form={"secret": None})),
        (
            "encryption_key: has a character that is none (half of a surrogate pair)",
            lambda: SharedCache("tokens", encryption_key=f"{SECRET}{SECRET}\ud800", name="n"),
        ),
        (
            "encryption_key: " + UNFILLED,
            lambda: SharedCache("tokens", encryption_key="${THE_ENCRYPTION_KEY_OF_THE_CACHE}"),
        ),
    ],
)
def test_what_raised_a_foreign_error_is_told_in_our_words(said: str, make: Callable[[], object]) -> None:
    assert refused(make) == said


@pytest.mark.parametrize("at", [HUGE, math.inf, math.nan])
def test_an_expiry_that_is_no_time_is_refused(at: float) -> None:
    said = refused(lambda: Token(SECRET, expires_at=at), TokenFormatError)

    assert said == "expires_at: expected seconds since the Unix epoch, got one that is not finite"


def test_the_longest_wait_that_the_system_knows_is_long_enough() -> None:
    assert BearerAuth(lambda: SECRET).token(timeout=1e300).value == SECRET


def test_a_token_with_half_of_a_surrogate_pair_is_none_of_ours() -> None:
    assert not BearerAuth(SECRET).invalidate(f"{SECRET}\ud800")


# -- keys and JSON as they stand in files and environments ------------------------------------------------------------


def test_an_old_encrypted_pem_is_loaded_when_its_lines_are_escaped() -> None:
    pem = private_pem(throwaway_key("RS256"), traditional=True, passphrase=b"x")  # its header lives by its lines

    for text in (pem.replace("\n", "\\n"), pem.replace("\n", "\\\\r\\\\n"), pem.replace("\n", "\\\n")):
        assert JWTSource(text, passphrase="x\n").fetch(CallContext()).value.count(".") == 2


def test_json_with_a_byte_order_mark_is_read_as_text_too() -> None:
    jwk = jwt.algorithms.ECAlgorithm.to_jwk(KEY)
    assert isinstance(jwk, str)

    profiles.bear('\ufeff{"api_key": "a", "scope": "s", "secret": "x"}').close()
    token = JWTSource(f"\ufeff{jwk}").fetch(CallContext()).value
    assert jwt.decode(token, KEY.public_key(), algorithms=["ES256"])


def test_a_private_key_with_half_of_a_surrogate_pair_does_not_raise_what_shows_it() -> None:
    with pytest.raises(grpc_bearer.SigningError) as caught:
        profiles.openfx({"name": "k-1", "privateKey": PEM.replace("\n-----END", "\ud800\n-----END")})

    assert str(caught.value).startswith("privateKey: ")
    assert caught.value.__context__ is None
