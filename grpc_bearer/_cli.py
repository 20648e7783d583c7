"""The command `grpc-bearer`: a function of its arguments, so that tests call it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; `None`: those of the process.

    Returns:
        The exit code: 0 if all went well.
    """
    arguments = _parser().parse_args(argv)
    # Imported here: it brings up servers and certificates, which `--version` and `--help` need not wait for.
    from grpc_bearer import _demo

    return _demo.main(as_json=arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grpc-bearer", description="Bearer tokens on gRPC calls.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser("demo", help="call five services on loopback, with real TLS, and check their ledgers")
    demo.add_argument("--json", action="store_true", help="print one JSON object instead of a line a service")
    return parser


class _Version(argparse.Action):
    # argparse's own action wants the text beforehand, and reading it costs an import that no other command needs.
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"grpc-bearer {version('grpc-bearer')}")
        parser.exit()
