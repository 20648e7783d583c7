"""What becomes of a refused token behind nginx, HAProxy and Envoy: for plain gRPC and for ours, as the page says."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

pytest.importorskip("hpack", reason="the peer needs the hpack package")
pytest.importorskip("hyperframe", reason="the peer needs the hyperframe package")

from _http2_peer import CANCEL, NO_ERROR, Answer, Peer, Request
from _pages.page import blocks
from _proxies import DEAD, GOOD, Config, envoy, haproxy, jwt_authn, nginx, rbac, running
from _refusing import PATIENCE
from attachments import AIO_KINDS, AIO_WAYS, FOREIGN, SYNC_WAYS, TLS, Ended, kinds_of, try_aio, try_sync

import grpc_bearer
from grpc_bearer import BearerAuth, RetryPolicy, TokenFormatError, TokenRejectedError
from grpc_bearer._calls.attempt_history import SENT_OR_SEEN
from grpc_bearer.testing import Delay, OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub

# Until 1.80 grpc.aio may end itself on its own thread, and complains of that.
pytestmark = pytest.mark.filterwarnings("ignore:.*AioChannel.__dealloc__:pytest.PytestUnraisableExceptionWarning")

PAGE = blocks((Path(__file__).parents[2] / "docs/guides/proxies.md").read_text("utf-8"))
DENIED = [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED]


def of_the_page(language: str, word: str) -> str:
    """The example of the page that has this word."""
    (code,) = (block.code for block in PAGE if block.language == language and word in block.code)
    return code


def policy_of_the_page(**how: Any) -> RetryPolicy:
    names: dict[str, Any] = {}
    exec(of_the_page("python", "def lost_its_status"), names)
    found: RetryPolicy = RetryPolicy(retry_if=names["lost_its_status"], **how) if how else names["policy"]
    return found


# ----------------------------------------------------------------------------------------------------- the situations


class Situation(NamedTuple):
    """Who refuses and how, and what plain gRPC makes of it: codes by what streams (requests, replies, or nothing)."""

    program: str
    config: Config
    unary: str = "UNAUTHENTICATED"
    replies: str = "UNAUTHENTICATED"
    requests: str = "UNAUTHENTICATED"
    heals: bool = True  # by itself, in each kind of call; else unary calls, and the rest with the policy
    known: bool = False  # it is the backend that refuses

    def codes(self, kind: str) -> set[str]:
        seen = {"unary": self.unary, "server_stream": self.replies}.get(kind.partition(".")[0], self.requests)
        return set(seen.split())


CHALLENGED = of_the_page("text", "http-request return").strip()
SITUATIONS = {
    "nginx 401": Situation(
        "nginx",
        nginx("if ($known = 0) { return 401; }"),
        replies="UNAUTHENTICATED UNKNOWN",
        requests="UNAUTHENTICATED INTERNAL UNKNOWN",
        heals=False,
    ),
    "nginx auth_request": Situation(
        "nginx",
        nginx("auth_request /auth;", "location = /auth { internal; if ($known = 0) { return 401; } return 204; }"),
        replies="UNAUTHENTICATED UNKNOWN",
        requests="UNAUTHENTICATED INTERNAL UNKNOWN",
        heals=False,
    ),
    "nginx with a gRPC status": Situation(
        "nginx", nginx("if ($known = 0) { return 401; }", of_the_page("text", "error_page"))
    ),
    "HAProxy 401": Situation(
        "haproxy",
        haproxy("http-request deny deny_status 401"),
        replies="UNAUTHENTICATED UNKNOWN",
        requests="UNAUTHENTICATED CANCELLED UNKNOWN",
        heals=False,
    ),
    "HAProxy with a gRPC status": Situation(
        "haproxy",
        haproxy("http-request return status 200 content-type application/grpc hdr grpc-status 16"),
        requests="UNAUTHENTICATED CANCELLED",
        heals=False,
    ),
    "HAProxy with a challenge": Situation("haproxy", haproxy(CHALLENGED), requests="UNAUTHENTICATED CANCELLED"),
    "the server behind nginx": Situation("nginx", nginx(), known=True),
    "the server behind HAProxy": Situation("haproxy", haproxy(), requests="UNAUTHENTICATED CANCELLED", known=True),
    "the server behind Envoy": Situation("envoy", envoy(), known=True),
    "Envoy jwt_authn": Situation("envoy", envoy(jwt_authn())),
    "nginx 403": Situation(
        "nginx",
        nginx("if ($known = 0) { return 403; }"),
        unary="PERMISSION_DENIED",
        replies="PERMISSION_DENIED UNKNOWN",
        requests="PERMISSION_DENIED INTERNAL UNKNOWN",
        heals=False,
    ),
    "HAProxy 403": Situation(
        "haproxy",
        haproxy("http-request deny deny_status 403"),
        unary="PERMISSION_DENIED",
        replies="PERMISSION_DENIED UNKNOWN",
        requests="PERMISSION_DENIED CANCELLED UNKNOWN",
        heals=False,
    ),
    "Envoy rbac": Situation(
        "envoy",
        envoy(rbac()),
        unary="PERMISSION_DENIED",
        replies="PERMISSION_DENIED",
        requests="PERMISSION_DENIED",
        heals=False,
    ),
}


@pytest.fixture(scope="module")
def backend() -> Iterator[ProbeServer]:
    with ProbeServer(OpaqueVerifier([GOOD]), TLS) as server:
        yield server


class Behind(NamedTuple):
    """A situation that is there."""

    situation: Situation
    target: str
    backend: ProbeServer


@pytest.fixture(scope="module", params=SITUATIONS)
def behind(
    request: pytest.FixtureRequest, backend: ProbeServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Behind]:
    situation = SITUATIONS[request.param]
    with running(situation.program, situation.config, backend.target, tmp_path_factory.mktemp("proxy")) as target:
        backend.ledger.clear()
        yield Behind(situation, target, backend)


# -------------------------------------------------------------------------------------------------------- plain gRPC


class ByHand:
    """A stub whose calls have this token, by hand; or a method of it."""

    def __init__(self, inner: Any, token: str | None) -> None:
        self._inner, self._token = inner, token

    def __getattr__(self, name: str) -> ByHand:
        return ByHand(getattr(self._inner, name), self._token)

    def __call__(self, *args: Any, **how: Any) -> Any:
        metadata = () if self._token is None else (("authorization", f"Bearer {self._token}"),)
        return self._inner(*args, metadata=metadata, **how)


def plain(target: str, token: str | None) -> dict[str, Ended]:
    """A call of each kind, sync."""
    with grpc.secure_channel(target, TLS.channel_credentials()) as channel:
        return try_sync(ByHand(ProbeStub(channel), token), timeout=PATIENCE)


async def plain_aio(target: str, token: str | None) -> dict[str, Ended]:
    ends: dict[str, Ended] = {}
    async with grpc.aio.secure_channel(target, TLS.channel_credentials()) as channel:
        for kind in AIO_KINDS:
            # All that 1.66 may make of a write that fails is a cancelled task, which has no status. Nor has core's own
            # error, which is what `done_writing()` raises when core has heard of the end and grpc.aio has not.
            with contextlib.suppress(asyncio.CancelledError):
                ends |= await try_aio(ByHand(ProbeStub(channel), token), [kind], timeout=PATIENCE)
    return {kind: ended for kind, ended in ends.items() if not isinstance(ended.value, grpc.aio.InternalError)}


class TestPlain:
    @pytest.mark.parametrize("token", [DEAD, None], ids=["dead", "absent"])
    def test_sync(self, behind: Behind, token: str | None) -> None:
        for kind, ended in plain(behind.target, token).items():
            assert ended.code.name in behind.situation.codes(kind), f"{kind}: {ended}"
        assert bool(behind.backend.ledger) == behind.situation.known

    @pytest.mark.parametrize("token", [DEAD, None], ids=["dead", "absent"])
    async def test_asyncio(self, behind: Behind, token: str | None) -> None:
        for kind, ended in (await plain_aio(behind.target, token)).items():
            core = {"INTERNAL"} if kind.startswith(("client", "bidi")) else set()  # "Internal error from Core"
            assert ended.code.name in behind.situation.codes(kind) | core, f"{kind}: {ended}"

    def test_the_right_token_passes(self, behind: Behind) -> None:
        ends = plain(behind.target, GOOD) | asyncio.run(plain_aio(behind.target, GOOD))

        assert {kind: ended.code.name for kind, ended in ends.items() if ended.code.name != "OK"} == {}


# --------------------------------------------------------------------------------------------------------------- ours


def auth() -> BearerAuth:
    """The proxy does not take its first token."""
    tokens = itertools.chain([DEAD], itertools.repeat(GOOD))
    return BearerAuth(lambda: next(tokens))


@contextlib.contextmanager
def attached(target: str, credentials: Any, auth: BearerAuth, **how: Any) -> Iterator[Any]:
    with grpc_bearer.attach_to(auth, targets=[target], **how):
        channel = grpc.secure_channel(target, credentials)
    with channel:
        yield ProbeStub(channel)


WAYS: Mapping[str, Any] = {**SYNC_WAYS, **AIO_WAYS, "attach_to": attached}
OWN = ["secure_channel", "attach_to", "intercept_channel", "aio.secure_channel", "aio.intercept_channel"]


def each(way: str, target: str, auths: Mapping[str, BearerAuth] | None = None, **how: Any) -> dict[str, Ended]:
    """A call of each kind, each with a channel and an auth of its own."""
    auths = auths or {kind: auth() for kind in kinds_of(way)}
    made = {kind: WAYS[way](target, TLS.channel_credentials(), each, **how) for kind, each in auths.items()}
    if way in AIO_WAYS:
        return asyncio.run(_each(made))
    ends = {}
    for kind, opened in made.items():
        with opened as stub:
            ends |= try_sync(stub, [kind], timeout=PATIENCE)
    return ends


async def _each(made: dict[str, Any]) -> dict[str, Ended]:
    ends = {}
    for kind, opened in made.items():
        async with opened as stub:
            ends |= await try_aio(stub, [kind], timeout=PATIENCE)
    return ends


def codes(ends: dict[str, Ended]) -> dict[str, str]:
    return {kind: ended.code.name for kind, ended in ends.items()}


def made_up(error: object) -> bool:
    """Whether gRPC has handed out a message that nobody has sent, an empty one, before it told of HTTP's status.

    It does, plain gRPC too, in one of some hundred calls with streams both ways. What was shown is not made again.
    """
    return SENT_OR_SEEN in str(getattr(error, "__cause__", ""))


@pytest.mark.parametrize("way", OWN)
class TestOurs:
    def test_by_itself(self, behind: Behind, way: str) -> None:
        situation = behind.situation
        for kind, code in codes(each(way, behind.target)).items():
            sure = situation.heals or (kind.startswith("unary") and situation.unary == "UNAUTHENTICATED")
            assert code in ({"OK"} if sure else {"OK"} | situation.codes(kind)), kind

    def test_with_the_policy_of_the_page(self, behind: Behind, way: str) -> None:
        denied = behind.situation.unary == "PERMISSION_DENIED"
        policy = policy_of_the_page(codes=DENIED) if denied else policy_of_the_page()

        for kind, ended in each(way, behind.target, retry=policy).items():
            assert ended.code is grpc.StatusCode.OK or (kind.startswith("bidi") and made_up(ended.value)), kind


def give_up() -> Iterator[tuple[str, str]]:
    """Where it is known to be a refusal, each way that repeats no request streams."""
    for name, situation in SITUATIONS.items():
        for way in FOREIGN:
            # A write of grpc.aio's own interceptors may fail before the headers are in, and then nothing tells.
            told = "CANCELLED" not in situation.requests or way not in AIO_WAYS
            if situation.heals and told and not way.endswith("intercept_channel"):
                yield name, way


@pytest.mark.parametrize(("behind", "way"), list(give_up()), indirect=["behind"])
def test_ways_that_repeat_no_request_streams_give_the_token_up(behind: Behind, way: str) -> None:
    auths = {kind: auth() for kind in kinds_of(way)}

    for kind, ended in each(way, behind.target, auths).items():
        if kind.startswith(("client", "bidi")):
            assert isinstance(ended.cause, TokenRejectedError), f"{kind}: {ended}"
        else:
            assert ended.code is grpc.StatusCode.OK
    assert codes(each(way, behind.target, auths)) == dict.fromkeys(kinds_of(way), "OK")


# ------------------------------------------------------------------------------------ the same answers, played exactly


def refusing(answer: Answer) -> Answer:
    """Answers so where the token is not the right one, and well where it is, once all requests have come."""

    def answers(request: Request) -> bytes:
        if request.headers.get("authorization") != f"Bearer {GOOD}":
            return answer(request)
        return request.empty() if request.ended else b""

    return answers


def hanging_up(answer: Answer, error: int) -> Answer:
    """Answers so, and ends the stream if requests are still on their way."""
    return lambda request: answer(request) + (b"" if request.ended else request.reset(error))


NGINX_401 = hanging_up(lambda request: request.bare(401), NO_ERROR)
ENVOY = hanging_up(lambda request: request.grpc(16, grpc_message="Jwt verification fails"), NO_ERROR)
HAPROXY = hanging_up(lambda request: request.grpc(16, www_authenticate='Bearer error="invalid_token"'), CANCEL)


async def held(channel: grpc.aio.Channel, peer: Peer) -> Any:
    """A call with a response stream whose answer comes while the event loop is busy with something else."""
    call = channel.unary_stream("/a.B/C")(b"", timeout=PATIENCE)
    while not peer.seen.wait(0.05):
        await asyncio.sleep(0)
    try:
        return [message async for message in call]
    except grpc.aio.AioRpcError as error:
        return error


class TestABusyLoop:
    """Where the status is lost each time. What is lost is the same for all."""

    @pytest.mark.parametrize("status", [401, 403, 504])
    async def test_plain(self, status: int) -> None:
        with Peer(lambda request: request.bare(status)) as peer:
            async with grpc.aio.insecure_channel(peer.target) as channel:
                error = await held(channel, peer)

        assert error.code() is grpc.StatusCode.UNKNOWN
        assert error.details() in ("Stream removed (Data frame with END_STREAM flag received)", "Stream removed")

    @staticmethod
    async def ours(answer: Answer, **how: Any) -> tuple[Any, int]:
        """What becomes of a call, and how often it was made."""
        tokens = auth()
        tokens.token()  # is at hand, so that the call begins at once
        with Peer(refusing(answer)) as peer:
            channel = grpc_bearer.aio.insecure_channel(peer.target, auth=tokens, allow_plaintext=True, **how)
            async with channel:
                return await held(channel, peer), len(peer.paths)

    async def test_by_default_it_may_be_anything(self) -> None:
        error, calls = await self.ours(NGINX_401)

        assert (error.code(), calls) == (grpc.StatusCode.UNKNOWN, 1)
        assert error.__cause__ is None

    async def test_the_policy_heals_it(self) -> None:
        assert await self.ours(NGINX_401, retry=policy_of_the_page()) == ([b""], 2)

    async def test_the_policy_makes_a_call_twice_that_a_server_may_be_at(self) -> None:
        """Which is why it is no default."""
        _, calls = await self.ours(lambda request: request.bare(504), retry=policy_of_the_page())

        assert calls == 2


@pytest.mark.parametrize("answer", [NGINX_401, HAPROXY, ENVOY], ids=["nginx", "HAProxy", "Envoy"])
@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
class TestPlayed:
    """With the policy for nginx; without for HAProxy, whose headers tell, and for Envoy, whose status is not lost."""

    @staticmethod
    def how(answer: Answer) -> dict[str, Any]:
        return {"retry": policy_of_the_page()} if answer is NGINX_401 else {}

    def test_sync(self, answer: Answer, kind: str) -> None:
        with Peer(refusing(answer)) as peer:
            channel = grpc_bearer.insecure_channel(peer.target, auth=auth(), allow_plaintext=True, **self.how(answer))
            with channel:
                call = begun(channel, kind)
                try:
                    replies = list(call()) if kind.endswith("stream") else [call()]
                except grpc.RpcError as error:
                    if made_up(error):
                        return
                    raise

        assert (replies, len(peer.paths)) == ([b""], 2)

    async def test_asyncio(self, answer: Answer, kind: str) -> None:
        with Peer(refusing(answer)) as peer:
            channel = grpc_bearer.aio.insecure_channel(
                peer.target, auth=auth(), allow_plaintext=True, **self.how(answer)
            )
            async with channel:
                call = begun(channel, kind)()
                try:
                    replies = [reply async for reply in call] if kind.endswith("stream") else [await call]
                except grpc.RpcError as error:
                    if made_up(error):
                        return
                    raise

        assert (replies, len(peer.paths)) == ([b""], 2)


def begun(channel: Any, kind: str) -> Callable[[], Any]:
    """Begins a call of this kind."""
    request = [b""] * 3 if kind.startswith("stream") else b""
    return lambda: getattr(channel, kind)("/a.B/C")(
        iter(request) if isinstance(request, list) else request, timeout=PATIENCE
    )


def test_a_proxy_that_gives_up_on_a_server_says_so_after_the_call_has_begun(
    backend: ProbeServer, tmp_path: Path
) -> None:
    """nginx's 504: what a lost status may be, too."""
    delay = Delay()
    with running("nginx", nginx("grpc_read_timeout 100ms;"), backend.target, tmp_path) as target:
        backend.ledger.clear()
        backend.script(delay)
        with grpc.secure_channel(target, TLS.channel_credentials()) as channel:
            call = ByHand(ProbeStub(channel), GOOD).ServerStream(ProbeRequest(replies=3), timeout=PATIENCE)
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
        delay.release.set()

    assert caught.value.code().name in ("UNAVAILABLE", "UNKNOWN")
    assert len(backend.ledger.accepted) == 1


