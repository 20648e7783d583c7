"""Scripts for bash, zsh and fish that complete the command: made from its parser, so that they know every option.

What they complete is fixed text, so that the TAB key need not wait for Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple


class Command(NamedTuple):
    """A command, its options, and what its words may be."""

    name: str
    help: str
    options: list[argparse.Action]
    words: list[str]


def script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script for a shell: bash, zsh or fish."""
    commands = list(_commands(parser))
    return _fish(commands) if shell == "fish" else (_ZSH if shell == "zsh" else "") + _bash(commands)


def _commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for choice in subparsers._choices_actions:
        made = subparsers.choices[choice.dest]
        options = [action for action in made._actions if action.option_strings]
        words = [str(word) for action in made._get_positional_actions() for word in action.choices or ()]
        yield Command(choice.dest, choice.help or "", options, words)


def _takes(option: argparse.Action) -> str:
    """What may follow an option: nothing, "file", "variable", "value", or the choices with spaces between."""
    if option.choices:
        return " ".join(map(str, option.choices))
    if option.metavar == "FILE":
        return "file"
    if option.option_strings[-1].endswith("-env"):
        return "variable"
    return "value" if option.nargs is None else ""


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
        for takes in dict.fromkeys(filter(None, map(_takes, command.options))):
            names = [name for each in command.options if _takes(each) == takes for name in each.option_strings]
            reply = _BASH_REPLIES.get(takes, f'COMPREPLY=($(compgen -W "{takes}" -- "$current"))')
            pattern = " | ".join(f'"{command.name} {name}"' for name in names)
            values.append(f"        {pattern}) {reply}; return ;;")
        words = " ".join([*(name for each in command.options for name in each.option_strings), *command.words])
        options.append(f'        {command.name}) COMPREPLY=($(compgen -W "{words}" -- "$current")) ;;')
    return _BASH.format(
        commands=" ".join(command.name for command in commands), values="\n".join(values), options="\n".join(options)
    )


_FISH_TAKES = {"": "", "file": " -r -F", "variable": " -x -a '(set -nx)'", "value": " -x"}


def _fish(commands: list[Command]) -> str:
    lines = ["# Completes grpc-bearer; made by `grpc-bearer completion`.", "complete -c grpc-bearer -f"]
    for command in commands:
        first = f"-n __fish_use_subcommand -a {command.name} -d {_quoted(command.help)}"
        lines.append(f"complete -c grpc-bearer {first}")
        seen = f"-n '__fish_seen_subcommand_from {command.name}'"
        if command.words:
            lines.append(f"complete -c grpc-bearer {seen} -a {_quoted(' '.join(command.words))}")
        for option in command.options:
            takes = _FISH_TAKES.get(_takes(option), f" -x -a {_quoted(_takes(option))}")
            for name in option.option_strings:
                flag = f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                lines.append(f"complete -c grpc-bearer {seen} {flag}{takes} -d {_quoted(option.help or '')}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    plain = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{plain}'"
