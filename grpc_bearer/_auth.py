"""`BearerAuth`: the one object that users hold."""

from __future__ import annotations

import inspect
import os
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict, cast

import grpc

from grpc_bearer._base.arguments import checked_flag, checked_wait
from grpc_bearer._base.clock import SYSTEM_CLOCK, Clock, checked_clock
from grpc_bearer._base.clock_skew import SkewedClock
from grpc_bearer._base.grpc_private_credentials import load_plugin_wrapper
from grpc_bearer._base.not_credentials import NotCredentials
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import (
    CallContext,
    HiddenText,
    Shared,
    Token,
    TokenFunction,
    checked_header_name,
    checked_scheme,
    fingerprint,
    is_b64token,
    secrets_may_travel,
)
from grpc_bearer._engine.engine import Engine, Lease
from grpc_bearer._engine.notify import Notifier, checked_name, checked_observers
from grpc_bearer.errors import ConfigurationError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

    from grpc_bearer.cache._shared import SharedCache
    from grpc_bearer.events import Observer
    from grpc_bearer.sources.azure import TokenCredential
else:
    Credentials = Any  # whoever has some has paid for the import; nobody else shall

#: What a `BearerAuth` is made of.
SourceLike: TypeAlias = Source | str | os.PathLike[str] | TokenFunction | Credentials


class AuthOptions(TypedDict, total=False):
    """The arguments of `BearerAuth` that go by name alone, for functions that hand them on."""

    name: str
    keep_warm: bool
    max_keys: int
    observers: Iterable[Observer]
    cache: SharedCache | None
    pickle_secrets: bool
    clock: Clock


class HeaderOptions(AuthOptions, total=False):
    """The same, and where the token travels."""

    header: str
    scheme: str


#: The token that was handed out last in this context, and whose it was; a context may live longer than the auth.
handed_out: ContextVar[tuple[weakref.ref[BearerAuth], Lease] | None] = ContextVar(
    "grpc_bearer_handed_out", default=None
)


