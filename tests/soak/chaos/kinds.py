"""Every kind of call, sync and asyncio, each with the replies that must come back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from grpc import aio

from grpc_bearer.testing import Attempt, ProbeReply, ProbeRequest

#: Requests of one call are numbered on from its own number times this.
SPAN = 10_000
#: How many messages of a request stream are kept to be sent again, by default.
REPLAYED = 1000
# That part of the calls which would rather wait than fail. The others are the ones whose token goes as metadata.
_PATIENT = 0.6


@dataclass(frozen=True, slots=True)
class Job:
    """One call to be made: `count` requests, or `count` replies to one request.

    `patient`: with `wait_for_ready`, so that it would rather wait until its deadline than fail.
    """

    number: int
    kind: str
    count: int
    padding: int
    reuse: bool = True
    patient: bool = True

    @classmethod
    def draw(cls, number: int, kind: str, rng: random.Random, *, long: bool = False, full: bool = False) -> Job:
        streams = kind.startswith(("client", "bidi"))
        count = 1050 if long else 30 if full else rng.choice((0, 1, 2, 5, 30)) if streams else 4
        padding = 10 if long else rng.choice((0, 10, 3000))
        return cls(number, kind, count, padding, patient=rng.random() < _PATIENT)

    @property
    def streams(self) -> bool:
        """Whether the requests are a stream."""
        return self.kind.startswith(("client", "bidi"))

    @property
    def indexes(self) -> list[int]:
        """Of the requests, as the server must see them."""
        return [self.number * SPAN + position for position in range(self.count if self.streams else 1)]

    def payload(self, index: int) -> bytes:
        return b"%d " % index + b"." * self.padding

    def request(self) -> ProbeRequest:
        return ProbeRequest(index=self.indexes[0], payload=self.payload(self.indexes[0]), replies=self.count)

    def requests(self) -> Iterator[ProbeRequest]:
        """One message, used again and again if so wished: what is sent must be what it was when it was given."""
        message = ProbeRequest()
        for index in self.indexes:
            message = message if self.reuse else ProbeRequest()
            message.index, message.payload = index, self.payload(index)
            yield message
            if self.reuse:
                message.index = -1

    async def arequests(self) -> AsyncIterator[ProbeRequest]:
        for request in self.requests():
            yield request

    def wrong(self, replies: list[ProbeReply]) -> str:
        """What is wrong with the replies; empty: nothing."""
        expected = self.count if self.kind.startswith(("server", "bidi")) else 1
        if [reply.index for reply in replies] != list(range(expected)):
            return f"{len(replies)} replies, expected {expected}"
        if not replies:
            return ""
        digest = hashlib.sha256(b"".join(self.payload(index) for index in self.indexes)).digest()
        if list(replies[-1].indexes) != self.indexes or replies[-1].digest != digest:
            return f"the server answered for {len(replies[-1].indexes)} requests, or others than were sent"
        return ""


def number_of(attempt: Attempt) -> int:
    """Of the job that a server's attempt belongs to."""
    said = next((value for key, value in attempt.metadata if key == "x-call"), None)
    if said is not None:
        return int(said)
    return attempt.requests[0] // SPAN if attempt.requests else -1


# ---------------------------------------------------------------------------------------------------------------- sync


def _future(stub: Any, job: Job, **how: Any) -> list[Any]:
    request = job.request()
    call = stub.Unary.future(request, **how)
    request.index, request.payload = -1, b"changed after the call was made"
    return [call.result()]


SYNC: dict[str, Callable[..., list[Any]]] = {
    "unary": lambda stub, job, **how: [stub.Unary(job.request(), **how)],
    "unary.with_call": lambda stub, job, **how: [stub.Unary.with_call(job.request(), **how)[0]],
    "unary.future": _future,
    "server stream": lambda stub, job, **how: list(stub.ServerStream(job.request(), **how)),
    "client stream": lambda stub, job, **how: [stub.ClientStream(job.requests(), **how)],
    "client stream.with_call": lambda stub, job, **how: [stub.ClientStream.with_call(job.requests(), **how)[0]],
    "client stream.future": lambda stub, job, **how: [stub.ClientStream.future(job.requests(), **how).result()],
    "bidi stream": lambda stub, job, **how: list(stub.BidiStream(job.requests(), **how)),
}


# ------------------------------------------------------------------------------------------------------------- asyncio


async def _unary(stub: Any, job: Job, **how: Any) -> list[Any]:
    return [await stub.Unary(job.request(), **how)]


async def _iterated(call: Any) -> list[Any]:
    return [reply async for reply in call]


async def _read(call: Any) -> list[Any]:
    replies = []
    while (reply := await call.read()) is not aio.EOF:
        replies.append(reply)
    return replies


async def _client(stub: Any, job: Job, **how: Any) -> list[Any]:
    return [await stub.ClientStream(job.arequests(), **how)]


async def _client_write(stub: Any, job: Job, **how: Any) -> list[Any]:
    call = stub.ClientStream(**how)
    # grpc.aio says InvalidStateError to whoever writes to a call that has ended; why it ended, one must ask the call.
    with contextlib.suppress(asyncio.InvalidStateError):
        for request in job.requests():
            await call.write(request)
        await call.done_writing()
    return [await call]


async def _bidi_write(stub: Any, job: Job, **how: Any) -> list[Any]:
    call = stub.BidiStream(**how)
    replies: list[Any] = []
    for request in job.requests():
        with contextlib.suppress(asyncio.InvalidStateError):
            await call.write(request)
        reply = await call.read()
        if reply is aio.EOF:
            return replies
        replies.append(reply)
    with contextlib.suppress(asyncio.InvalidStateError):
        await call.done_writing()
    return replies + await _read(call)


AIO: dict[str, Callable[..., Awaitable[list[Any]]]] = {
    "unary": _unary,
    "server stream": lambda stub, job, **how: _iterated(stub.ServerStream(job.request(), **how)),
    "server stream.read": lambda stub, job, **how: _read(stub.ServerStream(job.request(), **how)),
    "client stream": _client,
    "client stream.write": _client_write,
    "bidi stream": lambda stub, job, **how: _iterated(stub.BidiStream(job.arequests(), **how)),
    "bidi stream.write": _bidi_write,
}
