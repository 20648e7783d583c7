"""What errors of the library call by the names of Python's arguments, in the words of whoever gave them."""

from __future__ import annotations

import re
from argparse import Namespace

from grpc_bearer._cli.sources import FIELD, option, spelled

# `ca=`, `auth_method='none'`, `BearerAuth(..., pickle_secrets=True)`; but not `scope=fleet`, which is somebody's data.
_ARGUMENT = re.compile(
    r"(?:\b\w+\((?:\.\.\.|…), )?(?<![\w.&?-])(?P<name>[a-z][a-z_]*)="
    r"(?:(?P<text>'[^']*')|(?P<switch>True|False)|(?:\.\.\.|…)|(?![\w'\"=]))\)?"
)
# `service_account_file`: no word of any text but the name of an argument.
_NAME = re.compile(r"(?<![\w.'\"/-])[a-z]+(?:_[a-z]+)+(?![\w.'\"=-])")


def in_flags(text: str, arguments: Namespace, *, always: bool = False) -> str:
    """The text of an error as the user of these arguments would say it.

    Args:
        text: of the error.
        arguments: the command line.
        always: whether it is about options, whatever the auth is made by.

    >>> in_flags("name the authority with ca=", Namespace(**{"field:ca": None, "field:token_url": "https://a.example"}))
    'name the authority with --token-ca'
    >>> in_flags("only with allow_http_loopback=True", Namespace(config="auths.toml"))
    'only with allow_http_loopback = true'
    """
    if not always and not given_by_flags(arguments):
        return _ARGUMENT.sub(_in_toml, text)
    flagged = _ARGUMENT.sub(lambda found: _as_flag(found, arguments), text)
    return _NAME.sub(lambda found: _flag(found[0], arguments) or found[0], flagged)


def given_by_flags(arguments: Namespace) -> bool:
    """Whether the auth is made by options alone, and not by a file's table."""
    return getattr(arguments, "profile", None) is not None or any(
        value is not None for name, value in vars(arguments).items() if name.startswith(FIELD)
    )


def _flag(name: str, arguments: Namespace) -> str:
    """The option that stands for an argument; empty if this command has none."""
    spell = option if getattr(arguments, "profile", None) else spelled
    known = vars(arguments)
    for each in (name, f"{name}_file"):
        found = spell(each)
        if f"{FIELD}{each}" in known or found != option(each):
            return found
    return ""


def _as_flag(found: re.Match[str], arguments: Namespace) -> str:
    flag = _flag(found["name"], arguments)
    if not flag:
        return f"{_in_toml(found)} in a TOML file"
    return f"{flag} {found['text'].strip(chr(39)) or chr(39) * 2}" if found["text"] else flag


def _in_toml(found: re.Match[str]) -> str:
    """As it stands in a table of the file."""
    value = found["text"].replace("'", '"') if found["text"] else (found["switch"] or "").lower()
    return f"{found['name']} = {value}" if value else found["name"]
