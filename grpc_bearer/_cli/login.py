"""`grpc-bearer login`: somebody logs in by a browser (RFC 8628), and the login is kept in a file for programs."""

from __future__ import annotations

from argparse import Namespace

from grpc_bearer._cli.auth import chosen
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.terminal import print_json, print_line
from grpc_bearer.sources.device import DeviceCodeSource


def main(arguments: Namespace) -> int:
    """Run the device flow of the auth that the arguments ask for."""
    asked = chosen(arguments, "device_code")
    with asked.auth as auth:
        source = auth._source
        if not isinstance(source, DeviceCodeSource):
            advice = 'its table has to say source = "device_code"'
            raise CommandFailure(Exit.USAGE, "this auth is not one that somebody logs in for", advice)
        if asked.store is None:
            raise CommandFailure(Exit.USAGE, "where is the login to be kept?", "give --store FILE")
        token = source.log_in()
    if arguments.json:
        print_json({"store": str(asked.store), "expires_at": token.expires_at})
    else:
        print_line(f"Logged in; the login is kept in {asked.store}.", "ok")
    return Exit.OK
