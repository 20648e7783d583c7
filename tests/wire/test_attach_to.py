"""`attach_to`: channels that others open, against servers that write down all that arrives."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio, secure_channel

import grpc_bearer
from grpc_bearer import BearerAuth, ConfigurationError, InsecureChannelError, attach_to
from grpc_bearer._calls.targets import canonical, checked_targets
from grpc_bearer.testing import OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub

imported_by_name = secure_channel  # as a client's module has it
FUNCTIONS = [(grpc, "secure_channel"), (grpc, "insecure_channel"), (aio, "secure_channel"), (aio, "insecure_channel")]
THEIRS = "s3cret-of-the-client"


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ProbeServer, ProbeServer]]:
    with ProbeServer(address="localhost:0") as named, ProbeServer(address="localhost:0") as other:
        yield named, other


@pytest.fixture
def named(servers: tuple[ProbeServer, ProbeServer]) -> ProbeServer:
    """The server whose target is named; the other one is asked after each test whether it saw a token."""
    named = servers[0]
    named.verifier = OpaqueVerifier(["token.1", "token.2"])
    return named


@pytest.fixture
def other(servers: tuple[ProbeServer, ProbeServer]) -> Iterator[ProbeServer]:
    for server in servers:
        server.ledger.clear()
    yield servers[1]
    assert not servers[1].ledger.contains("token.")


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    found = [(getattr(module, name), getattr(module, name).__code__) for module, name in FUNCTIONS]
    yield
    assert [(getattr(module, name), getattr(module, name).__code__) for module, name in FUNCTIONS] == found


def seen(server: ProbeServer, header: str = "authorization") -> list[list[str]]:
    """What came under the header, of each call."""
    return [[str(value) for key, value in attempt.metadata if key == header] for attempt in server.ledger]


def call(channel: grpc.Channel) -> None:
    with channel:
        ProbeStub(channel).Unary(ProbeRequest(), timeout=20)


def opened(server: ProbeServer, open_: Callable[..., grpc.Channel] = grpc.secure_channel) -> grpc.Channel:
    return open_(server.target, server.channel_credentials())


async def acall(server: ProbeServer) -> None:
    async with aio.secure_channel(server.target, server.channel_credentials()) as channel:
        await ProbeStub(channel).Unary(ProbeRequest(), timeout=20)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ whose channels


@pytest.mark.parametrize("open_", [lambda *args: grpc.secure_channel(*args), imported_by_name])
def test_a_channel_to_a_named_target_carries_the_token_and_others_do_not(
    open_: Any, named: ProbeServer, other: ProbeServer
) -> None:
    before = opened(named)
    with attach_to("token.1", [named.target]) as auth:
        inside, elsewhere = opened(named, open_), opened(other, open_)
    call(opened(other))
    call(elsewhere)
    call(inside)  # it has its token for ever
    assert isinstance(auth, BearerAuth)
    assert seen(named) == [["Bearer token.1"]]
    with pytest.raises(grpc.RpcError):
        call(before)
    assert seen(named)[1:] == [[]]
    assert seen(other) == [[], []]


async def test_asyncio_channels_too_and_a_refused_token_is_healed(named: ProbeServer, other: ProbeServer) -> None:
    tokens = iter(["token.0", "token.1"])
    with attach_to(lambda: next(tokens), targets=named.target):
        await acall(named)
        await acall(other)
    assert seen(named) == [["Bearer token.0"], ["Bearer token.1"]]
    assert seen(other) == [[]]


def test_threads_and_tasks_by_context_and_the_whole_process_if_wanted(named: ProbeServer, other: ProbeServer) -> None:
    def in_thread() -> type:
        with ThreadPoolExecutor(1) as pool:
            channel = pool.submit(opened, named).result()
        channel.close()
        return type(channel)

    async def in_tasks() -> list[type]:
        async def work() -> type:
            channel: Any = opened(named)
            channel.close()
            return type(channel)

        async def scoped() -> type:
            with attach_to("token.1", named.target):
                await asyncio.sleep(0)  # the other task runs while this scope is active
                return await work()

        return list(await asyncio.gather(scoped(), work()))

    plain, ours = type(opened(other)), type(grpc_bearer.secure_channel("a:1", auth="token.1"))
    with attach_to("token.1", named.target):
        assert in_thread() is plain
    with attach_to("token.1", named.target, process_wide=True):
        assert in_thread() is ours
    assert in_thread() is plain
    assert asyncio.run(in_tasks()) == [ours, plain]


async def test_a_task_that_outlives_the_scope_is_out_of_it(named: ProbeServer) -> None:
    go = asyncio.Event()

    async def late() -> grpc.Channel:
        await go.wait()
        return opened(named)

    with attach_to("token.1", named.target):
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    go.set()
    (await task).close()
    assert not type(await task).__module__.startswith("grpc_bearer")


def test_nested_scopes_the_innermost_counts_and_other_headers_are_added(named: ProbeServer, other: ProbeServer) -> None:
    gateway = BearerAuth("token.2", "proxy-authorization")
    with attach_to("token.0", named.target), attach_to(gateway, named.target), attach_to("token.1", named.target):
        call(opened(named))
    with attach_to("token.1", named.target), attach_to("token.0", other.target.replace("localhost", "nowhere")):
        call(opened(named))
    assert seen(named) == [["Bearer token.1"], ["Bearer token.1"]]
    assert seen(named, "proxy-authorization") == [["Bearer token.2"], []]


def test_many_threads_at_once_each_in_a_scope_of_its_own(named: ProbeServer) -> None:
    accepted = [f"token.{number}" for number in range(24)]
    named.verifier = OpaqueVerifier(accepted)
    named.ledger.clear()
    ready = threading.Barrier(8)

    def work(first: int) -> None:
        ready.wait()
        for number in range(first, first + 3):
            with attach_to(f"token.{number}", named.target):
                call(opened(named))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(0, 24, 3)))
    assert sorted(named.ledger.tokens) == sorted(accepted)


def test_an_exception_ends_the_scope_and_goes_through(named: ProbeServer) -> None:
    with pytest.raises(KeyError, match="theirs"), attach_to("token.1", named.target):
        raise KeyError("theirs")
    assert not type(opened(named)).__module__.startswith("grpc_bearer")


def test_it_decorates_a_function_too(named: ProbeServer, other: ProbeServer) -> None:
    @attach_to("token.1", named.target)
    def work() -> None:
        call(opened(named))

    work()
    work()
    assert seen(named) == [["Bearer token.1"]] * 2


def test_our_own_factories_keep_their_own_auth(named: ProbeServer, other: ProbeServer) -> None:
    with attach_to("token.0", named.target):
        call(grpc_bearer.secure_channel(named.target, named.channel_credentials(), auth="token.1"))
        composite = grpc_bearer.channel_credentials("token.2", named.channel_credentials())
        call(grpc.secure_channel(named.target, composite))
    assert seen(named) == [["Bearer token.1"], ["Bearer token.2"]]


# ------------------------------------------------------------------------------------------------- the client's own


class Plugin(grpc.AuthMetadataPlugin):
    """A client's own, of more than one header."""

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        callback((("authorization", f"Bearer {THEIRS}"), ("x-project", "seven")), None)


