"""What goes wrong, and when: made from the seed alone, before the run begins."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

#: How the token endpoint fails.
ENDPOINT_FAULTS = ("status 500", "status 429", "hang", "reset", "trickle", "garbage", "down")
#: How files with tokens change; `half` is a JSON file that breaks off, `two writes` a raw one in two pieces.
FILE_CHANGES = ("symlink swap", "same second", "half", "empty", "two writes")
#: How the server refuses a call midway: after so many requests, or after its headers.
REFUSALS = ("after 3", "after headers", "after 1020")

# An engine gives up ten tokens at once on a server's word, and then one each six seconds: slower than that, so that a
# failure is never for want of budget.
_REVOKE_EVERY = (7.0, 9.5)
# Controls have no budget, and one caller each.
_REVOKE_CONTROLS_EVERY = (1.5, 2.5)
# Faults of the token endpoint that outlast its callers' patience, some of them; in seconds.
_LONG = (5.5, 10.0)
# Nothing in the end: what the faults began comes to its end.
_QUIET_BEFORE, _QUIET_AFTER = 0.5, 2.0


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """At `at` seconds: `act` on `target`, in the manner `how`; some last for `seconds`."""

    at: float
    act: str
    target: str = ""
    how: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Cast:
    """Whom the script can hit: names of auths (`revocable`, `files`, `keys`, `clocks`), controls and servers."""

    revocable: Sequence[str]
    controls: Sequence[str]
    files: Sequence[str]
    keys: Sequence[str]
    clocks: Sequence[str]
    servers: Sequence[str]


def write(seed: int, seconds: float, cast: Cast) -> list[Event]:
    """The whole run, in order. Each kind of event has a stream of chance of its own."""

    def chance(name: str) -> random.Random:
        return random.Random(f"{seed} {name}")

    events = [
        *_endpoint(chance("endpoint"), seconds, cast),
        *_targets(chance("server"), seconds, (12.0, 18.0), "restart", cast.servers, lambda rng: rng.uniform(0.1, 0.8)),
        *_targets(chance("file"), seconds, (2.5, 4.0), "file", cast.files, None, FILE_CHANGES),
        *_targets(chance("key"), seconds, (6.0, 12.0), "key", cast.keys),
        *_targets(chance("clock"), seconds, (3.0, 6.0), "clock", cast.clocks),
        *_targets(chance("midway"), seconds, (7.0, 9.5), "refuse", ("midway",), None, REFUSALS),
    ]
    for name in cast.revocable:
        events += _targets(chance(name), seconds, _REVOKE_EVERY, "revoke", (name,))
    for name in cast.controls:
        events += _targets(chance(name), seconds, _REVOKE_CONTROLS_EVERY, "revoke", (name,))
    return sorted(events)


def _times(rng: random.Random, seconds: float, every: tuple[float, float]) -> Iterator[float]:
    at = _QUIET_BEFORE + rng.uniform(0, every[0])
    while at < seconds - _QUIET_AFTER:
        yield at
        at += rng.uniform(*every)


def _cycled(rng: random.Random, values: Sequence[str]) -> Iterator[str]:
    """In an order of chance, but each as often as any other."""
    while True:
        yield from rng.sample(list(values), len(values))


def _targets(
    rng: random.Random,
    seconds: float,
    every: tuple[float, float],
    act: str,
    targets: Sequence[str],
    lasts: Callable[[random.Random], float] | None = None,
    hows: Sequence[str] = ("",),
) -> Iterator[Event]:
    target, how = _cycled(rng, targets), _cycled(rng, hows)
    for at in _times(rng, seconds, every):
        yield Event(at, act, next(target), next(how), lasts(rng) if lasts else 0.0)


def _endpoint(rng: random.Random, seconds: float, cast: Cast) -> Iterator[Event]:
    """Faults of the token endpoint. Every other one meets auths that need a token just then: two are revoked."""
    how = _cycled(rng, ENDPOINT_FAULTS)
    at, needed = _QUIET_BEFORE + 1.0, True
    while (lasts := rng.choice((rng.uniform(1.0, 3.0), *_LONG))) + at < seconds - 2 * _QUIET_AFTER:
        yield Event(at, "endpoint", "", next(how), lasts)
        if needed:
            for name in rng.sample(list(cast.revocable), min(2, len(cast.revocable))):
                yield Event(at + rng.uniform(0.05, 0.5) * lasts, "revoke", name)
        needed = not needed
        at += lasts + rng.uniform(3.0, 6.0)
