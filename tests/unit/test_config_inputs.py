"""`grpc_bearer.load`: where relative names begin, names in another Unicode form, names of files in the place of
secrets, functions and a shared cache named in the file, and who may write a file that names modules to import."""

from __future__ import annotations

import os
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _redis import redis_server
from test_config import TOKEN, refused, write

import grpc_bearer
from grpc_bearer import events
from grpc_bearer._config.build import specified
from grpc_bearer._config.toml_file import given_by, read_config
from grpc_bearer.testing import private_pem, throwaway_key

posix_only = pytest.mark.skipif(sys.platform == "win32", reason="modes and owners are POSIX's")

# -- relative names ---------------------------------------------------------------------------------------------------

BY_FILE = "[auth.a]\nprofile = 'crm'\ntoken_file = 'token'\n"


@posix_only
def test_relative_names_begin_at_the_folder_of_the_link_not_of_what_it_leads_to(tmp_path: Path) -> None:
    for folder in ("kept", "one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, f"{TOKEN}-{folder}", "token")
    write(tmp_path / "kept", BY_FILE)
    for folder in ("one", "two"):
        (tmp_path / folder / "auths.toml").symlink_to("../kept/auths.toml")

    auths = {folder: grpc_bearer.load("a", tmp_path / folder / "auths.toml") for folder in ("kept", "one", "two")}

    assert {folder: auth.token().value for folder, auth in auths.items()} == {
        folder: f"{TOKEN}-{folder}" for folder in auths
    }
    # Each stays what it is, whichever is loaded in between.
    assert all(grpc_bearer.load("a", tmp_path / folder / "auths.toml") is auth for folder, auth in auths.items())


@posix_only
def test_a_mounted_configuration_finds_its_token_when_the_links_are_swapped(tmp_path: Path) -> None:
    for version in ("v1", "v2"):  # as Kubernetes mounts ConfigMaps and secrets
        (tmp_path / version).mkdir()
        write(tmp_path / version, BY_FILE)
        write(tmp_path / version, f"{TOKEN}-{version}", "token")
    (tmp_path / "..data").symlink_to("v1")
    for name in ("auths.toml", "token"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    auth = grpc_bearer.load("a", tmp_path / "auths.toml")
    assert auth.token().value == f"{TOKEN}-v1"

    (tmp_path / "next").symlink_to("v2")
    os.replace(tmp_path / "next", tmp_path / "..data")

    assert auth.invalidate(f"{TOKEN}-v1")
    assert auth.token().value == f"{TOKEN}-v2"


def test_a_later_change_of_the_folder_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, BY_FILE)
    write(tmp_path, TOKEN, "token")
    monkeypatch.chdir(tmp_path)
    auth = grpc_bearer.load("a", "auths.toml")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    assert auth.token().value == TOKEN


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD", None])
def test_a_name_is_found_in_either_form_of_unicode(written: str, asked: str | None, tmp_path: Path) -> None:
    name, default = (unicodedata.normalize(form or "NFD", "Flöte") for form in (written, asked))
    config = write(
        tmp_path,
        f'default = "{default}"\n[auth."{name}"]\nprofile = "crm"\ntoken = "{TOKEN}"\n[auth.b]\nsource = "x"\n',
    )

    auth = grpc_bearer.load(None if asked is None else default, config)

    assert auth.token().value == TOKEN
    assert auth is grpc_bearer.load(name, config)


@pytest.mark.parametrize("name", [7, b"a", ["a"], {}], ids=repr)
def test_a_name_that_is_no_text_is_told(name: object, tmp_path: Path) -> None:
    assert refused(tmp_path, BY_FILE, name) == f"name: expected a str, got {type(name).__name__}"  # type: ignore[arg-type]


def test_the_file_in_the_place_of_the_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write(tmp_path, BY_FILE)
    write(tmp_path, TOKEN, "token")
    told = "^name: a file, and not the name of an auth; give it as config="
    monkeypatch.delenv("GRPC_BEARER_CONFIG", raising=False)
    for name in (config, str(config), "auths.toml"):
        with pytest.raises(grpc_bearer.ConfigurationError, match=told):
            grpc_bearer.load(name)  # type: ignore[arg-type]

    monkeypatch.setenv("GRPC_BEARER_CONFIG", str(config))
    with pytest.raises(grpc_bearer.ConfigurationError, match=r"no auth of the name 'auths\.toml'"):
        grpc_bearer.load("auths.toml")
    assert grpc_bearer.load().token().value == TOKEN


# -- files in the place of secrets ------------------------------------------------------------------------------------

INSTEAD = "the name of a file, which would be sent itself; write {} to have the file read"


@pytest.mark.parametrize(
    ("table", "field"),
    [
        ("profile = 'crm'\n{} = 'held.txt'", "token"),
        (
            "source = 'client_credentials'\ntoken_url = 'https://localhost/'\nclient_id = 'me'\n{} = 'held.txt'",
            "client_secret",
        ),
        ("source = 'http'\nurl = 'https://localhost/'\nuser = 'me'\n{} = 'held.txt'", "password"),
        ("source = 'http'\nurl = 'https://localhost/'\n{} = 'held.txt'", "body"),
        ("source = 'jwt'\nkey_file = 'held.txt'\n{} = 'held.txt'", "passphrase"),
    ],
)
def test_the_name_of_a_file_beside_the_configuration_is_refused(table: str, field: str, tmp_path: Path) -> None:
    write(tmp_path, TOKEN, "held.txt")

    said = refused(tmp_path, f"[auth.a]\n{table.format(field)}\n")

    assert said.endswith(f"[auth.a] {field}: {INSTEAD.format(f'{field}_file')}")


def test_a_variable_that_holds_the_name_of_a_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, TOKEN, "held.txt")
    monkeypatch.setenv("THE_TOKEN", str(tmp_path / "held.txt"))

    said = refused(tmp_path, "[auth.a]\nprofile = 'crm'\ntoken_env = 'THE_TOKEN'\n")

    assert said == f"auths.toml:3: [auth.a] token_env: the variable holds {INSTEAD.format('token_file')}"


