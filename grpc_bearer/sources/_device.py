"""The device authorization grant (RFC 8628): what is shown to somebody, and the wait until they have confirmed it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from grpc_bearer._base.clock import Clock
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import TokenFormatError, TokenRejectedError, TokenUnavailableError
from grpc_bearer.sources._kept_login import Granted
from grpc_bearer.sources._parse import lifetime_of, number_of

#: Seconds between two questions, if the server does not say (section 3.2); and what `slow_down` adds (section 3.5).
INTERVAL, SLOWER = 5.0, 5.0
#: While the server cannot be reached, the pause doubles (section 3.5), up to so many seconds.
LONGEST_PAUSE = 60.0
#: Seconds that a code is good for, if the server does not say. It must.
_LIFETIME = 600.0
_PENDING, _SLOW_DOWN, _EXPIRED, _DENIED = "authorization_pending", "slow_down", "expired_token", "access_denied"
#: The codes that belong to the waiting (section 3.5). All others are those of any token request.
CODES = (_PENDING, _SLOW_DOWN, _EXPIRED, _DENIED)


@dataclass(frozen=True)
class DevicePrompt:
    """What somebody has to do to log in. As a `str` it is a sentence that says so, so `prompt=print` will do.

    Args:
        verification_uri: the page to open, in any browser on any device.
        user_code: what to enter there.
        verification_uri_complete: the same page with the code in it, for a QR code or a link; may be empty.
        expires_in: seconds until it is too late.

    >>> print(DevicePrompt("https://auth.example.com/device", "WDJB-MJHT", "", 900.0))
    To log in, open https://auth.example.com/device and enter the code WDJB-MJHT within 15 minutes.
    """

    verification_uri: str
    user_code: str
    verification_uri_complete: str
    expires_in: float

    def __str__(self) -> str:
        minutes = max(round(self.expires_in / 60), 1)
        within = f"within {minutes} minute{'s' * (minutes > 1)}"
        whole = f"open {self.verification_uri_complete}, or " if self.verification_uri_complete else ""
        return f"To log in, {whole}open {self.verification_uri} and enter the code {self.user_code} {within}."


@dataclass(frozen=True)
class Device:
    """The answer of the device authorization endpoint (section 3.2)."""

    code: str = field(repr=False)
    prompt: DevicePrompt
    interval: float


def device_of(document: object, where: str) -> Device:
    """The answer, checked: some of it goes to a terminal, which must not be told to do other things.

    Raises:
        TokenFormatError: a field is missing, or cannot be shown.
    """
    fields = document if isinstance(document, dict) else {}
    interval = number_of(fields.get("interval"))
    # Google's name for it is older than the RFC.
    page = fields.get("verification_uri", fields.get("verification_url"))
    complete = fields.get("verification_uri_complete", fields.get("verification_url_complete"))
    code = fields.get("device_code")
    if not isinstance(code, str) or not code:
        raise TokenFormatError(f"{where}: JSON without the field 'device_code'; is this a device_url?")
    return Device(
        code,
        DevicePrompt(
            _page(page, "verification_uri", where),
            _shown(fields.get("user_code"), "user_code", where),
            "" if complete is None else _page(complete, "verification_uri_complete", where),
            lifetime_of(fields, "expires_in", where) or _LIFETIME,
        ),
        interval if interval is not None and interval > 0 else INTERVAL,
    )


def _page(value: object, name: str, where: str) -> str:
    text = _shown(value, name, where)
    with translating(ValueError, to=lambda _: TokenFormatError(f"{where}: {name}: not a URL")):
        scheme = urlsplit(text).scheme
    if scheme not in ("https", "http"):
        raise TokenFormatError(f"{where}: {name}: not a page of the web")
    return text


def _shown(value: object, name: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TokenFormatError(f"{where}: JSON without the field {name!r}")
    if not value.isprintable():
        raise TokenFormatError(f"{where}: {name}: has a character that cannot be shown")
    return value.strip()


class Waiting:
    """The wait until somebody has confirmed the code; `end` ends it from any thread.

    Args:
        clock: where time is read.
        where: the server, for messages.
    """

    def __init__(self, clock: Clock, where: str) -> None:
        self._clock, self._where = clock, where
        self._woken = threading.Event()
        self._ended = False

    def end(self) -> None:
        """End it: nobody wants the token any more."""
        self._ended = True
        self._woken.set()

    def confirmed(self, device: Device, ask: Callable[[str], Granted | str]) -> Granted:
        """What the server gives in the end.

        Args:
            device: what it said in the beginning.
            ask: asks the server with the device code, for what it grants or one of `CODES`.

        Raises:
            TokenRejectedError: it was not confirmed in time, or was declined; or this was ended.
            TokenFormatError: the answer is no token.
        """
        until = self._clock.monotonic() + device.prompt.expires_in
        interval = pause = device.interval
        while True:
            self._pause(min(pause, until - self._clock.monotonic()))
            if self._clock.monotonic() >= until:
                raise self._too_late()
            try:
                granted = ask(device.code)
            except TokenUnavailableError as error:
                pause = max(min(2 * pause, LONGEST_PAUSE), error.retry_after or 0.0)
                continue
            if isinstance(granted, Granted):
                return granted
            if granted == _EXPIRED:
                raise self._too_late()
            if granted == _DENIED:
                raise TokenRejectedError(f"{self._where}: the log-in was declined (access_denied)")
            interval += SLOWER * (granted == _SLOW_DOWN)
            pause = interval

    def _too_late(self) -> TokenRejectedError:
        return TokenRejectedError(f"{self._where}: nobody confirmed the log-in in time; begin again")

    def _pause(self, seconds: float) -> None:
        self._woken.clear()
        problem = f"{self._where}: the system gives no thread to wait on"
        with translating(RuntimeError, to=lambda _: TokenUnavailableError(problem)):
            cancel = self._clock.call_later(max(seconds, 0.0), self._woken.set)
        try:
            # In pieces: on Windows a longer wait hears no Ctrl-C.
            while not self._ended and not self._woken.wait(1.0):
                pass
        finally:
            cancel()
        if self._ended:
            raise TokenRejectedError(f"{self._where}: closed while it waited for somebody to log in")


def has_terminal() -> bool:
    """Whether somebody may see what is written to stderr."""
    try:
        return sys.stderr.isatty()
    except (AttributeError, ValueError):  # there is none (pythonw), or it is closed
        return False


def to_stderr(prompt: DevicePrompt) -> None:
    """Show it where a program's output is not disturbed."""
    print(prompt, file=sys.stderr, flush=True)
