"""AzureIdentitySource: whatever has `get_token(scope)`, blocking or not."""

from __future__ import annotations

import copy
import pickle
from typing import Any, NamedTuple

import pytest
from _https import assert_hidden, failure

from grpc_bearer import (
    AzureIdentitySource,
    BearerAuth,
    CallContext,
    ConfigurationError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
    secure_channel,
)
from grpc_bearer.testing import ManualClock

SCOPE = "api://fleet/.default"
NOW = 1_700_000_000.0
CONTEXT = CallContext(clock=ManualClock(NOW))


class AccessToken(NamedTuple):
    """As azure-core's."""

    token: str
    expires_on: int


class ClientAuthenticationError(Exception):
    """As azure-core's: with a status if an endpoint has answered."""

    def __init__(self, status_code: int | None) -> None:
        super().__init__("s3cret")
        self.status_code = status_code


class Credential:
    """Gives these, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.asked = list(answers), []
        self.asked: list[tuple[str, ...]] = []

    def get_token(self, *scopes: str, claims: str | None = None, **kwargs: Any) -> Any:
        self.asked.append(scopes)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class AsyncCredential(Credential):
    async def get_token(self, *scopes: str, **kwargs: Any) -> Any:  # type: ignore[override]
        return super().get_token(*scopes)


KINDS = pytest.mark.parametrize("kind", [Credential, AsyncCredential])
GOOD = AccessToken("t0", int(NOW) + 3600)


@KINDS
@pytest.mark.parametrize(("scope", "asked"), [(SCOPE, (SCOPE,)), (["a", "b"], ("a", "b"))])
def test_the_token_and_its_end_are_the_credentials_own(kind: type[Credential], scope: Any, asked: Any) -> None:
    credential = kind(GOOD, AccessToken("t1", int(NOW) + 7200))
    clock = ManualClock(NOW)
    with BearerAuth(credential, scope=scope, clock=clock) as auth:
        values = [(token.value, token.expires_at) for token in (auth.token(), auth.token())]
        clock.advance(3601)
        values.append((auth.token().value, auth.token().expires_at))

    assert values == [("t0", NOW + 3600)] * 2 + [("t1", NOW + 7200)]
    assert credential.asked == [asked] * 2


@KINDS
async def test_asyncio_gets_it_too(kind: type[Credential]) -> None:
    with BearerAuth(kind(GOOD), scope=SCOPE, clock=ManualClock(NOW)) as auth:
        assert (await auth.atoken()).value == "t0"


@KINDS
@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        # Whether it reached anybody, only a status tells.
        (ClientAuthenticationError(None), TokenUnavailableError, "get_token[(][)]: raised ClientAuthenticationError$"),
        (
            ClientAuthenticationError(401),
            TokenRejectedError,
            "get_token[(][)]: ClientAuthenticationError, answered 401$",
        ),
        (ClientAuthenticationError(503), TokenUnavailableError, "raised ClientAuthenticationError$"),
        (OSError("s3cret"), TokenUnavailableError, "raised OSError$"),
        (None, TokenFormatError, "gave no object with the fields token and expires_on"),
        ("s3cret", TokenFormatError, "gave no object with the fields"),
        (AccessToken("s3cret", None), TokenFormatError, "gave no object with the fields"),  # type: ignore[arg-type]
        (AccessToken(None, 1), TokenFormatError, "gave no object with the fields"),  # type: ignore[arg-type]
        (AccessToken("s3cret", int(NOW) - 5), TokenFormatError, "the token expired 5 s ago"),
        (AccessToken("s3cret\n2", int(NOW) + 5), TokenFormatError, r"get_token\(\): "),
    ],
)
def test_a_failure_is_told_and_shows_no_secret(kind: type[Credential], answer: Any, error: Any, words: str) -> None:
    source = AzureIdentitySource(kind(answer), SCOPE)

    assert_hidden(failure(lambda: source.fetch(CONTEXT), error, f"Credential.*{words}"), "s3cret")


class Exchanging:
    """Has the method, and is no credential."""

    get_token = "s3cret"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BearerAuth(Credential(GOOD)), "^scope: missing; give BearerAuth"),
        (lambda: secure_channel("localhost:1", auth=Credential(GOOD)), "^scope: missing; give BearerAuth"),  # type: ignore[arg-type]
        (lambda: BearerAuth("s3cret", scope=SCOPE), "^scope: only for a credential with get_token"),
        (lambda: AzureIdentitySource(Credential, SCOPE), "^credential: expected an object with get_token"),  # type: ignore[arg-type]
        (lambda: AzureIdentitySource(Exchanging(), SCOPE), "^credential: expected an object with get_token"),  # type: ignore[arg-type]
        (lambda: AzureIdentitySource(Credential(GOOD), []), "^scope: expected a scope"),
        (lambda: AzureIdentitySource(Credential(GOOD), 3), "^scope: expected a scope"),  # type: ignore[arg-type]
        (lambda: AzureIdentitySource(Credential(GOOD), ["a", ""]), "^scope: "),
        (lambda: pickle.dumps(AzureIdentitySource(Credential(GOOD), SCOPE)), "^credential: it may hold a secret"),
    ],
)
def test_a_wrong_argument_is_named(make: Any, words: str) -> None:
    assert_hidden(failure(make, ConfigurationError, words), "s3cret")


def test_it_travels_if_the_user_says_so_and_its_copy_is_itself() -> None:
    auth = BearerAuth(Credential(AccessToken("t0", 4_000_000_000)), scope=SCOPE, pickle_secrets=True)
    source = AzureIdentitySource(Credential(GOOD), SCOPE)

    assert pickle.loads(pickle.dumps(auth)).token().value == "t0"
    assert copy.deepcopy(source) is source
    assert repr(source) == "AzureIdentitySource(Credential)"
