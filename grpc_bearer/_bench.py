"""`grpc-bearer bench`: what signing a token costs with the user's own key on this machine."""

from __future__ import annotations

import getpass
import random
import secrets
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc_bearer._keys import KeyFile, load_text
from grpc_bearer._signing import ALGORITHMS, Signer, load_signer
from grpc_bearer._token import CallContext
from grpc_bearer.errors import GrpcBearerError
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


def main(key: str, algorithm: str | None = None, *, ask: bool = False, seconds: float = SECONDS) -> int:
    """Measure and print.

    Args:
        key: a file with a private key, PEM or JWK.
        algorithm: a JWS name; `None`: chosen by the key.
        ask: for the passphrase of an encrypted PEM, on the terminal.
        seconds: how long to measure for.

    Returns:
        The exit code: 1 if the key cannot be used.
    """
    passphrase = getpass.getpass("passphrase: ") if ask else None
    try:
        signer = load_signer(Path(key), algorithm, passphrase=passphrase)
        calls = ways(Path(key), signer, passphrase)
    except GrpcBearerError as error:
        print(error, file=sys.stderr)
        return 1
    rounds, lines = measured(calls, seconds)
    print(table(signer, rounds, lines))
    return 0


def ways(path: Path, signer: Signer, passphrase: str | None = None) -> dict[str, Call]:
    """The floor first, then the floor again, ours, and PyJWT's two ways."""
    import jwt

    source = JWTSource(signer, headers={"nonce": nonce}, claims={"iss": _ISSUER}, lifetime=120, single_use=True)
    context = CallContext()
    data = source.fetch(context).value.rpartition(".")[0].encode("ascii")
    text = KeyFile(path).read("key")
    loaded, algorithm = load_text(text, passphrase, "key").key, signer.algorithm
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


def table(signer: Signer, rounds: int, lines: list[Line]) -> str:
    """For people."""
    floor = lines[0].median
    width = max(len(line.name) for line in lines)
    rows = [
        f"{line.name:{width}}  {_micro(line.median)}  {_micro(line.low)} – {_micro(line.high).strip():<9} "
        f"{line.median / floor:7.2f}"
        for line in lines
    ]
    return "\n".join(
        [
            f"One {signer.algorithm} token ({signer.key_type} key), {rounds} rounds shuffled call by call",
            "",
            f"{'':{width}}  {'median µs':>9}  {'middle half':^21} {'ratio':>7}",
            *rows,
            "",
            "If the second line is far from 1, the machine is too busy to tell.",
        ]
    )


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:9,.1f}"
