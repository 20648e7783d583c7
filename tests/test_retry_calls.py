"""A refused token is healed in place: every kind of call, every door, sync; and what the user holds meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from _refusing import SYNC, UNAUTHENTICATED, Place, expected, method_of, place
from doors import SYNC_DOORS

DOORS = ("secure_channel", "intercept_channel", "wrap_stub", "interceptor")
#: Doors that do not own the serializer of requests.
BORROWED = ("wrap_stub", "interceptor")


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as here:
        yield here


class TestHealing:
    """A revoked token costs the user nothing."""

    @pytest.mark.parametrize("path", ["cold", "warm"])
    @pytest.mark.parametrize("kind", SYNC)
    @pytest.mark.parametrize("door", DOORS)
    def test_a_revoked_token_is_healed(self, here: Place, door: str, kind: str, path: str) -> None:
        auth = here.auth()
        with SYNC_DOORS[door](here.server.target, here.credentials, auth) as stub:
            if path == "warm":
                SYNC["unary"](stub)
            here.revoke(auth)
            here.server.ledger.clear()
            if door in BORROWED and "_stream" in kind and not kind.startswith("server"):
                with pytest.raises(grpc.RpcError) as caught:
                    SYNC[kind](stub)

                assert caught.value.code() is UNAUTHENTICATED
                assert [attempt.accepted for attempt in here.server.ledger] == [False]

                here.server.ledger.clear()
                assert SYNC[kind](stub) == expected(kind)  # the next one has another token
                assert [attempt.accepted for attempt in here.server.ledger] == [True]
                return

            assert SYNC[kind](stub) == expected(kind)
            assert [attempt.accepted for attempt in here.server.ledger] == [False, True]
            assert {attempt.method.rpartition("/")[2] for attempt in here.server.ledger} == {method_of(kind)}
            assert len(here.minted(auth)) == 2
