"""`FileSource`: a token that somebody else writes into a file, taken up when it changes."""

from __future__ import annotations

from os import PathLike

from grpc_bearer._base.arguments import checked_flag, checked_seconds
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer.errors import ConfigurationError, TokenFormatError, TokenUnavailableError
from grpc_bearer.sources._files import checked_path, read_text
from grpc_bearer.sources._parse import field_of, json_document, jwt_expiry, made_token

__all__ = ["FileSource"]


class FileSource(Source):
    """A token read from a file, and again when the file changes: mounted secrets, an agent's output.

    While calls are made, the file is read again every `poll` seconds, in the background; no call waits for it. Content
    is compared, not time stamps, so a link that is swapped (Kubernetes), a file that is replaced and two writes within
    one second are all seen. A refused token has it read at once. A JWT's own `exp` is respected.

    Not `local`, though reading is quick as a rule: a file on a network mount may hang, and must not hang an event loop.

    Args:
        path: the file, at most 1 MiB of UTF-8. It need not exist yet.
        strip: trim white space around the token (most editors end the file with a line break); `False` refuses it.
        json_field: the file is JSON, and the token is in this field (dots walk into objects).
        poll: seconds after which the file is read again.

    Raises:
        ConfigurationError: an argument is wrong.

    >>> FileSource("/var/run/secrets/tokens/api")
    FileSource('/var/run/secrets/tokens/api')
    """

    worth_sharing = False

    def __init__(
        self, path: str | PathLike[str], *, strip: bool = True, json_field: str | None = None, poll: float = 5.0
    ) -> None:
        if json_field is not None and (not isinstance(json_field, str) or not json_field):
            raise ConfigurationError("expected the name of a field", field="json_field")
        self._path = checked_path("path", path)
        self._strip = checked_flag("strip", strip)
        self._json_field = json_field
        self._poll = checked_seconds("poll", poll)

    def __repr__(self) -> str:
        return f"FileSource({self._path!r})"

    def fetch(self, context: CallContext) -> Token:
        """Read the token.

        Raises:
            TokenUnavailableError: the file is missing, unreadable, empty or half written, or its JWT is expired;
                whoever writes it is expected to mend that.
            TokenFormatError: the file holds no token.
        """
        now = context.clock.time()
        value = self._value(read_text(self._path))
        expires_at = jwt_expiry(value)
        if expires_at is not None and expires_at <= now:
            raise TokenUnavailableError(
                f"{self._path!r}: its token expired {now - expires_at:.0f} s ago; is the file still being renewed?"
            )
        return made_token(repr(self._path), value, now=now, expires_at=expires_at, refresh_at=now + self._poll)

    def _value(self, text: str) -> str:
        where = repr(self._path)
        if self._json_field is not None:
            if text.lstrip().startswith("{") and not text.rstrip().endswith("}"):
                raise TokenUnavailableError(f"{where}: JSON that breaks off; is it being written?")
            return field_of(json_document(text, where), self._json_field, where)
        if not self._strip and text != text.strip():
            raise TokenFormatError(f"{where}: has white space around the token, and strip is off")
        return text.strip()
