"""What a row is, the servers that it runs against, and how it is judged."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import pytest
from secrets_harness import Watch, lines_of

import grpc_bearer
from grpc_bearer import BearerAuth, GrpcBearerError, Source, TokenError
from grpc_bearer.testing import CA, OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub, Response, TokenServer

from . import material as m

PATIENCE = 20.0
Moment = Literal["build", "fetch", "call"]


class Stage:
    """The servers, and a folder of its own for each row."""

    def __init__(self, directory: Path) -> None:
        self.ca = CA()
        self.ca_file = self.ca.write(directory)
        self.other_ca_file = CA().write(_made(directory / "other"))
        self.directory = directory
        self.tokens = TokenServer(self.ca)
        self.elsewhere = TokenServer(self.ca)
        self.server = ProbeServer(OpaqueVerifier([m.TOKEN]), self.ca)
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> Stage:
        for each in (self.tokens, self.elsewhere, self.server):
            self.stack.enter_context(each)
        self.bear_url = self.tokens.serve_bear(m.BEAR)
        self.oauth_url = self.tokens.serve_client_credentials(
            m.CLIENT_ID, m.CLIENT_SECRET, public_key=m.RSA.public_key()
        )
        self.elsewhere_url = self.elsewhere.serve_bear(m.BEAR)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return self.ca.channel_credentials()

    @property
    def service_url(self) -> str:
        return f"https://{self.server.target}/grpc_bearer.testing.v1.Probe"

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def folder(self, name: str) -> Path:
        return _made(self.directory / name)

    def answering(self, body: str | bytes, status: int = 200, **headers: str) -> str:
        """The address of an endpoint that always answers this."""
        data = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.tokens.serve("/answer", lambda request: Response(status, data, named))

    def echoing(self, status: int, before: str = "") -> str:
        """The address of an endpoint that answers with the request itself, as some do in their error pages."""

        def echo(request: Any) -> Response:
            said = before.encode() + request.body + request.headers.get("authorization", "").encode()
            return Response(status, said)

        return self.tokens.serve("/echo", echo)


def _made(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path


@dataclass(frozen=True)
class Row:
    """One thing to get wrong.

    Args:
        name: in words.
        moment: when it must be known: when built, when a token is fetched, or when a call is made.
        kind: the class of our error. For `"call"`: of the cause of what gRPC raises.
        says: what the error's text must hold: the field, the file, what to do.
        do: gets it wrong. What it builds is asked for a token (`"fetch"`), or a call is made with it (`"call"`).
        code: for `"call"`: how the RPC ends.
        where: for `"call"`: the way's arguments, besides `auth`.
    """

    name: str
    moment: Moment
    kind: type[GrpcBearerError] | None
    says: tuple[str, ...]
    do: Callable[[Stage], Any]
    code: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED
    after: Callable[[Stage], None] | None = None

    def __str__(self) -> str:
        return self.name


def build(name: str, kind: type[GrpcBearerError], says: str, do: Callable[[Stage], Any]) -> Row:
    """A row whose mistake must be known when the object is built; `says` holds its words, parted by `|`."""
    return Row(name, "build", kind, tuple(says.split("|")), do)


def fetch(name: str, kind: type[GrpcBearerError], says: str, do: Callable[[Stage], Any], **how: Any) -> Row:
    """A row whose mistake shows when a token is fetched."""
    return Row(name, "fetch", kind, tuple(says.split("|")), do, **how)


# -- judging ----------------------------------------------------------------------------------------------------------


def judge(row: Row, stage: Stage) -> None:
    """Run the row; everything that the issue asks of it is asserted here."""
    with Watch() as watch:
        m.tell(watch)
        try:
            {"build": _judge_build, "fetch": _judge_fetch, "call": _judge_call}[row.moment](row, stage, watch)
        finally:
            stage.tokens.heal()
    if row.after is not None:
        row.after(stage)
    assert watch.leaks() == [], lines_of(watch.leaks())


def _judge_build(row: Row, stage: Stage, watch: Watch) -> None:
    with pytest.raises(GrpcBearerError) as caught:
        row.do(stage)
    _check(row, caught.value, watch)


def _judge_fetch(row: Row, stage: Stage, watch: Watch) -> None:
    built = row.do(stage)
    if isinstance(built, Source):  # a function is the user's own, and shows itself as it likes
        watch.value(built)
    with _auth(built) as auth:
        watch.value(auth)
        with pytest.raises(GrpcBearerError) as caught:
            auth.token(stage.service_url, "Unary")
        _check(row, caught.value, watch)
        # The same in a call: the engine leaves the source alone after a failure, and tells the same error again.
        for error in (_sync_call(stage, auth, watch), asyncio.run(_aio_call(stage, auth, watch))):
            assert _is(error.__cause__, row.kind)
            code = error.__cause__.code if hasattr(error.__cause__, "code") else grpc.StatusCode.UNAUTHENTICATED
            assert error.code() is code
            assert all(word in error.details() for word in row.says)
    watch.value(auth, "the closed auth")


def _judge_call(row: Row, stage: Stage, watch: Watch) -> None:
    with _auth(row.do(stage)) as auth:
        watch.value(auth)
        for error in (_sync_call(stage, auth, watch), asyncio.run(_aio_call(stage, auth, watch))):
            assert error.code() is row.code
            if row.kind is not None:
                _check(row, error.__cause__, watch)
            else:
                assert all(word in error.details() for word in row.says)


def _auth(built: Any) -> BearerAuth:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return built if isinstance(built, BearerAuth) else BearerAuth(built)


def _check(row: Row, error: BaseException | None, watch: Watch) -> None:
    assert error is not None
    assert _is(error, row.kind), f"{type(error).__name__}: {error}"
    for words in row.says:
        assert words in str(error), f"{words!r} not in {str(error)!r}"
    assert "\n" not in str(error)
    watch.error(error)


def _is(error: BaseException, kind: type[GrpcBearerError] | None) -> bool:
    # `TokenError` stands for any of its subclasses: where google-auth's versions differ.
    return isinstance(error, TokenError) if kind is TokenError else type(error) is kind


def _sync_call(stage: Stage, auth: BearerAuth, watch: Watch) -> Any:
    """A unary call and a stream, both of which must fail; the unary call's error."""
    with grpc_bearer.secure_channel(stage.server.target, stage.credentials, auth=auth) as channel:
        stub = ProbeStub(channel)
        stream = stub.ServerStream(ProbeRequest(replies=2), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError) as in_stream:
            list(stream)
        watch.rpc(stream)
        watch.error(in_stream.value)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Unary(ProbeRequest(index=1), timeout=PATIENCE)
        watch.error(caught.value)
        watch.value(channel)
    return caught.value


async def _aio_call(stage: Stage, auth: BearerAuth, watch: Watch) -> Any:
    async with grpc_bearer.aio.secure_channel(stage.server.target, stage.credentials, auth=auth) as channel:
        call = ProbeStub(channel).Unary(ProbeRequest(index=1), timeout=PATIENCE)
        with pytest.raises(grpc.RpcError) as caught:
            await call
        await watch.arpc(call)
        watch.error(caught.value)
        watch.value(channel)
    return caught.value


@contextlib.contextmanager
def no_environment(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> Iterator[None]:
    """Without the proxies of this machine, and with the stage's authority for those who take no other."""
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(stage.ca_file))
    yield
