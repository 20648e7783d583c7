"""The interceptor before the services of a `ProbeServer`: it verifies, writes the ledger, and commits the faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from grpc_bearer._base.arguments import checked_flag
from grpc_bearer._base.clock import Clock
from grpc_bearer.testing._ledger import Attempt, Ledger
from grpc_bearer.testing._script import Delay, Fault, Refuse, Script
from grpc_bearer.testing._verifiers import Refusal, Verdict, Verifier

# The stubs have it generic, gRPC itself does not.
if TYPE_CHECKING:
    _Handler = grpc.RpcMethodHandler[Any, Any]
else:
    _Handler = grpc.RpcMethodHandler

__all__ = ["VerifyingInterceptor"]

# How often a delayed attempt looks whether its client has gone, in seconds.
_LOOK = 0.05


class VerifyingInterceptor(grpc.ServerInterceptor):
    """One for each server. `verifier=None` lets everybody in; with `dated` refusals carry the server's time."""

    def __init__(
        self, verifier: Verifier | None, ledger: Ledger, script: Script, clock: Clock, dated: bool = False
    ) -> None:
        self.dated: bool = checked_flag("dated", dated)
        self.verifier = verifier
        self.ledger = ledger
        self.script = script
        self.clock = clock

    def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], _Handler | None], details: grpc.HandlerCallDetails
    ) -> _Handler | None:
        handler = continuation(details)
        return None if handler is None else _guarded(handler, lambda context: self.admit(details.method, context))

    def admit(self, method: str, context: grpc.ServicerContext) -> AdmittedCall:
        """Write the attempt down and let it in, or end it."""
        metadata = [(key, value) for key, value in context.invocation_metadata()]
        verdict = self.verifier.verify(metadata, method) if self.verifier else Verdict()
        fault = self.script.next(method) if verdict.refusal is None else None
        refused = verdict.refusal or (fault if isinstance(fault, Refuse) and fault.position[1] == 0 else None)
        attempt = Attempt(
            method=method,
            accepted=refused is None,
            reason=_reason(refused),
            token=verdict.token,
            header_values=verdict.header_values,
            claims=verdict.claims,
            jwt_header=verdict.jwt_header,
            received_at=self.clock.time(),
            peer=context.peer(),
            metadata=metadata,
            time_left=context.time_remaining(),
        )
        self.ledger.add(attempt)
        if verdict.refusal is not None:
            _turn_away(context, verdict.refusal, formatdate(self.clock.time(), usegmt=True) if self.dated else None)
        admitted = AdmittedCall(attempt, context, fault)
        admitted.begin()
        return admitted


class AdmittedCall:
    """An attempt that was let in, and the fault that its script has for it, if any."""

    def __init__(self, attempt: Attempt, context: grpc.ServicerContext, fault: Fault | None) -> None:
        self.attempt = attempt
        self.context = context
        self.fault = fault

    def begin(self) -> None:
        if isinstance(self.fault, Delay):
            self._wait(self.fault)
        elif isinstance(self.fault, Refuse) and self.fault.position[1] == 0:
            if self.fault.position[0] == "headers":
                self.context.send_initial_metadata(())
            self._refuse(self.fault)

    def one(self, request: Any) -> Any:
        self.attempt.requests.append(getattr(request, "index", -1))
        return request

    def many(self, requests: Iterator[Any]) -> Iterator[Any]:
        for request in requests:
            self.one(request)
            self._at("requests", len(self.attempt.requests))
            yield request

    def replies(self, replies: Iterator[Any]) -> Iterator[Any]:
        for count, reply in enumerate(replies, 1):
            yield reply
            self._at("replies", count)

    def _at(self, what: str, count: int) -> None:
        if isinstance(self.fault, Refuse) and self.fault.position == (what, count):
            self._refuse(self.fault)

    def _refuse(self, fault: Refuse) -> NoReturn:
        self.attempt.accepted = False
        self.attempt.reason = _reason(fault)
        self.context.set_trailing_metadata(fault.trailing_metadata)
        self.context.abort(fault.code, fault.details)

    def _wait(self, delay: Delay) -> None:
        delay.arrived.set()
        while not delay.release.wait(_LOOK):
            if not self.context.is_active():
                self.context.abort(grpc.StatusCode.CANCELLED, "the client has gone")


def _turn_away(context: grpc.ServicerContext, refusal: Refusal, date: str | None) -> NoReturn:
    trailing = [] if date is None else [("date", date)]
    if refusal.code is grpc.StatusCode.UNAUTHENTICATED:
        challenge = f'Bearer error="invalid_token", error_description="{refusal.reason}"'
        trailing.append(("www-authenticate", challenge))
    context.set_trailing_metadata(tuple(trailing))
    context.abort(refusal.code, refusal.reason)


def _reason(refused: Refusal | Refuse | None) -> str:
    if refused is None:
        return ""
    return refused.reason if isinstance(refused, Refusal) else f"scripted: {refused.code.name}"


def _guarded(handler: _Handler, admit: Callable[[grpc.ServicerContext], AdmittedCall]) -> _Handler:
    """The handler behind the gate, whichever of the four kinds it is."""
    serve: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream

    def incoming(admitted: AdmittedCall, requests: Any) -> Any:
        return admitted.many(requests) if handler.request_streaming else admitted.one(requests)

    def one_reply(requests: Any, context: grpc.ServicerContext) -> Any:
        admitted = admit(context)
        return serve(incoming(admitted, requests), context)

    def many_replies(requests: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        admitted = admit(context)
        yield from admitted.replies(serve(incoming(admitted, requests), context))

    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    make: Any = makers[handler.request_streaming, handler.response_streaming]
    guarded = many_replies if handler.response_streaming else one_reply
    made: _Handler = make(guarded, handler.request_deserializer, handler.response_serializer)
    return made
