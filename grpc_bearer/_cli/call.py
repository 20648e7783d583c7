"""`grpc-bearer call`: one authenticated call, JSON in and JSON out; and what there is to call."""

from __future__ import annotations

import threading
import time
from argparse import Namespace
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from grpc_bearer._cli import describe, network, probe, protofiles
from grpc_bearer._cli.answers import Answers
from grpc_bearer._cli.auth import chosen, collect_tokens
from grpc_bearer._cli.channel import channel, quiet_core, trusted
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.descriptions import Descriptions
from grpc_bearer._cli.details import details_of
from grpc_bearer._cli.flags import in_flags
from grpc_bearer._cli.messages import STDIN, documents, expanded_names, metadata_of
from grpc_bearer._cli.network import Target, Trust
from grpc_bearer._cli.reflection import Reflection
from grpc_bearer._cli.status import failed
from grpc_bearer._cli.streams import StreamError, write
from grpc_bearer._cli.terminal import print_json, print_table, progress, remark, safe
from grpc_bearer._cli.verbose import Teller

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

#: Words in the place of a method, as grpcurl has them.
_LIST, _DESCRIBE = "list", "describe"
#: What JSON has beside messages and numbers.
_KINDS = {list: "a list", str: "a text", bool: "true or false", type(None): "null"}
#: Seconds for each step of finding out why a server cannot be reached.
_LOOK = 5.0


class Deadline:
    """When all has to be done: token, description and call together."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds if seconds else None

    def left(self) -> float | None:
        """Seconds; `None`: no end."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.001)


@dataclass(frozen=True, slots=True)
class Way:
    """How the server is spoken to."""

    channel: grpc.Channel
    deadline: Deadline
    tokens: Collection[str]


@dataclass(frozen=True, slots=True)
class Sent:
    """What is sent beside the token.

    Args:
        metadata: as gRPC takes it.
        given: whether a request was given at all.
        requests: JSON values, each with where it stands; `None`: those on stdin, or there is none.
    """

    metadata: list[tuple[str, str | bytes]]
    given: bool
    requests: list[tuple[str, Any]] | None


def main(arguments: Namespace) -> int:
    """Make the call, and print what is answered; or list or describe what there is."""
    target = network.parsed_target(arguments.target)
    asks = arguments.method in (None, _LIST, _DESCRIBE)
    path = None if asks else probe.method_of(arguments.method)
    metadata = metadata_of(arguments.header, arguments.metadata, expand=arguments.expand_headers)
    if arguments.data is not None and arguments.request is not None:
        raise CommandFailure(Exit.USAGE, "a request beside -d", "leave one of them out")
    given = arguments.request if arguments.data is None else arguments.data
    # What is at hand is read before anybody is asked for anything.
    requests = None if asks or given in (None, *STDIN) else list(documents(given, live=False))
    files = _files(arguments)
    if asks and files:
        _tell(files, arguments)
        return Exit.OK
    missing = probe.missing_extra("grpcio-reflection")
    if files is None and missing is not None:
        raise CommandFailure(missing.code, missing.problem, f"{missing.advice}; or give --protoset FILE")
    if target.remark:
        remark(f"{target.remark}.")
    trust = trusted(arguments, target)
    try:
        _over_the_wire(arguments, target, trust, path, Sent(metadata, given is not None, requests), files)
    except CommandFailure as failure:
        raise _explained(failure, arguments, target, trust) from None
    return Exit.OK


