"""Judging what a token endpoint, a file or a function gave: pure functions, no socket, no file, no clock.

`where` stands before each message: the host, the file or the function, never an address with its query.
"""

from __future__ import annotations

import math
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from grpc_bearer._base.clock import Clock
from grpc_bearer._base.clock_skew import SkewedClock
from grpc_bearer._base.token import Token
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import TokenError, TokenFormatError, TokenRejectedError, TokenUnavailableError

#: A segment of a JWT: base64url.
SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
# Beyond this a lifetime is a server's way to say "never", or a mistake that must not spoil a good token.
_CENTURY = 100 * 365.25 * 86400
_YEAR_9999 = 253_402_300_800.0
# An endpoint that asks for more patience than this is asked again all the same.
_LONGEST_RETRY_AFTER = 86400.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What an endpoint answered.

    Args:
        status: the HTTP status.
        headers: the few that matter here, with lower-case names.
        body: at most as many bytes as were allowed.
        overlong: the body had more.
        elapsed: seconds from before the request until the last byte.
        date: the server's own clock (`Date`), in seconds since the Unix epoch.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    overlong: bool
    elapsed: float
    date: float | None


def http_date(text: str | None) -> float | None:
    """An HTTP date in seconds since the Unix epoch; `None` if it is none."""
    if not text:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, OverflowError):
        return None


def number_of(value: object) -> float | None:
    """A finite number out of JSON, where some servers write numbers as strings; `None` for everything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# -- HTTP -------------------------------------------------------------------------------------------------------------


def retry_after(answer: Answer, now: float) -> float | None:
    """The seconds that `Retry-After` asks for, as a number or as a date (RFC 9110 section 10.2.3)."""
    text = answer.headers.get("retry-after")
    seconds = number_of(text)
    if seconds is None:
        until = http_date(text)
        if until is None:
            return None
        # The server's own clock where it told it: the difference is then right even if ours is wrong.
        seconds = until - (now if answer.date is None else answer.date)
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER)


#: What comes with a token. 200 is what RFC 6749 section 5.1 demands; some endpoints say that they have made one.
SUCCESS = (200, 201, 202, 203)
#: What an endpoint says to a credential that it does not take; 400 is for those in the body (RFC 6749 section 5.2).
CREDENTIAL_REFUSED = (400, 401, 403)


def status_error(answer: Answer, where: str, now: float, code: str | None = None) -> TokenError | None:
    """The error that an answer's status stands for; `None` where a token may come. `code`: a registered OAuth one."""
    status = answer.status
    text = f"{where}: answered {status}" + (f" {code}" if code else "")
    if status in SUCCESS:
        return None
    if status in (408, 429) or status >= 500 or code in _OAUTH_RETRYABLE:
        return TokenUnavailableError(text, retry_after=retry_after(answer, now), suspect="endpoint")
    if 300 <= status < 400:
        text += ": redirected; redirects are never followed, so give the final address"
        return TokenRejectedError(text, suspect="endpoint")
    if status < 300:
        return TokenFormatError(f"{text}, where 200 is expected", suspect="endpoint")
    refused = ": the credential was refused" * (status in (401, 403))
    # There is no such page, or not by POST: whatever the credential is.
    return TokenRejectedError(text + refused, suspect="endpoint" if status in (404, 405, 410) else "credential")


def decoded_text(answer: Answer, where: str) -> str:
    """The whole body as text, without white space around it."""
    if answer.overlong:
        raise _no_token(f"{where}: answered with more than {len(answer.body)} bytes")
    charsets = [*_declared_charset(answer), "UTF-8"]  # what is declared is not always what is sent
    text = next((text for charset in charsets if (text := _decoded(answer.body, charset)) is not None), None)
    if text is None:
        raise _no_token(f"{where}: the answer is not {charsets[0]} text")
    if not text:
        raise _no_token(f"{where}: the answer is empty")
    if text.startswith("<"):
        raise _no_token(f"{where}: the answer is HTML or XML; is the address right?")
    return text


def _no_token(problem: str) -> TokenFormatError:
    return TokenFormatError(problem, suspect="endpoint")


