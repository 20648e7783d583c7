"""Nothing is imported between the begin of a fetch, or a failure, and its end: there no file may be left to open.

Each in a fresh process, where nothing has been used before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attachments import TLS

from grpc_bearer.testing import OpaqueVerifier, ProbeServer, Response, TokenServer, private_pem, throwaway_key

SCRIPT = r"""
import asyncio, json, os, sys
from pathlib import Path
import grpc
import grpc_bearer
from grpc_bearer import (
    BearerAuth, CallableSource, ClientCredentialsSource, DeviceCodeSource, ExecSource, FileSource, HTTPTokenSource,
    JWTBearerSource, JWTSource, RefreshTokenSource, StaticSource, TokenExchangeSource, aio
)
from grpc_bearer.testing import ProbeReply, ProbeRequest, ProbeStub

given = json.loads(sys.argv[1])
token = Path(given["token"])

async def coroutine():
    return token.read_text()

def http(key):
    fields = {"api_key": key, "scope": "s", "secret": "s3cret"}
    return HTTPTokenSource(given["bear"], body=fields, ca=given["ca"])

SOURCES = {
    "static": lambda: StaticSource(token.read_text()),
    "file": lambda: FileSource(token),
    "function": lambda: CallableSource(token.read_text),
    "coroutine": lambda: CallableSource(coroutine),
    "bear": lambda: grpc_bearer.profiles.bear(
        {"api_key": given["key"], "scope": "s", "secret": "s3cret"}, url=given["bear"], ca=given["ca"]
    ),
    "oauth": lambda: ClientCredentialsSource(given["oauth"], "me", given["secret"], ca=given["ca"]),
    "exchange": lambda: TokenExchangeSource(
        issuer=given["issuer"], subject_token=FileSource(token), client_id="me", key=Path(given["pem"]), ca=given["ca"]
    ),
    "command": lambda: ExecSource(["cat", token]),
    "refresh": lambda: RefreshTokenSource(given["any"], "me", store=given["login"], ca=given["ca"]),
    "device": lambda: DeviceCodeSource(issuer=given["issuer"], client_id="me", store=given["login"], ca=given["ca"]),
    "bearer": lambda: JWTBearerSource(given["any"], assertion=JWTSource(Path(given["pem"])), ca=given["ca"]),
    "jwt": lambda: JWTSource(Path(given["pem"]), claims={"iss": "me"}, lifetime=600),
    "jwt for each call": lambda: JWTSource(Path(given["pem"]), claims={"iss": "me"}, single_use=True),
}

class NoMoreImports:
    names = []
    def find_spec(self, name, path=None, target=None):
        self.names.append(name)
        raise ImportError("no file can be opened any more")

source = SOURCES[given["source"]]()
auth = source if isinstance(source, BearerAuth) else BearerAuth(source)
credentials = grpc.ssl_channel_credentials(Path(given["ca"]).read_bytes())

def attempts(call):
    sys.meta_path.insert(0, NoMoreImports())
    for _ in range(2):
        try:
            call()
            yield "OK"
        except grpc.RpcError as error:
            yield error.code().name

def grpclib_call():
    import ssl
    import grpc_bearer.grpclib
    from grpclib.client import UnaryUnaryMethod
    from grpclib.exceptions import GRPCError

    async def main():
        tls = ssl.create_default_context(cafile=given["ca"])
        tls.set_alpn_protocols(["h2"])
        "localhost".encode("idna")  # as Python's own ssl does
        host, _, port = given["target"].rpartition(":")
        async with grpc_bearer.grpclib.channel(host, int(port), auth=auth, ssl=tls) as channel:
            method = UnaryUnaryMethod(channel, METHOD, ProbeRequest, ProbeReply)
            sys.meta_path.insert(0, NoMoreImports())
            for _ in range(2):
                try:
                    await method(ProbeRequest(index=1), timeout=20)
                    codes.append("OK")
                except GRPCError as error:
                    codes.append(error.status.name)
    asyncio.run(main())

