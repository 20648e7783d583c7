"""`check` and `call` behind proxies: the status that a proxy gives is not lost, and a token too long for it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("hpack", reason="the peer needs the hpack package")
pytest.importorskip("hyperframe", reason="the peer needs the hyperframe package")
pytest.importorskip("grpc_health", reason="needs the cli extra")
pytest.importorskip("grpc_reflection", reason="needs the cli extra")

from _cli_server import PROBE, TOKEN, Ran, run
from _http2_peer import CANCEL, ENHANCE_YOUR_CALM, Answer, Peer, Request

import grpc_bearer
from grpc_bearer import TokenFormatError
from grpc_bearer._cli import probe
from grpc_bearer._cli.codes import Exit

METHOD = f"{PROBE}/Unary"
_UNAUTHENTICATED, _UNIMPLEMENTED = 16, 12


def haproxy(request: Request) -> bytes:
    """Refuses at once, and ends a stream whose requests are still on their way."""
    return request.grpc(_UNAUTHENTICATED) + (b"" if request.ended else request.reset(CANCEL))


def check(target: str, folder: Path, *more: str, token: str = TOKEN) -> Ran:
    (folder / "token").write_text(token)
    options = ["--profile", "crm", "--token-file", str(folder / "token"), "--plaintext", "--timeout", "5", "--json"]
    return run("check", target, *options, *more, warnings="ignore")  # that a token is long is one


def test_a_proxy_that_refuses_before_the_request_is_in_is_a_refusal(tmp_path: Path) -> None:
    with Peer(haproxy) as proxy:
        ran = check(proxy.target, tmp_path, "--method", METHOD)

    assert ran.code == 6
    assert ran.json["problem"].startswith(f"{METHOD}: UNAUTHENTICATED")
    assert ran.json["steps"][4]["code"] == "UNAUTHENTICATED"


@pytest.mark.parametrize("method", [None, METHOD])
def test_its_status_is_never_lost(method: str | None) -> None:
    with Peer(haproxy) as proxy, grpc.insecure_channel(proxy.target) as channel:
        codes = {probe.call_one(channel, method, 5.0).code for _ in range(30)}

    assert codes == {grpc.StatusCode.UNAUTHENTICATED}


def test_call_keeps_it_too(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    options = ["--profile", "crm", "--token-file", str(tmp_path / "token"), "--plaintext", "--json"]
    with Peer(haproxy) as proxy:
        ran = run("call", proxy.target, METHOD, *options)

    assert (ran.code, json.loads(ran.err)["exit_code"]) == (6, 6)


def resets(method: str, other: int) -> Answer:
    """Loses the status of one method, and says how calls of all others end."""
    return lambda request: request.reset(CANCEL) if request.path == method else request.grpc(other)


def test_a_status_that_was_lost_is_found_by_a_call_that_does_nothing(tmp_path: Path) -> None:
    with Peer(resets(METHOD, _UNAUTHENTICATED)) as proxy:
        ran = check(proxy.target, tmp_path, "--method", METHOD)

    assert proxy.paths == [METHOD, f"{PROBE}/GrpcBearerCheck"], "the method itself is called once"
    assert ran.code == 6
    assert ran.json["problem"].startswith(f"{METHOD}: UNAUTHENTICATED")


def test_a_status_that_is_not_found_is_said_to_be_lost(tmp_path: Path) -> None:
    with Peer(resets(METHOD, _UNIMPLEMENTED)) as proxy:
        ran = check(proxy.target, tmp_path, "--method", METHOD)

    assert proxy.paths == [METHOD, f"{PROBE}/GrpcBearerCheck"]
    assert ran.code == 7
    assert ran.json["problem"].startswith(f"{METHOD}: CANCELLED")
    assert ran.json["advice"] == "a proxy on the way may have refused it: its log has the status"


# -- tokens that are too long -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tells_why() -> None:
    """Older versions of gRPC say that the socket was closed, and no more."""
    with Peer(nginx(0)) as proxy, grpc.insecure_channel(proxy.target) as channel:
        error = channel.unary_unary("/a.B/C").future(b"", metadata=[("authorization", "x")], timeout=10).exception(10)
    if "Error code: 11" not in str(error.details()):
        pytest.skip("this gRPC does not tell how a connection ended")


def nginx(limit: int, text: bytes = b"") -> Answer:
    """Hangs up if a header is too long."""

    def answer(request: Request) -> bytes:
        too_long = len(request.headers.get("authorization", "")) > limit
        return request.goaway(ENHANCE_YOUR_CALM, text) if too_long else request.grpc(_UNIMPLEMENTED)

    return answer


@pytest.mark.filterwarnings("ignore:.*many servers and proxies refuse:UserWarning")
class TestTooLong:
    """What a failed call says of a token that a proxy finds too long."""

    @staticmethod
    def error(answer: Answer, size: int) -> Any:
        with Peer(answer) as proxy:
            token = "x" * size
            channel = grpc_bearer.insecure_channel(proxy.target, auth=token, allow_plaintext=True)
            with channel, pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/a.B/C")(b"", timeout=10)
        assert token not in str(caught.value.__cause__)
        return caught.value

    @pytest.mark.usefixtures("tells_why")
    @pytest.mark.parametrize(
        ("answer", "size"),
        [
            pytest.param(nginx(8192), 9000, id="nginx"),
            pytest.param(nginx(4096), 5000, id="nginx before 1.19.7"),
            pytest.param(lambda request: request.goaway(2), 20000, id="HAProxy"),
        ],
    )
    def test_a_connection_that_is_ended_for_it(self, answer: Answer, size: int) -> None:
        self.test_it_is_the_cause(answer, size, "UNAVAILABLE")

    @pytest.mark.parametrize(
        ("answer", "size", "code"),
        [
            pytest.param(lambda request: request.bare(431), 9000, "UNKNOWN", id="431"),
            pytest.param(lambda request: request.bare(400), 9000, "INTERNAL", id="400"),
            pytest.param(lambda request: request.grpc(8), 9000, "RESOURCE_EXHAUSTED", id="gRPC"),
        ],
    )
    def test_it_is_the_cause(self, answer: Answer, size: int, code: str) -> None:
        error = self.error(answer, size)

        assert error.code().name == code
        assert isinstance(error.__cause__, TokenFormatError)
        assert str(error.__cause__) == (
            f"the token has {size} bytes; servers and proxies refuse headers beyond some 4 to 16 KiB ({code})"
        )

    @pytest.mark.parametrize(
        ("answer", "size"),
        [
            pytest.param(nginx(10), 100, id="a short token"),
            pytest.param(nginx(10, b"too_many_pings"), 9000, id="pings"),
            pytest.param(lambda request: request.goaway(2), 5000, id="another error, and not so long"),
            pytest.param(lambda request: request.goaway(0), 9000, id="no error"),
            pytest.param(lambda request: request.bare(503), 9000, id="503"),
        ],
    )
    def test_it_is_not(self, answer: Answer, size: int) -> None:
        assert not isinstance(self.error(answer, size).__cause__, TokenFormatError)

    @pytest.mark.usefixtures("tells_why")
    async def test_asyncio(self) -> None:
        with Peer(nginx(8192)) as proxy:
            channel = grpc_bearer.aio.insecure_channel(proxy.target, auth="x" * 9000, allow_plaintext=True)
            async with channel:
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary("/a.B/C")(b"", timeout=10)

        assert isinstance(caught.value.__cause__, TokenFormatError)


@pytest.mark.usefixtures("tells_why")
@pytest.mark.parametrize("method", [(), ("--method", METHOD)])
def test_check_says_that_the_token_is_too_long(tmp_path: Path, method: tuple[str, ...]) -> None:
    with Peer(nginx(8192)) as proxy:
        ran = check(proxy.target, tmp_path, *method, token="tok-" + "x" * 9000)

    assert ran.code == 6
    assert ran.json["failed"] == "call"
    assert "the token has 9004 bytes" in ran.json["problem"]
    assert ran.json["advice"] == "ask for a token with fewer claims, or for a higher limit"


def test_an_exit_code_for_every_end() -> None:
    assert len({code.value for code in Exit}) == len(Exit)
