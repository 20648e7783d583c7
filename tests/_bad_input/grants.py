"""OAuth grants: arguments that are refused, what is shown and is not there, and answers of their own kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from grpc_bearer import (
    BearerAuth,
    ClientCredentialsSource,
    ConfigurationError,
    JWTBearerSource,
    JWTSource,
    StaticSource,
    TokenExchangeSource,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
)

from . import material as m
from .row import Row, Stage, build, fetch

_URL = "https://auth.example.com/token"
_HOST = "127.0.0.1:"
_URN = "urn:ietf:params:oauth:token-type:"


def exchange(stage: Stage, url: str | None = None, **how: Any) -> TokenExchangeSource:
    how = {"subject_token": m.PASSWORD, "ca": stage.ca_file, **how}
    return TokenExchangeSource(url or stage.oauth_url, **how)


def bearer(stage: Stage, url: str | None = None, **how: Any) -> JWTBearerSource:
    how = {"assertion": JWTSource(m.PEMS["P-256"], claims={"iss": m.CLIENT_ID}), "ca": stage.ca_file, **how}
    return JWTBearerSource(url or stage.oauth_url, **how)


def arguments() -> Iterator[Row]:
    static = StaticSource(m.TOKEN)
    exchanged: dict[str, tuple[dict[str, Any], str]] = {
        "subject_token is None": ({"subject_token": None}, "subject_token: expected a str, a path|got NoneType"),
        "subject_token is bytes": ({"subject_token": m.TOKEN.encode()}, "subject_token: expected a str|got bytes"),
        "subject_token is empty": ({"subject_token": " "}, "subject_token: expected a str that is not empty"),
        "subject_token has two lines": ({"subject_token": f"{m.TOKEN}\n{m.HIDDEN}"}, "subject_token: has a line break"),
        "subject_token is not filled in": ({"subject_token": "${TOKEN}"}, "subject_token: a placeholder"),
        "subject_token is the name of a file": ({"subject_token": __file__}, "subject_token: |pass pathlib.Path"),
        "a type is misspelt": (
            {"subject_token_type": "acess_token"},
            "subject_token_type: expected a URI or one of|did you mean access_token?",
        ),
        "a type is a number": ({"subject_token_type": 7}, "subject_token_type: expected a str, got int"),
        "a type is empty": ({"requested_token_type": ""}, "requested_token_type: expected a str that is not empty"),
        "a type is requested that there is not": ({"requested_token_type": "bearer"}, "requested_token_type: "),
        "actor_token without its type": ({"actor_token": m.PASSWORD}, "actor_token_type: missing"),
        "actor_token_type without a token": ({"actor_token_type": "jwt"}, "actor_token: missing"),
        "actor_token is a number": ({"actor_token": 7, "actor_token_type": "jwt"}, "actor_token: expected a str"),
        "audience is a number": ({"audience": 7}, "audience: expected a str, or several in a list"),
        "audience is empty": ({"audience": ["a", ""]}, "audience: expected a str that is not empty"),
        "resource holds a number": ({"resource": [7]}, "resource: expected a str, or several in a list"),
        "extra holds what is an argument": ({"extra": {"subject_token": m.HIDDEN}}, "extra: subject_token has an"),
        "a secret without a client": ({"client_secret": m.CLIENT_SECRET}, "client_id: expected a str, got NoneType"),
        "a certificate without a client": ({"auth_method": "tls_client_auth"}, "cert: missing; tls_client_auth shows"),
        "client_assertion is a number": ({"client_assertion": 7}, "client_assertion: expected a str, a path"),
        "client_assertion is missing": ({"auth_method": "client_assertion"}, "client_assertion: missing"),
        "two credentials": (
            {"client_id": "me", "client_secret": m.CLIENT_SECRET, "client_assertion": m.TOKEN},
            "client_assertion: client_secret_basic has no use for it; use auth_method='client_assertion'",
        ),
        "a secret of a public client": (
            {"client_id": "me", "client_secret": m.CLIENT_SECRET, "auth_method": "none"},
            "client_secret: none has no use for it; leave it out",
        ),
        "lifetime is text": ({"lifetime": "60"}, "lifetime: expected a number of seconds"),
    }
    for state, (how, words) in exchanged.items():
        yield build(
            f"TokenExchangeSource: {state}",
            ConfigurationError,
            words,
            lambda stage, how=how: exchange(stage, _URL, **how),
        )
    asserted: dict[str, tuple[Callable[[], Any], str]] = {
        "None": (lambda: None, "assertion: expected a JWTSource or another Source, a path or a function, got NoneType"),
        "text, which could be shown only once": (lambda: m.TOKEN, "assertion: expected a JWTSource|got str"),
        "an auth": (lambda: BearerAuth(static), "assertion: expected a JWT|got BearerAuth"),
        "a JWT whose jti is always the same": (
            lambda: JWTSource(m.PEMS["P-256"], claims={"jti": m.HIDDEN}),
            "claims: a jti that is the same in each assertion|leave it out",
        ),
    }
    for state, (given, words) in asserted.items():
        yield build(
            f"JWTBearerSource: assertion is {state}",
            ConfigurationError,
            words,
            lambda stage, given=given: bearer(stage, _URL, assertion=given()),
        )


def shown() -> Iterator[Row]:
    """What is shown in a request, and is not there when it is made."""
    makers: dict[str, Callable[..., Any]] = {
        "subject_token": lambda stage, given: exchange(stage, subject_token=given),
        "actor_token": lambda stage, given: exchange(stage, actor_token=given, actor_token_type="jwt"),
        "assertion": lambda stage, given: bearer(stage, assertion=given),
        "client_assertion": lambda stage, given: ClientCredentialsSource(
            stage.oauth_url, m.CLIENT_ID, client_assertion=given, ca=stage.ca_file
        ),
    }
    functions: dict[str, tuple[Callable[[], Any], type, str]] = {
        "raises": (_raise, TokenUnavailableError, "raised RuntimeError"),
        "gives None": (lambda: None, TokenFormatError, "expected its function to return a str, got NoneType"),
        "gives bytes": (lambda: m.TOKEN.encode(), TokenFormatError, "expected its function to return a str, got bytes"),
        "gives an empty str": (lambda: " ", TokenUnavailableError, "its function returned an empty str"),
        "gives two lines": (lambda: f"{m.TOKEN}\n{m.HIDDEN}", TokenFormatError, "has a line break in it"),
    }
    for field, make in makers.items():
        for state, (function, kind, words) in functions.items():
            yield fetch(
                f"{field}: its function {state}",
                kind,
                f"{field}: |{words}",
                lambda stage, make=make, function=function: make(stage, function),
            )
        yield fetch(
            f"{field}: its file is missing",
            TokenUnavailableError,
            "none.txt|No such file",
            lambda stage, make=make: make(stage, stage.directory / "none.txt"),
        )
        yield fetch(
            f"{field}: its file is binary",
            TokenFormatError,
            "given.bin|not UTF-8",
            lambda stage, make=make: make(stage, stage.file("given.bin", b"\xff" + m.TOKEN.encode())),
        )
        yield fetch(
            f"{field}: its source is refused",
            TokenRejectedError,
            f"{_HOST}|answered 401 invalid_client",
            lambda stage, make=make: make(
                stage, ClientCredentialsSource(stage.oauth_url, m.CLIENT_ID, m.PASSWORD, ca=stage.ca_file)
            ),
        )


def answers() -> Iterator[Row]:
    def answered(**members: Any) -> Callable[[Stage], Any]:
        text = m.as_text({"access_token": m.TOKEN, "token_type": "Bearer", **members})
        return lambda stage: exchange(stage, stage.answering(text), requested_token_type="jwt")

    for state, (members, words) in {
        "another type": ({"issued_token_type": f"{_URN}saml2"}, "the token is saml2; jwt was requested"),
        "a type of its own": ({"issued_token_type": m.HIDDEN}, "the token is of another type"),
        "a type that is a number": ({"issued_token_type": 7}, "the token is of another type"),
    }.items():
        yield fetch(
            f"TokenExchangeSource: issued is {state}",
            TokenFormatError,
            f"{_HOST}|issued_token_type: |{words}",
            answered(**members),
        )
    yield fetch(
        "TokenExchangeSource: answered with token in place of access_token",
        TokenFormatError,
        f"{_HOST}|JSON without the field 'access_token', but with 'token'|HTTPTokenSource",
        lambda stage: exchange(stage, stage.answering(m.as_text({"token": m.TOKEN}))),
    )
    for grant, make in (("TokenExchangeSource", exchange), ("JWTBearerSource", bearer)):
        for code in ("invalid_grant", "invalid_target", "unsupported_grant_type", "interaction_required"):
            text = m.as_text({"error": code, "error_description": m.HIDDEN})
            yield fetch(
                f"{grant}: {code}",
                TokenRejectedError,
                f"{_HOST}|answered 400 {code}",
                lambda stage, make=make, text=text: make(stage, stage.answering(text, 400)),
            )


def _raise() -> Any:
    raise RuntimeError(m.HIDDEN)


ROWS = [*arguments(), *shown(), *answers()]
