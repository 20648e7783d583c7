"""`grpc-bearer check`: what a person does at 3 a.m., in one go: find out which step fails, and what to do."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from grpc_bearer._auth import BearerAuth
from grpc_bearer._cli import network, probe, skewed
from grpc_bearer._cli.auth import Chosen, chosen, failure_of
from grpc_bearer._cli.channel import channel, quiet_core, trusted
from grpc_bearer._cli.codes import CommandFailure, Exit
from grpc_bearer._cli.jwt import RULES, Rules, inspected, span
from grpc_bearer._cli.network import Handshake, Target, Trust
from grpc_bearer._cli.status import REFUSALS
from grpc_bearer._cli.terminal import Cell, print_json, print_line, print_table, progress, safe
from grpc_bearer.errors import _HELP, GrpcBearerError

#: A certificate is worth a word in its last 14 days, or in the last third of a short life.
_SOON, _LAST = 14 * 86400, 1 / 3


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the report; `status` is ok, warn, fail or skip."""

    name: str
    status: str
    detail: str
    seconds: float = 0.0
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Report:
    """What was found so far; the first failure decides."""

    target: Target
    trust: Trust
    steps: list[Step] = field(default_factory=list)
    failure: CommandFailure | None = None
    failed: str = ""
    suspect: str = ""  # what is likely to be at fault where there is no token

    def add(self, name: str, status: str, detail: str, seconds: float = 0.0, **data: Any) -> None:
        self.steps.append(Step(name, status, safe(detail), seconds, data))

    def skip(self, why: str, *names: str) -> None:
        for name in names:
            self.add(name, "skip", why)

    def fail(self, name: str, failure: CommandFailure, seconds: float = 0.0) -> None:
        self.add(name, "fail", failure.problem, seconds)
        self.verdict(name, failure)

    def verdict(self, name: str, failure: CommandFailure) -> None:
        """What the report ends with, unless an earlier step has failed."""
        if self.failure is None:
            self.failed, self.failure = name, failure

    def run(self, name: str, what: str, act: Callable[[], Any]) -> Any:
        """What the step gives, and `None` if it fails; how long it took is the caller's to tell."""
        began = time.monotonic()
        try:
            with progress(what):
                return act()
        except CommandFailure as failure:
            self.fail(name, failure, time.monotonic() - began)
        return None


def main(arguments: Namespace) -> int:
    """Check everything, and print the report.

    Returns:
        The exit code that the first failure stands for.
    """
    target = network.parsed_target(arguments.target)
    method = probe.method_of(arguments.method) if arguments.method else None
    report = Report(target, trusted(arguments, target))
    asked = chosen(arguments)
    if target.remark:
        report.add("target", "warn", target.remark)
    with quiet_core(), asked.auth as auth:
        reachable = _way(report, arguments)
        token = _token(report, asked, _service(report, method), arguments)
        _calls(report, arguments, auth, token, method, reachable)
    _print(report, arguments.json)
    return report.failure.code if report.failure else Exit.OK


# -- the way there ----------------------------------------------------------------------------------------------------


def _way(report: Report, arguments: Namespace) -> bool:
    """Name, connection and TLS; whether a call is worth trying."""
    target, timeout, names = report.target, arguments.timeout, ("resolve", "connect", "tls")
    if not target.host:
        report.skip("a Unix socket", *names)
        return True
    if proxy := network.proxy_for(target):
        report.skip(f"gRPC goes through the proxy of ${proxy}", *names)
        return True
    addresses = _timed(report, "resolve", "resolving the name", lambda: network.resolve(target, timeout), ", ".join)
    if addresses is None:
        report.skip("no address", *names[1:])
        return False
    connect = lambda: network.connect(addresses, target.port, timeout)  # noqa: E731
    connection = _timed(report, "connect", "connecting", connect, lambda made: _peer(made.getpeername()))
    if connection is None:
        report.skip("no connection", "tls")
        return False
    if arguments.plaintext:
        done = report.run("tls", "waiting for HTTP/2", lambda: network.speaks_plaintext(connection))
        if done:
            report.add("tls", "warn", "none (--plaintext): the token travels in the clear")
        return bool(done)
    shake = lambda: network.shake(connection, report.trust, time.time())  # noqa: E731
    return _timed(report, "tls", "shaking hands", shake, _handshake_line, _certificate) is not None


