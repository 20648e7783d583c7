"""A plain asyncio channel and ours behave alike, call by call: one contract, every way to attach.

As `test_contract_sync`: each test is a scenario, played on a plain channel and on a way of ours, and what was seen
must be equal.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from _contract.aio_attachments import WAYS, Noop, World, users, wait
from _contract.observe import aended, aoutcome, astanding, error, outcome, plain, rough, scrubbed, types
from _contract.runner import LATER, OLD_COMPLAINTS, Known, before_1_80, contract
from _contract.stage import DEADLINES, KINDS, PATIENCE, SERVICE, Act, Stage, in_flight, nobody, own
from grpc import aio

import grpc_bearer
import grpc_bearer.testing as kit

alike = functools.partial(contract, WAYS)
UNARY_REPLY = ("unary_unary", "stream_unary")
STREAM_REPLY = ("unary_stream", "stream_stream")
STREAM_REQUEST = ("stream_unary", "stream_stream")
# Ways to attach whose calls are gRPC's own; in all others they are ours, around those of gRPC.
BARE_WAYS = ("warm_once", "composite", "under_users", "over_users")
FAILED_REPR = dict.fromkeys(
    set(WAYS) - {*BARE_WAYS, "interceptors"},
    Known("a failed call of ours prints as its error does; grpc.aio's mixes up status and details", r"\[0\]"),
)
OLD_CLOSE = before_1_80(
    dict.fromkeys(
        ("* unary_stream", "* stream_stream"),
        "grpc.aio before 1.80: a plain stream whose channel is closed meanwhile ends in time, late or never",
    )
)

OLD_START = "grpc.aio before 1.80 looks at metadata when a call is sent; in the clear ours does when it begins"

pytestmark = OLD_COMPLAINTS


async def drain(call: Any) -> Any:
    """Every message of a stream, and how it ended."""
    messages = []
    try:
        async for message in call:
            messages.append(message)
    except (Exception, asyncio.CancelledError) as caught:
        return messages, error(caught)
    return messages, "ended"


async def pull(call: Any) -> Any:
    """The same, by `read`."""
    messages = []
    try:
        while (message := await call.read()) is not aio.EOF:
            messages.append(message)
    except (Exception, asyncio.CancelledError) as caught:
        return messages, error(caught)
    return messages, "ended"


async def read(w: World, call: Any) -> Any:
    return await drain(call) if w.kind in STREAM_REPLY else await aoutcome(call)


def arrived(act: Act) -> Any:
    """The user's metadata at the server."""
    return sorted((k, v) for k, v in act.context.invocation_metadata() if k in ("a", "b-bin", "c", "added"))


