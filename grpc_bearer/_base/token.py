"""The values that pass between sources, engine and calls, and what a header may carry."""

from __future__ import annotations

import re
import warnings
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NoReturn, SupportsIndex, TypeAlias, TypeVar

from grpc_bearer._base.arguments import UNFILLED, is_number, is_placeholder
from grpc_bearer._base.clock import SYSTEM_CLOCK, Clock
from grpc_bearer.errors import ConfigurationError, TokenFormatError

# Most servers and proxies refuse header blocks beyond 8 KiB (nginx, Envoy's default of 60 KiB is the generous one;
# gRPC's own servers stop at 16 KiB).
LARGE_TOKEN = 8 * 1024

# gRPC's rule for metadata keys (HTTP/2 transport mapping): lower-case letters, digits, "_", "-" and ".".
_HEADER_NAME = re.compile(r"[0-9a-z_.-]+")
# Visible ASCII only: gRPC would let a space through, but no token has one, and "Bearer " pasted in front does.
_TOKEN_VALUE = re.compile(r"[\x21-\x7e]+")
# What a bearer token is made of (`b64token`, RFC 6750 section 2.1). Of another scheme a token may be anything visible.
_B64TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
# Parts of templates, wherever they stand in a token, and whole ones that could be a password but are no token.
_LEFT_OVER = re.compile(r"\$\{|\$\(|\{\{|\}\}|<%|#\{")
_MORE_LEFT_OVER = re.compile(r"\{[A-Za-z_][\w.-]*\}|%\(\w+\)s|\$\w+|%\w+%|<[^<>]*>")
# What documents write where the token goes, in letters that a token may have.
_SAMPLE = re.compile(r"(?i:your)[_-][A-Za-z_-]*|__[A-Z][A-Z_]*__")
# The line of an `.env` file. A token may well begin with a name of its own, such as `session=`.
_ASSIGNMENT = re.compile(r"(?:export )?(?:[A-Z][A-Z0-9_]+|\w*(?i:token|secret|key|jwt|bearer))=[^=]")
_QUOTES = "\"'`"


_Self = TypeVar("_Self")


class Shared:
    """To copy such an object, deep or not, gives the object itself. Only pickling makes another."""

    __slots__ = ()

    def __copy__(self: _Self) -> _Self:
        return self

    def __deepcopy__(self: _Self, memo: object) -> _Self:
        return self


@dataclass(frozen=True, slots=True, repr=False)
class Token(Shared):
    """One bearer token and what is known of its life.

    Args:
        value: the bare token, without a scheme. White space around it is trimmed.
        expires_at: when it expires, in seconds since the Unix epoch; `None`: valid until revoked.
        refresh_at: when a new one should be fetched ahead, in seconds since the Unix epoch; `None`: the engine chooses.
        single_use: to be used for one attempt only, then never again.

    Raises:
        TokenFormatError: empty, or with a character that no token may carry.

    >>> Token("s3cret", expires_at=1_700_000_000.0)
    Token(<hidden>, expires_at=1700000000.0)
    """

    value: str
    expires_at: float | None = None
    refresh_at: float | None = None
    single_use: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", checked_token(self.value))
        for name in ("expires_at", "refresh_at"):
            at = getattr(self, name)
            if at is not None and not is_number(at):
                raise TokenFormatError(f"{name}: expected seconds since the Unix epoch, got {_kind(at)}")
        if not isinstance(self.single_use, bool):
            raise TokenFormatError(f"single_use: expected True or False, got {type(self.single_use).__name__}")

    def __repr__(self) -> str:
        parts = ["<hidden>"]
        parts += [
            f"{name}={value!r}" for name in ("expires_at", "refresh_at") if (value := getattr(self, name)) is not None
        ]
        parts += ["single_use=True"] * self.single_use
        return f"Token({', '.join(parts)})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Token does not pickle: pickle the BearerAuth, which carries configuration only")

    @property
    def fingerprint(self) -> str:
        """The token's identity: equal for equal tokens in every process, of no use for anything else."""
        return fingerprint(self.value)


def made_token(value: str, expires_at: float, single_use: bool) -> Token:
    """A `Token` that was signed here. Its characters need no check, which would cost more than all the rest."""
    if len(value) > LARGE_TOKEN:
        return Token(value, expires_at, single_use=single_use)  # warns
    token = object.__new__(Token)
    _put_value(token, value)
    _put_expires_at(token, expires_at)
    _put_refresh_at(token, None)
    _put_single_use(token, single_use)
    return token


# The setters of its fields, which `object.__setattr__` would look up by name each time.
_put_value, _put_expires_at, _put_refresh_at, _put_single_use = (
    vars(Token)[name].__set__ for name in ("value", "expires_at", "refresh_at", "single_use")
)


def fingerprint(value: str) -> str:
    import hashlib  # OpenSSL's bindings: 1 ms

    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()


def checked_token(value: object, what: str = "token") -> str:
    """The token without white space around it, or a `TokenFormatError` that names `what` but not the value."""
    if not isinstance(value, str):
        raise TokenFormatError(f"expected a str, got {type(value).__name__}", field=what)
    value = value.strip()
    if not value:
        raise TokenFormatError("empty", field=what)
    if problem := _token_problem(value):
        raise TokenFormatError(problem, field=what)
    if len(value) > LARGE_TOKEN:
        warnings.warn(
            f"{what}: {len(value)} bytes; many servers and proxies refuse headers over {LARGE_TOKEN} bytes",
            stacklevel=3,
        )
    return value


