"""`grpc-bearer inspect`: what a token shows, and what looks wrong with it."""

from __future__ import annotations

import datetime
import json
import re
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpc_bearer._base.arguments import UNFILLED, is_placeholder, names_file
from grpc_bearer._base.clock import SYSTEM_CLOCK
from grpc_bearer._base.translating import translating
from grpc_bearer._cli import verify
from grpc_bearer._cli.auth import chosen, default_config, is_asked_for
from grpc_bearer._cli.codes import CommandFailure, Exit, sentence
from grpc_bearer._cli.jwt import RULES, Inspected, Rules, inspected, span
from grpc_bearer._cli.pasted import token_in
from grpc_bearer._cli.streams import input_is_terminal, read_input, reason_of
from grpc_bearer._cli.terminal import Cell, Row, print_json, print_line, print_table, progress, remark, safe
from grpc_bearer.sources._parse import number_of

#: A longer text on stdin is no token.
_MAX = 1024 * 1024
# What is a file, by its look: a missing one must not be taken for a token.
_FILE_NAME = re.compile(r"[\w./~\\ -]{1,200}\.(?:json|jwt|log|pem|token|txt)")
_TIMES = ("exp", "iat", "nbf", "auth_time")


def main(arguments: Namespace) -> int:
    """Show what the token shows.

    Returns:
        The exit code: 1 if something looks wrong.
    """
    keys = verify.keys_of(arguments.verify, arguments, arguments.timeout) if arguments.verify else None
    text, profile = _asked(arguments)
    rules = RULES[profile] if profile else None
    if arguments.max_lifetime is not None:
        rules = replace(rules or Rules(), max_lifetime=arguments.max_lifetime)
    now = SYSTEM_CLOCK.time()
    found = inspected(text, now, rules)
    by = ""
    if keys is not None:
        verdict = verify.Verdict(problem="it is no JWT, so no signature can be verified")
        if found.claims is not None and found.header is not None:
            verdict = verify.verified(found.token, found.header, keys)
        by = verdict.by
        found.problems.extend([verdict.problem] if verdict.problem else [])
    if arguments.json:
        print_json(as_json(found, now) | ({} if keys is None else {"verified": bool(by)}))
    else:
        _print(found, now, f"verified by {by}" if by else "not verified")
    return Exit.WRONG if found.problems else Exit.OK


def _asked(arguments: Namespace) -> tuple[str, str | None]:
    """The token that the arguments ask for, and its profile if that is known."""
    if arguments.token not in (None, "-"):
        return _found(_text_of(arguments.token)), arguments.profile
    if arguments.token is None and is_asked_for(arguments):
        return _of_auth(arguments)
    if arguments.token is None and input_is_terminal():
        if default_config().exists():
            return _of_auth(arguments)
        raise CommandFailure(Exit.USAGE, "which token?", "give one, '-' for stdin, or an auth (--profile, --auth)")
    text = read_input(_MAX)
    if text.strip():
        return _found(text), arguments.profile
    if arguments.token is None and default_config().exists():
        return _of_auth(arguments)
    raise CommandFailure(Exit.USAGE, "no token on stdin")


def _of_auth(arguments: Namespace) -> tuple[str, str | None]:
    asked = chosen(arguments)
    with asked.auth as auth, progress("getting a token"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a token that is too long, which is among the problems
        call = arguments.service_url, arguments.method
        return auth.token(*call, timeout=arguments.timeout or None).value, asked.profile


def _text_of(given: str) -> str:
    """What was given, or what is in the file of that name."""
    if not given.strip():
        raise CommandFailure(Exit.USAGE, "TOKEN: empty")
    named = given[1:] if given.startswith("@") else given
    if named == given and not names_file(given) and not _FILE_NAME.fullmatch(given):
        return given
    with translating(OSError, ValueError, to=lambda error: CommandFailure(Exit.USAGE, _unread(named, error))):
        text = Path(named).expanduser().read_bytes()[:_MAX].decode("utf-8-sig", "replace")
    if not text.strip():
        raise CommandFailure(Exit.USAGE, f"TOKEN: {safe(named)} is empty")
    return text


def _unread(name: str, error: Exception) -> str:
    return f"TOKEN: cannot read {safe(name)}: {reason_of(error)}"


def _found(text: str) -> str:
    pasted = token_in(text)
    if is_placeholder(pasted.token):
        raise CommandFailure(Exit.USAGE, f"the token is {UNFILLED}")
    if pasted.others:
        remark(f"{pasted.others + 1} tokens are in this text; this is the first.")
    return pasted.token


def as_json(found: Inspected, now: float) -> dict[str, Any]:
    """For programs."""
    return {
        "kind": found.kind,
        "header": found.header,
        "claims": found.claims,
        "expires_in": None if found.expires_at is None else round(found.expires_at - now, 1),
        "problems": found.problems,
        "ok": not found.problems,
    }


def _print(found: Inspected, now: float, signed: str) -> None:
    print_line(f"{found.kind[0].upper()}{found.kind[1:]}.", "name")
    rows: list[Row] = [
        [Cell(where), Cell(name, "name"), value]
        for where, members in (("header", found.header), ("claim", found.claims))
        for name, value in _members(members, now)
    ]
    if found.claims is not None:
        rows.append([Cell("signature"), Cell(""), f"{found.signature} bytes, not shown; {signed}"])
    if rows:
        print_table(rows)
    if found.expires_at is not None and found.expires_at > now:
        print_line(f"Time left: {span(found.expires_at - now)}.")
    for problem in found.problems:
        print_line(f"Wrong: {sentence(safe(problem))}", "fail")
    if not found.problems:
        print_line("Nothing looks wrong.", "ok")


def _members(members: Mapping[str, Any] | None, now: float) -> Iterator[tuple[str, str]]:
    for name, value in (members or {}).items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield safe(name), safe(text) + (_when(value, now) if name in _TIMES else "")


def _when(value: object, now: float) -> str:
    """A time claim for people."""
    at = number_of(value)
    if at is None:
        return ""
    try:
        date = datetime.datetime.fromtimestamp(at, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return ""
    relative = f"in {span(at - now)}" if at > now else f"{span(now - at)} ago"
    return f"  {date:%Y-%m-%d %H:%M:%S} UTC, {relative}"
