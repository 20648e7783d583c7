"""The ways to attach in sync gRPC, ours and others', each as a stub to call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

import grpc_bearer
from benchmarks import peers
from benchmarks.peers import BY_HAND, TOKEN
from benchmarks.server import Server
from grpc_bearer import BearerAuth, Source, Token
from grpc_bearer._base.token import CallContext
from grpc_bearer.events import Event
from grpc_bearer.testing import ProbeRequest, ProbeStub

REQUEST = ProbeRequest(index=1)
#: Calls of each variant before anything is measured: connections stand, our channels are proved, caches are warm.
WARM_UP = 20


class Reusable(Source):
    """A reusable token that is valid for an hour; what a token endpoint would have given."""

    local = True

    def fetch(self, context: CallContext) -> Token:
        return Token(TOKEN, expires_at=time.time() + 3600)


@dataclass(frozen=True)
class Stubs:
    """One stub for each. Those named `plain` take the header by hand."""

    plain: Any
    ours: Any
    observed: Any
    without_retry: Any
    wrapped_stub: Any
    intercepted_channel: Any
    interceptor: Any
    through_core: Any
    google: Any
    plugin: Any
    plain_interceptor: Any
    plain_interceptor_again: Any
    access_token: Any

    @property
    def call_credentials(self) -> grpc.CallCredentials:
        return grpc_bearer.call_credentials(BearerAuth(Reusable()))


@contextmanager
def stubs(server: Server) -> Iterator[Stubs]:
    """All of them, on channels that are closed at the end."""
    target, ssl, auth = server.target, server.credentials(), BearerAuth(Reusable())
    heard: list[Event] = []
    watched = BearerAuth(Reusable(), observers=[heard.append])
    with ExitStack() as stack:

        def plain() -> grpc.Channel:
            return grpc.secure_channel(target, ssl)

        def stub(channel: grpc.Channel) -> Any:
            return ProbeStub(stack.enter_context(channel))

        static = grpc.access_token_call_credentials(TOKEN)
        yield Stubs(
            plain=stub(plain()),
            ours=stub(grpc_bearer.secure_channel(target, ssl, auth=auth)),
            observed=stub(grpc_bearer.secure_channel(target, ssl, auth=watched)),
            without_retry=stub(grpc_bearer.secure_channel(target, ssl, auth=auth, retry=None)),
            wrapped_stub=grpc_bearer.wrap_stub(stub(plain()), auth),
            intercepted_channel=stub(grpc_bearer.intercept_channel(plain(), auth)),
            interceptor=stub(grpc.intercept_channel(plain(), grpc_bearer.interceptor(auth))),
            through_core=stub(grpc_bearer.secure_channel(target, ssl, auth=auth, attach="call_credentials")),
            google=stub(peers.google_channel(peers.GoogleCredentials(), target, ssl)),
            plugin=stub(grpc.secure_channel(target, peers.plugin_credentials(ssl, peers.BarePlugin()))),
            plain_interceptor=stub(grpc.intercept_channel(plain(), peers.PlainInterceptor())),
            plain_interceptor_again=stub(grpc.intercept_channel(plain(), peers.PlainInterceptor())),
            access_token=stub(grpc.secure_channel(target, grpc.composite_channel_credentials(ssl, static))),
        )


def by_hand(stub: Any, request: Any = REQUEST) -> Callable[[], Any]:
    """The floor: the header is passed with the call."""
    call = stub.Unary
    return lambda: call(request, metadata=BY_HAND)


def unary(stub: Any, request: Any = REQUEST) -> Callable[[], Any]:
    """A blocking call, without a word about tokens."""
    call = stub.Unary
    return lambda: call(request)


def warm(calls: list[Callable[[], Any]]) -> None:
    """Make each call a few times."""
    for call in calls:
        for _ in range(WARM_UP):
            call()
