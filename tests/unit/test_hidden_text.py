"""The header value that is sent: text for gRPC, and hidden from whatever shows local variables."""

from __future__ import annotations

import copy
import pickle
import reprlib
import traceback
from pprint import pformat

import grpc
import pytest
from attachments import PATIENCE

import grpc_bearer
from grpc_bearer import BearerAuth
from grpc_bearer._base.token import HiddenText
from grpc_bearer.testing import OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub, Refuse

#: Longer than what tools show of a long text: they cut it first, and show what is left.
TOKEN = "s3cret" * 40
SENT = f"Bearer {TOKEN}"


def test_it_is_hidden_wherever_it_stands() -> None:
    pairs = (("authorization", HiddenText(SENT)),)

    shown = [repr(pairs), repr(grpc.aio.Metadata(*pairs)), pformat(dict(pairs)), reprlib.repr(pairs), f"{pairs}"]

    assert shown == [
        "(('authorization', <hidden>),)",
        "Metadata((('authorization', <hidden>),))",
        "{'authorization': <hidden>}",
        "(('authorization', <hidden>),)",
        "(('authorization', <hidden>),)",
    ]


def test_what_is_cut_from_it_is_hidden_too() -> None:
    hidden = HiddenText(SENT)

    assert (hidden[:80], hidden[-24:], hidden[0]) == (SENT[:80], SENT[-24:], "B")
    assert repr([hidden[:80], hidden[-24:], hidden[0]]) == "[<hidden>, <hidden>, <hidden>]"


def test_rich_shows_nothing_of_it() -> None:
    pretty = pytest.importorskip("rich.pretty")

    assert pretty.pretty_repr({"metadata": (("authorization", HiddenText(SENT)),)}, max_string=80) == (
        "{'metadata': (('authorization', <hidden>+167),)}"
    )


def test_in_all_else_it_is_the_text() -> None:
    hidden = HiddenText(SENT)

    assert (hidden, hash(hidden), hidden.encode(), f"{hidden}", len(hidden)) == (
        SENT,
        hash(SENT),
        SENT.encode(),
        SENT,
        len(SENT),
    )
    assert type(str(hidden)) is str
    assert [pickle.loads(pickle.dumps(hidden)), copy.copy(hidden), copy.deepcopy(hidden)] == [SENT] * 3


def test_headers_and_token_give_plain_text() -> None:
    auth = BearerAuth(TOKEN)

    assert [(value, type(value)) for value in (auth.headers()["authorization"], auth.token().value)] == [
        (SENT, str),
        (TOKEN, str),
    ]


@pytest.mark.parametrize("scheme", ["Bearer", ""])
def test_a_traceback_with_local_variables_shows_that_there_is_metadata_and_not_what(scheme: str) -> None:
    auth = BearerAuth(TOKEN, "x-token", scheme)
    verifier = OpaqueVerifier([TOKEN], header="x-token", scheme=scheme)
    with (
        ProbeServer(verifier) as server,
        grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth=auth, retry=None) as channel,
    ):
        ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)  # now core has proved the channel
        server.script(Refuse(details="no"))
        with pytest.raises(grpc.RpcError) as caught:
            ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)
    frames = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack
    shown = [str((frame.locals or {}).get("metadata")) for frame in frames if frame.name == "__call__"]

    assert "(('x-token', <hidden>),)" in shown
    assert not [frame for frame in frames[1:] if "s3cret" in str(frame.locals)]