class TestOneCall:
    """Calls that go through, or that the server ends."""

    @alike()
    async def test_a_generated_stub_makes_calls_of_all_kinds(w: World) -> Any:
        stub = w.stub(kit.ProbeStub)
        one, many = kit.ProbeRequest(index=7, replies=2), [kit.ProbeRequest(index=n) for n in range(3)]
        written = stub.ClientStream()
        for request in many:
            await written.write(request)
        await written.done_writing()
        return [
            (await stub.Unary(one)).count,
            [m.index async for m in stub.ServerStream(one)],
            (await stub.ClientStream(iter(many))).count,
            (await written).count,
            [m.count async for m in stub.BidiStream(many)],
        ]

    @alike(kinds=KINDS)
    async def test_a_call_that_succeeds_answers_every_question(w: World) -> Any:
        w.act(headers=[("h", "1"), ("h-bin", b"\x00\xff")], trailing=[("t", "2")], details="fine")
        call = w.start(w.kind, timeout=60)
        return await read(w, call), await aended(call)

    @alike(kinds=KINDS)
    async def test_a_call_that_the_server_fails_answers_every_question(w: World) -> Any:
        w.act(
            before=2, code=grpc.StatusCode.NOT_FOUND, details="no such thing", trailing=[("t", "2"), ("t-bin", b"\xfe")]
        )
        call = w.start(w.kind, timeout=60)
        return await read(w, call), await aended(call)

    @alike(kinds=KINDS)
    async def test_a_call_that_the_server_refuses_as_unauthenticated_says_so_untouched(w: World) -> Any:
        for _ in range(2):  # a way to attach that retries may ask twice
            w.act(after=0, code=grpc.StatusCode.UNAUTHENTICATED, details="who?", trailing=[("t", "2")])
        call = w.start(w.kind, timeout=60)
        return await read(w, call), await aended(call)

    @alike(kinds=KINDS)
    async def test_a_running_call_answers_every_question(w: World) -> Any:
        act = w.act(headers=[("h", "1")], before=1, hold=True)
        call = w.start(w.kind, timeout=60)
        early = astanding(call)
        await wait(act.held)
        seen = [early, astanding(call)]
        if w.kind in STREAM_REPLY:
            seen += [await aoutcome(call.initial_metadata), await call.read(), astanding(call)]
        waiting = [
            asyncio.ensure_future(aoutcome(getattr(call, ask))) for ask in ("code", "details", "trailing_metadata")
        ]
        await asyncio.sleep(0)
        open_questions = [question.done() for question in waiting]
        act.release.set()
        body = await pull(call) if w.kind in STREAM_REPLY else await aoutcome(call)
        return seen, open_questions, body, await asyncio.gather(*waiting)

    @alike(kinds=KINDS, differs=FAILED_REPR)
    async def test_what_a_call_looks_like_when_it_is_printed(w: World) -> Any:
        seen = []
        for code in (grpc.StatusCode.ABORTED, grpc.StatusCode.OK):
            w.act(after=0, code=code, details="so")
            call = w.start(w.kind)
            await read(w, call)
            await call.code()
            seen.append((scrubbed(repr(call)), scrubbed(str(call))))
        return seen

    @alike(kinds=KINDS)
    async def test_awaited_and_asked_again_after_the_end(w: World) -> Any:
        seen = []
        for code in (grpc.StatusCode.OK, grpc.StatusCode.ABORTED):
            w.act(code=code, details="so")
            call = w.start(w.kind)
            seen.append([await read(w, call), await read(w, call), await read(w, call)])
            if w.kind in STREAM_REPLY:
                seen.append([await aoutcome(call.read), await aoutcome(call.read)])
        return seen

    @alike(kinds=STREAM_REPLY)
    async def test_reading_message_by_message(w: World) -> Any:
        w.act(before=3, trailing=[("t", "2")])
        call = w.start(w.kind)
        first = await pull(call)
        w.act(before=1, after=0, code=grpc.StatusCode.ABORTED, details="no")
        failed = w.start(w.kind)
        return first, await aoutcome(call.read), await aended(call), await pull(failed), await aoutcome(failed.read)

    @alike(kinds=STREAM_REPLY)
    async def test_mixing_styles_of_reading(w: World) -> Any:
        w.act(before=3, hold=True)
        call = w.start(w.kind)
        iterator = call.__aiter__()
        first = await aoutcome(iterator.__anext__())
        refused = await aoutcome(call.read)
        act = w.act(before=3, hold=True)
        other = w.start(w.kind)
        await wait(act.held)
        return first, refused, iterator is call.__aiter__(), await other.read(), outcome(other.__aiter__)

    @alike(kinds=STREAM_REQUEST)
    async def test_mixing_styles_of_writing(w: World) -> Any:
        w.act()
        call = w.start(w.kind)
        return await aoutcome(call.write(b"x")), await aoutcome(call.done_writing), await read(w, call)

    @alike(kinds=STREAM_REQUEST)
    async def test_writing(w: World) -> Any:
        act = w.act(hold=True)
        call = w.start(w.kind, None)
        seen = [await aoutcome(call.write(b"%d" % n)) for n in range(3)]
        seen += [await aoutcome(call.done_writing), await aoutcome(call.done_writing)]
        await wait(act.held)
        late = await aoutcome(call.write(b"late"))
        act.release.set()
        body = await read(w, call)
        return seen, late, body, await aoutcome(call.write(b"x")), await aoutcome(call.done_writing), act.requests

    @alike()
    async def test_a_dialogue(w: World) -> Any:
        w.act(reads=False, after=0)
        call = w.start("stream_stream", None)
        heard = []
        for n in range(3):
            await call.write(b"%d" % n)
            heard.append(await call.read())
        await call.done_writing()
        return heard, await pull(call), await aended(call)

    @alike(kinds=STREAM_REQUEST)
    async def test_wait_for_connection(w: World) -> Any:
        w.act()
        call = w.start(w.kind, None, timeout=60)
        seen = await aoutcome(call.wait_for_connection)
        await call.write(b"x")
        await call.done_writing()
        lost = w.start(w.kind, None, method=w.method(w.kind, channel=await w.open(nobody())))
        return (
            seen,
            await read(w, call),
            await aoutcome(call.wait_for_connection),
            await aoutcome(lost.wait_for_connection),
        )

    @alike(kinds=STREAM_REQUEST)
    async def test_requests_from_iterators_of_every_form(w: World) -> Any:
        async def generated() -> AsyncIterator[bytes]:
            yield b"x"
            yield b"y"

        seen = []
        for form in ([b"x", b"y"], (b"x", b"y"), iter([b"x", b"y"]), (b for b in (b"x", b"y")), generated(), []):
            act = w.act()
            method = w.method(w.kind)
            seen.append((await read(w, method(form)), act.requests))
        return seen

    @alike(kinds=STREAM_REQUEST)
    async def test_a_request_iterator_that_raises(w: World) -> Any:
        async def asynchronous(act: Act) -> AsyncIterator[bytes]:
            yield b"r"
            await wait(act.arrived)
            raise KeyError("mine")

        def synchronous() -> Iterator[bytes]:
            yield b"r"
            raise KeyError("mine")

        seen = []
        act = w.act(hold=True)
        call = w.start(w.kind, asynchronous(act))
        seen += [await read(w, call), await aended(call), await wait(act.cancelled)]
        call = w.start(w.kind, synchronous())
        return [*seen, await read(w, call), await aended(call)]

    @alike(kinds=STREAM_REQUEST)
    async def test_an_infinite_request_iterator_is_let_go_when_the_call_is_cancelled(w: World) -> Any:
        pulled = []

        async def requests() -> AsyncIterator[bytes]:
            for n in itertools.count():
                pulled.append(n)
                yield b"%d" % n
                await asyncio.sleep(0.001)

        act = w.act(hold=True)
        call = w.start(w.kind, requests())
        await wait(act.arrived)
        seen = call.cancel(), await read(w, call)
        await wait(act.cancelled)
        count = len(pulled)
        await asyncio.sleep(0.02)  # twenty times the pause in which more would be pulled
        return seen, len(pulled) - count

    @alike(kinds=KINDS)
    async def test_serializers_that_raise(w: World) -> Any:
        def bad(_: Any) -> Any:
            raise KeyError("mine")

        seen = []
        for serializers in ((bad, None), (None, bad)):
            call = w.start(w.kind, method=w.method(w.kind, *serializers), timeout=PATIENCE)
            seen.append(await read(w, call))
        return seen

    @alike(kinds=KINDS)
    async def test_arguments_go_by_grpcs_names(w: World) -> Any:
        method = w.method(w.kind)
        name = "request_iterator" if w.kind in STREAM_REQUEST else "request"
        request: Any = [b"r"] if w.kind in STREAM_REQUEST else b"r"
        named = {"timeout": 60, "metadata": None, "credentials": None, "wait_for_ready": True}
        seen = []
        for given, keywords in (
            ((), {name: request, **named, "compression": grpc.Compression.Gzip}),
            ((request, 60), {}),
            ((request,), {"unknown": 1}),
        ):
            try:
                call = method(*given, **keywords)
            except TypeError:
                seen.append("TypeError")
            else:
                seen.append(await read(w, call))
        return seen

    @alike()
    async def test_the_rich_status_is_read_by_grpc_status(w: World) -> Any:
        from google.rpc import error_details_pb2
        from grpc_status import rpc_status

        rich = error_details_pb2.ErrorInfo(reason="QUOTA", domain="example.com")
        stub = w.stub(kit.ProbeStub)
        seen = []
        for name in ("Unary", "ServerStream"):
            refuse = kit.Refuse(grpc.StatusCode.RESOURCE_EXHAUSTED, "too much", rich=rich)
            w.stage.server.script(refuse, method=name)
            call = getattr(stub, name)(kit.ProbeRequest())
            with pytest.raises(aio.AioRpcError) as info:
                await (call if name == "Unary" else call.read())
            for status in (rpc_status.from_call(info.value), await rpc_status.aio.from_call(call)):
                seen.append((status.code, status.message, [detail.value for detail in status.details]))
        return seen


