"""`grpc_bearer.load`: every kind of auth out of a TOML file, and what is said of a file that is wrong."""

from __future__ import annotations

import inspect
import json
import threading
from pathlib import Path

import pytest
from jose import verified

import grpc_bearer
from grpc_bearer import ConfigurationError, SigningError, TokenRejectedError, profiles
from grpc_bearer._config.kinds import PROFILES, SOURCES
from grpc_bearer.sources._oauth import ClientOptions
from grpc_bearer.testing import CA, JWTVerifier, OpaqueVerifier, TokenServer, private_pem, throwaway_key

TOKEN = "tok-5ecr3t-0123456789"
SECRETS = (TOKEN, "s3cret-inline")


def write(folder: Path, text: str, name: str = "auths.toml") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def refused(folder: Path, text: str, name: str | None = None) -> str:
    """What `load` says of the file, with the folder's name cut out; nothing secret is in it or chained to it."""
    path = write(folder, text)
    with pytest.raises((ConfigurationError, SigningError)) as caught:
        grpc_bearer.load(name, path)
    assert caught.value.__context__ is None
    assert not [secret for secret in SECRETS if secret in str(caught.value)]
    return str(caught.value).replace(f"{folder}/", "")


# -- kinds ------------------------------------------------------------------------------------------------------------


def test_a_static_token_by_file_environment_or_inline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, f"{TOKEN}-file\n", "token")
    monkeypatch.setenv("API_TOKEN", f"{TOKEN}-env")
    path = write(
        tmp_path,
        f"""
[auth.by_file]
profile = "crm"
token_file = "token"
[auth.by_env]
profile = "crm"
token_env = "API_TOKEN"
[auth.inline]
source = "static"
token = "{TOKEN}"
header = "X-Api-Key"
scheme = ""
""",
    )

    assert grpc_bearer.load("by_file", path).headers() == {"authorization": f"Bearer {TOKEN}-file"}
    assert grpc_bearer.load("by_env", path).token().value == f"{TOKEN}-env"
    assert grpc_bearer.load("inline", path).headers() == {"x-api-key": TOKEN}


def test_bear_exchanges_credentials_beside_the_file(tmp_path: Path) -> None:
    ca = CA()
    credentials = {"api_key": "key-1", "scope": "s", "secret": "s3cret-inline"}
    write(tmp_path, json.dumps(credentials), "credentials.json")
    ca.write(tmp_path)
    with TokenServer(ca) as server:
        url = server.serve_bear(credentials)
        path = write(
            tmp_path,
            f"""
[auth.bear]
profile = "bear"
credentials_file = "credentials.json"
url = "{url}"
ca = "ca.pem"
""",
        )
        with grpc_bearer.load("bear", path) as auth:
            assert auth.token().value == server.issued[0]


def test_skykit_and_openfx_sign_with_their_keys(tmp_path: Path) -> None:
    rsa, ec = throwaway_key("RS256"), throwaway_key("ES256")
    write(tmp_path, private_pem(rsa), "key.pem")
    write(tmp_path, json.dumps({"name": "org/1", "privateKey": private_pem(ec)}), "openfx.json")
    path = write(
        tmp_path,
        """
[auth.skykit]
profile = "skykit"
key_file = "key.pem"
issuer = "me@example.com"
lifetime = 600
[auth.openfx]
profile = "openfx"
credentials_file = "openfx.json"
""",
    )
    skykit = grpc_bearer.load("skykit", path).token()
    openfx = grpc_bearer.load("openfx", path)

    claims = verified(skykit.value, rsa, "RS256")[1]
    assert claims["iss"] == "me@example.com"
    assert claims["exp"] - claims["iat"] == 600
    assert openfx.single_use
    assert verified(openfx.token().value, ec, "ES256")[1]["sub"] == "org/1"


def test_bitbroker_has_a_token_for_each_role(tmp_path: Path) -> None:
    write(tmp_path, TOKEN, "consumer")
    path = write(
        tmp_path,
        """
[auth.bbk]
profile = "bitbroker"
consumer_file = "consumer"
[auth.bbk.routes]
"bbk.Consumer/*" = "consumer"
""",
    )
    with grpc_bearer.load("bbk", path) as auth:
        assert auth.headers("https://h/bbk.Consumer", "Get") == {"x-bbk-auth-token": TOKEN}
        with pytest.raises(TokenRejectedError, match="no route"):
            auth.token("https://h/other.Service", "Get")


