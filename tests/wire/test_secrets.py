"""Nothing shows a secret: scenarios of the whole library under a `Watch`, and controls that show what it would find.

In each scenario everything is logged at DEBUG, and what a user could print is shown: results, calls, errors, objects.
gRPC's own tracing (`GRPC_TRACE`) is off; `SECURITY.md` says why.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import importlib.util
import json
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import grpc
import pytest
import tenacity
from _login_server import CLIENT_ID, LoginServer
from attachments import AIO_WAYS, ALL_WAYS, PATIENCE, SYNC_WAYS, eventually, nothing_in_flight, requests, try_all
from secrets_harness import Watch, lines_of

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    CallContext,
    RetryPolicy,
    Source,
    Token,
    TokenError,
    TokenUnavailableError,
    events,
    otel,
)
from grpc_bearer._base.clock import SYSTEM_CLOCK
from grpc_bearer._base.token import Secret
from grpc_bearer._calls.retry_block import RetriedBlock
from grpc_bearer.testing import (
    Garbage,
    Hang,
    ManualClock,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Redirect,
    Refuse,
    Reset,
    Service,
    Services,
    Status,
    private_pem,
    throwaway_key,
)

pytestmark = pytest.mark.skipif("GRPC_TRACE" in os.environ, reason="gRPC's own tracing shows headers")

PASSWORD = f"password-{os.urandom(12).hex()}"
SERVICES = ["bear", "skykit", "bitbroker", "crm", "openfx"]
OK = grpc.StatusCode.OK


class World:
    """The five services on a hand-moved clock, and the watch over what is done with them."""

    def __init__(self, services: Services, watch: Watch) -> None:
        self.services = services
        self.watch = watch
        self.clock: Any = services.clock

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    def channel(self, service: Service, auth: BearerAuth, **how: Any) -> grpc.Channel:
        return grpc_bearer.secure_channel(
            service.server.target, self.services.ca.channel_credentials(), auth=auth, **how
        )

    @contextlib.asynccontextmanager
    async def aio_channel(self, service: Service, auth: BearerAuth, **how: Any) -> AsyncIterator[Any]:
        credentials = self.services.ca.channel_credentials()
        async with grpc_bearer.aio.secure_channel(service.server.target, credentials, auth=auth, **how) as channel:
            yield channel

    def show(self, *values: object) -> None:
        for value in values:
            if isinstance(value, BaseException):
                self.watch.error(value)
            self.watch.value(value)

    def show_auth(self, auth: BearerAuth) -> None:
        engine: Any = auth._engine
        self.show(auth, auth._source, engine, engine.peek(CallContext("", "", auth._clock)))

    def call_all(self, service: Service, auth: BearerAuth, **how: Any) -> list[Any]:
        """Every kind of call, sync and asyncio, on channels of ours; each result or error, all of them shown."""
        with self.channel(service, auth, **how) as channel:
            ends = [*self._sync(ProbeStub(channel))]
            self.show(channel, ProbeStub(channel).Unary)
        ends += asyncio.run(self._aio(service, auth, how))
        self.show(*ends)
        return ends

    def _sync(self, stub: Any) -> Iterator[Any]:
        calls = [
            (stub.Unary.future(ProbeRequest(index=1), timeout=PATIENCE), True),
            (stub.ServerStream(ProbeRequest(replies=2), timeout=PATIENCE), False),
            (stub.ClientStream.future(requests(), timeout=PATIENCE), True),
            (stub.BidiStream(requests(), timeout=PATIENCE), False),
        ]
        for call, single in calls:
            try:
                yield call.result() if single else list(call)
            except grpc.RpcError as error:
                yield error
            self.watch.rpc(call)
        try:
            yield stub.Unary.with_call(ProbeRequest(index=1), timeout=PATIENCE)[0]
        except grpc.RpcError as error:
            yield error

    async def _aio(self, service: Service, auth: BearerAuth, how: dict[str, Any]) -> list[Any]:
        ends: list[Any] = []
        async with self.aio_channel(service, auth, **how) as channel:
            stub = ProbeStub(channel)
            for call in (
                stub.Unary(ProbeRequest(index=1), timeout=PATIENCE),
                stub.ServerStream(ProbeRequest(replies=2), timeout=PATIENCE),
                stub.ClientStream(requests(), timeout=PATIENCE),
                stub.BidiStream(requests(), timeout=PATIENCE),
            ):
                try:
                    ends.append([each async for each in call] if hasattr(call, "__aiter__") else await call)
                except grpc.RpcError as error:
                    ends.append(error)
                await self.watch.arpc(call)
            self.show(channel)
        return ends


def secrets_of(services: Services, watch: Watch) -> None:
    """Every credential on the disk, and every token that was issued or has arrived anywhere."""
    for path in services.directory.iterdir():
        text = path.read_text()
        if path.name == "bear.json":
            credentials = json.loads(text)
            watch.keep(**{"Bear's api_key": credentials["api_key"], "Bear's secret": credentials["secret"]})
        elif path.name == "openfx.json":
            watch.keep(**{"OpenFX's key": json.loads(text)["privateKey"]})
        elif path.suffix in (".pem", ".token") and path.name != "ca.pem":
            watch.keep(**{path.name: text.strip()})
    watch.keep(**{f"token {number}": token for number, token in enumerate(services.token_server.issued)})
    for service in services:
        for number, token in enumerate(service.server.ledger.tokens):
            watch.keep(**{f"{service.name}'s token {number}": token})


@contextlib.contextmanager
def all_events_to(watch: Watch) -> Iterator[None]:
    """Show it every event of every auth, and, if OpenTelemetry is there, what is exported of them."""

    def show(event: events.Event) -> None:
        watch.value(event, f"event {type(event).__name__}")

    with contextlib.ExitStack() as stack:
        for observer in (show, *stack.enter_context(_telemetry_to(watch))):
            events.add_observer(observer)
            stack.callback(events.remove_observer, observer)
        yield


@contextlib.contextmanager
def _telemetry_to(watch: Watch) -> Iterator[list[events.Observer]]:
    if importlib.util.find_spec("opentelemetry") is None or importlib.util.find_spec("opentelemetry.sdk") is None:
        yield []
        return
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    meters = MeterProvider([reader])
    yield [otel.OpenTelemetryObserver(tracers, meters)]
    for span in spans.get_finished_spans():
        watch.see("OpenTelemetry span", span.to_json())
    data = reader.get_metrics_data()
    if data is not None:
        watch.see("OpenTelemetry metrics", data.to_json())
    tracers.shutdown()
    meters.shutdown()


@contextlib.contextmanager
def watched(directory: Path, clock: Any) -> Iterator[World]:
    """What is done with it must show no secret; asserted at the end."""
    watch = Watch()
    with Services(directory, clock) as services:
        with watch, all_events_to(watch):
            watch.keep(PASSWORD=PASSWORD)
            secrets_of(services, watch)  # before files are replaced
            yield World(services, watch)
        secrets_of(services, watch)
    assert watch.seen, "nothing was watched"
    assert watch.leaks() == [], lines_of(watch.leaks())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with watched(tmp_path, ManualClock()) as world:
        yield world


@pytest.fixture
def real_time(tmp_path: Path) -> Iterator[World]:
    """The same by the system's clock, which other processes have too."""
    with watched(tmp_path, SYSTEM_CLOCK) as world:
        yield world


