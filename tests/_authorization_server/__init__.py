"""A real authorization server: npm's `oidc-provider` (server.js), on loopback over real TLS.

It needs node 20 or newer, and its packages in `node_modules/` here, where `make test` has npm put them. Without either,
tests that ask for it skip, with the reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from grpc_bearer.testing import CA, Certificate, Refusal, Verdict, private_pem, throwaway_key

HERE = Path(__file__).parent
NODE = shutil.which("node")
_OLDEST = 20

_GRANT = "urn:ietf:params:oauth:grant-type:"
EXCHANGE, JWT_BEARER, DEVICE = _GRANT + "token-exchange", _GRANT + "jwt-bearer", _GRANT + "device_code"
#: The APIs that tokens may be for, each with its scopes.
ORDERS, FLEET = "https://orders.example.com/api", "https://fleet.example.com/"
RESOURCES = {ORDERS: "read write", FLEET: "read steer"}
#: With characters that arrive wrong unless they are form-encoded (RFC 6749 section 2.3.1).
SECRET = "hunter2/+%:= &"
#: The `kid` of the platform's key.
PLATFORM = "platform"
#: In the certificate of the client `cert`.
CERTIFIED = "robot.example.com"


class AuthorizationServer:
    """One that runs, with the clients `basic`, `post`, `key`, `federated`, `cert`, `public` and `api`.

    Attributes:
        ca: issues the certificates, its own and that of the client `cert`.
        roots: the file with its root.
        files: those of the client `cert`, certificate and key.
        key: signs the assertions of the client `key`.
        platform: signs what a platform gives to its workloads: assertions of the client `federated`, tokens to be
            exchanged.
        issuer: its name; `{issuer}/openid` and `{issuer}/oauth` are two more, whose metadata is in one place only.
    """

    def __init__(self, folder: Path) -> None:
        _check_installed()
        self._folder = folder
        self.ca = CA()
        self.roots = self.ca.write(folder)
        self.key, self.platform = throwaway_key("ES256"), throwaway_key("ES256")
        self.certificate: Certificate = self.ca.issue(CERTIFIED)
        key, chain = self.certificate.write(folder)
        self.files = chain, key
        own = self.ca.issue()
        config = {
            "key": own.key_pem.decode(),
            "cert": own.chain_pem.decode(),
            "ca": self.ca.pem.decode(),
            "clients": [*_clients(self.key, self.platform)],
            "platform": _jwks(self.platform, PLATFORM),
            "resources": RESOURCES,
        }
        (folder / "config.json").write_text(json.dumps(config), "utf-8")
        self._process: subprocess.Popen[str] | None = None
        self.issuer, self.mtls = "", ""

    def start(self) -> None:
        with (self._folder / "log.txt").open("w") as log:
            self._process = subprocess.Popen(
                [str(NODE), str(HERE / "server.js"), str(self._folder / "config.json")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        for line in self._process.stdout:  # its notices come first
            if line.startswith("{"):
                ports = json.loads(line)
                break
        else:
            raise AssertionError((self._folder / "log.txt").read_text())
        # What else it writes is kept by the pipe, which holds more than it ever says.
        self.issuer = f"https://localhost:{ports['port']}"
        self.mtls = f"https://localhost:{ports['mtls']}"

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def url(self, path: str) -> str:
        return self.issuer + path

    @property
    def token_url(self) -> str:
        return self.url("/token")

    def client(self, name: str, at: str = "") -> dict[str, Any]:
        """The arguments of a source that authenticates as that client, at the issuer with that path."""
        proofs: dict[str, dict[str, Any]] = {
            "basic": {"client_secret": SECRET},
            "post": {"client_secret": SECRET, "auth_method": "client_secret_post"},
            "key": {"key": self.key},
            "federated": {"client_assertion": lambda: self.assertion(name, name, self.url(at))},
            "cert": {"cert": self.files},
            "public": {},
        }
        # The address for those with a certificate stands in the metadata only.
        where = {"issuer": self.url(at)} if at or name == "cert" else {"token_url": self.token_url}
        return {"client_id": name, "ca": self.roots, **where, **proofs[name]}

    # -- what others than its clients ask of it

    @cached_property
    def keys(self) -> KeySet:
        """What it signs with, as it publishes that."""
        return KeySet.import_key_set(requests.get(self.url("/jwks"), verify=self.roots, timeout=20).json())

    def claims(self, token: str) -> dict[str, Any]:
        """The claims of a token that it has signed."""
        return dict(jwt.decode(token, self.keys, algorithms=["ES256"]).claims)

    def introspect(self, token: str, at: str = "") -> dict[str, Any]:
        """What it knows of a token (RFC 7662), which is how an API learns of one that is revoked."""
        return dict(self._post(f"{at}/token/introspection", token).json())

    def revoke(self, token: str) -> None:
        """Revoke a token (RFC 7009)."""
        self._post("/token/revocation", token)

    def _post(self, path: str, token: str) -> requests.Response:
        form = {"token": token, "client_id": "api", "client_secret": SECRET}
        answer = requests.post(self.url(path), form, verify=self.roots, timeout=20)
        assert answer.ok, answer.text
        return answer

    def assertion(self, issuer: str, subject: str, audience: str, **claims: Any) -> str:
        """A token of the platform's."""
        now = int(time.time())
        body = {"iss": issuer, "sub": subject, "aud": audience, "iat": now, "exp": now + 300, "jti": uuid.uuid4().hex}
        return jwt.encode(
            {"alg": "ES256", "kid": PLATFORM}, {**body, **claims}, ECKey.import_key(private_pem(self.platform))
        )

    def visit(self, address: str, *, decline: bool = False) -> str:
        """Open the page of a device flow in a browser, and log in and consent there; or decline. The last page."""
        with requests.Session() as browser:
            browser.trust_env, browser.verify = False, str(self.roots)
            page = browser.get(address, timeout=20)
            for _ in range(10):
                form = _Form.of(page.text)
                if form is None:
                    return page.text
                answers = {**form.fields, **({"abort": "yes"} if decline and "confirm" in form.fields else {})}
                page = browser.post(form.action, answers, timeout=20)
                if "abort" in answers:
                    return page.text
        raise AssertionError(page.text)


