"""Token endpoints: addresses and arguments that are refused, and every way in which an answer can be no token."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    ClientCredentialsSource,
    ConfigurationError,
    GoogleAuthSource,
    HTTPTokenSource,
    TokenError,
    TokenFormatError,
    TokenRejectedError,
    TokenUnavailableError,
    profiles,
)
from grpc_bearer.testing import BigBody, ExpiredJWT, Garbage, Hang, NotJSON, Redirect, Reset, Status, Trickle

from . import grants, logins
from . import material as m
from .row import Row, Stage, build, fetch

Make = Callable[..., Any]
_SHORT = 0.3  # seconds: what hangs is given up after these


def _raw(stage: Stage, url: str | None = None, **how: Any) -> HTTPTokenSource:
    return HTTPTokenSource(url or stage.bear_url, **{"json": m.BEAR, "ca": stage.ca_file, **how})


def _field(stage: Stage, url: str | None = None, **how: Any) -> HTTPTokenSource:
    password = (m.CLIENT_ID, m.PASSWORD)
    return HTTPTokenSource(
        url or stage.bear_url, **{"field": "access_token", "auth": password, "ca": stage.ca_file, **how}
    )


def _basic(stage: Stage, url: str | None = None, **how: Any) -> ClientCredentialsSource:
    how = {"ca": stage.ca_file, **how}
    return ClientCredentialsSource(url or stage.oauth_url, m.CLIENT_ID, m.CLIENT_SECRET, **how)


def _post(stage: Stage, url: str | None = None, **how: Any) -> ClientCredentialsSource:
    return _basic(stage, url, auth_method="client_secret_post", **how)


def _assertion(stage: Stage, url: str | None = None, **how: Any) -> ClientCredentialsSource:
    how = {"ca": stage.ca_file, "key": m.PEMS["RSA"], "auth_method": "private_key_jwt", **how}
    return ClientCredentialsSource(url or stage.oauth_url, m.CLIENT_ID, **how)


def _bear(stage: Stage, url: str | None = None) -> BearerAuth:
    path = stage.file("bear.json", m.as_text(m.BEAR))
    return profiles.bear(path, url=url or stage.bear_url, ca=stage.ca_file)


def _google(stage: Stage, url: str | None = None) -> GoogleAuthSource:
    from google.oauth2.credentials import Credentials

    return GoogleAuthSource(
        Credentials(
            token=None,
            refresh_token=m.REFRESH_TOKEN,
            token_uri=url or stage.oauth_url,
            client_id=m.CLIENT_ID,
            client_secret=m.CLIENT_SECRET,
        )
    )


_SOURCES: dict[str, Make] = {
    "HTTPTokenSource": _raw,
    "HTTPTokenSource(field=)": _field,
    "client_secret_basic": _basic,
    "client_secret_post": _post,
    "private_key_jwt": _assertion,
    "TokenExchangeSource": grants.exchange,
    "JWTBearerSource": grants.bearer,
    "refresh_token": logins.refresh,
    "device_code": logins.device,
    "bear": _bear,
}
_OAUTH = (
    "client_secret_basic",
    "client_secret_post",
    "private_key_jwt",
    "TokenExchangeSource",
    "JWTBearerSource",
    "refresh_token",
)
_JSON = ("HTTPTokenSource(field=)", *_OAUTH)
_HOST = "127.0.0.1:"


def _faulty(make: Make, fault: Any, **how: Any) -> Callable[[Stage], Any]:
    def do(stage: Stage) -> Any:
        stage.tokens.fail_with(fault)
        return make(stage, **how)

    return do


def _answered(make: Make, body: str | bytes, status: int = 200, **headers: str) -> Callable[[Stage], Any]:
    return lambda stage: make(stage, stage.answering(body, status, **headers))


def faults() -> Iterator[Row]:
    """The faults of the test kit's endpoint, for every source that asks one."""
    for name, make in _SOURCES.items():
        yield fetch(f"{name}: a web page", TokenFormatError, f"{_HOST}|HTML", _faulty(make, Garbage()))
        yield fetch(f"{name}: 10 MB", TokenFormatError, f"{_HOST}|more than 1048576 bytes", _faulty(make, BigBody()))
        yield fetch(f"{name}: nothing", TokenFormatError, f"{_HOST}|the answer is empty", _answered(make, ""))
        yield fetch(f"{name}: white space", TokenFormatError, f"{_HOST}|the answer is empty", _answered(make, " \r\n"))
        yield fetch(
            f"{name}: no UTF-8",
            TokenFormatError,
            f"{_HOST}|not UTF-8 text",
            _answered(make, b"\xff\xfe" + m.TOKEN.encode()),
        )
        yield fetch(f"{name}: a reset", TokenUnavailableError, f"{_HOST}|connection reset", _faulty(make, Reset()))
        yield fetch(
            f"{name}: broken gzip",
            TokenUnavailableError,
            f"{_HOST}|compressed, and broken",
            _answered(make, m.TOKEN, content_encoding="gzip"),
        )
        yield fetch(
            f"{name}: a gzip bomb",
            TokenFormatError,
            f"{_HOST}|more than 1048576 bytes",
            _answered(make, gzip.compress(b"A" * 20_000_000), content_encoding="gzip"),
        )
        for status in (301, 302, 303, 307, 308):
            yield fetch(
                f"{name}: a redirect by {status}",
                TokenRejectedError,
                f"{_HOST}|answered {status}|redirects are never followed",
                lambda stage, make=make, status=status: _faulty(make, Redirect(stage.elsewhere_url, status))(stage),
                after=_nothing_went_elsewhere,
            )
        if name != "bear":  # whose timeout is not for the user to set
            yield fetch(
                f"{name}: a hang",
                TokenUnavailableError,
                f"{_HOST}|no complete answer within {_SHORT} s",
                _faulty(make, Hang(), timeout=_SHORT),
            )
    for name in ("HTTPTokenSource", "client_secret_basic"):
        yield fetch(
            f"{name}: a trickle",
            TokenUnavailableError,
            f"{_HOST}|no complete answer within {_SHORT} s",
            _faulty(_SOURCES[name], Trickle(1, 0.05), timeout=_SHORT),
        )


