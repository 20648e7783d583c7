"""What is done at a fork: in one place, and in an order of its own. Each in a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def printed(script: str) -> list[str]:
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    return run.stdout.split()


def test_the_system_knows_of_one_registration_however_much_is_imported() -> None:
    script = """
import os, pkgutil, sys
import grpc
register, ours = os.register_at_fork, []

def watched(**hooks):
    ours.append(sys._getframe(1).f_globals["__name__"])
    register(**hooks)

os.register_at_fork = watched
import grpc_bearer, grpc_bearer.cache
from grpc_bearer import _config, sources
for package in (grpc_bearer.cache, _config, sources):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        __import__(module.name)
print(*[name for name in ours if name.startswith("grpc_bearer")])
"""

    assert printed(script) == ["grpc_bearer._base.fork_hooks"]


def test_in_the_child_hooks_run_by_phase_and_all_of_them_whatever_one_raises() -> None:
    script = """
import os, sys
from grpc_bearer._base.fork_hooks import Phase, before, in_child

def says(word):
    return lambda: print(word, os.getpid() == parent, flush=True)

parent = os.getpid()
sys.unraisablehook = lambda raised: print(raised.exc_type.__name__, flush=True)
in_child(Phase.WAIT, says("wait"))
in_child(Phase.RESUME, says("resume"))
in_child(Phase.RENEW, lambda: 1 / 0)
in_child(Phase.RENEW, says("renew"))
before(says("before"))
child = os.fork()
if not child:
    os._exit(0)
os.waitpid(child, 0)
"""

    assert printed(script) == [
        *("before", "True"),
        *("renew", "False"),
        *("resume", "False"),
        *("wait", "False"),
        "ZeroDivisionError",
    ]
