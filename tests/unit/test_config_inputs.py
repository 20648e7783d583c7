"""`grpc_bearer.load`: where relative names begin, names in another Unicode form, names of files in the place of
secrets, and who may write a file that names modules to import."""

from __future__ import annotations

import os
import stat
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from test_config import TOKEN, refused, write

import grpc_bearer
from grpc_bearer._config import trust
from grpc_bearer._config.build import specified
from grpc_bearer._config.toml_file import given_by, read_config

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

    assert (
        f"] {field}: names a module to import, but auths.toml can be written by others (0646), who could name" in said
    )
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

    me = pwd.struct_passwd(("me", "x", os.geteuid(), 4711, "", "/", "/bin/sh"))
    groups = {
        "the user's own": grp.struct_group(("me", "x", 4711, [])),
        "the user's own, with another in it": grp.struct_group(("me", "x", 4711, ["you"])),
    }

    def by_number(number: int) -> grp.struct_group:
        return groups[group]  # a KeyError where there is none, as from the system

    # The users and groups of a machine are not for a test to make.
    monkeypatch.setattr(pwd, "getpwuid", lambda number: me)
    monkeypatch.setattr(grp, "getgrgid", by_number)
    status = os.stat_result((stat.S_IFREG | 0o664, 0, 0, 1, os.geteuid(), 0 if group == "root's" else 4711, 0, 0, 0, 0))

    assert trust._writable(status) is not allowed