def _nothing_went_elsewhere(stage: Stage) -> None:
    assert stage.elsewhere.exchanges == []


_STATUSES: dict[int, tuple[type[grpc_bearer.GrpcBearerError], str]] = {
    206: (TokenFormatError, "where 200 is expected"),
    300: (TokenRejectedError, "redirected"),
    400: (TokenRejectedError, "answered 400"),
    401: (TokenRejectedError, "the credential was refused"),
    402: (TokenRejectedError, "answered 402"),
    403: (TokenRejectedError, "the credential was refused"),
    404: (TokenRejectedError, "answered 404"),
    405: (TokenRejectedError, "answered 405"),
    407: (TokenRejectedError, "answered 407"),
    408: (TokenUnavailableError, "answered 408"),
    410: (TokenRejectedError, "answered 410"),
    418: (TokenRejectedError, "answered 418"),
    429: (TokenUnavailableError, "answered 429"),
    451: (TokenRejectedError, "answered 451"),
    500: (TokenUnavailableError, "answered 500"),
    502: (TokenUnavailableError, "answered 502"),
    503: (TokenUnavailableError, "answered 503"),
    504: (TokenUnavailableError, "answered 504"),
    599: (TokenUnavailableError, "answered 599"),
}


def statuses() -> Iterator[Row]:
    """Each class of HTTP status. The answer's text is the request itself: some servers quote it in their errors."""
    for status, (kind, words) in _STATUSES.items():
        yield fetch(
            f"bear: status {status}",
            kind,
            f"{_HOST}|{words}",
            lambda stage, status=status: _bear(stage, stage.echoing(status)),
        )
    for name in ("HTTPTokenSource(field=)", *_OAUTH):
        for status in (400, 401, 429, 503):
            kind, words = _STATUSES[status]
            yield fetch(
                f"{name}: status {status}",
                kind,
                f"{_HOST}|{words}",
                lambda stage, name=name, status=status: _SOURCES[name](stage, stage.echoing(status)),
            )
    for name, make in _SOURCES.items():
        yield fetch(
            f"{name}: a web page that quotes the request",
            TokenFormatError,
            f"{_HOST}|HTML",
            lambda stage, make=make: make(stage, stage.echoing(200, "<p>")),
        )
        yield fetch(
            f"{name}: 503 with Retry-After",
            TokenUnavailableError,
            f"{_HOST}|answered 503",
            _faulty(make, Status(503, retry_after=7, body=m.HIDDEN)),
        )


