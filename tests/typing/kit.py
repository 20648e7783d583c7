"""The test kit as users' tests use it. Read by type checkers (`make types`), never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from pathlib import Path

import grpc
from typing_extensions import assert_type

import grpc_bearer
from grpc_bearer import testing as kit

clock = kit.ManualClock()
assert_type(clock.time(), float)
clock.advance(60)
clock.advance("a minute")  # type: ignore[arg-type]

ca = kit.CA()
assert_type(ca.write(Path("certificates")), Path)

with kit.ProbeServer(kit.OpaqueVerifier(["t0"]), ca, clock=clock) as server, server.channel() as plain:
    assert_type(server, kit.ProbeServer)
    assert_type(server.target, str)
    assert_type(server.ledger, kit.Ledger)
    assert_type(server.ledger[0], kit.Attempt)
    assert_type(server.ledger[0].accepted, bool)
    server.script(kit.Refuse(), None, kit.Delay())
    server.script("refuse")  # type: ignore[arg-type]
    stub = grpc_bearer.wrap_stub(kit.ProbeStub(plain), "t0")
    assert_type(stub.Unary(kit.ProbeRequest(index=1)), kit.ProbeReply)
    for reply in stub.ServerStream(kit.ProbeRequest(index=3)):
        assert_type(reply, kit.ProbeReply)


async def main(channel: grpc.aio.Channel) -> None:
    stub = grpc_bearer.wrap_stub(kit.ProbeStub(grpc_bearer.aio.intercept_channel(channel, "t0")), "t1")
    assert_type(await stub.Unary(kit.ProbeRequest(index=1), timeout=5), kit.ProbeReply)
    async for reply in stub.ServerStream(kit.ProbeRequest(index=3)):
        assert_type(reply, kit.ProbeReply)
    call = stub.BidiStream()
    await call.write(kit.ProbeRequest())
    await stub.Unary("no message")  # type: ignore[arg-type]
    kit.ProbeStub(channel).Unary.future(kit.ProbeRequest())  # type: ignore[attr-defined]


kit.ProbeStub("localhost:80")  # type: ignore[call-overload]
kit.ProbeServer(credentials="none")  # type: ignore[arg-type]

with kit.TokenServer(ca) as tokens:
    assert_type(tokens, kit.TokenServer)

verifier: kit.Verifier = kit.JWTVerifier(kit.public_pem(kit.throwaway_key("ES256")), algorithms=["ES256"])
assert_type(grpc_bearer.intercept_channel(plain, "t0"), grpc.Channel)
