"""Collects whatever a program shows while it runs, and searches it for secrets.

`Watch` is a context manager. Tell it the secrets (`keep`, afterwards too: tokens are often known only then), show it
what a user could print (`error`, `value`, `rpc`), and ask for `leaks()`. It collects by itself logs, warnings
and the standard streams, at their descriptors too, where gRPC's core writes.

A secret is found in any of its forms (plain, base64 at every alignment, percent-encoded, hexadecimal, as `repr` and
JSON write it), and in part: any 24 characters in a row are enough.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.util
import io
import json
import logging
import os
import pickle
import re
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus

import grpc

from grpc_bearer.errors import ConfigurationError, SigningError, TokenFormatError
from grpc_bearer.testing._watch import logging_to

#: A window of a secret that is looked for, and how far apart the windows begin.
_WINDOW, _STRIDE = 16, 8
#: Where a window without a space can stand: most of a text is words, and too short.
_LONG_ENOUGH = re.compile(rf"\S{{{_WINDOW},}}")
#: These have levels or handlers of their own, or stop what they log from reaching the root logger.
_LOGGERS = ("google", "google.auth", "urllib3", "requests", "grpc", "grpc_bearer", "asyncio", "concurrent.futures")
#: What a call that has ended can be asked.
_TOLD = ("code", "details", "debug_error_string", "initial_metadata", "trailing_metadata")
#: How deep the attributes of an error are followed.
_DEPTH = 4


class Leak(NamedTuple):
    """What was found, where, and what stood around it."""

    secret: str
    where: str
    around: str


class Watch:
    """See the module.

    >>> with Watch() as watch:
    ...     watch.keep(password="correct-horse-battery")
    ...     logging.getLogger("urllib3").debug("PUT", extra={"headers": {"x": "correct-horse-battery"}})
    >>> [leak.where for leak in watch.leaks()]
    ['log urllib3']
    """

    def __init__(self) -> None:
        self._secrets: dict[str, str] = {}
        self._seen: dict[tuple[str, str], None] = {}  # in order, each text once
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Watch:
        try:
            for name in _LOGGERS:
                logging.getLogger(name)  # so that it is there to be listened to
            self._stack.enter_context(logging_to(self._record))
            caught = self._stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            self._stack.callback(lambda: [self.see("warning", _of_warning(each)) for each in caught])
            self._stack.enter_context(_streams_to(lambda text: self.see("stdout or stderr", text)))
            self._stack.enter_context(_hooks_to(self._unraised))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # -- secrets ------------------------------------------------------------------------------------------------------

    def keep(self, *values: str | bytes, **named: str | bytes) -> None:
        """Secrets that nothing may show: tokens, passwords, PEM keys (of which the body counts)."""
        for name, value in [*((f"secret {len(self._secrets) + n}", v) for n, v in enumerate(values)), *named.items()]:
            text = value.decode("latin-1") if isinstance(value, bytes) else value
            for part, secret in _parts(text):
                if len(secret) < 8:
                    raise ValueError(f"{name}: too short to be told from other text")
                self._secrets.setdefault(secret, name + part)

    def keep_jwk(self, jwk: Mapping[str, Any], name: str = "JWK") -> None:
        """A private JWK; its private members count."""
        for member in ("d", "p", "q", "dp", "dq", "qi", "k"):
            if member in jwk:
                self.keep(**{f"{name} {member}": jwk[member]})

    # -- what was shown -----------------------------------------------------------------------------------------------

    def see(self, where: str, text: str) -> None:
        """Any text that a user could come to see."""
        with self._lock:
            self._seen[where, text] = None

    def error(self, error: BaseException, where: str = "error") -> None:
        """An error with all that hangs on it: chain, notes, arguments, attributes, and its traceback as printed."""
        for link in _chain(error):
            self.see(f"{where}: traceback", "".join(traceback.format_exception(link)))
            # What is refused when it is given is an argument of ours just then, as it stands in the giver's own frame.
            if not isinstance(link, ConfigurationError | SigningError | TokenFormatError):
                self.see(f"{where}: local variables", "\n".join(_locals_of(link)))
            shown = (str(link), repr(link), repr(link.args), repr(getattr(link, "__notes__", ())))
            self.see(f"{where}: {type(link).__name__}", "\n".join(shown))
            # A call holds its channel, and with it the token. Our own errors hold nothing that does.
            if isinstance(link, grpc.RpcError):
                self.rpc(link, where)
            else:
                self.see(f"{where}: what {type(link).__name__} holds", "\n".join(_attributes(link)))
                self._pickled(link, where)

    def rpc(self, call: Any, where: str = "call") -> None:
        """A sync call or `RpcError` that has ended: all that it tells. What takes an asyncio call, `arpc` reads."""
        self.see(f"{where}: shown", f"{call}\n{call!r}")
        for name in _TOLD:
            # gRPC itself never answers this for a call that was cancelled here.
            if name != "debug_error_string" or call.code() is not grpc.StatusCode.CANCELLED:
                with contextlib.suppress(Exception):
                    self.see(f"{where}: {name}()", repr(getattr(call, name)()))

    async def arpc(self, call: Any, where: str = "aio call") -> None:
        """An asyncio call that has ended."""
        self.see(f"{where}: shown", f"{call}\n{call!r}")
        for name in _TOLD:
            with contextlib.suppress(Exception):
                self.see(f"{where}: {name}()", repr(await getattr(call, name)()))

    def value(self, value: object, where: str = "") -> None:
        """An object that a user holds: shown, formatted, as debuggers show its attributes, and pickled."""
        where = where or type(value).__name__
        self.see(where, f"{value}\n{value!r}\n{value!s:>1}\n{[value]!r}")
        # All but functions, which are the user's own, and show themselves as they like.
        held = {name: each for name, each in getattr(value, "__dict__", {}).items() if not callable(each)}
        self.see(f"{where}: attributes", repr(held))
        self._pickled(value, where)

    def _pickled(self, value: object, where: str) -> None:
        try:
            pickled = pickle.dumps(value)
        except Exception as refusal:
            self.see(f"{where}: refusal to pickle", "".join(traceback.format_exception(refusal)))
        else:
            self.see(f"{where}: pickle", pickled.decode("latin-1"))

    def _record(self, record: logging.LogRecord) -> None:
        # At once: what a record refers to may change. Extras are attributes, so they are among these.
        parts = [f"{name}={_plain(value)}" for name, value in vars(record).items()]
        with contextlib.suppress(TypeError, ValueError):
            parts.append(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            self.error(record.exc_info[1], f"log {record.name}")
        self.see(f"log {record.name}", "\n".join(parts))

    def _unraised(self, error: BaseException | None, what: object) -> None:
        self.see("unraisable", repr(what))
        if error is not None:
            self.error(error, "unraisable")

    # -- what was found -----------------------------------------------------------------------------------------------

    @property
    def seen(self) -> list[tuple[str, str]]:
        """Everything collected, as `(where, text)`."""
        with self._lock:
            return list(self._seen)

    def leaks(self) -> list[Leak]:
        """Every secret in everything collected; empty is good."""
        windows, whole = _needles(tuple(self._secrets.items()))
        found: dict[tuple[str, str], Leak] = {}
        for where, text in self.seen:
            for position, name in _hits(text, windows, whole):
                around = text[max(position - 40, 0) : position + 60]
                found.setdefault((name, where), Leak(name, where, around))
        return list(found.values())


# -- forms of a secret ------------------------------------------------------------------------------------------------


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """What of a secret is secret: the lines of a PEM's body, claims and signature of a JWT, else all of it."""
    if "-----BEGIN" in text:
        lines = text.replace("\\n", "\n").splitlines()
        body = [line.strip() for line in lines if line.strip() and "-----" not in line and ":" not in line]
        yield " (PEM)", "".join(body)
        return
    if re.fullmatch(r"eyJ[\w-]+\.[\w-]+\.[\w-]+", text):  # whose header is no secret
        yield from zip((" (claims)", " (signature)"), text.split(".")[1:], strict=True)
    else:
        yield "", text