def test_client_credentials_and_http_fetch_over_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca = CA()
    ca.write(tmp_path)
    monkeypatch.setenv("CLIENT_SECRET", "s3cret-inline")
    with TokenServer(ca) as server:
        oauth = server.serve_client_credentials("me", "s3cret-inline")
        bear = server.serve_bear({"api_key": "k", "scope": "s", "secret": "s3cret-inline"})
        path = write(
            tmp_path,
            f"""
[auth.oauth]
source = "client_credentials"
token_url = "{oauth}"
client_id = "me"
client_secret_env = "CLIENT_SECRET"
scope = ["read"]
ca = "ca.pem"
[auth.http]
source = "http"
url = "{bear}"
json = {{ api_key = "k", scope = "s", secret = {{ env = "CLIENT_SECRET" }} }}
refresh_after = [900, 1200]
ca = "ca.pem"
""",
        )
        assert grpc_bearer.load("oauth", path).token().value in server.issued
        assert grpc_bearer.load("http", path).token().value in server.issued


def test_an_http_body_in_a_file_is_read_for_each_request(tmp_path: Path) -> None:
    ca, old, new = CA(), *({"api_key": each, "scope": "s", "secret": "s3cret-inline"} for each in ("old", "new"))
    ca.write(tmp_path)
    body = write(tmp_path, json.dumps(old), "body.json")
    with TokenServer(ca) as server:
        url = server.serve_bear([old, new])
        path = write(
            tmp_path,
            f"""
[auth.a]
source = "http"
url = "{url}"
body_file = "body.json"
headers = {{ content-type = "application/json" }}
ca = "ca.pem"
""",
        )
        with grpc_bearer.load("a", path) as auth:
            auth.invalidate(auth.token())
            body.write_text(json.dumps(new))
            auth.token()
        assert [exchange.credential for exchange in server.exchanges] == ["old", "new"]


def test_a_jwt_with_random_members_and_the_url_as_audience(tmp_path: Path) -> None:
    key = throwaway_key("ES256")
    write(tmp_path, private_pem(key), "key.pem")
    path = write(
        tmp_path,
        """
[auth.jwt]
source = "jwt"
key_file = "key.pem"
claims = { iss = "me" }
headers = { kid = "k1" }
random_headers = ["nonce"]
random_claims = "jti"
audience_from_url = true
single_use = true
lifetime = 120
""",
    )
    auth = grpc_bearer.load("jwt", path)
    verifier = JWTVerifier(key.public_key(), ["ES256"], audience="https://h/s", require_headers=["nonce"], leeway=1)
    tokens = [auth.token("https://h/s").value for _ in range(2)]
    verdicts = [verifier.verify([("authorization", f"Bearer {token}")], "/s/M") for token in tokens]

    assert [verdict.refusal for verdict in verdicts] == [None, None]
    assert len({verdict.claims["jti"] for verdict in verdicts}) == 2
    assert len({verdict.jwt_header["nonce"] for verdict in verdicts}) == 2


def test_a_google_service_account(tmp_path: Path) -> None:
    account = {
        "type": "service_account",
        "client_email": "me@project.iam.gserviceaccount.com",
        "token_uri": "https://127.0.0.1:1/token",
        "private_key_id": "1",
        "private_key": private_pem(throwaway_key("RS256")),
    }
    write(tmp_path, json.dumps(account), "account.json")
    path = write(tmp_path, '[auth.g]\nsource = "google"\nservice_account_file = "account.json"\nscopes = "a"\n')

    assert "GoogleAuthSource" in repr(grpc_bearer.load("g", path))


def test_a_file_source(tmp_path: Path) -> None:
    write(tmp_path, json.dumps({"data": {"token": TOKEN}}), "token.json")
    path = write(tmp_path, '[auth.f]\nsource = "file"\npath = "token.json"\njson_field = "data.token"\n')

    assert grpc_bearer.load("f", path).token().value == TOKEN


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_the_table_knows_every_argument_of_a_profile(name: str) -> None:
    parameters = inspect.signature(getattr(profiles, name)).parameters.values()
    own = {each.name for each in parameters if each.kind is not each.VAR_KEYWORD}
    required = {each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD}

    assert set(PROFILES[name].fields) == own | {"name", "keep_warm", "max_keys", "pickle_secrets", "cache", "observers"}
    assert {field for field, known in PROFILES[name].fields.items() if known.required} == required


