"""The pytest fixtures, as a user's tests use them, in test runs of their own; and the same kit without pytest."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import grpc
import jose
import pytest

import grpc_bearer
from grpc_bearer.testing import (
    CA,
    Delay,
    ManualClock,
    OAuthClient,
    OpaqueVerifier,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    SecretWatch,
    Status,
    TokenServer,
    private_pem,
    throwaway_key,
)

pytest_plugins = "pytester"

STUBS = Path(__file__).parents[1] / "_pages" / "stubs"


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a test file in a pytest of its own, with nothing loaded but the plugins named."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(source: str, *arguments: str, plugins: tuple[str, ...] = ()) -> pytest.RunResult:
        pytester.makepyfile(source)
        loaded = [part for name in ("_grpc_bearer_pytest", *plugins) for part in ("-p", name)]
        return pytester.runpytest_subprocess(*loaded, "-W", "error", "-q", *arguments)

    return run


# ------------------------------------------------------------------------------------------------- in this very process


def test_pytest_finds_the_plugin_by_itself() -> None:
    (entry,) = entry_points(group="pytest11", name="grpc_bearer")

    assert entry.value == "_grpc_bearer_pytest"


def test_a_revoked_token_is_replaced(
    bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, bearer_channel: Any
) -> None:
    stub = ProbeStub(bearer_channel)

    stub.Unary(ProbeRequest())
    bearer_token_server.revoke(*bearer_token_server.issued)
    stub.Unary(ProbeRequest())

    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, False, True]


def test_what_arrives_is_what_the_token_server_signed(
    bearer_grpc_server: ProbeServer,
    bearer_token_server: TokenServer,
    bearer_oauth_client: OAuthClient,
    bearer_channel: Any,
) -> None:
    ProbeStub(bearer_channel).Unary(ProbeRequest())

    (token,) = bearer_grpc_server.ledger.tokens
    _, claims = jose.verified(token, bearer_token_server.public_key, "ES256")
    assert claims["sub"] == bearer_oauth_client.client_id


def test_faults_are_scripted_on_both_servers_with_nothing_to_import(
    bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, bearer_channel: Any, bearer_kit: Any
) -> None:
    bearer_token_server.script(None, bearer_kit.Status(503))
    bearer_grpc_server.script(bearer_kit.Refuse(details="who are you?"))

    with pytest.raises(grpc.RpcError, match="who are you"):  # for there is no other token
        bearer_kit.ProbeStub(bearer_channel).Unary(bearer_kit.ProbeRequest())

    assert [exchange.status for exchange in bearer_token_server.exchanges] == [200, 503]


def test_the_moved_clock_is_that_of_both_servers_and_the_auth(
    bearer_clock: ManualClock, bearer_grpc_server: ProbeServer, bearer_token_server: TokenServer, bearer_channel: Any
) -> None:
    stub = ProbeStub(bearer_channel)

    stub.Unary(ProbeRequest())
    bearer_clock.advance(4000)  # tokens live 3600 seconds
    stub.Unary(ProbeRequest())

    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, True]
    assert len(bearer_token_server.issued) == 2
    assert bearer_grpc_server.ledger[1].received_at - bearer_grpc_server.ledger[0].received_at == 4000


async def test_the_same_fixtures_serve_asyncio(bearer_grpc_server: ProbeServer, bearer_auth: Any) -> None:
    credentials = bearer_grpc_server.channel_credentials()
    async with grpc_bearer.aio.secure_channel(bearer_grpc_server.target, credentials, auth=bearer_auth) as channel:
        reply = await ProbeStub(channel).Unary(ProbeRequest(index=7))

    assert list(reply.indexes) == [7]
    assert bearer_grpc_server.ledger[0].accepted


def test_a_service_is_added_to_a_running_server(bearer_grpc_server: ProbeServer, bearer_auth: Any) -> None:
    health_pb2 = pytest.importorskip(
        "grpc_health.v1.health_pb2", reason="no usable grpcio-health-checking", exc_type=ImportError
    )
    from grpc_health.v1 import health, health_pb2_grpc

    bearer_grpc_server.serve(health_pb2_grpc.add_HealthServicer_to_server, health.HealthServicer())

    credentials = bearer_grpc_server.channel_credentials()
    with grpc_bearer.secure_channel(bearer_grpc_server.target, credentials, auth=bearer_auth) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        ProbeStub(channel).Unary(ProbeRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, True]


def test_a_verifier_is_replaced_while_the_server_runs(bearer_grpc_server: ProbeServer) -> None:
    bearer_grpc_server.verifier = OpaqueVerifier(["s3cret-token"])

    credentials = bearer_grpc_server.channel_credentials()
    with grpc_bearer.secure_channel(bearer_grpc_server.target, credentials, auth="s3cret-token") as channel:
        ProbeStub(channel).Unary(ProbeRequest())
    assert bearer_grpc_server.ledger[0].accepted


# ------------------------------------------------------------------------------------------------ in a run of their own


def test_a_users_five_lines(run: Any) -> None:
    result = run(
        """
        def test_a_revoked_token_is_replaced(bearer_grpc_server, bearer_token_server, bearer_channel, bearer_kit):
            stub = bearer_kit.ProbeStub(bearer_channel)
            stub.Unary(bearer_kit.ProbeRequest())
            bearer_token_server.revoke(*bearer_token_server.issued)
            stub.Unary(bearer_kit.ProbeRequest())
            assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, False, True]
        """
    )

    result.assert_outcomes(passed=1)


def test_verifier_and_services_are_overridden_as_pytest_does_it(run: Any) -> None:
    result = run(
        """
        import grpc, grpc_bearer, pytest

        @pytest.fixture
        def bearer_verifier(bearer_kit):
            return bearer_kit.OpaqueVerifier(["s3cret-token"], header="x-token", scheme="")

        @pytest.fixture
        def bearer_services():
            handler = grpc.unary_unary_rpc_method_handler(lambda request, context: request + b"!")
            generic = grpc.method_handlers_generic_handler("fleet.Fleet", {"Start": handler})
            return [lambda server: server.add_generic_rpc_handlers([generic])]

        def test_start(bearer_grpc_server, request):
            auth = grpc_bearer.BearerAuth("s3cret-token", header="x-token", scheme="")
            credentials = bearer_grpc_server.channel_credentials()
            with grpc_bearer.secure_channel(bearer_grpc_server.target, credentials, auth=auth) as channel:
                assert channel.unary_unary("/fleet.Fleet/Start")(b"car") == b"car!"
            assert bearer_grpc_server.ledger[0].method == "/fleet.Fleet/Start"
            assert bearer_grpc_server.ledger[0].accepted
        """
    )

    result.assert_outcomes(passed=1)


SERVICES = {
    "pairs, as serve() takes them": ("[(add_FleetServicer_to_server, FleetServicer())]", ""),
    "functions of the server": ("[lambda server: add_FleetServicer_to_server(FleetServicer(), server)]", ""),
    "one pair without a list": (
        "(add_FleetServicer_to_server, FleetServicer())",
        "*expected a list of pairs*",
    ),
    "a class": ("[(add_FleetServicer_to_server, FleetServicer)]", "*FleetServicer is a class; *: FleetServicer()*"),
}


@pytest.mark.parametrize("given", SERVICES)
def test_the_shape_of_services(run: Any, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STUBS), *sys.path]))
    services, complaint = SERVICES[given]
    result = run(
        f"""
        import pytest
        from fleet_pb2 import ListRequest
        from fleet_pb2_grpc import FleetServicer, FleetStub, add_FleetServicer_to_server

        @pytest.fixture
        def bearer_services():
            return {services}

        def test_list(bearer_channel):
            assert list(FleetStub(bearer_channel).List(ListRequest()).robots) == ["ada", "bob"]
        """
    )

    result.assert_outcomes(errors=1) if complaint else result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([complaint or "*1 passed*"])


_ASYNC_TEST = """
    import grpc_bearer, pytest

    {mark}
    async def test_channel(bearer_grpc_server, bearer_aio_channel, bearer_kit):
        stub = bearer_kit.ProbeStub(bearer_aio_channel)
        await stub.Unary(bearer_kit.ProbeRequest())
        assert [reply async for reply in stub.ServerStream(bearer_kit.ProbeRequest())]
        assert len(bearer_grpc_server.ledger.accepted) == 2

    {mark}
    async def test_channel_with_an_end(bearer_aio_channel, bearer_kit):
        async with bearer_aio_channel as channel:
            await bearer_kit.ProbeStub(channel).Unary(bearer_kit.ProbeRequest())

    {mark}
    async def test_call(bearer_grpc_server, bearer_auth, bearer_kit, no_secrets_logged):
        credentials = bearer_grpc_server.channel_credentials()
        async with grpc_bearer.aio.secure_channel(bearer_grpc_server.target, credentials, auth=bearer_auth) as channel:
            await bearer_kit.ProbeStub(channel).Unary(bearer_kit.ProbeRequest())
        assert bearer_grpc_server.ledger[0].accepted
