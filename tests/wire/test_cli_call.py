"""`grpc-bearer call`: JSON in and out through server reflection, and what is said when it does not work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from grpc_bearer.testing import CA, OpaqueVerifier, ProbeServer, Services

pytest.importorskip("grpc_health", reason="needs the cli extra")
pytest.importorskip("grpc_reflection", reason="needs the cli extra")

from _cli_server import PROBE, TOKEN, Ran, run, with_reflection

_CA = CA()


@pytest.fixture(scope="module")
def server() -> Iterator[ProbeServer]:
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=[with_reflection]) as server:
        yield server


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN)
    _CA.write(tmp_path)
    path = tmp_path / "auths.toml"
    path.write_text('[auth.crm]\nprofile = "crm"\ntoken_file = "token"\n')
    return path


def call(config: Path, target: str, *more: str, stdin: str = "") -> Ran:
    return run("call", target, "--config", str(config), "--ca", str(config.parent / "ca.pem"), *more, stdin=stdin)


def indexes(ran: Ran) -> list[list[int]]:
    return [[int(each) for each in json.loads(line)["indexes"]] for line in ran.out.splitlines()]


def test_a_unary_call(config: Path, server: ProbeServer) -> None:
    ran = call(config, server.target, f"{PROBE}/Unary", '{"index": 7}')

    assert (ran.code, ran.err) == (0, "")
    assert indexes(ran) == [[7]]
    assert server.ledger.accepted[-1].token == TOKEN


@pytest.mark.parametrize("method", [f"/{PROBE}/Unary", f"{PROBE}.Unary"])
def test_every_way_to_write_a_method_and_no_request_at_all(config: Path, server: ProbeServer, method: str) -> None:
    assert indexes(call(config, server.target, method)) == [[0]]


def test_a_unary_request_from_stdin_on_several_lines(config: Path, server: ProbeServer) -> None:
    assert indexes(call(config, server.target, f"{PROBE}/Unary", "-", stdin='{\n"index":\n9}')) == [[9]]


def test_a_server_stream_gives_a_line_a_message(config: Path, server: ProbeServer) -> None:
    ran = call(config, server.target, f"{PROBE}/ServerStream", '{"index": 1, "replies": 3}')

    assert indexes(ran) == [[1], [1], [1]]


def test_client_streams_read_lines_of_stdin(config: Path, server: ProbeServer) -> None:
    lines = '{"index": 1}\n\n{"index": 2}\n'

    assert indexes(call(config, server.target, f"{PROBE}/ClientStream", stdin=lines)) == [[1, 2]]
    assert indexes(call(config, server.target, f"{PROBE}/BidiStream", "-", stdin=lines)) == [[1], [1, 2]]
    assert indexes(call(config, server.target, f"{PROBE}/ClientStream", '{"index": 3}')) == [[3]]


ANSWERS = [{"index": 1}, {"index": 2}]


@pytest.mark.parametrize("form", ["lines", "one line", "over several lines", "pasted together"])
@pytest.mark.parametrize("by", ["stdin", "@", "option", "file"])
def test_requests_one_after_another(config: Path, server: ProbeServer, form: str, by: str) -> None:
    text = {
        "lines": "\n".join(map(json.dumps, ANSWERS)),
        "one line": " ".join(map(json.dumps, ANSWERS)),
        "over several lines": "\n\n".join(json.dumps(each, indent=2) for each in ANSWERS),
        "pasted together": "".join(map(json.dumps, ANSWERS)),
    }[form]
    config.with_name("requests.json").write_text(text)
    data = {"stdin": "-", "@": "@", "option": text, "file": f"@{config.with_name('requests.json')}"}[by]
    ran = call(config, server.target, f"{PROBE}/ClientStream", "-d", data, stdin=text)

    assert (ran.code, indexes(ran)) == (0, [[1, 2]])


@pytest.mark.parametrize("data", ["", "{}", "-", "@"])
def test_an_empty_request(config: Path, server: ProbeServer, data: str) -> None:
    assert indexes(call(config, server.target, f"{PROBE}/Unary", "-d", data)) == [[0]]


def test_a_stream_as_one_document(config: Path, server: ProbeServer) -> None:
    three = call(config, server.target, f"{PROBE}/ServerStream", '{"index": 1, "replies": 3}', "--json")
    unary = call(config, server.target, f"{PROBE}/Unary", '{"index": 1}', "--json")
    none = call(config, server.target, f"{PROBE}/BidiStream", "--json")

    assert [each["indexes"] for each in three.json] == [["1"]] * 3
    assert (unary.json["indexes"], none.json) == (["1"], [])


@pytest.mark.parametrize(("lines", "answers", "code"), [(1, 1, 2), (0, 0, 2)])
def test_a_stream_that_fails_is_a_document_up_to_there(
    config: Path, server: ProbeServer, lines: int, answers: int, code: int
) -> None:
    stdin = '{"index": 1}\n' * lines + "nonsense\n"
    ran = call(config, server.target, f"{PROBE}/BidiStream", "--json", stdin=stdin)

    assert (ran.code, json.loads(ran.err)["exit_code"]) == (code, code)
    # The bad line may be read before the first answer is there.
    assert ran.out == "" or len(ran.json) <= answers


def test_verbose_tells_what_goes_beside_the_messages(config: Path, server: ProbeServer) -> None:
    from _mail_server import MAIL, with_mail

    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=[with_mail()]) as mail:
        ran = call(config, mail.target, f"{MAIL}/Echo", "-v", "-H", "x-site: north")
        as_json = call(config, mail.target, f"{MAIL}/Echo", "-v", "--json")

    assert ran.json == {}
    assert [re.sub(r"[\d.]+ ms", "# ms", line) for line in ran.err.splitlines()] == [
        f"* token: an opaque token of {len(TOKEN)} characters, of unknown age, valid until revoked, got in # ms",
        f"* calling {MAIL}/Echo",
        "> authorization: <token>",
        "> x-site: north",
        "< x-served-by: mail-1",
        "< x-session-token: <hidden>",
        "< x-cost: 3",
        "< trace-bin: <2 bytes>",
        "* attempt 1: OK, # ms in all",
    ]
    told = json.loads(as_json.err)
    assert (told["status"], told["attempts"]) == ("OK", ["OK"])
    assert told["trailers"] == [["x-cost", "3"], ["trace-bin", "<2 bytes>"]]
    assert told["token"]["age"] is None


def test_verbose_tells_of_each_attempt_and_of_the_tokens_age(tmp_path: Path) -> None:
    from grpc_bearer.testing import Refuse

    with Services(tmp_path) as services:
        service = services["skykit"]
        options = ["--profile", "skykit", "--key-file", str(service.arguments[0]), "--issuer", "probe@example.com"]
        with ProbeServer(service.verifier, services.ca, register=[with_reflection]) as server:
            server.script(Refuse(grpc.StatusCode.UNAUTHENTICATED, details="try again"), method="Unary")
            ran = run("call", server.target, f"{PROBE}/Unary", *options, "--ca", str(services.ca_file), "-v")

    assert ran.code == 0
    assert re.search(r"\* token: a JWT, \d+ s old, good for [\w ]+, got in [\d.]+ ms\n", ran.err)
    assert "* attempt 1: UNAUTHENTICATED; made again with another token\n* attempt 2: OK" in ran.err
    assert not [token for attempt in server.ledger.attempts if (token := attempt.token) and token in ran.err]


@pytest.mark.parametrize("name", ["--deadline", "--timeout", "--max-time"])
def test_a_deadline_for_all_of_it(config: Path, server: ProbeServer, name: str) -> None:
    ran = call(config, server.target, f"{PROBE}/Unary", '{"delayMs": 5000}', name, "1.5")

    assert ran.code == 7
    assert "DEADLINE_EXCEEDED" in ran.err
    assert "--timeout" in ran.err


def test_a_line_of_grpcurl_with_its_names(config: Path, server: ProbeServer) -> None:
    trust = ["--authority", "localhost", "--cacert", str(config.parent / "ca.pem")]
    ran = run(
        "call",
        "-d",
        '{"index": 7}',
        "--max-time",
        "9",
        *trust,
        server.target,
        f"{PROBE}/Unary",
        "--config",
        str(config),
    )

    assert (ran.code, indexes(ran)) == (0, [[7]])


def test_a_url_is_taken_for_the_host_in_it_and_told(config: Path, server: ProbeServer) -> None:
    ran = call(config, f"https://{server.target}/x", f"{PROBE}/Unary")
    quiet = call(config, f"https://{server.target}/x", f"{PROBE}/Unary", "--quiet")

    told = f"grpc-bearer: https://{server.target} is a URL, and gRPC takes none: {server.target} is called instead.\n"
    assert (ran.code, ran.err) == (0, told)
    assert (quiet.code, quiet.err) == (0, "")


def test_without_a_method_it_lists_them(config: Path, server: ProbeServer) -> None:
    ran = call(config, server.target)
    listed = call(config, server.target, "--json").json

    assert f"{PROBE}/Unary" in ran.out
    assert {"method": f"{PROBE}/ServerStream", "shape": f"{PROBE}Request -> stream {PROBE}Reply"} in listed


def test_metadata_of_the_user_goes_along(config: Path, server: ProbeServer) -> None:
    seen: list[tuple[str, str | bytes]] = []

    class Spy:
        def verify(self, metadata: list[tuple[str, str | bytes]], method: str) -> object:
            from grpc_bearer.testing import Verdict

            seen.extend(metadata)
            return Verdict()

    with ProbeServer(Spy(), _CA, register=[with_reflection]) as spied:  # type: ignore[arg-type]
        words = ["-m", "X-Tenant=a=b", "-m", "trace-bin=AAE=", "-H", "X-Site: north", "-H", "x-empty:"]
        environment = {"API_KEY": "tok-of-another-kind"}
        files = ["--config", str(config), "--ca", str(config.parent / "ca.pem")]
        secret = ["--expand-headers", "-H", "x-api-key: ${API_KEY}"]
        ran = run("call", spied.target, f"{PROBE}/Unary", *words, *secret, *files, "-v", env=environment)

    wanted = [("x-tenant", "a=b"), ("trace-bin", b"\x00\x01"), ("x-site", "north"), ("x-empty", "")]
    for entry in (*wanted, ("x-api-key", "tok-of-another-kind")):
        assert seen.count(entry) == 2 + ran.code, "with the question to reflection, and with the call"
    assert "> x-site: north\n" in ran.err
    assert "> x-api-key: <hidden>\n" in ran.err


def test_single_use_tokens_are_new_for_each_question_and_the_call(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        verifier = services["openfx"].verifier
        credentials = str(services["openfx"].arguments[0])
        with ProbeServer(verifier, services.ca, register=[with_reflection]) as server:
            ran = run(
                *("call", server.target, f"{PROBE}/Unary", "--profile", "openfx", "--credentials-file", credentials),
                *("--ca", str(services.ca_file)),
            )

    assert ran.code == 0
    assert len({attempt.token for attempt in server.ledger.accepted}) == len(server.ledger.accepted) > 1


# -- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "request_", "code", "expected"),
    [
        (f"{PROBE}/Unray", "{}", 7, "did you mean Unary?"),
        ("grpc_bearer.testing.v1.Prob/Unary", "{}", 7, f"did you mean {PROBE}?"),
        (f"{PROBE}Request/Unary", "{}", 7, "is no service"),
        ("nonsense", "{}", 2, "no method's name"),
        (f"{PROBE}/Unary", "{", 2, "JSON: not JSON (line 1, column 2)"),
        (f"{PROBE}/Unary", '{"indx": 1}', 2, 'has no field named "indx"'),
        (f"{PROBE}/Unary", '{"index": "x"}', 2, "Failed to parse index field"),
        (f"{PROBE}/Unary", "[1]", 2, "JSON:"),
    ],
)
def test_what_cannot_be_called(
    config: Path, server: ProbeServer, method: str, request_: str, code: int, expected: str
) -> None:
    ran = call(config, server.target, method, request_)

    assert ran.code == code
    assert expected in ran.err
    assert ran.out == ""


def test_a_bad_line_ends_the_stream_and_is_named(config: Path, server: ProbeServer) -> None:
    ran = call(config, server.target, f"{PROBE}/ClientStream", stdin='{"index": 1}\n{"index": \n')

    assert ran.code == 2
    assert ran.err.startswith("grpc-bearer: line 2: not JSON (column 10)")


def test_a_refused_token(config: Path) -> None:
    with ProbeServer(OpaqueVerifier(["another"]), _CA, register=[with_reflection]) as server:
        ran = call(config, server.target, f"{PROBE}/Unary", "--json")

    assert ran.code == 6
    assert json.loads(ran.err)["exit_code"] == 6
    assert "UNAUTHENTICATED: unknown token" in ran.err


def test_an_error_of_the_service(config: Path) -> None:
    from grpc_bearer.testing import Refuse

    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=[with_reflection]) as server:
        server.script(Refuse(grpc.StatusCode.NOT_FOUND, details="no such thing"), method="Unary")
        ran = call(config, server.target, f"{PROBE}/Unary")

    assert (ran.code, ran.err) == (7, "grpc-bearer: NOT_FOUND: no such thing.\n")


def test_no_reflection_no_server_no_tls_no_time(config: Path, server: ProbeServer) -> None:
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA) as bare:
        none = call(config, bare.target, f"{PROBE}/Unary")
    gone = call(config, bare.target, f"{PROBE}/Unary")
    untrusted = run("call", server.target, f"{PROBE}/Unary", "--config", str(config))
    slow = call(config, server.target, f"{PROBE}/Unary", '{"delayMs": 5000}', "--timeout", "1.5")

    assert [ran.code for ran in (none, gone, untrusted, slow)] == [7, 3, 4, 7]
    assert "has no reflection. Describe it by files: --protoset FILE" in none.err
    assert "refuses connections. Is the server running" in gone.err
    assert "is of no authority that gRPC's own list knows" in untrusted.err
    assert len(untrusted.err.splitlines()) == 1, "core's log stays out of it"
    assert "DEADLINE_EXCEEDED" in slow.err


def test_no_token(config: Path, server: ProbeServer) -> None:
    config.with_name("token").unlink()
    ran = call(config, server.target, f"{PROBE}/Unary")

    assert ran.code == 2
    assert "[auth.crm] token_file: cannot read" in ran.err


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (["-m", "nothing"], "--metadata: expected NAME=VALUE"),
        (["-m", "x-bin=%"], "--metadata: x-bin: expected base64"),
        (["-H", "nothing"], "-H: expected NAME: VALUE"),
        (["-H", "x y: 1"], "-H: expected NAME: VALUE"),
        (["-H", "x-bin: %"], "-H: x-bin: expected base64"),
        (["-H", "x-name: F\u00f6n"], "-H: x-name: gRPC carries visible ASCII only"),
        (["-H", "grpc-timeout: 1S"], "-H: grpc-timeout begins with 'grpc-'"),
        (["-H", "Authorization: Bearer x"], "-H: authorization is what the auth sends itself"),
        (["--expand-headers", "-H", "x: ${NOT_SET_X}"], "-H: environment variable NOT_SET_X is not set"),
        (["-d", "{}", "{}"], "a request beside -d"),
        (["-d", "@nix.json"], "-d: cannot read nix.json: No such file or directory"),
        (["-d", '{"index": 1} {"index": 2}'], "2 messages for a method that takes one"),
        (["-d", '[{"index": 1}]'], "JSON: expected a message {…}, not a list. Messages of a stream stand one after"),
        (["-d", "[]"], "JSON: expected a message {…}, not a list"),
        (["-d", "7"], "JSON: expected a message {…}, not a number"),
        (["-d", '""'], "JSON: expected a message {…}, not a text"),
        (["-d", "null"], "JSON: expected a message {…}, not null"),
        (["-d", "true"], "JSON: expected a message {…}, not true or false"),
        (["-d", '{"index": 1'], "JSON: not JSON (line 1, column 12)"),
    ],
)
def test_what_cannot_be_sent(config: Path, server: ProbeServer, option: list[str], expected: str) -> None:
    ran = call(config, server.target, f"{PROBE}/Unary", *option)

    assert (ran.code, ran.out) == (2, "")
    assert expected in ran.err


def test_without_the_extra_it_says_what_to_install(config: Path) -> None:
    ran = run("call", "localhost:1", f"{PROBE}/Unary", "--config", str(config), extras=False)

    assert ran.code == 2
    assert "needs grpcio-reflection, which" in ran.err
    assert "nstall the cli extra: pip install 'grpc-bearer[cli]'" in ran.err
    assert "--protoset FILE" in ran.err
