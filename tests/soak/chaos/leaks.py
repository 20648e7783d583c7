"""Where a secret might show, and the search for it: logs at DEBUG with their extras, warnings, errors with chains."""

from __future__ import annotations

import contextlib
import logging
import re
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

LOGGERS = ("", "grpc_bearer", "google", "urllib3", "requests", "grpc", "asyncio", "naive")
_WINDOW = 16
_RUN = re.compile(rf"[A-Za-z0-9_+/=-]{{{_WINDOW},}}")


class Capture(logging.Handler):
    """Keeps all text that was shown, each text once."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: set[str] = set()
        self.records = 0

    def text(self, text: str) -> None:
        self.texts.add(text)

    def handle(self, record: logging.LogRecord) -> bool:
        # Without the lock of a handler. grpc.aio logs under a lock that its objects take too when they are collected,
        # and the garbage collector may run here: seen as two threads that waited for each other for ever.
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        self.records += 1
        # What differs each time and says nothing would make each text another.
        extras = {key: value for key, value in vars(record).items() if key not in _DULL}
        self.text(f"{record.getMessage()} {extras!r}")
        if record.exc_info and record.exc_info[1]:
            self.exception(record.exc_info[1])

    def exception(self, error: BaseException) -> None:
        """Its text, with its chain, and all that hangs on each of the chain."""
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        self.text("".join(lines))
        for each in _chain(error):
            self.text(f"{each!r} {each} {each.args!r} {vars(each)!r}")
            if hasattr(each, "request"):  # of `requests`: the credential is in its body or headers
                self.text(repr(vars(each.request)))
            for name in ("details", "debug_error_string", "trailing_metadata", "initial_metadata"):
                with contextlib.suppress(Exception):
                    self.text(repr(getattr(each, name)()))

    @contextlib.contextmanager
    def listening(self) -> Iterator[Capture]:
        """Every logger at DEBUG, every warning; as before afterwards."""
        loggers = [logging.getLogger(name) for name in (*LOGGERS, "hpack")]
        levels = [logger.level for logger in loggers]
        root = logging.getLogger()
        root.addHandler(self)
        for logger in loggers:
            logger.setLevel(logging.DEBUG)
        logging.getLogger("hpack").setLevel(logging.INFO)  # the proxies': they stand on the server's side
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield self
            finally:
                root.removeHandler(self)
                for logger, level in zip(loggers, levels, strict=True):
                    logger.setLevel(level)
                for warning in caught:
                    self.text(str(warning.message))


_DULL = {"created", "msecs", "relativeCreated", "thread", "threadName", "process", "processName", "taskName"}
_DULL |= {"msg", "args", "exc_info", "exc_text"}  # said by the message, and by the exception


def _chain(error: BaseException) -> Iterator[BaseException]:
    pending, seen = [error], set[int]()
    while pending:
        each = pending.pop()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            linked = (*each.args, each.__cause__, each.__context__, getattr(each, "reason", None))
            pending += [link for link in linked if isinstance(link, BaseException)]


def marks(secret: str) -> Iterator[str]:
    """Pieces by which a secret is known again, even cut off: of a JWT its signature, the rest is no secret."""
    piece = secret.rpartition(".")[2]
    if len(piece) >= _WINDOW:
        yield piece[:_WINDOW]
        yield piece[-_WINDOW:]


def found(texts: Iterable[str], secrets: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """By owner: the texts (their beginnings, secrets blotted out) that show one of the owner's secrets."""
    owner_of = {mark: owner for owner, each in secrets.items() for secret in each for mark in marks(secret)}
    hits: dict[str, list[str]] = {}
    for text in texts:
        shown = {owner_of[mark] for mark in _windows(text) if mark in owner_of}
        for owner in shown:
            hits.setdefault(owner, []).append(_RUN.sub("<…>", text)[:300])
    return hits


def _windows(text: str) -> Iterator[str]:
    for run in _RUN.finditer(text):
        piece = run.group()
        for start in range(len(piece) - _WINDOW + 1):
            yield piece[start : start + _WINDOW]


def shown(things: Iterable[Any]) -> Iterator[str]:
    """What there is to see of an object without asking for it."""
    for thing in things:
        yield f"{thing!r} {thing}"