@pytest.mark.parametrize(
    ("name", "source", "other"),
    [
        ("client_credentials", grpc_bearer.ClientCredentialsSource, set()),
        ("device_code", grpc_bearer.DeviceCodeSource, set()),
        ("exec", grpc_bearer.ExecSource, set()),
        ("file", grpc_bearer.FileSource, set()),
        ("http", grpc_bearer.HTTPTokenSource, {"auth"}),  # `user` and `password` there
        ("jwt", grpc_bearer.JWTSource, set()),
        ("jwt_bearer", grpc_bearer.JWTBearerSource, set()),
        ("refresh_token", grpc_bearer.RefreshTokenSource, set()),
        ("token_exchange", grpc_bearer.TokenExchangeSource, set()),
    ],
)
def test_the_table_knows_every_argument_of_a_source(name: str, source: type, other: set[str]) -> None:
    own = set(inspect.signature(source).parameters)
    if "client" in own:  # the arguments that all OAuth sources take
        own = own - {"client"} | set(ClientOptions.__annotations__)

    assert own - other <= set(SOURCES[name].fields)


# -- one object -------------------------------------------------------------------------------------------------------

CRM = f'[auth.crm]\nprofile = "crm"\ntoken = "{TOKEN}"\n'


def test_the_same_name_gives_the_same_object_to_every_thread(tmp_path: Path) -> None:
    path, found = write(tmp_path, CRM), []
    threads = [threading.Thread(target=lambda: found.append(grpc_bearer.load("crm", path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert len({id(auth) for auth in found}) == 1


def test_a_changed_table_a_changed_variable_and_a_closed_auth_give_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "tok-1")
    text = '[auth.crm]\nprofile = "crm"\ntoken_env = "API_TOKEN"\n'
    path = write(tmp_path, text)
    first = grpc_bearer.load("crm", path)
    write(tmp_path, f"# a comment\n{text}[auth.other]\n")
    same = grpc_bearer.load("crm", path)
    monkeypatch.setenv("API_TOKEN", "tok-2")
    second = grpc_bearer.load("crm", path)
    second.close()
    third = grpc_bearer.load("crm", path)

    assert same is first
    assert [each.token().value for each in (first, third)] == ["tok-1", "tok-2"]
    assert len({id(each) for each in (first, second, third)}) == 3


def test_the_environment_names_the_file_and_default_the_auth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, f'default = "crm"\n{CRM}[auth.other]\nprofile = "crm"\ntoken = "x"\n')
    monkeypatch.setenv("GRPC_BEARER_CONFIG", str(path))

    assert grpc_bearer.load() is grpc_bearer.load("crm", str(path))


def test_a_call_goes_through_with_what_was_loaded(tmp_path: Path) -> None:
    from grpc_bearer.testing import ProbeRequest, ProbeServer, ProbeStub

    path = write(tmp_path, CRM)
    with (
        ProbeServer(OpaqueVerifier([TOKEN])) as server,
        grpc_bearer.secure_channel(
            server.target, server.channel_credentials(), auth=grpc_bearer.load("crm", path)
        ) as channel,
    ):
        ProbeStub(channel).Unary(ProbeRequest(), timeout=10)
    assert len(server.ledger.accepted) == 1


# -- what is said of a file that is wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '[auth.a]\nprofile = "crm"\ntoken_fil = "x"',
            "auths.toml:3: [auth.a] token_fil: not known to crm; did you mean token_file?",
        ),
        ('[auth.a]\nprofile = "crm"', "auths.toml:1: [auth.a]: token or token_file or token_env: missing"),
        ('[auth.a]\nprofile = "crn"', "did you mean crm?"),
        ('[auth.a]\nprofile = "static"', 'write source = "static"'),
        ("[auth.a]\nheader = 'x'", "auths.toml:1: [auth.a]: profile or source: missing"),
        ('[auth.a]\nprofile = "crm"\nsource = "static"', "leave one of them"),
        (
            '[auth.a]\nprofile = "crm"\ntoken = "x"\nkeep_warm = 1',
            "auths.toml:4: [auth.a] keep_warm: expected true or false, got a number",
        ),
        (
            '[auth.a]\nprofile = "crm"\ntoken = "tok-5ecr3t-0123456789"\ntoken_env = "X"',
            "auths.toml:4: [auth.a] token_env: given beside token",
        ),
        (
            '[auth.a]\nprofile = "crm"\ntoken_env = "NOT_SET_X"',
            "auths.toml:3: [auth.a] token_env: environment variable NOT_SET_X is not set",
        ),
        (
            '[auth.a]\nprofile = "crm"\ntoken_env = "tok-5ecr3t-0123456789"',
            "environment a variable of this name is not set",
        ),
        ('[auth.a]\nprofile = "crm"\ntoken = "tok-5ecr3t-0123456789 b"', "auths.toml:3: [auth.a] token: has a space"),
        ('[auth.a]\nprofile = "crm"\ntoken = 3', "token: expected a text, got a number"),
        (
            '[auth.a]\nprofile = "bear"\ncredentials_file = "nix.json"',
            "auths.toml:3: [auth.a] credentials_file: cannot read nix.json",
        ),
        (
            '[auth.a]\nprofile = "bear"\ncredentials = { api_key = "s3cret-inline" }',
            "auths.toml:3: [auth.a] credentials: scope: missing; secret: missing",
        ),
        ('[auth.a]\nprofile = "skykit"\nkey_file = "auths.toml"\nissuer = "me"', "auths.toml:3: [auth.a] key_file:"),
        ('[auth.a]\nsource = "http"\nurl = "http://h/t"', "auths.toml:3: [auth.a] url: http:// would send"),
        ('[auth.a]\nsource = "http"\nurl = "https://h/t"\nuser = "me"', "user: goes with password"),
        ('[auth.a]\nsource = "http"\nurl = "https://h/t"\njson_file = "auths.toml"', "json_file: not JSON"),
        (
            '[auth.a]\nsource = "http"\nurl = "https://h/t"\n[auth.a.form]\nx = 3',
            "auths.toml:4: [auth.a] form: expected a table of texts",
        ),
        ('[auth.a]\nsource = "http"\nurl = "https://h/t"\ncert = "x"', "cert: expected two file names in a list"),
        (
            '[auth.a]\nsource = "google"\nservice_account_file = "auths.toml"',
            "auths.toml:3: [auth.a] service_account_file:",
        ),
        ('[auth.a]\nprofile = "crm"\ntoken = "a b"', "auths.toml:3: [auth.a] token: has a space"),
        (
            '[auth.a]\nsource = "http"\nurl = "https://h/t"\nheaders = { a = "b", c = "ü" }',
            "auths.toml:4: [auth.a] headers: c: has a line break or a character outside ASCII",
        ),
        (
            '[auth.a]\nprofile = "crm"\ntoken = "t"\ncache = { directory = "x", timeout = 0 }',
            "auths.toml:4: [auth.a] cache: timeout: expected a number of seconds above 0",
        ),
        ('[auth.a]\nprofile = "crm"\ntoken = "tok-5ecr3t-0123456789', "auths.toml:3: not TOML"),
        ('token = "tok-5ecr3t-0123456789"', "auths.toml:1: token: not known here"),
        ("[crm]\nx = 1", "an auth is a table [auth.NAME]"),
        ("auth = 3", "expected tables [auth.NAME]"),
        ("default = 3", "default: expected the name of an auth"),
        ("", "none yet; write a table [auth.NAME]"),
        ("[auth.a]\n[auth.b]", "which auth?"),
        ('default = "aa"\n[auth.a]', "no auth of the name 'aa'; did you mean a? (it has: a)"),
    ],
)
def test_a_wrong_file_is_told_with_its_line_and_what_to_do(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refused(tmp_path, text)


def test_all_that_is_wrong_with_a_table_is_told_at_once(tmp_path: Path) -> None:
    told = refused(tmp_path, '[auth.a]\nprofile = "crm"\nkeep_warm = 1\nmax_key = 1\n').splitlines()

    assert [line.partition(" ")[0] for line in told] == ["auths.toml:4:", "auths.toml:1:", "auths.toml:3:"]


def test_a_missing_file_is_told_and_so_is_that_none_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRPC_BEARER_CONFIG", raising=False)

    with pytest.raises(ConfigurationError, match=r"config: cannot read .*nix\.toml"):
        grpc_bearer.load("a", tmp_path / "nix.toml")
    with pytest.raises(ConfigurationError, match="GRPC_BEARER_CONFIG"):
        grpc_bearer.load("a")
