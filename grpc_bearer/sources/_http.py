"""Our own token request: what may be asked of an endpoint, checked when built, and the bound on the whole exchange.

`requests` itself is behind `_wire`, which is imported with the first request (it costs 100 ms).
"""

from __future__ import annotations

import ipaddress
import os
import re
import ssl
from collections.abc import Mapping
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from grpc_bearer._base.arguments import Where, as_dict, checked_flag, checked_seconds, expanded_path
from grpc_bearer._base.bounded_threads import start
from grpc_bearer._base.clock import SYSTEM_CLOCK
from grpc_bearer._base.token import Secret
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError, TokenFormatError, TokenUnavailableError
from grpc_bearer.sources._files import Stamp, stamps_of
from grpc_bearer.sources._parse import Answer
from grpc_bearer.sources._secrets import SecretLike, given_text

if TYPE_CHECKING:
    from grpc_bearer.sources._wire import Exchange, WatchedAdapter

#: Seconds for a whole exchange. gRPC calls wait this long for a cold token at most, unless told otherwise.
TIMEOUT = 10.0
#: The longest answer read. No header could carry a token of that size.
MAX_BYTES = 1 << 20
# Connections idle for longer are not used again: NATs and load balancers forget them after 60 s to 350 s without a
# word, and the request after that would hang until its timeout.
_KEEP_ALIVE = 30.0

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
# The host alone is shown in errors, so it must be a host: letters, digits, "-", ".", "_", or an IPv6 address.
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")

File = str | PathLike[str]


#: What a request imports; see `Source.needs`.
NEEDS: tuple[str, ...] = ("grpc_bearer.sources._wire",)


