"""Keys in every form make signers whose signatures hold, and those that do not fit are told apart at once."""

from __future__ import annotations

import base64
import itertools
import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import google.auth.crypt
import jwt as pyjwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from joserfc.jwk import ECKey, OKPKey, RSAKey

from grpc_bearer._base.signing import ALGORITHMS, load_signer
from grpc_bearer.errors import ConfigurationError, SigningError, TokenUnavailableError
from grpc_bearer.testing import CA, private_pem, public_pem, throwaway_key

DATA = b"header.claims"
PASSPHRASE = "pass-phrase-that-must-not-show"
# The names of PyJWT's algorithms are the reference for what a signature must be.
REFERENCE = pyjwt.algorithms.get_default_algorithms()


def assert_good(signature: bytes, key: Any, algorithm: str) -> None:
    assert REFERENCE[algorithm].verify(DATA, key.public_key(), signature)


def jwk_of(key: Any, algorithm: str, **members: object) -> dict[str, Any]:
    kind = {"R": RSAKey, "P": RSAKey}.get(algorithm[0]) or {"ES": ECKey, "Ed": OKPKey}[algorithm[:2]]
    return {**kind.import_key(private_pem(key)).as_dict(private=True), **members}


def secrets_of(key: Any) -> list[str]:
    """Pieces of the key's text, to be looked for where they must not be."""
    lines = private_pem(key).splitlines()[1:-1]
    return [line for line in lines if len(line) > 20]


def everything_said(error: BaseException) -> str:
    chain, seen = [error], ""
    while chain:
        link = chain.pop()
        seen += "".join(traceback.format_exception(link)) + repr(link.args) + repr(vars(link))
        chain += [inner for inner in (link.__cause__, link.__context__) if inner is not None]
    return seen


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_signs_what_the_reference_verifies(algorithm: str) -> None:
    key = throwaway_key(algorithm)

    signer = load_signer(key, algorithm)

    assert_good(signer.sign(DATA), key, algorithm)
    assert signer.local
    assert signer.algorithm == algorithm


def test_ed448_signs_as_eddsa() -> None:
    key = ed448.Ed448PrivateKey.generate()

    assert_good(load_signer(key).sign(DATA), key, "EdDSA")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512", "EdDSA"])
def test_the_algorithm_is_chosen_by_the_key(algorithm: str) -> None:
    assert load_signer(throwaway_key(algorithm)).algorithm == algorithm


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "ES384", "ES512", "EdDSA"])
@pytest.mark.parametrize("traditional", [False, True], ids=["PKCS#8", "PKCS#1 or SEC1"])
@pytest.mark.parametrize("passphrase", [None, PASSPHRASE, PASSPHRASE.encode()], ids=["open", "encrypted", "by bytes"])
def test_every_pem_format_is_read(algorithm: str, traditional: bool, passphrase: str | bytes | None) -> None:
    key = throwaway_key(algorithm)
    if traditional and algorithm == "EdDSA":
        pytest.skip("EdDSA keys have no traditional format")
    pem = private_pem(key, traditional=traditional, passphrase=PASSPHRASE.encode() if passphrase else None)

    assert_good(load_signer(pem, algorithm, passphrase=passphrase).sign(DATA), key, algorithm)


def forms_of(pem: str) -> dict[str, str | bytes]:
    lines = pem.strip().splitlines()
    return {
        "str": pem,
        "bytes": pem.encode(),
        "CRLF": pem.replace("\n", "\r\n"),
        "letters backslash n": pem.replace("\n", "\\n"),
        "letters backslash n twice": pem.replace("\n", "\\\\n"),
        "letters backslash r backslash n": pem.replace("\n", "\\r\\n"),
        "letters backslash r backslash n twice": pem.replace("\n", "\\\\r\\\\n"),
        "backslash before each line end": pem.replace("\n", "\\\n"),
        "backslash before each CRLF": pem.replace("\n", "\\\r\n"),
        "slashes as PHP writes them in JSON": pem.replace("/", "\\/"),
        "in quotes": f'"{pem}"',
        "one line": "".join(lines),
        "one line with spaces": " ".join(lines),
        "indented": "\n".join("    " + line for line in lines),
        "text around": f"key of service x\n\n{pem}\nend of file\n",
        "byte order mark": b"\xef\xbb\xbf" + pem.encode(),
        "with EC PARAMETERS": "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n" + pem,
        "with its certificate": CA().pem.decode() + pem,
    }


