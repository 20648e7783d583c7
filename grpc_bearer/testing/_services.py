"""The five services on loopback, with credentials made on the fly: for the demo and for end-to-end tests."""

from __future__ import annotations

import json
import os
import secrets
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpc_bearer._base.clock import SYSTEM_CLOCK, Clock
from grpc_bearer.testing._ca import CA
from grpc_bearer.testing._keys import private_pem, throwaway_key
from grpc_bearer.testing._probe import ProbeServer
from grpc_bearer.testing._token_server import TokenServer
from grpc_bearer.testing._verifiers import JWTVerifier, OpaqueVerifier, Verifier

if TYPE_CHECKING:
    from grpc_bearer._auth import BearerAuth

__all__ = ["Service", "Services"]

_PROBE = "grpc_bearer.testing.v1.Probe"
_BITBROKER_ROUTES = {
    f"{_PROBE}/Unary": "coordinator",
    f"{_PROBE}/ClientStream": "contributor",
    f"{_PROBE}/ServerStream": "consumer",
    f"{_PROBE}/BidiStream": "consumer",
}
_SKYKIT_ISSUER = "probe@example.com"


@dataclass(frozen=True, slots=True)
class Service:
    """One of the five, running.

    Attributes:
        name: as its profile is called.
        server: its gRPC server, with the ledger.
        verifier: what that server asks.
        arguments, options: what `profiles.<name>` takes to get in: `profiles.crm(*arguments, **options)`.
        clock: that of the server.
        replace_token: for those with opaque tokens: writes new ones in the files and revokes the old.
        token_server: for Bear.

    ::

        with Services(directory) as services:
            channel = grpc_bearer.secure_channel(
                services["crm"].server.target, services.ca.channel_credentials(), auth=services["crm"].auth()
            )
    """

    name: str
    server: ProbeServer
    verifier: Verifier
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    clock: Clock
    replace_token: Callable[[], None] | None = field(default=None, repr=False)
    token_server: TokenServer | None = None

    def auth(self, **options: Any) -> BearerAuth:
        """The service's profile over its credentials, on the service's clock; `options` are the profile's own."""
        from grpc_bearer import profiles

        profile: Callable[..., BearerAuth] = getattr(profiles, self.name)
        return profile(*self.arguments, **{"clock": self.clock, **self.options, **options})


class Services:
    """All five, each with a gRPC server of its own, one CA and credentials files in a directory.

    A context manager; iterating gives the five `Service` values.

    Args:
        directory: where credentials and `ca.pem` are written.
        clock: for the servers, and for the profiles made by `Service.auth`.
        bear_lifetime: of Bear's tokens, in seconds.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory, Services(directory) as services:
    ...     [service.name for service in services]
    ['bear', 'skykit', 'bitbroker', 'crm', 'openfx']
    """

    def __init__(self, directory: str | Path, clock: Clock = SYSTEM_CLOCK, *, bear_lifetime: int = 3600) -> None:
        self.directory: Path = Path(directory)
        self.clock = clock
        self.ca: CA = CA()
        self.ca_file: Path = self.ca.write(directory)
        self.token_server: TokenServer = TokenServer(self.ca, clock)
        made = (self._bear(bear_lifetime), self._skykit(), self._bitbroker(), self._crm(), self._openfx())
        self._services = {service.name: service for service in made}

    def __repr__(self) -> str:
        return f"<Services in {self.directory}>"

    def __enter__(self) -> Services:
        try:
            self.token_server.start()
            for service in self:
                service.server.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop all of them. Idempotent."""
        for service in self:
            service.server.stop()
        self.token_server.stop()

    def __iter__(self) -> Iterator[Service]:
        return iter(self._services.values())

    def __getitem__(self, name: str) -> Service:
        return self._services[name]

    def _bear(self, lifetime: int) -> Service:
        credentials = {"api_key": str(uuid.uuid4()), "scope": "probe", "secret": str(uuid.uuid4())}
        url = self.token_server.serve_bear(credentials, lifetime=lifetime)
        path = self._write("bear.json", json.dumps(credentials))
        verifier = self.token_server.verifier()
        options = {"url": url, "ca": self.ca_file}
        server = self._server(verifier)
        return Service("bear", server, verifier, (path,), options, self.clock, token_server=self.token_server)

    def _skykit(self) -> Service:
        key = throwaway_key("RS256")
        path = self._write("skykit.pem", private_pem(key))
        verifier = JWTVerifier(
            key.public_key(),
            ["RS256"],
            issuer=_SKYKIT_ISSUER,
            required_claims=("iss", "iat", "exp"),
            max_lifetime=3600,
            clock=self.clock,
        )
        return Service("skykit", self._server(verifier), verifier, (path, _SKYKIT_ISSUER), {}, self.clock)

    def _bitbroker(self) -> Service:
        verifier = OpaqueVerifier(header="x-bbk-auth-token", scheme="")
        files = _TokenFiles(verifier, self._write)
        for role in dict.fromkeys(_BITBROKER_ROUTES.values()):
            files.add(f"bitbroker-{role}.token", [each for each, of in _BITBROKER_ROUTES.items() if of == role])
        roles = {name.removeprefix("bitbroker-").removesuffix(".token"): path for name, path in files.paths.items()}
        options = {**roles, "routes": _BITBROKER_ROUTES}
        return Service("bitbroker", self._server(verifier), verifier, (), options, self.clock, files.replace)

    def _crm(self) -> Service:
        verifier = OpaqueVerifier()
        files = _TokenFiles(verifier, self._write)
        path = files.add("crm.token")
        return Service("crm", self._server(verifier), verifier, (path,), {}, self.clock, files.replace)

    def _openfx(self) -> Service:
        key, name = throwaway_key("ES256", serial=1), f"org/{uuid.uuid4()}/apiKey/{uuid.uuid4()}"
        path = self._write("openfx.json", json.dumps({"name": name, "privateKey": private_pem(key)}))
        verifier = JWTVerifier(
            {name: key.public_key()},
            ["ES256"],
            issuer="openfx",
            audience="developer-api",
            required_claims=("aud", "iss", "sub", "iat", "nbf", "exp"),
            max_lifetime=120,
            require_headers=("kid", "nonce"),
            single_use=True,
            clock=self.clock,
        )
        return Service("openfx", self._server(verifier), verifier, (path,), {}, self.clock)

    def _server(self, verifier: Verifier) -> ProbeServer:
        return ProbeServer(verifier, self.ca, clock=self.clock)

    def _write(self, name: str, text: str) -> Path:
        """Written beside and moved into place, so that a reader never sees half a file."""
        path = self.directory / name
        beside = path.with_suffix(".new")
        beside.touch(mode=0o600)
        beside.write_text(text, "utf-8")
        os.replace(beside, path)
        return path


class _TokenFiles:
    """Opaque tokens in files, and the verifier that knows them."""

    def __init__(self, verifier: OpaqueVerifier, write: Callable[[str, str], Path]) -> None:
        self._verifier = verifier
        self._write = write
        self._current: dict[str, tuple[str, list[str] | None]] = {}
        self.paths: dict[str, Path] = {}

    def add(self, name: str, methods: list[str] | None = None) -> Path:
        token = secrets.token_hex(32)
        self._verifier.accept(token, methods=methods)
        self._current[name] = (token, methods)
        self.paths[name] = self._write(name, f"{token}\n")
        return self.paths[name]

    def replace(self) -> None:
        for name, (token, methods) in list(self._current.items()):
            self.add(name, methods)
            self._verifier.revoke(token)
