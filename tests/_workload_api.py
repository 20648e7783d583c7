"""A SPIFFE Workload API, on a Unix socket as an agent has it (github.com/spiffe/spiffe, SPIFFE_Workload_API.md)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

ROBOT = "spiffe://example.org/robot"


def serve_workload_api(socket: Path, mint: Callable[..., str]) -> grpc.Server:
    """Serve it. It gives `ROBOT` a JWT-SVID: what `mint(subject, audience)` signs."""
    from spiffe._proto import workload_pb2, workload_pb2_grpc

    class Agent(workload_pb2_grpc.SpiffeWorkloadAPIServicer):  # type: ignore[misc]  # it has no types
        def FetchJWTSVID(self, request: Any, context: grpc.ServicerContext) -> Any:
            if ("workload.spiffe.io", "true") not in [(key, value) for key, value in context.invocation_metadata()]:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
            if not request.audience:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "audience must be specified")
            svid = workload_pb2.JWTSVID(spiffe_id=ROBOT, svid=mint(ROBOT, list(request.audience)))
            return workload_pb2.JWTSVIDResponse(svids=[svid])

    server = grpc.server(ThreadPoolExecutor(2))
    workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(Agent(), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server
