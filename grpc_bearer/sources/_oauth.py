"""OAuth 2.0 for all grants: one request builder, one reader of answers (RFC 6749 sections 5.1 and 5.2).

Three values make a request:

* a grant: the form parameters of one request, as a mapping. A parameter is a text, several texts (sent under one name
  each), or a `Given`: a token that is read, asked for or signed when the request is made. From its `Given` members
  follows all else: whether a refused request is worth another one, whose token it is, whether it pickles.
* a `ClientAuthentication`: who asks, the same for all grants.
* an `AuthorizationServer`: where, by `token_url=` or by `issuer=`.

How a grant is written
----------------------

A source with one request for a token subclasses `OAuthSource`, and gives it the mapping::

    super().__init__({"grant_type": "…", "assertion": given_assertion("assertion", assertion)}, client, lifetime)

`client` is an `OAuthClient`. A source with more steps has its own `fetch`, and asks that client itself, as often as it
likes: `client.ask(context, {...})` sends one grant (to `at="device_authorization_endpoint"`, if that is said, with the
same client authentication) and gives a `Reply`. `reply.code` is the registered error code in it, such as
`"authorization_pending"`; `reply.document()` is the JSON object of a success, and raises the error of a refusal;
`reply.token(lifetime)` is the token. The addresses of more endpoints go into `OAuthClient(endpoints=)`; with `issuer=`
they are found as the token endpoint is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, TypeAlias, TypedDict
from urllib.parse import urlencode

from grpc_bearer._base.arguments import seconds_or_none
from grpc_bearer._base.clock_skew import suspects
from grpc_bearer._base.identity import Identity
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Secret, Token
from grpc_bearer.errors import ConfigurationError, TokenError, TokenUnavailableError
from grpc_bearer.sources._client_auth import AuthMethod, ClientAuthentication, client_authentication
from grpc_bearer.sources._discovery import TOKEN_ENDPOINT, AuthorizationServer
from grpc_bearer.sources._form import checked_extra
from grpc_bearer.sources._given import Given, SecretGiven, TokenGiven
from grpc_bearer.sources._http import MAX_BYTES, NEEDS, TIMEOUT, File
from grpc_bearer.sources._parse import CREDENTIAL_REFUSED, SUCCESS, Answer, learn_time, oauth_code
from grpc_bearer.sources._reply import Reply
from grpc_bearer.sources._secrets import SecretLike, is_fixed, revealed

if TYPE_CHECKING:
    from grpc_bearer._base.signing import KeyLike

#: The form parameters of one request; see the module.
Grant: TypeAlias = Mapping[str, "str | tuple[str, ...] | Given"]

# The server's own words that no other credential would mend.
_NOT_OF_CREDENTIALS = ("invalid_scope", "invalid_target", "unsupported_grant_type")
_GONE = (301, 302, 303, 307, 308, 404, 410)


class ClientOptions(TypedDict, total=False):
    """The arguments by name that all OAuth sources take; see `OAuthClient`."""

    issuer: str | None
    auth_method: AuthMethod | None
    client_assertion: TokenGiven | None
    key: KeyLike | None
    algorithm: str | None
    passphrase: str | bytes | PathLike[str] | None
    key_id: str | None
    assertion_audience: str | None
    extra: Mapping[str, SecretLike] | None
    ca: File | None
    cert: tuple[File, File] | None
    timeout: float
    max_bytes: int
    allow_http_loopback: bool


class OAuthClient:
    """One client of one authorization server.

    Args:
        token_url: the token endpoint, `https://`.
        client_id: as registered.
        client_secret: the secret itself, a path (the file is read for each request), or a function that returns it.
        endpoints: more endpoints, under their names in RFC 8414, each with the argument that it came from.
        public: whether a client may authenticate with nothing.
        others: the arguments of `ClientOptions`; `ClientCredentialsSource` tells what they mean.

    Raises:
        ConfigurationError: an argument is wrong; it is named, its value is not shown.
        SigningError: the key cannot be used.
    """

    def __init__(
        self,
        token_url: str | None,
        client_id: str | None,
        client_secret: SecretGiven | None,
        *,
        endpoints: Mapping[str, tuple[str, str | None]] | None = None,
        public: bool = True,
        issuer: str | None = None,
        auth_method: AuthMethod | None = None,
        client_assertion: TokenGiven | None = None,
        key: KeyLike | None = None,
        algorithm: str | None = None,
        passphrase: str | bytes | PathLike[str] | None = None,
        key_id: str | None = None,
        assertion_audience: str | None = None,
        extra: Mapping[str, SecretLike] | None = None,
        ca: File | None = None,
        cert: tuple[File, File] | None = None,
        timeout: float = TIMEOUT,
        max_bytes: int = MAX_BYTES,
        allow_http_loopback: bool = False,
    ) -> None:
        self.server: AuthorizationServer = AuthorizationServer(
            issuer,
            {TOKEN_ENDPOINT: ("token_url", token_url), **(endpoints or {})},
            timeout=timeout,
            max_bytes=max_bytes,
            ca=ca,
            cert=cert,
            allow_http_loopback=allow_http_loopback,
        )
        self.authentication: ClientAuthentication = client_authentication(
            auth_method,
            client_id,
            client_secret,
            client_assertion,
            key,
            cert,
            audience=self.server.name,
            public=public,
            algorithm=algorithm,
            passphrase=passphrase,
            key_id=key_id,
            assertion_audience=assertion_audience,
        )
        self.extra: dict[str, Secret] = checked_extra(extra)

    def ask(self, context: CallContext, grant: Grant, *, at: str = TOKEN_ENDPOINT) -> Reply:
        """The server's answer to a grant, whatever it is.

        A refused credential is tried again, once, if there is another one in its place by now. One that is signed here
        is signed again, at most twice, if the server's `Date` says that our clock is off: once to get a second answer
        that confirms it, and once by the corrected clock.

        Raises:
            TokenUnavailableError: no answer in time, or no connection.
            TokenError: something to be shown is not there, or the endpoint was not found.
            SigningError: the key cannot be used.
        """
        endpoint = self.server.endpoint(at)
        for attempt in range(3):
            now, shown = context.clock.time(), self._shown(context, grant)
            try:
                answer = endpoint.send("POST", *self._request(grant, shown))
            except TokenUnavailableError:
                self.server.forget()
                raise
            corrected = endpoint.secure and learn_time(context.clock, answer)
            if attempt == 2 or answer.status in SUCCESS:
                break
            clock_was_off = self._signs(grant) and (corrected or suspects(context.clock))
            replaced = (clock_was_off or not attempt) and self._replaced(context, grant, shown, answer)
            if not (clock_was_off or replaced):
                break
        if answer.status in _GONE:
            self.server.forget()
        return Reply(answer, endpoint.host, context.clock.time() - answer.elapsed if corrected else now)

    def givens(self, grant: Grant) -> Iterator[Given]:
        """All that is shown in a request."""
        if self.authentication.proof is not None:
            yield self.authentication.proof
        yield from (value for value in grant.values() if isinstance(value, Given))

    def _signs(self, grant: Grant) -> bool:
        return any(given.signs for given in self.givens(grant))

    def _shown(self, context: CallContext, grant: Grant) -> _Shown:
        proof = self.authentication.proof
        return _Shown(
            "" if proof is None else proof.shown(context),
            {name: value.shown(context) for name, value in grant.items() if isinstance(value, Given)},
            {name: revealed(value) for name, value in self.extra.items()},
        )

    def _replaced(self, context: CallContext, grant: Grant, shown: _Shown, answer: Answer) -> bool:
        """Whether there is something else to show by now than what this answer has refused."""
        code = oauth_code(answer)
        if answer.status not in CREDENTIAL_REFUSED or code in _NOT_OF_CREDENTIALS:
            return False
        proof = self.authentication.proof
        pairs = [] if proof is None or code == "invalid_grant" else [(proof, shown.proof)]
        if code != "invalid_client":
            pairs += [(value, shown.grant[name]) for name, value in grant.items() if isinstance(value, Given)]
        replaced = [given.replaced(context, text) for given, text in pairs]
        return any(replaced) or any(revealed(value) != shown.extra[name] for name, value in self.extra.items())

    def _request(self, grant: Grant, shown: _Shown) -> tuple[dict[str, Secret], bytes]:
        """Headers and body."""
        headers, form = self.authentication.applied(shown.proof)
        plain = {name: value for name, value in grant.items() if not isinstance(value, Given)}
        parameters = {**shown.extra, **plain, **shown.grant, **form}
        return {**_HEADERS, **headers}, urlencode(parameters, doseq=True, errors="replace").encode()

    def identity(self, grant: Grant) -> Identity | None:
        """The client, what it asks for, and its credentials if they are strong ones."""
        try:
            more = {name: revealed(value) for name, value in sorted(self.extra.items())}
        except TokenError:  # a file of it is not there yet
            return None
        proof = self.authentication.proof
        proven = None if proof is None else proof.identity()
        named = {name: value.identity() if isinstance(value, Given) else value for name, value in sorted(grant.items())}
        found = [value for value in named.values() if isinstance(value, Identity)]
        secrets = [each.secret for each in (proven, *found) if each is not None and each.secret is not None]
        secret = b"".join([*secrets, json.dumps(more).encode()]) if secrets else None
        # A client id tells who the client is. Whose token is shown, only a source can tell.
        client = self.authentication.client_id or (proven and proven.about)
        whose = [value.about if isinstance(value, Identity) else value for value in named.values()]
        if client is None and self.authentication.method != "none":
            whose.append(None)
        if None in whose or (more and secret is None):
            return None if secret is None else Identity(None, secret)
        about = (self.server.name, client, self.authentication.method, tuple(named), *whose)
        return Identity(about, secret)  # type: ignore[arg-type]  # no member is an Identity any more

    def close(self) -> None:
        """Close the kept-alive connections."""
        self.server.close()


@dataclass(frozen=True, slots=True, repr=False)
class _Shown:
    """The secrets of one request."""

    proof: str
    grant: dict[str, str]
    extra: dict[str, str]


_HEADERS = {
    "accept": Secret("application/json", "accept"),
    "content-type": Secret("application/x-www-form-urlencoded", "content-type"),
}


class OAuthSource(Source):
    """A source that gets its token by one grant."""

    needs: tuple[str, ...] = NEEDS

    def __init__(self, grant: Grant, client: OAuthClient, lifetime: float | None) -> None:
        if both := sorted(client.extra.keys() & grant.keys()):
            raise ConfigurationError(f"{both[0]} has an argument of its own", field="extra")
        self._client = client
        self._grant = grant
        self._lifetime = seconds_or_none("lifetime", lifetime)
        givens = list(client.givens(grant))
        fixed = all(given.fixed for given in givens) and all(map(is_fixed, client.extra.values()))
        self.replaceable: bool = not fixed
        self.needs = (*NEEDS, *(name for given in givens for name in given.needs))
        keys = tuple(given.key for given in givens if given.key is not None)
        if keys:
            vars(self)["key"] = partial(_keys, keys)  # only then: the engine is faster without

    def __repr__(self) -> str:
        method = self._client.authentication.method
        return f"{type(self).__name__}(host={self._client.server.host!r}, auth_method={method!r})"

    def fetch(self, context: CallContext) -> Token:
        """Ask the authorization server for a token.

        Raises:
            TokenUnavailableError: no answer in time, no connection, status 408, 429 or 5xx, `temporarily_unavailable`.
            TokenRejectedError: the server said no; its error code is named if it is a registered one.
            TokenFormatError: the answer is no token of type Bearer.
            SigningError: the key cannot be used.
        """
        return self._client.ask(context, self._grant).token(self._lifetime)

    def identity(self) -> Identity | None:
        """The client, what it asks for, and its credentials if they are strong ones."""
        return self._client.identity(self._grant)

    def refuse_wait(self) -> None:
        for given in self._client.givens(self._grant):
            given.refuse_wait()

    def close(self) -> None:
        """Close the kept-alive connections, and the sources of what is shown."""
        for given in self._client.givens(self._grant):
            given.close()
        self._client.close()


def _keys(keys: tuple[Callable[[CallContext], Hashable], ...], context: CallContext) -> Hashable:
    return tuple(key(context) for key in keys)
