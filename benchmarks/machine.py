"""The machine and the versions that a report was taken on."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

import psutil

PACKAGES = ("grpcio", "google-auth", "PyJWT", "cryptography", "tenacity", "protobuf", "pyperf", "numpy")
#: Those that are measured where they are installed.
RUNTIMES = ("grpclib", "connectrpc")
_ROOT = Path(__file__).parent.parent


def facts() -> dict[str, str]:
    """What may change the figures; no names of hosts, users or folders."""
    found = {
        "taken": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": f"{_processor()}, {os.cpu_count()} logical cores",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "grpc-bearer": f"{importlib.metadata.version('grpc-bearer')} ({_revision()})",
    }
    here = [name for name in RUNTIMES if importlib.util.find_spec(name) is not None]
    return found | {name: importlib.metadata.version(name) for name in (*PACKAGES, *here)}


def load() -> str:
    """How busy the machine is, in words: figures from a busy one are to be taken with care."""
    one, five, _ = os.getloadavg()
    return f"{one:.1f} over one minute, {five:.1f} over five"


@contextmanager
def apart(process: int) -> Iterator[None]:
    """This process on one half of the processors and another on the other half, for as long as it lasts.

    Where many threads wake each other, those that wander between processors cost more than all that is measured, and
    something else each time. Systems that cannot do it leave everything as it is.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        yield
        return
    half = len(cores) // 2
    _keep_to(os.getpid(), cores[:half])
    _keep_to(process, cores[half:])
    try:
        yield
    finally:
        _keep_to(os.getpid(), cores)
        _keep_to(process, cores)


def _keep_to(process: int, cores: list[int]) -> None:
    for thread in psutil.Process(process).threads():
        with suppress(OSError):  # it has ended meanwhile; those that it began do as it did
            os.sched_setaffinity(thread.id, cores)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _revision() -> str:
    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)
        return run.stdout.strip() if not run.returncode else ""

    try:
        revision, changed = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--", "grpc_bearer")
    except OSError:
        return "not from git"
    return f"{revision or 'not from git'}{', with changes' if changed else ''}"
