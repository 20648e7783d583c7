"""`grpc-bearer check`: each thing that can be wrong is found, said in one line, and has its exit code."""

from __future__ import annotations

import functools
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from grpc_bearer.testing import (
    CA,
    Hang,
    JWTVerifier,
    ManualClock,
    OpaqueVerifier,
    PlaintextRecorder,
    ProbeServer,
    Status,
    TokenServer,
    private_pem,
    throwaway_key,
)

pytest.importorskip("grpc_health", reason="needs the cli extra")
pytest.importorskip("grpc_reflection", reason="needs the cli extra")

from _cli_server import PROBE, TOKEN, Ran, run, tls_server, with_health, with_reflection

_CA = CA()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    _CA.write(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def server() -> Iterator[ProbeServer]:
    """Verifies the token on every call, health checks and reflection too."""
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=[with_health, with_reflection]) as server:
        yield server


def check(folder: Path, target: str, *more: str, ca: str = "ca.pem", as_json: bool = True) -> Ran:
    options = ["--profile", "crm", "--token-file", str(folder / "token"), "--timeout", "5"]
    trust = [] if "--plaintext" in more or not ca else ["--ca", str(folder / ca)]
    return run("check", target, *options, *trust, *more, *["--json"] * as_json)


def test_all_well_in_one_table(folder: Path, server: ProbeServer) -> None:
    ran = check(folder, server.target, as_json=False)
    lines = ran.out.splitlines()

    assert ran.code == 0
    assert [line.split()[:2] for line in lines[:5]] == [
        [step, "ok"] for step in ("resolve", "connect", "tls", "token", "call")
    ]
    # Made for seven days, a moment ago: less than a second, or more.
    assert re.search(r"signed by grpc-bearer throw-away CA, good for \d+ d", lines[2])
    assert "grpc.health.v1.Health/Check: SERVING" in lines[4]
    assert lines[-1] == "All well."
    assert "\x1b" not in ran.out
    assert ran.err == ""


def test_json_has_every_step(folder: Path, server: ProbeServer) -> None:
    ran = check(folder, server.target)

    assert ran.json["ok"] is True
    assert ran.steps == {"resolve": "ok", "connect": "ok", "tls": "ok", "token": "ok", "call": "ok", "clock": "skip"}
    assert ran.json["steps"][2]["issuer"] == "grpc-bearer throw-away CA"


def test_reflection_is_asked_where_there_is_no_health_check(folder: Path) -> None:
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=[with_reflection]) as server:
        ran = check(folder, server.target)

    assert ran.code == 0
    assert "lists 2 services" in ran.json["steps"][4]["detail"]


def test_a_method_is_asked_for_where_there_is_neither(folder: Path) -> None:
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA) as server:
        without = check(folder, server.target)
        given = check(folder, server.target, "--method", f"{PROBE}/ClientStream")

    assert without.code == 7
    assert "--method" in without.json["advice"]
    assert given.code == 0


def test_a_server_that_takes_anyone_is_no_proof(folder: Path) -> None:
    with ProbeServer(None, _CA, register=[with_health]) as server:
        ran = check(folder, server.target)

    assert ran.code == 0
    assert ran.steps["call"] == "warn"
    assert "without a token too" in ran.json["steps"][4]["detail"]


def test_a_server_that_is_not_serving(folder: Path) -> None:
    register = [functools.partial(with_health, status="NOT_SERVING")]
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=register) as server:
        ran = check(folder, server.target)

    assert ran.code == 7
    assert "the server says NOT_SERVING" in ran.json["problem"]


# -- network ----------------------------------------------------------------------------------------------------------


def test_a_name_that_does_not_exist(folder: Path) -> None:
    ran = check(folder, "no-such-host.invalid:443")

    assert ran.code == 3
    assert ran.json["failed"] == "resolve"
    assert "no-such-host.invalid cannot be resolved" in ran.json["problem"]
    assert ran.steps["token"] == "ok"


