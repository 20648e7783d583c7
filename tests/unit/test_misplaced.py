"""An auth where gRPC wants credentials: the error says what to write there."""

from __future__ import annotations

import copy
import gc
import inspect
import pickle
import re
from collections.abc import Callable
from typing import Any
from unittest import mock

import grpc
import pytest
from attachments import AIO_KINDS, AIO_WAYS, PATIENCE, SYNC_KINDS, SYNC_WAYS, TLS

import grpc_bearer
from grpc_bearer import BearerAuth, ConfigurationError, FileSource
from grpc_bearer.testing import OpaqueVerifier, ProbeServer, ProbeStub

SAYS = (
    "credentials: gRPC cannot take a BearerAuth here; .*channel_credentials.*credentials=grpc_bearer.call_credentials"
)
TARGET = "localhost:1"
AUTH: Any = BearerAuth("t0")
OTHER = grpc_bearer.call_credentials("t1")

PLACES: dict[str, Callable[[Any], object]] = {
    "grpc.secure_channel": lambda auth: grpc.secure_channel(TARGET, auth),
    "grpc.aio.secure_channel": lambda auth: grpc.aio.secure_channel(TARGET, auth),
    "the first of composite channel credentials": lambda auth: grpc.composite_channel_credentials(auth, OTHER),
    "the last of composite channel credentials": lambda auth: grpc.composite_channel_credentials(
        grpc.ssl_channel_credentials(), OTHER, auth
    ),
    "composite call credentials": lambda auth: grpc.composite_call_credentials(OTHER, auth),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_an_auth_as_credentials(place: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigurationError, match=SAYS):
        place(AUTH)


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_an_interceptor_as_credentials(place: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigurationError, match="gRPC cannot take a BearerInterceptor here"):
        place(grpc_bearer.interceptor("t0"))


@pytest.mark.parametrize("way", ["plain", *(way for way in SYNC_WAYS if way != "call_credentials")])
@pytest.mark.parametrize("kind", SYNC_KINDS)
def test_an_auth_as_credentials_of_a_call(way: str, kind: str) -> None:
    with ProbeServer(ca=TLS) as server:
        if way == "plain":
            with server.channel() as channel, pytest.raises(ConfigurationError, match=SAYS):
                SYNC_KINDS[kind](ProbeStub(channel), credentials=AUTH, timeout=PATIENCE)
        else:
            with (
                SYNC_WAYS[way](server.target, server.channel_credentials(), "t1") as stub,
                pytest.raises(ConfigurationError, match=SAYS),
            ):
                SYNC_KINDS[kind](stub, credentials=AUTH, timeout=PATIENCE)


async def refusal(way: str, kind: str, server: ProbeServer) -> str:
    async with AIO_WAYS[way](server.target, server.channel_credentials(), "t1") as stub:
        try:
            await AIO_KINDS[kind](stub, credentials=AUTH, timeout=PATIENCE)
        except ConfigurationError as error:
            return str(error)
    return "none"


@pytest.mark.parametrize("way", [way for way in AIO_WAYS if way != "aio.call_credentials"])
@pytest.mark.parametrize("kind", ["unary", "server_stream", "client_stream", "bidi_stream"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_auth_as_credentials_of_an_asyncio_call(way: str, kind: str) -> None:
    with ProbeServer(ca=TLS) as server:
        assert re.search(SAYS, await refusal(way, kind, server))
    gc.collect()  # old grpc.aio complains of the calls that it has half made, and shall do it here


def test_what_it_says_to_write_works() -> None:
    with ProbeServer(OpaqueVerifier(["t0"]), TLS) as server:
        composite = grpc_bearer.channel_credentials(AUTH, server.channel_credentials())
        with grpc.secure_channel(server.target, composite) as channel:
            SYNC_KINDS["unary"](ProbeStub(channel), timeout=PATIENCE)
        with server.channel() as channel:
            SYNC_KINDS["unary"](ProbeStub(channel), credentials=grpc_bearer.call_credentials(AUTH), timeout=PATIENCE)

    assert [attempt.token for attempt in server.ledger] == ["t0", "t0"]


def test_to_all_else_there_is_no_such_attribute() -> None:
    assert (hasattr(AUTH, "_credentials"), getattr(AUTH, "_credentials", 7), hasattr(BearerAuth, "_credentials")) == (
        False,
        7,
        False,
    )
    assert "_credentials" not in dict(inspect.getmembers(AUTH))
    assert mock.create_autospec(AUTH, instance=True).header is not None
    assert mock.create_autospec(BearerAuth, instance=True).token() is not None


def test_it_is_copied_and_pickled_as_before(tmp_path: Any) -> None:
    auth = BearerAuth(FileSource(tmp_path / "token"), name="crm")

    assert [repr(copy.copy(auth)), repr(pickle.loads(pickle.dumps(auth)))] == [repr(auth)] * 2


def test_a_subclass_may_have_an_attribute_of_that_name() -> None:
    class Theirs(BearerAuth):
        def __init__(self) -> None:
            super().__init__("t0")
            self._credentials = "theirs"

    assert Theirs()._credentials == "theirs"
