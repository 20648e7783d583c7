"""The channel that the arguments ask for."""

from __future__ import annotations

import contextlib
import os
import ssl
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import grpc

from grpc_bearer._auth import BearerAuth
from grpc_bearer._base.credential_files import read_file
from grpc_bearer._base.translating import translating
from grpc_bearer._calls.sync_channel import insecure_channel, secure_channel
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.network import Target, Trust
from grpc_bearer._config.fields import is_pipe

_ROOTS = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"


def trusted(arguments: Namespace, target: Target) -> Trust:
    """What TLS is to go by.

    Raises:
        CommandFailure: the arguments contradict each other.
        ConfigurationError: a file cannot be read.
    """
    if arguments.plaintext and (arguments.ca or arguments.client_cert or arguments.server_name):
        raise CommandFailure(Exit.USAGE, "--plaintext beside an option of TLS", "leave one of them out")
    if (arguments.client_cert is None) is not (arguments.client_key is None):
        raise CommandFailure(Exit.USAGE, "--client-cert and --client-key go together", "give both, or neither")
    for path, field in ((arguments.client_cert, "--client-cert"), (arguments.client_key, "--client-key")):
        if path is not None:
            if is_pipe(Path(path)):
                raise CommandFailure(Exit.USAGE, f"{field}: a pipe, and TLS reads it several times", "give a file")
            read_file(Path(path), field)  # so that a wrong name is told as such
    certificate, key = (Path(each) if each else None for each in (arguments.client_cert, arguments.client_key))
    roots, roots_from = _roots(arguments.ca)
    trust = Trust(roots, roots_from, certificate, key, arguments.server_name or target.host)
    for context, what in ((replace(trust, certificate=None), roots_from), (trust, "--client-cert and --client-key")):
        if not _usable(context):
            raise CommandFailure(
                Exit.USAGE, f"{what}: no usable PEM", "keys without a passphrase, and a key for the certificate"
            )
    return trust


def _usable(trust: Trust) -> bool:
    try:
        trust.context()
    except (ssl.SSLError, ValueError):
        return False
    return True


def _roots(ca: str | None) -> tuple[bytes, str]:
    """The authorities that gRPC would go by."""
    if ca:
        roots = _read(ca, "--ca")
        if b"-----BEGIN CERTIFICATE-----" not in roots:
            raise CommandFailure(Exit.USAGE, f"--ca: {ca} holds no certificate", "expected PEM")
        return roots, f"--ca {ca}"
    if path := os.environ.get(_ROOTS):
        return _read(path, _ROOTS), f"{path} (${_ROOTS})"
    # Those that grpcio brings, under a name that it has had for all its life.
    return (Path(grpc.__file__).parent / "_cython/_credentials/roots.pem").read_bytes(), "gRPC's own list"


def _read(path: str, field: str) -> bytes:
    """A bundle of authorities, which may be longer than a credential."""
    where = f"{field}: cannot read {path}"
    with translating(
        OSError, to=lambda error: CommandFailure(Exit.USAGE, f"{where}: {error.strerror or type(error).__name__}")
    ):
        return Path(path).read_bytes()


def credentials(arguments: Namespace, target: Target, trust: Trust) -> grpc.ChannelCredentials | None:
    """Those of the channel; `None` if it is to be plaintext."""
    if arguments.plaintext:
        return None
    if target.text.startswith("unix:"):
        return grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
    pair: tuple[bytes, bytes] | tuple[None, None] = (None, None)
    if trust.certificate and trust.key:
        pair = (read_file(trust.key, "--client-key"), read_file(trust.certificate, "--client-cert"))
    # The authorities are given only if they were asked for: gRPC may know better where its own are.
    return grpc.ssl_channel_credentials(trust.roots if arguments.ca else None, *pair)


def channel(arguments: Namespace, target: Target, trust: Trust, auth: BearerAuth | None) -> grpc.Channel:
    """A channel to the target; with `auth`, its calls carry a token."""
    chosen = credentials(arguments, target, trust)
    options = [("grpc.ssl_target_name_override", arguments.server_name)] if arguments.server_name else []
    if auth is None:
        return (
            grpc.insecure_channel(target.text, options)
            if chosen is None
            else grpc.secure_channel(target.text, chosen, options)
        )
    if chosen is None:
        return insecure_channel(target.text, options, auth=auth, allow_plaintext=True)
    return secure_channel(target.text, chosen, options, auth=auth)


@contextlib.contextmanager
def quiet_core() -> Iterator[None]:
    """Keep the log of gRPC's core from coming between our lines; what it has to say is in the status of the call too.

    Core reads GRPC_VERBOSITY when it is loaded, which is before any line of ours runs, and it writes to descriptor 2.
    """
    if os.environ.get("GRPC_VERBOSITY") or os.environ.get("GRPC_TRACE"):  # somebody wants to see it
        yield
        return
    ours, saved = sys.stderr, os.dup(2)
    try:
        if _writes_to(ours, 2):
            with contextlib.suppress(OSError):
                ours.flush()
            sys.stderr = os.fdopen(os.dup(saved), "w", 1, encoding=ours.encoding, errors="backslashreplace")
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        if sys.stderr is not ours:
            with contextlib.suppress(OSError):
                sys.stderr.close()
        sys.stderr = ours
        os.dup2(saved, 2)
        os.close(saved)


def _writes_to(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError, AttributeError):  # a test's, or none at all
        return False
