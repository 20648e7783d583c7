"""What `grpc-bearer call` knows of a server: by reflection that tells a part only, and by files."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grpc_bearer.testing import CA, OpaqueVerifier, ProbeServer

pytest.importorskip("grpc_reflection", reason="needs the cli extra")

from _cli_server import TOKEN, Ran, run
from _mail_server import MAIL, files, well_known, with_mail
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

_CA = CA()


@pytest.fixture(scope="module")
def server() -> Iterator[ProbeServer]:
    """Tells all but what common libraries bring, and what is needed for options only."""
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=[with_mail({"play/options.proto"})]) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN)
    _CA.write(tmp_path)
    return tmp_path


def call(folder: Path, target: str, *more: str, stdin: str = "", extras: bool = True) -> Ran:
    options = ["--token-file", str(folder / "token"), "--ca", str(folder / "ca.pem")]
    return run("call", target, *more, *options, stdin=stdin, extras=extras)


def protoset(path: Path, *given: FileDescriptorProto) -> str:
    path.write_bytes(FileDescriptorSet(file=given).SerializeToString())
    return str(path)


LETTER = """\
message play.v1.Letter {
  google.protobuf.Any body = 1;
  google.protobuf.Timestamp at = 2;
  oneof kind {
    string text = 3;
    int32 number = 4;
  }
  map<string, int32> counts = 5;
  play.v1.Colour colour = 6;
  optional string note = 7;
  repeated play.v1.Place to = 8;
}
"""
SERVICE = f"""\
service {MAIL} {{
  rpc Echo (play.v1.Letter) returns (play.v1.Letter);
  rpc Watch (play.v1.Letter) returns (stream play.v1.Letter);
  rpc Fail (play.v1.Letter) returns (play.v1.Letter);
  rpc Send (stream play.v1.Letter) returns (play.v1.Letter);
}}
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["list"], f"{MAIL}\n"),
        (["list", MAIL], f"{MAIL}/Echo\n{MAIL}/Watch\n{MAIL}/Fail\n{MAIL}/Send\n"),
        (["describe"], SERVICE),
        (["describe", MAIL], SERVICE),
        (["describe", f"{MAIL}/Echo"], f"rpc Echo (play.v1.Letter) returns (play.v1.Letter);\n\n{LETTER}"),
        (["describe", f".{MAIL}.Echo"], f"rpc Echo (play.v1.Letter) returns (play.v1.Letter);\n\n{LETTER}"),
        (["describe", "play.v1.Letter"], LETTER),
        (["describe", "play.v1.Parcel"], "message play.v1.Parcel {\n  int32 grams = 1;\n}\n"),
        (["describe", "google.protobuf.Timestamp"], None),
    ],
)
def test_what_there_is_as_grpcurl_tells_it(
    folder: Path, server: ProbeServer, words: list[str], expected: str | None
) -> None:
    ran = call(folder, server.target, *words)

    if expected is None:
        assert (ran.code, ran.out) == (7, "")
        assert "the server has no service, message, enum or method google.protobuf.Timestamp" in ran.err
    else:
        assert (ran.code, ran.out, ran.err) == (0, expected, "")


def test_the_same_as_json(folder: Path, server: ProbeServer) -> None:
    assert call(folder, server.target, "list", "--json").json == [MAIL]
    assert call(folder, server.target, "list", MAIL, "--json").json[1] == {
        "method": f"{MAIL}/Watch",
        "shape": "play.v1.Letter -> stream play.v1.Letter",
    }
    letter = call(folder, server.target, "describe", "play.v1.Letter", "--json").json
    assert letter["fields"][2] == {
        "name": "text",
        "json": "text",
        "number": 3,
        "type": "string",
        "label": "",
        "oneof": "kind",
    }


# Of a server that leaves out what its files import, other tools can call nothing.
def test_a_server_that_leaves_out_common_files_and_those_of_options(folder: Path, server: ProbeServer) -> None:
    ran = call(folder, server.target, f"{MAIL}/Echo", '{"at": "2026-01-01T00:00:00Z", "to": [{"city": "Rome"}]}')

    assert (ran.code, ran.json) == (0, {"at": "2026-01-01T00:00:00Z", "to": [{"city": "Rome"}]})


