"""What this library does when the process forks: one registration with the system, and one order.

A module says here what it needs when it is imported. Hooks may not depend on the order in which modules are imported,
so in the child they run by phase.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from enum import IntEnum

Hook = Callable[[], object]


class Phase(IntEnum):
    """When a hook runs in the child: those of one phase have all run before the next phase begins."""

    #: Locks, threads, loops and descriptors of the parent are replaced. Nothing is begun, and nothing waits.
    RENEW = 1
    #: What was going on in the parent goes on: timers are set, and threads may begin.
    RESUME = 2
    #: What may take a moment: waiting until gRPC's channels have noticed the fork.
    WAIT = 3


_before: list[Hook] = []
_in_child: dict[Phase, list[Hook]] = {phase: [] for phase in Phase}


def before(hook: Hook) -> None:
    """Have `hook` run in the parent just before each fork; it may wait."""
    _before.append(hook)


def in_child(phase: Phase, hook: Hook) -> None:
    """Have `hook` run in the child of each fork. Only the thread that forked is there, whoever held a lock."""
    _in_child[phase].append(hook)


def _run(hooks: Iterable[Hook]) -> None:
    """Run all, also if one raises; what it raised goes to `sys.unraisablehook`, as from any hook of the system's."""
    with ExitStack() as stack:
        for hook in reversed(list(hooks)):
            stack.callback(hook)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _run(_before),
        after_in_child=lambda: _run(hook for phase in Phase for hook in _in_child[phase]),
    )