def test_a_port_where_nobody_listens(folder: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        ran = check(folder, f"127.0.0.1:{reserved.getsockname()[1]}")

    assert ran.code == 3
    assert "refuses connections" in ran.json["problem"]


# -- TLS --------------------------------------------------------------------------------------------------------------


def test_an_authority_that_nobody_knows(folder: Path, server: ProbeServer) -> None:
    ran = check(folder, server.target, ca="")

    assert ran.code == 4
    assert "signed by grpc-bearer throw-away CA" in ran.json["problem"]
    assert "no authority that gRPC's own list knows" in ran.json["problem"]
    assert "--ca" in ran.json["advice"]


def test_the_wrong_authority(folder: Path, server: ProbeServer) -> None:
    (folder / "other.pem").write_bytes(CA("Another Root").pem)

    ran = check(folder, server.target, ca="other.pem")

    assert ran.code == 4
    assert "other.pem knows" in ran.json["problem"]


def test_a_certificate_that_has_expired(folder: Path) -> None:
    with tls_server(folder, since=-90, until=-2) as target:
        ran = check(folder, target, ca="own-ca.pem")

    assert ran.code == 4
    assert "signed by Old Root) expired 2 d" in ran.json["problem"]
    assert "renewed" in ran.json["advice"]


def test_a_certificate_of_tomorrow(folder: Path) -> None:
    with tls_server(folder, since=1, until=9) as target:
        ran = check(folder, target, ca="own-ca.pem")

    assert ran.code == 4
    assert "not valid yet" in ran.json["problem"]
    assert "clock" in ran.json["advice"]


def test_a_certificate_of_another_host(folder: Path) -> None:
    with tls_server(folder, since=-9, until=90, names="api.example.com") as target:
        ran = check(folder, target, ca="own-ca.pem")
        named = check(folder, target, "--server-name", "api.example.com", ca="own-ca.pem")

    assert ran.code == 4
    assert "is not for localhost, but for api.example.com" in ran.json["problem"]
    assert named.steps["tls"] == "ok"


def test_a_certificate_near_its_end_is_worth_a_word(folder: Path) -> None:
    with tls_server(folder, since=-80, until=5) as target:
        ran = check(folder, target, ca="own-ca.pem")

    assert ran.steps["tls"] == "warn"


def test_a_server_without_tls_gets_no_token(folder: Path) -> None:
    with PlaintextRecorder() as recorder:
        ran = check(folder, recorder.target)

    assert ran.code == 4
    assert "speaks gRPC without TLS" in ran.json["problem"]
    assert not recorder.contains(TOKEN)


def test_plaintext_only_if_asked_for(folder: Path) -> None:
    with ProbeServer(OpaqueVerifier([TOKEN]), credentials="insecure", register=[with_health]) as server:
        ran = check(folder, server.target, "--plaintext")

    assert ran.code == 0
    assert ran.steps["tls"] == "warn"
    assert ran.steps["call"] == "ok"


def test_plaintext_to_a_server_with_tls(folder: Path, server: ProbeServer) -> None:
    ran = check(folder, server.target, "--plaintext")

    assert ran.code == 4
    assert ran.json["problem"] == "the server speaks TLS"


def test_mutual_tls(folder: Path) -> None:
    key, chain = _CA.issue().write(folder)
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, require_client=True, register=[with_health]) as server:
        without = check(folder, server.target)
        ran = check(folder, server.target, "--client-cert", str(chain), "--client-key", str(key))

    assert without.code == 4
    assert "--client-cert" in without.json["advice"]
    assert ran.code == 0


def test_a_unix_socket(folder: Path) -> None:
    target = f"unix:{folder}/s"
    verifier = OpaqueVerifier([TOKEN])
    with ProbeServer(verifier, credentials="local", address=target, register=[with_health]):
        ran = check(folder, target, ca="")

    assert ran.code == 0
    assert ran.steps["tls"] == "skip"


def test_a_unix_socket_where_nobody_listens(folder: Path) -> None:
    target = f"unix:{folder}/nobody"
    ran = check(folder, target, ca="")
    called = run("call", target, "list", "--profile", "crm", "--token-file", str(folder / "token"))

    assert (ran.code, ran.json["advice"]) == (3, "is the server running, and is that its socket?")
    assert (called.code, called.err.endswith(" Is the server running, and is that its socket?\n")) == (3, True)


# -- the token and the clock ------------------------------------------------------------------------------------------


def test_a_token_that_the_server_refuses(folder: Path) -> None:
    with ProbeServer(OpaqueVerifier(["another"]), _CA, register=[with_health]) as server:
        ran = check(folder, server.target)

    assert ran.code == 6
    assert ran.json["failed"] == "call"
    assert "UNAUTHENTICATED" in ran.json["problem"]


def test_a_server_that_repeats_the_token_does_not_make_us_show_it(folder: Path) -> None:
    from grpc_bearer.testing import Refuse

    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=[with_health]) as server:
        import grpc

        server.script(*[Refuse(grpc.StatusCode.PERMISSION_DENIED, details=f"no rights for {TOKEN}\x1b[31m")] * 4)
        ran = check(folder, server.target)

    assert ran.code == 6
    assert "no rights for <token>\\x1b[31m" in ran.json["problem"]


def _bear(folder: Path, server: TokenServer) -> list[str]:
    credentials = {"api_key": "key", "scope": "s", "secret": TOKEN}
    (folder / "bear.json").write_text(json.dumps(credentials))
    url = server.serve_bear(credentials)
    options = ["--credentials-file", str(folder / "bear.json"), "--url", url, "--token-ca", str(folder / "ca.pem")]
    return ["--profile", "bear", *options, "--ca", str(folder / "ca.pem"), "--timeout", "3", "--json"]


