"""What a call does in rare moments, beside a plain call that is treated alike."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import itertools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import grpc
import pytest
import tenacity
from _contract.runner import OLD_COMPLAINTS
from _http2_peer import Peer
from _refusing import PATIENCE, UNAUTHENTICATED, Place, place
from attachments import TLS
from grpc import aio
from interceptors import aio_interceptors

import grpc_bearer
from grpc_bearer import RetryPolicy, TokenRejectedError
from grpc_bearer.testing import ProbeRequest, ProbeServer, ProbeStub, Refuse

HAND = {"metadata": (("authorization", "Bearer by-hand"),), "timeout": PATIENCE}


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as it:
        it.verifier.accept("by-hand")
        yield it


@pytest.fixture(scope="module")
def clear() -> Iterator[ProbeServer]:
    with ProbeServer(credentials="insecure") as server:
        yield server


class OnlyNext:
    """An iterator of a user's own that has `__next__` and nothing else."""

    def __init__(self, *indexes: int) -> None:
        self._left = list(indexes)

    def __next__(self) -> ProbeRequest:
        if not self._left:
            raise StopIteration
        return ProbeRequest(index=self._left.pop(0))


def outcome(call: Any) -> Any:
    """How a stream-unary call ends."""
    try:
        return list(call().indexes)
    except grpc.RpcError as error:
        return error.code(), error.details()


class TestRequestIterators:
    @pytest.mark.parametrize(
        "requests",
        [lambda: OnlyNext(1, 2), lambda: 5, lambda: None, object],
        ids=["next alone", "5", "None", "an object"],
    )
    @pytest.mark.parametrize("warm", [True, False])
    def test_one_with_next_alone_is_taken_and_what_is_none_ends_the_call(
        self, here: Place, requests: Any, warm: bool
    ) -> None:
        plain = grpc.secure_channel(here.server.target, here.credentials)
        with plain, here.stub(here.auth()) as stub:
            if warm:
                stub.Unary(ProbeRequest(), timeout=PATIENCE)

            ours = outcome(lambda: stub.ClientStream(requests(), timeout=PATIENCE))

            assert ours == outcome(lambda: ProbeStub(plain).ClientStream(requests(), **HAND))

    def test_one_with_next_alone_is_sent_again(self, here: Place) -> None:
        with here.stub(here.auth()) as stub:
            here.refuse(Refuse())
            assert list(stub.ClientStream(OnlyNext(1, 2), timeout=PATIENCE).indexes) == [1, 2]


