"""What tells the tokens of one source from those of another, wherever they are kept, and who may read them.

A cache that several processes share needs both: a name for an entry, and a key that only those have who could fetch the
token themselves. Both come from the source's own secret, if that is strong. From a weak one nothing is ever derived:
whoever sees a value derived from it could try passwords against that value, offline and fast.
"""

from __future__ import annotations

import re
import string
from base64 import b64decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

Json: TypeAlias = "str | int | float | bool | list[Json] | tuple[Json, ...] | dict[str, Json] | None"

#: Bits that a secret must have, so that to try all is out of the question.
STRONG = 128
_HEX = frozenset(string.hexdigits)
# What tools that make secrets write (base64 and its variants, and the signs that cloud consoles add): no white space.
_MADE = frozenset(string.ascii_letters + string.digits + "-_.~+/=!#$%&*@^")
_LONG = 43  # 256 bits in base64
_WORD = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{2,}|[0-9]{2,}")
_PER_WORD, _PER_CHARACTER = 12, 5  # bits


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Who a source is.

    Args:
        about: all that its tokens depend on, and nothing secret (address, client id, scope); `None`: it cannot tell.
        secret: its private key, or a secret of at least 128 bits; `None`: it has none, or does not hold it.
    """

    about: tuple[Json, ...] | None
    secret: bytes | None = None


def is_strong(secret: str) -> bool:
    """Whether a machine made this secret, and made it of at least 128 bits.

    A text does not tell how it was made, so its strength is guessed, and guessed low: 32 hexadecimal digits pass, and
    43 characters of base64. Words do not, however many, nor does a UUID (122 bits).

    >>> is_strong("9f86d081884c7d659a2feaa0c55ad015"), is_strong("correct horse battery staple")
    (True, False)
    """
    if len(set(secret)) < 8:
        return False
    words = _spelt(secret)
    if words is not None:
        return is_strong(words.rpartition(":")[2])  # of Basic credentials, the password
    if set(secret) <= _HEX:
        return 4 * len(secret) >= STRONG and not secret.isdigit()
    return len(secret) >= _LONG and set(secret) <= _MADE and _bits(secret) >= STRONG


def _spelt(secret: str) -> str | None:
    """The text of which this is only an encoding, hex or base64: it is no stronger than that text."""
    for decode in (bytes.fromhex, partial(b64decode, validate=True)):
        try:
            text = decode(secret).decode("ascii")
        except ValueError:
            continue
        if text.isprintable():
            return text
    return None


def _bits(text: str) -> int:
    # What may be a word counts as one out of a dictionary, however long; random text has few of those, and short ones.
    words = _WORD.findall(text)
    others = sum(map(str.isalnum, _WORD.sub("", text)))
    return sum(min(_PER_WORD, _PER_CHARACTER * len(word)) for word in words) + _PER_CHARACTER * others


def strong_secret(texts: Iterable[str]) -> bytes | None:
    """Everything in `texts`, if there is a strong secret somewhere in them (in JSON, in a form, after a scheme)."""
    texts = list(texts)
    if not any(is_strong(leaf) for text in texts for leaf in _leaves(text)):
        return None
    import json

    return json.dumps(texts).encode()


def _leaves(text: str) -> Iterator[str]:
    import json
    from urllib.parse import parse_qsl

    yield from text.split()
    yield from (value for _, value in parse_qsl(text))
    try:
        yield from _strings(json.loads(text))
    except (ValueError, RecursionError):
        return


def _strings(document: object) -> Iterator[str]:
    if isinstance(document, str):
        yield document
    elif isinstance(document, dict):
        for value in document.values():
            yield from _strings(value)
    elif isinstance(document, list):
        for value in document:
            yield from _strings(value)
