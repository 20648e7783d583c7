"""The sync ways to attach as users call them. Read by type checkers (`make types`), never run.

A `type: ignore` marks a mistake that a checker must see: both checkers complain about one that is not needed.
"""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

from pathlib import Path

import grpc
from typing_extensions import assert_type

import grpc_bearer
from grpc_bearer import AuthLike, BearerAuth, BearerInterceptor, RetryPolicy, StaticSource
from grpc_bearer.testing import ProbeReply, ProbeRequest, ProbeStub

auth = BearerAuth("t0")
tls = grpc.ssl_channel_credentials()
plain = grpc.secure_channel("localhost:443", tls)

# What each way to attach gives is what gRPC's own function gives.
assert_type(grpc_bearer.secure_channel("localhost:443", auth=auth), grpc.Channel)
assert_type(grpc_bearer.insecure_channel("localhost:80", auth=auth, allow_plaintext=True), grpc.Channel)
assert_type(grpc_bearer.intercept_channel(plain, auth), grpc.Channel)
assert_type(grpc_bearer.channel_credentials(auth), grpc.ChannelCredentials)
assert_type(grpc_bearer.channel_credentials(auth, tls), grpc.ChannelCredentials)
assert_type(grpc_bearer.call_credentials(auth), grpc.CallCredentials)
assert_type(grpc_bearer.interceptor(auth), BearerInterceptor)

# gRPC's arguments, in gRPC's order; ours by keyword.
grpc_bearer.secure_channel("localhost:443", tls, [("grpc.enable_retries", 0)], grpc.Compression.Gzip, auth=auth)
grpc_bearer.secure_channel("localhost:443", None, None, None, auth=auth, retry=None, attach="metadata")
grpc_bearer.secure_channel("localhost:443", credentials=tls, options=(), auth=auth, retry=RetryPolicy())
grpc_bearer.insecure_channel("localhost:80", [], grpc.Compression.Gzip, auth=auth, allow_plaintext=True)
grpc_bearer.secure_channel("localhost:443")  # type: ignore[call-arg]
grpc_bearer.secure_channel("localhost:443", tls, None, None, auth)  # type: ignore[call-arg]
grpc_bearer.secure_channel(443, auth=auth)  # type: ignore[arg-type]
grpc_bearer.secure_channel("localhost:443", auth=auth, credentials="tls")  # type: ignore[arg-type]
grpc_bearer.secure_channel("localhost:443", auth=auth, attach="metadat")  # type: ignore[arg-type]
grpc_bearer.secure_channel("localhost:443", auth=auth, retry=3)  # type: ignore[arg-type]
grpc_bearer.secure_channel("localhost:443", auth=auth, allow_plaintext=True)  # type: ignore[call-arg]
grpc_bearer.intercept_channel(auth, plain)  # type: ignore[arg-type]
grpc_bearer.intercept_channel(grpc.aio.insecure_channel("localhost:80"), auth)  # type: ignore[arg-type]
grpc_bearer.channel_credentials(auth, grpc_bearer.call_credentials(auth))  # type: ignore[arg-type]

# What is no auth, at every way to attach.
grpc_bearer.secure_channel("localhost:443", auth=5)  # type: ignore[arg-type]
grpc_bearer.secure_channel("localhost:443", auth=None)  # type: ignore[arg-type]
grpc_bearer.secure_channel("localhost:443", auth={"token": "t0"})  # type: ignore[arg-type]
grpc_bearer.secure_channel("localhost:443", auth=tls)  # type: ignore[arg-type]
grpc_bearer.insecure_channel("localhost:80", auth=b"t0", allow_plaintext=True)  # type: ignore[arg-type]
grpc_bearer.intercept_channel(plain, None)  # type: ignore[arg-type]
grpc_bearer.interceptor(5)  # type: ignore[arg-type]
grpc_bearer.wrap_stub(ProbeStub(plain), 5)  # type: ignore[arg-type]
grpc_bearer.call_credentials(None)  # type: ignore[arg-type]
grpc_bearer.channel_credentials({})  # type: ignore[arg-type]
grpc.secure_channel("localhost:443", auth)  # type: ignore[arg-type]
grpc.composite_channel_credentials(tls, auth)  # type: ignore[arg-type]


# What is one, in a function of one's own.
def connected(auth: AuthLike | None, target: str = "localhost:443") -> grpc.Channel:
    return grpc.secure_channel(target, tls) if auth is None else grpc_bearer.secure_channel(target, auth=auth)


like: list[AuthLike] = [auth, "t0", Path("token.txt"), StaticSource("t0"), lambda: "t0", auth.as_google_credentials()]
for each in like:
    assert_type(connected(each), grpc.Channel)
connected(7)  # type: ignore[arg-type]

# They fit where gRPC wants them, and in `with`.
grpc.intercept_channel(plain, grpc_bearer.interceptor(auth))
grpc.secure_channel("localhost:443", grpc_bearer.channel_credentials(auth))
grpc.metadata_call_credentials(auth)
with grpc_bearer.secure_channel("localhost:443", auth=auth) as channel:
    assert_type(channel, grpc.Channel)
    assert_type(ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=5), ProbeReply)
    ProbeStub(channel).Unary(ProbeRequest(), credentials=grpc_bearer.call_credentials(auth))


# A wrapped stub keeps the type of the stub, whatever it is.
class OwnStub(ProbeStub):
    def twice(self, request: ProbeRequest) -> tuple[ProbeReply, ProbeReply]:
        return self.Unary(request), self.Unary(request)


stub = grpc_bearer.wrap_stub(OwnStub(plain), auth, retry=None, allow_plaintext=True)
assert_type(stub, OwnStub)
assert_type(stub.twice(ProbeRequest()), tuple[ProbeReply, ProbeReply])
assert_type(stub.Unary(ProbeRequest()), ProbeReply)
stub.Unray(ProbeRequest())  # type: ignore[attr-defined]
stub.Unary("no message")  # type: ignore[arg-type]
assert_type(grpc_bearer.wrap_stub(ProbeStub(plain), "t0"), ProbeStub)

# Channels that others open, and what is handed to clients that take a token or a function.
with grpc_bearer.attach_to(auth, ["localhost:443"], process_wide=True, retry=None) as attached:
    assert_type(attached, BearerAuth)
grpc_bearer.attach_to("t0", "localhost:443", allow_plaintext=True)
grpc_bearer.attach_to(auth)  # type: ignore[call-arg]
grpc_bearer.attach_to(auth, 443)  # type: ignore[arg-type]
grpc_bearer.attach_to(5, "localhost:443")  # type: ignore[arg-type]
assert_type(auth.bearer(), str)
assert_type(auth.metadata(), tuple[tuple[str, str], ...])
ProbeStub(plain).Unary(ProbeRequest(), metadata=auth.metadata())
assert_type(grpc_bearer.if_refused(auth)(ValueError()), bool)
grpc_bearer.if_refused("t0")  # type: ignore[arg-type]