@pytest.mark.parametrize("form", forms_of(""))
@pytest.mark.parametrize("traditional", [False, True], ids=["PKCS#8", "SEC1"])
def test_pem_is_read_however_it_was_pasted(form: str, traditional: bool) -> None:
    key = throwaway_key("ES256")

    signer = load_signer(forms_of(private_pem(key, traditional=traditional))[form], "ES256")

    assert_good(signer.sign(DATA), key, "ES256")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "ES384", "ES512", "EdDSA"])
@pytest.mark.parametrize("form", [dict, json.dumps, lambda jwk: json.dumps(jwk).encode()], ids=["dict", "str", "bytes"])
def test_a_jwk_is_read_with_its_kid(algorithm: str, form: Any) -> None:
    key = throwaway_key(algorithm)

    signer = load_signer(form(jwk_of(key, algorithm, kid="k-1", use="sig")))

    assert_good(signer.sign(DATA), key, algorithm)
    assert signer.key_id == "k-1"


@pytest.mark.parametrize("algorithm", ["ES256", "ES384", "ES512"])
def test_an_ec_jwk_without_its_leading_zeros_is_read(algorithm: str) -> None:
    # Not as RFC 7518 section 6.2.1.2 wants it, but as PyJWT 2.8 and joserfc 1.5 write it, for one key in 128 and more.
    small = itertools.count(1)
    shortened: dict[str, Any] = {}
    while not any(len(raw) < ALGORITHMS[algorithm].size for raw in shortened.values()):
        key = ec.derive_private_key(next(small), throwaway_key(algorithm).curve)
        jwk = jwk_of(key, algorithm)
        shortened = {name: decoded(jwk[name]).lstrip(b"\0") for name in ("x", "y")}
    short = {name: base64.urlsafe_b64encode(raw).decode().rstrip("=") for name, raw in shortened.items()}

    assert_good(load_signer({**jwk, **short}).sign(DATA), key, algorithm)


def decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")


def test_a_jwk_may_name_its_algorithm() -> None:
    assert load_signer(jwk_of(throwaway_key("RS256"), "RS256", alg="PS384", key_ops=["sign"])).algorithm == "PS384"


@pytest.mark.parametrize("as_str", [False, True])
@pytest.mark.parametrize("content", ["PEM", "JWK"])
def test_a_key_file_is_read(tmp_path: Path, as_str: bool, content: str) -> None:
    key = throwaway_key("ES256")
    path = tmp_path / "key.pem"
    path.write_text(private_pem(key) if content == "PEM" else json.dumps(jwk_of(key, "ES256")))

    assert_good(load_signer(str(path) if as_str else path).sign(DATA), key, "ES256")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_a_google_signer_signs_under_its_own_algorithm_and_key_id(algorithm: str) -> None:
    key = throwaway_key(algorithm)
    kind = google.auth.crypt.RSASigner if algorithm == "RS256" else google.auth.crypt.ES256Signer

    signer = load_signer(kind.from_string(private_pem(key), "k-2"))

    assert_good(signer.sign(DATA), key, algorithm)
    assert (signer.algorithm, signer.key_id, signer.local) == (algorithm, "k-2", True)


def test_a_google_signer_refuses_another_algorithm() -> None:
    signer = google.auth.crypt.RSASigner.from_string(private_pem(throwaway_key("RS256")))

    with pytest.raises(SigningError, match="ES256 was asked for, and this google-auth signer signs RS256"):
        load_signer(signer, "ES256")