def raw_answers() -> Iterator[Row]:
    for name in ("HTTPTokenSource", "bear"):
        make = _SOURCES[name]
        yield fetch(
            f"{name}: an expired JWT",
            TokenFormatError,
            f"{_HOST}|the token expired|is the clock right?",
            _faulty(make, ExpiredJWT()),
        )
        answers = {
            "JSON with a token": (m.as_text({"access_token": m.TOKEN}), "JSON, not a bare token|field="),
            "a JSON list": (m.as_text([m.TOKEN]), "JSON, not a bare token"),
            "null": ("null", "JSON, not a bare token"),
            "two lines": (f"{m.TOKEN}\n{m.HIDDEN}", "has a space"),
            "a sentence": (f"your token is {m.TOKEN}", "has a space"),
            "a header line": (f"Bearer {m.TOKEN}", "begins with 'Bearer '"),
            "an umlaut": (f"{m.TOKEN}ü", "outside ASCII"),
            "XML": (f"<?xml version='1.0'?><token>{m.TOKEN}</token>", "HTML or XML"),
        }
        for state, (body, words) in answers.items():
            yield fetch(f"{name}: answered by {state}", TokenFormatError, f"{_HOST}|{words}", _answered(make, body))


def json_answers() -> Iterator[Row]:
    def with_token(value: object, **more: object) -> str:
        return m.as_text({"access_token": value, "token_type": "Bearer", "expires_in": 3600, **more})

    answers: dict[str, tuple[str, str]] = {
        "text that is no JSON": (m.TOKEN, "not JSON"),
        "JSON that breaks off": (with_token(m.TOKEN)[:-2], "not JSON"),
        "JSON without the field": (m.as_text({"token": m.TOKEN}), "JSON without the field 'access_token'"),
        "a JSON list": (m.as_text([m.TOKEN]), "JSON without the field 'access_token'"),
        "a JSON string": (m.as_text(m.TOKEN), "JSON without the field 'access_token'"),
        "null": ("null", "JSON without the field 'access_token'"),
        "JSON a thousand levels deep": ("[" * 100_000, "not JSON"),
        "a field that is null": (with_token(None), "access_token: expected a string, got NoneType"),
        "a field that is a number": (with_token(7), "access_token: expected a string, got int"),
        "a field that is an object": (with_token({"value": m.TOKEN}), "access_token: expected a string, got dict"),
        "a field that is empty": (with_token(""), "token: empty"),
        "a field with two lines": (with_token(f"{m.TOKEN}\n{m.HIDDEN}"), "has a space"),
        "a field with its scheme": (with_token(f"Bearer {m.TOKEN}"), "begins with 'Bearer '"),
        "a field outside ASCII": (with_token(f"{m.TOKEN}ü"), "outside ASCII"),
        "a lifetime of 0": (with_token(m.TOKEN, expires_in=0), "expires_in: the token is already expired"),
        "a lifetime below 0": (with_token(m.TOKEN, expires_in=-5), "expires_in: the token is already expired"),
        "an expired JWT": (m.as_text({"access_token": m.EXPIRED_JWT}), "the token expired"),
    }
    for name in _JSON:
        for state, (body, words) in answers.items():
            yield fetch(f"{name}: {state}", TokenFormatError, f"{_HOST}|{words}", _answered(_SOURCES[name], body))
        yield fetch(f"{name}: NotJSON", TokenFormatError, f"{_HOST}|not JSON", _faulty(_SOURCES[name], NotJSON()))
    yield fetch(
        "HTTPTokenSource: a path that breaks off",
        TokenFormatError,
        f"{_HOST}|JSON without the field 'data.token.value'",
        lambda stage: _field(stage, stage.answering(m.as_text({"data": {"token": m.TOKEN}})), field="data.token.value"),
    )


