"""gRPC's four functions that open channels, and how they come to ask us first.

They are functions of Python, and for a while they have other code. So it does not matter under which name somebody has
imported them, or who has wrapped them, before or since: instrumentation stays above us. Then they have their own code
again, and nothing else has changed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import CodeType, FunctionType
from typing import Any

import grpc
from grpc import aio

from grpc_bearer.errors import ConfigurationError

#: What opens a channel in place of gRPC's function: its name, the copy of it that opens, and what was given.
Opener = Callable[[str, Callable[..., Any], Sequence[Any], Mapping[str, Any]], Any]


def _secure(*args: Any, **kwargs: Any) -> Any:
    from grpc_bearer._calls.channel_functions import replaced  # the globals are those of gRPC's module

    return replaced.open("grpc.secure_channel", args, kwargs)


def _insecure(*args: Any, **kwargs: Any) -> Any:
    from grpc_bearer._calls.channel_functions import replaced

    return replaced.open("grpc.insecure_channel", args, kwargs)


def _aio_secure(*args: Any, **kwargs: Any) -> Any:
    from grpc_bearer._calls.channel_functions import replaced

    return replaced.open("grpc.aio.secure_channel", args, kwargs)


def _aio_insecure(*args: Any, **kwargs: Any) -> Any:
    from grpc_bearer._calls.channel_functions import replaced

    return replaced.open("grpc.aio.insecure_channel", args, kwargs)


_CODES: Mapping[str, CodeType] = {
    "grpc.secure_channel": _secure.__code__,
    "grpc.insecure_channel": _insecure.__code__,
    "grpc.aio.secure_channel": _aio_secure.__code__,
    "grpc.aio.insecure_channel": _aio_insecure.__code__,
}


class Replaced:
    """gRPC's functions while they have our code. Whoever calls `replace` and `restore` holds a lock."""

    def __init__(self) -> None:
        self._opener: Opener
        #: Copies with the code of their own; kept, since a call that came through ours may still be on its way.
        self._own: dict[str, FunctionType] = {}
        self._functions: dict[str, FunctionType] = {}

    def replace(self, opener: Opener) -> None:
        """Have `opener` called in their place.

        Raises:
            ConfigurationError: one of them cannot be found; nothing was done.
        """
        functions = {name: _function(name) for name in _CODES}
        self._opener = opener
        self._own = {name: _copy(function) for name, function in functions.items()}
        self._functions = functions
        for name, function in functions.items():
            function.__code__ = _CODES[name]

    def restore(self) -> None:
        """Give them their own code again."""
        for name, function in self._functions.items():
            function.__code__ = self._own[name].__code__
        self._functions = {}

    def open(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        return self._opener(name, self._own[name], args, kwargs)


replaced = Replaced()


def _function(name: str) -> FunctionType:
    """gRPC's own function, whoever has wrapped it."""
    function = inspect.unwrap(getattr(aio if name.startswith("grpc.aio.") else grpc, name.rpartition(".")[2]))
    if not isinstance(function, FunctionType) or not function.__module__.startswith("grpc"):
        raise ConfigurationError(
            f"{name} was replaced by something of {type(function).__module__} that does not say what it wraps "
            "(__wrapped__); use attach_to before that is done"
        )
    return function


def _copy(function: FunctionType) -> FunctionType:
    made = FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made