# Those of old servers, under their usual names. Not every codec of Python's is for text, or quick.
_CHARSET = re.compile(
    r"""charset\s*=\s*["']?("""
    r"latin-?1|iso[-_]?8859-\d{1,2}|(?:windows-|cp)125\d|utf-(?:16|32)(?:[lb]e)?"
    r"|shift[-_]jis|euc-(?:jp|kr)|gb(?:k|2312|18030)|big5|koi8-[ru])(?![\w-])",
    re.IGNORECASE,
)


def _declared_charset(answer: Answer) -> list[str]:
    declared = _CHARSET.search(answer.headers.get("content-type", ""))
    return [] if declared is None else [declared[1].lower()]


def _decoded(body: bytes, charset: str) -> str | None:
    try:
        return body.decode(charset).removeprefix("\ufeff").strip()  # without a byte order mark
    except (UnicodeDecodeError, LookupError):
        return None


def raw_token(text: str, where: str) -> str:
    """The text itself, or what it holds as a JSON string; other JSON is no token, nor is it in a string."""
    if text[0] == '"':
        text = str(json_document(text, where)).strip()
    if not text:
        raise _no_token(f"{where}: the answer is empty")
    if text[0] in '{["' or text in ("null", "true", "false"):
        raise _no_token(f"{where}: the answer is JSON, not a bare token; name its field with field=")
    return text


# -- JSON -------------------------------------------------------------------------------------------------------------


def json_document(text: str, where: str) -> object:
    """The text as JSON."""
    import json

    with translating(ValueError, RecursionError, to=lambda _: TokenFormatError(f"{where}: not JSON")):
        return json.loads(text)


_MISSING = object()


def _walk(document: object, path: str) -> object:
    if isinstance(document, dict) and path in document:  # a key may have dots itself
        return document[path]
    for name in path.split("."):
        if not isinstance(document, dict) or name not in document:
            return _MISSING
        document = document[name]
    return document


def field_of(document: object, path: str, where: str) -> str:
    """The text at `path`, where dots walk into nested objects."""
    value = _walk(document, path)
    if value is _MISSING:
        raise TokenFormatError(f"{where}: JSON without the field {path!r}")
    if not isinstance(value, str):
        raise TokenFormatError(f"{where}: {path}: expected a string, got {type(value).__name__}")
    return value


def lifetime_of(document: object, path: str | None, where: str) -> float | None:
    """The lifetime in seconds at `path`; `None` if there is none, or none that makes sense."""
    seconds = None if path is None else number_of(_walk(document, path))
    if seconds is None or seconds > _CENTURY:
        return None
    if seconds <= 0:
        raise TokenFormatError(f"{where}: {path}: the token is already expired")
    return seconds


# -- OAuth ------------------------------------------------------------------------------------------------------------

# No text of an answer is ever shown but these codes: an error_description is free text, and some servers quote the
# request in it.
#: RFC 6749 section 5.2.
OAUTH_CODES = frozenset(
    {
        "invalid_client",
        "invalid_grant",
        "invalid_request",
        "invalid_scope",
        "unauthorized_client",
        "unsupported_grant_type",
    }
)
# RFC 6749 section 4.1.2.1, RFC 6750, 8628, 8707, 9396 and 9449, and OpenID Connect.
_OAUTH_RETRYABLE = frozenset({"server_error", "temporarily_unavailable"})
_OAUTH_FINAL = OAUTH_CODES | frozenset(
    {
        "access_denied",
        "authorization_pending",
        "consent_required",
        "expired_token",
        "insufficient_scope",
        "interaction_required",
        "invalid_authorization_details",
        "invalid_dpop_proof",
        "invalid_target",
        "invalid_token",
        "login_required",
        "slow_down",
        "unsupported_response_type",
        "use_dpop_nonce",
    }
)


def refusal(answer: Answer, where: str, now: float) -> TokenError | None:
    """The error that the status of an answer stands for, with the registered OAuth code in it, if there is one."""
    return status_error(answer, where, now, oauth_code(answer))


def oauth_refusal(answer: Answer, where: str, now: float) -> TokenError | None:
    """The same; but an `error` that comes with a 200 is a refusal too."""
    code = _error_code(answer)
    refused = refusal(answer, where, now)
    if code is None or isinstance(refused, TokenUnavailableError):
        return refused
    text = f"{where}: answered {answer.status} {_registered(code) or 'with an unregistered error code'}"
    if code in _OAUTH_RETRYABLE:
        return TokenUnavailableError(text, suspect="endpoint")
    return TokenRejectedError(text, suspect="credential")


