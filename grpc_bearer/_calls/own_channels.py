"""Channels that our own factories open have their auth: a scope of `attach_to` around them leaves them alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

opening_own: ContextVar[bool] = ContextVar("grpc_bearer_opening_own", default=False)


@contextmanager
def own_channel() -> Iterator[None]:
    """Whatever gRPC is asked for in here is asked for by a factory of ours."""
    token = opening_own.set(True)
    try:
        yield
    finally:
        opening_own.reset(token)