class TestEarlyEnd:
    """Cancelled, timed out, dropped."""

    @alike(kinds=KINDS)
    async def test_cancel_at_once(w: World) -> Any:
        w.act(hold=True)
        call = w.start(w.kind)
        return call.cancel(), call.cancel(), await read(w, call), await aended(call)

    @alike(kinds=KINDS)
    async def test_cancel_before_anybody_is_there(w: World) -> Any:
        call = w.start(w.kind, method=w.method(w.kind, channel=await w.open(nobody())), wait_for_ready=True)
        await asyncio.sleep(0.01)  # let it begin; it comes no further
        return astanding(call), call.cancel(), await read(w, call), await aended(call)

    @alike(kinds=KINDS)
    async def test_cancel_in_flight(w: World) -> Any:
        act = w.act(before=1, hold=True)
        call = w.start(w.kind)
        await wait(act.held)
        seen = call.cancel(), await read(w, call), await aended(call)
        return seen, await wait(act.cancelled)

    @alike(kinds=KINDS)
    async def test_cancel_after_the_end(w: World) -> Any:
        call = w.start(w.kind)
        return await read(w, call), await aoutcome(call.code), call.cancel(), call.cancelled(), await aended(call)

    @alike(kinds=KINDS)
    async def test_cancelling_the_task_that_awaits_cancels_the_call(w: World) -> Any:
        act = w.act(hold=True)
        call = w.start(w.kind)

        async def awaiting() -> Any:
            return await call.read() if w.kind in STREAM_REPLY else await call

        task = asyncio.create_task(awaiting())
        await wait(act.held)
        task.cancel()
        seen = await aoutcome(task)
        return seen, task.cancelled(), await wait(act.cancelled), await aended(call)

    @alike(kinds=KINDS)
    async def test_a_timeout_around_the_await_cancels_the_call(w: World) -> Any:
        act = w.act(hold=True)
        call = w.start(w.kind)
        await wait(act.held)
        seen = await aoutcome(asyncio.wait_for(call.read() if w.kind in STREAM_REPLY else call, 0.01))
        return seen, await wait(act.cancelled), call.cancelled()

    @alike(kinds=KINDS)
    async def test_cancelling_a_task_that_asks_for_the_code_leaves_the_call_alone(w: World) -> Any:
        act = w.act(hold=True)
        call = w.start(w.kind)
        asking = asyncio.create_task(call.code())
        await wait(act.held)
        asking.cancel()
        seen = await aoutcome(asking), astanding(call)
        act.release.set()
        return seen, await read(w, call)

    @alike(kinds=STREAM_REQUEST)
    async def test_writing_to_a_call_that_ended_early(w: World) -> Any:
        act = w.act(hold=True)
        call = w.start(w.kind, None)
        await call.write(b"x")
        await wait(act.arrived)
        call.cancel()
        seen = [await aoutcome(call.write(b"y")), await aoutcome(call.done_writing)]
        return seen, await read(w, call), await wait(act.cancelled)

    @alike(kinds=KINDS)
    async def test_the_deadline_ends_a_call_in_flight(w: World) -> Any:
        for deadline in in_flight(w):
            call = w.start(w.kind, timeout=deadline)
            seen = await read(w, call), await aended(call)
        return seen

    @alike(kinds=KINDS)
    async def test_wait_for_ready_with_nobody_there_ends_at_the_deadline(w: World) -> Any:
        method = w.method(w.kind, channel=await w.open(nobody()))
        for deadline in DEADLINES:
            begin = time.monotonic()
            call = w.start(w.kind, method=method, wait_for_ready=True, timeout=deadline)
            early = astanding(call)
            if time.monotonic() < begin + deadline:
                break
        return early, rough(await aended(call))

    @alike(kinds=KINDS)
    async def test_an_unreachable_target_fails_at_once(w: World) -> Any:
        call = w.start(w.kind, method=w.method(w.kind, channel=await w.open(nobody())), timeout=60)
        return await read(w, call), await aended(call)


