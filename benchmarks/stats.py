"""Medians by pyperf, and how sure a comparison is: bootstrap intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyperf

from benchmarks.loop import Samples

#: Resamplings for an interval, and what it covers.
RESAMPLINGS, COVERS = 1000, (2.5, 97.5)
# Resamplings made at once are bounded in memory: so many numbers.
_CHUNK = 4_000_000

Statistic = Callable[..., Any]
Array = Any


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def held(samples: Samples, unit: str = "second") -> pyperf.Benchmark:
    """The samples, as pyperf keeps them."""
    metadata = {"name": samples.name, "unit": unit}
    return pyperf.Benchmark([pyperf.Run(samples.values, metadata=metadata, collect_metadata=False)])


def percentile(share: float) -> Statistic:
    """A statistic for the functions below, over the last axis."""
    return lambda values: np.percentile(values, share, axis=-1)


def median(values: Array) -> Array:
    return np.median(values, axis=-1)


def ratio(one: Samples, other: Samples, statistic: Statistic = median, *, inverse: bool = False) -> Estimate:
    """The statistic of `one` over that of `other`.

    Rounds that have both are drawn together: what slowed the machine down in a round slowed both.
    """
    a, b = _paired(one, other)
    estimate = _bootstrap(a, b, statistic, lambda x, y: x / y)
    if not inverse:
        return estimate
    return Estimate(1 / estimate.value, 1 / estimate.high, 1 / estimate.low)


def difference(one: Samples, other: Samples, statistic: Statistic = median) -> Estimate:
    """The statistic of `one` less that of `other`."""
    a, b = _paired(one, other)
    return _bootstrap(a, b, statistic, lambda x, y: x - y)


def alone(samples: Samples, statistic: Statistic = median) -> Estimate:
    """The statistic itself."""
    values = np.asarray(samples.values)
    return _bootstrap(values, values, statistic, lambda x, _: x)


def _paired(one: Samples, other: Samples) -> tuple[Array, Array]:
    values = dict(zip(other.rounds, other.values, strict=True))
    pairs = [(value, values[number]) for number, value in zip(one.rounds, one.values, strict=True) if number in values]
    array = np.asarray(pairs)
    return array[:, 0], array[:, 1]


def _bootstrap(a: Array, b: Array, statistic: Statistic, compare: Callable[[Any, Any], Any]) -> Estimate:
    chance = np.random.default_rng(1)
    size, at_once = len(a), max(1, _CHUNK // len(a))
    drawn: list[Array] = []
    for left in range(RESAMPLINGS, 0, -at_once):
        chosen = chance.integers(0, size, (min(at_once, left), size))
        drawn.append(compare(statistic(a[chosen]), statistic(b[chosen])))
    low, high = np.percentile(np.concatenate(drawn), COVERS)
    return Estimate(float(compare(statistic(a), statistic(b))), float(low), float(high))


def unpaired_ratio(one: Sequence[float], other: Sequence[float], statistic: Statistic) -> Estimate:
    """The same for samples that belong to no common rounds."""
    chance = np.random.default_rng(1)
    a, b = np.asarray(one), np.asarray(other)
    drawn = []
    for _ in range(RESAMPLINGS):
        x = a[chance.integers(0, len(a), len(a))]
        y = b[chance.integers(0, len(b), len(b))]
        drawn.append(statistic(x) / statistic(y))
    low, high = np.percentile(drawn, COVERS)
    return Estimate(float(statistic(a) / statistic(b)), float(low), float(high))
