"""What Windows lacks is hidden in a child process, and all that is public is imported and used there.

This finds what would not run there at all; what is there and behaves differently, only a Windows machine shows.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: All modules are loaded once, so that what others have made of the system is there; then ours are loaded anew.
HIDE = """
import asyncio, importlib, os, pkgutil, select, shutil, signal, ssl, sys, time
try:
    import filelock  # the lock that we use there; a part of an extra
except ImportError:
    filelock = None
import google.auth, grpc, httpx, jwt, requests, rich.console, tenacity, urllib3
import grpc_bearer, _grpc_bearer_pytest

def public():
    import grpc_bearer
    found = pkgutil.walk_packages(grpc_bearer.__path__, "grpc_bearer.")
    return [each.name for each in found if each.name != "grpc_bearer.__main__"]

for name in public():
    try:
        importlib.import_module(name)
    except ImportError as error:  # of an extra that is not installed
        assert not str(error.name).startswith("grpc_bearer"), error
for name in [name for name in sys.modules if name.split(".")[0] in ("grpc_bearer", "_grpc_bearer_pytest")]:
    del sys.modules[name]

MODULES = "fcntl grp pwd resource termios tty pty posix readline syslog crypt nis spwd ossaudiodev curses"
for name in MODULES.split():
    sys.modules[name] = None
LACKING = {
    os: "fork forkpty register_at_fork getuid geteuid getgid getegid getgroups killpg getpgid setsid chown fchown "
        "lchown fchmod mkfifo mknod pread pwrite sysconf posix_spawn openpty statvfs getloadavg nice "
        "O_NOFOLLOW O_NONBLOCK O_DIRECTORY O_CLOEXEC fdatasync",
    select: "poll epoll kqueue",
    signal: "SIGHUP SIGALRM SIGCHLD SIGQUIT SIGUSR1 SIGUSR2 SIGPIPE alarm setitimer pthread_sigmask",
    asyncio: "open_unix_connection start_unix_server",
    time: "clock_gettime CLOCK_MONOTONIC CLOCK_BOOTTIME tzset",
}
for module, names in LACKING.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)

def without_folders(function):
    def lacking(path, *rest, **how):
        if any(value is not None for name, value in how.items() if name.endswith("dir_fd")):
            raise NotImplementedError("dir_fd unavailable on this platform")
        if function is real_open and os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        return function(path, *rest, **how)
    return lacking

real_open = os.open
for name in ("open", "replace", "unlink", "rename", "stat", "mkdir"):
    setattr(os, name, without_folders(getattr(os, name)))
os.O_BINARY = 0
shutil._use_fd_functions = False  # so it is there
ssl.enum_certificates = lambda store: []
sys.platform = "win32"
"""

USE = """
for name in ["grpc_bearer", *public(), "_grpc_bearer_pytest"]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        assert error.name is not None and error.name.split(".")[0] in OPTIONAL, (name, error)

import grpc_bearer
from grpc_bearer import BearerAuth, testing
from grpc_bearer.__main__ import main
from pathlib import Path

tokens = testing.TokenServer(testing.CA()).start()
server = testing.ProbeServer(tokens.verifier(), tokens.ca).start()
ca, tls = tokens.ca.write(Path.cwd()), server.channel_credentials()
client = testing.OAuthClient.registered(tokens, ca)
token = tokens.mint("me")
Path("token.txt").write_text(token + "\\n")
Path("auths.toml").write_text('[auth.fleet]\\nsource = "file"\\npath = "token.txt"\\n')
command = [sys.executable, "-c", f"print({token!r})"]

auths = {
    "text": token,
    "file": Path("token.txt"),
    "function": lambda: token,
    "command": grpc_bearer.ExecSource(command),
    "OAuth": client.source(),
    "configuration": grpc_bearer.load("fleet", "auths.toml"),
}
if filelock:
    auths["shared cache"] = BearerAuth(client.source(), cache=grpc_bearer.SharedCache(Path.cwd() / "cache"))

async def call_aio(auth):
    async with grpc_bearer.aio.secure_channel(server.target, tls, auth=auth) as channel:
        await testing.ProbeStub(channel).Unary(testing.ProbeRequest(), timeout=30)

for name, auth in auths.items():
    with grpc_bearer.secure_channel(server.target, tls, auth=auth) as channel:
        stub = testing.ProbeStub(channel)
        stub.Unary(testing.ProbeRequest(), timeout=30)
        if name == "OAuth":
            tokens.revoke(*tokens.issued[1:])
            stub.Unary(testing.ProbeRequest(), timeout=30)
    asyncio.run(call_aio(auth))
accepted, refused = len(server.ledger.accepted), len(server.ledger.refused)
assert (accepted, refused) == (2 * len(auths) + 1, 1), server.ledger

commands = (["token", "--token-file", "token.txt", "--profile", "crm"], ["inspect", token], ["demo", "--json"])
codes = [main(arguments) for arguments in commands]
print("", f"codes: {[int(code) for code in codes]}", sep=chr(10), flush=True)
os._exit(0)
"""


def test_nothing_needs_what_windows_lacks(tmp_path: Path) -> None:
    optional = {"grpclib", "opentelemetry", "redis", "connectrpc", "grpc_health", "grpc_reflection", "argcomplete"}
    script = f"{HIDE}\nOPTIONAL = {optional!r}\n{USE}"
    environment = {**os.environ, "LOCALAPPDATA": str(tmp_path), "GRPC_VERBOSITY": "NONE"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "codes: [0, 0, 0]"