def _over_the_wire(
    arguments: Namespace,
    target: Target,
    trust: Trust,
    path: str | None,
    sent: Sent,
    files: Descriptions | None,
) -> None:
    tokens: set[str] = set()
    hidden = expanded_names(arguments.header) if arguments.expand_headers else ()
    teller = Teller(wanted=arguments.verbose, as_json=arguments.json, tokens=tokens, hidden=hidden)
    deadline = Deadline(arguments.timeout)
    asked = chosen(arguments, observers=[teller.hear])
    with quiet_core(), asked.auth as auth, channel(arguments, target, trust, auth) as made:
        collect_tokens(auth, tokens)
        if any(name == auth.header for name, _ in sent.metadata):
            advice = "leave it out; a token is given by --token-file or --token-env"
            raise CommandFailure(Exit.USAGE, f"-H: {auth.header} is what the auth sends itself", advice)
        # Before the call, so that a token that cannot be had is not taken for one that was refused.
        service, _, name = (path or probe.REFLECTION).partition("/")
        with progress("getting a token"):
            url = f"https://{network.named(target, trust)}/{service}"
            token = auth.token(url, name, timeout=deadline.left())
        teller.token(token.value, token.expires_at, time.time())
        way = Way(made, deadline, tokens)
        known = files or Reflection(made, sent.metadata, deadline.left, tokens)
        if path is None:
            _tell(known, arguments)
            return
        with progress("asking the server about the method"):
            method = known.method(path)
        teller.sends(path, auth.header, sent.metadata)
        _Call(way, method, known, teller, defaults=arguments.emit_defaults).run(sent, as_json=arguments.json)


def _files(arguments: Namespace) -> Descriptions | None:
    """What the files say that were given, if any were."""
    if not arguments.protoset and not arguments.proto:
        return None
    given = protofiles.protosets(arguments.protoset)
    if arguments.proto:
        given += protofiles.compiled(arguments.proto, arguments.import_path)
    return protofiles.ProtoFiles(given)


def _explained(failure: CommandFailure, arguments: Namespace, target: Target, trust: Trust) -> CommandFailure:
    """A failure on the way in the words of `check`, and in those of the command line."""
    if failure.error is not None:
        text = in_flags(failure.problem, arguments)
        return CommandFailure(failure.code, text, failure.advice, error=failure.error)
    if failure.code not in (Exit.NETWORK, Exit.TLS) and not failure.unanswered:
        return failure
    with progress("finding out why the server is not reached"):
        found = network.fault_on_the_way(target, None if arguments.plaintext else trust, _LOOK)
    return found or network.advised(failure, target)


# -- what there is ----------------------------------------------------------------------------------------------------


def _tell(known: Descriptions, arguments: Namespace) -> None:
    """List services or methods, or describe something."""
    word, symbol, as_json = arguments.method, arguments.request, arguments.json
    with progress("asking what there is"):
        names = [symbol] if symbol else known.services()
        if word == _DESCRIBE:
            found = [known.symbol(each) for each in names]
        elif word is None or symbol:
            found = [method for name in names for method in known.service(name).methods]
    if word == _DESCRIBE:
        _describe(found, whole=not symbol, as_json=as_json)
    elif word == _LIST and not symbol:
        _print_names(names, as_json=as_json)
    elif word == _LIST and not as_json:
        _print_names(map(describe.name_of, found), as_json=False)
    else:
        shapes = [(describe.name_of(method), describe.shape_of(method)) for method in found]
        if as_json:
            print_json([{"method": name, "shape": shape} for name, shape in shapes])
        else:
            print_table([[safe(name), safe(shape)] for name, shape in shapes])


def _describe(found: list[Any], *, whole: bool, as_json: bool) -> None:
    if as_json:
        print_json([describe.as_json(each) for each in found] if whole else describe.as_json(found[0]))
    else:
        write("\n".join("".join(f"{safe(line)}\n" for line in describe.lines_of(each)) for each in found))


