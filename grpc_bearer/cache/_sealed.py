"""Entries as they are stored: sealed with AES-GCM, named and keyed by HKDF (RFC 5869) under separate labels.

An entry that opens was written by somebody with the same key, under this name, with this expiry and this number: those
are authenticated with it. What does not open is no entry. An older entry put back in the place of a newer one opens
too; such a rollback is limited by the entry's expiry and by nothing else.
"""

from __future__ import annotations

import json
import math
import os
import struct
from dataclasses import dataclass
from typing import NamedTuple

from grpc_bearer._base.identity import Json
from grpc_bearer._base.token import Token
from grpc_bearer.errors import TokenFormatError

#: What it imports to seal and to open; see `Source.needs`.
NEEDS: tuple[str, ...] = (
    "cryptography.exceptions",
    "cryptography.hazmat.primitives.ciphers.aead",
    "cryptography.hazmat.primitives.hashes",
    "cryptography.hazmat.primitives.hmac",
    "cryptography.hazmat.primitives.kdf.hkdf",
)

VERSION = 1
#: A token without an expiry is shared for so many seconds; then one process fetches it again.
FOREVER = 86400.0
_MAGIC = b"gbt"
# Magic, version, fencing number, expiry in seconds since the Unix epoch.
_HEADER = struct.Struct(">3sBQd")
_NONCE = 12  # bytes; NIST SP 800-38D section 8.2.2: random, for far less than 2**32 entries under one key


@dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """Two keys out of one secret, so that names give nothing away about the cipher."""

    name: bytes
    cipher: bytes


class Entry(NamedTuple):
    """A token with what the others must know of it. Times are in seconds since the Unix epoch.

    `until`: when the entry ends; that is the token's expiry if it has one. `written_at`: the writer's clock.
    """

    number: int
    token: Token
    written_at: float
    until: float


@dataclass(frozen=True, slots=True, repr=False)
class Slot:
    """Where one token is kept: the entry's name, and the key that opens it."""

    name: str
    cipher: bytes


def derived(secret: bytes) -> Keys:
    """The keys of everybody who has this secret."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    def key(label: bytes) -> bytes:
        info = b"grpc-bearer shared cache %d, %s" % (VERSION, label)
        return HKDF(SHA256(), 32, salt=None, info=info).derive(secret)

    return Keys(key(b"name"), key(b"cipher"))


def slot_of(keys: Keys, about: Json) -> Slot:
    """The slot for what `about` says."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.hmac import HMAC

    mac = HMAC(keys.name, SHA256())
    mac.update(json.dumps(about, sort_keys=True).encode())
    return Slot(mac.finalize().hex(), keys.cipher)


def entry_of(token: Token, number: int, now: float) -> Entry:
    """The entry for a token fetched just now."""
    return Entry(number, token, now, now + FOREVER if token.expires_at is None else token.expires_at)


def seal(slot: Slot, entry: Entry) -> bytes:
    """The entry as bytes to store."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header = _HEADER.pack(_MAGIC, VERSION, entry.number, entry.until)
    token = entry.token
    body = json.dumps([token.value, token.expires_at, token.refresh_at, entry.written_at]).encode()
    nonce = os.urandom(_NONCE)
    return header + nonce + AESGCM(slot.cipher).encrypt(nonce, body, header + slot.name.encode())


def opened(slot: Slot, blob: bytes, number: int | None = None) -> Entry | None:
    """The entry, or `None` if this is none of ours: tampered with, of another source, of another version.

    Args:
        slot: where it was found.
        blob: what was found there.
        number: what the store says its number is; another than the entry's own is tampering.
    """
    start = header_of(blob)
    if start is None or number not in (None, start[0]):
        return None
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    header, nonce, sealed = blob[: _HEADER.size], blob[_HEADER.size :][:_NONCE], blob[_HEADER.size + _NONCE :]
    try:
        body = AESGCM(slot.cipher).decrypt(nonce, sealed, header + slot.name.encode())
    except (InvalidTag, ValueError):
        return None
    try:  # what opened was written by us; but perhaps by a later version of us
        value, expires_at, refresh_at, written_at = json.loads(body)
        return Entry(start[0], Token(value, expires_at, refresh_at), float(written_at), start[1])
    except (ValueError, TypeError, TokenFormatError):
        return None


def header_of(blob: bytes) -> tuple[int, float] | None:
    """Number and end, as the entry says itself; not to be believed before it opens."""
    if len(blob) < _HEADER.size:
        return None
    magic, version, number, until = _HEADER.unpack_from(blob)
    if magic != _MAGIC or version != VERSION or not math.isfinite(until):
        return None
    return number, until
