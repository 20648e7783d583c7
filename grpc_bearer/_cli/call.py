"""`grpc-bearer call`: one authenticated call, JSON in and JSON out."""

from __future__ import annotations

import base64
import binascii
import json
import threading
from argparse import Namespace
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import grpc

from grpc_bearer._base.translating import translating
from grpc_bearer._cli import network, probe
from grpc_bearer._cli.auth import chosen
from grpc_bearer._cli.channel import channel, quiet_core, trusted
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.reflection import Reflection
from grpc_bearer._cli.status import failed
from grpc_bearer._cli.streams import StreamError, input_lines, read_input, results_terminal
from grpc_bearer._cli.terminal import print_json, print_table, progress, safe

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.descriptor_pool import DescriptorPool
    from google.protobuf.message import Message


def main(arguments: Namespace) -> int:
    """Make the call, and print what is answered."""
    probe.check_extra()
    target = network.parsed_target(arguments.target)
    path = probe.method_of(arguments.method) if arguments.method else None
    metadata = _metadata(arguments.metadata)
    timeout = arguments.timeout or None
    trust = trusted(arguments, target)
    with quiet_core(), chosen(arguments).auth as auth, channel(arguments, target, trust, auth) as made:
        # Before the call, so that a token that cannot be had is not taken for one that was refused.
        service, _, name = (path or probe.REFLECTION).partition("/")
        with progress("getting a token"):
            token = auth.token(f"https://{target.authority if target.host else ''}/{service}", name, timeout=timeout)
        reflection = Reflection(made, timeout, token.value)
        if path is None:
            return _list(reflection, as_json=arguments.json)
        with progress("asking the server about the method"):
            method = reflection.method(path)
        call = _Call(made, method, reflection.pool, metadata, timeout, token.value)
        call.run(arguments.request, as_json=arguments.json)
    return Exit.OK


def _list(reflection: Reflection, *, as_json: bool) -> int:
    """What there is to call."""
    with progress("asking the server about its methods"):
        found = [
            (f"{service}/{method.name}", _shape(method))
            for service in reflection.services()
            for method in reflection.service(service).methods
        ]
    if as_json:
        print_json([{"method": name, "shape": shape} for name, shape in found])
    else:
        print_table([[name, shape] for name, shape in found])
    return Exit.OK


def _shape(method: Any) -> str:
    request = ("stream " if method.client_streaming else "") + method.input_type.full_name
    return f"{request} -> {'stream ' if method.server_streaming else ''}{method.output_type.full_name}"


class _Call:
    """One call of a method that is known by reflection only."""

    def __init__(
        self,
        made: grpc.Channel,
        method: MethodDescriptor,
        pool: DescriptorPool,
        metadata: list[tuple[str, str | bytes]],
        timeout: float | None,
        token: str,
    ) -> None:
        from google.protobuf.message_factory import GetMessageClass

        self._method: Any = method
        self._pool, self._metadata, self._timeout, self._token = pool, metadata, timeout, token
        self._request = GetMessageClass(self._method.input_type)
        reply = GetMessageClass(self._method.output_type)
        # Always in its own shape: as a stream of one answer, core may lose the status that a proxy gives.
        kind = "_".join("stream" if each else "unary" for each in (method.client_streaming, method.server_streaming))
        opened: Any = getattr(made, kind)(
            f"/{self._method.containing_service.full_name}/{self._method.name}",
            request_serializer=self._request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        self._open = opened if method.server_streaming else opened.future
        self._bad: CommandFailure | StreamError | None = None
        self._running: Any = None
        self._begun = threading.Event()

    def run(self, request: str | None, *, as_json: bool) -> None:
        """Send the request or requests, and print each answer when it comes."""
        given = self._streamed(request) if self._method.client_streaming else self._single(request)
        pretty = not as_json and not self._method.server_streaming and results_terminal() is not None
        self._running = self._open(given, metadata=self._metadata, timeout=self._timeout)
        self._begun.set()
        answers = self._running if self._method.server_streaming else self._only()
        failure: CommandFailure | StreamError | None = None
        try:
            with progress("waiting for an answer"):
                answer = next(answers, None)
            while answer is not None:
                self._print(answer, pretty)
                answer = next(answers, None)
        except grpc.RpcError as error:
            failure = self._bad or failed(error, self._token)
        except grpc.FutureCancelledError:  # by a bad line
            failure = self._bad or CommandFailure(Exit.CALL, "cancelled")
        except (KeyboardInterrupt, StreamError):
            self._running.cancel()
            raise
        if failure := failure or self._bad:
            raise failure

    def _only(self) -> Iterator[Message]:
        yield self._running.result()

    def _print(self, answer: Message, pretty: bool) -> None:
        from google.protobuf.json_format import MessageToDict

        found = MessageToDict(answer, descriptor_pool=self._pool)
        print_json(found, indent=2 if pretty else None)

    def _single(self, request: str | None) -> Message:
        text = read_input() if request == "-" else request
        return self._parsed(text if text and text.strip() else "{}", "JSON")

    def _streamed(self, request: str | None) -> Iterator[Message]:
        """The requests, as the server takes them: of stdin a line at a time."""
        return self._of_lines() if request in (None, "-") else iter([self._parsed(request or "", "JSON")])

    def _of_lines(self) -> Iterator[Message]:
        try:
            for number, line in enumerate(input_lines(), 1):
                if line.strip():
                    yield self._parsed(line.rstrip(), f"line {number}")
        except (CommandFailure, StreamError) as bad:
            # Raised here it would end in gRPC's log; the call ends, and whoever reads the answers tells.
            self._bad = bad
            self._begun.wait()
            self._running.cancel()

    def _parsed(self, text: str, where: str) -> Message:
        from google.protobuf.json_format import ParseDict, ParseError

        problem = ""
        try:
            return ParseDict(json.loads(text), self._request(), descriptor_pool=self._pool)
        except json.JSONDecodeError as error:
            place = f"column {error.colno}" if where != "JSON" else f"line {error.lineno}, column {error.colno}"
            problem = f"not JSON ({place}): {error.msg}"
        except (ParseError, ValueError, TypeError, RecursionError) as error:
            problem = safe(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise CommandFailure(Exit.USAGE, f"{where}: {problem}", f"expected a {self._method.input_type.full_name}")


def _metadata(given: list[str]) -> list[tuple[str, str | bytes]]:
    found: list[tuple[str, str | bytes]] = []
    for each in given:
        name, equals, value = each.partition("=")
        name = name.strip().lower()
        if not equals or not name:
            raise CommandFailure(Exit.USAGE, "--metadata: expected NAME=VALUE")
        found.append((name, _binary(name, value) if name.endswith("-bin") else value))
    return found


def _binary(name: str, value: str) -> bytes:
    with translating(binascii.Error, to=lambda _: CommandFailure(Exit.USAGE, f"--metadata: {name}: expected base64")):
        return base64.b64decode(value, validate=True)
