"""Every grant of OAuth, and commands, out of a TOML file and by options of the command line alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from _cli_server import run
from jose import verified

import grpc_bearer
from grpc_bearer import ConfigurationError
from grpc_bearer.testing import CA, Request, Response, TokenServer, private_pem, throwaway_key

KEY = throwaway_key("ES256")


@dataclass
class Endpoint:
    """A token endpoint that gives anybody a token, and what it was asked."""

    url: str
    folder: Path
    forms: list[dict[str, str]] = field(default_factory=list)

    def answer(self, request: Request) -> Response:
        form = parse_qs(request.body.decode())
        self.forms.append({name: " ".join(values) for name, values in form.items()})
        answer = {"access_token": f"tok-{len(self.forms)}", "token_type": "Bearer", "expires_in": 3600}
        if form["grant_type"][0].endswith("token-exchange"):
            answer["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
        return Response(200, json.dumps(answer).encode(), content_type="application/json")

    def load(self, table: str) -> grpc_bearer.BearerAuth:
        path = self.folder / "auths.toml"
        path.write_text(table.replace("URL", self.url).replace("CA", str(self.folder / "ca.pem")), "utf-8")
        return grpc_bearer.load("x", path)


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    with TokenServer(CA()) as server:
        server.ca.write(tmp_path).rename(tmp_path / "ca.pem")
        (tmp_path / "subject").write_text("tok-of-the-platform\n")
        (tmp_path / "secret").write_text("the-client-secret\n")
        (tmp_path / "refresh").write_text("refresh-1\n")
        (tmp_path / "refresh").chmod(0o600)
        (tmp_path / "key.pem").write_text(private_pem(KEY))
        made = Endpoint(server.url("/token"), tmp_path)
        server.serve("/token", made.answer)
        yield made


HEAD = '[auth.x]\ntoken_url = "URL"\nca = "CA"\n'
TABLES = {
    "client_credentials": (
        'client_id = "me"\nclient_secret_file = "secret"\nauth_method = "client_secret_post"\nresource = ["https://a.b/c"]',
        {"client_id": "me", "client_secret": "the-client-secret", "resource": "https://a.b/c"},
    ),
    "token_exchange": (
        'subject_token_file = "subject"\nsubject_token_type = "jwt"\naudience = "orders"',
        {
            "subject_token": "tok-of-the-platform",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "audience": "orders",
        },
    ),
    "jwt_bearer": (
        'assertion_file = "subject"\nscope = ["a", "b"]',
        {"assertion": "tok-of-the-platform", "scope": "a b"},
    ),
    "refresh_token": (
        'client_id = "me"\nrefresh_token_file = "refresh"',
        {"refresh_token": "refresh-1", "client_id": "me"},
    ),
}
OPTIONS = {
    "client_credentials": [
        *("--client-id", "me", "--client-secret-file", "secret", "--auth-method", "client_secret_post"),
        *("--resource", "https://a.b/c"),
    ],
    "token_exchange": ["--subject-token-file", "subject", "--subject-token-type", "jwt", "--audience", "orders"],
    "jwt_bearer": ["--assertion-file", "subject", "--scope", "a", "--scope", "b"],
    "refresh_token": ["--client-id", "me", "--refresh-token-file", "refresh"],
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_grant_by_its_table(kind: str, endpoint: Endpoint) -> None:
    lines, sent = TABLES[kind]
    assert endpoint.load(f'{HEAD}source = "{kind}"\n{lines}').token().value == "tok-1"
    assert endpoint.forms[0].items() >= sent.items()


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_same_by_options_alone(kind: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(endpoint.folder)
    ran = run("token", "--token-url", endpoint.url, "--token-ca", "ca.pem", *OPTIONS[kind], extras=False)
    assert (ran.code, ran.out, ran.err) == (0, "tok-1\n", "")
    assert endpoint.forms[0].items() >= TABLES[kind][1].items()


def test_a_source_within_another(endpoint: Endpoint) -> None:
    auth = endpoint.load(f"""{HEAD}source = "token_exchange"