def oauth_answers() -> Iterator[Row]:
    def refusal(error: object) -> str:
        return m.as_text({"error": error, "error_description": f"{m.CLIENT_SECRET} is wrong: {m.HIDDEN}"})

    for name in _OAUTH:
        make = _SOURCES[name]
        for error in ("invalid_client", "invalid_scope", "unauthorized_client"):
            yield fetch(
                f"{name}: {error}",
                TokenRejectedError,
                f"{_HOST}|answered 400 {error}",
                _answered(make, refusal(error), 400),
            )
        yield fetch(
            f"{name}: an unregistered error",
            TokenRejectedError,
            f"{_HOST}|an unregistered error code",
            _answered(make, refusal(m.HIDDEN), 400),
        )
        yield fetch(
            f"{name}: an error with status 200",
            TokenRejectedError,
            f"{_HOST}|log in again" if name == "refresh_token" else f"{_HOST}|answered 200 invalid_grant",
            _answered(make, refusal("invalid_grant")),
        )
        yield fetch(
            f"{name}: temporarily_unavailable",
            TokenUnavailableError,
            f"{_HOST}|temporarily_unavailable",
            _answered(make, refusal("temporarily_unavailable"), 400),
        )
        yield fetch(
            f"{name}: an error that is a number",
            TokenRejectedError,
            f"{_HOST}|answered 400",
            _answered(make, refusal(7), 400),
        )
        for kind in ("mac", "DPoP", 7):
            yield fetch(
                f"{name}: token_type {kind}",
                TokenFormatError,
                f"{_HOST}|token_type is not Bearer",
                _answered(make, m.as_text({"access_token": m.TOKEN, "token_type": kind})),
            )
    yield fetch(
        "client_secret_basic: the wrong secret",
        TokenRejectedError,
        f"{_HOST}|answered 401 invalid_client",
        lambda stage: ClientCredentialsSource(stage.oauth_url, m.CLIENT_ID, m.PASSWORD, ca=stage.ca_file),
    )
    yield fetch(
        "private_key_jwt: the wrong key",
        TokenRejectedError,
        f"{_HOST}|answered 401 invalid_client",
        lambda stage: _assertion(stage, key=m.PEMS["P-256"]),
    )
    yield fetch(
        "bear: the wrong secret",
        TokenRejectedError,
        f"{_HOST}|the credential was refused",
        lambda stage: profiles.bear({**m.BEAR, "secret": m.PASSWORD}, url=stage.bear_url, ca=stage.ca_file),
    )


def connections() -> Iterator[Row]:
    for name in ("HTTPTokenSource", "client_secret_basic"):
        make = _SOURCES[name]
        yield fetch(
            f"{name}: nobody listens",
            TokenUnavailableError,
            "127.0.0.1:9|connection refused",
            lambda stage, make=make: make(stage, "https://127.0.0.1:9/token"),
        )
        yield fetch(
            f"{name}: another authority",
            TokenUnavailableError,
            f"{_HOST}|certificate verify failed|with ca=",
            lambda stage, make=make: make(stage, ca=stage.other_ca_file),
        )
        yield fetch(
            f"{name}: the certificate of another host",
            TokenUnavailableError,
            "127.1:|certificate verify failed",
            lambda stage, make=make: make(stage, stage.bear_url.replace("127.0.0.1", "127.1")),
        )
        yield fetch(
            f"{name}: a server that speaks no TLS",
            TokenUnavailableError,
            "127.0.0.1:",
            lambda stage, make=make: make(stage, f"https://{_clear(stage)}/token"),
        )
    yield fetch(
        "HTTPTokenSource: a host that does not exist",
        TokenUnavailableError,
        "nowhere.invalid|host name was not found",
        lambda stage: _raw(stage, "https://nowhere.invalid/", timeout=2),
    )


def _clear(stage: Stage) -> str:
    from grpc_bearer.testing import TokenServer

    server = stage.stack.enter_context(TokenServer(None))
    return server.url("/").removeprefix("http://").rstrip("/")


