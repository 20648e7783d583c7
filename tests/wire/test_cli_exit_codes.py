"""One exit code for one cause, whatever the command; and what is said speaks of the command line, not of Python."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from grpc_bearer.testing import CA, OpaqueVerifier, PlaintextRecorder, ProbeServer, Response, TokenServer

pytest.importorskip("grpc_health", reason="needs the cli extra")
pytest.importorskip("grpc_reflection", reason="needs the cli extra")

from _cli_server import PROBE, TOKEN, run, with_health, with_reflection

from grpc_bearer._cli.codes import Exit

COMMANDS = ("token", "inspect", "check", "call", "login", "auths", "demo", "bench", "completion")
#: What each command needs beside the option that is wrong.
_WORDS = {
    "check": ["{good}", "--ca", "{ca}"],
    "call": ["{good}", "--ca", "{ca}"],
    "completion": ["bash"],
    "bench": ["--key", "{key}"],
    "login": ["--store", "{new}"],
}
_AUTHS = ("token", "inspect", "check", "call")
_TOKEN = ["--token-file", "{token}", "--ca", "{ca}"]
_SOON = ["--timeout", "1"]
_CLIENT = ["--client-id", "my-app", "--client-secret-file", "{token}"]
_OAUTH = [*_CLIENT, "--token-ca", "{ca}"]

Cases = dict[str, list[list[str]]]


def with_words(commands: tuple[str, ...], *options: str) -> Cases:
    return {command: [[*_WORDS.get(command, []), *options]] for command in commands}


def to_server(*words: str) -> Cases:
    """The commands that talk to the server."""
    return {"check": [list(words)], "call": [list(words)]}


def token_url(url: str, *more: str) -> Cases:
    """Every command that asks a token endpoint, asking this one."""
    words = ["--token-url", url, *(more or _OAUTH)]
    return with_words(_AUTHS, *words) | with_words(("login",), *words, "--device-authorization-url", url)


#: By cause: the exit code, and the words after each command that can meet it.
CAUSES: dict[str, tuple[Exit, Cases]] = {
    "an unknown option": (Exit.USAGE, with_words(COMMANDS, "--nonsense")),
    "a file that is missing": (
        Exit.USAGE,
        {
            "token": [
                ["--token-file", "nix"],
                ["--profile", "bear", "--credentials-file", "nix"],
                ["--jwt-key", "nix", "--claim", "iss=me"],
                ["--service-account-file", "nix"],
                ["--token-url", "https://auth.example.com/token", "--client-id", "me", "--client-secret-file", "nix"],
                ["--token-url", "https://auth.example.com/token", "--client-id", "me", "--store", "nix"],
                ["--token-url", "https://auth.example.com/token", "--client-id", "me", "--token-ca", "nix"],
                ["--config", "nix"],
                ["--config", "{missing}"],
            ],
            "inspect": [["nix.txt"], ["@nix"], ["--token-file", "nix"], ["--verify", "nix", "x"], ["--config", "nix"]],
            "check": [["{good}", "--token-file", "nix"], ["{good}", "--token-file", "{token}", "--ca", "nix"]],
            "call": [
                ["{good}", "--token-file", "nix"],
                ["{good}", "--token-file", "{token}", "--ca", "nix"],
                ["{good}", "--token-file", "{token}", "--client-cert", "nix", "--client-key", "nix"],
                ["{good}", f"{PROBE}/Unary", *_TOKEN, "-d", "@nix"],
                ["{good}", f"{PROBE}/Unary", *_TOKEN, "--protoset", "nix"],
            ],
            "login": [["--config", "nix"], [*_OAUTH, "--issuer", "https://a.example", "--client-secret-file", "nix"]],
            "auths": [["--config", "nix"]],
            "bench": [["--key", "nix"]],
        },
    ),
    "a file that is empty": (
        Exit.USAGE,
        with_words(_AUTHS, "--token-file", "{empty}") | {"inspect": [["--token-file", "{empty}"], ["{empty}"]]},
    ),
    "no TOML": (Exit.USAGE, with_words((*_AUTHS, "auths"), "--config", "{key}") | {"login": [["--config", "{key}"]]}),
    "no such auth": (Exit.USAGE, with_words((*_AUTHS, "login"), "--config", "{toml}", "--auth", "nix")),
    "JSON that is none": (
        Exit.USAGE,
        {"call": [["127.0.0.1:{closed}", f"{PROBE}/Unary", *_TOKEN, "-d", "{{name: x"], ["x:1", "a.B/C", "nonsense"]]},
    ),
    "no auth at all": (Exit.USAGE, with_words(("token", "check", "call", "auths", "login"))),
    "no token endpoint there": (Exit.NO_TOKEN, token_url("https://127.0.0.1:{closed}/token")),
    "a token endpoint that refuses": (Exit.NO_TOKEN, token_url("{refusing}")),
    "a token endpoint of another authority": (Exit.NO_TOKEN, token_url("{refusing}", *_CLIENT)),
    "no server there": (
        Exit.NETWORK,
        {
            "check": [["127.0.0.1:{closed}", *_TOKEN]],
            "call": [["127.0.0.1:{closed}", *_TOKEN], ["127.0.0.1:{closed}", f"{PROBE}/Unary", *_TOKEN]],
            "inspect": [["--verify", "https://127.0.0.1:{closed}/jwks", "--token-ca", "{ca}", "x"]],
        },
    ),
    "a server that takes the connection and stays silent": (
        Exit.NETWORK,
        {
            "check": [["{silent}", *_TOKEN, *_SOON], ["{silent}", "--token-file", "{token}", "--plaintext", *_SOON]],
            "call": [
                ["{silent}", "list", *_TOKEN, *_SOON],
                ["{silent}", f"{PROBE}/Unary", "--token-file", "{token}", "--plaintext", *_SOON],
            ],
        },
    ),
    "a server of HTTP/1 without TLS": (
        Exit.NETWORK,
        to_server("{http1}", "--token-file", "{token}", "--plaintext", "--timeout", "9"),
    ),
    "no such name": (
        Exit.NETWORK,
        to_server("no-such-host.invalid:443", *_TOKEN)
        | {"inspect": [["--verify", "https://no-such-host.invalid/jwks", "x"]]},
    ),
    "a certificate of another authority": (
        Exit.TLS,
        to_server("{good}", "--token-file", "{token}") | {"inspect": [["--verify", "{refusing}", "x"]]},
    ),
    "a server without TLS": (Exit.TLS, to_server("{plain}", *_TOKEN)),
    "a server with TLS, called without": (Exit.TLS, to_server("{good}", "--token-file", "{token}", "--plaintext")),
    "a server that wants to know its clients": (Exit.TLS, to_server("{mutual}", *_TOKEN)),
    "a token that is refused": (Exit.REFUSED, to_server("{good}", "--token-file", "{other}", "--ca", "{ca}")),
    "no such method": (
        Exit.CALL,
        {
            "check": [["{good}", "--method", f"{PROBE}/Nothing", *_TOKEN]],
            "call": [["{good}", f"{PROBE}/Nothing", *_TOKEN]],
        },
    ),
}  # fmt: skip
CASES = [
    pytest.param(code, [command, *words], id=f"{cause}: {' '.join([command, *words])}")
    for cause, (code, cases) in CAUSES.items()
    for command, variants in cases.items()
    for words in variants
]


@contextlib.contextmanager
def http1() -> Iterator[str]:
    """A server that answers all in HTTP/1. The target."""

    class Answers(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What stands in braces above."""
    folder, ca = tmp_path_factory.mktemp("codes"), CA()
    names = ("token", "other", "empty", "key", "toml", "missing")
    files = {name: folder / f"{name}.txt" for name in names}
    files["token"].write_text(TOKEN)
    files["other"].write_text("tok-another")
    files["empty"].write_text("")
    files["key"].write_text("no key")
    files["toml"].write_text(f'[auth.a]\nprofile = "crm"\ntoken_file = "{files["token"]}"\n')
    files["missing"].write_text('[auth.a]\nsource = "file"\npath = "nix"\n')
    register = [with_health, with_reflection]
    with (
        ProbeServer(OpaqueVerifier([TOKEN]), ca, register=register) as good,
        ProbeServer(OpaqueVerifier([TOKEN]), ca, require_client=True, register=register) as mutual,
        PlaintextRecorder() as plain,
        TokenServer(ca) as tokens,
        socket.socket() as closed,
        socket.create_server(("127.0.0.1", 0)) as silent,  # the system takes connections, and nobody answers
        http1() as old,
    ):
        closed.bind(("127.0.0.1", 0))  # and nobody listens
        refused = Response(401, json.dumps({"error": "invalid_client"}).encode())
        servers = {"good": good.target, "mutual": mutual.target, "plain": plain.target}
        servers |= {"silent": f"127.0.0.1:{silent.getsockname()[1]}", "http1": old}
        servers["refusing"] = tokens.serve("/token", lambda request: refused)
        more = {"ca": str(ca.write(folder)), "new": str(folder / "login"), "closed": str(closed.getsockname()[1])}
        yield {**servers, **more, **{name: str(path) for name, path in files.items()}}


