"""Two auths on one channel: `authorization` for the service, `proxy-authorization` for the gateway before it.

Each call brings both; each is healed when its token alone is revoked; and two for one header are refused.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from attachments import (
    AIO_KINDS,
    EXPLAINING,
    FOUR,
    PATIENCE,
    SYNC_KINDS,
    TLS,
    causes,
    codes,
    everywhere,
    kinds_of,
    try_aio,
    try_all,
    try_sync,
)
from grpc import aio
from interceptors import aio_interceptors, sync_interceptor

import grpc_bearer
from grpc_bearer import BearerAuth, CallContext, ConfigurationError, Source, Token
from grpc_bearer.testing import OpaqueVerifier, ProbeServer, ProbeStub, Verdict

OK = grpc.StatusCode.OK
GATEWAY = "proxy-authorization"
HEADERS = {"service": "authorization", "gateway": GATEWAY}


def numbered(name: str, header: str = "authorization") -> BearerAuth:
    """Tokens `name.0`, `name.1`, … of which each fetch gives the next."""
    count = itertools.count()
    return BearerAuth(lambda: f"{name}.{next(count)}", header)


class Single(Source):
    """Such tokens, each for one attempt alone."""

    single_use = local = True

    def __init__(self, name: str) -> None:
        self._name, self._numbers = name, itertools.count()

    def fetch(self, context: CallContext) -> Token:
        return Token(f"{self._name}.{next(self._numbers)}", single_use=True)


class Both:
    """Wants a good token in each of the two headers."""

    def __init__(self) -> None:
        self.by_name = {
            name: OpaqueVerifier([f"{name}.{number}" for number in range(9)], header)
            for name, header in HEADERS.items()
        }

    def verify(self, metadata: Any, method: str) -> Verdict:
        first, second = (verifier.verify(metadata, method) for verifier in self.by_name.values())
        return second if first.refusal is None else first


class Scene:
    """Both auths, and what both servers saw of a test."""

    def __init__(self, secure: ProbeServer, clear: ProbeServer) -> None:
        self.secure, self.clear, self.verifier = secure, clear, Both()
        for server in (secure, clear):
            server.verifier = self.verifier
            server.ledger.clear()
        self.service, self.gateway = numbered("service"), numbered("gateway", GATEWAY)
        self._opened: list[Any] = []

    def _keep(self, channel: Any) -> Any:
        self._opened.append(channel)
        return channel

    def close(self) -> None:
        for channel in self._opened:
            channel.close()

    async def closing(self, work: Any) -> Any:
        """What `work` gives, with the asyncio channels closed after it."""
        try:
            return await work
        finally:
            opened, self._opened = self._opened, []
            await asyncio.gather(*(channel.close() for channel in opened))

    def plain(self) -> Any:
        return self._keep(self.secure.channel())

    def aplain(self, *interceptors: Any) -> Any:
        credentials = self.secure.channel_credentials()
        return self._keep(aio.secure_channel(self.secure.target, credentials, interceptors=interceptors))

    def ours(self, auth: BearerAuth) -> Any:
        credentials = self.secure.channel_credentials()
        return self._keep(grpc_bearer.secure_channel(self.secure.target, credentials, auth=auth))

    def aours(self, auth: BearerAuth, *interceptors: Any) -> Any:
        target, credentials = self.secure.target, self.secure.channel_credentials()
        open_ = grpc_bearer.aio.secure_channel
        return self._keep(open_(target, credentials, interceptors=interceptors, auth=auth))

    def in_clear(self) -> Any:
        open_ = grpc_bearer.insecure_channel
        return self._keep(open_(self.clear.target, auth=self.gateway, allow_plaintext=True))

    def ain_clear(self, *interceptors: Any) -> Any:
        open_ = grpc_bearer.aio.insecure_channel
        how = {"interceptors": interceptors, "auth": self.gateway, "allow_plaintext": True}
        return self._keep(open_(self.clear.target, **how))

    def arrived(self) -> list[tuple[list[Any], ...]]:
        """The values under both headers, attempt by attempt."""
        attempts = [*self.secure.ledger, *self.clear.ledger]
        return [
            tuple([value for key, value in attempt.metadata if key == header] for header in HEADERS.values())
            for attempt in attempts
        ]


@pytest.fixture(scope="module")
def _servers() -> Iterator[tuple[ProbeServer, ProbeServer]]:
    with ProbeServer(None, TLS) as secure, ProbeServer(credentials="insecure") as clear:
        yield secure, clear


@pytest.fixture
def scene(_servers: tuple[ProbeServer, ProbeServer]) -> Iterator[Scene]:
    made = Scene(*_servers)
    yield made
    made.close()


@dataclass(frozen=True)
class Way:
    """A stub of a scene; `streams`: both are on the channel, where request streams are made again too."""

    stub: Callable[[Scene], Any]
    streams: bool = False


around, wrap, bearer = grpc_bearer.intercept_channel, grpc_bearer.wrap_stub, grpc_bearer.interceptor
aaround, bearers = grpc_bearer.aio.intercept_channel, grpc_bearer.aio.interceptors


SYNC_WAYS = {
    "intercept_channel twice": Way(lambda s: ProbeStub(around(around(s.plain(), s.gateway), s.service)), streams=True),
    "intercept_channel over secure_channel": Way(
        lambda s: ProbeStub(around(s.ours(s.gateway), s.service)), streams=True
    ),
    "two interceptors": Way(
        lambda s: ProbeStub(grpc.intercept_channel(s.plain(), bearer(s.service), bearer(s.gateway)))
    ),
    "interceptor over secure_channel": Way(
        lambda s: ProbeStub(grpc.intercept_channel(s.ours(s.gateway), bearer(s.service)))
    ),
    "intercept_channel over an interceptor": Way(
        lambda s: ProbeStub(around(grpc.intercept_channel(s.plain(), bearer(s.gateway)), s.service))
    ),
    "wrap_stub twice": Way(lambda s: wrap(wrap(ProbeStub(s.plain()), s.gateway), s.service)),
    "wrap_stub over secure_channel": Way(lambda s: wrap(ProbeStub(s.ours(s.gateway)), s.service)),
    "intercept_channel over insecure_channel": Way(
        lambda s: ProbeStub(around(s.in_clear(), s.service, allow_plaintext=True)), streams=True
    ),
}

AIO_WAYS = {
    "aio.intercept_channel twice": Way(
        lambda s: ProbeStub(aaround(aaround(s.aplain(), s.gateway), s.service)), streams=True
    ),
    "aio.intercept_channel over aio.secure_channel": Way(
        lambda s: ProbeStub(aaround(s.aours(s.gateway), s.service)), streams=True
    ),
    "aio.interceptors of both": Way(lambda s: ProbeStub(s.aplain(*bearers(s.service), *bearers(s.gateway)))),
    "aio.secure_channel(interceptors=aio.interceptors)": Way(
        lambda s: ProbeStub(s.aours(s.gateway, *bearers(s.service)))
    ),
    "aio.intercept_channel over aio.interceptors": Way(
        lambda s: ProbeStub(aaround(s.aplain(*bearers(s.gateway)), s.service))
    ),
    "aio.wrap_stub twice": Way(lambda s: wrap(wrap(ProbeStub(s.aplain()), s.gateway), s.service)),
    "aio.wrap_stub over aio.secure_channel": Way(lambda s: wrap(ProbeStub(s.aours(s.gateway)), s.service)),
    "aio.intercept_channel over aio.insecure_channel": Way(
        lambda s: ProbeStub(aaround(s.ain_clear(), s.service, allow_plaintext=True)), streams=True
    ),
    "aio.insecure_channel(interceptors=aio.interceptors)": Way(
        lambda s: ProbeStub(s.ain_clear(*bearers(s.service, allow_plaintext=True)))
    ),
}
WAYS = {**SYNC_WAYS, **AIO_WAYS}


def rounds(way: str, scene: Scene, *kinds: str, between: Callable[[], object] = lambda: None) -> list[Any]:
    """Two rounds of calls, `between` and one more, of those kinds alone if any; how each ended."""
    if way in SYNC_WAYS:
        stub = SYNC_WAYS[way].stub(scene)
        ends = [try_sync(stub, timeout=PATIENCE) for _ in range(2)]
        between()
        return [*ends, try_sync(stub, kinds or SYNC_KINDS, timeout=PATIENCE)]

    async def main() -> list[Any]:
        stub = AIO_WAYS[way].stub(scene)
        ends = [await try_aio(stub, FOUR, timeout=PATIENCE) for _ in range(2)]
        between()
        return [*ends, await try_aio(stub, kinds or FOUR, timeout=PATIENCE)]

    return asyncio.run(scene.closing(main()))


class TestTwoHeaders:
    @pytest.mark.parametrize("way", WAYS)
    def test_each_call_brings_both_cold_and_warm(self, way: str, scene: Scene) -> None:
        ends = rounds(way, scene)

        assert [set(codes(each).values()) for each in ends] == [{OK}] * 3
        assert scene.arrived() == [(["Bearer service.0"], ["Bearer gateway.0"])] * sum(map(len, ends))

    @pytest.mark.parametrize("single", ["service", "gateway", "both"])
    @pytest.mark.parametrize("way", WAYS)
    def test_each_attempt_brings_a_token_of_its_own_of_those_for_one_attempt(
        self, way: str, single: str, scene: Scene
    ) -> None:
        for name, header in HEADERS.items():
            if single in (name, "both"):
                setattr(scene, name, BearerAuth(Single(name), header))
                scene.verifier.by_name[name].accept(*(f"{name}.{number}" for number in range(99)))

        ends = rounds(way, scene)

        assert [set(codes(each).values()) for each in ends] == [{OK}] * 3
        arrived = scene.arrived()
        assert {(len(service), len(gateway)) for service, gateway in arrived} == {(1, 1)}
        for name, values in zip(HEADERS, zip(*arrived, strict=True), strict=True):
            assert len({value for (value,) in values}) == (len(arrived) if single in (name, "both") else 1)

    @pytest.mark.parametrize("name", HEADERS)
    @pytest.mark.parametrize(
        ("way", "kind"),
        [
            (way, kind)
            for way, how in WAYS.items()
            for kind in (AIO_KINDS if way in AIO_WAYS else SYNC_KINDS)
            if how.streams or kind in ("unary", "unary.future", "server_stream")
        ],
    )
    def test_each_is_healed_when_its_token_alone_is_revoked(self, way: str, kind: str, name: str, scene: Scene) -> None:
        def revoke() -> None:
            scene.verifier.by_name[name].revoke(f"{name}.0")
            for server in (scene.secure, scene.clear):
                server.ledger.clear()

        ends = rounds(way, scene, kind, between=revoke)[-1]

        assert codes(ends) == {kind: OK}
        service, gateway = scene.arrived()[-1]
        assert (len(service), len(gateway)) == (1, 1)
        assert {"service": service, "gateway": gateway}[name] != [f"Bearer {name}.0"]
        # Nobody can tell whose token was refused, so the other one may be replaced too, but nothing more.
        assert 2 <= len(scene.arrived()) <= 3


class TestCredentialsOfOneCall:
    @pytest.mark.parametrize("way", EXPLAINING)
    def test_with_another_header_are_added(self, way: str, scene: Scene) -> None:
        beside = grpc_bearer.call_credentials(scene.gateway)
        target, security = scene.secure.target, scene.secure.channel_credentials()

        ends = [try_all(way, target, security, scene.service, timeout=PATIENCE, credentials=beside) for _ in range(2)]

        assert [codes(each) for each in ends] == [everywhere(way, OK)] * 2
        assert scene.arrived() == [(["Bearer service.0"], ["Bearer gateway.0"])] * sum(map(len, ends))

    @pytest.mark.parametrize("way", EXPLAINING)
    def test_with_another_header_leave_ours_to_be_healed(self, way: str, scene: Scene) -> None:
        target, security = scene.secure.target, scene.secure.channel_credentials()
        beside = grpc_bearer.call_credentials(scene.gateway)
        scene.service.token()
        scene.verifier.by_name["service"].revoke("service.0")

        ends = codes(try_all(way, target, security, scene.service, timeout=PATIENCE, credentials=beside))

        healed = {kind: ends[kind] for kind in kinds_of(way) if kind.startswith(("unary", "server_stream"))}
        assert set(healed.values()) == {OK}
        assert {tuple(gateway) for _, gateway in scene.arrived()} == {("Bearer gateway.0",)}

    @pytest.mark.parametrize("way", EXPLAINING)
    def test_with_our_header_replace_ours(self, way: str, scene: Scene) -> None:
        scene.secure.verifier = OpaqueVerifier(["someone.0", "service.0"])
        instead = grpc_bearer.call_credentials(numbered("someone"))
        target, security = scene.secure.target, scene.secure.channel_credentials()

        for _ in range(2):
            ends = try_all(way, target, security, scene.service, timeout=PATIENCE, credentials=instead)
            assert codes(ends) == everywhere(way, OK)

        assert {tuple(service) for service, _ in scene.arrived()} == {("Bearer someone.0",)}


# ------------------------------------------------------------------------------------------------ one header, two auths


def _noop() -> Any:
    return sync_interceptor(lambda kind, continuation, details, request: continuation(details, request))


def _anoop() -> list[Any]:
    async def nothing(kind: str, continuation: Any, details: Any, request: Any) -> Any:
        return await continuation(details, request)

    return aio_interceptors(nothing)


Make = Callable[[Scene, BearerAuth, BearerAuth], Any]

#: Where it can be seen when it is built. `a` and `b` have the same header.
KNOWABLE: dict[str, Make] = {
    "intercept_channel over secure_channel": lambda s, a, b: around(s.ours(a), b),
    "intercept_channel twice": lambda s, a, b: around(around(s.plain(), a), b),
    "intercept_channel over insecure_channel": lambda s, a, b: around(s.in_clear(), b, allow_plaintext=True),
    "wrap_stub over secure_channel": lambda s, a, b: wrap(ProbeStub(s.ours(a)), b),
    "wrap_stub twice": lambda s, a, b: wrap(wrap(ProbeStub(s.plain()), a), b),
    "aio.intercept_channel over aio.secure_channel": lambda s, a, b: aaround(s.aours(a), b),
    "aio.intercept_channel twice": lambda s, a, b: aaround(aaround(s.aplain(), a), b),
    "aio.wrap_stub over aio.secure_channel": lambda s, a, b: wrap(ProbeStub(s.aours(a)), b),
    "aio.wrap_stub twice": lambda s, a, b: wrap(wrap(ProbeStub(s.aplain()), a), b),
    "aio.secure_channel(interceptors=aio.interceptors)": lambda s, a, b: s.aours(a, *bearers(b)),
    "intercept_channel over an interceptor": lambda s, a, b: around(grpc.intercept_channel(s.plain(), bearer(a)), b),
    "intercept_channel over an intercepted one of ours": lambda s, a, b: around(
        grpc.intercept_channel(s.ours(a), _noop()), b
    ),
    "aio.intercept_channel over aio.interceptors": lambda s, a, b: aaround(s.aplain(*bearers(a)), b),
    "aio.insecure_channel(interceptors=aio.interceptors)": lambda s, a, b: s.ain_clear(
        *bearers(b, allow_plaintext=True)
    ),
}

#: Where it shows with the first call, or before.
SYNC_CALLS: dict[str, Make] = {
    "two interceptors": lambda s, a, b: grpc.intercept_channel(s.plain(), bearer(a), bearer(b)),
    "interceptor over secure_channel": lambda s, a, b: grpc.intercept_channel(s.ours(a), bearer(b)),
    "interceptor over insecure_channel": lambda s, a, b: grpc.intercept_channel(
        grpc_bearer.insecure_channel(s.clear.target, auth=a, allow_plaintext=True), bearer(b, allow_plaintext=True)
    ),
}
AIO_CALLS: dict[str, Make] = {
    "aio.interceptors of both": lambda s, a, b: s.aplain(*bearers(a), *bearers(b)),
    "aio.interceptors of both, a user's between": lambda s, a, b: s.aplain(*bearers(a), *_anoop(), *bearers(b)),
}


class TestOneHeaderOfTwoAuths:
    @pytest.mark.parametrize("way", KNOWABLE)
    async def test_is_refused_when_built_where_it_can_be_known(self, way: str, scene: Scene) -> None:
        one = scene.gateway if "insecure" in way else scene.service

        async def build() -> None:
            with pytest.raises(ConfigurationError, match=one.header):
                KNOWABLE[way](scene, one, numbered("someone", one.header))

        await (scene.closing(build()) if way.startswith("aio.") else build())

    @pytest.mark.parametrize("way", SYNC_CALLS)
    def test_ends_each_call_else_and_nothing_is_sent(self, way: str, scene: Scene) -> None:
        channel = SYNC_CALLS[way](scene, scene.service, numbered("someone"))

        for _ in range(2):
            ends = try_sync(ProbeStub(channel), timeout=PATIENCE)
            assert OK not in codes(ends).values()
            assert causes(ends) == everywhere(way, ConfigurationError)
            assert all(isinstance(end.value, grpc.Call) for end in ends.values())
        assert scene.arrived() == []

    @pytest.mark.parametrize("way", AIO_CALLS)
    async def test_ends_each_asyncio_call_else_and_nothing_is_sent(self, way: str, scene: Scene) -> None:
        async def call() -> None:
            channel = AIO_CALLS[way](scene, scene.service, numbered("someone"))
            for _ in range(2):
                ends = await try_aio(ProbeStub(channel), FOUR, timeout=PATIENCE)
                assert OK not in codes(ends).values()
                assert causes(ends) == dict.fromkeys(FOUR, ConfigurationError)
                assert all(isinstance(end.value, aio.AioRpcError) for end in ends.values())

        await scene.closing(call())
        assert scene.arrived() == []