def _forms(secret: str) -> set[str]:
    data = secret.encode("utf-8", "replace")
    forms = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), data.hex()}
    forms |= {repr(secret)[1:-1], json.dumps(secret)[1:-1], repr(data)[2:-1]}
    for skipped in range(3):  # where it begins within a group of three bytes
        # A character of base64 that also holds bits of a neighbour is left out.
        first, last = (0, 2, 3)[skipped], (len(data) + skipped) * 8 // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            forms.add(encode(b"\0" * skipped + data).decode()[first:last])
    return forms


@functools.lru_cache(4)
def _needles(secrets: tuple[tuple[str, str], ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Windows of the longer forms; and what is looked for by itself: short forms, and windows with a space."""
    windows: dict[str, str] = {}
    whole: dict[str, str] = {}
    for secret, name in secrets:
        for form in _forms(secret):
            if len(form) < _WINDOW + _STRIDE:
                whole[form] = name
            for start in range(0, len(form) - _WINDOW + 1, _STRIDE):
                window = form[start : start + _WINDOW]
                (windows if _LONG_ENOUGH.fullmatch(window) else whole)[window] = name
    return windows, whole


def _hits(text: str, windows: Mapping[str, str], whole: Mapping[str, str]) -> Iterator[tuple[int, str]]:
    for run in _LONG_ENOUGH.finditer(text):
        for position in range(run.start(), run.end() - _WINDOW + 1):
            name = windows.get(text[position : position + _WINDOW])
            if name is not None:
                yield position, name
    for form, name in whole.items():
        position = text.find(form)
        if position >= 0:
            yield position, name


# -- errors and values ------------------------------------------------------------------------------------------------


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and every other that can be reached from it."""
    pending, seen = [error], set[int]()
    while pending:
        link = pending.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        held = [link.__cause__, link.__context__, *link.args, *getattr(link, "__dict__", {}).values()]
        pending += [each for each in held if isinstance(each, BaseException)]


def _locals_of(error: BaseException) -> Iterator[str]:
    """The local variables of all frames but a test's own, as tools show them that log more than a traceback."""
    for frame in traceback.TracebackException.from_exception(error, capture_locals=True).stack:
        if not _is_test(frame.filename):
            yield f"{frame.name}: {frame.locals}"
    if importlib.util.find_spec("rich") is None:
        return
    from rich.traceback import Traceback

    for stack in Traceback.extract(type(error), error, error.__traceback__, show_locals=True).stacks:
        for frame in stack.frames:
            if not _is_test(frame.filename):
                yield f"{frame.name}: {[*map(str, (frame.locals or {}).values())]}"


def _is_test(filename: str) -> bool:
    return Path(filename).is_relative_to(Path(__file__).parent)


def _attributes(error: BaseException) -> Iterator[str]:
    """What an error holds, to some depth: an HTTP client's exception holds the request, and that the password."""
    pending: list[tuple[object, int]] = [(error, 0)]
    seen: set[int] = set()
    while pending:
        value, depth = pending.pop()
        if id(value) in seen or isinstance(value, (type, *_LEAVES)):
            continue
        seen.add(id(value))
        yield _plain(value)
        if depth < _DEPTH:
            held = [*getattr(value, "__dict__", {}).values()]
            held += list(value.args) if isinstance(value, BaseException) else []
            held += list(value.values()) if isinstance(value, Mapping) else []
            held += list(value) if isinstance(value, (list, tuple, set)) else []
            pending += [(each, depth + 1) for each in held]


_LEAVES = (int, float, type(None), type(sys), type(_chain), threading.Thread)


def _plain(value: object) -> str:
    """A value as text; bytes twice, since `repr` escapes them."""
    text = repr(value)
    return f"{text}\n{value.decode('latin-1')}" if isinstance(value, bytes) else text


def _of_warning(warning: warnings.WarningMessage) -> str:
    # Not its source line: that is this program's own text.
    return f"{warning.category.__name__}: {warning.message} {warning.message!r} {warning.source!r}"


# -- taking hold of the process ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _streams_to(see: Callable[[str], None]) -> Iterator[None]:
    """Standard output and error, of Python and of the process."""
    streams = sys.stdout, sys.stderr
    for each in streams:
        each.flush()
    with tempfile.TemporaryFile() as file:
        saved = [(number, os.dup(number)) for number in (1, 2)]
        text = io.TextIOWrapper(os.fdopen(os.dup(file.fileno()), "wb"), "utf-8", "replace", write_through=True)
        sys.stdout = sys.stderr = text
        for number, _ in saved:
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams
            for number, copy in saved:
                os.dup2(copy, number)
                os.close(copy)
            text.close()
            file.seek(0)
            see(file.read().decode("utf-8", "replace"))


@contextlib.contextmanager
def _hooks_to(see: Callable[[BaseException | None, object], None]) -> Iterator[None]:
    """What is raised where nobody can catch it: in threads, callbacks and finalizers."""
    hooks = threading.excepthook, sys.unraisablehook
    threading.excepthook = lambda args: see(args.exc_value, args.thread)
    sys.unraisablehook = lambda args: see(args.exc_value, args.err_msg)
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook = hooks


def lines_of(leaks: Iterable[Leak]) -> str:
    """For a failing test."""
    return "\n".join(f"{leak.secret} in {leak.where}: …{leak.around!r}…" for leak in leaks)
