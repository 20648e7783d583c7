"""An error raised in the place of another one, without a link to it."""

from __future__ import annotations

import gc
import traceback
import weakref

import pytest

from grpc_bearer._base.translating import translating


class Ours(Exception):
    """What is raised."""


class Theirs(ValueError):
    """What is replaced; its text is a secret."""


def fails(error: Exception) -> None:
    with translating(ValueError, KeyError, to=lambda error: Ours(type(error).__name__)):
        raise error


@pytest.mark.parametrize("error", [Theirs("s3cret"), KeyError("s3cret")])
def test_the_new_error_is_not_chained_to_the_old_one(error: Exception) -> None:
    with pytest.raises(Ours, match=type(error).__name__) as caught:
        fails(error)

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_neither_its_text_nor_a_variable_of_its_traceback_shows_the_old_error() -> None:
    secret = "".join(["s3", "cret"])  # not as it stands in a line of the traceback
    with pytest.raises(Ours) as caught:
        fails(Theirs(secret))

    helper = traceback.TracebackException.from_exception(caught.value, capture_locals=True).stack[-1]
    assert helper.name == "__exit__"
    assert secret not in str(helper.locals)
    assert secret not in "".join(traceback.format_exception(caught.value))


def fails_while_handling(handled: Exception) -> None:
    try:
        raise handled
    except OSError:
        fails(Theirs("s3cret"))


def test_what_the_caller_is_handling_stays_the_context() -> None:
    handled = OSError("the caller's")
    with pytest.raises(Ours) as caught:
        fails_while_handling(handled)

    assert caught.value.__context__ is handled


def test_other_errors_go_through_and_so_do_those_for_which_there_is_none() -> None:
    with pytest.raises(OSError, match="as it was"):
        fails(OSError("as it was"))
    with pytest.raises(Theirs, match="as it was"), translating(ValueError, to=lambda _: None):
        raise Theirs("as it was")


def test_the_old_error_may_be_raised_itself_without_what_it_is_chained_to() -> None:
    def cleaned(error: Theirs) -> Theirs:
        error.__cause__ = None
        return error.with_traceback(None)

    with pytest.raises(Theirs) as caught, translating(Theirs, to=cleaned):
        raise Theirs("ours to tell") from OSError("s3cret")

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_the_new_error_is_gone_with_its_last_user() -> None:
    gc.disable()
    try:
        with pytest.raises(Ours) as caught:
            fails(Theirs("s3cret"))
        gone = weakref.ref(caught.value)
        del caught

        assert gone() is None
    finally:
        gc.enable()


def test_where_nothing_is_raised_nothing_happens() -> None:
    with translating(Exception, to=Ours):
        value = 42

    assert value == 42
