"""What the command line says and reads: pure functions, as tables."""

from __future__ import annotations

import ast
import json
import re
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import grpc_bearer
from grpc_bearer._cli.answers import Answers
from grpc_bearer._cli.codes import CommandFailure
from grpc_bearer._cli.flags import in_flags
from grpc_bearer._cli.messages import _values, documents, metadata_of
from grpc_bearer._cli.network import parsed_target
from grpc_bearer._cli.parser import parsed
from grpc_bearer._cli.pasted import token_in
from grpc_bearer._cli.protofiles import ProtoFiles
from grpc_bearer._cli.verbose import Teller

BY_SOURCE = parsed(["token", "--token-url", "https://auth.example.com/token"])
BY_PROFILE = parsed(["token", "--profile", "skykit"])
BY_FILE = parsed(["token", "--config", "auths.toml"])


@pytest.mark.parametrize(
    ("text", "flags", "toml"),
    [
        ("name the authority with ca=", "name the authority with --token-ca", "name the authority with ca"),
        ("or give store=, the file", "or give --store, the file", "or give store, the file"),
        (
            "only with allow_http_loopback=True",
            "only with --allow-http-loopback",
            "only with allow_http_loopback = true",
        ),
        ("use auth_method='none'", "use --auth-method none", 'use auth_method = "none"'),
        ("use header='x', scheme=''", "use --metadata-key x, --scheme ''", 'use header = "x", scheme = ""'),
        ("BearerAuth(..., pickle_secrets=True)", "pickle_secrets = true in a TOML file", "pickle_secrets = true"),
        ("HTTPTokenSource(…, field='token')", 'field = "token" in a TOML file', 'field = "token"'),
        ("give service_account_file", "give --service-account-file", "give service_account_file"),
        ("a key_file of nobody", "a --jwt-key of nobody", "a key_file of nobody"),
        # What servers say is left alone.
        ("invalid_request: scope=fleet is unknown", None, None),
        ("https://auth.example.com/?client_id=me&x=", None, None),
        ("no access_token, and no 'token_url'", None, None),
        ("/home/me/token_url", None, None),
    ],
)
def test_errors_in_the_words_of_whoever_gave_the_arguments(text: str, flags: str | None, toml: str | None) -> None:
    assert in_flags(text, BY_SOURCE) == (flags or text)
    assert in_flags(text, BY_FILE) == (toml or text)


def texts() -> Iterator[str]:
    """All that the library may say, as far as it stands in its code."""
    root = Path(grpc_bearer.__file__).parent
    for path in root.rglob("*.py"):
        if not {"_cli", "testing"} & set(path.parts):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Raise):
                    for each in ast.walk(node):
                        if isinstance(each, ast.Constant) and isinstance(each.value, str):
                            yield each.value


@pytest.mark.parametrize("arguments", [BY_SOURCE, BY_PROFILE, BY_FILE])
def test_no_argument_of_python_is_left_in_any_error_of_the_library(arguments: Namespace) -> None:
    left = {text for text in texts() if re.search(r"\b[a-z_]+=(?![\w&=])", in_flags(text, arguments))}

    assert left == set()


@pytest.mark.parametrize(
    ("typed", "text", "authority"),
    [
        ("https://api.example.com", "api.example.com:443", "api.example.com"),
        ("https://api.example.com:8443/", "api.example.com:8443", "api.example.com:8443"),
        ("https://api.example.com/v1/x?y=1#z", "api.example.com:443", "api.example.com"),
        ("https://[::1]:50051/x", "[::1]:50051", "[::1]:50051"),
        ("dns:///api.example.com", "api.example.com:443", "api.example.com"),
    ],
)
def test_targets(typed: str, text: str, authority: str) -> None:
    target = parsed_target(typed)

    assert (target.text, target.authority) == (text, authority)
    assert bool(target.remark) is typed.startswith("https")


@pytest.mark.parametrize("typed", ["http://x", "https://", "https://u:p@x", "u:p@x:1", "https:/x", "x:0", "x:65536"])
def test_what_is_no_target(typed: str) -> None:
    with pytest.raises(CommandFailure) as caught:
        parsed_target(typed)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n\t", []),
        ("{}", [{}]),
        ('{"a": 1}\n{"a": 2}', [{"a": 1}, {"a": 2}]),
        ('{"a": "}"}{"a": "\\"{"}', [{"a": "}"}, {"a": '"{'}]),
        ('{\n"a":\n{"b": [\n1]}\n}\n\n{}', [{"a": {"b": [1]}}, {}]),
        ("[1, 2] 3 null", [[1, 2], 3, None]),
        ("[1,\n2\n]\n3\n{}\n[\n4\n]", [[1, 2], 3, {}, [4]]),
    ],
)
def test_documents_one_after_another(text: str, expected: list[object]) -> None:
    assert [value for _, value in documents(text, live=False)] == expected
    # As they come from a terminal or a pipe, line by line.
    assert [value for _, value in _values(text.splitlines(keepends=True), "line")] == expected