class Sessions:
    """A bidi method whose headers name the session; the first one is refused once its first request has come."""

    def __init__(self) -> None:
        self.begun = 0

    def method(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        self.begun += 1
        session = self.begun
        context.send_initial_metadata((("session", str(session)),))
        for _ in requests:
            if session == 1:
                context.abort(UNAUTHENTICATED, "this session has ended")
            yield str(session).encode()


@pytest.fixture
def sessions() -> Iterator[tuple[str, Sessions]]:
    served = Sessions()
    handler = grpc.stream_stream_rpc_method_handler(served.method)
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Sessions", {"Open": handler}),))
    port = server.add_secure_port("127.0.0.1:0", TLS.server_credentials())
    server.start()
    yield f"127.0.0.1:{port}", served
    server.stop(None).wait()


class TestHeadersThatWereShown:
    """With the headers of one session go the messages of that session, or none."""

    @pytest.mark.parametrize("asks", [True, False])
    def test_a_stream_is_not_made_again_after_them(
        self, asks: bool, here: Place, sessions: tuple[str, Sessions]
    ) -> None:
        target, served = sessions
        go = threading.Event()

        def requests() -> Iterator[bytes]:
            go.wait(PATIENCE)
            yield b"request"

        with grpc_bearer.secure_channel(target, TLS.channel_credentials(), auth=here.auth()) as channel:
            call = channel.stream_stream("/test.Sessions/Open")(requests(), timeout=PATIENCE)
            if asks:
                assert ("session", "1") in [tuple(entry) for entry in call.initial_metadata()]
                go.set()
                with pytest.raises(grpc.RpcError) as caught:
                    next(call)
                assert caught.value.code() is UNAUTHENTICATED
                assert isinstance(caught.value.__cause__, TokenRejectedError)
            else:
                go.set()
                assert next(call) == b"2"
                assert ("session", "2") in [tuple(entry) for entry in call.initial_metadata()]
        assert served.begun == (1 if asks else 2)

    async def _exchanged(self, call: Any) -> Any:
        await call.write(b"request")
        return await call.read()

    @pytest.mark.parametrize("asks", [True, False])
    async def test_nor_in_asyncio(self, asks: bool, here: Place, sessions: tuple[str, Sessions]) -> None:
        target, served = sessions
        credentials = TLS.channel_credentials()
        async with grpc_bearer.aio.secure_channel(target, credentials, auth=here.auth()) as channel:
            call = channel.stream_stream("/test.Sessions/Open")(timeout=PATIENCE)
            if asks:
                assert ("session", "1") in list(await call.initial_metadata())
                with pytest.raises(aio.AioRpcError) as caught:
                    await self._exchanged(call)
                assert caught.value.code() is UNAUTHENTICATED
            else:
                assert await self._exchanged(call) == b"2"
                assert ("session", "2") in list(await call.initial_metadata())
        assert served.begun == (1 if asks else 2)


QUESTIONS = (
    "code",
    "details",
    "initial_metadata",
    "trailing_metadata",
    "debug_error_string",
    "wait_for_connection",
)


class TestWhoOnlyAsks:
    """And gives up: that cancels a call of ours where it cancels a plain one whose call credentials are as slow."""

    def _plain(self, here: Place, token: Callable[[], str]) -> aio.Channel:
        def plugin(_: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
            callback((("authorization", f"Bearer {token()}"),), None)

        slow = grpc.metadata_call_credentials(plugin)  # type: ignore[arg-type]  # gRPC takes any callable
        return aio.secure_channel(
            here.server.target, grpc.composite_channel_credentials(here.credentials, slow), interceptors=[]
        )

    async def _outcome(self, call: Any, question: str, go: threading.Event) -> Any:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(getattr(call, question)(), 0.05)
        go.set()
        try:
            replies = [await call] if hasattr(call, "__await__") else [reply async for reply in call]
        except asyncio.CancelledError:
            return "cancelled"
        return [list(reply.indexes) for reply in replies]

    @pytest.mark.parametrize("kind", ["Unary", "ServerStream", "ClientStream", "BidiStream"])
    @pytest.mark.parametrize("question", QUESTIONS)
    async def test_does_not_cancel_the_call_that_waits_for_its_token(
        self, here: Place, clear: ProbeServer, question: str, kind: str
    ) -> None:
        go = threading.Event()

        def token() -> str:
            go.wait(PATIENCE)
            return "by-hand"

        outcomes = []
        for channel in (
            self._plain(here, token),
            here.aio_channel(token),
            grpc_bearer.aio.insecure_channel(clear.target, auth=token, allow_plaintext=True),
        ):
            go.clear()
            request = ProbeRequest(index=7)
            async with channel:
                method = getattr(ProbeStub(channel), kind)
                call = method(request if kind in ("Unary", "ServerStream") else iter([request]), timeout=PATIENCE)
                outcomes.append(await self._outcome(call, question, go))
        cancels = question == "wait_for_connection" and kind in ("Unary", "ServerStream")
        assert outcomes == ["cancelled" if cancels else [[7]]] * 3

    @pytest.mark.parametrize(("kind", "question"), [("Unary", "code"), ("ClientStream", "wait_for_connection")])
    async def test_nor_the_call_between_two_attempts(self, here: Place, kind: str, question: str) -> None:
        slowly = RetryPolicy(wait=tenacity.wait_fixed(0.3))
        async with here.aio_stub(here.auth(), retry=slowly) as stub:
            here.refuse(Refuse())
            request = ProbeRequest(index=7)
            call = getattr(stub, kind)(request if kind == "Unary" else iter([request]), timeout=PATIENCE)
            while "between" not in repr(call):
                await asyncio.sleep(0.01)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(getattr(call, question)(), 0.05)
            assert list((await call).indexes) == [7]

    async def test_but_who_awaits_it_does_as_with_a_plain_call(self, here: Place) -> None:
        async with here.aio_stub(grpc_bearer.CallableSource(asyncio.Event().wait)) as stub:
            call = stub.Unary(ProbeRequest(), timeout=PATIENCE)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call, 0.05)
            assert call.cancelled()


class TestCancelledAfterOurPluginFailed:
    def test_the_error_is_ours_or_the_call_is_cancelled(self, here: Place) -> None:
        def refused() -> str:
            raise TokenRejectedError("no")

        seen = set()
        with here.stub(grpc_bearer.CallableSource(refused)) as stub:
            for _ in range(100):
                call = stub.Unary.future(ProbeRequest(), timeout=PATIENCE)
                call.add_done_callback(lambda _: None)
                call.cancel()
                with contextlib.suppress(grpc.FutureCancelledError, grpc.RpcError):
                    call.result(PATIENCE)
                seen.add((call.code(), "metadata from plugin" in call.details()))
        assert seen <= {(grpc.StatusCode.CANCELLED, False), (UNAUTHENTICATED, False)}


class TestMethodsWithoutAName:
    def test_are_not_made_again(self, here: Place) -> None:
        class Nameless(grpc.UnaryUnaryMultiCallable):  # type: ignore[type-arg]  # generic in gRPC's stubs only
            def __init__(self, inner: Any) -> None:
                self._inner_one = inner

            def __call__(self, request: Any, *args: Any, **kwargs: Any) -> Any:
                return self._inner_one(request, *args, **kwargs)

            def with_call(self, request: Any, *args: Any, **kwargs: Any) -> Any:
                return self._inner_one.with_call(request, *args, **kwargs)

            def future(self, request: Any, *args: Any, **kwargs: Any) -> Any:
                return self._inner_one.future(request, *args, **kwargs)

        class Stub:
            def __init__(self, channel: grpc.Channel) -> None:
                self.Unary = Nameless(ProbeStub(channel).Unary)

        with grpc.secure_channel(here.server.target, here.credentials) as channel:
            here.refuse(Refuse())
            ours = grpc_bearer.wrap_stub(Stub(channel), here.auth(), retry=RetryPolicy(exclude=["*Probe/Unary"]))
            with pytest.raises(grpc.RpcError) as caught:
                ours.Unary(ProbeRequest(), timeout=PATIENCE)
        assert caught.value.code() is UNAUTHENTICATED


CLOSED = """
import grpc, grpc_bearer
from grpc_bearer.testing import ProbeStub
plain = grpc.secure_channel("localhost:1", grpc.ssl_channel_credentials())
ours = grpc_bearer.{make}
{close}.close()
try:
    ProbeStub(ours)
except ValueError as error:
    print(error)
"""


class TestClosedChannels:
    @pytest.mark.parametrize(
        ("make", "close"),
        [
            ('secure_channel("localhost:1", auth="t0")', "ours"),
            ('intercept_channel(plain, "t0")', "ours"),
            ('intercept_channel(plain, "t0")', "plain"),
            ('intercept_channel(grpc.intercept_channel(plain, grpc_bearer.interceptor("t1", retry=None)), '
             'grpc_bearer.BearerAuth("t0", header="x-other"))', "plain"),
        ],
    )  # fmt: skip
    def test_a_stub_made_on_one_is_refused_and_does_not_crash(self, make: str, close: str) -> None:
        code = CLOSED.format(make=make, close=close)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

        assert (done.returncode, done.stdout) == (0, "Cannot invoke RPC on closed channel!\n"), done.stderr


def _around(multicallable: Any) -> Any:
    """A multicallable of a user's own, which goes on to this one."""
    kinds = aio.UnaryUnaryMultiCallable, aio.UnaryStreamMultiCallable, aio.StreamUnaryMultiCallable
    base = next((kind for kind in kinds if isinstance(multicallable, kind)), aio.StreamStreamMultiCallable)
    call = staticmethod(lambda *args, **how: multicallable(*args, **how))
    return type("Around", (base,), {"__call__": call})()


class Between(aio.Channel):
    """A channel of a user's own around another, and so are its multicallables: of what is below we know nothing."""

    def __init__(self, inner: aio.Channel) -> None:
        self._mine = inner

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._mine, name)(*args, **kwargs)

    def _method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return _around(self._call(name, *args, **kwargs))

    unary_unary = functools.partialmethod(_method, "unary_unary")
    unary_stream = functools.partialmethod(_method, "unary_stream")
    stream_unary = functools.partialmethod(_method, "stream_unary")
    stream_stream = functools.partialmethod(_method, "stream_stream")
    close = functools.partialmethod(_call, "close")
    get_state = functools.partialmethod(_call, "get_state")
    channel_ready = functools.partialmethod(_call, "channel_ready")
    wait_for_state_change = functools.partialmethod(_call, "wait_for_state_change")
    __aenter__ = functools.partialmethod(_call, "__aenter__")
    __aexit__ = functools.partialmethod(_call, "__aexit__")


