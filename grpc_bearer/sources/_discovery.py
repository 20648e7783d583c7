"""Where an authorization server has its endpoints: as they were given, or as its own metadata says.

The metadata is at a well-known place below the issuer (OpenID Connect Discovery 1.0 section 4, RFC 8414 section 3), and
must be of the very issuer that was asked for, or another server could send our credential anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from grpc_bearer._base.clock import SYSTEM_CLOCK
from grpc_bearer._base.token import Secret
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError, TokenError, TokenFormatError, TokenRejectedError
from grpc_bearer.sources._http import Endpoint, File
from grpc_bearer.sources._parse import Answer, decoded_text, json_document, status_error

#: The endpoint that all grants ask, as metadata calls it.
TOKEN_ENDPOINT = "token_endpoint"  # noqa: S105  # a name, no secret
_HEADERS = {"accept": Secret("application/json", "accept")}
_OPENID, _OAUTH = "/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"


class AuthorizationServer:
    """The endpoints of one authorization server, each with its own connections.

    Args:
        issuer: the server's name, an `https://` address; its metadata is asked for when an endpoint is first needed,
            and is kept. `None`: all endpoints are given.
        given: the addresses that are known, under their names in the metadata; each with the argument it came from.
        timeout, max_bytes, ca, cert, allow_http_loopback: as for `Endpoint`.

    Raises:
        ConfigurationError: an address is none, or there is neither an issuer nor a token endpoint.
    """

    def __init__(
        self,
        issuer: str | None,
        given: Mapping[str, tuple[str, str | None]],
        *,
        timeout: float,
        max_bytes: int,
        ca: File | None,
        cert: tuple[File, File] | None,
        allow_http_loopback: bool,
    ) -> None:
        self._how: dict[str, Any] = {
            "timeout": timeout,
            "max_bytes": max_bytes,
            "ca": ca,
            "cert": cert,
            "allow_http_loopback": allow_http_loopback,
        }
        for field, url in given.values():
            if url is None and issuer is None:
                raise ConfigurationError("missing; or give issuer, whose metadata tells it", field=field)
        self._given = {
            name: Endpoint(url, field=field, **self._how)  # type: ignore[arg-type]  # `Endpoint` refuses what is no str
            for name, (field, url) in given.items()
            if url is not None or issuer is None
        }
        if issuer is not None and TOKEN_ENDPOINT in self._given:
            raise ConfigurationError("given beside token_url; leave one of them out", field="issuer")
        self._issuer = issuer
        self._places = [] if issuer is None else _places(issuer, self._how)
        self._found: dict[str, Endpoint] = {}
        self._metadata: dict[str, Any] | None = None
        first = self._places[0] if self._places else self._given[TOKEN_ENDPOINT]
        #: What it is called in messages.
        self.host: str = first.host
        #: What tells it from others.
        self.name: str = issuer or self._given[TOKEN_ENDPOINT].url

    def __getstate__(self) -> dict[str, object]:
        """Configuration only."""
        return {**vars(self), "_found": {}, "_metadata": None}

    def endpoint(self, name: str = TOKEN_ENDPOINT) -> Endpoint:
        """The endpoint of this name.

        Raises:
            TokenUnavailableError: the metadata cannot be had now.
            TokenRejectedError: there is none, or it is another issuer's.
            TokenFormatError: what is there is no metadata, or does not name the endpoint.
        """
        endpoint = self._given.get(name) or self._found.get(name)
        if endpoint is None:
            if self._metadata is None:
                self._metadata = self._read()
            endpoint = self._found[name] = self._made(name, self._metadata)
        return endpoint

    def forget(self) -> None:
        """Read the metadata again next time: what it named does not answer."""
        self._metadata, found, self._found = None, self._found, {}
        for endpoint in found.values():
            endpoint.close()

    def close(self) -> None:
        """Close the connections."""
        for endpoint in (*self._places, *self._given.values(), *self._found.values()):
            endpoint.close()

    def _read(self) -> dict[str, Any]:
        """The metadata, from the first place that has it."""
        problems: list[TokenError] = []
        for place in self._places:
            answer = place.send("GET", _HEADERS, None)
            try:
                return _metadata(answer, self.name, f"{self.host}: issuer: its metadata ({_path(place)})")
            except (TokenFormatError, TokenRejectedError) as error:
                problems.append(error)
        # What was found and is wrong says more than what was not found.
        raise next((error for error in problems if error._suspect == _WRONG), problems[0])

    def _made(self, name: str, metadata: Mapping[str, Any]) -> Endpoint:
        where = f"{self.host}: issuer: its metadata"
        aliases = metadata.get("mtls_endpoint_aliases")  # RFC 8705 section 5: for those who show a certificate
        named = aliases if self._how["cert"] and isinstance(aliases, dict) and name in aliases else metadata
        if name not in named:
            raise TokenFormatError(f"{where}: names no {name}", suspect="endpoint")
        with translating(
            ConfigurationError, to=lambda error: TokenFormatError(f"{where}: {error}", suspect="endpoint")
        ):
            return Endpoint(named[name], field=name, **self._how)


_WRONG = "endpoint"


def _places(issuer: str, how: Mapping[str, Any]) -> list[Endpoint]:
    Endpoint(issuer, field="issuer", **how)
    parts = urlsplit(issuer)
    if parts.query:
        raise ConfigurationError("has a '?' part, which an issuer never has (RFC 8414 section 2)", field="issuer")
    for known in (_OPENID, _OAUTH):
        if known in parts.path:
            raise ConfigurationError(f"give the issuer itself, without {known}", field="issuer")
    base, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    # OpenID Connect appends to the path, RFC 8414 inserts before it.
    found = (f"{base}{path}{_OPENID}", f"{base}{_OAUTH}{path}")
    return [Endpoint(url, field="issuer", **how) for url in found]


def _metadata(answer: Answer, issuer: str, where: str) -> dict[str, Any]:
    """The metadata in an answer, which must be the issuer's own."""
    refused = status_error(answer, where, SYSTEM_CLOCK.time())
    if refused is not None and (refused.retryable or answer.status < 400):
        raise refused
    if refused is not None:  # no credential was shown, so none was refused
        raise TokenRejectedError(f"{where}: answered {answer.status}", suspect="" if answer.status == 404 else _WRONG)
    document = json_document(decoded_text(answer, where), where)
    if not isinstance(document, dict) or not isinstance(document.get("issuer"), str):
        raise TokenFormatError(f"{where}: JSON without the field 'issuer'", suspect=_WRONG)
    # A slash at the end is what people get wrong, and no two servers differ in it alone.
    if document["issuer"].rstrip("/") != issuer.rstrip("/"):
        raise TokenRejectedError(
            f"{where}: is of another issuer than the one asked for; give issuer= as it is written there",
            suspect=_WRONG,
        )
    return document


def _path(place: Endpoint) -> str:
    return urlsplit(place.url).path
