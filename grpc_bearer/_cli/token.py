"""`grpc-bearer token`: a token on stdout, and nothing else."""

from __future__ import annotations

from argparse import Namespace

from grpc_bearer._cli.auth import chosen
from grpc_bearer._cli.codes import Exit
from grpc_bearer._cli.streams import write
from grpc_bearer._cli.terminal import print_json, progress


def main(arguments: Namespace) -> int:
    """Print the token of the auth that the arguments ask for."""
    with chosen(arguments).auth as auth, progress("getting a token"):
        call = arguments.service_url, arguments.method
        token = auth.token(*call, timeout=arguments.timeout or None)
        name, value = auth._metadata_of(token)[0]
    if arguments.json:
        print_json({"token": token.value, "expires_at": token.expires_at, "header": name, "value": value})
    else:
        write(f"{name}: {value}\n" if arguments.header else f"{token.value}\n")
    return Exit.OK