def google() -> Iterator[Row]:
    from google.auth import api_key, jwt
    from google.auth.credentials import AnonymousCredentials
    from google.oauth2.credentials import Credentials

    class Async(Credentials):
        async def refresh(self, request: Any) -> None: ...

    yield fetch(
        "GoogleAuthSource: refused",
        TokenRejectedError,
        "google-auth: |invalid_grant",
        lambda stage: _google(
            stage, stage.answering(m.as_text({"error": "invalid_grant", "error_description": m.HIDDEN}), 400)
        ),
    )
    yield fetch(
        "GoogleAuthSource: an answer that quotes the request",
        TokenRejectedError,
        "google-auth: ",
        lambda stage: _google(stage, stage.echoing(401)),
    )
    yield fetch(
        "GoogleAuthSource: a web page",
        TokenError,
        "google-auth: ",
        lambda stage: _faulty(_google, Garbage())(stage),
    )
    yield fetch(
        "GoogleAuthSource: JSON without the field",
        TokenError,
        "google-auth: ",
        lambda stage: _google(stage, stage.answering(m.as_text({"token": m.TOKEN}))),
    )
    yield fetch(
        "GoogleAuthSource: no UTF-8",
        TokenFormatError,
        "google-auth: ",
        lambda stage: _google(stage, stage.answering(b"\xff" + m.TOKEN.encode())),
    )
    yield fetch(
        "GoogleAuthSource: a redirect",
        TokenRejectedError,
        "google-auth: |redirects are not followed",
        lambda stage: _faulty(_google, Redirect(stage.elsewhere_url))(stage),
        after=_nothing_went_elsewhere,
    )
    yield fetch(
        "GoogleAuthSource: plain http",
        TokenRejectedError,
        "token_uri: http:// would send the credential in the clear",
        lambda stage: _google(stage, "http://127.0.0.1:9/token"),
    )
    yield fetch(
        "GoogleAuthSource: nobody listens",
        TokenUnavailableError,
        "127.0.0.1:9|connection refused",
        lambda stage: _google(stage, "https://127.0.0.1:9/token"),
    )
    yield fetch(
        "GoogleAuthSource: a token of two lines",
        TokenFormatError,
        "Credentials: token",
        lambda stage: _google(
            stage, stage.answering(m.as_text({"access_token": f"{m.TOKEN}\n{m.HIDDEN}", "expires_in": 60}))
        ),
    )
    yield fetch(
        "GoogleAuthSource: nothing to refresh with",
        TokenRejectedError,
        "google-auth: ",
        lambda stage: GoogleAuthSource(_bare()),
    )
    wrong: dict[str, tuple[Callable[[], Any], str]] = {
        "None": (lambda: None, "got NoneType"),
        "a str": (lambda: m.TOKEN, "got str"),
        "anonymous": (AnonymousCredentials, "have no token; use a plain channel"),
        "an API key": (lambda: api_key.Credentials(m.TOKEN), "an API key is no bearer token"),
        "a class": (lambda: jwt.Credentials, "expected google.auth.credentials.Credentials"),
        "asyncio's": (lambda: Async(token=m.TOKEN), "these refresh with coroutines"),
    }
    for state, (make, words) in wrong.items():
        yield build(
            f"GoogleAuthSource: {state}",
            ConfigurationError,
            f"credentials: |{words}",
            lambda stage, make=make: GoogleAuthSource(make()),
        )


def _bare() -> Any:
    from google.oauth2.credentials import Credentials

    return Credentials(token=None, refresh_token=m.REFRESH_TOKEN)


_ADDRESSES: dict[str, tuple[Any, str]] = {
    "plain http": ("http://auth.example.com/token", "http:// would send the credential in the clear"),
    "plain http to this machine, not asked for": ("http://127.0.0.1:1/token", "allow_http_loopback=True"),
    "plain http to localhost, not asked for": ("http://localhost:1/token", "allow_http_loopback=True"),
    "of another scheme": ("ftp://auth.example.com/token", "expected an https:// address"),
    "plain http to 127.x, not asked for": ("http://127.9.9.9/token", "allow_http_loopback=True"),
    "plain http to ::1, not asked for": ("http://[::1]:80/token", "allow_http_loopback=True"),
    "without a scheme": ("auth.example.com/token", "has no host name"),
    "with a password": (f"https://me:{m.TOKEN}@auth.example.com/", "has a user or password in it"),
    "without a host": ("https:///token", "has no host name"),
    "with a strange host": ("https://auth,example/token", "strange characters"),
    "with a fragment": (f"https://auth.example.com/#{m.TOKEN}", "has a '#' part"),
    "with a space": (f"https://auth.example.com/ {m.TOKEN}", "with a space"),
    "with a line break": ("https://auth.example.com/\r\nX: y", "with a space"),
    "outside ASCII": ("https://auth.exämple.com/", "outside ASCII"),
    "with a port that is none": ("https://auth.example.com:port/", "not a URL"),
    "with a port that is too high": ("https://auth.example.com:99999/", "not a URL"),
    "that breaks off": ("https://[::1/token", "not a URL"),
    "empty": ("", "empty"),
    "None": (None, "expected a str, got NoneType"),
    "bytes": (b"https://auth.example.com", "expected a str, got bytes"),
}


