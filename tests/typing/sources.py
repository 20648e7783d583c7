"""Sources and auth objects as users make them. Read by type checkers (`make types`), never run."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true
from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path
from typing import NamedTuple

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from google.auth.credentials import Credentials
from typing_extensions import assert_type

import grpc_bearer
from grpc_bearer import (
    AzureIdentitySource,
    BearerAuth,
    CallableSource,
    CallContext,
    ClientCredentialsSource,
    Clock,
    DeviceCodeSource,
    ExecSource,
    FileSource,
    GoogleAuthSource,
    HTTPTokenSource,
    JWTBearerSource,
    JWTSource,
    RefreshTokenSource,
    RoutedSource,
    Source,
    StaticSource,
    Token,
    TokenExchangeSource,
    profiles,
)
from grpc_bearer.sources import PerToken, nonce
from grpc_bearer.sources.device import DevicePrompt
from grpc_bearer.testing import ManualClock


def audience(call: CallContext) -> str:
    return call.service


# Every source is a `Source`, and gives a `Token`.
sources: list[Source] = [
    StaticSource("t0"),
    FileSource("token.txt"),
    FileSource(Path("token.json"), json_field="token", poll=1),
    HTTPTokenSource("https://localhost/token", json={"id": 7}, field="token", refresh_after=(900, 1200)),
    HTTPTokenSource("https://localhost/token", headers={"x-key": Path("key")}, auth=("me", Path("password"))),
    HTTPTokenSource("https://localhost/token", form={"a": "b", "secret": Path("secret")}),
    HTTPTokenSource("https://localhost/token", body=Path("body.json")),
    ClientCredentialsSource("https://localhost/token", "me", "s3cret", scope=["read", "write"]),
    ClientCredentialsSource("https://localhost/token", "me", Path("secret"), extra={"assertion": Path("assertion")}),
    ClientCredentialsSource(issuer="https://localhost", client_id="me", client_assertion=Path("token")),
    TokenExchangeSource(
        "https://localhost/token", subject_token=FileSource("token"), resource=["https://a", "https://b"]
    ),
    TokenExchangeSource(issuer="https://localhost", subject_token=BearerAuth("t0"), client_id="me", key="key.pem"),
    TokenExchangeSource("https://localhost/token", subject_token=lambda: "t0", cert=("tls.crt", "tls.key")),
    JWTBearerSource("https://localhost/token", assertion=JWTSource("key.pem"), scope="read"),
    RefreshTokenSource("https://localhost/token", "me", refresh_token=Path("login"), scope=["read"]),
    RefreshTokenSource(issuer="https://localhost", client_id="me", refresh_token=lambda: "t0", store="login"),
    DeviceCodeSource(issuer="https://localhost", client_id="me", prompt=print, scope="offline_access", store=Path("l")),
    ExecSource(["gcloud", "auth", "print-access-token"], env=["CLOUDSDK_*"], max_age=600),
    ExecSource((Path("plugin"), "token"), json_field="status.token", timeout=5),
    JWTSource("key.pem", passphrase=Path("passphrase")),
    ClientCredentialsSource("https://localhost/token", "me", key="key.pem", auth_method="private_key_jwt"),
    JWTSource("key.pem", claims={"iss": "me", "jti": PerToken(lambda: str(uuid.uuid4()))}, headers={"nonce": nonce}),
    JWTSource("key.pem", claims=lambda call: {"role": call.method}, audience=audience, lifetime=60),
    RoutedSource({"shop.v1.Orders/*": StaticSource("t0"), "*": FileSource("token.txt")}),
]
assert_type(sources[0].fetch(CallContext("https://localhost/shop.v1.Orders", "List")), Token)
StaticSource(b"t0")  # type: ignore[arg-type]
FileSource(7)  # type: ignore[arg-type]
FileSource("token.json", object())  # type: ignore[arg-type, call-arg]
HTTPTokenSource("https://localhost/token", refresh_after=900)  # type: ignore[arg-type]
HTTPTokenSource("https://localhost/token", form={"secret": None})  # type: ignore[dict-item]
HTTPTokenSource("https://localhost/token", allow_http_loopback="no")  # type: ignore[arg-type]
ClientCredentialsSource("https://localhost/token", "me", "s3cret", auth_method="basic")  # type: ignore[arg-type]
TokenExchangeSource("https://localhost/token", "t0")  # type: ignore[call-arg]
RefreshTokenSource("https://localhost/token", "me", refresh_token=7)  # type: ignore[arg-type]
DeviceCodeSource("https://localhost/token", "me", prompt="ask")  # type: ignore[arg-type]
ExecSource(["true"], env=7)  # type: ignore[arg-type]
assert_type(DeviceCodeSource(issuer="https://localhost", client_id="me").log_in(), Token)


def shows(prompt: DevicePrompt) -> None:
    assert_type(prompt.user_code, str)
    assert_type(prompt.expires_in, float)


DeviceCodeSource(issuer="https://localhost", client_id="me", prompt=shows)
JWTBearerSource("https://localhost/token", assertion="t0")  # type: ignore[arg-type]
JWTBearerSource("https://localhost/token", assertion=Path("t0"), scop="read")  # type: ignore[call-arg]
RoutedSource({"*": "t0"})  # type: ignore[dict-item]
JWTSource("key.pem", claims="iss")  # type: ignore[arg-type]
JWTSource(5)  # type: ignore[arg-type]
JWTSource(None)  # type: ignore[arg-type]
ClientCredentialsSource("https://localhost/token", "me", key=5)  # type: ignore[arg-type]

# A key in all its forms.
JWTSource(load_pem_private_key(b"", None))
JWTSource({"kty": "EC"})
JWTSource(lambda data: data, algorithm="ES256")


# A function, sync or async, with the call or without; what it returns must be a token.
async def from_a_vault() -> Token:
    return Token("t0", expires_at=1_700_000_000)


async def by_call(call: CallContext) -> str:
    return call.method


def with_a_default(token: str = "t0") -> str:
    return token


CallableSource(lambda: "t0")
CallableSource(from_a_vault, loop=asyncio.new_event_loop(), timeout=5, max_age=3600)
CallableSource(lambda: "t0", max_age="1h")  # type: ignore[arg-type]
CallableSource(by_call, key=lambda call: call.method)
CallableSource(lambda: 7)  # type: ignore[arg-type, return-value]
CallableSource("t0")  # type: ignore[arg-type]


# A source of one's own.
class Clockwork(Source):
    single_use = True

    def fetch(self, context: CallContext) -> Token:
        return Token(f"{context.service}.{context.method}", context.clock.time() + 60, single_use=True)

    def key(self, context: CallContext) -> str:
        return context.method


class Forgetful(Source):
    pass


class Asynchronous(Source):
    async def fetch(self, context: CallContext) -> Token:  # type: ignore[override]
        return Token("t0")


Forgetful()  # type: ignore[abstract]

# Any of these, and what stands for one, makes an auth.
auth = BearerAuth(Clockwork(), "x-api-token", "", keep_warm=True, max_keys=8, clock=ManualClock())
BearerAuth(from_a_vault)
BearerAuth(Path("token.txt"), header="x-api-token", scheme="")
BearerAuth("t0", "authorization", "Bearer", object())  # type: ignore[arg-type, call-arg]
BearerAuth("t0", clock="now")  # type: ignore[arg-type]
BearerAuth()  # type: ignore[call-arg]
BearerAuth(by_call)
BearerAuth(lambda: os.environ["TOKEN"])
BearerAuth(with_a_default)
BearerAuth(5)  # type: ignore[arg-type]
BearerAuth(None)  # type: ignore[arg-type]
BearerAuth({"token": "t0"})  # type: ignore[arg-type]
BearerAuth(b"t0")  # type: ignore[arg-type]
BearerAuth(lambda: 7)  # type: ignore[arg-type]
BearerAuth(BearerAuth("t0"))  # type: ignore[arg-type]
BearerAuth(grpc_bearer.call_credentials("t0"))  # type: ignore[arg-type]

assert_type(auth.token("https://localhost/shop.v1.Orders", "List", timeout=5), Token)
assert_type(auth.headers(), dict[str, str])
assert_type(auth.header, str)
assert_type(auth.single_use, bool)
assert_type(auth.invalidate("t0"), bool)
assert_type(auth.invalidate(auth.token()), bool)
auth.invalidate(b"t0")  # type: ignore[arg-type]
auth.header = "x-other"  # type: ignore[misc]
auth.close()
with BearerAuth("t0") as closing:
    assert_type(closing, BearerAuth)

# A token is a value.
token = Token("t0", expires_at=1_700_000_000.5, refresh_at=None)
assert_type(token.value, str)
assert_type(token.expires_at, float | None)
assert_type(token.fingerprint, str)
token.value = "t1"  # type: ignore[misc]
Token(b"t0")  # type: ignore[arg-type]


# A clock is whatever tells the time.
def seconds(clock: Clock) -> float:
    return clock.time() - clock.monotonic()


seconds(ManualClock())
seconds(None)  # type: ignore[arg-type]


# google-auth, both ways.
def google(credentials: Credentials) -> None:
    GoogleAuthSource(credentials)
    assert_type(BearerAuth(credentials).as_google_credentials(), Credentials)
    GoogleAuthSource("adc.json")  # type: ignore[arg-type]


# azure-identity, blocking and not.
class Blocking:
    def get_token(self, *scopes: str, claims: str | None = None, enable_cae: bool = False) -> AccessToken:
        return AccessToken("t0", 0)


class Awaiting:
    async def get_token(self, *scopes: str, claims: str | None = None) -> AccessToken:
        return AccessToken("t0", 0)


class AccessToken(NamedTuple):
    token: str
    expires_on: int


assert_type(BearerAuth(Blocking(), scope="api://fleet/.default"), BearerAuth)
AzureIdentitySource(Awaiting(), ["api://fleet/.default"], timeout=5)
AzureIdentitySource(Blocking())  # type: ignore[call-arg]
AzureIdentitySource("t0", "api://fleet/.default")  # type: ignore[arg-type]
BearerAuth(Blocking(), scope=7)  # type: ignore[arg-type]


# The five services.
assert_type(profiles.bear("credentials.json"), BearerAuth)
assert_type(profiles.bear({"api_key": "k", "scope": "s", "secret": "s3cret"}, ca=Path("ca.pem")), BearerAuth)
assert_type(profiles.skykit("key.pem", "you@example.com", passphrase=b"s3cret", lifetime=600), BearerAuth)
assert_type(profiles.bitbroker("t0"), BearerAuth)
assert_type(profiles.bitbroker(consumer=Path("t"), routes={"a.B/*": "consumer"}), BearerAuth)
assert_type(profiles.crm(lambda: "t0", keep_warm=True), BearerAuth)
assert_type(profiles.openfx(Path("key.json"), audience="developer-api"), BearerAuth)
profiles.bear()  # type: ignore[call-arg]
profiles.bear({"api_key": 7})  # type: ignore[dict-item]
profiles.skykit("key.pem")  # type: ignore[call-arg]
profiles.crm(7)  # type: ignore[arg-type]
profiles.bitbroker("t0", routes=["a.B/*"])  # type: ignore[arg-type]
