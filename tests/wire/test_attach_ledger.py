"""One token an attempt: what the server's ledger says of tokens that may be used once, whoever makes the attempts.

gRPC makes attempts of its own: those of a `retryPolicy`, and a silent second one when a connection ends by GOAWAY
before the server has looked at the stream. A token that was put on the call as metadata goes out again with each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from attachments import AIO_WAYS, ALL_WAYS, PATIENCE, SYNC_KINDS, TLS, try_all

import grpc_bearer
from grpc_bearer import BearerAuth, CallContext, JWTSource, Token
from grpc_bearer.sources.jwt import nonce
from grpc_bearer.testing import (
    GoawayProxy,
    JWTVerifier,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Refusal,
    Verdict,
    private_pem,
    throwaway_key,
)

RETRIES = (
    "grpc.service_config",
    json.dumps(
        {
            "methodConfig": [
                {
                    "name": [{}],
                    "retryPolicy": {
                        "maxAttempts": 5,
                        "initialBackoff": "0.005s",
                        "maxBackoff": "0.005s",
                        "backoffMultiplier": 1,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ]
        }
    ),
)
CALLERS = 16


class Openfx(JWTSource):
    """As the OpenFX service wants them: ES256, a nonce in the header, 120 s, one for each attempt."""

    def __init__(self, presign: int = 0) -> None:
        super().__init__(
            throwaway_key("ES256"),
            claims={"iss": "openfx", "sub": "key-1"},
            headers={"kid": "key-1", "nonce": nonce},
            audience=["api.openfx"],
            lifetime=120,
            not_before=True,
            single_use=True,
            presign=presign,
        )
        self.made_by: Counter[int] = Counter()

    def fetch(self, context: CallContext) -> Token:
        self.made_by[threading.get_ident()] += 1
        return super().fetch(context)


class Moody:
    """Refuses with UNAVAILABLE as many attempts of a call as the call itself says in `x-refuse`; judges the others."""

    def __init__(self) -> None:
        self._inner = JWTVerifier(
            throwaway_key("ES256").public_key(),
            ["ES256"],
            issuer="openfx",
            audience="api.openfx",
            max_lifetime=120,
            require_headers=("kid", "nonce"),
            single_use=True,
        )
        self.header, self.scheme = self._inner.header, self._inner.scheme

    def verify(self, metadata: Any, method: str) -> Verdict:
        verdict = self._inner.verify(metadata, method)
        said = dict(metadata)
        if verdict.refusal is None and int(said.get("grpc-previous-rpc-attempts", 0)) < int(said.get("x-refuse", 0)):
            verdict.refusal = Refusal("in a mood", grpc.StatusCode.UNAVAILABLE)
        return verdict


@pytest.fixture
def server() -> Iterator[ProbeServer]:
    with ProbeServer(Moody(), TLS, workers=16) as server:
        yield server


def refusals(index: int) -> list[tuple[str, str]]:
    """Every fifth call is refused once, every fifteenth twice, and every forty-fifth three times."""
    return [("x-refuse", str(sum(index % step == 0 for step in (5, 15, 45))))]


def sync_calls(stub: Any, count: int, metadata: Any = refusals) -> Counter[grpc.StatusCode]:
    """Unary calls from several threads; how many ended how."""
    kinds = itertools.cycle(("unary", "unary", "unary.with_call", "unary.future"))
    work = [(next(kinds), index) for index in range(count)]

    def one(item: tuple[str, int]) -> grpc.StatusCode:
        kind, index = item
        try:
            SYNC_KINDS[kind](stub, timeout=PATIENCE, metadata=metadata(index))
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    with ThreadPoolExecutor(CALLERS) as pool:
        return Counter(pool.map(one, work, chunksize=50))


async def aio_calls(stub: Any, count: int, metadata: Any = refusals) -> Counter[grpc.StatusCode]:
    """Unary calls, several at a time; how many ended how."""
    indexes = iter(range(count))
    ended: Counter[grpc.StatusCode] = Counter()

    async def worker() -> None:
        for index in indexes:
            try:
                await stub.Unary(ProbeRequest(index=1), timeout=PATIENCE, metadata=metadata(index))
            except grpc.RpcError as error:
                ended[error.code()] += 1
            else:
                ended[grpc.StatusCode.OK] += 1

    await asyncio.gather(*(worker() for _ in range(CALLERS)))
    return ended


def calls(servers: Sequence[tuple[ProbeServer | GoawayProxy, int]], auth: Any, **how: Any) -> Counter[grpc.StatusCode]:
    """So many calls to each of these, half of them sync and half asyncio, all at the same time; how many ended how."""
    credentials, options = TLS.channel_credentials(), [RETRIES]

    def sync(target: str, count: int) -> Counter[grpc.StatusCode]:
        with grpc_bearer.secure_channel(target, credentials, options, auth=auth, **how) as channel:
            return sync_calls(ProbeStub(channel), count)

    async def asynchronous() -> Counter[grpc.StatusCode]:
        async def to(target: str, count: int) -> Counter[grpc.StatusCode]:
            async with grpc_bearer.aio.secure_channel(target, credentials, options, auth=auth, **how) as channel:
                return await aio_calls(ProbeStub(channel), count)

        ends = await asyncio.gather(*(to(server.target, count - count // 2) for server, count in servers))
        return sum(ends, Counter())

    with ThreadPoolExecutor(len(servers) + 1) as pool:
        ends = [pool.submit(asyncio.run, asynchronous())]
        ends += [pool.submit(sync, server.target, count // 2) for server, count in servers]
        return sum((end.result() for end in ends), Counter())


def goaways(server: ProbeServer) -> GoawayProxy:
    """Connections through it end after so many streams, whoever has some in flight just then."""
    return GoawayProxy(server, itertools.cycle((20, 40, 10)))


OK, UNAVAILABLE, UNAUTHENTICATED = (
    grpc.StatusCode.OK,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED,
)


#: A tenth of the calls in `make test`, all of them in `make check`.
thousands = pytest.mark.parametrize("size", [1, pytest.param(10, marks=pytest.mark.nightly)])


@thousands
def test_trap_10_ten_thousand_calls_under_retries_and_goaways_repeat_no_nonce(size: int, server: ProbeServer) -> None:
    with goaways(server) as proxy:
        ended = calls([(server, 600 * size), (proxy, 400 * size)], BearerAuth(Openfx()))

    attempts, nonces = len(server.ledger), server.ledger.nonces
    assert sum(ended.values()) == 1_000 * size
    assert (
        ended[OK] >= 1_000 * size - 10
    )  # a call may meet more refusals and GOAWAYs in a row than the policy has attempts
    assert len(server.ledger.accepted) == ended[OK]
    assert attempts > 1_200 * size
    assert len(proxy.refused) > 20 * size  # these attempts are in the ledger too
    assert server.ledger.repeated_nonces() == []
    assert len(nonces) == attempts  # no attempt went without
    assert {len(nonce) for nonce in nonces} == {32}  # trap 42: 128 bits


def test_trap_27_control_the_token_as_metadata_is_repeated_by_retries(server: ProbeServer) -> None:
    auth = BearerAuth(Openfx())
    with grpc.secure_channel(server.target, TLS.channel_credentials(), [RETRIES]) as channel:
        ended = sync_calls(ProbeStub(channel), 300, lambda index: [*refusals(index), *auth.headers().items()])

    assert len(server.ledger.repeated_nonces()) == 60  # each call that was refused once, or more often
    assert ended == {OK: 240, UNAUTHENTICATED: 60}


def test_trap_27_control_the_token_as_metadata_is_repeated_after_a_goaway(server: ProbeServer) -> None:
    auth = BearerAuth(Openfx())
    with goaways(server) as proxy, proxy.channel([RETRIES]) as channel:
        ended = sync_calls(ProbeStub(channel), 300, lambda index: list(auth.headers().items()))

    assert len(server.ledger.repeated_nonces()) > 5
    assert len(server.ledger) > 300
    assert sum(ended.values()) == 300


@pytest.mark.parametrize("way", ALL_WAYS)
def test_trap_27_every_way_gives_each_attempt_of_core_a_token_of_its_own(way: str, server: ProbeServer) -> None:
    """All four kinds: each call meets a GOAWAY first, then a server that refuses it once.

    How asyncio's calls with a request stream end is not asked: a message that meets a GOAWAY may be lost to grpc.aio
    (1.85), and the call ends with INTERNAL or at its deadline.
    """
    auth = BearerAuth(Openfx())
    with GoawayProxy(server, [0]) as proxy:
        ends = try_all(
            way,
            proxy.target,
            proxy.channel_credentials(),
            auth,
            way_how={"options": [RETRIES]},
            timeout=PATIENCE,
            metadata=(("x-refuse", "1"),),
        )

    sure = [kind for kind in ends if way not in AIO_WAYS or not kind.startswith(("client", "bidi"))]
    assert {kind: ends[kind].code for kind in sure} == dict.fromkeys(sure, OK)
    assert len(proxy.refused) >= 1
    assert server.ledger.repeated_nonces() == []
    if len(sure) == len(ends):
        assert len(server.ledger) == 2 * len(ends) + len(proxy.refused)
    else:
        assert len(server.ledger) >= 2 * len(sure)


def test_trap_27_single_use_tokens_as_metadata_are_sent_once_for_core_may_not_retry(server: ProbeServer) -> None:
    """`attach="metadata"` gives up the user's retryPolicy: what is refused comes back, and nothing is sent twice."""
    with goaways(server) as proxy:
        ended = calls([(server, 600), (proxy, 600)], BearerAuth(Openfx()), attach="metadata")

    assert sum(ended.values()) == 1_200
    assert set(ended) == {OK, UNAVAILABLE}
    assert ended[UNAVAILABLE] >= 240 + len(proxy.refused) // 2
    assert 1_000 < len(server.ledger) <= 1_200  # an attempt a call, and none where the connection had just gone
    assert server.ledger.repeated_nonces() == []


