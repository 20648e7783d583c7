"""What can be said of a token by looking at it: pure functions. Nothing here verifies a signature, or shows one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from grpc_bearer._base.token import LARGE_TOKEN
from grpc_bearer.sources._parse import SEGMENT, json_segment, number_of

# An `exp` beyond this many seconds from now was written in milliseconds.
_FAR = 100 * 365.25 * 86400
#: How long signatures are, in bytes (RFC 7518 section 3, RFC 8032: Ed25519 and Ed448).
_SIZES: Mapping[str, tuple[int, ...]] = {
    "ES256": (64,),
    "ES384": (96,),
    "ES512": (132,),
    "HS256": (32,),
    "HS384": (48,),
    "HS512": (64,),
    "EdDSA": (64, 114),
}
_LEAST_RSA = 128  # as long as the key, and shorter keys are none any more


@dataclass(frozen=True, slots=True)
class Rules:
    """What a service wants of its tokens, as far as its document says.

    Args:
        jwt: whether they are JWTs at all.
        algorithm: the one it takes.
        max_lifetime: seconds from `iat` to `exp`.
        claims, headers: those that must be there.
    """

    jwt: bool = True
    algorithm: str | None = None
    max_lifetime: float | None = None
    claims: tuple[str, ...] = ("exp",)
    headers: tuple[str, ...] = ()


#: By profile.
RULES: Mapping[str, Rules] = {
    "bear": Rules(),
    "bitbroker": Rules(jwt=False, claims=()),
    "crm": Rules(jwt=False, claims=()),
    "openfx": Rules(True, "ES256", 120.0, ("aud", "exp", "iat", "iss", "nbf", "sub"), ("kid", "nonce")),
    "skykit": Rules(True, "RS256", 3600.0, ("exp", "iat", "iss")),
}


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a token shows.

    Args:
        kind: in a few words.
        header, claims: of a JWT.
        signature: its length in bytes.
        problems: what looks wrong.
        token: without scheme and white space.
    """

    kind: str
    header: Mapping[str, Any] | None = field(default=None, repr=False)
    claims: Mapping[str, Any] | None = field(default=None, repr=False)
    signature: int = 0
    problems: list[str] = field(default_factory=list)
    token: str = field(default="", repr=False)

    @property
    def expires_at(self) -> float | None:
        """`exp`, in seconds since the Unix epoch."""
        return number_of((self.claims or {}).get("exp"))


def inspected(text: str, now: float, rules: Rules | None = None) -> Inspected:
    """Look at a token.

    Args:
        text: the token, with or without `Bearer ` before it.
        now: this machine's wall clock, in seconds since the Unix epoch.
        rules: of its service; `None`: what holds for most.
    """
    token, problems = _bare(text)
    parts = token.split(".")
    if len(parts) == 5 and json_segment(parts[0]) is not None:
        return Inspected("an encrypted token (JWE)", json_segment(parts[0]), problems=problems)
    header, claims = (json_segment(part) for part in parts[:2]) if len(parts) == 3 else (None, None)
    if header is None or claims is None:
        if rules is None or rules.jwt:
            problems.append(_no_jwt(parts))
        return Inspected(f"an opaque token of {len(token)} characters", problems=problems)
    problems += [*_header_problems(header, rules), *_signature_problems(parts[2], header)]
    problems += time_problems(claims, now, rules)
    return Inspected("a JWT", header, claims, _size(parts[2]), problems, token)


def _bare(text: str) -> tuple[str, list[str]]:
    token, problems = text.strip(), []
    if token[:7].lower() == "bearer ":
        token = token[7:].strip()
        problems.append("begins with 'Bearer ': the scheme is no part of the token")
    if len(token.split()) > 1:
        problems.append("has white space in it; was it copied over several lines?")
        token = "".join(token.split())
    if len(token) > LARGE_TOKEN:
        problems.append(f"{len(token)} bytes: many servers and proxies refuse headers over {LARGE_TOKEN}")
    return token, problems


def _no_jwt(parts: list[str]) -> str:
    if len(parts) != 3:
        return f"not a JWT: {len(parts)} part{'s' * (len(parts) > 1)} between dots, where a JWT has 3"
    return "not a JWT: its header or its claims are no JSON object in base64url"


def _header_problems(header: Mapping[str, Any], rules: Rules | None) -> list[str]:
    algorithm, problems = header.get("alg"), []
    if not isinstance(algorithm, str):
        problems.append("no alg in its header")
    elif algorithm.lower() == "none":
        problems.append("alg is none: it is not signed, and anybody could have made it")
    elif rules and rules.algorithm and algorithm != rules.algorithm:
        problems.append(f"alg is {algorithm}, and the service takes {rules.algorithm} only")
    return problems + [f"no {name} in its header" for name in (rules.headers if rules else ()) if not header.get(name)]


def _signature_problems(signature: str, header: Mapping[str, Any]) -> list[str]:
    if not signature:
        return [] if str(header.get("alg")).lower() == "none" else ["its signature is missing; was it cut off?"]
    if not SEGMENT.fullmatch(signature):
        return ["its signature is not base64url"]
    algorithm, size = str(header.get("alg")), _size(signature)
    if algorithm[:2] in ("RS", "PS"):
        short, wanted = size < _LEAST_RSA, f"{_LEAST_RSA} at least"
    else:
        sizes = _SIZES.get(algorithm, (size,))
        short, wanted = size not in sizes, str(sizes[0])
    return [f"its signature has {size} bytes, and {algorithm} has {wanted}; was it cut off?"] if short else []


def _size(signature: str) -> int:
    return len(signature) * 3 // 4


def time_problems(claims: Mapping[str, Any], now: float, rules: Rules | None) -> list[str]:
    """What is wrong with the times, by this machine's clock."""
    times = {name: number_of(claims[name]) for name in ("iat", "nbf", "exp") if name in claims}
    problems = [f"{name} is no number" for name, at in times.items() if at is None or isinstance(claims[name], str)]
    wanted = ("exp",) if rules is None else rules.claims
    problems += [_missing(name) for name in wanted if name not in claims]
    exp, iat = times.get("exp"), times.get("iat")
    for name in ("nbf", "iat"):
        at = times.get(name)
        if at is not None and at > now:
            problems.append(f"{name} is {span(at - now)} ahead of this machine's clock: not valid yet")
    if exp is not None and exp <= now:
        problems.append(f"expired {span(now - exp)} ago")
    elif exp is not None and exp > now + _FAR:
        problems.append("exp is more than 100 years away: written in milliseconds?")
    longest = rules.max_lifetime if rules else None
    if longest is not None and exp is not None and iat is not None and exp - iat > longest:
        problems.append(f"lives {span(exp - iat)}, and the service permits {span(longest)}")
    return problems


def _missing(name: str) -> str:
    return "no exp: it never expires" if name == "exp" else f"no {name} in its claims"


def span(seconds: float) -> str:
    """A time span for people, of two units at most."""
    whole = round(seconds)
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    parts = []
    for unit, size in units:
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
        elif parts:
            break
    return " ".join(parts[:2]) or "0 s"