def connect_call():
    import grpc_bearer.connect
    from connectrpc.client import ConnectClientSync
    from connectrpc.compat import google_protobuf_binary_codec
    from connectrpc.errors import ConnectError
    from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
    from connectrpc.protocol import ProtocolType
    from pyqwest import HTTPVersion, SyncClient, SyncHTTPTransport

    kinds = {"idempotency_level": IdempotencyLevel.UNKNOWN, "stream_type": StreamType.UNARY}
    service, _, name = METHOD.strip("/").partition("/")
    method = MethodInfo(name=name, service_name=service, input=ProbeRequest, output=ProbeReply, **kinds)
    tls = {"tls_ca_cert": Path(given["ca"]).read_bytes(), "http_version": HTTPVersion.HTTP2}
    how = {"protocol": ProtocolType.GRPC, "codec": google_protobuf_binary_codec(), "send_compression": None}
    with SyncHTTPTransport(**tls) as transport:
        address, http_client = "https://" + given["target"], SyncClient(transport)
        client = grpc_bearer.connect.client(ConnectClientSync, address, auth=auth, http_client=http_client, **how)
        sys.meta_path.insert(0, NoMoreImports())
        for _ in range(2):
            try:
                client.execute_unary(request=ProbeRequest(index=1), method=method, timeout_ms=20_000)
                codes.append("OK")
            except ConnectError as error:
                codes.append(error.code.name)

METHOD = "/grpc_bearer.testing.v1.Probe/Unary"
RUNTIMES = {"grpclib": grpclib_call, "connectrpc": connect_call}
if given.get("runtime"):
    codes = []
    RUNTIMES[given["runtime"]]()
elif given["asyncio"]:
    async def main():
        async with aio.secure_channel(given["target"], credentials, auth=auth) as channel:
            stub = ProbeStub(channel)
            sys.meta_path.insert(0, NoMoreImports())
            for _ in range(2):
                try:
                    await stub.Unary(ProbeRequest(index=1), timeout=20)
                    yield_ = "OK"
                except grpc.RpcError as error:
                    yield_ = error.code().name
                codes.append(yield_)
    codes = []
    asyncio.run(main())
else:
    with grpc_bearer.secure_channel(given["target"], credentials, auth=auth) as channel:
        stub = ProbeStub(channel)
        codes = list(attempts(lambda: stub.Unary(ProbeRequest(index=1), timeout=20)))
