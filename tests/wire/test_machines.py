"""Other people's machines: a proxy in the environment, a clock that a test has frozen, a package without its papers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import grpc_bearer
from grpc_bearer import BearerAuth, CallableSource

#: Nobody listens there; a call that went by it would fail.
DEAD_PROXY = "http://127.0.0.1:1"
PROXIES = {
    **dict.fromkeys(("https_proxy", "http_proxy", "grpc_proxy"), DEAD_PROXY),
    **dict.fromkeys(("no_proxy", "no_grpc_proxy"), ""),
}


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class TestAProxyInTheEnvironment:
    def test_is_not_used_by_the_kits_own_channels(self) -> None:
        code = """
            from grpc_bearer.testing import GoawayProxy, OpaqueVerifier, ProbeRequest, ProbeServer, ProbeStub
            token = [("authorization", "Bearer t0")]
            def call(channel):
                with channel:
                    print(ProbeStub(channel).Unary(ProbeRequest(), metadata=token, timeout=20).count)
            for credentials in ("tls", "insecure"):
                with ProbeServer(OpaqueVerifier(["t0"]), credentials=credentials) as server:
                    call(server.channel())
            with ProbeServer(OpaqueVerifier(["t0"])) as server, GoawayProxy(server) as proxy:
                call(proxy.channel())
        """
        assert run(code, **PROXIES) == "1\n1\n1\n"

    def test_is_not_used_by_demo(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "grpc_bearer", "demo", "--json"],
            capture_output=True,
            text=True,
            timeout=110,
            env={**os.environ, **PROXIES},
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr

    def test_nor_by_the_fixtures(self, tmp_path: Path) -> None:
        (tmp_path / "test_one.py").write_text(
            "def test_one(bearer_channel, bearer_kit):\n"
            "    bearer_kit.ProbeStub(bearer_channel).Unary(bearer_kit.ProbeRequest(), timeout=20)\n"
        )
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=110,
            env={**os.environ, **PROXIES},
            cwd=tmp_path,
        )
        assert "1 passed" in done.stdout, done.stdout + done.stderr


class TestAFrozenClock:
    """As freezegun and time-machine do it: `time.time` is another function, and `datetime.now` another time."""

    @pytest.mark.parametrize("now", [946_684_800.0 + 86_400, 4_000_000_000.0])
    def test_the_systems_clock_is_the_frozen_one(self, now: float, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("time.time", lambda: now)
        auth = BearerAuth(CallableSource(lambda: "t0", max_age=60))
        assert auth.token().expires_at == now + 60

    @pytest.mark.parametrize("year", [2001, 2019, 2090])
    def test_the_kits_certificates_are_good_at_any_time(self, year: int) -> None:
        code = f"""
            import datetime as module
            class Frozen(module.datetime):
                @classmethod
                def now(cls, tz=None):
                    return cls({year}, 6, 1, tzinfo=tz)
            module.datetime = Frozen
            import ssl, grpc_bearer
            from grpc_bearer.testing import CA, ProbeRequest, ProbeServer, ProbeStub
            with ProbeServer(None, CA()) as server:
                with grpc_bearer.secure_channel(server.target, server.channel_credentials(), auth="t0") as channel:
                    print(ProbeStub(channel).Unary(ProbeRequest(), timeout=20).count)
        """
        assert run(code, no_proxy="*") == "1\n"

    @pytest.mark.parametrize(
        ("library", "freeze", "on"),
        [
            ("freezegun", "freezegun.freeze_time(START)", "tick"),
            ("time_machine", "time_machine.travel(START, tick=False)", "shift"),
        ],
    )
    def test_the_libraries_themselves(self, tmp_path: Path, library: str, freeze: str, on: str) -> None:
        pytest.importorskip(library, reason=f"no {library} here")
        code = f"""
            import pytest, {library}
            from grpc_bearer import BearerAuth, CallableSource
            from grpc_bearer.testing import CA

            START = "2015-01-01T00:00:00+00:00"

            @pytest.fixture
            def now():
                with {freeze} as moved:
                    yield moved.{on}

            def test_a_certificate_is_made_for_the_first_time(now):
                CA().issue()

            def test_a_call(now, bearer_channel, bearer_kit):
                bearer_kit.ProbeStub(bearer_channel).Unary(bearer_kit.ProbeRequest())
                values = iter(["t0", "t1"])
                auth = BearerAuth(CallableSource(lambda: next(values), max_age=60))
                assert (auth.token().value, auth.token().expires_at) == ("t0", 1420070400 + 60)
                now(61)
                assert (auth.token().value, auth.token().expires_at) == ("t1", 1420070400 + 121)

            def test_thereafter(bearer_channel, bearer_kit):
                CA().issue()
                bearer_kit.ProbeStub(bearer_channel).Unary(bearer_kit.ProbeRequest())
        """
        (tmp_path / "test_one.py").write_text(textwrap.dedent(code))
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=110,
            cwd=tmp_path,
        )
        assert "3 passed" in done.stdout, done.stdout + done.stderr


class TestAPackageWithoutItsPapers:
    """Frozen programs, vendored trees and Lambda layers leave out the folder in which the version stands."""

    @pytest.fixture
    def copied(self, tmp_path: Path) -> str:
        shutil.copytree(Path(grpc_bearer.__file__).parent, tmp_path / "grpc_bearer")
        return f"""
            import sys, importlib.metadata
            def metadata(name, real=importlib.metadata.metadata):
                if name == "grpc-bearer":
                    raise importlib.metadata.PackageNotFoundError(name)
                return real(name)
            importlib.metadata.metadata = metadata
            sys.path.insert(0, {str(tmp_path)!r})
        """

    def test_does_without_the_version(self, copied: str) -> None:
        code = (
            copied
            + """
            import grpc_bearer
            print(grpc_bearer.__version__)
            from grpc_bearer.__main__ import main
            main(["--version"])
        """
        )
        assert run(code) == "unknown\ngrpc-bearer unknown\n"

    def test_does_without_the_address_of_the_documentation(self, copied: str) -> None:
        code = (
            copied
            + """
            import contextlib, io
            from grpc_bearer.__main__ import main
            told = io.StringIO()
            with contextlib.redirect_stderr(told):
                code = main(["token", "--token-file", "nix"])
            print(int(code), told.getvalue().strip()[-57:])
        """
        )
        assert run(code) == "2 See GB-CONFIG under Troubleshooting in the documentation.\n"

    def test_nor_with_papers_that_are_blank(self, tmp_path: Path) -> None:
        (tmp_path / "grpc_bearer-0.1.0.dist-info").mkdir()
        code = f"""
            import sys, importlib.metadata
            import grpc_bearer
            from grpc_bearer._base.version import version
            sys.path.insert(0, {str(tmp_path)!r})
            print(grpc_bearer.__version__, version())
        """
        assert run(code) == "unknown unknown\n"

    def test_opentelemetry_too(self, copied: str) -> None:
        pytest.importorskip("opentelemetry.sdk", reason="no OpenTelemetry here")
        code = (
            copied
            + """
            from grpc_bearer.otel import OpenTelemetryObserver
            print(type(OpenTelemetryObserver()).__name__)
        """
        )
        assert run(code) == "OpenTelemetryObserver\n"


class TestTrio:
    """httpx runs on trio as well."""

    def test_a_token_is_waited_for_there(self) -> None:
        pytest.importorskip("trio", reason="no trio here")
        pytest.importorskip("httpx", reason="no httpx here")
        code = """
            import threading, httpx, trio
            from grpc_bearer.rest import httpx_auth
            go = threading.Event()
            def token():
                go.wait(20)
                return "t0"
            seen = []
            def answer(request):
                seen.append(request.headers["authorization"])
                return httpx.Response(401 if len(seen) == 1 else 200)
            async def main():
                transport = httpx.MockTransport(answer)
                async with httpx.AsyncClient(auth=httpx_auth(token), transport=transport) as client:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(client.get, "https://api.example.com/")
                        with trio.move_on_after(0.05) as early:
                            await client.get("https://api.example.com/")
                        print(early.cancelled_caught)
                        go.set()
                    print((await client.get("https://api.example.com/")).status_code, set(seen))
            trio.run(main)
        """
        assert run(code) == "True\n200 {'Bearer t0'}\n"

    def test_and_where_trio_is_the_guest_of_asyncio(self) -> None:
        pytest.importorskip("trio", reason="no trio here")
        pytest.importorskip("httpx", reason="no httpx here")
        code = """
            import asyncio, threading, httpx, trio
            from grpc_bearer.rest import httpx_auth
            go = threading.Event()
            def token():
                go.wait(20)
                return "t0"
            transport = httpx.MockTransport(lambda request: httpx.Response(200, text=request.headers["authorization"]))
            async def ask():
                async with httpx.AsyncClient(auth=httpx_auth(token), transport=transport) as client:
                    return (await client.get("https://api.example.com/")).text
            async def guest():
                trio.lowlevel.spawn_system_task(release)
                return await ask()
            async def release():
                await trio.sleep(0.05)
                go.set()
            async def host():
                loop = asyncio.get_running_loop()
                done = loop.create_future()
                trio.lowlevel.start_guest_run(
                    guest,
                    run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                    done_callback=done.set_result,
                    host_uses_signal_set_wakeup_fd=True,
                )
                print((await done).unwrap(), await ask())
            asyncio.run(host())
        """
        assert run(code) == "Bearer t0 Bearer t0\n"