async def _goes_on(_: str, continuation: Any, details: Any, request: Any) -> Any:
    return await continuation(details, request)


class TestWritesAfterTheEnd:
    """With interceptors of the user's and without, what they raise is what a plain call's raise."""

    def _channels(self, here: Place) -> dict[str, list[aio.Channel]]:
        """Plain channels, each with ours that must be as it is."""
        target, credentials = here.server.target, here.credentials

        def plain(*before: aio.ClientInterceptor, after: tuple[aio.ClientInterceptor, ...] = ()) -> aio.Channel:
            return aio.secure_channel(target, credentials, interceptors=[*before, *aio_interceptors(_goes_on), *after])

        ours = grpc_bearer.aio.interceptors("by-hand")
        return {
            "bare": [aio.secure_channel(target, credentials), here.aio_channel("by-hand")],
            "intercepted": [
                plain(),
                here.aio_channel("by-hand", interceptors=aio_interceptors(_goes_on)),
                grpc_bearer.aio.intercept_channel(plain(), "by-hand"),
                grpc_bearer.aio.intercept_channel(Between(plain()), "by-hand"),
                plain(*ours),
                plain(after=tuple(ours)),
            ],
        }

    async def _ended(self, call: Any, end: str) -> None:
        if end == "cancelled":
            await call.write(ProbeRequest())
            call.cancel()
        elif end == "cancelled at once":
            call.cancel()
        else:
            await call.code()

    async def _raised(self, call: Any) -> list[str]:
        def answer() -> Any:
            return call if hasattr(call, "__await__") else call.read()

        raised = []
        for ask in (lambda: call.write(ProbeRequest()), answer, lambda: call.write(ProbeRequest())):
            try:
                await asyncio.wait_for(ask(), PATIENCE)
                raised.append("")
            except (aio.AioRpcError, aio.UsageError, asyncio.InvalidStateError, asyncio.CancelledError) as error:
                raised.append(f"{type(error).__name__} {error.code() if isinstance(error, grpc.RpcError) else error}")
        return raised

    @pytest.mark.parametrize("which", ["bare", "intercepted"])
    @pytest.mark.parametrize("end", ["cancelled", "cancelled at once", "refused"])
    @pytest.mark.parametrize("kind", ["ClientStream", "BidiStream"])
    async def test_are_refused_as_a_plain_calls_are(self, here: Place, kind: str, end: str, which: str) -> None:
        raised = []
        for channel in self._channels(here)[which]:
            here.refuse(*[Refuse(grpc.StatusCode.PERMISSION_DENIED)] * (end == "refused"))
            async with channel:
                # Where there is a token of ours, ours is the one that is sent.
                how = {} if isinstance(channel, grpc_bearer.aio.Channel) or raised else HAND
                call = getattr(ProbeStub(channel), kind)(**{"timeout": PATIENCE, **how})
                await self._ended(call, end)
                raised.append(await self._raised(call))
        assert raised == [raised[0]] * len(raised)
        assert raised[0][0] == raised[0][-1] == "InvalidStateError RPC already finished."