#: How Python would say it.
_PYTHON = re.compile(r"\b[a-z_]+=(?!\w)|=(?:True|False)\b|pathlib|BearerAuth|\bname a TOML file here|_file\b(?!:)")


@pytest.mark.parametrize(("code", "words"), CASES)
def test_one_exit_code_for_one_cause(world: dict[str, str], code: Exit, words: list[str]) -> None:
    ran = run(*(each.format(**world) for each in words), stdin="")

    assert ran.code == code, ran.err + ran.out
    told = ran.err or ran.out
    assert told
    assert not _PYTHON.search(told), told


@pytest.mark.parametrize("command", ["call", "completion"])
def test_an_extra_that_is_missing(world: dict[str, str], command: str) -> None:
    words = [each.format(**world) for each in _WORDS[command]]

    assert (
        run(command, *words, *["--token-file", world["token"]] * (command == "call"), extras=False).code == Exit.USAGE
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_shows_its_own_usage(world: dict[str, str], command: str) -> None:
    words = [each.format(**world) for each in _WORDS.get(command, [])]
    ran = run(command, *words, "--jsno")

    assert ran.err.startswith(f"usage: grpc-bearer {command}")
    assert (
        f"grpc-bearer: unrecognized arguments: --jsno; did you mean --json? `grpc-bearer {command} --help`" in ran.err
    )


def test_every_command_is_among_the_cases() -> None:
    assert {command for _, cases in CAUSES.values() for command in cases} == set(COMMANDS)