def test_single_use_tokens_as_metadata_are_made_by_the_caller_itself(server: ProbeServer) -> None:
    source = Openfx()
    me = threading.get_ident()
    how = {"auth": source, "attach": "metadata"}
    with grpc_bearer.secure_channel(server.target, TLS.channel_credentials(), **how) as channel:
        stub = ProbeStub(channel)
        stub.Unary(ProbeRequest(), timeout=PATIENCE)
        cold = source.made_by[me]
        for _ in range(5):
            stub.Unary(ProbeRequest(), timeout=PATIENCE)
        warm = source.made_by[me]
        stub.Unary(ProbeRequest(), timeout=PATIENCE, wait_for_ready=True)

    assert (cold, warm) == (0, 5)  # core proves the channel first
    assert source.made_by[me] == 5  # who waits for a connection would send a token that has aged
    assert len(server.ledger.accepted) == 7


@thousands
@pytest.mark.parametrize(("attach", "served"), [("metadata", {OK, UNAVAILABLE}), ("auto", {OK})])
def test_ten_thousand_calls_with_tokens_signed_ahead_repeat_no_nonce(
    attach: str, served: set[grpc.StatusCode], size: int, server: ProbeServer
) -> None:
    """In two halves: as metadata, where this pays, and through core, which asks for a token an attempt."""
    source = Openfx(presign=64)
    with goaways(server) as proxy:
        ended = calls([(server, 400 * size), (proxy, 100 * size)], BearerAuth(source), attach=attach)

    attempts, nonces = len(server.ledger), server.ledger.nonces
    assert sum(ended.values()) == 500 * size
    assert ended[OK] >= 350 * size
    assert sum(ended[code] for code in served) >= 500 * size - 5
    assert server.ledger.repeated_nonces() == []
    assert len(nonces) == attempts
    ahead = [made for thread, made in source.made_by.items() if thread in workers()]
    assert sum(ahead) > 50 * size


