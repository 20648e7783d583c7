"""A plain sync channel and ours behave alike, call by call: one contract, every door.

Each test is a scenario: a function of a world that returns what a user saw. It is played on a plain channel first, and
then on a door of ours, and what was seen must be equal. Nothing here says how gRPC behaves; gRPC says that itself.
"""

from __future__ import annotations

import functools
import gc
import itertools
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.experimental
import pytest
from _contract.observe import ended, error, outcome, plain, scrubbed, standing, types
from _contract.runner import contract
from _contract.stage import KINDS, PATIENCE, Act, Stage
from _contract.sync_doors import DOORS, Noop, World

import grpc_bearer.testing as kit

alike = functools.partial(contract, DOORS)
UNARY_REPLY = ("unary_unary", "stream_unary")
STREAM_REPLY = ("unary_stream", "stream_stream")


@pytest.fixture(scope="module")
def stages() -> Iterator[dict[str, Stage]]:
    stages = {"tls": Stage(), "clear": Stage("insecure")}
    with stages["tls"].server, stages["clear"].server:
        yield stages


def wait(event: threading.Event) -> bool:
    assert event.wait(PATIENCE), "the event did not come"
    return True


def finished(call: Any) -> Any:
    """The call, once it is over for certain: its callbacks have been called."""
    over = threading.Event()
    call.add_done_callback(lambda _: over.set())
    wait(over)
    return call


def drain(call: Any) -> Any:
    """Every message of a stream, and how it ended."""
    messages = []
    try:
        for message in call:
            messages.append(message)
    except grpc.RpcError as caught:
        return messages, error(caught)
    return messages, "ended"