# -------------------------------------------------------------------------------------------------------- long tokens


@pytest.fixture(scope="module")
def roomy() -> Iterator[ProbeServer]:
    """A server that takes any token, however long."""
    limits = [("grpc.max_metadata_size", 1 << 20), ("grpc.absolute_max_metadata_size", 1 << 20)]
    with ProbeServer(None, TLS, options=limits) as server:
        yield server


@pytest.mark.filterwarnings("ignore:.*many servers and proxies refuse:UserWarning")
class TestLongTokens:
    @staticmethod
    def call(target: str, size: int) -> Any:
        with grpc_bearer.secure_channel(target, TLS.channel_credentials(), auth="x" * size) as channel:
            try:
                return ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)
            except grpc.RpcError as error:
                return error

    @pytest.mark.parametrize(
        ("program", "config", "passes", "size", "code"),
        [
            pytest.param("nginx", nginx(), 8_000, 8_300, "UNAVAILABLE", id="nginx"),
            pytest.param(
                "nginx",
                nginx(server="large_client_header_buffers 4 32k;"),
                30_000,
                33_000,
                "UNAVAILABLE",
                id="nginx with larger buffers",
            ),
            pytest.param("haproxy", haproxy(), 14_000, 15_000, "INTERNAL", id="HAProxy"),
            pytest.param("haproxy", haproxy(), 14_000, 17_000, "UNAVAILABLE", id="HAProxy, much too long"),
            pytest.param(
                "haproxy",
                haproxy(tune="tune.bufsize 65536"),
                50_000,
                66_000,
                "UNAVAILABLE",
                id="HAProxy with larger buffers",
            ),
            pytest.param("envoy", envoy(), 61_000, 61_500, "INTERNAL", id="Envoy"),
            pytest.param("envoy", envoy(), 61_000, 70_000, "UNAVAILABLE", id="Envoy, much too long"),
            pytest.param(
                "envoy",
                envoy(max_request_headers_kb=96),
                65_000,
                66_000,
                "UNAVAILABLE",
                id="Envoy with a higher limit",
            ),
        ],
    )
    def test_the_proxy_refuses_it(
        self, roomy: ProbeServer, tmp_path: Path, program: str, config: Config, passes: int, size: int, code: str
    ) -> None:
        with running(program, config, roomy.target, tmp_path) as target:
            passed, error = self.call(target, passes), self.call(target, size)

        assert not isinstance(passed, grpc.RpcError)
        assert error.code().name == code
        if "Socket closed" in error.details() and "Error code" not in error.details():
            pytest.skip("this gRPC does not tell how a connection ended")
        assert isinstance(error.__cause__, TokenFormatError)
        assert str(error.__cause__).startswith(f"the token has {size} bytes;")

    def test_the_server_refuses_it(self, backend: ProbeServer) -> None:
        error = self.call(backend.target, 17_000)

        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert isinstance(error.__cause__, TokenFormatError)