def succeeded(ends: list[Any]) -> bool:
    return not any(isinstance(end, BaseException) for end in ends)


def errors(ends: list[Any]) -> list[Any]:
    assert all(isinstance(end, grpc.RpcError) for end in ends), ends
    return ends


# -- scenarios --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERVICES)
def test_every_way_and_kind_of_call(world: World, name: str) -> None:
    service = world[name]
    with service.auth() as auth:
        for way in (*SYNC_WAYS, *AIO_WAYS):
            ends = try_all(way, service.server.target, world.services.ca.channel_credentials(), auth, timeout=PATIENCE)
            assert {end.code for end in ends.values()} == {OK}
            world.show(*ends.values(), *[end.value for end in ends.values()])
        assert succeeded(world.call_all(service, auth))
        world.show_auth(auth)


@pytest.mark.parametrize("name", SERVICES)
def test_refreshes(world: World, name: str) -> None:
    service = world[name]
    with service.auth(keep_warm=True) as auth:
        for _ in range(4):
            assert succeeded(world.call_all(service, auth))
            world.show_auth(auth)
            for seconds in (0, 3100):  # past 0.85 of an hour, the latest time of a refresh
                world.clock.advance(seconds)
                assert eventually(lambda: nothing_in_flight(auth))  # the clock would run away from it
    assert len(service.server.ledger.tokens) >= {"bitbroker": 3, "crm": 1}.get(name, 3)


