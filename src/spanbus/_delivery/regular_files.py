"""Files of the state directory that are read by name: a pipe or a link in the place of one is an error, not a wait."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

NO_WAITING: Final = (
    getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)


def read_regular(path: Path, most_bytes: int = -1) -> bytes:
    """Read a regular file; raises ``OSError`` for anything else."""
    with open(os.open(path, os.O_RDONLY | NO_WAITING), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is not a regular file")
        return file.read(most_bytes)


def open_own(path: Path, flags: int) -> int:
    """Open a regular file of this user that has no other name, made where it is not there; raises ``OSError`` for anything else.

    It is emptied after that was seen, where ``flags`` ask for it.
    """
    descriptor = os.open(path, flags & ~os.O_TRUNC | os.O_CREAT | NO_WAITING, 0o600)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or not _is_ours(found) or found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file of this user alone")
    if flags & os.O_TRUNC:
        os.ftruncate(descriptor, 0)
    return descriptor


def is_own_folder(path: Path) -> bool:
    """Whether a path is a folder of this user, and no link to one."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and _is_ours(found)


def _is_ours(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def files_of(directory: Path, suffix: str) -> list[Path]:
    """Regular files only: opening a pipe would wait for its other end. None where there is no such directory."""
    try:
        with os.scandir(directory) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []
