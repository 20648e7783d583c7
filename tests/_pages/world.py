"""The world of the examples: the servers, names and files that the pages speak of.

Every name under `example.com` is a gRPC server that verifies tokens, but for `auth.example.com`, a token endpoint, and
`mesh.example.com`, a gRPC server without TLS. Google's names lead to the same. The tokens that it takes are those of
the pages.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from _pages.proxy import Proxy

#: Opaque tokens that the server knows.
TOKENS = ("the-token-from-the-crm", "another-token", "the-token-of-tenant-1", "the-token-of-tenant-2", "s3cret")
BEAR = {"api_key": "deca1611-fb00-40b6", "scope": "SCOPE", "secret": "2cd66c59-a845"}
OPENFX_NAME = "org/1/apiKey/2"
SERVICE_ACCOUNT = "fleet@project.iam.gserviceaccount.com"

STUBS = Path(__file__).parent / "stubs"


class World:
    """Servers in this process, files in the current folder, and an environment that leads to both.

    Made before gRPC is imported: it reads the environment when it is first used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        sys.path.insert(0, str(STUBS))
        from _clouds import Clouds
        from fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server

        from grpc_bearer import testing

        class CA(testing.CA):
            """Its certificates are good for the names of the pages too."""

            def issue(self, *names: str) -> testing.Certificate:
                return super().issue(*(names or (*testing.LOOPBACK_NAMES, *NAMES, *CLOUD_NAMES)))

        def fleet(server: Any) -> None:
            add_FleetServicer_to_server(FleetServicer(), server)
            _add_reflection(server)

        self.ca = CA()
        self.tokens = testing.TokenServer(self.ca)
        self.opaque = testing.OpaqueVerifier(TOKENS)
        self.clouds = Clouds(self.tokens, folder)
        self._write_files()
        self.verifier = AnyOf(self.opaque, *self._verifiers())
        self.server = testing.ProbeServer(self.verifier, self.ca, register=[fleet])
        self.mesh = testing.ProbeServer(self.verifier, credentials="insecure", register=[fleet])
        sidecar = f"unix:{folder}/sidecar.sock"
        self.sidecar = testing.ProbeServer(self.verifier, credentials="local", address=sidecar, register=[fleet])
        self._serve_tokens()
        self.proxy = Proxy(self._route)
        self._enter()

    def arrived(self) -> dict[str, Any]:
        """The claims of the token that came with the last call; it was accepted."""
        attempt = self.server.ledger.attempts[-1]
        assert attempt.accepted
        return dict(attempt.claims)

    @property
    def ledgers(self) -> list[Any]:
        """What arrived, server by server."""
        return [self.server.ledger, self.mesh.ledger, self.sidecar.ledger]

    def start(self) -> World:
        for each in (self.tokens, self.server, self.mesh, self.sidecar):
            each.start()
        return self

    def stop(self) -> None:
        for each in (self.server, self.mesh, self.sidecar, self.tokens):
            each.stop()

    def _route(self, address: str) -> int:
        host = address.partition(":")[0]
        if host in TOKEN_HOSTS or host in self.clouds.hosts:
            return int(self.tokens.url("/").split(":")[2].rstrip("/"))
        server = self.mesh if host == "mesh.example.com" else self.server
        return int(server.target.rpartition(":")[2])

    def _enter(self) -> None:
        roots = str(self.ca.write(self.folder))
        for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("GRPC_")]:
            del os.environ[name]
        os.environ |= {
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": roots,
            "REQUESTS_CA_BUNDLE": roots,
            "HTTPS_PROXY": self.proxy.url,
            "https_proxy": self.proxy.url,  # gRPC knows only this spelling
            "no_proxy": "localhost,127.0.0.1",
            "GRPC_VERBOSITY": "ERROR",  # core's own log is not what an example prints
            "PYTHONPATH": str(STUBS),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "100",
            "NO_COLOR": "1",
        }

    def _write_files(self) -> None:
        from grpc_bearer.testing import private_pem, throwaway_key

        self.rsa, self.p256 = throwaway_key("RS256"), throwaway_key("ES256")
        openfx = {"name": OPENFX_NAME, "privateKey": private_pem(self.p256)}
        account = {
            "type": "service_account",
            "client_email": SERVICE_ACCOUNT,
            "token_uri": "https://oauth2.googleapis.com/token",
            "private_key": private_pem(self.rsa),
            "private_key_id": "1",
        }
        contents = {
            "bear-credentials.json": json.dumps(BEAR),
            "skykit-private.pem": private_pem(self.rsa),
            "signing-key.pem": private_pem(self.p256),
            "crm-token.txt": TOKENS[0] + "\n",
            "openfx-key.json": json.dumps(openfx),
            "client-secret.txt": "the-client-secret\n",
            "service-account-token.txt": "the-token-of-the-platform\n",
            "service-account.json": json.dumps(account),
        }
        for name, content in contents.items():
            (self.folder / name).write_text(content, "utf-8")

    def _verifiers(self) -> list[Any]:
        from grpc_bearer.testing import JWTVerifier, OpaqueVerifier

        rsa, p256 = self.rsa.public_key(), self.p256.public_key()
        return [
            self.tokens.verifier(),
            OpaqueVerifier(["the-consumer-token", "the-coordinator-token"], "x-bbk-auth-token", ""),
            OpaqueVerifier([TOKENS[0]], "x-api-token", ""),
            JWTVerifier(rsa, ["RS256"], max_lifetime=3600),
            JWTVerifier(
                {OPENFX_NAME: p256},
                ["ES256"],
                issuer="openfx",
                audience="developer-api",
                required_claims=("aud", "iss", "sub", "iat", "nbf", "exp"),
                max_lifetime=120,
                require_headers=("kid", "nonce"),
                single_use=True,
            ),
            JWTVerifier(p256, ["ES256"], max_lifetime=3600),
        ]

    def _serve_tokens(self) -> None:
        from grpc_bearer.testing import Response

        def answer(request: Any) -> Response:
            token = self.tokens.mint("fleet", lifetime=3600)
            body = {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
            return Response(200, json.dumps(body).encode(), content_type="application/json", token=token)

        self.tokens.serve_bear(BEAR)
        self.clouds.serve("auth.example.com/token", answer)
        self.tokens.serve_client_credentials(
            "fleet-client",
            "the-client-secret",
            public_key=self.p256.public_key(),
            audience="https://auth.example.com/oauth2/token",
        )


def _add_reflection(server: Any) -> None:
    """For the command line; without these packages its page cannot be run."""
    with contextlib.suppress(ImportError):
        from fleet_pb2 import POOL
        from grpc_health.v1 import health, health_pb2_grpc
        from grpc_reflection.v1alpha import reflection

        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        reflection.enable_server_reflection(["fleet.v1.Fleet"], server, POOL)


class AnyOf:
    """Takes what any of several verifiers takes."""

    def __init__(self, *verifiers: Any) -> None:
        self._verifiers = verifiers

    def verify(self, metadata: Any, method: str) -> Any:
        verdicts = []
        for verifier in self._verifiers:
            verdict = verifier.verify(metadata, method)
            if verdict.refusal is None:
                return verdict
            verdicts.append(verdict)
        # The one that tells most: that of a verifier which found its header.
        return next((verdict for verdict in verdicts if verdict.token is not None), verdicts[0])


#: Where the clouds' token services are.
CLOUD_NAMES = (
    "login.microsoftonline.com",
    "sts.eu-west-1.amazonaws.com",
    "*.actions.githubusercontent.com",
    "example.okta.com",
    "example.eu.auth0.com",
)
TOKEN_HOSTS = ("auth.example.com", "api-auth.bearrobotics.ai", "oauth2.googleapis.com")
NAMES = ("*.example.com", "*.googleapis.com", *TOKEN_HOSTS)
