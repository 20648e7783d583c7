"""Reads along what is logged, and finds secrets in it."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from urllib.parse import quote, quote_plus

__all__ = ["SecretWatch"]

# A part of a secret is found too: so many characters of it are enough, from every so many of its characters on.
_WINDOW, _STRIDE = 16, 8
_SHORTEST = 8
_JWT = re.compile(r"eyJ[\w-]+\.[\w-]+\.[\w-]+")
# google-auth stops its logger's propagation when it is first asked whether to log, which may be yet to come.
_STOPS_PROPAGATION = "google"


class SecretWatch:
    """Fails if a secret is logged: by anybody, at any level, while the block runs.

    All loggers log at DEBUG meanwhile. Messages, extras and tracebacks are searched, for secrets as they are,
    percent-encoded, in base64, as JSON and `repr` write them, and for parts of them from 24 characters on.

    Args:
        secrets: as for `keep`.

    Raises:
        AssertionError: at the end of the block, if it raised nothing itself. The text names the record, not the secret.
        ValueError: a secret of fewer than 8 characters, which cannot be told from other text.

    >>> with SecretWatch("s3cret-token") as watch:
    ...     logging.getLogger("client").debug("sending a request")
    ...     watch.leaks()
    []
    """

    def __init__(self, *secrets: str | bytes) -> None:
        self._records: dict[tuple[str, str], None] = {}  # in order, each once
        self._secrets: dict[str, None] = {}
        self._stack = contextlib.ExitStack()
        self.keep(*secrets)

    def __repr__(self) -> str:
        return f"<SecretWatch: {len(self._secrets)} secrets, {len(self._records)} records>"

    def keep(self, *secrets: str | bytes) -> None:
        """Secrets that may not be logged, told at any time. Of a JWT the claims and the signature count, of a PEM its
        body."""
        for secret in secrets:
            for part in _parts(secret.decode("latin-1") if isinstance(secret, bytes) else secret):
                if len(part) < _SHORTEST:
                    raise ValueError(f"a secret of {len(part)} characters cannot be told from other text")
                self._secrets.setdefault(part)

    def leaks(self) -> list[str]:
        """Which records show a secret: logger, level and place of each."""
        windows = {window for secret in self._secrets for form in _forms(secret) for window in _windows(form)}
        records = list(self._records)
        return list(dict.fromkeys(where for where, text in records if any(window in text for window in windows)))

    def check(self) -> None:
        """Raise `AssertionError` if a secret was logged so far."""
        if leaks := self.leaks():
            raise AssertionError("secrets were logged:\n  " + "\n  ".join(leaks))

    def __enter__(self) -> SecretWatch:
        self._stack.enter_context(logging_to(self._take))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is None:
            self.check()

    def _take(self, record: logging.LogRecord) -> None:
        # As text and at once: what a record refers to may change. Extras are attributes, so they are among these.
        parts = [_plain(value) for value in vars(record).values()]
        with contextlib.suppress(TypeError, ValueError):
            parts.append(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            parts += traceback.format_exception(record.exc_info[1])
        where = f"{record.name} ({record.levelname}) at {record.filename}:{record.lineno}"
        self._records[where, "\n".join(parts)] = None


def _parts(secret: str) -> list[str]:
    """The parts of a secret that are secret: not the header of a JWT, nor the frame of a PEM."""
    if "-----BEGIN" in secret:
        lines = secret.replace("\\n", "\n").splitlines()
        return ["".join(line.strip() for line in lines if "-----" not in line and ":" not in line)]
    return secret.split(".")[1:] if _JWT.fullmatch(secret) else [secret]


def _forms(secret: str) -> Iterator[str]:
    data = secret.encode("utf-8", "replace")
    yield from (secret, quote(secret, safe=""), quote(secret), quote_plus(secret), data.hex())
    yield from (repr(secret)[1:-1], json.dumps(secret)[1:-1])
    for skipped in range(3):  # where it begins within a group of three bytes
        # A character of base64 that also holds bits of a neighbour is left out.
        first, last = (0, 2, 3)[skipped], (len(data) + skipped) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * skipped + data).decode()[first:last]


def _windows(form: str) -> Iterator[str]:
    if len(form) < _WINDOW + _STRIDE:
        yield form
        return
    for start in range(0, len(form) - _WINDOW + 1, _STRIDE):
        yield form[start : start + _WINDOW]


def _plain(value: object) -> str:
    """A value as text; bytes twice, since `repr` escapes them."""
    try:
        text = repr(value)
    except Exception:  # anything can be logged
        return ""
    return f"{text}\n{value.decode('latin-1')}" if isinstance(value, bytes) else text


class _Handler(logging.Handler):
    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.DEBUG)
        self._take = take

    def handle(self, record: logging.LogRecord) -> bool:
        # Without the lock of a handler. grpc.aio logs under a lock that its objects take too when they are collected,
        # and the garbage collector may run here.
        self._take(record)
        return True


@contextlib.contextmanager
def logging_to(take: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Give `take` every record: all loggers at DEBUG, and those that keep theirs from the root logger are heard too."""
    handler = _Handler(take)
    names = [name for name, each in logging.root.manager.loggerDict.items() if isinstance(each, logging.Logger)]
    loggers = [logging.root, *map(logging.getLogger, sorted({*names, _STOPS_PROPAGATION}))]
    before = [(each, each.level, each.disabled) for each in loggers]
    disabled, logging.root.manager.disable = logging.root.manager.disable, 0
    handled = [each for each in loggers if each in (logging.root, logging.getLogger(_STOPS_PROPAGATION))]
    handled += [each for each in loggers if not each.propagate and each not in handled]
    for each in loggers:
        each.setLevel(logging.DEBUG)
        each.disabled = False
    for each in handled:
        each.addHandler(handler)
    try:
        yield
    finally:
        for each in handled:
            each.removeHandler(handler)
        for each, level, was in before:
            each.setLevel(level)
            each.disabled = was
        logging.root.manager.disable = disabled
