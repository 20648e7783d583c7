"""Refusals of which core has lost the status: recognised where headers still tell of it, and nowhere else.

The texts are those of grpcio 1.85.3 and 1.66.2 behind nginx 1.22, HAProxy 2.6 and Envoy 1.40, which
`tests/wire/test_proxies.py` runs.
"""

from __future__ import annotations

import grpc
import pytest
from google.rpc.status_pb2 import Status

from grpc_bearer import RetryPolicy, Token
from grpc_bearer._calls.failure import Failure, too_large
from grpc_bearer._calls.retry_policy import means_stale

CANCELLED, INTERNAL, UNKNOWN = grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN
UNAUTHENTICATED, UNAVAILABLE = grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAVAILABLE

CHALLENGE = (("www-authenticate", 'Bearer realm="fleet", error="invalid_token"'),)
RICH = (("grpc-status-details-bin", Status(code=16).SerializeToString()),)
BODY = "Stream removed (Data frame with END_STREAM flag received)"
CANCEL = "Stream removed (RST_STREAM (Received RST_STREAM with error code 8))"

LOST = [
    (UNKNOWN, BODY),
    (UNKNOWN, "Stream removed"),
    (INTERNAL, f"{BODY[:-1]}) (RST_STREAM (Received RST_STREAM with error code 0))"),
    (INTERNAL, "Received RST_STREAM with error code 0"),
    (CANCELLED, CANCEL),
    (CANCELLED, "Received RST_STREAM with error code 8"),
    (
        CANCELLED,
        "Error in HTTP transport completing operation: on_write_finished_cb write_state=WRITING (Pending writes failed "
        "due to stream closure (RST_STREAM (Received RST_STREAM with error code 8)))",
    ),
]


@pytest.mark.parametrize(("code", "details"), LOST)
@pytest.mark.parametrize("headers", [CHALLENGE, RICH], ids=["a challenge", "a rich status"])
def test_headers_tell_that_it_was_a_refusal(code: grpc.StatusCode, details: str, headers: tuple[object, ...]) -> None:
    failure = Failure(None, code, details, (), headers)

    assert failure.meant is UNAUTHENTICATED
    assert means_stale(RetryPolicy(), failure)


def test_so_do_those_of_a_page_for_people() -> None:
    """HTTP's answer has headers, and no trailers."""
    assert Failure(None, UNKNOWN, BODY, CHALLENGE).meant is UNAUTHENTICATED


@pytest.mark.parametrize(("code", "details"), LOST)
def test_without_them_it_may_be_anything(code: grpc.StatusCode, details: str) -> None:
    failure = Failure(None, code, details, (), (("date", "Sat, 28 Nov 2026 19:21:25 GMT"),))

    assert failure.meant is code
    assert not means_stale(RetryPolicy(), failure)


@pytest.mark.parametrize(
    ("code", "details", "trailing"),
    [
        pytest.param(INTERNAL, "the inventory refused us", CHALLENGE, id="the server's own status"),
        pytest.param(CANCELLED, "Locally cancelled by application!", CHALLENGE, id="the caller's own end"),
        pytest.param(UNAVAILABLE, "Stream removed", CHALLENGE, id="another code"),
        pytest.param(INTERNAL, "Received RST_STREAM with error code 2", CHALLENGE, id="an error of HTTP/2"),
        pytest.param(
            CANCELLED, CANCEL, (("www-authenticate", 'Bearer error="insufficient_scope"'),), id="another challenge"
        ),
        pytest.param(
            CANCELLED, CANCEL, (("www-authenticate", 'Bearer realm="invalid_token"'),), id="the word elsewhere"
        ),
        pytest.param(
            CANCELLED,
            CANCEL,
            (("grpc-status-details-bin", Status(code=7).SerializeToString()),),
            id="another rich status",
        ),
        pytest.param(CANCELLED, CANCEL, (("grpc-status-details-bin", b"\xff"),), id="no rich status at all"),
    ],
)
def test_what_is_no_lost_refusal(code: grpc.StatusCode, details: str, trailing: tuple[object, ...]) -> None:
    assert Failure(None, code, details, (), trailing).meant is code


def test_a_policy_that_does_not_want_refusals_retries_none() -> None:
    lost = Failure(None, CANCELLED, CANCEL, (), CHALLENGE)

    assert not means_stale(RetryPolicy(codes=[UNAVAILABLE]), lost)
    assert means_stale(RetryPolicy(codes=[CANCELLED]), lost)


@pytest.mark.parametrize(
    ("size", "code", "expected"),
    [
        pytest.param(15_000, 1, True, id="HAProxy"),
        pytest.param(62_000, 2, True, id="Envoy"),
        pytest.param(9_000, 2, False, id="not so long"),
        pytest.param(62_000, 8, False, id="cancelled"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*many servers and proxies refuse:UserWarning")
def test_a_stream_that_is_ended_for_a_long_token(size: int, code: int, expected: bool) -> None:
    failure = Failure(None, INTERNAL, f"Stream removed (RST_STREAM (Received RST_STREAM with error code {code}))")

    assert too_large(Token("x" * size), failure) is expected