@pytest.fixture
def complaints() -> Iterator[None]:
    """Old grpc.aio complains of calls that ended so, when they are collected: in their own test."""
    yield
    gc.collect()


@OLD_COMPLAINTS
@pytest.mark.usefixtures("complaints")
class TestAnInterceptorThatRaises:
    """An error of its own, in grpc.aio: the call ends with that, as a plain one does."""

    class Mine(Exception):
        pass

    async def _asked(self, call: Any, writes: bool, error: type[Exception] = Mine) -> None:
        ended: list[None] = []
        call.add_done_callback(lambda _: ended.append(None))
        if writes:
            for _ in range(2):
                with pytest.raises(error):
                    await asyncio.wait_for(call.write(ProbeRequest()), PATIENCE)
            with pytest.raises(error):
                await asyncio.wait_for(call.done_writing(), PATIENCE)
        with pytest.raises(error):
            await asyncio.wait_for(call if hasattr(call, "__await__") else call.read(), PATIENCE)
        for question in (getattr(call, name) for name in QUESTIONS):
            with pytest.raises(error):
                await asyncio.wait_for(question(), PATIENCE)
        if type(call).__module__.startswith("grpc.aio"):  # whose older versions raise it here, and call nobody back
            return
        assert call.done()
        assert not call.cancelled()
        assert ended == [None]

    def _raising(self, at: int, error: type[Exception] = Mine) -> list[Any]:
        attempts = itertools.count(1)

        async def raises(kind: str, continuation: Any, details: Any, request: Any) -> Any:
            if next(attempts) >= at:
                raise error
            return await continuation(details, request)

        return aio_interceptors(raises)

    @pytest.mark.parametrize("way", ["plain", "ours", "around another's"])
    @pytest.mark.parametrize(
        "kind", ["Unary", "ServerStream", "ClientStream", "ClientStream.write", "BidiStream.write"]
    )
    @pytest.mark.parametrize("error", [Mine, aio.UsageError, TimeoutError])  # one of gRPC's own is no other
    async def test_ends_the_call(self, here: Place, kind: str, way: str, error: type[Exception]) -> None:
        name, _, writes = kind.partition(".")
        below = aio.secure_channel(here.server.target, here.credentials, interceptors=self._raising(1, error))
        ours = {
            "plain": lambda: below,
            "ours": lambda: grpc_bearer.aio.intercept_channel(below, "by-hand"),
            "around another's": lambda: grpc_bearer.aio.intercept_channel(Between(below), "by-hand"),
        }[way]()
        async with below:
            method = getattr(ProbeStub(ours), name)
            requests = () if writes else (iter([ProbeRequest()]),) if name == "ClientStream" else (ProbeRequest(),)
            await self._asked(method(*requests, timeout=PATIENCE), bool(writes), error)

    async def test_ends_the_call_that_has_waited_for_its_token_too(self, here: Place, clear: ProbeServer) -> None:
        ours = grpc_bearer.aio.interceptors(lambda: "t0", allow_plaintext=True)
        interceptors = [*ours, *self._raising(1, aio.UsageError)]
        async with aio.insecure_channel(clear.target, interceptors=interceptors) as channel:
            await self._asked(ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE), False, aio.UsageError)

    async def test_ends_the_call_in_its_second_attempt_too(self, here: Place) -> None:
        interceptors = [*grpc_bearer.aio.interceptors(here.auth()), *self._raising(at=2)]
        async with aio.secure_channel(here.server.target, here.credentials, interceptors=interceptors) as channel:
            here.refuse(Refuse())
            await self._asked(ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE), writes=False)


