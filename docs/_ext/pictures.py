"""Pictures drawn from the code's own tables while the site is built.

```{picture} table
What stands below it.
```
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from grpc_bearer import Token
from grpc_bearer._engine.refresh_table import (
    TABLE,
    Backoff,
    Decision,
    Flight,
    Held,
    Phase,
    State,
    arrival,
    decide,
    phase,
)

from attach_table import NAMES, steps
from svg import Drawing


def table() -> str:
    """`refresh_table.TABLE`, cell by cell."""
    drawing = Drawing(400, "What is answered, by the state of the token, a fetch in flight and a backoff")
    columns = (("nothing", "under way", False, False), ("fetch", "in flight", True, False))
    columns += (("in", "backoff", False, True), ("both", "", True, True))
    shown = set(TABLE.values())
    words = {Phase.NONE: ["none, expired,", "invalidated"], Phase.CLOSED: ["auth closed"]}
    for number, (first, second, *_) in enumerate(columns):
        drawing.lines(136 + 74 * number, 16, [first, second] if second else [first], "small")
    for row, each in enumerate(Phase):
        top = 38 + 46 * row
        drawing.lines(92, top + 21, words.get(each, [each.value]), "label", "end")
        for number, (_, _, flight, backoff) in enumerate(columns):
            answer = TABLE[each, flight, backoff]
            drawing.box(101 + 74 * number, top, 70, 42, f"fill {answer.name.lower()}")
            patient = decide(_state(each, flight, backoff), 0.0, patient=True)
            drawing.text(136 + 74 * number, top + (25.5 if patient is answer else 18), answer.name, "strong")
            if patient is not answer:
                drawing.text(136 + 74 * number, top + 34, f"or {patient.name}", "cell")
                shown.add(patient)
    in_order = sorted(shown, key=list(Decision).index)
    for row, decision in enumerate(in_order):
        top = 278 + 25 * row
        drawing.box(6, top, 58, 21, f"fill {decision.name.lower()}", 4)
        drawing.text(35, top + 15, decision.name, "strong small")
        drawing.text(72, top + 15, decision.value, "label", "start")
    return drawing.svg()


def _state(each: Phase, flight: bool, backoff: bool) -> State:
    """A state that stands so at 0."""
    begins = {Phase.FRESH: (1, 2, 3), Phase.STALE: (-1, 2, 3), Phase.EXPIRING: (-2, -1, 3)}
    held = Held(Token("t"), "", 1, *begins[each]) if each in begins else None
    under_way, resting = Flight(2) if flight else None, Backoff(until=1.0) if backoff else Backoff()
    return State(held, under_way, backoff=resting, closed=each is Phase.CLOSED)


def life() -> str:
    """Calls, tokens and fetches over time: the first fetch, one ahead, and one for a token that was revoked."""
    drawing = Drawing(400, "Calls go on while tokens are fetched, refreshed ahead and replaced")
    hour = 160.0  # pixels
    held: Any = arrival(Token("t", expires_at=3600.0), 1, now_wall=0.0, now=0.0, jitter=0.5)
    first, ahead, fetch = 78.0, 78.0 + hour * held.refresh_at / 3600, 15.0
    revoked = ahead + fetch + 92
    begins = [first, ahead + fetch, revoked + fetch]
    for name, y in (("calls", 17), ("tokens", 50), ("fetches", 83)):
        drawing.text(52, y, name, "label", "end")
    for number in range(24):
        x = 63 + 14 * number
        kind = "wait" if x < first else "fail" if revoked <= x < revoked + fetch else "use"
        drawing.box(x, 8, 9, 11, f"fill {kind}", 3)
    ends = [ahead + fetch, revoked, 396.0]
    for name, begin, end in zip("ABC", begins, ends, strict=True):
        drawing.box(begin, 36, end - begin - 1.5, 21, "fill use", 3)
        drawing.text((begin + end) / 2, 51, name, "strong")
    drawing.box(ahead, 36, fetch - 1.5, 21, "fill ahead", 3)
    words = "fetched once for\nall who wait", "fetched ahead,\nnobody waits", "revoked: replaced\nwithin the call"
    for begin, text, x in zip((first - fetch, ahead, revoked), words, (104, 217, 336), strict=True):
        drawing.box(begin, 70, fetch - 1.5, 18, "fill fetch", 3)
        drawing.lines(x, 110, text.splitlines(), "small")
    return drawing.svg()


def lifetime() -> str:
    """How tokens of three lifetimes age, as `refresh_table.phase` has it."""
    drawing = Drawing(400, "In which part of its life a token is used, fetched ahead, or waited for")
    for number, (seconds, name) in enumerate([(3600, "one hour"), (300, "five minutes"), (60, "one minute")]):
        top = 4 + 74 * number
        held = arrival(Token("t", expires_at=float(seconds)), 1, now_wall=0.0, now=0.0, jitter=0.5)
        state = State(held=held)
        drawing.text(4, top + 14, f"A token of {name}", "label", "start")
        x = 4.0
        for each, begin, end in _phases(state, seconds):
            width = max(392 * (end - begin) / seconds, 5.0)
            drawing.box(x, top + 22, width - 1.5, 22, f"fill {_PHASE_COLOURS[each]}", 3)
            x += width
        held_from = [begin for _, begin, _ in _phases(state, seconds)][1:]
        text = f"fetched ahead from {_clock(held_from[0])}, waited for from {_clock(held_from[1])}"
        drawing.text(4, top + 61, text, "small", "start")
    for number, (each, colour) in enumerate(_PHASE_COLOURS.items()):
        drawing.box(4 + 128 * number, 232, 16, 16, f"fill {colour}", 3)
        drawing.text(26 + 128 * number, 245, each.value, "label", "start")
    return drawing.svg()


_PHASE_COLOURS = {Phase.FRESH: "use", Phase.STALE: "ahead", Phase.EXPIRING: "wait"}


def _phases(state: State, seconds: int) -> list[tuple[Phase, float, float]]:
    """Each phase of a life, found by asking at every twentieth of a second."""
    found: list[tuple[Phase, float, float]] = []
    for tick in range(seconds * 20):
        now = tick / 20
        each = phase(state, now)
        begin = found[-1][1] if found and found[-1][0] is each else now
        found[-1:] = [*(found[-1:] if begin == now else []), (each, begin, now + 0.05)]
    return found


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}" if seconds >= 60 else f"{seconds:.0f} s"


def attach() -> str:
    """The questions that decide how a token reaches a call; the answers are the code's."""
    drawing = Drawing(400, "Whether a token goes out as metadata or through core")
    rows = steps()
    for number, (question, answer) in enumerate(rows):
        top = 4 + 66 * number
        last = number == len(rows) - 1
        drawing.box(4, top, 226, 44)
        drawing.lines(117, top + 22, _wrapped(question, 30))
        drawing.arrow(230, top + 22, 262, top + 22)
        if not last:
            drawing.text(246, top + 16, "yes", "small")
            drawing.arrow(117, top + 44, 117, top + 66)
            drawing.text(124, top + 59, "no", "small", "start")
        drawing.box(264, top + 4, 132, 36, f"fill {_OUTCOME_COLOURS[answer]}")
        drawing.text(330, top + 26.5, NAMES[answer], "strong")
    return drawing.svg()


