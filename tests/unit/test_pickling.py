"""A `BearerAuth` travels as configuration: references to secrets do, secrets do not unless the user says so."""

from __future__ import annotations

import copy
import functools
import json
import os
import pickle
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from jose import verified

from grpc_bearer import (
    AzureIdentitySource,
    BearerAuth,
    ClientCredentialsSource,
    ConfigurationError,
    DeviceCodeSource,
    ExecSource,
    FileSource,
    GoogleAuthSource,
    HTTPTokenSource,
    JWTBearerSource,
    JWTSource,
    RefreshTokenSource,
    RetryPolicy,
    RoutedSource,
    SharedCache,
    StaticSource,
    TokenExchangeSource,
    profiles,
)

URL = "https://auth.example.com/token"
SECRET = "s3cret-" + secrets.token_hex(24)
PRIVATE = ec.generate_private_key(ec.SECP256R1())
PEM = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
LOCKED = PRIVATE.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase")).decode()


def travelled(auth: BearerAuth) -> BearerAuth:
    twin = pickle.loads(pickle.dumps(auth))
    assert isinstance(twin, BearerAuth)
    return twin


def token_function() -> str:
    return "from-a-function"


# ---------------------------------------------------------------------------------------------------------- references


def test_settings_travel_and_a_token_in_use_does_not(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret")
    auth = BearerAuth(FileSource(tmp_path / "token"), "X-Token", "", name="mine", keep_warm=True, max_keys=7)
    auth.token()
    dumped = pickle.dumps(auth)

    twin = pickle.loads(dumped)

    assert b"s3cret" not in dumped
    assert repr(twin) == repr(auth) == "BearerAuth(FileSource, header='x-token', name='mine')"
    assert twin.headers() == {"x-token": "s3cret"}
    assert pickle.dumps(twin) == dumped
    auth.close()
    twin.close()


@pytest.mark.parametrize("how", [{}, {"keep_warm": True}, {"max_keys": 7}, {"scheme": ""}, {"pickle_secrets": True}])
def test_each_setting_is_in_the_pickle(how: dict[str, Any], tmp_path: Path) -> None:
    usual = pickle.dumps(BearerAuth(tmp_path / "token"))

    assert (pickle.dumps(travelled(BearerAuth(tmp_path / "token", **how))) == usual) is (how == {})


def references(folder: Path) -> dict[str, BearerAuth]:
    """Every source, with its secrets somewhere else."""
    (folder / "token").write_text(SECRET)
    (folder / "key.pem").write_text(PEM)
    (folder / "bear.json").write_text(json.dumps({"api_key": "k", "scope": "s", "secret": SECRET}))
    (folder / "openfx.json").write_text(json.dumps({"name": "n", "privateKey": PEM}))
    key = folder / "key.pem"
    return {
        "file": BearerAuth(folder / "token"),
        "environment": BearerAuth(functools.partial(os.getenv, "TOKEN_FOR_TEST")),
        "function": BearerAuth(token_function),
        "jwt": BearerAuth(JWTSource(key, claims={"iss": "me"}, audience=["x"])),
        "client secret": BearerAuth(ClientCredentialsSource(URL, "me", folder / "token")),
        "assertion": BearerAuth(ClientCredentialsSource(URL, "me", auth_method="private_key_jwt", key=key)),
        "command": BearerAuth(ExecSource(["cat", folder / "token"], env=["MY_NAME"])),
        "refresh": BearerAuth(RefreshTokenSource(URL, "me", refresh_token=folder / "token")),
        "device": BearerAuth(DeviceCodeSource(URL, "me", device_authorization_url=URL, store=folder / "login")),
        "exchange": BearerAuth(TokenExchangeSource(URL, subject_token=FileSource(folder / "token"))),
        "exchange of an auth": BearerAuth(TokenExchangeSource(issuer=URL, subject_token=BearerAuth(folder / "token"))),
        "federated": BearerAuth(ClientCredentialsSource(URL, "me", client_assertion=folder / "token")),
        "bearer": BearerAuth(JWTBearerSource(URL, assertion=JWTSource(key, claims={"iss": "me"}))),
        "http": BearerAuth(HTTPTokenSource(URL, body=token_function)),
        "routed": BearerAuth(RoutedSource({"a.*": FileSource(folder / "token"), "*": JWTSource(key)})),
        "bear": profiles.bear(folder / "bear.json"),
        "openfx": profiles.openfx(folder / "openfx.json"),
        "crm": profiles.crm(folder / "token"),
    }


def test_every_source_travels_by_reference(tmp_path: Path) -> None:
    for name, auth in references(tmp_path).items():
        dumped = pickle.dumps(auth)

        assert SECRET.encode() not in dumped, name
        assert PEM.splitlines()[1].encode() not in dumped, name
        assert repr(pickle.loads(dumped)) == repr(auth)
        assert repr(pickle.loads(pickle.dumps(pickle.loads(dumped)))) == repr(auth)
        assert repr(copy.deepcopy(auth)) == repr(auth)


def test_what_was_not_read_when_it_was_pickled_is_read_where_it_arrives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auths = references(tmp_path)
    dumped = {name: pickle.dumps(auths[name]) for name in ("file", "environment", "function")}
    (tmp_path / "token").write_text("rotated")
    monkeypatch.setenv("TOKEN_FOR_TEST", "from-the-environment")

    tokens = {name: pickle.loads(data).token().value for name, data in dumped.items()}

    assert tokens == {"file": "rotated", "environment": "from-the-environment", "function": "from-a-function"}


def test_a_signed_token_is_the_same_persons_after_the_journey(tmp_path: Path) -> None:
    twin = travelled(references(tmp_path)["jwt"])

    assert verified(twin.token().value, PRIVATE.public_key(), "ES256")[1]["iss"] == "me"


def test_another_process_can_use_it(tmp_path: Path) -> None:
    script = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).token().value)"
    dumped = pickle.dumps(references(tmp_path)["file"])

    done = subprocess.run([sys.executable, "-c", script], input=dumped, capture_output=True, check=True)

    assert done.stdout.decode().strip() == SECRET


