"""Turns a scenario into a test: what it observes through a way must equal what it observes on a plain channel."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc
import pytest

T = TypeVar("T")
Scenario = Callable[[Any], Any]
Test = Callable[[Any, Any, Any], None]

#: Those that play in `make test`: each stands for one shape of the code. The others play in `make test-parity`.
EACH_TIME = ("warm", "clear", "interceptor", "interceptors")
#: What plain channels showed, by scenario and the kind of plain channel: asked once.
_EXPECTED: dict[tuple[str, str, str], Any] = {}


class Known(NamedTuple):
    """A difference that is known: what differs, why it stays, and where; elsewhere nothing may differ."""

    reason: str
    at: str = ""


#: Of a call that waits for its token gRPC can say only later what it says of others at once.
LATER = "in the clear a call exists before gRPC has seen it, so what gRPC would raise at once comes out of the call"


#: What plain calls do is gRPC's, and differs by its version. So does what is compared.
OLD_GRPC = tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 80)

#: Its asyncio interceptors complain when a call is collected whose channel was closed, or that was never awaited.
OLD_COMPLAINTS = pytest.mark.filterwarnings("ignore:.*InterceptedCall.__del__:pytest.PytestUnraisableExceptionWarning")


def before_1_80(table: dict[str, T]) -> dict[str, T]:
    """What is known of older versions of gRPC alone."""
    return table if OLD_GRPC else {}


class DiffersAsKnownError(Exception):
    """What is expected of a way to attach that is known to differ."""


def differences(ours: Any, plain: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """What differs: the place where it was seen, and what was."""
    raised = plain.get("raised", {}).get("class") if isinstance(plain, dict) else None
    if raised == "NotImplementedError" or (raised == "TimeoutError" and where.endswith(".wait_for_connection")):
        return  # what gRPC has not implemented, or never answers, we may
    if isinstance(ours, dict) and isinstance(plain, dict):
        for name in {**plain, **ours}:
            yield from differences(ours.get(name, "not there"), plain.get(name, "not there"), f"{where}.{name}")
    elif isinstance(ours, (list, tuple)) and isinstance(plain, (list, tuple)) and len(ours) == len(plain):
        for place, pair in enumerate(zip(ours, plain, strict=True)):
            yield from differences(*pair, f"{where}[{place}]")
    elif ours != plain:
        yield where, f"ours {ours!r}, plain {plain!r}"


def contract(
    ways: Mapping[str, Any],
    *,
    kinds: Sequence[str] = ("",),
    only: Iterable[str] | None = None,
    without: Iterable[str] = (),
    differs: Mapping[str, Known] | None = None,
    skips: Mapping[str, str] | None = None,
) -> Callable[[Scenario], Test]:
    """A decorator for a scenario: a function of a world, which returns what it saw.

    Args:
        ways: by name; each can `observe` a scenario, on itself and on the plain channel it has to behave like.
        kinds: of call; the world tells which it is.
        only, without: which of them have what the scenario needs.
        differs: ways to attach that are known to differ; `"*"` stands for all, and `"NAME KIND"` for a part.
        skips: where there is nothing to compare with, in the same way: why.
    """

    def found(table: Mapping[str, T] | None, way: str, kind: str) -> T | None:
        names = (f"{way} {kind}", way, f"* {kind}", "*")
        return next((table[name] for name in names if table and name in table), None)

    def marks(way: str, kind: str) -> list[pytest.MarkDecorator]:
        return [*expected(way, kind), *([] if way in EACH_TIME else [pytest.mark.nightly])]

    def expected(way: str, kind: str) -> list[pytest.MarkDecorator]:
        if why := found(skips, way, kind):
            return [pytest.mark.skip(reason=why)]
        known = found(differs, way, kind)
        return [pytest.mark.xfail(strict=True, raises=DiffersAsKnownError, reason=known.reason)] if known else []

    def cases(test: str) -> Iterator[Any]:
        turn = sum(map(ord, test))
        for place, (way, how) in enumerate(ways.items()):
            if (only is not None and way not in only) or way in without:
                continue
            # Every way to attach plays every scenario, the main ones with every kind of call, the others each with one.
            for kind in kinds if how.main else [kinds[(turn + place) % len(kinds)]]:
                yield pytest.param(way, kind, marks=marks(way, kind), id=f"{way}-{kind}" if kind else way)

    def decorate(scenario: Scenario) -> Test:
        @pytest.mark.parametrize(("way", "kind"), list(cases(scenario.__name__)))
        def test(self: Any, way: str, kind: str, stages: Any) -> None:
            key = (f"{scenario.__module__}.{scenario.__qualname__}", ways[way].reference, kind)
            if key not in _EXPECTED:
                _EXPECTED[key] = ways[way].observe_plain(scenario, stages, kind)
            assert _EXPECTED[key] is not None, "the scenario shows nothing"
            known = found(differs, way, kind)
            different = list(differences(ways[way].observe(scenario, stages, kind), _EXPECTED[key]))
            unknown = [seen for seen in different if known is None or not re.match(known.at, seen[0])]
            if unknown:
                pytest.fail("\n".join(map(": ".join, unknown)), pytrace=False)
            if different:
                raise DiffersAsKnownError("\n".join(map(": ".join, different)))

        # Not `functools.wraps`: pytest would read the scenario's own arguments as fixtures.
        test.__name__, test.__qualname__ = scenario.__name__, scenario.__qualname__
        test.__doc__, test.__module__ = scenario.__doc__, scenario.__module__
        return test

    return decorate
