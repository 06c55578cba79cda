"""Safe opening of files in the state directory: a pipe or a link in the place of a file is an error, not a hang."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_OPEN_FLAGS: Final = (
    getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
)


def read_regular(path: Path, most_bytes: int = -1) -> bytes:
    """Read a regular file; raises ``OSError`` for anything else."""
    with open(os.open(path, os.O_RDONLY | _OPEN_FLAGS), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(f"{path} is not a regular file")
        return file.read(most_bytes)


def open_own(path: Path, flags: int) -> int:
    """Open or create a regular file of this user without other hard links; raises ``OSError`` for anything else.

    ``O_TRUNC`` in ``flags`` takes effect only after these checks.
    """
    descriptor = os.open(path, flags & ~os.O_TRUNC | os.O_CREAT | _OPEN_FLAGS, 0o600)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or not _is_owned_by_us(found) or found.st_nlink > 1:
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file of this user alone")
    if flags & os.O_TRUNC:
        os.ftruncate(descriptor, 0)
    return descriptor


def is_own_folder(path: Path) -> bool:
    """Whether a path is a folder of this user, and not a link."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and _is_owned_by_us(found)


def _is_owned_by_us(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


def regular_files_in(directory: Path, suffix: str) -> list[Path]:
    """Regular files with this suffix, because opening a pipe would block; empty if the directory does not exist."""
    try:
        with os.scandir(directory) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False)
            ]
    except OSError:
        return []
