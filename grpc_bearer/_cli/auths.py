"""`grpc-bearer auths`: the auths of a TOML file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping

from grpc_bearer._cli.auth import config_file
from grpc_bearer._cli.codes import Exit
from grpc_bearer._cli.terminal import print_json, print_table, remark


def main(arguments: Namespace) -> int:
    """Print their names, what each is, and which one is the default. Nothing is built, and no secret read."""
    file = config_file(arguments)
    default = file.default or (next(iter(file.auths)) if len(file.auths) == 1 else None)
    found = [{"name": name, "kind": _kind(table), "default": name == default} for name, table in file.auths.items()]
    if arguments.json:
        print_json({"config": str(file.path), "auths": found})
    else:
        if not found:
            remark("no auths in it; write a table [auth.NAME].")
        print_table((str(each["name"]), str(each["kind"]), "default" if each["default"] else "") for each in found)
    return Exit.OK


def _kind(table: Mapping[str, object]) -> str:
    value = table.get("profile", table.get("source"))
    return value if isinstance(value, str) and value.isidentifier() else "?"
