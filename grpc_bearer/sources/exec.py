"""`ExecSource`: a token that a command prints."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike

from grpc_bearer._base.arguments import Where, checked_seconds, expanded_path, seconds_or_none
from grpc_bearer._base.source import Source
from grpc_bearer._base.token import CallContext, Token
from grpc_bearer._base.translating import translating
from grpc_bearer.errors import ConfigurationError, TokenFormatError, TokenUnavailableError
from grpc_bearer.sources._command import Ended, run
from grpc_bearer.sources._parse import jwt_expiry, made_token, no_older
from grpc_bearer.sources._printed import printed_token

__all__ = ["ExecSource"]

#: Seconds that a command may take. Those written in Python (az, aws, gcloud) need some to begin at all.
_TIMEOUT = 30.0
#: The longest output that is read. No header could carry a token of that size.
_MAX_BYTES = 1 << 20
#: What any program may need, and what holds no secret: where programs, homes, languages and certificates are; and which
#: proxy leads out.
_ALWAYS = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "XDG_*"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    # Of Windows; no program begins there without the first.
    *("SYSTEMROOT", "SYSTEMDRIVE", "COMSPEC", "PATHEXT", "TEMP", "TMP", "USERNAME", "USERPROFILE", "APPDATA"),
    *("LOCALAPPDATA", "PROGRAMDATA", "PROGRAMFILES", "HOMEDRIVE", "HOMEPATH"),
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_()]*\*?|\*")
#: What kubectl tells its plugins; some of them do not run without it.
_FOR_PLUGINS = {
    "KUBERNETES_EXEC_INFO": json.dumps(
        {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "spec": {"interactive": False},
        }
    )
}


class ExecSource(Source):
    """A token that a command prints: a credential plugin of kubectl's, `gcloud`, `az`, `gh`, a script of yours.

    The command prints the token alone, or JSON: an `ExecCredential` of Kubernetes with `status.token` and
    `status.expirationTimestamp`; or an object with `token`, `access_token`, `accessToken` or `id_token`, and beside it
    `expires_on`, `expiresOn`, `expiry`, `expires_in` or the like. A JWT expires at its `exp`, if nothing else is said.

    It is run without a shell, with an empty stdin, without a terminal, and in few of the environment's variables. What
    it writes to stderr is shown nowhere, since it may hold a secret. After `timeout` seconds it is killed, with all
    that it has begun.

    Args:
        command: the program and its arguments, each one of the list. A program without a `/` is looked for in `PATH`.
            No secrets: every user of the machine can read the arguments of a command while it runs.
        env: names of environment variables that the command gets, besides those that any program needs (`PATH`,
            `HOME`, language, time zone, proxies, certificates, …). `AWS_*` stands for all that begin so, `*` for all.
        json_field: where in the JSON the token stands, if under no usual name; dots walk into objects.
        max_age: seconds after which the command is run again, at the latest. Without it a token that does not tell
            when it expires (`gcloud auth print-access-token`) is kept until a server refuses it.
        timeout: seconds that the command may take.
        max_bytes: how much it may print.

    Raises:
        ConfigurationError: an argument is wrong, or there is no such program.

    >>> ExecSource(["echo", "s3cret"]).fetch(CallContext()).value
    's3cret'
    """

    #: Whoever must log in anew does it elsewhere, without telling this program.
    replaceable = True

    def __init__(
        self,
        command: Sequence[str | PathLike[str]],
        *,
        env: Iterable[str] = (),
        json_field: str | None = None,
        max_age: float | None = None,
        timeout: float = _TIMEOUT,
        max_bytes: int = _MAX_BYTES,
    ) -> None:
        self._env = _checked_names(env)
        self._command = _checked_command(command, self._environment())
        if json_field is not None and (not isinstance(json_field, str) or not json_field):
            raise ConfigurationError("expected the name of a field", field="json_field")
        self._json_field = json_field
        self._max_age = seconds_or_none("max_age", max_age)
        self._timeout = checked_seconds("timeout", timeout)
        if not isinstance(max_bytes, int) or isinstance(max_bytes, bool) or max_bytes <= 0:
            raise ConfigurationError("expected a whole number above 0", field="max_bytes")
        self._max_bytes = max_bytes

    def __repr__(self) -> str:
        return f"ExecSource({self._command[0]!r})"

    def fetch(self, context: CallContext) -> Token:
        """Run the command.

        Raises:
            TokenUnavailableError: it cannot be started, takes too long, exits with another code than 0, or prints
                nothing; the code is told, what it wrote to stderr is not.
            TokenFormatError: what it printed is no token, too long, or no UTF-8.
        """
        now = context.clock.time()
        where = repr(self._command[0])
        ended = run(self._command, self._environment(), self._timeout, self._max_bytes)
        problem = self._problem(ended, where)
        if problem is not None:
            raise problem
        value, expires_at = printed_token(_text(ended.output, where), self._json_field, where, now)
        if expires_at is None:
            expires_at = jwt_expiry(value)
        token = made_token(where, value, now=now, expires_at=expires_at)
        return token if self._max_age is None else no_older(token, now + self._max_age)

    def _problem(self, ended: Ended, where: str) -> TokenUnavailableError | TokenFormatError | None:
        if len(ended.output) > self._max_bytes:
            return TokenFormatError(f"{where}: printed more than {self._max_bytes} bytes")
        if ended.code is None:
            return TokenUnavailableError(f"{where}: was killed, since it had not ended after {self._timeout:g} s")
        if ended.code < 0:
            return TokenUnavailableError(f"{where}: was ended by {_signal(-ended.code)}")
        if ended.code > 0:
            return TokenUnavailableError(
                f"{where}: exited with code {ended.code}; run it by hand to see why, since what it writes to stderr "
                "may hold a secret, and is not shown",
                suspect="credential",
            )
        if not ended.output.strip():
            return TokenUnavailableError(f"{where}: exited with code 0, and printed nothing")
        return None

    def _environment(self) -> dict[str, str]:
        return {**_FOR_PLUGINS, **_named(os.environ, (*_ALWAYS, *self._env))}


def _text(output: bytes, where: str) -> str:
    with translating(
        UnicodeDecodeError, to=lambda _: TokenFormatError(f"{where}: printed something that is not UTF-8")
    ):
        return output.decode("utf-8-sig").strip()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _named(variables: Mapping[str, str], names: Iterable[str]) -> dict[str, str]:
    """Those variables whose names are among these; a `*` at the end stands for anything."""
    names = set(names)
    beginnings = tuple(name[:-1] for name in names if name.endswith("*"))
    return {name: value for name, value in variables.items() if name in names or name.startswith(beginnings)}


# -- checks -----------------------------------------------------------------------------------------------------------


def _checked_names(env: object) -> tuple[str, ...]:
    if isinstance(env, (str, Mapping)) or not isinstance(env, Iterable):
        raise ConfigurationError(
            f"expected the names of environment variables in a list, got {type(env).__name__}; their values are taken "
            "from this program's environment",
            field="env",
        )
    names = tuple(env)
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigurationError("expected only names such as AWS_PROFILE or AWS_*, without a value", field="env")
    return names


def _checked_command(command: object, environment: Mapping[str, str]) -> tuple[str, ...]:
    if isinstance(command, (str, bytes, Mapping)) or not isinstance(command, Iterable):
        raise ConfigurationError(
            f"expected a list of the program and its arguments, got {type(command).__name__}; there is no shell that "
            "would take it apart",
            field="command",
        )
    words = [os.fspath(word) if isinstance(word, PathLike) else word for word in command]
    if not words:
        raise ConfigurationError("expected a list with the program at least", field="command")
    for place, word in enumerate(words):
        if not isinstance(word, str):
            raise ConfigurationError(f"expected a str, got {type(word).__name__}", field=Where("command", f"[{place}]"))
        if "\0" in word:
            raise ConfigurationError("has a NUL in it", field=Where("command", f"[{place}]"))
    return _checked_program(words[0], environment), *words[1:]


def _checked_program(program: str, environment: Mapping[str, str]) -> str:
    """The program; as an absolute path if it is one, so that a later chdir changes nothing."""
    placed = os.path.dirname(program) != ""
    if placed:
        program = os.path.join(os.getcwd(), expanded_path("command", program))
    if shutil.which(program or " ", path=environment.get("PATH")) is None:
        problem = "no program that this user may run" if placed and os.path.exists(program) else "no such program"
        raise ConfigurationError(f"{problem}: {program!r}{'' if placed else ' in PATH'}", field="command")
    return program