class TestCallbacks:
    @alike(kinds=KINDS)
    async def test_done_callbacks_are_called_once_with_the_call_that_the_user_holds(w: World) -> Any:
        act = w.act(hold=True)
        call = w.start(w.kind)
        heard: list[tuple[str, bool, bool]] = []
        over = asyncio.Event()
        call.add_done_callback(lambda it: heard.append(("first", it is call, it.done())))
        call.add_done_callback(lambda it: (heard.append(("second", it is call, it.done())), over.set()))
        await wait(act.held)
        before = list(heard)
        act.release.set()
        body = await read(w, call)
        await asyncio.wait_for(over.wait(), PATIENCE)
        call.add_done_callback(lambda it: heard.append(("late", it is call, it.done())))
        return before, body, heard

    @alike(kinds=KINDS)
    async def test_done_callbacks_of_a_cancelled_call(w: World) -> Any:
        heard: list[bool] = []
        over = asyncio.Event()
        act = w.act(hold=True)
        call = w.start(w.kind)
        call.add_done_callback(lambda it: (heard.append(it.cancelled()), over.set()))
        await wait(act.held)
        call.cancel()
        body = await read(w, call)
        await asyncio.wait_for(over.wait(), PATIENCE)
        return body, heard


class TestChannel:
    @alike(without=("wrap_stub",))
    async def test_a_channel_and_what_it_makes_are_of_grpcs_types(w: World) -> Any:
        async with w.channel as channel:
            seen = [types(channel), channel is w.channel]
            seen += [types(w.method(kind)) for kind in KINDS]
            calls = [w.start(kind) for kind in KINDS]
            seen += [types(call) for call in calls]
            for call in calls:
                call.cancel()
                await aoutcome(call.code)
        return seen

    @alike(kinds=KINDS, skips=OLD_CLOSE)
    async def test_close_with_calls_in_flight(w: World) -> Any:
        act = w.act(before=1, hold=True)
        call = w.start(w.kind)
        await wait(act.held)
        await w.channel.close()
        return await read(w, call), rough(await aended(call)), await wait(act.cancelled)

    @alike(kinds=KINDS, skips=OLD_CLOSE)
    async def test_close_with_a_grace_that_is_long_enough(w: World) -> Any:
        act = w.act(before=1, hold=True)
        call = w.start(w.kind)
        await wait(act.held)
        closing = asyncio.create_task(w.channel.close(PATIENCE))
        await asyncio.sleep(0.01)  # it waits for the call, and goes on waiting
        early = closing.done(), await aoutcome(lambda: w.start(w.kind))
        act.release.set()
        body = await read(w, call)
        await closing
        return early, body, rough(await aended(call))

    @alike(kinds=KINDS, skips=OLD_CLOSE)
    async def test_close_with_a_grace_that_is_too_short(w: World) -> Any:
        act = w.act(before=1, hold=True)
        call = w.start(w.kind)
        await wait(act.held)
        await w.channel.close(0.02)
        return await read(w, call), rough(await aended(call)), await wait(act.cancelled)

    @alike(kinds=KINDS)
    async def test_close_with_calls_that_nobody_has_answered_yet(w: World) -> Any:
        channel = await w.open(nobody())
        call = w.start(w.kind, method=w.method(w.kind, channel=channel), wait_for_ready=True)
        await asyncio.sleep(0.02)  # let it begin; it comes no further
        await channel.close()
        return await read(w, call), rough(await aended(call))

    @alike(kinds=KINDS)
    async def test_a_closed_channel_refuses(w: World) -> Any:
        method = w.method(w.kind)
        await w.channel.close()
        await w.channel.close()
        try:
            call = w.start(w.kind, method=method)
        except Exception as caught:
            return error(caught)
        return await read(w, call)

    @alike(without=("wrap_stub",))
    async def test_states_of_a_channel(w: World) -> Any:
        channel = await w.open(nobody())
        seen = [channel.get_state(), channel.get_state(try_to_connect=False)]
        await asyncio.wait_for(w.channel.channel_ready(), PATIENCE)
        seen.append(w.channel.get_state())
        change = asyncio.create_task(channel.wait_for_state_change(grpc.ChannelConnectivity.IDLE))
        channel.get_state(try_to_connect=True)
        seen.append(await asyncio.wait_for(change, PATIENCE))
        await w.channel.close()
        return [str(state) for state in seen], await aoutcome(w.channel.get_state)

    @alike(without=[name for name, way in WAYS.items() if way.warm])
    async def test_wait_for_ready_meets_a_server_that_starts_late(w: World) -> Any:
        late = Stage(w.stage.server.credentials, w.stage.server.ca)
        try:
            channel = await w.open(stage=late)
            calls = {
                kind: w.start(kind, method=w.method(kind, channel=channel), wait_for_ready=True, timeout=60)
                for kind in KINDS
            }
            early = [astanding(call) for call in calls.values()]
            await asyncio.to_thread(late.server.start)
            return early, [
                await (drain(call) if kind in STREAM_REPLY else aoutcome(call)) for kind, call in calls.items()
            ]
        finally:
            await asyncio.to_thread(late.server.stop)

    @alike(kinds=KINDS, without=("wrap_stub",))
    async def test_the_factories_take_what_grpcs_take(w: World) -> Any:
        path = f"/{SERVICE}/{w.kind}"
        make = getattr(w.channel, w.kind)
        seen = []
        for given, named in (
            ((path,), {}),
            ((path, None, None), {"_registered_method": True}),
            ((path, None, None, True), {}),
            ((), {"method": path, "request_serializer": bytes, "response_deserializer": bytes}),
            ((path,), {"unknown": 1}),
        ):
            try:
                method = make(*given, **named)
            except TypeError:
                seen.append("TypeError")
            else:
                seen.append(await read(w, w.start(w.kind, method=method)))
        return seen

    @alike(kinds=KINDS, without=("wrap_stub",))
    async def test_interceptors_given_to_the_channel(w: World) -> Any:
        noop = Noop()
        channel = await w.open(interceptors=users(noop))
        before = noop.seen
        w.act(before=1, trailing=[("t", "2")])
        call = w.start(w.kind, method=w.method(w.kind, channel=channel))
        return await read(w, call), await aended(call), noop.seen - before

    @alike(kinds=KINDS, without=("wrap_stub", "interceptors", "under_users", "over_users"))
    async def test_interceptors_appended_to_a_channel_that_is_there_already(w: World) -> Any:
        noop = Noop()
        adds = users(noop)[KINDS.index(w.kind)]
        getattr(w.channel, f"_{w.kind}_interceptors").append(adds)
        w.act(before=1)
        call = w.start(w.kind)
        return await read(w, call), noop.seen


