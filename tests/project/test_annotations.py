"""Public annotations when a program runs; what checkers make of them is read in tests/typing."""

# No `from __future__ import annotations`: what is written here is evaluated, as in many programs.
import inspect
import typing

from grpc_bearer import AuthLike, BearerAuth
from grpc_bearer._auth import AuthOptions, HeaderOptions


def connect(auth: AuthLike | None, *others: AuthLike) -> None:
    """A function of a user's own."""


def test_what_a_way_takes_can_be_written_in_annotations_that_are_evaluated() -> None:
    hints = typing.get_type_hints(connect)

    assert BearerAuth in typing.get_args(hints["others"])
    assert {BearerAuth, str, type(None)} <= set(typing.get_args(hints["auth"]))


def test_the_options_that_checkers_know_are_those_that_an_auth_takes() -> None:
    # What a token is made of is no option of those who hand others on.
    all_of_them = inspect.signature(BearerAuth).parameters.values()
    parameters = [each for each in all_of_them if each.name not in ("source", "scope")]
    taken = {each.name: each.annotation for each in parameters}
    by_name_alone = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}

    known = {name: hint.__forward_arg__ for name, hint in HeaderOptions.__annotations__.items()}

    assert known == taken
    assert set(AuthOptions.__annotations__) == by_name_alone
