"""The asyncio ways to attach as users call them. Read by type checkers (`make types`), never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import grpc
from grpc import aio
from typing_extensions import assert_type

import grpc_bearer
from grpc_bearer import BearerAuth, RetryPolicy, Token

auth = BearerAuth("t0")
tls = grpc.ssl_channel_credentials()


class AsyncStub:
    """What generators of typed stubs make for asyncio."""

    Unary: aio.UnaryUnaryMultiCallable[bytes, str]

    def __init__(self, channel: aio.Channel) -> None: ...


async def main(plain: aio.Channel, given: list[aio.ClientInterceptor]) -> None:
    assert_type(grpc_bearer.aio.secure_channel("localhost:443", auth=auth), aio.Channel)
    assert_type(grpc_bearer.aio.insecure_channel("localhost:80", auth=auth, allow_plaintext=True), aio.Channel)
    assert_type(grpc_bearer.aio.intercept_channel(plain, auth, retry=RetryPolicy()), aio.Channel)

    # gRPC's arguments, in gRPC's order; ours by keyword.
    compression = grpc.Compression.Gzip
    grpc_bearer.aio.secure_channel("localhost:443", tls, (), compression, given, auth=auth, retry=None, attach="auto")
    grpc_bearer.aio.insecure_channel("localhost:80", (), compression, given, auth=auth, allow_plaintext=True)
    grpc_bearer.aio.secure_channel("localhost:443", tls)  # type: ignore[call-arg]
    grpc_bearer.aio.secure_channel("localhost:443", auth=auth, attach="core")  # type: ignore[arg-type]
    grpc_bearer.aio.intercept_channel(grpc.insecure_channel("localhost:80"), auth)  # type: ignore[arg-type]

    # What is no auth, at every way to attach.
    grpc_bearer.aio.secure_channel("localhost:443", auth=5)  # type: ignore[arg-type]
    grpc_bearer.aio.insecure_channel("localhost:80", auth=None, allow_plaintext=True)  # type: ignore[arg-type]
    grpc_bearer.aio.intercept_channel(plain, {"token": "t0"})  # type: ignore[arg-type]
    grpc_bearer.aio.interceptors(5)  # type: ignore[arg-type]

    # They fit where gRPC wants them, and in `async with`.
    assert_type(grpc_bearer.aio.interceptors(auth), list[aio.ClientInterceptor])
    given += grpc_bearer.aio.interceptors(lambda: "t0")
    grpc.intercept_channel(grpc.insecure_channel(""), *grpc_bearer.aio.interceptors(auth))  # type: ignore[arg-type]
    aio.secure_channel("localhost:443", tls, interceptors=grpc_bearer.aio.interceptors(auth))
    aio.secure_channel("localhost:443", grpc_bearer.channel_credentials(auth))
    async with grpc_bearer.aio.secure_channel("localhost:443", auth=auth) as channel:
        assert_type(channel, aio.Channel)
        stub = grpc_bearer.wrap_stub(AsyncStub(channel), auth)
        assert_type(stub, AsyncStub)
        assert_type(await stub.Unary(b"request"), str)

    assert_type(await auth.atoken(), Token)
    await auth.token()  # type: ignore[misc]

    async for attempt in RetryPolicy().attempts(auth, timeout=30):
        with attempt:
            await AsyncStub(plain).Unary(b"request")