@pytest.mark.parametrize("name", SERVICES)
def test_a_revoked_token_that_is_healed(world: World, name: str) -> None:
    service = world[name]
    with service.auth() as auth:
        world.call_all(service, auth)
        world.clock.advance(10)  # or what is signed anew would be the same
        if service.replace_token is not None:
            service.replace_token()
        else:
            service.verifier.revoke(*service.server.ledger.tokens)
        assert succeeded(world.call_all(service, auth))
    if name != "openfx":
        assert any(attempt.reason == "token revoked" for attempt in service.server.ledger.refused)


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("retry", [None, RetryPolicy()], ids=["no retry", "retry"])
def test_a_refused_token_that_is_not_healed_and_the_diagnosis(world: World, name: str, retry: Any) -> None:
    service = world[name]
    service.server.script(*[Refuse(details="no", when="start")] * 40)
    with service.auth() as auth:
        ends = errors(world.call_all(service, auth, retry=retry))
        world.show(*[end.__cause__ for end in ends])
    assert {end.code() for end in ends} == {grpc.StatusCode.UNAUTHENTICATED}
    if retry is not None:
        assert any("the server refused the token" in str(end.__cause__) for end in ends)


@pytest.mark.parametrize("way", ALL_WAYS)
def test_no_local_variable_shows_a_refused_token_through_any_way(world: World, way: str) -> None:
    service = world["bear"]
    service.server.script(*[Refuse(details="no", when="start")] * 80)
    target, credentials = service.server.target, world.services.ca.channel_credentials()
    with service.auth() as auth:
        for _ in range(2):  # cold, and with the token at hand
            ends = try_all(way, target, credentials, auth, timeout=PATIENCE)
            world.show(*errors([end.value for end in ends.values()]))
    assert any("local variables" in where for where, _ in world.watch.seen)


@pytest.mark.parametrize(
    "fault",
    [Status(401, body=PASSWORD), Status(503, retry_after=1), Garbage(), Reset(), Redirect("https://127.0.0.1:9/")],
    ids=["401", "503", "a web page", "a reset", "a redirect"],
)
def test_a_token_endpoint_that_fails(world: World, fault: Any) -> None:
    service = world["bear"]
    world.services.token_server.fail_with(fault)
    with service.auth() as auth:
        ends = errors(world.call_all(service, auth))
        with pytest.raises(TokenError) as caught:
            auth.token()
        world.show(caught.value, *[end.__cause__ for end in ends])
        world.show_auth(auth)
        world.services.token_server.heal()
        world.clock.advance(4000)
        assert succeeded(world.call_all(service, auth))


def test_a_token_endpoint_that_hangs_past_the_deadline(world: World) -> None:
    service, hang = world["bear"], Hang()
    world.services.token_server.fail_with(hang)
    with service.auth() as auth, world.channel(service, auth) as channel:
        future = ProbeStub(channel).Unary.future(ProbeRequest(index=1), timeout=0.3)
        with pytest.raises(grpc.RpcError) as caught:
            future.result()
        world.show(caught.value, future)
        with pytest.raises(TokenUnavailableError) as waited:
            auth.token(timeout=0.1)
        world.show(waited.value)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        world.services.token_server.heal()
        assert ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=PATIENCE).count == 1


