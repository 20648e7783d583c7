"""Clients that take a token, or a function that gives one: what they are handed, and how they are healed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import grpc
import pytest
import tenacity

import grpc_bearer
from grpc_bearer import BearerAuth, ConfigurationError, if_refused
from grpc_bearer.testing import OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub


@pytest.fixture(scope="module")
def server() -> Iterator[ProbeServer]:
    with ProbeServer() as server:
        yield server


@pytest.fixture
def stub(server: ProbeServer) -> Iterator[Any]:
    server.ledger.clear()
    server.verifier = OpaqueVerifier(["token.1"])
    with server.channel() as channel:
        yield ProbeStub(channel)


def numbered() -> BearerAuth:
    count = itertools.count()
    return BearerAuth(lambda: f"token.{next(count)}")


def sent(server: ProbeServer) -> list[str | None]:
    """The token of each call, in order."""
    return [attempt.token for attempt in server.ledger]


def by_tenacity(auth: BearerAuth, call: Callable[[], Any]) -> Any:
    again = tenacity.retry_if_exception(if_refused(auth))
    return tenacity.retry(retry=again, stop=tenacity.stop_after_attempt(3), reraise=True)(call)()


def google(module: str) -> Any:
    return pytest.importorskip(f"google.api_core.{module}", reason="extra `neighbours`", exc_type=ImportError)


def by_google(auth: BearerAuth, call: Callable[[], Any]) -> Any:
    return google("retry").Retry(predicate=if_refused(auth), initial=0.01, timeout=60)(call)()


@pytest.mark.parametrize("run", [by_tenacity, by_google])
@pytest.mark.parametrize("errors", ["grpc", "google"])
def test_a_call_with_a_provided_token_is_healed(run: Any, errors: str, server: ProbeServer, stub: Any) -> None:
    auth = numbered()
    method = google("grpc_helpers").wrap_errors(stub.Unary) if errors == "google" else stub.Unary

    def call() -> Any:
        return method(ProbeRequest(), metadata=auth.metadata(), timeout=20)

    run(auth, call)
    assert sent(server) == ["token.0", "token.1"]


async def test_asyncio_is_healed(server: ProbeServer) -> None:
    server.ledger.clear()
    server.verifier = OpaqueVerifier(["token.1"])
    auth = numbered()
    async with grpc.aio.secure_channel(server.target, server.channel_credentials()) as channel:
        stub: Any = ProbeStub(channel)  # type: ignore[arg-type]

        @tenacity.retry(retry=tenacity.retry_if_exception(if_refused(auth)), stop=tenacity.stop_after_attempt(3))
        async def call() -> Any:
            metadata = [("authorization", f"Bearer {await auth.abearer()}")]
            return await stub.Unary(ProbeRequest(), metadata=metadata, timeout=20)

        await call()
    assert sent(server) == ["token.0", "token.1"]


def test_calls_that_fail_with_one_token_cost_one_fetch(server: ProbeServer, stub: Any) -> None:
    auth, together = numbered(), Barrier(8)
    refused = if_refused(auth)  # one for all, as a decorator has it

    def call(_: int) -> None:
        metadata = auth.metadata()
        together.wait()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Unary(ProbeRequest(), metadata=metadata, timeout=20)
        assert refused(caught.value)
        stub.Unary(ProbeRequest(), metadata=auth.metadata(), timeout=20)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(8)))
    assert sorted(sent(server)) == ["token.0"] * 8 + ["token.1"] * 8


def test_a_token_from_gRPCs_own_thread_is_healed_at_the_third_attempt_at_most(server: ProbeServer) -> None:
    server.ledger.clear()
    server.verifier = OpaqueVerifier(["token.1"])
    auth = numbered()
    stale = auth.bearer()  # what this thread asked for last, for something else
    auth.invalidate(stale)
    server.verifier = OpaqueVerifier(["token.2"])
    credentials = grpc_bearer.channel_credentials(auth, server.channel_credentials())
    with grpc.secure_channel(server.target, credentials) as channel:
        by_tenacity(auth, lambda: ProbeStub(channel).Unary(ProbeRequest(), timeout=20))
    assert sent(server) == ["token.1", "token.1", "token.2"]


class OfGoogle(Exception):
    """As google.api_core's errors are."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__()
        self.grpc_status_code = code


@pytest.mark.parametrize(
    "error",
    [
        grpc.RpcError(),
        OfGoogle(grpc.StatusCode.UNAVAILABLE),
        OfGoogle(grpc.StatusCode.PERMISSION_DENIED),
        KeyError("code"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_other_errors_are_not_about_the_token(error: BaseException) -> None:
    auth = numbered()
    assert auth.bearer() == "token.0"
    assert if_refused(auth)(error) is False
    assert auth.bearer() == "token.0"


def test_a_token_that_cannot_change_is_not_tried_again() -> None:
    auth = BearerAuth("token.0")
    auth.bearer()
    assert if_refused(auth)(OfGoogle(grpc.StatusCode.UNAUTHENTICATED)) is False


def test_what_a_provider_is_handed() -> None:
    auth = BearerAuth("s3cret", "x-api-token", "")
    assert auth.bearer() == "s3cret"
    assert auth.metadata() == (("x-api-token", "s3cret"),)
    assert auth.headers() == {"x-api-token": "s3cret"}
    with pytest.raises(ConfigurationError, match="auth: expected a BearerAuth, got str"):
        if_refused("s3cret")  # type: ignore[arg-type]
