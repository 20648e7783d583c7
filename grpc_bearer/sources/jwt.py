"""`JWTSource`: a JSON Web Token signed here, reused until near its expiry or made afresh for each attempt."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Hashable, Mapping
from copy import copy
from os import PathLike
from typing import TYPE_CHECKING

from grpc_bearer._base.arguments import checked_flag, is_number
from grpc_bearer._base.identity import Identity
from grpc_bearer._base.signing import load_signer
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Token, fingerprint, unchecked_token
from grpc_bearer._base.user_code import nobody
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources._members import GivenMembers, Members, PerToken, nonce, to_json
from grpc_bearer.sources._segment import Segment, base64url

if TYPE_CHECKING:
    from grpc_bearer._base.signing import KeyLike

__all__ = ["JWTSource", "PerToken", "nonce"]

_TIMES = dict.fromkeys(("iat", "exp", "nbf"), "is set for each token; use lifetime=, backdate= and not_before=")
_SIGNED_AS = {
    "alg": "follows from the key; use algorithm=",
    "b64": "is not for JWTs (RFC 7797 section 7)",
}


class JWTSource(Source):
    """A JWT (RFC 7519) signed here, as compact JWS (RFC 7515).

    `iat` and `exp` are set for each token, in whole seconds. The `kid` header is the key's own if it has one (a JWK, a
    google-auth signer) and `headers` does not say otherwise. What does not vary is checked and written once.

    A claim or header may be a function of the call (`CallContext`: service URL, service, method). Calls for which these
    functions give the same share a token, so they must depend on nothing else; what is to differ for each token is
    `nonce`, or another `PerToken`. They run on the calling thread and should be quick.

    Args:
        key: PEM, JWK, a file with either, a key object of `cryptography`, a google-auth `Signer`, or a callable
            `bytes -> signature` for a key that lives elsewhere (KMS, HSM).
        claims: a mapping, or a function of the call that returns one. `iat`, `exp` and `nbf` are not for it to say.
        headers: likewise; `alg` is not for it to say, and `typ` is `JWT` unless it does.
        audience: the `aud` claim: a `str`, a list, or a function of the call.
        algorithm: RS256/384/512, PS256/384/512, ES256/384/512 or EdDSA; `None`: chosen by the key.
        lifetime: from `iat` to `exp`, in seconds, at least 1; a fraction is cut off.
        max_lifetime: the longest that the service permits, in seconds.
        backdate: whole seconds to take off `iat` and `exp`, since verifiers refuse what was issued even slightly
            ahead of their clock; `None`: 5, or a tenth of a lifetime under 50.
        not_before: whether `nbf` is set too, equal to `iat`.
        single_use: one token for each attempt, never reused. If nothing in it varies, a random `jti` claim is added,
            for RSA and EdDSA sign the same text alike.
        presign: how many single-use tokens may be signed ahead, on another thread; a call takes one and has not to wait
            for its signature. It pays where the call itself makes its token: on channels with `attach="metadata"`. They
            are signed only as calls use them up, lie for at most a quarter of their life and 30 s, and none is used
            twice, also after a fork. `iat` says when a token was signed. `PerToken` functions run on that thread. 64 is
            a good number: half of them at a time are signed anew, and few calls have to wake the other thread.
        passphrase: of an encrypted PEM, or the path of a file that holds it.

    Raises:
        ConfigurationError: an argument is wrong; the text names it.
        SigningError: the key does not fit the algorithm, is too weak, public, damaged, or the passphrase is wrong.

    >>> from cryptography.hazmat.primitives.asymmetric import ed25519
    >>> key = ed25519.Ed25519PrivateKey.generate()
    >>> source = JWTSource(key, claims={"iss": "me"}, audience=lambda call: call.service_url, lifetime=600)
    >>> source
    JWTSource(EdDSA, lifetime=600)
    >>> source.fetch(CallContext("https://api.example.com/fleet.v1.Fleet"))  # doctest: +ELLIPSIS
    Token(<hidden>, expires_at=...)
    """

    signs = True

    def __init__(
        self,
        key: KeyLike,
        *,
        claims: GivenMembers | None = None,
        headers: GivenMembers | None = None,
        audience: object = None,
        algorithm: str | None = None,
        lifetime: float = 3600.0,
        max_lifetime: float | None = None,
        backdate: float | None = None,
        not_before: bool = False,
        single_use: bool = False,
        presign: int = 0,
        passphrase: str | bytes | PathLike[str] | None = None,
    ) -> None:
        self._lifetime = _checked_lifetime(lifetime, max_lifetime)
        self._backdate = _checked_backdate(backdate, self._lifetime)
        self._not_before = checked_flag("not_before", not_before)
        self._signer = load_signer(key, algorithm, passphrase=passphrase)
        self.local: bool = self._signer.local
        self.single_use: bool = checked_flag("single_use", single_use)
        self.presign: int = self._checked_presign(presign)
        kid = {} if self._signer.key_id is None else {"kid": self._signer.key_id}
        self._headers = Members(headers, "headers", _SIGNED_AS, {"typ": "JWT", **kid})
        aud = {} if audience is None else {"aud": audience}
        self._claims = Members(claims, "claims", _TIMES, aud)
        if single_use and self._headers.constant and self._claims.constant:
            self._claims = Members(claims, "claims", _TIMES, {**aud, "jti": nonce})
        self._varies_by_call: bool = self._headers.vary_by_call or self._claims.vary_by_call
        self._keyed = self._varies_by_call and (not single_use or presign > 0)
        self._given = dict(claims) if isinstance(claims, Mapping) else claims, aud
        self._refused: deque[str] = deque(maxlen=_REMEMBERED)
        self._header = Segment(self._headers, functools.partial(_open_header, self._signer.algorithm))
        self._payload = Segment(self._claims, functools.partial(_open_claims, self._lifetime, not_before))

    def key(self, context: CallContext) -> Hashable:
        """What the functions of the call give; calls with equal answers share a token."""
        if not self._keyed:
            return ()
        return self._headers.key(context), self._claims.key(context)

    def identity(self) -> Identity | None:
        """The key and what is written the same into each token; what varies by call is in `key`."""
        if self._signer.private is None:
            return None
        about = (self._signer.algorithm, self._lifetime, self._backdate, self._not_before)
        return Identity((*about, self._headers.fixed, self._claims.fixed), self._signer.private())

    def fetch(self, context: CallContext) -> Token:
        """Sign a new token.

        Raises:
            TokenUnavailableError: a key that lives elsewhere could not be reached.
            TokenRejectedError: a function of the call failed for this call.
            TokenFormatError: it gave what is no JSON value.
            SigningError: a callable returned what is no signature.
        """
        # Functions may see the caller's variables if what they give is in the key, or if the token is for one attempt.
        return self._made(context) if self._keyed or self.single_use else nobody().run(self._made, context)

    def _made(self, context: CallContext) -> Token:
        issued = int(context.clock.time()) - self._backdate
        token = self._signed(issued, context)
        if context.refused and not self.single_use:
            token, issued = self._not_refused(token, issued, context)
        return unchecked_token(token, float(issued + self._lifetime), self.single_use)

    def _for_each_request(self) -> JWTSource:
        """A twin for assertions (RFC 7523): single-use, and with a `jti` that is never the same twice.

        Raises:
            ConfigurationError: the claims have a `jti` that is always the same.
        """
        claims, aud = self._given
        if isinstance(claims, dict) and "jti" in claims and not callable(claims["jti"]):
            raise ConfigurationError(
                "a jti that is the same in each assertion, and servers take it only once; leave it out, or give "
                "grpc_bearer.sources.jwt.nonce",
                field="claims",
            )
        twin = copy(self)
        twin.single_use, twin.presign, twin._keyed = True, 0, self._varies_by_call
        twin._claims = Members(claims, "claims", _TIMES, {**aud, "jti": nonce})
        twin._payload = Segment(twin._claims, functools.partial(_open_claims, self._lifetime, self._not_before))
        return twin

    def _signed(self, issued: int, context: CallContext) -> str:
        header = self._header.written(0, context)
        signed = header + b"." + self._payload.written(issued, context)
        return (signed + b"." + base64url(self._signer.sign(signed))).decode("ascii")

    def _not_refused(self, token: str, issued: int, context: CallContext) -> tuple[str, int]:
        """The token, or one that is dated some seconds earlier. RSA and EdDSA sign the same text alike, so a token of
        the same second as the refused one (also after a clock was set back) would be the refused one again."""
        if context.refused not in self._refused:
            self._refused.append(context.refused)
        latest = issued
        while fingerprint(token) in self._refused and latest - issued < self._lifetime // 2:
            issued -= 1
            token = self._signed(issued, context)
        return token, issued

    def __getstate__(self) -> dict[str, object]:
        """Configuration only."""
        return {**vars(self), "_refused": deque(maxlen=_REMEMBERED)}

    def _checked_presign(self, presign: object) -> int:
        if not isinstance(presign, int) or isinstance(presign, bool) or not 0 <= presign <= MOST_PRESIGNED:
            raise ConfigurationError(f"expected a whole number of tokens from 0 to {MOST_PRESIGNED}", field="presign")
        if presign and not self.single_use:
            raise ConfigurationError(
                "only for single_use=True; a token that is used again is at hand anyway", field="presign"
            )
        if presign and not self.local:
            raise ConfigurationError(
                "only for a key that signs here; signatures of a callable may be dear", field="presign"
            )
        if presign and self._lifetime - self._backdate < PRESIGN_LIFETIME:
            raise ConfigurationError(
                f"tokens that live {self._lifetime - self._backdate} s from their signature cannot be signed "
                f"ahead; give them a lifetime of at least {PRESIGN_LIFETIME} s, without backdate",
                field="presign",
            )
        return presign

    def __repr__(self) -> str:
        return f"JWTSource({self._signer.algorithm}, lifetime={self._lifetime}{', single_use=True' * self.single_use})"


_BACKDATE = 5
#: So many refused tokens are remembered, and not signed again.
_REMEMBERED = 16
#: The largest `presign`, and the shortest life in seconds that a token has from its signature to be signed ahead.
MOST_PRESIGNED, PRESIGN_LIFETIME = 1024, 20


def _open_header(algorithm: str, _: int) -> str:
    return f'{{"alg":{to_json(algorithm)}'


def _open_claims(lifetime: int, not_before: bool, issued: int) -> str:
    nbf = f',"nbf":{issued}' if not_before else ""
    return f'{{"iat":{issued},"exp":{issued + lifetime}{nbf}'


def _checked_lifetime(lifetime: float, longest: float | None) -> int:
    if not is_number(lifetime) or lifetime < 1:
        raise ConfigurationError("expected a number of seconds, at least 1", field="lifetime")
    if longest is not None and not is_number(longest):
        raise ConfigurationError("expected a number of seconds, or None", field="max_lifetime")
    if longest is not None and lifetime > longest:
        raise ConfigurationError(f"{lifetime:g} seconds, but the service permits at most {longest:g}", field="lifetime")
    return int(lifetime)


def _checked_backdate(backdate: float | None, lifetime: int) -> int:
    if backdate is None:
        return min(_BACKDATE, lifetime // 10)
    if not is_number(backdate) or not 0 <= backdate < lifetime:
        raise ConfigurationError("expected a number of seconds from 0 to less than the lifetime", field="backdate")
    return int(backdate)