def addresses() -> Iterator[Row]:
    makers: dict[str, tuple[str, Make]] = {
        "HTTPTokenSource": ("url", lambda url, **how: HTTPTokenSource(url, json=m.BEAR, **how)),
        "ClientCredentialsSource": (
            "token_url",
            lambda url, **how: ClientCredentialsSource(url, m.CLIENT_ID, m.CLIENT_SECRET, **how),
        ),
    }
    for name, (field, make) in makers.items():
        for state, (url, words) in _ADDRESSES.items():
            if url is None and field == "token_url":  # which need not be given
                words = "missing; or give issuer"
            yield build(
                f"{name}: an address {state}",
                ConfigurationError,
                f"{field}: |{words}",
                lambda stage, make=make, url=url: make(url),
            )
        for host in ("auth.example.com", "10.0.0.1", "localhost.example.com"):
            yield build(
                f"{name}: plain http to {host}, though allowed to this machine",
                ConfigurationError,
                f"{field}: http:// would send the credential in the clear",
                lambda stage, make=make, host=host: make(f"http://{host}/", allow_http_loopback=True),
            )
        wrong: dict[str, dict[str, Any]] = {
            "timeout": {
                "zero": 0,
                "below zero": -1,
                "infinite": float("inf"),
                "NaN": float("nan"),
                "text": "10",
                "true": True,
                "None": None,
            },
            "max_bytes": {"zero": 0, "a fraction": 1.5, "true": True, "None": None},
            "lifetime": {"zero": 0, "below zero": -1, "text": "60", "NaN": float("nan")},
            "ca": {"a number": 7, "no certificate": __file__, "no such file": "/nowhere/ca.pem", "empty": ""},
            "cert": {
                "a path": "client.pem",
                "a list of one": ["client.pem"],
                "missing files": ("/nowhere/c", "/nowhere/k"),
            },
        }
        for argument, values in wrong.items():
            for state, value in values.items():
                yield build(
                    f"{name}: {argument} is {state}",
                    ConfigurationError,
                    f"{argument}: ",
                    lambda stage, make=make, how={argument: value}: make("https://auth.example.com/", **how),
                )
        yield build(
            f"{name}: cert without its key",
            ConfigurationError,
            "cert: |no PEM certificate with its unencrypted key|crt.pem",
            lambda stage, make=make: make(
                "https://auth.example.com/",
                cert=(stage.file("crt.pem", m.CERTIFICATE), stage.file("key.pem", m.PEMS["RSA"])),
            ),
        )
        yield build(
            f"{name}: cert with an encrypted key",
            ConfigurationError,
            "cert: ",
            lambda stage, make=make: make(
                "https://auth.example.com/",
                cert=(stage.file("crt.pem", m.CERTIFICATE), stage.file("key.pem", m.ENCRYPTED["P-256"])),
            ),
        )


