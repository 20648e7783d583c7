"""`grpc_bearer.load`: a shared cache, functions and observers named in the file."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from _redis import redis_server
from test_config import refused, write

import grpc_bearer
from grpc_bearer import events

KEY = "9f86d081884c7d659a2feaa0c55ad0159f86d081884c7d659a2feaa0c55ad015"

MODULE = """
    import grpc_bearer

    asked, seen = [], []

    def token():
        asked.append(1)
        return f"from-python-{len(asked)}"

    async def later():
        return "from-a-coroutine"

    def of_call(context):
        return f"for-{context.service}"

    def key(context):
        return context.service

    def watch(event):
        seen.append(type(event).__name__)

    class Vault:
        @staticmethod
        def token():
            return "from-a-class"

    constant = 7
"""


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """A module of the user's, which can be imported as `ours_for_config`."""
    write(tmp_path, textwrap.dedent(MODULE), "ours_for_config.py")
    write(tmp_path, "raise RuntimeError('s3cret-inline')", "broken_for_config.py")
    monkeypatch.syspath_prepend(tmp_path)
    import ours_for_config

    yield ours_for_config
    for name in ("ours_for_config", "broken_for_config"):
        sys.modules.pop(name, None)


# -- functions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "token"),
    [("token", "from-python-1"), ("later", "from-a-coroutine"), ("Vault.token", "from-a-class")],
)
def test_a_function_gives_the_token(ours: object, tmp_path: Path, function: str, token: str) -> None:
    path = write(tmp_path, f'[auth.a]\nsource = "callable"\nfunction = "ours_for_config:{function}"\nscheme = ""\n')

    assert grpc_bearer.load("a", path).headers() == {"authorization": token}


def test_the_age_of_what_a_function_gives_may_be_bounded(ours: object, tmp_path: Path) -> None:
    text = '[auth.a]\nsource = "callable"\nfunction = "ours_for_config:token"\nmax_age = 3600\n'
    auth = grpc_bearer.load("a", config=write(tmp_path, text))
    before = time.time()
    expires_at = auth.token().expires_at
    assert expires_at is not None
    assert before + 3600 <= expires_at <= time.time() + 3600


def test_a_function_of_the_call_shares_by_its_key(ours: object, tmp_path: Path) -> None:
    text = '[auth.a]\nsource = "callable"\nfunction = "ours_for_config:of_call"\nkey = "ours_for_config:key"\n'
    auth = grpc_bearer.load("a", write(tmp_path, text))

    tokens = [auth.token("https://h/pkg.Service", method) for method in ("A", "B")]

    assert [token.value for token in tokens] == ["for-pkg.Service"] * 2
    assert tokens[0] is tokens[1]


def test_the_same_function_is_the_same_auth(ours: object, tmp_path: Path) -> None:
    path = write(tmp_path, '[auth.a]\nsource = "callable"\nfunction = "ours_for_config:token"\n')

    assert grpc_bearer.load("a", path) is grpc_bearer.load("a", path)


def test_observers_by_name_hear_of_events(ours: object, tmp_path: Path) -> None:
    text = '[auth.a]\nprofile = "crm"\ntoken = "t"\nobservers = ["ours_for_config:watch"]\n'
    grpc_bearer.load("a", write(tmp_path, text)).token()

    assert ours.seen == ["FetchBegun", "TokenFetched"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('function = "no.such:token"', "function: importing no.such raised ModuleNotFoundError (no)"),
        ('function = "broken_for_config:token"', "function: importing broken_for_config raised RuntimeError"),
        ('function = "ours_for_config:no"', "function: expected no in ours_for_config to be a function"),
        ('function = "ours_for_config:constant"', "function: expected constant in ours_for_config to be a function"),
        ('function = "ours_for_config.token"', 'function: expected "package.module:name"'),
        ("function = 7", 'function: expected "package.module:name", got a number'),
        ('function = "ours_for_config:token"\nmax_age = 0', "max_age: expected a number of seconds above 0"),
        ('function = "ours_for_config:token"\nmax_age = "1h"', "max_age: expected a number"),
        ("", "auths.toml:1: [auth.a]: function: missing"),
        ('function = "ours_for_config:token"\nobservers = "x"', 'observers: expected a list of "package.module:name"'),
        ('function = "ours_for_config:token"\nobservers = ["x:y"]', "observers: importing x raised"),
        ('function = "ours_for_config:token"\nloop = 1', "loop: not known to callable"),
    ],
)
def test_what_is_no_function_is_told(ours: object, tmp_path: Path, line: str, expected: str) -> None:
    assert expected in refused(tmp_path, f'[auth.a]\nsource = "callable"\n{line}\n')


