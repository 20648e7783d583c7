"""A gRPC server on loopback that really verifies tokens, writes down each attempt, and fails as its script says."""

from __future__ import annotations

import functools
import hashlib
import inspect
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeAlias

import grpc

from grpc_bearer._base.arguments import checked_flag, kind_of
from grpc_bearer._base.clock import SYSTEM_CLOCK, Clock
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.testing._ca import CA
from grpc_bearer.testing._ledger import Ledger
from grpc_bearer.testing._pb import probe_pb2_grpc
from grpc_bearer.testing._pb.probe_pb2 import ProbeReply, ProbeRequest
from grpc_bearer.testing._ports import DIRECT, reserve_port
from grpc_bearer.testing._script import Fault, Script
from grpc_bearer.testing._verifiers import Verifier
from grpc_bearer.testing._verifying_interceptor import VerifyingInterceptor

__all__ = ["ProbeServer", "ProbeService"]

#: A service to serve: what `ProbeServer.serve` takes, as a pair; or a function that adds it to the server.
Served: TypeAlias = tuple[Callable[[Any, Any], None], object] | Callable[[grpc.Server], None]

# Without the first two, a burst of calls is partly dropped (RESOURCE_EXHAUSTED); without the third, two servers may
# share a port and each see half of the calls.
_OPTIONS = (
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ("grpc.so_reuseport", 0),
)


class ProbeService(probe_pb2_grpc.ProbeServicer):
    """Answers each call with what it received, as `protos/` says. `ProbeServer` serves it; so may a server of your own.

    ::

        probe_pb2_grpc.add_ProbeServicer_to_server(ProbeService(), server)
    """

    def Unary(self, request: ProbeRequest, context: grpc.ServicerContext) -> ProbeReply:
        return _Tally(context).take(request).reply()

    def ServerStream(self, request: ProbeRequest, context: grpc.ServicerContext) -> Iterator[ProbeReply]:
        tally = _Tally(context).take(request)
        for _ in range(request.replies or 1):
            yield tally.reply()

    def ClientStream(self, request_iterator: Iterator[ProbeRequest], context: grpc.ServicerContext) -> ProbeReply:
        tally = _Tally(context)
        for request in request_iterator:
            tally.take(request)
        return tally.reply()

    def BidiStream(
        self, request_iterator: Iterator[ProbeRequest], context: grpc.ServicerContext
    ) -> Iterator[ProbeReply]:
        tally = _Tally(context)
        for request in request_iterator:
            tally.take(request)
            for _ in range(request.replies or 1):
                yield tally.reply()


