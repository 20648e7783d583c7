"""The way to a server, step by step, as gRPC would go it: name, connection, TLS, HTTP/2. No secret is sent."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpc_bearer._base.http2 import PREFACE, SETTINGS
from grpc_bearer._cli.certificate import certificate_of, name_of, untrusted
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.terminal import safe

if TYPE_CHECKING:
    from cryptography import x509

#: What Core looks at, in this order; the last is for hosts that need none.
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXIES = ("no_grpc_proxy", "no_proxy")


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be called: a host and port, or a Unix socket (then without both); and the URL that it was given as."""

    text: str
    host: str = ""
    port: int = 0
    url: str = ""

    def __str__(self) -> str:
        return self.text

    @property
    def authority(self) -> str:
        """The host as a service URL has it: the port is left out if it is 443."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"

    @property
    def remark(self) -> str:
        """What is to be said of a URL; empty if it was none."""
        return f"{self.url} is a URL, and gRPC takes none: {self.text} is called instead" if self.url else ""


def parsed_target(text: str) -> Target:
    """A target as it was typed, or an `https://` URL.

    Raises:
        CommandFailure: no target, or of a scheme that cannot be looked at.
    """
    if text.startswith("unix:"):
        return Target(text)
    url = re.match(r"(https?)://([^/?#]*)", text)
    if url and url[1] == "http":
        raise CommandFailure(Exit.USAGE, "TARGET: http:// is a URL without TLS", "write host:port, and --plaintext")
    bare = url[2] if url else text[len("dns:") :].rpartition("/")[2] if text.startswith("dns:") else text
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:/@\[\]]+))(?::(\d{1,5}))?", bare)
    port = int(found[3] or 443) if found else 0
    if not found or not 0 < port < 65536:
        shown = "what was given" if "@" in text else repr(safe(text))  # before it may stand a password
        raise CommandFailure(Exit.USAGE, f"TARGET: {shown} is no target", "write host:port, [IPv6]:port or unix:PATH")
    host = found[1] or found[2]
    return Target(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", host, port, safe(url[0]) if url else "")


def named(target: Target, trust: Trust) -> str:
    """The host as gRPC names it in a service URL; empty for a Unix socket."""
    return Target("", trust.name, target.port).authority if target.host else ""


def proxy_for(target: Target) -> str:
    """The variable that makes gRPC go through a proxy to this target; empty if none does."""
    spared = next((os.environ[name] for name in _NO_PROXIES if os.environ.get(name)), "").split(",")
    if any(each.strip() and target.host.endswith(each.strip()) for each in spared):
        return ""
    return next((name for name in _PROXIES if os.environ.get(name)), "")


def resolve(target: Target, timeout: float) -> list[str]:
    """The addresses of the host.

    Raises:
        CommandFailure: it has none, or nobody answers.
    """
    found: list[Any] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    # A look-up cannot be interrupted: it is left behind.
    thread = threading.Thread(target=look_up, name="look-up", daemon=True)
    thread.start()
    thread.join(timeout)
    if not found:
        raise CommandFailure(
            Exit.NETWORK, f"no answer about the name {target.host} within {timeout:g} s", "is the DNS up?"
        )
    if isinstance(found[0], Exception):
        raise CommandFailure(
            Exit.NETWORK, f"the name {target.host} cannot be resolved", "check its spelling, the DNS and the VPN"
        )
    return list(dict.fromkeys(each[4][0] for each in found[0]))


def connect(addresses: Sequence[str], port: int, timeout: float) -> socket.socket:
    """A connection to the first address that takes one.

    Raises:
        CommandFailure: none does.
    """
    refused, problem = True, ""
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            refused = refused and isinstance(error, ConnectionRefusedError)
            problem = "no answer in time" if isinstance(error, TimeoutError) else str(error.strerror or error)
    where = f"{addresses[0]} port {port}"
    if refused:
        raise CommandFailure(
            Exit.NETWORK, f"{where} refuses connections", "is the server running, and is it that port?"
        )
    raise CommandFailure(Exit.NETWORK, f"{where}: {problem}", "check the route, a firewall, the VPN")


@dataclass(frozen=True, slots=True)
class Trust:
    """What TLS goes by.

    Args:
        roots: certificate authorities, PEM; `None`: gRPC's own choice.
        roots_from: where they come from, in words.
        certificate, key: files of this client, for mutual TLS.
        name: what the certificate must be for.
    """

    roots: bytes | None
    roots_from: str
    certificate: Path | None
    key: Path | None
    name: str

    def context(self, *, verify: bool = True) -> ssl.SSLContext:
        """What Python needs to do as gRPC does."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2"])
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        elif self.roots is not None:
            context.load_verify_locations(cadata=self.roots.decode("ascii", "ignore"))
        if self.certificate is not None:
            # gRPC takes no encrypted keys; without a password given, Python would ask for one on the terminal.
            context.load_cert_chain(self.certificate, self.key, password=lambda: b"")
        return context


@dataclass(frozen=True, slots=True)
class Handshake:
    """A TLS handshake that went well."""

    version: str
    subject: str
    issuer: str
    since: datetime.datetime
    until: datetime.datetime