@pytest.mark.parametrize("kept", [True, False], ids=["in a file", "in memory"])
def test_somebody_logs_in_and_the_login_ends(world: World, tmp_path: Path, kept: bool) -> None:
    service, server = world["bear"], LoginServer(world.services.token_server)
    server.device_answer["interval"], server.verdict = 1, ""
    how: dict[str, Any] = {"ca": world.services.ca_file, "store": tmp_path / "login" if kept else None}
    source = grpc_bearer.DeviceCodeSource(
        server.token_url, CLIENT_ID, device_authorization_url=server.device_url, prompt=world.show, **how
    )
    with BearerAuth(source, clock=world.clock) as auth:
        login = threading.Thread(target=auth.token)
        login.start()
        assert eventually(lambda: not (world.clock.advance(1) or login.is_alive()))
        for _ in range(2):
            assert succeeded(world.call_all(service, auth))
            world.show_auth(auth)
            world.show(source._kept, source._kept._place)
            world.clock.advance(4000)
        server.end()
        server.verdict = "access_denied"
        asking = [threading.Thread(target=lambda: errors(world.call_all(service, auth)))]
        asking[0].start()
        assert eventually(lambda: not (world.clock.advance(1) or asking[0].is_alive()))
        world.watch.see("pickle", pickle.dumps(source._kept).decode("latin-1"))
    world.watch.keep(**{f"secret {number}": secret for number, secret in enumerate(server.secrets)})


@pytest.mark.parametrize(
    "fault", [None, Status(401, body=PASSWORD), Garbage(), Reset()], ids=["ended", "401", "a page", "a reset"]
)
def test_a_refresh_token_that_is_of_no_use(world: World, fault: Any) -> None:
    server, given = LoginServer(world.services.token_server), f"{PASSWORD}-rt"
    source = grpc_bearer.RefreshTokenSource(server.token_url, CLIENT_ID, refresh_token=given, ca=world.services.ca_file)
    if fault is not None:
        world.services.token_server.fail_with(fault)
    with BearerAuth(source, clock=world.clock) as auth:
        world.show(source, *errors(world.call_all(world["bear"], auth)))
        world.show_auth(auth)
        with pytest.raises(TokenError) as caught:
            auth.token()
        world.show(caught.value)
        with pytest.raises(grpc_bearer.ConfigurationError) as refused:
            pickle.dumps(auth)
        world.show(refused.value)
    world.services.token_server.heal()


@pytest.mark.parametrize("script", ['cat "$1"', 'cat "$1" "$1"', 'cat "$1" >&2; exit 1', 'cat "$1"; kill $$'])
def test_a_command_and_what_it_prints(world: World, tmp_path: Path, script: str) -> None:
    (tmp_path / "printed").write_text(f"{PASSWORD}\n")
    source = grpc_bearer.ExecSource(["/bin/sh", "-c", script, "sh", tmp_path / "printed"])
    with BearerAuth(source, clock=world.clock) as auth:
        world.show(source, *world.call_all(world["bear"], auth))
        world.show_auth(auth)
        world.watch.see("pickle", pickle.dumps(source).decode("latin-1"))
        try:
            world.show(source.fetch(CallContext(clock=world.clock)))
        except TokenError as error:
            world.show(error)


class _Leaky(Exception):
    """As careless as an error can be."""

    def __init__(self) -> None:
        super().__init__(PASSWORD)
        self.headers = {"authorization": PASSWORD}

    def __repr__(self) -> str:
        return f"_Leaky({PASSWORD})"


class _Failing(Source):
    def __init__(self, how: str) -> None:
        self._how = how
        self.single_use = how == "single-use"

    def fetch(self, context: CallContext) -> Token:
        if self._how == "chained":
            raise TokenUnavailableError("the vault is closed") from _Leaky()
        if self._how == "not a token":
            return {"token": PASSWORD}
        raise SystemExit(PASSWORD) if self._how == "SystemExit" else _Leaky()

    def key(self, context: CallContext) -> Any:
        if self._how == "key":
            raise _Leaky()
        return ()


