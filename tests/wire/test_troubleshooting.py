"""The page "Troubleshooting": every text on it is one that really comes, and every code of ours is a heading of it."""

from __future__ import annotations

import asyncio
import copyreg
import email.utils
import json
import os
import pickle
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import grpc
import jwt
import pytest
from _http2_peer import Peer

import grpc_bearer
from grpc_bearer import (
    BearerAuth,
    ClientCredentialsSource,
    ExecSource,
    FileSource,
    HTTPTokenSource,
    JWTSource,
    RoutedSource,
    StaticSource,
    Token,
    TokenRejectedError,
    errors,
)
from grpc_bearer._cli.codes import PAGE, CommandFailure, Exit
from grpc_bearer.testing import (
    CA,
    OpaqueVerifier,
    ProbeRequest,
    ProbeServer,
    ProbeStub,
    Refuse,
    Response,
    TokenServer,
    throwaway_key,
)

PATH = Path(__file__).parents[2] / "docs" / "guides" / "troubleshooting.md"
TEXT = PATH.read_text("utf-8")
#: What is explained: a line of code, and under it what it means.
ENTRIES = re.findall(r"^`([^`\n]+)`\n: ", TEXT, re.MULTILINE)
PATIENCE = 20.0
SECRET = "k" * 32


class Place:
    """The servers, and a folder."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.ca = CA()
        self.ca_file = self.ca.write(folder)
        self.verifier = OpaqueVerifier(["good"])
        self.api = stack.enter_context(ProbeServer(self.verifier, self.ca))
        self.plain = stack.enter_context(ProbeServer(self.verifier, credentials="insecure"))
        self.tokens = stack.enter_context(TokenServer(self.ca))
        self.tls = self.api.channel_credentials()

    def call(self, channel: grpc.Channel, **how: Any) -> str:
        """The details of a call that fails, and what we say of it."""
        with channel, pytest.raises(grpc.RpcError) as caught:
            ProbeStub(channel).Unary(ProbeRequest(index=1), **{"timeout": PATIENCE, **how})
        error: Any = caught.value
        return f"{error.details()}\n{error.__cause__}"

    def with_auth(self, auth: Any, *faults: Any) -> str:
        self.api.script(*faults)
        return self.call(grpc_bearer.secure_channel(self.api.target, self.tls, auth=auth))

    def plugin(self, *metadata: tuple[str, str], error: Exception | None = None) -> str:
        class Plugin(grpc.AuthMetadataPlugin):
            def __call__(self, context: Any, callback: Any) -> None:
                callback(metadata, error)

        both = grpc.composite_channel_credentials(self.tls, grpc.metadata_call_credentials(Plugin()))
        return self.call(grpc.secure_channel(self.api.target, both))

    def answered(self, status: int, body: Any = None, *, text: bytes = b"") -> str:
        """What is said of a token endpoint's answer."""
        content = text or json.dumps(body or {}).encode()
        url = self.tokens.serve("/t", lambda _: Response(status, content, content_type="application/json"))
        return self.token(ClientCredentialsSource(url, "id", "secret", ca=self.ca_file))

    def endpoint(self, url: str, **how: Any) -> str:
        return self.token(ClientCredentialsSource(url, "id", "secret", **how))

    def file(self, text: str) -> Path:
        (self.folder / "token").write_text(text)
        return self.folder / "token"

    def token(self, source: Any, *call: str, timeout: float | None = PATIENCE) -> str:
        with BearerAuth(source) as auth:
            return told(lambda: auth.token(*call, timeout=timeout))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(tmp_path, stack)


def told(make: Callable[[], object]) -> str:
    with pytest.raises(errors.GrpcBearerError) as caught:
        make()
    return str(caught.value)


def signed(**claims: Any) -> Token:
    return Token(jwt.encode(claims, SECRET))


def closed() -> str:
    auth = BearerAuth("token")
    auth.close()
    return told(auth.token)


def fails() -> str:
    raise RuntimeError("hidden")


def hanging(place: Place) -> Callable[[], str]:
    over = threading.Event()
    place.stack.callback(over.set)
    return lambda: "late" if over.wait(PATIENCE) else ""


def bare(place: Place, status: int) -> str:
    with Peer(lambda request: request.bare(status)) as peer:
        return place.call(grpc.insecure_channel(peer.target))


