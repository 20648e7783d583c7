"""A token within what somebody copied from elsewhere: a header, a line of curl, its output, an answer in JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

from grpc_bearer._base.arguments import is_placeholder
from grpc_bearer._cli.codes import CommandFailure, Exit

_SCHEME = r"(?:bearer|jwt|token)"
_HEADER = re.compile(
    rf"(?im)(?:^[ \t<>*]*|[\"'])(?:[\w-]*authorization|[\w-]*(?:token|jwt))\s*:\s*(?:{_SCHEME}\s+)?"
    # What a shell or a template should have replaced, in one piece; or else a word.
    r"(\$\([^()]*\)|\{\{.*?\}\}|<[^<>]*>|[^\s\"',;]+)"
)
_SCHEMED = re.compile(rf"(?i)\b{_SCHEME}\s+([\w.~+/=-]{{8,}})")
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]*\.[\w-]+\.[\w-]*(?:\.[\w-]+\.[\w-]+)?")  # `eyJ` is `{"` in base64
# A JWT alone, in one piece or wrapped, with the header's name or the scheme before it or without.
_ALONE = re.compile(rf"(?i)(?:[\w-]+\s*:\s*)?(?:{_SCHEME}\s+)?((?-i:eyJ)[\w.=\s-]*)")
_LEAD = re.compile(rf"(?i){_SCHEME}\s+")
# Credentials of another scheme, with the header's name before it or without.
_OTHER = re.compile(r"(?im)(?:^|authorization\s*:\s*)(basic|digest|negotiate|ntlm)\s+\S")
_COMMAND = re.compile(r"(?:\$\s+)?(?:\S*/)?(?:curl|grpcurl|wget|https?)\s")
#: Members of an OAuth answer, the likeliest first.
_MEMBERS = ("access_token", "id_token", "token", "jwt")


class Pasted(NamedTuple):
    """The token, and how many others there are beside it."""

    token: str
    others: int = 0


def token_in(text: str) -> Pasted:
    """The token in a text; the text itself if nothing in it looks like one, and it may still be one.

    Raises:
        CommandFailure: it is a command or JSON without a token, or has credentials of another scheme.

    >>> token_in("> authorization: Bearer s3cret-token").token
    's3cret-token'
    >>> token_in('{"access_token": "s3cret-token", "expires_in": 60}').token
    's3cret-token'
    """
    text = text.strip()
    if len(text.split()) == 1 and not text.startswith(("{", "[")):
        return Pasted(text)
    if is_placeholder(unfilled := _LEAD.sub("", text, count=1)):
        return Pasted(unfilled)
    if (alone := _ALONE.fullmatch(text)) and _is_one(alone[1]):
        return Pasted(alone[1])
    found = list(dict.fromkeys(_of_json(text)))
    for pattern in (_HEADER, _SCHEMED, _JWT):
        found = found or list(dict.fromkeys(each[each.re.groups] for each in pattern.finditer(text)))
    if other := _OTHER.search(text):
        found = [each for each in found if each != other[1]]
    if found:
        return Pasted(found[0], len(found) - 1)
    if other:
        raise CommandFailure(Exit.USAGE, f"{other[1]}, no bearer token")
    if _COMMAND.match(text) or _is_json(text):
        raise CommandFailure(Exit.USAGE, "no token in this text", "give the token itself, or what it stands in")
    return Pasted(text)


def _is_one(text: str) -> bool:
    """Whether it is one JWT, or an encrypted one, and not two that stand one below the other."""
    return text.count(".") == 2 or (text.count(".") == 4 and ".eyJ" not in text)


def _is_json(text: str) -> bool:
    return isinstance(_json(text), (dict, list))


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _of_json(text: str) -> Iterator[str]:
    document = _json(text)
    if isinstance(document, dict):
        yield from (value for name in _MEMBERS if isinstance(value := document.get(name), str) and value.strip())