class BearerAuth(Shared, grpc.AuthMetadataPlugin):
    """A bearer token for every call: where it comes from, and the header it travels in.

    One `BearerAuth` serves any number of channels, threads and event loops; they share its token and its refreshes. It
    is a `grpc.AuthMetadataPlugin`, so it also fits wherever gRPC or another library takes one. To copy it (`copy.copy`,
    `copy.deepcopy`, `dataclasses.asdict`) gives the same object, so that copies of a configuration share it too; what
    is unpickled is another, with a token of its own.

    Args:
        source: a `Source`; or what stands for one: a `str` (a token), a path (a token file), a function or coroutine
            function that returns a token, google-auth credentials, or, with `scope`, those of azure-identity.
        header: the metadata key; upper case is lowered, as HTTP/2 wants it.
        scheme: the word before the token; `""` sends the bare token.
        scope: what to ask a credential of azure-identity for, such as `api://fleet/.default`; or several.
        name: what to call it in log lines, events and metrics, where there are several.
        keep_warm: refresh on a timer, so that the first call after a long pause finds a fresh token too.
        max_keys: how many tokens are kept for a source whose tokens differ by call; the least recently used go first.
        observers: who is told of its events, besides the log and `grpc_bearer.events.add_observer`'s; see
            `grpc_bearer.events`. They stay behind when it is pickled.
        cache: a `SharedCache`: the processes of a machine or a fleet then share the token, and one of them fetches it.
        pickle_secrets: when this auth is pickled, also carry what was given inline (keys, secrets, tokens). They are in
            the clear then, for all who see the pickle; better name files.
        clock: where to read time.

    Raises:
        ConfigurationError: the header, the scheme, the source or another argument cannot be used.

    >>> auth = BearerAuth("s3cret", header="x-api-token", scheme="")
    >>> auth.headers()
    {'x-api-token': 's3cret'}
    >>> auth
    BearerAuth(StaticSource, header='x-api-token')
    """

    _credentials: Any = NotCredentials()

    def __init__(
        self,
        source: SourceLike | TokenCredential,
        header: str = "authorization",
        scheme: str = "Bearer",
        *,
        scope: str | Iterable[str] | None = None,
        name: str = "",
        keep_warm: bool = False,
        max_keys: int = 1024,
        observers: Iterable[Observer] = (),
        cache: SharedCache | None = None,
        pickle_secrets: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._source = as_source(source, scope)
        _load(self._source)
        self._header = checked_header_name(header)
        self._scheme = checked_scheme(scheme)
        self._keep_warm = checked_flag("keep_warm", keep_warm)
        pickle_secrets = checked_flag("pickle_secrets", pickle_secrets)
        self._max_keys = _checked_max_keys(max_keys)
        self._name = checked_name(name)
        base, kind = checked_clock(clock), type(self._source).__name__
        notify = Notifier(self._name, kind, checked_observers(observers), base.monotonic)
        self._clock = SkewedClock(base, notify.skew)
        # What is signed here has no others.
        self._looks_at_characters = self._scheme.lower() == "bearer" and not self._source.signs
        self._anywhere = CallContext("", "", self._clock)
        self._cache, self._pickle_secrets = cache, pickle_secrets
        self._engine = Engine(
            self._source if cache is None else _cached(self._source, cache),
            metadata_of=self._metadata_of,
            clock=self._clock,
            keep_warm=keep_warm,
            max_keys=max_keys,
            notify=notify,
        )

    def _metadata_of(self, token: Token) -> tuple[tuple[str, str], ...]:
        if self._looks_at_characters and not is_b64token(token.value):
            self._looks_at_characters = False  # once is enough
            warnings.warn(
                f"{self!r}: its token has a character that no token of the scheme Bearer may have (RFC 6750 section "
                "2.1); some servers refuse it",
                stacklevel=2,
            )
        text = HiddenText(f"{self._scheme} {token.value}" if self._scheme else token.value)
        return ((self._header, text), *self._source.beside)

    @property
    def header(self) -> str:
        """The metadata key that carries the token."""
        return self._header

    @property
    def single_use(self) -> bool:
        """Whether each attempt of a call gets a token of its own."""
        return self._source.single_use

    def token(self, url: str = "", method: str = "", *, timeout: float | None = None) -> Token:
        """The current token, fetched if need be.

        Args:
            url: the service URL, `https://host/package.Service`, for sources whose tokens differ by call.
            method: the bare method name, likewise.
            timeout: how long to wait for a fetch, in seconds; `None`: as long as the fetch itself may take.

        Raises:
            TokenError: no token is to be had; see its subclasses.
            SigningError: the key cannot be used.
            ConfigurationError: called on the event loop that the source itself needs.
        """
        return self._lease(url, method, timeout).token

    async def atoken(self, url: str = "", method: str = "") -> Token:
        """`token` without blocking the event loop. Cancelling it cancels nobody else's wait."""
        lease = await self._engine.atoken(self._context(url, method))
        return lease.token

    def bearer(self, url: str = "", method: str = "", *, timeout: float | None = None) -> str:
        """The bare token, for clients that take a function that returns one: hand them `auth.bearer` itself.

        Arguments and errors are those of `token`. `grpc_bearer.if_refused` heals such clients.
        """
        return self._handed_out(self._lease(url, method, timeout)).token.value

    async def abearer(self, url: str = "", method: str = "") -> str:
        """`bearer` without blocking the event loop."""
        return self._handed_out(await self._engine.atoken(self._context(url, method))).token.value

    def metadata(self, url: str = "", method: str = "", *, timeout: float | None = None) -> tuple[tuple[str, str], ...]:
        """The header as gRPC metadata: `stub.Method(request, metadata=auth.metadata())`. As `bearer` otherwise."""
        lease = self._handed_out(self._lease(url, method, timeout))
        return tuple((name, str(value)) for name, value in lease.metadata)

    def headers(self, url: str = "", method: str = "", *, timeout: float | None = None) -> dict[str, str]:
        """The same header for a REST call to the same service. As `bearer` otherwise."""
        return dict(self.metadata(url, method, timeout=timeout))

    def _lease(self, url: str, method: str, timeout: float | None) -> Lease:
        return self._engine.token(self._context(url, method), checked_wait("timeout", timeout))

    def _handed_out(self, lease: Lease) -> Lease:
        handed_out.set((weakref.ref(self), lease))
        return lease

    def invalidate(self, token: Token | str) -> bool:
        """Say that the server refused this token, so that the next call gets another.

        Only the token that is still current is given up, so any number of calls that failed with one token cost one
        fetch. A budget bounds how often; beyond it nothing is given up.

        Returns:
            Whether the token was given up.

        Raises:
            ConfigurationError: no token was given.
        """
        if not isinstance(token, (Token, str)):
            raise ConfigurationError(f"expected a Token or a str, got {type(token).__name__}", field="token")
        return self._engine.invalidate(token.fingerprint if isinstance(token, Token) else fingerprint(token.strip()))

    def close(self) -> None:
        """Stop: later calls fail, saying so. Idempotent; never waits for a fetch in flight."""
        self._engine.close()

    def __enter__(self) -> BearerAuth:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __call__(self, context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        """gRPC asks for metadata: answered now or later, exactly once, and without ever raising."""

        def deliver(lease: Any, error: Exception | None) -> None:
            callback(() if lease is None else lease.metadata, error)

        self._engine.request(self._context(context.service_url, context.method_name), deliver, own_thread=True)

    def _context(self, url: str, method: str) -> CallContext:
        return CallContext(url, method, self._clock) if url or method else self._anywhere

    def as_google_credentials(self) -> Credentials:
        """This auth as google-auth credentials, for libraries that take those."""
        from grpc_bearer.sources.google import as_google_credentials

        return as_google_credentials(self)

    def __repr__(self) -> str:
        name = f", name={self._name!r}" if self._name else ""
        return f"BearerAuth({type(self._source).__name__}, header={self._header!r}{name})"

    def __reduce__(self) -> tuple[Callable[..., BearerAuth], tuple[Any, ...]]:
        # Configuration only: the other process fetches a token of its own.
        options = {
            "name": self._name,
            "keep_warm": self._keep_warm,
            "max_keys": self._max_keys,
            "cache": self._cache,
            "pickle_secrets": self._pickle_secrets,
            "clock": self._clock.base,
        }
        args = self._source, self._header, self._scheme, options
        return (_unsealed, (_with_secrets(args),)) if self._pickle_secrets else (_rebuild, args)


def _load(source: Source) -> None:
    """Import what only a fetch, a failure or a refusal needs: by then there may be no more files to be opened."""
    for name in ("hashlib", "grpc_bearer._calls.diagnosis", *source.needs):
        import_module(name)
    load_plugin_wrapper()


def _rebuild(source: Source, header: str, scheme: str, options: dict[str, Any]) -> BearerAuth:
    return BearerAuth(source, header, scheme, **options)


def _with_secrets(args: tuple[Any, ...]) -> bytes:
    """A pickle in the pickle, made while secrets may travel."""
    import pickle

    allowed = secrets_may_travel.set(True)
    try:
        # Functions of __main__ and lambdas travel by value with cloudpickle, if the engine around us uses that.
        by_value = sys.modules.get("cloudpickle")
        try:
            dumped = pickle.dumps(args)
            if by_value is None or b"__main__" not in dumped:
                return dumped
        except (pickle.PicklingError, AttributeError, TypeError):
            if by_value is None:
                raise
        return cast(bytes, by_value.dumps(args))
    finally:
        secrets_may_travel.reset(allowed)


def _unsealed(dumped: bytes) -> BearerAuth:
    import pickle

    return _rebuild(*pickle.loads(dumped))  # noqa: S301  # part of the pickle that is being loaded


def _cached(source: Source, cache: object) -> Source:
    from grpc_bearer.cache._cached import CachedSource
    from grpc_bearer.cache._shared import SharedCache

    if not isinstance(cache, SharedCache):
        raise ConfigurationError(f"expected a SharedCache, got {type(cache).__name__}", field="cache")
    return CachedSource(source, cache)


def _checked_max_keys(max_keys: object) -> int:
    if not isinstance(max_keys, int) or isinstance(max_keys, bool) or max_keys < 1:
        raise ConfigurationError("expected a whole number, 1 or more", field="max_keys")
    return max_keys


#: What `auth=` takes, everywhere.
AuthLike: TypeAlias = BearerAuth | SourceLike


def as_auth(auth: AuthLike) -> BearerAuth:
    """What was given for `auth=`, as a `BearerAuth`.

    Raises:
        ConfigurationError: it is something else; the text says what to do with that.
    """
    return auth if isinstance(auth, BearerAuth) else BearerAuth(auth)


def as_source(source: object, scope: str | Iterable[str] | None = None) -> Source:
    """A source, or what stands for one."""
    if isinstance(source, Source) and scope is None:
        return source
    if scope is not None or callable(getattr(source, "get_token", None)):
        from grpc_bearer.sources._with_scope import with_scope

        return with_scope(source, scope)
    # Recognised before anything callable, which a plugin is too.
    if isinstance(source, BearerAuth):
        raise ConfigurationError("this is a BearerAuth already; pass it as auth= to a channel", field="source")
    if isinstance(source, grpc.CallCredentials):
        raise ConfigurationError(
            "grpc.CallCredentials cannot be opened; pass them as credentials= of a call, or combine them with "
            "grpc.composite_channel_credentials and use grpc.secure_channel",
            field="auth",
        )
    if isinstance(source, grpc.AuthMetadataPlugin):
        raise ConfigurationError(
            f"{type(source).__name__} is another library's AuthMetadataPlugin; use "
            "grpc.metadata_call_credentials with grpc.secure_channel, or give the credentials it was made of",
            field="auth",
        )
    if isinstance(source, str):
        from grpc_bearer.sources.static import StaticSource

        return StaticSource(source)
    if isinstance(source, os.PathLike):
        from grpc_bearer.sources.file import FileSource

        return FileSource(source)
    if _is_google_credential(source):
        from grpc_bearer.sources.google import GoogleAuthSource

        return GoogleAuthSource(cast("Credentials", source))
    if callable(source) and not inspect.isclass(source):
        from grpc_bearer.sources.callable import CallableSource

        return CallableSource(source)
    if inspect.iscoroutine(source):
        source.close()  # else Python complains of it as well
        what = f"pass the function itself: {source.__name__}, not {source.__name__}()"
        raise ConfigurationError(f"a coroutine, which gives one token and no second one; {what}", field="auth")
    raise ConfigurationError(
        f"cannot make a token source of {type(source).__name__}; expected a BearerAuth, a Source, a token as "
        "str, a path, a function that returns a token, or google-auth credentials",
        field="auth",
    )


def _is_google_credential(value: object) -> bool:
    # Whoever holds google-auth credentials has imported their module; nobody else should pay for it.
    module = sys.modules.get("google.auth.credentials")
    return module is not None and isinstance(value, module.Credentials)