class TestOneCall:
    """Calls that go through, or that the server ends."""

    @alike()
    def test_a_generated_stub_makes_calls_of_all_kinds(w: World) -> Any:
        stub = w.stub(kit.ProbeStub)
        one = kit.ProbeRequest(index=7, replies=2)
        many = [kit.ProbeRequest(index=n) for n in range(3)]
        reply, call = stub.Unary.with_call(one)
        last, stream_call = stub.ClientStream.with_call(iter(many))
        return {
            "calls": [stub.Unary(one).count, reply.count, stub.Unary.future(one).result().count],
            "streams": [
                stub.ClientStream(iter(many)).count,
                last.count,
                stub.ClientStream.future(iter(many)).result().count,
            ],
            "server": [m.index for m in stub.ServerStream(one)],
            "bidi": [m.count for m in stub.BidiStream(iter(many))],
            "with_call": [ended(call), ended(stream_call)],
        }

    @alike(kinds=KINDS)
    def test_a_call_that_succeeds_answers_every_question(w: World) -> Any:
        w.act(headers=[("h", "1"), ("h-bin", b"\x00\xff")], trailing=[("t", "2")], details="fine")
        call = w.start(w.kind, timeout=60)
        body = drain(call) if w.kind in STREAM_REPLY else call.result()
        return plain(body), ended(finished(call))

    @alike(kinds=KINDS)
    def test_a_call_that_the_server_fails_answers_every_question(w: World) -> Any:
        w.act(
            before=2, code=grpc.StatusCode.NOT_FOUND, details="no such thing", trailing=[("t", "2"), ("t-bin", b"\xfe")]
        )
        call = w.start(w.kind, timeout=60)
        body = drain(call) if w.kind in STREAM_REPLY else outcome(call.result)
        return plain(body), ended(finished(call))

    @alike(kinds=KINDS)
    def test_a_call_that_the_server_refuses_as_unauthenticated_says_so_untouched(w: World) -> Any:
        for _ in range(2):  # a door that retries may ask twice
            w.act(reads=False, after=0, code=grpc.StatusCode.UNAUTHENTICATED, details="who?", trailing=[("t", "2")])
        call = w.start(w.kind, requests=[], timeout=60) if w.kind.startswith("stream") else w.start(w.kind, timeout=60)
        body = drain(call) if w.kind in STREAM_REPLY else outcome(call.result)
        return plain(body), ended(finished(call))

    @alike(kinds=KINDS)
    def test_a_running_call_answers_every_question(w: World) -> Any:
        act = w.act(headers=[("h", "1")], before=1, hold=True)
        call = w.start(w.kind, timeout=60)
        wait(act.held)
        seen = [standing(call)]
        if w.kind in STREAM_REPLY:  # of the others gRPC learns the headers together with the reply
            seen += [plain(call.initial_metadata()), next(call), standing(call)]
        timed = [outcome(lambda ask=ask: getattr(call, ask)(timeout=0)) for ask in ("result", "exception", "traceback")]
        act.release.set()
        return seen, timed, drain(call) if w.kind in STREAM_REPLY else call.result(), standing(finished(call))

    @alike(kinds=KINDS)
    def test_what_is_raised_is_the_call_itself(w: World) -> Any:
        w.act(code=grpc.StatusCode.NOT_FOUND, details="no such thing")
        call = w.start(w.kind)
        with pytest.raises(grpc.RpcError) as info:
            list(call) if w.kind in STREAM_REPLY else call.result()
        return info.value is call, call.exception() is call

    @alike(kinds=UNARY_REPLY)
    def test_blocking_calls_raise_what_they_raise(w: World) -> Any:
        request = (lambda: iter([b"r"])) if w.kind == "stream_unary" else (lambda: b"r")
        for _ in range(2):
            w.act(code=grpc.StatusCode.ABORTED, details="no", trailing=[("t", "2")])
        method = w.method(w.kind)
        caught = []
        for make in (method, method.with_call):
            with pytest.raises(grpc.RpcError) as info:
                make(request())
            caught.append((error(info.value), ended(info.value)))
        return caught

    @alike()
    def test_the_rich_status_is_read_by_grpc_status(w: World) -> Any:
        from google.rpc import error_details_pb2
        from grpc_status import rpc_status

        rich = error_details_pb2.ErrorInfo(reason="QUOTA", domain="example.com")
        for method in ("Unary", "ServerStream", "Unary"):
            refuse = kit.Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much", rich=rich)
            w.stage.server.script(refuse, method=method)
        stub = w.stub(kit.ProbeStub)
        seen = []
        with pytest.raises(grpc.RpcError) as info:
            stub.Unary(kit.ProbeRequest())
        stream = stub.ServerStream(kit.ProbeRequest())
        with pytest.raises(grpc.RpcError) as streamed:
            next(stream)
        future = stub.Unary.future(kit.ProbeRequest())
        for call in (info.value, streamed.value, stream, future.exception(), future):
            status = rpc_status.from_call(call)
            seen.append((status.code, status.message, [detail.value for detail in status.details]))
        return seen

    @alike(kinds=KINDS)
    def test_positional_and_keyword_arguments_go_by_grpcs_names(w: World) -> Any:
        method = w.method(w.kind)
        name = "request_iterator" if w.kind.startswith("stream") else "request"
        request = (lambda: iter([b"r"])) if w.kind.startswith("stream") else (lambda: b"r")
        named = {name: request(), "timeout": 60, "metadata": None, "credentials": None, "wait_for_ready": True}
        named["compression"] = grpc.Compression.Gzip
        calls = [method, method.with_call, method.future] if w.kind in UNARY_REPLY else [method]
        seen = []
        for make in calls:
            for arguments, keywords in (
                ((), named),
                ((request(), 60, [("a", "1")], None, True, grpc.Compression.NoCompression), {}),
                ((request(),), {"unknown": 1}),
                ((), {}),
            ):
                if name in keywords:
                    keywords[name] = request()
                seen.append(_made(w, make, arguments, keywords))
        return seen

    @alike(kinds=KINDS)
    def test_serializers_that_raise(w: World) -> Any:
        def bad(_: Any) -> Any:
            raise KeyError("mine")

        seen = []
        for serializers in ((bad, None), (None, bad)):
            method = w.method(w.kind, *serializers)
            try:
                call = w.start(w.kind, method=method)
            except Exception as caught:
                seen.append(error(caught))
                continue
            seen.append((plain(drain(call) if w.kind in STREAM_REPLY else outcome(call.result)), ended(finished(call))))
        return seen

    @alike()
    def test_serializers_are_called_once_a_message_with_the_message(w: World) -> Any:
        seen: list[Any] = []

        def out(value: str) -> bytes:
            seen.append(("out", value))
            return value.encode()

        def back(value: bytes) -> str:
            seen.append(("in", value))
            return value.decode()

        w.act(reads=False, after=0)
        replies = list(w.method("stream_stream", out, back)(iter(["x", "y"])))
        return replies, sorted(seen)

    @alike(kinds=("stream_unary", "stream_stream"))
    def test_a_request_iterator_that_raises(w: World) -> Any:
        def requests() -> Iterator[bytes]:
            yield b"r"
            raise KeyError("mine")

        act = w.act(reads=False)
        call = w.start(w.kind, requests())
        body = drain(call) if w.kind in STREAM_REPLY else outcome(call.result)
        seen = ended(finished(call))
        return plain(body), seen, wait(act.cancelled)

    @alike(kinds=("stream_unary", "stream_stream"))
    def test_an_infinite_request_iterator_is_let_go_when_the_call_is_cancelled(w: World) -> Any:
        closed = threading.Event()

        def requests() -> Iterator[bytes]:
            try:
                for n in itertools.count():
                    yield b"%d" % n
            finally:
                closed.set()

        act = w.act(reads=False)
        call = w.start(w.kind, requests())
        wait(act.arrived)
        seen = (call.cancel(), ended(call))
        wait(act.cancelled)
        del call
        gc.collect()
        return seen, wait(closed)


