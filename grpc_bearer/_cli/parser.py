"""The arguments of all commands. Completion in the shell reads it too."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeAlias

from grpc_bearer._base.arguments import did_you_mean
from grpc_bearer._base.translating import translating
from grpc_bearer._cli.codes import CommandFailure, Exit, table
from grpc_bearer._cli.sources import FIELD, add_login_options, add_options, option
from grpc_bearer._cli.streams import write
from grpc_bearer._config.fields import Field, path
from grpc_bearer._config.kinds import PROFILES
from grpc_bearer._config.toml_file import VARIABLE

_NOT_FOR_ONE_TOKEN = ("cache", "keep_warm", "max_keys", "name", "observers", "pickle_secrets", "presign")
_OPTIONAL_WORDS = {"call": ("method", "request"), "inspect": ("token",)}
_CONFIG = f"the TOML file (default: ${VARIABLE}, then grpc-bearer/auths.toml in $XDG_CONFIG_HOME or ~/.config)"
_OF_GRPCURL = {
    "--cacert": "ca",
    "--cert": "client_cert",
    "--key": "client_key",
    "--servername": "server_name",
    "--authority": "server_name",
    "--max-time": "timeout",
}
_TARGET = "host[:port] (port 443 if none), unix:PATH, or an https:// URL"
_SHELLS = ("bash", "zsh", "fish")
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # has no public name


def parser() -> argparse.ArgumentParser:
    """The parser of `grpc-bearer`."""
    top = _parser(_Parser, prog="grpc-bearer", description="Bearer tokens on gRPC calls.")
    top.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    for add in (_token, _inspect, _check, _call, _login, _auths, _demo, _bench, _completion):
        add(commands)
    return top


def parsed(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments. Options may stand between words: argparse gives up optional words at the first option.

    Raises:
        CommandFailure: they are wrong.
    """
    made = parser()
    try:
        arguments, rest = made.parse_known_args(argv)
        for name in _OPTIONAL_WORDS.get(arguments.command, ()):
            if getattr(arguments, name) is None and rest and (rest[0] == "-" or not rest[0].startswith("-")):
                setattr(arguments, name, rest.pop(0))
        if rest:
            raise _unrecognized(rest, _command_of(made, arguments.command))
        return arguments
    except _Misuse as misuse:
        problem, advice, whose = misuse.args
    advice = advice or f"`{whose.prog} --help` lists what there is"
    raise CommandFailure(Exit.USAGE, _without_values(problem, argv), advice, usage=whose.format_usage())


class _Misuse(Exception):
    """What argparse does not like, in its own words, which repeat what was typed; what to do; and its parser."""


class _Parser(argparse.ArgumentParser):
    """Ends, and writes, as all else in the command does."""

    def error(self, message: str) -> NoReturn:
        raise _Misuse(message, "", self)

    def print_help(self, file: object = None) -> None:
        write(self.format_help())