def test_a_file_that_is_needed_and_left_out_is_named(folder: Path) -> None:
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=[with_mail({"play/place.proto"})]) as server:
        ran = call(folder, server.target, f"{MAIL}/Echo")
        given = protoset(folder / "set", *files().values())
        healed = call(folder, server.target, f"{MAIL}/Echo", "--protoset", given)

    assert ran.code == 7
    assert "the server has no play/place.proto, which play/mail.proto imports" in ran.err
    assert "--protoset" in ran.err
    assert healed.code == 0


def test_an_any_may_be_of_a_type_that_nothing_else_names(folder: Path, server: ProbeServer) -> None:
    body = {"body": {"@type": "type.googleapis.com/play.v1.Parcel", "grams": 7}}
    unknown = {"body": {"@type": "type.googleapis.com/play.v1.Nothing", "grams": 7}}

    assert call(folder, server.target, f"{MAIL}/Echo", json.dumps(body)).json == body
    ran = call(folder, server.target, f"{MAIL}/Echo", json.dumps(unknown))
    assert ran.code == 2
    assert "play.v1.Nothing" in ran.err


def test_the_details_of_an_error_are_shown_and_the_token_in_them_is_not(folder: Path, server: ProbeServer) -> None:
    ran = call(folder, server.target, f"{MAIL}/Fail")
    as_json = call(folder, server.target, f"{MAIL}/Fail", "--json")
    details = [
        {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "NO_STAMP", "metadata": {"seen": "<token>"}},
        {"@type": "type.googleapis.com/play.v1.Parcel", "grams": 7},
        {"@type": "type.googleapis.com/play.v1.Nothing", "value": "<1 bytes>"},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "value": "<10 bytes>"},
    ]

    assert ran.code == 7
    assert ran.err.splitlines()[0] == "grpc-bearer: FAILED_PRECONDITION: no stamp."
    assert [json.loads(line.partition("detail: ")[2]) for line in ran.err.splitlines()[1:]] == details
    assert json.loads(as_json.err)["details"] == details


@pytest.mark.parametrize("options", [["-v"], ["-v", "--json"]])
def test_nor_is_the_token_that_went_out_after_a_refusal(folder: Path, options: list[str]) -> None:
    verifier = OpaqueVerifier([TOKEN])

    class Revoking:
        def verify(self, metadata: Any, method: str) -> Any:
            if method.endswith("/Fail"):
                (folder / "token").write_text("s3cret-that-came-later")
                verifier.revoke(TOKEN)
                verifier.accept("s3cret-that-came-later")
            return verifier.verify(metadata, method)

    with ProbeServer(Revoking(), _CA, register=[with_mail()]) as server:
        ran = call(folder, server.target, f"{MAIL}/Fail", *options)

    assert ran.code == 7
    assert '"seen": "<token>"' in ran.err
    assert "Bearer <token>" in ran.err
    assert "s3cret-that-came-later" not in ran.out + ran.err


def test_fields_that_hold_nothing_are_shown_if_wanted(folder: Path, server: ProbeServer) -> None:
    echo = [server.target, f"{MAIL}/Echo", '{"to": [{}]}']

    assert call(folder, *echo).json == {"to": [{}]}
    assert call(folder, *echo, "--emit-defaults").json == {"counts": {}, "colour": "RED", "to": [{"city": ""}]}


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def silent() -> Iterator[ProbeServer]:
    """Has no reflection at all: the word for it is that of another service."""
    with ProbeServer(OpaqueVerifier([TOKEN]), _CA, register=[with_mail(files())]) as server:
        yield server


@pytest.mark.parametrize("extras", [True, False])
def test_a_set_in_place_of_reflection_needs_nothing_more(folder: Path, silent: ProbeServer, extras: bool) -> None:
    given = protoset(folder / "set", *files().values(), *well_known())
    ran = call(folder, silent.target, f"{MAIL}/Echo", '{"number": 5}', "--protoset", given, extras=extras)

    assert (ran.code, ran.json, ran.err) == (0, {"number": 5}, "")


