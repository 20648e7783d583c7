"""What grpcio-tools would make of `fleet.proto`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import fleet_pb2 as pb
import grpc

# method, kind, request, reply
_METHODS = (
    ("List", "unary_unary", pb.ListRequest, pb.ListReply),
    ("Watch", "unary_stream", pb.WatchRequest, pb.Position),
    ("Upload", "stream_unary", pb.Position, pb.UploadReply),
    ("Steer", "stream_stream", pb.Command, pb.Position),
)


class FleetStub:
    def __init__(self, channel: Any) -> None:
        # Code of grpcio-tools 1.65 and newer says this too.
        for name, kind, request, reply in _METHODS:
            method: Callable[..., Any] = getattr(channel, kind)
            registered = "_registered_method" in inspect.signature(method).parameters
            made = method(
                f"/fleet.v1.Fleet/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=reply.FromString,
                **({"_registered_method": True} if registered else {}),
            )
            setattr(self, name, made)


class FleetServicer:
    """The robots are `ada` and `bob`."""

    def List(self, request: Any, context: Any) -> Any:
        return pb.ListReply(robots=["ada", "bob"])

    def Watch(self, request: Any, context: Any) -> Any:
        for step in range(request.positions or 3):
            yield pb.Position(robot=request.robot, x=step, y=2 * step)

    def Upload(self, requests: Any, context: Any) -> Any:
        return pb.UploadReply(received=sum(1 for _ in requests))

    def Steer(self, requests: Any, context: Any) -> Any:
        for step, request in enumerate(requests, 1):
            yield pb.Position(robot=request.robot, x=step)


def add_FleetServicer_to_server(servicer: FleetServicer, server: grpc.Server) -> None:
    handlers = {
        name: getattr(grpc, f"{kind}_rpc_method_handler")(
            getattr(servicer, name), request.FromString, reply.SerializeToString
        )
        for name, kind, request, reply in _METHODS
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("fleet.v1.Fleet", handlers),))
