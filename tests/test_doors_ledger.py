"""One token an attempt: what the server's ledger says of tokens that may be used once, whoever makes the attempts.

gRPC makes attempts of its own: those of a `retryPolicy`, and a silent second one when a connection ends by GOAWAY before
the server has looked at the stream. A token that was put on the call as metadata goes out again with each.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from doors import AIO_KINDS, PATIENCE, SYNC_KINDS, TLS

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
                        "initialBackoff": "0.02s",
                        "maxBackoff": "0.02s",
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

    def __init__(self) -> None:
        super().__init__(
            throwaway_key("ES256"),
            claims={"iss": "openfx", "sub": "key-1"},
            headers={"kid": "key-1", "nonce": nonce},
            audience=["api.openfx"],
            lifetime=120,
            not_before=True,
            single_use=True,
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
    """Every third call is refused once, every twelfth twice or three times."""
    return [("x-refuse", str((3 if index % 24 == 0 else 2) if index % 12 == 0 else int(index % 3 == 0)))]


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


def through(
    proxy: GoawayProxy | ProbeServer, auth: Any, *, sync: int, aio: int, **how: Any
) -> Counter[grpc.StatusCode]:
    """So many calls of either kind, at the same time, over several channels."""
    options = [RETRIES]
    credentials = TLS.channel_credentials()

    async def asynchronous() -> Counter[grpc.StatusCode]:
        async with grpc_bearer.aio.secure_channel(proxy.target, credentials, options, auth=auth, **how) as channel:
            return await aio_calls(ProbeStub(channel), aio)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(asyncio.run, asynchronous())
        with grpc_bearer.secure_channel(proxy.target, credentials, options, auth=auth, **how) as channel:
            ended = sync_calls(ProbeStub(channel), sync)
        return ended + other.result()


def test_trap_10_no_nonce_is_repeated_under_a_retry_policy(server: ProbeServer) -> None:
    ended = through(server, BearerAuth(Openfx()), sync=4_000, aio=3_000)

    assert ended == {grpc.StatusCode.OK: 7_000}
    assert len(server.ledger) > 7_000 * 1.3
    assert server.ledger.repeated_nonces() == []
    assert len(set(server.ledger.nonces)) == len(server.ledger)


def test_goaways(server: ProbeServer) -> None:
    with GoawayProxy(server, itertools.cycle((20, 40, 10))) as proxy:
        ended = through(proxy, BearerAuth(Openfx()), sync=1_500, aio=1_500)
        print(ended, proxy.connections, len(proxy.refused), len(server.ledger))

    assert ended == {grpc.StatusCode.OK: 3_000}
    assert server.ledger.repeated_nonces() == []