def http_arguments() -> Iterator[Row]:
    def source(**how: Any) -> Callable[[Stage], Any]:
        return lambda stage: HTTPTokenSource("https://auth.example.com/", **how)

    loop: list[Any] = []
    loop.append(loop)
    rows: dict[str, tuple[dict[str, Any], str]] = {
        "method is empty": ({"method": ""}, "method: "),
        "method has a line break": ({"method": "POST\r\nx: y"}, "method: "),
        "method is None": ({"method": None}, "method: "),
        "headers are a list": ({"headers": [("x", m.TOKEN)]}, "headers: expected a mapping, got list"),
        "a header's name has a space": ({"headers": {"x y": m.TOKEN}}, "headers: a name is no HTTP header name"),
        "a header's name is a number": ({"headers": {7: m.TOKEN}}, "headers: a name is no HTTP header name"),
        "a header's value has a line break": ({"headers": {"x": f"{m.TOKEN}\n"}}, "headers: x: has a line break"),
        "a header's value is outside ASCII": ({"headers": {"x": f"{m.TOKEN}ü"}}, "headers: x: has a line break or"),
        "a header's value is bytes": (
            {"headers": {"x": m.TOKEN.encode()}},
            "headers: x: expected a str or a path",
        ),
        "body and json": ({"body": m.TOKEN, "json": m.BEAR}, "body, json, form: give one of them only"),
        "json and form": ({"json": m.BEAR, "form": m.BEAR}, "body, json, form: give one of them only"),
        "body is a number": ({"body": 7}, "body: expected str, bytes, a path or a function, got int"),
        "body is a mapping": ({"body": m.BEAR}, "body: expected str, bytes, a path or a function, got dict"),
        "json holds a set": ({"json": {"secret": {m.HIDDEN}}}, "json: holds something that JSON cannot"),
        "json holds itself": ({"json": loop}, "json: holds something that JSON cannot"),
        "form is a str": ({"form": m.HIDDEN}, "form: expected a mapping, got str"),
        "field is empty": ({"field": ""}, "field: expected the name of a field"),
        "field is a number": ({"field": 7}, "field: expected the name of a field"),
        "expires_in_field is a list": ({"expires_in_field": ["x"]}, "expires_in_field: "),
        "refresh_after is one number": ({"refresh_after": 900}, "refresh_after: expected a pair"),
        "refresh_after has three": ({"refresh_after": (1, 2, 3)}, "refresh_after: expected a pair"),
        "refresh_after runs backwards": ({"refresh_after": (1200, 900)}, "refresh_after: the first age is above"),
        "refresh_after is below zero": ({"refresh_after": (-1, 900)}, "refresh_after: expected a number"),
        "refresh_after holds NaN": ({"refresh_after": (float("nan"), 5)}, "refresh_after: expected a number"),
        "auth is a str": ({"auth": m.PASSWORD}, "auth: expected a pair"),
        "auth is a pair of bytes": ({"auth": (b"me", m.PASSWORD.encode())}, "auth: user: expected a str, got bytes"),
        "the user has a colon": ({"auth": ("me:you", m.PASSWORD)}, "auth: HTTP Basic has no way"),
    }
    for state, (how, words) in rows.items():
        yield build(f"HTTPTokenSource: {state}", ConfigurationError, words, source(**how))
    bodies: dict[str, tuple[Callable[[], Any], type[grpc_bearer.GrpcBearerError], str]] = {
        "raises": (_raise, TokenUnavailableError, "body: raised RuntimeError"),
        "gives a set": (lambda: {m.HIDDEN}, TokenFormatError, "body: holds something that JSON cannot"),
        "gives None's cousin": (lambda: object(), TokenFormatError, "body: holds something that JSON cannot"),
    }
    for state, (body, kind, words) in bodies.items():
        yield fetch(
            f"HTTPTokenSource: a body's function {state}",
            kind,
            words,
            lambda stage, body=body: HTTPTokenSource(stage.bear_url, body=body, ca=stage.ca_file),
        )


def _raise() -> Any:
    raise RuntimeError(m.HIDDEN)


