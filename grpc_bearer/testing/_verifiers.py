"""What a service makes of the token on a call: pure decisions over metadata, one class a kind of token.

They are strict on purpose, as strict as the strictest server met: one header, the scheme to the letter, whole seconds,
no leeway. A client that passes here passes elsewhere.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol

import grpc

from grpc_bearer._base.arguments import checked_flag
from grpc_bearer._base.clock import SYSTEM_CLOCK, Clock
from grpc_bearer.sources._parse import json_segment

__all__ = ["Decode", "JWTVerifier", "OpaqueVerifier", "Refusal", "Verdict", "Verifier"]

Metadata = Sequence[tuple[str, "str | bytes"]]

#: Checks the signature, nothing else: `(token, key, algorithms) -> (header, claims)`, or raises.
Decode = Callable[[str, Any, Sequence[str]], tuple[dict[str, Any], dict[str, Any]]]

# 128 bits in hexadecimal, as the OpenFX document says (`crypto.randomBytes(16).toString("hex")`).
_NONCE = re.compile(r"[0-9a-f]{32,}")


class Refusal(Exception):
    """Why a token was refused, and with which status; never names the token."""

    def __init__(self, reason: str, code: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code


@dataclass(slots=True)
class Verdict:
    """What a verifier found on one attempt; `refusal` is `None` if it let it through.

    >>> Verdict(token="t0", refusal=Refusal("revoked"))
    Verdict(refusal=Refusal('revoked'))
    """

    header_values: list[str] = field(default_factory=list, repr=False)
    token: str | None = field(default=None, repr=False)
    jwt_header: dict[str, Any] = field(default_factory=dict, repr=False)
    claims: dict[str, Any] = field(default_factory=dict, repr=False)
    refusal: Refusal | None = None


class Verifier(Protocol):
    """What `ProbeServer` asks about each attempt; may be called from many threads at once.

    >>> class Anybody:
    ...     def verify(self, metadata, method):
    ...         return Verdict()
    >>> Anybody().verify([], "/s/M").refusal is None
    True
    """

    def verify(self, metadata: Metadata, method: str) -> Verdict:
        """Judge the metadata of a call to `/package.Service/Method`."""
        ...


class _HeaderVerifier:
    """Finds the one header and the bare token in it; subclasses judge the token."""

    def __init__(self, header: str, scheme: str) -> None:
        self.header = header
        self.scheme = scheme
        self._lock = threading.Lock()
        self._revoked: set[str] = set()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(header={self.header!r}, scheme={self.scheme!r})"

    def revoke(self, *tokens: str) -> None:
        """Refuse these tokens from now on."""
        with self._lock:
            self._revoked.update(tokens)

    def verify(self, metadata: Metadata, method: str) -> Verdict:
        verdict = Verdict([_text(value) for key, value in metadata if key == self.header])
        try:
            verdict.token = self._bare(verdict.header_values)
            self._judge(verdict, verdict.token, method)
            self._check_revoked(verdict.token)
        except Refusal as refusal:
            verdict.refusal = refusal
        return verdict

    def _bare(self, values: list[str]) -> str:
        if len(values) != 1:
            raise Refusal(f"{len(values)} {self.header} headers, want 1" if values else f"no {self.header} header")
        prefix = f"{self.scheme} " if self.scheme else ""
        if not values[0].startswith(prefix):
            raise Refusal(f"{self.header} does not begin with {prefix!r}")
        token = values[0][len(prefix) :]
        if not token or token != "".join(token.split()):
            raise Refusal(f"{self.header} has no token, or white space in it")
        return token

    def _check_revoked(self, token: str) -> None:
        with self._lock:
            if token in self._revoked:
                raise Refusal("token revoked")

    def _judge(self, verdict: Verdict, token: str, method: str) -> None:
        raise NotImplementedError


class OpaqueVerifier(_HeaderVerifier):
    """Has a list of the tokens that it accepts, as CRM and BitBroker have.

    Args:
        tokens: those accepted, until revoked.
        header: where the token must be.
        scheme: the word before it, `""` for the bare token.
        roles: for some of the tokens, patterns of `package.Service/Method` that they are good for; others get
            PERMISSION_DENIED. A token without an entry is good for all.

    >>> verifier = OpaqueVerifier(["t0"], header="x-bbk-auth-token", scheme="")
    >>> verifier.verify([("x-bbk-auth-token", "t0")], "/s/M").refusal is None
    True
    >>> verifier.revoke("t0")
    >>> verifier.verify([("x-bbk-auth-token", "t0")], "/s/M").refusal
    Refusal('token revoked')
    """

    def __init__(
        self,
        tokens: Iterable[str] = (),
        header: str = "authorization",
        scheme: str = "Bearer",
        *,
        roles: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        super().__init__(header, scheme)
        self._roles = dict(roles or {})
        self._known = {*tokens, *self._roles}

    def accept(self, *tokens: str, methods: Collection[str] | None = None) -> None:
        """Accept these tokens too from now on; with `methods`, for those patterns only."""
        with self._lock:
            self._known.update(tokens)
            self._revoked.difference_update(tokens)
            if methods is not None:
                self._roles.update(dict.fromkeys(tokens, methods))

    def _judge(self, verdict: Verdict, token: str, method: str) -> None:
        with self._lock:
            known, patterns = token in self._known, self._roles.get(token)
        if not known:
            raise Refusal("unknown token")
        if patterns is not None and not any(fnmatchcase(method.lstrip("/"), pattern) for pattern in patterns):
            raise Refusal("token is for another role", grpc.StatusCode.PERMISSION_DENIED)


class JWTVerifier(_HeaderVerifier):
    """Checks a JWT the way the strictest of the services would: Bear, Skykit, OpenFX.

    Args:
        key: the public key; or a mapping of them, looked up by the token's `kid`.
        algorithms: those accepted; the token's own header decides nothing.
        issuer: what `iss` must be.
        audience: what `aud` must hold; if `None`, a token for anyone will do.
        required_claims: must be there.
        max_lifetime: seconds that `exp` may lie after `iat`.
        require_headers: JWT headers that must be non-empty strings; `nonce` at least 128 bits in lower-case hex.
        single_use: refuse a token whose `nonce` (or, without one, whose text) was seen before.
        leeway: seconds of clock difference forgiven; 0 is what strict servers do.
        clock: where to read the time.
        decode: another checker of signatures in place of PyJWT.

    >>> from grpc_bearer.testing import throwaway_key
    >>> verifier = JWTVerifier(throwaway_key("ES256").public_key(), ["ES256"])
    >>> verifier.verify([("authorization", "Bearer nonsense")], "/s/M").refusal
    Refusal('bad signature, or no JWT at all')
    """

    def __init__(
        self,
        key: Any,
        algorithms: Sequence[str],
        *,
        header: str = "authorization",
        scheme: str = "Bearer",
        issuer: str | None = None,
        audience: str | None = None,
        required_claims: Collection[str] = ("iat", "exp"),
        max_lifetime: float | None = None,
        require_headers: Collection[str] = (),
        single_use: bool = False,
        leeway: float = 0,
        clock: Clock = SYSTEM_CLOCK,
        decode: Decode | None = None,
    ) -> None:
        super().__init__(header, scheme)
        self.key = key
        self.algorithms: list[str] = list(algorithms)
        self.issuer: str | None = issuer
        self.audience: str | None = audience
        self.required_claims: tuple[str, ...] = tuple(required_claims)
        self.require_headers: tuple[str, ...] = tuple(require_headers)
        self.max_lifetime: float | None = max_lifetime
        self.leeway: float = leeway
        self.single_use: bool = checked_flag("single_use", single_use)
        self.clock = clock
        self._decode = decode or decode_with_pyjwt
        self._seen: set[str] = set()

    def _judge(self, verdict: Verdict, token: str, method: str) -> None:
        try:
            verdict.jwt_header, verdict.claims = self._decode(token, self._key_for(token), self.algorithms)
        except Refusal:
            raise
        except Exception:  # whatever a decoder raises; its text may show the token
            raise Refusal("bad signature, or no JWT at all") from None
        check_headers(verdict.jwt_header, self.require_headers)
        check_times(verdict.claims, self.required_claims, self.clock.time(), self.leeway, self.max_lifetime)
        check_parties(verdict.claims, self.issuer, self.audience)
        if self.single_use:
            self._check_unseen(verdict.jwt_header.get("nonce", token))

    def _key_for(self, token: str) -> Any:
        if not isinstance(self.key, Mapping):
            return self.key
        kid = peek_header(token).get("kid")
        if kid not in self.key:
            raise Refusal("no such kid")
        return self.key[kid]

    def _check_unseen(self, mark: str) -> None:
        with self._lock:
            if mark in self._seen:
                raise Refusal("nonce seen before")
            self._seen.add(mark)


def decode_with_pyjwt(token: str, key: Any, algorithms: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The default `Decode`."""
    import jwt

    decoded = jwt.PyJWS(list(algorithms)).decode_complete(token, key, list(algorithms))
    claims = json.loads(decoded["payload"])
    if not isinstance(claims, dict):
        raise Refusal("claims are no JSON object")
    return decoded["header"], claims