class TestMetadata:
    @alike(kinds=KINDS)
    async def test_metadata_of_every_form_arrives(w: World) -> Any:
        entries = (("a", "1"), ("a", "2"), ("b-bin", b"\x00\xff"))
        seen = []
        for form in (entries, list(entries), aio.Metadata(*entries), aio.Metadata(), (), [], None, (("c", b"bytes"),)):
            act = w.act()
            seen.append((await read(w, w.start(w.kind, metadata=form)), arrived(act)))
        return seen

    @alike(kinds=KINDS)
    async def test_metadata_that_can_be_read_but_once_arrives_like_a_tuple(w: World) -> Any:
        entries = (("a", "1"), ("b-bin", b"\x00\xff"))
        # Plain channels may not take a generator; ours do.
        forms: list[Any] = [entries, entries]
        if w.auth is not None and w.way not in (WAYS["composite"], WAYS["interceptors"]):
            forms = [iter(entries), (entry for entry in entries)]
        seen = []
        for form in forms:
            act = w.act()
            seen.append((await read(w, w.start(w.kind, metadata=form)), arrived(act)))
        return seen

    @alike(kinds=KINDS)
    async def test_metadata_is_not_changed_and_can_be_used_again(w: World) -> Any:
        metadata, entries = aio.Metadata(("a", "1")), [("a", "1")]
        acts = []
        for form in (metadata, metadata, metadata, entries, entries):
            acts.append(w.act())
            await read(w, w.start(w.kind, metadata=form))
        return list(metadata), entries, [arrived(act) for act in acts]

    @alike(kinds=KINDS, without=("wrap_stub",))
    async def test_a_users_interceptor_that_changes_metadata_in_place_makes_nothing_grow(w: World) -> Any:
        class Adds:
            async def intercept(self, continuation: Any, details: Any, request: Any) -> Any:
                if details.metadata is None:
                    details = details._replace(metadata=aio.Metadata())
                details.metadata.add("added", "1")
                return await continuation(details, request)

        channel = await w.open(interceptors=users(Adds()))
        method = w.method(w.kind, channel=channel)
        acts = []
        for form in (None, None, None, (("a", "1"),), (("a", "1"),)):
            acts.append(w.act())
            await read(w, w.start(w.kind, method=method, metadata=form))
        return [arrived(act) for act in acts]

    @alike(
        kinds=KINDS,
        differs={
            "clear": Known(LATER, r"\[0\]"),  # later ones find the token at hand
            **before_1_80(
                dict.fromkeys(("clear", "clear_warm", "warm", "warm_once unary_unary"), Known(OLD_START, r"\[[01]\]"))
            ),
        },
    )
    async def test_malformed_metadata_fails_the_same_way(w: World) -> Any:
        w.carries_token = False
        seen = []
        forms: list[Any] = [[("a",)], [("a", "b", "c")], [("a", 1)], [(1, "a")], [("A", "1")], [("a", "new\nline")]]
        for form in forms:
            try:
                call = w.start(w.kind, metadata=form, timeout=1)
            except Exception as caught:
                seen.append((repr(form), error(caught)))
            else:
                seen.append((repr(form), await read(w, call)))
        return seen

    @alike(kinds=KINDS, without=("composite", "clear", "clear_warm"))
    async def test_call_credentials_of_the_users_own(w: World) -> Any:
        w.carries_token = False
        act = w.act()
        call = w.start(w.kind, credentials=grpc.access_token_call_credentials("theirs"))
        return await read(w, call), own(act)

    @alike(kinds=KINDS, without=("composite",))
    async def test_metadata_of_the_users_own_under_our_header(w: World) -> Any:
        w.carries_token = False
        act = w.act()
        call = w.start(w.kind, metadata=(("authorization", "Bearer theirs"),))
        return await read(w, call), own(act)

    @alike(kinds=KINDS)
    async def test_compression_of_a_call(w: World) -> Any:
        seen = []
        for compression in (None, *grpc.Compression):
            act = w.act()
            body = await read(w, w.start(w.kind, compression=compression))
            metadata = act.context.invocation_metadata()
            seen.append((body, [value for key, value in metadata if key == "grpc-internal-encoding-request"]))
        return seen