def removed() -> str:
    """Of many streams that a proxy refuses, some lose their status."""

    async def details() -> str:
        async with grpc.aio.insecure_channel(peer.target) as channel:
            for _ in range(1000):
                try:
                    async for _ in ProbeStub(channel).ServerStream(ProbeRequest(replies=3), timeout=PATIENCE):
                        pass
                except grpc.aio.AioRpcError as error:
                    if "Stream removed" in str(error.details()):
                        return str(error.details())
        return ""

    with Peer(lambda request: request.bare(401)) as peer:
        return asyncio.run(details())


def two_auths(place: Place) -> str:
    with grpc_bearer.secure_channel(place.api.target, place.tls, auth="good") as channel:
        return told(lambda: grpc_bearer.intercept_channel(channel, "good"))


NOW = time.time()
#: How each text of the page comes about.
OCCURS: dict[str, Callable[[Place], str]] = {
    # gRPC's
    "Getting metadata from plugin failed with error: …": lambda p: p.plugin(error=ValueError("no token")),
    "Illegal metadata": lambda p: p.plugin(("authorization", "Bearer token\n")),
    "Invalid metadata": lambda p: p.call(p.api.channel(), metadata=[("Authorization", "Bearer token")]),
    "Established channel does not have a sufficient security level to transfer call credential.": lambda p: p.call(
        grpc.insecure_channel(p.plain.target), credentials=grpc_bearer.call_credentials("good")
    ),
    "Deadline Exceeded": lambda p: p.call(
        grpc_bearer.secure_channel(p.api.target, p.tls, auth=hanging(p)), timeout=0.2
    ),
    "Received http2 header with status: 401": lambda p: bare(p, 401),
    "Stream removed …": lambda p: removed(),
    "received metadata size exceeds hard limit …": lambda p: p.with_auth("x" * 20_000),
    "failed to connect to all addresses; last error: …": lambda p: p.call(grpc.insecure_channel("localhost:1")),
    "errors resolving …": lambda p: p.call(grpc.insecure_channel("nowhere.invalid:443")),
    # why a server refused
    "the token is opaque: revoked, mistyped, or meant for another service": lambda p: p.with_auth("mistyped"),
    "it expired … s ago by this machine's clock": lambda p: p.with_auth(StaticSource(signed(exp=NOW - 60).value)),
    "its iat is … s ahead of this machine's clock": lambda p: p.with_auth(signed(iat=int(NOW) + 600).value),
    "this machine's clock is … s ahead of the server's, which is the likely cause": lambda p: p.with_auth(
        "good", Refuse(trailing=[("date", email.utils.formatdate(NOW - 600, usegmt=True))])
    ),
    "by this machine's clock its times are right: if that clock is wrong, this is the likely cause; …": (
        lambda p: p.with_auth(signed(iat=int(NOW) - 10).value)
    ),
    "it lacks a scope or a role that this call needs, or is meant for another service": lambda p: p.with_auth(
        "good", Refuse(grpc.StatusCode.PERMISSION_DENIED)
    ),
    "it says invalid_token": lambda p: p.with_auth("mistyped"),
    "its source has no other": lambda p: p.with_auth("mistyped"),
    "the server refused the token (UNAUTHENTICATED); …": lambda p: p.with_auth("mistyped"),
    "the token has … bytes; servers and proxies refuse headers beyond some 4 to 16 KiB …": (
        lambda p: p.with_auth("x" * 20_000)
    ),
    # ours
    "the token was already expired when it arrived; is the clock right?": lambda p: p.token(
        lambda: Token("token", expires_at=1.0)
    ),
    "…: the token expired … s ago by this machine's clock; is the clock right?": lambda p: p.token(
        HTTPTokenSource(
            p.tokens.serve("/t", lambda _: Response(200, signed(exp=int(NOW) - 60).value.encode())), ca=p.ca_file
        )
    ),
    "…: answered 401 invalid_client": lambda p: p.answered(401, {"error": "invalid_client"}),
    "…: answered 400 invalid_grant": lambda p: p.answered(400, {"error": "invalid_grant"}),
    "…: answered 400 invalid_scope": lambda p: p.answered(400, {"error": "invalid_scope"}),
    "…: exited with code …; run it by hand to see why, …": lambda p: p.token(ExecSource([sys.executable, "-c", "1/0"])),
    "…: answered 503": lambda p: p.answered(503),
    "…: answered 404": lambda p: p.answered(404),
    "…: connection refused": lambda p: p.endpoint("https://localhost:1/token"),
    "…: the host name was not found": lambda p: p.endpoint("https://nowhere.invalid/token"),
    "…: certificate verify failed (…); name the authority that issued it with ca=": (
        lambda p: p.endpoint(p.tokens.serve("/t", lambda _: Response(200, b"{}")))
    ),
    "…: the answer is HTML or XML; is the address right?": lambda p: p.answered(200, text=b"<html>Log in</html>"),
    "…: answered 302: redirected; redirects are never followed, so give the final address": lambda p: p.answered(302),
    "no token within … s; its fetch goes on and will serve later calls": lambda p: p.token(hanging(p), timeout=0.1),
    "…: No such file or directory": lambda p: p.token(FileSource(p.folder / "none")),
    "…: empty; is it being written?": lambda p: p.token(FileSource(p.file(""))),
    "…: its token expired … s ago; is the file still being renewed?": lambda p: p.token(
        FileSource(p.file(signed(exp=int(NOW) - 60).value))
    ),
    "…(): raised RuntimeError": lambda p: p.token(fails),
    "the auth is closed; make a new one": lambda p: closed(),
    "…: JSON without the field 'access_token'": lambda p: p.answered(200, {"token_typ": "Bearer"}),
    "…: should return a str or a Token, not int": lambda p: p.token(lambda: 1),
    "token: is in quotes; give it without them": lambda p: told(lambda: BearerAuth('"token"')),
    "token: begins with 'Bearer '; give the bare token, the scheme is added to it": (
        lambda p: told(lambda: BearerAuth("Bearer token"))
    ),
    "token: this text is the name of a file, and would be sent itself; pass pathlib.Path(…) to have the file read": (
        lambda p: told(lambda: BearerAuth(str(p.file("token"))))
    ),
    "token: a placeholder that was not filled in; put the value itself in its place": (
        lambda p: told(lambda: BearerAuth("${TOKEN}"))
    ),
    "token: given inline, and a pickle would carry it in the clear; …": (
        lambda p: told(lambda: pickle.dumps(BearerAuth("token")))
    ),
    "token: empty": lambda p: told(lambda: BearerAuth("")),
    "auth: cannot make a token source of …": lambda p: told(lambda: BearerAuth(cast(Any, os.environ.get("NOT_SET")))),
    "…: cannot read …: …": lambda p: told(lambda: JWTSource(p.folder / "none.pem", claims={"iss": "me"})),
    "config: missing; name a TOML file here or in the environment variable GRPC_BEARER_CONFIG": (
        lambda p: told(lambda: grpc_bearer.load("fleet"))
    ),
    "name: a file, and not the name of an auth; give it as config=": (
        lambda p: told(lambda: grpc_bearer.load("auths.toml"))
    ),
    "…: no auth of the name …": lambda p: told(
        lambda: grpc_bearer.load("fleet", p.file("[auth.orders]\nsource = 'static'\n"))
    ),
    "…: not TOML…": lambda p: told(lambda: grpc_bearer.load("fleet", p.file("default = fleet\n"))),
    "auth: another auth puts its token under 'authorization' on the same call, …": two_auths,
    "credentials: this channel would carry the token in the clear; …": (
        lambda p: told(lambda: grpc_bearer.insecure_channel(p.plain.target, auth="good"))
    ),
    "key: a public key; signing needs the private key": (
        lambda p: told(lambda: JWTSource(throwaway_key("ES256").public_key(), claims={"iss": "me"}))
    ),
    "key: ES256 needs a private key of type EC P-256, and this one is RSA": (
        lambda p: told(lambda: JWTSource(throwaway_key("RS256"), algorithm="ES256", claims={"iss": "me"}))
    ),
    "no route for …: none of … matches": lambda p: p.token(
        RoutedSource({"shop.*": StaticSource("token")}), "https://api.example.com/fleet.v1.Fleet", "List"
    ),
}


