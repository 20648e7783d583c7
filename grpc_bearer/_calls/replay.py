"""The requests of a stream as serialised bytes, each serialised once, kept so that a second attempt sends the same.

Bytes and not messages: a generator may fill one message object again and again, and what it has become since is not
what was sent.
"""

from __future__ import annotations

import copy
import threading
from _thread import RLock  # what is in threading is a function around it
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._calls.grpc_types import Serializer

#: In place of a serializer: it is not ours to know, so requests are passed on as they are.
UNKNOWN: Any = object()


class Unserialisable:
    """A request that its serializer refused; gRPC meets it in its turn and says so in its own way."""

    __slots__ = ("request",)

    def __init__(self, request: object) -> None:
        self.request = request


Item = bytes | Unserialisable


def serialise(serializer: Serializer | None, request: Any) -> Item:
    if serializer is None:
        return request  # type: ignore[no-any-return]  # bytes by contract; gRPC complains if not
    try:
        return serializer(request)
    except Exception as error:
        if is_interrupt(error):
            raise
        return Unserialisable(request)


def passthrough_serializer(serializer: Serializer | None) -> Callable[[Item], bytes] | None:
    """The serializer to give gRPC for items that are bytes already."""
    if serializer is None:
        return None
    # Called again for what it refused, so that the error and its log are gRPC's own.
    return lambda item: serializer(item.request) if isinstance(item, Unserialisable) else item


def snapshot(request: object) -> object:
    """A request as it is now, where its serializer is not ours to call."""
    if isinstance(request, bytes):
        return request
    copier = getattr(type(request), "__deepcopy__", None)  # of protobuf's messages; a tenth of copy.deepcopy()
    try:
        return copy.deepcopy(request) if copier is None else copier(request, {})
    except Exception as error:  # it holds a lock, a file: such a one is made for its moment, and stays as it is
        if is_interrupt(error):
            raise
        return request


class NotReplayable:
    """The requests of a stream that cannot be sent again."""

    pushed = False

    def __init__(self, requests: Iterable[object]) -> None:
        self._requests = requests

    def reader(self) -> Iterable[object]:
        return self._requests

    def rewind(self) -> bool:
        """Whether the stream can be sent again."""
        return False

    def release(self) -> None:
        """Nothing is kept."""

    stop = release


class Kept:
    """The items that can still be sent again, within bounds.

    Args:
        messages: how many at most.
        size: how many bytes of them at most.
    """

    __slots__ = ("first", "items", "messages", "room", "whole")

    def __init__(self, messages: int, size: int) -> None:
        self.items: list[Item] = []
        self.first = 0  # the position of items[0] in the stream
        self.messages = messages
        self.room = size
        self.whole = True  # nothing was dropped: the stream can be sent again from its start

    def add(self, item: Item) -> None:
        self.items.append(item)
        self.room -= _size(item)
        if self.whole and (len(self.items) > self.messages or self.room < 0):
            self.whole = False

    def holds(self, position: int) -> bool:
        if position < self.first:
            raise AssertionError("what was dropped is asked for")  # a negative index would be another request
        return position - self.first < len(self.items)

    def drop_before(self, position: int) -> None:
        """Once the stream is not to be sent again, what was sent is of no use."""
        if not self.whole and position > self.first:
            del self.items[: position - self.first]
            self.first = position


def _size(item: object) -> int:
    """Bytes of a request, or of a copy of one; those that cannot say are bounded in number alone."""
    if isinstance(item, (bytes, bytearray, memoryview)):
        return len(item)
    measure = getattr(item, "ByteSize", None)  # of protobuf's messages
    if callable(measure):
        return int(measure())
    to_binary = getattr(item, "to_binary", None)  # of those of protobuf-py, which connectrpc generates
    return len(to_binary()) if callable(to_binary) else 0


class ReplayBuffer:
    """A request iterator of the user's, as an iterator of bytes for each attempt.

    The user's iterator is asked by one attempt at a time, and never for anything twice; a later attempt waits until an
    earlier one that is still asking has its answer, which then belongs to both.
    """

    pushed = False

    def __init__(self, requests: Iterable[object], serializer: Serializer | None, messages: int, size: int) -> None:
        self._requests = _iterator(requests)
        self._serializer = serializer
        self._lock = RLock()  # guards what follows
        self._changed: threading.Condition | None = None  # made for the first who waits
        self._kept = Kept(messages, size)
        self._asking = False
        self._end: BaseException | None = None
        self._reader: object = None

    @property
    def whole(self) -> bool:
        """Whether all of the stream so far can be sent again."""
        return self._kept.whole

    def release(self) -> None:
        """The stream will not be sent again: keep no more of it than has to be kept."""
        with self._lock:
            self._kept.whole = False

    def rewind(self) -> bool:
        """The attempt at hand is over, so its reader comes to its end. Whether the stream can be sent again, whole.

        If so it stays so: only readers drop anything, and the next one begins at the start.
        """
        with self._lock:
            self._reader = None
            self._notify()
            return self._kept.whole

    def stop(self) -> None:
        """The call has ended: whoever still wants to read comes to the end."""
        with self._lock:
            self._reader = None
            self._notify()

    def reader(self) -> Iterator[Item]:
        """The requests from the first on, for one attempt; an earlier reader comes to its end."""
        reader = _Reader(self)
        with self._lock:
            self._reader = reader
            self._notify()
        return reader

    def get(self, reader: object, position: int) -> Item:
        while True:
            with self._lock:
                while True:
                    if reader is not self._reader:
                        raise StopIteration
                    kept = self._kept
                    if kept.holds(position):
                        item = kept.items[position - kept.first]
                        if not kept.whole:
                            kept.drop_before(position + 1)
                        return item
                    if self._end is not None:
                        raise self._end
                    if not self._asking:
                        break
                    self._wait()
                self._asking = True
            self._ask()

    def _wait(self) -> None:
        """Under the lock, which is free while this waits."""
        if self._changed is None:
            self._changed = threading.Condition(self._lock)
        self._changed.wait()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.notify_all()

    def _ask(self) -> None:
        """Ask the user's iterator for one more, with no lock held: it may take for ever."""
        end: BaseException | None = None
        try:
            item = serialise(self._serializer, next(self._requests))
        except BaseException as error:
            end = error
        with self._lock:
            self._asking = False
            if end is None:
                self._kept.add(item)
            self._end = end
            self._notify()


def _iterator(requests: Any) -> Iterator[object]:
    """Of what gRPC takes: it asks for no more than `__next__`, and complains of the rest when it comes to it."""
    if hasattr(requests, "__next__"):
        return requests  # type: ignore[no-any-return]  # by what it has, not by its class
    try:
        return iter(requests)
    except TypeError as error:
        return _raising(error)


def _raising(error: Exception) -> Iterator[object]:
    raise error
    yield


class _Reader:
    __slots__ = ("_buffer", "_position")

    def __init__(self, buffer: ReplayBuffer) -> None:
        self._buffer = buffer
        self._position = 0

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> Item:
        item = self._buffer.get(self, self._position)
        self._position += 1
        return item
