"""What a command printed, as a token and the time of its end: pure functions.

Understood is the token alone; or JSON, as these print it:

=============================== ===============================================================
`gcloud auth`, `gh auth token`  the token alone
kubectl's credential plugins    `{"status": {"token", "expirationTimestamp"}}`, an ExecCredential
`kubectl create token -o json`  the same, a TokenRequest
`az account get-access-token`   `{"accessToken", "expires_on", "expiresOn", "tokenType"}`
`azd auth token --output json`  `{"token", "expiresOn"}`
an OAuth answer                 `{"access_token", "expires_in", "token_type"}`
=============================== ===============================================================
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

from grpc_bearer.errors import TokenFormatError
from grpc_bearer.sources._parse import check_bearer, field_of, json_document, lifetime_of, number_of

_TOKEN = ("token", "access_token", "accessToken", "id_token", "idToken")
# Epoch seconds come before texts: the `expiresOn` of older versions of az is local time without saying so, which is
# another time for an hour each autumn.
_END = ("expires_on", "expirationTimestamp", "token_expiry", "expiresOn", "expires_at", "expiresAt", "expiry")
_MORE_END = ("Expiration", "expiration", "exp")
_LIFETIME = ("expires_in", "expiresIn", "lease_duration")
_LOCAL_TIME = ("expiresOn",)
# RFC 3339, with what others make of it: a space, nine digits of fraction (Go), no zone.
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:[.,](\d+))? ?([Zz]|UTC|[+-]\d\d:?\d\d)?", re.ASCII
)
# Above this it is milliseconds, as JavaScript counts: in seconds it would be the year 5138.
_MILLISECONDS = 1e11


def printed_token(text: str, path: str | None, where: str, now: float) -> tuple[str, float | None]:
    """The token in what was printed, and when it ends if that stands beside it, in seconds since the Unix epoch.

    Args:
        text: not empty, without white space around it.
        path: where in the JSON the token stands, with dots; `None`: under one of the usual names.
        where: the command, for messages.
        now: seconds since the Unix epoch.

    Raises:
        TokenFormatError: there is no token in it.

    >>> printed_token('{"token": "s3cret", "expiresOn": "2030-01-01T00:00:00Z"}', None, "azd", 0.0)
    ('s3cret', 1893456000.0)
    """
    if path is None and text[0] not in '{["':
        if len(text.splitlines()) > 1:
            raise TokenFormatError(f"{where}: printed several lines; only the token, or JSON, is expected on stdout")
        return text, None
    document = json_document(text, where)
    if path is None and isinstance(document, str):
        return document, None
    holder, name = _place(document, path, where)
    check_bearer({"token_type": holder.get("token_type", holder.get("tokenType"))}, where)
    return field_of(holder, name, where), _end(holder, where, now)


def _place(document: object, path: str | None, where: str) -> tuple[dict[str, Any], str]:
    """The object that has the token in it, and under which name."""
    if path is not None:
        if isinstance(document, dict) and path in document:
            return document, path
        above, _, name = path.rpartition(".")
        holder = document
        for step in filter(None, above.split(".")):
            holder = holder.get(step) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or name not in holder:
            raise TokenFormatError(f"{where}: printed JSON without the field {path!r}")
        return holder, name
    for holder in _objects(document):
        for name in _TOKEN:
            if holder.get(name) not in (None, ""):
                return holder, name
    raise TokenFormatError(f"{where}: {_no_token(document)}")


def _objects(document: object) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        yield document
        if isinstance(document.get("status"), dict):
            yield document["status"]


def _no_token(document: object) -> str:
    """Why there is no token in the JSON, in words."""
    names = {name for holder in _objects(document) for name in holder}
    if "SecretAccessKey" in names:
        return "printed AWS keys, which sign requests (SigV4) and are no bearer token"
    if "clientCertificateData" in names:
        return "printed a client certificate and no token; give that to the channel's credentials"
    return f"printed JSON with a token under none of the names {', '.join(_TOKEN)}; name its field with json_field="


def _end(holder: dict[str, Any], where: str, now: float) -> float | None:
    for name in (*_END, *_MORE_END):
        end = time_of(holder.get(name), local=name in _LOCAL_TIME)
        if end is not None:
            return end
    for name in _LIFETIME:
        if number_of(holder.get(name)):  # Vault: a lease of 0 is one without an end
            lifetime = lifetime_of(holder, name, where)
            return None if lifetime is None else now + lifetime
    return None


def time_of(value: object, *, local: bool = False) -> float | None:
    """A point in time in seconds since the Unix epoch; `None` if it is none.

    Args:
        value: a number of seconds, or of milliseconds, or a text such as RFC 3339 has it.
        local: a text without a zone is of this machine's zone, and not UTC.

    >>> time_of("2030-01-01T01:00:00.123456789+01:00"), time_of("1893456000"), time_of("tomorrow")
    (1893456000.123456, 1893456000.0, None)
    """
    number = number_of(value)
    if number is not None:
        return number / 1000 if number > _MILLISECONDS else number
    found = _TIME.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    *parts, fraction, zone = found.groups()
    year, month, day, hour, minute, second = map(int, parts)
    try:
        at = datetime(year, month, day, hour, minute, second, int(f"{fraction or 0:0<6}"[:6]), _zone(zone))
        return (at if zone or local else at.replace(tzinfo=timezone.utc)).timestamp()
    except (ValueError, OverflowError, OSError):  # the 30th of February; a year that the system cannot convert
        return None


def _zone(text: str | None) -> timezone | None:
    if text is None:
        return None
    if text[0] not in "+-":
        return timezone.utc
    minutes = 60 * int(text[1:3]) + int(text[-2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))
