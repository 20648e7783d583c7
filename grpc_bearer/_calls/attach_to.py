"""`attach_to`: channels that other people's code opens carry our tokens, to the targets that were named."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from grpc_bearer._auth import AuthLike, BearerAuth, as_auth
from grpc_bearer._base import fork_hooks
from grpc_bearer._base.arguments import checked_flag
from grpc_bearer._base.grpc_private_credentials import credentials_kind
from grpc_bearer._calls import aio_channel, sync_channel
from grpc_bearer._calls.attach_token import with_attach_options
from grpc_bearer._calls.channel_functions import replaced
from grpc_bearer._calls.channel_security import attachment_for, protecting
from grpc_bearer._calls.own_channels import opening_own
from grpc_bearer._calls.retry_policy import DEFAULT, RetryPolicy, checked_policy
from grpc_bearer._calls.targets import canonical, checked_targets
from grpc_bearer._calls.without_header import fills, without_header
from grpc_bearer.errors import InsecureChannelError


def attach_to(
    auth: AuthLike,
    targets: str | Iterable[str],
    *,
    process_wide: bool = False,
    allow_plaintext: bool = False,
    retry: RetryPolicy | None = DEFAULT,
) -> AbstractContextManager[BearerAuth]:
    """Put a token on the calls of every channel that is opened in here, by anybody, to one of the targets.

    For clients that open their channels themselves. A channel opened in here keeps its token for ever after; one that
    was opened before, or is opened after, has none. A client that connects later, or once more, needs the scope then:
    enter it where the program begins, or for the whole program by `contextlib.ExitStack`.

    What the client itself puts under our header in its channel credentials is left out (of those that Google's clients
    make, all that they add); what it gives as metadata of a call goes out in place of ours. In nested scopes for one
    target the innermost counts; scopes with different headers are added up. Channels that are opened through this
    library have their own auth, and stay as they are.

    Args:
        auth: as for `secure_channel`.
        targets: where the token may go: `host:port`, as the client gives it to gRPC; several in a list. Compared
            without regard to case and to `dns:///`; without a port it is 443. A `*` stands for a part of one label of
            the name, or of the port: `*.example.com`, `localhost:*`. Other targets (`unix:`, `xds:`) are compared as
            they are.
        process_wide: also channels that other threads open; else those of this context (`contextvars`): this thread
            or task, and the tasks it starts.
        allow_plaintext: the token may go in the clear on channels that are opened without TLS.
        retry: as for `secure_channel`.

    Returns:
        What `with` takes, and gives the auth; also a decorator of functions (not of coroutine functions).

    Raises:
        ConfigurationError: an argument cannot be used.
        InsecureChannelError: in here, by whoever opens a channel without TLS to one of the targets, unless
            `allow_plaintext=True`.

    >>> import grpc, grpc_bearer
    >>> with grpc_bearer.attach_to("s3cret", targets=["milvus.example.com:443"]):
    ...     channel = grpc.secure_channel("milvus.example.com:443", grpc.ssl_channel_credentials())
    >>> type(channel).__module__.partition(".")[0]
    'grpc_bearer'
    >>> channel.close()
    """
    return _entered(
        _Scope(
            as_auth(auth),
            checked_targets(targets),
            checked_flag("process_wide", process_wide),
            checked_flag("allow_plaintext", allow_plaintext),
            checked_policy(retry),
        )
    )


@contextmanager
def _entered(described: _Scope) -> Iterator[BearerAuth]:
    scope = replace(described)  # a function that is decorated enters each time anew
    scope.enter()
    try:
        yield scope.auth
    finally:
        scope.exit()


@dataclass(eq=False)
class _Scope:
    auth: BearerAuth
    targets: re.Pattern[str]
    process_wide: bool
    allow_plaintext: bool
    retry: RetryPolicy | None
    #: A task that was started in here may live longer, with a copy of the context.
    active: bool = True

    def enter(self) -> None:
        _active.add(self)
        if not self.process_wide:
            _in_context.set((*_current(_in_context.get()), self))

    def exit(self) -> None:
        self.active = False
        _in_context.set(_current(_in_context.get()))  # which may be another context by now: nothing is reset by a token
        _active.remove(self)


def _current(scopes: Iterable[_Scope]) -> tuple[_Scope, ...]:
    return tuple(scope for scope in scopes if scope.active)


_in_context: ContextVar[tuple[_Scope, ...]] = ContextVar("grpc_bearer_attach_to", default=())


class _Active:
    """The scopes that are active anywhere. gRPC's functions ask us while there is one."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.scopes: tuple[_Scope, ...] = ()

    def add(self, scope: _Scope) -> None:
        with self.lock:
            if not self.scopes:
                replaced.replace(_opened)
            self.scopes = (*self.scopes, scope)

    def remove(self, scope: _Scope) -> None:
        with self.lock:
            self.scopes = tuple(each for each in self.scopes if each is not scope)
            if not self.scopes:
                replaced.restore()


_active = _Active()


def _after_fork_in_child() -> None:
    _active.lock = threading.Lock()


fork_hooks.in_child(fork_hooks.Phase.RENEW, _after_fork_in_child)


# ------------------------------------------------------------------------------------------------------------- channels


def _opened(name: str, make: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What one of gRPC's functions returns, with our tokens where a scope wants that."""
    try:
        given = inspect.signature(make).bind(*args, **kwargs).arguments
    except TypeError:
        return make(*args, **kwargs)  # gRPC says what is wrong
    scopes = _scopes_for(given["target"])
    if given.get("credentials") is not None:
        scopes = [scope for scope in scopes if not fills(given["credentials"], scope.auth.header)]
    if not scopes:
        return make(*args, **kwargs)
    plaintext = _prepare(given, scopes)
    channel = make(**given)
    kind: Any = aio_channel.Channel if name.startswith("grpc.aio.") else sync_channel.Channel
    for scope in scopes:
        credentials = given.get("credentials")
        channel = kind(
            channel, attachment_for(channel, scope.auth, credentials, plaintext=plaintext, retry=scope.retry)
        )
    return channel


def _prepare(given: dict[str, Any], scopes: Iterable[_Scope]) -> bool:
    """Make the arguments such that our tokens can go over the channel; whether that is one without TLS."""
    if "credentials" in given and credentials_kind(given["credentials"]) != "InsecureChannelCredentials":
        given["credentials"] = protecting(given["credentials"])
        for scope in scopes:
            given["credentials"] = without_header(given["credentials"], scope.auth.header)
        return False
    if not all(scope.allow_plaintext for scope in scopes):
        raise InsecureChannelError(
            "attach_to: a channel to one of the targets is opened without TLS, and would carry the token in the clear; "
            "have the client use TLS, or give attach_to allow_plaintext=True for a mesh that encrypts below"
        )
    single_use = any(scope.auth.single_use for scope in scopes)
    given["options"] = with_attach_options(given.get("options"), "metadata" if single_use else "auto")
    return True


def _scopes_for(target: object) -> list[_Scope]:
    """Of those that name the target, one for each header: the innermost."""
    if opening_own.get():
        return []
    text = target.decode(errors="replace") if isinstance(target, bytes) else target
    if not isinstance(text, str):
        return []
    name = canonical(text)
    process_wide = (scope for scope in _active.scopes if scope.process_wide)
    found: dict[str, _Scope] = {}
    for scope in (*process_wide, *_in_context.get()):
        if scope.active and scope.targets.fullmatch(name):
            found[scope.auth.header] = scope
    return list(found.values())