def test_a_tilde_without_a_home_is_told_by_the_field(tmp_path: Path) -> None:
    said = refused(tmp_path, "[auth.a]\nprofile = 'crm'\ntoken_file = '~nobody-of-this-name/token'\n")

    assert said.startswith("auths.toml:3: [auth.a] token_file: begins with '~', and there is no such home directory")


# -- functions --------------------------------------------------------------------------------------------------------

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
    write(tmp_path, private_pem(throwaway_key("ES256")), "key.pem")
    text = '[auth.a]\nsource = "jwt"\nkey_file = "key.pem"\nlifetime = 60\nsingle_use = true\ncache = { name = "n" }\n'

    assert "auths.toml:6: [auth.a] cache: the tokens of JWTSource are for one attempt each" in refused(tmp_path, text)


# -- modules to import ------------------------------------------------------------------------------------------------

IMPORTING = {
    "function": "[auth.a]\nsource = 'callable'\nfunction = 'never_imported_by_load:token'\n",
    "key": "[auth.a]\nsource = 'callable'\nfunction = 'os:getcwd'\nkey = 'never_imported_by_load:key'\n",
    "observers": f"[auth.a]\nprofile = 'crm'\ntoken = '{TOKEN}'\nobservers = ['never_imported_by_load:seen']\n",
}


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether the module that the files name has been imported."""
    (tmp_path / "lib").mkdir()
    write(tmp_path / "lib", "def token(): return 'a'\nkey = seen = token\n", "never_imported_by_load.py")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    monkeypatch.delitem(sys.modules, "never_imported_by_load", raising=False)
    return lambda: "never_imported_by_load" in sys.modules


@posix_only
@pytest.mark.parametrize("field", IMPORTING)
def test_a_file_that_others_can_write_imports_nothing(field: str, tmp_path: Path, marked: Callable[[], bool]) -> None:
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    write(folder, IMPORTING[field]).chmod(0o646)

    said = refused(folder, IMPORTING[field])

    assert f"] {field}: names code to run, but auths.toml can be written by others (0646), who could name" in said
    assert said.endswith("take that right away with chmod go-w")
    assert not marked()


@posix_only
def test_a_folder_that_others_can_write_is_as_bad_at_every_height(tmp_path: Path, marked: Callable[[], bool]) -> None:
    folder = tmp_path / "open" / "shut"
    folder.mkdir(parents=True)
    (tmp_path / "open").chmod(0o777)
    assert f"but {tmp_path}/open can be written by others (0777)" in refused(folder, IMPORTING["function"])
    assert not marked()

    (tmp_path / "open").chmod(0o1777)  # as /tmp is: nobody can replace what is another's
    assert grpc_bearer.load("a", folder / "auths.toml").token().value == "a"


@posix_only
def test_a_link_is_as_good_as_what_it_leads_to(tmp_path: Path, marked: Callable[[], bool]) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    write(tmp_path / "open", IMPORTING["function"], "true.toml")
    (tmp_path / "auths.toml").symlink_to("open/true.toml")

    with pytest.raises(grpc_bearer.ConfigurationError, match="can be written by others"):
        grpc_bearer.load("a", tmp_path / "auths.toml")
    assert not marked()


@posix_only
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_imports_nothing(tmp_path: Path, marked: Callable[[], bool]) -> None:
    path = write(tmp_path, IMPORTING["function"])
    os.chown(path, 12345, -1)

    with pytest.raises(grpc_bearer.ConfigurationError, match="belongs to another user, who could name any"):
        grpc_bearer.load("a", path)
    assert not marked()


@posix_only
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives folders away")
def test_a_folder_of_another_user_is_as_bad_at_every_height(tmp_path: Path, marked: Callable[[], bool]) -> None:
    folder = tmp_path / "theirs" / "mine"
    folder.mkdir(parents=True)
    os.chown(tmp_path / "theirs", 12345, -1)

    assert f"but {tmp_path}/theirs belongs to another user, who could" in refused(folder, IMPORTING["function"])
    assert not marked()


@posix_only
def test_what_was_read_through_a_link_that_led_elsewhere_meanwhile_is_not_run(tmp_path: Path) -> None:
    good = write(tmp_path, IMPORTING["function"], "good.toml")
    theirs = write(tmp_path, IMPORTING["function"].replace("never_imported_by_load", "theirs"), "theirs.toml")
    link = tmp_path / "auths.toml"
    link.symlink_to(theirs)
    file = read_config(link)
    link.unlink()
    link.symlink_to(good)

    with pytest.raises(grpc_bearer.ConfigurationError, match="but another file was put in its place meanwhile"):
        specified(given_by(file, "a")[1])
    assert specified(given_by(read_config(good), "a")[1])


@posix_only
def test_a_file_with_a_byte_order_mark_names_modules_as_well(tmp_path: Path, marked: Callable[[], bool]) -> None:
    path = write(tmp_path, f"\ufeff{IMPORTING['function']}")

    assert grpc_bearer.load("a", path).token().value == "a"
    assert marked()


@posix_only
def test_a_file_that_names_no_module_may_be_anybodys(tmp_path: Path) -> None:
    path = write(tmp_path, f"[auth.a]\nprofile = 'crm'\ntoken = '{TOKEN}'\n")
    path.chmod(0o666)

    assert grpc_bearer.load("a", path).token().value == TOKEN


@posix_only
@pytest.mark.parametrize(
    ("group", "allowed"),
    [
        ("root's", True),  # images for any user have their files writable by that group
        ("the user's own", True),  # many systems make one for each user, and new files are writable by it
        ("the user's own, with another in it", False),
        ("one without a name", False),
    ],
)
def test_a_group_counts_as_others_if_somebody_else_is_in_it(
    group: str, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marked: Callable[[], bool]
) -> None:
    import grp
    import pwd

    path = write(tmp_path, IMPORTING["function"])
    number = path.stat().st_gid
    if os.geteuid() == 0:  # who may give files away
        number = 0 if group == "root's" else 4711
        os.chown(path, -1, number)
    elif (group == "root's") is not (number == 0):
        pytest.skip("only root gives files away")
    path.chmod(0o664)
    me = pwd.struct_passwd(("me", "x", os.geteuid(), number, "", "/", "/bin/sh"))
    groups = {
        "the user's own": grp.struct_group(("me", "x", number, [])),
        "the user's own, with another in it": grp.struct_group(("me", "x", number, ["you"])),
    }

    def by_number(number: int) -> grp.struct_group:
        return groups[group]  # a KeyError where there is none, as from the system

    # The users and groups of a machine are not for a test to make.
    monkeypatch.setattr(pwd, "getpwuid", lambda number: me)
    monkeypatch.setattr(grp, "getgrgid", by_number)
    if allowed:
        assert grpc_bearer.load("a", path).token().value == "a"
    else:
        with pytest.raises(grpc_bearer.ConfigurationError, match="can be written by others"):
            grpc_bearer.load("a", path)
    assert marked() is allowed
