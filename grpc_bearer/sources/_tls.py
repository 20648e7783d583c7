"""One `ssl.SSLContext` for all requests with the same files of certificates.

To read a bundle of them takes 20 ms of CPU, and most refreshes come after a pause, on a new connection.
"""

from __future__ import annotations

import ssl
import threading
from collections import OrderedDict
from typing import NamedTuple

from urllib3.util.ssl_ import create_urllib3_context

from grpc_bearer._base import fork_hooks
from grpc_bearer.sources._files import Stamp, stamps_of

# So many are kept, those that were used last: a process has one, or one for each of a few clients' certificates.
_MOST = 32


class Files(NamedTuple):
    """Paths, as `requests` takes them: of whom to trust (a file or a folder), and of the client's own."""

    ca: str | None
    ca_folder: str | None
    cert: str | None
    key: str | None


_made: OrderedDict[Files, tuple[list[Stamp], ssl.SSLContext]] = OrderedDict()
_lock = threading.Lock()


def context_for(files: Files) -> ssl.SSLContext:
    """The context with these files, read again once one of them is another; a folder is read by OpenSSL as needed.

    Raises:
        OSError: a file cannot be read, or is none of certificates.
    """
    stamps = stamps_of(files.ca, files.cert, files.key)
    with _lock:  # those who come while it is read would only read it once more
        found = _made.get(files)
        if found is None or found[0] != stamps:
            found = _made[files] = stamps, _read(files)
        _made.move_to_end(files)
        if len(_made) > _MOST:
            _made.popitem(last=False)
    return found[1]


def _read(files: Files) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)  # what urllib3 makes for each connection otherwise
    if files.ca or files.ca_folder:
        context.load_verify_locations(files.ca, files.ca_folder)
    if files.cert:
        context.load_cert_chain(files.cert, files.key)
    return context


def _after_fork_in_child() -> None:
    """Whoever held the lock, or was using a context just then, is not here."""
    global _lock
    _lock = threading.Lock()
    _made.clear()


fork_hooks.in_child(fork_hooks.Phase.RENEW, _after_fork_in_child)
