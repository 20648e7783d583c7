"""`grpc-bearer call`: JSON in and out through server reflection, and what is said when it does not work."""

from __future__ import annotations

import json
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
        call(config, spied.target, f"{PROBE}/Unary", "-m", "X-Tenant=a=b", "-m", "trace-bin=AAE=")

    assert ("x-tenant", "a=b") in seen
    assert ("trace-bin", b"\x00\x01") in seen


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
    assert "has no reflection" in none.err
    assert "`grpc-bearer check TARGET` finds out why" in gone.err
    assert "CERTIFICATE_VERIFY_FAILED" in untrusted.err
    assert len(untrusted.err.splitlines()) == 1, "core's log stays out of it"
    assert "DEADLINE_EXCEEDED" in slow.err


def test_no_token(config: Path, server: ProbeServer) -> None:
    config.with_name("token").unlink()
    ran = call(config, server.target, f"{PROBE}/Unary")

    assert ran.code == 5
    assert "token" in ran.err


@pytest.mark.parametrize("option", [["-m", "nothing"], ["-m", "x-bin=%"]])
def test_metadata_that_is_none(config: Path, server: ProbeServer, option: list[str]) -> None:
    ran = call(config, server.target, f"{PROBE}/Unary", *option)

    assert ran.code == 2
    assert "--metadata" in ran.err


def test_without_the_extra_it_says_what_to_install(config: Path) -> None:
    ran = run("call", "localhost:1", f"{PROBE}/Unary", "--config", str(config), extras=False)

    assert ran.code == 2
    assert "pip install 'grpc-bearer[cli]'" in ran.err