def peek_header(token: str) -> dict[str, Any]:
    """The JWT's header, unverified; empty if there is none."""
    return json_segment(token.partition(".")[0]) or {}


def check_headers(header: Mapping[str, Any], required: Iterable[str]) -> None:
    for name in required:
        if not isinstance(header.get(name), str) or not header[name]:
            raise Refusal(f"JWT header {name} missing, or no string")
    if "nonce" in required and not _NONCE.fullmatch(header["nonce"]):
        raise Refusal("nonce has fewer than 128 bits of lower-case hex")


def check_times(
    claims: Mapping[str, Any], required: Iterable[str], now: float, leeway: float, max_lifetime: float | None
) -> None:
    for name in required:
        if name not in claims:
            raise Refusal(f"claim {name} missing")
    for name in ("iat", "nbf", "exp"):
        if name in claims and type(claims[name]) is not int:
            raise Refusal(f"claim {name} is not in whole seconds")
    for name in ("iat", "nbf"):
        if claims.get(name, 0) > now + leeway:
            raise Refusal(f"{name} lies ahead")
    if "exp" in claims and claims["exp"] <= now - leeway:
        raise Refusal("expired")
    if max_lifetime is not None and not ("exp" in claims and "iat" in claims):
        raise Refusal("lifetime unknown: needs iat and exp")
    if max_lifetime is not None and claims["exp"] - claims["iat"] > max_lifetime:
        raise Refusal(f"lifetime of {claims['exp'] - claims['iat']} s, allowed are {max_lifetime:g}")


def check_parties(claims: Mapping[str, Any], issuer: str | None, audience: str | None) -> None:
    if issuer is not None and claims.get("iss") != issuer:
        raise Refusal("wrong issuer")
    found = claims.get("aud", [])
    if audience is not None and audience not in ([found] if isinstance(found, str) else found):
        raise Refusal("wrong audience")


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
