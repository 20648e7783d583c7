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
    """How many times `other` is `one`; if `inverse`, how many times `one` is `other`.

    What slowed the machine down in a round slowed both. So in place of the ratio of two medians stands the median of
    the rounds' own ratios, which spreads less. Other statistics are divided, over rounds that are drawn together.
    """
    a, b = _paired(other, one) if inverse else _paired(one, other)
    if statistic is median:
        return _bootstrap(median, a / b)
    return _bootstrap(lambda x, y: statistic(x) / statistic(y), a, b)


def difference(one: Samples, other: Samples, statistic: Statistic = median) -> Estimate:
    """By how much `one` is more than `other`; as `ratio` does it."""
    a, b = _paired(one, other)
    if statistic is median:
        return _bootstrap(median, a - b)
    return _bootstrap(lambda x, y: statistic(x) - statistic(y), a, b)


def alone(samples: Samples, statistic: Statistic = median) -> Estimate:
    """The statistic itself."""
    return _bootstrap(statistic, np.asarray(samples.values))


def _paired(one: Samples, other: Samples) -> tuple[Array, Array]:
    values = dict(zip(other.rounds, other.values, strict=True))
    pairs = [(value, values[number]) for number, value in zip(one.rounds, one.values, strict=True) if number in values]
    array = np.asarray(pairs)
    return array[:, 0], array[:, 1]


def _bootstrap(statistic: Statistic, *values: Array) -> Estimate:
    """The statistic of all the values, and its interval; what stands at one place is drawn together."""
    chance, size = np.random.default_rng(1), len(values[0])
    at_once = max(1, _CHUNK // size)
    drawn: list[Array] = []
    for left in range(RESAMPLINGS, 0, -at_once):
        chosen = chance.integers(0, size, (min(at_once, left), size))
        drawn.append(statistic(*(each[chosen] for each in values)))
    low, high = np.percentile(np.concatenate(drawn), COVERS)
    return Estimate(float(statistic(*values)), float(low), float(high))


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
