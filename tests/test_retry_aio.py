"""A refused token is healed in place: every kind of call, every door, asyncio; and what the user holds meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from _refusing import AIO, UNAUTHENTICATED, Place, expected, method_of, place, soon
from doors import AIO_DOORS

DOORS = ("aio.secure_channel", "aio.intercept_channel", "aio.wrap_stub", "aio.interceptors")
#: Doors that do not own the serializer of requests.
BORROWED = ("aio.wrap_stub", "aio.interceptors")


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as here:
        yield here


class TestHealing:
    """A revoked token costs the user nothing."""

    @pytest.mark.parametrize("path", ["cold", "warm"])
    @pytest.mark.parametrize("kind", AIO)
    @pytest.mark.parametrize("door", DOORS)
    async def test_a_revoked_token_is_healed(self, here: Place, door: str, kind: str, path: str) -> None:
        auth = here.auth()
        async with AIO_DOORS[door](here.server.target, here.credentials, auth) as stub:
            if path == "warm":
                await soon(AIO["unary"](stub))
            here.revoke(auth)
            here.server.ledger.clear()
            if door in BORROWED and "_stream" in kind and not kind.startswith("server"):
                with pytest.raises(grpc.RpcError) as caught:
                    await soon(AIO[kind](stub))

                assert caught.value.code() is UNAUTHENTICATED
                assert [attempt.accepted for attempt in here.server.ledger] == [False]

                here.server.ledger.clear()
                assert await soon(AIO[kind](stub)) == expected(kind)  # the next one has another token
                assert [attempt.accepted for attempt in here.server.ledger] == [True]
                return

            assert await soon(AIO[kind](stub)) == expected(kind)
            assert [attempt.accepted for attempt in here.server.ledger] == [False, True]
            assert {attempt.method.rpartition("/")[2] for attempt in here.server.ledger} == {method_of(kind)}
