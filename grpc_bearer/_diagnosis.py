"""Why a server may have refused a token, as far as it can be known here: said without the token."""

from __future__ import annotations

import email.utils
import re

from grpc_bearer._failure import Failure, rich
from grpc_bearer._token import Token
from grpc_bearer.errors import TokenRejectedError
from grpc_bearer.sources._answer import jwt_claims

# RFC 6750 §3.1: the only part of the challenge that is a fixed word; the rest is the server's free text.
_CHALLENGE = re.compile(r'\berror="?([a-z_]+)"?')
# Below this, whole-second clocks and the way between the two machines explain a difference.
_SKEW = 5.0


def diagnose(token: Token, failure: Failure, now: float, why_not_again: str = "") -> TokenRejectedError:
    """What was wrong with a token that the server refused.

    Args:
        token: the token that was refused.
        failure: how the server refused it.
        now: this machine's wall clock, in seconds since the Unix epoch.
        why_not_again: why the call was not made once more.
    """
    parts = [f"the server refused the token ({failure.code.name})"]
    challenge = _CHALLENGE.search(failure.header("www-authenticate") or "")
    reason = rich(failure)[0]
    parts += [f"it says {word}" for word in (challenge and challenge[1], reason) if word]
    parts += _times(token, now) + _skew(failure, now)
    if why_not_again:
        parts.append(why_not_again)
    return TokenRejectedError("; ".join(parts))


def _times(token: Token, now: float) -> list[str]:
    claims = jwt_claims(token.value)
    if claims is None:
        if token.expires_at is not None and token.expires_at <= now:
            return [f"it expired {now - token.expires_at:.0f} s ago"]
        return ["the token is opaque: revoked, mistyped, or meant for another service"]
    for name in ("nbf", "iat"):
        value = claims.get(name)
        if isinstance(value, (int, float)) and value > now:
            return [f"its {name} is {value - now:.0f} s ahead of this machine's clock"]
    expiry = claims.get("exp")
    if isinstance(expiry, (int, float)) and expiry <= now:
        return [f"it expired {now - expiry:.0f} s ago by this machine's clock"]
    audience = claims.get("aud")
    meant = f", or meant for another audience than {audience!r}" if audience else ""
    return [
        "by this machine's clock its times are right: if that clock is wrong, this is the likely cause; else the token is "
        f"revoked, signed by a key that the server does not know{meant}"
    ]


def _skew(failure: Failure, now: float) -> list[str]:
    date = failure.header("date")
    if date is None:
        return []
    try:
        ahead = now - email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return []
    if abs(ahead) < _SKEW:
        return []
    side = "ahead of" if ahead > 0 else "behind"
    return [f"this machine's clock is {abs(ahead):.0f} s {side} the server's, which is the likely cause"]