@pytest.mark.parametrize(
    "theirs",
    [
        grpc.access_token_call_credentials(THEIRS),
        grpc.metadata_call_credentials(Plugin()),
        grpc.composite_call_credentials(
            grpc.metadata_call_credentials(Plugin()), grpc.access_token_call_credentials(THEIRS)
        ),
    ],
    ids=["access_token", "plugin", "both"],
)
def test_the_clients_own_credentials_are_left_out_under_our_header(theirs: Any, named: ProbeServer) -> None:
    named.ledger.clear()
    composite = grpc.composite_channel_credentials(named.channel_credentials(), theirs)
    with attach_to("token.1", named.target):
        channel = grpc.secure_channel(named.target, credentials=composite)
    with channel:
        for _ in range(2):
            ProbeStub(channel).Unary(ProbeRequest(), timeout=20)
    assert seen(named) == [["Bearer token.1"]] * 2
    assert seen(named, "x-project") in ([["seven"]] * 2, [[]] * 2)


#: In a process of its own: these credentials trust core's default roots, which it reads once.
OF_GOOGLE = """
import grpc, sys
from google.auth.transport.grpc import AuthMetadataPlugin
import grpc_bearer
from grpc_bearer.testing import ProbeRequest, ProbeStub
plugin = AuthMetadataPlugin(grpc_bearer.BearerAuth("s3cret-of-the-client").as_google_credentials(), None)
with grpc_bearer.attach_to("token.1", sys.argv[1]):
    credentials = grpc.compute_engine_channel_credentials(grpc.metadata_call_credentials(plugin))
    if sys.argv[2:]:
        credentials = grpc.composite_channel_credentials(credentials, grpc.access_token_call_credentials("another"))
    channel = grpc.secure_channel(sys.argv[1], credentials)
for _ in range(2):
    ProbeStub(channel).Unary(ProbeRequest(), timeout=20)
"""


@pytest.mark.parametrize("more", [[], ["composed"]])
def test_credentials_that_googles_clients_make_are_left_out_too(
    named: ProbeServer, tmp_path: Path, more: list[str]
) -> None:
    roots = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(named.ca.write(tmp_path))}
    command = [sys.executable, "-W", "ignore", "-c", OF_GOOGLE, named.target, *more]
    named.ledger.clear()
    subprocess.run(command, env={**os.environ, **roots}, timeout=100, check=True)
    assert seen(named) == [["Bearer token.1"]] * 2


