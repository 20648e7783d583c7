"""Why a server may have refused a token, as far as it can be known here: said without the token."""

from __future__ import annotations

import re

import grpc

from grpc_bearer._base.token import Token
from grpc_bearer._calls.failure import Failure, rich, too_large
from grpc_bearer.errors import TokenError, TokenFormatError, TokenRejectedError
from grpc_bearer.sources._parse import http_date, jwt_claims, number_of

# RFC 6750 §3.1: the only part of the challenge that is a fixed word; the rest is the server's free text.
_CHALLENGE = re.compile(r'\berror="?([a-z_]+)"?')
# google.rpc.ErrorInfo: what a reason may look like; anything else is free text too, and could repeat the token.
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
# Below this, whole-second clocks and the way between the two machines explain a difference.
_SKEW = 5.0


def diagnose(token: Token, failure: Failure, now: float, why_not_again: str = "") -> TokenError:
    """What was wrong with a token that the server refused.

    Args:
        token: the token that was refused.
        failure: how the server refused it.
        now: this machine's wall clock, in seconds since the Unix epoch.
        why_not_again: why the call was not made once more.
    """
    if too_large(token, failure):
        return TokenFormatError(
            f"the token has {len(token.value)} bytes; servers and proxies refuse headers beyond some 4 to 16 KiB "
            f"({failure.code.name})",
            suspect="size",
        )
    parts = [f"the server refused the token ({failure.code.name})"]
    challenge = _CHALLENGE.search(failure.header("www-authenticate") or "")
    reason = _REASON.fullmatch(rich(failure)[0])
    parts += [f"it says {word[word.re.groups]}" for word in (challenge, reason) if word]
    parts += _lacks(token) if failure.code is grpc.StatusCode.PERMISSION_DENIED else _times(token, now)
    parts += _skew(failure, now)
    if why_not_again:
        parts.append(why_not_again)
    refused = TokenRejectedError("; ".join(parts), suspect="token")
    refused._reason = "; ".join(parts[1:])
    return refused


def _lacks(token: Token) -> list[str]:
    audience = (jwt_claims(token.value) or {}).get("aud")
    meant = f"another audience than {audience!r}" if audience else "another service"
    return [f"it lacks a scope or a role that this call needs, or is meant for {meant}"]


def _times(token: Token, now: float) -> list[str]:
    claims = jwt_claims(token.value)
    if claims is None:
        if token.expires_at is not None and token.expires_at <= now:
            return [f"it expired {now - token.expires_at:.0f} s ago"]
        return ["the token is opaque: revoked, mistyped, or meant for another service"]
    for name in ("nbf", "iat"):
        value = number_of(claims.get(name))
        if value is not None and value > now:
            return [f"its {name} is {value - now:.0f} s ahead of this machine's clock"]
    expiry = number_of(claims.get("exp"))
    if expiry is not None and expiry <= now:
        return [f"it expired {now - expiry:.0f} s ago by this machine's clock"]
    audience = claims.get("aud")
    meant = f", or meant for another audience than {audience!r}" if audience else ""
    return [
        "by this machine's clock its times are right: if that clock is wrong, this is the likely cause; else the token "
        f"is revoked, or signed by a key that the server does not know{meant}"
    ]


def _skew(failure: Failure, now: float) -> list[str]:
    date = http_date(failure.header("date"))
    ahead = 0.0 if date is None else now - date
    if abs(ahead) < _SKEW:
        return []
    side = "ahead of" if ahead > 0 else "behind"
    return [f"this machine's clock is {abs(ahead):.0f} s {side} the server's, which is the likely cause"]
