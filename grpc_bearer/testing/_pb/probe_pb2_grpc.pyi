# Written by hand: protoc makes no stub file for its gRPC module.
from collections.abc import Iterator

import grpc
from grpc_bearer.testing._pb.probe_pb2 import ProbeReply, ProbeRequest

class ProbeStub:
    Unary: grpc.UnaryUnaryMultiCallable[ProbeRequest, ProbeReply]
    ServerStream: grpc.UnaryStreamMultiCallable[ProbeRequest, ProbeReply]
    ClientStream: grpc.StreamUnaryMultiCallable[ProbeRequest, ProbeReply]
    BidiStream: grpc.StreamStreamMultiCallable[ProbeRequest, ProbeReply]
    def __init__(self, channel: grpc.Channel) -> None: ...

class ProbeServicer:
    def Unary(self, request: ProbeRequest, context: grpc.ServicerContext) -> ProbeReply: ...
    def ServerStream(self, request: ProbeRequest, context: grpc.ServicerContext) -> Iterator[ProbeReply]: ...
    def ClientStream(self, request_iterator: Iterator[ProbeRequest], context: grpc.ServicerContext) -> ProbeReply: ...
    def BidiStream(
        self, request_iterator: Iterator[ProbeRequest], context: grpc.ServicerContext
    ) -> Iterator[ProbeReply]: ...

def add_ProbeServicer_to_server(servicer: ProbeServicer, server: grpc.Server) -> None: ...
