"""How a command ends: the exit codes, and the one exception that carries them."""

from __future__ import annotations

import enum
from typing import Any

from grpc_bearer._base.version import documentation
from grpc_bearer.errors import ConfigurationError, GrpcBearerError, InsecureChannelError

#: Of the documentation, without the ending.
PAGE = "guides/troubleshooting"


class Exit(enum.IntEnum):
    """What an exit code means; `--help` shows this table."""

    OK = 0
    WRONG = 1
    USAGE = 2
    NETWORK = 3
    TLS = 4
    NO_TOKEN = 5
    REFUSED = 6
    CALL = 7
    CLOCK = 8
    STREAM = 9
    FAULT = 70
    INTERRUPTED = 130
    LEFT = 141


#: One code for one cause, whatever the command.
MEANINGS = {
    Exit.OK: "all well",
    Exit.WRONG: "something is wrong: with the token (inspect), or with what the servers saw (demo)",
    Exit.USAGE: "wrong arguments, configuration or JSON; a file that cannot be read; an extra that is not installed",
    Exit.NETWORK: "the server cannot be reached: no such name, refused, no answer in time",
    Exit.TLS: "TLS failed: the certificate, its authority or name; or the server speaks none",
    Exit.NO_TOKEN: "no token: its endpoint or command, its key, or a credential that is not taken",
    Exit.REFUSED: "the server refused the token (UNAUTHENTICATED or PERMISSION_DENIED), or it is too long",
    Exit.CALL: "the call failed in another way: no such method, an error of the service, its deadline",
    Exit.CLOCK: "the token is refused or expired, and this machine's clock is off (check)",
    Exit.STREAM: "stdout is closed, full or cannot be written; or stdin cannot be read",
    Exit.FAULT: "a fault in grpc-bearer itself",
    Exit.INTERRUPTED: "interrupted (Ctrl-C)",
    Exit.LEFT: "whoever read the output has left before its end, as `head` does",
}


def table() -> str:
    """The exit codes for people."""
    return "exit codes:\n" + "\n".join(f"  {code.value:>3}  {text}" for code, text in MEANINGS.items())


class CommandFailure(Exception):
    """The command ends here.

    Args:
        code: how.
        problem: what is wrong, in one line.
        advice: what to do about it.
        usage: how the command is written, where that is what was wrong.
        error: the library's own error that it tells of, if there is one.
        help: the code under which the page "Troubleshooting" explains it; if it is left out, the error's.

    Attributes:
        details: what a service says of it beside, as JSON.
        unanswered: whether nothing came back in time, so that the way to the server is worth a look.
    """

    def __init__(
        self,
        code: Exit,
        problem: str,
        advice: str = "",
        *,
        usage: str = "",
        error: GrpcBearerError | None = None,
        help: str = "",
    ) -> None:
        super().__init__(problem)
        self.code, self.problem, self.advice, self.usage, self.error = code, problem, advice, usage, error
        self.help = help or (error.help if error else "")
        self.details: list[dict[str, Any]] = []
        self.unanswered = False

    def __str__(self) -> str:
        sentences = (self.problem, self.advice[:1].upper() + self.advice[1:], explained(self.help))
        return " ".join(sentence(each) for each in sentences if each)


def explained(help: str) -> str:
    """Where the code of an error is explained: an address, if this distribution names that of its documentation."""
    if not help:
        return ""
    home = documentation()
    if not home:
        return f"See {help} under Troubleshooting in the documentation"
    ending = ".md" if "/tree/" in home else ".html"  # the sources, or a site that was built from them
    return f"See {help} <{home}/{PAGE}{ending}#{help.lower()}>"


def sentence(text: str) -> str:
    """The text with a full stop, unless it ends as a sentence does."""
    text = text.strip().rstrip(".")
    return f"{text}{'' if text[-1:] in '?!' else '.'}"


def code_of(error: GrpcBearerError) -> Exit:
    """The exit code that an error of the library stands for."""
    if isinstance(error, ConfigurationError) and not isinstance(error, InsecureChannelError):
        return Exit.USAGE
    return Exit.TLS if isinstance(error, InsecureChannelError) else Exit.NO_TOKEN


def needs_extra(package: str, command: str) -> CommandFailure:
    """What to say when a package of the `cli` extra is missing."""
    problem = f"{command} needs {package}, which is not installed"
    return CommandFailure(Exit.USAGE, problem, "install the cli extra: pip install 'grpc-bearer[cli]'")
