"""What each call's end was worth: by the server's ledger, the world's own log, and the replies. Pure, after the run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chaos.faults import Window
from chaos.kinds import REPLAYED, number_of
from chaos.load import GRACE, Ended
from grpc_bearer._engine.fetch import GROWTH, PASSING
from grpc_bearer.testing import Attempt, Exchange

#: Excuses, and how many of a subject's calls may have one, as a share of all; of the first two, as a share of that
#: part of the run in which the token endpoint failed.
NO_TOKEN = "no token until the deadline: endpoint failing, or in backoff"
FAST = "no wait_for_ready, and the token endpoint was failing, or just had"
DOWN = "server down"
GOAWAYS = "two GOAWAYs in a row"
BOUND = "stream past its replay bound"
CAPS = {NO_TOKEN: 0.2, FAST: 0.3, DOWN: 0.05, GOAWAYS: 0.01, BOUND: 0.01}
# A channel that was cut off takes a moment to connect again, in seconds.
_RECONNECTING = 1.0
# What a token exchange and a call take on a busy machine, in seconds.
_MOMENT = 0.5
_STEP = 0.1


@dataclass
class Verdict:
    """On one subject: `ours`, or a control."""

    calls: int = 0
    answered: int = 0
    avoidable: list[Ended] = field(default_factory=list)
    excused: Counter[str] = field(default_factory=Counter)
    mangled: list[str] = field(default_factory=list)
    late: list[Ended] = field(default_factory=list)
    longest: float = 0.0
    repeated: int = 0

    def over_cap(self, failing: float) -> list[str]:
        """Excuses that were needed too often; `failing`: that part of the run in which the token endpoint failed."""
        allowed = {what: cap * self.calls * (failing if what in (NO_TOKEN, FAST) else 1) for what, cap in CAPS.items()}
        return [what for what, count in self.excused.items() if count > max(3, allowed[what])]


@dataclass(frozen=True)
class Evidence:
    """Args:
    attempts: the servers' ledgers, in order.
    exchanges: with the token endpoint, and who asked (`asked`).
    windows: when what was wrong.
    """

    attempts: Sequence[Attempt]
    exchanges: Sequence[Exchange]
    asked: Callable[[Exchange], str]
    windows: Sequence[Window]


class Judge:
    """Hears the evidence once, then judges call by call."""

    def __init__(self, evidence: Evidence) -> None:
        self._windows = evidence.windows
        self._attempts: dict[int, list[Attempt]] = defaultdict(list)
        for attempt in evidence.attempts:
            self._attempts[number_of(attempt)].append(attempt)
        self._exchanges: dict[str, list[Exchange]] = defaultdict(list)
        for exchange in evidence.exchanges:
            self._exchanges[evidence.asked(exchange)].append(exchange)

    def verdict(self, calls: Iterable[Ended]) -> Verdict:
        verdict = Verdict()
        for call in calls:
            verdict.calls += 1
            verdict.answered += call.ok
            took = call.ended - call.began
            verdict.longest = max(verdict.longest, took)
            if call.ended > call.deadline + GRACE:
                verdict.late.append(call)
            mangled = self._mangled(call)
            if mangled:
                verdict.mangled.append(f"{mangled}: {call}")
            elif not call.ok:
                excuse = self._excuse(call)
                if excuse is None:
                    verdict.avoidable.append(call)
                else:
                    verdict.excused[excuse] += 1
        return verdict

    # ------------------------------------------------------------------------------------------------ the requests

    def _mangled(self, call: Ended) -> str:
        """Whether the server got other requests than were sent: lost, doubled or altered."""
        accepted = [attempt for attempt in self._attempts[call.job.number] if attempt.accepted]
        expected = call.job.indexes
        if call.code == "OK" and call.error:
            return call.error
        if len(accepted) > 1:
            return f"served {len(accepted)} times"
        if call.ok and not (accepted and accepted[0].requests == expected):
            return "answered, but the ledger has other requests"
        if any(attempt.requests != expected[: len(attempt.requests)] for attempt in self._attempts[call.job.number]):
            return "requests altered or out of order"
        return ""

    # ------------------------------------------------------------------------------------------------- the excuses

    def _excuse(self, call: Ended) -> str | None:
        attempts = self._attempts[call.job.number]
        if any(len(attempt.requests) > REPLAYED and not attempt.accepted for attempt in attempts):
            return BOUND
        cut_off = call.code in ("UNAVAILABLE", "CANCELLED") or _hidden(call)
        if (cut_off or "Internal error from Core" in call.error) and self._down(call):
            return DOWN
        if call.code == "UNAVAILABLE" and sum(attempt.reason == "goaway" for attempt in attempts) > 1:
            return GOAWAYS
        if call.auth in self._exchanges and (cut_off or call.code in ("UNAUTHENTICATED", "DEADLINE_EXCEEDED")):
            if self._no_token(call):
                return NO_TOKEN
            # Whoever does not wait is told of a failure within a moment.
            if not call.patient and call.code != "DEADLINE_EXCEEDED" and self._none(call.auth, call.ended, _MOMENT):
                return FAST
        if not call.patient and self._half_written(call):
            return FAST
        return None

    def _half_written(self, call: Ended) -> bool:
        """Its token file was empty or broke off, or it rests after having read such a one."""
        files = [window for window in self._windows if window.target == call.auth]
        return any(window.meets(call.began, call.ended, after=1.2 * _rest(1)) for window in files)

    def _down(self, call: Ended) -> bool:
        return self._away(call.site, call.began, call.ended)

    def _away(self, site: str, began: float, ended: float) -> bool:
        """The server was not there for a part of that time, or had just come back."""
        return any(
            window.what == "restart" and window.target == site and window.meets(began, ended, after=_RECONNECTING)
            for window in self._windows
        )

    def _no_token(self, call: Ended) -> bool:
        """None was to be had for all of the call's time, but for moments at its ends that are too short for a call, and
        for those in which the server was not there to be shown one."""
        at, until = call.began + _MOMENT, call.deadline - _MOMENT
        while at < until:
            if not self._none(call.auth, at) and not self._away(call.site, at, at):
                return False
            at += _STEP
        return True

    def _none(self, auth: str, at: float, before: float = 0.0) -> bool:
        """No token was to be had at `at`, or shortly before: the endpoint failed, or had failed and was left alone."""
        failing = any(window.target == "endpoint" and window.meets(at - before, at) for window in self._windows)
        return failing or self._resting(auth, at)

    def _resting(self, auth: str, at: float) -> bool:
        """The last that the auth had heard of the endpoint was a failure, and a rest after that was in order.

        A token could be had then, but only by one who asks without backoff. The longest rest that is in order follows
        from the failures in a row, or is what `Retry-After` asked for.
        """
        failures, last, succeeded = 0, 0.0, 0.0
        for exchange in reversed([each for each in self._exchanges[auth] if each.time <= at]):
            if exchange.status == 200 and exchange.token is not None:
                succeeded = exchange.time
                break
            failures, last = failures + 1, last or exchange.time
        for window in self._windows:  # nobody wrote down what could not connect
            if window.what == "down" and window.ended and succeeded < window.ended <= at:
                failures, last = failures + _tries(window.ended - window.began), max(last, window.ended)
        return failures > 0 and at <= last + 1.2 * _rest(failures) + _MOMENT


def _rest(failures: int) -> float:
    """Seconds that the engine leaves the endpoint alone after so many failures in a row, give or take a fifth."""
    first, longest = PASSING
    return float(min(first * GROWTH ** (failures - 1), longest))


def _tries(seconds: float) -> int:
    """How often an auth may have tried in that time."""
    tries, at = 0, 0.0
    while at <= seconds:
        tries += 1
        at += 0.8 * _rest(tries)
    return tries


def _hidden(call: Ended) -> bool:
    """What grpc.aio tells in the place of a status if a call has failed before its empty request stream was closed."""
    empty = call.asynchronous and call.job.streams and call.job.count == 0
    return empty and call.code in ("CancelledError", "ExecuteBatchError")


def repeated_nonces(attempts: Iterable[Attempt]) -> Counter[str]:
    """How many nonces arrived more than once, by `kid`."""
    seen = Counter(
        (attempt.jwt_header.get("kid", ""), attempt.jwt_header["nonce"])
        for attempt in attempts
        if "nonce" in attempt.jwt_header
    )
    return Counter(kid for (kid, _), count in seen.items() if count > 1)


def least_exchanges(answered: Iterable[tuple[float, float]], lifetime: float, revoked: Sequence[float]) -> int:
    """The fewest tokens that could serve these calls, each from when it began to when it ended.

    Another one is needed only once the last is revoked or over; a call may have got its own as late as at its end.
    """
    count, good_until = 0, float("-inf")
    for began, ended in sorted(answered, key=lambda call: call[1]):
        if began >= good_until:
            count += 1
            good_until = min([when for when in revoked if when > ended] + [ended + lifetime])
    return count


def exchanges_of(exchanges: Sequence[Exchange], asked: Callable[[Exchange], str]) -> Mapping[str, tuple[int, int]]:
    """By who asked: exchanges that gave a token, and others."""
    good = Counter(asked(each) for each in exchanges if each.token is not None)
    every = Counter(asked(each) for each in exchanges)
    return {name: (good[name], every[name] - good[name]) for name in every}