def test_a_token_endpoint_that_is_down_refuses_or_hangs(folder: Path, server: ProbeServer) -> None:
    with TokenServer(_CA) as tokens:
        options = _bear(folder, tokens)
        tokens.fail_with(Status(401), 1)
        refused = run("check", server.target, *options)
        tokens.fail_with(Hang(), 1)
        hanging = run("check", server.target, *options)
        tokens.heal()
    down = run("check", server.target, *options)

    assert [ran.code for ran in (refused, hanging, down)] == [5, 5, 5]
    assert "answered 401" in refused.json["problem"]
    assert {ran.json["failed"] for ran in (refused, hanging, down)} == {"token"}
    assert refused.json["advice"] == "check the credential"
    assert down.json["advice"] == "check the token endpoint, its address and the way to it"
    assert refused.steps["tls"] == "ok"


def test_a_clock_that_is_off_is_measured_by_the_token_endpoint(folder: Path) -> None:
    import time

    ahead = ManualClock(time.time() + 3 * 3600)
    with TokenServer(_CA, ahead) as tokens:
        verifier = tokens.verifier()
        with ProbeServer(verifier, _CA, register=[with_health]) as server:
            ran = run("check", server.target, *_bear(folder, tokens))

    assert ran.steps["clock"] == "warn"
    assert ran.json["steps"][-1]["behind_seconds"] == pytest.approx(3 * 3600, abs=60)
    assert ran.code == 0


def test_a_clock_that_is_off_explains_a_refusal(folder: Path) -> None:
    import time

    key = throwaway_key("RS256")
    (folder / "key.pem").write_text(private_pem(key))
    verifier = JWTVerifier(key.public_key(), ["RS256"], clock=ManualClock(time.time() - 7200))
    options = ["--profile", "skykit", "--key-file", str(folder / "key.pem"), "--issuer", "me@example.com"]
    with ProbeServer(verifier, _CA, clock=verifier.clock, dated=True, register=[with_health]) as server:
        ran = run("check", server.target, *options, "--ca", str(folder / "ca.pem"), "--json")

    assert ran.code == 8
    assert "2 h ahead" in ran.json["problem"]
    assert ran.json["advice"] == "set the clock (NTP)"


# -- use --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://example.com", "is a URL without TLS"),
        ("https://", "is no target"),
        ("https://user:tok-5ecr3t-0123456789-abcdef@example.com", "what was given is no target"),
        ("example.com:99999", "is no target"),
        ("a b", "is no target"),
    ],
)
def test_what_is_no_target(folder: Path, target: str, expected: str) -> None:
    ran = check(folder, target)

    assert ran.code == 2
    assert expected in json.loads(ran.err)["error"]


def test_files_that_are_no_certificates(folder: Path, server: ProbeServer) -> None:
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (folder / "broken.pem").write_text(broken)
    (folder / "key.pem").write_text(private_pem(throwaway_key("RS256")))
    pair = ["--client-cert", str(folder / "ca.pem"), "--client-key", str(folder / "key.pem")]

    for ran, expected in (
        (check(folder, server.target, ca="token"), "holds no certificate"),
        (check(folder, server.target, ca="broken.pem"), "no usable PEM"),
        (check(folder, server.target, *pair), "no usable PEM"),
        (check(folder, server.target, *pair[:2]), "go together"),
        (check(folder, server.target, ca="nix.pem"), "cannot read"),
    ):
        assert ran.code == 2
        assert expected in ran.err


def test_without_the_extra_it_does_all_it_can_and_says_what_that_adds(folder: Path, server: ProbeServer) -> None:
    options = ["--profile", "crm", "--token-file", str(folder / "token"), "--ca", str(folder / "ca.pem"), "--json"]
    ran = run("check", server.target, *options, extras=False)
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA) as bare:
        no_health = run("check", bare.target, *options, extras=False)
        named = run("check", bare.target, *options, "--method", f"{PROBE}/ClientStream", extras=False)
    with ProbeServer(OpaqueVerifier(["another"]), _CA, register=[with_health]) as other:
        refused = run("check", other.target, *options, extras=False)

    assert [each.code for each in (ran, no_health, named, refused)] == [0, 7, 0, 6]
    assert ran.steps == {"resolve": "ok", "connect": "ok", "tls": "ok", "token": "ok", "call": "ok", "clock": "skip"}
    adds = "with the cli extra its answer would be read, and reflection be tried"
    install = "install the cli extra: pip install 'grpc-bearer[cli]'"
    assert ran.json["steps"][4]["detail"] == f"grpc.health.v1.Health/Check: answered ({adds}; {install})"
    assert no_health.json["problem"] == "the server has no health check"
    assert no_health.json["advice"].startswith("name a method")
    assert no_health.json["advice"].endswith(f"or {install}")
    assert "extra" not in named.json["steps"][4]["detail"]


def test_a_url_is_taken_for_the_host_in_it_and_told(folder: Path, server: ProbeServer) -> None:
    ran = check(folder, f"https://{server.target}/path?query")

    assert ran.code == 0
    assert (ran.json["target"], ran.steps["target"], ran.steps["call"]) == (server.target, "warn", "ok")
    assert f"{server.target} is called instead" in ran.json["steps"][0]["detail"]
    assert ran.err == ""
