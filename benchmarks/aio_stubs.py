"""The ways to attach in grpc.aio, ours and others', each as a stub to call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc

import grpc_bearer
from benchmarks import peers
from benchmarks.server import Server
from benchmarks.stubs import Reusable
from grpc_bearer import BearerAuth
from grpc_bearer.testing import ProbeStub


@dataclass(frozen=True)
class AioStubs:
    """One stub for each; `plain` takes the header by hand, and so do `users`, with an interceptor of the user's."""

    plain: Any
    ours: Any
    without_retry: Any
    interceptors: Any
    google: Any
    plugin: Any
    plain_interceptor: Any
    plain_interceptor_again: Any
    users: Any
    users_again: Any
    users_on_ours: Any


@asynccontextmanager
async def aio_stubs(server: Server) -> AsyncIterator[AioStubs]:
    """All of them, on channels that are closed at the end."""
    target, ssl, auth = server.target, server.credentials(), BearerAuth(Reusable())
    async with AsyncExitStack() as stack:

        async def stub(channel: grpc.aio.Channel) -> Any:
            return ProbeStub(await stack.enter_async_context(channel))

        def plain(**how: Any) -> grpc.aio.Channel:
            return grpc.aio.secure_channel(target, ssl, **how)

        def with_plugin(plugin: grpc.AuthMetadataPlugin) -> grpc.aio.Channel:
            return grpc.aio.secure_channel(target, peers.plugin_credentials(ssl, plugin))

        yield AioStubs(
            plain=await stub(plain()),
            ours=await stub(grpc_bearer.aio.secure_channel(target, ssl, auth=auth)),
            without_retry=await stub(grpc_bearer.aio.secure_channel(target, ssl, auth=auth, retry=None)),
            interceptors=await stub(plain(interceptors=grpc_bearer.aio.interceptors(auth))),
            google=await stub(with_plugin(peers.google_plugin(peers.GoogleCredentials()))),
            plugin=await stub(with_plugin(peers.BarePlugin())),
            plain_interceptor=await stub(plain(interceptors=[peers.PlainAioInterceptor()])),
            plain_interceptor_again=await stub(plain(interceptors=[peers.PlainAioInterceptor()])),
            users=await stub(plain(interceptors=[peers.UsersInterceptor()])),
            users_again=await stub(plain(interceptors=[peers.UsersInterceptor()])),
            users_on_ours=await stub(
                grpc_bearer.aio.secure_channel(target, ssl, interceptors=[peers.UsersInterceptor()], auth=auth)
            ),
        )
