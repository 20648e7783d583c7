"""grpclib channels, as users write them: never run, only type-checked."""

from __future__ import annotations

import ssl

from grpclib.client import Channel

import grpc_bearer
import grpc_bearer.grpclib


async def main(auth: grpc_bearer.BearerAuth, context: ssl.SSLContext) -> None:
    async with grpc_bearer.grpclib.channel("api.example.com", 443, auth=auth, ssl=context) as channel:
        opened: Channel = channel
        opened.close()
    grpc_bearer.grpclib.channel(path="/run/fleet.sock", auth="s3cret", ssl=None, allow_plaintext=True).close()
    grpc_bearer.grpclib.channel("api.example.com", retry=grpc_bearer.RetryPolicy(), auth=auth).close()
    grpc_bearer.grpclib.channel("api.example.com")  # type: ignore[call-arg]
