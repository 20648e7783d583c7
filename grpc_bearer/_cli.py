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
    if arguments.command == "bench":
        from grpc_bearer import _bench

        return _bench.main(arguments.key, arguments.algorithm, ask=arguments.passphrase, seconds=arguments.seconds)
    # Imported here: it brings up servers and certificates, which `--version` and `--help` need not wait for.
    from grpc_bearer import _demo

    return _demo.main(as_json=arguments.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grpc-bearer", description="Bearer tokens on gRPC calls.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    demo = commands.add_parser("demo", help="call five services on loopback, with real TLS, and check their ledgers")
    demo.add_argument("--json", action="store_true", help="print one JSON object instead of a line a service")
    bench = commands.add_parser("bench", help="measure what signing a token costs with your own key on this machine")
    bench.add_argument("--key", required=True, metavar="FILE", help="a private key, PEM or JWK")
    bench.add_argument("--algorithm", metavar="NAME", help="such as ES256; without it, chosen by the key")
    bench.add_argument("--passphrase", action="store_true", help="the key has one: ask for it")
    bench.add_argument("--seconds", type=float, default=3.0, metavar="S", help="how long to measure (default: 3)")
    return parser


class _Version(argparse.Action):
    # argparse's own action wants the text beforehand, and reading it costs an import that no other command needs.
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"grpc-bearer {version('grpc-bearer')}")
        parser.exit()
