"""An HTTPS server on loopback that gives out tokens: Bear's endpoint, OAuth's, or any other."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from grpc_bearer._base.clock import SYSTEM_CLOCK, Clock
from grpc_bearer.testing._ca import CA
from grpc_bearer.testing._http import Exchange, HTTPFault, Listener, Request, Response
from grpc_bearer.testing._keys import throwaway_key
from grpc_bearer.testing._oauth import AUTH_METHODS, ClientCredentialsEndpoint
from grpc_bearer.testing._verifiers import JWTVerifier

__all__ = ["TokenServer"]

# What Bear's document calls the three fields that must all match.
_BEAR_FIELDS = ("api_key", "scope", "secret")


class TokenServer:
    """A token endpoint over real TLS. It keeps a list of its exchanges, and fails on demand.

    Its port is taken when it is built. A context manager; `stop` may be called twice, and `start` after it listens on
    the same port again, with everything it served before. Its exchanges have secrets in
    them, so it is for tests alone.

    Args:
        ca: issues its certificate; `None` for plain `http://`, to show that a client refuses it.
        clock: for `iat`, `exp`, the `Date` header and the exchanges.
        algorithm: of the tokens that it signs.
        key: a private key of `cryptography` to sign with; a throw-away one if `None`.

    >>> ca = CA()
    >>> with TokenServer(ca) as tokens:
    ...     url = tokens.serve_bear({"api_key": "k", "scope": "s", "secret": "x"}, lifetime=60)
    >>> url.startswith("https://127.0.0.1:"), tokens.exchanges
    (True, [])
    """

    def __init__(
        self, ca: CA | None, clock: Clock = SYSTEM_CLOCK, *, algorithm: str = "ES256", key: Any = None
    ) -> None:
        self.ca = ca
        self.clock = clock
        self.algorithm = algorithm
        self._key = key or throwaway_key(algorithm)
        self._listener = Listener(None if ca is None else ca.server_context(), clock)
        self._lock = threading.Lock()
        self._issued: list[str] = []
        self._verifiers: list[JWTVerifier] = []

    def __repr__(self) -> str:
        return f"<TokenServer {self.url('/')}>"

    def __enter__(self) -> TokenServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> TokenServer:
        """Listen. Does nothing if it does already."""
        self._listener.start()
        return self

    def stop(self) -> None:
        """Stop listening, hang up on everybody, and let go of requests that hang. Idempotent."""
        self._listener.stop()

    def url(self, path: str) -> str:
        """The address of a path, known before it is started."""
        return f"{'http' if self.ca is None else 'https'}://127.0.0.1:{self._listener.port}{path}"

    @property
    def exchanges(self) -> list[Exchange]:
        """Every request so far, in the order of arrival; those that hang included."""
        return self._listener.exchanges

    @property
    def issued(self) -> list[str]:
        """Every token so far."""
        with self._lock:
            return list(self._issued)

    def wait_for(self, count: int, timeout: float = 10.0) -> bool:
        """Wait until that many requests have arrived; false if `timeout` seconds were not enough."""
        return self._listener.wait_for(count, timeout)

    def fail_with(self, fault: HTTPFault, times: int | None = None) -> None:
        """Commit the fault on the next `times` requests, or on all until `heal()`."""
        if times is None:
            self._listener.stand(fault)
        else:
            self._listener.queue(*[fault] * times)

    def script(self, *faults: HTTPFault | None) -> None:
        """Let the next requests meet these faults, one each and in order; `None` spares one."""
        self._listener.queue(*faults)

    def heal(self) -> None:
        """No more faults, and those who hang are let go."""
        self._listener.heal()

    def serve(self, path: str, handler: Callable[[Request], Response]) -> str:
        """Serve a path by a function of your own; the path's URL."""
        self._listener.route(path, handler)
        return self.url(path)

    def serve_bear(
        self,
        credentials: Mapping[str, str] | Sequence[Mapping[str, str]],
        *,
        path: str = "/authorizeApiAccess",
        lifetime: int = 3600,
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """Serve Bear's endpoint: POST of exactly `api_key`, `scope` and `secret`, answered by the JWT as text.

        Args:
            credentials: the key, or keys, that are good.
            path: where.
            lifetime: of the tokens, in seconds.
            claims: more claims for the tokens.

        Returns:
            The endpoint's URL.
        """
        known = [dict(credentials)] if isinstance(credentials, Mapping) else [dict(each) for each in credentials]

        def handler(request: Request) -> Response:
            offered = _bear_credentials(request)
            if isinstance(offered, Response):
                return offered
            if offered not in known:
                return Response(401, b"invalid credentials", credential=offered["api_key"])
            token = self.mint(offered["api_key"], lifetime=lifetime, scope=offered["scope"], **dict(claims or {}))
            return Response(200, token.encode(), credential=offered["api_key"], token=token)

        return self.serve(path, handler)

    def serve_client_credentials(
        self,
        client_id: str,
        client_secret: str | None = None,
        *,
        public_key: Any = None,
        kid: str | None = None,
        algorithms: Sequence[str] = ("RS256", "PS256", "ES256", "EdDSA"),
        methods: Collection[str] = AUTH_METHODS,
        audience: str | None = None,
        scopes: Collection[str] | None = None,
        path: str = "/oauth2/token",
        lifetime: int = 3600,
    ) -> str:
        """Serve an OAuth 2.0 token endpoint for one client, by `client_secret` or by its `public_key`, or both.

        Args:
            client_id, client_secret: as registered; Basic must form-encode both (RFC 6749 section 2.3.1).
            public_key: for `private_key_jwt` (RFC 7523); an assertion whose `jti` was seen before is refused.
            kid: what the assertion's header must say, if not `None`.
            algorithms: those accepted for assertions.
            methods: those enabled, of `client_secret_basic`, `client_secret_post` and `private_key_jwt`.
            audience: what assertions must be for; the endpoint's URL if `None`.
            scopes: those that may be asked for; any if `None`.
            path: where.
            lifetime: of the tokens, in seconds.

        Returns:
            The endpoint's URL.
        """
        endpoint = ClientCredentialsEndpoint(
            client_id=client_id,
            client_secret=client_secret,
            public_key=public_key,
            kid=kid,
            algorithms=algorithms,
            methods=methods,
            audiences=[audience or self.url(path)],
            scopes=scopes,
            lifetime=lifetime,
            clock=self.clock,
            mint=lambda scope: self.mint(client_id, lifetime=lifetime, **({"scope": scope} if scope else {})),
        )
        return self.serve(path, endpoint)

    def mint(self, subject: str, *, lifetime: int = 3600, **claims: Any) -> str:
        """Sign a token as the endpoints do, each with a `jti` of its own."""
        import jwt

        now = int(self.clock.time())
        body = {"sub": subject, "iat": now, "exp": now + lifetime, "jti": uuid.uuid4().hex, **claims}
        token = jwt.encode(body, self._key, algorithm=self.algorithm)
        with self._lock:
            self._issued.append(token)
        return token

    @property
    def public_key(self) -> Any:
        """What its tokens are to be verified with."""
        return self._key.public_key()

    def verifier(self, **options: Any) -> JWTVerifier:
        """A `JWTVerifier` for its tokens, which also hears of revocations; options are those of `JWTVerifier`."""
        verifier = JWTVerifier(self.public_key, [self.algorithm], **{"clock": self.clock, **options})
        with self._lock:
            self._verifiers.append(verifier)
        return verifier

    def revoke(self, *tokens: str) -> None:
        """Have its verifiers refuse these tokens from now on."""
        with self._lock:
            verifiers = list(self._verifiers)
        for verifier in verifiers:
            verifier.revoke(*tokens)


def _bear_credentials(request: Request) -> dict[str, str] | Response:
    """The three fields, or the answer to one who did not send exactly these."""
    if request.method != "POST":
        return Response(405, b"want POST", {"Allow": "POST"})
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        return Response(415, b"want application/json")
    try:
        offered = json.loads(request.body)
    except ValueError:
        return Response(400, b"no JSON")
    if not isinstance(offered, dict) or sorted(offered) != list(_BEAR_FIELDS):
        return Response(400, b"want exactly api_key, scope and secret")
    return offered
