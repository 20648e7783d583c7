"""A certificate authority to be thrown away, so that tests and demos run over real TLS."""

from __future__ import annotations

import datetime
import functools
import ipaddress
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc

from grpc_bearer._base.arguments import checked_flag

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

__all__ = ["CA", "LOOPBACK_NAMES", "Certificate"]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

# Whatever time a test pretends it is, by whichever library.
_FROM = datetime.datetime(2000, 1, 1, tzinfo=datetime.timezone.utc)
_UNTIL = datetime.datetime(2099, 12, 31, tzinfo=datetime.timezone.utc)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A private key and its certificate chain, both PEM; good for servers and, in mutual TLS, for clients.

    >>> CA().issue("localhost").chain_pem.count(b"BEGIN CERTIFICATE")
    2
    """

    key_pem: bytes = field(repr=False)
    chain_pem: bytes = field(repr=False)

    def write(self, directory: str | Path) -> tuple[Path, Path]:
        """Write `key.pem` and `chain.pem` in the directory; their paths."""
        key, chain = Path(directory) / "key.pem", Path(directory) / "chain.pem"
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        chain.write_bytes(self.chain_pem)
        return key, chain


class CA:
    """A throw-away certificate authority with EC keys, which live in memory only.

    Args:
        name: the common name of its root.

    >>> ca = CA()
    >>> certificate = ca.issue("localhost", "127.0.0.1")
    >>> ca.pem.startswith(b"-----BEGIN CERTIFICATE-----")
    True
    """

    def __init__(self, name: str = "grpc-bearer throw-away CA") -> None:
        from cryptography.hazmat.primitives.asymmetric import ec

        _show_true_datetime()
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name(name)
        self._root = _build_root(self._name, self._key)
        self.pem: bytes = _certificate_pem(self._root)

    def __repr__(self) -> str:
        return "CA()"

    def issue(self, *names: str) -> Certificate:
        """A certificate for DNS names and IP addresses; for those of loopback if none is given."""
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        leaf = _build_leaf(names or LOOPBACK_NAMES, key, self._root, self._key)
        return Certificate(_key_pem(key), _certificate_pem(leaf) + self.pem)

    def write(self, directory: str | Path) -> Path:
        """Write the root as `ca.pem` in the directory, for `verify=` of an HTTP client; its path."""
        path = Path(directory) / "ca.pem"
        path.write_bytes(self.pem)
        return path

    def channel_credentials(self, client: Certificate | None = None) -> grpc.ChannelCredentials:
        """TLS that trusts this authority alone; with `client`, mutual TLS."""
        if client is None:
            return grpc.ssl_channel_credentials(self.pem)
        return grpc.ssl_channel_credentials(self.pem, client.key_pem, client.chain_pem)

    def server_credentials(self, *names: str, require_client: bool = False) -> grpc.ServerCredentials:
        """For a gRPC server under these names; with `require_client`, only for clients that this authority knows."""
        certificate = self.issue(*names)
        pairs = [(certificate.key_pem, certificate.chain_pem)]
        clients = self.pem if checked_flag("require_client", require_client) else None
        return grpc.ssl_server_credentials(pairs, clients, require_client)

    def server_context(self, *names: str) -> ssl.SSLContext:
        """For any other TLS server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with tempfile.TemporaryDirectory() as directory:  # the ssl module reads keys from files only
            key, chain = self.issue(*names).write(directory)
            context.load_cert_chain(chain, key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """For any other TLS client: trusts this authority alone."""
        return ssl.create_default_context(cadata=self.pem.decode())


@functools.cache
def _show_true_datetime() -> None:
    """Have cryptography see the true class of points in time, once.

    It remembers the one it sees when it signs for the first time. In a test under freezegun that would be a false one,
    and no certificate could be made when the test is over.
    """
    from cryptography.hazmat.primitives.asymmetric import ec

    module: Any = datetime
    seen, key, name = module.datetime, ec.generate_private_key(ec.SECP256R1()), _common_name("datetime")
    module.datetime = next(kind for kind in seen.__mro__ if kind.__module__ == "datetime")
    try:
        _build_root(name, key)
    finally:
        module.datetime = seen


def _common_name(name: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    """What root and leaf share. Both key identifiers are there because Python 3.13 verifies strictly and wants them."""
    from cryptography import x509

    return (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )


def _build_root(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    return (
        _builder(name, key, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )


def _build_leaf(
    names: tuple[str, ...],
    key: ec.EllipticCurvePrivateKey,
    root: x509.Certificate,
    root_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    purposes = [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _builder(_common_name(names[0][:64]), key, root.subject, root_key)
        .add_extension(x509.SubjectAlternativeName([_alternative_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .sign(root_key, hashes.SHA256())
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
