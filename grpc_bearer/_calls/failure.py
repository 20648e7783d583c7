"""How an attempt failed, and what the server says of it in its rich status."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from typing import Any

import grpc

from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._base.token import LARGE_TOKEN, Token
from grpc_bearer._calls.grpc_types import Entry
from grpc_bearer.errors import GrpcBearerError

# Core's words for a connection that the peer has ended by an error (11 is ENHANCE_YOUR_CALM, which gRPC's own servers
# say to too many pings; older cores only say that the socket was closed), and for an answer without gRPC's status.
_CALM = re.compile(r"GOAWAY received; Error code: 11; Debug Text: (?!too_many_pings)")
_GOAWAY = re.compile(r"GOAWAY received; Error code: (?!0;|11;)")
_BARE = re.compile(r"http2 header with status: (?:400|413|431)\b")
# Envoy and HAProxy end the stream alone, up to some size: INTERNAL_ERROR beyond 60 KiB, PROTOCOL_ERROR beyond 14.
_RESET = re.compile(r"RST_STREAM with error code [12]\b")
_RESET_BEYOND = 14 * 1024
# Core's words for a stream that was ended (0 is NO_ERROR, 8 CANCEL) before it had taken in the status of its answer.
_LOST = re.compile(r"Data frame with END_STREAM|Stream removed$|RST_STREAM with error code [08]\b")
LOST_CODES = (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
# RFC 6750, section 3.1: the token is expired, revoked or malformed, and the answer is a 401.
_INVALID_TOKEN = re.compile(r'\berror="?invalid_token\b')
_RICH_STATUS = "grpc-status-details-bin"
_NOTE = "grpc-bearer: "


@dataclass(frozen=True, slots=True)
class Failure:
    """How an attempt ended.

    Args:
        error: what gRPC would raise for it.
        code: its status.
        details: the server's text.
        initial: initial metadata.
        trailing: trailing metadata.
        local: made on our side of the wire, by a wrapper of ours below this one; no other token cures it.
    """

    error: Any = field(repr=False)
    code: grpc.StatusCode
    details: str = ""
    initial: tuple[Entry, ...] = ()
    trailing: tuple[Entry, ...] = ()
    local: bool = False

    def header(self, name: str) -> str | None:
        """A text entry of the trailing or initial metadata (in a trailers-only answer all is trailing)."""
        for key, value in (*self.trailing, *self.initial):
            if key == name:
                return value if isinstance(value, str) else value.decode("ascii", "replace")
        return None

    @property
    def meant(self) -> grpc.StatusCode:
        """The status that was given, also where core has lost it and only the headers tell.

        Core loses it where a proxy answers at once, or hangs up on the rest of a request stream. A challenge of RFC
        6750 among the headers, or the code in a rich status, is then as sure as the status itself.
        """
        if self.code in LOST_CODES and _LOST.search(self.details):
            challenge = self.header("www-authenticate") or ""
            if _INVALID_TOKEN.search(challenge) or _rich(self)[0] == grpc.StatusCode.UNAUTHENTICATED.value[0]:
                return grpc.StatusCode.UNAUTHENTICATED
        return self.code


def blame(error: BaseException, cause: GrpcBearerError) -> None:
    """Say why an error came that the server made, which stays what it is but for its cause.

    Some clients raise what they caught again with another cause (`raise e from e`): so it stands in a note too, where
    Python has notes. There is one at most, that of the last cause.
    """
    error.__cause__ = cause
    if sys.version_info >= (3, 11):
        others = [note for note in getattr(error, "__notes__", ()) if not note.startswith(_NOTE)]
        error.__notes__ = [*others, f"{_NOTE}{cause._told}"]


def too_large(token: Token, failure: Failure) -> bool:
    """Whether the server, or a proxy before it, most likely refused the call for the size of its headers."""
    size, details = len(token.value), failure.details
    if failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return size > LARGE_TOKEN
    # For a header of over 8 KiB nginx says ENHANCE_YOUR_CALM, older ones for one of over 4; HAProxy INTERNAL_ERROR.
    limit = LARGE_TOKEN // 2 if _CALM.search(details) else LARGE_TOKEN
    if size > _RESET_BEYOND and _RESET.search(details):
        return True
    return size > limit and any(each.search(details) for each in (_CALM, _GOAWAY, _BARE))


def rich(failure: Failure) -> tuple[str, float]:
    """What the rich status says, if there is one: the reason (`google.rpc.ErrorInfo`) and the seconds to wait
    (`google.rpc.RetryInfo`)."""
    return _rich(failure)[1:]


def _rich(failure: Failure) -> tuple[int | None, str, float]:
    """The same after the status code, which is sent there once more."""
    blob = next((value for key, value in failure.trailing if key == _RICH_STATUS), None)
    if blob is None:
        return None, "", 0.0
    try:
        from google.protobuf.message import DecodeError
        from google.rpc import error_details_pb2, status_pb2
    except Exception as error:  # no file can be opened, say: the server's error is told all the same
        if is_interrupt(error):
            raise
        return None, "", 0.0

    reason, delay = "", 0.0
    try:
        status = status_pb2.Status.FromString(blob)
        for detail in status.details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                reason = error_details_pb2.ErrorInfo.FromString(detail.value).reason
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                wanted = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
                delay = max(wanted.seconds + wanted.nanos / 1e9, 0.0)
    except DecodeError:
        return None, "", 0.0
    return status.code, reason, delay
