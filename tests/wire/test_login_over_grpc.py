"""Code of the user's that logs in over gRPC and is refused: the status is told, and what lasts is not tried again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from _https import assert_hidden
from grpc import aio

from grpc_bearer import BearerAuth, CallableSource, CallContext, JWTSource, Source, Token
from grpc_bearer.errors import GrpcBearerError, TokenRejectedError, TokenUnavailableError
from grpc_bearer.sources import HTTPTokenSource
from grpc_bearer.testing import ManualClock

NOW = 1_700_000_000.0
CONTEXT = CallContext("https://api.example.com/fleet.v1.Fleet", "List", clock=ManualClock(NOW))
LASTING = ["UNAUTHENTICATED", "PERMISSION_DENIED", "INVALID_ARGUMENT"]
PASSING = ["UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN"]


class Service:
    """A service to log in to, `/login.Login/{status}`, which answers with that status."""

    def __init__(self, port: int) -> None:
        self.target = f"127.0.0.1:{port}"

    def login(self, status: str) -> str:
        with grpc.insecure_channel(self.target) as channel:
            return str(channel.unary_unary(f"/login.Login/{status}")(b"", timeout=20))

    async def alogin(self, status: str) -> str:
        async with aio.insecure_channel(self.target) as channel:
            return str(await channel.unary_unary(f"/login.Login/{status}")(b"", timeout=20))


class Refusing(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        code = grpc.StatusCode[handler_call_details.method.rpartition("/")[2]]
        return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(code, "s3cret"))


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    server = grpc.server(ThreadPoolExecutor(2), handlers=(Refusing(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Service(port)
    server.stop(None).wait()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)


def failure(source: Source, kind: type[GrpcBearerError]) -> str:
    with pytest.raises(kind) as caught:
        source.fetch(CONTEXT)
    assert type(caught.value) is kind
    assert_hidden(caught.value, "s3cret")
    return str(caught.value)


class TestAFunction:
    @pytest.mark.parametrize("code", LASTING)
    @pytest.mark.parametrize("kind", ["sync", "asyncio"])
    def test_a_refusal_names_the_status_and_is_lasting(self, code: str, kind: str, service: Service) -> None:
        calls: list[None] = []

        def login() -> str:
            calls.append(None)
            return service.login(code)

        async def alogin() -> str:
            calls.append(None)
            return await service.alogin(code)

        clock = ManualClock(NOW)
        auth = BearerAuth(login if kind == "sync" else alogin, clock=clock)
        for _ in range(5):
            with pytest.raises(TokenRejectedError, match=rf"login\(\): its call ended with {code}\b") as caught:
                auth.token(timeout=20)
            assert_hidden(caught.value, "s3cret")
            clock.advance(10)
        assert len(calls) == 1
        auth.close()

    @pytest.mark.parametrize("code", PASSING)
    def test_other_statuses_pass(self, code: str, service: Service) -> None:
        said = failure(CallableSource(lambda: service.login(code)), TokenUnavailableError)
        assert said.endswith(f": its call ended with {code}")

    def test_an_error_of_its_own_that_was_made_of_it(self, service: Service) -> None:
        def login() -> str:
            try:
                return service.login("UNAUTHENTICATED")
            except grpc.RpcError as error:
                raise RuntimeError("s3cret") from error

        said = failure(CallableSource(login), TokenRejectedError)
        assert said.endswith("login(): its call ended with UNAUTHENTICATED")

    def test_but_not_one_that_came_while_it_was_handled(self, service: Service) -> None:
        def login() -> str:
            try:
                return service.login("UNAUTHENTICATED")
            except grpc.RpcError:
                raise ConnectionError("s3cret")  # noqa: B904  # the second way in fails on its own account

        assert failure(CallableSource(login), TokenUnavailableError).endswith("login(): raised ConnectionError")

    def test_one_that_says_more_itself_is_taken_at_its_word(self, service: Service) -> None:
        def login() -> str:
            try:
                return service.login("UNAUTHENTICATED")
            except grpc.RpcError as error:
                raise TokenUnavailableError("the vault is sealed") from error

        assert failure(CallableSource(login), TokenUnavailableError) == "the vault is sealed"

    def test_the_errors_of_googles_clients_are_no_rpc_errors(self) -> None:
        exceptions = pytest.importorskip("google.api_core.exceptions", reason="no google-api-core here")

        def refused() -> str:
            raise exceptions.PermissionDenied("s3cret")

        def away() -> str:
            raise exceptions.ServiceUnavailable("s3cret")

        def over_http() -> str:
            raise exceptions.Forbidden("s3cret")

        assert failure(CallableSource(refused), TokenRejectedError).endswith("its call ended with PERMISSION_DENIED")
        assert failure(CallableSource(away), TokenUnavailableError).endswith("its call ended with UNAVAILABLE")
        assert failure(CallableSource(over_http), TokenUnavailableError).endswith("raised Forbidden")

    @pytest.mark.parametrize("code", [None, 16, ValueError("s3cret")])
    def test_an_error_without_a_status_is_told_by_its_type(self, code: Any) -> None:
        class Odd(grpc.RpcError):
            def code(self) -> Any:
                if isinstance(code, Exception):
                    raise code
                return code

        def login() -> str:
            error = Odd()
            raise error from error

        assert failure(CallableSource(login), TokenUnavailableError).endswith("login(): raised Odd")


class TestWhateverElseLogsIn:
    @pytest.mark.parametrize(
        ("code", "kind"), [("UNAUTHENTICATED", TokenRejectedError), ("INTERNAL", TokenUnavailableError)]
    )
    def test_a_source_of_the_users(self, code: str, kind: type[GrpcBearerError], service: Service) -> None:
        class Vault(Source):
            def fetch(self, context: CallContext) -> Token:
                return Token(service.login(code))

        auth = BearerAuth(Vault(), clock=ManualClock(NOW))
        with pytest.raises(kind, match=rf"^Vault\.fetch: its call ended with {code}\b") as caught:
            auth.token(timeout=20)
        assert_hidden(caught.value, "s3cret")
        auth.close()

    def test_a_function_that_makes_a_body(self, service: Service) -> None:
        source = HTTPTokenSource("https://auth.example.com/token", body=lambda: service.login("PERMISSION_DENIED"))
        assert failure(source, TokenRejectedError) == "body: its call ended with PERMISSION_DENIED"

    @pytest.mark.parametrize(
        ("code", "kind"), [("PERMISSION_DENIED", TokenRejectedError), ("UNAVAILABLE", TokenUnavailableError)]
    )
    def test_a_key_in_a_kms(self, code: str, kind: type[GrpcBearerError], service: Service) -> None:
        def sign(data: bytes) -> bytes:
            return service.login(code).encode()

        said = failure(JWTSource(sign, algorithm="RS256"), kind)
        assert said == f"key: its call ended with {code}"

    @pytest.mark.parametrize("claims", ["one", "all"])
    def test_a_function_that_makes_claims(self, claims: str, service: Service) -> None:
        def subject(context: CallContext) -> str:
            return service.login("UNAUTHENTICATED")

        given: Any = {"sub": subject} if claims == "one" else subject
        where = "claims['sub']" if claims == "one" else "claims"
        source = JWTSource(lambda data: b"", algorithm="RS256", claims=given)
        said = failure(source, TokenRejectedError)
        assert said == f"{where}: its call ended with UNAUTHENTICATED for service 'fleet.v1.Fleet'"
