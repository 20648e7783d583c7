"""What the commands are run against: servers with health checks and reflection, and certificates with faults."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from _forked import run_module
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

TOKEN = "tok-5ecr3t-0123456789-abcdef"
PROBE = "grpc_bearer.testing.v1.Probe"
# What a developer's machine may have set, and what would then decide how the tests end.
_UNSET = (
    "COLUMNS",
    "GRPC_BEARER_CONFIG",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GRPC_VERBOSITY",
    "NO_COLOR",
    "PYTHONIOENCODING",
    "REQUESTS_CA_BUNDLE",
)
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY")


@dataclass
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def steps(self) -> dict[str, str]:
        """Of `check --json`: step to status."""
        return {step["step"]: step["status"] for step in self.json["steps"]}


def clean_environment() -> dict[str, str]:
    """The environment without what would decide how a command ends."""
    kept = {name: value for name, value in os.environ.items() if name not in (*_UNSET, *_PROXIES)}
    return {**kept, "XDG_CONFIG_HOME": "/nonexistent"}


def run(
    *arguments: str,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    extras: bool = True,
    warnings: str = "error",
) -> Ran:
    """Run the command as a user does, in a process of its own.

    Args:
        arguments: after the program's name.
        stdin: what it reads.
        env: more environment.
        extras: whether the packages of the `cli` extra can be imported.
        warnings: what becomes of them.
    """
    environment = {**clean_environment(), **(env or {})}
    if extras and warnings == "error" and not any(name.startswith("PYTHON") for name in env or {}):
        code, out, err = run_module("grpc_bearer", *arguments, env=environment, stdin=stdin, strict=True)
    else:
        command = ["-m", "grpc_bearer", *arguments] if extras else ["-c", _WITHOUT_EXTRAS, *arguments]
        python = [sys.executable, "-W", warnings]
        ran = subprocess.run(
            [*python, *command], input=stdin, env=environment, capture_output=True, text=True, timeout=60
        )
        code, out, err = ran.returncode, ran.stdout, ran.stderr
    secrets = [TOKEN, *(each for each in (env or {}).values() if each.startswith("tok-"))]
    if arguments[:1] != ("token",):
        assert not [secret for secret in secrets if secret in out + err], "a secret is shown"
    assert "Traceback" not in err, err
    # On a busy machine anything may take long, and is told so.
    return Ran(code, out, "".join(line for line in err.splitlines(True) if not line.endswith(" …\n")))


_WITHOUT_EXTRAS = """
import sys
for name in ("argcomplete", "rich", "grpc_health", "grpc_reflection"):
    sys.modules[name] = None
from grpc_bearer.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def with_reflection(server: grpc.Server) -> None:
    from grpc_reflection.v1alpha import reflection

    reflection.enable_server_reflection([PROBE, reflection.SERVICE_NAME], server)


def with_health(server: grpc.Server, status: str = "SERVING") -> None:
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(status))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)


@contextmanager
def tls_server(folder: Path, *, since: int, until: int, names: str = "localhost") -> Iterator[str]:
    """A gRPC server whose certificate is good between two days from now; its authority is `own-ca.pem`. The target."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Old Root")])
    leaf = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names)])
    root_certificate = _certificate(root, root_key, root, root_key, -1000, 1000, x509.BasicConstraints(True, None))
    certificate = _certificate(
        leaf, key, root, root_key, since, until, x509.SubjectAlternativeName([x509.DNSName(names)])
    )
    (folder / "own-ca.pem").write_bytes(root_certificate)
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key_pem, certificate)]))
    server.start()
    try:
        yield f"localhost:{port}"
    finally:
        server.stop(None).wait()


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    since: int,
    until: int,
    extension: x509.ExtensionType,
) -> bytes:
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=since))
        .not_valid_after(now + datetime.timedelta(days=until))
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        .sign(issuer_key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)
