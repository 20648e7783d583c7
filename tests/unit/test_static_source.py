"""StaticSource: one token, valid until revoked."""

from __future__ import annotations

import pickle

from _https import assert_hidden, failure, unsigned_jwt

from grpc_bearer import CallContext
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources import StaticSource


def test_the_token_is_given_without_an_expiry_and_without_io() -> None:
    token = StaticSource("s3cret").fetch(CallContext())

    assert (token.value, token.expires_at, token.refresh_at, token.single_use) == ("s3cret", None, None, False)
    assert StaticSource.local


def test_white_space_around_it_is_trimmed() -> None:
    assert StaticSource(" s3cret\r\n").fetch(CallContext()).value == "s3cret"


def test_a_jwt_is_valid_until_revoked_too() -> None:
    assert StaticSource(unsigned_jwt(exp=1)).fetch(CallContext()).expires_at is None


def test_its_repr_hides_it_and_it_does_not_pickle() -> None:
    source = StaticSource("s3cret")

    assert repr(source) == "StaticSource(<token: hidden>)"
    assert_hidden(failure(lambda: pickle.dumps(source), ConfigurationError, "token: given inline"), "s3cret")
