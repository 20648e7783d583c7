"""What a call answers, as JSON: a line a message, or with `--json` one document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.descriptions import Descriptions
from grpc_bearer._cli.streams import JSON_ESCAPE, results_terminal, write
from grpc_bearer._cli.terminal import json_line, print_json, safe

if TYPE_CHECKING:
    from google.protobuf.message import Message


class Answers:
    """Prints each when it comes.

    Args:
        known: the types of what stands in an `Any`.
        stream: whether there may be several.
        as_json: whether those are one JSON array, which is written piece by piece.
        defaults: whether fields that hold 0, false or nothing are printed too.
    """

    def __init__(self, known: Descriptions, *, stream: bool, as_json: bool, defaults: bool) -> None:
        self._known, self._array = known, stream and as_json
        self._indent = 2 if not (stream or as_json) and results_terminal() is not None else None
        self._defaults = defaults
        self._count = 0

    def print(self, answer: Message) -> None:
        """Print one.

        Raises:
            CommandFailure: it holds an `Any` whose type nobody describes.
            StreamError: stdout cannot be written.
        """
        value = self._value(answer)
        if self._array:
            write(("[\n" if self._count == 0 else ",\n") + json_line(value).rstrip("\n"), JSON_ESCAPE)
        else:
            print_json(value, indent=self._indent)
        self._count += 1

    def close(self, *, well: bool = True) -> None:
        """There are no more; what was printed so far becomes a document in any case."""
        if self._array and (self._count or well):
            write("\n]\n" if self._count else "[]\n")

    def _value(self, answer: Message) -> Any:
        from google.protobuf.json_format import Error, MessageToDict
        from google.protobuf.message import DecodeError

        try:
            return MessageToDict(
                answer, always_print_fields_with_no_presence=self._defaults, descriptor_pool=self._known.types
            )
        except (TypeError, ValueError, Error, DecodeError) as error:
            problem = safe(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise CommandFailure(Exit.CALL, f"the answer cannot be shown: {problem}", self._known.advice)
