"""Threads that may be left behind: for what cannot be interrupted, such as a name look-up.

Not the engine's workers, whose number is bounded: a few hanging look-ups would stop every other fetch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from grpc_bearer._base import fork_hooks

Job = Callable[[], object]

# The inboxes of threads that wait for a job. Appending and popping are atomic: no lock to hold, nor to copy in a fork.
_idle: list[SimpleQueue[tuple[Job, threading.Event]]] = []


def start(job: Job) -> threading.Event:
    """Run `job`, which must not raise, on a daemon thread at once. The event is set when it is done.

    The thread is kept for the next job, so there are as many as jobs ever ran at once. It never ends: a thread that
    used TLS takes a lock of OpenSSL while it ends, and a process that forks just then gets it locked for ever.
    """
    done = threading.Event()
    try:
        inbox = _idle.pop()
    except IndexError:
        inbox = SimpleQueue()
        threading.Thread(target=_serve, args=(inbox,), name="grpc-bearer-http", daemon=True).start()
    inbox.put((job, done))
    return done


def _serve(inbox: SimpleQueue[tuple[Job, threading.Event]]) -> None:
    while True:
        job, done = inbox.get()
        job()
        del job  # it holds a credential
        _idle.append(inbox)  # before the event: whoever waits for it may start the next job here
        done.set()


fork_hooks.in_child(fork_hooks.Phase.RENEW, _idle.clear)