class TestARefusalBeforeTheRequestsAreSent:
    """A proxy's bare 401 may come before the requests: grpc.aio then cancels a plain call now and then, by itself."""

    WAYS: ClassVar[dict[str, Callable[[str], aio.Channel]]] = {
        "channel": lambda to: grpc_bearer.aio.insecure_channel(to, auth="t0", allow_plaintext=True),
        "channel, no retry": lambda to: grpc_bearer.aio.insecure_channel(
            to, auth="t0", retry=None, allow_plaintext=True
        ),
        "interceptors": lambda to: aio.insecure_channel(
            to, interceptors=grpc_bearer.aio.interceptors("t0", allow_plaintext=True)
        ),
    }

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("kind", ["await", "await at once", "write", "bidi"])
    async def test_ends_with_the_servers_status(self, kind: str, way: str) -> None:
        statuses = set()
        with Peer(lambda request: request.bare(401)) as peer:
            async with self.WAYS[way](peer.target) as channel:
                stub: Any = ProbeStub(channel)
                for _ in range(100):
                    method = stub.BidiStream if kind == "bidi" else stub.ClientStream
                    requests = iter([ProbeRequest()] * 3) if kind == "await at once" else self._requests(peer)
                    call = method(None if kind == "write" else requests, timeout=PATIENCE)
                    with pytest.raises((aio.AioRpcError, asyncio.InvalidStateError)):
                        await self._through(call, kind)
                    statuses.add(await call.code())
        # Core itself loses it now and then.
        assert statuses - {grpc.StatusCode.UNKNOWN} == {UNAUTHENTICATED}

    async def _requests(self, peer: Peer) -> AsyncIterator[ProbeRequest]:
        """They end when the answer is on its way: of plain calls grpc.aio cancels half."""
        before = len(peer.paths)
        yield ProbeRequest()
        while len(peer.paths) == before:
            await asyncio.sleep(0)

    async def _through(self, call: Any, kind: str) -> None:
        if kind == "bidi":
            await call.read()
        elif kind == "write":
            for _ in range(3):
                await call.write(ProbeRequest())
            await call.done_writing()
        await call

    async def test_a_cancellation_of_the_users_is_one_all_the_same(self, here: Place) -> None:
        async with here.aio_stub(here.auth()) as stub:
            call = stub.ClientStream(iter([ProbeRequest(delay_ms=5000)]), timeout=PATIENCE)
            await asyncio.sleep(0.1)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert call.cancelled()


