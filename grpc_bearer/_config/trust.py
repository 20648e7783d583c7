"""Who else may write a configuration that names modules to import: who writes it runs code as this user."""

from __future__ import annotations

import codecs
import os
import stat
import sys
from pathlib import Path

from grpc_bearer._base.credential_files import read_file

_OTHERS, _GROUP = stat.S_IWOTH, stat.S_IWGRP


def distrusted(path: Path, text: str) -> str:
    """Why the words that were read from a file are not to be run, and what to do; nothing if only this user and root
    can have written them.

    As OpenSSH does with its own configuration, the folders above count as well: who may write there can put another
    file in its place. A link may have led elsewhere when the file was read, so it is read once more where all that was
    looked at is. Windows keeps that in lists that Python cannot read; there the user's own folder protects it.
    """
    if sys.platform == "win32":
        return ""
    try:
        path = path.resolve(strict=True)
        for each in (path, *path.parents):
            status = each.stat()
            if status.st_uid not in (0, os.geteuid()):
                return (
                    f"names code to run, but {each} belongs to another user, who could name any; make it your "
                    "own or root's"
                )
            # In a sticky folder (/tmp) nobody can replace what is another's.
            if _writable(status) and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                return (
                    f"names code to run, but {each} can be written by others ({mode}), who could name any; "
                    "take that right away with chmod go-w"
                )
    except OSError as error:
        return f"names code to run, but who can write {path} cannot be told: {error.strerror}"
    if read_file(path, "config").removeprefix(codecs.BOM_UTF8) != text.encode():
        return "names code to run, but another file was put in its place meanwhile; load it again"
    return ""


def _writable(status: os.stat_result) -> bool:
    return bool(status.st_mode & _OTHERS) or (bool(status.st_mode & _GROUP) and not _is_own(status.st_gid))


def _is_own(group: int) -> bool:
    """Whether a group has nobody in it but this user and root: root's, and the private one that many systems make for
    each user, whose files are open to it as a rule."""
    if sys.platform == "win32" or group == 0:
        return True
    import grp
    import pwd

    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:  # in a container users may have no names
        return False
    return user.pw_gid == group and found.gr_name == user.pw_name and not set(found.gr_mem) - {user.pw_name}