def oauth_arguments() -> Iterator[Row]:
    def source(*args: Any, **how: Any) -> Callable[[Stage], Any]:
        return lambda stage: ClientCredentialsSource("https://auth.example.com/", *args, **how)

    ok = (m.CLIENT_ID, m.CLIENT_SECRET)
    rows: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
        "client_id is empty": (("", m.CLIENT_SECRET), {}, "client_id: "),
        "client_id is blank": ((" ", m.CLIENT_SECRET), {}, "client_id: "),
        "client_id is None": ((None, m.CLIENT_SECRET), {}, "client_id: "),
        "client_secret is missing": ((m.CLIENT_ID,), {}, "client_secret: missing; client_secret_basic sends it"),
        "client_secret is empty": ((m.CLIENT_ID, ""), {}, "client_secret: expected a str that is not empty"),
        "client_secret is a number": ((m.CLIENT_ID, 7), {}, "client_secret: expected a str, a path or a function"),
        "client_secret is bytes": (
            (m.CLIENT_ID, m.CLIENT_SECRET.encode()),
            {},
            "client_secret: expected a str, a path|got bytes",
        ),
        "a secret beside a key": (
            ok,
            {"auth_method": "private_key_jwt", "key": m.P256},
            "client_secret: private_key_jwt",
        ),
        "a key beside a secret": (ok, {"key": m.P256}, "key: client_secret_basic has no use for it|private_key_jwt"),
        "private_key_jwt without a key": ((m.CLIENT_ID,), {"auth_method": "private_key_jwt"}, "key: missing"),
        "an unknown auth_method": (ok, {"auth_method": "basic"}, "auth_method: expected client_secret_basic"),
        "auth_method is a list": (ok, {"auth_method": ["client_secret_basic"]}, "auth_method: expected"),
        "scope is a number": (ok, {"scope": 7}, "scope: expected a str"),
        "scope holds a number": (ok, {"scope": ["read", 7]}, "scope: expected a str"),
        "audience is a list": (ok, {"audience": ["a"]}, "audience: expected a str, got list"),
        "extra is a list": (ok, {"extra": [("a", "b")]}, "extra: expected a mapping, got list"),
        "extra holds client_secret": (
            ok,
            {"extra": {"client_secret": m.HIDDEN}},
            "extra: client_secret has an argument",
        ),
        "extra holds grant_type": (ok, {"extra": {"grant_type": m.HIDDEN}}, "extra: grant_type has an argument"),
        "extra holds a number": (ok, {"extra": {"resource": 7}}, "extra: resource: expected a str or a path, got int"),
        "extra has a name that is a number": (ok, {"extra": {7: m.HIDDEN}}, "extra: a name is no str"),
        "assertion_audience is a number": (
            (m.CLIENT_ID,),
            {"auth_method": "private_key_jwt", "key": m.P256, "assertion_audience": {7}},
            "aud",
        ),
        "key_id is a set": (
            (m.CLIENT_ID,),
            {"auth_method": "private_key_jwt", "key": m.P256, "key_id": {7}},
            "key_id: expected a str, got set",
        ),
        "scope has a line break": (ok, {"scope": f"read\n{m.HIDDEN}"}, "scope: has a line break in it"),
        "audience is not filled in": (ok, {"audience": "${AUDIENCE}"}, "audience: a placeholder"),
    }
    for state, (args, how, words) in rows.items():
        yield build(f"ClientCredentialsSource: {state}", ConfigurationError, words, source(*args, **how))
    secrets: dict[str, tuple[Callable[[], Any], type[grpc_bearer.GrpcBearerError], str]] = {
        "raises": (_raise, TokenUnavailableError, "client_secret: raised RuntimeError"),
        "gives None": (lambda: None, TokenFormatError, "client_secret: expected its function to return a str"),
        "gives bytes": (lambda: b"x", TokenFormatError, "client_secret: |got bytes"),
        "gives an empty str": (lambda: "", TokenUnavailableError, "client_secret: its function returned an empty str"),
    }
    for state, (secret, kind, words) in secrets.items():
        yield fetch(
            f"ClientCredentialsSource: the secret's function {state}",
            kind,
            words,
            lambda stage, secret=secret: ClientCredentialsSource(
                stage.oauth_url, m.CLIENT_ID, secret, ca=stage.ca_file
            ),
        )
    yield fetch(
        "ClientCredentialsSource: the secret's file is missing",
        TokenUnavailableError,
        "none.txt|No such file",
        lambda stage: ClientCredentialsSource(
            stage.oauth_url, m.CLIENT_ID, stage.directory / "none.txt", ca=stage.ca_file
        ),
    )
    yield fetch(
        "ClientCredentialsSource: the secret's file is empty",
        TokenUnavailableError,
        "empty.txt|empty",
        lambda stage: ClientCredentialsSource(
            stage.oauth_url, m.CLIENT_ID, stage.file("empty.txt", ""), ca=stage.ca_file
        ),
    )
    yield fetch(
        "ClientCredentialsSource: the secret's file is binary",
        TokenFormatError,
        "secret.bin|not UTF-8",
        lambda stage: ClientCredentialsSource(
            stage.oauth_url, m.CLIENT_ID, stage.file("secret.bin", b"\xff" + m.CLIENT_SECRET.encode()), ca=stage.ca_file
        ),
    )


def replaced_credentials() -> Iterator[Row]:
    """Bear's file, right when the auth was built and wrong when it is read again."""

    def do(content: str | None) -> Callable[[Stage], Any]:
        def replaced(stage: Stage) -> Any:
            auth, path = _bear(stage), stage.directory / "bear.json"
            if content is None:
                path.unlink()
            else:
                path.write_text(content)
            return auth

        return replaced

    for state, (content, words) in {
        "gone": (None, "cannot read|No such file"),
        "empty": ("", "not JSON"),
        "half written": (json.dumps(m.BEAR)[:40], "not JSON"),
        "without a field": (json.dumps(m.without(m.BEAR, "secret")), "secret: missing"),
        "with an extra field": (json.dumps({**m.BEAR, "token": m.TOKEN}), "token: not known here"),
    }.items():
        yield fetch(
            f"bear: its file is {state} later", TokenUnavailableError, f"credentials: |bear.json|{words}", do(content)
        )


ROWS = [
    *faults(),
    *statuses(),
    *raw_answers(),
    *json_answers(),
    *oauth_answers(),
    *connections(),
    *google(),
    *addresses(),
    *http_arguments(),
    *oauth_arguments(),
    *replaced_credentials(),
]
