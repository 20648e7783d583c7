"""The loop: all variants of a table, shuffled call by call, until the time for them is up."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["floor", "A/A", "ours", "peer"]
Clock = Callable[[], float]

#: What takes part in each so-many-th round only, and what a table says of it.
SELDOM = 4
SELDOM_NOTE = f"""\
Where there are fewer samples, the variant took part in each {SELDOM}th round only: between so many ways to make a call
the processor forgets each, as it does not in a program that knows one way."""

#: Seconds to let a call's last threads finish before its CPU time is read.
SETTLE = 0.0003


@dataclass(frozen=True)
class Variant:
    """One way to do the same thing.

    Args:
        name: as the report shows it.
        role: what it is compared as.
        call: does it once; for asyncio, returns what to await.
        every: takes part in each `every`-th round only, for what is far slower than the rest.
    """

    name: str
    role: Role
    call: Callable[[], Any]
    every: int = 1


@dataclass
class Samples:
    """What was measured of one variant: a value a round, and which rounds."""

    name: str
    role: Role
    rounds: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, number: int, value: float) -> None:
        self.rounds.append(number)
        self.values.append(value)


@dataclass(frozen=True)
class Budget:
    """When a loop ends: after `seconds`, but not before `least` rounds, and never after `most`."""

    seconds: float
    least: int = 5
    most: int = 1_000_000

    def rounds(self) -> Any:
        """The numbers of the rounds to make."""
        end = time.monotonic() + self.seconds
        for number in range(self.most):
            if number >= self.least and time.monotonic() >= end:
                return
            yield number


def order(variants: Sequence[Variant], number: int, chance: random.Random) -> list[Variant]:
    """Who takes part in this round, shuffled."""
    taking_part = [variant for variant in variants if number % variant.every == 0]
    chance.shuffle(taking_part)
    return taking_part


def wall(variants: Sequence[Variant], budget: Budget, *, per: int = 1) -> list[Samples]:
    """Seconds of each call, divided by `per`."""
    chance, samples = random.Random(1), {variant.name: Samples(variant.name, variant.role) for variant in variants}
    clock = time.perf_counter
    for number in budget.rounds():
        for variant in order(variants, number, chance):
            call = variant.call
            began = clock()
            call()
            samples[variant.name].add(number, (clock() - began) / per)
    return list(samples.values())


def cpu(variants: Sequence[Variant], budget: Budget, *, per: int = 1) -> list[Samples]:
    """CPU seconds of this process for each call, all threads together, divided by `per`.

    A call leaves threads behind that are still tidying up when it returns. They get a moment to finish, or the next
    variant would be charged for them.
    """
    chance, samples = random.Random(2), {variant.name: Samples(variant.name, variant.role) for variant in variants}
    clock, pause = time.process_time, time.sleep
    for number in budget.rounds():
        for variant in order(variants, number, chance):
            call = variant.call
            began = clock()
            call()
            pause(SETTLE)
            samples[variant.name].add(number, max(clock() - began, 1e-9) / per)
    return list(samples.values())


async def wall_async(variants: Sequence[Variant], budget: Budget, *, per: int = 1) -> list[Samples]:
    """As `wall`, for variants to await."""
    chance, samples = random.Random(3), {variant.name: Samples(variant.name, variant.role) for variant in variants}
    clock = time.perf_counter
    for number in budget.rounds():
        for variant in order(variants, number, chance):
            call: Callable[[], Awaitable[Any]] = variant.call
            began = clock()
            await call()
            samples[variant.name].add(number, (clock() - began) / per)
    return list(samples.values())


async def cpu_async(variants: Sequence[Variant], budget: Budget, *, per: int = 1) -> list[Samples]:
    """As `cpu`, for variants to await."""
    import asyncio

    chance, samples = random.Random(4), {variant.name: Samples(variant.name, variant.role) for variant in variants}
    clock, pause = time.process_time, asyncio.sleep
    for number in budget.rounds():
        for variant in order(variants, number, chance):
            call: Callable[[], Awaitable[Any]] = variant.call
            began = clock()
            await call()
            await pause(SETTLE)
            samples[variant.name].add(number, max(clock() - began, 1e-9) / per)
    return list(samples.values())
