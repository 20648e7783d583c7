"""Measurements that want a fresh process: memory, threads, first calls."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

_ROOT = Path(__file__).parent.parent


def measured(module: str, config: dict[str, Any], timeout: float = 240) -> dict[str, Any]:
    """Run `python -m MODULE CONFIG`, which prints what it found as JSON; `{"failed": …}` if it did not."""
    command = [sys.executable, "-m", module, json.dumps(config)]
    try:
        run = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"failed": f"no end after {timeout:g} s"}
    if run.returncode or not run.stdout.strip():
        return {"failed": (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1][:200]}
    found: dict[str, Any] = json.loads(run.stdout.strip().splitlines()[-1])
    return found


def rss() -> int:
    """Bytes of this process that are in memory, garbage collected first."""
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def threads() -> int:
    """Threads of this process, gRPC's own among them."""
    return int(psutil.Process().num_threads())


def our_threads() -> int:
    """Those that the library has started."""
    return sum(thread.name.startswith("grpc-bearer") for thread in threading.enumerate())


def until_calm(pause: float = 0.3, timeout: float = 60) -> None:
    """Wait until neither threads nor memory change any more."""
    end, before = time.monotonic() + timeout, (-1, -1)
    while time.monotonic() < end:
        time.sleep(pause)
        now = threads(), psutil.Process().memory_info().rss
        if now == before:
            return
        before = now
