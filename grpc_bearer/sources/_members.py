"""The members of a JSON object. Those that never change are written once; others are functions, called each time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii
from typing import TypeAlias

from grpc_bearer._base.arguments import as_dict
from grpc_bearer._base.interrupts import is_interrupt
from grpc_bearer._base.token import CallContext
from grpc_bearer._base.translating import translating
from grpc_bearer._base.user_code import hint, of_call
from grpc_bearer.errors import ConfigurationError, GrpcBearerError, TokenFormatError, TokenRejectedError

#: A mapping of JSON values, functions of the call and `PerToken`; or a function of the call that gives such a mapping.
GivenMembers: TypeAlias = Mapping[str, object] | Callable[[CallContext], Mapping[str, object]]

to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


@dataclass(frozen=True, slots=True)
class PerToken:
    """A claim or header value made anew for each token, whatever the call; `nonce` is one.

    >>> import uuid
    >>> claims = {"jti": PerToken(lambda: str(uuid.uuid4()))}
    """

    make: Callable[[], object]

    def __call__(self, context: CallContext | None = None) -> object:
        return self.make()


def _random_hex() -> str:
    return os.urandom(16).hex()  # what `secrets` does, in three calls fewer


#: 128 random bits in 32 hexadecimal digits, anew for each token: for a `nonce` header or a `jti` claim.
nonce: PerToken = PerToken(_random_hex)


class Members:
    """What was given, sorted into text and functions.

    Args:
        given: a mapping, or a function of the call that gives one.
        what: what errors call it.
        reserved: names that are not for the user to give, with the reason in words.
        defaults: members that stand unless `given` has them too.

    Raises:
        ConfigurationError: no mapping, a reserved name, or a value that JSON does not have.
    """

    __slots__ = ("_by_call", "_by_token", "_defaults", "_fixed", "_reserved", "_what", "_whole")

    def __init__(
        self, given: GivenMembers | None, what: str, reserved: Mapping[str, str], defaults: Mapping[str, object]
    ) -> None:
        self._what, self._reserved, self._defaults = what, reserved, defaults
        self._whole = given if callable(given) else None
        mapping = as_dict(what, {} if given is None or callable(given) else given)
        members = {**defaults, **mapping}
        for name in members:
            self._check_name(name)
        by_token = {name: make for name, make in members.items() if isinstance(make, PerToken)}
        by_call = {name: make for name, make in members.items() if callable(make) and name not in by_token}
        self._by_token = tuple((name, f",{to_json(name)}:", value.make) for name, value in by_token.items())
        self._by_call = tuple((name, f",{to_json(name)}:", make) for name, make in by_call.items())
        self._fixed = "".join(
            f",{to_json(name)}:{self._json(value, name)}"
            for name, value in members.items()
            if name not in by_token and name not in by_call
        )

    def _check_name(self, name: object) -> None:
        if not isinstance(name, str):
            raise ConfigurationError(f"a name is {type(name).__name__}, expected str", field=self._what)
        if name in self._reserved:
            raise ConfigurationError(f"{name!r} {self._reserved[name]}", field=self._what)

    @property
    def vary_by_call(self) -> bool:
        """Whether calls may differ in them."""
        return self._whole is not None or bool(self._by_call)

    @property
    def constant(self) -> bool:
        """Whether they are the same in all tokens."""
        return not (self.vary_by_call or self._by_token)

    @property
    def fixed(self) -> str:
        """Those that are the same in all tokens, as JSON, each with a comma before it."""
        return "" if self._whole is not None else self._fixed

    def key(self, context: CallContext) -> tuple[str, str]:
        """What all tokens for such a call have in common."""
        members = self._at(context)
        return members._fixed, members._text_by_call(context)

    def varying(self, context: CallContext) -> str:
        """All but the fixed ones as JSON, each with a comma before it.

        Raises:
            TokenRejectedError: a function failed for this call.
            TokenFormatError: it gave what is no JSON value, or a reserved name.
        """
        members, text = self, ""
        if self._whole is not None:
            members = self._at(context)
            text = members._fixed
        for name, label, make in members._by_token:
            text += label + members._called(name, make)
        return text + members._text_by_call(context) if members._by_call else text

    def _text_by_call(self, context: CallContext) -> str:
        return "".join([label + self._called(name, make, context) for name, label, make in self._by_call])

    def _at(self, context: CallContext) -> Members:
        if self._whole is None:
            return self
        with translating(Exception, to=lambda error: self._failed(self._what, error, context)):
            given = self._whole(context)
        if callable(given):
            raise TokenFormatError(f"{self._what}: the function gave another function")
        with translating(ConfigurationError, to=lambda error: TokenFormatError(str(error))):
            return Members(given, self._what, self._reserved, self._defaults)

    def _called(self, name: str, make: Callable[..., object], *context: CallContext) -> str:
        with translating(Exception, to=lambda error: self._failed(f"{self._what}[{name!r}]", error, *context)):
            value = make(*context)
        if type(value) is str:
            return encode_basestring_ascii(value)  # as `to_json` does; a nonce comes by here for each token
        return self._json(value, name, TokenFormatError)

    def _failed(self, where: str, error: Exception, *context: CallContext) -> TokenRejectedError | None:
        if isinstance(error, GrpcBearerError) or is_interrupt(error):
            return None
        service = "".join(f" for service {call.service!r}" for call in context)
        said = of_call(error, where) or f"{where}: the function failed with {type(error).__name__}"
        return TokenRejectedError(f"{said}{service}{hint(error)}")

    def _json(self, value: object, name: str, kind: type[GrpcBearerError] = ConfigurationError) -> str:
        problem = f"{self._what}[{name!r}]: {type(value).__name__} that cannot be written as JSON"
        with translating(TypeError, ValueError, RecursionError, to=lambda _: kind(problem)):
            return to_json(value)
