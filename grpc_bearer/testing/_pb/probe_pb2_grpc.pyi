# Written by hand: protoc makes no stub file for its gRPC module.
from collections.abc import Iterator
from typing import Generic, overload

import grpc
from grpc import aio
from grpc_bearer.testing._pb.probe_pb2 import ProbeReply, ProbeRequest
from typing_extensions import TypeVar

_Unary = TypeVar("_Unary", default=grpc.UnaryUnaryMultiCallable[ProbeRequest, ProbeReply])
_ServerStream = TypeVar("_ServerStream", default=grpc.UnaryStreamMultiCallable[ProbeRequest, ProbeReply])
_ClientStream = TypeVar("_ClientStream", default=grpc.StreamUnaryMultiCallable[ProbeRequest, ProbeReply])
_BidiStream = TypeVar("_BidiStream", default=grpc.StreamStreamMultiCallable[ProbeRequest, ProbeReply])

# What a method returns depends on the channel: `ProbeStub` alone means the stub of a sync one.
class ProbeStub(Generic[_Unary, _ServerStream, _ClientStream, _BidiStream]):
    Unary: _Unary
    ServerStream: _ServerStream
    ClientStream: _ClientStream
    BidiStream: _BidiStream
    @overload
    def __init__(self: ProbeStub, channel: grpc.Channel) -> None: ...
    @overload
    def __init__(
        self: ProbeStub[
            aio.UnaryUnaryMultiCallable[ProbeRequest, ProbeReply],
            aio.UnaryStreamMultiCallable[ProbeRequest, ProbeReply],
            aio.StreamUnaryMultiCallable[ProbeRequest, ProbeReply],
            aio.StreamStreamMultiCallable[ProbeRequest, ProbeReply],
        ],
        channel: aio.Channel,
    ) -> None: ...

class ProbeServicer:
    def Unary(self, request: ProbeRequest, context: grpc.ServicerContext) -> ProbeReply: ...
    def ServerStream(self, request: ProbeRequest, context: grpc.ServicerContext) -> Iterator[ProbeReply]: ...
    def ClientStream(self, request_iterator: Iterator[ProbeRequest], context: grpc.ServicerContext) -> ProbeReply: ...
    def BidiStream(
        self, request_iterator: Iterator[ProbeRequest], context: grpc.ServicerContext
    ) -> Iterator[ProbeReply]: ...

def add_ProbeServicer_to_server(servicer: ProbeServicer, server: grpc.Server) -> None: ...