def found(entry: str, text: str) -> bool:
    return re.search(re.sub(r"(\\ )?…", ".*", re.escape(entry)), text) is not None


#: Older gRPC has other words for these; the page has the newest.
NEW_WORDS = ("Invalid metadata", "errors resolving …")


@pytest.mark.parametrize("entry", OCCURS)
def test_the_text_comes(entry: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if entry in NEW_WORDS:
        pytest.importorskip("grpc", "1.80", reason="has other words for it")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("GRPC_BEARER_CONFIG", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # long tokens
        text = OCCURS[entry](place)

    assert found(entry, text), text


def test_every_entry_of_the_page_is_one_of_these() -> None:
    assert sorted(ENTRIES) == sorted(OCCURS)


# --------------------------------------------------------------------------------------------------------------- codes


CODES = sorted(set(errors._HELP.values()))


def test_every_code_is_a_heading_of_the_page_and_every_heading_a_code() -> None:
    assert sorted(re.findall(r"^### (GB-[A-Z]+)$", TEXT, re.MULTILINE)) == CODES
    assert re.findall(r"^\((gb-[a-z]+)\)=\n### (GB-[A-Z]+)$", TEXT, re.MULTILINE) == [
        (code.lower(), code) for code in re.findall(r"^### (GB-[A-Z]+)$", TEXT, re.MULTILINE)
    ]
    assert set(re.findall(r"GB-[A-Z]+", TEXT)) == set(CODES)


def test_every_public_error_and_everything_that_may_be_at_fault_has_a_code() -> None:
    public = [getattr(errors, name) for name in errors.__all__]
    root = Path(grpc_bearer.__file__).parent
    source = "\n".join(path.read_text("utf-8") for path in root.rglob("*.py"))
    suspects = set(re.findall(r'suspect="(\w+)"', source))

    assert {each._about for each in public} <= set(errors._HELP)
    assert suspects
    assert suspects <= set(errors._HELP)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors take no notes before Python 3.11")
def test_a_traceback_ends_with_the_code() -> None:
    error = TokenRejectedError("the credential was refused")

    assert str(error) == "the credential was refused"
    assert traceback.format_exception(error)[-1].startswith("See GB-REJECTED under Troubleshooting")
    assert traceback.format_exception(error.fresh()) == traceback.format_exception(error)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="errors take no notes before Python 3.11")
@pytest.mark.parametrize("dask", [False, True])
def test_a_note_that_somebody_adds_is_that_of_one_error_alone(dask: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def rebuilt(attributes: dict[str, Any]) -> TokenRejectedError:
        other = TokenRejectedError.__new__(TokenRejectedError)
        other.__dict__ = attributes
        return other

    if dask:  # copies of errors share what they hold, by tblib, once it was imported
        monkeypatch.setitem(copyreg.dispatch_table, TokenRejectedError, lambda error: (rebuilt, (error.__dict__,)))
    error = TokenRejectedError("the credential was refused")
    twin: Any = error.fresh()
    twin.add_note("of the third call")

    assert "third call" not in "".join(traceback.format_exception(error.fresh()))


def test_an_error_that_is_a_timeout_too_keeps_its_text_for_everybody() -> None:
    class VaultTimeout(errors.TokenUnavailableError, TimeoutError):
        """Of a source of the user's."""

    assert str(VaultTimeout("the vault is slow").fresh()) == "the vault is slow"


def test_a_call_that_fails_here_ends_with_the_code(place: Place) -> None:
    assert "raised RuntimeError [GB-UNAVAILABLE]\n" in place.with_auth(fails)


def test_what_a_command_says_ends_with_the_code_and_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = CommandFailure(Exit.CLOCK, "the clock is 10 s ahead", "set it", help="GB-CLOCK")
    home: Any = email.message.Message()
    monkeypatch.setattr("importlib.metadata.metadata", lambda name: home)
    without = str(failure)
    home["Project-URL"] = "Documentation, https://docs.example.com/"

    assert without.endswith("Set it. See GB-CLOCK under Troubleshooting in the documentation.")
    assert str(failure).endswith(
        "Set it. See GB-CLOCK <https://docs.example.com/guides/troubleshooting.html#gb-clock>."
    )
    home.replace_header("Project-URL", "Documentation, https://git.example.com/tree/main/docs")
    assert str(failure).endswith("<https://git.example.com/tree/main/docs/guides/troubleshooting.md#gb-clock>.")
    assert PATH.as_posix().endswith(f"{PAGE}.md")
    assert str(CommandFailure(Exit.USAGE, "no")) == "no."
