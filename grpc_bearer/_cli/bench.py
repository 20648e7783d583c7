"""`grpc-bearer bench`: what signing a token costs with the user's own key on this machine."""

from __future__ import annotations

import random
import secrets
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc_bearer._base.keys import KeyFile, load_text, passphrase_of
from grpc_bearer._base.signing import ALGORITHMS, Signer, load_signer
from grpc_bearer._base.token import CallContext
from grpc_bearer._cli.streams import ask_secret
from grpc_bearer._cli.terminal import print_json, print_line, print_table, progress
from grpc_bearer.sources.jwt import JWTSource, nonce

#: Seconds to measure for, and the least rounds.
SECONDS, LEAST = 3.0, 5
_ISSUER = "grpc-bearer-bench"
Call = Callable[[], object]


@dataclass(frozen=True)
class Line:
    """One way to get a signed token, and what it takes in the median, in seconds; `low` and `high` are quartiles."""

    name: str
    median: float
    low: float
    high: float


def main(
    key: str, algorithm: str | None = None, *, ask: bool = False, seconds: float = SECONDS, as_json: bool = False
) -> int:
    """Measure and print.

    Args:
        key: a file with a private key, PEM or JWK.
        algorithm: a JWS name; `None`: chosen by the key.
        ask: for the passphrase of an encrypted PEM, on the terminal.
        seconds: how long to measure for.
        as_json: print one JSON object instead of a table.

    Returns:
        The exit code: 0.

    Raises:
        ConfigurationError, SigningError: the key cannot be used.
    """
    passphrase = ask_secret("passphrase") if ask else None
    text = KeyFile(Path(key)).read("--key")  # once: it may be a pipe
    signer = load_signer(text, algorithm, passphrase=passphrase, field=f"--key: {key}")
    calls = ways(text, signer, passphrase)
    with progress("measuring"):
        rounds, lines = measured(calls, seconds)
    if as_json:
        print_json(document(signer, rounds, lines))
    else:
        show(signer, rounds, lines)
    return 0


def ways(text: bytes, signer: Signer, passphrase: str | None = None) -> dict[str, Call]:
    """The floor first, then the floor again, ours, and PyJWT's two ways."""
    import jwt

    source = JWTSource(signer, headers={"nonce": nonce}, claims={"iss": _ISSUER}, lifetime=120, single_use=True)
    context = CallContext()
    data = source.fetch(context).value.rpartition(".")[0].encode("ascii")
    loaded, algorithm = load_text(text, passphrase_of(passphrase), "--key").key, signer.algorithm
    floor = _raw(loaded, algorithm, data)

    def by_pyjwt(key: Any) -> Call:
        def make() -> object:
            now = int(time.time())
            claims = {"iss": _ISSUER, "iat": now, "exp": now + 120}
            return jwt.encode(claims, key, algorithm=algorithm, headers={"nonce": secrets.token_hex(16)})

        return make

    found: dict[str, Call] = {
        "the key's own sign()": floor,
        "the key's own sign(), again": floor,
        "grpc-bearer": lambda: source.fetch(context),
        "PyJWT, key parsed once": by_pyjwt(loaded),
    }
    if passphrase is None and text.lstrip().startswith(b"-----"):
        found["PyJWT, PEM on each call"] = by_pyjwt(text)
    return found


def _raw(key: Any, algorithm: str, data: bytes) -> Call:
    """What `cryptography` takes for the signature, without anything of ours or of JOSE's around it."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding

    if algorithm == "EdDSA":
        return lambda: key.sign(data)
    digest = getattr(hashes, ALGORITHMS[algorithm].hash)()
    if algorithm.startswith("ES"):
        ecdsa = ec.ECDSA(digest)
        return lambda: key.sign(data, ecdsa)
    pss = padding.PSS(mgf=padding.MGF1(digest), salt_length=digest.digest_size)
    chosen = padding.PKCS1v15() if algorithm.startswith("RS") else pss
    return lambda: key.sign(data, chosen, digest)


def measured(calls: dict[str, Call], seconds: float) -> tuple[int, list[Line]]:
    """How many rounds there were, and a line for each way, shuffled call by call: blocks of calls drift."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, end, rounds, clock = list(calls), time.monotonic() + seconds, 0, time.perf_counter
    while rounds < LEAST or time.monotonic() < end:
        random.shuffle(order)
        fastest = min(min(values, default=0.0) for values in times.values())
        for name in order:
            # What is far slower than the rest (to check an RSA key takes 100 signatures) would take all the time.
            if rounds >= LEAST and rounds % 20 and min(times[name]) > 20 * fastest:
                continue
            call = calls[name]
            began = clock()
            call()
            times[name].append(clock() - began)
        rounds += 1
    return rounds, [_line(name, values) for name, values in times.items()]


def _line(name: str, values: list[float]) -> Line:
    low, median, high = statistics.quantiles(values, n=4)
    return Line(name, median, low, high)


def document(signer: Signer, rounds: int, lines: list[Line]) -> dict[str, Any]:
    """For programs; times in microseconds."""
    ways = [
        {"way": line.name, **{name: round(getattr(line, name) * 1e6, 1) for name in ("median", "low", "high")}}
        | {"ratio": round(line.median / lines[0].median, 3)}
        for line in lines
    ]
    return {"algorithm": signer.algorithm, "key": signer.key_type, "rounds": rounds, "unit": "us", "ways": ways}


def show(signer: Signer, rounds: int, lines: list[Line]) -> None:
    """For people."""
    floor = lines[0].median
    print_line(f"One {signer.algorithm} token ({signer.key_type} key), {rounds} rounds shuffled call by call", "name")
    rows = [
        [line.name, _micro(line.median), f"{_micro(line.low)} – {_micro(line.high)}", f"{line.median / floor:.2f}"]
        for line in lines
    ]
    print_table(rows, ["", "median µs", "middle half", "ratio"], right=(1, 2, 3))
    print_line("If the second line is far from 1, the machine is too busy to tell.")


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:,.1f}"
