"""The one call that `check` makes: a given method, else a health check, else reflection."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from grpc_bearer._cli.codes import CommandFailure, Exit, needs_extra
from grpc_bearer._cli.status import LET_IN, failed, is_lost

HEALTH = "grpc.health.v1.Health/Check"
_EXTRA = {
    "grpcio-health-checking": "grpc_health.v1.health_pb2",
    "grpcio-reflection": "grpc_reflection.v1alpha.reflection_pb2",
}
# A method that no service has.
_NOBODYS = "GrpcBearerCheck"
_ANSWERED = "answered"
REFLECTION = "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@dataclass(frozen=True, slots=True)
class Reply:
    """How the call ended.

    Args:
        method: what was called.
        said: the answer, in words.
        code: the status.
        failure: why it is not well.
        metadata: of the answer, initial and trailing.
        elapsed: seconds.
    """

    method: str
    said: str
    code: grpc.StatusCode
    failure: CommandFailure | None = None
    metadata: tuple[Any, ...] = field(default=(), repr=False)
    elapsed: float = 0.0


def missing_extra(*packages: str) -> CommandFailure | None:
    """What to say if one of these packages is not installed; without any, one for health checks or reflection."""
    for package in packages or _EXTRA:
        module = _EXTRA[package]
        try:
            importlib.import_module(module)
        except ImportError:
            return needs_extra(package, "server reflection")
        except Exception as error:  # generated code that finds its protobuf too old raises an error of its own
            problem = f"{package} cannot be used ({type(error).__name__})"
            return CommandFailure(Exit.USAGE, problem, f"install its newest version: pip install -U {package}")
    return None


def method_of(text: str) -> str:
    """`package.Service/Method`, however it was written.

    Raises:
        CommandFailure: it is no method's name.
    """
    service, _, method = text.lstrip("/").rpartition("/" if "/" in text.lstrip("/") else ".")
    if not service or not method or "/" in service or not text.isprintable() or " " in text:
        raise CommandFailure(Exit.USAGE, "METHOD: no method's name", "write package.Service/Method")
    return f"{service}/{method}"


def call_one(
    channel: grpc.Channel, method: str | None, timeout: float, token: str = "", *, extra: bool = True
) -> Reply:
    """Make the call. What a server does not have ends with UNIMPLEMENTED, and the next is tried.

    Args:
        channel: the way.
        method: to be called; `None`: a health check, else reflection.
        timeout: seconds.
        token: not to be shown.
        extra: whether the answers of the latter can be understood.
    """
    if method is not None:
        reply = _called(channel, method, b"", timeout, token, _silent)
        lost = reply.failure is not None and is_lost(reply.code, reply.failure.problem)
        return _found_again(reply, channel, timeout, token) if lost else reply
    reply = _called(channel, HEALTH, b"", timeout, token, _health if extra else _silent, unary=True)
    if reply.code is not grpc.StatusCode.UNIMPLEMENTED:
        return reply
    if extra:
        reply = _called(channel, REFLECTION, _listing(), timeout, token, _services)
    if reply.code is grpc.StatusCode.UNIMPLEMENTED:
        advice = "name a method that may be called with an empty request: --method package.Service/Method"
        problem = f"the server has no health check{' and no reflection' if extra else ''}"
        failure = CommandFailure(Exit.CALL, problem, advice)
        return Reply(reply.method, reply.said, reply.code, failure, reply.metadata, reply.elapsed)
    return reply


def _found_again(reply: Reply, channel: grpc.Channel, timeout: float, token: str) -> Reply:
    """The refusal whose status was lost, if what the service does not have is refused too: such a call does nothing."""
    path = f"{reply.method.partition('/')[0]}/{_NOBODYS}"
    again = _called(channel, path, b"", timeout, token, _silent, unary=True)
    if again.failure is None or again.failure.code is not Exit.REFUSED:
        return reply
    found = again.failure
    problem = found.problem.replace(path, reply.method)
    failure = CommandFailure(Exit.REFUSED, problem, found.advice, error=found.error, help=found.help)
    return replace(again, method=reply.method, failure=failure)


def takes_anyone(channel: grpc.Channel, reply: Reply, timeout: float) -> bool:
    """Whether the same call passes without a token too. Only for what changes nothing on the server."""
    request, unary = (b"", True) if reply.method == HEALTH else (_listing(), False)
    return _called(channel, reply.method, request, timeout, "", _silent, unary=unary).code is grpc.StatusCode.OK


def _called(
    channel: grpc.Channel,
    method: str,
    request: bytes,
    timeout: float,
    token: str,
    read: Callable[[bytes], str],
    *,
    unary: bool = False,
) -> Reply:
    # One request and any number of answers: on the wire that is every kind of call, and only the first answer counts.
    # Where there is but one (`unary`), core never loses the status that a proxy gives.
    make: Any = (channel.unary_unary if unary else channel.unary_stream)(f"/{method}")
    began = time.monotonic()
    try:
        if unary:
            answer, call = make.with_call(request, timeout=timeout)
        else:
            call = make(request, timeout=timeout)
            answer = next(call, None)
        said = "no answer" if answer is None else read(answer)
        initial = tuple(call.initial_metadata() or ())
        call.cancel()
        return _judged(Reply(method, said, grpc.StatusCode.OK, None, initial, time.monotonic() - began))
    except grpc.RpcError as error:
        return _ended(error, method, token, time.monotonic() - began)


def _ended(error: Any, method: str, token: str, elapsed: float) -> Reply:
    metadata = tuple(_metadata(error))
    code = error.code()
    if method == HEALTH and code is grpc.StatusCode.NOT_FOUND:
        return Reply(method, "served, without a state for the whole server", code, None, metadata, elapsed)
    if code in LET_IN:
        said = f"answers {code.name} to an empty request: the token was let in"
        return Reply(method, said, code, None, metadata, elapsed)
    failure = failed(error, token, method)
    return Reply(method, code.name, code, failure, metadata, elapsed)


def _metadata(error: Any) -> Iterator[Any]:
    for ask in (error.trailing_metadata, error.initial_metadata):
        yield from ask() or ()


def _judged(reply: Reply) -> Reply:
    if reply.method == HEALTH and reply.said not in ("SERVING", "UNKNOWN", _ANSWERED):
        failure = CommandFailure(
            Exit.CALL, f"the token was let in, but the server says {reply.said}", "ask who runs it"
        )
        return Reply(reply.method, reply.said, reply.code, failure, reply.metadata, reply.elapsed)
    return reply


def _silent(_answer: bytes) -> str:
    return _ANSWERED


def _health(answer: bytes) -> str:
    from google.protobuf.message import DecodeError
    from grpc_health.v1 import health_pb2

    try:
        status = health_pb2.HealthCheckResponse.FromString(answer).status
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(status))
    except (DecodeError, ValueError):
        return "something that is no health"


def _listing() -> bytes:
    from grpc_reflection.v1alpha import reflection_pb2

    return bytes(reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString())


def _services(answer: bytes) -> str:
    from google.protobuf.message import DecodeError
    from grpc_reflection.v1alpha import reflection_pb2

    try:
        listed = reflection_pb2.ServerReflectionResponse.FromString(answer).list_services_response.service
    except DecodeError:
        return _ANSWERED
    return f"lists {len(listed)} services"
