"""The servers, with their credentials and files, and what can be done to them. Who did what when is in `faults`."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from grpc_bearer.testing import (
    CA,
    Exchange,
    GoawayProxy,
    JWTVerifier,
    OpaqueVerifier,
    ProbeServer,
    Request,
    Response,
    TokenServer,
    private_pem,
    throwaway_key,
)

#: Tokens of `bear-short` live that long, all others for an hour; in seconds.
SHORT = 12
HOUR = 3600
#: A token is not revoked before it is so old, in seconds: a call is made twice at most, so it may meet one revocation.
_AGED = 1.5
#: A raw file is written in two pieces with so many seconds between: what a writer without care does.
_BETWEEN_WRITES = 0.002
_HALF_WRITTEN = 0.2
#: How long an old API key stays good after its file was replaced, in seconds.
_KEY_OVERLAP = 3.0

OPENFX = {"ours": "org/1/apiKey/ours", "naive": "org/1/apiKey/naive"}


class World:
    """All of it, on loopback. A context manager.

    Args:
        directory: where files are written.
        seed: of what the proxies do.
        bear: names of those who have an API key at the token endpoint, one each.
    """

    def __init__(self, directory: Path, seed: int, bear: Sequence[str]) -> None:
        self.directory = directory
        self.ca = CA()
        self.ca_file = self.ca.write(directory)
        self.tokens = TokenServer(self.ca)
        self.secrets: dict[str, set[str]] = {}  # by owner; whatever must not be seen
        self.tenants = {name: Tenant(self, name, SHORT if "short" in name else HOUR) for name in bear}
        self.bear_url = self.tokens.serve("/authorizeApiAccess", self._authorize)
        self.oauth = OAuthClient(self)
        self.opaque = OpaqueVerifier()
        self.files = {name: TokenFile(self, name) for name in ("crm-raw", "crm-link", "crm-json")}
        self.skykit_key, self.openfx_key = throwaway_key("RS256"), throwaway_key("ES256", serial=1)
        self.own(
            "ours", *private_pem(self.skykit_key).split("\n")[1:-2], *private_pem(self.openfx_key).split("\n")[1:-2]
        )
        self.servers = self._servers()
        rng = random.Random(f"{seed} proxies")
        self.proxies = {
            name: GoawayProxy(self.servers[name], (rng.randint(15, 60) for _ in itertools.count()))
            for name in ("bear", "openfx")
        }
        self.short_tempered = GoawayProxy(self.servers["openfx"], (rng.randint(2, 5) for _ in itertools.count()))

    def _servers(self) -> dict[str, ProbeServer]:
        fx = self.openfx_key.public_key()
        verifiers = {
            "bear": self.tokens.verifier(required_claims=("iat", "exp", "sub")),
            "midway": self.tokens.verifier(required_claims=("iat", "exp", "sub")),
            "opaque": self.opaque,
            "skykit": JWTVerifier(self.skykit_key.public_key(), ["RS256"], issuer="me@example.com", max_lifetime=HOUR),
            "openfx": JWTVerifier(
                dict.fromkeys(OPENFX.values(), fx),
                ["ES256"],
                audience="developer-api",
                max_lifetime=120,
                require_headers=("kid", "nonce"),
                single_use=True,
            ),
        }
        return {name: ProbeServer(verifier, self.ca, workers=48) for name, verifier in verifiers.items()}

    def __enter__(self) -> World:
        self.tokens.start()
        for server in self.servers.values():
            server.start()
        for proxy in (*self.proxies.values(), self.short_tempered):
            proxy.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in (*self.proxies.values(), self.short_tempered):
            proxy.stop()
        for server in self.servers.values():
            server.stop()
        self.tokens.stop()

    def own(self, owner: str, *texts: str) -> None:
        """These are somebody's secrets."""
        self.secrets.setdefault(owner, set()).update(texts)

    def _authorize(self, request: Request) -> Response:
        """Bear's endpoint, for all of its tenants and their keys of the moment."""
        try:
            offered = json.loads(request.body)
        except ValueError:
            return Response(400, b"no JSON")
        for tenant in self.tenants.values():
            if offered in tenant.keys:
                token = self.tokens.mint(tenant.name, lifetime=tenant.lifetime)
                return Response(200, token.encode(), credential=tenant.name, token=token)
        return Response(401, b"invalid credentials")

    def asked(self, exchange: Exchange) -> str:
        """Whose request to the token endpoint it was, answered or not."""
        if exchange.path != "/authorizeApiAccess":
            return "oauth"
        try:
            return str(json.loads(exchange.body)["scope"])
        except ValueError:
            return ""

    def current(self, name: str) -> tuple[str, str] | None:
        """The token that somebody's calls go out with, and the server that accepts it; `None` if it is too young."""
        if name == "skykit":
            return self._latest("skykit", lambda attempt: True)
        site = "midway" if name == "midway" else "bear"
        aged = 0.0 if name.startswith("control") else _AGED
        return self._latest(site, lambda attempt: attempt.claims.get("sub") == name, aged)

    def _latest(self, site: str, whose: Callable[[Any], bool], aged: float = _AGED) -> tuple[str, str] | None:
        attempts = [each for each in self.servers[site].ledger.attempts if whose(each)]
        if not attempts or not attempts[-1].accepted or attempts[-1].token is None:
            return None
        token: str = attempts[-1].token
        first = next(each.received_at for each in attempts if each.token == token)
        return (token, site) if first < time.time() - aged else None

    def revoke(self, name: str) -> str | None:
        """Revoke somebody's token; the token, if there was one to revoke."""
        found = self.current(name)
        if found is None:
            return None
        token, site = found
        verifier: Any = self.servers[site].verifier
        verifier.revoke(token)
        return token

    def restart(self, name: str, down: float) -> None:
        """Stop, with time for calls in flight, stay away, and come back on the same port."""
        self.servers[name].stop(grace=1.0)
        time.sleep(down)
        self.servers[name].start()

    def credentials(self) -> grpc.ChannelCredentials:
        return self.ca.channel_credentials()