subject_token_type = "access_token"
[auth.x.subject_token]
source = "jwt_bearer"
token_url = "URL"
ca = "CA"
[auth.x.subject_token.assertion]
source = "jwt"
key_file = "key.pem"
lifetime = 300
claims = {{ iss = "me" }}
""")
    assert auth.token().value == "tok-2"
    assertion, exchange = endpoint.forms
    assert verified(assertion["assertion"], KEY, "ES256")[1]["iss"] == "me"
    assert exchange["subject_token"] == "tok-1"
    assert endpoint.load((endpoint.folder / "auths.toml").read_text()) is auth


@pytest.mark.parametrize(
    ("inner", "problem"),
    [
        ('source = "jwtt"', "auths.toml:5: [auth.x] subject_token.source: expected one of "),
        ('profile = "crm"', "auths.toml:5: [auth.x] subject_token.profile: not known here, where only a source can be"),
        ('source = "file"\nname = "y"', "auths.toml:6: [auth.x] subject_token.name: not known here"),
        ('source = "file"', "auths.toml:4: [auth.x] subject_token: path: missing"),
        ('source = "static"\ntoken = "two\\nlines"', "auths.toml:6: [auth.x] subject_token.token: "),
    ],
)
def test_what_is_wrong_within_is_told_with_its_place(inner: str, problem: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError) as caught:
        endpoint.load(f'[auth.x]\nsource = "token_exchange"\ntoken_url = "URL"\n[auth.x.subject_token]\n{inner}\n')
    assert str(caught.value).replace(f"{endpoint.folder}/", "").startswith(problem)


@pytest.mark.parametrize(
    ("kind", "line", "problem"),
    [
        ("http", 'max_bytes = "many"', "max_bytes: expected a whole number, got a text"),
        ("http", "refresh_after = 5", "refresh_after: expected two numbers in a list, got a number"),
        ("http", "headers = { x = 1 }", "headers: expected a table of texts, got a table"),
        ("http", 'cert = "one.pem"', "cert: expected two file names in a list: certificate and key, got a text"),
        ("client_credentials", "scope = [1]", "scope: expected a text or a list of texts, got a list"),
        ("exec", 'command = "gcloud auth"', 'command: expected a list of texts: ["program", "argument"], got a text'),
        (
            "token_exchange",
            "subject_token = 5",
            "subject_token: expected a text or a table with source = …, got a number",
        ),
        ("jwt", "key_file = 5", "key_file: expected the name of a file, got a number"),
    ],
)
def test_a_value_of_the_wrong_kind_is_told(kind: str, line: str, problem: str, endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError) as caught:
        endpoint.load(f'[auth.x]\nsource = "{kind}"\n{line}\n')
    assert f"auths.toml:3: [auth.x] {problem}" in str(caught.value)


def test_values_of_a_table_come_from_files_and_the_environment(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THE_ISSUER", "me")
    auth = endpoint.load(
        '[auth.x]\nsource = "jwt"\nkey_file = "key.pem"\nlifetime = 60\n'
        'claims = { iss = { env = "THE_ISSUER" }, all = [{ file = "subject" }, { deep = { env = "THE_ISSUER" } }] }\n'
    )
    claims = verified(auth.token().value, KEY, "ES256")[1]
    assert (claims["iss"], claims["all"]) == ("me", ["tok-of-the-platform", {"deep": "me"}])


def test_a_command_is_run_unless_others_can_write_the_file(endpoint: Endpoint) -> None:
    command = json.dumps([sys.executable, "-c", "print('tok-printed')"])
    table = f'[auth.x]\nsource = "exec"\ncommand = {command}\n'
    assert endpoint.load(table).token().value == "tok-printed"
    (endpoint.folder / "auths.toml").chmod(0o666)
    with pytest.raises(ConfigurationError, match=r"\[auth\.x\] command: .*written by others"):
        endpoint.load(table)


# -- options that need no server --------------------------------------------------------------------------------------


def test_a_token_by_itself_a_command_and_a_signed_one(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(endpoint.folder)
    assert run("token", "--token-file", "subject").out == "tok-of-the-platform\n"
    assert run("token", "--token-env", "MINE", env={"MINE": "tok-of-mine"}).out == "tok-of-mine\n"
    by_key = run("token", "--token-file", "subject", "--metadata-key", "x-api-token", "--scheme", "", "--header")
    assert by_key.out == "x-api-token: tok-of-the-platform\n"
    assert run("token", "--exec", f"{sys.executable} -c 'print(\"tok-printed\")'").out == "tok-printed\n"
    signed = run("token", "--jwt-key", "key.pem", "--claim", "iss=me", "--claim", "sub=a=b", "--lifetime", "60")
    claims = verified(signed.out.strip(), KEY, "ES256")[1]
    assert (claims["iss"], claims["sub"], claims["exp"] - claims["iat"]) == ("me", "a=b", 60)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--exec", "echo 'x"], "--exec: No closing quotation"),
        (["--exec", "nix-da-7"], "--exec: "),
        (["--jwt-key", "key.pem", "--claim", "iss"], "--claim: expected NAME=VALUE"),
        (["--token-url", "https://a.example.com/t", "--claim", "a=b"], "--claim: not known to client_credentials"),
        (["--token-url", "http://a.example.com/t", "--client-id", "x"], "--token-url: "),
        (["--client-id", "x"], "--client-id does not say by itself"),
        (["--token-file", "subject", "--auth", "x"], "--token-file beside --auth or --config"),
        (["--google", "--scope", "a"], "--google: google-auth finds no default credentials"),
        ([], "which auth? Give --profile NAME or --token-file FILE"),
    ],
)
def test_options_that_do_not_make_an_auth(
    options: list[str], problem: str, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(endpoint.folder)
    environment = {"HOME": str(endpoint.folder), "NO_GCE_CHECK": "true", "CLOUDSDK_CONFIG": str(endpoint.folder)}
    ran = run("token", *options, env=environment)
    assert (ran.code, ran.out) == (2, "") or "google" in problem
    assert ran.err.startswith(f"grpc-bearer: {problem}")


# -- login, auths -----------------------------------------------------------------------------------------------------


def device_flow(request: Request) -> Response:
    if request.path == "/device":
        body: dict[str, object] = {"device_code": "d", "user_code": "WDJB-MJHT", "expires_in": 600, "interval": 1}
        body["verification_uri"] = "https://auth.example.com/device"
    else:
        body = {"access_token": "tok-1", "token_type": "Bearer", "expires_in": 3600, "refresh_token": "r-1"}
    return Response(200, json.dumps(body).encode(), content_type="application/json")


@pytest.mark.parametrize("by_table", [True, False])
def test_login_keeps_what_the_other_commands_use(
    by_table: bool, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(endpoint.folder)
    with TokenServer(CA()) as server:
        server.ca.write(endpoint.folder).rename("ca-of-device.pem")
        urls = {path: server.url(path) for path in ("/device", "/token")}
        for path in urls:
            server.serve(path, device_flow)
        by_options = ["--token-url", urls["/token"], "--client-id", "me"]
        if by_table:
            Path("a.toml").write_text(
                f'[auth.x]\nsource = "device_code"\ntoken_url = "{urls["/token"]}"\nca = "ca-of-device.pem"\n'
                f'client_id = "me"\ndevice_authorization_url = "{urls["/device"]}"\nstore = "login"\n'
            )
            log_in = use = ["--config", "a.toml"]
        else:
            log_in = ["--device-authorization-url", urls["/device"], *by_options, "--token-ca", "ca-of-device.pem"]
            log_in += ["--store", "login"]
            use = [*by_options, "--token-ca", "ca-of-device.pem", "--store", "login"]
        ran = run("login", *log_in)
        assert (ran.code, ran.out.startswith("Logged in; the login is kept in ")) == (0, True)
        assert "https://auth.example.com/device" in ran.err
        assert "WDJB-MJHT" in ran.err
        assert run("token", *use).out == "tok-1\n"


def test_what_cannot_be_logged_in_for(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(endpoint.folder)
    Path("a.toml").write_text('[auth.x]\nprofile = "crm"\ntoken_file = "subject"\n')
    ran = run("login", "--config", "a.toml")
    assert (ran.code, ran.out) == (2, "")
    assert 'source = "device_code"' in ran.err
    ran = run("login", "--token-url", endpoint.url, "--client-id", "me", "--device-authorization-url", endpoint.url)
    assert (ran.code, "--store FILE" in ran.err) == (2, True)


def test_auths_lists_what_the_file_names(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('default = "b"\n[auth.a]\nprofile = "crm"\ntoken = "tok-x"\n[auth.b]\nsource = "exec"\n[auth.c]\n')
    found = run("auths", "--config", str(path), "--json").json
    assert found["auths"] == [
        {"name": "a", "kind": "crm", "default": False},
        {"name": "b", "kind": "exec", "default": True},
        {"name": "c", "kind": "?", "default": False},
    ]
    assert [line.split() for line in run("auths", "--config", str(path)).out.splitlines()][:2] == [
        ["a", "crm"],
        ["b", "exec", "default"],
    ]