"""


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_pytest_asyncio_runs_them(run: Any, mode: str) -> None:
    source = _ASYNC_TEST.format(mark="" if mode == "auto" else "@pytest.mark.asyncio")

    run(
        source,
        f"--asyncio-mode={mode}",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        plugins=("pytest_asyncio.plugin",),
    ).assert_outcomes(passed=3)


def test_anyio_runs_them(run: Any) -> None:
    fixture = '    @pytest.fixture\n    def anyio_backend():\n        return "asyncio"\n'
    source = fixture + _ASYNC_TEST.format(mark="@pytest.mark.anyio")

    run("    import pytest\n" + source, plugins=("anyio.pytest_plugin",)).assert_outcomes(passed=3)


def test_one_asyncio_channel_serves_one_loop_after_another(bearer_aio_channel: grpc.aio.Channel) -> None:
    async def call() -> list[int]:
        return list((await ProbeStub(bearer_aio_channel).Unary(ProbeRequest(index=7))).indexes)

    assert [asyncio.run(call()), asyncio.run(call())] == [[7], [7]]


def test_a_logged_token_fails_the_test_and_is_not_shown_by_that(run: Any) -> None:
    result = run(
        """
        import logging

        def test_leaky(bearer_auth, no_secrets_logged):
            logging.getLogger("client").debug("sending %s", bearer_auth.headers())

        def test_leaky_credentials(bearer_oauth_client, no_secrets_logged):
            logging.getLogger("client").info("with %s", bearer_oauth_client.client_secret)

        def test_own_secret(no_secrets_logged):
            no_secrets_logged.keep("correct-horse-battery")
            logging.getLogger("client").warning("it is correct-horse-battery")

        def test_tight(bearer_channel, bearer_kit, no_secrets_logged):
            bearer_kit.ProbeStub(bearer_channel).Unary(bearer_kit.ProbeRequest())
        """,
        "--show-capture=no",
    )

    result.assert_outcomes(passed=4, errors=3)
    result.stdout.fnmatch_lines(["*AssertionError: secrets were logged:*", "*client (DEBUG) at *.py:4*"])
    assert "correct-horse-battery" not in "\n".join(line for line in result.outlines if line.startswith("E "))


def test_starting_pytest_imports_neither_grpc_nor_the_library(run: Any) -> None:
    result = run(
        """
        import sys

        def test_nothing_was_imported():
            slow = ("grpc", "grpc_bearer", "google", "cryptography", "jwt", "requests", "httpx")
            assert [name for name in slow if name in sys.modules] == []
        """
    )

    result.assert_outcomes(passed=1)


def test_importing_the_kit_does_not_import_pytest() -> None:
    script = "import sys, grpc_bearer.testing; sys.exit('pytest' in sys.modules or '_pytest' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


# ------------------------------------------------------------------------------------------------------- without pytest


def test_the_kit_is_a_handful_of_context_managers(tmp_path: Any) -> None:
    ca = CA()
    with TokenServer(ca) as tokens, ProbeServer(tokens.verifier(), ca) as server, SecretWatch() as watch:
        client = OAuthClient.registered(tokens, ca.write(tmp_path), lifetime=60)
        watch.keep(client.client_secret)
        tokens.script(Status(503))
        auth = grpc_bearer.BearerAuth(client.source(), clock=ManualClock())
        with pytest.raises(grpc_bearer.TokenUnavailableError):
            auth.token()
        with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=client.source()) as channel:
            ProbeStub(channel).Unary(ProbeRequest())
        watch.keep(*tokens.issued)

    assert server.ledger[0].accepted
    assert client.client_secret not in repr(client)


# ----------------------------------------------------------------------------------------------------- the watch itself

TOKEN = "s3cret-token-with-some-length-to-it"


@pytest.mark.parametrize(
    "log",
    [
        lambda logger: logger.debug("token %s", TOKEN),
        lambda logger: logger.error("…%s…", TOKEN[4:30]),
        lambda logger: logger.info("no message", extra={"headers": {"authorization": f"Bearer {TOKEN}"}}),
        lambda logger: logger.info("bytes %r", TOKEN.encode()),
        lambda logger: logger.info("basic bWU6czNjcmV0LXRva2VuLXdpdGgtc29tZS1sZW5ndGgtdG8taXQ="),
        lambda logger: _log_exception(logger),
    ],
    ids=["message", "part", "extra", "bytes", "base64", "traceback"],
)
@pytest.mark.parametrize("propagate", [True, False])
def test_a_secret_is_found_in_any_form(log: Any, propagate: bool) -> None:
    logger = logging.getLogger("tests.leaky")
    logger.propagate = propagate

    with pytest.raises(AssertionError, match=r"tests\.leaky \(\w+\) at test_testing_plugin\.py") as caught:  # noqa: SIM117
        with SecretWatch(TOKEN):
            log(logger)

    logger.propagate = True
    assert TOKEN[:16] not in str(caught.value)


def _log_exception(logger: logging.Logger) -> None:
    try:
        raise ValueError(f"bad token {TOKEN}")
    except ValueError:
        logger.exception("it failed")


def test_the_header_of_a_jwt_is_no_secret_and_its_signature_is() -> None:
    with TokenServer(None) as server:
        token = server.mint("me")
    header, _, signature = token.split(".")
    with SecretWatch(token) as watch:
        logging.getLogger("tests").info(header)
        assert watch.leaks() == []

    with pytest.raises(AssertionError), SecretWatch(token):
        logging.getLogger("tests").info(signature)


def test_a_line_of_a_private_key_is_a_secret() -> None:
    pem = private_pem(throwaway_key("ES256"))

    with pytest.raises(AssertionError), SecretWatch(pem):
        logging.getLogger("tests").info(pem.splitlines()[1])


def test_what_a_block_raises_itself_is_not_hidden() -> None:
    def leaky() -> None:
        with SecretWatch(TOKEN):
            logging.getLogger("tests").info(TOKEN)
            raise KeyError

    with pytest.raises(KeyError):
        leaky()


def test_levels_and_handlers_are_as_before_afterwards() -> None:
    logger = logging.getLogger("tests.quiet")
    logger.setLevel(logging.ERROR)
    before = (logging.root.level, logging.root.handlers[:], logger.level)

    with SecretWatch(TOKEN):
        assert logger.isEnabledFor(logging.DEBUG)

    assert (logging.root.level, logging.root.handlers[:], logger.level) == before


def test_a_secret_too_short_to_be_told_from_text_is_refused() -> None:
    with pytest.raises(ValueError, match="a secret of 3 characters cannot be told from other text"):
        SecretWatch("abc")


def test_a_delayed_call_is_held_by_the_test(
    bearer_grpc_server: ProbeServer, bearer_channel: Any, no_secrets_logged: SecretWatch
) -> None:
    delay = Delay(threading.Event())
    bearer_grpc_server.script(delay)

    call = ProbeStub(bearer_channel).Unary.future(ProbeRequest(index=3))
    assert delay.arrived.wait(20)
    assert not call.done()
    delay.release.set()

    assert list(call.result(20).indexes) == [3]