class _Tally:
    """What one call has brought so far."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self._indexes: list[int] = []
        self._digest = hashlib.sha256()
        self._replies = 0

    def take(self, request: ProbeRequest) -> _Tally:
        if request.delay_ms:
            gone = threading.Event()
            self._context.add_callback(gone.set)
            gone.wait(request.delay_ms / 1000)
        self._indexes.append(request.index)
        self._digest.update(request.payload)
        return self

    def reply(self) -> ProbeReply:
        position, self._replies = self._replies, self._replies + 1
        count = len(self._indexes)
        return ProbeReply(index=position, count=count, indexes=self._indexes, digest=self._digest.digest())


class ProbeServer:
    """The server of tests and the demo.

    Its port is taken when it is built, so `target` can be dialled before `start()`. A context manager; `stop` may be
    called twice, and `start` after it listens on the same port again.

    Args:
        verifier: judges each attempt; `None` lets everybody in; the ledger is kept all the same.
        ca: issues its certificate; a new one if `None`.
        credentials: `"tls"`; `"local"` for `grpc.local_channel_credentials()`; `"insecure"` for plaintext.
        address: `host:port` on loopback, port 0 for any free one; or `unix:/path`.
        clock: read for the ledger's times.
        workers: threads, and so how many calls are served at once.
        require_client: mutual TLS: only clients with a certificate of `ca`.
        dated: refusals carry the server's time (`date`), as those of many proxies do.
        options: channel arguments of the gRPC server, after our own.
        register: more services: pairs of what `serve` takes, `[(add_FleetServicer_to_server, Fleet())]`, or functions
            that are called with the `grpc.Server` before it starts.

    Raises:
        ConfigurationError: `register` holds something else.

    >>> from grpc_bearer.testing import OpaqueVerifier, ProbeStub, ProbeRequest
    >>> with ProbeServer(OpaqueVerifier(["t0"])) as server, server.channel() as channel:
    ...     reply = ProbeStub(channel).Unary(ProbeRequest(index=7), metadata=[("authorization", "Bearer t0")])
    >>> list(reply.indexes), server.ledger
    ([7], <Ledger: 1 accepted, 0 refused>)
    """

    def __init__(
        self,
        verifier: Verifier | None = None,
        ca: CA | None = None,
        *,
        credentials: Literal["tls", "local", "insecure"] = "tls",
        address: str = "127.0.0.1:0",
        clock: Clock = SYSTEM_CLOCK,
        workers: int = 64,
        require_client: bool = False,
        dated: bool = False,
        options: Sequence[tuple[str, Any]] = (),
        register: Sequence[Served] = (),
    ) -> None:
        if credentials not in ("tls", "local", "insecure"):
            raise ValueError(f"credentials: 'tls', 'local' or 'insecure', not {credentials!r}")
        self.credentials = credentials
        self.ca: CA = ca or CA()
        self.ledger: Ledger = Ledger()
        self.faults: Script = Script()
        self.gate: VerifyingInterceptor = VerifyingInterceptor(verifier, self.ledger, self.faults, clock, dated)
        self._workers, self._require_client = workers, checked_flag("require_client", require_client)
        self._options, self._register = (*_OPTIONS, *options), tuple(map(_adding, register))
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._reserved, target = _reserve(address)
        self.target: str = target

    def __repr__(self) -> str:
        return f"<ProbeServer {self.target} ({self.credentials})>"

    def __enter__(self) -> ProbeServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def verifier(self) -> Verifier | None:
        """What judges each attempt; may be replaced while the server runs."""
        return self.gate.verifier

    @verifier.setter
    def verifier(self, verifier: Verifier | None) -> None:
        self.gate.verifier = verifier

    def serve(self, add: Callable[[Any, grpc.Server], None], servicer: object) -> None:
        """Serve one more service, with the same verifier: `serve(fleet_pb2_grpc.add_FleetServicer_to_server, Fleet())`.

        A server that runs is restarted on its port, so add services before clients connect.
        """
        with self._lock:
            self._register = (*self._register, _adding((add, servicer)))
            running = self._server is not None
        if running:
            self.restart()

    def script(self, *faults: Fault | None, method: str | None = None) -> None:
        """Let the next attempts that verify meet these faults, one each and in order; `None` spares one.

        Args:
            faults: `Refuse`, `Delay` or `None`.
            method: only attempts of this method (`Unary`, or the full `/package.Service/Method`).
        """
        self.faults.add(faults, method)

    def start(self) -> ProbeServer:
        """Listen. Does nothing if it does already."""
        with self._lock:
            if self._server is None:
                self._executor = ThreadPoolExecutor(self._workers, "probe")
                self._server = self._build(self._executor)
        return self

    def stop(self, grace: float | None = None) -> None:
        """Stop listening and end the calls in flight, after `grace` seconds if given. Idempotent."""
        with self._lock:
            server, self._server = self._server, None
            executor, self._executor = self._executor, None
            self._release_port()
        if server is not None:
            server.stop(grace).wait()
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def restart(self) -> None:
        """Stop and start again, on the same port and with the same ledger, verifier and script."""
        self.stop()
        self.start()

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Those that fit; `None` if the server is insecure."""
        if self.credentials == "tls":
            return self.ca.channel_credentials(self.ca.issue() if self._require_client else None)
        return grpc.local_channel_credentials(self._local_type()) if self.credentials == "local" else None

    def channel(self, options: Sequence[tuple[str, Any]] = ()) -> grpc.Channel:
        """A plain gRPC channel to it, without tokens."""
        credentials = self.channel_credentials()
        if credentials is None:
            return grpc.insecure_channel(self.target, (*DIRECT, *options))
        return grpc.secure_channel(self.target, credentials, (*DIRECT, *options))

    def _build(self, executor: ThreadPoolExecutor) -> grpc.Server:
        server = grpc.server(executor, interceptors=[self.gate], options=self._options)
        probe_pb2_grpc.add_ProbeServicer_to_server(ProbeService(), server)
        for register in self._register:
            register(server)
        self._release_port()
        if not self._bind(server):
            raise OSError(f"{self.target}: in use")
        server.start()
        return server

    def _bind(self, server: grpc.Server) -> int:
        if self.credentials == "insecure":
            return server.add_insecure_port(self.target)
        if self.credentials == "local":
            return server.add_secure_port(self.target, grpc.local_server_credentials(self._local_type()))
        return server.add_secure_port(self.target, self.ca.server_credentials(require_client=self._require_client))

    def _local_type(self) -> grpc.LocalConnectionType:
        return grpc.LocalConnectionType.UDS if self.target.startswith("unix:") else grpc.LocalConnectionType.LOCAL_TCP

    def _release_port(self) -> None:
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None


def _adding(served: object) -> Callable[[grpc.Server], None]:
    """What adds a service to a server."""
    if isinstance(served, tuple) and len(served) == 2 and callable(served[0]):
        add, servicer = served
        if inspect.isclass(servicer):
            raise ConfigurationError(f"{servicer.__name__} is a class; give a servicer: {servicer.__name__}()")
        return functools.partial(add, servicer)
    if callable(served):
        return served
    raise ConfigurationError(
        "services: expected a list of pairs [(add_FleetServicer_to_server, Fleet())], or of functions of the server; "
        f"one of them is a {kind_of(served)}"
    )


def _reserve(address: str) -> tuple[socket.socket | None, str]:
    if address.startswith("unix:"):
        return None, address
    host, _, port = address.rpartition(":")
    reserved = reserve_port(host.strip("[]"), int(port))
    return reserved, f"{host}:{reserved.getsockname()[1]}"
