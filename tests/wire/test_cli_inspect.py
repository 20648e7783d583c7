"""`grpc-bearer inspect`: what people paste, and whose signature it is."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from _cli_server import TOKEN, run
from joserfc import jwk
from joserfc import jwt as jose

from grpc_bearer.testing import CA, Response, Status, TokenServer, private_pem, public_pem, throwaway_key

LONG = 9000


def signed(algorithm: str = "RS256", key: Any = None, **header: str) -> str:
    claims = {"exp": int(time.time()) + 600, "iss": "me@example.com"}
    return jwt.encode(claims, key or throwaway_key(algorithm), algorithm=algorithm, headers=header)


JWT = signed()
WRAPPED = "\n".join(JWT[at : at + 60] for at in range(0, len(JWT), 60))
CURL = f"""\
* Connected to api.example.com (127.0.0.1) port 443
> POST /fleet.v1.Fleet/List HTTP/2
> Host: api.example.com
> authorization: Bearer {JWT}
> content-type: application/grpc
>
< HTTP/2 200
< x-request-id: 7
"""
PASTED = {
    "bare": JWT,
    "with a scheme": f"Bearer {JWT}",
    "with a scheme in lower case": f"bearer {JWT}\n",
    "a header": f"Authorization: Bearer {JWT}",
    "a header without a blank": f"authorization:Bearer {JWT}",
    "a header of another name": f"x-api-token: {JWT}",
    "a header in quotes": f"-H 'Authorization: Bearer {JWT}'",
    "a line of curl": f"curl -sS -H \"authorization: Bearer {JWT}\" https://api.example.com/v1/robots?page=2 -d '{{}}'",
    "a line of grpcurl": f"grpcurl -H 'authorization: Bearer {JWT}' api.example.com:443 list",
    "what curl -v prints": CURL,
    "an OAuth answer": json.dumps({"access_token": JWT, "token_type": "Bearer", "expires_in": 600}),
    "the same over several lines": json.dumps({"token_type": "Bearer", "id_token": JWT}, indent=2),
    "a header line in JSON": json.dumps({"headers": {"Authorization": f"Bearer {JWT}"}}),
    "a line of a log": f'2026-11-28 12:00:00 INFO sent token={JWT} to "api"',
}


@pytest.mark.parametrize("how", ["stdin", "argument", "file", "@file"])
@pytest.mark.parametrize("name", PASTED)
def test_the_token_is_found_in_what_was_pasted(name: str, how: str, tmp_path: Path) -> None:
    (tmp_path / "pasted").write_text(PASTED[name])
    word = {"stdin": "-", "argument": PASTED[name], "file": f"{tmp_path}/pasted", "@file": f"@{tmp_path}/pasted"}[how]
    ran = run("inspect", word, "--json", stdin=PASTED[name])

    assert (ran.code, ran.err) == (0, "")
    assert (ran.json["claims"]["iss"], ran.json["problems"]) == ("me@example.com", [])


def test_what_was_copied_over_several_lines_is_still_told() -> None:
    for text in (WRAPPED, f"Authorization: Bearer {WRAPPED}"):
        ran = run("inspect", "-", "--json", stdin=text)
        assert ran.json["claims"]["iss"] == "me@example.com"
        assert ran.json["problems"] == ["has white space in it; was it copied over several lines?"]


@pytest.mark.parametrize("scheme", ["Bearer ", ""])
def test_of_several_tokens_the_first_is_shown_and_told(scheme: str) -> None:
    text = f"{scheme}{JWT}\n{scheme}{signed('ES256')}\n"
    ran = run("inspect", "-", stdin=text)
    quiet = run("inspect", "-q", "-", stdin=text)

    assert (ran.code, ran.err) == (0, "grpc-bearer: 2 tokens are in this text; this is the first.\n")
    assert quiet.err == ""


def test_nothing_that_looks_like_a_token() -> None:
    ran = run("inspect", "-", stdin="no token at all, my friend")

    assert ran.code == 1
    assert "not a JWT" in ran.out


@pytest.mark.parametrize("how", ["stdin", "argument"])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Basic dXNlcjpwYXNz", "Basic, no bearer token."),
        ("Basic dXNlcjpwYXNz", "Basic, no bearer token."),
        ("curl -H 'Authorization: Bearer $TOKEN' https://api.example.com", "the token is a placeholder that was not"),
        ("Bearer ${TOKEN}", "the token is a placeholder that was not"),
        ("curl -sS https://api.example.com/v1/robots", "no token in this text."),
        ('{"error": "invalid_client"}', "no token in this text."),
        ('{"access_token": ""}', "no token in this text."),
        ('[{"a": 1}]', "no token in this text."),
        ("", {"argument": "TOKEN: empty.", "stdin": "no token on stdin."}),
    ],
)
def test_a_text_without_a_token(text: str, expected: str | dict[str, str], how: str) -> None:
    ran = run("inspect", text if how == "argument" else "-", stdin=text)

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"grpc-bearer: {expected[how] if isinstance(expected, dict) else expected}")


# -- long tokens ------------------------------------------------------------------------------------------------------


def test_a_long_token_warns_in_words(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("tok-" + "x" * LONG)
    options = ["--token-file", str(tmp_path / "token")]
    ran = run("token", *options, warnings="default")
    quiet = run("token", "--quiet", *options, warnings="default")
    inspected = run("inspect", "--profile", "crm", *options, warnings="default")

    assert (ran.code, len(ran.out)) == (0, LONG + 5)
    assert ran.err.startswith("grpc-bearer: warning: token: 9004 bytes; many servers and proxies refuse headers over")
    assert len(ran.err.splitlines()) == 1
    assert (quiet.code, quiet.err) == (0, "")
    assert (inspected.code, inspected.err) == (1, "")
    assert "Wrong: 9004 bytes: many servers and proxies refuse headers over 8192." in inspected.out


def cut(algorithm: str, characters: int, key: Any = None) -> str:
    return signed(algorithm, key)[:-characters]


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        (cut("ES256", 8), "its signature has 58 bytes, and ES256 has 64; was it cut off?"),
        (cut("ES256", 1), "its signature has 63 bytes, and ES256 has 64; was it cut off?"),
        (cut("EdDSA", 8), "its signature has 58 bytes, and EdDSA has 64; was it cut off?"),
        (cut("HS256", 8, "x" * 32), "its signature has 26 bytes, and HS256 has 32; was it cut off?"),
        (cut("RS256", 300), "its signature has 31 bytes, and RS256 has 128 at least; was it cut off?"),
        (signed("ES256"), None),
        (signed("ES384"), None),
        (signed("ES512"), None),
        (signed("EdDSA"), None),
        (signed("PS256"), None),
        *((signed(f"HS{bits}", "x" * 64), None) for bits in (256, 384, 512)),
    ],
)
def test_a_signature_that_lost_its_end(token: str, problem: str | None) -> None:
    ran = run("inspect", token)

    assert ran.code == (1 if problem else 0)
    wrong = [line for line in ran.out.splitlines() if line.startswith("Wrong: ")]
    assert wrong == ([f"Wrong: {problem}"] if problem else [])


# -- signatures -------------------------------------------------------------------------------------------------------


def public(algorithm: str, **more: str) -> dict[str, Any]:
    """A JWK, as others write it."""
    kind = {"RS256": jwk.RSAKey, "PS256": jwk.RSAKey, "ES256": jwk.ECKey}[algorithm]
    return {**kind.import_key(public_pem(throwaway_key(algorithm).public_key())).as_dict(private=False), **more}


@pytest.fixture
def jwks(tmp_path: Path) -> Callable[..., str]:
    def write(*keys: dict[str, Any]) -> str:
        (tmp_path / "jwks.json").write_text(json.dumps({"keys": keys}))
        return str(tmp_path / "jwks.json")

    return write


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256"])
@pytest.mark.parametrize("kid", [None, "one"])
def test_a_signature_is_verified_by_the_key_of_the_set(
    algorithm: str, kid: str | None, jwks: Callable[..., str]
) -> None:
    header = {"kid": kid} if kid else {}
    keys = jwks(public("ES256", kid="zero"), public(algorithm, **header))
    ran = run("inspect", "--verify", keys, signed(algorithm, **header))
    as_json = run("inspect", "--json", "--verify", keys, signed(algorithm, **header))

    assert (ran.code, as_json.json["verified"]) == (0, True)
    assert f"bytes, not shown; verified by {'the key one' if kid else 'a key'} of {keys}" in ran.out.replace(
        "the key zero",
        "a key",  # which is the same key
    )


def test_a_token_that_another_library_has_made(jwks: Callable[..., str]) -> None:
    key = jwk.ECKey.import_key(private_pem(throwaway_key("ES256")))
    token = jose.encode({"alg": "ES256"}, {"exp": int(time.time()) + 60}, key)

    assert run("inspect", "--verify", jwks(public("ES256")), token).code == 0


def tampered(token: str) -> str:
    header, _, signature = token.split(".")
    changed = {"exp": int(time.time()) + 600, "iss": "mallory"}
    return ".".join([header, base64.urlsafe_b64encode(json.dumps(changed).encode()).decode().rstrip("="), signature])


@pytest.mark.parametrize(
    ("token", "key", "expected"),
    [
        (tampered(signed(kid="a")), public("RS256", kid="a"), "its signature is not by the key a of"),
        (signed(kid="b"), public("RS256", kid="a"), "has no key with the kid b (it has a)"),
        (signed("ES256"), public("RS256"), "is for ES256"),
        (signed(), public("RS256", alg="PS256"), "is for RS256"),
        (signed(), public("RS256", use="enc"), "is for RS256"),
        (signed("HS256", "x" * 32), public("RS256"), "is for HS256"),
        (jwt.encode({"exp": 9999999999}, None, algorithm="none"), public("RS256"), "has no signature that could be"),
        (TOKEN, public("RS256"), "it is no JWT"),
        (signed(), {"kty": "RSA", "n": "AQAB"}, "is for RS256"),
    ],
)
def test_a_signature_that_does_not_hold(
    token: str, key: dict[str, Any], expected: str, jwks: Callable[..., str]
) -> None:
    ran = run("inspect", "--json", "--verify", jwks(key), token)

    assert (ran.code, ran.json["verified"], ran.json["ok"]) == (1, False, False)
    assert [problem for problem in ran.json["problems"] if expected in problem], ran.json["problems"]


def test_a_public_key_in_pem_never_stands_for_a_shared_secret(tmp_path: Path) -> None:
    pem = public_pem(throwaway_key("RS256").public_key())
    (tmp_path / "key.pem").write_bytes(pem if isinstance(pem, bytes) else pem.encode())
    confused = ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=")
        for part in (b'{"alg":"HS256"}', b'{"exp":9999999999}', b"x")
    )

    assert run("inspect", "--verify", str(tmp_path / "key.pem"), signed()).code == 0
    ran = run("inspect", "--verify", str(tmp_path / "key.pem"), confused)
    assert ran.code == 1
    for wrong in (
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        private_pem(throwaway_key("RS256")),
    ):
        (tmp_path / "wrong.pem").write_bytes(wrong if isinstance(wrong, bytes) else wrong.encode())
        none = run("inspect", "--verify", str(tmp_path / "wrong.pem"), signed())
        assert (none.code, "no public key that can be read" in none.err) == (2, True)
    assert "is not for HS256" in ran.out


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[TokenServer, list[str]]]:
    """A server of keys, and the options that trust it."""
    ca = CA()
    with TokenServer(ca) as server:
        yield server, ["--token-ca", str(ca.write(tmp_path))]


def test_keys_from_a_url_and_from_the_providers_configuration(served: tuple[TokenServer, list[str]]) -> None:
    server, trust = served
    answer = lambda document: Response(body=json.dumps(document).encode())  # noqa: E731
    keys = server.serve("/jwks", lambda request: answer({"keys": [public("RS256", kid="a")]}))
    provider = server.serve("/.well-known/openid-configuration", lambda request: answer({"jwks_uri": keys}))
    other = server.serve("/other", lambda request: answer({"hello": "world"}))

    for url in (keys, provider):
        ran = run("inspect", signed(kid="a"), "--verify", url, *trust)
        assert (ran.code, f"verified by the key a of {keys}" in ran.out) == (0, True), ran.err
    none = run("inspect", signed(), "--verify", other, *trust)
    gone = run("inspect", signed(), "--verify", server.url("/nothing"), *trust)
    loopback = run("inspect", signed(), "--verify", "http://127.0.0.1:1/jwks")
    untrusted = run("inspect", signed(), "--verify", keys)
    server.fail_with(Status(503))
    down = run("inspect", signed(), "--verify", keys, *trust)

    assert [ran.code for ran in (none, gone, down)] == [2, 2, 3]
    assert "holds no keys" in none.err
    assert (loopback.code, "only, with --allow-http-loopback." in loopback.err) == (2, True)
    assert (untrusted.code, "--token-ca" in untrusted.err) == (4, True), untrusted.err
    assert "give the URL of a JWK set" in gone.err.replace("Give", "give")
    assert "answered 503" in down.err
