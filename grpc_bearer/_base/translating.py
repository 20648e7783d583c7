"""Raising an error of ours in the place of somebody else's, without a link to it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

E = TypeVar("E", bound=BaseException)


class translating(Generic[E]):
    """Raises what `to` makes of an error, in its place.

    What is raised while another error is handled keeps that one as its `__context__`, and with it all that it holds:
    the text that was no JSON, the request with its headers. (`from None` only keeps it from being printed.) Here the
    new error has the context that it would have if the old one had never been.

    Args:
        kinds: which errors are replaced.
        to: makes the error to raise; with `None` the one at hand goes on.

    >>> try:
    ...     with translating(ValueError, to=lambda _: KeyError("port: expected a number")):
    ...         int("s3cret")
    ... except KeyError as error:
    ...     print(error, error.__context__)
    'port: expected a number' None
    """

    __slots__ = ("_before", "_kinds", "_to")

    def __init__(self, *kinds: type[E], to: Callable[[E], BaseException | None]) -> None:
        self._kinds, self._to = kinds, to
        self._before: BaseException | None = None

    def __enter__(self) -> None:
        self._before = sys.exc_info()[1]

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> None:
        failure = self._to(error) if isinstance(error, self._kinds) else None
        del error, traceback  # this function is in the traceback of what it raises, and some tools show its variables
        if failure is None:
            return
        try:
            raise failure
        finally:
            failure.__context__ = self._before
            del failure  # or it and its own traceback would hold each other
