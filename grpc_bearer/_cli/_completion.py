"""Scripts for bash, zsh and fish that complete the command: made from its parser, so that they know every option.

What they complete is fixed text, so that the TAB key need not wait for Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Option:
    """One way to write an option, and what may follow it."""

    name: str
    help: str
    takes: str = ""  # "", "file", "variable", "value", or the choices with spaces between


@dataclass(frozen=True, slots=True)
class Command:
    """A command, its options, and what its words may be."""

    name: str
    help: str
    options: list[Option]
    words: str


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for a shell: bash, zsh or fish."""
    commands = list(_commands(parser))
    return _fish(commands) if shell == "fish" else (_ZSH if shell == "zsh" else "") + _bash(commands)


def _commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for choice in subparsers._choices_actions:
        made = subparsers.choices[choice.dest]
        options = [option for action in made._actions for option in _options(action)]
        words = [str(word) for action in made._get_positional_actions() for word in action.choices or ()]
        yield Command(choice.dest, choice.help or "", options, " ".join(words))


def _options(action: argparse.Action) -> Iterator[Option]:
    takes = "value" if action.nargs is None else ""
    if action.choices:
        takes = " ".join(map(str, action.choices))
    elif action.metavar == "FILE":
        takes = "file"
    elif action.option_strings and action.option_strings[-1].endswith("-env"):
        takes = "variable"
    for name in action.option_strings:
        yield Option(name, action.help or "", takes)


# zsh runs bash's way of completing, once it is told to.
_ZSH = """\
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
autoload -Uz bashcompinit && bashcompinit
"""

_BASH = """\
# Completes grpc-bearer; made by `grpc-bearer completion`.
_grpc_bearer() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}"
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{commands} --help --version" -- "$current"))
        return
    fi
    case "$command $previous" in
{values}
    esac
    case "$command" in
{options}
    esac
}}
complete -F _grpc_bearer grpc-bearer
"""


_BASH_REPLIES = {
    "file": """local IFS=$'\\n'; COMPREPLY=($(compgen -f -- "$current")); compopt -o filenames 2>/dev/null""",
    "variable": 'COMPREPLY=($(compgen -e -- "$current"))',
    "value": ":",
}


def _bash(commands: list[Command]) -> str:
    values, options = [], []
    for command in commands:
        for takes in dict.fromkeys(option.takes for option in command.options if option.takes):
            names = " | ".join(f'"{command.name} {each.name}"' for each in command.options if each.takes == takes)
            reply = _BASH_REPLIES.get(takes, f'COMPREPLY=($(compgen -W "{takes}" -- "$current"))')
            values.append(f"        {names}) {reply}; return ;;")
        words = " ".join([*(option.name for option in command.options), command.words]).strip()
        options.append(f'        {command.name}) COMPREPLY=($(compgen -W "{words}" -- "$current")) ;;')
    names = " ".join(command.name for command in commands)
    return _BASH.format(commands=names, values="\n".join(values), options="\n".join(options))


_FISH_TAKES = {"": "", "file": " -r -F", "variable": " -x -a '(set -nx)'", "value": " -x"}


def _fish(commands: list[Command]) -> str:
    lines = ["# Completes grpc-bearer; made by `grpc-bearer completion`.", "complete -c grpc-bearer -f"]
    for command in commands:
        first = f"-n __fish_use_subcommand -a {command.name} -d {_quoted(command.help)}"
        lines.append(f"complete -c grpc-bearer {first}")
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        if command.words:
            lines.append(f"complete -c grpc-bearer {seen} -a {_quoted(command.words)}")
        for option in command.options:
            name = f"-l {option.name[2:]}" if option.name.startswith("--") else f"-s {option.name[1:]}"
            takes = _FISH_TAKES.get(option.takes, f" -x -a {_quoted(option.takes)}")
            lines.append(f"complete -c grpc-bearer {seen} {name}{takes} -d {_quoted(option.help)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{plain}'"
