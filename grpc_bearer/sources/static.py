"""`StaticSource`: one token, valid until revoked."""

from __future__ import annotations

from collections.abc import Callable

from grpc_bearer._base.arguments import refuse_file_name
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Secret, Token
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError, TokenFormatError

__all__ = ["StaticSource"]


class StaticSource(Source):
    """A token that never changes, such as one copied from an administrator's page.

    It has no expiry, even if it is a JWT with one: nothing here could get another, and the server's answer says more
    than a guess of ours. To replace a token while the program runs, keep it in a file (`FileSource`).

    Args:
        token: the bare token, without a scheme. White space around it is trimmed.

    Raises:
        ConfigurationError: empty, with a character that no header may carry, in quotes, a placeholder that was not
            filled in, or the name of a file.

    >>> StaticSource("s3cret").fetch(CallContext())
    Token(<hidden>)
    """

    local = True
    worth_sharing = False

    def __init__(self, token: str) -> None:
        made = _made(token)
        refuse_file_name("token", made.value)
        self._secret = Secret(made.value, "token")
        self._token = made

    def __repr__(self) -> str:
        return f"StaticSource({self._secret!r})"

    def __reduce__(self) -> tuple[Callable[[Secret], StaticSource], tuple[Secret]]:
        return _rebuilt, (self._secret,)  # `Secret` refuses to be pickled, unless pickle_secrets=True

    def fetch(self, context: CallContext) -> Token:
        """The token."""
        return self._token


def _rebuilt(secret: Secret) -> StaticSource:
    return StaticSource(secret.reveal())


def _made(token: str) -> Token:
    with translating(TokenFormatError, to=lambda error: ConfigurationError(error._reason, field=error._field)):
        return Token(token)