LOST = """
import asyncio, contextlib, grpc_bearer
from grpc import aio
from grpc_bearer.testing import GoawayProxy, OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub
async def main():
    with ProbeServer(OpaqueVerifier(["t0"])) as server, GoawayProxy(server, [0, 1, 0] * 3) as proxy:
        async with grpc_bearer.aio.secure_channel(proxy.target, server.channel_credentials(), auth="t0") as channel:
            for _ in range(6):
                call = ProbeStub(channel).KIND(timeout=60)
                with contextlib.suppress(aio.AioRpcError, asyncio.InvalidStateError):
                    for _ in range(5):
                        await asyncio.wait_for(call.write(ProbeRequest()), 20)
                    await asyncio.wait_for(call.done_writing(), 20)
                call.cancel()
asyncio.run(main())
"""


class TestAConnectionThatEnds:
    """In a process of its own: where writes meet a GOAWAY, gRPC's core crashes now and then, with plain calls too."""

    @pytest.mark.parametrize("kind", ["ClientStream", "BidiStream"])
    def test_a_writer_does_not_wait_for_a_call_that_core_has_lost(self, kind: str) -> None:
        code = LOST.replace("KIND", kind)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)

        if done.returncode < 0:
            pytest.skip("gRPC's core crashed, as it does with plain calls")
        assert (done.returncode, done.stdout) == (0, ""), done.stderr


class TestClosingInTheClear:
    """Where core cannot wait for a token we do; a channel that is closed meanwhile waits for such calls, too."""

    def _channel(self, server: ProbeServer, auth: Any) -> aio.Channel:
        return grpc_bearer.aio.insecure_channel(server.target, auth=auth, allow_plaintext=True)

    @pytest.mark.parametrize("kind", ["Unary", "ClientStream"])
    async def test_a_call_with_its_token_at_hand_ends_well_within_the_grace(
        self, clear: ProbeServer, kind: str
    ) -> None:
        for channel in aio.insecure_channel(clear.target), self._channel(clear, "t0"):
            request = ProbeRequest(index=7)
            method = getattr(ProbeStub(channel), kind)
            call = method(request if kind == "Unary" else iter([request]), timeout=PATIENCE)
            await channel.close(grace=PATIENCE)
            assert list((await call).indexes) == [7]

    @OLD_COMPLAINTS
    @pytest.mark.usefixtures("complaints")
    async def test_with_interceptors_it_ends_with_the_channel_and_nobody_asks_for_ever(
        self, clear: ProbeServer
    ) -> None:
        mine = aio_interceptors(_goes_on)
        for channel in (
            aio.insecure_channel(clear.target, interceptors=mine),
            grpc_bearer.aio.insecure_channel(clear.target, auth=lambda: "t0", allow_plaintext=True, interceptors=mine),
            aio.insecure_channel(
                clear.target, interceptors=grpc_bearer.aio.interceptors(lambda: "t0", allow_plaintext=True)
            ),
        ):
            call = ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)
            with contextlib.suppress(aio.UsageError):  # older versions of grpc.aio raise it here, too
                await channel.close(grace=PATIENCE)
            answers = await asyncio.wait_for(asyncio.gather(call, call.code(), return_exceptions=True), PATIENCE)
            assert isinstance(answers[0], (aio.UsageError, asyncio.CancelledError))  # the latter in older versions

    async def test_so_does_one_that_waits_for_it(self, clear: ProbeServer) -> None:
        async def token() -> str:
            await asyncio.sleep(0.1)
            return "t0"

        channel = self._channel(clear, grpc_bearer.CallableSource(token, loop=asyncio.get_running_loop()))
        call = ProbeStub(channel).Unary(ProbeRequest(index=7), timeout=PATIENCE)
        closing = asyncio.ensure_future(channel.close(grace=PATIENCE))
        await asyncio.sleep(0)
        with pytest.raises(aio.UsageError):
            ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)
        await closing
        assert list((await call).indexes) == [7]

    @pytest.mark.parametrize("grace", [None, 0.05])
    async def test_without_grace_or_after_it_the_call_is_cancelled(
        self, clear: ProbeServer, grace: float | None
    ) -> None:
        never, asked = asyncio.Event(), asyncio.Event()

        async def token() -> str:
            asked.set()
            await never.wait()
            return "t0"

        channel = self._channel(clear, grpc_bearer.CallableSource(token, loop=asyncio.get_running_loop()))
        call = ProbeStub(channel).Unary(ProbeRequest(), timeout=PATIENCE)
        await asked.wait()
        await channel.close(grace=grace)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await call.code() is grpc.StatusCode.CANCELLED
        never.set()