def _print_names(names: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        print_json(list(names))
    else:
        write("".join(f"{safe(each)}\n" for each in names))


# -- the call ---------------------------------------------------------------------------------------------------------


class _Call:
    """One call of a method that is known by its description only."""

    def __init__(
        self, way: Way, method: MethodDescriptor, known: Descriptions, teller: Teller, *, defaults: bool
    ) -> None:
        from google.protobuf.message_factory import GetMessageClass

        self._method: Any = method
        self._way, self._known, self._teller, self._defaults = way, known, teller, defaults
        self._request = GetMessageClass(self._method.input_type)
        reply = GetMessageClass(self._method.output_type)
        # Always in its own shape: as a stream of one answer, core may lose the status that a proxy gives.
        kind = "_".join("stream" if each else "unary" for each in (method.client_streaming, method.server_streaming))
        opened: Any = getattr(way.channel, kind)(
            f"/{self._method.containing_service.full_name}/{self._method.name}",
            request_serializer=self._request.SerializeToString,
            response_deserializer=reply.FromString,
        )
        self._open = opened if method.server_streaming else opened.future
        self._bad: CommandFailure | StreamError | None = None
        self._running: Any = None
        self._begun = threading.Event()

    def run(self, sent: Sent, *, as_json: bool) -> None:
        """Send the request or requests, and print each answer when it comes."""
        request = self._streamed(sent) if self._method.client_streaming else self._single(sent)
        self._running = self._open(request, metadata=sent.metadata, timeout=self._way.deadline.left())
        self._begun.set()
        answers = Answers(self._known, stream=self._method.server_streaming, as_json=as_json, defaults=self._defaults)
        failure: CommandFailure | StreamError | None = None
        try:
            self._read(answers)
            self._teller.ends("OK", self._running.trailing_metadata())
        except grpc.RpcError as error:
            failure = self._bad or self._failure(error)
        except grpc.FutureCancelledError:  # by a bad line
            failure = self._bad or CommandFailure(Exit.CALL, "cancelled")
        except (KeyboardInterrupt, CommandFailure):
            self._running.cancel()
            answers.close(well=False)
            raise
        except StreamError:
            self._running.cancel()
            raise
        failure = failure or self._bad
        answers.close(well=failure is None)
        if failure is not None:
            raise failure

    def _read(self, answers: Answers) -> None:
        running = self._running if self._method.server_streaming else self._only()
        with progress("waiting for an answer"):
            answer = next(running, None)
        self._teller.headers(self._running.initial_metadata())
        while answer is not None:
            answers.print(answer)
            answer = next(running, None)

    def _failure(self, error: Any) -> CommandFailure:
        self._teller.headers(error.initial_metadata())
        self._teller.ends(error.code().name, error.trailing_metadata())
        failure = failed(error, self._way.tokens)
        failure.details = details_of(error, self._known, self._way.tokens)
        return failure

    def _only(self) -> Iterator[Message]:
        yield self._running.result()

    def _single(self, sent: Sent) -> Message:
        found = sent.requests
        if found is None:
            found = list(documents("-", live=False)) if sent.given else []
        if len(found) > 1:
            raise CommandFailure(Exit.USAGE, f"{len(found)} messages for a method that takes one", "give one")
        where, value = found[0] if found else ("JSON", {})
        return self._parsed(where, value)

    def _streamed(self, sent: Sent) -> Iterator[Message]:
        """The requests, as the server takes them: of stdin as soon as each is there."""
        if sent.requests is not None:
            return iter([self._parsed(*each) for each in sent.requests])
        return self._of_stdin(self._parsed(*each) for each in documents("-", live=True))

    def _of_stdin(self, messages: Iterator[Message]) -> Iterator[Message]:
        try:
            yield from messages
        except (CommandFailure, StreamError) as bad:
            # Raised here it would end in gRPC's log; the call ends, and whoever reads the answers tells.
            self._bad = bad
            self._begun.wait()
            self._running.cancel()

    def _parsed(self, where: str, value: Any) -> Message:
        from google.protobuf.json_format import ParseDict, ParseError

        # Some of google.protobuf's own, such as Timestamp and ListValue, are other values in JSON.
        own = self._method.input_type.file.package == "google.protobuf"
        if not isinstance(value, dict) and not own:
            raise CommandFailure(
                Exit.USAGE,
                f"{where}: expected a message {{…}}, not {_KINDS.get(type(value), 'a number')}",
                "messages of a stream stand one after another",
            )
        try:
            return ParseDict(value, self._request(), descriptor_pool=self._known.types)
        except (ParseError, ValueError, TypeError, RecursionError) as error:
            problem = safe(str(error).splitlines()[0] if str(error) else type(error).__name__)
        advice = f"`grpc-bearer call TARGET describe {self._method.input_type.full_name}` shows its fields"
        raise CommandFailure(Exit.USAGE, f"{where}: {problem}", advice)
