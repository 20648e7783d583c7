"""The fixtures of `grpc_bearer.testing`, for pytest: found by its entry point, nothing to import.

It stands outside the package because pytest imports it on every start, in projects that may have no gRPC test at all:
what it needs is imported by the fixtures, when one is used.

    def test_a_revoked_token_is_replaced(bearer_grpc_server, bearer_token_server, bearer_channel):
        stub = FleetStub(bearer_channel)
        stub.ListCars(ListCarsRequest())
        bearer_token_server.revoke(*bearer_token_server.issued)
        stub.ListCars(ListCarsRequest())
        assert [attempt.accepted for attempt in bearer_grpc_server.ledger] == [True, False, True]

A test overrides `bearer_services` and `bearer_verifier`, as pytest does it, by fixtures of the same names. All are sync
fixtures: use them from sync tests and from asyncio ones, whichever plugin runs those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    import grpc

    from grpc_bearer import BearerAuth, Clock
    from grpc_bearer.testing import CA, ManualClock, OAuthClient, ProbeServer, SecretWatch, TokenServer, Verifier
    from grpc_bearer.testing._probe import Served


@pytest.fixture(scope="session")
def bearer_kit() -> ModuleType:
    """The module `grpc_bearer.testing`, for its faults and verifiers: `bearer_kit.Refuse()`."""
    import grpc_bearer.testing

    return grpc_bearer.testing


@pytest.fixture(scope="session")
def bearer_ca() -> CA:
    """The throw-away certificate authority of the servers below."""
    from grpc_bearer.testing import CA

    return CA()


@pytest.fixture(scope="session")
def bearer_ca_file(bearer_ca: CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its root as a PEM file, for `ca=`, `verify=` and the like."""
    return bearer_ca.write(tmp_path_factory.mktemp("bearer_ca"))


@pytest.fixture
def bearer_clock() -> ManualClock:
    """A clock that stands until the test moves it: `bearer_clock.advance(3600)`.

    If a test asks for it, the servers and `bearer_auth` read it too; else they read the system's. It begins at the
    present second.
    """
    import time

    from grpc_bearer.testing import ManualClock

    return ManualClock(float(int(time.time())))


@pytest.fixture
def _bearer_time(request: pytest.FixtureRequest) -> Clock:
    from grpc_bearer._base.clock import SYSTEM_CLOCK

    clock: Clock = SYSTEM_CLOCK
    if "bearer_clock" in request.fixturenames:
        clock = request.getfixturevalue("bearer_clock")
    return clock


@pytest.fixture
def bearer_token_server(bearer_ca: CA, _bearer_time: Clock) -> Iterator[TokenServer]:
    """A running HTTPS token server: `script(Status(503), …)` it, `revoke(…)` its tokens, read its `exchanges`."""
    from grpc_bearer.testing import TokenServer

    with TokenServer(bearer_ca, _bearer_time) as server:
        yield server


@pytest.fixture
def bearer_oauth_client(bearer_token_server: TokenServer, bearer_ca_file: Path) -> OAuthClient:
    """A client that the token server knows: `token_url`, `client_id`, `client_secret` and `ca_file`."""
    from grpc_bearer.testing import OAuthClient

    return OAuthClient.registered(bearer_token_server, bearer_ca_file)


@pytest.fixture
def bearer_verifier(bearer_token_server: TokenServer) -> Verifier | None:
    """What `bearer_grpc_server` accepts: the tokens of `bearer_token_server`. Override it for others."""
    return bearer_token_server.verifier()


@pytest.fixture
def bearer_services() -> Sequence[Served]:
    """What `bearer_grpc_server` serves beside the probe service: override it with a list of pairs.

    @pytest.fixture
    def bearer_services():
        return [(add_FleetServicer_to_server, Fleet())]
    """
    return ()


@pytest.fixture
def bearer_grpc_server(
    bearer_ca: CA,
    bearer_verifier: Verifier | None,
    bearer_services: Sequence[Served],
    _bearer_time: Clock,
) -> Iterator[ProbeServer]:
    """A running gRPC server that verifies tokens: `target`, `channel_credentials()`, `script(Refuse(), …)`, `ledger`.

    Its own service is `grpc_bearer.testing.ProbeStub`'s; `serve(add_FleetServicer_to_server, Fleet())` adds yours.
    """
    from grpc_bearer.testing import ProbeServer

    with ProbeServer(bearer_verifier, bearer_ca, clock=_bearer_time, register=bearer_services) as server:
        yield server


@pytest.fixture
def bearer_auth(bearer_oauth_client: OAuthClient, _bearer_time: Clock) -> Iterator[BearerAuth]:
    """A `BearerAuth` with tokens from `bearer_token_server`."""
    from grpc_bearer import BearerAuth

    with BearerAuth(bearer_oauth_client.source(), clock=_bearer_time) as auth:
        yield auth


@pytest.fixture
def bearer_channel(bearer_grpc_server: ProbeServer, bearer_auth: BearerAuth) -> Iterator[grpc.Channel]:
    """A sync channel to `bearer_grpc_server` that carries the tokens of `bearer_auth`."""
    import grpc_bearer
    from grpc_bearer.testing._ports import DIRECT

    credentials = bearer_grpc_server.channel_credentials()
    with grpc_bearer.secure_channel(bearer_grpc_server.target, credentials, DIRECT, auth=bearer_auth) as channel:
        yield channel


@pytest.fixture
def bearer_aio_channel(bearer_grpc_server: ProbeServer, bearer_auth: BearerAuth) -> Iterator[grpc.aio.Channel]:
    """The same for asyncio: opened when the test first uses it, and closed after the test."""
    import grpc_bearer
    from grpc_bearer.testing._late_channel import LateChannel
    from grpc_bearer.testing._ports import DIRECT

    credentials, target = bearer_grpc_server.channel_credentials(), bearer_grpc_server.target
    channel = LateChannel(lambda: grpc_bearer.aio.secure_channel(target, credentials, DIRECT, auth=bearer_auth))
    yield channel
    channel.close_now()


@pytest.fixture
def no_secrets_logged(request: pytest.FixtureRequest) -> Iterator[SecretWatch]:
    """Fails the test if a secret is logged, at any level, by anybody.

    It knows the tokens and credentials that the servers of the test have seen or issued. Tell it others:
    `no_secrets_logged.keep("s3cret-token")`.
    """
    from grpc_bearer.testing import SecretWatch

    servers = {
        name: request.getfixturevalue(name)
        for name in ("bearer_token_server", "bearer_oauth_client", "bearer_grpc_server")
        if name in request.fixturenames
    }
    with SecretWatch() as watch:
        yield watch
        if "bearer_token_server" in servers:
            watch.keep(*servers["bearer_token_server"].issued)
        if "bearer_oauth_client" in servers:
            watch.keep(servers["bearer_oauth_client"].client_secret)
        if "bearer_grpc_server" in servers:
            # What arrived under the header of a test's own verifier, tokens of its own making among it.
            watch.keep(*(token for token in servers["bearer_grpc_server"].ledger.tokens if len(token) >= 8))