@pytest.mark.parametrize("how", ["plain", "single-use", "chained", "not a token", "SystemExit", "key"])
def test_sources_that_fail_carelessly(world: World, how: str) -> None:
    service = world["crm"]
    with BearerAuth(_Failing(how)) as auth:
        ends = errors(world.call_all(service, auth))
        world.show(*[end.__cause__ for end in ends])
        for way in ("channel_credentials", "call_credentials", "aio.channel_credentials", "aio.call_credentials"):
            outcomes = try_all(
                way, service.server.target, world.services.ca.channel_credentials(), auth, timeout=PATIENCE
            )
            world.show(*[end.value for end in outcomes.values()])
            assert OK not in {end.code for end in outcomes.values()}


@pytest.mark.parametrize("token", ["", "two\nlines", "ü"])
def test_functions_that_give_no_token(world: World, token: str) -> None:
    async def fn() -> str:
        return f"{PASSWORD}{token}" if token else ""

    with BearerAuth(fn) as auth:
        world.show(*errors(world.call_all(world["crm"], auth)), auth)


@pytest.mark.parametrize("name", SERVICES)
def test_a_channel_in_the_clear(world: World, name: str) -> None:
    with ProbeServer(credentials="insecure") as clear, world[name].auth() as auth:
        for way in ("intercept_channel", "wrap_stub", "interceptor", "aio.intercept_channel", "aio.interceptors"):
            for end in try_all(way, clear.target, None, auth, timeout=PATIENCE).values():
                world.show(end.value, end.cause)
                assert end.code is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc_bearer.InsecureChannelError) as caught:
            grpc_bearer.insecure_channel(clear.target, auth=auth)
        world.show(caught.value)
        assert len(clear.ledger) == 0


def test_retries_with_a_policy_of_the_users_own(world: World) -> None:
    service, seen = world["bear"], []

    def retry_if(error: Any) -> bool:
        seen.append(error)
        return False

    policy = RetryPolicy(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_fixed(0), retry_if=retry_if)
    service.server.script(*[Refuse(), Refuse(grpc.StatusCode.PERMISSION_DENIED, "no")] * 20)
    with service.auth() as auth:
        world.call_all(service, auth, retry=policy)
        attempts: RetriedBlock = policy.attempts(auth)
        with world.channel(service, auth, retry=None) as channel, pytest.raises(grpc.RpcError) as caught:
            _block(world, attempts, ProbeStub(channel))
        world.show(caught.value, policy, attempts, *seen)
    assert seen


def _block(world: World, attempts: RetriedBlock, stub: Any) -> None:
    for attempt in attempts:
        world.show(attempt)
        with attempt:
            stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)


@pytest.mark.parametrize("name", SERVICES)
def test_closing_in_every_state(world: World, name: str) -> None:
    service = world[name]
    auth = service.auth()
    with world.channel(service, auth) as channel:
        ProbeStub(channel).ClientStream(requests(), timeout=PATIENCE)
        call = ProbeStub(channel).Unary.future(ProbeRequest(index=1, delay_ms=5000), timeout=PATIENCE)
        call.cancel()
        world.show(call)
    auth.close()
    world.show_auth(auth)
    world.show(*errors(world.call_all(service, auth)))


def test_pickles_carry_no_token_and_no_inline_credential(real_time: World) -> None:
    for service in real_time.services:
        with service.auth() as auth:
            auth.token("https://localhost/grpc_bearer.testing.v1.Probe", "Unary")
            pickled = pickle.dumps(auth)
            real_time.watch.see(f"{service.name}: pickle", pickled.decode("latin-1"))
            real_time.show(auth, pickle.loads(pickled))