def _timed(
    report: Report,
    name: str,
    what: str,
    act: Callable[[], Any],
    told: Callable[[Any], str],
    data: Callable[[Any], dict[str, Any]] = lambda _: {},
) -> Any:
    began = time.monotonic()
    found = report.run(name, what, act)
    if found is not None:
        extra = data(found)
        report.add(name, extra.pop("status", "ok"), told(found), time.monotonic() - began, **extra)
    return found


def _peer(address: Any) -> str:
    return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"


def _handshake_line(made: Handshake) -> str:
    left = made.until.timestamp() - time.time()
    return f"{made.version}, certificate of {made.subject}, signed by {made.issuer}, good for {span(left)}"


def _certificate(made: Handshake) -> dict[str, Any]:
    soon = made.until.timestamp() - time.time() < min(_SOON, _LAST * (made.until - made.since).total_seconds())
    data = {"version": made.version, "subject": made.subject, "issuer": made.issuer, "until": made.until.isoformat()}
    return data | ({"status": "warn"} if soon else {})


# -- the token --------------------------------------------------------------------------------------------------------


#: By what is likely to be at fault.
_ADVICE = {
    "credential": "check the credential",
    "endpoint": "check the token endpoint, its address and the way to it",
    "route": "name a method that has one: --method package.Service/Method",
}


def _service(report: Report, method: str | None) -> tuple[str, str]:
    """Service URL and method of the call that will be made, as gRPC would name them."""
    service, _, name = (method or probe.HEALTH).partition("/")
    return f"https://{network.named(report.target, report.trust)}/{service}", name


def _token(report: Report, asked: Chosen, call: tuple[str, str], arguments: Namespace) -> str:
    """The token; empty if there is none."""
    began = time.monotonic()
    try:
        with progress("getting a token"):
            token = asked.auth.token(*call, timeout=arguments.timeout or None)
    except GrpcBearerError as error:
        report.suspect = error._suspect
        failure = failure_of(error, arguments, "no token: ", _ADVICE.get(error._suspect, ""))
        report.fail("token", failure, time.monotonic() - began)
        return ""
    seconds = time.monotonic() - began
    found = inspected(token.value, time.time(), RULES[asked.profile] if asked.profile else Rules(jwt=False, claims=()))
    left = "" if token.expires_at is None else f", good for {span(token.expires_at - time.time())}"
    once = ", for one call" if token.single_use else ""
    detail = "; ".join([f"{found.kind}{left}{once}", *found.problems])
    data = {"kind": found.kind, "expires_at": token.expires_at, "problems": found.problems}
    report.add("token", "warn" if found.problems else "ok", detail, seconds, **data)
    return token.value


# -- the call and the clock -------------------------------------------------------------------------------------------


def _calls(
    report: Report, arguments: Namespace, auth: BearerAuth, token: str, method: str | None, reachable: bool
) -> None:
    reply, missing = None, probe.missing_extra()
    if not reachable or not token:
        report.skip("no token" if reachable else "cannot be reached", "call")
    else:
        with channel(arguments, report.target, report.trust, auth) as made, progress("making a call"):
            reply = probe.call_one(made, method, arguments.timeout, token, extra=missing is None)
            reply = reply if method or missing is None else _half_understood(reply, missing)
    skew, by = _skew(report, arguments, auth, reply, reachable)
    if reply is not None:
        _judge(report, arguments, reply, skew, method)
    _clock(report, skew, by)