class Api:
    """An API that takes the tokens which `judge` says are good; a verifier for `ProbeServer`."""

    def __init__(self, judge: Callable[[str], Any]) -> None:
        self._judge = judge

    def verify(self, metadata: Any, method: str) -> Verdict:
        values = [str(value) for name, value in metadata if name == "authorization"]
        token = values[0].removeprefix("Bearer ") if len(values) == 1 else None
        good = token is not None and self._judge(token)
        return Verdict(values, token, refusal=None if good else Refusal("not good"))


class _Form(HTMLParser):
    """The form of a page: where it goes, and its fields, filled in where they are empty."""

    def __init__(self) -> None:
        super().__init__()
        self.action = ""
        self.fields: dict[str, str] = {}

    @classmethod
    def of(cls, page: str) -> _Form | None:
        form = cls()
        form.feed(page)
        return form if form.action else None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self.action = found.get("action") or ""
        elif tag == "input" and found.get("name"):
            self.fields[str(found["name"])] = found.get("value") or "somebody"


def _check_installed() -> None:
    """Skip the test that needs what is not there."""
    if NODE is None:
        pytest.skip("no node here (Debian: apt install nodejs npm)")
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < _OLDEST:
        pytest.skip(f"node {version} is too old for oidc-provider, which needs {_OLDEST} or newer")
    if not (HERE / "node_modules" / "oidc-provider").exists():
        pytest.skip(f"no oidc-provider here (npm ci --prefix {HERE})")


@contextmanager
def running(folder: Path) -> Iterator[AuthorizationServer]:
    """One that runs, with its files in that folder."""
    server = AuthorizationServer(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _clients(key: Any, platform: Any) -> Iterator[dict[str, Any]]:
    def client(name: str, method: str, grants: Collection[str], **more: Any) -> dict[str, Any]:
        names = {"client_id": name, "token_endpoint_auth_method": method, "grant_types": list(grants)}
        return {**names, "redirect_uris": [], "response_types": [], **more}

    own = ("client_credentials", EXCHANGE, JWT_BEARER)
    people = (DEVICE, "refresh_token")
    yield client("basic", "client_secret_basic", (*own, *people), client_secret=SECRET)
    yield client("post", "client_secret_post", (*own, *people), client_secret=SECRET)
    yield client("key", "private_key_jwt", (*own, *people), jwks=_jwks(key, "key"))
    yield client("federated", "private_key_jwt", (*own, *people), jwks=_jwks(platform, PLATFORM))
    yield client(
        "cert",
        "tls_client_auth",
        (*own, *people),
        tls_client_auth_san_dns=CERTIFIED,
        tls_client_certificate_bound_access_tokens=True,
    )
    yield client("public", "none", (EXCHANGE, JWT_BEARER, *people))
    # Of an API that asks about tokens, and may read itself.
    yield client("api", "client_secret_post", ("client_credentials",), client_secret=SECRET, scope="read")


def _jwks(key: Any, kid: str) -> dict[str, list[dict[str, Any]]]:
    public = ECKey.import_key(private_pem(key)).as_dict(private=False)
    return {"keys": [{**public, "alg": "ES256", "use": "sig", "kid": kid}]}