# -- a shared cache ---------------------------------------------------------------------------------------------------


def twice(tmp_path: Path, cache: str) -> list[tuple[str, bool]]:
    """Two auths, as of two processes: the token of each, and whether it came out of the cache."""
    found = []
    for name in ("a", "b"):
        text = f'[auth.{name}]\nsource = "callable"\nfunction = "ours_for_config:token"\n{cache.format(name=name)}\n'
        seen: list[events.Event] = []
        with grpc_bearer.load(name, write(tmp_path, text)) as auth:
            events.add_observer(seen.append)
            try:
                token = auth.token().value
            finally:
                events.remove_observer(seen.append)
        (event,) = (event for event in seen if isinstance(event, events.TokenFetched))
        found.append((token, event.shared))
    return found


@pytest.mark.parametrize(
    "cache",
    [
        'cache = {{ directory = "tokens", encryption_key_file = "cache-key", name = "fleet", timeout = 10 }}',
        '[auth.{name}.cache]\ndirectory = "tokens"\nencryption_key_env = "CACHE_KEY"\nname = "fleet"\ntimeout = 10',
    ],
)
def test_a_cache_in_a_directory_beside_the_file(
    ours: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    monkeypatch.setenv("CACHE_KEY", KEY)
    write(tmp_path, KEY + "\n", "cache-key")

    assert twice(tmp_path, cache) == [("from-python-1", False), ("from-python-1", True)]
    assert (tmp_path / "tokens").is_dir()


def test_a_cache_in_redis(ours: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, KEY, "cache-key")
    with redis_server() as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        cache = 'cache = {{ url_env = "REDIS_URL", encryption_key_file = "cache-key", name = "fleet", timeout = 10 }}'

        assert twice(tmp_path, cache) == [("from-python-1", False), ("from-python-1", True)]


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ('cache = "tokens"', "auths.toml:4: [auth.a] cache: expected a table"),
        (
            '[auth.a.cache]\n\ndirectroy = "tokens"',
            "auths.toml:6: [auth.a] cache.directroy: not known here; did you mean directory?",
        ),
        ('cache = { directory = "tokens", url = "redis://h" }', "cache.url: given beside cache.directory"),
        ('cache = { url = "s3cret-inline" }', "cache.url: expected a Redis URL"),
        ('cache = { url_env = "NO_SUCH_URL" }', "cache.url_env: environment variable NO_SUCH_URL is not set"),
        ('cache = { directory = "t", encryption_key_file = "no-key" }', "encryption_key: cannot read"),
        ('cache = { directory = "t", encryption_key = "s3cret-inline" }', "[auth.a] cache: encryption_key: too weak"),
        ('cache = { directory = "t", timeout = "1" }', "cache.timeout: expected a number, got a text"),
        ('cache = { directory = "t", timeout = -1 }', "[auth.a] cache: timeout: expected a number of seconds above 0"),
        ('cache = { directory = "t", name = "n" }', "so give cache.encryption_key"),
        (f'cache = {{ directory = "t", encryption_key = "{KEY}" }}', "so give cache.name a name"),
    ],
)
def test_what_is_wrong_with_a_cache_is_told(ours: object, tmp_path: Path, cache: str, expected: str) -> None:
    text = f'[auth.a]\nsource = "callable"\nfunction = "ours_for_config:token"\n{cache}\n'
    said = refused(tmp_path, text)

    assert expected in said
    assert KEY not in said


def test_tokens_for_one_use_cannot_be_shared(ours: object, tmp_path: Path) -> None:
    from grpc_bearer.testing import private_pem, throwaway_key

    write(tmp_path, private_pem(throwaway_key("ES256")), "key.pem")
    text = '[auth.a]\nsource = "jwt"\nkey_file = "key.pem"\nlifetime = 60\nsingle_use = true\ncache = { name = "n" }\n'

    assert "auths.toml:6: [auth.a] cache: the tokens of JWTSource are for one attempt each" in refused(tmp_path, text)
