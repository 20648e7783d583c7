"""What people do wrong in their first hour with asyncio: they are told what to write instead."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from attachments import PATIENCE, TLS

import grpc_bearer
from grpc_bearer._calls.targets import check_target
from grpc_bearer.testing import OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub

INSIDE = "open it in the coroutine that asyncio.run() runs"

#: Each in a process of its own: whether asyncio keeps a loop for a thread depends on what went on before.
LOOPS = {
    "opened before asyncio.run, then a unary call": """
stub = testing.ProbeStub(grpc_bearer.aio.secure_channel(server.target, tls, auth="t"))
async def main():
    await stub.Unary(testing.ProbeRequest(), timeout=10)
asyncio.run(main())
""",
    "opened before asyncio.run, then a response stream": """
stub = testing.ProbeStub(grpc_bearer.aio.secure_channel(server.target, tls, auth="t"))
async def main():
    async for reply in stub.ServerStream(testing.ProbeRequest(replies=1), timeout=10):
        pass
asyncio.run(main())
""",
    "opened after asyncio.run": """
async def main():
    pass
asyncio.run(main())
grpc_bearer.aio.secure_channel(server.target, tls, auth="t")
""",
    "opened on a thread": """
with futures.ThreadPoolExecutor(1) as pool:
    pool.submit(grpc_bearer.aio.insecure_channel, server.target, auth="t", allow_plaintext=True).result()
""",
}
BEGIN = """
import asyncio, os
from concurrent import futures
import grpc_bearer
from grpc_bearer import testing
server = testing.ProbeServer(testing.OpaqueVerifier(["t"])).start()
tls = server.channel_credentials()
try:
"""
END = """
except RuntimeError as error:
    print(error, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("mistake", LOOPS)
def test_a_channel_of_another_event_loop_or_of_none(mistake: str) -> None:
    indented = "".join(f"    {line}\n" for line in LOOPS[mistake].splitlines())
    run = subprocess.run(
        [sys.executable, "-c", BEGIN + indented + END], capture_output=True, text=True, timeout=60, check=False
    )

    assert INSIDE in run.stdout, run.stderr


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("Unary", "'UnaryUnaryCall' object has no attribute 'indexes': .*; reply = await stub.Method"),
        ("ServerStream", "'UnaryStreamCall' object has no attribute 'indexes': .*; async for reply in stub.Method"),
    ],
)
async def test_an_await_that_was_forgotten(method: str, says: str) -> None:
    with ProbeServer(OpaqueVerifier(["t"]), TLS) as server:
        credentials = server.channel_credentials()
        async with grpc_bearer.aio.secure_channel(server.target, credentials, auth="t") as channel:
            call: Any = getattr(ProbeStub(channel), method)(ProbeRequest(), timeout=PATIENCE)
            with pytest.raises(AttributeError, match=says):
                _ = call.indexes

            assert not hasattr(call, "indexes")
            call.cancel()


@pytest.mark.parametrize(
    "target",
    [
        *(
            "localhost",
            "localhost:50051",
            "[::1]:50051",
            "10.0.0.1:443",
            "dns:api.example.com",
            "dns:///api.example.com:1",
        ),
        *(
            "dns://8.8.8.8/api.example.com",
            "unix:/run/api.sock",
            "unix:///run/api.sock",
            "unix:run/api.sock",
            "unix:1/api.sock",
        ),
        *(
            "unix-abstract:api",
            "ipv4:10.0.0.1:1,10.0.0.2:1",
            "ipv6:[::1]:1",
            "xds:///api",
            "vsock:2:50051",
            b"localhost:1",
        ),
    ],
)
def test_what_grpc_takes_is_taken(target: Any) -> None:
    check_target(target)