def _half_understood(reply: probe.Reply, missing: CommandFailure) -> probe.Reply:
    """A reply to a call that was made without the `cli` extra, with what that adds."""
    adds = f"with the cli extra its answer would be read, and reflection be tried; {missing.advice}"
    failure = reply.failure
    if failure is not None and reply.code is grpc.StatusCode.UNIMPLEMENTED:
        failure = CommandFailure(failure.code, failure.problem, f"{failure.advice}; or {missing.advice}")
    return replace(reply, said=f"{reply.said} ({adds})", failure=failure)


def _judge(report: Report, arguments: Namespace, reply: probe.Reply, skew: float | None, method: str | None) -> None:
    data = {"method": reply.method, "code": reply.code.name}
    if reply.failure is not None:
        failure = network.advised(reply.failure, report.target)
        timed = any(step.data.get("kind") == "a JWT" for step in report.steps)
        if reply.code in REFUSALS and timed and skew is not None and skewed.is_off(skew):
            failure = _wrong_clock(skew, "the token is refused")
        report.add("call", "fail", reply.failure.problem, reply.elapsed, **data)
        report.verdict("call", failure)
        return
    detail, status = f"{reply.method}: {reply.said}", "ok"
    if method is None:
        with channel(arguments, report.target, report.trust, None) as bare, progress("the same without a token"):
            if probe.takes_anyone(bare, reply, arguments.timeout):
                status = "warn"
                detail += "; but it takes calls without a token too, so name one that does not: --method"
    report.add("call", status, detail, reply.elapsed, **data)


def _wrong_clock(skew: float, so: str) -> CommandFailure:
    problem = f"this machine's clock is {skewed.in_words(skew)}, and {so}"
    return CommandFailure(Exit.CLOCK, problem, "set the clock (NTP)", help=_HELP["clock"])


def _skew(
    report: Report, arguments: Namespace, auth: BearerAuth, reply: probe.Reply | None, reachable: bool
) -> tuple[float | None, str]:
    """Seconds that this machine is behind, and by whose clock."""
    if reply is not None:
        skew = skewed.of_metadata(reply.metadata, time.time(), reply.elapsed)
        if skew is not None:
            return skew, "the server's"
    if (skew := skewed.of_endpoint(auth)) is not None:
        return skew, "the token endpoint's"
    if reachable and report.target.host and not arguments.plaintext and not network.proxy_for(report.target):
        with progress("asking the time"):
            return skewed.of_https(report.target, report.trust, arguments.timeout), "the server's"
    return None, ""


def _clock(report: Report, skew: float | None, by: str) -> None:
    if skew is None:
        report.add("clock", "skip", "nobody told the time")
        return
    status = "warn" if skewed.is_off(skew) else "ok"
    report.add("clock", status, f"{skewed.in_words(skew)}, by {by}", behind_seconds=round(skew, 1))
    if skewed.is_off(skew) and report.failed == "token" and report.suspect == "clock":
        report.failure = _wrong_clock(skew, "so the token counts as expired")


# -- what is printed --------------------------------------------------------------------------------------------------


def _print(report: Report, as_json: bool) -> None:
    failure = report.failure
    if as_json:
        steps = [
            {"step": s.name, "status": s.status, "detail": s.detail, "seconds": round(s.seconds, 4), **s.data}
            for s in report.steps
        ]
        verdict = {"ok": failure is None, "exit_code": failure.code.value if failure else 0}
        told = {}
        if failure:
            words = {"problem": failure.problem, "advice": failure.advice, "help": failure.help}
            told = {"failed": report.failed, **words}
        print_json({"target": report.target.text, "steps": steps, **verdict, **told})
        return
    print_table(
        [Cell(s.name, "name"), Cell(s.status, s.status), f"{s.seconds * 1e3:.0f} ms" if s.seconds else "", s.detail]
        for s in report.steps
    )
    if failure:
        print_line(safe(f"{report.failed}: {failure}"), "fail")
    else:
        warned = [s.name for s in report.steps if s.status == "warn"]
        print_line(f"All well{', but look at ' + ', '.join(warned) if warned else ''}.", "warn" if warned else "ok")
