"""`DeviceCodeSource`: somebody logs in, in any browser on any device (RFC 8628)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from os import PathLike
from typing import TYPE_CHECKING

from grpc_bearer._base.clock import SYSTEM_CLOCK, Clock
from grpc_bearer._base.identity import Identity
from grpc_bearer._base.token import CallContext, HiddenText, Token
from grpc_bearer._base.user_code import called, name_of
from grpc_bearer.errors import ConfigurationError
from grpc_bearer.sources._device import CODES, DevicePrompt, Waiting, device_of, has_terminal, to_stderr
from grpc_bearer.sources._form import targets
from grpc_bearer.sources._given import SecretGiven
from grpc_bearer.sources._kept_login import Granted
from grpc_bearer.sources._login_source import LoginSource, store_of
from grpc_bearer.sources._oauth import ClientOptions, OAuthClient

if TYPE_CHECKING:
    from typing_extensions import Unpack  # in typing from Python 3.11 on; only checkers need it

__all__ = ["DeviceCodeSource", "DevicePrompt"]

_DEVICE = "device_authorization_endpoint"  # its name in RFC 8628 section 4
_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

_Prompt = Callable[[DevicePrompt], object]


class DeviceCodeSource(LoginSource):
    """Access tokens for somebody who logs in when the first one is needed, in a browser on this or any other device.

    They are shown a page and a code, and all calls wait until they have confirmed it there. The refresh token that
    comes of it gives the later tokens. With `store` it is kept in a file, as by `RefreshTokenSource`: then one login
    serves all processes and the next start of the program, and of processes that begin at the same time one asks.

    Nobody is asked where there is nobody: without `prompt`, only if stderr is a terminal. Elsewhere calls fail, and say
    so. A wait ends when the code expires, when the auth is closed, or with the program.

    Args:
        token_url, device_authorization_url: the two endpoints, `https://`; or give `issuer`.
        client_id: as registered.
        client_secret: as for `ClientCredentialsSource`; most clients that people log in with are public, and have none.
        store: the file that keeps the login; `None`: this process's memory.
        prompt: is called with a `DevicePrompt`, on a thread of the library, and shows it. `print` will do where there
            is no terminal (a notebook). `None`: to stderr, if that is a terminal.
        scope: a `str` as the server wants it, or several in a list. Most servers give a refresh token only if
            `offline_access` is among them.
        audience, resource: as for `ClientCredentialsSource`.
        lifetime: the access token's lifetime in seconds if the answer does not tell it.
        client: `issuer`, `auth_method`, `client_assertion`, `key`, `algorithm`, `passphrase`, `key_id`,
            `assertion_audience`, `extra`, `ca`, `cert`, `timeout`, `max_bytes` and `allow_http_loopback`, as for
            `ClientCredentialsSource`.

    Raises:
        ConfigurationError: an argument is wrong; it is named, its value is not shown.
        SigningError: the key cannot be used.

    >>> DeviceCodeSource(issuer="https://auth.example.com", client_id="my-app", scope=["openid", "offline_access"])
    DeviceCodeSource(host='auth.example.com', auth_method='none')
    """

    #: Whoever declined, or came too late, may want to be asked again.
    replaceable: bool = True
    #: Longer than any code is good for, which ends the wait. A call waits no longer than its own deadline.
    fetch_timeout: float = 3600.0

    def __init__(
        self,
        token_url: str | None = None,
        client_id: str | None = None,
        client_secret: SecretGiven | None = None,
        *,
        device_authorization_url: str | None = None,
        store: str | PathLike[str] | None = None,
        prompt: _Prompt | None = None,
        scope: str | Iterable[str] | None = None,
        audience: str | None = None,
        resource: str | Iterable[str] | None = None,
        lifetime: float | None = None,
        **client: Unpack[ClientOptions],
    ) -> None:
        self._prompt = _checked_prompt(prompt)
        self._waiting: Waiting | None = None
        endpoints = {_DEVICE: ("device_authorization_url", device_authorization_url)}
        asking = OAuthClient(token_url, client_id, client_secret, endpoints=endpoints, **client)
        grant = {"grant_type": _GRANT, **targets(scope, audience, resource)}
        advice = "log in where stderr is a terminal, or give prompt="
        super().__init__(grant, asking, lifetime, store_of(store), advice)
        self.replaceable: bool = True

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_waiting": None}

    def fetch(self, context: CallContext) -> Token:
        """An access token by the login that is kept; else by a new one, which may take minutes.

        Raises:
            TokenUnavailableError: no answer in time, no connection, status 408, 429 or 5xx; the file cannot be read or
                written now, or is locked for too long, as while another process waits for somebody.
            TokenRejectedError: there is nobody to be asked; or they declined, or did not confirm in time; or the server
                said no; or others may read the file.
            TokenFormatError: an answer is no token of type Bearer, or cannot be shown; the file holds something else.
            SigningError: the key cannot be used.
        """
        prompt = self._prompt or (to_stderr if has_terminal() else None)
        return self._kept.token(
            context,
            lambda refresh_token: self._refresh(context, refresh_token),
            None if prompt is None else lambda: self._log_in(context, prompt),
        )

    def log_in(self, *, clock: Clock = SYSTEM_CLOCK) -> Token:
        """Ask somebody to log in now, whatever is kept, on this thread, and keep it. Ctrl-C ends it.

        Without `prompt` it writes to stderr, terminal or not.

        Raises:
            TokenError: as `fetch`.
            SigningError: the key cannot be used.
        """
        context = CallContext(clock=clock)
        return self._kept.begun(context, lambda: self._log_in(context, self._prompt or to_stderr))

    def _log_in(self, context: CallContext, prompt: _Prompt) -> Granted:
        reply = self._client.ask(context, self._targets, at=_DEVICE)
        device = device_of(reply.document(), reply.where)
        self._waiting = waiting = Waiting(context.clock, reply.where)
        try:
            called(f"prompt: {name_of(prompt)}()", prompt, device.prompt)
            return waiting.confirmed(device, lambda code: self._asked(context, code))
        finally:
            self._waiting = None

    def _asked(self, context: CallContext, device_code: str) -> Granted | str:
        reply = self._client.ask(context, {"grant_type": _GRANT, "device_code": HiddenText(device_code)})
        return reply.code if reply.code in CODES else self._granted(reply)

    def identity(self) -> Identity | None:
        """Nobody knows before who will log in."""
        return None

    def close(self) -> None:
        """End the wait for somebody, if there is one, and close the kept-alive connections."""
        waiting = self._waiting
        if waiting is not None:
            waiting.end()
        super().close()


def _checked_prompt(prompt: object) -> _Prompt | None:
    if prompt is not None and not callable(prompt):
        raise ConfigurationError(f"expected a function of a DevicePrompt, got {type(prompt).__name__}", field="prompt")
    return prompt
