"""Ports on loopback."""

from __future__ import annotations

import socket
from typing import Any

__all__ = ["DIRECT", "reserve_port"]

#: For channels to this machine: else gRPC goes through the proxy of the environment, which has a loopback of its own.
DIRECT: tuple[tuple[str, Any], ...] = (("grpc.enable_http_proxy", 0),)


def reserve_port(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Take a port without listening on it: dialling it is refused, and nobody else gets it while the socket is open."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns off Nagle's algorithm, which may cost 40 ms a frame, only for sockets that name their protocol.
    reserved = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind((host, port))
    except OSError:
        reserved.close()
        raise
    return reserved