def test_each_is_there_as_soon_as_its_line_is() -> None:
    lines = iter(['{"a": 1}\n', '{"a":\n', "2}\n", "{}\n"])
    found = _values(lines, "line")

    assert [next(found), list(lines)[:1]] == [("line 1", {"a": 1}), ['{"a":\n']]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "JSON: not JSON (line 1, column 2)"),
        ('{"a": 1}\n{"a" 2}', "JSON: not JSON (line 2, column 6)"),
        ('{}\n\n{\n"a": 1,\n}', "JSON: not JSON (line "),
        ("{'a': 1}", "JSON: not JSON (line 1, column 2)"),
        ("[" * 100_000, "JSON: nested too deep"),
    ],
)
def test_what_is_no_json_is_told_by_its_place(text: str, expected: str) -> None:
    with pytest.raises(CommandFailure) as caught:
        list(documents(text, live=False))
    assert str(caught.value).startswith(expected)


def test_a_file_of_many_lines_is_read_once(tmp_path: Path) -> None:
    many = [{"index": number, "text": "x" * 50} for number in range(20_000)]
    (tmp_path / "many.json").write_text("\n".join(json.dumps(each, indent=1) for each in many))

    assert [value for _, value in documents(f"@{tmp_path}/many.json", live=False)] == many


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--no-color", "auths"], "unrecognized arguments: --no-color; it goes after the command"),
        (["--no-colour", "auths"], "unrecognized arguments: --no-colour; did you mean --no-color?"),
        (["token", "--timeout", "-1"], "argument --timeout: expected a number of seconds, 0 or more"),
        (["call", "x", "--max-time", "nan"], "argument --max-time: expected a number of seconds, 0 or more"),
        (["inspect", "--max-lifetime", "1e9"], "argument --max-lifetime: expected a number of seconds, 0 or more"),
    ],
)
def test_options_that_are_wrong(words: list[str], problem: str) -> None:
    with pytest.raises(CommandFailure) as caught:
        parsed(words)
    assert caught.value.problem == problem


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *((name, "<hidden>") for name in ("x-csrf", "x-xsrf", "x-goog-signature", "x-jwt-assertion", "x-passwd")),
        *((name, "<hidden>") for name in ("x-password", "bearer", "x-api-key", "set-cookie")),
        *((name, "north") for name in ("x-site", "x-request-id", "traceparent")),
    ],
)
def test_values_that_verbose_does_not_show(name: str, shown: str) -> None:
    assert Teller(wanted=True, as_json=False, tokens=())._value(name, "north") == shown


@pytest.mark.parametrize(
    ("text", "token", "others"),
    [
        ("s3cret-token", "s3cret-token", 0),
        ("  s3cret-token\n", "s3cret-token", 0),
        ("X-Api-Token: s3cret-token", "s3cret-token", 0),
        ("Proxy-Authorization: Bearer s3cret-token", "s3cret-token", 0),
        ("curl -H 'Authorization: Bearer s3cret-token' -d '{}' x", "s3cret-token", 0),
        ("> authorization: Bearer s3cret-a\n> authorization: Bearer s3cret-b\n", "s3cret-a", 1),
        ("> authorization: Bearer s3cret-a\n> authorization: Bearer s3cret-a\n", "s3cret-a", 0),
        ('{"id_token": "s3cret-b", "access_token": "s3cret-a"}', "s3cret-a", 1),
        ("bearer of bad news", "bearer of bad news", 0),
        ("Proxy-Authorization: Basic dXNlcjpwYXNz\nAuthorization: Bearer s3cret-token", "s3cret-token", 0),
        ("curl -H 'Authorization: Bearer $TOKEN' x", "$TOKEN", 0),
        ('curl -H "Authorization: Bearer $(cat token)" x', "$(cat token)", 0),
        ("Bearer {{ token }}", "{{ token }}", 0),
    ],
)
def test_tokens_in_what_was_pasted(text: str, token: str, others: int) -> None:
    assert token_in(text) == (token, others)


_A_JWT = "eyJ" + "a" * 1000 + "." + "b" * 1000 + "." + "c" * 1000


@pytest.mark.parametrize(
    ("text", "token"),
    [
        (f"{_A_JWT} (expired)", _A_JWT),
        (f'{_A_JWT}\n"x"', _A_JWT),
        (f"{_A_JWT}, and {_A_JWT}", _A_JWT),
        ("eyJ " + "a" * 1_000_000 + "!", None),
        ("a " + "eyJ-" * 250_000, None),
        ("a b" + "\n" * 1_000_000 + "c", None),
    ],
    ids=["remark", "quoted", "twice", "long", "hyphens", "lines"],
)
def test_no_text_is_searched_for_ever(text: str, token: str | None) -> None:
    assert token_in(text).token == (token or text)


def test_requests_that_are_long_are_read_once() -> None:
    lines = ["{\n", *('  "a": {"b": {}},\n' for _ in range(100_000)), '  "c": 1\n', "}\n"]
    (found,) = _values(lines, "line")
    assert found[1]["c"] == 1


def test_an_answer_that_is_no_json_is_told() -> None:
    from google.protobuf.timestamp_pb2 import Timestamp

    answers = Answers(ProtoFiles([]), stream=False, as_json=False, defaults=False)
    with pytest.raises(CommandFailure, match="the answer cannot be shown") as caught:
        answers.print(Timestamp(seconds=10**15))
    assert caught.value.code == 7


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (lambda: list(documents("9" * 5000, live=False)), "JSON: a number of too many digits"),
        (lambda: metadata_of(["x-bin: é"], [], expand=False), "-H: x-bin: expected base64"),
    ],
)
def test_what_python_itself_refuses_is_told_as_input(given: Callable[[], object], problem: str) -> None:
    with pytest.raises(CommandFailure) as caught:
        given()
    assert (caught.value.code, caught.value.problem) == (2, problem)
