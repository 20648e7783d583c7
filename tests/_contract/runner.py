"""Turns a scenario into a test: what it observes through a door must equal what it observes on a plain channel."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytest

Scenario = Callable[[Any], Any]
Test = Callable[[Any, Any, Any], None]

#: What plain channels showed, by scenario and the kind of plain channel: asked once.
_EXPECTED: dict[tuple[str, str, str], Any] = {}


def differences(ours: Any, plain: Any, where: str = "") -> Iterator[str]:
    """What differs, each with the place where it was seen."""
    if isinstance(plain, dict) and plain.get("raised", {}).get("class") in ("NotImplementedError", "TimeoutError"):
        return  # what gRPC has not implemented, or never answers, we may
    if isinstance(ours, dict) and isinstance(plain, dict):
        for name in {**plain, **ours}:
            yield from differences(ours.get(name, "not there"), plain.get(name, "not there"), f"{where}.{name}")
    elif isinstance(ours, (list, tuple)) and isinstance(plain, (list, tuple)) and len(ours) == len(plain):
        for place, pair in enumerate(zip(ours, plain, strict=True)):
            yield from differences(*pair, f"{where}[{place}]")
    elif ours != plain:
        yield f"{where}: ours {ours!r}, plain {plain!r}"


def contract(
    doors: Mapping[str, Any],
    *,
    kinds: Sequence[str] = ("",),
    only: Iterable[str] | None = None,
    without: Iterable[str] = (),
    differs: Mapping[str, str] | None = None,
) -> Callable[[Scenario], Test]:
    """A decorator for a scenario: a function of a world, which returns what it saw.

    Args:
        doors: by name; each can `observe` a scenario, on itself and on the plain channel it has to behave like.
        kinds: of call; the world tells which it is.
        only, without: which of them have what the scenario needs.
        differs: doors that are known to differ, with the reason; `"*"` stands for all, and `"door kind"` for a part.
    """
    known = dict(differs or {})

    def marks(door: str, kind: str) -> list[pytest.MarkDecorator]:
        names = (f"{door} {kind}", door, f"* {kind}", "*")
        return [pytest.mark.xfail(strict=True, reason=known[name]) for name in names if name in known][:1]

    def cases(test: str) -> Iterator[Any]:
        turn = sum(map(ord, test))
        for place, (door, how) in enumerate(doors.items()):
            if (only is not None and door not in only) or door in without:
                continue
            # Every door plays every scenario, the main ones with every kind of call, the others each with one.
            for kind in kinds if how.main else [kinds[(turn + place) % len(kinds)]]:
                yield pytest.param(door, kind, marks=marks(door, kind), id=f"{door}-{kind}" if kind else door)

    def decorate(scenario: Scenario) -> Test:
        @pytest.mark.parametrize(("door", "kind"), list(cases(scenario.__name__)))
        def test(self: Any, door: str, kind: str, stages: Any) -> None:
            key = (f"{scenario.__module__}.{scenario.__qualname__}", doors[door].reference, kind)
            if key not in _EXPECTED:
                _EXPECTED[key] = doors[door].observe_plain(scenario, stages, kind)
            different = list(differences(doors[door].observe(scenario, stages, kind), _EXPECTED[key]))
            if different:
                pytest.fail("\n".join(different), pytrace=False)

        # Not `functools.wraps`: pytest would read the scenario's own arguments as fixtures.
        test.__name__, test.__qualname__ = scenario.__name__, scenario.__qualname__
        test.__doc__, test.__module__ = scenario.__doc__, scenario.__module__
        return test

    return decorate
