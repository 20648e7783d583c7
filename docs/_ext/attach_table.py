"""How a token reaches a call, asked of the code itself: each row's answer is what `Route.plan` says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grpc_bearer import BearerAuth, JWTSource, Token
from grpc_bearer._calls.attach_token import WAIT, Attachment, Attempt, Route
from grpc_bearer._engine.engine import Lease

#: What the four outcomes are called in the picture.
NAMES = {"own": "as you gave it", "metadata": "metadata", "wait": "wait, then metadata", "core": "core"}


@dataclass(frozen=True)
class Situation:
    """Of one call: all that the decision depends on."""

    own: bool = False  # credentials= or an entry under our header, given by the caller
    plaintext: bool = False  # allow_plaintext=True
    proven: bool = True  # core has run our plugin on this channel before
    wait_for_ready: bool = False
    token: str = "at hand"  # or "cold", or "single-use"
    attach: str = "auto"


#: The questions in the order in which they are asked; the first that applies decides.
STEPS: tuple[tuple[str, Callable[[Situation], bool]], ...] = (
    ("Does the call bring its own header or credentials?", lambda s: s.own),
    ("Plaintext allowed, and a token at hand, or made here?", lambda s: s.plaintext and s.token != "cold"),
    ("Plaintext allowed, and no token yet?", lambda s: s.plaintext),
    ("Has core never run our plugin on this channel?", lambda s: not s.proven),
    ("Does the call wait_for_ready?", lambda s: s.wait_for_ready),
    ("Is a reusable token at hand, fresh or stale?", lambda s: s.token == "at hand"),
    ('Single-use, and attach="metadata"?', lambda s: s.token == "single-use" and s.attach == "metadata"),
    ("Otherwise: no token yet, expiring, or single-use", lambda s: True),
)


def outcome(situation: Situation) -> str:
    """What the code does."""
    auth = _auth(situation.token)
    attach: Any = situation.attach
    attachment = Attachment(auth, "api.example.com", plaintext=situation.plaintext, attach=attach)
    attachment.proven = situation.proven
    metadata = ((auth.header, "Bearer mine"),) if situation.own else None
    _, _, carrier = Route(attachment, "/fleet.v1.Fleet/List").plan(metadata, None, situation.wait_for_ready)
    auth.close()
    return _named(carrier)


def _named(carrier: Any) -> str:
    if carrier is None:
        return "own"
    if carrier is WAIT:
        return "wait"
    return {Lease: "metadata", Attempt: "core"}[type(carrier)]


def _auth(token: str) -> BearerAuth:
    if token == "single-use":
        return BearerAuth(JWTSource(_key(), claims={"iss": "me"}, single_use=True))
    auth = BearerAuth(lambda: Token("t0"))
    if token == "at hand":
        auth.token()
    return auth


def _key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return ed25519.Ed25519PrivateKey.generate()


def situations() -> list[Situation]:
    """All of them that can be; where plaintext is allowed core never gets our plugin, so nothing is proven."""
    return [
        Situation(own, plaintext, proven, wait, token, attach)
        for own in (False, True)
        for plaintext in (False, True)
        for proven in (False, True)
        for wait in (False, True)
        for token in ("at hand", "cold", "single-use")
        for attach in ("auto", "metadata")
        if not (plaintext and proven)
    ]


def steps() -> list[tuple[str, str]]:
    """Each question and its answer.

    Raises:
        AssertionError: the code treats calls differently that a question treats alike: the picture is wrong.
    """
    found: dict[str, set[str]] = {question: set() for question, _ in STEPS}
    for situation in situations():
        question = next(question for question, applies in STEPS if applies(situation))
        found[question].add(outcome(situation))
    wrong = {question: answers for question, answers in found.items() if len(answers) != 1}
    if wrong:
        raise AssertionError(f"the code decides otherwise than the picture: {wrong}")
    return [(question, answers.pop()) for question, answers in found.items()]