def test_several_sets_and_one_from_a_pipe(folder: Path, silent: ProbeServer) -> None:
    known = list(files().values())
    first, second = protoset(folder / "a", known[0]), protoset(folder / "b", *known[1:])

    assert call(folder, silent.target, f"{MAIL}/Echo", "--protoset", first, "--protoset", second).code == 0


def test_what_files_say_needs_no_server_and_no_token(tmp_path: Path) -> None:
    given = protoset(tmp_path / "set", *files().values())

    assert run("call", "nowhere.invalid:1", "list", "--protoset", given).out == f"{MAIL}\n"
    assert run("call", "nowhere.invalid:1", "describe", "play.v1.Letter", "--protoset", given).out == LETTER


def test_sets_that_are_none_and_one_without_its_imports(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("syntax = 'proto3';")
    (tmp_path / "empty").write_bytes(b"")
    lonely = protoset(tmp_path / "lonely", files()["play/mail.proto"])

    for name, code, expected in (
        ("nix", 2, "--protoset: cannot read"),
        ("text", 2, "is no set of file descriptors"),
        ("empty", 2, "is no set of file descriptors"),
        ("lonely", 7, "the files have no play/options.proto and no play/place.proto, which play/mail.proto imports"),
    ):
        ran = run("call", "x:1", "list", "--protoset", str(tmp_path / name))
        assert (ran.code, expected in ran.err) == (code, True), ran.err
    assert "--include_imports" in run("call", "x:1", "list", "--protoset", lonely).err


PROTO = """\
syntax = "proto3";
package play.v1;
import "google/protobuf/timestamp.proto";
import "place.proto";
service Mail { rpc Echo (Letter) returns (Letter); }
message Letter { google.protobuf.Timestamp at = 2; int32 number = 4; repeated Place to = 8; }
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "protos").mkdir()
    (tmp_path / "protos" / "mail.proto").write_text(PROTO)
    (tmp_path / "protos" / "place.proto").write_text(
        'syntax = "proto3"; package play.v1; message Place { string city = 1; }'
    )
    (tmp_path / "protos" / "broken.proto").write_text('syntax = "proto3"; import "nowhere.proto";')
    return tmp_path / "protos"


@pytest.mark.parametrize(("below", "named"), [(True, "mail.proto"), (True, "whole"), (False, "whole")])
def test_proto_files(folder: Path, silent: ProbeServer, sources: Path, below: bool, named: str) -> None:
    pytest.importorskip("grpc_tools", reason="compiles")
    path = str(sources / "mail.proto") if named == "whole" else named
    folders = ["--import-path", str(sources)] * below
    ran = call(folder, silent.target, f"{MAIL}/Echo", '{"number": 5}', "--proto", path, *folders)

    assert (ran.code, ran.json) == (0, {"number": 5}), ran.err


def test_proto_files_that_protoc_does_not_like(sources: Path) -> None:
    pytest.importorskip("grpc_tools", reason="compiles")
    ran = run("call", "x:1", "list", "--proto", str(sources / "broken.proto"))
    missing = run("call", "x:1", "list", "--proto", "nix.proto")
    outside = run("call", "x:1", "list", "--proto", str(sources / "mail.proto"), "--import-path", str(sources / "x"))

    assert [each.code for each in (ran, missing, outside)] == [2, 2, 2]
    assert "nowhere.proto: File not found" in ran.err
    assert "--import-path" in ran.err
    assert "cannot read nix.proto" in missing.err
    assert "is below no --import-path" in outside.err


def test_without_protoc_it_says_what_to_install(sources: Path) -> None:
    if shutil.which("protoc") or importlib.util.find_spec("grpc_tools"):
        pytest.skip("there is one")
    ran = run("call", "x:1", "list", "--proto", str(sources / "mail.proto"))

    assert ran.code == 2
    assert "pip install grpcio-tools" in ran.err