print(json.dumps([codes, NoMoreImports.names]), flush=True)
os._exit(0)  # older versions of grpc.aio (1.66) wait at exit for a thread of their own, now and then for ever
"""


class AnyToken(OpaqueVerifier):
    """Takes every token but one."""

    def _judge(self, verdict: Any, token: str, method: str) -> None:
        if token != "bad":
            self.accept(token)
        super()._judge(verdict, token, method)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("late")
    pem = folder / "key.pem"
    pem.write_text(private_pem(throwaway_key("ES256")))
    with ProbeServer(AnyToken(), TLS) as server, TokenServer(TLS) as tokens:
        yield {
            "target": server.target,
            "ca": str(TLS.write(folder)),
            "pem": str(pem),
            "token": str(folder / "token"),
            "login": str(folder / "login"),
            "key": "key",
            "secret": "s3cret",
            "bear": tokens.serve_bear({"api_key": "key", "scope": "s", "secret": "s3cret"}),
            "oauth": tokens.serve_client_credentials("me", "s3cret"),
            "issuer": serve_issuer(tokens),
            "any": tokens.url("/any"),
        }


def serve_issuer(tokens: TokenServer) -> str:
    """An authorization server that gives a token for anything; its name."""

    def answered(answer: dict[str, object]) -> Callable[[object], Response]:
        return lambda request: Response(200, json.dumps(answer).encode(), content_type="application/json")

    name = tokens.url("/tenant")
    metadata = {"issuer": name, "token_endpoint": tokens.url("/any")}
    tokens.serve("/.well-known/oauth-authorization-server/tenant", answered(metadata))
    tokens.serve("/any", answered({"access_token": "good", "token_type": "Bearer", "expires_in": 3600}))
    return name


def calls(given: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The status codes of two calls, and what was imported meanwhile."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(given)], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    codes, names = json.loads(run.stdout)
    return codes, names


# A process for each: asyncio's, which fetch by the same code, play in `make check`.
HOW = pytest.mark.parametrize("how", ["sync", pytest.param("asyncio", marks=pytest.mark.nightly)])
OF_HTTP = ["bear", "oauth", "exchange", "bearer", "refresh", "device"]
ALL = ["static", "file", "function", "coroutine", "command", *OF_HTTP, "jwt", "jwt for each call"]


@HOW
@pytest.mark.parametrize("source", ALL)
def test_the_first_call_that_goes_well_imports_nothing(given: dict[str, Any], source: str, how: str) -> None:
    Path(given["token"]).write_text("good")
    Path(given["login"]).touch(0o600)
    Path(given["login"]).write_text("a-refresh-token")

    codes, names = calls({**given, "source": source, "asyncio": how == "asyncio"})

    assert names == []
    assert codes == ["OK", "OK"]


@HOW
@pytest.mark.parametrize("source", ["static", "file", "function"])
def test_the_first_refusal_imports_nothing(given: dict[str, Any], source: str, how: str) -> None:
    Path(given["token"]).write_text("bad")

    codes, names = calls({**given, "source": source, "asyncio": how == "asyncio"})

    assert names == []
    assert codes == ["UNAUTHENTICATED", "UNAUTHENTICATED"]


@pytest.mark.parametrize("runtime", ["grpclib", "connectrpc"])
@pytest.mark.parametrize(("token", "code"), [("good", "OK"), ("bad", "UNAUTHENTICATED")])
def test_other_runtimes_import_nothing_either(given: dict[str, Any], runtime: str, token: str, code: str) -> None:
    pytest.importorskip(runtime, reason=f"no {runtime} here")
    Path(given["token"]).write_text(token)

    codes, names = calls({**given, "source": "function", "asyncio": False, "runtime": runtime})

    assert names == []
    assert codes == [code, code]


FAILURES = [
    ("file", {"token": "/nowhere"}, "UNAVAILABLE"),
    ("function", {"token": "/nowhere"}, "UNAVAILABLE"),
    ("coroutine", {"token": "/nowhere"}, "UNAVAILABLE"),
    ("bear", {"key": "another"}, "UNAUTHENTICATED"),
    ("oauth", {"secret": "another"}, "UNAUTHENTICATED"),
    ("bear", {"bear": "https://localhost:1/token"}, "UNAVAILABLE"),
    ("oauth", {"oauth": "https://nowhere.invalid/token"}, "UNAVAILABLE"),
    ("exchange", {"issuer": "https://localhost:1/"}, "UNAVAILABLE"),
    ("exchange", {"token": "/nowhere"}, "UNAVAILABLE"),
    ("command", {"token": "/nowhere"}, "UNAVAILABLE"),
    ("refresh", {"any": "https://localhost:1/token"}, "UNAVAILABLE"),
    ("refresh", {"login": "/dev/null/login"}, "UNAVAILABLE"),
    ("device", {"login": "/dev/null/login"}, "UNAVAILABLE"),
    ("bearer", {"any": "https://localhost:1/token"}, "UNAVAILABLE"),
]


@HOW
@pytest.mark.parametrize(("source", "wrong", "code"), FAILURES)
def test_the_first_fetch_that_fails_imports_nothing(
    given: dict[str, Any], source: str, wrong: dict[str, str], code: str, how: str
) -> None:
    Path(given["login"]).write_text("a-refresh-token")

    codes, names = calls({**given, **wrong, "source": source, "asyncio": how == "asyncio"})

    assert names == []
    assert codes == [code, code]