def _command_of(made: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    commands = next(each for each in made._actions if isinstance(each, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices[name]
    return found


def _unrecognized(rest: Sequence[str], whose: argparse.ArgumentParser) -> _Misuse:
    options = [_named(each) for each in rest if each.startswith("-")]
    if not options:
        # What is left of JSON in a shell that takes the quotes away, as those of Windows do.
        torn = any("{" in each or "}" in each or ":" in each for each in rest)
        return _Misuse("too many words", "quote the request, or put it into a file: -d @FILE" if torn else "", whose)
    known = whose._option_string_actions
    hint = "; it goes after the command" if options[0] in known else did_you_mean(options[0], known)
    return _Misuse(f"unrecognized arguments: {' '.join(options)}{hint}", "", whose)


# What may be typed in place of a secret and be shown: a word, or a number.
_SHORT = 5  # characters: what is shorter may stand in any text by chance
_PLAIN = re.compile(r"[A-Za-z][A-Za-z_-]{0,29}|-?[0-9.]{1,20}")


def _named(option: str) -> str:
    """An option without its value."""
    name = option.partition("=")[0]
    return name if _PLAIN.fullmatch(name.lstrip("-")) else "an option that is not shown"


def _without_values(problem: str, argv: Sequence[str]) -> str:
    """The problem without what may be a secret that was typed in the wrong place."""
    typed = {part for each in argv for part in (each, each.partition("=")[2]) if part}
    for each in sorted(typed, key=len, reverse=True):
        if not _PLAIN.fullmatch(each.lstrip("-")):
            problem = problem.replace(repr(each), "what was given")
            problem = problem.replace(each, "what was given") if len(each) > _SHORT else problem
    return problem


def _parser(make: Callable[..., argparse.ArgumentParser], *args: Any, **options: Any) -> argparse.ArgumentParser:
    # No abbreviations: `--key` would silently be `--key-file`, and an option added later would break scripts.
    return make(
        *args,
        **options,
        allow_abbrev=False,
        epilog=table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _command(
    commands: _Commands, name: str, text: str, description: str = "", words: str = ""
) -> argparse.ArgumentParser:
    made = _parser(
        commands.add_parser,
        name,
        help=text,
        description=description or f"{text[0].upper()}{text[1:]}.",
        usage=f"grpc-bearer {name} [options]{words}",  # argparse's own would list forty options before the first word
    )
    made.add_argument("--json", action="store_true", help="print JSON for programs")
    made.add_argument("-q", "--quiet", action="store_true", help="on stderr errors only: no progress, no warnings")
    made.add_argument("--no-color", action="store_true", help="no colours, as with the environment variable NO_COLOR")
    return made


def _token(commands: _Commands) -> None:
    made = _command(commands, "token", "print a token, and nothing else")
    made.add_argument(
        "--header", action="store_true", help="print the whole header, 'name: value', as grpcurl -H takes it"
    )
    _for_call(made)
    _auth(made)


def _inspect(commands: _Commands) -> None:
    made = _command(
        commands,
        "inspect",
        "show a token's header and claims, the time it has left and what looks wrong",
        "Show a JWT's header and claims, the time it has left and what looks wrong. Neither its signature nor all of "
        "the token is ever shown.",
        " [TOKEN|FILE|-]",
    )
    made.add_argument(
        "token",
        nargs="?",
        metavar="TOKEN|FILE|-",
        help="a token, or what it stands in: a header, a line of curl, its output, a file; '-' for stdin; without it, "
        "the token of the auth",
    )
    made.add_argument(
        "--verify",
        metavar="JWKS",
        help="verify the signature by the keys at this URL or in this file: JWK set, PEM; --token-ca and "
        "--allow-http-loopback hold for the URL too",
    )
    made.add_argument("--max-lifetime", type=seconds, metavar="S", help="the longest that the service permits")
    _for_call(made)
    _auth(made)


def _check(commands: _Commands) -> None:
    made = _command(
        commands,
        "check",
        "find out why calls to a server fail: name, TLS, token, clock, one call",
        "Look up the name, connect, shake hands, get a token, measure how far the clock is off and make one call: the "
        "method given by --method, else a health check if the server has one, else reflection (for which it needs the "
        "cli extra). Then say in one line what is wrong and what to do.",
        " TARGET",
    )
    made.add_argument("target", metavar="TARGET", help=_TARGET)
    made.add_argument("--method", metavar="NAME", help="call this (package.Service/Method) with an empty request")
    _channel(made, timeout=10.0, what="for each step")
    _auth(made)


def _call(commands: _Commands) -> None:
    made = _command(
        commands,
        "call",
        "make one authenticated call, JSON in and JSON out",
        "Make one authenticated call. What the method takes is told by server reflection (needs the cli extra), or by "
        "--protoset or --proto. The answer is JSON: a line a message, or with --json one document; the requests of a "
        "stream are read from stdin, one after another. 'list' and 'describe' in the place of the method tell what "
        "there is, and so does no method at all.",
        " TARGET [METHOD [JSON] | list [SERVICE] | describe [NAME]]",
    )
    made.add_argument("target", metavar="TARGET", help=_TARGET)
    made.add_argument("method", nargs="?", metavar="METHOD", help="package.Service/Method; or list, or describe")
    made.add_argument("request", nargs="?", metavar="JSON", help="the request, as -d; {} if none is given")
    made.add_argument(
        "-d", "--data", metavar="JSON|@FILE|-", help="the request or requests; @FILE: of a file; -: of stdin"
    )
    made.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="more metadata; base64 for NAME-bin",
    )
    made.add_argument(
        "--expand-headers", action="store_true", help="take ${NAME} in -H from the environment: no secret on the line"
    )
    made.add_argument(
        "-m", "--metadata", action="append", default=[], metavar="NAME=VALUE", help="the same, written otherwise"
    )
    made.add_argument("--emit-defaults", action="store_true", help="print fields that hold 0, false or nothing too")
    made.add_argument(
        "-v", "--verbose", action="store_true", help="tell on stderr: the token's age, metadata, trailers, attempts"
    )
    group = made.add_argument_group("description", "where the server has no reflection; may be repeated")
    for name, metavar, text in (
        ("--protoset", "FILE", "a set that protoc --include_imports --descriptor_set_out or buf build has made"),
        ("--proto", "FILE", "a .proto file (needs grpcio-tools, or protoc)"),
        ("--import-path", "FOLDER", "where its imports are looked for"),
    ):
        group.add_argument(name, action="append", default=[], metavar=metavar, help=text)
    _channel(made, timeout=30.0, what="for all of it; 0 for no end", names=("--deadline", "--timeout"))
    _auth(made)


def _login(commands: _Commands) -> None:
    made = _command(
        commands,
        "login",
        "log in by a browser, and keep the login in a file",
        "Show a page and a code, wait until somebody has confirmed it in a browser on any device (RFC 8628), and keep "
        "the login in a file for programs: source device_code or refresh_token, or --store of the other commands.",
    )
    _by_config(made.add_argument_group("auth", "one of a TOML file whose source is device_code, or the options below"))
    add_login_options(made)


def _auths(commands: _Commands) -> None:
    made = _command(commands, "auths", "list the auths of a TOML file")
    made.add_argument("--config", metavar="FILE", help=_CONFIG)


def _demo(commands: _Commands) -> None:
    _command(commands, "demo", "call five services on loopback, with real TLS, and check their ledgers")


def _bench(commands: _Commands) -> None:
    made = _command(commands, "bench", "measure what signing a token costs with your own key on this machine")
    made.add_argument("--key", required=True, metavar="FILE", help="a private key, PEM or JWK")
    made.add_argument("--algorithm", metavar="NAME", help="such as ES256; without it, chosen by the key")
    made.add_argument("--passphrase", action="store_true", help="the key has one: ask for it")
    made.add_argument("--seconds", type=float, default=3.0, metavar="S", help="how long to measure (default: 3)")


def _completion(commands: _Commands) -> None:
    made = _command(
        commands,
        "completion",
        "print a script that completes this command in your shell",
        'Print a script for your shell. bash: eval "$(grpc-bearer completion bash)" in ~/.bashrc; zsh: the same with '
        "zsh in ~/.zshrc, after compinit; fish: grpc-bearer completion fish | source in config.fish. "
        "Needs the cli extra.",
        f" {{{','.join(_SHELLS)}}}",
    )
    made.add_argument("shell", choices=_SHELLS)


# -- shared by several ------------------------------------------------------------------------------------------------


def _for_call(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--service-url", default="", metavar="URL", help="https://host/package.Service, where tokens differ by service"
    )
    made.add_argument(
        "--method", default="", metavar="NAME", help="the bare method name, where tokens differ by method"
    )
    made.add_argument("--timeout", type=seconds, default=30.0, metavar="S", help="how long to wait (default: 30)")


def _channel(made: argparse.ArgumentParser, timeout: float, what: str, names: Sequence[str] = ("--timeout",)) -> None:
    group = made.add_argument_group("connection")
    group.add_argument("--ca", metavar="FILE", help="certificate authorities, PEM, instead of gRPC's own")
    group.add_argument("--client-cert", metavar="FILE", help="this client's certificate chain, PEM (mutual TLS)")
    group.add_argument("--client-key", metavar="FILE", help="its private key, PEM")
    group.add_argument("--server-name", metavar="NAME", help="the name that the certificate must have, if not the host")
    group.add_argument("--plaintext", action="store_true", help="no TLS: the token travels in the clear")
    group.add_argument(
        *names, dest="timeout", type=seconds, default=timeout, metavar="S", help=f"{what} (default: {timeout:g})"
    )
    # As grpcurl calls them, for lines that are at hand.
    for name, dest in _OF_GRPCURL.items():
        kind = seconds if dest == "timeout" else str
        group.add_argument(name, dest=dest, type=kind, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def _auth(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("auth", "a named one from a TOML file, or a profile and its options")
    _by_config(group)
    group.add_argument("--profile", choices=sorted(PROFILES), metavar="NAME", help=", ".join(sorted(PROFILES)))
    for name, (field, used_by) in sorted(_fields().items()):
        _add_field(group, name, field, ", ".join(used_by))
    add_options(made)


def _by_config(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--auth", metavar="NAME", help="which one of the file (default: its default, or the only one)")
    group.add_argument("--config", metavar="FILE", help=_CONFIG)


def _fields() -> dict[str, tuple[Field, list[str]]]:
    """The fields of all profiles, each with the profiles that take it."""
    found: dict[str, tuple[Field, list[str]]] = {}
    for profile, kind in PROFILES.items():
        for name, field in kind.fields.items():
            if name not in _NOT_FOR_ONE_TOKEN:
                found.setdefault(name, (field, []))[1].append(profile)
    return found


def _add_field(group: argparse._ArgumentGroup, name: str, field: Field, used_by: str) -> None:
    text = f"{field.help} ({used_by})"
    if field.secret:  # not on the command line itself, where every user of the machine can read it
        group.add_argument(option(f"{name}_file"), dest=f"{FIELD}{name}_file", metavar="FILE", help=f"{text}: a file")
        group.add_argument(
            option(f"{name}_env"), dest=f"{FIELD}{name}_env", metavar="NAME", help="the same: an environment variable"
        )
    elif name == "routes":
        group.add_argument(
            option(name), dest=FIELD + name, action="append", metavar="PATTERN=ROLE", help=f"{text}; may be repeated"
        )
    else:
        kind, metavar = (seconds, "S") if name == "lifetime" else (str, "FILE" if field.check is path else "TEXT")
        group.add_argument(option(name), dest=FIELD + name, type=kind, metavar=metavar, help=text)


def seconds(text: str) -> float:
    """A number of seconds; raises `ArgumentTypeError`, whose text argparse reports."""
    to = lambda _: argparse.ArgumentTypeError("expected a number of seconds, 0 or more")  # noqa: E731
    with translating(ValueError, to=to):
        value = float(text)
        if not 0 <= value < 1e9:
            raise ValueError
    return value


class _Version(argparse.Action):
    # argparse's own action wants the text beforehand, and reading it costs an import that no other command needs.
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from grpc_bearer._base.version import version

        write(f"grpc-bearer {version()}\n")
        parser.exit()