class Tenant:
    """Somebody with an API key at Bear's endpoint, in a file."""

    def __init__(self, world: World, name: str, lifetime: int) -> None:
        self._world = world
        self.name = name
        self.lifetime = lifetime
        self.path = world.directory / f"{name}.json"
        self.keys: list[dict[str, str]] = []
        self.rotate()

    @property
    def owner(self) -> str:
        return self.name.removeprefix("control ") if self.name.startswith("control ") else "ours"

    def rotate(self) -> None:
        """A new API key in the file; the old one is good for a while."""
        key = {"api_key": secrets.token_hex(16), "scope": self.name, "secret": secrets.token_hex(32)}
        self._world.own(self.owner, key["api_key"], key["secret"])
        self.keys = [*self.keys, key]
        replace(self.path, json.dumps(key))
        if len(self.keys) > 1:
            later(_KEY_OVERLAP, lambda: self.keys.pop(0))


class OAuthClient:
    """The one client of the OAuth endpoint; its secret is in a file."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.path = world.directory / "oauth.secret"
        self._endpoints: list[Callable[[Request], Response]] = []
        self.rotate()
        self.url = world.tokens.serve("/oauth2/token", self._answer)

    def rotate(self) -> None:
        secret = secrets.token_hex(32)
        basic = base64.b64encode(f"oauth:{secret}".encode()).decode()
        self._world.own("ours", secret, basic)
        path = "/made" + secrets.token_hex(4)
        self._world.tokens.serve_client_credentials("oauth", secret, path=path, lifetime=HOUR)
        self._endpoints = [*self._endpoints, self._world.tokens._listener._routes[path]]
        replace(self.path, secret + "\n")
        if len(self._endpoints) > 1:
            later(_KEY_OVERLAP, lambda: self._endpoints.pop(0))

    def _answer(self, request: Request) -> Response:
        answers = [endpoint(request) for endpoint in reversed(self._endpoints)]
        return next((answer for answer in answers if answer.status == 200), answers[0])


class TokenFile:
    """An opaque token in a file that somebody replaces, in every way that there is."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name
        self.token = ""
        self.path = world.directory / name
        self._turn = threading.Lock()
        if name == "crm-link":  # as Kubernetes mounts secrets: link to a link to a folder of one version
            self.path.symlink_to(world.directory / "..data" / "token")
        self.change("symlink swap")

    def text(self, token: str) -> str:
        return json.dumps({"about": "x" * 40, "data": {"token": token}}) if self.name == "crm-json" else f"{token}\n"

    def _new(self) -> str:
        token = secrets.token_hex(24)
        self._world.own("ours", token)
        self._world.opaque.accept(token)
        return token

    def change(self, how: str) -> None:
        """Accept a new token, write it, revoke the old one: at each moment one of the two is good."""
        with self._turn:
            old, new = [self.token], self._new()
            if self.name == "crm-link":
                self._swap(new)
            elif how == "same second":
                old.append(between := self._new())
                stamp = time.time_ns()
                for token in (between, new):
                    replace(self.path, self.text(token))
                    os.utime(self.path, ns=(stamp, stamp))
            elif how == "empty":
                self.path.write_text("")
                time.sleep(_HALF_WRITTEN)
                self.path.write_text(self.text(new))
            elif how in ("half", "two writes"):
                self._in_pieces(self.text(new))
            else:
                replace(self.path, self.text(new))
            self.token = new
            self._world.opaque.revoke(*old)
            if old != [""]:
                time.sleep(_AGED)  # before the next change, though a busy machine may be late with this one

    def _in_pieces(self, text: str) -> None:
        with self.path.open("w") as file:
            for piece in (text[: len(text) // 2], text[len(text) // 2 :]):
                file.write(piece)
                file.flush()
                time.sleep(_HALF_WRITTEN if self.name == "crm-json" else _BETWEEN_WRITES)

    def _swap(self, token: str) -> None:
        version = self._world.directory / f"..{time.time_ns()}"
        version.mkdir()
        (version / "token").write_text(self.text(token))
        beside = self._world.directory / "..new"
        beside.symlink_to(version)
        os.replace(beside, self._world.directory / "..data")


class SteppingClock:
    """The system's clock, with a wall time that somebody moves."""

    def __init__(self) -> None:
        from grpc_bearer._base.clock import SYSTEM_CLOCK

        self.offset = 0.0
        self.monotonic = SYSTEM_CLOCK.monotonic
        self.call_later = SYSTEM_CLOCK.call_later

    def time(self) -> float:
        return time.time() + self.offset


def replace(path: Path, text: str) -> None:
    """Written beside and moved into place."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    os.replace(beside, path)


def later(seconds: float, act: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, act)
    timer.daemon = True
    timer.start()


def all_tokens(world: World) -> Iterator[tuple[str, str]]:
    """Every token that the servers saw or gave out, with its owner."""
    owners = {tenant.name: tenant.owner for tenant in world.tenants.values()}
    for exchange in world.tokens.exchanges:
        if exchange.token is not None:
            yield owners.get(world.asked(exchange), "ours"), exchange.token
    for site in ("skykit", "openfx"):
        for attempt in world.servers[site].ledger:
            if attempt.token is not None:
                yield "naive" if attempt.jwt_header.get("kid") == OPENFX["naive"] else "ours", attempt.token