def _made(w: World, make: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """What a call ended with; of a TypeError no more than that, since its text names a private class."""
    try:
        call = make(*arguments, **keywords)
    except TypeError:
        return "TypeError"
    if not isinstance(call, grpc.Call):
        return plain(call)
    return _read(w, call)


class TestEarlyEnd:
    """Cancelled, timed out, dropped."""

    @alike(kinds=KINDS)
    def test_cancel_before_anybody_is_there(w: World) -> Any:
        channel = w.open(_nobody())
        call = w.start(w.kind, method=w.method(w.kind, channel=channel), wait_for_ready=True)
        return standing(call), call.cancel(), call.cancel(), ended(call), _read(w, call)

    @alike(kinds=KINDS)
    def test_cancel_in_flight(w: World) -> Any:
        act = w.act(before=1, hold=True)
        call = w.start(w.kind)
        wait(act.held)
        return call.cancel(), ended(call), wait(act.cancelled), _read(w, call)

    @alike(kinds=KINDS)
    def test_cancel_at_once(w: World) -> Any:
        call = w.start(w.kind)
        return call.cancel(), call.cancel(), ended(call), _read(w, call)

    @alike(kinds=KINDS)
    def test_cancel_after_the_end(w: World) -> Any:
        call = w.start(w.kind)
        first = _read(w, call)
        finished(call)
        return first, call.cancel(), ended(call)

    @alike(kinds=KINDS)
    def test_cancel_from_another_thread_wakes_whoever_waits(w: World) -> Any:
        act = w.act(hold=True)
        call = w.start(w.kind)
        wait(act.held)
        canceller = threading.Thread(target=call.cancel)
        canceller.start()
        seen = _read(w, call)
        canceller.join()
        return seen, ended(call)

    @alike(kinds=KINDS)
    def test_cancel_from_a_done_callback(w: World) -> Any:
        over: list[Any] = []
        done = threading.Event()
        act = w.act(hold=True)
        call = w.start(w.kind)
        call.add_done_callback(lambda it: (over.append(it.cancel()), done.set()))
        wait(act.held)
        act.release.set()
        seen = _read(w, call)
        wait(done)
        return seen, over, ended(call)

    @alike(kinds=KINDS)
    def test_the_deadline_ends_a_call_in_flight(w: World) -> Any:
        act = w.act(before=1, hold=True)
        call = w.start(w.kind, timeout=0.25)
        seen = _read(w, call)
        return seen, ended(finished(call)), wait(act.cancelled)

    @alike(kinds=UNARY_REPLY)
    def test_the_deadline_ends_a_blocking_call(w: World) -> Any:
        w.act(hold=True)
        method = w.method(w.kind)
        with pytest.raises(grpc.RpcError) as info:
            method(iter([b"r"]) if w.kind == "stream_unary" else b"r", timeout=0.25)
        return ended(info.value)

    @alike(kinds=KINDS)
    def test_a_deadline_that_has_passed(w: World) -> Any:
        seen = []
        for timeout in (0, -1):
            call = w.start(w.kind, timeout=timeout)
            seen.append((_read(w, call), ended(finished(call))))
        return seen

    @alike(kinds=KINDS)
    def test_wait_for_ready_with_nobody_there_ends_at_the_deadline(w: World) -> Any:
        channel = w.open(_nobody())
        call = w.start(w.kind, method=w.method(w.kind, channel=channel), wait_for_ready=True, timeout=0.2)
        first = standing(call)
        return first, _read(w, call), _rough(ended(finished(call)))

    @alike(kinds=KINDS)
    def test_an_unreachable_target_fails_at_once(w: World) -> Any:
        channel = w.open(_nobody())
        call = w.start(w.kind, method=w.method(w.kind, channel=channel), timeout=60)
        return _read(w, call), ended(finished(call))

    @alike(kinds=KINDS)
    def test_a_dropped_call_is_cancelled_at_the_server(w: World) -> Any:
        act = w.act(before=1, hold=True)
        call = w.start(w.kind)
        wait(act.held)
        if w.kind in STREAM_REPLY:
            next(call)
        del call
        gc.collect()
        return act.cancelled.wait(1.0 if w.kind in UNARY_REPLY else PATIENCE)


def _nobody() -> str:
    """A loopback address where nobody listens."""
    return "127.0.0.1:1"


def _read(w: World, call: Any) -> Any:
    return plain(drain(call)) if w.kind in STREAM_REPLY else outcome(call.result)


def _rough(seen: dict[str, Any]) -> dict[str, Any]:
    """Without the text that tells what the channel was doing at that moment."""
    return {name: value for name, value in seen.items() if name in ("types", "code", "cancelled", "done")}
