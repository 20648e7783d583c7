"""A short run of `tests/soak/chaos`: `make chaos` is the long one. And what its judge and its search must not miss."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import leaks, run, script
from chaos.faults import Window
from chaos.judge import Evidence, Judge, least_exchanges
from chaos.kinds import SPAN, Job
from chaos.load import Ended

from grpc_bearer.testing import Attempt, Exchange

#: A machine on which a thread waits so long for its turn, in seconds, can judge no deadline.
STANDS_STILL = 1.0


def ended(number: int = 1, code: str = "OK", **more: object) -> Ended:
    job = Job(number, "client stream", 2, 0)
    values = {"who": "ours", "auth": "a", "site": "bear", "way": "d", "asynchronous": False}
    times = {"began": 100.0, "ended": 101.0, "deadline": 110.0}
    return Ended(job=job, code=code, **{**values, **times, **more})  # type: ignore[arg-type]


def attempt(*indexes: int, number: int = 1, accepted: bool = True) -> Attempt:
    requests = [number * SPAN + index for index in indexes]
    return Attempt("/s/M", accepted=accepted, requests=requests, metadata=[("x-call", str(number))])


def judged(call: Ended, *attempts: Attempt, windows: tuple[Window, ...] = ()) -> tuple[int, int, int]:
    """How many are avoidable, mangled and excused."""
    verdict = Judge(Evidence(attempts, (), lambda _: "a", windows)).verdict([call])
    return len(verdict.avoidable), len(verdict.mangled), sum(verdict.excused.values())


@pytest.mark.timeout(90)
@pytest.mark.filterwarnings("default")
def test_a_short_run_in_which_everything_goes_wrong(tmp_path: Path) -> None:
    report = run.run(5, 9.0, tmp_path)

    if report.problems and report.stalled > STANDS_STILL:
        pytest.skip(f"the machine stood still for {report.stalled:.1f} s: {report.problems}")
    assert report.problems == [], "\n".join([*report.problems, *report.details])


def test_the_same_seed_writes_the_same_script() -> None:
    first, second = (script.write(7, 180.0, run.CAST) for _ in range(2))

    assert first == second
    assert first != script.write(8, 180.0, run.CAST)


def test_the_long_script_has_every_fault() -> None:
    events = script.write(1, 180.0, run.CAST)
    hows = {event.how for event in events}

    assert {event.act for event in events} == {"endpoint", "revoke", "restart", "file", "key", "clock", "refuse"}
    assert hows >= {*script.ENDPOINT_FAULTS, *script.FILE_CHANGES, *script.REFUSALS}
    assert {event.target for event in events} >= {*run.CAST.revocable, *run.CAST.controls, *run.CAST.servers}


@pytest.mark.parametrize(
    ("call", "attempts"),
    [
        (ended(), [attempt(0)]),  # lost
        (ended(), [attempt(0, 1), attempt(0, 1)]),  # doubled
        (ended(), [attempt(1, 0)]),  # altered
        (ended(), []),
        (ended(code="UNAVAILABLE"), [attempt(0, 1), attempt(0, 1)]),
        (ended(code="UNAUTHENTICATED"), [attempt(1, accepted=False)]),
        (ended(error="the server answered for 1 requests"), [attempt(0, 1)]),
    ],
)
def test_the_judge_sees_requests_that_are_not_those_that_were_sent(call: Ended, attempts: list[Attempt]) -> None:
    assert judged(call, *attempts)[1] == 1


def test_a_refused_attempt_before_the_one_that_counts_is_right() -> None:
    assert judged(ended(), attempt(0, accepted=False), attempt(0, 1)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("code", "window", "expected"),
    [
        ("UNAUTHENTICATED", None, 1),
        ("DEADLINE_EXCEEDED", Window("hang", "endpoint", 101.0, 111.0), 1),  # a token could be had before it
        ("UNAVAILABLE", Window("restart", "another", 100.0, 102.0), 1),
        ("UNAUTHENTICATED", Window("restart", "bear", 100.0, 102.0), 1),
        ("UNAVAILABLE", Window("restart", "bear", 98.0, 99.5), 0),
        ("CancelledError", Window("restart", "bear", 98.0, 99.5), 1),
    ],
)
def test_the_judge_excuses_only_what_could_not_be_helped(code: str, window: Window | None, expected: int) -> None:
    windows = () if window is None else (window,)

    assert judged(ended(code=code), windows=windows) == (expected, 0, 1 - expected)


def failed(at: float) -> Exchange:
    return Exchange(at, "POST", "/token", 500)


@pytest.mark.parametrize(
    ("patient", "code", "ended_at", "avoidable"),
    [
        (False, "UNAVAILABLE", 101.5, 0),  # in the backoff after the failure at 101
        (True, "UNAVAILABLE", 101.5, 1),  # it should have waited
        (False, "UNAVAILABLE", 105.0, 1),  # no backoff is so long after one failure
        (True, "DEADLINE_EXCEEDED", 101.5, 0),
        (True, "DEADLINE_EXCEEDED", 105.0, 1),
    ],
)
def test_the_judge_excuses_failing_at_once_only_those_who_do_not_wait(
    patient: bool, code: str, ended_at: float, avoidable: int
) -> None:
    times = {"began": 100.5, "ended": ended_at, "deadline": ended_at + (0 if "DEADLINE" in code else 9)}
    call = ended(code=code, patient=patient, **times)
    windows = (Window("status 500", "endpoint", 100.9, 101.1),)
    verdict = Judge(Evidence((), [failed(101.0)], lambda _: "a", windows)).verdict([call])

    assert (len(verdict.avoidable), sum(verdict.excused.values())) == (avoidable, 1 - avoidable)


@pytest.mark.parametrize(
    ("answered", "lifetime", "revoked", "expected"),
    [
        ([], 10.0, [], 0),
        ([0.0, 5.0, 9.0], 10.0, [], 1),
        ([0.0, 5.0, 10.0], 10.0, [], 2),
        ([0.0, 5.0, 9.0], 10.0, [4.0], 2),
        ([0.0, 5.0, 9.0], 10.0, [9.5], 1),
        ([0.0, 5.0, 9.0], 10.0, [1.0, 2.0], 2),
    ],
)
def test_the_least_possible_number_of_tokens(
    answered: list[float], lifetime: float, revoked: list[float], expected: int
) -> None:
    assert least_exchanges([(at, at) for at in answered], lifetime, revoked) == expected


def test_a_secret_is_found_in_text_even_cut_off_and_not_shown_again() -> None:
    secret = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJtZSJ9.c2lnbmF0dXJlLW9mLXNvbWUta2luZA"

    for text in (secret, f"x {secret[-20:]} y", f"'Bearer {secret}'", secret.rpartition(".")[2][:17]):
        hits = leaks.found([text, "harmless"], {"ours": [secret]})

        assert list(hits) == ["ours"]
        assert secret[-16:] not in str(hits)
    assert leaks.found(["eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJtZSJ9 harmless"], {"ours": [secret]}) == {}


def test_the_capture_takes_extras_chains_and_arguments() -> None:
    import logging

    capture = leaks.Capture()
    with capture.listening():
        logging.getLogger("google.auth").debug("sent", extra={"body": "hidden-in-an-extra"})
        try:
            try:
                raise ValueError("hidden-in-a-cause")
            except ValueError as error:
                raise KeyError({"key": "hidden-in-an-argument"}) from error
        except KeyError as error:
            capture.exception(error)

    everything = "\n".join(capture.texts)
    assert all(f"hidden-in-{where}" in everything for where in ("an-extra", "a-cause", "an-argument"))
