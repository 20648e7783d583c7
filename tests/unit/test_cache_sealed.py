"""What is strong enough to derive a key from, and what opens with one."""

from __future__ import annotations

import base64
import json
import os
import secrets
import string
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpc_bearer import Token
from grpc_bearer._base.identity import is_strong, strong_secret
from grpc_bearer.cache._sealed import SealedToken, derived, opened, seal, sealed_token_of, slot_of

ALNUM = string.ascii_letters + string.digits
KEYS = derived(b"k" * 32)
SLOT = slot_of(KEYS, ["a"])
NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: secrets.token_hex(16),
        lambda: secrets.token_hex(32).upper(),
        lambda: secrets.token_urlsafe(48),
        lambda: base64.b64encode(os.urandom(48)).decode(),
        lambda: "".join(secrets.choice(ALNUM) for _ in range(64)),
    ],
)
def test_what_machines_make_is_strong(make: object) -> None:
    assert all(is_strong(make()) for _ in range(200))  # type: ignore[operator]


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "s3cret",
        "correct horse battery staple correct horse battery staple",
        "correcthorsebatterystaplecorrecthorsebatterystaplecorrecthorse",
        "MyVeryLongPassword2024ForTheServiceInProduction",
        "correct-horse-battery-staple-correct-horse-battery-staple",
        "0" * 64,
        "01" * 32,
        "1234567890" * 4,
        str(uuid.UUID(int=0x1234567890ABCDEF1234567890ABCDEF)),
        pytest.param(secrets.token_hex(15), id="token_hex(15)"),
        pytest.param(secrets.token_urlsafe(16), id="token_urlsafe(16)"),
        base64.b64encode(b"somebody:a password of some thirty-two letters").decode(),
        b"a password, in hexadecimal".hex(),
    ],
)
def test_what_people_make_is_not(secret: str) -> None:
    assert not is_strong(secret)


def test_a_strong_secret_is_found_in_json_in_forms_and_after_schemes() -> None:
    secret = secrets.token_hex(32)

    for text in (secret, json.dumps({"a": {"b": [secret]}}), f"x=1&secret={secret}", f"Bearer {secret}"):
        assert strong_secret(["weak", text]) is not None
    assert strong_secret(["weak", '{"secret": "s3cret"}']) is None
    basic = base64.b64encode(f"me:{secret}".encode()).decode()
    assert strong_secret([f"Basic {basic}"]) is not None


@given(st.floats(1.0, 1e6), st.none() | st.floats(1.0, 1e6), st.integers(1, 2**53))
def test_a_token_comes_out_as_it_went_in(lifetime: float, refresh: float | None, number: int) -> None:
    token = Token("s3cret", NOW + lifetime, None if refresh is None else NOW + refresh)

    assert opened(SLOT, seal(SLOT, sealed_token_of(token, number, NOW)), number) == SealedToken(
        number, token, NOW, NOW + lifetime
    )


def test_a_token_without_an_expiry_is_kept_for_a_day() -> None:
    entry = opened(SLOT, seal(SLOT, sealed_token_of(Token("s3cret"), 1, NOW)))

    assert entry is not None
    assert (entry.token.expires_at, entry.until) == (None, NOW + 86400)


def test_no_two_seals_are_alike_and_none_shows_the_token() -> None:
    entry = sealed_token_of(Token("s3cret-s3cret"), 1, NOW)

    assert len({seal(SLOT, entry) for _ in range(10)}) == 10
    assert b"s3cret" not in seal(SLOT, entry)


def test_every_changed_byte_every_cut_and_every_other_key_or_name_is_noticed() -> None:
    blob = seal(SLOT, sealed_token_of(Token("s3cret", NOW + 60), 7, NOW))

    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 1
        assert opened(SLOT, bytes(changed)) is None
        assert opened(SLOT, blob[:place]) is None
    assert opened(SLOT, blob + b"\0") is None
    assert opened(SLOT, blob, 8) is None
    assert opened(slot_of(KEYS, ["b"]), blob) is None
    assert opened(slot_of(derived(b"o" * 32), ["a"]), blob) is None
    assert opened(SLOT, blob, 7) is not None


def test_the_keys_for_names_and_cipher_are_two_and_a_name_shows_neither() -> None:
    assert KEYS.name != KEYS.cipher
    assert len(SLOT.name) == 64
    assert KEYS.name.hex() not in SLOT.name
    assert SLOT.name != slot_of(derived(b"o" * 32), ["a"]).name
