"""The command against an authorization server that others wrote, npm's oidc-provider: by options, with no TOML."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from _authorization_server import ORDERS, SECRET, AuthorizationServer

from grpc_bearer.__main__ import main

Server = AuthorizationServer

WAYS = {
    "a client's secret": "--client-id basic --client-secret-file {secret}",
    "a secret in the form": "--client-id post --client-secret-file {secret} --auth-method client_secret_post",
    "a federated credential": "--client-id federated --client-assertion-file {assertion}",
    "an exchange": "--client-id public --subject-token-file {subject} --subject-token-type jwt",
    "an assertion": "--client-id public --assertion-file {subject}",
}


@pytest.fixture
def files(authorization_server: Server, tmp_path: Path) -> dict[str, str]:
    server = authorization_server
    contents = {
        "secret": SECRET,
        "assertion": server.assertion("federated", "federated", server.issuer),
        "subject": server.assertion("https://platform.example.com", "system:robot", server.issuer),
    }
    for name, content in contents.items():
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(content)
    return {name: str(tmp_path / name) for name in contents}


@pytest.mark.parametrize("where", ["--issuer", "--token-url"])
@pytest.mark.parametrize("way", WAYS)
def test_a_token_is_printed(
    authorization_server: Server, files: dict[str, str], way: str, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    server = authorization_server
    address = server.issuer if where == "--issuer" else server.token_url
    which = f"{where} {address} --token-ca {server.roots} --scope read --resource {ORDERS}"

    code = main(["token", *which.split(), *WAYS[way].format(**files).split()])

    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    claims = server.claims(printed.out.strip())
    assert (claims["aud"], claims["scope"]) == (ORDERS, "read")


def test_somebody_logs_in_and_a_program_takes_the_login(
    authorization_server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, store = authorization_server, tmp_path / "login"
    client = [
        "--issuer",
        server.issuer,
        "--client-id",
        "public",
        "--token-ca",
        str(server.roots),
        "--store",
        str(store),
    ]
    asked = [*client, "--resource", ORDERS, "--scope", "openid", "--scope", "offline_access", "--scope", "read"]
    command = [sys.executable, "-m", "grpc_bearer", "login", *asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as logging_in:
        assert logging_in.stderr is not None
        prompt = logging_in.stderr.readline()
        page = re.search(r"open (https://\S+user_code=\S+),", prompt)
        assert page, prompt
        assert "Sign-in Success" in server.visit(page[1])
        out, err = logging_in.communicate(timeout=60)
    assert logging_in.returncode == 0, (out, err)

    code = main(["token", *asked])

    printed = capsys.readouterr()
    assert (code, printed.err) == (0, "")
    assert server.claims(printed.out.strip())["sub"] == "somebody"
