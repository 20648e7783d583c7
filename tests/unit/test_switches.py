"""Every switch takes a bool and nothing else: `"false"` out of a file or the environment is true to Python.

The cases come from the signatures: a new switch is in them with its first day.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest

import grpc_bearer
from grpc_bearer import BearerAuth, ConfigurationError, GrpcBearerError, TokenFormatError, testing
from grpc_bearer.testing import ProbeStub, throwaway_key

MODULES = ("", ".aio", ".cache", ".connect", ".grpclib", ".otel", ".profiles", ".rest", ".sources", ".testing")
# What the library makes and users read: nobody gives these.
RECORDS = {"Attempt"}
# gRPC's own argument, passed on.
FOREIGN = {"try_to_connect"}
PLAIN = lambda: grpc.insecure_channel("localhost:1")  # noqa: E731

#: What each needs besides its switch.
NEEDS: dict[str, Callable[[], dict[str, Any]]] = {
    "BearerAuth": lambda: {"source": "s3cret"},
    "BearerInterceptor": lambda: {"auth": BearerAuth("s3cret"), "policy": None},
    "CA.server_credentials": dict,
    "ClientCredentialsSource": lambda: {
        "token_url": "https://localhost/",
        "client_id": "me",
        "client_secret": "s3cret",
    },
    "DeviceCodeSource": lambda: {
        "token_url": "https://localhost/",
        "client_id": "me",
        "device_authorization_url": "https://localhost/",
    },
    "FileSource": lambda: {"path": "/run/token"},
    "HTTPTokenSource": lambda: {"url": "https://localhost/"},
    "JWTBearerSource": lambda: {"token_url": "https://localhost/", "assertion": str},
    "JWTSource": lambda: {"key": throwaway_key()},
    "JWTVerifier": lambda: {"key": throwaway_key().public_key(), "algorithms": ["ES256"]},
    "ProbeServer": dict,
    "RefreshTokenSource": lambda: {"token_url": "https://localhost/", "client_id": "me", "refresh_token": "s3cret"},
    "Response": dict,
    "Token": lambda: {"value": "s3cret"},
    "TokenExchangeSource": lambda: {"token_url": "https://localhost/", "subject_token": "s3cret"},
    "aio.insecure_channel": lambda: {"target": "localhost:1", "auth": "s3cret"},
    "aio.intercept_channel": lambda: {"channel": grpc.aio.insecure_channel("localhost:1"), "auth": "s3cret"},
    "aio.interceptors": lambda: {"auth": "s3cret"},
    "attach_to": lambda: {"auth": "s3cret", "targets": "localhost:1"},
    "connect.client": lambda: {"client_class": object, "address": "https://localhost", "auth": "s3cret"},
    "connect.interceptor": lambda: {"address": "https://localhost", "auth": "s3cret"},
    "grpclib.channel": lambda: {"auth": "s3cret"},
    "insecure_channel": lambda: {"target": "localhost:1", "auth": "s3cret"},
    "intercept_channel": lambda: {"channel": PLAIN(), "auth": "s3cret"},
    "interceptor": lambda: {"auth": "s3cret"},
    "private_pem": lambda: {"key": throwaway_key()},
    "rest.httpx_auth": lambda: {"auth": "s3cret"},
    "rest.requests_auth": lambda: {"auth": "s3cret"},
    "wrap_stub": lambda: {"stub": ProbeStub(PLAIN()), "auth": "s3cret"},
}


#: Those that come with an extra.
PACKAGES = {"grpclib.channel": "grpclib", "rest.httpx_auth": "httpx"}


def public() -> Iterator[tuple[str, Any]]:
    """Every public function, class and method, by its name."""
    seen = set[int]()
    for module in MODULES:
        found = importlib.import_module(f"grpc_bearer{module}")
        for name in found.__all__:
            value = getattr(found, name)
            if not callable(value) or id(value) in seen or name in RECORDS:
                continue
            seen.add(id(value))
            where = module[1:] + "." if module in (".aio", ".connect", ".grpclib", ".rest") else ""
            yield where + name, value
            if inspect.isclass(value):
                yield from (
                    (f"{name}.{method}", function)
                    for method, function in vars(value).items()
                    if inspect.isfunction(function) and not method.startswith("_")
                )


def switches() -> Iterator[tuple[str, Any, str]]:
    for name, value in public():
        try:
            parameters = inspect.signature(value).parameters.values()
        except ValueError:  # some that gRPC and protobuf made tell nothing
            continue
        if "**client: 'Unpack[ClientOptions]'" in map(str, parameters):
            yield name, value, "allow_http_loopback"
        for parameter in parameters:
            if parameter.annotation in ("bool", bool) and parameter.name not in FOREIGN:
                yield name, value, parameter.name


SWITCHES = list(switches())


@pytest.mark.parametrize("given", ["false", "", 0, 1, None], ids=repr)
@pytest.mark.parametrize(
    ("name", "value", "switch"), SWITCHES, ids=[f"{name}-{switch}" for name, _, switch in SWITCHES]
)
async def test_a_switch_takes_a_bool_and_nothing_else(name: str, value: Any, switch: str, given: object) -> None:
    if package := PACKAGES.get(name):
        pytest.importorskip(package)
    own = [testing.CA()] if name == "CA.server_credentials" else []
    kind: type[GrpcBearerError] = TokenFormatError if name == "Token" else ConfigurationError

    with pytest.raises(kind) as caught:
        value(*own, **NEEDS[name](), **{switch: given})

    assert str(caught.value) == f"{switch}: expected True or False, got {type(given).__name__}"


def test_all_switches_are_found() -> None:
    assert {name for name, _, _ in SWITCHES} == set(NEEDS)
    assert ("BearerAuth", "pickle_secrets") in {(name, switch) for name, _, switch in SWITCHES}
    assert grpc_bearer.wrap_stub in {value for _, value, _ in SWITCHES}
