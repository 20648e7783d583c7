"""The waiting of the device flow (RFC 8628), by a clock that is moved by hand."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from grpc_bearer import Token, TokenError, TokenFormatError, TokenRejectedError, TokenUnavailableError
from grpc_bearer.sources import _device
from grpc_bearer.sources._device import Device, DevicePrompt, Waiting, device_of
from grpc_bearer.sources._kept_login import Granted
from grpc_bearer.testing import ManualClock

ANSWER = {
    "device_code": "dc-s3cret",
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://auth.example.com/device",
    "verification_uri_complete": "https://auth.example.com/device?user_code=WDJB-MJHT",
    "expires_in": 900,
    "interval": 5,
}
GRANTED = Granted(Token("s3cret"), "rt")
DOWN = TokenUnavailableError("down")


class Server:
    """Answers each question with the next of these, and notes when it was asked, in seconds from the beginning."""

    def __init__(self, clock: ManualClock, *answers: Any) -> None:
        self.clock, self.answers, self.began, self.asked = clock, list(answers), clock.monotonic(), []
        self.asked: list[float] = []

    def __call__(self, code: str) -> Granted | str:
        assert code == ANSWER["device_code"]
        self.asked.append(self.clock.monotonic() - self.began)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]


class Impatient(ManualClock):
    """A clock on which whatever is waited for is there at once: each wait moves it on."""

    def call_later(self, delay: float, fn: Callable[[], object]) -> Callable[[], None]:
        cancel = super().call_later(delay, fn)
        self.advance(delay)
        return cancel


@pytest.mark.parametrize(
    ("changed", "answers", "asked"),
    [
        ({}, [GRANTED], [5]),
        ({"interval": None}, [GRANTED], [5]),
        ({"interval": 0}, [GRANTED], [5]),
        ({"interval": "2"}, ["authorization_pending", "authorization_pending", GRANTED], [2, 4, 6]),
        # section 3.5: five more for all later questions
        ({}, ["slow_down", "authorization_pending", "slow_down", GRANTED], [5, 15, 25, 40]),
        # and twice as long after each that was not answered, until one is
        ({}, [DOWN, DOWN, "authorization_pending", GRANTED], [5, 15, 35, 40]),
        ({}, [DOWN] * 5 + [GRANTED], [5, 15, 35, 75, 135, 195]),
        ({}, [TokenUnavailableError("busy", retry_after=100), GRANTED], [5, 105]),
    ],
)
def test_when_the_server_is_asked(changed: dict[str, Any], answers: list[Any], asked: list[float]) -> None:
    clock = Impatient()
    server = Server(clock, *answers)

    granted = Waiting(clock, "host").confirmed(device_of({**ANSWER, **changed}, "host"), server)

    assert granted is GRANTED
    assert server.asked == asked


@pytest.mark.parametrize(
    ("answer", "kind", "words", "times"),
    [
        ("expired_token", TokenRejectedError, "nobody confirmed the log-in in time", 1),
        ("access_denied", TokenRejectedError, "was declined", 1),
        ("authorization_pending", TokenRejectedError, "nobody confirmed the log-in in time", 179),
        (DOWN, TokenRejectedError, "nobody confirmed the log-in in time", 17),
        (TokenFormatError("HTML"), TokenFormatError, "HTML", 1),
        (TokenRejectedError("invalid_client"), TokenRejectedError, "invalid_client", 1),
    ],
)
def test_how_it_ends_without_a_token(answer: Any, kind: type[TokenError], words: str, times: int) -> None:
    clock = Impatient()
    server = Server(clock, answer)

    with pytest.raises(kind, match=words):
        Waiting(clock, "host").confirmed(device_of(ANSWER, "host"), server)

    assert len(server.asked) == times
    assert all(moment < 900 for moment in server.asked)


def test_it_can_be_ended_from_another_thread() -> None:
    clock, errors = ManualClock(), []
    waiting = Waiting(clock, "host")

    def wait() -> None:
        try:
            waiting.confirmed(device_of(ANSWER, "host"), Server(clock, GRANTED))
        except TokenRejectedError as error:
            errors.append(str(error))

    thread = threading.Thread(target=wait)
    thread.start()
    waiting.end()
    thread.join(20)

    assert errors == ["host: closed while it waited for somebody to log in"]


def test_a_system_without_threads_is_told() -> None:
    class Threadless(ManualClock):
        def call_later(self, delay: float, fn: Callable[[], object]) -> Callable[[], None]:
            raise RuntimeError("can't start new thread")

    with pytest.raises(TokenUnavailableError, match="no thread"):
        Waiting(Threadless(), "host").confirmed(device_of(ANSWER, "host"), Server(ManualClock(), GRANTED))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"device_code": None}, "without the field 'device_code'; is this a device_url"),
        ({"user_code": None}, "without the field 'user_code'"),
        ({"user_code": " "}, "without the field 'user_code'"),
        ({"user_code": "\x1b]0;owned\x07"}, "user_code: has a character that cannot be shown"),
        ({"verification_uri": None}, "without the field 'verification_uri'"),
        ({"verification_uri": "https://example.com/\x1b[2J"}, "verification_uri: has a character"),
        ({"verification_uri": "javascript:alert(1)"}, "verification_uri: not a page of the web"),
        ({"verification_uri": "https://["}, "verification_uri: not a URL"),
        ({"verification_uri_complete": "file:///etc/passwd"}, "verification_uri_complete: not a page"),
        ({"expires_in": -1}, "already expired"),
    ],
)
def test_an_answer_that_cannot_be_shown_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(TokenFormatError, match=f"^host: .*{words}") as caught:
        device_of({**ANSWER, **changed}, "host")

    assert "s3cret" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("document", [None, [], "text", {}])
def test_another_document_is_refused(document: object) -> None:
    with pytest.raises(TokenFormatError, match="is this a device_url"):
        device_of(document, "host")


def test_googles_older_names_and_what_is_left_out() -> None:
    google = {"device_code": "x", "user_code": "AB", "verification_url": "https://www.google.com/device"}

    assert device_of(google, "host") == Device("x", DevicePrompt("https://www.google.com/device", "AB", "", 600.0), 5.0)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (
            {},
            "To log in, open https://auth.example.com/device?user_code=WDJB-MJHT, or open "
            "https://auth.example.com/device and enter the code WDJB-MJHT within 15 minutes.",
        ),
        (
            {"verification_uri_complete": None, "expires_in": 59},
            "To log in, open https://auth.example.com/device and enter the code WDJB-MJHT within 1 minute.",
        ),
    ],
)
def test_the_prompt_says_what_to_do_and_not_the_device_code(changed: dict[str, Any], text: str) -> None:
    device = device_of({**ANSWER, **changed}, "host")

    assert str(device.prompt) == text
    assert "dc-s3cret" not in repr(device) + json.dumps(vars(device.prompt))


@pytest.mark.parametrize("stream", [None, io.StringIO(), "closed"])
def test_where_there_is_no_terminal(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if stream == "closed":
        stream = io.StringIO()
        stream.close()
    monkeypatch.setattr(sys, "stderr", stream)

    assert not _device.has_terminal()