def test_retry_policies_travel() -> None:
    policy = RetryPolicy()

    assert pickle.loads(pickle.dumps(policy)) == policy


# -------------------------------------------------------------------------------------------------------------- secrets


def google_credentials() -> Any:
    from google.oauth2.credentials import Credentials

    return Credentials(token=SECRET)  # type: ignore[no-untyped-call]


class AzureCredential(NamedTuple):
    token: str = SECRET
    expires_on: int = 4_000_000_000

    def get_token(self, *scopes: str) -> AzureCredential:
        return self


INLINE: dict[str, tuple[str, Callable[[], Any]]] = {
    "static": ("token", lambda: StaticSource(SECRET)),
    "json": ("json", lambda: HTTPTokenSource(URL, json={"secret": SECRET})),
    "headers": (r"headers: X-Key", lambda: HTTPTokenSource(URL, headers={"X-Key": SECRET})),
    "basic": ("auth", lambda: HTTPTokenSource(URL, auth=("me", SECRET))),
    "client_secret": ("client_secret", lambda: ClientCredentialsSource(URL, "me", SECRET)),
    "extra": (r"extra: k", lambda: ClientCredentialsSource(URL, "me", token_function, extra={"k": SECRET})),
    "refresh_token": ("refresh_token", lambda: RefreshTokenSource(URL, "me", refresh_token=SECRET)),
    "subject_token": ("subject_token", lambda: TokenExchangeSource(URL, subject_token=SECRET)),
    "client_assertion": ("client_assertion", lambda: ClientCredentialsSource(URL, "me", client_assertion=SECRET)),
    "chain": ("token", lambda: TokenExchangeSource(URL, subject_token=StaticSource(SECRET))),
    "bearer": ("key", lambda: JWTBearerSource(URL, assertion=JWTSource(PRIVATE))),
    "key object": ("key", lambda: JWTSource(PRIVATE, claims={"iss": "me"})),
    "pem": ("key", lambda: JWTSource(PEM, claims={"iss": "me"})),
    "passphrase": ("key", lambda: JWTSource(LOCKED, claims={"iss": "me"}, passphrase="passphrase")),
    "azure": ("credential", lambda: AzureIdentitySource(AzureCredential(), "api://fleet/.default")),
    "google": ("credentials", lambda: GoogleAuthSource(google_credentials())),
    "routed": ("token", lambda: RoutedSource({"*": StaticSource(SECRET)})),
}