def workers() -> set[int | None]:
    return {thread.ident for thread in threading.enumerate() if thread.name.startswith("grpc-bearer-worker")}


FORKED = """
import os, signal, sys, warnings
warnings.filterwarnings("ignore", category=DeprecationWarning)  # 3.12 on: threads and fork
import grpc, grpc_bearer
from grpc_bearer.sources.jwt import nonce
from grpc_bearer.testing import ProbeRequest, ProbeStub
target, ca, key = sys.argv[1:]
source = grpc_bearer.JWTSource(
    open(key).read(), claims={"iss": "openfx", "sub": "key-1"}, headers={"kid": "key-1", "nonce": nonce},
    audience=["api.openfx"], lifetime=120, not_before=True, single_use=True, presign=64,
)
auth = grpc_bearer.BearerAuth(source)

def calls(count):
    credentials = grpc.ssl_channel_credentials(open(ca, "rb").read())
    with grpc_bearer.secure_channel(target, credentials, auth=auth, attach="metadata", retry=None) as channel:
        for index in range(count):
            ProbeStub(channel).Unary(ProbeRequest(index=index), timeout=30)

calls(300)
for attempt in range(4):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # core (1.85) hangs now and then where a child opens a channel: then there is another child
        code = 3
        try:
            calls(300)
            code = 0
        finally:
            os._exit(code)
    if attempt == 0:
        calls(300)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended != -signal.SIGALRM:
        break
print("child", ended)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_parent_and_child_of_a_fork_share_no_token_signed_ahead(server: ProbeServer, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text(private_pem(throwaway_key("ES256")))
    command = [sys.executable, "-c", FORKED, server.target, str(TLS.write(tmp_path)), str(key)]

    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)

    assert (done.returncode, done.stdout) == (0, "child 0\n"), done.stderr
    assert len(server.ledger.accepted) == 900
    assert server.ledger.repeated_nonces() == []


def test_single_use_tokens_stay_with_core_unless_asked_for(server: ProbeServer) -> None:
    source = Openfx()
    with grpc_bearer.secure_channel(server.target, TLS.channel_credentials(), auth=source) as channel:
        for _ in range(5):
            ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)

    assert source.made_by[threading.get_ident()] == 0
    assert len(server.ledger.accepted) == 5


def test_trap_12_a_reusable_token_is_the_same_on_all_attempts(server: ProbeServer) -> None:
    """The other half: nothing is signed anew just because core tries again."""
    auth = BearerAuth(Openfx())
    token = auth.token()
    reusable = BearerAuth(lambda: Token(token.value, expires_at=token.expires_at))
    server.gate.verifier = None
    with goaways(server) as proxy:
        ended = calls([(proxy, 200)], reusable)

    assert ended == {OK: 200}
    assert len(proxy.refused) > 5
    assert server.ledger.contains(token.value)
    assert {value for attempt in server.ledger for key, value in attempt.metadata if key == "authorization"} == {
        f"Bearer {token.value}"
    }