def oauth_code(answer: Answer) -> str | None:
    """The `error` code of an answer, if it is a registered one."""
    return _registered(_error_code(answer))


def _registered(code: str | None) -> str | None:
    return code if code in _OAUTH_RETRYABLE or code in _OAUTH_FINAL else None


def _error_code(answer: Answer) -> str | None:
    try:
        document = json_document(decoded_text(answer, ""), "")
    except TokenFormatError:
        return None  # the status says it all
    error = document.get("error") if isinstance(document, dict) else None
    return error if isinstance(error, str) and error.strip() else None  # some send an empty one beside a token


def check_bearer(document: object, where: str) -> None:
    """Refuse an answer whose `token_type` is of another scheme than Bearer."""
    # RFC 6749 section 5.1 demands the field, but servers that leave it out, or empty, are plenty, and mean Bearer.
    kind = document.get("token_type") if isinstance(document, dict) else None
    if kind is not None and (not isinstance(kind, str) or kind.strip().lower() not in ("", "bearer", "bearertoken")):
        raise TokenFormatError(f"{where}: token_type is not Bearer, so the token cannot be used as one")


# -- Tokens -----------------------------------------------------------------------------------------------------------


def learn_time(clock: Clock, answer: Answer, value: str | None = None) -> bool:
    """Let the auth's clock take notice of what time it is where the answer came from, over TLS.

    Args:
        clock: of the call context.
        answer: any answer, a refusal too.
        value: the token in it, whose `iat` says something about the time if it is a JWT.

    Returns:
        Whether the clock was corrected.
    """
    if not isinstance(clock, SkewedClock) or "age" in answer.headers:
        return False
    issued = number_of((jwt_claims(value) or {}).get("iat")) if value is not None else None
    if answer.date is not None:
        return clock.learn(answer.date, answer.elapsed, issued)
    return issued is not None and clock.learn_issued(issued, answer.elapsed)


def is_jwt(text: str) -> bool:
    """Whether the text has the form of a JWT."""
    return jwt_claims(text) is not None


def jwt_expiry(value: str) -> float | None:
    """The `exp` of a JWT, in seconds since the Unix epoch, not verified; `None` if there is none, or no JWT."""
    exp = (jwt_claims(value) or {}).get("exp")
    seconds = None if isinstance(exp, str) else number_of(exp)  # RFC 7519 section 2: a number, nothing else
    return seconds if seconds is None or seconds < _YEAR_9999 else None


def jwt_claims(text: str) -> dict[str, object] | None:
    """The claims of a JWT, not verified; `None` if it is none."""
    segments = text.strip().split(".")
    if len(segments) != 3 or not SEGMENT.fullmatch(segments[2]) or json_segment(segments[0]) is None:
        return None
    return json_segment(segments[1])


def json_segment(segment: str) -> dict[str, Any] | None:
    """The JSON object in a segment of a JWT: its header, its claims; `None` if there is none."""
    if not SEGMENT.fullmatch(segment):
        return None
    import json

    try:
        found = json.loads(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def made_token(
    where: str, value: str, *, now: float, expires_at: float | None, refresh_at: float | None = None
) -> Token:
    """The token, or a `TokenFormatError` if it is expired or no header may carry it."""
    if expires_at is not None and expires_at <= now:
        raise TokenFormatError(
            f"{where}: the token expired {now - expires_at:.0f} s ago by this machine's clock; is the clock right?",
            suspect="clock",
        )
    with translating(TokenFormatError, to=lambda error: TokenFormatError(f"{where}: {error}")):
        return Token(value, expires_at=expires_at, refresh_at=refresh_at)


def no_older(token: Token, until: float) -> Token:
    """The token, to be replaced at that time (in seconds since the Unix epoch), if not earlier."""
    if token.expires_at is not None and token.expires_at <= until:
        return token
    early = token.refresh_at is not None and token.refresh_at < until
    return replace(token, expires_at=until, refresh_at=token.refresh_at if early else None)