@pytest.mark.parametrize("name", INLINE)
def test_what_was_given_inline_stays_and_the_error_says_what_to_do(name: str) -> None:
    field, make = INLINE[name]

    with pytest.raises(ConfigurationError, match=rf"^{field}: ") as caught:
        pickle.dumps(BearerAuth(make()))

    text = str(caught.value)
    assert SECRET not in text
    assert "pickle_secrets=True" in text
    assert "name a file" in text or "reads the file" in text
    assert "environment variable" in text or "key:" in text or "GOOGLE_APPLICATION_CREDENTIALS" in text


@pytest.mark.parametrize("name", INLINE)
def test_it_travels_when_the_user_says_so_and_travels_on(name: str) -> None:
    auth = BearerAuth(INLINE[name][1](), pickle_secrets=True)

    twin = travelled(travelled(auth))

    assert repr(twin) == repr(auth)
    if name in ("static", "azure", "google"):
        assert twin.token().value == SECRET
    if name in ("key object", "pem", "passphrase"):
        assert verified(twin.token().value, PRIVATE.public_key(), "ES256")[1]["iss"] == "me"


def test_saying_so_for_one_says_it_for_no_other() -> None:
    pickle.dumps(BearerAuth(SECRET, pickle_secrets=True))

    with pytest.raises(ConfigurationError):
        pickle.dumps(BearerAuth(SECRET))
    with pytest.raises(ConfigurationError):
        pickle.dumps([BearerAuth(SECRET, pickle_secrets=True), BearerAuth(SECRET)])


def test_a_lambda_travels_with_cloudpickle_inside_and_outside() -> None:
    cloudpickle = pytest.importorskip("cloudpickle", reason="no cloudpickle here")
    for options in ({}, {"pickle_secrets": True}):
        dumped = cloudpickle.dumps(BearerAuth(lambda: "by-value", **options))

        assert pickle.loads(dumped).token().value == "by-value"


# ---------------------------------------------------------------------------------------------------------------- cache


def test_a_cache_in_a_directory_travels_with_the_auth(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef" * 2)
    cache = SharedCache(tmp_path / "c", encryption_key=tmp_path / "key", name="n", timeout=9, spread=0, patience=7)
    auth = BearerAuth(token_function, cache=cache)

    twin = travelled(auth)

    assert pickle.dumps(twin) == pickle.dumps(auth) != pickle.dumps(BearerAuth(token_function))
    assert auth.token().value == twin.token().value
    assert len(list((tmp_path / "c").glob("*.token"))) == 1


def test_an_inline_encryption_key_and_a_url_are_secrets_too(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="no redis-py here")
    by_key = SharedCache(tmp_path / "c", encryption_key=bytes(range(200, 232)), name="n")
    by_url = SharedCache("redis://:s3cret@127.0.0.1:1", encryption_key=tmp_path / "key", name="n")
    (tmp_path / "key").write_text("0123456789abcdef" * 2)

    with pytest.raises(ConfigurationError, match=r"^encryption_key: given inline"):
        pickle.dumps(BearerAuth(token_function, cache=by_key))
    with pytest.raises(ConfigurationError, match=r"^cache \(its URL\): given inline"):
        pickle.dumps(BearerAuth(token_function, cache=by_url))
    auth = BearerAuth(token_function, cache=by_key, pickle_secrets=True)
    assert [each.token().value for each in (auth, travelled(auth))] == ["from-a-function"] * 2
    assert len(list((tmp_path / "c").glob("*.token"))) == 1  # under another key it would have another name
    plain = SharedCache("redis://127.0.0.1:1/2", encryption_key=tmp_path / "key", name="n")
    for auth in BearerAuth(token_function, cache=by_url, pickle_secrets=True), BearerAuth(token_function, cache=plain):
        assert pickle.dumps(travelled(auth)) == pickle.dumps(auth)


def test_a_redis_client_stays_and_a_function_that_makes_one_travels(tmp_path: Path) -> None:
    redis = pytest.importorskip("redis", reason="no redis-py here")
    (tmp_path / "key").write_text("0123456789abcdef" * 2)
    by_client = SharedCache(redis.Redis(port=1), encryption_key=tmp_path / "key", name="n")
    by_function = SharedCache(functools.partial(redis.Redis, port=1), encryption_key=tmp_path / "key", name="n")

    with pytest.raises(ConfigurationError, match="a Redis client does not pickle; give SharedCache its URL, or a func"):
        pickle.dumps(BearerAuth(token_function, cache=by_client))
    auth = BearerAuth(token_function, cache=by_function)
    assert pickle.dumps(travelled(auth)) == pickle.dumps(auth)
