"""What a server's certificate says, and why it may not be accepted."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from grpc_bearer._base.openssl import EXPIRED, NOT_YET_VALID, OTHER_NAME, UNKNOWN_ISSUER
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.jwt import span
from grpc_bearer._cli.terminal import safe

if TYPE_CHECKING:
    from cryptography import x509


def untrusted(
    code: int, reason: str, seen: x509.Certificate | None, name: str, roots_from: str, now: float
) -> CommandFailure:
    of = "" if seen is None else f" (of {name_of(seen.subject)}, signed by {name_of(seen.issuer)})"
    if code in OTHER_NAME:
        names = "" if seen is None else f", but for {', '.join(_names(seen)[:5]) or 'no name at all'}"
        advice = "call it by one of its names, or give --server-name if you know that it is the right server"
        return CommandFailure(Exit.TLS, f"the certificate is not for {name}{names}", advice)
    if code in (NOT_YET_VALID, EXPIRED):
        return _out_of_date(code, of, seen, now)
    if code in UNKNOWN_ISSUER:
        advice = "give the authority that signed it as --ca FILE"
        return CommandFailure(Exit.TLS, f"the certificate{of} is of no authority that {roots_from} knows", advice)
    return CommandFailure(Exit.TLS, f"the certificate{of} is not accepted: {safe(reason)}", "ask who runs the server")


def _out_of_date(code: int, of: str, seen: x509.Certificate | None, now: float) -> CommandFailure:
    if code == NOT_YET_VALID:
        return CommandFailure(Exit.TLS, f"the certificate{of} is not valid yet", "is this machine's clock right?")
    until = None if seen is None else seen.not_valid_after_utc
    ago = "" if until is None else f" {span(max(now - until.timestamp(), 0))} ago, on {until:%Y-%m-%d}"
    advice = "it must be renewed on the server (or is this machine's clock wrong?)"
    return CommandFailure(Exit.TLS, f"the certificate{of} expired{ago}", advice)


def certificate_of(tls: ssl.SSLSocket) -> x509.Certificate:
    from cryptography import x509

    return x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")


def name_of(name: x509.Name) -> str:
    """The common name, with the organisation if there is one."""
    from cryptography.x509.oid import NameOID

    found = [
        str(each.value)
        for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
        for each in name.get_attributes_for_oid(oid)
    ]
    return safe(", ".join(found)) or "nobody"


def _names(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [name_of(certificate.subject)]
    return [safe(str(each.value)) for each in names]
