"""What the end of a call means: pure functions of its status and of what this machine knows."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import grpc

from grpc_bearer._calls.failure import LOST_CODES
from grpc_bearer._calls.retry_block import LocalError
from grpc_bearer._cli.codes import CommandFailure, Exit, code_of
from grpc_bearer._cli.terminal import safe
from grpc_bearer.errors import _HELP, GrpcBearerError, TokenFormatError

#: What a method answers to a request that it does not like: the token has passed by then.
LET_IN = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.ABORTED,
    }
)
REFUSALS = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
# What core says when it drops a stream before it has taken in the status of an answer that came at once. More texts
# than for a call that is made again: here another question is all that follows.
_LOST = re.compile("Stream removed|RST_STREAM")
# The server's text is free, and may repeat what it was sent.
_JWT = re.compile(r"(?<![\w-])[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*")
_LONGEST = 300


def is_lost(code: grpc.StatusCode, details: str) -> bool:
    """Whether the status is not that which the server or a proxy has given."""
    return code in LOST_CODES and _LOST.search(details) is not None


def without_tokens(text: str, tokens: str | Collection[str]) -> str:
    """A server's text without these tokens, and without what looks like one."""
    for token in [tokens] if isinstance(tokens, str) else sorted(tokens, key=len, reverse=True):
        text = text.replace(token, "<token>") if token else text
    return _JWT.sub("<token>", text)


def scrubbed(text: str, tokens: str | Collection[str] = "") -> str:
    """The same on a line, and without what a terminal would obey."""
    text = safe(without_tokens(text.strip(), tokens))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def failed(error: Any, tokens: str | Collection[str] = "", what: str = "") -> CommandFailure:
    """The end of the command that a failed call stands for.

    Args:
        error: a `grpc.RpcError` that is a call.
        tokens: not to be shown.
        what: the method, if it should be named.
    """
    cause = error.__cause__
    code: grpc.StatusCode = error.code()
    before = f"{what}: " if what else ""
    if isinstance(error, LocalError) and isinstance(cause, GrpcBearerError):
        return CommandFailure(code_of(cause), f"{before}no token for this call: {cause}", error=cause)
    details = scrubbed(error.details() or "", tokens)
    said = f"{before}{code.name}" + (f": {details}" if details else "")
    if isinstance(cause, TokenFormatError):
        return CommandFailure(
            Exit.REFUSED, f"{said} ({cause})", "ask for a token with fewer claims, or for a higher limit", error=cause
        )
    if code in REFUSALS:
        why = cause._reason if isinstance(cause, GrpcBearerError) and cause._suspect == "token" else ""
        return CommandFailure(Exit.REFUSED, f"{said} ({why})" if why else said, _refused(code), help=_HELP["token"])
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return CommandFailure(
            Exit.CALL, said, "the server has no such method; `grpc-bearer call TARGET` lists those it has"
        )
    if code is grpc.StatusCode.UNAVAILABLE:
        tls = "handshake" in details.lower()
        return CommandFailure(
            Exit.TLS if tls else Exit.NETWORK, said.removesuffix(": OK"), "`grpc-bearer check TARGET` finds out why"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        late = CommandFailure(Exit.CALL, said, "give it longer with --timeout, or ask who runs the server")
        late.unanswered = not error.initial_metadata()
        return late
    lost = is_lost(code, details)
    return CommandFailure(
        Exit.CALL, said, "a proxy on the way may have refused it: its log has the status" if lost else ""
    )


def _refused(code: grpc.StatusCode) -> str:
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return "ask who runs the service for the right, or take another auth"
    return "check that it is the right credential for this server; `grpc-bearer inspect` shows what a JWT claims"