class Endpoint:
    """One HTTPS address with its limits and its kept-alive connections.

    Args:
        url: the address; `field` is how errors call it.
        timeout: seconds for the whole exchange.
        max_bytes: how much of an answer is read.
        ca: a file or folder of certificate authorities.
        cert: certificate and key files for mutual TLS.
        allow_http_loopback: take `http://` to this machine.

    Raises:
        ConfigurationError: names the argument, shows no value.
    """

    def __init__(
        self,
        url: str,
        *,
        field: str = "url",
        timeout: float = TIMEOUT,
        max_bytes: int = MAX_BYTES,
        ca: File | None = None,
        cert: tuple[File, File] | None = None,
        allow_http_loopback: bool = False,
    ) -> None:
        parts = _checked_url(url, field, checked_flag("allow_http_loopback", allow_http_loopback))
        self.url: str = url
        self.host: str = parts.netloc
        self.timeout: float = checked_seconds("timeout", timeout)
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes <= 0:
            raise ConfigurationError("expected a whole number above 0", field="max_bytes")
        self.max_bytes: int = max_bytes
        self.ca: str | None = _checked_ca(ca)
        self.cert: tuple[str, str] | None = _checked_cert(cert)
        self._loopback = _is_loopback(parts.hostname or "")
        self._pool: tuple[int, WatchedAdapter] | None = None
        self._last_used = 0.0
        self._stamps: list[Stamp] = []

    @property
    def secure(self) -> bool:
        """Whether what it says comes over TLS."""
        return self.url.lower().startswith("https:")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pool": None}

    def send(self, method: str, headers: Mapping[str, Secret], body: bytes | None) -> Answer:
        """One request, its answer read, all within `timeout`, whatever the server does.

        It runs on another thread: socket timeouts bound each read but not their sum, nor name look-ups, nor the
        addresses tried one after another. At the deadline the socket is shut down under that thread, which frees it.

        Raises:
            TokenUnavailableError: no answer; the host and the reason are named. Never chained to `requests`' exception,
                which holds the request with its credential.
        """
        from grpc_bearer.sources._wire import Exchange, Request

        request = Request(
            method,
            self.url,
            {name: value.reveal() for name, value in headers.items()},
            body,
            # The shutdown at the deadline comes first. This ends the thread if the shutdown has not.
            seconds=self.timeout + 1,
            max_bytes=self.max_bytes,
            verify=self._trust()[1] or True,
            cert=self.cert,
            # To this machine never through a proxy: its loopback is another one, and the proxy would read http://.
            proxied=not self._loopback,
        )
        exchange = Exchange(request)
        run_within(self.timeout, exchange, self._adapter())
        # The system's own clock: connections age in real time, whatever clock the tests move.
        self._last_used = SYSTEM_CLOCK.monotonic()
        if exchange.answer is None:
            raise TokenUnavailableError(f"{self.host}: {self._why(exchange)}", suspect="endpoint")
        return exchange.answer

    def _why(self, exchange: Exchange) -> str:
        from grpc_bearer.sources._wire import FAILED

        if exchange.reason is None:
            through = exchange.proxy and f" through {exchange.proxy}"
            return f"no complete answer within {self.timeout:g} s{through}"
        return (FAILED in exchange.reason and self._file_problem()) or exchange.reason

    def _file_problem(self) -> str | None:
        """What is wrong by now with the files that were right when this was built."""
        name, trusted = self._trust()
        problem = trusted and _ca_problem(trusted)
        if problem:
            return f"{name}: {problem}"
        problem = self.cert and _cert_problem(self.cert)
        return f"cert: {problem}" if problem else None

    def _adapter(self) -> WatchedAdapter:
        from grpc_bearer.sources._wire import WatchedAdapter

        # A forked child makes its own: it must not write into its parent's connections, nor wait for its locks.
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = (os.getpid(), WatchedAdapter())
        adapter = self._pool[1]
        before, self._stamps = self._stamps, self._certificates()
        if SYSTEM_CLOCK.monotonic() - self._last_used > _KEEP_ALIVE or before != self._stamps:
            adapter.close()  # forgets its connections; it stays usable
        return adapter

    def _certificates(self) -> list[Stamp]:
        """What tells the files of certificates from what they were: a connection holds on to those it began with."""
        try:
            return stamps_of(self._trust()[1], *(self.cert or ()))
        except OSError:  # one is being replaced; a new connection would say so
            return self._stamps

    def _trust(self) -> tuple[str, str | None]:
        """Where trust comes from, by name: our own `ca`, else the environment as `requests` reads it, else certifi
        (`None`)."""
        if self.ca:
            return "ca", self.ca
        names = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        return next(((name, os.environ[name]) for name in names if os.environ.get(name)), ("certifi", None))

    def close(self) -> None:
        """Close the connections. Idempotent; a later `send` opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and pool[0] == os.getpid():
            pool[1].close()


def run_within(seconds: float, exchange: Exchange, adapter: WatchedAdapter) -> None:
    """Run the exchange on another thread, and cut it if it has not ended by then."""
    done = start(partial(exchange.run, adapter))
    try:
        done.wait(seconds)
    finally:
        exchange.cut()


# -- checks -----------------------------------------------------------------------------------------------------------


def _checked_url(url: object, field: str, allow_http_loopback: bool) -> SplitResult:
    parts = _split(url, field)
    if "@" in parts.netloc:
        raise ConfigurationError("has a user or password in it; use headers= or auth=", field=field)
    if not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise ConfigurationError("has no host name, or one with strange characters", field=field)
    if parts.fragment:
        raise ConfigurationError("has a '#' part, which is never sent", field=field)
    if parts.scheme == "https":
        return parts
    if parts.scheme != "http":
        raise ConfigurationError("expected an https:// address", field=field)
    if not _is_loopback(parts.hostname):
        raise ConfigurationError("http:// would send the credential in the clear; use https://", field=field)
    if not allow_http_loopback:
        raise ConfigurationError("http:// is taken to this machine only, with allow_http_loopback=True", field=field)
    return parts


def _split(url: object, field: str) -> SplitResult:
    if not isinstance(url, str):
        raise ConfigurationError(f"expected a str, got {type(url).__name__}", field=field)
    if not _PRINTABLE.fullmatch(url):
        raise ConfigurationError("empty, or with a space or a character outside ASCII", field=field)
    with translating(ValueError, to=lambda _: ConfigurationError("not a URL", field=field)):
        parts = urlsplit(url)
        _ = parts.port, parts.hostname  # both are parsed only now, and raise
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_headers(headers: Mapping[str, SecretLike | Secret] | None) -> dict[str, Secret]:
    """Headers under lower-case names, their values hidden; refused are those that HTTP cannot carry."""
    hidden: dict[str, Secret] = {}
    for name, value in as_dict("headers", {} if headers is None else headers).items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError("a name is no HTTP header name", field="headers")
        secret = given_text(Where("headers", name), value)
        if secret.fixed and not _HEADER_VALUE.fullmatch(secret.reveal()):
            raise ConfigurationError(f"{name}: has a line break or a character outside ASCII", field="headers")
        hidden[name.lower()] = secret
    return hidden


def carried(headers: Mapping[str, Secret]) -> dict[str, Secret]:
    """The headers as they are now.

    Raises:
        TokenUnavailableError, TokenFormatError: one is in a file that cannot be read, or that no header can carry.
    """
    sent = {name: value.now() for name, value in headers.items()}
    for name, value in sent.items():
        if not _HEADER_VALUE.fullmatch(value.reveal()):
            raise TokenFormatError(f"headers: {name}: its file has a line break or a character outside ASCII")
    return sent


def _checked_ca(ca: object) -> str | None:
    if ca is None:
        return None
    path = expanded_path("ca", ca)
    if problem := _ca_problem(path):
        raise ConfigurationError(problem, field="ca")
    return path


def _checked_cert(cert: object) -> tuple[str, str] | None:
    if cert is None:
        return None
    if not isinstance(cert, tuple) or len(cert) != 2:
        raise ConfigurationError("expected a pair of paths: (certificate, key)", field="cert")
    pair = expanded_path("cert", cert[0]), expanded_path("cert", cert[1])
    if problem := _cert_problem(pair):
        raise ConfigurationError(problem, field="cert")
    return pair


def _ca_problem(path: str) -> str | None:
    if os.path.isdir(path):
        return None
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        return _unreadable(error, path) or f"no PEM certificates in {path!r}"
    return None


def _cert_problem(pair: tuple[str, str]) -> str | None:
    try:
        for path in pair:
            with open(path, "rb"):  # ssl does not say which of the two it is
                pass
        # The password is a function so that an encrypted key fails here instead of asking at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(*pair, password=lambda: "")
    except (OSError, ValueError) as error:
        mismatch = f"{pair[0]!r} and {pair[1]!r} are no PEM certificate with its unencrypted key"
        return _unreadable(error, path) or mismatch
    return None


def _unreadable(error: Exception, path: str) -> str | None:
    if isinstance(error, FileNotFoundError):
        return f"no such file: {path!r}"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        return f"cannot read {path!r} ({error.strerror or type(error).__name__})"
    return None