def der_signature(data: bytes) -> bytes:
    return throwaway_key("ES256").sign(data, ec.ECDSA(hashes.SHA256()))


def raw_signature(data: bytes) -> bytes:
    return load_signer(throwaway_key("ES256")).sign(data)


@pytest.mark.parametrize("function", [der_signature, raw_signature])
def test_a_callable_may_answer_es256_as_der_or_raw(function: Any) -> None:
    signer = load_signer(function, "ES256")

    signature = signer.sign(DATA)

    assert len(signature) == 64
    assert_good(signature, throwaway_key("ES256"), "ES256")
    assert not signer.local


def test_short_numbers_in_a_der_signature_are_padded() -> None:
    signer = load_signer(lambda data: encode_dss_signature(1, 2), "ES384")

    assert signer.sign(DATA) == (1).to_bytes(48, "big") + (2).to_bytes(48, "big")


def test_a_callable_that_fails_is_unavailable_and_its_text_is_not_shown() -> None:
    def broken(data: bytes) -> bytes:
        raise OSError("secret in the text")

    with pytest.raises(TokenUnavailableError, match="key: signing failed with OSError") as caught:
        load_signer(broken, "RS256").sign(DATA)
    assert "secret in the text" not in everything_said(caught.value).replace('raise OSError("secret in the text")', "")
    assert caught.value.__context__ is None


def test_a_callable_may_raise_our_own_errors() -> None:
    def busy(data: bytes) -> bytes:
        raise TokenUnavailableError("busy", retry_after=7)

    with pytest.raises(TokenUnavailableError, match="busy") as caught:
        load_signer(busy, "RS256").sign(DATA)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("answer", [None, "text", b"", b"junk", encode_dss_signature(1 << 300, 1)])
def test_a_callable_that_answers_no_signature_is_told_so(answer: Any) -> None:
    with pytest.raises(SigningError, match="key: "):
        load_signer(lambda data: answer, "ES256").sign(DATA)


PUBLIC_KEY = throwaway_key("ES256").public_key()
ES256_PEM = private_pem(throwaway_key("ES256"))
ENCRYPTED = private_pem(throwaway_key("ES256"), passphrase=b"right")


def test_the_error_names_the_file_and_the_field(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(public_pem(PUBLIC_KEY))

    with pytest.raises(SigningError) as caught:
        load_signer(path, field="privateKey")

    assert str(caught.value) == f"privateKey: {path}: a public key; signing needs the private key"


def test_repr_shows_algorithm_and_key_type_only() -> None:
    assert repr(load_signer(throwaway_key("ES256"))) == "Signer(ES256, EC P-256)"


def test_a_signer_from_a_file_pickles_as_the_file(tmp_path: Path) -> None:
    key, rotated = throwaway_key("ES256"), throwaway_key("ES256", 1)
    path = tmp_path / "key.pem"
    path.write_text(private_pem(key))
    dumped = pickle.dumps(load_signer(path, "ES256"))
    path.write_text(private_pem(rotated))

    assert_good(pickle.loads(dumped).sign(DATA), rotated, "ES256")
    assert [secret for secret in secrets_of(key) if secret.encode() in dumped] == []


def test_a_signer_from_a_function_pickles_as_the_function() -> None:
    signer = pickle.loads(pickle.dumps(load_signer(der_signature, "ES256")))

    assert_good(signer.sign(DATA), throwaway_key("ES256"), "ES256")


def test_an_inline_key_or_a_passphrase_does_not_pickle(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_text(ENCRYPTED)

    for signer in (load_signer(ES256_PEM), load_signer(path, passphrase="right")):
        with pytest.raises(ConfigurationError, match="a pickle would carry it in the clear"):
            pickle.dumps(signer)


def test_the_reference_would_notice_a_bad_signature() -> None:
    signature = bytearray(load_signer(ed25519.Ed25519PrivateKey.generate()).sign(DATA))

    with pytest.raises(InvalidSignature):
        throwaway_key("EdDSA").public_key().verify(bytes(signature), DATA)
