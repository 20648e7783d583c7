"""A token within what somebody copied from elsewhere: a header, a line of curl, its output, an answer in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

_SCHEME = r"(?:bearer|jwt|token)"
_HEADER = re.compile(
    rf"(?im)(?:^[\s<>*]*|[\"'])(?:[\w-]*authorization|[\w-]*(?:token|jwt))\s*:\s*(?:{_SCHEME}\s+)?([^\s\"',;]+)"
)
_SCHEMED = re.compile(rf"(?i)\b{_SCHEME}\s+([\w.~+/=-]{{8,}})")
_JWT = re.compile(r"\beyJ[\w-]*\.[\w-]+\.[\w-]*(?:\.[\w-]+\.[\w-]+)?")  # `eyJ` is `{"` in base64
# A JWT alone, in one piece or wrapped, with the header's name or the scheme before it or without.
_ALONE = re.compile(rf"(?i)(?:[\w-]+\s*:\s*)?(?:{_SCHEME}\s+)?((?-i:eyJ)[\w-]*(?:\s*[\w.=-]+)*)")
#: Members of an OAuth answer, the likeliest first.
_MEMBERS = ("access_token", "id_token", "token", "jwt")


class Pasted(NamedTuple):
    """The token, and how many others there are beside it."""

    token: str
    others: int = 0


def token_in(text: str) -> Pasted:
    """The token in a text; the text itself if nothing in it looks like one.

    >>> token_in("> authorization: Bearer s3cret-token").token
    's3cret-token'
    >>> token_in('{"access_token": "s3cret-token", "expires_in": 60}').token
    's3cret-token'
    """
    text = text.strip()
    if len(text.split()) == 1 and not text.startswith("{"):
        return Pasted(text)
    if (alone := _ALONE.fullmatch(text)) and _is_one(alone[1]):
        return Pasted(alone[1])
    found = list(dict.fromkeys(_of_json(text)))
    for pattern in (_HEADER, _SCHEMED, _JWT):
        found = found or list(dict.fromkeys(each[each.re.groups] for each in pattern.finditer(text)))
    return Pasted(found[0], len(found) - 1) if found else Pasted(text)


def _is_one(text: str) -> bool:
    """Whether it is one JWT, or an encrypted one, and not two that stand one below the other."""
    return text.count(".") == 2 or (text.count(".") == 4 and ".eyJ" not in text)


def _of_json(text: str) -> Iterator[str]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict):
        yield from (document[name] for name in _MEMBERS if isinstance(document.get(name), str))