_OUTCOME_COLOURS = {"own": "plain", "metadata": "use", "wait": "wait", "core": "ahead"}


def refused() -> str:
    """A call that is refused and heals."""
    drawing = Drawing(400, "A refused call: the token is given up, replaced, and the call made once more")
    names = {"your code": 40, "grpc-bearer": 148, "server": 256, "token source": 354}
    for name, x in names.items():
        drawing.box(x - 42 if x > 60 else 2, 4, 84 if x > 60 else 76, 26)
        drawing.text(x, 21.5, name, "small strong")
        drawing.line(x, 30, x, 372, "thread")
    you, ours, server, source = names.values()
    messages = (
        (you, ours, "call, timeout 5 s"),
        (ours, server, "attempt 1, token A"),
        (server, ours, "UNAUTHENTICATED"),
        (ours, source, "give up A; fetch, once for everybody"),
        (source, ours, "token B"),
        (ours, server, "attempt 2, token B, 4.6 s left"),
        (server, ours, "OK"),
        (ours, you, "reply"),
    )
    for number, (start, end, words) in enumerate(messages):
        y = 62 + 42 * number
        inset = 3 if end > start else -3
        drawing.arrow(start + inset, y, end - inset, y, "bad" if words.isupper() and words != "OK" else "")
        drawing.text((start + end) / 2, y - 7, words, "small halo")
    return drawing.svg()


def _wrapped(words: str, width: int) -> list[str]:
    import textwrap

    return textwrap.wrap(words, width)


PICTURES: dict[str, Callable[[], str]] = {
    "attach": attach,
    "life": life,
    "lifetime": lifetime,
    "refused": refused,
    "table": table,
}


class Picture(Directive):
    """Puts the SVG into the page itself, so that the page's colours hold in it."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        if name not in PICTURES:
            raise self.error(f"no such picture: {name}; there are {', '.join(PICTURES)}")
        caption = nodes.container(classes=["picture-caption"])
        self.state.nested_parse(self.content, self.content_offset, caption)
        figure = nodes.raw("", f'<figure class="picture picture-{name}">{PICTURES[name]()}</figure>', format="html")
        return [figure, *([caption] if self.content else [])]


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("picture", Picture)
    return {"parallel_read_safe": True}