def _token_problem(value: str) -> str:
    """Why this is no token, in words that hold nothing of it."""
    if is_b64token(value):
        return UNFILLED if _SAMPLE.fullmatch(value) else ""
    if value[:7].lower() == "bearer ":
        return "begins with 'Bearer '; give the bare token, the scheme is added to it"
    if is_placeholder(value) or _LEFT_OVER.search(value) or _MORE_LEFT_OVER.fullmatch(value):
        return UNFILLED
    if value[0] in _QUOTES and value[-1] == value[0]:
        return "is in quotes; give it without them"
    if _ASSIGNMENT.match(value):
        return "is an assignment such as TOKEN=…; give what stands behind the '='"
    if not _TOKEN_VALUE.fullmatch(value):
        return "has a space, a control character or one outside ASCII, which no header may carry"
    return ""


def is_b64token(value: str) -> bool:
    """Whether it has only the characters that a token of the scheme Bearer may have."""
    return _B64TOKEN.fullmatch(value) is not None


def _kind(at: object) -> str:
    return "one that is not finite" if isinstance(at, (int, float)) and not isinstance(at, bool) else type(at).__name__


def checked_header_name(name: object) -> str:
    """The header's name in lower case, as gRPC wants it.

    Raises:
        ConfigurationError: gRPC would refuse the name.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"expected a str, got {type(name).__name__}", field="header")
    lower = name.lower()
    if not _HEADER_NAME.fullmatch(lower):
        raise ConfigurationError(
            f"{name!r} is no gRPC metadata key (letters, digits, '-', '_' and '.' only)", field="header"
        )
    if lower.endswith("-bin"):
        raise ConfigurationError(
            f"{name!r} ends in '-bin', which gRPC keeps for binary values; a token is text", field="header"
        )
    if lower.startswith("grpc-"):
        raise ConfigurationError(f"{name!r} begins with 'grpc-', which gRPC keeps for itself", field="header")
    return lower


def checked_scheme(scheme: object) -> str:
    """The scheme that stands before the token, such as `Bearer`; empty for a bare token."""
    if not isinstance(scheme, str) or (scheme and not _TOKEN_VALUE.fullmatch(scheme)):
        raise ConfigurationError(
            "expected one word of visible ASCII such as 'Bearer', or '' for the bare token", field="scheme"
        )
    return scheme


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a source may know of the call that wants a token.

    Args:
        service_url: `https://host[:port]/package.Service`, as gRPC names it (the port is left out if it is 443).
        method: the bare method name.
        clock: where to read time.
        refused: the fingerprint of the token that a server refused, if that is why another is wanted; else empty.

    >>> CallContext("https://api.example.com/fleet.v1.Fleet", "List").service
    'fleet.v1.Fleet'
    """

    service_url: str = ""
    method: str = ""
    clock: Clock = field(default=SYSTEM_CLOCK, compare=False, repr=False)
    refused: str = field(default="", compare=False, repr=False)

    @property
    def service(self) -> str:
        """The full name of the gRPC service, `package.Service`; empty outside a call."""
        return self.service_url.rpartition("/")[2]


class HiddenText(str):
    """Text that hides itself in every `repr`, and is plain text in all else.

    Tracebacks that show local variables (rich, Sentry, `traceback` with `capture_locals`) show those of gRPC's frames
    too, and with them the metadata of the call. Some show only the first characters: a slice is hidden as well. gRPC
    sends it as it sends any `str`; `str()` of it is a plain one.

    >>> HiddenText("Bearer s3cret"), HiddenText("Bearer s3cret")[:9], str(HiddenText("Bearer s3cret"))
    (<hidden>, <hidden>, 'Bearer s3cret')
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"

    def __getitem__(self, index: SupportsIndex | slice) -> HiddenText:
        return HiddenText(super().__getitem__(index))


#: A function that gives tokens: it is called with nothing, or with the `CallContext` alone. The type does not
#: say so: a checker would then take `lambda token=token: token` for one that wants the context.
TokenFunction: TypeAlias = Callable[..., str | Token | Awaitable[str | Token]]

#: What to do about a secret that does not pickle.
INSTEAD = (
    "name a file (pathlib.Path) or an environment variable (functools.partial(os.getenv, 'NAME')) where it is taken, "
    "or say BearerAuth(..., pickle_secrets=True)"
)
#: Whether what is pickled just now may carry secrets: only if the user said `pickle_secrets=True`.
secrets_may_travel: ContextVar[bool] = ContextVar("grpc_bearer_secrets_may_travel", default=False)


class Secret(Shared):
    """A credential kept in memory: shows itself to nobody, and does not pickle unless the user says so.

    >>> Secret("s3cret", "api_key")
    <api_key: hidden>
    """

    __slots__ = ("_field", "_value")
    #: Whether it is the same each time.
    fixed = True

    def __init__(self, value: str, field: str = "secret") -> None:
        self._value = value
        self._field = field

    def reveal(self) -> str:
        """The credential itself."""
        return self._value

    def now(self) -> Secret:
        """A secret that is the same each time: what this one is now."""
        return self if self.fixed else Secret(self.reveal(), self._field)

    def __repr__(self) -> str:
        return f"<{self._field}: hidden>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and type(other) is type(self) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> tuple[type[Secret], tuple[object, ...]]:
        if secrets_may_travel.get():
            return Secret, (self._value, self._field)
        raise ConfigurationError(
            f"given inline, and a pickle would carry it in the clear; {INSTEAD}", field=self._field
        )
