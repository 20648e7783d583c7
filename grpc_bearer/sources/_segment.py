"""A part of a token: a JSON object in base64url (RFC 7515 section 2), of which as much as can be is encoded once."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Callable

from grpc_bearer._base.token import CallContext
from grpc_bearer.sources._members import Members

_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def base64url(data: bytes) -> bytes:
    """Without padding. `base64.urlsafe_b64encode` spends more on its own calls than on the encoding."""
    return b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=")


class Segment:
    """Writes one part of each token.

    It shows nothing of what it has written, and carries nothing of it into a pickle.

    Args:
        members: what the object holds.
        opening: how it begins, given the second: a brace, and members that are not the user's to give.
    """

    __slots__ = ("_begun", "_constant", "_members", "_opening")

    def __init__(self, members: Members, opening: Callable[[int], str]) -> None:
        self._members = members
        self._opening = opening
        self._constant = members.constant
        self._begun: tuple[int | None, bytes, str] = None, b"", ""

    def written(self, second: int, context: CallContext) -> bytes:
        """The part as it stands in a token.

        Args:
            second: what the opening depends on.
            context: the call that wants the token.

        Raises:
            TokenRejectedError: a function failed for this call.
            TokenFormatError: it gave what is no JSON value, or a reserved name.
        """
        at, begun, rest = self._begun  # read once, and replaced whole: other threads write, too
        if at != second:
            at, begun, rest = self._begun = self._begin(second)
        if self._constant:
            return begun
        return begun + base64url(f"{rest}{self._members.varying(context)}}}".encode("ascii"))

    def _begin(self, second: int) -> tuple[int, bytes, str]:
        """What comes before the varying members, encoded; but for the last bytes, which are encoded with those."""
        text = self._opening(second) + self._members.fixed
        if self._constant:
            return second, base64url(f"{text}}}".encode("ascii")), ""
        whole = len(text) // 3 * 3  # each group of 3 bytes becomes 4 characters by itself
        return second, base64url(text[:whole].encode("ascii")), text[whole:]

    def __reduce__(self) -> tuple[type[Segment], tuple[Members, Callable[[int], str]]]:
        return Segment, (self._members, self._opening)