def shake(connection: socket.socket, trust: Trust, now: float) -> Handshake:
    """Shake hands over a new connection, and see that HTTP/2 is spoken. Closes the connection.

    Raises:
        CommandFailure: TLS does not come about.
    """
    address = connection.getpeername()
    timeout = connection.gettimeout()
    try:
        with connection, trust.context().wrap_socket(connection, server_hostname=trust.name) as tls:
            certificate = certificate_of(tls)
            if tls.selected_alpn_protocol() != "h2":
                raise CommandFailure(Exit.TLS, "the server speaks TLS but no HTTP/2 (ALPN)", "is this the gRPC port?")
            _expect_settings(tls, encrypted=True)
            signed = name_of(certificate.subject), name_of(certificate.issuer)
            return Handshake(
                tls.version() or "TLS", *signed, certificate.not_valid_before_utc, certificate.not_valid_after_utc
            )
    except ssl.SSLCertVerificationError as error:
        code, reason = error.verify_code, error.verify_message
    except TimeoutError:
        raise CommandFailure(Exit.NETWORK, f"no TLS handshake within {timeout:g} s", "is this a TLS port?") from None
    except (ssl.SSLError, OSError) as error:
        raise _no_tls(address, timeout, error) from None
    seen = _seen(address, timeout, trust)
    raise untrusted(code, reason or "", seen, trust.name, trust.roots_from, now)


def fault_on_the_way(target: Target, trust: Trust | None, timeout: float) -> CommandFailure | None:
    """What is wrong on the way to a server that a call could not reach; `None` if nothing is found.

    Args:
        target: the server.
        trust: what TLS goes by; `None`: there is to be none.
        timeout: for each step, in seconds.
    """
    if not target.host or proxy_for(target):
        return None
    try:
        connection = connect(resolve(target, timeout), target.port, timeout)
        if trust is None:
            speaks_plaintext(connection)
        else:
            shake(connection, trust, time.time())
    except CommandFailure as failure:
        return failure
    return None


def advised(failure: CommandFailure, target: Target) -> CommandFailure:
    """The failure; where a Unix socket is not reached, with what there is to look at, as `check` finds no more."""
    if failure.code is not Exit.NETWORK or target.host:
        return failure
    return CommandFailure(Exit.NETWORK, failure.problem, "is the server running, and is that its socket?")


def speaks_plaintext(connection: socket.socket) -> bool:
    """See that HTTP/2 is spoken without TLS: true, or else it fails. Closes the connection.

    Raises:
        CommandFailure: it is not.
    """
    address, timeout = connection.getpeername(), connection.gettimeout()
    try:
        with connection:
            _expect_settings(connection, encrypted=False)
            return True
    except TimeoutError:
        failure = CommandFailure(Exit.NETWORK, f"no HTTP/2 within {timeout:g} s", "is this the gRPC port?")
    except OSError:
        failure = CommandFailure(Exit.NETWORK, "the server hangs up on plaintext HTTP/2", "is this the gRPC port?")
    except CommandFailure as found:
        failure = found
    speaks_tls = _seen(address, timeout, Trust(None, "", None, None, address[0])) is not None
    raise CommandFailure(Exit.TLS, "the server speaks TLS", "leave out --plaintext") if speaks_tls else failure


def _expect_settings(connection: socket.socket, *, encrypted: bool) -> None:
    """The first frame of an HTTP/2 server is SETTINGS (RFC 9113 section 3.4)."""
    connection.sendall(PREFACE + SETTINGS)
    answer = b""
    while len(answer) < len(SETTINGS) and (more := connection.recv(4096)):
        answer += more
    if len(answer) >= len(SETTINGS) and answer[3] == SETTINGS[3]:  # the byte that says what frame it is
        return
    if answer.startswith(b"HTTP/1"):
        code = Exit.TLS if encrypted else Exit.NETWORK
        raise CommandFailure(code, "the server speaks HTTP/1 only", "is this the gRPC port?")
    if encrypted:
        advice = "if it wants to know its clients, give --client-cert and --client-key"
        raise CommandFailure(Exit.TLS, "the server hangs up after the handshake", advice)
    raise CommandFailure(Exit.NETWORK, "the server speaks no HTTP/2", "is this the gRPC port?")


def _no_tls(address: Any, timeout: float | None, error: OSError) -> CommandFailure:
    reason = (error.reason if isinstance(error, ssl.SSLError) else "") or ""
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason or "BAD_CERTIFICATE" in reason:
        return CommandFailure(
            Exit.TLS, "the server wants a client certificate", "give --client-cert and --client-key (mutual TLS)"
        )
    if "UNKNOWN_CA" in reason:
        return CommandFailure(
            Exit.TLS, "the server does not trust our client certificate", "is it of the right authority?"
        )
    if "NO_APPLICATION_PROTOCOL" in reason:
        return CommandFailure(Exit.TLS, "the server speaks TLS but no HTTP/2 (ALPN)", "is this the gRPC port?")
    if _speaks_plaintext(address, timeout):
        return CommandFailure(
            Exit.TLS,
            "the server speaks gRPC without TLS",
            "ask for its TLS port; or --plaintext if the way to it is safe, for the token travels in the clear",
        )
    shown = safe(reason.replace("_", " ").lower()) or "it hangs up"
    return CommandFailure(Exit.TLS, f"no TLS handshake: {shown}", "is this a TLS port?")


def _speaks_plaintext(address: Any, timeout: float | None) -> bool:
    with contextlib.suppress(OSError, CommandFailure), socket.create_connection(address[:2], timeout) as connection:
        _expect_settings(connection, encrypted=False)
        return True
    return False


def _seen(address: Any, timeout: float | None, trust: Trust) -> x509.Certificate | None:
    """The certificate that did not stand the test; nothing is sent over this connection."""
    context = trust.context(verify=False)
    with (
        contextlib.suppress(OSError, ValueError),
        socket.create_connection(address[:2], timeout) as connection,
        context.wrap_socket(connection, server_hostname=trust.name) as tls,
    ):
        return certificate_of(tls)
    return None