def test_metadata_of_a_call_goes_out_in_place_of_ours(named: ProbeServer) -> None:
    named.ledger.clear()
    with attach_to("token.1", named.target), opened(named) as channel:
        ProbeStub(channel).Unary(ProbeRequest(), metadata=[("authorization", "Bearer token.2")], timeout=20)
    assert seen(named) == [["Bearer token.2"]]


def test_a_channel_without_tls_is_refused_unless_allowed() -> None:
    with ProbeServer(credentials="insecure") as clear:
        with attach_to("token.1", clear.target), pytest.raises(InsecureChannelError, match="allow_plaintext=True"):
            grpc.insecure_channel(clear.target)
        with (
            attach_to("token.1", clear.target),
            pytest.raises(InsecureChannelError, match="without TLS"),
        ):
            grpc.secure_channel(clear.target, grpc.experimental.insecure_channel_credentials())
        with attach_to("token.1", clear.target, allow_plaintext=True):
            call(grpc.insecure_channel(clear.target))
            call(grpc.secure_channel(clear.target, grpc.experimental.insecure_channel_credentials()))
        with attach_to("token.1", "elsewhere:1"):
            call(grpc.insecure_channel(clear.target))
        assert seen(clear) == [["Bearer token.1"], ["Bearer token.1"], []]


# ------------------------------------------------------------------------------------------ others who patch as well


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_instrumentation_in_either_order_goes_on_above_us(
    first: bool, named: ProbeServer, other: ProbeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    otel = pytest.importorskip("opentelemetry.instrumentation.grpc", reason="extra `neighbours`", exc_type=ImportError)
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory, provider, instrumentor = InMemorySpanExporter(), TracerProvider(), otel.GrpcInstrumentorClient()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", provider)  # which a program sets once and for all
    with ExitStack() as stack:
        if first:
            instrumentor.instrument()
        stack.enter_context(attach_to("token.1", named.target))
        if not first:
            instrumentor.instrument()
        call(opened(named, grpc.secure_channel))
    call(opened(other, grpc.secure_channel))
    instrumentor.uninstrument()
    call(opened(other, grpc.secure_channel))

    assert seen(named) == [["Bearer token.1"]]
    assert len(memory.get_finished_spans()) == 2  # of the two calls that were made while it was instrumented


def test_what_was_put_in_place_of_grpcs_function_and_hides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc, "secure_channel", print)
    with pytest.raises(ConfigurationError, match=r"grpc\.secure_channel was replaced"), attach_to("t", "a:1"):
        pass  # pragma: no cover
    monkeypatch.undo()


def test_grpcs_functions_answer_wrong_arguments_as_ever() -> None:
    def told(*args: Any, **kwargs: Any) -> str:
        with pytest.raises(TypeError) as caught:
            grpc.secure_channel(*args, **kwargs)
        return str(caught.value)

    plain = told("a:1"), told("a:1", None, nix=1)
    with attach_to("token.1", "a:1"):
        assert (told("a:1"), told("a:1", None, nix=1)) == plain
        assert callable(inspect.unwrap(grpc.secure_channel))


# ---------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize(
    ("named_as", "target", "same"),
    [
        ("api.example.com:443", "dns:///API.example.com", True),
        ("api.example.com", "dns:api.example.com:443", True),
        ("api.example.com:443", "api.example.com:8443", False),
        ("api.example.com", "api.example.com.evil.com", False),
        ("*.example.com", "a.example.com:443", True),
        ("*.example.com", "a.b.example.com:443", False),
        ("*.example.com", "example.com:443", False),
        ("*.example.com", "dns://10.0.0.1/a.example.com:443", False),
        ("*.example.com:443", "unix:/tmp/.example.com:443", False),
        ("*.example.com:443", "evil.com:443/.example.com:443", False),
        ("worker-*:50051", "worker-7:50051", True),
        ("localhost:*", "localhost:50051", True),
        ("localhost:*", "localhost.evil.com:50051", False),
        ("[::1]:50051", "[::1]:50051", True),
        ("unix:/run/api.sock", "unix:/run/api.sock", True),
        ("unix:/run/api.sock", "unix:/run/API.sock", False),
        ("a.b:443", "axb:443", False),
        (["a:1", "b:2"], "b:2", True),
        (["a:1", "b:2"], "a:1|b:2", False),
    ],
)
def test_targets_that_are_the_same(named_as: Any, target: str, same: bool) -> None:
    assert (checked_targets(named_as).fullmatch(canonical(target)) is not None) is same


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        ([], "none is named"),
        (None, "expected targets, got NoneType"),
        ([7], "expected a str, got int"),
        ("", "empty"),
        ("https://api.example.com", "is no URL"),
        ("*", "every host"),
        ("*:443", "every host"),
        ("*.*:443", "every host"),
        ("unix:/run/*", "in a host name"),
    ],
)
def test_targets_that_cannot_be(targets: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"targets: .*{problem}"):
        attach_to("token.1", targets)