class AzureCredential:
    """As those of azure-identity, which show nothing of themselves."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def get_token(self, *scopes: str) -> Any:
        raise NotImplementedError


def test_everything_that_holds_a_secret_inline(world: World) -> None:
    key, oauth = throwaway_key("ES256", 7), "https://auth.example.com/token"
    pem = private_pem(key)
    world.watch.keep(pem=pem)
    signed = grpc_bearer.JWTSource(pem, lifetime=60)
    token = signed.fetch(CallContext())
    world.watch.keep(signed=token.value)
    held: list[Any] = [
        Token(PASSWORD, expires_at=1.0),
        Secret(PASSWORD, "api_key"),
        token,
        signed,
        signed._signer,
        grpc_bearer.StaticSource(PASSWORD),
        grpc_bearer.HTTPTokenSource(oauth, body=PASSWORD, headers={"x-api-key": PASSWORD}),
        grpc_bearer.HTTPTokenSource(oauth, json={"secret": PASSWORD}, auth=("me", PASSWORD)),
        grpc_bearer.HTTPTokenSource(oauth, form={"secret": PASSWORD}),
        grpc_bearer.ClientCredentialsSource(oauth, "me", PASSWORD, extra={"password": PASSWORD}),
        grpc_bearer.ClientCredentialsSource(oauth, "me", key=pem, auth_method="private_key_jwt"),
        grpc_bearer.ClientCredentialsSource(oauth, "me", client_assertion=PASSWORD),
        grpc_bearer.TokenExchangeSource(oauth, subject_token=PASSWORD, actor_token=PASSWORD, actor_token_type="jwt"),
        grpc_bearer.TokenExchangeSource(issuer=oauth, subject_token=grpc_bearer.StaticSource(PASSWORD)),
        grpc_bearer.JWTBearerSource(oauth, assertion=signed),
        grpc_bearer.RefreshTokenSource(oauth, "me", PASSWORD, refresh_token=PASSWORD),
        grpc_bearer.DeviceCodeSource(oauth, "me", PASSWORD, device_authorization_url=oauth),
        grpc_bearer.AzureIdentitySource(AzureCredential(PASSWORD), "api://fleet/.default"),
        grpc_bearer.CallableSource(lambda secret=PASSWORD: secret),
        grpc_bearer.RoutedSource({"*": grpc_bearer.StaticSource(PASSWORD)}),
        grpc_bearer.profiles.openfx({"name": "k", "privateKey": pem}),
        grpc_bearer.profiles.bear({"api_key": PASSWORD, "scope": "s", "secret": PASSWORD}),
        grpc_bearer.profiles.bitbroker(consumer=PASSWORD, routes={"*": "consumer"}),
        grpc_bearer.profiles.skykit(private_pem(throwaway_key("RS256")), "me", lifetime=60),
        CallContext("https://localhost/s.S", "M"),
        RetryPolicy(),
        grpc_bearer.interceptor(PASSWORD),
        grpc_bearer.call_credentials(PASSWORD),
        grpc_bearer.channel_credentials(PASSWORD),
        grpc_bearer.secure_channel("localhost:1", auth=PASSWORD),
        *grpc_bearer.aio.interceptors(PASSWORD),
        BearerAuth(PASSWORD).as_google_credentials(),
    ]
    for value in held:
        if isinstance(value, BearerAuth):
            world.show_auth(value)
        world.show(value)
    world.watch.see("all of them", repr(held))


def test_google_credentials_both_ways(world: World) -> None:
    from google.oauth2.credentials import Credentials

    service = world["crm"]
    with service.auth() as auth:
        google = auth.as_google_credentials()
        headers: dict[str, str] = {}
        google.before_request(None, "GET", "https://localhost/s.S", headers)
        world.show(google)
        [arrived] = headers.values()
        world.watch.keep(arrived=arrived.removeprefix("Bearer "))
        given = Credentials(token=arrived.removeprefix("Bearer "))
        with BearerAuth(given) as again:
            assert succeeded(world.call_all(service, again))
            world.show_auth(again)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_and_what_it_logs(real_time: World) -> None:
    service = real_time["bear"]
    script = textwrap.dedent("""
        import logging, os, sys, traceback, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
        from grpc_bearer import profiles
        path, url, ca = sys.argv[1:]
        auth = profiles.bear(path, url=url, ca=ca)
        first = auth.token()
        def show():
            print(auth, vars(auth), auth._source, vars(auth._source), vars(auth._source._endpoint), first, sys.argv)
        child = os.fork()
        if child == 0:
            show()
            print("same token", auth.token().value == first.value)
            auth.invalidate(first)
            print("another", auth.token().value != first.value, flush=True)
            os.rename(path, path + ".gone")
            auth.invalidate(auth.token())
            try:
                auth.token()
            except Exception:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        show()
        sys.exit(code)
    """)
    arguments = [str(service.arguments[0]), service.options["url"], str(service.options["ca"])]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    real_time.watch.see("a forked child: stdout", done.stdout)
    real_time.watch.see("a forked child: stderr", done.stderr)

    assert done.returncode == 0, done.stderr
    assert "same token True\nanother True" in done.stdout
    assert "TokenUnavailableError" in done.stderr
    assert "urllib3" in done.stderr  # it did log
    assert len(real_time.services.token_server.issued) == 2


# -- controls: the watch finds what is there --------------------------------------------------------------------------


def found(plant: Callable[[Watch, str], None], secret: str = PASSWORD) -> list[str]:
    """Where the watch finds a secret that was planted."""
    with Watch() as watch:
        watch.keep(planted=secret)
        plant(watch, secret)
    return [leak.where for leak in watch.leaks()]


def _raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


def _warned(watch: Watch, secret: str) -> None:
    warnings.warn(f"{secret} is weak", stacklevel=1)


def _in_a_thread(watch: Watch, secret: str) -> None:
    def fail() -> None:
        raise RuntimeError(secret)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()


def _in_a_context(watch: Watch, secret: str) -> None:
    try:
        try:
            raise KeyError(secret)
        except KeyError:
            raise TokenUnavailableError("no") from None
    except TokenUnavailableError as error:
        watch.error(error)


def _in_a_request(watch: Watch, secret: str) -> None:
    import requests as http

    with pytest.raises(http.ConnectionError) as caught:
        http.post("http://127.0.0.1:9/", data={"secret": secret}, timeout=5)
    watch.error(caught.value)


PLANTS: dict[str, Callable[[Watch, str], Any]] = {
    "a log message": lambda watch, secret: logging.getLogger("some.library").debug("got %s", secret),
    "an argument not shown": lambda watch, secret: logging.getLogger("urllib3").debug("got %.0s", secret),
    "a record's extra": lambda watch, secret: logging.getLogger("google").debug("-", extra={"x": {"headers": secret}}),
    "a logged traceback": lambda watch, secret: logging.error("no", exc_info=_raised(ValueError(secret))),
    "a warning": _warned,
    "stdout": lambda watch, secret: print(secret),
    "stderr": lambda watch, secret: print(secret, file=sys.stderr),
    "the descriptor": lambda watch, secret: os.write(2, secret.encode()),
    "a thread": _in_a_thread,
    "an error": lambda watch, secret: watch.error(ValueError(secret)),
    "an error's context": _in_a_context,
    "an error's attributes": lambda watch, secret: watch.error(_Leaky()),
    "an HTTP client's error": _in_a_request,
    "a repr": lambda watch, secret: watch.value([secret]),
    "a pickle": lambda watch, secret: watch.value(bytearray(secret.encode())),
    "base64": lambda watch, secret: watch.see("", base64.b64encode(f"id:{secret}".encode()).decode()),
    "base64, elsewhere": lambda watch, secret: watch.see(
        "", base64.urlsafe_b64encode(f"me:{secret}!".encode()).decode()
    ),
    "percent-encoding": lambda watch, secret: watch.see("", quote_plus(secret)),
    "hexadecimal": lambda watch, secret: watch.see("", secret.encode().hex()),
    "its end": lambda watch, secret: watch.see("", secret[-24:]),
    "its beginning": lambda watch, secret: watch.see("", secret[:24]),
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=list(PLANTS))
@pytest.mark.filterwarnings("ignore")
def test_control_a_planted_secret_is_found(plant: Callable[[Watch, str], None]) -> None:
    assert found(plant)


def test_control_nothing_is_found_where_nothing_is() -> None:
    assert found(lambda watch, secret: watch.see("text", "-----BEGIN PRIVATE KEY-----" + "A" * 200)) == []


def test_control_a_key_is_found_by_any_part_of_its_body() -> None:
    pem = private_pem(throwaway_key("RS256"))

    assert found(lambda watch, secret: watch.see("a line", secret.splitlines()[5]), pem)
    assert found(lambda watch, secret: watch.see("one line", secret.replace("\n", "\\n")), pem)
    assert found(lambda watch, secret: watch.see("header", secret.splitlines()[0]), pem) == []


def test_control_a_jwk_is_found_by_a_private_member() -> None:
    with Watch() as watch:
        watch.keep_jwk({"kty": "oct", "k": PASSWORD})
        watch.see("text", f"k={PASSWORD}")

    assert [leak.secret for leak in watch.leaks()] == ["JWK k"]


def test_control_what_a_source_says_in_an_error_of_ours_is_found_in_events_and_all_that_is_made_of_them() -> None:
    def careless() -> str:
        raise TokenUnavailableError(f"the vault did not take {PASSWORD}")

    def plant(watch: Watch, secret: str) -> None:
        with all_events_to(watch), BearerAuth(careless) as auth, pytest.raises(TokenUnavailableError):
            auth.token()

    places = {place for place in found(plant) if not place.endswith("pickle")}
    assert places == {"event RefreshFailed", "log grpc_bearer"} | (
        {"OpenTelemetry span"} if importlib.util.find_spec("opentelemetry") else set()
    )


class _LoggingInterceptor(grpc.UnaryUnaryClientInterceptor):
    """As most projects write it."""

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        token = f"Bearer {PASSWORD}"
        metadata = [*(details.metadata or ()), ("authorization", token)]
        logging.getLogger("my.app").debug("calling %s with %s", details.method, metadata)
        return continuation(details._replace(metadata=metadata), request)


def test_control_an_interceptor_that_logs_metadata_is_found() -> None:
    def plant(watch: Watch, secret: str) -> None:
        with ProbeServer() as server, server.channel() as plain:
            stub = ProbeStub(grpc.intercept_channel(plain, _LoggingInterceptor()))
            stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)

    assert found(plant) == ["log my.app"]


def test_control_metadata_of_plain_text_is_found_in_the_local_variables_of_grpcs_frames() -> None:
    def plant(watch: Watch, secret: str) -> None:
        with ProbeServer() as server, server.channel() as plain:
            server.script(Refuse(details="no"))
            with pytest.raises(grpc.RpcError) as caught:
                ProbeStub(plain).Unary(ProbeRequest(index=1), metadata=[("authorization", secret)], timeout=PATIENCE)
            watch.error(caught.value)

    assert found(plant) == ["error: local variables"]


class _RaisingPlugin(grpc.AuthMetadataPlugin):
    def __call__(self, context: Any, callback: Any) -> None:
        raise RuntimeError(PASSWORD)


def test_control_trap_4_a_plugin_that_raises_is_found_in_the_log_and_in_the_calls_details() -> None:
    def plant(watch: Watch, secret: str) -> None:
        with ProbeServer() as server:
            credentials = grpc.composite_channel_credentials(
                server.ca.channel_credentials(), grpc.metadata_call_credentials(_RaisingPlugin())
            )
            with grpc.secure_channel(server.target, credentials) as channel:
                with pytest.raises(grpc.RpcError) as caught:
                    ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=PATIENCE)
                watch.error(caught.value, "the call")

    places = found(plant)
    assert "log grpc._plugin_wrapping" in places
    assert "the call: details()" in places


def test_control_google_auths_own_transport_is_found_at_debug(tmp_path: Path) -> None:
    import google.auth._helpers
    import requests as http
    from google.auth.transport.requests import Request

    if not hasattr(google.auth._helpers, "request_log"):
        pytest.skip("this google-auth does not log yet")

    def plant(watch: Watch, secret: str) -> None:
        with Services(tmp_path, ManualClock()) as services, http.Session() as session:
            session.trust_env, session.verify = False, str(services.ca_file)
            body = json.dumps({"api_key": "k", "secret": secret}).encode()
            headers = {"Content-Type": "application/json", "authorization": f"Basic {secret}"}
            Request(session)(services["bear"].options["url"], "POST", body, headers)

    assert "log google.auth.transport.requests" in found(plant)