def test_one_auth_serves_event_loops_one_after_another(stages: dict[str, Stage]) -> None:
    server = stages["tls"].server

    async def use(auth: grpc_bearer.BearerAuth) -> int:
        async with grpc_bearer.aio.secure_channel(server.target, server.channel_credentials(), auth=auth) as channel:
            stub = kit.ProbeStub(channel)
            return sum([(await stub.Unary(kit.ProbeRequest())).count for _ in range(3)])

    async def token() -> str:
        return "t0"

    with grpc_bearer.BearerAuth(token) as auth:
        assert [asyncio.run(use(auth)) for _ in range(3)] == [3, 3, 3]


# The plain values of `observe` are compared by `plain`'s rules; these are its own.
def test_the_observer_sees_a_difference() -> None:
    from _contract.runner import differences

    assert list(differences({"a": [1, plain("x")]}, {"a": [1, "y"]})) == [(".a[1]", "ours 'x', plain 'y'")]


def test_the_observer_lets_pass_only_what_grpc_never_answers() -> None:
    from _contract.runner import differences

    never = {"raised": {"class": "TimeoutError"}}
    assert list(differences({"wait_for_connection": None}, {"wait_for_connection": never})) == []
    assert list(differences([None], [never])) == [("[0]", f"ours None, plain {never!r}")]
